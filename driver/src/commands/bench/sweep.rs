//! A model at all prompts, generations, depths and batches of lists, and its training steps by length, batch and
//! method.

use super::model::{Phase, SHORT, Samples, Subject, Watch, adapter, answer, expect_context, pairs, step};
use super::ranges::Numbers;
use crate::app::App;
use crate::tables::Table;
use anyhow::{Result, bail};
use selfreward::Observer;
use selfreward::arch::{Arch, Dtype};
use selfreward::gpu::Gpu;
use selfreward::kernels::peak::Peaks;
use selfreward::model::Model;
use selfreward::plan::ids;
use selfreward::train::sft::Example;
use selfreward::train::{Optimiser, Trainer};

/// The rank of the adapters that are trained where `--lora-rank` names none.
const RANK: usize = 16;

#[derive(clap::Args, Clone)]
pub(super) struct SweepArgs {
    /// With a model: read prompts of these many tokens, each a test of its own, for every depth and batch. A list: 512,
    /// 128,512, 1-8, 0-4096+1024, 1-32*2 (doubling)
    #[arg(short = 'p', long, value_name = "LIST")]
    prompt: Option<Numbers>,
    /// With a model: write these many tokens, likewise
    #[arg(short = 'n', long = "gen", value_name = "LIST")]
    generation: Option<Numbers>,
    /// With -p or -n: tokens that stand before those
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    depth: Numbers,
    /// With -p or -n: sequences at once; with --train: pairs or records of a step
    #[arg(short = 'b', long, value_name = "LIST", default_value = "1")]
    batch: Numbers,
    /// With a model: take steps of these trainings, for every length, batch and method
    #[arg(long, value_enum, value_name = "T,…", value_delimiter = ',')]
    train: Vec<Training>,
    /// With --train: tokens of a record, half of them the prompt's
    #[arg(long, value_name = "LIST", default_value = "64", requires = "train")]
    length: Numbers,
    /// With --train: what is trained
    #[arg(long, value_enum, value_name = "M,…", value_delimiter = ',', default_value = "full", requires = "train")]
    method: Vec<Method>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Training {
    /// Preference pairs of a prompt and two answers
    Dpo,
    /// A prompt and an answer
    Sft,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Method {
    /// All weights, in f32
    Full,
    /// An adapter on all linear layers, beside weights in f32, bf16 or f16
    Lora,
    /// An adapter on all linear layers, beside quantised weights
    Qlora,
}

impl SweepArgs {
    /// Whether anything is asked for.
    pub(super) fn any(&self) -> bool {
        self.prompt.is_some() || self.generation.is_some() || !self.train.is_empty()
    }

    /// Refuses sizes with which nothing would run.
    pub(super) fn check(&self) -> Result<()> {
        match self.batch.0.contains(&0) || self.length.0.iter().any(|n| *n < 2) {
            true => bail!("-b takes numbers above 0, --length numbers above 1"),
            false => Ok(()),
        }
    }
}

/// A test of prompts (`-p`) or of generations (`-n`).
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    generation: usize,
    depth: usize,
    batch: usize,
}

impl Test {
    /// As rows call it.
    fn name(&self) -> String {
        let Test { prompt, generation, depth, batch } = *self;
        match generation {
            0 => format!("pp{prompt} d{depth} b{batch}"),
            _ => format!("tg{generation} d{depth} b{batch}"),
        }
    }

    fn tokens(&self) -> usize {
        self.batch * (self.prompt + self.generation)
    }

    /// Generations without a depth begin behind a short prompt, for a model reads at least one token first.
    fn before(&self) -> usize {
        if self.generation > 0 { self.depth.max(SHORT) } else { self.depth }
    }

    /// What the test takes beyond what stands before it.
    fn run(&self, gpu: &Gpu, model: &Model, runs: usize) -> Result<Samples> {
        let (before, batch) = (self.before(), self.batch);
        let whole = answer(gpu, model, batch, before + self.prompt, self.generation + 1, runs)?;
        match before {
            0 => Ok(whole),
            _ => Ok(whole.beyond(&answer(gpu, model, batch, before, 1, runs)?)),
        }
    }
}

/// Is told of each row as it comes.
type Tell<'a> = &'a dyn Fn(&Phase);

/// Runs all tests; each gives a row.
pub(super) fn measure(
    app: &App,
    gpu: &Gpu,
    subject: &Subject,
    (args, runs, rank): (&SweepArgs, usize, Option<usize>),
    peaks: &Peaks,
    tell: Tell,
) -> Result<Vec<Phase>> {
    let list = |numbers: &Option<Numbers>| numbers.as_ref().map_or(Vec::new(), |n| n.0.clone());
    let sizes =
        list(&args.prompt).into_iter().map(|n| (n, 0)).chain(list(&args.generation).into_iter().map(|n| (0, n)));
    let mut tests = Vec::new();
    for (prompt, generation) in sizes.filter(|(p, n)| p + n > 0) {
        for depth in args.depth.0.iter().copied() {
            tests.extend(args.batch.0.iter().map(|b| Test { prompt, generation, depth, batch: *b }));
        }
    }
    let mut phases = Vec::new();
    if !tests.is_empty() {
        let model = subject.load(gpu, false)?;
        for test in &tests {
            expect_context(model.arch(), test.before() + test.prompt + test.generation + 1, "-p, -n and -d")?;
        }
        app.progress.begin("bench", Some(tests.len() as u64), "tests");
        for test in &tests {
            let samples = test.run(gpu, &model, runs)?;
            let phase = samples.phase(test.name(), &subject.dtype(), Some(test.tokens()), peaks);
            tell(&phase);
            phases.push(phase);
            app.progress.advance(1);
        }
        app.progress.end();
    }
    phases.extend(trainings(app, gpu, subject, (args, runs, rank.unwrap_or(RANK)), peaks, tell)?);
    Ok(phases)
}

/// The steps of `--train`.
fn trainings(
    app: &App,
    gpu: &Gpu,
    subject: &Subject,
    (args, runs, rank): (&SweepArgs, usize, usize),
    peaks: &Peaks,
    tell: Tell,
) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    let each = args.train.len() * args.length.0.len() * args.batch.0.len();
    app.progress.begin("bench", Some((each * args.method.len()) as u64), "trainings");
    for method in args.method.iter().filter(|_| each > 0) {
        let (model, dtype) = trained(gpu, subject, *method, rank)?;
        let arch = model.arch().clone();
        let mut trainer = Trainer::new(gpu, model, Optimiser::default())?;
        for (training, length) in args.train.iter().flat_map(|t| args.length.0.iter().map(move |n| (*t, *n))) {
            expect_context(&arch, length, "--length")?;
            for batch in args.batch.0.iter().copied() {
                let (samples, tokens) = match training {
                    Training::Dpo => {
                        trainer.set_step(0);
                        step(gpu, &mut trainer, &pairs(&arch, [batch, length / 2, length - length / 2]))?
                    }
                    Training::Sft => sft(gpu, &mut trainer, &arch, [batch, length], runs)?,
                };
                let (training, method) = (word(training), word(*method));
                let name = format!("{training} {method} {length} tokens b{batch}");
                let phase = samples.phase(name, &dtype, Some(tokens as usize), peaks);
                tell(&phase);
                phases.push(phase);
                app.progress.advance(1);
            }
        }
    }
    app.progress.end();
    Ok(phases)
}

/// A value of an enum as it is typed.
fn word(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned())
}

/// The model that a method trains, and the type of its base.
fn trained(gpu: &Gpu, subject: &Subject, method: Method, rank: usize) -> Result<(Model, String)> {
    let base = match method {
        Method::Full => return Ok((subject.load(gpu, true)?, "f32".to_owned())),
        Method::Lora => subject.with(|dtype| if dtype.block().0 > 1 { Dtype::F32 } else { dtype }),
        Method::Qlora => subject.with(|dtype| if dtype.block().0 > 1 { dtype } else { Dtype::Q4K }),
    };
    let model = base.load(gpu, false)?;
    let quantised = model.is_quantised();
    if (method == Method::Qlora) != quantised {
        let is = if quantised { "has" } else { "has no" };
        bail!("--method {}: the model's file {is} quantised matrices", word(method));
    }
    let fresh = adapter(model.arch(), rank)?;
    Ok((model.with_adapter(gpu, Some(&fresh))?, base.dtype()))
}

/// Steps of supervised training, after one that warms up, and the number of a step's tokens.
fn sft(
    gpu: &Gpu,
    trainer: &mut Trainer,
    arch: &Arch,
    [batch, length]: [usize; 2],
    runs: usize,
) -> Result<(Samples, u64)> {
    let half = length / 2;
    let list = |key, n| ids(arch.vocab_size, key, n);
    let record = |i: u64| Example::new(list(2 * i, half), list(2 * i + 1, length - half));
    let records: Vec<Example> = (0..batch as u64).map(record).collect();
    let weight = 1.0 / batch as f32;
    let groups: Vec<(&[Example], f32)> = records.iter().map(|r| (std::slice::from_ref(r), weight)).collect();
    let mut all = Vec::new();
    trainer.sft_step(&groups, 1e-6)?;
    for _ in 0..runs.max(1) {
        let mut watch = Watch::start(gpu);
        // Reading the loss back waits for the step.
        trainer.sft_step(&groups, 1e-6)?;
        all.push(watch.lap());
    }
    Ok((Samples::of(all)?, (batch * length) as u64))
}

/// Every prompt with every generation of the same depth and batch, as `llama-batched-bench` shows them; None where not
/// both were measured.
pub(super) fn batched(args: &SweepArgs, phases: &[Phase]) -> Option<Table> {
    let columns = ["prompt", "gen", "depth", "batch", "tokens", "s prompt", "tok/s", "s gen", "tok/s", "s", "tok/s"];
    let (prompts, generations) = (args.prompt.as_ref()?, args.generation.as_ref()?);
    let seconds = |test: Test| phases.iter().find(|p| p.name == test.name()).map(|p| p.ms / 1e3);
    let mut table = Table::new(&columns);
    for (prompt, generation) in prompts.0.iter().flat_map(|p| generations.0.iter().map(move |n| (*p, *n))) {
        for (depth, batch) in args.depth.0.iter().flat_map(|d| args.batch.0.iter().map(move |b| (*d, *b))) {
            let read = seconds(Test { prompt, generation: 0, depth, batch })?;
            let wrote = seconds(Test { prompt: 0, generation, depth, batch })?;
            let rate = |tokens: usize, seconds: f64| format!("{:.1}", (batch * tokens) as f64 / seconds);
            table.row([
                prompt.to_string(),
                generation.to_string(),
                depth.to_string(),
                batch.to_string(),
                (batch * (depth + prompt + generation)).to_string(),
                format!("{read:.3}"),
                rate(prompt, read),
                format!("{wrote:.3}"),
                rate(generation, wrote),
                format!("{:.3}", read + wrote),
                rate(prompt + generation, read + wrote),
            ]);
        }
    }
    Some(table)
}
