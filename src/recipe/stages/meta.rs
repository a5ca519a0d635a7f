//! Meta-Rewarding (arXiv 2407.19594): the model compares its own verdicts, and the better ones are preferred to the
//! worse ones in training, so that the judge is trained too.

use crate::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord, alone, hex};
use crate::generate::Engine;
use crate::judge::{Item, Judge, Match, PairwiseJudge, Preference, Template};
use crate::recipe::context::Context;
use crate::recipe::waves::in_waves;
use crate::rng::record_id;
use crate::{Error, Observer, Result};
use std::collections::HashMap;
use std::path::Path;

/// Anything that says which of two verdicts is the better one.
pub trait MetaJudge {
    /// One preference a match, in order; the question is the judge's prompt, a and b are two verdicts on it.
    ///
    /// # Errors
    /// Errors of the engine; text that cannot be encoded.
    fn compare(&self, engine: &mut dyn Engine, matches: &[Match], observer: &dyn Observer) -> Result<Vec<Preference>>;
}

impl MetaJudge for PairwiseJudge<'_> {
    fn compare(&self, engine: &mut dyn Engine, matches: &[Match], observer: &dyn Observer) -> Result<Vec<Preference>> {
        self.judge(engine, matches, observer)
    }
}

/// The engine's model as its own meta-judge, by the shipped prompt; each two verdicts are shown in both orders.
pub fn own_meta_judge<'a>(ctx: &Context<'a>) -> PairwiseJudge<'a> {
    let template = Template::message(include_str!("../../../prompts/meta.txt"));
    PairwiseJudge { language: ctx.domain.language(), template, sampled: None }
}

/// What a stage of verdict pairs reads.
pub struct Verdicts<'a> {
    /// The round's prompts.
    pub prompts: &'a [PromptRecord],
    /// Its answers.
    pub candidates: &'a [CandidateRecord],
    /// Its written verdicts.
    pub verdicts: &'a [VerdictRecord],
    /// Pairs of answers that are trained on as well.
    pub pairs: usize,
}

/// One answer with its different verdicts that parse.
struct Told<'a> {
    verdict: &'a VerdictRecord,
    question: &'a str,
    answer: &'a str,
    /// With their places in the record.
    texts: Vec<(usize, &'a str)>,
    /// Variance of their scores.
    spread: f64,
}

/// Compares the verdicts on those answers whose verdicts differ most in their scores, as many as `[judge] meta` allows
/// beside the pairs of answers; writes the verdict pairs to `out`. A finished stage is read back.
///
/// # Errors
/// A judge that writes no verdicts; errors of the meta-judge and of the files; `Stopped` when the observer asks for it.
pub fn run(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    meta: &dyn MetaJudge,
    ctx: &Context,
    input: &Verdicts,
    out: &Path,
) -> Result<Vec<PairRecord>> {
    if judge.prompt(&Item { key: 0, question: "", answer: "" })?.is_none() {
        let what = format!("[judge] meta needs a judge that writes verdicts; {} writes none", judge.name());
        return Err(Error::Input(format!("{what}: take mode = \"sampled\"")));
    }
    let told = told(judge, input);
    let most = most(ctx.settings.judge.meta, input.pairs);
    let told = &told[..told.len().min(most)];
    let pairs = in_waves(
        ctx.observer,
        ("meta", "answers"),
        (told, ctx.settings.judge.wave),
        out,
        &mut |chunk| wave(engine, judge, meta, ctx, chunk),
        |all| all.sort_by(|a, b| (&a.prompt_id, &a.id).cmp(&(&b.prompt_id, &b.id))),
    )?;
    if pairs.is_empty() && most > 0 {
        let why = match told.is_empty() {
            true => "no answer has two verdicts with different scores",
            false => "none of its comparisons of verdicts could be read",
        };
        ctx.observer.note(&format!("round {}: no verdict pairs for [judge] meta: {why}", ctx.round));
    }
    Ok(pairs)
}

/// The most verdict pairs that are at most `share` of all, beside `pairs` others.
fn most(share: f64, pairs: usize) -> usize {
    // A share of 0.15 of 100 is 15, whatever the last bit of the quotient.
    (share * pairs as f64 / (1.0 - share) + 1e-9) as usize
}

/// Answers with at least two different scores, those with the widest spread first.
fn told<'a>(judge: &dyn Judge, input: &Verdicts<'a>) -> Vec<Told<'a>> {
    let prompts: HashMap<&str, &PromptRecord> = input.prompts.iter().map(|p| (p.id.as_str(), p)).collect();
    let candidates: HashMap<&str, &CandidateRecord> = input.candidates.iter().map(|c| (c.id.as_str(), c)).collect();
    let of = |verdict: &'a VerdictRecord| {
        let prompt = prompts.get(verdict.prompt_id.as_str())?;
        let candidate = candidates.get(verdict.candidate_ids.first()?.as_str())?;
        let (mut texts, mut scores) = (Vec::new(), Vec::new());
        for (place, text) in verdict.texts.iter().enumerate() {
            if let (Some(score), false) = (judge.read(text), texts.iter().any(|(_, t)| t == text)) {
                texts.push((place, text.as_str()));
                scores.push(score);
            }
        }
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let spread = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / scores.len().max(1) as f64;
        (spread > 0.0).then_some(Told { verdict, question: &prompt.prompt, answer: &candidate.text, texts, spread })
    };
    let mut all: Vec<Told> = input.verdicts.iter().filter_map(of).collect();
    all.sort_by(|a, b| b.spread.total_cmp(&a.spread).then_with(|| a.verdict.id.cmp(&b.verdict.id)));
    all
}

fn wave(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    meta: &dyn MetaJudge,
    ctx: &Context,
    told: &[Told],
) -> Result<Vec<PairRecord>> {
    let mut asked = Vec::with_capacity(told.len());
    for t in told {
        asked.extend(judge.prompt(&Item { key: 0, question: t.question, answer: t.answer })?);
    }
    let mut matches = Vec::new();
    for (t, (text, ids)) in told.iter().zip(&asked) {
        for (n, (i, j)) in two_of(t.texts.len()).enumerate() {
            let key = record_id(ctx.round, "meta", ids, n as u32);
            matches.push(Match { key, question: text, a: t.texts[i].1, b: t.texts[j].1 });
        }
    }
    let mut preferences = meta.compare(engine, &matches, ctx.observer)?.into_iter();
    let mut pairs = Vec::new();
    for (t, (text, ids)) in told.iter().zip(&asked) {
        let mut wins = vec![0.0; t.texts.len()];
        let mut read = true;
        for ((i, j), preference) in two_of(t.texts.len()).zip(&mut preferences) {
            match preference.p {
                [Some(p), Some(q)] => {
                    let p = (p + q) / 2.0;
                    wins[i] += p;
                    wins[j] += 1.0 - p;
                }
                _ => read = false,
            }
        }
        let by_wins = |a: &usize, b: &usize| wins[*a].total_cmp(&wins[*b]).then(b.cmp(a));
        let (best, worst) = ((0..wins.len()).max_by(by_wins), (0..wins.len()).min_by(by_wins));
        if let (true, Some(best), Some(worst)) = (read, best, worst)
            && wins[best] > wins[worst]
        {
            let rivals = (wins.len() - 1) as f64;
            let at = |i: usize| Side { place: t.texts[i].0, text: t.texts[i].1, score: wins[i] / rivals };
            pairs.push(record(ctx, t.verdict, (text, ids), &at(best), &at(worst))?);
        }
    }
    Ok(pairs)
}

/// Every (i, j) with i < j < n.
fn two_of(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// A verdict and the share of its comparisons that it won.
struct Side<'a> {
    place: usize,
    text: &'a str,
    score: f64,
}

fn record(
    ctx: &Context,
    verdict: &VerdictRecord,
    (text, prompt_ids): (&str, &[u32]),
    chosen: &Side,
    rejected: &Side,
) -> Result<PairRecord> {
    let language = ctx.domain.language();
    let ids = |text: &str| -> Result<Vec<u32>> {
        let mut ids = language.encode(text)?;
        ids.extend(language.stop().first());
        Ok(ids)
    };
    let id = |side: &Side| format!("{}/{}", verdict.id, side.place);
    Ok(PairRecord {
        id: hex(record_id(ctx.round, "meta-pairs", prompt_ids, 0)),
        prompt_id: verdict.prompt_id.clone(),
        chosen_id: id(chosen),
        rejected_id: id(rejected),
        round: ctx.round,
        score_chosen: chosen.score,
        score_rejected: rejected.score,
        weight: 1.0,
        flip: 0.0,
        prompt: alone("user", text),
        chosen: alone("assistant", chosen.text),
        rejected: alone("assistant", rejected.text),
        prompt_ids: prompt_ids.to_vec(),
        chosen_ids: ids(chosen.text)?,
        rejected_ids: ids(rejected.text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_pairs_stay_within_their_share() {
        for (share, pairs, want) in [(0.15, 85, 15), (0.15, 84, 14), (0.1, 9, 1), (0.0, 50, 0), (0.15, 0, 0)] {
            let n = most(share, pairs);
            assert_eq!(n, want);
            assert!(n as f64 <= share * (n + pairs) as f64 + 1e-9);
        }
        assert_eq!(two_of(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }
}
