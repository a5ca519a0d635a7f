//! `dump dpo` and `dump sft`: one full batch, its gradients, and what AdamW makes of it.

use crate::app::{App, DtypeArg, Pin, check_writable};
use crate::commands::train::{Losses, model_logps};
use crate::flags::{Flags, Preset};
use anyhow::Result;
use selfreward::arch::Dtype;
use selfreward::arch::NamedTensor;
use selfreward::data::examples;
use selfreward::data::examples::{Reading, Rules};
use selfreward::gpu::Gpu;
use selfreward::json::write_json;
use selfreward::settings::{Settings, Table};
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::sft::{self, SftConfig};
use selfreward::train::{LearningRate, Optimiser, TrainSettings, Trainer};
use selfreward::weights::write_safetensors;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct DpoArgs {
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    loss: Flags<Losses>,
    /// The reference model (default: the model itself)
    #[arg(long = "ref", value_name = "R")]
    reference: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct SftArgs {
    #[command(flatten)]
    batch: BatchArgs,
    /// Learn only the last of the assistant's turns in messages (default: all of them)
    #[arg(long)]
    last_turn_only: bool,
}

#[derive(clap::Args)]
struct BatchArgs {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id; its lora_dropout is left off
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Lines with prompt_ids and chosen_ids, rejected_ids (dpo) or completion_ids (sft; dpo with kto, which needs label
    /// too); one batch
    #[arg(long, value_name = "F.jsonl")]
    data: PathBuf,
    /// The folder for metrics.json and grads.safetensors
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// AdamW steps on the batch after the gradients are written
    #[arg(long, default_value_t = 0, value_name = "K")]
    steps: usize,
    #[command(flatten)]
    settings: Flags<OneBatch>,
    /// Most rows (tokens) of a micro-batch, but for a longer record (default: what memory allows)
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: Option<u32>,
    #[command(flatten)]
    pin: Pin,
    #[command(flatten)]
    dtype: DtypeArg,
}

/// What one batch is trained with: AdamW at a constant rate.
struct OneBatch;

impl Preset for OneBatch {
    type Of = TrainSettings;

    fn defaults() -> TrainSettings {
        let optimiser = Optimiser::default().max_grad_norm(0.0);
        TrainSettings::default().optimiser(optimiser)
    }

    fn takes(key: &str) -> bool {
        let rate_and_weights = ["lr", "weights"].contains(&key);
        rate_and_weights || Optimiser::settings().iter().any(|s| s.key == key)
    }

    fn complete(settings: &mut TrainSettings, _: &Table) {
        settings.optimiser.decay_vectors = true;
    }
}

/// What the first step shows, and the pair `[loss, gradient norm]` of every step.
#[derive(Default)]
struct Taken {
    gradients: Vec<NamedTensor>,
    trajectory: Vec<[f64; 2]>,
}

impl Taken {
    fn take(&mut self, trainer: &Trainer, loss: f64, norm: f64) -> selfreward::Result<()> {
        if self.trajectory.is_empty() {
            self.gradients = trainer.gradients()?;
        }
        self.trajectory.push([loss, norm]);
        Ok(())
    }

    /// Adds `loss` and, if steps were asked for, `trajectory` to the metrics, and writes both files.
    fn write(self, args: &BatchArgs, mut metrics: Value) -> Result<()> {
        metrics["loss"] = json!(self.trajectory.first().map(|t| t[0]));
        if args.steps > 0 {
            metrics["trajectory"] = json!(self.trajectory);
        }
        std::fs::create_dir_all(&args.out)?;
        write_safetensors(&args.out.join("grads.safetensors"), &self.gradients, Dtype::F32)?;
        Ok(write_json(&args.out.join("metrics.json"), &metrics)?)
    }
}

/// Refuses a batch of which a record was left out, since its gradients would be those of another batch.
fn whole(reading: &Reading) -> Result<()> {
    anyhow::ensure!(reading.dropped() == 0, "{reading}; every record of a batch was expected to be used");
    Ok(())
}

impl BatchArgs {
    fn open(&self, app: &App) -> Result<(ModelSource, Rules)> {
        check_writable(&self.out.join("metrics.json"))?;
        let mut source = app.source(&self.model)?;
        if let Some(adapter) = &mut source.adapter {
            adapter.config.dropout = 0.0;
        }
        let rules = Rules::up_to(source.arch.max_position_embeddings);
        Ok((source, rules))
    }

    fn trainer<'g>(&self, gpu: &'g Gpu, source: &ModelSource, seed: u64) -> Result<Trainer<'g>> {
        let optimiser = self.settings.optimiser.clone().seed(seed);
        let model = self.dtype.trainable(gpu, source, self.settings.weights, source.adapter.is_some())?;
        let mut trainer = Trainer::new(gpu, model, optimiser)?;
        if let Some(half) = self.dtype.copies(trainer.model()) {
            trainer.read_half(half)?;
        }
        trainer.set_micro_rows(self.micro_batch.map(|n| n as usize));
        Ok(trainer)
    }

    /// The schedule of the steps. The gradients are those of a first step, which without `--steps` moves nothing.
    fn rate(&self) -> LearningRate {
        LearningRate::constant(if self.steps == 0 { 0.0 } else { self.settings.lr.peak })
    }
}

pub(crate) fn dpo(app: &App, args: &DpoArgs) -> Result<()> {
    let batch = &args.batch;
    let (source, rules) = batch.open(app)?;
    args.loss.rows()?;
    let (pairs, reading) = examples::preferences(&batch.data, &source, rules, &args.loss, None)?;
    whole(&reading)?;
    let gpu = app.pinned_gpu(&batch.pin)?;
    let storage = batch.dtype.passes(batch.settings.weights);
    let own = model_logps(app, &gpu, (&batch.model, source.arch.vocab_size), storage, &pairs)?;
    let reference = match &args.reference {
        Some(path) => Some(model_logps(app, &gpu, (path, source.arch.vocab_size), batch.dtype.storage(), &pairs)?),
        None => None,
    };
    let config = DpoConfig::default()
        .objective(Objective::clone(&args.loss))
        .epochs(batch.steps.max(1))
        .batch(pairs.len())
        .lr(batch.rate())
        .seed(app.common.seed());
    let (mut taken, mut used) = (Taken::default(), reference.clone().unwrap_or_default());
    let mut trainer = batch.trainer(&gpu, &source, app.common.seed())?;
    dpo::Training::new(&pairs, &config)
        .reference(reference.as_deref())
        .observer(&app.progress)
        .on_reference(&mut |logps| {
            used = logps.to_vec();
            Ok(())
        })
        .on_step(&mut |trainer, step| taken.take(trainer, step.loss, step.grad_norm))
        .run(&mut trainer)?;
    let side = |list: &[PairLogps], of: fn(&PairLogps) -> f32| list.iter().map(of).collect::<Vec<f32>>();
    taken.write(
        batch,
        json!({
            "logps_chosen": side(&own, |l| l.chosen), "logps_rejected": side(&own, |l| l.rejected),
            "ref_logps_chosen": side(&used, |l| l.chosen), "ref_logps_rejected": side(&used, |l| l.rejected),
        }),
    )
}

pub(crate) fn sft(app: &App, args: &SftArgs) -> Result<()> {
    let batch = &args.batch;
    let (source, rules) = batch.open(app)?;
    let (examples, reading) = examples::examples(&batch.data, &source, rules)?;
    whole(&reading)?;
    let gpu = app.pinned_gpu(&batch.pin)?;
    let config =
        SftConfig::default().epochs(batch.steps.max(1)).batch(examples.len()).lr(batch.rate()).seed(app.common.seed());
    let mut taken = Taken::default();
    let mut trainer = batch.trainer(&gpu, &source, app.common.seed())?;
    sft::run(&mut trainer, &examples, &config, &app.progress, &mut |trainer, step| {
        taken.take(trainer, step.loss, step.grad_norm)
    })?;
    taken.write(batch, json!({}))
}
