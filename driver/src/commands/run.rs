//! `run` and `status`: the loop that a config file describes.

use crate::app::App;
use crate::profile::ProfileArg;
use crate::ranks;
use crate::tables::Table;
use anyhow::Result;
use selfreward::Observer;
use selfreward::config::{self, RunConfig};
use selfreward::recipe::round_metrics::RoundMetrics;
use selfreward::recipe::run::{self, RunOptions, Until};
use selfreward::recipe::run_folder::{self, Status};
use selfreward::recipe::shards::Shard;
use selfreward::report;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_long_help = format!(
    "Keys of CONFIG.toml with their defaults (configs/reference.toml):\n\n{}",
    config::REFERENCE.trim()
))]
pub(crate) struct Args {
    /// What to run, such as configs/smollm2-tiny.toml
    #[arg(value_name = "CONFIG.toml")]
    pub(crate) config: PathBuf,
    /// Go on with an interrupted run
    #[arg(long)]
    resume: bool,
    /// Train on a judge's scores even where it is below [judge] floor
    #[arg(long)]
    force: bool,
    /// Stop at a round's prompts, for shards to answer and judge them; goes on from finished shards
    #[arg(long, value_enum, value_name = "STAGE")]
    until: Option<UntilStage>,
    /// Answer and judge one shard of the round's prompts, such as 2/8; shards may run at the same time, on machines
    /// with a common folder, once --until prompts has written the prompts (default: among several processes that Slurm
    /// or MPI started without --resume and --until, each its own)
    #[arg(long, value_name = "I/N", conflicts_with_all = ["resume", "until"])]
    pub(crate) shard: Option<Shard>,
    #[command(flatten)]
    profile: ProfileArg,
}

impl Args {
    /// Whether several processes that were started at once divide the work among them.
    pub(crate) fn shares(&self) -> bool {
        self.shard.is_some() || !self.resume && self.until.is_none()
    }

    /// The shard of this process, if it is to do one.
    fn shard(&self, app: &App) -> Result<Option<Shard>> {
        if self.shard.is_some() || !self.shares() {
            return Ok(self.shard);
        }
        let Some((shard, by)) = ranks::shard(|name| std::env::var(name).ok())? else { return Ok(None) };
        app.progress.note(&format!("shard {}/{}, as {by} says", shard.number, shard.of));
        Ok(Some(shard))
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum UntilStage {
    /// The prompts of the next round to be answered
    Prompts,
}

/// The outcome of `--shard`.
#[derive(serde::Serialize)]
struct ShardReport {
    shard: String,
    prompts: usize,
}

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let mut config = RunConfig::read(&args.config)?;
    config.model.template_args.extend(app.common.template_arg.iter().cloned());
    config.run.seed = app.common.given_seed.unwrap_or(config.run.seed);
    let shard = args.shard(app)?;
    let (gpu, peaks) = args.profile.gpu(app)?;
    app.tell_device(&gpu);
    if let Some(shard) = shard {
        let prompts = run::shard(&gpu, &config, shard, &app.progress)?;
        app.progress.clear();
        args.profile.tell(app, &gpu, peaks.as_ref())?;
        let name = format!("{}/{}", shard.number, shard.of);
        return match app.common.json {
            true => app.json(&ShardReport { shard: name, prompts }),
            false => app.line(format!("shard {name}: {prompts} prompts answered and judged")),
        };
    }
    let until = args.until.map_or(Until::End, |UntilStage::Prompts| Until::Prompts);
    let how = RunOptions::default().resume(args.resume).until(until).force(args.force).renewed(&report::refresh);
    let status = run::run(&gpu, &config, &how, &app.progress)?;
    app.progress.clear();
    args.profile.tell(app, &gpu, peaks.as_ref())?;
    show(app, &status)
}

pub(crate) fn status(app: &App, args: &StatusArgs) -> Result<()> {
    show(app, &run_folder::status(&args.run)?)
}

fn show(app: &App, status: &Status) -> Result<()> {
    if app.common.json {
        return app.json(status);
    }
    let state = match (status.finished, status.running) {
        (true, _) => "finished",
        (_, true) => "running",
        _ => "not finished; go on with --resume",
    };
    app.line(format!("{}: {state}", status.path.display()))?;
    app.line(format!(
        "models: {}",
        if status.models.is_empty() { "none yet".into() } else { status.models.join(" ") }
    ))?;
    if !status.removed.is_empty() {
        app.line(format!("weights removed by [run] keep: {}", status.removed.join(" ")))?;
    }
    if !status.stages.is_empty() || !status.partial.is_empty() {
        app.line("")?;
        let mut stages = Table::new(&["stage", "state", "seconds"]);
        for stage in &status.stages {
            stages.row([stage.name.clone(), "done".into(), format!("{:.1}", stage.seconds)]);
        }
        for (name, waves) in &status.partial {
            stages.row([name.clone(), format!("{waves} waves done"), "-".into()]);
        }
        stages.print()?;
    }
    if !status.rounds.is_empty() {
        app.line("")?;
        rounds(&status.rounds).print()?;
    }
    if !status.warnings.is_empty() {
        app.line("")?;
    }
    status.warnings.iter().try_for_each(|sentence| app.line(format!("warning: {sentence}")))?;
    let report = status.path.join(report::FILE);
    if report.exists() {
        app.line(format!("\nreport: {}", report.display()))?;
    }
    Ok(())
}

fn rounds(rounds: &[RoundMetrics]) -> Table {
    let mut table =
        Table::new(&["round", "prompts", "candidates", "judge", "score", "unscored", "pairs", "ties", "steps", "loss"]);
    for m in rounds {
        table.row([
            m.round.to_string(),
            m.prompts.to_string(),
            m.candidates.to_string(),
            m.judge.clone(),
            format!("{:.2}", m.score_mean),
            m.unscored.to_string(),
            m.pairs.to_string(),
            m.ties.to_string(),
            m.steps.to_string(),
            m.last_step.as_ref().map_or("-".into(), |s| format!("{:.4}", s.loss)),
        ]);
    }
    table
}
