//! Stage 5: the next model from the pairs; and training from any records, with checkpoints.

use super::config::Method;
use super::fit::Fit;
use super::records::{PairRecord, line, read_json, write_json};
use super::round::{Context, RoundFiles};
use super::validation::{self, Validator};
use crate::durable::{self, Lines};
use crate::gpu::Gpu;
use crate::judge::Judge;
use crate::kernels::weight::Half;
use crate::model::Model;
use crate::rng::fnv;
use crate::train::exchange::{Alone, Exchange};
use crate::train::{Dropout, Optimiser, Trainer, WeightType, dpo, sft};
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

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
    /// [`Trainer::micro_rows`].
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

/// Trains the round's next model on its pairs and writes the folder `next`; with `[validation]` the best one of its checkpoints. A
/// finished training is left as it is.
///
/// # Errors
/// No pairs; errors of [`train`] and of writing the model.
pub fn run(
    gpu: &Gpu,
    model: Model,
    ctx: &Context,
    judge: &dyn Judge,
    pairs: &[PairRecord],
    files: &RoundFiles,
    next: &Path,
) -> Result<()> {
    if next.exists() {
        // A run killed right after it wrote the model leaves its checkpoints behind.
        validation::remove(&files.dir)?;
        return Checkpoints::open(&files.dir)?.remove();
    }
    let d = &ctx.settings.dpo;
    if pairs.is_empty() {
        return Err(Error::Input(format!("round {}: no pairs to train on", ctx.round)));
    }
    let job = Job {
        optimiser: Optimiser { seed: ctx.seed, ..d.optimiser() },
        save_every: d.save_every as u64,
        micro_rows: None,
        weights: d.weights,
        half: d.dtype,
        dropout: Dropout { rate: d.dropout, seed: ctx.seed },
        dir: &files.dir,
        observer: ctx.observer,
        exchange: &Alone,
    };
    let mut validator = Validator::open(gpu, ctx, judge, &files.dir)?;
    let model = match d.method {
        Method::Dpo => {
            let pairs: Vec<dpo::Pair> = pairs
                .iter()
                .map(|p| dpo::Pair {
                    weight: p.weight,
                    flip: p.flip,
                    ..dpo::Pair::new(p.prompt_ids.clone(), p.chosen_ids.clone(), p.rejected_ids.clone())
                })
                .collect();
            let data = Data::Pairs { pairs: &pairs, config: &d.dpo(ctx.seed)?, reference: None };
            train(gpu, model, data, &job, validator.as_mut())?
        }
        Method::SftBest => {
            let examples: Vec<sft::Example> = pairs
                .iter()
                .map(|p| sft::Example { prompt: p.prompt_ids.clone(), completion: p.chosen_ids.clone() })
                .collect();
            let data = Data::Examples { examples: &examples, config: &d.sft(ctx.seed)? };
            train(gpu, model, data, &job, validator.as_mut())?
        }
    };
    match validator {
        Some(validator) => validator.keep(next)?,
        None => ctx.domain.save_model(gpu, next, &model)?,
    }
    Checkpoints::open(&files.dir)?.remove()
}

/// Trains `model`, from the last checkpoint on where there is one, until its end or until the `validator` has enough. The
/// checkpoints stay until [`Checkpoints::remove`]. A validator is for a training by one process.
///
/// # Errors
/// Errors of the training and the files; `Stopped` when the observer asks for it (the last step is saved).
pub fn train(gpu: &Gpu, model: Model, data: Data, job: &Job, validator: Option<&mut Validator>) -> Result<Model> {
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

#[derive(Serialize, Deserialize)]
struct Latest {
    step: u64,
    folder: String,
}

/// `train/`: state folders, and one small file that names the newest whole one.
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Those in `dir`, the folder of the training.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = dir.join("train");
        durable::create_folder(&dir)?;
        let checkpoints = Self { dir };
        checkpoints.tidy()?;
        Ok(checkpoints)
    }

    /// Those that several ranks train from: the first one opens them, then the others may read.
    fn shared(dir: &Path, exchange: &dyn Exchange) -> Result<Self> {
        let opened = exchange.first().then(|| Self::open(dir)).transpose()?;
        exchange.barrier()?;
        Ok(opened.unwrap_or_else(|| Self { dir: dir.join("train") }))
    }

    /// Removes the folders of states that are not the newest whole one: what a kill between writing one and removing the one
    /// before it leaves behind.
    fn tidy(&self) -> Result<()> {
        let latest = self.latest()?;
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io(&self.dir))? {
            let path = entry.map_err(Error::io(&self.dir))?.path();
            if path.is_dir() && latest.as_ref() != Some(&path) {
                durable::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// The folder of the newest whole state.
    ///
    /// # Errors
    /// The file that names it is broken.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        let path = self.dir.join("latest.json");
        if !path.exists() {
            return Ok(None);
        }
        let latest: Latest = read_json(&path)?;
        Ok(Some(self.dir.join(latest.folder)))
    }

    /// Saves a state in place of the one before.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    pub fn save(&self, trainer: &Trainer) -> Result<()> {
        let before = self.latest()?;
        let folder = format!("step-{}", trainer.step);
        let dir = self.dir.join(&folder);
        if before.as_ref() == Some(&dir) {
            return Ok(());
        }
        trainer.save_state(&dir)?;
        write_json(&self.dir.join("latest.json"), &Latest { step: trainer.step, folder })?;
        match before {
            Some(old) => durable::remove_folder(&old),
            None => Ok(()),
        }
    }

    /// Reference log-probs as bits, so that they come back exactly.
    fn keep_reference(&self, logps: &[dpo::PairLogps]) -> Result<()> {
        let bits: Vec<[u32; 4]> = logps.iter().map(dpo::PairLogps::bits).collect();
        write_json(&self.dir.join("reference.json"), &bits)
    }

    fn reference(&self, pairs: usize) -> Result<Option<Vec<dpo::PairLogps>>> {
        let path = self.dir.join("reference.json");
        if !path.exists() {
            return Ok(None);
        }
        let bits: Vec<[u32; 4]> = read_json(&path)?;
        if bits.len() != pairs {
            return Err(Error::file(&path, format!("holds {} pairs, the round has {pairs}", bits.len())));
        }
        Ok(Some(bits.into_iter().map(dpo::PairLogps::from_bits).collect()))
    }

    /// Removes them; call it once the model is written.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(self) -> Result<()> {
        durable::remove_folder(&self.dir)
    }
}

/// A file with one line for a step, such as `steps.jsonl`, cut back to the checkpoint on resume.
pub(super) struct StepLog {
    path: PathBuf,
    lines: Lines,
}

impl StepLog {
    /// Keeps the records of the first `done` steps.
    pub(super) fn open(path: PathBuf, done: u64) -> Result<Self> {
        let (mut lines, bytes) = Lines::open(&path)?;
        let step = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["step"].as_u64();
        let known = |line: &&[u8]| step(line).is_some_and(|step| step <= done);
        lines.cut(bytes.split_inclusive(|&b| b == b'\n').take_while(known).map(<[u8]>::len).sum())?;
        Ok(Self { path, lines })
    }

    pub(super) fn push(&mut self, record: &serde_json::Value) -> Result<()> {
        self.lines.push(&line(&self.path, record)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::read_jsonl;
    use super::*;

    #[test]
    fn only_the_newest_whole_checkpoint_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let train = tmp.path().join("train");
        let names = || {
            let mut all: Vec<_> = std::fs::read_dir(&train).unwrap().map(|f| f.unwrap().file_name()).collect();
            all.sort();
            all
        };
        ["step-4", "step-8", "step-12"].iter().for_each(|name| std::fs::create_dir_all(train.join(name)).unwrap());
        std::fs::write(train.join("reference.json"), "[]").unwrap();
        std::fs::write(train.join("latest.json"), "{\"step\":8,\"folder\":\"step-8\"}").unwrap();
        Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(names(), ["latest.json", "reference.json", "step-8"]);
        // A kill before the first one was named.
        std::fs::remove_file(train.join("latest.json")).unwrap();
        Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(names(), ["reference.json"]);
    }

    #[test]
    fn steps_are_cut_back_to_the_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("steps.jsonl");
        let mut steps = StepLog::open(path.clone(), 0).unwrap();
        for step in 1..=5 {
            steps.push(&serde_json::json!({ "step": step, "loss": 0.1 })).unwrap();
        }
        drop(steps);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"step\":6,\"lo");
        std::fs::write(&path, torn).unwrap();
        drop(StepLog::open(path.clone(), 3).unwrap());
        let kept: Vec<serde_json::Value> = read_jsonl(&path).unwrap();
        assert_eq!(kept.iter().map(|s| s["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        drop(StepLog::open(path.clone(), 0).unwrap());
        assert!(read_jsonl::<serde_json::Value>(&path).unwrap().is_empty());
    }

    #[test]
    fn reference_log_probs_come_back_bit_for_bit() {
        let tmp = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap(), None);
        let logps = [dpo::PairLogps { chosen: -0.1, rejected: -1.234_567_9e-20, tail: [0.0, -1e-30] }];
        checkpoints.keep_reference(&logps).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap().unwrap(), logps);
        assert!(checkpoints.reference(2).unwrap_err().to_string().contains("holds 1 pairs"));
    }
}
