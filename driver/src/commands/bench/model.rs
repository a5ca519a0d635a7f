//! A model's speed: prefill, decode at several batch sizes, a DPO step.

use crate::app::{App, DtypeArg};
use anyhow::{Result, bail};
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::{Arch, Model, NamedTensor, family, score};
use selfreward::recipe::records::read_json;
use selfreward::rng::{Stream, fnv};
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::{LearningRate, Optimiser, Schedule, Trainer};
use selfreward::{Observer, Silent};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Sequences that decode together.
const BATCHES: [usize; 3] = [1, 8, 32];
/// Prompt tokens where the prompt is not what is measured.
const SHORT: usize = 16;

/// Tokens to measure with.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) prefill: usize,
    pub(super) decode: usize,
    /// Pairs of the DPO step, tokens of each prompt and of each answer.
    pub(super) pairs: [usize; 3],
}

/// Figures of one model on one device.
#[derive(Serialize)]
pub(super) struct Speed {
    prefill_tok_s: f64,
    decode_tok_s: f64,
    decode_tok_s_batch: BTreeMap<usize, f64>,
    dpo_tokens_s: f64,
    dpo_pairs_s: f64,
    /// Time of an optimiser step over that of a forward pass on the same pairs.
    dpo_step_over_forward: f64,
    peak_bytes: u64,
}

pub(super) fn measure(
    app: &App,
    gpu: &Gpu,
    model: Option<&Path>,
    config: Option<&Path>,
    dtype: &DtypeArg,
    sizes: Sizes,
) -> Result<Speed> {
    let source = model.map(|path| app.source(path)).transpose()?;
    // Quantised weights answer as they are and are trained as f32.
    let load = |trainable: bool| -> Result<Model> {
        match (&source, config) {
            (Some(source), _) if trainable => dtype.trainable(gpu, source, source.adapter.is_some()),
            (Some(source), _) => Ok(Model::load_as(gpu, source, dtype.storage())?),
            (None, Some(path)) => {
                let arch = family::arch(&read_json(path)?)?;
                Ok(Model::from_tensors(gpu, &arch, random_weights(&arch))?)
            }
            (None, None) => bail!("no model to measure"),
        }
    };
    let model = load(false)?;
    let arch = model.arch.clone();
    let longest = sizes.prefill.max(SHORT + sizes.decode + 1);
    if longest >= arch.max_position_embeddings {
        bail!("--prefill and --decode need {longest} tokens, the model's context has {}", arch.max_position_embeddings);
    }
    gpu.reset_peak();
    app.progress.begin("bench", Some(2 + BATCHES.len() as u64), "measurements");
    let prefill = answer(gpu, &model, 1, sizes.prefill, 1)?;
    app.progress.advance(1);
    let mut decode = BTreeMap::new();
    for batch in BATCHES {
        let (long, short) =
            (answer(gpu, &model, batch, SHORT, sizes.decode + 1)?, answer(gpu, &model, batch, SHORT, 1)?);
        decode.insert(batch, (batch * sizes.decode) as f64 / (long - short).max(f64::MIN_POSITIVE));
        app.progress.advance(1);
    }
    drop(model);
    let (step, forward, tokens) = dpo_step(gpu, load(true)?, dtype, sizes.pairs)?;
    app.progress.end();
    Ok(Speed {
        prefill_tok_s: sizes.prefill as f64 / prefill,
        decode_tok_s: decode[&1],
        decode_tok_s_batch: decode,
        dpo_tokens_s: tokens as f64 / step,
        dpo_pairs_s: sizes.pairs[0] as f64 / step,
        dpo_step_over_forward: step / forward,
        peak_bytes: gpu.peak_bytes(),
    })
}

/// Repeatable token ids.
fn ids(arch: &Arch, key: u64, n: usize) -> Vec<u32> {
    let mut stream = Stream::new(0, key);
    (0..n).map(|_| stream.below(arch.vocab_size) as u32).collect()
}

/// Seconds of the second of two equal generations (the first one warms up).
fn answer(gpu: &Gpu, model: &Model, batch: usize, prompt: usize, new: usize) -> Result<f64> {
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: new,
        stop: Vec::new(),
        seed: 0,
        choices: Vec::new(),
    };
    let request = |i| Request { prompt: ids(&model.arch, i, prompt), samples: vec![i] };
    let requests: Vec<Request> = (0..batch as u64).map(request).collect();
    let mut generator = Generator::new(gpu, model);
    let mut seconds = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        generator.run(&requests, &settings, &Silent, &mut |_, _, _| {})?;
        seconds = start.elapsed().as_secs_f64();
    }
    Ok(seconds)
}

/// Seconds of a DPO step and of a forward pass on its pairs, and the tokens of the step.
fn dpo_step(gpu: &Gpu, model: Model, dtype: &DtypeArg, [n, prompt, answer]: [usize; 3]) -> Result<(f64, f64, u64)> {
    let list = |key, n| ids(&model.arch, key, n);
    let pair = |i| Pair::new(list(3 * i, prompt), list(3 * i + 1, answer), list(3 * i + 2, answer));
    let pairs: Vec<Pair> = (0..n as u64).map(pair).collect();
    let branch =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(branch).collect();
    let mut forward = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        score::logps(gpu, &model, &branches, &Silent)?;
        forward = start.elapsed().as_secs_f64();
    }
    let config = DpoConfig {
        objective: Objective::default(),
        epochs: 2,
        batch: n,
        lr: LearningRate { peak: 1e-6, min_lr: 1e-6, warmup: 0, warmup_offset: 0, schedule: Schedule::Constant },
        seed: 0,
    };
    let reference = vec![PairLogps::default(); n];
    let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
    if let Some(half) = dtype.copies(&trainer.model) {
        trainer.read_half(half)?;
    }
    let (mut start, mut step, mut tokens) = (Instant::now(), 0.0, 0);
    dpo::run(&mut trainer, &pairs, &config, Some(&reference), &Silent, &mut |_| Ok(()), &mut |_, done| {
        (step, tokens) = (start.elapsed().as_secs_f64(), done.tokens);
        start = Instant::now();
        Ok(())
    })?;
    Ok((step, forward, tokens))
}

/// Small random weights: speed does not depend on them.
fn random_weights(arch: &Arch) -> Vec<NamedTensor> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let mut stream = Stream::new(0, fnv(name.as_bytes()));
        let data = (0..shape.iter().product()).map(|_| 0.04 * (stream.uniform() - 0.5)).collect();
        NamedTensor { name, shape, data }
    };
    family::parameters(arch).into_iter().map(tensor).collect()
}
