//! Modes that read the score from probabilities instead of from written text: `expected`, `criteria`, `yes`,
//! `backward`.

use super::{Item, Template, Verdict};
use crate::generate::Engine;
use crate::model::score::Branch;
use crate::text::{Answered, Language};
use crate::{Error, Observer, Result};

/// Mode `expected`: the expectation over the digits 0..=5 right after `Score: `, whose probabilities are scaled to sum
/// to 1.
pub(super) fn expected(
    engine: &mut dyn Engine,
    language: &dyn Language,
    template: &Template,
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let written: Vec<String> = (0..6).map(|k| format!("Score: {k}")).collect();
    let written: Vec<&str> = written.iter().map(String::as_str).collect();
    let mut branches = Vec::with_capacity(items.len());
    for item in items {
        let Answered { mut prompt, answers } = template.begin(language, item.question, item.answer, &written)?;
        // Some tokenizers join the space to the digit, others keep the digit apart; both are covered.
        let shared = shared_prefix(&answers);
        prompt.extend(&answers[0][..shared]);
        branches.push(Branch { prompt, completions: answers.iter().map(|digit| digit[shared..].to_vec()).collect() });
    }
    score(engine, language, &branches, observer, |logps| {
        let p = softmax(&logps.iter().map(|tokens| sum(tokens)).collect::<Vec<_>>());
        p.iter().enumerate().map(|(k, p)| k as f64 * p).sum()
    })
}

/// Mode `yes`: 5 P(yes) of one question.
pub(super) fn yes(
    engine: &mut dyn Engine,
    language: &dyn Language,
    template: &Template,
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let asked =
        items.iter().map(|item| template.ids(language, item.question, item.answer)).collect::<Result<Vec<_>>>()?;
    either(engine, language, asked, ["yes", "no"], 5.0, observer)
}

/// After each prompt, `scale` times the probability of the first word against that of the second, each in all its
/// spellings.
pub(super) fn either(
    engine: &mut dyn Engine,
    language: &dyn Language,
    asked: Vec<Vec<u32>>,
    [one, other]: [&str; 2],
    scale: f64,
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let (one, other) = (spellings(language, one)?, spellings(language, other)?);
    let completions: Vec<Vec<u32>> = one.iter().chain(&other).map(|&id| vec![id]).collect();
    let branches: Vec<Branch> =
        asked.into_iter().map(|prompt| Branch { prompt, completions: completions.clone() }).collect();
    score(engine, language, &branches, observer, |logps| {
        let p = softmax(&logps.iter().map(|tokens| sum(tokens)).collect::<Vec<_>>());
        scale * p[..one.len()].iter().sum::<f64>()
    })
}

/// Mode `criteria`: the sum of P(Yes) over the criteria, scaled to 5. The questions about an item share its question
/// and answer as their prefix. Only the commonest spelling is read, because each further one would repeat the
/// question's tokens.
pub(super) fn criteria(
    engine: &mut dyn Engine,
    language: &dyn Language,
    templates: &[Template],
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    if templates.is_empty() {
        return Err(Error::Input("the judge mode criteria needs at least one criterion".into()));
    }
    let (yes, no) = (single(language, "Yes")?, single(language, "No")?);
    let mut branches = Vec::with_capacity(items.len());
    for item in items {
        let asked =
            templates.iter().map(|t| t.ids(language, item.question, item.answer)).collect::<Result<Vec<_>>>()?;
        let shared = shared_prefix(&asked);
        let completions = asked
            .iter()
            .flat_map(|ids| [yes, no].map(|answer| ids[shared..].iter().copied().chain([answer]).collect()))
            .collect();
        branches.push(Branch { prompt: asked[0][..shared].to_vec(), completions });
    }
    score(engine, language, &branches, observer, |logps| {
        let last = |tokens: &[f32]| f64::from(tokens.last().copied().unwrap_or(f32::NEG_INFINITY));
        let sum: f64 = logps.chunks_exact(2).map(|pair| softmax(&[last(&pair[0]), last(&pair[1])])[0]).sum();
        5.0 * sum / templates.len() as f64
    })
}

/// Mode `backward`: 5 exp(mean log p(question | answer)), which tells how well the question can be told from the
/// answer.
pub(super) fn backward(
    engine: &mut dyn Engine,
    language: &dyn Language,
    template: &Template,
    items: &[Item],
    observer: &dyn Observer,
) -> Result<Vec<Verdict>> {
    let mut branches = Vec::with_capacity(items.len());
    for item in items {
        let begun = template.begin(language, item.question, item.answer, &[item.question.trim()])?;
        branches.push(Branch { prompt: begun.prompt, completions: begun.answers });
    }
    score(engine, language, &branches, observer, |logps| {
        let tokens = &logps[0];
        5.0 * (sum(tokens) / tokens.len().max(1) as f64).exp()
    })
}

/// Runs the branches that fit into the context. `read` turns the log-probs of one branch into a score.
fn score(
    engine: &mut dyn Engine,
    language: &dyn Language,
    branches: &[Branch],
    observer: &dyn Observer,
    read: impl Fn(&[Vec<f32>]) -> f64,
) -> Result<Vec<Verdict>> {
    let usable = |b: &Branch| {
        let longest = b.completions.iter().map(Vec::len).max().unwrap_or(0);
        let empty = b.prompt.is_empty() || b.completions.iter().any(Vec::is_empty);
        match (empty, b.prompt.len() + longest <= language.context()) {
            (true, _) => Err("empty text"),
            (_, false) => Err("longer than the context"),
            _ => Ok(()),
        }
    };
    let run: Vec<Branch> = branches.iter().filter(|b| usable(b).is_ok()).cloned().collect();
    let logps = if run.is_empty() { Vec::new() } else { engine.logps(&run, observer)? };
    let mut logps = logps.into_iter();
    branches
        .iter()
        .map(|branch| {
            if let Err(why) = usable(branch) {
                return Ok(Verdict::unscored(why));
            }
            let one = logps.next().ok_or_else(|| Error::Input("the engine scored too few branches".into()))?;
            let score = read(&one);
            let tokens = one.iter().map(Vec::len).sum();
            Ok(match score.is_finite() {
                true => Verdict::scored(score.clamp(0.0, 5.0), tokens),
                false => Verdict::unscored("the probabilities are not finite"),
            })
        })
        .collect()
}

fn sum(tokens: &[f32]) -> f64 {
    tokens.iter().map(|&l| f64::from(l)).sum()
}

fn softmax(logps: &[f64]) -> Vec<f64> {
    let top = logps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logps.iter().map(|l| (l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// How many tokens all sequences begin with, leaving at least one token of each sequence out.
fn shared_prefix(all: &[Vec<u32>]) -> usize {
    let Some(first) = all.first() else { return 0 };
    let same = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    let shortest = all.iter().map(Vec::len).min().unwrap_or(0);
    all.iter().map(same).min().unwrap_or(0).min(shortest.saturating_sub(1))
}

/// Every spelling of a word (its case, a leading space) that is a single token.
fn spellings(language: &dyn Language, word: &str) -> Result<Vec<u32>> {
    let mut title = word.to_owned();
    title[..1].make_ascii_uppercase();
    let mut ids = Vec::new();
    for form in [word.to_owned(), title, word.to_ascii_uppercase()] {
        for text in [form.clone(), format!(" {form}")] {
            if let [id] = language.encode(&text)?[..]
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
    }
    if ids.is_empty() {
        return Err(no_single_token(word));
    }
    Ok(ids)
}

fn single(language: &dyn Language, word: &str) -> Result<u32> {
    match language.encode(word)?[..] {
        [id] => Ok(id),
        _ => Err(no_single_token(word)),
    }
}

fn no_single_token(word: &str) -> Error {
    Error::Input(format!("{word:?} is not a single token of this model; use another judge mode, for example backward"))
}
