//! A thought before a verdict: it is drawn up to so many tokens, cut there and closed, and the verdict is drawn behind
//! it.

use super::Template;
use super::parse::leaves_thought_open;
use crate::generate::{Engine, Output, Request, Settings};
use crate::rng::{halves, record_id};
use crate::text::Language;
use crate::{Error, Observer, Result};

/// What opens a thought, and what closes it, in templates that know `enable_thinking`.
const OPEN: &str = "<think>\n";
const CLOSE: &str = "</think>";
/// Most tokens that opening and closing take, for which room is left in the context.
pub(super) const AROUND: usize = 16;

/// The token ids of a judge's prompt that was filled in, up to where a thought begins.
///
/// # Errors
/// The model's template knows no thoughts; the text cannot be encoded.
pub(super) fn asked(language: &dyn Language, template: &Template, text: &str) -> Result<Vec<u32>> {
    let ids = if template.raw { None } else { language.ask_to_think(text)? };
    let what = "the model's chat template does not know enable_thinking, so it takes no thought before a verdict: \
                think must be 0";
    let mut ids = ids.ok_or_else(|| Error::Input(what.into()))?;
    // The tag is short, and what stands before it is the answer that is judged.
    if !leaves_thought_open(&language.decode(&ids[ids.len().saturating_sub(AROUND)..])?) {
        ids.extend(language.encode(OPEN)?);
    }
    Ok(ids)
}

/// A verdict behind its thought.
pub(super) struct Thoughtful {
    /// The closed thought in words.
    pub(super) thought: String,
    /// How many tokens it has.
    pub(super) tokens: usize,
    /// The verdict.
    pub(super) output: Output,
}

/// Draws a thought of at most `most` tokens for each sample, and behind each thought its verdict. The prompts end in an
/// open thought.
pub(super) fn write(
    engine: &mut dyn Engine,
    language: &dyn Language,
    requests: &[Request],
    draw: &Settings,
    most: usize,
    observer: &dyn Observer,
) -> Result<Vec<Vec<Thoughtful>>> {
    let mut settings = Settings { max_new_tokens: most, ..draw.clone() };
    if let [id] = language.encode(CLOSE)?[..] {
        settings.stop.push(id);
    }
    let key = |id: &u64| record_id(0, "thought", &halves(*id), 0);
    let thinking: Vec<Request> = requests
        .iter()
        .map(|r| Request { prompt: r.prompt.clone(), samples: r.samples.iter().map(key).collect() })
        .collect();
    let (mut behind, mut thoughts) = (Vec::new(), Vec::new());
    for (request, outputs) in requests.iter().zip(engine.generate(&thinking, &settings, observer)?) {
        for (id, output) in request.samples.iter().zip(outputs) {
            let (text, mut ids) = thought(language, &output)?;
            ids.splice(0..0, request.prompt.iter().copied());
            behind.push(Request { prompt: ids, samples: vec![*id] });
            thoughts.push((text, output.tokens.len()));
        }
    }
    let outputs = engine.generate(&behind, draw, observer)?;
    let mut verdicts = outputs.into_iter().flatten().zip(thoughts);
    let mut of = |_: &u64| {
        let (output, (thought, tokens)) = verdicts.next()?;
        Some(Thoughtful { thought, tokens, output })
    };
    Ok(requests.iter().map(|r| r.samples.iter().filter_map(&mut of).collect()).collect())
}

/// The words and the ids of a thought as it stands before the verdict: without what ended it, closed.
fn thought(language: &dyn Language, output: &Output) -> Result<(String, Vec<u32>)> {
    let end = output.tokens.len() - usize::from(output.stopped && !output.tokens.is_empty());
    let mut ids = output.tokens[..end].to_vec();
    let mut text = language.decode(&ids)?;
    // Where the end is written with several tokens, nothing stopped at it.
    if let Some(at) = text.find(CLOSE) {
        text.truncate(at);
        ids = language.encode(&text)?;
    }
    let closing = format!("{}{CLOSE}\n\n", if text.ends_with('\n') { "" } else { "\n" });
    ids.extend(language.encode(&closing)?);
    text.push_str(&closing);
    Ok((text, ids))
}
