//! `bench`: the speed of the kernels, and of a model.

use crate::app::{App, Pin};
use crate::common::WrongUsage;
use crate::sample::above_0;
use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rows::{Origin, Output, Row};
use selfreward::Observer;
use selfreward::gpu::{DeviceInfo, Gpu};
use selfreward::kernels::bench::{self, BenchRow, Timing};
use selfreward::kernels::choice::named;
use selfreward::kernels::peak::{self, Peaks};
use selfreward::kernels::{Case, DTYPES, Kernel, matmul_cases};
use selfreward::report::roofline::{RoofPoint, roofline};
use serde::Serialize;
use std::path::{Path, PathBuf};

mod compare;
mod model;
mod print;
mod ranges;
mod rows;
mod sweep;
mod user;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only kernels whose whole name one of these regular expressions matches
    #[arg(long, value_name = "REGEX,…")]
    kernel: Vec<String>,
    /// Time products C `[M, N]` = A `[M, K]` B `[K, N]` of this shape only, their weights in --dtype; may be given
    /// several times
    #[arg(long, value_name = "M,N,K", conflicts_with_all = ["list", "model", "config"], value_parser = sizes)]
    shape: Vec<[usize; 3]>,
    /// With --shape: the gradients by A and by B as well
    #[arg(long, requires = "shape")]
    backward: bool,
    /// List the kernels and the shapes that would be timed
    #[arg(long, conflicts_with_all = ["model", "config", "compare", "output"])]
    list: bool,
    /// Timed runs of each shape (default: 7), and of each test of -p, -n and --train (default: 3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Let kernels find their memory in caches (default: copies in turn, which together exceed the last cache)
    #[arg(long)]
    warm: bool,
    /// Measure this model as well: prefill, decode, a DPO step
    #[arg(long, value_name = "M", conflicts_with = "config")]
    model: Option<PathBuf>,
    /// The same with random weights of the shape that a config.json describes
    #[arg(long, value_name = "config.json")]
    config: Option<PathBuf>,
    /// Prompt tokens of the prefill measurement (default: 512, on a software adapter 64)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prefill: Option<u32>,
    /// New tokens of the decode measurement (default: 64, on a software adapter 8)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    decode: Option<u32>,
    /// Pairs of the measured DPO step, tokens of each prompt and of each answer (default: 4,32,64, on a software
    /// adapter 2,16,16)
    #[arg(long, value_name = "N,P,A", value_parser = sizes)]
    pairs: Option<[usize; 3]>,
    /// With a model: decoding and the DPO step beside an adapter of this rank on all linear layers as well, each in
    /// turn with the same without one
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..))]
    lora_rank: Option<u16>,
    #[command(flatten)]
    sweep: sweep::SweepArgs,
    #[command(flatten)]
    user: user::UserArgs,
    /// Write rows of the same columns in this form to stdout, or with =FILE to a file: md, csv, jsonl or sql; may be
    /// given several times
    #[arg(long, value_name = "FORM[=FILE]", long_help = rows::help())]
    output: Vec<Output>,
    /// With one file: show each figure beside that of an earlier `--json` or `--output jsonl=FILE`. With two, the newer
    /// first: measure nothing and compare them
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    compare: Vec<PathBuf>,
    /// Draw what was measured as a roofline: DIR/roofline.svg
    #[arg(long, value_name = "DIR", conflicts_with = "list")]
    plot: Option<PathBuf>,
    /// With --compare: fail where something is less than this many times as fast as before
    #[arg(long, value_name = "X", requires = "compare", value_parser = above_0::<f64>)]
    fail_below: Option<f64>,
    #[command(flatten)]
    pin: Pin,
    /// Weights of the products; with --model or --config (f32, bf16, f16) also those of the model (default: all, and as
    /// the file has them)
    #[arg(long, value_name = "T", value_parser = types())]
    dtype: Option<&'static str>,
}

/// One of [`DTYPES`].
pub(super) fn types() -> impl TypedValueParser<Value = &'static str> {
    // The parser lets no other name through.
    PossibleValuesParser::new(DTYPES).map(|given| DTYPES.into_iter().find(|t| *t == given).unwrap_or_default())
}

impl Args {
    /// Whether something is measured beside which kernels are measured only when they are named.
    fn measures_else(&self) -> bool {
        self.model.is_some() || self.config.is_some() || self.sweep.any() || self.user.any()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    device: &'a DeviceInfo,
    peaks: Peaks,
    kernels: Vec<BenchRow>,
    /// The model's figures, with `--model` or `--config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<model::Speed>,
    /// The tests of `-p`, `-n` and `--train`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tests: Vec<model::Phase>,
}

/// How often each test of a model runs where `--runs` does not say it.
const TESTS: usize = 3;

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if args.list {
        return list(app, &args.kernel);
    }
    if let [new, old] = &args.compare[..] {
        return compare::files(app, &rows::read(new)?, &rows::read(old)?, args.fail_below);
    }
    if app.common.json && args.output.iter().any(|output| output.file.is_none()) {
        return Err(WrongUsage::conflict("--json and --output without a file both write to stdout"));
    }
    if !args.shape.is_empty() {
        products_only(&args.kernel)?;
    }
    args.sweep.check()?;
    let written = |path: &PathBuf| args.output.iter().any(|output| output.file.as_ref() == Some(path));
    if let Some(path) = args.compare.iter().find(|path| written(path)) {
        bail!("{}: --compare reads what --output would write over; name another file", path.display());
    }
    let dtype = args.dtype;
    let shapes = match (&args.shape[..], args.kernel.is_empty()) {
        (given @ [_, ..], _) => products(given, dtype.unwrap_or("f32"), args.backward)?,
        // If a model is measured, kernels are measured only when they are named.
        ([], true) if args.measures_else() => Vec::new(),
        ([], _) => bench::timed(&args.kernel, dtype)?,
    };
    let old = args.compare.first().map(|path| rows::read(path)).transpose()?;
    let own = user::read(&args.user)?;
    if let Some(dir) = &args.plot {
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be written", dir.display()))?;
    }
    // A text of the user's runs between words that it may not write.
    let gpu = app.open(&app.options(&args.pin).timestamps(true).guarded(args.user.any()))?;
    let subject = match (&args.model, &args.config) {
        (None, None) if args.sweep.any() => {
            return Err(WrongUsage::missing("-p, -n and --train measure a model: --model M or --config config.json"));
        }
        (None, None) => None,
        (model, config) => Some(model::Subject::open(app, (model.as_deref(), config.as_deref()), dtype)?),
    };
    app.progress.begin("bench", Some(1 + shapes.len() as u64), "shapes");
    let mut peaks = peak::measure(&gpu, gpu.form())?;
    app.progress.advance(1);
    let timing = Timing::default().warm(args.warm);
    let timing = timing.runs(args.runs.map_or(timing.runs, |n| n as usize));
    let mut kernels = user::measure(app, &gpu, own, (&timing, &mut peaks))?;
    let (origin, live) = (Origin::of(app, &gpu, args.warm), rows::Live::open(&args.output));
    kernels.iter().for_each(|r| live.add(&origin.kernel(r)));
    let mut tell = |r: &BenchRow| live.add(&origin.kernel(r));
    kernels.extend(bench::bench(&gpu, &shapes, &timing, &mut peaks, &app.progress, &mut tell)?);
    app.progress.end();
    let (mut speed, mut tests) = (None, Vec::new());
    if let Some(subject) = &subject {
        let runs = args.runs.map_or(TESTS, |n| n as usize);
        match args.sweep.any() {
            true => {
                let rank = args.lora_rank.map(usize::from);
                let tell = |p: &model::Phase| live.add(&origin.phase(p));
                tests = sweep::measure(app, &gpu, subject, (&args.sweep, runs, rank), &peaks, &tell)?;
            }
            false => speed = Some(model::measure(app, &gpu, subject, model_sizes(args, &gpu), &peaks)?),
        }
    }
    let phases = speed.iter().flat_map(|s| &s.phases).chain(&tests);
    let rows: Vec<Row> = kernels.iter().map(|r| origin.kernel(r)).chain(phases.map(|p| origin.phase(p))).collect();
    let shown = rows::write(&args.output, &rows)?;
    if let Some(dir) = &args.plot {
        draw(app, dir, &rows, &peaks)?;
    }
    let report = Report { device: gpu.info(), peaks, kernels, model: speed, tests };
    match (app.common.json, shown) {
        (true, _) => app.json(&report)?,
        (_, true) => {}
        _ => print::print(app, &report, (&rows, old.as_ref()), &args.sweep)?,
    }
    if let Some(old) = &old {
        compare::expect(&compare::pairs(&rows, &old.rows), args.fail_below)?;
    }
    match rows.iter().find(|r| !r.doubt.is_empty()) {
        None => Ok(()),
        Some(r) => bail!("{} {}: {}", r.name, r.shape, r.doubt),
    }
}

/// Refuses names of kernels other than that of the products, which alone have shapes of the user's own.
pub(super) fn products_only(names: &[String]) -> Result<()> {
    let own = matmul_cases::KERNEL.name();
    match named(names)?.iter().find(|k| !names.is_empty() && k.name() != own) {
        Some(other) => bail!("--shape is for products: --kernel {own}, not {}", other.name()),
        None => Ok(()),
    }
}

/// Reads three sizes above 0, separated by commas.
pub(super) fn sizes(text: &str) -> Result<[usize; 3], String> {
    let all: Option<Vec<usize>> =
        text.split(',').map(|s| s.trim().parse::<u32>().ok().filter(|n| *n > 0).map(|n| n as usize)).collect();
    all.and_then(|all| all.try_into().ok()).ok_or_else(|| "expected three sizes above 0, as in 8,64,64".to_owned())
}

/// The products of the given shapes `[M, N, K]`, each followed by its gradients if these are asked for.
fn products(shapes: &[[usize; 3]], dtype: &'static str, backward: bool) -> Result<Vec<(&'static Kernel, Case)>> {
    let mut all = Vec::new();
    for [m, n, k] in shapes.iter().copied() {
        all.push((&matmul_cases::KERNEL, matmul_cases::timed((m, k, n), dtype)?));
        if backward {
            all.extend(matmul_cases::timed_backward((m, k, n), dtype)?.map(|case| (&matmul_cases::KERNEL, case)));
        }
    }
    Ok(all)
}

/// Writes the share of each row by its operations on each byte.
fn draw(app: &App, dir: &Path, rows: &[Row], peaks: &Peaks) -> Result<()> {
    let point = |r: &Row| RoofPoint {
        name: if r.name == "model" { r.shape.clone() } else { format!("{} {}", r.name, r.shape) },
        intensity: if r.bytes > 0.0 { r.flops / r.bytes } else { 0.0 },
        share: r.share,
    };
    let title = rows.first().map_or(String::new(), |r| format!("Shares of the peaks of {} ({})", r.device, r.backend));
    let bytes = peaks.read_gbs.max(peaks.copy_gbs).max(peaks.write_gbs);
    let svg = roofline(&title, &rows.iter().map(point).collect::<Vec<_>>(), peaks.gflops / bytes)?;
    let path = dir.join("roofline.svg");
    let write = || std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, svg));
    write().with_context(|| format!("{}: cannot be written", path.display()))?;
    app.progress.note(&format!("{} shows {} measurements", path.display(), rows.len()));
    Ok(())
}

fn model_sizes(args: &Args, gpu: &Gpu) -> model::Sizes {
    let (prefill, decode, pairs) = if gpu.info().software { (64, 8, [2, 16, 16]) } else { (512, 64, [4, 32, 64]) };
    model::Sizes {
        prefill: args.prefill.map_or(prefill, |n| n as usize),
        decode: args.decode.map_or(decode, |n| n as usize),
        pairs: args.pairs.unwrap_or(pairs),
        lora_rank: args.lora_rank.map(usize::from),
    }
}

fn list(app: &App, names: &[String]) -> Result<()> {
    let kernels = named(names)?;
    let shapes = |k: &Kernel| (k.cases)().into_iter().filter(|c| c.timed).map(|c| c.name).collect::<Vec<_>>();
    if app.common.json {
        let listed =
            |k: &&Kernel| serde_json::json!({"name": (k.source)().name, "about": k.about, "shapes": shapes(k)});
        return app.json(&kernels.iter().map(listed).collect::<Vec<_>>());
    }
    for kernel in kernels {
        app.line(format!("{}: {}", (kernel.source)().name, kernel.about))?;
        for shape in shapes(kernel) {
            app.line(format!("  {shape}"))?;
        }
    }
    Ok(())
}
