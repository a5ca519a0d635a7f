//! A training on any records, with checkpoints, so that it continues where it was interrupted.

use super::checkpoints::{Checkpoints, StepLog};
use super::dpo::DpoConfig;
use super::exchange::Exchange;
use super::fit::Fit;
use super::objective::Objective;
use super::settings::{Optimiser, TrainSettings, WeightType};
use super::sft::SftConfig;
use super::{Dropout, Trainer, dpo, sft};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::rng::fnv;
use crate::{Error, Observer, Result};
use std::ops::ControlFlow;
use std::path::Path;

/// The records on which a model is trained.
pub enum Data<'a> {
    /// Preferences between two answers.
    Pairs {
        /// The pairs, one record each.
        pairs: &'a [dpo::Pair],
        /// The objective that is minimised.
        objective: &'a Objective,
        /// Log-probs of the pairs under another reference than the model itself, one for each pair.
        reference: Option<Vec<dpo::PairLogps>>,
    },
    /// Answers to be learnt.
    Examples(&'a [sft::Example]),
}

impl Data<'_> {
    /// How many records there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs { pairs, .. } => pairs.len(),
            Self::Examples(examples) => examples.len(),
        }
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash that differs for other records or settings.
    fn digest(&self, settings: &TrainSettings) -> u32 {
        let text = match self {
            Self::Pairs { pairs, objective, reference } => {
                format!("{settings:?} {objective:?} {pairs:?} {}", reference.is_some())
            }
            Self::Examples(examples) => format!("{settings:?} {examples:?}"),
        };
        fnv(text.as_bytes()) as u32
    }
}

/// A training and its surroundings.
pub struct Job<'a> {
    /// The settings of the training.
    pub settings: &'a TrainSettings,
    /// Folder of `steps.jsonl` and, until the end, of `train/` with the checkpoints.
    pub dir: &'a Path,
    /// Observer that is told what goes on.
    pub observer: &'a dyn Observer,
    /// The processes that train together. The first one alone writes into `dir`, which all of them must see.
    pub exchange: &'a dyn Exchange,
}

impl TrainSettings {
    /// A trainer of `model` with the settings of this job.
    pub(super) fn trainer<'t>(&self, gpu: &'t Gpu, model: Model) -> Result<Trainer<'t>> {
        let model = match self.weights {
            WeightType::F32 => model,
            WeightType::Bf16 => model.rounded(gpu)?,
        };
        let optimiser = Optimiser { seed: self.seed, ..self.optimiser.clone() };
        let mut trainer = Trainer::new(gpu, model, optimiser)?;
        trainer.micro_rows = self.micro_rows;
        if let Some(half) = self.half {
            trainer.read_half(half)?;
        }
        trainer.dropout = Dropout { rate: self.dropout, seed: self.seed };
        Ok(trainer)
    }

    /// The settings with which pairs are passed over.
    pub fn dpo(&self, objective: &Objective) -> DpoConfig {
        let (objective, lr) = (objective.clone(), self.lr.clone());
        DpoConfig { objective, epochs: self.epochs, batch: self.batch, lr, seed: self.seed }
    }

    /// The settings with which answers are passed over.
    pub fn sft(&self) -> SftConfig {
        SftConfig { epochs: self.epochs, batch: self.batch, lr: self.lr.clone(), seed: self.seed }
    }
}

/// Looks at a model while it is trained, and may end the training early.
pub trait EarlyStop {
    /// Takes up what was seen in the first `step` steps. What was seen in later steps, which were lost, is forgotten.
    ///
    /// # Errors
    /// What was kept cannot be read or written.
    fn resume(&mut self, step: u64) -> Result<()>;

    /// Whether it wants to look after step `step` of `steps`.
    fn due(&self, step: u64, steps: u64) -> bool;

    /// Looks at the model as it is after a step.
    ///
    /// # Errors
    /// Errors of what it does to look.
    fn run(&mut self, trainer: &Trainer) -> Result<()>;

    /// Removes what a resume from the newest checkpoint no longer needs.
    ///
    /// # Errors
    /// The files cannot be removed.
    fn tidy(&self) -> Result<()>;

    /// Whether the training is to end.
    fn enough(&self) -> bool;
}

/// Trains `model`, from the last checkpoint if there is one, to the end or until the `validator` has enough. The
/// checkpoints stay until [`Checkpoints::remove`]. A validator is only for a training by one process.
///
/// # Errors
/// Errors of the training and of the files; `Stopped` when the observer asks for it (the last step is saved).
pub fn train(
    gpu: &Gpu,
    model: Model,
    data: Data,
    job: &Job,
    mut validator: Option<&mut dyn EarlyStop>,
) -> Result<Model> {
    let settings = job.settings;
    let cut = Fit::settle(gpu, &model, &data, settings)?;
    let mut trainer = settings.trainer(gpu, model)?;
    trainer.exchange = job.exchange;
    if let Some(cut) = cut {
        (trainer.micro_rows, trainer.checkpoint) = (Some(cut.micro_rows), Some(cut.checkpoint));
        job.observer.note(&format!("to fit the memory given: {cut}"));
    }
    let writes = job.exchange.first();
    let checkpoints = Checkpoints::shared(job.dir, job.exchange)?;
    if let Some(dir) = checkpoints.latest()? {
        trainer.load_state(&dir)?;
    }
    let total = (data.len().div_ceil(settings.batch.max(1)) * settings.epochs) as u64;
    job.exchange.agree("the step that they go on from", || trainer.step as u32)?;
    job.exchange.agree("the data or its settings", || data.digest(settings))?;
    let mut log = writes.then(|| StepLog::open(job.dir.join("steps.jsonl"), trainer.step)).transpose()?;
    if let Some(validator) = &mut validator {
        validator.resume(trainer.step)?;
        // A validation that was cut short by a stop is made up for.
        if validator.due(trainer.step, total) {
            validator.run(&trainer)?;
            validator.tidy()?;
        }
        if validator.enough() {
            return Ok(trainer.model);
        }
    }
    job.observer.begin("training", Some(total), "steps");
    job.observer.advance(trainer.step);
    let mut after = |trainer: &Trainer, record: serde_json::Result<serde_json::Value>| -> Result<ControlFlow<()>> {
        let Some(log) = &mut log else { return Ok(ControlFlow::Continue(())) };
        log.push(&record.map_err(|e| Error::Input(e.to_string()))?)?;
        let mut due = validator.as_mut().filter(|v| v.due(trainer.step, total));
        if let Some(validator) = &mut due {
            validator.run(trainer)?;
        }
        if due.is_some() || (trainer.step.is_multiple_of(settings.save_every) && trainer.step < total) {
            checkpoints.save(trainer)?;
        }
        let Some(validator) = due else { return Ok(ControlFlow::Continue(())) };
        validator.tidy()?;
        let ends = validator.enough() && trainer.step < total;
        Ok(if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let done = match data {
        Data::Pairs { pairs, objective, reference } => {
            let reference = match reference {
                Some(given) => Some(given),
                None => checkpoints.reference(pairs.len())?,
            };
            job.exchange.agree("the reference's log-probs that they find", || reference.is_some().into())?;
            dpo::run_until(
                &mut trainer,
                pairs,
                &settings.dpo(objective),
                reference.as_deref(),
                job.observer,
                &mut |logps| if writes { checkpoints.keep_reference(logps) } else { Ok(()) },
                &mut |trainer, step| after(trainer, serde_json::to_value(step)),
            )
        }
        Data::Examples(examples) => {
            sft::run_until(&mut trainer, examples, &settings.sft(), job.observer, &mut |trainer, step| {
                after(trainer, serde_json::to_value(step))
            })
        }
    };
    match done {
        Err(Error::Stopped) if trainer.step > 0 => {
            if writes {
                checkpoints.save(&trainer)?;
            }
            // A rank that ends would end the others.
            job.exchange.barrier()?;
            return Err(Error::Stopped);
        }
        done => {
            if done?.is_break() {
                let validations = "the last validations brought nothing better";
                job.observer.note(&format!("training ends after {} of {total} steps: {validations}", trainer.step));
            }
        }
    }
    job.observer.end();
    Ok(trainer.model)
}
