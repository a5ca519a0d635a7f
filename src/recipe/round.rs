//! One round of the loop: prompts, candidates, verdicts, pairs, training.

use super::config::{Agreement, Rejected, RoundSettings};
use super::diversity::{Answer, Diversity, diversity};
use super::domain::Domain;
use super::models::Models;
use super::pair_stage::Inputs;
use super::records::{CandidateRecord, DroppedRecord, PairRecord, VerdictRecord};
use super::records::{read_jsonl, read_jsonl_if_there, write_json};
use super::waves::finished;
use super::{candidates, logps, meta, metrics, pair_stage, prompts, shards, training, validation, verdicts};
use crate::gpu::Gpu;
use crate::judge::{Engine, GpuEngine, Judge};
use crate::model::Model;
use crate::train::dpo::DpoStep;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What every stage of a round is given.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What the loop works on.
    pub domain: &'a dyn Domain,
    /// How.
    pub settings: &'a RoundSettings,
    /// Of every random number.
    pub seed: u64,
    /// From 1.
    pub round: u32,
    /// Told what goes on.
    pub observer: &'a dyn Observer,
    /// The other models of the run.
    pub models: &'a dyn Models,
    /// Prompts that are measured on: no new prompt may be one of them, or like one.
    pub held_out: &'a [String],
}

/// What a run must have in common with its resume for the same bytes: the device, the order of its sums, the sizes of waves
/// and steps.
pub(super) fn sizes(gpu: &Gpu, settings: &RoundSettings) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([
        ("device".to_owned(), gpu.info().name.clone().into()),
        ("kernels".to_owned(), gpu.form().name().into()),
        ("prompts.wave".to_owned(), settings.prompts.wave.into()),
        ("candidates.wave".to_owned(), settings.candidates.wave.into()),
        ("judge.wave".to_owned(), settings.judge.wave.into()),
        ("dpo.batch".to_owned(), settings.dpo.batch.into()),
    ])
}

/// A round in numbers: `round-N/metrics.json`, a pure function of the round's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundMetrics {
    /// From 1.
    pub round: u32,
    /// New prompts.
    pub prompts: usize,
    /// Continuations that became none, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Responses.
    pub candidates: usize,
    /// Share of different responses to a prompt, mean over prompts.
    pub distinct: f64,
    /// Mean response length in tokens.
    pub candidate_tokens: f64,
    /// Share of responses that the model ended itself.
    pub stopped: f64,
    /// How scores were read.
    pub judge: String,
    /// Different responses judged.
    pub verdicts: usize,
    /// Of these, without a score.
    pub unscored: usize,
    /// Share of written verdicts that parsed; 1 for modes that write none.
    pub parse_rate: f64,
    /// Mean score.
    pub score_mean: f64,
    /// Scores rounded to 0, 1, … 5.
    pub score_histogram: [usize; 6],
    /// Preferences.
    pub pairs: usize,
    /// Prompts whose best and worst are too near one another.
    pub ties: usize,
    /// Prompts with fewer than two scores.
    pub too_few: usize,
    /// Pairs left out because log-probs and scores disagree (`[pairs] implicit`).
    #[serde(default)]
    pub disagreeing: usize,
    /// Agreement of the judge with the model before, (τ + 1) / 2, mean over prompts (`[pairs] agreement`); null where it was not
    /// asked.
    #[serde(default)]
    pub agreement: Option<f64>,
    /// Verdict pairs (`[judge] meta`).
    #[serde(default)]
    pub meta_pairs: usize,
    /// How varied and how long the responses are; null in files of older versions.
    #[serde(default)]
    pub diversity: Option<Diversity>,
    /// The step whose model was kept by early stopping; null without.
    #[serde(default)]
    pub best_step: Option<u64>,
    /// Mean length of the chosen answers in tokens.
    pub chosen_tokens: f64,
    /// Mean length of the rejected answers in tokens.
    pub rejected_tokens: f64,
    /// Optimiser steps.
    pub steps: usize,
    /// The last step of the preference training; null for other methods.
    pub last_step: Option<DpoStep>,
    /// Sentences about what looks wrong with this round.
    pub warnings: Vec<String>,
}

/// Files of a round.
pub struct RoundFiles {
    /// The round's folder.
    pub dir: PathBuf,
}

impl RoundFiles {
    /// Of round `round` in run folder `run`.
    pub fn new(run: &Path, round: u32) -> Self {
        Self { dir: run.join(format!("round-{round}")) }
    }

    /// `NAME.jsonl`.
    pub fn jsonl(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }
}

/// Plays a round with `model` and writes the next one into the folder `next`; finished stages are read back, an interrupted one
/// goes on. `earlier` holds every prompt that may not come again; `on_stage` is told of each stage that ends.
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
    ctx: &Context,
    judge: &dyn Judge,
    files: &RoundFiles,
    next: &Path,
    earlier: &[String],
    on_stage: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let pairs = prepare(&mut GpuEngine::new(gpu, &model), ctx, judge, files, earlier, on_stage)?;
    if pairs.is_empty() {
        return Err(Error::Input(no_pairs(ctx, files)?));
    }
    training::run(gpu, model, ctx, judge, &pairs, files, next)?;
    on_stage("training")?;
    let path = files.dir.join("metrics.json");
    if !path.exists() {
        let metrics = measure(ctx, judge.name(), files)?;
        for warning in &metrics.warnings {
            ctx.observer.note(&format!("round {}: {warning}", ctx.round));
        }
        write_json(&path, &metrics)?;
    }
    Ok(())
}

/// The round up to its pairs, verdict pairs among them.
///
/// # Errors
/// As [`play`].
pub fn prepare(
    engine: &mut dyn Engine,
    ctx: &Context,
    judge: &dyn Judge,
    files: &RoundFiles,
    earlier: &[String],
    on_stage: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Vec<PairRecord>> {
    let (section, models) = (&ctx.settings.pairs, ctx.models);
    let mut inputs = Inputs {
        prompts: prompts::run(engine, ctx, earlier, &files.jsonl("prompts"), &files.jsonl("dropped"))?,
        ..Inputs::default()
    };
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
    let mut pairs = pair_stage::run(ctx, &inputs, &files.jsonl("pairs"))?;
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

/// Why a round has no pairs, and what may help.
fn no_pairs(ctx: &Context, files: &RoundFiles) -> Result<String> {
    let inputs = inputs(files)?;
    let outcome = pair_stage::build(ctx, &inputs)?;
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

/// Files, stages and keys of what a round takes from other models.
pub(super) const ANCHORS: &str = "anchors";
pub(super) const ANCHOR_VERDICTS: &str = "anchor-verdicts";
const VERDICTS_BEFORE: &str = "verdicts-before";
const LOGPS: &str = "logps";
const LOGPS_BEFORE: &str = "logps-before";
/// Verdict pairs.
const META_PAIRS: &str = "meta-pairs";

/// What the model before says of the round's answers, where an option of `[pairs]` asks for it.
fn second_opinions(
    engine: &mut dyn Engine,
    ctx: &Context,
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

/// The records that the pairs of a finished round were made of.
fn inputs(files: &RoundFiles) -> Result<Inputs> {
    fn optional<T: serde::de::DeserializeOwned>(files: &RoundFiles, name: &str) -> Result<Option<Vec<T>>> {
        read_jsonl_if_there(&files.jsonl(name))
    }
    let mut verdicts = read_jsonl(&files.jsonl("verdicts"))?;
    verdicts.extend(optional(files, ANCHOR_VERDICTS)?.unwrap_or_default());
    Ok(Inputs {
        prompts: read_jsonl(&files.jsonl("prompts"))?,
        candidates: read_jsonl(&files.jsonl("candidates"))?,
        verdicts,
        anchors: optional(files, ANCHORS)?,
        before: optional(files, VERDICTS_BEFORE)?,
        logps: optional(files, LOGPS)?.zip(optional(files, LOGPS_BEFORE)?).map(|(now, before)| [now, before]),
    })
}

/// Reads the round's files and counts.
///
/// # Errors
/// A file is missing or broken.
pub fn measure(ctx: &Context, judge: &str, files: &RoundFiles) -> Result<RoundMetrics> {
    let inputs = inputs(files)?;
    let outcome = pair_stage::build(ctx, &inputs)?;
    let (prompts, candidates) = (&inputs.prompts, &inputs.candidates);
    let verdicts: Vec<VerdictRecord> = read_jsonl(&files.jsonl("verdicts"))?;
    let meta_pairs: Option<Vec<PairRecord>> = read_jsonl_if_there(&files.jsonl(META_PAIRS))?;
    let dropped: Vec<DroppedRecord> = read_jsonl(&files.jsonl("dropped"))?;
    let pairs: Vec<PairRecord> = read_jsonl(&files.jsonl("pairs"))?;
    let steps: Vec<serde_json::Value> = read_jsonl(&files.jsonl("steps"))?;
    let mut reasons = BTreeMap::new();
    for d in &dropped {
        *reasons.entry(d.reason.clone()).or_insert(0) += 1;
    }
    let mut groups: BTreeMap<&str, Vec<Answer>> = prompts.iter().map(|p| (p.id.as_str(), Vec::new())).collect();
    for c in candidates {
        groups.entry(&c.prompt_id).or_default().push(Answer { text: c.text.clone(), tokens: Some(c.tokens) });
    }
    let answers: Vec<Vec<Answer>> = groups.into_values().collect();
    let distinct =
        |of_prompt: &Vec<Answer>| metrics::distinct(&of_prompt.iter().map(|a| a.text.as_str()).collect::<Vec<_>>());
    let scores: Vec<f64> = verdicts.iter().filter_map(|v| v.score).collect();
    let written: usize = verdicts.iter().map(|v| v.texts.len()).sum();
    let unparsed: usize = verdicts.iter().map(|v| v.unparsed).sum();
    let ratio = |part: f64, whole: usize| if whole == 0 { 0.0 } else { part / whole as f64 };
    let mean = |values: &mut dyn Iterator<Item = f64>| metrics::mean_se(&values.collect::<Vec<_>>()).0;
    let mut out = RoundMetrics {
        round: ctx.round,
        prompts: prompts.len(),
        dropped: reasons,
        candidates: candidates.len(),
        distinct: mean(&mut answers.iter().filter(|a| !a.is_empty()).map(distinct)),
        candidate_tokens: mean(&mut candidates.iter().map(|c| c.tokens as f64)),
        stopped: ratio(candidates.iter().filter(|c| c.stopped).count() as f64, candidates.len()),
        judge: judge.to_owned(),
        verdicts: verdicts.len(),
        unscored: verdicts.iter().filter(|v| v.score.is_none()).count(),
        parse_rate: if written == 0 { 1.0 } else { 1.0 - ratio(unparsed as f64, written) },
        score_mean: metrics::mean_se(&scores).0,
        score_histogram: metrics::histogram(&scores),
        pairs: pairs.len(),
        ties: outcome.ties,
        too_few: outcome.too_few,
        disagreeing: outcome.disagreeing,
        agreement: outcome.agreement,
        meta_pairs: meta_pairs.map_or(0, |pairs| pairs.len()),
        diversity: Some(diversity(&answers)),
        best_step: validation::best(&files.dir)?,
        chosen_tokens: mean(&mut pairs.iter().map(|p| p.chosen_ids.len() as f64)),
        rejected_tokens: mean(&mut pairs.iter().map(|p| p.rejected_ids.len() as f64)),
        steps: steps.len(),
        last_step: steps.last().and_then(|s| serde_json::from_value(s.clone()).ok()),
        warnings: Vec::new(),
    };
    out.warnings = warnings(&out);
    Ok(out)
}

/// What looks like a collapse.
fn warnings(m: &RoundMetrics) -> Vec<String> {
    let scored: usize = m.score_histogram.iter().sum();
    let fullest = m.score_histogram.iter().copied().max().unwrap_or(0);
    let mut out = Vec::new();
    let mut warn = |when: bool, sentence: String| {
        if when {
            out.push(sentence);
        }
    };
    warn(
        m.ties * 10 > m.prompts * 8,
        format!("{} of {} prompts are ties: the judge hardly tells answers apart", m.ties, m.prompts),
    );
    warn(
        // Modes that give small numbers (backward) may tell answers apart all the same.
        scored >= 20 && fullest * 100 > scored * 95 && m.ties * 2 > m.prompts,
        format!("{fullest} of {scored} scores round to the same number: the scale has collapsed"),
    );
    warn(
        m.parse_rate < 0.5,
        format!("only {:.0} % of the verdicts parsed; another judge mode may serve better", m.parse_rate * 100.0),
    );
    warn(
        m.candidates > 0 && m.distinct < 0.5,
        format!("responses to a prompt are mostly alike (distinct {:.2})", m.distinct),
    );
    warn(
        m.pairs > 0 && m.chosen_tokens > 2.0 * m.rejected_tokens,
        "chosen answers are more than twice as long as rejected ones: consider [pairs] length_margin".to_owned(),
    );
    out
}
