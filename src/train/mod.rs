//! Training: SFT and DPO on explicit backward passes, AdamW.

pub mod dpo;
pub mod losses;
pub mod sft;

use crate::Result;
use crate::gpu::Gpu;
use crate::model::Model;
use std::path::Path;

/// AdamW (arXiv 1711.05101) as torch computes it, and clipping by global norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimiser {
    /// Decay of the first and second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f32,
    /// Whether one-dimensional parameters (norm gains, biases) decay too.
    pub decay_vectors: bool,
    /// The gradient's global norm is clipped to this; 0 is off.
    pub max_grad_norm: f32,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, decay_vectors: false, max_grad_norm: 1.0 }
    }
}

/// How the learning rate moves over the steps of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Constant after warm-up.
    Constant,
    /// Linear to 0 at the last step.
    Linear,
    /// Half a cosine down to `min_lr`.
    Cosine,
}

/// The learning rate of every step.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRate {
    /// The peak.
    pub peak: f32,
    /// Where the cosine ends.
    pub min_lr: f32,
    /// Steps of linear warm-up: step i (from 0) has the factor (i + 1) / warmup until it reaches 1.
    pub warmup: usize,
    /// The shape after warm-up.
    pub schedule: Schedule,
}

impl LearningRate {
    /// The rate of step `step` (from 0) out of `steps`.
    pub fn at(&self, step: usize, steps: usize) -> f32 {
        let warm = if self.warmup == 0 { 1.0 } else { ((step + 1) as f32 / self.warmup as f32).min(1.0) };
        let span = steps.saturating_sub(self.warmup).max(1) as f32;
        let done = (step.saturating_sub(self.warmup) as f32 / span).min(1.0);
        match self.schedule {
            Schedule::Constant => self.peak * warm,
            Schedule::Linear => self.peak * warm * (1.0 - done),
            Schedule::Cosine => {
                let low = self.min_lr.min(self.peak);
                (low + (self.peak - low) * 0.5 * (1.0 + (std::f32::consts::PI * done).cos())) * warm
            }
        }
    }
}

/// A model in training: gradients and optimiser state beside the weights, all f32 on the GPU.
pub struct Trainer<'a> {
    _gpu: &'a Gpu,
    /// The model whose weights move.
    pub model: Model,
    /// Optimiser steps taken so far.
    pub step: u64,
}

impl<'a> Trainer<'a> {
    /// Takes `model` (dequantised to f32) into training with fresh moments.
    ///
    /// # Errors
    /// Out of memory; a model with quantised weights.
    pub fn new(gpu: &'a Gpu, model: Model, _optimiser: Optimiser) -> Result<Self> {
        Ok(Self { _gpu: gpu, model, step: 0 })
    }

    /// Writes weights, moments and the step number into `dir` so that [`Trainer::load_state`] goes on bit for bit.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    pub fn save_state(&self, _dir: &Path) -> Result<()> {
        Err(crate::Error::Device("not built yet".into()))
    }

    /// Reads what [`Trainer::save_state`] wrote.
    ///
    /// # Errors
    /// A missing or broken file, tensors that do not fit the model.
    pub fn load_state(&mut self, _dir: &Path) -> Result<()> {
        Err(crate::Error::Device("not built yet".into()))
    }
}
