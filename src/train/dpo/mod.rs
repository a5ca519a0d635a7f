//! Preference training: DPO (arXiv 2305.18290) and the other losses of the list, where an answer and its rival share
//! their prompt. The forward pass gives each token's log-prob, the host computes the objective from their sums in f64,
//! and in the backward pass each token's log-prob gets its coefficient.

mod micro;

use super::balance::StepBalance;
use super::batch;
use super::exchange::Exchange;
use super::losses::Loss;
use super::objective::{Objective, Seen, Slope};
pub use super::pair::{Labelled, Pair, PairLogps, unpaired};
use super::{LearningRate, Trainer, sft};
use crate::layout::packs;
use crate::settings::setters;
use crate::{Error, Observer, Result, Silent};
use micro::{Micro, Shape, Tokens};
use std::ops::{ControlFlow, Range};

/// Settings of a [`Training`]; one pass over the records, 16 of them a step, unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DpoConfig {
    /// The objective that is minimised.
    pub objective: Objective,
    /// How often the training passes over all pairs.
    pub epochs: usize,
    /// How many pairs a step takes.
    pub batch: usize,
    /// The learning rate of every step.
    pub lr: LearningRate,
    /// Seed of the order of the pairs.
    pub seed: u64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { objective: Objective::default(), epochs: 1, batch: 16, lr: LearningRate::default(), seed: 0 }
    }
}

setters! {
    impl DpoConfig {
        /// The objective that is minimised.
        objective: Objective;
        /// How often the training passes over all pairs.
        epochs: usize;
        /// How many pairs a step takes.
        batch: usize;
        /// The learning rate of every step.
        lr: LearningRate;
        /// Seed of the order of the pairs.
        seed: u64;
    }
}

/// The numbers of one step, under TRL's names.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct DpoStep {
    /// Number of the step, from 1.
    pub step: u64,
    /// The objective before the step's update.
    pub loss: f64,
    /// Mean of β (log π − log ref) over the chosen answers; of β log π if no loss needs a reference. Of single answers,
    /// the desirable ones count as chosen and the others as rejected.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// Mean of β (log π − log ref) over the rejected answers; of β log π if no loss needs a reference.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// Fraction of the pairs whose chosen reward is the larger one; of single answers, those whose reward has their
    /// label's sign.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// Mean over the pairs of the chosen reward less the rejected one.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: f64,
    /// Mean over the chosen answers of their log-probs' sum.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// Mean over the rejected answers of their log-probs' sum.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
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

/// A training on pairs: what it is given and whom it tells.
pub struct Training<'a> {
    pairs: &'a [Pair],
    config: &'a DpoConfig,
    reference: Option<&'a [PairLogps]>,
    observer: &'a dyn Observer,
    on_reference: Option<OnReference<'a>>,
    on_step: Option<OnStep<'a>>,
}

type OnReference<'a> = &'a mut (dyn FnMut(&[PairLogps]) -> Result<()> + 'a);
type OnStep<'a> = &'a mut (dyn FnMut(&Trainer, &DpoStep) -> Result<()> + 'a);

impl<'a> Training<'a> {
    /// A training on `pairs`, whose reference is the model as it stands before the first step.
    pub fn new(pairs: &'a [Pair], config: &'a DpoConfig) -> Self {
        Self { pairs, config, reference: None, observer: &Silent, on_reference: None, on_step: None }
    }

    /// Takes the log-probs of each pair under the reference, where they are known: those of another model, or those of
    /// a first training, with which a resumed one skips their computation.
    #[must_use]
    pub fn reference(self, reference: Option<&'a [PairLogps]>) -> Self {
        Self { reference, ..self }
    }

    /// Takes an observer, which is told of progress and may ask to stop.
    #[must_use]
    pub fn observer(self, observer: &'a dyn Observer) -> Self {
        Self { observer, ..self }
    }

    /// Takes what is handed the reference's log-probs before the first step, so that they can be kept.
    #[must_use]
    pub fn on_reference(self, keep: &'a mut (dyn FnMut(&[PairLogps]) -> Result<()> + 'a)) -> Self {
        Self { on_reference: Some(keep), ..self }
    }

    /// Takes what is called after each update, and may save.
    #[must_use]
    pub fn on_step(self, each: &'a mut (dyn FnMut(&Trainer, &DpoStep) -> Result<()> + 'a)) -> Self {
        Self { on_step: Some(each), ..self }
    }

    /// Trains from the trainer's step on. The order and the micro-batches are fixed first; the reference is the
    /// trainer's model as it stands at step 0, run through the same micro-batches without dropout, so that every reward
    /// of the first step is exactly 0, which is asserted (where the step itself drops, of the first micro-batch run
    /// without); or it is what [`Training::reference`] gave. Where no loss needs a reference there is none: zeros. With
    /// several ranks ([`Trainer::set_exchange`]) each runs its share of every step's pairs; what the callbacks are told
    /// is that of all of them.
    ///
    /// # Errors
    /// Empty fields, ids outside the vocabulary, options that [`Objective::rows`] refuses; a non-finite loss or
    /// gradient (nothing is updated); `Stopped` when the observer asks for it.
    pub fn run(mut self, trainer: &mut Trainer) -> Result<()> {
        let mut on_step = self.on_step.take();
        let go_on = &mut |trainer: &Trainer, step: &DpoStep| {
            on_step.as_mut().map_or(Ok(()), |each| each(trainer, step)).map(ControlFlow::Continue)
        };
        self.run_until(trainer, go_on).map(|_| ())
    }

    /// Does what [`Training::run`] does, until `on_step` breaks off.
    pub(super) fn run_until(
        self,
        trainer: &mut Trainer,
        on_step: &mut dyn FnMut(&Trainer, &DpoStep) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let Training { pairs, config, reference: reference_logps, observer, on_reference, .. } = self;
        let course = Course::new(trainer, pairs, config)?;
        let drops = trainer.drops()? != [0.0; 2];
        let per_epoch = pairs.len().div_ceil(config.batch.max(1));
        let steps = per_epoch * config.epochs;
        let mut own_reference = false;
        let reference = match reference_logps {
            Some(given) if given.len() == pairs.len() => given.to_vec(),
            Some(given) => {
                return Err(Error::Input(format!("{} reference log-probs for {} pairs", given.len(), pairs.len())));
            }
            None if !course.needs_reference() => vec![PairLogps::default(); pairs.len()],
            None if trainer.step > 0 => {
                return Err(Error::Input("a training that goes on needs the reference log-probs of its start".into()));
            }
            None => {
                own_reference = true;
                course.reference(trainer, per_epoch, observer)?
            }
        };
        if let Some(keep) = on_reference {
            keep(&reference)?;
        }
        if own_reference && drops {
            course.check_undropped(trainer, &reference, per_epoch)?;
            observer.note(
                "dropout is on, so the rewards of the first step are not 0; without it the first micro-batch gave the \
                 reference's log-probs bit for bit",
            );
        }
        while (trainer.step as usize) < steps {
            if course.exchange.any(observer.stop_requested())? {
                return Err(Error::Stopped);
            }
            let at = trainer.step as usize;
            let asserted = own_reference && at == 0 && !drops;
            let step = course.step(trainer, &reference, at, per_epoch, config.lr.at(at, steps), asserted)?;
            observer.advance(1);
            if on_step(trainer, &step)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What a training is made of: the data, its losses and how it is cut.
struct Course<'p> {
    pairs: &'p [Pair],
    config: &'p DpoConfig,
    rows: Vec<&'static Loss>,
    /// Most rows of a micro-batch.
    most: usize,
    share_prompts: bool,
    exchange: &'p dyn Exchange,
}

/// The numbers of tokens over which the means of a step are taken.
struct Totals {
    pairs: f64,
    chosen: f64,
    /// How many tokens prompts, without their first tokens, and chosen answers have.
    whole: f64,
}

impl<'p> Course<'p> {
    fn new(trainer: &Trainer<'p>, pairs: &'p [Pair], config: &'p DpoConfig) -> Result<Course<'p>> {
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
        let rows = config.objective.rows()?;
        for (i, p) in pairs.iter().enumerate().filter(|(_, p)| p.soft()) {
            if !(p.weight >= 0.0 && p.weight.is_finite() && (0.0..=1.0).contains(&p.flip)) {
                let what = format!("weight {} and flip {}; expected at least 0, and 0 to 1", p.weight, p.flip);
                return Err(Error::Input(format!("pair {i}: {what}")));
            }
            if let Some(loss) = rows.iter().find(|l| !l.takes_pairs_apart()) {
                let what = format!("the loss '{}' does not take its pairs one by one", loss.name);
                return Err(Error::Input(format!("pair {i} has a weight or a soft label: {what}")));
            }
        }
        let (most, share_prompts) = (trainer.micro_rows(), trainer.share_prompts);
        Ok(Course { pairs, config, rows, most, share_prompts, exchange: trainer.exchange })
    }

    fn needs_reference(&self) -> bool {
        self.rows.iter().any(|l| l.family.reads_reference())
    }

    /// Whether the losses are on single answers.
    fn unpaired(&self) -> bool {
        self.rows.iter().any(|l| l.family.unpaired())
    }

    /// Whether the pairs of a step depend on one another.
    fn coupled(&self) -> bool {
        self.rows.iter().any(|l| l.couples())
    }

    /// The numbers of the pairs in step `at`.
    fn numbers(&self, at: usize, per_epoch: usize) -> Vec<usize> {
        let order = sft::order(self.pairs.len(), self.config.seed, at / per_epoch);
        order.into_iter().skip(at % per_epoch * self.config.batch).take(self.config.batch).collect()
    }

    /// The places in a step's `numbers` that belong to this rank, and the pair numbers of each of the rank's
    /// micro-batches.
    fn cut(&self, numbers: &[usize]) -> (Range<usize>, Vec<Vec<usize>>) {
        // If prompts are not shared, each answer has a prompt of its own.
        let size = |i: &usize| {
            let p = &self.pairs[*i];
            p.rows() + if self.share_prompts { 0 } else { p.prompt.len() }
        };
        let sizes: Vec<usize> = numbers.iter().map(size).collect();
        let mine = self.exchange.own_records(&sizes);
        let passes = packs(&sizes[mine.clone()], self.most);
        (mine.clone(), passes.into_iter().map(|pass| numbers[mine.clone()][pass].to_vec()).collect())
    }

    /// The micro-batch of some pairs, which `trains` if it is of the step that begins.
    fn micro(&self, trainer: &Trainer, numbers: &[usize], trains: bool) -> Result<Micro> {
        let pairs: Vec<&Pair> = numbers.iter().map(|i| &self.pairs[*i]).collect();
        let with_prompt = self.rows.iter().any(|l| l.needs.prompt);
        let shape = Shape { with_prompt, share_prompts: self.share_prompts, trains, unpaired: self.unpaired() };
        Micro::new(trainer, &pairs, shape)
    }

    /// The summed log-probs of every pair under the reference. They run through the micro-batches of the first epoch,
    /// on the rank that will train on them.
    fn reference(&self, trainer: &Trainer, per_epoch: usize, observer: &dyn Observer) -> Result<Vec<PairLogps>> {
        let mut all = vec![PairLogps::default(); self.pairs.len()];
        observer.begin("reference", Some(self.pairs.len() as u64), "pairs");
        for at in 0..per_epoch {
            if self.exchange.any(observer.stop_requested())? {
                return Err(Error::Stopped);
            }
            let (step, mut here) = (self.numbers(at, per_epoch), Vec::new());
            for numbers in self.cut(&step).1 {
                let micro = self.micro(trainer, &numbers, false)?;
                let (_, tokens) = micro.forward(trainer, false)?;
                here.extend(micro.side.iter().flat_map(|side| tokens.pair(side).bits().map(f64::from)));
            }
            // f64 holds 32 bits exactly.
            let bits: Vec<u32> = self.exchange.gather(&here)?.into_iter().map(|x| x as u32).collect();
            for (i, bits) in step.iter().zip(bits.as_chunks().0) {
                all[*i] = PairLogps::from_bits(*bits);
            }
            observer.advance(step.len() as u64);
        }
        observer.end();
        Ok(all)
    }

    /// Checks that the first micro-batch, with nothing dropped, gives the bits of the reference.
    fn check_undropped(&self, trainer: &Trainer, reference: &[PairLogps], per_epoch: usize) -> Result<()> {
        let Some(numbers) = self.cut(&self.numbers(0, per_epoch)).1.into_iter().next() else { return Ok(()) };
        let micro = self.micro(trainer, &numbers, false)?;
        let (_, tokens) = micro.forward(trainer, false)?;
        micro.assert_equal(&tokens, &numbers, reference)
    }

    fn totals(&self, numbers: impl Iterator<Item = usize>) -> Totals {
        numbers.fold(Totals { pairs: 0.0, chosen: 0.0, whole: 0.0 }, |t, i| {
            let p = &self.pairs[i];
            let chosen = p.chosen.len() as f64;
            let whole = t.whole + chosen + (p.prompt.len() - 1) as f64;
            Totals { pairs: t.pairs + 1.0, chosen: t.chosen + chosen, whole }
        })
    }

    /// What the losses see of a micro-batch's pairs.
    fn seen(&self, micro: &Micro, tokens: &Tokens, numbers: &[usize], refs: &[PairLogps], all: &Totals) -> Vec<Seen> {
        let o = &self.config.objective;
        let of = |(k, i): (usize, &usize)| {
            let side = &micro.side[k];
            let logps = tokens.pair(side);
            let prompt_sum = tokens.logp[micro.prompt[k].clone()].iter().map(|x| f64::from(*x)).sum();
            let weight = if o.wpo { tokens.aligned(&side[0]) * tokens.aligned(&side[1]) } else { 1.0 };
            let [chosen, rejected] = logps.weighted(o.ld_alpha);
            self.seen_pair(*i, [chosen, rejected, logps.chosen.into(), prompt_sum, weight], refs, all)
        };
        numbers.iter().enumerate().map(of).collect()
    }

    /// What the losses see of pair `i`. `given` holds what the forward pass gave: the weighted log-probs of both
    /// answers, the plain one of the chosen answer, that of the prompt, and WPO's weight.
    fn seen_pair(&self, i: usize, given: [f64; 5], refs: &[PairLogps], all: &Totals) -> Seen {
        let ([chosen, rejected, chosen_sum, prompt_sum, weight], p) = (given, &self.pairs[i]);
        Seen {
            policy: [chosen, rejected],
            reference: refs[i].weighted(self.config.objective.ld_alpha),
            nc: p.chosen.len() as f64,
            nr: p.rejected.len() as f64,
            chosen_sum,
            prompt_sum,
            chosen_share: all.pairs / all.chosen,
            whole_share: all.pairs / all.whole,
            weight,
            desirable: p.desirable,
            pair_weight: p.weight.into(),
            flip: p.flip.into(),
            ..Seen::default()
        }
    }

    /// What the losses see of all pairs of a step, gathered from what they see on each rank.
    fn gather(&self, numbers: &[usize], here: Vec<Seen>, refs: &[PairLogps], all: &Totals) -> Result<Vec<Seen>> {
        if self.exchange.ranks() == 1 {
            return Ok(here);
        }
        let of = |s: &Seen| [s.policy[0], s.policy[1], s.chosen_sum, s.prompt_sum, s.weight];
        let given = self.exchange.gather(&here.iter().flat_map(of).collect::<Vec<f64>>())?;
        Ok(numbers.iter().zip(given.as_chunks().0).map(|(i, given)| self.seen_pair(*i, *given, refs, all)).collect())
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
        let step = self.numbers(at, per_epoch);
        let (share, cuts) = self.cut(&step);
        let totals = self.totals(step.iter().copied());
        let (mut known, mut balance) = (None, StepBalance::of(trainer));
        // What the whole step is needed for.
        if (self.coupled() || balance.is_some()) && (cuts.len() > 1 || self.exchange.ranks() > 1) {
            let mut seen = Vec::new();
            for numbers in &cuts {
                let micro = self.micro(trainer, numbers, true)?;
                let (_, tokens) = micro.forward(trainer, false)?;
                seen.extend(self.seen(&micro, &tokens, numbers, reference, &totals));
                balance.as_mut().map_or(Ok(()), |balance| balance.add(trainer.gpu, &micro.batch))?;
            }
            balance.as_mut().map_or(Ok(()), |balance| balance.settle(self.exchange))?;
            if self.coupled() {
                let mut seen = self.gather(&step, seen, reference, &totals)?;
                let slopes = self.config.objective.evaluate_rows(&self.rows, &mut seen);
                known = Some(slopes.into_iter().skip(share.start));
            }
        }
        let (mut seen, mut loss, mut logps, mut rows) = (Vec::new(), 0.0, [0.0; 2], 0.0);
        for numbers in cuts {
            let micro = self.micro(trainer, &numbers, true)?;
            let (tape, tokens) = micro.forward(trainer, true)?;
            if asserted {
                micro.assert_equal(&tokens, &numbers, reference)?;
            }
            let mut here = self.seen(&micro, &tokens, &numbers, reference, &totals);
            let slopes: Vec<Slope> = match &mut known {
                Some(known) => known.take(numbers.len()).collect(),
                None => self.config.objective.evaluate_rows(&self.rows, &mut here),
            };
            loss += slopes.iter().map(|s| s.loss).sum::<f64>() / totals.pairs;
            for side in &micro.side {
                let pair = tokens.pair(side);
                logps[0] += f64::from(pair.chosen) / totals.pairs;
                logps[1] += f64::from(pair.rejected) / totals.pairs;
            }
            if !loss.is_finite() {
                return Err(Error::NonFinite(format!(
                    "step {}: the loss is {loss}; no weight was changed",
                    trainer.step + 1
                )));
            }
            balance.as_mut().map_or(Ok(()), |balance| balance.prepare(trainer.gpu, &micro.batch))?;
            let coef =
                trainer.gpu.vector(&micro.coefficients(&slopes, self.config.objective.ld_alpha, 1.0 / totals.pairs))?;
            let mut rec = trainer.gpu.record();
            batch::backward(&mut rec, trainer, &micro.batch, tape, &coef)?;
            rec.submit()?;
            rows += micro.batch.rows as f64;
            seen.extend(here);
        }
        let mut sums = [loss, logps[0], logps[1], rows];
        self.exchange.total(&mut sums)?;
        let [loss, logps_chosen, logps_rejected, rows] = sums;
        let (aux_loss, added) = balance.map(|balance| balance.loss()).unzip();
        let [chosen, rejected, accuracies] = self.rewards(&self.gather(&step, seen, reference, &totals)?);
        let grad_norm = trainer.update(lr)?;
        Ok(DpoStep {
            step: trainer.step,
            loss: loss + added.unwrap_or(0.0),
            rewards_chosen: chosen,
            rewards_rejected: rejected,
            rewards_accuracies: accuracies,
            rewards_margins: chosen - rejected,
            logps_chosen,
            logps_rejected,
            aux_loss,
            grad_norm,
            learning_rate: f64::from(lr),
            tokens: rows as u64,
        })
    }

    /// Mean reward of the chosen and of the rejected answers, and the fraction of pairs that is ordered right.
    fn rewards(&self, seen: &[Seen]) -> [f64; 3] {
        let beta = f64::from(self.config.objective.beta);
        let reward = |s: &Seen, side: usize| beta * (s.policy[side] - s.reference[side]);
        let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len().max(1) as f64;
        let each = |f: &dyn Fn(&Seen) -> f64| mean(seen.iter().map(f).collect());
        if self.unpaired() {
            let of = |label: bool| mean(seen.iter().filter(|s| s.desirable == label).map(|s| reward(s, 0)).collect());
            return [of(true), of(false), each(&|s| f64::from(u8::from((reward(s, 0) > 0.0) == s.desirable)))];
        }
        [each(&|s| reward(s, 0)), each(&|s| reward(s, 1)), each(&|s| f64::from(u8::from(reward(s, 0) > reward(s, 1))))]
    }
}
