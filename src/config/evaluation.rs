//! `[evaluation]`: what is measured of every model of a run.

use super::{demand, empty};
use crate::judge::Mode;
use crate::measure::tasks::Known;
use crate::settings::{Range, Section, Takes, settings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;

/// How two models' answers to a held-out prompt are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Comparison {
    /// The judge reads both answers side by side, in both orders.
    SideBySide,
    /// The judge scores each answer alone, in this mode.
    Scores(Mode),
}

const SIDE_BY_SIDE: &str = "pairwise";

impl TryFrom<String> for Comparison {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        if name == SIDE_BY_SIDE {
            return Ok(Self::SideBySide);
        }
        name.parse().map(Self::Scores).map_err(|e| Error::Input(format!("{e}, and {SIDE_BY_SIDE}")))
    }
}

impl From<Comparison> for String {
    fn from(comparison: Comparison) -> String {
        match comparison {
            Comparison::SideBySide => SIDE_BY_SIDE.into(),
            Comparison::Scores(mode) => mode.name().into(),
        }
    }
}

/// A task that every model of a run does, whose answers a program checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationTask {
    /// The task, as `eval --task` names it.
    pub task: String,
    /// Its file.
    pub data: PathBuf,
    /// How the report names it; "" takes the file's name.
    #[serde(default)]
    pub name: String,
    /// Answers to an item: of 1 the likeliest, of more drawn.
    #[serde(default = "one")]
    pub samples: u32,
    /// At what temperature several are drawn; none is that of `[candidates]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Most tokens of an answer; none is those of `[candidates]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Worked examples before each item.
    #[serde(default)]
    pub shots: u32,
    /// The file of the same task from which they are.
    #[serde(default)]
    pub shots_from: PathBuf,
}

fn one() -> u32 {
    1
}

impl EvaluationTask {
    /// Most tokens of an answer to it, where those of `[candidates]` have at most `candidates`.
    pub fn tokens(&self, candidates: usize) -> usize {
        self.max_new_tokens.unwrap_or(candidates)
    }

    /// The name of the files and rows that tell of it.
    pub fn label(&self) -> String {
        match self.name.is_empty() {
            true => self.data.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            false => self.name.clone(),
        }
    }

    fn check(&self) -> Result<()> {
        let known = Known::named(&self.task)?;
        demand(!empty(&self.data), &format!("{}: data is empty: name its file", self.task))?;
        let label = self.label();
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let what = "a task's name is that of a folder: letters, digits, -, _ and . that is not the first";
        demand(
            label.chars().all(plain) && !label.is_empty() && !label.starts_with('.'),
            &format!("tasks: {label:?}: {what}; set name"),
        )?;
        demand(self.samples > 0, &format!("tasks: {label}: samples is 0; expected at least 1"))?;
        let once = self.samples == 1 || known.tokens.is_some();
        demand(once, &format!("tasks: {label}: {} draws no answers; samples stays 1", self.task))?;
        let warm = self.temperature.is_none_or(|t| t.is_finite() && t >= 0.0);
        demand(warm, &format!("tasks: {label}: temperature must be a number that is at least 0"))?;
        let drawn = self.temperature.is_none() || self.samples > 1;
        demand(drawn, &format!("tasks: {label}: temperature is for samples above 1; one answer is the likeliest"))?;
        let some = self.max_new_tokens.is_none_or(|tokens| tokens > 0);
        demand(some, &format!("tasks: {label}: max_new_tokens is 0; expected at least 1"))?;
        let what = "shots and shots_from, a file of worked examples, go together";
        demand((self.shots > 0) != empty(&self.shots_from), &format!("tasks: {label}: {what}"))
    }
}

settings! {
    /// What is measured of every model.
    pub struct EvaluationSection {
        /// Held-out prompts that all models answer, newer against older; "" is off. They are kept out of the new
        /// prompts, and the answers are written as files for AlpacaEval, too.
        prompts: PathBuf = PathBuf::new() => "prompts", "F.jsonl", Takes::Text;
        /// Answers a prompt, drawn as in [candidates].
        samples: u32 = 1 => "samples", "N", Takes::Whole(1);
        /// Who compares: a model folder or file; "" takes M1, so that all rounds have one measure.
        judge: PathBuf = PathBuf::new() => "judge", "M", Takes::Text;
        /// pairwise: side by side, in both orders; or a judge mode that scores each answer alone.
        mode: Comparison = Comparison::SideBySide => "mode", "MODE",
            Takes::Read { read: |name| Comparison::try_from(name.to_owned()).map(|_| ()), listed: String::new };
        /// Scores no further apart than this are a tie.
        margin: f64 = 0.0 => "margin", "D", Takes::Number(Range::AtLeast0);
        /// Ranked answers on which each model's own judgment is measured; "" is off. `eval --task judge` reads the
        /// same.
        ranked: PathBuf = PathBuf::new() => "ranked", "F.jsonl", Takes::Text;
        /// Texts of another origin, lines with `text`, on which each model's perplexity shows what it forgets; "" is
        /// off.
        texts: PathBuf = PathBuf::new() => "texts", "F.jsonl", Takes::Text;
        /// Tasks that every model does, such as { task = "ifeval", data = "ifeval.jsonl", samples = 4 }. A program
        /// checks the answers, as `eval --task ifeval` does.
        tasks: Vec<EvaluationTask> = Vec::new() => "tasks", "[{…}]", Takes::Typed;
    }
}

impl Section for EvaluationSection {
    const NAME: &'static str = "evaluation";

    fn agree(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for task in &self.tasks {
            task.check()?;
            let label = task.label();
            let what = format!("tasks: two are named {label:?}; set name");
            demand(seen.insert(label), &what)?;
        }
        Ok(())
    }
}
