//! What a whole run would take: the memory of each stage, its work, its least time at the device's peaks, and its room
//! on disk.

use crate::arch::lora::{Adapter, LoraConfig};
use crate::config::{Comparison, JudgeSection, Judging, Method, RunConfig};
use crate::disk;
use crate::generate::{Generator, KvType, Request, Settings};
use crate::gpu::{Cost, Gpu, Peak};
use crate::judge::{Mode, Template};
use crate::kernels::peak::Peaks;
use crate::measure::tasks::Known;
use crate::model::Model;
use crate::model::score::{self, Branch};
use crate::recipe::judging::templates;
use crate::recipe::supervised::Supervision;
use crate::rng::Stream;
use crate::text::Language;
use crate::train::TrainSettings;
use crate::train::dpo::Pair;
use crate::train::fit::{Choice, Cut, Fit};
use crate::train::job::Data;
use crate::train::sft::Example;
use crate::{Error, Result, Silent};
use std::path::Path;

/// What one stage takes.
pub struct StagePlan {
    /// The name of the stage.
    pub name: &'static str,
    /// The most that the stage's buffers take at once, the models of the run included.
    pub peak: Peak,
    /// The work of the stage in one round, if every answer is as long as it may be.
    pub cost: Cost,
    /// The least seconds that the stage takes in all rounds, where the device's peaks are known.
    pub seconds: Option<f64>,
    /// How many texts are written at once.
    pub at_once: Option<usize>,
    /// How a training cuts its batches into micro-batches.
    pub cut: Option<Cut>,
    /// Whether the stage fits into the memory given; true if none is given.
    pub fits: bool,
}

/// What a run will take, told before it begins.
pub struct RunPlan {
    /// The stages of the run; the supervised training comes once, all others in each round.
    pub stages: Vec<StagePlan>,
    /// Most bytes that the run folder takes, with its models and the states of a training.
    pub disk_bytes: u64,
}

/// The models of a run.
pub struct RunShape<'a> {
    /// Loads M0 as the run holds it: in f32 if all weights are trained, else as it is stored.
    pub model: &'a dyn Fn(&Gpu) -> Result<Model>,
    /// The adapter that is trained, if that is not all weights.
    pub adapter: Option<LoraConfig>,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of a judge's prompt, beside the question and the answer.
    pub judge: usize,
    /// What M1 is trained on, where that can be read; else each record of `[sft]` is as long as it may be.
    pub supervision: Option<&'a Supervision>,
}

impl RunShape<'_> {
    /// `count` models of the run: adapters over one base, or each with weights of its own.
    fn models(&self, gpu: &Gpu, count: usize) -> Result<Vec<Model>> {
        let Some(config) = &self.adapter else { return (0..count).map(|_| (self.model)(gpu)).collect() };
        let base = (self.model)(gpu)?.beside(gpu, None)?;
        // A device that only counts needs no values.
        let adapter = Adapter { config: config.clone(), tensors: Vec::new() };
        (0..count).map(|_| base.beside(gpu, Some(&adapter))).collect()
    }
}

/// Most tokens that a judge's prompt has beside the question and the answer; those of the shipped templates are fewer.
pub const JUDGE_PROMPT: usize = 256;

/// As many tokens as the judge's prompt has for this language, beside the question and the answer.
///
/// # Errors
/// The template of one's own cannot be read; its text cannot be encoded.
pub fn judge_prompt(section: &JudgeSection, language: &dyn Language) -> Result<usize> {
    let templates = templates(section)?;
    let asked = match section.mode {
        Judging::By(Mode::Criteria) => templates.criteria.iter().collect(),
        Judging::By(Mode::Yes) => vec![&templates.yes],
        Judging::By(Mode::Backward) => vec![&templates.backward],
        Judging::By(Mode::Marks) => vec![&templates.marks.template],
        _ => vec![&templates.additive],
    };
    // What stands around every question is counted with the question.
    let around = language.ask("")?.len();
    let tokens = |template: &Template| Ok(language.ask(&template.fill("", "")?)?.len().saturating_sub(around));
    asked.into_iter().map(tokens).try_fold(0, |most, tokens: Result<usize>| Ok(most.max(tokens?)))
}

/// Marks that a judge chooses one after the other.
const MARKS: usize = 5;

/// Grades of which a judge says how likely each is.
const GRADES: usize = 6;

/// Choices of a question, and tokens of each, with which to plan.
const CHOICES: usize = 4;
const CHOICE: usize = 16;

/// `n` repeatable token ids with which to plan.
pub fn ids(vocabulary: usize, key: u64, n: usize) -> Vec<u32> {
    let mut stream = Stream::new(0, key);
    (0..n).map(|_| stream.below(vocabulary) as u32).collect()
}

/// Requests to plan with: `count` prompts of `prompt` tokens, with `samples` answers each.
pub fn requests(vocabulary: usize, count: usize, prompt: usize, samples: usize) -> Vec<Request> {
    let request = |i: u64| Request { prompt: ids(vocabulary, i, prompt), samples: (0..samples as u64).collect() };
    (0..count as u64).map(request).collect()
}

/// What answers to `requests` take on a device of `memory` bytes, and how many of them run at once.
///
/// # Errors
/// [`Error::OutOfMemory`] if one answer alone does not fit; errors of prompts that cannot be answered.
pub fn generation(
    gpu: &Gpu,
    model: &dyn Fn(&Gpu) -> Result<Model>,
    requests: &[Request],
    (max_new_tokens, kv): (usize, KvType),
    memory: Option<u64>,
) -> Result<(Gpu, usize)> {
    let counted = gpu.counting(memory);
    let model = model(&counted)?;
    let at_once = write(&counted, &model, requests, (max_new_tokens, kv))?;
    drop(model);
    Ok((counted, at_once))
}

/// Answers `requests` on a device that counts; returns how many of them run at once.
fn write(counted: &Gpu, model: &Model, requests: &[Request], (max_new_tokens, kv): (usize, KvType)) -> Result<usize> {
    let settings = Settings { max_new_tokens, ..Settings::default() };
    let mut generator = Generator::new(counted, model).kv(kv);
    let at_once = generator.at_once(requests, &settings)?;
    generator.run(requests, &settings)?;
    Ok(at_once)
}

/// The least seconds that the counted work takes at the device's peaks.
pub fn seconds(counted: &Gpu, peaks: &Peaks) -> f64 {
    counted.counted().into_iter().map(|cost| peaks.least(cost)).sum()
}

/// A part of a stage on a device that counts, given models of the run, with no more texts than so many; how many of
/// them it wrote at once.
type Work<'a> = dyn Fn(&Gpu, Vec<Model>, usize) -> Result<Option<usize>> + 'a;

/// What the stages of a run have in common.
struct Planner<'a> {
    gpu: &'a Gpu,
    shape: &'a RunShape<'a>,
    config: &'a RunConfig,
    peaks: Option<&'a Peaks>,
    vocabulary: usize,
    context: usize,
    /// Tokens of an answer.
    answer: usize,
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
        let (cost, seconds) = self.work(&counted, times);
        Ok(StagePlan { name, peak, cost, seconds, at_once, cut: None, fits })
    }

    /// The work of a round where `times` what was counted is done, and the least seconds of all rounds.
    fn work(&self, counted: &Gpu, times: f64) -> (Cost, Option<f64>) {
        let cost = counted.counted().into_iter().fold(Cost::default(), |all, one| all.plus(one, times));
        let rounds = f64::from(self.config.run.rounds);
        (cost, self.peaks.map(|peaks| seconds(counted, peaks) * times * rounds))
    }

    /// A stage that writes, with `count` models on the device, to `all` prompts of so many tokens so many answers of so
    /// many tokens.
    fn writes(
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

    /// A prompt's tokens, where the context has room for them.
    fn fitting(&self, tokens: usize) -> usize {
        tokens.min(self.context.saturating_sub(1)).max(1)
    }

    /// Has the judge read a wave of prompts with so many tokens of answers each; None of a mode compares two answers.
    fn verdicts(
        &self,
        gpu: &Gpu,
        judge: &Model,
        mode: Option<Judging>,
        (wave, answers, most): (usize, usize, usize),
    ) -> Result<Option<usize>> {
        let wave = wave.min(most);
        let reading = &self.config.judge.reading;
        let prompt = self.fitting(self.shape.judge + self.shape.prompt + answers);
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
    fn judges(&self, all: usize) -> Result<StagePlan> {
        let (j, n) = (&self.config.judge, self.config.candidates.n as usize);
        let wave = j.wave.min(all).max(1);
        let work = |gpu: &Gpu, models: Vec<Model>, most: usize| {
            self.verdicts(gpu, &models[0], Some(j.mode), (wave * n, self.answer, most))
        };
        self.stage("judge", (1, all as f64 / wave as f64), &work)
    }

    /// A training that takes `records` of `data`, of which a step's are there.
    fn trains(&self, name: &'static str, data: &Data, settings: &TrainSettings, records: usize) -> Result<StagePlan> {
        let model = |gpu: &Gpu| only(self.shape.models(gpu, 1)?);
        let fit = Fit { gpu: self.gpu, model: &model, data, settings, others: 0 };
        let Choice { cut, peak, fits } = fit.choose_or_untold(self.gpu.memory())?;
        let (counted, taken) = fit.count(cut)?;
        let (cost, seconds) = self.work(&counted, records as f64 / taken as f64);
        Ok(StagePlan { name, peak, cost, seconds, at_once: None, cut: Some(cut), fits })
    }

    /// The training of M1 on files of examples.
    fn supervised(&self) -> Result<StagePlan> {
        if let Some(given) = self.shape.supervision {
            let records = given.examples().len() * given.settings().epochs;
            return self.trains("sft", &Data::Examples(given.examples()), given.settings(), records);
        }
        let section = &self.config.sft;
        let most = section.max_length.min(self.context);
        let example = Example::new(self.ids(0, most / 2), self.ids(1, most - most / 2));
        let records = section.files.iter().map(|path| lines(path)).sum::<Result<usize>>()?;
        let examples = vec![example; section.training.batch.min(records).max(1)];
        self.trains("sft", &Data::Examples(&examples), &section.training, records * section.training.epochs)
    }

    /// The training on the pairs of `all` prompts.
    fn preferences(&self, all: usize) -> Result<StagePlan> {
        let d = &self.config.dpo;
        let prompt = self.ids(0, self.fitting(self.shape.prompt));
        let (records, step) = (all * d.training.epochs, d.training.batch.min(all).max(1));
        match d.method {
            Method::Dpo => {
                let pair = Pair::new(prompt, self.ids(1, self.answer), self.ids(2, self.answer));
                let pairs = vec![pair; step];
                let data = Data::Pairs { pairs: &pairs, objective: &d.objective, reference: None };
                self.trains("training", &data, &d.training, records)
            }
            Method::SftBest => {
                let examples = vec![Example::new(prompt, self.ids(1, self.answer)); step];
                self.trains("training", &Data::Examples(&examples), &d.training, records)
            }
        }
    }

    fn ids(&self, key: u64, tokens: usize) -> Vec<u32> {
        ids(self.vocabulary, key, tokens)
    }

    /// Answers to held-out prompts between the steps of a training of `all` prompts, and their verdicts.
    fn validates(&self, all: usize) -> Result<StagePlan> {
        let (config, v) = (self.config, &self.config.validation);
        let prompts = lines(&v.prompts)?;
        let steps = (all * config.dpo.training.epochs).div_ceil(config.dpo.training.batch.max(1));
        let (prompt, samples) = (self.fitting(self.shape.prompt), v.samples as usize);
        let work = |gpu: &Gpu, mut models: Vec<Model>, most: usize| {
            let requests = requests(self.vocabulary, prompts.min(most), prompt, samples.min(most));
            let judge = models.pop();
            let trainer = config.dpo.training.trainer(gpu, only(models)?)?;
            let at_once = write(gpu, trainer.model(), &requests, (self.answer, config.candidates.kv))?;
            let asked = (prompts * samples, self.answer, most);
            judge.map_or(Ok(None), |judge| self.verdicts(gpu, &judge, Some(config.judge.mode), asked))?;
            Ok(Some(at_once))
        };
        self.stage("validation", (2, steps.div_ceil(v.every) as f64), &work)
    }

    /// What is measured of each model: its answers beside it alone, and duels judged by M1 beside it.
    fn evaluates(&self) -> Result<Vec<StagePlan>> {
        let (e, c, j) = (&self.config.evaluation, &self.config.candidates, &self.config.judge);
        let name = "evaluation";
        // What M1 was trained from is measured beside M1, which the round goes on with.
        let count = if self.config.sft.files.is_empty() { 1 } else { 2 };
        let mut parts = Vec::new();
        if given(&e.prompts) {
            let prompts = lines(&e.prompts)?;
            let answers = (self.shape.prompt, e.samples as usize, self.answer);
            parts.push(self.writes((name, count), (c.wave, prompts), answers)?);
            let wave = j.wave.min(prompts).max(1);
            let (mode, read) = match e.mode {
                Comparison::SideBySide => (None, 2 * self.answer),
                Comparison::Scores(mode) => (Some(Judging::By(mode)), self.answer),
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
                self.verdicts(gpu, &models[0], Some(j.mode), (wave, self.answer, most))
            };
            parts.push(self.stage(name, (count, answers as f64 / wave as f64), &work)?);
        }
        for task in &e.tasks {
            let items = lines(&task.data)?;
            let prompt = self.shape.prompt + task.shots as usize * (self.shape.prompt + self.answer);
            if Known::named(&task.task)?.tokens.is_some() {
                parts.push(self.writes(
                    (name, count),
                    (c.wave, items),
                    (prompt, task.samples as usize, self.answer),
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

fn given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// How many records a file of lines has.
fn lines(path: &Path) -> Result<usize> {
    let text = disk::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).count())
}

/// Parts of one stage, one after the other, as one.
fn together(parts: Vec<StagePlan>) -> Option<StagePlan> {
    parts.into_iter().reduce(|a, b| StagePlan {
        cost: a.cost.plus(b.cost, 1.0),
        seconds: a.seconds.zip(b.seconds).map(|(a, b)| a + b),
        fits: a.fits && b.fits,
        peak: if a.peak.bytes >= b.peak.bytes { a.peak } else { b.peak },
        ..a
    })
}

/// Plans a run, stage by stage. The times are those of all rounds together, where the device's `peaks` are known.
///
/// # Errors
/// The configuration is not valid, a file that it names cannot be read, or the device cannot bind a buffer.
pub fn of_run(gpu: &Gpu, shape: &RunShape, config: &RunConfig, peaks: Option<&Peaks>) -> Result<RunPlan> {
    let m0 = (shape.model)(&gpu.counting(None))?;
    let (vocabulary, context) = (m0.arch.vocab_size, m0.arch.context());
    let answer = config.candidates.max_new_tokens.min(context.saturating_sub(shape.prompt)).max(1);
    let planner = Planner { gpu, shape, config, peaks, vocabulary, context, answer };
    let (p, c) = (&config.prompts, &config.candidates);
    let all = p.count + p.from_seed;
    let mut stages = Vec::new();
    if !config.sft.files.is_empty() {
        stages.push(planner.supervised()?);
    }
    if p.count > 0 {
        let shots = (p.seed_shots + p.own_shots) * shape.prompt;
        stages.push(planner.writes(("prompts", 1), (p.wave, p.count), (shots, 1, p.max_new_tokens))?);
    }
    stages.push(planner.writes(("candidates", 1), (c.wave, all), (shape.prompt, c.n as usize, answer))?);
    if config.judge.mode.is_self() {
        stages.push(planner.judges(all)?);
    }
    stages.push(planner.preferences(all)?);
    if given(&config.validation.prompts) {
        stages.push(planner.validates(all)?);
    }
    stages.extend(together(planner.evaluates()?));
    let trained = match &shape.adapter {
        Some(config) => {
            let tensors = Adapter::parameters(&m0.arch, config)?;
            tensors.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum::<u64>()
        }
        None => m0.params.iter().flatten().map(|w| (w.rows() * w.cols()) as u64).sum(),
    };
    let models = if config.run.keep == 0 { u64::from(config.run.rounds) } else { u64::from(config.kept()) + 1 };
    // A checkpoint holds the weights and two moments, and is written before the one before it goes.
    let (d, passes) = (&config.dpo.training, (all * config.dpo.training.epochs) as u64);
    let states = if passes > d.batch as u64 * d.save_every { 6 } else { 0 };
    Ok(RunPlan { stages, disk_bytes: 4 * trained * (models + u64::from(!config.sft.files.is_empty()) + states) })
}
