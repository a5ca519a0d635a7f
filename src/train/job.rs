//! A training from any records, with checkpoints: it goes on where it was interrupted.

use super::checkpoints::{Checkpoints, StepLog};
use super::exchange::Exchange;
use super::fit::Fit;
use super::{Dropout, Optimiser, Trainer, WeightType, dpo, sft};
use crate::gpu::Gpu;
use crate::kernels::half::Half;
use crate::model::Model;
use crate::rng::fnv;
use crate::{Error, Observer, Result};
use std::cell::{Cell, RefCell};
use std::path::Path;

/// What is trained on.
pub enum Data<'a> {
    /// Preferences.
    Pairs {
        /// One record each.
        pairs: &'a [dpo::Pair],
        /// How.
        config: &'a dpo::DpoConfig,
        /// Log-probs of another reference than the model itself, one per pair.
        reference: Option<Vec<dpo::PairLogps>>,
    },
    /// Answers to learn.
    Examples {
        /// One record each.
        examples: &'a [sft::Example],
        /// How.
        config: &'a sft::SftConfig,
    },
}

impl Data<'_> {
    /// Tells one training's records and settings from another's.
    fn digest(&self) -> u32 {
        let text = match self {
            Self::Pairs { pairs, config, reference } => format!("{config:?} {pairs:?} {}", reference.is_some()),
            Self::Examples { examples, config } => format!("{config:?} {examples:?}"),
        };
        fnv(text.as_bytes()) as u32
    }
}

/// The rest of a training.
pub struct Job<'a> {
    /// The optimiser.
    pub optimiser: Optimiser,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Rows of a micro-batch at most; as many as memory allows where it is None.
    pub micro_rows: Option<usize>,
    /// Type of the weights that are trained.
    pub weights: WeightType,
    /// [`Trainer::read_half`].
    pub half: Option<Half>,
    /// [`Trainer::dropout`].
    pub dropout: Dropout,
    /// `steps.jsonl` is written here, and `train/` with the checkpoints until the end.
    pub dir: &'a Path,
    /// Told what goes on.
    pub observer: &'a dyn Observer,
    /// The processes that train together; the first one alone writes into `dir`, which all must see.
    pub exchange: &'a dyn Exchange,
}

impl Job<'_> {
    /// A trainer with all that is set here.
    pub(super) fn trainer<'t>(&'t self, gpu: &'t Gpu, model: Model) -> Result<Trainer<'t>> {
        let model = match self.weights {
            WeightType::F32 => model,
            WeightType::Bf16 => model.rounded(gpu)?,
        };
        let mut trainer = Trainer::new(gpu, model, self.optimiser.clone())?;
        trainer.micro_rows = self.micro_rows;
        if let Some(half) = self.half {
            trainer.read_half(half)?;
        }
        trainer.dropout = self.dropout;
        trainer.exchange = self.exchange;
        Ok(trainer)
    }
}

/// What looks at a model while it is trained and may end the training early.
pub trait EarlyStop {
    /// Takes up what was seen in the first `step` steps; what was seen later, of steps that were lost, is forgotten.
    ///
    /// # Errors
    /// What was kept cannot be read or written.
    fn resume(&mut self, step: u64) -> Result<()>;

    /// Whether it is to look after step `step` of `steps`.
    fn due(&self, step: u64, steps: u64) -> bool;

    /// Looks.
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

/// Trains `model`, from the last checkpoint on where there is one, until its end or until the `validator` has enough. The
/// checkpoints stay until [`Checkpoints::remove`]. A validator is for a training by one process.
///
/// # Errors
/// Errors of the training and the files; `Stopped` when the observer asks for it (the last step is saved).
pub fn train(gpu: &Gpu, model: Model, data: Data, job: &Job, validator: Option<&mut dyn EarlyStop>) -> Result<Model> {
    let (records, epochs, batch) = match &data {
        Data::Pairs { pairs, config, .. } => (pairs.len(), config.epochs, config.batch),
        Data::Examples { examples, config } => (examples.len(), config.epochs, config.batch),
    };
    let validator = validator.map(RefCell::new);
    let cut = Fit::settle(gpu, &model, &data, job)?;
    let mut trainer = job.trainer(gpu, model)?;
    if let Some(cut) = cut {
        (trainer.micro_rows, trainer.checkpoint) = (Some(cut.micro_rows), Some(cut.checkpoint));
        job.observer.note(&format!("to fit the memory given: {cut}"));
    }
    let writes = job.exchange.first();
    let checkpoints = Checkpoints::shared(job.dir, job.exchange)?;
    if let Some(dir) = checkpoints.latest()? {
        trainer.load_state(&dir)?;
    }
    let total = (records.div_ceil(batch.max(1)) * epochs) as u64;
    job.exchange.agree("the step that they go on from", || trainer.step as u32)?;
    job.exchange.agree("the data or its settings", || data.digest())?;
    let log = writes.then(|| StepLog::open(job.dir.join("steps.jsonl"), trainer.step)).transpose()?;
    let steps = RefCell::new(log);
    if let Some(validator) = &validator {
        validator.borrow_mut().resume(trainer.step)?;
        // One that a stop cut short.
        if validator.borrow().due(trainer.step, total) {
            validator.borrow_mut().run(&trainer)?;
            validator.borrow().tidy()?;
        }
        if validator.borrow().enough() {
            return Ok(trainer.model);
        }
    }
    let enough = Cell::new(false);
    job.observer.begin("training", Some(total), "steps");
    job.observer.advance(trainer.step);
    let after = |trainer: &Trainer, record: serde_json::Result<serde_json::Value>| -> Result<()> {
        let mut steps = steps.borrow_mut();
        let Some(log) = steps.as_mut() else { return Ok(()) };
        log.push(&record.map_err(|e| Error::Input(e.to_string()))?)?;
        let validator = validator.as_ref().filter(|v| v.borrow().due(trainer.step, total));
        if let Some(validator) = &validator {
            validator.borrow_mut().run(trainer)?;
        }
        if validator.is_some() || (trainer.step.is_multiple_of(job.save_every) && trainer.step < total) {
            checkpoints.save(trainer)?;
        }
        if let Some(validator) = validator {
            validator.borrow().tidy()?;
            enough.set(validator.borrow().enough() && trainer.step < total);
        }
        if enough.get() { Err(Error::Stopped) } else { Ok(()) }
    };
    let done = match data {
        Data::Pairs { pairs, config, reference } => {
            let reference = match reference {
                Some(given) => Some(given),
                None => checkpoints.reference(pairs.len())?,
            };
            job.exchange.agree("the reference's log-probs that they find", || reference.is_some().into())?;
            dpo::run(
                &mut trainer,
                pairs,
                config,
                reference.as_deref(),
                job.observer,
                &mut |logps| if writes { checkpoints.keep_reference(logps) } else { Ok(()) },
                &mut |trainer, step| after(trainer, serde_json::to_value(step)),
            )
        }
        Data::Examples { examples, config } => {
            sft::run(&mut trainer, examples, config, job.observer, &mut |trainer, step| {
                after(trainer, serde_json::to_value(step))
            })
        }
    };
    match done {
        Err(Error::Stopped) if enough.get() => {
            let validations = "the last validations brought nothing better";
            job.observer.note(&format!("training ends after {} of {total} steps: {validations}", trainer.step));
        }
        Err(Error::Stopped) if trainer.step > 0 => {
            if writes {
                checkpoints.save(&trainer)?;
            }
            // A rank that ends ends the others.
            job.exchange.barrier()?;
            return Err(Error::Stopped);
        }
        done => done?,
    }
    job.observer.end();
    Ok(trainer.model)
}
