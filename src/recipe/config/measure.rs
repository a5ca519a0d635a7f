//! `[evaluation]`: what is measured of every model of a run.

use super::fine;
use crate::judge::Mode;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[evaluation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSection {
    /// Held-out prompts that every model answers, newer models against older ones; empty is off. They are kept out of the new
    /// prompts.
    pub prompts: PathBuf,
    /// Answers a prompt, drawn as in `[candidates]`.
    pub samples: u32,
    /// Who compares: a model folder or file; empty takes M1, so that all rounds have one measure.
    pub judge: PathBuf,
    /// `pairwise` (both answers side by side, in both orders), or a judge mode that scores each answer alone.
    pub mode: String,
    /// Scores no further apart than this are a tie.
    pub margin: f64,
    /// Ranked answers on which every model's own judgment is measured, as `eval --task judge` reads them; empty is off.
    pub ranked: PathBuf,
}

impl Default for EvaluationSection {
    fn default() -> Self {
        Self {
            prompts: PathBuf::new(),
            samples: 1,
            judge: PathBuf::new(),
            mode: "pairwise".into(),
            margin: 0.0,
            ranked: PathBuf::new(),
        }
    }
}

impl EvaluationSection {
    /// The mode that scores answers alone; None where they are compared side by side.
    ///
    /// # Errors
    /// An unknown mode.
    pub fn scores(&self) -> Result<Option<Mode>> {
        if self.mode == "pairwise" {
            return Ok(None);
        }
        self.mode.parse().map(Some).map_err(|e| Error::Input(format!("[evaluation] {e}, and pairwise")))
    }

    pub(super) fn check(&self) -> Result<()> {
        fine(
            "evaluation",
            &[
                (self.samples >= 1, "samples must be at least 1"),
                (self.margin >= 0.0 && self.margin.is_finite(), "margin must be at least 0"),
            ],
        )?;
        self.scores().map(|_| ())
    }
}
