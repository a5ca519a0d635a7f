//! `pairs`: preferences from scored responses.

use crate::app::{App, check_writable};
use anyhow::{Result, ensure};
use selfreward::config::pair_rule::{PairChoice, PairRule, ScoredAnswer, Select, choose};
use selfreward::json::{read_jsonl, write_jsonl};
use selfreward::judge::Checks;
use selfreward::rng::fnv;
use selfreward::text::{Message, Prompt, TemplateInputs};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scored responses, as `judge` writes them
    #[arg(long, value_name = "F.jsonl")]
    verdicts: PathBuf,
    /// The preferences, in TRL's conversational form
    #[arg(long, value_name = "F.jsonl")]
    out: PathBuf,
    /// Smallest difference between the best and the worst score; equal scores never make a pair
    #[arg(long, default_value_t = PairRule::default().min_gap, value_name = "X")]
    min_gap: f64,
    /// Among responses within this much of the best score take the shortest, of the worst the longest; 0 is off
    #[arg(long, default_value_t = PairRule::default().length_margin, value_name = "X")]
    length_margin: f64,
    /// Take every two responses that differ by --min-gap or more, not only the best and the worst
    #[arg(long, conflicts_with = "length_margin")]
    all: bool,
    /// --all: most pairs a prompt, those with the largest differences; 0 is no limit
    #[arg(long, default_value_t = 0, value_name = "N", requires = "all")]
    most: usize,
    /// Choose only responses that the model ended itself; records must say it (`stopped`)
    #[arg(long)]
    ended: bool,
    /// --all: most that the longer response of a pair has of the other's tokens, such as 1.5, where both ended or both
    /// were cut; 0 is off
    #[arg(long, default_value_t = 0.0, value_name = "R", requires = "all")]
    length_ratio: f64,
    /// --length-ratio: the largest share of pairs whose rejected response alone was cut, whatever its length
    #[arg(long, default_value_t = 0.0, value_name = "S", requires = "length_ratio")]
    cut: f64,
}

/// Those fields of a line that are read.
#[derive(Deserialize)]
struct Verdict {
    #[serde(flatten)]
    prompt: Prompt,
    #[serde(flatten)]
    checks: Checks,
    response: String,
    /// The score; null when none could be read.
    score: Option<f64>,
    /// Length of the response in tokens; if it is not given, its characters are counted.
    tokens: Option<usize>,
    /// Whether the model ended the response itself.
    stopped: Option<bool>,
}

#[derive(Serialize)]
struct Preference<'a> {
    prompt: Vec<Message>,
    #[serde(flatten)]
    inputs: &'a TemplateInputs,
    #[serde(flatten)]
    checks: &'a Checks,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    score_chosen: f64,
    score_rejected: f64,
}

/// What became of the prompts.
#[derive(Default, Serialize)]
struct Report {
    prompts: usize,
    pairs: usize,
    /// How many prompts have a best and a worst response that are equal or too near one another.
    ties: usize,
    /// How many prompts have fewer than two responses with a score.
    too_few: usize,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    ensure!(args.min_gap.is_finite() && args.length_margin.is_finite(), "--min-gap and --length-margin must be finite");
    check_writable(&args.out)?;
    let verdicts: Vec<Verdict> = read_jsonl(&args.verdicts)?;
    ensure!(!verdicts.is_empty(), "{}: holds no record", args.verdicts.display());
    let mut groups: Vec<(&Prompt, Vec<&Verdict>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for verdict in &verdicts {
        let place = *places.entry(&verdict.prompt).or_insert(groups.len());
        if place == groups.len() {
            groups.push((&verdict.prompt, Vec::new()));
        }
        groups[place].1.push(verdict);
    }
    let rule = PairRule {
        select: if args.all { Select::All } else { Select::BestWorst },
        most: args.most,
        min_gap: args.min_gap,
        length_margin: args.length_margin,
        ended: args.ended,
        length_ratio: args.length_ratio,
        cut: args.cut,
    };
    anyhow::ensure!(
        rule.length_ratio == 0.0 || rule.length_ratio >= 1.0,
        "--length-ratio is {}; expected 0 or at least 1",
        rule.length_ratio
    );
    anyhow::ensure!((0.0..=1.0).contains(&rule.cut), "--cut is {}; expected a share from 0 to 1", rule.cut);
    if let Some(at) = verdicts.iter().position(|v| args.ended && v.stopped.is_none()) {
        let file = args.verdicts.display();
        anyhow::bail!(
            "{file}: record {} does not say whether its response ended (\"stopped\"); leave --ended out",
            at + 1
        );
    }
    let mut report = Report { prompts: groups.len(), ..Report::default() };
    let mut preferences = Vec::new();
    for (prompt, group) in groups {
        let checks = &group[0].checks;
        let scored: Vec<ScoredAnswer> = group
            .iter()
            .filter_map(|v| {
                let tokens = v.tokens.unwrap_or_else(|| v.response.chars().count());
                Some(ScoredAnswer { text: &v.response, tokens, ended: v.stopped.unwrap_or(true), score: v.score? })
            })
            .collect();
        match choose(&scored, None, &rule) {
            PairChoice::Tie => report.ties += 1,
            PairChoice::TooFew => report.too_few += 1,
            PairChoice::Pairs(pairs) => preferences.extend(pairs.into_iter().map(|(chosen, rejected)| {
                let (chosen, rejected) = (&scored[chosen], &scored[rejected]);
                let preference = Preference {
                    prompt: prompt.messages(),
                    inputs: &prompt.inputs,
                    checks,
                    chosen: vec![Message::new("assistant", chosen.text)],
                    rejected: vec![Message::new("assistant", rejected.text)],
                    score_chosen: chosen.score,
                    score_rejected: rejected.score,
                };
                (preference, chosen.ended_alone(rejected))
            })),
        }
    }
    let place =
        |(p, _): &(Preference, bool)| fnv(format!("{}\0{}", p.chosen[0].content, p.rejected[0].content).as_bytes());
    rule.draw(&mut preferences, 0, |(_, cut)| *cut, place);
    let preferences: Vec<Preference> = preferences.into_iter().map(|(preference, _)| preference).collect();
    report.pairs = preferences.len();
    write_jsonl(&args.out, &preferences)?;
    if app.common.json {
        return app.json(&report);
    }
    app.line(format!(
        "{}: {} pairs of {} prompts; {} ties, {} with fewer than two scores",
        args.out.display(),
        report.pairs,
        report.prompts,
        report.ties,
        report.too_few
    ))
}
