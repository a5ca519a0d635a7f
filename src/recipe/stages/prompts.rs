//! Stage 1: new prompts by few-shot self-instruct.

use crate::config::Writer;
use crate::data::records::{DroppedRecord, PromptRecord, hex};
use crate::generate::Engine;
use crate::generate::{Request, Settings};
use crate::json::read_jsonl;
use crate::json::write_jsonl;
use crate::judge::Checks;
use crate::measure::constraints;
use crate::measure::held_out::HeldOutSet;
use crate::measure::rouge::KeptTexts;
use crate::recipe::chat::ChatDomain;
use crate::recipe::context::{RoundContext, RoundFiles};
use crate::recipe::domain::Domain;
use crate::rng::{Stream, record_id};
use crate::waves::{Waves, finished};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

#[derive(Serialize, Deserialize)]
struct Wave {
    kept: Vec<PromptRecord>,
    dropped: Vec<DroppedRecord>,
}

/// Has the round's prompts written, by the model that `engine` runs or by the one that the settings name; they go to
/// `prompts.jsonl`, and what is not kept to `dropped.jsonl`. Prompts in `earlier` are not kept again. The records of a
/// finished stage are read back.
///
/// # Errors
/// As [`write`]; the writer cannot be loaded.
pub fn run(
    engine: &mut dyn Engine,
    ctx: &RoundContext,
    earlier: &[String],
    files: &RoundFiles,
) -> Result<Vec<PromptRecord>> {
    let (out, dropped) = (files.jsonl("prompts"), files.jsonl("dropped"));
    if let Some(all) = finished(&out)? {
        return Ok(all);
    }
    let section = &ctx.settings.prompts;
    let mut written = Vec::new();
    match &section.writer {
        Writer::First if section.count > 0 => ctx.models.with(0, &mut |engine| {
            written = write(engine, ctx.domain, ctx, earlier, [&out, &dropped])?;
            Ok(())
        })?,
        Writer::Other(path) if section.count > 0 => ctx.models.with_other(path, &mut |engine, source| {
            // It reads invitations and ends prompts in its own tokens.
            let domain = ChatDomain::new(source, section)?;
            written = write(engine, &domain, ctx, earlier, [&out, &dropped])?;
            Ok(())
        })?,
        // Where nothing is to be written, nobody else is loaded for it.
        _ => written = write(engine, ctx.domain, ctx, earlier, [&out, &dropped])?,
    }
    Ok(written)
}

/// Draws invitations in waves until enough new prompts are kept, from the model that `engine` runs and whose tokens
/// `writer` knows; writes `out` (the kept ones, by id) and `dropped`. Prompts in `earlier` are not kept again.
///
/// # Errors
/// Not one prompt is usable; errors of the engine and of the files; `Stopped` when the observer asks for it.
pub fn write(
    engine: &mut dyn Engine,
    writer: &dyn Domain,
    ctx: &RoundContext,
    earlier: &[String],
    [out, dropped]: [&Path; 2],
) -> Result<Vec<PromptRecord>> {
    let p = &ctx.settings.prompts;
    let mut kept = from_seed(ctx)?;
    let mut seen: HashSet<String> = earlier.iter().cloned().collect();
    let mut near = KeptTexts::default();
    let mut held_out = HeldOutSet::new(ctx.held_out);
    for text in earlier.iter().chain(ctx.domain.seed_prompts()) {
        near.push(text);
        seen.insert(text.clone());
    }
    let mut waves = Waves::<Wave>::open(out)?;
    let mut own: Vec<String> = earlier.to_vec();
    let mut written = 0;
    let take = |wave: &Wave, own: &mut Vec<String>, seen: &mut HashSet<String>, near: &mut KeptTexts| {
        for k in &wave.kept {
            own.push(base(k).to_owned());
            // The prompt may have been kept in this wave already, or be read back from a finished one.
            if seen.insert(base(k).to_owned()) {
                near.push(base(k));
            }
        }
        wave.kept.len()
    };
    for wave in waves.done() {
        written += take(wave, &mut own, &mut seen, &mut near);
    }
    ctx.observer.begin("prompts", Some(p.count as u64), "prompts");
    ctx.observer.advance(written as u64);
    let settings = Settings {
        sampling: p.sampling.clone(),
        max_new_tokens: p.max_new_tokens,
        stop: writer.invitation_stop()?,
        seed: ctx.seed,
        ..Settings::default()
    };
    while written < p.count && waves.done().len() * p.wave < p.count * p.max_attempts {
        if ctx.observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let requests = invite(writer, ctx, waves.done().len(), &own)?;
        let outputs = engine.generate(&requests, &settings, ctx.observer)?;
        let mut wave = Wave { kept: Vec::new(), dropped: Vec::new() };
        for (request, output) in requests.iter().zip(outputs.into_iter().flatten()) {
            let key = hex(request.samples[0]);
            let (text, prompt) = writer.new_prompt(&output)?;
            let tokens = output.tokens.len();
            match admit(ctx, prompt, &mut held_out, &mut seen, &mut near, written + wave.kept.len() < p.count) {
                Ok(prompt) => {
                    let made = record(ctx, prompt, &Checks::default())?;
                    wave.kept.push(PromptRecord { source: "self".into(), key, tokens, ..made });
                }
                Err(reason) => wave.dropped.push(DroppedRecord { key, text, reason, tokens }),
            }
        }
        written += take(&wave, &mut own, &mut seen, &mut near);
        ctx.observer.advance(wave.kept.len() as u64);
        waves.push(wave)?;
    }
    ctx.observer.end();
    if written < p.count {
        let attempts = p.count * p.max_attempts;
        let sentence =
            format!("only {written} of {} new prompts after {attempts} attempts; going on with these", p.count);
        ctx.observer.note(&sentence);
    }
    kept.extend(waves.done().iter().flat_map(|w| w.kept.iter().cloned()));
    if kept.is_empty() {
        let hint = "the model writes nothing usable: raise [prompts] max_attempts or temperature, or take from_seed";
        return Err(Error::Input(format!("round {}: no new prompts; {hint}", ctx.round)));
    }
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    let all_dropped: Vec<&DroppedRecord> = waves.done().iter().flat_map(|w| &w.dropped).collect();
    write_jsonl(dropped, &all_dropped)?;
    write_jsonl(out, &kept)?;
    waves.remove()?;
    Ok(kept)
}

/// The id of a prompt in this round.
///
/// # Errors
/// Text that cannot be encoded.
pub fn prompt_id(ctx: &RoundContext, prompt: &str) -> Result<String> {
    Ok(hex(record_id(ctx.round, "prompt", &ctx.domain.language().ask(prompt)?, 0)))
}

/// The next prompts of the seed file. Each round continues where the last one stopped, and begins again at the end.
fn from_seed(ctx: &RoundContext) -> Result<Vec<PromptRecord>> {
    let (all, n) = (ctx.domain.seed_prompts(), ctx.settings.prompts.from_seed);
    if n > all.len() {
        return Err(Error::Input(format!("[prompts] from_seed is {n}, but the seed file holds {}", all.len())));
    }
    let first = (ctx.round.saturating_sub(1) as usize) * n;
    let mut held_out = HeldOutSet::new(ctx.held_out);
    (first..first + n)
        .map(|i| i % all.len())
        // A similar prompt may stay, since the user put it there; one that is measured on may not.
        .filter(|i| !held_out.contains(&all[*i], f64::INFINITY))
        .map(|i| record(ctx, all[i].clone(), ctx.domain.seed_checks().get(i).unwrap_or(&Checks::default())))
        .collect()
}

/// A prompt of the seed file as it is, or with constraints behind it where the settings want some and nothing is
/// known of its answers.
fn record(ctx: &RoundContext, instruction: String, checks: &Checks) -> Result<PromptRecord> {
    let (mut prompt, mut base_prompt, mut checks) = (instruction, None, checks.clone());
    if ctx.settings.constraints.most > 0 && checks.is_empty() {
        let ids = ctx.domain.language().ask(&prompt)?;
        let mut rng = Stream::new(ctx.seed, record_id(ctx.round, "constraints", &ids, 0));
        // Nothing is counted over prompts, so that a prompt's constraints hang on the prompt alone.
        let drawn = constraints::draw(&prompt, &ctx.settings.constraints, &mut BTreeMap::new(), &mut rng)?;
        let whole = constraints::prompt(&prompt, &drawn);
        (base_prompt, prompt, checks) = (Some(prompt), whole, constraints::checks(&drawn));
    }
    let (id, source, key) = (prompt_id(ctx, &prompt)?, "seed".to_owned(), String::new());
    Ok(PromptRecord { id, round: ctx.round, prompt, source, key, seed: ctx.seed, tokens: 0, base_prompt, checks })
}

/// The instruction of a prompt, without constraints.
fn base(record: &PromptRecord) -> &str {
    record.base_prompt.as_deref().unwrap_or(&record.prompt)
}

fn invite(writer: &dyn Domain, ctx: &RoundContext, wave: usize, own: &[String]) -> Result<Vec<Request>> {
    let p = &ctx.settings.prompts;
    (wave * p.wave..(wave + 1) * p.wave)
        .map(|attempt| {
            let attempt = attempt as u32;
            let mut rng = Stream::new(ctx.seed, record_id(ctx.round, "shots", &[], attempt));
            let mut shots = Vec::new();
            for i in 0..p.seed_shots + p.own_shots {
                let shot = match own {
                    [_, ..] if i >= p.seed_shots => rng.choose(own).cloned().unwrap_or_default(),
                    _ => writer.seed_shot(&mut rng)?,
                };
                if !shots.contains(&shot) {
                    shots.push(shot);
                }
            }
            rng.shuffle(&mut shots);
            let prompt = writer.invitation(&shots)?;
            let id = record_id(ctx.round, "prompts", &prompt, attempt);
            Ok(Request { prompt, samples: vec![id] })
        })
        .collect()
}

fn admit(
    ctx: &RoundContext,
    prompt: std::result::Result<String, String>,
    held_out: &mut HeldOutSet,
    seen: &mut HashSet<String>,
    near: &mut KeptTexts,
    wanted: bool,
) -> std::result::Result<String, String> {
    let prompt = prompt?;
    if !wanted {
        return Err("more than wanted".into());
    }
    if seen.contains(&prompt) {
        return Err("seen before".into());
    }
    if held_out.contains(&prompt, ctx.settings.prompts.max_rouge) {
        return Err("in an evaluation set".into());
    }
    if ctx.settings.prompts.max_rouge <= 1.0 && near.nearest(&prompt) >= ctx.settings.prompts.max_rouge {
        return Err("too similar to a kept one".into());
    }
    seen.insert(prompt.clone());
    near.push(&prompt);
    Ok(prompt)
}
/// The instructions of all rounds before `round`, without constraints.
///
/// # Errors
/// The prompts of a round are missing or broken.
pub fn earlier_prompts(run: &Path, round: u32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for r in 1..round {
        let records: Vec<PromptRecord> = read_jsonl(&RoundFiles::new(run, r).jsonl("prompts"))?;
        all.extend(records.iter().map(|p| base(p).to_owned()));
    }
    Ok(all)
}
