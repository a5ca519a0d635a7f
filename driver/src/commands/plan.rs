//! `plan`: what a command would take, told before it takes anything.

use crate::app::{App, DtypeArg, Pin};
use crate::commands::train::{Lora, Losses};
use crate::dtype::one_of;
use crate::flags::{Flags, Preset};
use crate::sample::Kept;
use crate::tables::Table;
use anyhow::{Context, Result, bail, ensure};
use selfreward::Silent;
use selfreward::arch::Dtype;
use selfreward::arch::lora::{Adapter, LoraConfig};
use selfreward::arch::{Arch, family};
use selfreward::config::RunConfig;
use selfreward::generate::{ChatLanguage, KvType};
use selfreward::gpu::{Gpu, Peak, mib};
use selfreward::json::read_json;
use selfreward::kernels::half::Half;
use selfreward::kernels::peak;
use selfreward::model::{Model, Storage};
use selfreward::plan::{self, JUDGE_PROMPT, RunPlan, RunShape};
use selfreward::recipe::supervised::Supervision;
use selfreward::source::ModelSource;
use selfreward::train::dpo::Pair;
use selfreward::train::fit::{Choice, Fit};
use selfreward::train::job::Data;
use selfreward::train::sft::Example;
use selfreward::train::{LoraSettings, TrainSettings, WeightType};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is to be done
    #[arg(long, value_enum, value_name = "T")]
    task: Task,
    /// The run's configuration, with --task run (without it, all keys have their defaults)
    #[arg(value_name = "CONFIG.toml")]
    run: Option<PathBuf>,
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id; its weights are not read
    /// (a run's default: the one that its configuration names)
    #[arg(long, value_name = "M", required_unless_present_any = ["config", "run"], conflicts_with = "config")]
    model: Option<PathBuf>,
    /// A model of the shape that a config.json describes
    #[arg(long, value_name = "config.json")]
    config: Option<PathBuf>,
    /// How the matrices of --config are stored (default: as its dtype says, else f32)
    #[arg(long, value_name = "T", requires = "config", conflicts_with = "model", value_parser = one_of(Dtype::all()))]
    stored: Option<Dtype>,
    /// Prompts to answer
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompts: u32,
    /// Answers to each prompt
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Tokens of the longest prompt (default: 256, or half of --max-length)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_length: Option<u32>,
    /// Most tokens of an answer that is written
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Tokens of the longest answer that is trained on (default: 256, or what --max-length leaves)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    completion_length: Option<u32>,
    /// Most tokens of prompt and answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    max_length: Option<u32>,
    #[command(flatten)]
    settings: Flags<Planned>,
    /// Most rows (tokens) of a micro-batch, but for a longer record (default: what --memory allows)
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    #[command(flatten)]
    lora: Flags<Lora>,
    #[command(flatten)]
    loss: Flags<Losses>,
    #[command(flatten)]
    dtype: DtypeArg,
    #[command(flatten)]
    pin: Pin,
    #[command(flatten)]
    kept: Flags<Kept>,
    /// Plan for a desktop's GPU, with bindings of 2 GiB, whatever is in this machine; of a run it says no time, which
    /// needs the device
    #[arg(long, conflicts_with = "variant")]
    desktop: bool,
}

/// What is planned unless flags say otherwise: the settings that say what a training takes.
struct Planned;

impl Preset for Planned {
    type Of = TrainSettings;

    fn defaults() -> TrainSettings {
        TrainSettings::default()
    }

    fn takes(key: &str) -> bool {
        ["batch", "dropout", "optimizer", "weights"].contains(&key)
    }
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Generate,
    Sft,
    Dpo,
    Run,
}

/// What the planned work takes, as it is printed.
#[derive(Serialize)]
struct Report {
    task: Task,
    device: String,
    /// The bytes given by `--memory`.
    memory: Option<u64>,
    /// Whether the work fits into the memory; `None` if none is given.
    fits: Option<bool>,
    peak_bytes: u64,
    parts: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Answers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Cut>,
    /// What the same work takes with other weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<Way>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Run>,
}

#[derive(Serialize)]
struct Answers {
    answers: usize,
    /// How many of the answers are written at once; `None` if one alone does not fit.
    at_once: usize,
}

#[derive(Clone, Serialize)]
struct Cut {
    /// Rows of the longest record.
    longest: usize,
    micro_rows: usize,
    checkpoint: bool,
}

/// Another way in which the work could be done.
#[derive(Serialize)]
struct Way {
    what: String,
    peak_bytes: u64,
    fits: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Cut>,
}

#[derive(Serialize)]
struct Run {
    stages: Vec<StageRow>,
    /// At the device's peaks, of the whole run; `None` for a device that is not there.
    least_seconds: Option<f64>,
    disk_bytes: u64,
}

#[derive(Serialize)]
struct StageRow {
    name: &'static str,
    peak_bytes: u64,
    fits: Option<bool>,
    /// Floating-point operations in one round, and bytes that launches read and write.
    flops: f64,
    bytes: f64,
    least_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_once: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Cut>,
}

/// Where the model's shape comes from: a model, or a configuration with a type for its matrices.
enum Shape {
    Source(Box<ModelSource>),
    Config(Arch, Dtype),
}

impl Shape {
    fn open(app: &App, model: Option<&Path>, args: &Args) -> Result<Shape> {
        let Some(path) = &args.config else {
            return Ok(Shape::Source(Box::new(app.source(model.context("no model to plan with")?)?)));
        };
        let config: serde_json::Value = read_json(path)?;
        let arch = family::arch(&config).with_context(|| path.display().to_string())?;
        let blocks = config.pointer("/quantization_config/quant_method");
        let own = blocks.or(config.get("dtype")).or(config.get("torch_dtype")).and_then(|d| d.as_str());
        let dtype = args.stored.unwrap_or(match own {
            Some("mxfp4") => Dtype::Mxfp4,
            Some("bfloat16") => Dtype::BF16,
            Some("float16") => Dtype::F16,
            _ => Dtype::F32,
        });
        Ok(Shape::Config(arch, dtype))
    }

    fn arch(&self) -> &Arch {
        match self {
            Shape::Source(source) => &source.arch,
            Shape::Config(arch, _) => arch,
        }
    }

    fn has_adapter(&self) -> bool {
        matches!(self, Shape::Source(source) if source.adapter.is_some())
    }

    fn load(&self, gpu: &Gpu, storage: Storage, lora: Option<&LoraConfig>) -> selfreward::Result<Model> {
        let model = match self {
            Shape::Source(source) => Model::load_as(gpu, source, storage)?,
            Shape::Config(arch, dtype) => Model::of_shape(gpu, arch, *dtype, storage)?,
        };
        // A device that only counts needs no values.
        model.with_adapter(gpu, lora.map(|config| Adapter { config: config.clone(), tensors: Vec::new() }).as_ref())
    }
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let config = args.run.as_deref().map(RunConfig::read).transpose()?;
    if args.task != Task::Run && config.is_some() {
        bail!("a run's configuration goes with --task run");
    }
    let model = args.model.as_deref().or(config.as_ref().map(|c| c.model.path.as_path()));
    let defaults = (args.task == Task::Run).then(|| RunConfig::of_model(model.unwrap_or(Path::new(""))));
    let shape = Shape::open(app, model, args)?;
    let mut gpu = app.pinned_gpu(&args.pin)?;
    if args.desktop {
        gpu = gpu.counting_desktop();
    }
    let report = match (args.task, config.as_ref().or(defaults.as_ref())) {
        (Task::Generate, _) => generate(&gpu, args, &shape)?,
        (Task::Run, Some(config)) => whole_run(&gpu, args, &shape, config)?,
        _ => train(&gpu, args, &shape)?,
    };
    if app.common.json {
        return app.json(&report);
    }
    print(app, &report)
}

/// Tokens of the longest prompt, and of the longest answer that is trained on.
fn lengths(args: &Args) -> Result<(usize, usize)> {
    let (prompt, answer) = (args.prompt_length.map(|n| n as usize), args.completion_length.map(|n| n as usize));
    let Some(most) = args.max_length.map(|n| n as usize) else {
        return Ok((prompt.unwrap_or(256), answer.unwrap_or(256)));
    };
    let prompt = prompt.unwrap_or_else(|| answer.map_or(most / 2, |a| most.saturating_sub(a)));
    ensure!((1..most).contains(&prompt), "--max-length {most} leaves no room for a prompt of {prompt} and an answer");
    let left = most - prompt;
    Ok((prompt, answer.map_or(left, |a| a.min(left))))
}

fn report(gpu: &Gpu, task: Task, peak: &Peak, fits: bool) -> Report {
    Report {
        task,
        device: gpu.info().name.clone(),
        memory: gpu.memory(),
        fits: known(gpu, fits),
        peak_bytes: peak.bytes,
        parts: peak.held().map(|(part, bytes)| (part.name(), bytes)).collect(),
        generation: None,
        training: None,
        options: Vec::new(),
        run: None,
    }
}

fn known(gpu: &Gpu, fits: bool) -> Option<bool> {
    gpu.memory().map(|_| fits)
}

fn generate(gpu: &Gpu, args: &Args, shape: &Shape) -> Result<Report> {
    let (prompt, answer) = (args.prompt_length.unwrap_or(256) as usize, args.max_new_tokens as usize);
    let requests = plan::requests(shape.arch().vocab_size, args.prompts as usize, prompt, args.n as usize);
    let peak_of = |storage: Storage| -> Result<(Peak, usize, bool)> {
        let load = |gpu: &Gpu| shape.load(gpu, storage, None);
        match plan::generation(gpu, &load, &requests, (answer, args.kept.kv), gpu.memory()) {
            Ok((counted, at_once)) => Ok((counted.peak(), at_once, true)),
            Err(selfreward::Error::OutOfMemory(_)) if gpu.memory().is_some() => {
                // What a single answer takes.
                let one = plan::requests(shape.arch().vocab_size, 1, prompt, 1);
                let (counted, _) = plan::generation(gpu, &load, &one, (answer, args.kept.kv), None)?;
                Ok((counted.peak(), 0, false))
            }
            Err(other) => Err(other.into()),
        }
    };
    let (peak, at_once, fits) = peak_of(args.dtype.storage())?;
    let mut options = Vec::new();
    for (what, storage) in
        [("weights in f32", Storage::F32), ("in bf16", Storage::Half(Half::Bf16)), ("as they are stored", Storage::Own)]
    {
        let (peak, _, fits) = peak_of(storage)?;
        options.push(Way { what: what.into(), peak_bytes: peak.bytes, fits: known(gpu, fits), training: None });
    }
    let answers = requests.iter().map(|r| r.samples.len()).sum();
    let generation = Some(Answers { answers, at_once });
    Ok(Report { generation, options, ..report(gpu, args.task, &peak, fits) })
}

fn train(gpu: &Gpu, args: &Args, shape: &Shape) -> Result<Report> {
    let (prompt, answer) = lengths(args)?;
    let context = shape.arch().context();
    ensure!(prompt + answer <= context, "{prompt} + {answer} tokens exceed the model's context of {context}");
    let list = |key, n| plan::ids(shape.arch().vocab_size, key, n);
    args.loss.rows()?;
    let batch = args.settings.batch;
    let pairs = vec![Pair::new(list(0, prompt), list(1, answer), list(2, answer)); batch];
    let examples = vec![Example::new(list(0, prompt), list(1, answer)); batch];
    let (data, longest) = match args.task {
        Task::Sft => (Data::Examples(&examples), prompt + answer),
        _ => (Data::Pairs { pairs: &pairs, objective: &args.loss, reference: None }, pairs[0].rows()),
    };
    let fit =
        |storage: Storage, lora: Option<&LoraConfig>, weights: WeightType, half: Option<Half>| -> Result<Choice> {
            let micro_rows = args.micro_batch.map(|n| n as usize);
            let settings = &TrainSettings::clone(&args.settings).weights(weights).half(half).micro_rows(micro_rows);
            let model = |gpu: &Gpu| shape.load(gpu, storage, lora);
            Ok(Fit { gpu, model: &model, data: &data, settings, others: 0 }.choose_or_untold(gpu.memory())?)
        };
    let cut = |choice: &Choice| Cut { longest, micro_rows: choice.cut.micro_rows, checkpoint: choice.cut.checkpoint };
    let lora = args.lora.config();
    let adapter = lora.is_some() || shape.has_adapter();
    let half = args.dtype.half().filter(|_| !adapter);
    let storage = args.dtype.trained(args.settings.weights, adapter)?;
    let chosen = fit(storage, lora.as_ref(), args.settings.weights, half)?;
    let mut options = Vec::new();
    let mut option = |what: String, choice: Choice| {
        let (peak_bytes, fits) = (choice.peak.bytes, known(gpu, choice.fits));
        options.push(Way { what, peak_bytes, fits, training: Some(cut(&choice)) });
    };
    if !shape.has_adapter() {
        let full = |weights, storage| fit(storage, None, weights, None);
        option("all weights in f32".into(), full(WeightType::F32, Storage::F32)?);
        option("all weights in bf16".into(), full(WeightType::Bf16, Storage::Half(Half::Bf16))?);
        let lora = lora.unwrap_or_else(|| LoraSettings::default().config());
        for (base, storage) in [("bf16", Storage::Half(Half::Bf16)), ("the weights as they are stored", Storage::Own)] {
            option(format!("LoRA of rank {} on {base}", lora.rank), fit(storage, Some(&lora), WeightType::F32, None)?);
        }
    }
    let training = Some(cut(&chosen));
    Ok(Report { training, options, ..report(gpu, args.task, &chosen.peak, chosen.fits) })
}

/// Tokens of the judge's prompt beside question and answer, and of a ranked answer with its question, as the model's
/// own text counts them where it has one.
fn judged(shape: &Shape, config: &RunConfig) -> Result<(usize, usize)> {
    let language = match shape {
        Shape::Source(source) => ChatLanguage::new(source).ok(),
        Shape::Config(..) => None,
    };
    let Some(language) = language else { return Ok((JUDGE_PROMPT, plan::ranked_answer(config, None)?)) };
    Ok((plan::judge_prompt(&config.judge, &language)?, plan::ranked_answer(config, Some(&language))?))
}

fn whole_run(gpu: &Gpu, args: &Args, shape: &Shape, config: &RunConfig) -> Result<Report> {
    let mut config = config.clone();
    if args.kept.kv == KvType::F16 {
        config.candidates.kv = KvType::F16;
    }
    let given = match shape {
        Shape::Source(source) => source.adapter.as_ref().map(|adapter| adapter.config.clone()),
        Shape::Config(..) => None,
    };
    let adapter = args.lora.config().or_else(|| config.lora.as_ref().map(LoraSettings::config)).or(given);
    // A run that trains all weights loads its models in f32, with an adapter merged.
    let storage = if adapter.is_some() { Storage::Own } else { Storage::F32 };
    let model = |gpu: &Gpu| shape.load(gpu, storage, None);
    let prompt = args.prompt_length.map_or(config.prompts.max_new_tokens, |n| n as usize);
    let (judge, ranked) = judged(shape, &config)?;
    let peaks = match (!args.desktop).then(|| peak::measure(gpu, gpu.form())) {
        // The memory that is planned with may be less than a measurement takes; then there are no times.
        Some(Err(selfreward::Error::OutOfMemory(_))) | None => None,
        Some(measured) => Some(measured?),
    };
    // Where the records cannot be read here, they are taken to be as long as they may be.
    let supervision = match shape {
        Shape::Source(source) if source.text.is_some() => {
            Supervision::read(&config.sft, source, config.run.seed, &Silent)?
        }
        _ => None,
    };
    let run = RunShape { model: &model, adapter, prompt, judge, ranked, supervision: supervision.as_ref() };
    let RunPlan { stages, disk_bytes } = plan::of_run(gpu, &run, &config, peaks.as_ref())?;
    let fits = stages.iter().all(|s| s.fits);
    let largest = stages.iter().map(|s| &s.peak).max_by_key(|p| p.bytes).context("a run has stages")?;
    let longest = prompt + 2 * config.candidates.max_new_tokens;
    let stage = |s: &plan::StagePlan| StageRow {
        name: s.name,
        peak_bytes: s.peak.bytes,
        fits: known(gpu, s.fits),
        flops: s.cost.flops,
        bytes: s.cost.bytes,
        least_seconds: s.seconds,
        at_once: s.at_once,
        training: s.cut.map(|cut| Cut { longest, micro_rows: cut.micro_rows, checkpoint: cut.checkpoint }),
    };
    let run = Run {
        least_seconds: stages.iter().map(|s| s.seconds).sum(),
        stages: stages.iter().map(stage).collect(),
        disk_bytes,
    };
    Ok(Report { run: Some(run), ..report(gpu, args.task, largest, fits) })
}

fn yes(fits: Option<bool>) -> String {
    fits.map_or("-", |fits| if fits { "yes" } else { "no" }).into()
}

fn print(app: &App, report: &Report) -> Result<()> {
    let given = report.memory.map_or(String::new(), |memory| {
        format!(
            " of {} MiB planned with: {}",
            mib(memory),
            if report.fits == Some(true) { "fits" } else { "does not fit" }
        )
    });
    app.line(format!("{}: {} MiB at most{given}", report.device, mib(report.peak_bytes)))?;
    for (part, bytes) in &report.parts {
        app.line(format!("  {part:12} {:>10} MiB", mib(*bytes)))?;
    }
    if let Some(Cut { longest, micro_rows, checkpoint }) = &report.training {
        let kept = if *checkpoint { "each block keeps its input alone" } else { "all activations are kept" };
        app.line(format!(
            "micro-batches of {micro_rows} rows, {} records of {longest}; {kept}",
            (micro_rows / longest).max(1)
        ))?;
    }
    if let Some(Answers { answers, at_once }) = &report.generation {
        match at_once {
            0 => app.line(format!("{answers} answers; one alone does not fit"))?,
            n => app.line(format!("{answers} answers, {n} at once"))?,
        }
    }
    if !report.options.is_empty() {
        app.line("")?;
        let mut table = Table::new(&["with", "MiB", "rows", "kept", "fits"]);
        for Way { what, peak_bytes, fits, training } in &report.options {
            let kept = training.as_ref().map_or("-", |t| if t.checkpoint { "inputs" } else { "all" });
            let rows = training.as_ref().map_or("-".into(), |t| t.micro_rows.to_string());
            table.row([what.clone(), mib(*peak_bytes), rows, kept.into(), yes(*fits)]);
        }
        table.print()?;
    }
    if let Some(Run { stages, least_seconds, disk_bytes }) = &report.run {
        app.line("")?;
        let mut table =
            Table::new(&["stage", "MiB", "fits", "at once", "GFLOP a round", "GB a round", "seconds at least"]);
        for s in stages {
            let cut = s.training.as_ref().map(|cut| (cut.micro_rows / cut.longest).max(1));
            table.row([
                s.name.into(),
                mib(s.peak_bytes),
                yes(s.fits),
                s.at_once.or(cut).map_or("-".into(), |n| n.to_string()),
                format!("{:.1}", s.flops / 1e9),
                format!("{:.1}", s.bytes / 1e9),
                s.least_seconds.map_or("-".into(), |seconds| format!("{seconds:.0}")),
            ]);
        }
        table.print()?;
        let disk = mib(*disk_bytes);
        app.line(match least_seconds {
            Some(seconds) => format!(
                "\nall rounds: {seconds:.0} s at least, at this device's peaks and with answers as long as allowed; \
                 {disk} MiB of disk"
            ),
            None => format!("\n{disk} MiB of disk"),
        })?;
    }
    Ok(())
}
