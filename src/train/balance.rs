//! The routers' auxiliary loss of a step, as transformers' `load_balancing_loss_func` has it: E Σ f_e p_e over the
//! experts, where f_e is how often one of the step's tokens chooses expert e, and p_e the mean of its probability, both
//! over all blocks with experts. Only p has a gradient. A token that several sequences share counts as often as there
//! are such sequences. All means are over the whole step, however it is cut: a step of several micro-batches runs
//! forward once before, to count.

use super::Trainer;
use super::batch::Batch;
use super::exchange::Exchange;
use crate::Result;
use crate::gpu::Gpu;
use crate::model::balance;

/// What a step counts for the loss.
pub(super) struct StepBalance {
    /// The loss's weight beside the step's objective.
    weight: f64,
    /// Whether all of the step has been counted.
    settled: bool,
    /// Tokens times blocks with experts, then E sums of probabilities, then E of choices.
    sums: Vec<f64>,
    /// E.
    experts: usize,
}

impl StepBalance {
    /// Of a step that begins; `None` where the loss has no weight.
    pub(super) fn of(trainer: &Trainer) -> Option<StepBalance> {
        let experts = balance::experts(&trainer.model.arch);
        let sums = vec![0.0; 1 + 2 * experts];
        trainer.balances().then(|| StepBalance { weight: trainer.aux_weight.into(), settled: false, sums, experts })
    }

    /// Counts a micro-batch that has run forward.
    pub(super) fn add(&mut self, gpu: &Gpu, batch: &Batch) -> Result<()> {
        for (sum, x) in self.sums.iter_mut().zip(batch.counted(gpu, self.experts)?) {
            *sum += x;
        }
        Ok(())
    }

    /// Adds up the ranks, once each has counted all of its own.
    pub(super) fn settle(&mut self, exchange: &dyn Exchange) -> Result<()> {
        self.settled = true;
        exchange.total(&mut self.sums)
    }

    /// Readies a micro-batch that has run forward for its backward pass; one that is the whole step is counted here.
    pub(super) fn prepare(&mut self, gpu: &Gpu, batch: &Batch) -> Result<()> {
        if !self.settled {
            self.add(gpu, batch)?;
            self.settled = true;
        }
        let (rows, choices) = (self.sums[0].max(1.0), &self.sums[1 + self.experts..]);
        let slope = |count: &f64| (self.weight * self.experts as f64 * count / (rows * rows)) as f32;
        batch.set_slopes(gpu, &choices.iter().map(slope).collect::<Vec<f32>>())
    }

    /// The loss, and what it adds to the objective.
    pub(super) fn loss(&self) -> (f64, f64) {
        let rows = self.sums[0].max(1.0);
        let (probabilities, choices) = self.sums[1..].split_at(self.experts);
        let products = probabilities.iter().zip(choices).map(|(p, f)| p / rows * (f / rows));
        let loss = self.experts as f64 * products.sum::<f64>();
        (loss, self.weight * loss)
    }
}
