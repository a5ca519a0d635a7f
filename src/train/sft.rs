//! Supervised fine-tuning: cross-entropy on the completion's tokens only.

use super::Trainer;
use crate::{Observer, Result};

/// One training record.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Context ids, no loss; not empty.
    pub prompt: Vec<u32>,
    /// Ids with loss; not empty.
    pub completion: Vec<u32>,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SftStep {
    /// Step number, from 1.
    pub step: u64,
    /// The objective before the update.
    pub loss: f64,
    /// The mean cross-entropy of each group.
    pub group_loss: Vec<f64>,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Rate used.
    pub learning_rate: f64,
    /// Tokens run through the model.
    pub tokens: u64,
}

/// Settings of [`run`].
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// Records a step.
    pub batch: usize,
    /// Rates.
    pub lr: super::LearningRate,
    /// Order of the records.
    pub seed: u64,
}

impl Trainer<'_> {
    /// One optimiser step on Σ_g weight_g · (mean cross-entropy over the loss tokens of group g).
    ///
    /// # Errors
    /// Empty prompts or completions, ids outside the vocabulary; a non-finite loss or gradient (nothing is updated).
    pub fn sft_step(&mut self, _groups: &[(&[Example], f32)], _lr: f32) -> Result<SftStep> {
        Err(crate::Error::Device("not built yet".into()))
    }
}

/// Trains on `data` from `trainer.step` on (so a loaded state goes on where it stopped), shuffled by seed and epoch.
/// `on_step` runs after each update and may save.
///
/// # Errors
/// As [`Trainer::sft_step`]; `Stopped` when the observer asks for it.
pub fn run(
    _trainer: &mut Trainer,
    _data: &[Example],
    _config: &SftConfig,
    _observer: &dyn Observer,
    _on_step: &mut dyn FnMut(&Trainer, &SftStep) -> Result<()>,
) -> Result<()> {
    Err(crate::Error::Device("not built yet".into()))
}
