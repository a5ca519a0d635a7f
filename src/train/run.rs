//! A training from any records, with checkpoints: it goes on where it was interrupted.

use super::checkpoints::{Checkpoints, StepLog};
use super::fit::Fit;
use super::job::{Data, EarlyStop, Job};
use super::{Trainer, dpo, sft};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::{Error, Result};
use std::ops::ControlFlow;

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
        log.push(&record.map_err(|e| Error::Bug(e.to_string()))?)?;
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
            dpo::Training::new(pairs, &settings.dpo(objective))
                .reference(reference.as_deref())
                .observer(job.observer)
                .on_reference(&mut |logps| if writes { checkpoints.keep_reference(logps) } else { Ok(()) })
                .run_until(&mut trainer, &mut |trainer, step| after(trainer, serde_json::to_value(step)))
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
