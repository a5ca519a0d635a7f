//! One round of the loop: prompts, candidates, verdicts, pairs and training.

use super::context::{
    ANCHOR_VERDICTS, ANCHORS, LOGPS, LOGPS_BEFORE, META_PAIRS, RoundContext, RoundFiles, VERDICTS_BEFORE,
};
use super::round_metrics::{inputs, measure};
use super::shards;
use super::stages::pairs::{self, Inputs};
use super::stages::{candidates, logps, meta, prompts, training, verdicts};
use super::warnings;
use crate::config::{Agreement, Rejected};
use crate::data::records::{CandidateRecord, PairRecord};
use crate::disk::OnDisk;
use crate::generate::{Engine, GpuEngine};
use crate::gpu::Gpu;
use crate::json::write_json;
use crate::judge::Judge;
use crate::model::Model;
use crate::waves::finished;
use crate::{Error, Result};
use std::path::Path;

/// Plays a round with `model` and writes the next one to the folder `next`. Finished stages are not run again, and an
/// interrupted one continues. `earlier` holds every prompt that may not come again; `on_stage` is told of each stage
/// that ends.
///
/// # Errors
/// Errors of the stages; a round that yields no prompts or no pairs; `Stopped` when the observer asks for it.
#[expect(
    clippy::too_many_arguments,
    reason = "demo and run call it once each; a struct would only name everything twice"
)]
pub fn play(
    gpu: &Gpu,
    model: Model,
    ctx: &RoundContext,
    judge: &dyn Judge,
    files: &RoundFiles,
    next: &Path,
    earlier: &[String],
    on_stage: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut engine = GpuEngine::new(gpu, &model).kv(ctx.settings.candidates.kv);
    let pairs = prepare(&mut engine, ctx, judge, files, earlier, on_stage)?;
    if pairs.is_empty() {
        return Err(Error::Input(no_pairs(ctx, files)?));
    }
    training::run(gpu, model, ctx, judge, &pairs, files, next)?;
    on_stage("training")?;
    let path = files.dir.join("metrics.json");
    if !path.is_there() {
        let mut metrics = measure(ctx, judge.name(), files)?;
        metrics.warnings = warnings::of_round(&metrics);
        write_json(&path, &metrics)?;
    }
    Ok(())
}

/// Plays the round up to its pairs, verdict pairs among them.
///
/// # Errors
/// As [`play`].
pub fn prepare(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    judge: &dyn Judge,
    files: &RoundFiles,
    earlier: &[String],
    on_stage: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Vec<PairRecord>> {
    let (section, models) = (&ctx.settings.pairs, ctx.models);
    let mut inputs = Inputs { prompts: prompts::run(engine, ctx, earlier, files)?, ..Inputs::default() };
    on_stage("prompts")?;
    shards::merge(ctx, files, &inputs.prompts)?;
    inputs.candidates = candidates::run(engine, ctx, "candidates", &inputs.prompts, &files.jsonl("candidates"))?;
    on_stage("candidates")?;
    // In round 1 the first model is the round's own.
    if section.rejected == Rejected::First && ctx.round > 1 {
        let out = files.jsonl(ANCHORS);
        inputs.anchors = finished(&out)?;
        if inputs.anchors.is_none() {
            models.with(1, &mut |first| {
                inputs.anchors = Some(candidates::run(first, ctx, ANCHORS, &inputs.prompts, &out)?);
                Ok(())
            })?;
        }
        on_stage(ANCHORS)?;
    }
    inputs.verdicts =
        verdicts::run(engine, judge, ctx, "verdicts", &inputs.prompts, &inputs.candidates, &files.jsonl("verdicts"))?;
    let written = inputs.verdicts.clone();
    if let Some(anchors) = &inputs.anchors {
        let out = files.jsonl(ANCHOR_VERDICTS);
        inputs.verdicts.extend(verdicts::run(engine, judge, ctx, ANCHOR_VERDICTS, &inputs.prompts, anchors, &out)?);
    }
    on_stage("verdicts")?;
    second_opinions(engine, ctx, judge, files, &mut inputs, on_stage)?;
    let mut pairs = pairs::run(ctx, &inputs, &files.jsonl("pairs"))?;
    on_stage("pairs")?;
    if ctx.settings.judge.meta > 0.0 {
        let (prompts, candidates) = (&inputs.prompts[..], &inputs.candidates[..]);
        let input = meta::Verdicts { prompts, candidates, verdicts: &written, pairs: pairs.len() };
        let own = meta::own_meta_judge(ctx);
        pairs.extend(meta::run(engine, judge, &own, ctx, &input, &files.jsonl(META_PAIRS))?);
        on_stage("meta")?;
    }
    Ok(pairs)
}

/// Says why a round has no pairs, and what may help.
fn no_pairs(ctx: &RoundContext, files: &RoundFiles) -> Result<String> {
    let inputs = inputs(files)?;
    let outcome = pairs::build(ctx, &inputs)?;
    let unscored = inputs.verdicts.iter().filter(|v| v.score.is_none()).count();
    let counts = [
        (outcome.ties, "are ties: lower [pairs] min_gap, raise [candidates] temperature or n, or change [judge] mode"),
        (outcome.too_few, "have fewer than two scores: change [judge] mode, or its template and pattern"),
    ];
    let mut why: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} of {} prompts {what}", inputs.prompts.len()))
        .collect();
    if unscored > 0 {
        let first = inputs.verdicts.iter().find(|v| v.score.is_none()).map_or("", |v| v.status.as_str());
        why.push(format!("{unscored} of {} answers have no score ({first})", inputs.verdicts.len()));
    }
    if outcome.disagreeing > 0 {
        why.push(format!("[pairs] implicit left out {} pairs", outcome.disagreeing));
    }
    let folder = "other settings need another [run] out";
    Ok(format!("round {}: no pairs to train on. {}; {folder}", ctx.round, why.join("; ")))
}

/// Asks the model before what it says of the round's answers, if an option of `[pairs]` wants it.
fn second_opinions(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    judge: &dyn Judge,
    files: &RoundFiles,
    inputs: &mut Inputs,
    on_stage: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let (agreement, implicit) = (ctx.settings.pairs.agreement != Agreement::Off, ctx.settings.pairs.implicit);
    if !agreement && !implicit {
        return Ok(());
    }
    let Some(before) = ctx.models.before(ctx.round) else {
        ctx.observer.note("round 1 has no model before it to agree with: every pair is taken as it is");
        return Ok(());
    };
    let answers: Vec<&CandidateRecord> = inputs.candidates.iter().chain(inputs.anchors.iter().flatten()).collect();
    let [verdicts_out, logps_out, own_out] = [VERDICTS_BEFORE, LOGPS_BEFORE, LOGPS].map(|name| files.jsonl(name));
    let (mut verdicts_before, mut logps_before) = (finished(&verdicts_out)?, finished(&logps_out)?);
    if agreement && verdicts_before.is_none() || implicit && logps_before.is_none() {
        let (prompts, own) = (&inputs.prompts, &inputs.candidates);
        ctx.models.with(before, &mut |other| {
            if agreement {
                verdicts_before = Some(verdicts::run(other, judge, ctx, VERDICTS_BEFORE, prompts, own, &verdicts_out)?);
            }
            if implicit {
                logps_before = Some(logps::run(other, ctx, LOGPS_BEFORE, prompts, &answers, &logps_out)?);
            }
            Ok(())
        })?;
    }
    if let Some(before) = logps_before {
        let own = logps::run(engine, ctx, LOGPS, &inputs.prompts, &answers, &own_out)?;
        inputs.logps = Some([own, before]);
    }
    inputs.before = verdicts_before;
    on_stage("second-opinions")
}
