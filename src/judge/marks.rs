//! Mode `marks`: for each point the judge writes a letter if it is earned and `-` if not, and the letters'
//! probabilities are read.

use super::{Item, MarksTemplate, Verdict};
use crate::generate::Engine;
use crate::generate::{Request, Sampling, Settings};
use crate::text::Language;
use crate::{Error, Observer, Result};

fn token(language: &dyn Language, text: &str) -> Result<u32> {
    match language.encode(text)?[..] {
        [id] => Ok(id),
        _ => Err(Error::Input(format!("mark {text:?} is not a single token of this model; use another judge mode"))),
    }
}

/// Judges by marks: the score is the sum of the letters' probabilities along the greedy marks, scaled to 0..=5.
pub(super) fn judge(
    engine: &mut dyn Engine,
    language: &dyn Language,
    marks: &MarksTemplate,
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let dash = token(language, "-")?;
    let letters = marks.letters.iter().map(|c| token(language, &c.to_string())).collect::<Result<Vec<_>>>()?;
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: letters.len(),
        stop: Vec::new(),
        seed: 0,
        choices: letters.iter().map(|&letter| [letter, dash]).collect(),
    };
    let mut prompts = Vec::with_capacity(items.len());
    for item in items {
        prompts.push(marks.template.ids(language, item.question, item.answer)?);
    }
    let fits = |prompt: &[u32]| prompt.len() + letters.len() <= language.context();
    let requests: Vec<Request> = prompts
        .iter()
        .zip(items)
        .filter(|(prompt, _)| fits(prompt))
        .map(|(prompt, item)| Request { prompt: prompt.clone(), samples: vec![item.key] })
        .collect();
    let outputs = if requests.is_empty() { Vec::new() } else { engine.generate(&requests, &settings, observer)? };
    let mut outputs = outputs.into_iter().flatten();
    prompts
        .iter()
        .map(|prompt| {
            if !fits(prompt) {
                return Ok(Verdict::unscored("longer than the context"));
            }
            let output = outputs.next().ok_or_else(|| Error::Input("the engine answered too few requests".into()))?;
            let sum: f64 = output.choice_p.iter().map(|&p| f64::from(p)).sum();
            Ok(Verdict {
                score: Some(sum * 5.0 / letters.len() as f64),
                status: "ok".into(),
                texts: vec![language.decode(&output.tokens)?],
                unparsed: 0,
                tokens: output.tokens.len(),
            })
        })
        .collect()
}
