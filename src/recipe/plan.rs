//! What a whole run would take: the memory of each stage, its least time at the device's peaks, and its room on disk.

use super::config::{Judging, Method, RunConfig};
use crate::generate::{Generator, Request, Settings};
use crate::gpu::{Gpu, Peak};
use crate::kernels::peak::Peaks;
use crate::model::Model;
use crate::rng::Stream;
use crate::train::dpo::Pair;
use crate::train::fit::{Choice, Cut, Fit};
use crate::train::job::Data;
use crate::train::sft::Example;
use crate::{Error, Result};

/// Most tokens that a judge's prompt has beside the question and the answer; those of the shipped templates are fewer.
const JUDGE_PROMPT: usize = 256;

/// What one stage takes, over all rounds.
pub struct StagePlan {
    /// The name of the stage.
    pub name: &'static str,
    /// The most that the stage's buffers take at once.
    pub peak: Peak,
    /// The least seconds that the stage takes in all rounds, if every answer is as long as it may be.
    pub seconds: f64,
    /// How a training cuts its batches into micro-batches.
    pub cut: Option<Cut>,
    /// Whether the stage fits into the memory given; true if none is given.
    pub fits: bool,
}

/// What a run will take, told before it begins.
pub struct RunPlan {
    /// The stages of a round.
    pub stages: Vec<StagePlan>,
    /// Most bytes that the run folder takes, with its models and the states of a training.
    pub disk_bytes: u64,
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
/// [`Error::OutOfMemory`] if one answer alone does not fit; errors of prompts that cannot be answered.
pub fn generation(
    gpu: &Gpu,
    model: &dyn Fn(&Gpu) -> Result<Model>,
    requests: &[Request],
    max_new_tokens: usize,
    memory: Option<u64>,
) -> Result<(Gpu, usize)> {
    let counted = gpu.counting(memory);
    let model = model(&counted)?;
    let settings = Settings { max_new_tokens, ..Settings::default() };
    let mut generator = Generator::new(&counted, &model);
    let at_once = generator.at_once(requests, &settings)?;
    generator.run(requests, &settings)?;
    drop(model);
    Ok((counted, at_once))
}

/// The least seconds that the counted work takes at the device's peaks.
pub fn seconds(counted: &Gpu, peaks: &Peaks) -> f64 {
    counted.counted().into_iter().map(|cost| peaks.least(cost)).sum()
}

/// Plans a run whose prompts have `prompt` tokens. The times are those of all rounds together; the models are in f32,
/// as runs load them.
/// # Errors
/// The configuration is not valid, or the device cannot bind a buffer.
pub fn of_run(
    gpu: &Gpu,
    model: &dyn Fn(&Gpu) -> Result<Model>,
    config: &RunConfig,
    prompt: usize,
    peaks: &Peaks,
) -> Result<RunPlan> {
    let (memory, rounds) = (gpu.memory(), f64::from(config.run.rounds));
    let shape = model(&gpu.counting(None))?;
    let (vocabulary, context) = (shape.arch.vocab_size, shape.arch.context());
    let parameters: u64 = shape.params.iter().flatten().map(|w| (w.rows() * w.cols()) as u64).sum();
    let answer = config.candidates.max_new_tokens.min(context.saturating_sub(prompt)).max(1);
    let mut stages = Vec::new();
    let mut answers = |name, wave: usize, all: usize, (prompt, samples, answer): (usize, usize, usize)| -> Result<()> {
        let (wave, prompt) = (wave.min(all).max(1), prompt.min(context.saturating_sub(1)).max(1));
        let one = requests(vocabulary, wave, prompt, samples);
        let (counted, fits) = match generation(gpu, model, &one, answer, memory) {
            Ok((counted, _)) => (counted, true),
            Err(Error::OutOfMemory(_)) => (generation(gpu, model, &one, answer, None)?.0, false),
            Err(other) => return Err(other),
        };
        let seconds = seconds(&counted, peaks) * all as f64 / wave as f64 * rounds;
        stages.push(StagePlan { name, peak: counted.peak(), seconds, cut: None, fits });
        Ok(())
    };
    let (p, c, j) = (&config.prompts, &config.candidates, &config.judge);
    if p.count > 0 {
        let shots = (p.seed_shots + p.own_shots) * prompt;
        answers("prompts", p.wave, p.count, (shots, 1, p.max_new_tokens))?;
    }
    let all = p.count + p.from_seed;
    answers("candidates", c.wave, all, (prompt, c.n as usize, answer))?;
    if j.mode != Judging::Random {
        let asked = (JUDGE_PROMPT + prompt + answer, j.reading.samples, j.reading.max_new_tokens);
        answers("judge", j.wave * c.n as usize, all * c.n as usize, asked)?;
    }
    let d = &config.dpo;
    let settings = &d.training;
    let list = |key, n| ids(vocabulary, key, n);
    let (pairs, examples);
    let data = match d.method {
        Method::Dpo => {
            pairs = vec![Pair::new(list(0, prompt), list(1, answer), list(2, answer)); all];
            Data::Pairs { pairs: &pairs, objective: &d.objective, reference: None }
        }
        Method::SftBest => {
            examples = vec![Example::new(list(0, prompt), list(1, answer)); all];
            Data::Examples(&examples)
        }
    };
    let fit = Fit { gpu, model, data: &data, settings, others: 0 };
    let Choice { cut, peak, fits } = fit.choose_or_untold(memory)?;
    let (counted, taken) = fit.count(cut)?;
    let seconds = seconds(&counted, peaks) / taken as f64 * (all * settings.epochs) as f64 * rounds;
    stages.push(StagePlan { name: "training", peak, seconds, cut: Some(cut), fits });
    let models = if config.run.keep == 0 { u64::from(config.run.rounds) } else { u64::from(config.kept()) + 1 };
    // A checkpoint holds the weights and two moments, and is written before the one before it goes.
    let states = if (all * settings.epochs) as u64 > settings.batch as u64 * settings.save_every { 6 } else { 0 };
    Ok(RunPlan { stages, disk_bytes: 4 * parameters * (models + u64::from(!config.sft.files.is_empty()) + states) })
}
