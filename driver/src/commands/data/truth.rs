//! `data eft --rules|--key`: verdicts to learn of answers whose truth a program knows.

use super::{Common, EftArgs};
use crate::app::App;
use crate::tables::Table;
use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::config::JudgeSection;
use selfreward::data::import::ReferenceRecord;
use selfreward::data::records::{CandidateRecord, PromptRecord};
use selfreward::json::{read_jsonl, write_jsonl};
use selfreward::judge::{Checks, Item, Mode, Templates, Verdict};
use selfreward::measure::eft::{Balance, ByLength, KnownAnswer, Teaching, teach};
use selfreward::measure::order::LengthRule;
use selfreward::measure::signals::{Signal, SignalJudge};
use selfreward::rng::{Stream, fnv};
use selfreward::text::Prompt;
use serde::Deserialize;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The flags of answers whose truth is known.
#[derive(clap::Args)]
pub(crate) struct TruthArgs {
    /// The answers follow instructions that a program can check, or do not: --from has prompt, response,
    /// instruction_id_list and kwargs, as `generate` writes them of such prompts, or is a run folder, whose rounds'
    /// answers are taken. Right and wrong ones are matched in kind, length and ending
    #[arg(long, conflicts_with_all = ["key", "model"])]
    rules: bool,
    /// The answers have a key: --from has prompt, response, and answer or pattern, or is a run folder
    #[arg(long, conflicts_with = "model")]
    key: bool,
    /// --rules, --key: the judge mode whose verdicts are written: yes, sampled (reasons, then the score) or expected
    /// (the score)
    #[arg(long, value_name = "MODE", default_value = "yes", value_parser = modes())]
    mode: Mode,
    /// --rules, --key: let reasons follow a Yes or No
    #[arg(long)]
    reasons: bool,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    let taught = Mode::ALL.into_iter().filter(|mode| mode.taught().is_some()).map(Mode::name);
    PossibleValuesParser::new(taught.collect::<Vec<_>>()).try_map(|name| name.parse::<Mode>())
}

impl TruthArgs {
    /// What knows the truth, if a program does.
    pub(super) fn signal(&self) -> Option<Signal> {
        match (self.rules, self.key) {
            (true, _) => Some(Signal::Rules),
            (_, true) => Some(Signal::Key),
            _ => None,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }
}

/// Those fields of a line that are read.
#[derive(Deserialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) prompt: Prompt,
    #[serde(alias = "text")]
    pub(super) response: String,
    /// Whether the response ended; it is taken to have where nothing is said.
    pub(super) stopped: Option<bool>,
    #[serde(flatten)]
    pub(super) checks: Checks,
}

/// The answers of a run's rounds, or of the one round whose folder is given.
fn of_rounds(folder: &Path) -> Result<Vec<Line>> {
    let answers = |round: &Path| round.join("candidates.jsonl");
    let rounds: Vec<PathBuf> = match answers(folder).exists() {
        true => vec![folder.to_owned()],
        false => (1..).map(|n| folder.join(format!("round-{n}"))).take_while(|round| answers(round).exists()).collect(),
    };
    ensure!(
        !rounds.is_empty(),
        "{}: is no run folder with answers; expected round-1/candidates.jsonl",
        folder.display()
    );
    let mut lines = Vec::new();
    for round in rounds {
        let prompts: Vec<PromptRecord> = read_jsonl(&round.join("prompts.jsonl"))?;
        let prompts: HashMap<&str, &PromptRecord> = prompts.iter().map(|p| (p.id.as_str(), p)).collect();
        for CandidateRecord { prompt_id, text, stopped, .. } in read_jsonl(&answers(&round))? {
            let asked = prompts.get(prompt_id.as_str());
            let asked = asked.with_context(|| format!("{}: no prompt has the id {prompt_id}", round.display()))?;
            lines.push(Line {
                prompt: asked.prompt.clone().into(),
                response: text,
                stopped: Some(stopped),
                checks: asked.checks.clone(),
            });
        }
    }
    Ok(lines)
}

pub(super) fn run(app: &App, args: &EftArgs, signal: Signal, templates: &Templates) -> Result<()> {
    let Common { from, out, held_out, held_out_file, .. } = &args.common;
    args.common.can_write(false)?;
    let path = || from.display().to_string();
    let lines = if from.is_dir() { of_rounds(from)? } else { read_jsonl(from)? };
    ensure!(!lines.is_empty(), "{}: holds no record", path());
    let all: Vec<KnownAnswer> = lines
        .into_iter()
        .map(|line| KnownAnswer {
            question: line.prompt.question(),
            answer: line.response,
            checks: line.checks,
            ended: line.stopped != Some(false),
        })
        .collect();
    // A record that cannot be checked is named by its place in the file, be it held out or not.
    for (i, known) in all.iter().enumerate() {
        if i == 0 || all[i - 1].question != known.question {
            let wrong = |what| anyhow::anyhow!("{}: record {}: {what}", path(), i + 1);
            signal.checker(&known.question, &known.checks).map_err(wrong)?;
        }
    }
    let chosen = |k: &KnownAnswer| Stream::new(app.common.seed(), fnv(k.question.as_bytes())).uniform() < *held_out;
    let (held, taught): (Vec<_>, Vec<_>) = all.into_iter().partition(chosen);
    let seed = app.common.seed();
    let how = Teaching { signal, mode: args.truth.mode, templates, reasons: args.truth.reasons, seed };
    let (lessons, balance) = teach(&taught, &how).with_context(path)?;
    if let Some(file) = held_out_file {
        let judge = SignalJudge::new(signal, JudgeSection::default().vote_share, "")?;
        let items: Vec<Item> = held
            .iter()
            .map(|k| Item { checks: Some(&k.checks), cut: !k.ended, ..Item::new(0, &k.question, &k.answer) })
            .collect();
        let record = |(known, verdict): (&KnownAnswer, &Verdict)| ReferenceRecord {
            prompt: known.question.clone(),
            response: known.answer.clone(),
            score_reference: verdict.score.unwrap_or_default(),
            stopped: Some(known.ended),
        };
        let records: Vec<ReferenceRecord> = held.iter().zip(&judge.score(&items)?).map(record).collect();
        write_jsonl(file, &records)?;
    }
    write_jsonl(out, &lessons.iter().map(|lesson| &lesson.record).collect::<Vec<_>>())?;
    let questions = taught.iter().map(|k| &k.question).collect::<HashSet<_>>().len();
    if app.common.json {
        let mut scores = [0usize; 6];
        lessons.iter().for_each(|lesson| scores[lesson.score] += 1);
        return app.json(&json!({
            "out": out, "records": lessons.len(), "questions": questions, "held_out": held.len(), "left_out": {},
            "scores": scores, "balance": balance,
        }));
    }
    let file = out.display();
    app.line(format!("{file}: {} verdicts, half of them right, on answers to {questions} prompts\n", lessons.len()))?;
    print(app, &balance)
}

fn print(app: &App, balance: &Balance) -> Result<()> {
    let mut kinds = Table::new(&["kind", "right", "wrong", "taught of each"]);
    for (kind, n) in &balance.kinds {
        kinds.row([kind.clone(), n.right.to_string(), n.wrong.to_string(), n.taught.to_string()]);
    }
    kinds.print()?;
    app.line("")?;
    let mut table =
        Table::new(&["answers", "right: characters", "wrong", "right: ended", "wrong", "in order by length alone"]);
    for (name, of) in [("all", &balance.before), ("taught", &balance.taught)] {
        let ByLength { in_order, rule, right, wrong, right_ended, wrong_ended } = of;
        let rule = if *rule == LengthRule::Longer { "longer" } else { "shorter" };
        let percent = |x: &f64| format!("{:.0} %", x * 100.0);
        table.row([
            name.into(),
            format!("{right:.0}"),
            format!("{wrong:.0}"),
            percent(right_ended),
            percent(wrong_ended),
            format!("{} ({rule})", percent(in_order)),
        ]);
    }
    table.print()?;
    Ok(())
}
