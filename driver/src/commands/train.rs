//! `sft` and `dpo`: training from a JSONL file into a model folder.

use crate::app::{App, DtypeArg, check_writable};
use crate::common::WrongUsage;
use crate::flags::{Flags, Preset};
use crate::profile::ProfileArg;
use anyhow::{Result, ensure};
use clap::error::ErrorKind;
use selfreward::Observer;
use selfreward::arch::Dtype;
use selfreward::arch::lora::{Adapter, LoraConfig};
use selfreward::data::examples;
use selfreward::data::examples::{Reading, Rules};
use selfreward::data::records::hex;
use selfreward::kernels::half::Half;
use selfreward::model::{Model, Storage, score};
use selfreward::recipe::supervised::mixture;
use selfreward::rng::fnv;
use selfreward::settings::{self, Table};
use selfreward::source::{ModelSource, save_adapter, save_model};
use selfreward::train::dpo::{Pair, PairLogps};
use selfreward::train::job::{Data, Job};
use selfreward::train::objective::Objective;
use selfreward::train::out_folder;
use selfreward::train::out_folder::Work;
use selfreward::train::run::train;
use selfreward::train::{LoraSettings, TrainSettings};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct SftArgs {
    #[command(flatten)]
    common: TrainArgs,
    /// TRL's JSONL, plain or conversational, or token ids; several files may be listed
    #[arg(long, value_name = "F.jsonl,…", required = true, value_delimiter = ',')]
    data: Vec<PathBuf>,
    /// Records of each file for one of the others, such as 2,1: as many records as all files hold are taken in this
    /// ratio, and a file is gone through again where it is too short (default: every record once)
    #[arg(long, value_name = "M,…", value_delimiter = ',', value_parser = crate::sample::above_0::<f32>)]
    mix: Vec<f32>,
    /// Learn only the last of the assistant's turns in messages (default: all of them)
    #[arg(long)]
    last_turn_only: bool,
    #[command(flatten)]
    settings: Flags<Supervised>,
}

#[derive(clap::Args)]
pub(crate) struct DpoArgs {
    #[command(flatten)]
    common: TrainArgs,
    /// TRL's JSONL, plain or conversational, or token ids, with a weight and a flip where a pair has its own; for kto
    /// lines of prompt, completion and label
    #[arg(long, value_name = "F.jsonl")]
    data: PathBuf,
    #[command(flatten)]
    settings: Flags<Preferences>,
    #[command(flatten)]
    loss: Flags<Losses>,
    /// The reference model (default: the model itself as it was given)
    #[arg(long = "ref", value_name = "R")]
    reference: Option<PathBuf>,
}

/// Whether training commands have a flag for a setting; `--dtype` is a flag of many commands.
fn is_flag(key: &str) -> bool {
    key != "dtype"
}

/// The settings of `sft` where flags do not say otherwise.
struct Supervised;

impl Preset for Supervised {
    type Of = TrainSettings;
    const DERIVED: &'static [&'static str] = &["min_lr"];

    fn defaults() -> TrainSettings {
        TrainSettings::supervised()
    }

    fn takes(key: &str) -> bool {
        is_flag(key)
    }

    fn complete(settings: &mut TrainSettings, given: &Table) {
        settings.complete_supervised(given);
    }
}

/// The settings of `dpo` where flags do not say otherwise.
struct Preferences;

impl Preset for Preferences {
    type Of = TrainSettings;

    fn defaults() -> TrainSettings {
        TrainSettings::default()
    }

    fn takes(key: &str) -> bool {
        is_flag(key)
    }
}

/// The objective of a preference training where flags do not say otherwise.
pub(crate) struct Losses;

impl Preset for Losses {
    type Of = Objective;

    fn defaults() -> Objective {
        Objective::default()
    }
}

#[derive(clap::Args)]
struct TrainArgs {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// The model folder to write; it must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Most rows (tokens) of a micro-batch, but for a longer record (default: what memory allows). A step's gradient
    /// does not depend on it: means are over the pairs of the step, those of sft over all its answers' tokens
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    /// Most tokens of prompt and answer; longer records are dropped and counted (default: the model's context)
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Cut longer records instead of dropping them
    #[arg(long)]
    truncate: bool,
    /// Go on with an interrupted training of the same settings
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    lora: Flags<Lora>,
    #[command(flatten)]
    dtype: DtypeArg,
    #[command(flatten)]
    profile: ProfileArg,
}

/// The settings of an adapter. Any of these flags asks for a new one, or must agree with that of a PEFT folder.
pub(crate) struct Lora;

impl Preset for Lora {
    type Of = LoraSettings;
    const HEADING: Option<&'static str> =
        Some("An adapter beside the frozen model (LoRA), written as a PEFT folder; any of these flags asks for it");
    const PREFIX: &'static str = "lora-";
    const ALIASES: &'static [(&'static str, &'static str)] =
        &[("target_modules", "lora-targets"), ("rslora", "rslora"), ("dora", "dora")];

    fn defaults() -> LoraSettings {
        LoraSettings::default()
    }
}

impl Flags<Lora> {
    /// The adapter that the flags ask for.
    pub(crate) fn config(&self) -> Option<LoraConfig> {
        (!self.given().is_empty()).then(|| LoraSettings::config(self))
    }

    /// The adapter to begin with beside a model that has none. What is asked of a model that has one must agree with
    /// it; only its dropout may be another.
    pub(crate) fn settle(&self, source: &mut ModelSource) -> Result<Option<LoraConfig>> {
        let Some(adapter) = &mut source.adapter else { return Ok(self.config()) };
        if self.given().keys().any(|key| key != "dropout") {
            self.agree_with(&source.arch, &adapter.config)?;
        }
        if self.given().contains_key("dropout") {
            adapter.config.dropout = self.dropout;
        }
        Ok(None)
    }
}

pub(crate) fn sft(app: &App, args: &SftArgs) -> Result<()> {
    if !args.mix.is_empty() && args.mix.len() != args.data.len() {
        let what = format!("--mix has {} numbers for {} files of --data", args.mix.len(), args.data.len());
        return Err(WrongUsage { kind: ErrorKind::WrongNumberOfValues, what }.into());
    }
    args.settings.agree()?;
    let mut start = Start::new(app, &args.common)?;
    start.rules.last_turn_only = args.last_turn_only;
    let (mut all, mut read) = (Vec::new(), Vec::new());
    for path in &args.data {
        let (examples, reading) = examples::examples(path, &start.source, start.rules)?;
        read.push(reading);
        all.push(examples);
    }
    let plan = plan([settings::table(&*args.settings)?])?;
    let mut settings = args.common.settings(app, &args.settings);
    let examples = mixture(all, &args.mix.iter().map(|m| f64::from(*m)).collect::<Vec<_>>(), &mut settings);
    let plan = with(plan, json!({ "data": hex(Data::Examples(&examples).hash()), "mix": args.mix }));
    let taken = Taken { records: examples.len(), read };
    start.finish(app, &args.common, taken, (plan, settings), |_, _| Ok(Data::Examples(&examples)))
}

pub(crate) fn dpo(app: &App, args: &DpoArgs) -> Result<()> {
    args.loss.rows()?;
    args.settings.agree()?;
    let start = Start::new(app, &args.common)?;
    let settings = args.common.settings(app, &args.settings);
    let (path, source, batch) = (&args.data, &start.source, Some(settings.batch));
    let (pairs, reading) = examples::preferences(path, source, start.rules, &args.loss, batch)?;
    let taken = Taken { records: pairs.len(), read: vec![reading] };
    let plan = plan([settings::table(&*args.settings)?, settings::table(&*args.loss)?])?;
    let data = hex(Data::Pairs { pairs: &pairs, objective: &args.loss, reference: None }.hash());
    let plan = with(plan, json!({ "data": data, "reference": args.reference }));
    let vocabulary = start.source.arch.vocab_size;
    start.finish(app, &args.common, taken, (plan, settings), |app, gpu| {
        let reference = match &args.reference {
            Some(path) => Some(model_logps(app, gpu, (path, vocabulary), args.common.dtype.storage(), &pairs)?),
            None => None,
        };
        Ok(Data::Pairs { pairs: &pairs, objective: &args.loss, reference })
    })
}

/// The settings that a resumed training must have in common with its start.
fn plan(tables: impl IntoIterator<Item = Table>) -> Result<Value> {
    let mut all: Table = tables.into_iter().flatten().collect();
    // How often the training saves changes no number.
    all.remove("save_every");
    Ok(serde_json::to_value(all)?)
}

/// The object with the members of another one added.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// The summed log-probs of every answer under a model.
pub(crate) fn model_logps(
    app: &App,
    gpu: &selfreward::gpu::Gpu,
    (path, vocabulary): (&Path, usize),
    storage: Storage,
    pairs: &[Pair],
) -> Result<Vec<PairLogps>> {
    let source = app.source(path)?;
    ensure!(
        source.arch.vocab_size == vocabulary,
        "{}: has {} tokens, the model {vocabulary}; a reference must share its vocabulary",
        path.display(),
        source.arch.vocab_size
    );
    let model = Model::load_as(gpu, &source, storage)?;
    let branch =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(branch).collect();
    let logps = score::logps(gpu, &model, &branches, &app.progress)?;
    Ok(logps.iter().map(|b| PairLogps::new(&b[0], &b[1])).collect())
}

impl TrainArgs {
    /// The settings of the training.
    fn settings(&self, app: &App, flags: &TrainSettings) -> TrainSettings {
        let micro_rows = self.micro_batch.map(|n| n as usize);
        flags.clone().micro_rows(micro_rows).seed(app.common.seed())
    }
}

/// What a training takes from its files.
struct Taken {
    records: usize,
    read: Vec<Reading>,
}

/// What both trainings have in common, opened and checked.
struct Start {
    source: ModelSource,
    /// The adapter to begin with.
    lora: Option<LoraConfig>,
    rules: Rules,
    began: Instant,
}

impl Start {
    fn new(app: &App, args: &TrainArgs) -> Result<Self> {
        let began = Instant::now();
        check_writable(&args.out)?;
        Work::check(&args.out, args.resume)?;
        let mut source = app.source(&args.model)?;
        let lora = args.lora.settle(&mut source)?;
        let context = source.arch.max_position_embeddings;
        let max_length = args.max_length.unwrap_or(context).min(context);
        let rules = Rules { truncate: args.truncate, ..Rules::up_to(max_length) };
        Ok(Self { source, lora, rules, began })
    }

    /// Trains, writes the model folder and reports. `plan` is what a resumed training must have in common with its
    /// start; what all trainings have in common is added to it.
    fn finish<'d>(
        self,
        app: &App,
        args: &TrainArgs,
        Taken { records, read }: Taken,
        (plan, settings): (Value, TrainSettings),
        data: impl FnOnce(&App, &selfreward::gpu::Gpu) -> Result<Data<'d>>,
    ) -> Result<()> {
        for reading in read.iter().filter(|reading| reading.dropped() > 0) {
            app.progress.note(&reading.to_string());
        }
        let dropped: usize = read.iter().map(Reading::dropped).sum();
        let lora = self.lora.as_ref();
        let plan = with(
            plan,
            json!({
                "seed": app.common.seed(), "model": self.source.path, "adapter_of": args.model,
                "max_length": self.rules.max_length, "truncate": self.rules.truncate,
                "last_turn_only": self.rules.last_turn_only,
                "lora_rank": lora.map(|l| l.rank), "lora_alpha": lora.map(|l| l.alpha),
                "lora_targets": lora.map(|l| &l.targets),
                "rslora": lora.map(|l| l.rslora), "dora": lora.map(|l| l.dora),
                "lora_layers": lora.map(|l| format!("{:?}", l.layers)),
                "lora_dropout": self.source.adapter.as_ref().map(|a| a.config.dropout),
                "dtype": args.dtype.half().map(Half::name), "invariant": app.common.invariant,
                "matrix_units": app.common.matrix_units,
            }),
        );
        let ranks = app.ranks.exchange();
        let work = ranks.first().then(|| Work::begin(&args.out, args.resume, &plan, &app.progress)).transpose()?;
        let finished = ranks.any(work.as_ref().is_some_and(Work::finished))?;
        ranks.agree("their flags", || fnv(plan.to_string().as_bytes()) as u32)?;
        match finished {
            false => self.train(app, args, settings, data)?,
            true => app.progress.note(&format!(
                "{}: an earlier call finished this training, and nothing was done; name another folder for another one",
                args.out.display()
            )),
        }
        let Some(work) = work else { return Ok(()) };
        let steps = work.close()?;
        let (first, last) = (steps.first(), steps.last());
        let seconds = self.began.elapsed().as_secs_f64();
        if app.common.json {
            return app.json(&json!({
                "out": args.out, "records": records, "dropped": dropped, "read": read, "steps": steps.len(),
                "first": first, "last": last, "seconds": seconds,
            }));
        }
        for reading in read.iter().filter(|reading| reading.dropped() == 0) {
            app.line(reading.to_string())?;
        }
        let loss = |step: Option<&Value>| step.and_then(|s| s["loss"].as_f64()).unwrap_or(f64::NAN);
        let (first, last) = (loss(first), loss(last));
        app.line(format!(
            "{}: {} steps in {seconds:.0} s, loss {first:.4} -> {last:.4}",
            args.out.display(),
            steps.len()
        ))
    }

    /// Trains and writes the model folder.
    fn train<'d>(
        &self,
        app: &App,
        args: &TrainArgs,
        settings: TrainSettings,
        data: impl FnOnce(&App, &selfreward::gpu::Gpu) -> Result<Data<'d>>,
    ) -> Result<()> {
        let (gpu, peaks) = args.profile.gpu(app)?;
        let data = data(app, &gpu)?;
        let fresh = |config| Adapter::fresh(&self.source.arch, config, app.common.seed());
        let adapter = self.lora.as_ref().map(fresh).transpose()?;
        let lora = adapter.is_some() || self.source.adapter.is_some();
        let model = args.dtype.trainable(&gpu, &self.source, settings.weights, lora)?;
        let model = model.with_adapter(&gpu, adapter.as_ref())?;
        let job = Job {
            settings: &settings.half(args.dtype.copies(&model)),
            dir: &out_folder::folder(&args.out),
            observer: &app.progress,
            exchange: app.ranks.exchange(),
        };
        let model = train(&gpu, model, data, &job, None)?;
        app.tell_peak(&gpu);
        args.profile.tell(app, &gpu, peaks.as_ref())?;
        if !app.ranks.exchange().first() {
            return Ok(());
        }
        match model.adapter(&gpu)? {
            Some(adapter) => {
                save_adapter(&args.out, &self.source, &adapter, Dtype::F32)?;
                app.tell_base(&self.source);
                Ok(())
            }
            None => Ok(save_model(&args.out, &self.source, &model.tensors(&gpu)?, model.dtype())?),
        }
    }
}
