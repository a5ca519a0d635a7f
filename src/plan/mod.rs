//! What a whole run would take: the memory of each stage, its work, its least time at the device's peaks, and its room
//! on disk.

mod stages;

use crate::Result;
use crate::arch::lora::{Adapter, LoraConfig};
use crate::config::{JudgeSection, Judging, RunConfig};
use crate::generate::{Generator, KvType, Request, Settings};
use crate::gpu::{Cost, Gpu, Peak};
use crate::judge::{Mode, Template};
use crate::kernels::peak::Peaks;
use crate::model::Model;
use crate::recipe::judging::{ranked, templates};
use crate::recipe::supervised::Supervision;
use crate::rng::Stream;
use crate::text::Language;
use crate::train::fit::Cut;
use stages::{EVALUATION, Planner, given};

/// Bytes of text that a token stands for, about.
const BYTES: usize = 4;

/// What one stage takes.
pub struct StagePlan {
    /// The name of the stage.
    pub name: &'static str,
    /// The most that the stage's buffers take at once, the models of the run included.
    pub peak: Peak,
    /// The work of the stage in one round (of the evaluation: for one model; of the controls: for all), if every answer
    /// is as long as it may be.
    pub cost: Cost,
    /// The least seconds that the stage takes in the whole run, where the device's peaks are known.
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
    /// The stages of the run. The supervised training and the controls come once, the evaluation for each model, all
    /// others in each round.
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
    /// Tokens of a question with an answer by which the judge is measured ([`ranked_answer`]).
    pub ranked: usize,
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

/// Most tokens that a question has with one of the answers by which the judge is measured before a round; estimated
/// where there is no language.
///
/// # Errors
/// The answers cannot be read or encoded.
pub fn ranked_answer(config: &RunConfig, language: Option<&dyn Language>) -> Result<usize> {
    if !config.judge.mode.is_self() {
        return Ok(0);
    }
    let mut most = 0;
    for set in ranked(config)? {
        for answer in &set.answers {
            let tokens = match language {
                Some(language) => language.ask(&set.question)?.len() + language.encode(&answer.response)?.len(),
                None => (set.question.len() + answer.response.len()) / BYTES,
            };
            most = most.max(tokens);
        }
    }
    Ok(most)
}

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
/// [`crate::Error::OutOfMemory`] if one answer alone does not fit; errors of prompts that cannot be answered.
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
        stages.push(planner.gate()?);
        stages.push(planner.judges(all)?);
    }
    stages.push(planner.learns("training", config.dpo.method, all)?);
    if given(&config.validation.prompts) {
        stages.push(planner.validates(all)?);
    }
    stages.extend(together(planner.controls(all)?));
    stages.extend(together(planner.evaluates(EVALUATION)?));
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
