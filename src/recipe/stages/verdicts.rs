//! Stage 3: every different response is judged once.

use crate::data::records::{CandidateRecord, PromptRecord, VerdictRecord, hex};
use crate::generate::Engine;
use crate::judge::{Item, Judge};
use crate::recipe::context::RoundContext;
use crate::rng::record_id;
use crate::waves::{WaveStage, in_waves};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Judges the candidates in waves of prompts; writes `out`, sorted by prompt id and first sample. Candidates of a
/// prompt with the same text share a verdict. `stage` names the stage in ids and in progress. The records of a finished
/// stage are read from `out`.
///
/// # Errors
/// Errors of the judge, the engine and the files; `Stopped` when the observer asks for it.
pub fn run(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    ctx: &RoundContext,
    stage: &str,
    prompts: &[PromptRecord],
    candidates: &[CandidateRecord],
    out: &Path,
) -> Result<Vec<VerdictRecord>> {
    let mut candidates_of: HashMap<&str, Vec<&CandidateRecord>> = HashMap::new();
    for candidate in candidates {
        candidates_of.entry(&candidate.prompt_id).or_default().push(candidate);
    }
    in_waves(
        ctx.observer,
        &WaveStage { name: stage, unit: "prompts", items: prompts, wave: ctx.settings.judge.wave, out },
        &mut |chunk| wave(engine, judge, ctx, stage, chunk, &candidates_of),
        |_| {},
    )
}

/// The candidates of a prompt that have the same text.
struct Same<'a> {
    prompt: &'a PromptRecord,
    text: &'a str,
    candidates: Vec<&'a CandidateRecord>,
}

fn wave(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    ctx: &RoundContext,
    stage: &str,
    prompts: &[PromptRecord],
    candidates_of: &HashMap<&str, Vec<&CandidateRecord>>,
) -> Result<Vec<VerdictRecord>> {
    let mut groups: Vec<Same> = Vec::new();
    for prompt in prompts {
        let first = groups.len();
        for candidate in candidates_of.get(prompt.id.as_str()).into_iter().flatten().copied() {
            match groups[first..].iter_mut().find(|g| g.text == candidate.text) {
                Some(group) => group.candidates.push(candidate),
                None => groups.push(Same { prompt, text: &candidate.text, candidates: vec![candidate] }),
            }
        }
    }
    let mut items = Vec::with_capacity(groups.len());
    for group in &groups {
        let first = group.candidates[0];
        let key = record_id(ctx.round, stage, &ctx.domain.language().ask(&group.prompt.prompt)?, first.sample);
        items.push(Item {
            checks: Some(&group.prompt.checks),
            cut: !group.candidates.iter().any(|candidate| candidate.stopped),
            count: group.candidates.len(),
            ..Item::new(key, &group.prompt.prompt, group.text)
        });
    }
    let verdicts = judge.judge(engine, &items, ctx.observer)?;
    if verdicts.len() != items.len() {
        return Err(Error::Input(format!(
            "{} answers were judged, {} verdicts came back",
            items.len(),
            verdicts.len()
        )));
    }
    Ok(groups
        .iter()
        .zip(&items)
        .zip(verdicts)
        .map(|((group, item), verdict)| VerdictRecord {
            id: hex(item.key),
            prompt_id: group.prompt.id.clone(),
            candidate_ids: group.candidates.iter().map(|c| c.id.clone()).collect(),
            round: ctx.round,
            seed: ctx.seed,
            mode: judge.name().to_owned(),
            score: verdict.score,
            status: verdict.status,
            texts: verdict.texts,
            unparsed: verdict.unparsed,
            tokens: verdict.tokens,
        })
        .collect())
}
