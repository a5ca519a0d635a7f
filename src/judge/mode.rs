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
    /// Written verdicts, parsed and averaged (the paper).
    Sampled,
    /// Expectation over the digit after `Score: `.
    Expected,
    /// Sum of P(Yes) over five short questions.
    Criteria,
    /// P(yes) of one question.
    Yes,
    /// How well the question can be told from the answer.
    Backward,
    /// Sum of the probabilities of five marks.
    Marks,
}

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 6] = [Mode::Sampled, Mode::Expected, Mode::Criteria, Mode::Yes, Mode::Backward, Mode::Marks];

    /// Its name.
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

/// Settings of `sampled`; the other modes draw nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelJudgeSettings {
    /// K: verdicts an answer.
    pub samples: usize,
    /// How often a verdict that did not parse is drawn again.
    pub retries: usize,
    /// How verdicts are drawn.
    pub sampling: Sampling,
    /// Most tokens of a verdict.
    pub max_new_tokens: usize,
    /// How a verdict under a prompt of one's own is read; None reads what stands behind `Score:`.
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
