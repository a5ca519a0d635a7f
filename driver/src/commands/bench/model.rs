//! The speed of a model: prefill, decoding at several batch sizes, and a DPO step.

use crate::app::{App, DtypeArg};
use crate::dtype::ON_DEVICE;
use anyhow::{Result, bail};
use selfreward::arch::lora::Adapter;
use selfreward::arch::{Arch, Dtype, family};
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::{Cost, Gpu};
use selfreward::json::read_json;
use selfreward::kernels::half::Half;
use selfreward::kernels::peak::Peaks;
use selfreward::model::{Model, score};
use selfreward::plan::ids;
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::{LearningRate, LoraSettings, Optimiser, Trainer, WeightType};
use selfreward::{Observer, Silent};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// How many sequences decode together, in each measurement.
const BATCHES: [usize; 3] = [1, 8, 32];
/// How often decoding with an adapter takes turns with decoding without one.
const TURNS: usize = 4;
/// Tokens of a prompt that is not itself measured.
pub(super) const SHORT: usize = 16;

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
    pub(super) dtype: String,
    /// Timed runs, of which `ms` is the quickest, since disturbances only make slower.
    pub(super) n: usize,
    pub(super) ms: f64,
    pub(super) mean_ms: f64,
    pub(super) sd_ms: f64,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) gflops: f64,
    pub(super) gbs: f64,
    pub(super) share: f64,
    /// Tokens a second, where the phase makes or reads some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tok_s: Option<f64>,
}

/// A number of seconds, and the work that was submitted in them.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    work: Cost,
}

impl Spent {
    /// What `self` took beyond `less`.
    fn beyond(self, less: Spent) -> Spent {
        let work = self.work.plus(less.work, -1.0);
        // A disturbed run may take longer than one with more work; the figure must stay finite.
        Spent { seconds: (self.seconds - less.seconds).max(1e-9), work }
    }
}

/// Some runs of the same.
#[derive(Clone)]
pub(super) struct Samples {
    all: Vec<Spent>,
    /// The quickest, since disturbances only make slower.
    pub(super) best: Spent,
}

impl Samples {
    pub(super) fn of(all: Vec<Spent>) -> Result<Samples> {
        match all.iter().copied().reduce(quicker) {
            Some(best) => Ok(Samples { all, best }),
            None => bail!("nothing was timed"),
        }
    }

    /// What these runs took beyond those of `less`.
    pub(super) fn beyond(&self, less: &Samples) -> Samples {
        let all = self.all.iter().zip(&less.all).map(|(a, b)| a.beyond(*b)).collect();
        Samples { all, best: self.best.beyond(less.best) }
    }

    /// These runs and more of them.
    fn and(mut self, more: Samples) -> Samples {
        self.all.extend(more.all);
        Samples { all: self.all, best: quicker(self.best, more.best) }
    }

    /// The row of a phase in which so many tokens were read or made.
    pub(super) fn phase(&self, name: String, dtype: &str, tokens: Option<usize>, peaks: &Peaks) -> Phase {
        let Spent { seconds, work } = self.best;
        let n = self.all.len().max(1) as f64;
        let mean = self.all.iter().map(|s| s.seconds).sum::<f64>() / n;
        let square = self.all.iter().map(|s| (s.seconds - mean).powi(2)).sum::<f64>();
        Phase {
            name,
            dtype: dtype.to_owned(),
            n: self.all.len(),
            ms: seconds * 1e3,
            mean_ms: mean * 1e3,
            sd_ms: (square / (n - 1.0).max(1.0)).sqrt() * 1e3,
            flops: work.flops,
            bytes: work.bytes,
            gflops: work.flops / seconds / 1e9,
            gbs: work.bytes / seconds / 1e9,
            share: peaks.share(work, seconds),
            tok_s: tokens.map(|tokens| tokens as f64 / seconds),
        }
    }
}

/// The quicker of two measurements, since disturbances only make slower.
fn quicker(a: Spent, b: Spent) -> Spent {
    if b.seconds < a.seconds { b } else { a }
}

/// A clock, with a count of the work that was submitted.
pub(super) struct Watch<'g> {
    gpu: &'g Gpu,
    start: Instant,
    work: Cost,
}

impl<'g> Watch<'g> {
    pub(super) fn start(gpu: &'g Gpu) -> Watch<'g> {
        Watch { gpu, start: Instant::now(), work: gpu.work() }
    }

    /// The time and the work since the start or the last call. Everything submitted must have been waited for.
    pub(super) fn lap(&mut self) -> Spent {
        let (seconds, work) = (self.start.elapsed().as_secs_f64(), self.gpu.work());
        let spent = Spent { seconds, work }.beyond(Spent { seconds: 0.0, work: self.work });
        (self.start, self.work) = (Instant::now(), work);
        spent
    }
}

/// What is measured: a model's files, or a shape with random weights.
pub(super) struct Subject {
    source: Option<Rc<ModelSource>>,
    shape: Option<Arch>,
    dtype: Option<Dtype>,
}

impl Subject {
    /// Opens what `--model` or `--config` names; with a type given the matrices of a shape are of that, and those of
    /// files are rounded to it.
    pub(super) fn open(
        app: &App,
        (model, config): (Option<&Path>, Option<&Path>),
        given: Option<&str>,
    ) -> Result<Subject> {
        let source = model.map(|path| app.source(path)).transpose()?.map(Rc::new);
        let shape = config.map(|path| anyhow::Ok(family::arch(&read_json(path)?)?)).transpose()?;
        let dtype = given.and_then(named);
        if let (Some(name), None) = (given, dtype)
            && (source.is_some() || shape.is_some())
        {
            bail!("--dtype {name} is no type of files; it is for kernels alone");
        }
        if let (Some(name), Some(_)) = (given, dtype.filter(|d| source.is_some() && !ON_DEVICE.contains(d))) {
            bail!(
                "--dtype {name} is for kernels and shapes; a model is quantised where its file is (leave --dtype out)"
            );
        }
        Ok(Subject { source, shape, dtype })
    }

    /// The same shape with matrices of another type, or the same files: those have their own.
    pub(super) fn with(&self, dtype: impl Fn(Dtype) -> Dtype) -> Subject {
        let own = self.dtype.unwrap_or(Dtype::F32);
        let dtype = if self.shape.is_some() { Some(dtype(own)) } else { self.dtype };
        Subject { source: self.source.clone(), shape: self.shape.clone(), dtype }
    }

    fn arg(&self) -> DtypeArg {
        DtypeArg::of(self.dtype)
    }

    /// The type of the matrices, as rows say it.
    pub(super) fn dtype(&self) -> String {
        let own = if self.shape.is_some() { "f32" } else { "own" };
        self.dtype.map_or(own.to_owned(), |dtype| dtype.name().to_lowercase())
    }

    /// Loads it. What is trained as a whole is in f32, whatever the files have; a base that an adapter is trained on
    /// stays as it is.
    pub(super) fn load(&self, gpu: &Gpu, trainable: bool) -> Result<Model> {
        match (&self.source, &self.shape) {
            (Some(source), _) if trainable => {
                self.arg().trainable(gpu, source, WeightType::F32, source.adapter.is_some())
            }
            (Some(source), _) => Ok(Model::load_as(gpu, source, self.arg().storage())?),
            (None, Some(arch)) => {
                let dtype = self.dtype.filter(|_| !trainable).unwrap_or(Dtype::F32);
                Ok(Model::random(gpu, arch, dtype)?)
            }
            (None, None) => bail!("no model to measure"),
        }
    }

    /// The type of the copies that products read while all weights are trained.
    fn copies(&self, model: &Model) -> Option<Half> {
        self.arg().copies(model)
    }
}

/// The type of a model's matrices that a name of the kernels' types means: of f16 that, of q4 Q4_0, of q4k Q4_K.
fn named(given: &str) -> Option<Dtype> {
    let plain = |dtype: &Dtype| dtype.name().to_lowercase().replace('_', "");
    let exact = Dtype::all().find(|dtype| plain(dtype) == given);
    exact.or_else(|| Dtype::all().find(|dtype| plain(dtype).starts_with(given)))
}

/// Refuses more tokens than the model's context has.
pub(super) fn expect_context(arch: &Arch, tokens: usize, flags: &str) -> Result<()> {
    if tokens >= arch.max_position_embeddings {
        bail!("{flags} need {tokens} tokens, the model's context has {}", arch.max_position_embeddings);
    }
    Ok(())
}

pub(super) fn measure(app: &App, gpu: &Gpu, subject: &Subject, sizes: Sizes, peaks: &Peaks) -> Result<Speed> {
    let (model, dtype) = (subject.load(gpu, false)?, subject.dtype());
    let arch = model.arch().clone();
    expect_context(&arch, sizes.prefill.max(SHORT + sizes.decode + 1), "--prefill and --decode")?;
    gpu.reset_peak();
    app.progress.begin("bench", Some(5 + BATCHES.len() as u64), "measurements");
    let prefill = answer(gpu, &model, 1, sizes.prefill, 1, 2)?;
    app.progress.advance(1);
    let name = format!("prefill of {}", sizes.prefill);
    let mut phases = vec![prefill.phase(name, &dtype, Some(sizes.prefill), peaks)];
    let adapter = sizes.lora_rank.map(|rank| adapter(&arch, rank)).transpose()?;
    let adapted = match &adapter {
        Some(fresh) => Some(subject.load(gpu, false)?.with_adapter(gpu, Some(fresh))?),
        None => None,
    };
    let (mut decode, mut over_base) = (BTreeMap::new(), BTreeMap::new());
    for batch in BATCHES {
        let of = |model: &Model, runs: usize| -> Result<Samples> {
            let long = answer(gpu, model, batch, SHORT, sizes.decode + 1, runs)?;
            Ok(long.beyond(&answer(gpu, model, batch, SHORT, 1, runs)?))
        };
        let mut spent = of(&model, 2)?;
        let name = format!("decode of {} x {batch}", sizes.decode);
        if let Some(adapted) = &adapted {
            let mut beside = of(adapted, 2)?;
            for _ in 0..TURNS {
                spent = spent.and(of(&model, 1)?);
                beside = beside.and(of(adapted, 1)?);
            }
            over_base.insert(batch, beside.best.seconds / spent.best.seconds);
            phases.push(beside.phase(format!("{name}, adapter"), &dtype, Some(batch * sizes.decode), peaks));
        }
        decode.insert(batch, (batch * sizes.decode) as f64 / spent.best.seconds);
        phases.push(spent.phase(name, &dtype, Some(batch * sizes.decode), peaks));
        app.progress.advance(1);
    }
    drop((model, adapted));
    let [n, prompt, each] = sizes.pairs;
    let pairs = pairs(&arch, sizes.pairs);
    let model = subject.load(gpu, true)?;
    let forward = forward(gpu, &model, &pairs)?;
    app.progress.advance(1);
    let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
    if let Some(half) = subject.copies(trainer.model()) {
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
            let model = subject.load(gpu, true)?.with_adapter(gpu, Some(fresh))?;
            let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
            trainer.set_checkpoint(Some(false));
            let (spent, _) = step(gpu, &mut trainer, &pairs)?;
            phases.push(spent.phase(format!("DPO step, adapter, {shape}"), &dtype, None, peaks));
            let dpo_step_over_full = spent.best.seconds / steps[0].0.best.seconds;
            Some(Adapted { rank: fresh.config.rank, decode_over_base: over_base, dpo_step_over_full })
        }
    };
    app.progress.end();
    let names = ["DPO forward", "DPO step", "DPO step, activations recomputed", "DPO step, prompts not shared"];
    let spent = [&forward].into_iter().chain(steps.iter().map(|(spent, _)| spent));
    phases.extend(names.iter().zip(spent).map(|(name, s)| s.phase(format!("{name}, {shape}"), &dtype, None, peaks)));
    let tokens = steps[0].1;
    let [shared, recomputed, apart] = [0, 1, 2].map(|i| steps[i].0.best.seconds);
    let forward = forward.best.seconds;
    Ok(Speed {
        prefill_tok_s: sizes.prefill as f64 / prefill.best.seconds,
        decode_tok_s: decode[&1],
        decode_tok_s_batch: decode,
        dpo_tokens_s: tokens as f64 / shared,
        dpo_step_over_forward: shared / forward,
        dpo_recomputed_over_forward: recomputed / forward,
        dpo_pairs_s: n as f64 / shared,
        dpo_sharing_gain: apart / shared,
        peak_bytes: gpu.peak_bytes(),
        lora,
        phases,
    })
}

/// An adapter on all linear layers.
pub(super) fn adapter(arch: &Arch, rank: usize) -> Result<Adapter> {
    Ok(Adapter::fresh(arch, &LoraSettings::default().rank(rank).config(), 0)?)
}

/// Some equal generations, after one that warms up.
pub(super) fn answer(
    gpu: &Gpu,
    model: &Model,
    batch: usize,
    prompt: usize,
    new: usize,
    runs: usize,
) -> Result<Samples> {
    let settings = Settings::default().sampling(Sampling::default().temperature(0.0)).max_new_tokens(new);
    let request = |i| Request { prompt: ids(model.arch().vocab_size, i, prompt), samples: vec![i] };
    let requests: Vec<Request> = (0..batch as u64).map(request).collect();
    let mut generator = Generator::new(gpu, model);
    let mut run = || -> Result<Spent> {
        let mut watch = Watch::start(gpu);
        generator.run(&requests, &settings)?;
        Ok(watch.lap())
    };
    run()?;
    Samples::of((0..runs.max(1)).map(|_| run()).collect::<Result<_>>()?)
}

/// `n` pairs with a prompt and answers of these lengths.
pub(super) fn pairs(arch: &Arch, [n, prompt, answer]: [usize; 3]) -> Vec<Pair> {
    let list = |key, n| ids(arch.vocab_size, key, n);
    let pair = |i| Pair::new(list(3 * i, prompt), list(3 * i + 1, answer), list(3 * i + 2, answer));
    (0..n as u64).map(pair).collect()
}

/// Two forward passes over the pairs, after one that warms up.
fn forward(gpu: &Gpu, model: &Model, pairs: &[Pair]) -> Result<Samples> {
    let branch =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(branch).collect();
    let run = || -> Result<Spent> {
        let mut watch = Watch::start(gpu);
        score::logps(gpu, model, &branches, &Silent)?;
        Ok(watch.lap())
    };
    run()?;
    Samples::of(vec![run()?, run()?])
}

/// Two DPO steps on the pairs, after one that warms up, and the number of a step's tokens.
pub(super) fn step(gpu: &Gpu, trainer: &mut Trainer, pairs: &[Pair]) -> Result<(Samples, u64)> {
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
        [_, (a, tokens), (b, _)] => Ok((Samples::of(vec![a, b])?, tokens)),
        _ => bail!("{} DPO steps were taken where 3 were asked for", all.len()),
    }
}
