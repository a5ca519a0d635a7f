//! Mode `sampled`, the paper's: several verdicts are written, parsed and averaged.

use super::parse::{Openings, leaves_thought_open};
use super::think::{self, Thoughtful};
use super::{Item, ModelJudgeSettings, NoScore, Template, Verdict};
use crate::generate::Engine;
use crate::generate::{Output, Request, Settings};
use crate::rng::{halves, record_id};
use crate::text::Language;
use crate::{Error, Observer, Result};

/// Writes K verdicts on each item; the score is the mean of those that parse.
pub(super) fn judge(
    engine: &mut dyn Engine,
    language: &dyn Language,
    template: &Template,
    settings: &ModelJudgeSettings,
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let asked = items
        .iter()
        .map(|item| {
            let text = template.fill(item.question, item.answer)?;
            Ok((item.key, settings.asked(language, template, &text)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let openings = Openings::of(&template.text);
    let parse = |verdict: &str, in_thought| settings.parse(verdict, &openings, in_thought).map(|reading| reading.value);
    write(engine, language, &asked, settings, &parse, observer)
}

/// Whether a thought is open where a prompt ends, as some chat templates leave it.
pub(super) fn begins_in_thought(language: &dyn Language, prompt: &[u32]) -> Result<bool> {
    // The tag is short, and what stands before it is the answer that is judged.
    Ok(leaves_thought_open(&language.decode(&prompt[prompt.len().saturating_sub(16)..])?))
}

/// Verdicts without a thought.
fn plain(outputs: Vec<Output>) -> Vec<Thoughtful> {
    outputs.into_iter().map(|output| Thoughtful { thought: String::new(), tokens: 0, output }).collect()
}

/// Writes K verdicts for each (key, prompt). Those that do not parse are drawn again, at most `retries` times; the
/// score is the mean of those that do. `parse` is told whether the verdict begins inside a thought.
pub(super) fn write(
    engine: &mut dyn Engine,
    language: &dyn Language,
    asked: &[(u64, Vec<u32>)],
    settings: &ModelJudgeSettings,
    parse: &dyn Fn(&str, bool) -> std::result::Result<f64, NoScore>,
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let draw = Settings {
        sampling: settings.sampling.clone(),
        max_new_tokens: settings.max_new_tokens,
        stop: language.stop().to_vec(),
        seed: settings.seed,
        choices: Vec::new(),
    };
    let thought = if settings.think > 0 { settings.think + think::AROUND } else { 0 };
    let new = settings.max_new_tokens + thought;
    let fits: Vec<bool> = asked.iter().map(|(_, p)| p.len() + new <= language.context()).collect();
    let mut verdicts = vec![Verdict::unscored(""); asked.len()];
    let mut scores: Vec<Vec<f64>> = vec![Vec::new(); asked.len()];
    let mut drawn = vec![0u32; asked.len()];
    for attempt in 0..=settings.retries {
        let missing: Vec<(usize, usize)> = (0..asked.len())
            .filter(|&i| fits[i])
            .map(|i| (i, settings.samples.saturating_sub(scores[i].len())))
            .filter(|&(_, n)| n > 0)
            .collect();
        if missing.is_empty() {
            break;
        }
        let requests: Vec<Request> = missing
            .iter()
            .map(|&(i, n)| {
                let first = drawn[i];
                drawn[i] += n as u32;
                let id = |k| record_id(0, "verdict", &halves(asked[i].0), k);
                Request { prompt: asked[i].1.clone(), samples: (first..drawn[i]).map(id).collect() }
            })
            .collect();
        let outputs = match settings.think {
            0 => engine.generate(&requests, &draw, observer)?.into_iter().map(plain).collect(),
            most => think::write(engine, language, &requests, &draw, most, observer)?,
        };
        if outputs.len() != missing.len() {
            return Err(Error::Input("the engine answered too few requests".into()));
        }
        for (&(i, _), outputs) in missing.iter().zip(outputs) {
            for Thoughtful { thought, tokens, output } in outputs {
                let end = output.tokens.len() - usize::from(output.stopped && !output.tokens.is_empty());
                let text = language.decode(&output.tokens[..end])?;
                let verdict = &mut verdicts[i];
                verdict.tokens += tokens + output.tokens.len();
                let in_thought = settings.think == 0 && begins_in_thought(language, &asked[i].1)?;
                match parse(&text, in_thought) {
                    Ok(score) => scores[i].push(score),
                    Err(why) => {
                        verdict.unparsed += 1;
                        verdict.status = why.to_string();
                    }
                }
                verdict.texts.push(thought + &text);
            }
        }
        if attempt < settings.retries && observer.stop_requested() {
            return Err(Error::Stopped);
        }
    }
    for (i, verdict) in verdicts.iter_mut().enumerate() {
        if !fits[i] {
            *verdict = Verdict::unscored("longer than the context");
        } else if !scores[i].is_empty() {
            verdict.score = Some(scores[i].iter().sum::<f64>() / scores[i].len() as f64);
            verdict.status = "ok".into();
        }
    }
    Ok(verdicts)
}
