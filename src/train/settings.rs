//! The settings of a training, each told once: they are keys of `[sft]` and `[dpo]`, flags of the commands, and what a
//! resume compares.

use super::moments::OptimiserKind;
use crate::kernels::half::Half;
use crate::settings::{self, Range, Takes, settings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

settings! {
    /// AdamW (arXiv 1711.05101) as torch computes it, and clipping by global norm.
    pub struct Optimiser {
        /// adamw, or adamw8bit with moments of 2.1 bytes a parameter instead of 8. Those of vectors stay in f32.
        kind: OptimiserKind = OptimiserKind::AdamW => "optimizer", "O", Takes::OneOf(&["adamw", "adamw8bit"]);
        /// AdamW's decay of the first and the second moment.
        betas: [f32; 2] = [0.9, 0.999] => "betas", "A,B", Takes::Numbers(Range::From0Below1, Some(2));
        /// Added to the root of the second moment, so that no step divides by 0.
        eps: f32 = 1e-8 => "eps", "E", Takes::Number(Range::Above0);
        /// Decoupled weight decay, times the learning rate. It acts on matrices alone; in `dump` on every parameter.
        weight_decay: f32 = 0.0 => "weight_decay", "W", Takes::Number(Range::AtLeast0);
        /// The gradient's global norm is clipped to this; 0 does not clip.
        max_grad_norm: f32 = 1.0 => "max_grad_norm", "G", Takes::Number(Range::AtLeast0);
    }
    beside {
        /// Whether one-dimensional parameters (norm gains, biases) decay too.
        decay_vectors: bool = false;
        /// Seed of the stochastic rounding of bf16 weights.
        seed: u64 = 0;
    }
}

impl Optimiser {
    /// Whether every value can be computed with.
    ///
    /// # Errors
    /// The first value that cannot.
    pub fn check(&self) -> Result<()> {
        settings::check(self)
    }
}

/// How the learning rate moves over the steps of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Schedule {
    /// The rate stays constant after the warm-up.
    Constant,
    /// The rate falls linearly to 0 at the last step.
    Linear,
    /// The rate falls along half a cosine down to `min_lr`.
    Cosine,
}

settings! {
    /// The learning rate of every step.
    pub struct LearningRate {
        /// Peak learning rate.
        peak: f32 = 1e-6 => "lr", "LR", Takes::Number(Range::AtLeast0);
        /// How the learning rate goes on after the warm-up: constant, linear or cosine.
        schedule: Schedule = Schedule::Linear => "schedule", "SCHEDULE",
            Takes::OneOf(&["constant", "linear", "cosine"]);
        /// Where the cosine ends. In supervised training it is 0.2 of the peak where it is not given.
        min_lr: f32 = 0.0 => "min_lr", "LR", Takes::Number(Range::AtLeast0);
        /// Steps of linear warm-up. Step i, from 0, has the factor (i + warmup_offset) / warmup until that is 1.
        warmup: usize = 0 => "warmup", "N", Takes::Whole(0);
        /// 1: the first step of a warm-up moves; 0: it does not, as in transformers. With 1 its last step has the peak.
        warmup_offset: usize = 0 => "warmup_offset", "N", Takes::ZeroOrOne;
    }
}

impl LearningRate {
    /// A learning rate that is `rate` in every step.
    pub fn constant(rate: f32) -> Self {
        Self { peak: rate, min_lr: rate, schedule: Schedule::Constant, ..Self::default() }
    }

    /// The rate of step `step` (from 0) out of `steps`, as transformers' schedules give it.
    pub fn at(&self, step: usize, steps: usize) -> f32 {
        let warm =
            if self.warmup == 0 { 1.0 } else { ((step + self.warmup_offset) as f32 / self.warmup as f32).min(1.0) };
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

/// The number format of the matrices that are trained, from one step to the next: the two in which weights can be
/// updated, out of those of `Storage`. Vectors, gradients and sums are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// The weights are kept in f32.
    #[default]
    F32,
    /// The weights are kept in bf16 and rounded stochastically at each step: half the bytes, and no step is lost on the
    /// mean.
    Bf16,
}

settings! {
    /// The numbers of a training, whatever it is trained on.
    pub struct TrainSettings {
        /// Passes over the records.
        epochs: usize = 1 => "epochs", "N", Takes::Whole(1);
        /// Records a step.
        batch: usize = 16 => "batch", "N", Takes::Whole(1);
        /// Share that is dropped of what attention and MLP branches add to the residual stream. The paper took 0.1;
        /// 0 is off.
        dropout: f32 = 0.0 => "dropout", "P", Takes::Number(Range::From0Below1);
        /// Weight of the routers' auxiliary loss, which spreads tokens over experts. Where it is not given it is
        /// config.json's if `output_router_logits` is true there, else 0; 0 is off.
        router_aux_loss_coef: Option<f32> = None => "router_aux_loss_coef", "C", Takes::Number(Range::AtLeast0);
        /// Type of the weights that are trained and written: f32; or bf16, rounded stochastically. That takes half the
        /// bytes, and small steps are not lost. An adapter is in f32.
        weights: WeightType = WeightType::F32 => "weights", "T", Takes::OneOf(&["f32", "bf16"]);
        /// Products read copies of the f32 weights in this type: bf16 or f16.
        half: Option<Half> = None => "dtype", "T", Takes::OneOf(&["bf16", "f16"]);
        /// Steps between checkpoints.
        save_every: u64 = 25 => "save_every", "N", Takes::Whole(1);
    }
    parts {
        /// The learning rate of every step.
        lr: LearningRate = LearningRate::default(), without [];
        /// AdamW. Its seed is that of the training.
        optimiser: Optimiser = Optimiser::default(), without [];
    }
    beside {
        /// Most rows of a micro-batch, but for a longer record; as many as memory allows where it is None.
        micro_rows: Option<usize> = None;
        /// Seed of the order of the records, of dropout's masks and of the rounding of bf16 weights.
        seed: u64 = 0;
    }
}

impl TrainSettings {
    /// What supervised training takes by default: the paper's rate, along a cosine down to a fifth of it, but not its
    /// dropout of 0.1: a model that never met any, such as SmolLM2-135M, loses by it what it knows
    /// (docs/CONSTRAINTS.md).
    pub fn supervised() -> Self {
        let peak = 5.5e-6;
        let lr = LearningRate { peak, min_lr: 1.1e-6, schedule: Schedule::Cosine, ..LearningRate::default() };
        Self { lr, ..Self::default() }
    }

    /// Sets what follows, in supervised training, from the keys that were given.
    pub fn complete_supervised(&mut self, given: &toml::Table) {
        if !given.contains_key("min_lr") {
            self.lr.min_lr = self.lr.peak / 5.0;
        }
    }

    /// Whether the settings go together; each by itself is in its range.
    ///
    /// # Errors
    /// Settings that do not go together; the error names them.
    pub fn agree(&self) -> Result<()> {
        if self.weights == WeightType::Bf16 && self.half.is_some() {
            let what = "dtype is for copies of f32 weights; it does not go with weights = \"bf16\"";
            return Err(Error::Input(what.into()));
        }
        let LearningRate { peak, min_lr, schedule, .. } = self.lr;
        if schedule == Schedule::Cosine && min_lr > peak {
            let what =
                format!("min_lr is {min_lr}, above lr, which is {peak}; expected the smaller one, where it ends");
            return Err(Error::Input(what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: `schedule(AdamW at 2e-3)` of transformers 5.23 over `steps`, read as `optimizer.param_groups[0]["lr"]`
    /// before each step, for `get_constant_schedule_with_warmup(o, warmup)`, `get_linear_schedule_with_warmup(o,
    /// warmup, steps)`, `get_cosine_schedule_with_warmup(o, warmup, steps)` and
    /// `get_cosine_with_min_lr_schedule_with_warmup(o, warmup, steps, min_lr=5e-4)`.
    #[test]
    fn schedules_are_those_of_transformers() {
        const W: [f64; 3] = [0.0, 0.000666666667, 0.00133333333];
        let tables: [(usize, usize, [Vec<f64>; 4]); 3] = [
            (
                7,
                3,
                [
                    [&W[..], &[0.002; 4]].concat(),
                    [&W[..], &[0.002, 0.0015, 0.001, 0.0005]].concat(),
                    [&W[..], &[0.002, 0.00170710678, 0.001, 0.000292893219]].concat(),
                    [&W[..], &[0.002, 0.00178033009, 0.00125, 0.000719669914]].concat(),
                ],
            ),
            (
                5,
                0,
                [
                    vec![0.002; 5],
                    vec![0.002, 0.0016, 0.0012, 0.0008, 0.0004],
                    vec![0.002, 0.00180901699, 0.00130901699, 0.000690983006, 0.000190983006],
                    vec![0.002, 0.00185676275, 0.00148176275, 0.00101823725, 0.000643237254],
                ],
            ),
            (4, 6, [(); 4].map(|()| vec![0.0, 0.000333333333, 0.000666666667, 0.001])),
        ];
        let kinds =
            [(Schedule::Constant, 0.0), (Schedule::Linear, 0.0), (Schedule::Cosine, 0.0), (Schedule::Cosine, 5e-4)];
        for (steps, warmup, rates) in tables {
            for ((schedule, min_lr), want) in kinds.into_iter().zip(rates) {
                let rate = LearningRate { peak: 2e-3, min_lr, warmup, warmup_offset: 0, schedule };
                for (i, want) in want.iter().enumerate() {
                    let got = f64::from(rate.at(i, steps));
                    assert!((got - want).abs() < 1e-9, "{schedule:?} {steps} {warmup} step {i}: {got}, {want}");
                }
            }
        }
    }
}
