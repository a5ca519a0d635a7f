//! `[evaluation]`: what is measured of every model of a run.

use crate::judge::Mode;
use crate::settings::{Range, Section, Takes, settings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
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
    }
}

impl Section for EvaluationSection {
    const NAME: &'static str = "evaluation";
}
