//! What can be typed: the commands, and the flags that all of them share. A command's own flags are in the command's
//! file.

use crate::commands::{
    bench, chat, check, data, demo, dump, eval, export, generate, judge, pairs, plan, prompts, pull, report, run, train,
};
use crate::common::Common;
use crate::ranks::Sharing;
use clap::{Parser, Subcommand};

/// Self-Rewarding Language Models on any GPU.
///
/// One model writes new instructions, answers them, judges its own answers, and is trained on its own preferences by
/// DPO, round after round. Exit codes: 0 done; 1 failed; 2 wrong usage; 130 stopped by Ctrl-C.
#[derive(Parser)]
#[command(name = "selfreward", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order in which help lists them.
#[expect(clippy::large_enum_variant, reason = "one is made in the life of a process")]
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Play the whole loop in the small world, whose exact scorer only measures
    Demo(demo::Args),
    /// List the GPUs and say which one would be used
    Devices,
    /// Run every kernel against its f64 twin on this device
    Check(check::Args),
    /// Measure kernels, or a model's speed
    Bench(bench::Args),
    /// Say what a command would take: memory by part, what fits, and for a run time and disk
    Plan(plan::Args),
    /// Fetch a model from the Hugging Face hub into the cache
    Pull(pull::Args),
    /// Write answers to prompts
    Generate(generate::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Run the self-rewarding loop that a config file describes
    Run(run::Args),
    /// Say where a run stands
    Status(run::StatusArgs),
    /// Write a run's report: one HTML page, or tables in the terminal, or files for experiment trackers
    Report(report::Args),
    /// Let a model write new prompts (self-instruct)
    Prompts(prompts::Args),
    /// Let a model score responses
    Judge(judge::Args),
    /// Make preference pairs from scored responses
    Pairs(pairs::Args),
    /// Build training files from ranked, preferred or scored answers
    #[command(subcommand)]
    Data(data::Kind),
    /// Fine-tune a model on answers
    Sft(train::SftArgs),
    /// Train a model on preferences
    Dpo(train::DpoArgs),
    /// Compare two models head to head, measure a model as a judge, or its perplexity, or check answers
    Eval(eval::Args),
    /// Write a model as a Hugging Face folder or a GGUF file, quantised or not, or its adapter alone
    Export(export::Args),
    /// Write numbers for comparison with other programs
    #[command(subcommand)]
    Dump(dump::Kind),
}

impl Command {
    /// How the processes that mpirun started share this.
    pub(crate) fn sharing(&self) -> Sharing {
        match self {
            Command::Sft(_) | Command::Dpo(_) => Sharing::Steps,
            Command::Run(a) if a.shares() => Sharing::Shards,
            _ => Sharing::Nothing,
        }
    }

    /// A sentence that tells someone who pressed Ctrl-C how to continue.
    fn writes_parts(&self) -> bool {
        match self {
            Command::Generate(a) => a.out.is_some(),
            Command::Judge(a) => a.out.is_some(),
            Command::Eval(a) => a.writes(),
            Command::Data(a) => a.writes(),
            _ => false,
        }
    }

    pub(crate) fn resume_hint(&self) -> String {
        match self {
            Command::Run(a) => format!("Go on with: selfreward run {} --resume", a.config.display()),
            Command::Demo(demo::Args { out: Some(out), .. }) => {
                format!("Go on with the same command and --resume (--out {})", out.display())
            }
            Command::Pull(_) => "Go on with the same command".into(),
            Command::Sft(_) | Command::Dpo(_) => "Go on with the same command and --resume".into(),
            _ if self.writes_parts() => "Go on with the same command and --resume".into(),
            Command::Prompts(_) => "Go on with the same command".into(),
            _ => "What was written so far stays; the same command starts again".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
