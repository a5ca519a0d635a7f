//! Log-probs of a round's answers under a model, of which DPO's implicit reward is made (arXiv 2305.18290, equation 5).

use crate::Result;
use crate::data::records::{CandidateRecord, LogpRecord, PromptRecord};
use crate::generate::Engine;
use crate::model::score::Branch;
use crate::recipe::context::RoundContext;
use crate::waves::{WaveStage, in_waves};
use std::collections::HashMap;
use std::path::Path;

/// Scores the answers in waves of prompts; writes `out` in the order of the prompts. `stage` names the stage in
/// progress. The records of a finished stage are read from `out`.
///
/// # Errors
/// Errors of the engine and of the files; `Stopped` when the observer asks for it.
pub fn run(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    stage: &str,
    prompts: &[PromptRecord],
    candidates: &[&CandidateRecord],
    out: &Path,
) -> Result<Vec<LogpRecord>> {
    let mut candidates_of: HashMap<&str, Vec<&CandidateRecord>> = HashMap::new();
    for candidate in candidates.iter().copied().filter(|c| !c.token_ids.is_empty()) {
        candidates_of.entry(&candidate.prompt_id).or_default().push(candidate);
    }
    in_waves(
        ctx.observer,
        &WaveStage { name: stage, unit: "prompts", items: prompts, wave: ctx.settings.candidates.wave, out },
        &mut |chunk| wave(engine, ctx, chunk, &candidates_of),
        |_| {},
    )
}

fn wave(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    prompts: &[PromptRecord],
    candidates_of: &HashMap<&str, Vec<&CandidateRecord>>,
) -> Result<Vec<LogpRecord>> {
    let (mut branches, mut scored) = (Vec::new(), Vec::new());
    for prompt in prompts {
        if let Some(own) = candidates_of.get(prompt.id.as_str()) {
            let completions = own.iter().map(|c| c.token_ids.clone()).collect();
            branches.push(Branch { prompt: ctx.domain.language().ask(&prompt.prompt)?, completions });
            scored.push(own);
        }
    }
    let logps = engine.logps(&branches, ctx.observer)?;
    let sum = |tokens: &[f32]| tokens.iter().map(|x| f64::from(*x)).sum();
    let record =
        |(c, tokens): (&CandidateRecord, &Vec<f32>)| LogpRecord { candidate_id: c.id.clone(), logp: sum(tokens) };
    Ok(scored.into_iter().zip(&logps).flat_map(|(own, lists)| own.iter().copied().zip(lists).map(record)).collect())
}
