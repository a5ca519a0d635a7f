//! Stage 4: the preference pairs of the prompts.

use crate::Result;
use crate::config::pair_rule::{PairChoice, ScoredAnswer, choose};
use crate::config::{Agreement, Weighting};
use crate::data::records::{CandidateRecord, LogpRecord, PairRecord, PromptRecord, VerdictRecord, alone, hex};
use crate::disk::OnDisk;
use crate::json::{read_jsonl, write_jsonl};
use crate::measure::metrics::{kendall_tau_b, mean_se};
use crate::recipe::context::RoundContext;
use crate::rng::record_id;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The records of earlier stages, of which pairs are made.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The prompts of the round.
    pub prompts: Vec<PromptRecord>,
    /// The answers of the round's model.
    pub candidates: Vec<CandidateRecord>,
    /// The judgments of the answers, with those of `anchors` among them.
    pub verdicts: Vec<VerdictRecord>,
    /// The answers of the first model, if the rejected answers are taken from these.
    pub anchors: Option<Vec<CandidateRecord>>,
    /// The judgments of the model before, if agreement with them counts.
    pub before: Option<Vec<VerdictRecord>>,
    /// The log-probs of all answers under the round's model and under the one before, if these must agree with the
    /// scores.
    pub logps: Option<[Vec<LogpRecord>; 2]>,
}

/// The pairs of a round, and what became of the prompts without pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairsOutcome {
    /// The pairs, sorted by prompt id.
    pub pairs: Vec<PairRecord>,
    /// How many prompts have a best and a worst answer that are too near one another.
    pub ties: usize,
    /// How many prompts have fewer than two scored answers.
    pub too_few: usize,
    /// How many pairs were left out because log-probs and scores disagree.
    pub disagreeing: usize,
    /// Mean over the prompts of (τ + 1) / 2 between the round's judge and the model before; `None` if it was not asked
    /// for.
    pub agreement: Option<f64>,
}

/// Builds the preferences and writes them to `out`. The records of a finished stage are read from `out`.
///
/// # Errors
/// A text cannot be encoded, or the file cannot be written.
pub fn run(ctx: &RoundContext, inputs: &Inputs, out: &Path) -> Result<Vec<PairRecord>> {
    if out.is_there() {
        return read_jsonl(out);
    }
    let pairs = build(ctx, inputs)?.pairs;
    write_jsonl(out, &pairs)?;
    Ok(pairs)
}

/// Builds the pairs: a pure function of the records and the settings.
///
/// # Errors
/// A text cannot be encoded.
pub fn build(ctx: &RoundContext, inputs: &Inputs) -> Result<PairsOutcome> {
    let section = &ctx.settings.pairs;
    let rule = section.rule(ctx.round);
    let own = scored(&inputs.prompts, &inputs.candidates, &inputs.verdicts);
    let anchors = inputs.anchors.as_ref().map(|anchors| scored(&inputs.prompts, anchors, &inputs.verdicts));
    let agreements = inputs.before.as_ref().map(|before| agreements(&own, before));
    let implicit = inputs.logps.as_ref().map(implicit);
    let mut out = PairsOutcome::default();
    // The pairs of which the rejected answer alone was cut.
    let mut cut = HashSet::new();
    for (at, (prompt, candidates)) in own.iter().enumerate() {
        let anchors = anchors.as_ref().map(|all| &all[at].1);
        let (answers, others) = (texts(candidates), anchors.map(|list| texts(list)));
        match choose(&answers, others.as_deref(), &rule) {
            PairChoice::Tie => out.ties += 1,
            PairChoice::TooFew => out.too_few += 1,
            PairChoice::Pairs(list) => {
                for (c, r) in list {
                    let (chosen, rejected) = (candidates[c], anchors.unwrap_or(candidates)[r]);
                    let gain = |c: &CandidateRecord| implicit.as_ref()?.get(c.id.as_str()).copied();
                    let disagree = gain(chosen.0).zip(gain(rejected.0)).is_some_and(|(c, r)| c <= r);
                    if section.implicit && disagree {
                        out.disagreeing += 1;
                        continue;
                    }
                    let mut record = record(ctx, prompt, chosen, rejected)?;
                    if let (Agreement::Prompt, Some(all)) = (section.agreement, &agreements) {
                        // Rankings that put all alike say nothing about the preference.
                        record.flip = (1.0 - all[at].unwrap_or(0.5)) as f32;
                    }
                    if answers[c].ended_alone(&others.as_ref().unwrap_or(&answers)[r]) {
                        cut.insert(record.id.clone());
                    }
                    out.pairs.push(record);
                }
            }
        }
    }
    // An id is a hash.
    rule.draw(&mut out.pairs, section.total, |p| cut.contains(&p.id), |p| p.id.clone());
    if let Some(all) = agreements {
        let known: Vec<f64> = all.into_iter().flatten().collect();
        out.agreement = (!known.is_empty()).then(|| mean_se(&known).0);
    }
    if let (Agreement::Round, Some(c)) = (section.agreement, out.agreement) {
        out.pairs.iter_mut().for_each(|p| p.flip = (1.0 - c) as f32);
    }
    if section.weight == Weighting::Gap {
        let gap = |p: &PairRecord| p.score_chosen - p.score_rejected;
        let mean = mean_se(&out.pairs.iter().map(gap).collect::<Vec<_>>()).0;
        out.pairs.iter_mut().for_each(|p| p.weight = (gap(p) / mean) as f32);
    }
    Ok(out)
}

/// (τ + 1) / 2 of each prompt's candidates under both judges; `None` if one of the judges puts all of them alike.
fn agreements(own: &[(&PromptRecord, Answers)], before: &[VerdictRecord]) -> Vec<Option<f64>> {
    let before = scores(before);
    own.iter()
        .map(|(_, candidates)| {
            let both = candidates.iter().filter_map(|(c, score)| Some((*score, *before.get(c.id.as_str())?)));
            let (now, then): (Vec<f64>, Vec<f64>) = both.unzip();
            kendall_tau_b(&now, &then).map(|tau| (tau + 1.0) / 2.0)
        })
        .collect()
}

/// log π − log π_before of every answer, which is DPO's implicit reward divided by β.
fn implicit([now, before]: &[Vec<LogpRecord>; 2]) -> HashMap<&str, f64> {
    let before: HashMap<&str, f64> = before.iter().map(|r| (r.candidate_id.as_str(), r.logp)).collect();
    let gain = |r: &'_ LogpRecord| Some(r.logp - before.get(r.candidate_id.as_str())?);
    now.iter().filter_map(|r| Some((r.candidate_id.as_str(), gain(r)?))).collect()
}

/// A prompt's answers with their scores.
type Answers<'a> = Vec<(&'a CandidateRecord, f64)>;

/// The score of each candidate that has one.
fn scores(verdicts: &[VerdictRecord]) -> HashMap<&str, f64> {
    let scored = verdicts.iter().filter_map(|v| Some((v, v.score?)));
    scored.flat_map(|(v, score)| v.candidate_ids.iter().map(move |id| (id.as_str(), score))).collect()
}

/// Every prompt with its candidates that have a score.
pub(crate) fn scored<'a>(
    prompts: &'a [PromptRecord],
    candidates: &'a [CandidateRecord],
    verdicts: &[VerdictRecord],
) -> Vec<(&'a PromptRecord, Answers<'a>)> {
    let scores = scores(verdicts);
    let mut by_prompt: HashMap<&str, Answers> = HashMap::new();
    for candidate in candidates {
        if let Some(&score) = scores.get(candidate.id.as_str()) {
            by_prompt.entry(&candidate.prompt_id).or_default().push((candidate, score));
        }
    }
    prompts.iter().map(|p| (p, by_prompt.remove(p.id.as_str()).unwrap_or_default())).collect()
}

fn texts<'a>(answers: &Answers<'a>) -> Vec<ScoredAnswer<'a>> {
    let scored = |(c, score): &(&'a CandidateRecord, f64)| ScoredAnswer {
        text: &c.text,
        tokens: c.tokens,
        ended: c.stopped,
        score: *score,
    };
    answers.iter().map(scored).collect()
}

fn record(
    ctx: &RoundContext,
    prompt: &PromptRecord,
    (chosen, score_chosen): (&CandidateRecord, f64),
    (rejected, score_rejected): (&CandidateRecord, f64),
) -> Result<PairRecord> {
    let prompt_ids = ctx.domain.language().ask(&prompt.prompt)?;
    Ok(PairRecord {
        id: hex(record_id(ctx.round, "pairs", &prompt_ids, chosen.sample * 0x1_0000 + rejected.sample)),
        prompt_id: prompt.id.clone(),
        chosen_id: chosen.id.clone(),
        rejected_id: rejected.id.clone(),
        round: ctx.round,
        score_chosen,
        score_rejected,
        weight: 1.0,
        flip: 0.0,
        prompt: alone("user", &prompt.prompt),
        chosen: alone("assistant", &chosen.text),
        rejected: alone("assistant", &rejected.text),
        prompt_ids,
        chosen_ids: chosen.token_ids.clone(),
        rejected_ids: rejected.token_ids.clone(),
    })
}
