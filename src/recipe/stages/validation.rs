//! Early stopping: the model in training answers held-out prompts, the round's judge scores the answers, and the
//! weights with the best mean score are kept.

use crate::data::answers::{AskedRecord, read_asked};
use crate::disk;
use crate::durable;
use crate::generate::Request;
use crate::generate::{Engine, GpuEngine};
use crate::gpu::Gpu;
use crate::json::{read_jsonl, read_jsonl_if_there};
use crate::judge::{Item, Judge, Verdict};
use crate::recipe::context::RoundContext;
use crate::rng::record_id;
use crate::train::Trainer;
use crate::train::checkpoints::StepLog;
use crate::train::job::EarlyStop;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the file of validations beside the training's steps.
pub(crate) const LOG: &str = "validation.jsonl";
const BEST: &str = "best";

/// One validation: a line of `round-N/validation.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// How many optimiser steps had been taken.
    pub step: u64,
    /// Mean score over the prompts, of those answers that have one; null if none has.
    pub score: Option<f64>,
    /// Standard error of the score over the prompts.
    pub se: f64,
    /// How many answers were judged.
    pub answers: usize,
    /// How many of these answers have no score.
    pub unscored: usize,
    /// Mean length of the answers in tokens.
    pub tokens: f64,
}

/// The validations of one training.
pub struct Validator<'a> {
    gpu: &'a Gpu,
    ctx: &'a RoundContext<'a>,
    judge: &'a dyn Judge,
    prompts: Vec<AskedRecord>,
    dir: &'a Path,
    done: Vec<ValidationRecord>,
}

impl<'a> Validator<'a> {
    /// The validations of the training in `dir`; `None` if the settings name no prompts.
    ///
    /// # Errors
    /// The file of prompts cannot be read.
    pub fn open(gpu: &'a Gpu, ctx: &'a RoundContext<'a>, judge: &'a dyn Judge, dir: &'a Path) -> Result<Option<Self>> {
        let path = &ctx.settings.validation.prompts;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { gpu, ctx, judge, prompts: read_asked(path)?, dir, done: Vec::new() }))
    }

    fn best_dir(&self, step: u64) -> PathBuf {
        self.dir.join(BEST).join(format!("step-{step}"))
    }

    /// Moves the best weights to `next`.
    ///
    /// # Errors
    /// There are no weights, or the folder cannot be moved.
    pub fn keep(self, next: &Path) -> Result<()> {
        let Some(best) = best_of(&self.done).map(|at| &self.done[at]) else {
            return Err(Error::file(self.dir.join(LOG), "holds no validation; remove the file and resume"));
        };
        let score = best.score.map_or_else(
            || "no answer to the held-out prompts has a score: look at the judge's mode and at the prompts".to_owned(),
            |score| format!("score {score:.3}"),
        );
        self.ctx.observer.note(&format!("round {}: the model of step {} is kept; {score}", self.ctx.round, best.step));
        let from = self.best_dir(best.step);
        durable::rename(&from, next)?;
        durable::sync_folder(next.parent());
        remove(self.dir)
    }
}

impl EarlyStop for Validator<'_> {
    /// Takes up the validations of the first `step` steps. Those of later steps, which were lost, are forgotten.
    ///
    /// # Errors
    /// The log cannot be read or written.
    fn resume(&mut self, step: u64) -> Result<()> {
        drop(StepLog::open(self.dir.join(LOG), step)?);
        self.done = read_jsonl(&self.dir.join(LOG))?;
        Ok(())
    }

    /// Whether a validation after step `step` of `steps` is still to be made. There is one every so many steps and one
    /// after the last.
    fn due(&self, step: u64, steps: u64) -> bool {
        let asked = step == steps || step.is_multiple_of(self.ctx.settings.validation.every as u64);
        step > 0 && asked && self.done.last().is_none_or(|last| last.step < step)
    }

    /// Whether the last validations have brought nothing better.
    fn enough(&self) -> bool {
        let patience = self.ctx.settings.validation.patience;
        let best = best_of(&self.done).map_or(0, |best| best + 1);
        patience > 0 && self.done.len() >= best + patience
    }

    /// Answers the prompts and scores the answers; keeps the weights if no earlier ones scored as well.
    ///
    /// # Errors
    /// Errors of the engine, of the judge and of the files. The judge is the round's model, which is loaded beside the
    /// one in training.
    fn run(&mut self, trainer: &Trainer) -> Result<()> {
        let ctx = self.ctx;
        ctx.observer.begin("validation", Some(self.prompts.len() as u64), "prompts");
        let language = ctx.domain.language();
        let mut requests = Vec::with_capacity(self.prompts.len());
        for asked in &self.prompts {
            let prompt = ctx.domain.ask(&asked.prompt)?;
            let key = |k| record_id(ctx.round, "validation", &prompt, k);
            let samples = (0..ctx.settings.validation.samples).map(key).collect();
            requests.push(Request { prompt, samples });
        }
        let settings = ctx.settings.candidates.settings(language.stop(), ctx.seed);
        let mut engine = GpuEngine::new(self.gpu, &trainer.model).kv(ctx.settings.candidates.kv);
        let outputs = engine.generate(&requests, &settings, ctx.observer)?;
        let questions: Vec<String> = self.prompts.iter().map(|asked| asked.prompt.question()).collect();
        let (mut answers, mut tokens) = (Vec::new(), Vec::new());
        for (at, (request, outputs)) in requests.iter().zip(&outputs).enumerate() {
            for (output, key) in outputs.iter().zip(&request.samples) {
                answers.push((*key, at, ctx.domain.response(output)?.0, !output.stopped));
                tokens.push(output.tokens.len() as f64);
            }
        }
        let items: Vec<Item> = answers
            .iter()
            .map(|(key, at, answer, cut)| Item {
                checks: Some(&self.prompts[*at].checks),
                cut: *cut,
                ..Item::new(*key, &questions[*at], answer)
            })
            .collect();
        let mut verdicts = Vec::new();
        // A judge that changes with the training would measure itself.
        ctx.models.with(ctx.round, &mut |engine| {
            verdicts = self.judge.judge(engine, &items, ctx.observer)?;
            Ok(())
        })?;
        let samples = (ctx.settings.validation.samples as usize).max(1);
        let of_prompt = |verdicts: &[Verdict]| -> Option<f64> {
            let scores: Vec<f64> = verdicts.iter().filter_map(|v| v.score).collect();
            (!scores.is_empty()).then(|| crate::measure::metrics::mean_se(&scores).0)
        };
        let scores: Vec<f64> = verdicts.chunks(samples).filter_map(of_prompt).collect();
        let (mean, se) = crate::measure::metrics::mean_se(&scores);
        let record = ValidationRecord {
            step: trainer.step(),
            score: (!scores.is_empty()).then_some(mean),
            se,
            answers: items.len(),
            unscored: verdicts.iter().filter(|v| v.score.is_none()).count(),
            tokens: crate::measure::metrics::mean_se(&tokens).0,
        };
        self.done.push(record.clone());
        if best_of(&self.done) == Some(self.done.len() - 1) {
            let dir = self.best_dir(trainer.step());
            durable::remove_folder(&dir)?;
            ctx.domain.save_model(self.gpu, &dir, &trainer.model)?;
        }
        let mut log = StepLog::open(self.dir.join(LOG), trainer.step())?;
        log.push(&serde_json::to_value(&record).map_err(|e| Error::Bug(e.to_string()))?)?;
        ctx.observer.end();
        Ok(())
    }

    /// Removes all weights but the best ones. Call it only when a checkpoint of the last validation's step is written,
    /// since a resume from before that step needs the older weights.
    ///
    /// # Errors
    /// A folder cannot be removed.
    fn tidy(&self) -> Result<()> {
        let best = best_of(&self.done).map(|at| self.best_dir(self.done[at].step));
        let dir = self.dir.join(BEST);
        for entry in disk::read_dir(&dir).into_iter().flatten().flatten() {
            if Some(entry.path()) != best {
                durable::remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes the weights that a validated training in `dir` kept.
///
/// # Errors
/// The folder cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    durable::remove_folder(&dir.join(BEST))
}

/// The step whose weights the training in `dir` kept; `None` if nothing was validated.
///
/// # Errors
/// The log is broken.
pub fn best(dir: &Path) -> Result<Option<u64>> {
    let done: Vec<ValidationRecord> = read_jsonl_if_there(&dir.join(LOG))?.unwrap_or_default();
    Ok(best_of(&done).map(|at| done[at].step))
}

/// The index of the best validation; of several, the earliest, and if none has a score, the last. `None` if there are
/// none.
fn best_of(done: &[ValidationRecord]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, score) in done.iter().enumerate().filter_map(|(at, r)| Some((at, r.score?))) {
        if best.is_none_or(|(_, b)| score > b) {
            best = Some((at, score));
        }
    }
    best.map(|(at, _)| at).or(done.len().checked_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_best_counts_and_unscored_ones_do_not() {
        let best = |scores: &[Option<f64>]| -> Option<usize> {
            let record = |score: &Option<f64>| ValidationRecord {
                step: 1,
                score: *score,
                se: 0.0,
                answers: 1,
                unscored: 0,
                tokens: 1.0,
            };
            best_of(&scores.iter().map(record).collect::<Vec<_>>())
        };
        assert_eq!(best(&[None, Some(2.0), Some(3.0), Some(3.0), Some(1.0)]), Some(2));
        assert_eq!((best(&[None, None]), best(&[])), (Some(1), None));
    }
}
