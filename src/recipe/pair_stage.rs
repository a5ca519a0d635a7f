//! Stage 4: the pair of every prompt that has one.

use super::pairs::{Choice, Scored, choose};
use super::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord, alone, hex, read_jsonl, write_jsonl};
use super::round::Context;
use crate::Result;
use crate::rng::record_id;
use std::collections::HashMap;
use std::path::Path;

/// Builds the preferences; writes `out`, sorted by prompt id. A finished stage is read back.
///
/// # Errors
/// Text that cannot be encoded; the file cannot be written.
pub fn run(
    ctx: &Context,
    prompts: &[PromptRecord],
    candidates: &[CandidateRecord],
    verdicts: &[VerdictRecord],
    out: &Path,
) -> Result<Vec<PairRecord>> {
    if out.exists() {
        return read_jsonl(out);
    }
    let mut pairs = Vec::new();
    for (prompt, scored) in scored(prompts, candidates, verdicts) {
        if let Choice::Pair { chosen, rejected } = decide(ctx, &scored) {
            pairs.push(record(ctx, prompt, scored[chosen], scored[rejected])?);
        }
    }
    write_jsonl(out, &pairs)?;
    Ok(pairs)
}

/// How many prompts gave no pair: ties, and those with fewer than two scores.
pub(super) fn without_pair(
    ctx: &Context,
    prompts: &[PromptRecord],
    candidates: &[CandidateRecord],
    verdicts: &[VerdictRecord],
) -> (usize, usize) {
    let (mut ties, mut too_few) = (0, 0);
    for (_, scored) in scored(prompts, candidates, verdicts) {
        match decide(ctx, &scored) {
            Choice::Pair { .. } => {}
            Choice::Tie => ties += 1,
            Choice::TooFew => too_few += 1,
        }
    }
    (ties, too_few)
}

/// Every prompt with its candidates that have a score.
pub(super) fn scored<'a>(
    prompts: &'a [PromptRecord],
    candidates: &'a [CandidateRecord],
    verdicts: &[VerdictRecord],
) -> Vec<(&'a PromptRecord, Vec<(&'a CandidateRecord, f64)>)> {
    let scores: HashMap<&str, f64> = verdicts
        .iter()
        .filter_map(|v| Some((v, v.score?)))
        .flat_map(|(v, score)| v.candidate_ids.iter().map(move |id| (id.as_str(), score)))
        .collect();
    let mut by_prompt: HashMap<&str, Vec<(&CandidateRecord, f64)>> = HashMap::new();
    for candidate in candidates {
        if let Some(&score) = scores.get(candidate.id.as_str()) {
            by_prompt.entry(&candidate.prompt_id).or_default().push((candidate, score));
        }
    }
    prompts.iter().map(|p| (p, by_prompt.remove(p.id.as_str()).unwrap_or_default())).collect()
}

fn decide(ctx: &Context, scored: &[(&CandidateRecord, f64)]) -> Choice {
    let list: Vec<Scored> =
        scored.iter().map(|(c, score)| Scored { text: &c.text, tokens: c.tokens, score: *score }).collect();
    choose(&list, &ctx.settings.pairs)
}

fn record(
    ctx: &Context,
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
        prompt: alone("user", &prompt.prompt),
        chosen: alone("assistant", &chosen.text),
        rejected: alone("assistant", &rejected.text),
        prompt_ids,
        chosen_ids: chosen.token_ids.clone(),
        rejected_ids: rejected.token_ids.clone(),
    })
}
