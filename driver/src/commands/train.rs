//! `sft` and `dpo`: training from a JSONL file into a model folder.

use crate::app::{App, DtypeArg, StateArgs, check_writable};
use crate::common::WrongUsage;
use crate::profile::ProfileArg;
use crate::sample::{above_0, at_least_0, share, share_below_1};
use anyhow::{Result, bail, ensure};
use clap::error::ErrorKind;
use selfreward::Observer;
use selfreward::arch::Arch;
use selfreward::arch::Dtype;
use selfreward::arch::lora::{ALL_LINEAR, Adapter, LayerRules, LoraConfig, Modules};
use selfreward::data::examples;
use selfreward::data::examples::Limit;
use selfreward::kernels::half::Half;
use selfreward::model::{Model, Storage, score};
use selfreward::recipe::supervised::mixture;
use selfreward::rng::fnv;
use selfreward::source::{ModelSource, save_adapter, save_model};
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::job::{Data, Job, train};
use selfreward::train::losses::LOSSES;
use selfreward::train::objective::{self, Divergence, Objective};
use selfreward::train::out_folder;
use selfreward::train::out_folder::Work;
use selfreward::train::sft::SftConfig;
use selfreward::train::{Dropout, LearningRate, Optimiser, Schedule};
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
    /// Records of each file for one of the others, such as 2,1: as many records as all files hold are taken in this ratio, and a
    /// file is gone through again where it is too short (default: every record once)
    #[arg(long, value_name = "M,…", value_delimiter = ',', value_parser = crate::sample::above_0)]
    mix: Vec<f32>,
    /// Peak learning rate
    #[arg(long, default_value_t = 5.5e-6, value_parser = at_least_0)]
    lr: f32,
}

#[derive(clap::Args)]
pub(crate) struct DpoArgs {
    #[command(flatten)]
    common: TrainArgs,
    /// TRL's JSONL, plain or conversational, or token ids, with a weight and a flip where a pair has its own; for kto lines of
    /// prompt, completion and label
    #[arg(long, value_name = "F.jsonl")]
    data: PathBuf,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-6, value_parser = at_least_0)]
    lr: f32,
    #[command(flatten)]
    loss: LossArgs,
    /// The reference model (default: the model itself as it was given)
    #[arg(long = "ref", value_name = "R")]
    reference: Option<PathBuf>,
}

/// Which preference loss; `dump dpo` takes the same.
#[derive(clap::Args)]
pub(crate) struct LossArgs {
    /// Losses with their weights, such as sigmoid or sigmoid:0.8,sft:0.2
    #[arg(long, default_value = "sigmoid", value_name = "L[:WEIGHT],…", value_parser = losses, long_help = loss_help())]
    loss: Losses,
    /// Strength of the pull to the reference
    #[arg(long, default_value_t = 0.1, value_parser = above_0)]
    beta: f32,
    /// Share of labels taken as wrong, for the losses that know it
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = share)]
    label_smoothing: f32,
    /// Weight of the chosen answers' negative log-likelihood beside the loss: a mean over each answer's tokens, then over
    /// the pairs (RPO's paper). The loss `sft` is the mean over all tokens of a step, as in TRL
    #[arg(long, default_value_t = 0.0, value_name = "A", value_parser = at_least_0)]
    nll: f32,
    /// What takes the place of the reverse KL: reverse_kl, forward_kl, js_divergence or alpha_divergence
    #[arg(long, default_value = "reverse_kl", value_name = "F", value_parser = divergence)]
    f_divergence: Divergence,
    /// The coefficient of alpha_divergence
    #[arg(long, default_value_t = 0.5, value_name = "A", value_parser = number)]
    f_alpha: f32,
    /// Weigh each pair by how likely the model would write it (WPO)
    #[arg(long)]
    wpo: bool,
    /// Weight of log-probs behind the shorter answer's length (LD-DPO); 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "A", value_parser = share)]
    ld_alpha: f32,
    /// SimPO's target margin
    #[arg(long, default_value_t = 0.5, value_name = "G", value_parser = number)]
    simpo_gamma: f32,
    /// Weight of desirable answers (kto, apo_zero_unpaired)
    #[arg(long, default_value_t = 1.0, value_name = "W", value_parser = at_least_0)]
    desirable_weight: f32,
    /// Weight of undesirable answers (kto, apo_zero_unpaired)
    #[arg(long, default_value_t = 1.0, value_name = "W", value_parser = at_least_0)]
    undesirable_weight: f32,
}

/// As `--loss` gives them.
#[derive(Clone, Debug)]
struct Losses(Vec<(String, f32)>);

impl LossArgs {
    /// What they ask for; checked.
    pub(crate) fn objective(&self) -> Result<Objective> {
        let objective = Objective {
            losses: self.loss.0.clone(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            nll: self.nll,
            f_divergence: self.f_divergence,
            f_alpha: self.f_alpha,
            wpo: self.wpo,
            ld_alpha: self.ld_alpha,
            simpo_gamma: self.simpo_gamma,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
        };
        objective.rows()?;
        Ok(objective)
    }

    /// The pairs of a file, or its single answers with their mismatched ones; and how many records were dropped. `batch`
    /// is None where all records are one.
    pub(crate) fn data(
        &self,
        path: &Path,
        source: &ModelSource,
        limit: Limit,
        batch: Option<usize>,
    ) -> Result<(Vec<Pair>, usize)> {
        let objective = self.objective()?;
        if !objective.unpaired()? {
            return Ok(examples::pairs(path, source, limit)?);
        }
        let (records, dropped) = examples::labelled(path, source, limit)?;
        let mut pairs = dpo::unpaired(&records, batch.unwrap_or(records.len()));
        if objective.losses.iter().all(|(name, _)| name != "kto") {
            // Nobody asks for the mismatched answers: the answer itself is computed once.
            pairs.iter_mut().for_each(|p| p.rejected.clone_from(&p.chosen));
        }
        Ok((pairs, dropped))
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
    /// Passes over the data
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Records a step
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How the learning rate goes on after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleName::Linear)]
    schedule: ScheduleName,
    /// Where the cosine ends
    #[arg(long, default_value_t = 0.0, value_name = "LR", value_parser = at_least_0)]
    min_lr: f32,
    /// Steps of linear warm-up, from 0 at the first step, as in transformers
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup: usize,
    /// Most rows (tokens) of a micro-batch, but for a longer record (default: what memory allows). A step's gradient does
    /// not depend on it: means are over the pairs of the step, those of sft over all its answers' tokens
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    #[command(flatten)]
    state: StateArgs,
    /// Decoupled weight decay, on matrices only
    #[arg(long, default_value_t = 0.0, value_name = "W", value_parser = at_least_0)]
    weight_decay: f32,
    /// Clip the gradient's norm to this; 0 is off
    #[arg(long, default_value_t = 1.0, value_name = "G", value_parser = at_least_0)]
    max_grad_norm: f32,
    /// Share of what each attention and MLP branch adds to the residual stream that is dropped (the paper used 0.1)
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = share_below_1)]
    dropout: f32,
    /// Most tokens of prompt and answer; longer records are dropped and counted (default: the model's context)
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Cut longer records instead of dropping them
    #[arg(long)]
    truncate: bool,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    save_every: u32,
    /// Go on with an interrupted training of the same settings
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    dtype: DtypeArg,
    #[command(flatten)]
    profile: ProfileArg,
}

/// A new adapter beside the frozen model; a PEFT folder as the model trains its own.
#[derive(clap::Args)]
pub(crate) struct LoraArgs {
    /// Train a LoRA adapter of this rank, and write a PEFT folder
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..=4096))]
    lora_rank: Option<u16>,
    /// The adapter's output is scaled by A / R (default: 2 R)
    #[arg(long, value_name = "A", value_parser = above_0, requires = "lora_rank")]
    lora_alpha: Option<f32>,
    /// Layers with an adapter: any of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or all-linear
    #[arg(long, default_value = ALL_LINEAR, value_name = "T,…", value_delimiter = ',', requires = "lora_rank")]
    lora_targets: Vec<String>,
    /// Scale by A / √R instead (rsLoRA)
    #[arg(long, requires = "lora_rank")]
    rslora: bool,
    /// Share of the input of the adapter's layers that is dropped; needs an adapter, new or the model's (default: the
    /// PEFT folder's own, else 0)
    #[arg(long, value_name = "P", value_parser = share_below_1)]
    lora_dropout: Option<f32>,
}

impl LoraArgs {
    /// The adapter that is asked for.
    pub(crate) fn config(&self) -> Option<LoraConfig> {
        let rank = usize::from(self.lora_rank?);
        let alpha = self.lora_alpha.unwrap_or(2.0 * rank as f32);
        let dropout = self.lora_dropout.unwrap_or_default();
        let targets = Modules::Names(self.lora_targets.clone());
        Some(LoraConfig { rank, alpha, rslora: self.rslora, dropout, targets, layers: LayerRules::default() })
    }

    fn adapter(&self, arch: &Arch, seed: u64) -> Result<Option<Adapter>> {
        Ok(self.config().map(|config| Adapter::fresh(arch, &config, seed)).transpose()?)
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ScheduleName {
    Constant,
    Linear,
    Cosine,
}

fn losses(text: &str) -> Result<Losses, String> {
    objective::parse(text).map(Losses).map_err(|e| e.to_string())
}

fn divergence(text: &str) -> Result<Divergence, String> {
    let found = Divergence::NAMES.iter().find(|(name, _)| *name == text).map(|(_, f)| *f);
    found.ok_or_else(|| format!("expected {}", Divergence::NAMES.map(|(name, _)| name).join(", ")))
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

fn loss_help() -> String {
    let rows: String = LOSSES.iter().map(|l| format!("\n{}: {}", l.name, l.about)).collect();
    format!("Losses with their weights, such as sigmoid or sigmoid:0.8,sft:0.2. There are:{rows}")
}

pub(crate) fn sft(app: &App, args: &SftArgs) -> Result<()> {
    if !args.mix.is_empty() && args.mix.len() != args.data.len() {
        let what = format!("--mix has {} numbers for {} files of --data", args.mix.len(), args.data.len());
        return Err(WrongUsage { kind: ErrorKind::WrongNumberOfValues, what }.into());
    }
    let start = Start::new(app, &args.common)?;
    let (mut all, mut dropped) = (Vec::new(), 0);
    for path in &args.data {
        let (examples, longer) = examples::examples(path, &start.source, start.limit)?;
        dropped += longer;
        all.push(examples);
    }
    let mut config = SftConfig {
        epochs: args.common.epochs as usize,
        batch: args.common.batch as usize,
        lr: args.common.rate(args.lr),
        seed: app.common.seed(),
    };
    let examples = mixture(all, &args.mix.iter().map(|m| f64::from(*m)).collect::<Vec<_>>(), &mut config);
    let settings = format!("{config:?} {:?} {:?}", args.data, args.mix);
    start.finish(app, &args.common, dropped, examples.len(), settings, |_, _| {
        Ok(Data::Examples { examples: &examples, config: &config })
    })
}

pub(crate) fn dpo(app: &App, args: &DpoArgs) -> Result<()> {
    let start = Start::new(app, &args.common)?;
    let per_step = Some(args.common.batch as usize);
    let (pairs, dropped) = args.loss.data(&args.data, &start.source, start.limit, per_step)?;
    let (epochs, batch) = (args.common.epochs as usize, args.common.batch as usize);
    let (objective, lr) = (args.loss.objective()?, args.common.rate(args.lr));
    let config = DpoConfig { objective, epochs, batch, lr, seed: app.common.seed() };
    let settings = format!("{config:?} {:?} {:?}", args.data, args.reference);
    let vocabulary = start.source.arch.vocab_size;
    start.finish(app, &args.common, dropped, pairs.len(), settings, |app, gpu| {
        let reference = match &args.reference {
            Some(path) => Some(model_logps(app, gpu, (path, vocabulary), args.common.dtype.storage(), &pairs)?),
            None => None,
        };
        Ok(Data::Pairs { pairs: &pairs, config: &config, reference })
    })
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
    fn rate(&self, peak: f32) -> LearningRate {
        let schedule = match self.schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Linear => Schedule::Linear,
            ScheduleName::Cosine => Schedule::Cosine,
        };
        LearningRate { peak, min_lr: self.min_lr, warmup: self.warmup, warmup_offset: 0, schedule }
    }
}

/// What both trainings have in common, opened and checked.
struct Start {
    source: ModelSource,
    limit: Limit,
    began: Instant,
}

impl Start {
    fn new(app: &App, args: &TrainArgs) -> Result<Self> {
        let began = Instant::now();
        check_writable(&args.out)?;
        Work::check(&args.out, args.resume)?;
        let mut source = app.source(&args.model)?;
        if let Some(p) = args.lora.lora_dropout {
            match &mut source.adapter {
                Some(adapter) => adapter.config.dropout = p,
                None if args.lora.lora_rank.is_some() => {}
                None => bail!("--lora-dropout needs an adapter: give --lora-rank, or a PEFT folder as --model"),
            }
        }
        let context = source.arch.max_position_embeddings;
        let limit = Limit { max_length: args.max_length.unwrap_or(context).min(context), truncate: args.truncate };
        Ok(Self { source, limit, began })
    }

    /// Trains, writes the model folder and tells. `settings` is what a resumed training must have in common with its start.
    fn finish<'d>(
        self,
        app: &App,
        args: &TrainArgs,
        dropped: usize,
        records: usize,
        settings: String,
        data: impl FnOnce(&App, &selfreward::gpu::Gpu) -> Result<Data<'d>>,
    ) -> Result<()> {
        if dropped > 0 {
            app.progress
                .note(&format!("{dropped} records are longer than {} tokens and were dropped", self.limit.max_length));
        }
        let plan = json!({
            "model": self.source.path, "records": records, "settings": settings,
            "weight_decay": args.weight_decay, "max_grad_norm": args.max_grad_norm, "adapter_of": args.model,
            "lora": format!("{:?}", args.lora.config()), "dtype": args.dtype.half().map(Half::name),
            "invariant": app.common.invariant, "matrix_units": app.common.matrix_units, "optimizer": args.state.moments().name(),
            "weights": args.state.weights(),
            "dropout": args.dropout, "lora_dropout": self.source.adapter.as_ref().map(|a| a.config.dropout),
        });
        let ranks = app.ranks.exchange();
        let work = ranks.first().then(|| Work::begin(&args.out, args.resume, &plan, &app.progress)).transpose()?;
        let finished = ranks.any(work.as_ref().is_some_and(Work::finished))?;
        ranks.agree("their flags", || fnv(plan.to_string().as_bytes()) as u32)?;
        if !finished {
            self.train(app, args, &out_folder::folder(&args.out), data)?;
        }
        let Some(work) = work else { return Ok(()) };
        let steps = work.close()?;
        let (first, last) = (steps.first(), steps.last());
        let seconds = self.began.elapsed().as_secs_f64();
        if app.common.json {
            return app.json(&json!({
                "out": args.out, "records": records, "dropped": dropped, "steps": steps.len(), "first": first, "last": last, "seconds": seconds,
            }));
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
        dir: &Path,
        data: impl FnOnce(&App, &selfreward::gpu::Gpu) -> Result<Data<'d>>,
    ) -> Result<()> {
        let (gpu, peaks) = args.profile.gpu(app)?;
        let data = data(app, &gpu)?;
        let adapter = args.lora.adapter(&self.source.arch, app.common.seed())?;
        let lora = adapter.is_some() || self.source.adapter.is_some();
        let model = args.state.load(&gpu, &self.source, lora, &args.dtype)?.with_adapter(&gpu, adapter.as_ref())?;
        let optimiser = Optimiser {
            moments: args.state.moments(),
            weight_decay: args.weight_decay,
            max_grad_norm: args.max_grad_norm,
            seed: app.common.seed(),
            ..Optimiser::default()
        };
        let job = Job {
            optimiser,
            save_every: u64::from(args.save_every),
            micro_rows: args.micro_batch.map(|n| n as usize),
            weights: args.state.weights(),
            half: args.dtype.copies(&model),
            dropout: Dropout { rate: args.dropout, seed: app.common.seed() },
            dir,
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
            Some(adapter) => Ok(save_adapter(&args.out, &self.source, &adapter, Dtype::F32)?),
            None => Ok(save_model(&args.out, &self.source, &model.tensors(&gpu)?, model.dtype())?),
        }
    }
}
