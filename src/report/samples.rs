//! Prompts of a round with their best and worst answers.

use crate::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord};
use crate::recipe::stages::pairs;
use crate::world::{Task, marks};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How many pairs of a round are shown, spread from the widest gap to the narrowest.
const PAIRS: usize = 4;
/// How many prompts without a pair are shown.
const OTHERS: usize = 1;

/// A prompt with its best and its worst answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The question to the model.
    pub prompt: String,
    /// Whether the two answers were trained on as a pair.
    pub pair: bool,
    /// The chosen answer, or, where there is no pair, the one with the highest score.
    pub best: SampleAnswer,
    /// The rejected answer, or, where there is no pair, the one with the lowest score.
    pub worst: SampleAnswer,
}

/// An answer and what the judge thought of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleAnswer {
    /// The words of the answer.
    pub text: String,
    /// The answer's length in tokens.
    pub tokens: usize,
    /// The score that the judge gave.
    pub score: f64,
    /// The score of the exact scorer, in the small world.
    pub truth: Option<f64>,
    /// How the score was read: the judge mode's name.
    pub mode: String,
    /// The texts that the judge wrote; empty for modes that write none.
    pub verdicts: Vec<String>,
}

pub(super) fn samples(
    prompts: &[PromptRecord],
    candidates: &[CandidateRecord],
    anchors: &[CandidateRecord],
    verdicts: &[VerdictRecord],
    pairs: &[PairRecord],
    small_world: bool,
) -> Vec<Sample> {
    let of: HashMap<&str, &VerdictRecord> =
        verdicts.iter().flat_map(|v| v.candidate_ids.iter().map(move |id| (id.as_str(), v))).collect();
    // The first of several pairs of a prompt has the widest gap.
    let pair_of: HashMap<&str, &PairRecord> = pairs.iter().rev().map(|p| (p.prompt_id.as_str(), p)).collect();
    let anchors: HashMap<&str, &CandidateRecord> = anchors.iter().map(|c| (c.id.as_str(), c)).collect();
    let answer = |prompt: &PromptRecord, candidate: &CandidateRecord, score: f64| {
        let verdict = of.get(candidate.id.as_str());
        let task = if small_world { Task::parse(&prompt.prompt) } else { None };
        SampleAnswer {
            text: candidate.text.clone(),
            tokens: candidate.tokens,
            score,
            truth: task.map(|t| marks(&t.gold, &candidate.text).score() as f64),
            mode: verdict.map(|v| v.mode.clone()).unwrap_or_default(),
            verdicts: verdict.map(|v| v.texts.clone()).unwrap_or_default(),
        }
    };
    let (mut paired, mut others) = (Vec::new(), Vec::new());
    for (prompt, scored) in pairs::scored(prompts, candidates, verdicts) {
        let pair = pair_of.get(prompt.id.as_str());
        let find = |id: &str, score: f64| {
            let own = scored.iter().map(|(c, _)| *c).find(|c| c.id == id);
            own.or(anchors.get(id).copied()).map(|c| (c, score))
        };
        let ends = match pair {
            Some(pair) => (find(&pair.chosen_id, pair.score_chosen), find(&pair.rejected_id, pair.score_rejected)),
            None => {
                let by_score = |a: &&(&CandidateRecord, f64), b: &&(&CandidateRecord, f64)| a.1.total_cmp(&b.1);
                (scored.iter().rev().max_by(by_score).copied(), scored.iter().rev().min_by(by_score).copied())
            }
        };
        let (Some((best, high)), Some((worst, low))) = ends else { continue };
        if best.id == worst.id {
            continue;
        }
        let sample = Sample {
            prompt: prompt.prompt.clone(),
            pair: pair.is_some(),
            best: answer(prompt, best, high),
            worst: answer(prompt, worst, low),
        };
        if pair.is_some() { paired.push(sample) } else { others.push(sample) }
    }
    // The sorts are stable, so samples with the same gap stay in the order of their prompts' ids.
    let gap = |s: &Sample| s.best.score - s.worst.score;
    paired.sort_by(|a, b| gap(b).total_cmp(&gap(a)));
    others.sort_by(|a, b| gap(b).total_cmp(&gap(a)));
    let others = spread(others, if paired.is_empty() { PAIRS } else { OTHERS });
    spread(paired, PAIRS).into_iter().chain(others).collect()
}

/// `n` items of a list at equal distances, its first and last among them.
fn spread<T: Clone>(list: Vec<T>, n: usize) -> Vec<T> {
    if list.len() <= n {
        return list;
    }
    (0..n).map(|i| list[i * (list.len() - 1) / (n - 1).max(1)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_both_ends() {
        assert_eq!(spread((0..10).collect(), 4), [0, 3, 6, 9]);
        assert_eq!(spread(vec![1, 2], 4), [1, 2]);
        assert_eq!(spread((0..10).collect(), 1), [0]);
    }
}
