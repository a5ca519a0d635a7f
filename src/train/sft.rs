//! Supervised fine-tuning: cross-entropy on the completion's tokens only. Each token of a step has the same weight,
//! however the step is cut into micro-batches.

use super::balance::StepBalance;
use super::batch::{self, Batch, Keep};
use super::{LearningRate, Trainer};
use crate::layout::{Forest, packs};
use crate::model::dropout::node_key;
use crate::model::head::Wanted;
use crate::model::score::predicted;
use crate::rng::Stream;
use crate::settings::setters;
use crate::{Error, Observer, Result};
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

/// A prompt with the answer that is to be learnt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// Token ids of the prompt, on which there is no loss; at least one.
    pub prompt: Vec<u32>,
    /// Token ids that follow it; at least one. There is a loss on those outside `context`.
    pub completion: Vec<u32>,
    /// Parts of the completion that are context only, such as the user's turns between two answers; ascending.
    pub context: Vec<Range<usize>>,
}

impl Example {
    /// A prompt with an answer of which every token is learnt.
    pub fn new(prompt: Vec<u32>, completion: Vec<u32>) -> Self {
        Self { prompt, completion, context: Vec::new() }
    }

    /// How many tokens have a loss.
    pub fn targets(&self) -> usize {
        self.completion.len() - self.context.iter().map(Range::len).sum::<usize>()
    }

    /// How many rows the record takes.
    pub fn rows(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }
}

/// The numbers of one step.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct SftStep {
    /// Number of the step, from 1.
    pub step: u64,
    /// The objective before the step's update.
    pub loss: f64,
    /// Mean cross-entropy of each group of records.
    pub group_loss: Vec<f64>,
    /// The routers' auxiliary loss without its weight, with which `loss` has it; where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aux_loss: Option<f64>,
    /// Global norm of the gradient before it is clipped.
    pub grad_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// How many tokens were run through the model.
    pub tokens: u64,
}

/// Settings of [`run`]; one pass over the records, 16 of them a step, unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SftConfig {
    /// How often the training passes over the data.
    pub epochs: usize,
    /// How many records a step takes.
    pub batch: usize,
    /// The learning rate of every step.
    pub lr: LearningRate,
    /// Seed of the order of the records.
    pub seed: u64,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self { epochs: 1, batch: 16, lr: LearningRate::default(), seed: 0 }
    }
}

setters! {
    impl SftConfig {
        /// How often the training passes over the data.
        epochs: usize;
        /// How many records a step takes.
        batch: usize;
        /// The learning rate of every step.
        lr: LearningRate;
        /// Seed of the order of the records.
        seed: u64;
    }
}

impl Trainer<'_> {
    /// Takes one optimiser step on Σ_g weight_g · (mean cross-entropy over the loss tokens of group g), and on the
    /// routers' auxiliary loss where it counts.
    ///
    /// # Errors
    /// A prompt or completion is empty, or an id is outside the vocabulary; a loss or gradient is not finite (nothing
    /// is updated then).
    pub fn sft_step<'e>(&mut self, groups: &[(&'e [Example], f32)], lr: f32) -> Result<SftStep> {
        let gpu = self.gpu;
        let count = |examples: &[Example]| examples.iter().map(Example::targets).sum::<usize>();
        let targets: Vec<usize> = groups.iter().map(|(e, _)| count(e)).collect();
        let share = |g: usize| if targets[g] == 0 { 0.0 } else { -groups[g].1 / targets[g] as f32 };
        let coef = gpu.vector(&(0..groups.len()).map(share).collect::<Vec<f32>>())?;
        self.zero_gradients()?;
        let most = self.micro_rows();
        // Records with the same prompt draw masks of their own; their number in the step tells them apart.
        let mut seen: HashMap<&[u32], u64> = HashMap::new();
        let mut keyed = |(group, e): (usize, &'e Example)| {
            let number = seen.entry(&e.prompt).or_default();
            *number += 1;
            (group, e, node_key(*number - 1, &e.prompt))
        };
        let each = groups.iter().enumerate().flat_map(|(g, (e, _))| e.iter().map(move |x| (g, x)));
        let all: Vec<(usize, &Example, u64)> = each.map(&mut keyed).collect();
        let rows: Vec<usize> = all.iter().map(|(_, e, _)| e.rows()).collect();
        let mine = self.exchange.own_records(&rows);
        let (mut sums, mut tokens) = (vec![0f64; groups.len()], 0u64);
        let passes = packs(&rows[mine.clone()], most);
        let micro = |pass: &Range<usize>| {
            let records = mine.start + pass.start..mine.start + pass.end;
            self.sft_micro(records.start, &all[records])
        };
        let mut balance = StepBalance::of(self);
        if let Some(balance) = balance.as_mut().filter(|_| passes.len() > 1 || self.exchange.ranks() > 1) {
            for pass in &passes {
                let micro = micro(pass)?.0;
                let mut rec = gpu.record();
                batch::forward(&mut rec, &self.model, &micro, Keep::Nothing)?;
                rec.submit()?;
                balance.add(gpu, &micro)?;
            }
            balance.settle(self.exchange)?;
        }
        for pass in &passes {
            let (micro, wanted) = micro(pass)?;
            let mut rec = gpu.record();
            let tape = batch::forward(&mut rec, &self.model, &micro, Keep::of(self, micro.rows))?;
            if let Some(balance) = &mut balance {
                rec.submit()?;
                balance.prepare(gpu, &micro)?;
                rec = gpu.record();
            }
            let logp = tape.scored.logp.clone();
            batch::backward(&mut rec, self, &micro, tape, &coef)?;
            rec.submit()?;
            let sorted: Vec<f32> = gpu.download(&logp)?;
            for (entry, at) in wanted.entries.iter().zip(&micro.lists.order) {
                sums[entry.2 as usize] += f64::from(sorted[*at as usize]);
            }
            tokens += micro.rows as u64;
        }
        let mut totals = [&sums[..], &[tokens as f64]].concat();
        self.exchange.total(&mut totals)?;
        sums.copy_from_slice(&totals[..groups.len()]);
        tokens = totals[groups.len()] as u64;
        let group_loss: Vec<f64> = sums.iter().zip(&targets).map(|(s, n)| -s / (*n).max(1) as f64).collect();
        let (aux_loss, added) = balance.map(|balance| balance.loss()).unzip();
        let own: f64 = group_loss.iter().zip(groups).map(|(l, (_, w))| l * f64::from(*w)).sum();
        let loss = own + added.unwrap_or(0.0);
        if !loss.is_finite() {
            return Err(Error::NonFinite(format!("step {}: the loss is {loss}; no weight was changed", self.step + 1)));
        }
        let grad_norm = self.update(lr)?;
        Ok(SftStep { step: self.step, loss, group_loss, aux_loss, grad_norm, learning_rate: f64::from(lr), tokens })
    }

    /// The micro-batch of some records of a step, each with its group and the key of its masks; `first` is the number
    /// of the first one.
    fn sft_micro(&self, first: usize, records: &[(usize, &Example, u64)]) -> Result<(Batch, Wanted)> {
        let (mut forest, mut wanted, mut nodes) = (Forest::new(), Wanted::default(), Vec::new());
        for (at, (group, e, record)) in records.iter().copied().enumerate() {
            let at = first + at;
            if e.prompt.is_empty() || e.completion.is_empty() {
                let what = format!("record {at}: an empty prompt or completion cannot be trained on");
                return Err(Error::Input(what));
            }
            self.model.check_tokens(&format!("record {at}"), &[&e.prompt[..], &e.completion].concat())?;
            forest.open(&e.prompt);
            nodes.resize(forest.len(), record);
            let node = forest.leaf(&e.completion);
            nodes.resize(forest.len(), node_key(record, &e.completion));
            forest.close();
            let learnt = |i: usize| !e.context.iter().any(|part| part.contains(&i));
            let entries = predicted(&node, &e.completion, group as u32).into_iter().enumerate();
            wanted.entries.extend(entries.filter(|(i, _)| learnt(*i)).map(|(_, entry)| entry));
        }
        let mut micro = Batch::new(self.gpu, &self.model, &forest, &wanted, self.masks(&forest, &nodes)?)?;
        if self.balances() {
            // Each record is a sequence of its own.
            micro = micro.counting(self.gpu, &self.model.arch, &vec![1.0; forest.len()])?;
        }
        Ok((micro, wanted))
    }
}

/// Trains on `data` from step `trainer.step` on, so that a loaded state continues where it stopped. The order is drawn
/// by seed and epoch. `on_step` runs after each update and may save.
///
/// # Errors
/// As [`Trainer::sft_step`]; `Stopped` when the observer asks for it.
pub fn run(
    trainer: &mut Trainer,
    data: &[Example],
    config: &SftConfig,
    observer: &dyn Observer,
    on_step: &mut dyn FnMut(&Trainer, &SftStep) -> Result<()>,
) -> Result<()> {
    let go_on = &mut |trainer: &Trainer, step: &SftStep| on_step(trainer, step).map(ControlFlow::Continue);
    run_until(trainer, data, config, observer, go_on).map(|_| ())
}

/// Does what [`run`] does, until `on_step` breaks off.
pub(super) fn run_until(
    trainer: &mut Trainer,
    data: &[Example],
    config: &SftConfig,
    observer: &dyn Observer,
    on_step: &mut dyn FnMut(&Trainer, &SftStep) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let per_epoch = data.len().div_ceil(config.batch.max(1));
    let steps = per_epoch * config.epochs;
    while (trainer.step as usize) < steps {
        if trainer.exchange.any(observer.stop_requested())? {
            return Err(Error::Stopped);
        }
        let at = trainer.step as usize;
        let batch: Vec<Example> = order(data.len(), config.seed, at / per_epoch)
            .into_iter()
            .skip(at % per_epoch * config.batch)
            .take(config.batch)
            .map(|i| data[i].clone())
            .collect();
        let step = trainer.sft_step(&[(&batch, 1.0)], config.lr.at(at, steps))?;
        observer.advance(1);
        if on_step(trainer, &step)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The order of `n` records in an epoch, even if the epoch is a single batch.
pub(super) fn order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    Stream::new(seed, 0x0DE7 + epoch as u64).shuffle(&mut all);
    all
}
