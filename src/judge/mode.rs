//! The ways in which a score is read out of a model, and what they are set to.

use super::{NoScore, ScorePattern, parse_score};
use crate::generate::Sampling;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How a score is read out of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The mean of several written verdicts that are parsed, as in the paper.
    Sampled,
    /// The expectation over the digit after `Score: `.
    Expected,
    /// The sum of P(Yes) over five short questions.
    Criteria,
    /// P(yes) of one question, times 5.
    Yes,
    /// How well the question can be told from the answer.
    Backward,
    /// The sum of the probabilities of five marks.
    Marks,
}

impl Mode {
    /// All judge modes.
    pub const ALL: [Mode; 6] = [Mode::Sampled, Mode::Expected, Mode::Criteria, Mode::Yes, Mode::Backward, Mode::Marks];

    /// The mode's name in configurations, records and reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sampled => "sampled",
            Mode::Expected => "expected",
            Mode::Criteria => "criteria",
            Mode::Yes => "yes",
            Mode::Backward => "backward",
            Mode::Marks => "marks",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Mode::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let known = Mode::ALL.map(Mode::name).join(", ");
            Error::Input(format!("judge mode {name:?} is unknown; there are {known}"))
        })
    }
}

/// How verdicts are written in mode `sampled`; the other modes draw nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelJudgeSettings {
    /// How many verdicts are written on each answer (K in the paper).
    pub samples: usize,
    /// How often a verdict that did not parse is drawn again.
    pub retries: usize,
    /// How the tokens of verdicts are drawn.
    pub sampling: Sampling,
    /// Most tokens of one verdict.
    pub max_new_tokens: usize,
    /// How to read the score from a verdict under a prompt of one's own; `None` reads the number after `Score:`.
    pub pattern: Option<ScorePattern>,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for ModelJudgeSettings {
    fn default() -> Self {
        let sampling = Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::default() };
        Self { samples: 3, retries: 2, sampling, max_new_tokens: 200, pattern: None, seed: 0 }
    }
}

impl ModelJudgeSettings {
    pub(super) fn parse(&self, verdict: &str) -> std::result::Result<f64, NoScore> {
        self.pattern.as_ref().map_or_else(|| parse_score(verdict), |pattern| pattern.read(verdict))
    }
}
