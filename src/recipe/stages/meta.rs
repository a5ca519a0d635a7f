//! Meta-Rewarding (arXiv 2407.19594): the model compares its own verdicts, and in training the better ones are
//! preferred to the worse ones, so that the judge is trained too.

use crate::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord, alone, hex};
use crate::generate::Engine;
use crate::judge::{Item, Judge, Match, PairwiseJudge, Preference, Template};
use crate::recipe::context::RoundContext;
use crate::rng::record_id;
use crate::text::Answered;
use crate::waves::{WaveStage, in_waves};
use crate::{Error, Observer, Result};
use std::collections::HashMap;
use std::path::Path;

/// Says which of two verdicts is the better one.
pub trait MetaJudge {
    /// Gives one preference for each match, in the order of the matches. The question of a match is the judge's prompt,
    /// and its two answers are verdicts on it.
    ///
    /// # Errors
    /// Errors of the engine; a text that cannot be encoded.
    fn compare(&self, engine: &mut dyn Engine, matches: &[Match], observer: &dyn Observer) -> Result<Vec<Preference>>;
}

impl MetaJudge for PairwiseJudge<'_> {
    fn compare(&self, engine: &mut dyn Engine, matches: &[Match], observer: &dyn Observer) -> Result<Vec<Preference>> {
        self.judge(engine, matches, observer)
    }
}

/// The engine's model as its own meta-judge, with the shipped prompt. It is shown each two verdicts in both orders.
pub fn own_meta_judge<'a>(ctx: &RoundContext<'a>) -> PairwiseJudge<'a> {
    let template = Template::message(include_str!("../../../prompts/meta.txt"));
    PairwiseJudge { language: ctx.domain.language(), template, sampled: None }
}

/// What the stage of verdict pairs reads.
pub struct Verdicts<'a> {
    /// The prompts of the round.
    pub prompts: &'a [PromptRecord],
    /// The answers of the round.
    pub candidates: &'a [CandidateRecord],
    /// The verdicts that were written on the answers.
    pub verdicts: &'a [VerdictRecord],
    /// How many pairs of answers are trained on as well.
    pub pairs: usize,
}

/// One answer, with those of its verdicts that parse and differ.
struct Told<'a> {
    verdict: &'a VerdictRecord,
    question: &'a str,
    answer: &'a str,
    /// The verdicts with their places in the record.
    texts: Vec<(usize, &'a str)>,
    /// Variance of the verdicts' scores.
    spread: f64,
}

/// Compares the verdicts on the answers whose verdicts differ most in their scores, as many as `[judge] meta` allows
/// beside the pairs of answers. Writes the verdict pairs to `out`. The records of a finished stage are read from `out`.
///
/// # Errors
/// The judge writes no verdicts; errors of the meta-judge and of the files; `Stopped` when the observer asks for it.
pub fn run(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    meta: &dyn MetaJudge,
    ctx: &RoundContext,
    input: &Verdicts,
    out: &Path,
) -> Result<Vec<PairRecord>> {
    if judge.prompt(&Item::new(0, "", ""))?.is_none() {
        let what = format!("[judge] meta needs a judge that writes verdicts; {} writes none", judge.name());
        return Err(Error::Input(format!("{what}: take mode = \"sampled\"")));
    }
    let told = told(judge, input);
    let most = most(ctx.settings.judge.meta, input.pairs);
    let told = &told[..told.len().min(most)];
    let pairs = in_waves(
        ctx.observer,
        &WaveStage { name: "meta", unit: "answers", items: told, wave: ctx.settings.judge.wave, out },
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

/// The most verdict pairs that are at most a fraction `share` of all pairs, if there are `pairs` others.
fn most(share: f64, pairs: usize) -> usize {
    // 0.15 of 100 is 15, whatever the last bit of the quotient.
    (share * pairs as f64 / (1.0 - share) + 1e-9) as usize
}

/// Answers whose verdicts have at least two different scores, those with the widest spread first.
fn told<'a>(judge: &dyn Judge, input: &Verdicts<'a>) -> Vec<Told<'a>> {
    let prompts: HashMap<&str, &PromptRecord> = input.prompts.iter().map(|p| (p.id.as_str(), p)).collect();
    let candidates: HashMap<&str, &CandidateRecord> = input.candidates.iter().map(|c| (c.id.as_str(), c)).collect();
    let differing = |verdict: &'a VerdictRecord| {
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
    let mut all: Vec<Told> = input.verdicts.iter().filter_map(differing).collect();
    all.sort_by(|a, b| b.spread.total_cmp(&a.spread).then_with(|| a.verdict.id.cmp(&b.verdict.id)));
    all
}

fn wave(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    meta: &dyn MetaJudge,
    ctx: &RoundContext,
    told: &[Told],
) -> Result<Vec<PairRecord>> {
    let mut asked = Vec::with_capacity(told.len());
    for t in told {
        asked.extend(judge.prompt(&Item::new(0, t.question, t.answer))?);
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
            let at = |i: usize| RatedVerdict { place: t.texts[i].0, text: t.texts[i].1, score: wins[i] / rivals };
            let (best, worst) = (at(best), at(worst));
            let item = Item::new(0, t.question, t.answer);
            if let Some(answered) = judge.written(&item, &[best.text, worst.text])? {
                pairs.push(record(ctx, t.verdict, (text, ids, answered), &best, &worst));
            }
        }
    }
    Ok(pairs)
}

/// Every pair (i, j) with i < j < n.
fn two_of(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// A verdict and the fraction of its comparisons that it won.
struct RatedVerdict<'a> {
    place: usize,
    text: &'a str,
    score: f64,
}

fn record(
    ctx: &RoundContext,
    verdict: &VerdictRecord,
    (text, prompt_ids, answered): (&str, &[u32], Answered),
    chosen: &RatedVerdict,
    rejected: &RatedVerdict,
) -> PairRecord {
    let end = ctx.domain.language().stop().first();
    let mut verdicts =
        answered.answers.into_iter().map(|ids| ids.into_iter().chain(end.copied()).collect::<Vec<u32>>());
    let mut next = || verdicts.next().unwrap_or_default();
    let id = |side: &RatedVerdict| format!("{}/{}", verdict.id, side.place);
    PairRecord {
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
        prompt_ids: answered.prompt,
        chosen_ids: next(),
        rejected_ids: next(),
    }
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
