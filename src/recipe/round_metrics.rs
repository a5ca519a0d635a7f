//! The numbers that describe a round.

use super::context::{
    ANCHOR_VERDICTS, ANCHORS, LOGPS, LOGPS_BEFORE, META_PAIRS, RoundContext, RoundFiles, VERDICTS_BEFORE,
};
use super::stages::pairs::{Inputs, build};
use super::stages::validation;
use crate::Result;
use crate::data::answers::Answer;
use crate::data::records::{DroppedRecord, PairRecord, VerdictRecord};
use crate::json::{read_jsonl, read_jsonl_if_there};
use crate::measure::diversity::{Diversity, diversity};
use crate::measure::metrics;
use crate::train::dpo::DpoStep;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A round in numbers: `round-N/metrics.json`, a pure function of the round's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundMetrics {
    /// Number of the round, from 1.
    pub round: u32,
    /// How many new prompts there are.
    pub prompts: usize,
    /// How many continuations gave no prompt, for each reason.
    pub dropped: BTreeMap<String, usize>,
    /// How many responses there are.
    pub candidates: usize,
    /// Fraction of different responses to a prompt, averaged over the prompts.
    pub distinct: f64,
    /// Mean length of the responses in tokens.
    pub candidate_tokens: f64,
    /// Fraction of the responses that the model ended itself.
    pub stopped: f64,
    /// How the scores were read: the judge mode's name.
    pub judge: String,
    /// How many different responses were judged.
    pub verdicts: usize,
    /// How many of the judged responses have no score.
    pub unscored: usize,
    /// Fraction of the written verdicts that parsed; 1 for modes that write none.
    pub parse_rate: f64,
    /// Mean of the scores.
    pub score_mean: f64,
    /// How many scores round to 0, 1, … 5.
    pub score_histogram: [usize; 6],
    /// How many preferences there are.
    pub pairs: usize,
    /// How many prompts have a best and a worst response that are too near one another.
    pub ties: usize,
    /// How many prompts have fewer than two scored responses.
    pub too_few: usize,
    /// How many pairs were left out because log-probs and scores disagree (`[pairs] implicit`).
    #[serde(default)]
    pub disagreeing: usize,
    /// Agreement of the judge with the model before, (τ + 1) / 2, averaged over the prompts (`[pairs] agreement`); null
    /// if it was not asked for.
    #[serde(default)]
    pub agreement: Option<f64>,
    /// How many pairs of verdicts there are (`[judge] meta`).
    #[serde(default)]
    pub meta_pairs: usize,
    /// How varied and how long the responses are; null in files of older versions.
    #[serde(default)]
    pub diversity: Option<Diversity>,
    /// The optimiser step whose model early stopping kept; null without early stopping.
    #[serde(default)]
    pub best_step: Option<u64>,
    /// Mean length of the chosen answers in tokens.
    pub chosen_tokens: f64,
    /// Mean length of the rejected answers in tokens.
    pub rejected_tokens: f64,
    /// How many optimiser steps were taken.
    pub steps: usize,
    /// How much likelier the training made its chosen answers, by its last steps: the mean gain of a token's log-prob
    /// over the reference, in nats; null for other methods, for losses without a reference and in files of older
    /// versions.
    #[serde(default)]
    pub chosen_gain: Option<f64>,
    /// The numbers of the last step of a preference training; null for other methods.
    pub last_step: Option<DpoStep>,
    /// One sentence for each thing that looks wrong with this round (`super::warnings`).
    pub warnings: Vec<String>,
}

/// The records of which the pairs of a finished round were made.
pub(super) fn inputs(files: &RoundFiles) -> Result<Inputs> {
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

/// Reads the round's files and computes the metrics, without warnings.
///
/// # Errors
/// A file is missing or broken.
pub fn measure(ctx: &RoundContext, judge: &str, files: &RoundFiles) -> Result<RoundMetrics> {
    let inputs = inputs(files)?;
    let outcome = build(ctx, &inputs)?;
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
    let chosen_tokens = mean(&mut pairs.iter().map(|p| p.chosen_ids.len() as f64));
    Ok(RoundMetrics {
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
        chosen_tokens,
        rejected_tokens: mean(&mut pairs.iter().map(|p| p.rejected_ids.len() as f64)),
        steps: steps.len(),
        chosen_gain: chosen_gain(&steps, f64::from(ctx.settings.dpo.objective.beta), chosen_tokens),
        last_step: steps.last().and_then(|s| serde_json::from_value(s.clone()).ok()),
        warnings: Vec::new(),
    })
}

/// The mean reward of chosen answers in the last quarter of the steps, as nats a token. Rewards that begin at 0 are
/// those against a reference, which is the model as it was before the training.
fn chosen_gain(steps: &[serde_json::Value], beta: f64, tokens: f64) -> Option<f64> {
    let rewards: Vec<f64> = steps.iter().filter_map(|s| s.get("rewards/chosen")?.as_f64()).collect();
    let last = &rewards[rewards.len() - rewards.len().div_ceil(4)..];
    let known = rewards.len() > 1 && rewards[0] == 0.0 && beta > 0.0 && tokens > 0.0;
    known.then(|| metrics::mean_se(last).0 / beta / tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_quarter_of_the_steps_tells_what_became_of_chosen_answers() {
        let steps = |rewards: &[f64]| rewards.iter().map(|r| json!({"rewards/chosen": r})).collect::<Vec<_>>();
        let gain = chosen_gain(&steps(&[0.0, 1.0, 1.0, 1.0, -0.1, -0.3]), 0.1, 10.0).unwrap();
        assert!((gain + 0.2).abs() < 1e-12, "{gain}");
        for none in [&[][..], &[0.0], &[-5.0, -6.0]] {
            assert_eq!(chosen_gain(&steps(none), 0.1, 10.0), None);
        }
        assert_eq!(chosen_gain(&[json!({"loss": 1.0}), json!({"loss": 0.5})], 0.1, 10.0), None);
    }
}
