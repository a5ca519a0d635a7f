//! Stage 2: N responses to every prompt.

use crate::Result;
use crate::data::records::{CandidateRecord, PromptRecord, hex};
use crate::generate::Engine;
use crate::generate::{Request, Settings};
use crate::recipe::context::RoundContext;
use crate::rng::record_id;
use crate::waves::{WaveStage, in_waves};
use std::path::Path;

/// Answers the prompts in waves; writes `out`, sorted by prompt id and sample. `stage` names the stage in ids and in
/// progress. The records of a finished stage are read from `out`.
///
/// # Errors
/// A prompt leaves no room for an answer; errors of the engine and of the files; `Stopped` when the observer asks for
/// it.
pub fn run(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    stage: &str,
    prompts: &[PromptRecord],
    out: &Path,
) -> Result<Vec<CandidateRecord>> {
    let c = &ctx.settings.candidates;
    let language = ctx.domain.language();
    let settings = c.settings(language.stop(), ctx.seed);
    in_waves(
        ctx.observer,
        &WaveStage { name: stage, unit: "prompts", items: prompts, wave: c.wave, out },
        &mut |chunk| wave(engine, ctx, stage, chunk, &settings),
        |all| all.sort_by(|a, b| (&a.prompt_id, a.sample).cmp(&(&b.prompt_id, b.sample))),
    )
}

fn wave(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    stage: &str,
    prompts: &[PromptRecord],
    settings: &Settings,
) -> Result<Vec<CandidateRecord>> {
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let ids = ctx.domain.language().ask(&prompt.prompt)?;
        let samples = (0..ctx.settings.candidates.n).map(|k| record_id(ctx.round, stage, &ids, k)).collect();
        requests.push(Request { prompt: ids, samples });
    }
    let outputs = engine.generate(&requests, settings, ctx.observer)?;
    let mut records = Vec::new();
    for ((prompt, request), outputs) in prompts.iter().zip(&requests).zip(outputs) {
        for (sample, (output, &id)) in outputs.iter().zip(&request.samples).enumerate() {
            let (text, token_ids) = ctx.domain.response(output)?;
            records.push(CandidateRecord {
                id: hex(id),
                prompt_id: prompt.id.clone(),
                round: ctx.round,
                sample: sample as u32,
                seed: ctx.seed,
                text,
                token_ids,
                tokens: output.tokens.len(),
                stopped: output.stopped,
            });
        }
    }
    Ok(records)
}
