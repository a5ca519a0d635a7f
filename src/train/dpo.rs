//! Direct preference optimisation (arXiv 2305.18290) with the prompt shared between chosen and rejected.

use super::Trainer;
use crate::{Observer, Result};

/// One preference.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Context ids, not empty.
    pub prompt: Vec<u32>,
    /// Preferred answer, not empty.
    pub chosen: Vec<u32>,
    /// The other answer, not empty.
    pub rejected: Vec<u32>,
}

/// Summed log-probs of one pair's answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// Σ log p of the chosen answer's tokens.
    pub chosen: f32,
    /// Σ log p of the rejected answer's tokens.
    pub rejected: f32,
}

/// Settings of [`run`].
#[derive(Clone, Debug, PartialEq)]
pub struct DpoConfig {
    /// Losses by name (`losses::LOSSES`) with their weights.
    pub losses: Vec<(String, f32)>,
    /// β of the losses.
    pub beta: f32,
    /// Share of labels taken as wrong, for the losses that know it.
    pub label_smoothing: f32,
    /// Weight of the chosen answer's mean negative log-likelihood, added to the loss (RPO, arXiv 2404.19733).
    pub nll: f32,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs a step.
    pub batch: usize,
    /// Rates.
    pub lr: super::LearningRate,
    /// Order of the pairs.
    pub seed: u64,
}

/// What a step did; the names are TRL's.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DpoStep {
    /// Step number, from 1.
    pub step: u64,
    /// The objective before the update.
    pub loss: f64,
    /// β (log π − log ref) of the chosen answers, mean.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// The same of the rejected answers.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// Share of pairs whose chosen reward is the larger one.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// Chosen minus rejected reward, mean.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: f64,
    /// Summed log-prob of the chosen answers, mean.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// The same of the rejected answers.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Rate used.
    pub learning_rate: f64,
    /// Tokens run through the model.
    pub tokens: u64,
}

/// Trains on `pairs` from `trainer.step` on. The order and the micro-batches are fixed first; the reference is the
/// model as given in `reference`, or (None) the trainer's model as it stands at step 0, run through the same
/// micro-batches, so that every reward of the first step is exactly 0, which is asserted.
/// `reference_logps` (one per pair, as returned by a first call) makes a resumed training skip that pass; the logps
/// used are handed to `on_reference` before the first step, so that they can be kept.
///
/// # Errors
/// Empty fields, ids outside the vocabulary, an unknown loss; a non-finite loss or gradient (nothing is updated);
/// `Stopped` when the observer asks for it.
pub fn run(
    _trainer: &mut Trainer,
    _pairs: &[Pair],
    _config: &DpoConfig,
    _reference_logps: Option<&[PairLogps]>,
    _observer: &dyn Observer,
    _on_reference: &mut dyn FnMut(&[PairLogps]) -> Result<()>,
    _on_step: &mut dyn FnMut(&Trainer, &DpoStep) -> Result<()>,
) -> Result<()> {
    Err(crate::Error::Device("not built yet".into()))
}
