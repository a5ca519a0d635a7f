//! `[sft]`, `[dpo]` and `[validation]`: how models are trained.

use super::{at_least_0, fine};
use crate::kernels::half::Half;
use crate::train::objective::{self, Divergence, Objective};
use crate::train::{LearningRate, MomentType, Optimiser, Schedule, WeightType, dpo::DpoConfig, sft::SftConfig};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The rate of every step, from a section's settings.
fn rate(section: &str, schedule: &str, rate: LearningRate) -> Result<LearningRate> {
    let schedule = match schedule {
        "constant" => Schedule::Constant,
        "linear" => Schedule::Linear,
        "cosine" => Schedule::Cosine,
        other => {
            let expected = "expected constant, linear or cosine";
            return Err(Error::Input(format!("[{section}] schedule is {other:?}, {expected}")));
        }
    };
    Ok(LearningRate { schedule, ..rate })
}

const ONE_TYPE: &str = "dtype is for copies of f32 weights; it does not go with weights = \"bf16\"";

/// Whether only one of the two rounds.
fn one_type(weights: WeightType, copies: Option<Half>) -> bool {
    weights == WeightType::F32 || copies.is_none()
}

/// What a section says of AdamW; the rest is as usual.
fn optimiser(moments: MomentType, betas: [f32; 2], weight_decay: f32, max_grad_norm: f32) -> Optimiser {
    Optimiser { moments, betas, weight_decay, max_grad_norm, ..Optimiser::default() }
}

/// `[sft]`: M1 from M0. Without files M1 is M0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftSection {
    /// Answers to learn, in any of TRL's forms, as `data ift` and `data eft` write them; one file or more.
    pub files: Vec<PathBuf>,
    /// Records of each file for one of the others, such as [2, 1]: an epoch takes as many records as all files hold, in this
    /// ratio, and goes through a file again or leaves some of it to the next epoch. Empty takes every record once.
    pub mix: Vec<f64>,
    /// Most tokens of prompt and answer.
    pub max_length: usize,
    /// Cut longer answers; they are dropped without.
    pub truncate: bool,
    /// Peak learning rate.
    pub lr: f32,
    /// `constant`, `linear` or `cosine`.
    pub schedule: String,
    /// Where the cosine ends.
    pub min_lr: f32,
    /// Warm-up steps.
    pub warmup: usize,
    /// Passes over the records.
    pub epochs: usize,
    /// Records a step.
    pub batch: usize,
    /// `adamw`, or `adamw8bit` with its moments in 8 bits.
    pub optimizer: MomentType,
    /// AdamW.
    pub betas: [f32; 2],
    /// Decoupled.
    pub weight_decay: f32,
    /// 0 is off.
    pub max_grad_norm: f32,
    /// Share of what each attention and MLP branch adds to the residual stream that is dropped in training; 0 is off.
    pub dropout: f32,
    /// `f32`, or `bf16` with stochastic rounding: what the weights themselves are kept and written in.
    pub weights: WeightType,
    /// `bf16` or `f16`: products of the training read copies of the weights rounded so; they read the f32 weights without.
    pub dtype: Option<Half>,
    /// Steps between checkpoints.
    pub save_every: usize,
}

impl Default for SftSection {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            mix: Vec::new(),
            max_length: 2048,
            truncate: false,
            lr: 5.5e-6,
            schedule: "cosine".into(),
            min_lr: 1.1e-6,
            warmup: 0,
            epochs: 1,
            batch: 16,
            optimizer: MomentType::F32,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            dropout: 0.1,
            weights: WeightType::F32,
            dtype: None,
            save_every: 25,
        }
    }
}

impl SftSection {
    /// Settings of the supervised training.
    ///
    /// # Errors
    /// An unknown schedule.
    pub fn sft(&self, seed: u64) -> Result<SftConfig> {
        let plain = LearningRate {
            peak: self.lr,
            min_lr: self.min_lr,
            warmup: self.warmup,
            warmup_offset: 0,
            schedule: Schedule::Constant,
        };
        let lr = rate("sft", &self.schedule, plain)?;
        Ok(SftConfig { epochs: self.epochs, batch: self.batch, lr, seed })
    }

    /// The optimiser.
    pub fn optimiser(&self) -> Optimiser {
        optimiser(self.optimizer, self.betas, self.weight_decay, self.max_grad_norm)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first one that is not.
    pub(super) fn check(&self) -> Result<()> {
        let positive = |m: &f64| *m > 0.0 && m.is_finite();
        let one_each = self.mix.is_empty() || self.mix.len() == self.files.len();
        fine(
            "sft",
            &[
                (one_each, "mix needs one number for each of files, or none"),
                (self.mix.iter().all(positive), "mix must be above 0"),
                (self.batch >= 1, "batch must be at least 1"),
                (self.epochs >= 1, "epochs must be at least 1"),
                (self.save_every >= 1, "save_every must be at least 1"),
                (self.max_length >= 2, "max_length must be at least 2"),
                (self.lr > 0.0 && self.lr.is_finite(), "lr must be above 0"),
                (one_type(self.weights, self.dtype), ONE_TYPE),
                ((0.0..1.0).contains(&self.dropout), "dropout must be from 0 to below 1"),
                (at_least_0(self.min_lr), "min_lr must be at least 0"),
            ],
        )?;
        self.optimiser().check().map_err(|e| Error::Input(format!("[sft] {e}")))?;
        self.sft(0).map(|_| ())
    }
}

/// `[validation]`: early stopping of a round's training by the judge, on prompts that are not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationSection {
    /// Held-out prompts; empty is off. They are kept out of the new prompts.
    pub prompts: PathBuf,
    /// Steps between validations; the last step has one too.
    pub every: usize,
    /// Validations in a row without a better mean score after which the training ends; 0 goes on to its end. The model with the
    /// best mean score is the one that is kept.
    pub patience: usize,
    /// Answers a prompt, drawn as in `[candidates]`.
    pub samples: u32,
}

impl Default for ValidationSection {
    fn default() -> Self {
        Self { prompts: PathBuf::new(), every: 200, patience: 2, samples: 1 }
    }
}

impl ValidationSection {
    pub(super) fn check(&self) -> Result<()> {
        fine(
            "validation",
            &[(self.every >= 1, "every must be at least 1"), (self.samples >= 1, "samples must be at least 1")],
        )
    }
}

/// What a round trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Preferences.
    Dpo,
    /// Supervised on the chosen answers alone: the paper's negative control.
    SftBest,
}

/// `[dpo]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoSection {
    /// `dpo` or `sft-best`.
    pub method: Method,
    /// The preference losses with their weights, `NAME[:WEIGHT],…`, by TRL's names.
    pub loss: String,
    /// Strength of the pull to the reference.
    pub beta: f32,
    /// Share of labels taken as wrong.
    pub label_smoothing: f32,
    /// Weight of the chosen answers' negative log-likelihood beside the preference loss.
    pub nll: f32,
    /// `reverse_kl`, `forward_kl`, `js_divergence` or `alpha_divergence`.
    pub f_divergence: Divergence,
    /// α of the α-divergence.
    pub f_alpha: f32,
    /// WPO's weights.
    pub wpo: bool,
    /// LD-DPO's α; 1 is off.
    pub ld_alpha: f32,
    /// SimPO's γ.
    pub simpo_gamma: f32,
    /// Peak learning rate.
    pub lr: f32,
    /// `constant`, `linear` or `cosine`.
    pub schedule: String,
    /// Where the cosine ends.
    pub min_lr: f32,
    /// Warm-up steps.
    pub warmup: usize,
    /// 0: the first step of the warm-up moves nothing, as in transformers; 1: it moves.
    pub warmup_offset: usize,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs a step.
    pub batch: usize,
    /// `adamw`, or `adamw8bit` with its moments in 8 bits.
    pub optimizer: MomentType,
    /// AdamW.
    pub betas: [f32; 2],
    /// Decoupled.
    pub weight_decay: f32,
    /// 0 is off.
    pub max_grad_norm: f32,
    /// Share of what each attention and MLP branch adds to the residual stream that is dropped in training; 0 is off.
    pub dropout: f32,
    /// `f32`, or `bf16` with stochastic rounding: what the weights themselves are kept and written in.
    pub weights: WeightType,
    /// `bf16` or `f16`: products of the training read copies of the weights rounded so; they read the f32 weights without.
    pub dtype: Option<Half>,
    /// Steps between checkpoints.
    pub save_every: usize,
}

impl Default for DpoSection {
    fn default() -> Self {
        Self {
            method: Method::Dpo,
            loss: "sigmoid".into(),
            beta: 0.1,
            label_smoothing: 0.0,
            nll: 0.0,
            f_divergence: Divergence::ReverseKl,
            f_alpha: 0.5,
            wpo: false,
            ld_alpha: 1.0,
            simpo_gamma: 0.5,
            lr: 1e-6,
            schedule: "linear".into(),
            min_lr: 0.0,
            warmup: 0,
            warmup_offset: 0,
            epochs: 1,
            batch: 16,
            optimizer: MomentType::F32,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            dropout: 0.0,
            weights: WeightType::F32,
            dtype: None,
            save_every: 25,
        }
    }
}

impl DpoSection {
    fn rate(&self) -> Result<LearningRate> {
        let plain = LearningRate {
            peak: self.lr,
            min_lr: self.min_lr,
            warmup: self.warmup,
            warmup_offset: self.warmup_offset,
            schedule: Schedule::Constant,
        };
        rate("dpo", &self.schedule, plain)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first one that is not.
    pub(super) fn check(&self) -> Result<()> {
        fine(
            "dpo",
            &[
                (self.batch >= 1, "batch must be at least 1"),
                (self.epochs >= 1, "epochs must be at least 1"),
                (self.save_every >= 1, "save_every must be at least 1"),
                (self.lr > 0.0 && self.lr.is_finite(), "lr must be above 0"),
                (one_type(self.weights, self.dtype), ONE_TYPE),
                ((0.0..1.0).contains(&self.dropout), "dropout must be from 0 to below 1"),
                (self.warmup_offset <= 1, "warmup_offset must be 0 or 1"),
                (at_least_0(self.min_lr), "min_lr must be at least 0"),
            ],
        )?;
        self.optimiser().check().map_err(|e| Error::Input(format!("[dpo] {e}")))?;
        self.objective()?;
        self.rate().map(|_| ())
    }

    /// What is minimised.
    ///
    /// # Errors
    /// Unknown losses, options that do not go with them, losses on single answers.
    pub fn objective(&self) -> Result<Objective> {
        let objective = Objective {
            losses: objective::parse(&self.loss).map_err(|e| Error::Input(format!("[dpo] loss: {e}")))?,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            nll: self.nll,
            f_divergence: self.f_divergence,
            f_alpha: self.f_alpha,
            wpo: self.wpo,
            ld_alpha: self.ld_alpha,
            simpo_gamma: self.simpo_gamma,
            ..Objective::default()
        };
        if objective.unpaired().map_err(|e| Error::Input(format!("[dpo] {e}")))? {
            return Err(Error::Input(format!(
                "[dpo] loss = \"{}\" is on single answers; a round makes pairs",
                self.loss
            )));
        }
        Ok(objective)
    }

    /// Settings of the preference training.
    ///
    /// # Errors
    /// An unknown schedule; as [`DpoSection::objective`].
    pub fn dpo(&self, seed: u64) -> Result<DpoConfig> {
        Ok(DpoConfig { objective: self.objective()?, epochs: self.epochs, batch: self.batch, lr: self.rate()?, seed })
    }

    /// Settings of the supervised training on the chosen answers.
    ///
    /// # Errors
    /// An unknown schedule.
    pub fn sft(&self, seed: u64) -> Result<SftConfig> {
        Ok(SftConfig { epochs: self.epochs, batch: self.batch, lr: self.rate()?, seed })
    }

    /// The optimiser.
    pub fn optimiser(&self) -> Optimiser {
        optimiser(self.optimizer, self.betas, self.weight_decay, self.max_grad_norm)
    }
}
