//! Direct preference optimisation (arXiv 2305.18290) with the prompt shared between chosen and rejected.

use super::batch::{self, Batch};
use super::{Trainer, losses, sft};
use crate::gpu::Tensor;
use crate::kernels::preference_loss::{self, Lists, Pairs, Term};
use crate::layout::Forest;
use crate::model::head::Wanted;
use crate::model::score::predicted;
use crate::{Error, Observer, Result};
use std::collections::HashMap;

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
/// trainer's model as it stands at step 0, run through the same micro-batches, so that every reward of the first step is
/// exactly 0, which is asserted; or it is `reference_logps` (one per pair): those of another model, or those of a first
/// call, with which a resumed training skips that pass. The logps used are handed to `on_reference` before the first
/// step, so that they can be kept.
///
/// # Errors
/// Empty fields, ids outside the vocabulary, an unknown loss; a non-finite loss or gradient (nothing is updated);
/// `Stopped` when the observer asks for it.
pub fn run(
    trainer: &mut Trainer,
    pairs: &[Pair],
    config: &DpoConfig,
    reference_logps: Option<&[PairLogps]>,
    observer: &dyn Observer,
    on_reference: &mut dyn FnMut(&[PairLogps]) -> Result<()>,
    on_step: &mut dyn FnMut(&Trainer, &DpoStep) -> Result<()>,
) -> Result<()> {
    let plan = Plan::new(trainer, pairs, config)?;
    let per_epoch = pairs.len().div_ceil(config.batch.max(1));
    let steps = per_epoch * config.epochs;
    let mut own_reference = false;
    let reference = match reference_logps {
        Some(given) if given.len() == pairs.len() => given.to_vec(),
        Some(given) => {
            return Err(Error::Input(format!("{} reference log-probs for {} pairs", given.len(), pairs.len())));
        }
        None if trainer.step > 0 => {
            return Err(Error::Input("a training that goes on needs the reference log-probs of its start".into()));
        }
        None => {
            own_reference = true;
            plan.reference(trainer, per_epoch, observer)?
        }
    };
    on_reference(&reference)?;
    while (trainer.step as usize) < steps {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let at = trainer.step as usize;
        let asserted = own_reference && at == 0;
        let step = plan.step(trainer, &reference, at, per_epoch, config.lr.at(at, steps), asserted)?;
        observer.advance(1);
        on_step(trainer, &step)?;
    }
    Ok(())
}

/// The data, its terms and its cuts.
struct Plan<'p> {
    pairs: &'p [Pair],
    config: &'p DpoConfig,
    terms: Vec<Term>,
    /// Rows of a micro-batch.
    most: usize,
}

/// One micro-batch on the GPU: prompts shared by the answers of neighbouring pairs, each distinct answer once.
struct Micro {
    batch: Batch,
    /// Entries of each sequence.
    entries: Lists,
    /// (chosen, rejected) sequence of each pair.
    side: Vec<[u32; 2]>,
    uses: Vec<Vec<u32>>,
}

/// What a micro-batch gave.
struct Outcome {
    logps: Vec<f32>,
    result: Vec<f32>,
}

impl<'p> Plan<'p> {
    fn new(trainer: &Trainer, pairs: &'p [Pair], config: &'p DpoConfig) -> Result<Plan<'p>> {
        if pairs.is_empty() {
            return Err(Error::Input("no pairs to train on".into()));
        }
        for (i, p) in pairs.iter().enumerate() {
            if p.prompt.is_empty() || p.chosen.is_empty() || p.rejected.is_empty() {
                return Err(Error::Input(format!("pair {i}: prompt, chosen and rejected must not be empty")));
            }
            for answer in [&p.chosen, &p.rejected] {
                trainer.model.check_tokens(&format!("pair {i}"), &[&p.prompt[..], answer].concat())?;
            }
        }
        let term = |(i, (name, weight)): (usize, &(String, f32))| {
            Ok(Term {
                loss: losses::index(name)?,
                beta: config.beta,
                smoothing: config.label_smoothing,
                weight: *weight,
                // Once, with the first term.
                nll: if i == 0 { config.nll } else { 0.0 },
            })
        };
        let terms: Vec<Term> = config.losses.iter().enumerate().map(term).collect::<Result<_>>()?;
        if terms.is_empty() {
            return Err(Error::Input("no loss is given".into()));
        }
        Ok(Plan { pairs, config, terms, most: batch::most_rows(trainer.gpu, &trainer.model) })
    }

    /// Pair numbers of each micro-batch of step `at`.
    fn cut(&self, at: usize, per_epoch: usize) -> Vec<Vec<usize>> {
        let order = sft::order(self.pairs.len(), self.config.seed, at / per_epoch);
        let here = order.into_iter().skip(at % per_epoch * self.config.batch).take(self.config.batch);
        let (mut cuts, mut rows) = (vec![Vec::new()], 0);
        for i in here {
            let p = &self.pairs[i];
            let size = p.prompt.len() + p.chosen.len() + p.rejected.len();
            let last = cuts.len() - 1;
            if rows + size > self.most && !cuts[last].is_empty() {
                cuts.push(Vec::new());
                rows = 0;
            }
            rows += size;
            let last = cuts.len() - 1;
            cuts[last].push(i);
        }
        cuts
    }

    fn micro(&self, trainer: &Trainer, numbers: &[usize]) -> Result<Micro> {
        // Pairs of one prompt stand together; each distinct answer of it is one leaf.
        let mut prompts: Vec<(&[u32], Vec<usize>)> = Vec::new();
        let mut known: HashMap<&[u32], usize> = HashMap::new();
        for (at, i) in numbers.iter().enumerate() {
            let prompt = &self.pairs[*i].prompt[..];
            let place = *known.entry(prompt).or_insert_with(|| {
                prompts.push((prompt, Vec::new()));
                prompts.len() - 1
            });
            prompts[place].1.push(at);
        }
        let (mut forest, mut wanted) = (Forest::new(), Wanted::default());
        let mut side = vec![[0u32; 2]; numbers.len()];
        let (mut uses, mut spans): (Vec<Vec<u32>>, Vec<std::ops::Range<usize>>) = (Vec::new(), Vec::new());
        for (prompt, members) in &prompts {
            let mut leaves: HashMap<&[u32], u32> = HashMap::new();
            forest.open(prompt);
            for at in members {
                let p = &self.pairs[numbers[*at]];
                for (k, answer) in [&p.chosen, &p.rejected].into_iter().enumerate() {
                    let sequence = *leaves.entry(answer).or_insert_with(|| {
                        let node = forest.leaf(answer);
                        let first = wanted.entries.len();
                        wanted.entries.extend(predicted(&node, answer, uses.len() as u32));
                        spans.push(first..wanted.entries.len());
                        uses.push(Vec::new());
                        uses.len() as u32 - 1
                    });
                    side[*at][k] = sequence;
                    uses[sequence as usize].push((2 * at + k) as u32);
                }
            }
            forest.close();
        }
        let batch = Batch::new(trainer.gpu, &trainer.model, &forest, &wanted)?;
        let entries: Vec<Vec<u32>> = spans.into_iter().map(|s| s.map(|e| batch.lists.order[e]).collect()).collect();
        Ok(Micro { entries: Lists::new(trainer.gpu, &entries)?, batch, side, uses })
    }

    /// Summed log-probs of every pair, through the micro-batches of the first epoch.
    fn reference(&self, trainer: &Trainer, per_epoch: usize, observer: &dyn Observer) -> Result<Vec<PairLogps>> {
        let mut all = vec![PairLogps { chosen: 0.0, rejected: 0.0 }; self.pairs.len()];
        for at in 0..per_epoch {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            for numbers in self.cut(at, per_epoch) {
                let micro = self.micro(trainer, &numbers)?;
                let mut rec = trainer.gpu.record();
                let tape = batch::forward(&mut rec, &trainer.model, &micro.batch, false)?;
                let logp = trainer.gpu.empty(1, micro.uses.len())?;
                preference_loss::sequence_sum(&mut rec, &tape.scored.logp, &micro.entries, &logp)?;
                rec.submit()?;
                let sums: Vec<f32> = trainer.gpu.download(&logp)?;
                for (i, s) in numbers.iter().zip(&micro.side) {
                    all[*i] = PairLogps { chosen: sums[s[0] as usize], rejected: sums[s[1] as usize] };
                }
            }
        }
        Ok(all)
    }

    fn step(
        &self,
        trainer: &mut Trainer,
        reference: &[PairLogps],
        at: usize,
        per_epoch: usize,
        lr: f32,
        asserted: bool,
    ) -> Result<DpoStep> {
        trainer.zero_gradients()?;
        let cuts = self.cut(at, per_epoch);
        let n = cuts.iter().map(Vec::len).sum::<usize>() as f64;
        let mut step = DpoStep {
            step: trainer.step + 1,
            loss: 0.0,
            rewards_chosen: 0.0,
            rewards_rejected: 0.0,
            rewards_accuracies: 0.0,
            rewards_margins: 0.0,
            logps_chosen: 0.0,
            logps_rejected: 0.0,
            grad_norm: 0.0,
            learning_rate: f64::from(lr),
            tokens: 0,
        };
        for numbers in cuts {
            let micro = self.micro(trainer, &numbers)?;
            let out = self.forward_backward(trainer, &micro, &numbers, reference, 1.0 / n as f32)?;
            step.tokens += micro.batch.rows as u64;
            for (k, (i, s)) in numbers.iter().zip(&micro.side).enumerate() {
                let [chosen, rejected] = s.map(|s| out.logps[s as usize]);
                let r = reference[*i];
                if asserted && (chosen.to_bits(), rejected.to_bits()) != (r.chosen.to_bits(), r.rejected.to_bits()) {
                    return Err(Error::Device(format!(
                        "pair {i}: before any update the policy's log-probs ({chosen}, {rejected}) differ from the \
                         reference's ({}, {}), which ran through the same kernels; the device is not deterministic",
                        r.chosen, r.rejected
                    )));
                }
                let beta = f64::from(self.config.beta);
                let reward = |p: f32, r: f32| beta * (f64::from(p) - f64::from(r));
                let (c, j) = (reward(chosen, r.chosen), reward(rejected, r.rejected));
                step.loss += f64::from(out.result[4 * k]) / n;
                step.rewards_chosen += c / n;
                step.rewards_rejected += j / n;
                step.rewards_margins += (c - j) / n;
                step.rewards_accuracies += f64::from(u8::from(c > j)) / n;
                step.logps_chosen += f64::from(chosen) / n;
                step.logps_rejected += f64::from(rejected) / n;
            }
        }
        if !step.loss.is_finite() {
            return Err(Error::NonFinite(format!(
                "step {}: the loss is {}; no weight was changed",
                step.step, step.loss
            )));
        }
        step.grad_norm = trainer.update(lr)?;
        Ok(step)
    }

    fn forward_backward(
        &self,
        trainer: &Trainer,
        micro: &Micro,
        numbers: &[usize],
        reference: &[PairLogps],
        scale: f32,
    ) -> Result<Outcome> {
        let gpu = trainer.gpu;
        let both = |f: &dyn Fn(usize) -> [f32; 2]| -> Result<Tensor> {
            gpu.vector(&numbers.iter().flat_map(|i| f(*i)).collect::<Vec<f32>>())
        };
        let pairs = Pairs {
            reference: both(&|i| [reference[i].chosen, reference[i].rejected])?,
            side: gpu.vector(&micro.side.concat())?,
            tokens: both(&|i| [self.pairs[i].chosen.len() as f32, self.pairs[i].rejected.len() as f32])?,
            uses: Lists::new(gpu, &micro.uses)?,
        };
        let mut rec = gpu.record();
        let tape = batch::forward(&mut rec, &trainer.model, &micro.batch, true)?;
        let (logp, coef) = (gpu.empty(1, micro.uses.len())?, gpu.empty(1, micro.uses.len())?);
        let result = gpu.empty(numbers.len(), 4)?;
        preference_loss::sequence_sum(&mut rec, &tape.scored.logp, &micro.entries, &logp)?;
        for (i, term) in self.terms.iter().enumerate() {
            preference_loss::forward(&mut rec, &logp, &pairs, term, i > 0, &result)?;
        }
        preference_loss::coefficients(&mut rec, &result, &pairs, scale, &coef)?;
        batch::backward(&mut rec, trainer, &micro.batch, tape, &coef)?;
        rec.submit()?;
        let mut read = gpu.download_all::<f32>(&[&logp, &result])?;
        let result = read.pop().unwrap_or_default();
        Ok(Outcome { logps: read.pop().unwrap_or_default(), result })
    }
}
