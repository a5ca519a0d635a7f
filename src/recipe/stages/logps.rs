//! Log-probs of a round's answers under a model, of which DPO's implicit reward is made (arXiv 2305.18290, equation 5).

use crate::Result;
use crate::data::records::{CandidateRecord, LogpRecord, PromptRecord};
use crate::generate::Engine;
use crate::model::score::Branch;
use crate::recipe::context::Context;
use crate::recipe::waves::in_waves;
use std::path::Path;

/// Scores the answers in waves of prompts; writes `out` in the order of the prompts. `stage` names the stage in
/// progress. The records of a finished stage are read from `out`.
///
/// # Errors
/// Errors of the engine and of the files; `Stopped` when the observer asks for it.
pub fn run(
    engine: &mut dyn Engine,
    ctx: &Context,
    stage: &str,
    prompts: &[PromptRecord],
    candidates: &[&CandidateRecord],
    out: &Path,
) -> Result<Vec<LogpRecord>> {
    in_waves(
        ctx.observer,
        (stage, "prompts"),
        (prompts, ctx.settings.candidates.wave),
        out,
        &mut |chunk| wave(engine, ctx, chunk, candidates),
        |_| {},
    )
}

fn wave(
    engine: &mut dyn Engine,
    ctx: &Context,
    prompts: &[PromptRecord],
    candidates: &[&CandidateRecord],
) -> Result<Vec<LogpRecord>> {
    let (mut branches, mut of) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let own: Vec<&CandidateRecord> =
            candidates.iter().copied().filter(|c| c.prompt_id == prompt.id && !c.token_ids.is_empty()).collect();
        if !own.is_empty() {
            let completions = own.iter().map(|c| c.token_ids.clone()).collect();
            branches.push(Branch { prompt: ctx.domain.language().ask(&prompt.prompt)?, completions });
            of.push(own);
        }
    }
    let logps = engine.logps(&branches, ctx.observer)?;
    let sum = |tokens: &[f32]| tokens.iter().map(|x| f64::from(*x)).sum();
    let record =
        |(c, tokens): (&CandidateRecord, &Vec<f32>)| LogpRecord { candidate_id: c.id.clone(), logp: sum(tokens) };
    Ok(of.into_iter().zip(&logps).flat_map(|(own, lists)| own.into_iter().zip(lists).map(record)).collect())
}
