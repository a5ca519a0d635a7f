//! `bench`: the speed of the kernels, and of a model.

use crate::app::{App, DtypeArg, Pin};
use crate::dtype::ON_DEVICE;
use crate::tables::Table;
use anyhow::{Context, Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::Observer;
use selfreward::arch::Dtype;
use selfreward::gpu::{DeviceInfo, Gpu};
use selfreward::json::read_json;
use selfreward::kernels::check::{self, BenchRow};
use selfreward::kernels::peak::{self, Peaks};
use selfreward::kernels::{ALL, Case, DTYPES, Kernel, matmul_cases};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

mod model;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these kernels
    #[arg(long, value_name = "K,…", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Time products C `[M, N]` = A `[M, K]` B `[K, N]` of this shape only, their weights in --dtype; may be given
    /// several times
    #[arg(long, value_name = "M,N,K", conflicts_with_all = ["list", "model", "config"], value_parser = sizes)]
    shape: Vec<[usize; 3]>,
    /// With --shape: the gradients by A and by B as well
    #[arg(long, requires = "shape")]
    backward: bool,
    /// List the kernels and the shapes that would be timed
    #[arg(long, conflicts_with_all = ["model", "config", "compare"])]
    list: bool,
    /// Timed runs of each shape
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
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
    /// Show each figure beside that of an earlier `bench --json`, and how many times as fast it is now
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    #[command(flatten)]
    pin: Pin,
    /// Weights of the products; with --model or --config (f32, bf16, f16) also those of the model (default: all, and as
    /// the file has them)
    #[arg(long, value_name = "T", value_parser = types())]
    dtype: Option<&'static str>,
}

/// One of [`DTYPES`].
fn types() -> impl TypedValueParser<Value = &'static str> {
    // The parser lets no other name through.
    PossibleValuesParser::new(DTYPES).map(|given| DTYPES.into_iter().find(|t| *t == given).unwrap_or_default())
}

/// The type of a model's weights that a name in `--dtype` means.
fn of_model(dtype: &str) -> Result<Dtype> {
    Dtype::named(dtype).filter(|dtype| ON_DEVICE.contains(dtype)).ok_or_else(|| {
        anyhow!("--dtype {dtype} is for kernels; a model is quantised where its file is (leave --dtype out)")
    })
}

#[derive(Serialize)]
struct Report<'a> {
    device: &'a DeviceInfo,
    peaks: Peaks,
    kernels: Vec<BenchRow>,
    /// The model's figures, with `--model` or `--config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<model::Speed>,
}

/// Those fields of an earlier report that are read.
#[derive(Deserialize)]
struct Old {
    kernels: Vec<OldRow>,
    model: Option<Value>,
}

#[derive(Deserialize)]
struct OldRow {
    name: String,
    variant: String,
    shape: String,
    median_ms: f64,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if args.list {
        return list(app, &args.kernel);
    }
    if let Some(kernel) = args.kernel.iter().find(|k| !args.shape.is_empty() && *k != matmul_cases::KERNEL.name()) {
        bail!("--shape is for products: --kernel matmul, not {kernel}");
    }
    let dtype = args.dtype;
    let shapes = match (&args.shape[..], args.kernel.is_empty()) {
        (given @ [_, ..], _) => products(given, dtype.unwrap_or("f32"), args.backward)?,
        // If a model is measured, kernels are measured only when they are named.
        ([], true) if args.model.is_some() || args.config.is_some() => Vec::new(),
        ([], true) => check::timed(None, dtype)?,
        ([], false) => {
            let named = args.kernel.iter().map(|k| check::timed(Some(k), dtype));
            named.collect::<selfreward::Result<Vec<_>>>()?.into_iter().flatten().collect()
        }
    };
    let old: Option<Old> = args.compare.as_deref().map(read_json).transpose()?;
    let gpu = app.pinned_gpu(&args.pin)?;
    app.progress.begin("bench", Some(1 + shapes.len() as u64), "shapes");
    let peaks = peak::measure(&gpu, gpu.form())?;
    app.progress.advance(1);
    let kernels = check::bench(&gpu, &shapes, args.runs as usize, &peaks, &app.progress)?;
    app.progress.end();
    let speed = match (&args.model, &args.config) {
        (None, None) => None,
        (model, config) => {
            let dtype = DtypeArg::of(dtype.map(of_model).transpose()?);
            Some(model::measure(
                app,
                &gpu,
                (model.as_deref(), config.as_deref()),
                &dtype,
                model_sizes(args, &gpu),
                &peaks,
            )?)
        }
    };
    let report = Report { device: gpu.info(), peaks, kernels, model: speed };
    if app.common.json {
        return app.json(&report);
    }
    print(app, &report, old.as_ref())
}

/// Reads three sizes above 0, separated by commas.
fn sizes(text: &str) -> Result<[usize; 3], String> {
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

fn model_sizes(args: &Args, gpu: &Gpu) -> model::Sizes {
    let (prefill, decode, pairs) = if gpu.info().software { (64, 8, [2, 16, 16]) } else { (512, 64, [4, 32, 64]) };
    model::Sizes {
        prefill: args.prefill.map_or(prefill, |n| n as usize),
        decode: args.decode.map_or(decode, |n| n as usize),
        pairs: args.pairs.unwrap_or(pairs),
        lora_rank: args.lora_rank.map(usize::from),
    }
}

/// How many times as fast it is now, if there is an earlier figure.
fn ratio(faster: Option<f64>) -> String {
    faster.map_or("-".into(), |x| format!("{x:.2}"))
}

fn list(app: &App, names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|n| !ALL.iter().any(|k| k.name() == n.as_str())) {
        bail!("no kernel is called '{name}'; bench --list shows them");
    }
    let kernels: Vec<&Kernel> =
        ALL.iter().filter(|k| names.is_empty() || names.iter().any(|n| n == k.name())).collect();
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

fn print(app: &App, report: &Report, old: Option<&Old>) -> Result<()> {
    let device = report.device;
    app.line(format!("{} ({}, {})", device.name, device.backend, device.driver))?;
    let p = &report.peaks;
    app.line(format!(
        "peaks: {:.1} GFLOP/s in f32{}{}; {:.1} GB/s read, {:.1} from a cache, {:.1} copied; {:.1} µs a dispatch. \
         Share is of the peak that bounds",
        p.gflops,
        p.f16_gflops.map_or(String::new(), |g| format!(", {g:.1} in f16")),
        p.matrix_gflops.map_or(String::new(), |g| format!(", {g:.1} on matrix units")),
        p.read_gbs,
        p.cached_gbs,
        p.copy_gbs,
        p.dispatch_us
    ))?;
    if !report.kernels.is_empty() {
        app.line("")?;
        let mut table = Table::new(&[
            "kernel",
            "variant",
            "shape",
            "ms",
            "spread",
            "GFLOP/s",
            "GB/s",
            "share",
            "was ms",
            "x as fast",
        ]);
        for r in &report.kernels {
            let before = old.and_then(|o| {
                o.kernels.iter().find(|k| (&k.name, &k.variant, &k.shape) == (&r.name, &r.variant, &r.shape))
            });
            table.row([
                r.name.clone(),
                r.variant.clone(),
                r.shape.clone(),
                format!("{:.3}", r.median_ms),
                format!("{:.0} %", r.spread * 100.0),
                format!("{:.1}", r.gflops),
                format!("{:.1}", r.gbs),
                format!("{:.0} %", r.share * 100.0),
                before.map_or("-".into(), |k| format!("{:.3}", k.median_ms)),
                ratio(before.map(|k| k.median_ms / r.median_ms)),
            ]);
        }
        table.print()?;
    }
    if let Some(speed) = &report.model {
        let mut table = Table::new(&["phase", "ms", "GFLOP", "GB", "GFLOP/s", "GB/s", "share", "was ms", "x as fast"]);
        for p in &speed.phases {
            let was = old.and_then(|o| o.model.as_ref()).and_then(|m| m["phases"].as_array());
            let was = was.and_then(|all| all.iter().find(|w| w["name"] == p.name)).and_then(|w| w["ms"].as_f64());
            table.row([
                p.name.clone(),
                format!("{:.1}", p.ms),
                format!("{:.3}", p.flops / 1e9),
                format!("{:.3}", p.bytes / 1e9),
                format!("{:.1}", p.gflops),
                format!("{:.1}", p.gbs),
                format!("{:.0} %", p.share * 100.0),
                was.map_or("-".into(), |ms| format!("{ms:.1}")),
                ratio(was.map(|ms| ms / p.ms)),
            ]);
        }
        app.line("")?;
        table.print()?;
        let now = serde_json::to_value(speed)?;
        let now = now.as_object().context("a report is an object")?;
        let before = old.and_then(|o| o.model.as_ref());
        app.line("")?;
        let mut table = Table::new(&["model", "now", "was"]);
        for (name, value) in now.iter().filter(|(name, _)| *name != "phases") {
            let was = before.and_then(|b| b.get(name)).map_or("-".into(), figure);
            table.row([name.clone(), figure(value), was]);
        }
        table.print()?;
    }
    Ok(())
}

/// A figure, or several by batch size, as text for a table.
fn figure(value: &Value) -> String {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}: {}", figure(v))).collect::<Vec<_>>().join(", "),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
