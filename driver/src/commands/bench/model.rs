//! The speed of a model: prefill, decoding at several batch sizes, and a DPO step.

use crate::app::{App, DtypeArg};
use anyhow::{Result, bail};
use selfreward::arch::lora::Adapter;
use selfreward::arch::{Arch, NamedTensor, family};
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::{Cost, Gpu};
use selfreward::json::read_json;
use selfreward::kernels::peak::Peaks;
use selfreward::model::{Model, score};
use selfreward::rng::{Stream, fnv};
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::{LearningRate, LoraSettings, Optimiser, Trainer, WeightType};
use selfreward::{Observer, Silent};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// How many sequences decode together, in each measurement.
const BATCHES: [usize; 3] = [1, 8, 32];
/// How often decoding with an adapter takes turns with decoding without one.
const TURNS: usize = 4;
/// Tokens of a prompt that is not itself measured.
const SHORT: usize = 16;

/// How many tokens to measure with.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) prefill: usize,
    pub(super) decode: usize,
    /// Pairs of the DPO step, then tokens of each prompt and of each answer.
    pub(super) pairs: [usize; 3],
    /// The rank of an adapter to measure with.
    pub(super) lora_rank: Option<usize>,
}

/// The figures of one model on one device.
#[derive(Serialize)]
pub(super) struct Speed {
    prefill_tok_s: f64,
    decode_tok_s: f64,
    decode_tok_s_batch: BTreeMap<usize, f64>,
    dpo_tokens_s: f64,
    /// Time of an optimiser step divided by that of a forward pass on the same pairs.
    dpo_step_over_forward: f64,
    /// Time of a step that computes each block's activations again in the backward pass, divided by that of the forward
    /// pass.
    dpo_recomputed_over_forward: f64,
    dpo_pairs_s: f64,
    /// Time of a step in which each answer has its own copy of the prompt, divided by that of one in which the answers
    /// share it.
    dpo_sharing_gain: f64,
    peak_bytes: u64,
    /// With `--lora-rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<Adapted>,
    pub(super) phases: Vec<Phase>,
}

/// What an adapter on all linear layers costs.
#[derive(Serialize)]
struct Adapted {
    rank: usize,
    /// Time of a decoding step divided by that of the base alone, by batch size.
    decode_over_base: BTreeMap<usize, f64>,
    /// Time of a DPO step that trains the adapter divided by that of one that trains all weights.
    dpo_step_over_full: f64,
}

/// One piece of a model's work: its time, its counted work, and what fraction that is of the device's peak that bounds
/// it.
#[derive(Clone, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) ms: f64,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) gflops: f64,
    pub(super) gbs: f64,
    pub(super) share: f64,
}

/// A number of seconds, and the work that was submitted in them.
#[derive(Clone, Copy)]
struct Spent {
    seconds: f64,
    work: Cost,
}

impl Spent {
    /// What `self` took beyond `less`.
    fn beyond(self, less: Spent) -> Spent {
        let work = self.work.plus(less.work, -1.0);
        // A disturbed run may take longer than one with more work; the figure must stay finite.
        Spent { seconds: (self.seconds - less.seconds).max(1e-9), work }
    }

    fn phase(self, name: String, peaks: &Peaks) -> Phase {
        let Spent { seconds, work } = self;
        Phase {
            name,
            ms: seconds * 1e3,
            flops: work.flops,
            bytes: work.bytes,
            gflops: work.flops / seconds / 1e9,
            gbs: work.bytes / seconds / 1e9,
            share: peaks.share(work, seconds),
        }
    }
}

/// The quicker of two measurements, since disturbances only make slower.
fn quicker(a: Spent, b: Spent) -> Spent {
    if b.seconds < a.seconds { b } else { a }
}

/// A clock, with a count of the work that was submitted.
struct Watch<'g> {
    gpu: &'g Gpu,
    start: Instant,
    work: Cost,
}

impl<'g> Watch<'g> {
    fn start(gpu: &'g Gpu) -> Watch<'g> {
        Watch { gpu, start: Instant::now(), work: gpu.work() }
    }

    /// The time and the work since the start or the last call. Everything submitted must have been waited for.
    fn lap(&mut self) -> Spent {
        let (seconds, work) = (self.start.elapsed().as_secs_f64(), self.gpu.work());
        let spent = Spent { seconds, work }.beyond(Spent { seconds: 0.0, work: self.work });
        (self.start, self.work) = (Instant::now(), work);
        spent
    }
}

pub(super) fn measure(
    app: &App,
    gpu: &Gpu,
    (model, config): (Option<&Path>, Option<&Path>),
    dtype: &DtypeArg,
    sizes: Sizes,
    peaks: &Peaks,
) -> Result<Speed> {
    let source = model.map(|path| app.source(path)).transpose()?;
    // Quantised weights answer as they are, and are trained in f32.
    let load = |trainable: bool| -> Result<Model> {
        match (&source, config) {
            (Some(source), _) if trainable => dtype.trainable(gpu, source, WeightType::F32, source.adapter.is_some()),
            (Some(source), _) => Ok(Model::load_as(gpu, source, dtype.storage())?),
            (None, Some(path)) => {
                let arch = family::arch(&read_json(path)?)?;
                Ok(Model::from_tensors(gpu, &arch, random_weights(&arch))?)
            }
            (None, None) => bail!("no model to measure"),
        }
    };
    let model = load(false)?;
    let arch = model.arch().clone();
    let longest = sizes.prefill.max(SHORT + sizes.decode + 1);
    if longest >= arch.max_position_embeddings {
        bail!("--prefill and --decode need {longest} tokens, the model's context has {}", arch.max_position_embeddings);
    }
    gpu.reset_peak();
    app.progress.begin("bench", Some(5 + BATCHES.len() as u64), "measurements");
    let prefill = answer(gpu, &model, 1, sizes.prefill, 1, 2)?;
    app.progress.advance(1);
    let mut phases = vec![prefill.phase(format!("prefill of {}", sizes.prefill), peaks)];
    let adapter = sizes.lora_rank.map(|rank| adapter(&arch, rank)).transpose()?;
    let adapted = match &adapter {
        Some(fresh) => Some(load(false)?.with_adapter(gpu, Some(fresh))?),
        None => None,
    };
    let (mut decode, mut over_base) = (BTreeMap::new(), BTreeMap::new());
    for batch in BATCHES {
        let of = |model: &Model, runs: usize| -> Result<Spent> {
            let long = answer(gpu, model, batch, SHORT, sizes.decode + 1, runs)?;
            Ok(long.beyond(answer(gpu, model, batch, SHORT, 1, runs)?))
        };
        let mut spent = of(&model, 2)?;
        let name = format!("decode of {} x {batch}", sizes.decode);
        if let Some(adapted) = &adapted {
            let mut beside = of(adapted, 2)?;
            for _ in 0..TURNS {
                spent = quicker(spent, of(&model, 1)?);
                beside = quicker(beside, of(adapted, 1)?);
            }
            over_base.insert(batch, beside.seconds / spent.seconds);
            phases.push(beside.phase(format!("{name}, adapter"), peaks));
        }
        decode.insert(batch, (batch * sizes.decode) as f64 / spent.seconds);
        phases.push(spent.phase(name, peaks));
        app.progress.advance(1);
    }
    drop((model, adapted));
    let [n, prompt, each] = sizes.pairs;
    let pairs = pairs(&arch, sizes.pairs);
    let model = load(true)?;
    let forward = forward(gpu, &model, &pairs)?;
    app.progress.advance(1);
    let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
    if let Some(half) = dtype.copies(trainer.model()) {
        trainer.read_half(half)?;
    }
    let mut steps = Vec::new();
    for (share_prompts, recompute) in [(true, false), (true, true), (false, false)] {
        trainer.set_share_prompts(share_prompts);
        trainer.set_checkpoint(Some(recompute));
        trainer.set_step(0);
        steps.push(step(gpu, &mut trainer, &pairs)?);
        app.progress.advance(1);
    }
    drop(trainer);
    let shape = format!("{n} x ({prompt} + {each} + {each})");
    let lora = match &adapter {
        None => None,
        Some(fresh) => {
            let model = load(true)?.with_adapter(gpu, Some(fresh))?;
            let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
            trainer.set_checkpoint(Some(false));
            let (spent, _) = step(gpu, &mut trainer, &pairs)?;
            phases.push(spent.phase(format!("DPO step, adapter, {shape}"), peaks));
            let dpo_step_over_full = spent.seconds / steps[0].0.seconds;
            Some(Adapted { rank: fresh.config.rank, decode_over_base: over_base, dpo_step_over_full })
        }
    };
    app.progress.end();
    let names = ["DPO forward", "DPO step", "DPO step, activations recomputed", "DPO step, prompts not shared"];
    let spent = [forward].into_iter().chain(steps.iter().map(|(spent, _)| *spent));
    phases.extend(names.iter().zip(spent).map(|(name, s)| s.phase(format!("{name}, {shape}"), peaks)));
    let (shared, tokens) = steps[0];
    Ok(Speed {
        prefill_tok_s: sizes.prefill as f64 / prefill.seconds,
        decode_tok_s: decode[&1],
        decode_tok_s_batch: decode,
        dpo_tokens_s: tokens as f64 / shared.seconds,
        dpo_step_over_forward: shared.seconds / forward.seconds,
        dpo_recomputed_over_forward: steps[1].0.seconds / forward.seconds,
        dpo_pairs_s: n as f64 / shared.seconds,
        dpo_sharing_gain: steps[2].0.seconds / shared.seconds,
        peak_bytes: gpu.peak_bytes(),
        lora,
        phases,
    })
}

/// Repeatable token ids.
fn ids(arch: &Arch, key: u64, n: usize) -> Vec<u32> {
    let mut stream = Stream::new(0, key);
    (0..n).map(|_| stream.below(arch.vocab_size) as u32).collect()
}

/// An adapter on all linear layers.
fn adapter(arch: &Arch, rank: usize) -> Result<Adapter> {
    Ok(Adapter::fresh(arch, &LoraSettings::default().rank(rank).config(), 0)?)
}

/// The quickest of some equal generations, after one that warms up.
fn answer(gpu: &Gpu, model: &Model, batch: usize, prompt: usize, new: usize, runs: usize) -> Result<Spent> {
    let settings = Settings::default().sampling(Sampling::default().temperature(0.0)).max_new_tokens(new);
    let request = |i| Request { prompt: ids(model.arch(), i, prompt), samples: vec![i] };
    let requests: Vec<Request> = (0..batch as u64).map(request).collect();
    let mut generator = Generator::new(gpu, model);
    let mut run = || -> Result<Spent> {
        let mut watch = Watch::start(gpu);
        generator.run(&requests, &settings)?;
        Ok(watch.lap())
    };
    run()?;
    (1..runs).try_fold(run()?, |best, _| Ok(quicker(best, run()?)))
}

/// `n` pairs with a prompt and answers of these lengths.
fn pairs(arch: &Arch, [n, prompt, answer]: [usize; 3]) -> Vec<Pair> {
    let list = |key, n| ids(arch, key, n);
    let pair = |i| Pair::new(list(3 * i, prompt), list(3 * i + 1, answer), list(3 * i + 2, answer));
    (0..n as u64).map(pair).collect()
}

/// The quicker of two forward passes over the pairs, after one that warms up.
fn forward(gpu: &Gpu, model: &Model, pairs: &[Pair]) -> Result<Spent> {
    let branch =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(branch).collect();
    let run = || -> Result<Spent> {
        let mut watch = Watch::start(gpu);
        score::logps(gpu, model, &branches, &Silent)?;
        Ok(watch.lap())
    };
    run()?;
    Ok(quicker(run()?, run()?))
}

/// The quicker of two DPO steps on the pairs, after one that warms up, and the number of its tokens.
fn step(gpu: &Gpu, trainer: &mut Trainer, pairs: &[Pair]) -> Result<(Spent, u64)> {
    let config = DpoConfig::default().epochs(3).batch(pairs.len()).lr(LearningRate::constant(1e-6));
    let reference = vec![PairLogps::default(); pairs.len()];
    let (mut watch, mut all) = (Watch::start(gpu), Vec::new());
    dpo::Training::new(pairs, &config)
        .reference(Some(&reference))
        .on_step(&mut |_, done| {
            all.push((watch.lap(), done.tokens));
            Ok(())
        })
        .run(trainer)?;
    match all[..] {
        [_, (a, tokens), (b, _)] => Ok((quicker(a, b), tokens)),
        _ => bail!("{} DPO steps were taken where 3 were asked for", all.len()),
    }
}

/// Small random weights; the speed does not depend on their values.
fn random_weights(arch: &Arch) -> Vec<NamedTensor> {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let mut stream = Stream::new(0, fnv(name.as_bytes()));
        let data = (0..shape.iter().product()).map(|_| 0.04 * (stream.uniform() - 0.5)).collect();
        NamedTensor { name, shape, data }
    };
    family::parameters(arch).into_iter().map(tensor).collect()
}
