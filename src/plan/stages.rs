//! The stages of a run, each on a device that counts.

use super::{BYTES, RunShape, StagePlan, ids, requests, seconds, write};
use crate::config::pair_rule::Select;
use crate::config::{Comparison, Judging, Method, RunConfig};
use crate::disk;
use crate::gpu::{Cost, Gpu};
use crate::judge::Mode;
use crate::kernels::peak::Peaks;
use crate::measure::tasks::Known;
use crate::model::Model;
use crate::model::score::{self, Branch};
use crate::recipe::evaluation::WINDOW;
use crate::recipe::judging::ranked;
use crate::train::TrainSettings;
use crate::train::dpo::Pair;
use crate::train::fit::{Choice, Fit};
use crate::train::job::Data;
use crate::train::sft::Example;
use crate::{Error, Result, Silent};
use std::path::Path;

/// Marks that a judge chooses one after the other.
const MARKS: usize = 5;

/// Grades of which a judge says how likely each is.
const GRADES: usize = 6;

/// Choices of a question, and tokens of each, with which to plan.
const CHOICES: usize = 4;
const CHOICE: usize = 16;

/// Stages that do not come once a round.
const SUPERVISED: &str = "sft";
const CONTROLS: &str = "controls";
pub(super) const EVALUATION: &str = "evaluation";

/// A part of a stage on a device that counts, given models of the run, with no more texts than so many; how many of
/// them it wrote at once.
type Work<'a> = dyn Fn(&Gpu, Vec<Model>, usize) -> Result<Option<usize>> + 'a;

/// What the stages of a run have in common.
pub(super) struct Planner<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) shape: &'a RunShape<'a>,
    pub(super) config: &'a RunConfig,
    pub(super) peaks: Option<&'a Peaks>,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    /// Tokens of an answer.
    pub(super) answer: usize,
}

impl Planner<'_> {
    /// A stage whose work is done `times` in a round, with `count` models on the device.
    fn stage(&self, name: &'static str, (count, times): (usize, f64), work: &Work) -> Result<StagePlan> {
        let on = |memory, most| -> Result<(Gpu, Option<usize>)> {
            let counted = self.gpu.counting(memory);
            let at_once = work(&counted, self.shape.models(&counted, count)?, most)?;
            Ok((counted, at_once))
        };
        let (counted, peak, at_once, fits) = match on(self.gpu.memory(), usize::MAX) {
            Ok((counted, at_once)) => (counted.clone(), counted.peak(), at_once, true),
            // What it takes at least is what a single text takes.
            Err(Error::OutOfMemory(_)) if self.gpu.memory().is_some() => {
                (on(None, usize::MAX)?.0, on(None, 1)?.0.peak(), None, false)
            }
            Err(other) => return Err(other),
        };
        let (cost, seconds) = self.work(name, &counted, times);
        Ok(StagePlan { name, peak, cost, seconds, at_once, cut: None, fits })
    }

    /// The work of a stage where `times` what was counted is done, and its least seconds in the whole run.
    fn work(&self, name: &str, counted: &Gpu, times: f64) -> (Cost, Option<f64>) {
        let cost = counted.counted().into_iter().fold(Cost::default(), |all, one| all.plus(one, times));
        let rounds = f64::from(self.config.run.rounds);
        let often = match name {
            SUPERVISED | CONTROLS => 1.0,
            // M1 is measured before the first round, and what it was trained from beside it.
            EVALUATION => rounds + if self.config.sft.files.is_empty() { 1.0 } else { 2.0 },
            _ => rounds,
        };
        (cost, self.peaks.map(|peaks| seconds(counted, peaks) * times * often))
    }

    /// A stage that writes, with `count` models on the device, to `all` prompts of so many tokens so many answers of so
    /// many tokens.
    pub(super) fn writes(
        &self,
        (name, count): (&'static str, usize),
        (wave, all): (usize, usize),
        (prompt, samples, answer): (usize, usize, usize),
    ) -> Result<StagePlan> {
        let wave = wave.min(all).max(1);
        let how = (answer, self.config.candidates.kv);
        let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
            let requests = requests(self.vocabulary, wave.min(most), self.fitting(prompt), samples.min(most));
            write(gpu, &models[0], &requests, how).map(Some)
        };
        self.stage(name, (count, all as f64 / wave as f64), &work)
    }

    /// Tokens of a question with so many answers.
    fn read(&self, answers: usize) -> usize {
        self.shape.prompt + answers * self.answer
    }

    /// A prompt's tokens, where the context has room for them.
    fn fitting(&self, tokens: usize) -> usize {
        tokens.min(self.context.saturating_sub(1)).max(1)
    }

    /// Has the judge read a wave of prompts with so many tokens of questions and answers each; None of a mode compares
    /// two answers.
    fn verdicts(
        &self,
        gpu: &Gpu,
        judge: &Model,
        mode: Option<Judging>,
        (wave, read, most): (usize, usize, usize),
    ) -> Result<Option<usize>> {
        let wave = wave.min(most);
        let reading = &self.config.judge.reading;
        let prompt = self.fitting(self.shape.judge + read);
        let written = |samples: usize, tokens| {
            let requests = requests(self.vocabulary, wave, prompt, samples.min(most));
            write(gpu, judge, &requests, (tokens, self.config.candidates.kv)).map(Some)
        };
        match mode {
            Some(Judging::Random | Judging::Signal(_)) => Ok(None),
            Some(Judging::By(Mode::Marks)) => written(1, MARKS),
            Some(Judging::Auto | Judging::By(Mode::Sampled)) => {
                written(reading.samples, reading.max_new_tokens + reading.think)
            }
            Some(Judging::By(_)) | None => {
                let (questions, completions) = match mode {
                    Some(Judging::By(Mode::Backward)) => (1, vec![ids(self.vocabulary, 0, self.shape.prompt)]),
                    Some(Judging::By(Mode::Criteria)) => (5, vec![vec![0]; 2]),
                    _ => (1, vec![vec![0]; GRADES]),
                };
                let branch = |i| {
                    let completions = completions.clone();
                    Branch { prompt: ids(self.vocabulary, i, prompt), completions }
                };
                let branches: Vec<Branch> = (0..(questions * wave) as u64).map(branch).collect();
                score::logps(gpu, judge, &branches, &Silent).map(|_| None)
            }
        }
    }

    /// The judge's verdicts on the answers to `all` prompts.
    pub(super) fn judges(&self, all: usize) -> Result<StagePlan> {
        let (j, n) = (&self.config.judge, self.config.candidates.n as usize);
        let wave = j.wave.min(all).max(1);
        let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
            self.verdicts(gpu, &models[0], Some(j.mode), (wave * n, self.read(1), most))
        };
        self.stage("judge", (1, all as f64 / wave as f64), &work)
    }

    /// The judge's scores of the ranked answers by which it is measured before a round.
    pub(super) fn gate(&self) -> Result<StagePlan> {
        let set = ranked(self.config)?;
        let questions = set.len().max(1);
        let answers = set.iter().map(|question| question.answers.len()).sum::<usize>().div_ceil(questions);
        let wave = self.config.judge.wave.min(questions).max(1);
        let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
            self.verdicts(gpu, &models[0], Some(self.config.judge.mode), (wave * answers, self.shape.ranked, most))
        };
        self.stage("gate", (1, questions as f64 / wave as f64), &work)
    }

    /// A training that takes `records` of `data`, of which a step's are there.
    fn trains(&self, name: &'static str, data: &Data, settings: &TrainSettings, records: usize) -> Result<StagePlan> {
        let model = |gpu: &Gpu| only(self.shape.models(gpu, 1)?);
        let fit = Fit { gpu: self.gpu, model: &model, data, settings, others: 0 };
        let Choice { cut, peak, fits } = fit.choose_or_untold(self.gpu.memory())?;
        let (counted, taken) = fit.count(cut)?;
        let (cost, seconds) = self.work(name, &counted, records as f64 / taken as f64);
        Ok(StagePlan { name, peak, cost, seconds, at_once: None, cut: Some(cut), fits })
    }

    /// The training of M1 on files of examples.
    pub(super) fn supervised(&self) -> Result<StagePlan> {
        if let Some(given) = self.shape.supervision {
            let records = given.examples().len() * given.settings().epochs;
            return self.trains(SUPERVISED, &Data::Examples(given.examples()), given.settings(), records);
        }
        let section = &self.config.sft;
        let most = section.max_length.min(self.context);
        let example = Example::new(self.ids(0, most / 2), self.ids(1, most - most / 2));
        let records = section.files.iter().map(|path| lines(path)).sum::<Result<usize>>()?;
        let examples = vec![example; section.training.batch.min(records).max(1)];
        self.trains(SUPERVISED, &Data::Examples(&examples), &section.training, records * section.training.epochs)
    }

    /// A round's training on the answers to `all` prompts.
    pub(super) fn learns(&self, name: &'static str, method: Method, all: usize) -> Result<StagePlan> {
        let d = &self.config.dpo;
        let prompt = self.ids(0, self.fitting(self.shape.prompt));
        let p = &self.config.pairs;
        let all = match (method, p.select) {
            (Method::Dpo, Select::All) => {
                let n = self.config.candidates.n as usize;
                let two = n * n.saturating_sub(1) / 2;
                all * if p.most == 0 { two } else { two.min(p.most) }
            }
            _ => all,
        };
        let all = if p.total == 0 { all } else { all.min(p.total) };
        let (records, step) = (all * d.training.epochs, d.training.batch.min(all).max(1));
        match method {
            Method::Dpo => {
                let pair = Pair::new(prompt, self.ids(1, self.answer), self.ids(2, self.answer));
                let pairs = vec![pair; step];
                let data = Data::Pairs { pairs: &pairs, objective: &d.objective, reference: None };
                self.trains(name, &data, &d.training, records)
            }
            Method::SftBest => {
                let examples = vec![Example::new(prompt, self.ids(1, self.answer)); step];
                self.trains(name, &Data::Examples(&examples), &d.training, records)
            }
        }
    }

    /// The trainings of the controls, each on the answers of round 1, and what is measured of their models.
    pub(super) fn controls(&self, all: usize) -> Result<Vec<StagePlan>> {
        let c = &self.config.controls;
        let methods = [(c.random, self.config.dpo.method), (c.sft_best, Method::SftBest)];
        let mut parts = Vec::new();
        for (_, method) in methods.into_iter().filter(|(wanted, _)| *wanted) {
            parts.push(self.learns(CONTROLS, method, all)?);
            parts.extend(self.evaluates(CONTROLS)?);
        }
        Ok(parts)
    }

    fn ids(&self, key: u64, tokens: usize) -> Vec<u32> {
        ids(self.vocabulary, key, tokens)
    }

    /// Answers to held-out prompts between the steps of a training of `all` prompts, and their verdicts.
    pub(super) fn validates(&self, all: usize) -> Result<StagePlan> {
        let (config, v) = (self.config, &self.config.validation);
        let prompts = lines(&v.prompts)?;
        let steps = (all * config.dpo.training.epochs).div_ceil(config.dpo.training.batch.max(1));
        let (prompt, samples) = (self.fitting(self.shape.prompt), v.samples as usize);
        let work = |gpu: &Gpu, mut models: Vec<Model>, most: usize| {
            let requests = requests(self.vocabulary, prompts.min(most), prompt, samples.min(most));
            let judge = models.pop();
            let trainer = config.dpo.training.trainer(gpu, only(models)?)?;
            let at_once = write(gpu, trainer.model(), &requests, (self.answer, config.candidates.kv))?;
            let asked = (prompts * samples, self.read(1), most);
            judge.map_or(Ok(None), |judge| self.verdicts(gpu, &judge, Some(config.judge.mode), asked))?;
            Ok(Some(at_once))
        };
        self.stage("validation", (2, steps.div_ceil(v.every) as f64), &work)
    }

    /// What is measured of each model: its answers beside it alone, and duels judged by M1 beside it.
    pub(super) fn evaluates(&self, name: &'static str) -> Result<Vec<StagePlan>> {
        let (e, c, j) = (&self.config.evaluation, &self.config.candidates, &self.config.judge);
        // What M1 was trained from is measured beside M1, which the round goes on with.
        let count = if self.config.sft.files.is_empty() { 1 } else { 2 };
        let mut parts = Vec::new();
        if given(&e.prompts) {
            let prompts = lines(&e.prompts)?;
            let answers = (self.shape.prompt, e.samples as usize, self.answer);
            parts.push(self.writes((name, count), (c.wave, prompts), answers)?);
            let wave = j.wave.min(prompts).max(1);
            let (mode, read) = match e.mode {
                Comparison::SideBySide => (None, self.read(2)),
                Comparison::Scores(mode) => (Some(Judging::By(mode)), self.read(1)),
            };
            // Both orders of two answers, or each of them alone.
            let asked = 2 * wave * e.samples as usize;
            let work =
                |gpu: &Gpu, models: Vec<Model>, most: usize| self.verdicts(gpu, &models[1], mode, (asked, read, most));
            // A model meets the one before it and the first.
            parts.push(self.stage(name, (2, 2.0 * prompts as f64 / wave as f64), &work)?);
        }
        if given(&e.ranked) {
            let answers = lines(&e.ranked)?;
            let wave = j.wave.min(answers).max(1);
            let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
                self.verdicts(gpu, &models[0], Some(j.mode), (wave, self.read(1), most))
            };
            parts.push(self.stage(name, (count, answers as f64 / wave as f64), &work)?);
        }
        if given(&e.texts) {
            let sizes = sizes(&e.texts)?;
            let tokens = |bytes: usize| (bytes / BYTES).clamp(2, WINDOW.min(self.context).max(2));
            let length = tokens(sizes.iter().copied().max().unwrap_or(0));
            // The windows of a longer text begin half a window after one another.
            let windows: usize = sizes.iter().map(|bytes| (2 * (bytes / BYTES)).div_ceil(length).max(2) - 1).sum();
            let wave = c.wave.min(sizes.len()).max(1);
            let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
                let branch = |i| Branch { prompt: self.ids(i, 1), completions: vec![self.ids(i, length - 1)] };
                let branches: Vec<Branch> = (0..wave.min(most) as u64).map(branch).collect();
                score::logps(gpu, &models[0], &branches, &Silent).map(|_| None)
            };
            parts.push(self.stage(name, (count, windows as f64 / wave as f64), &work)?);
        }
        for task in &e.tasks {
            let items = lines(&task.data)?;
            let prompt = self.shape.prompt + task.shots as usize * (self.shape.prompt + self.answer);
            if Known::named(&task.task)?.tokens.is_some() {
                parts.push(self.writes(
                    (name, count),
                    (c.wave, items),
                    (prompt, task.samples as usize, task.tokens(self.answer)),
                )?);
                continue;
            }
            let wave = c.wave.min(items).max(1);
            let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
                let completions = vec![self.ids(0, CHOICE); CHOICES];
                let prompt = prompt.min(self.context.saturating_sub(CHOICE)).max(1);
                let branch = |i| Branch { prompt: self.ids(i, prompt), completions: completions.clone() };
                let branches: Vec<Branch> = (0..wave.min(most) as u64).map(branch).collect();
                score::logps(gpu, &models[0], &branches, &Silent).map(|_| None)
            };
            parts.push(self.stage(name, (count, items as f64 / wave as f64), &work)?);
        }
        Ok(parts)
    }
}

/// The one model of a list.
fn only(mut models: Vec<Model>) -> Result<Model> {
    models.pop().ok_or_else(|| Error::Bug("a stage without a model".into()))
}

pub(super) fn given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// How many records a file of lines has.
fn lines(path: &Path) -> Result<usize> {
    sizes(path).map(|sizes| sizes.len())
}

/// How many bytes each record of a file of lines has.
fn sizes(path: &Path) -> Result<Vec<usize>> {
    let text = disk::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.lines().map(|line| line.trim().len()).filter(|bytes| *bytes > 0).collect())
}
