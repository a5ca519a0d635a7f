//! Right answers with wrong ones like them.

use std::collections::VecDeque;

/// An answer among which pairs are sought.
pub(super) struct Candidate<'a> {
    /// Only answers of one stratum are paired.
    pub(super) stratum: String,
    pub(super) question: &'a str,
    pub(super) right: bool,
    pub(super) length: usize,
}

/// How far the logarithms of two lengths may be apart: a quarter of the shorter one.
const NEAR: f64 = 0.223;
/// How many of the nearest wrong answers are considered for each right answer.
const NEAREST: usize = 64;
/// The distance that is added between answers to different questions.
const OTHER_QUESTION: f64 = 0.1;
/// Added to lengths, so that a few characters make no difference.
const FEW: f64 = 10.0;
/// How far from a half the share of pairs that length puts in order may be.
const LEAN: f64 = 0.02;

/// Pairs of a right and a wrong answer, each answer in one pair at most: the nearest ones of a stratum first. Those
/// that lean most to one side are left out until length says next to nothing of all of them together.
pub(super) fn matched(all: &[Candidate]) -> Vec<[usize; 2]> {
    let log = |at: usize| (all[at].length as f64 + FEW).ln();
    let places = |right: bool| (0..all.len()).filter(move |at| all[*at].right == right);
    let mut edges: Vec<(f64, [usize; 2])> = Vec::new();
    for right in places(true) {
        let mut near = Vec::new();
        for wrong in places(false).filter(|wrong| all[*wrong].stratum == all[right].stratum) {
            let apart = (log(right) - log(wrong)).abs();
            if apart <= NEAR {
                let other = if all[right].question == all[wrong].question { 0.0 } else { OTHER_QUESTION };
                near.push((apart + other, [right, wrong]));
            }
        }
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(NEAREST);
        edges.extend(near);
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut taken, mut pairs) = (vec![false; all.len()], Vec::new());
    for (_, [right, wrong]) in edges {
        if !taken[right] && !taken[wrong] {
            (taken[right], taken[wrong]) = (true, true);
            pairs.push([right, wrong]);
        }
    }
    let ahead = |pair: &[usize; 2]| all[pair[0]].length as i64 - all[pair[1]].length as i64;
    // The pairs in which the right answer is the longest beside the wrong one stand first.
    pairs.sort_by_key(|pair| (-ahead(pair), *pair));
    let mut pairs: VecDeque<[usize; 2]> = pairs.into();
    let mut lean = longer(all, &pairs) - 0.5;
    while lean.abs() > LEAN {
        let mut fewer = pairs.clone();
        let left_out = if lean > 0.0 { fewer.pop_front() } else { fewer.pop_back() };
        let next = longer(all, &fewer) - 0.5;
        // Where all pairs lean alike, fewer of them lean no less.
        if !left_out.is_some_and(|pair| ahead(&pair) as f64 * lean > 0.0) || next.abs() >= lean.abs() {
            break;
        }
        (pairs, lean) = (fewer, next);
    }
    pairs.into()
}

/// The share of all right and wrong answers of the pairs of which the right one is longer; equal ones count half.
fn longer<'p>(all: &[Candidate], pairs: impl IntoIterator<Item = &'p [usize; 2]>) -> f64 {
    let (mut right, mut wrong): (Vec<usize>, Vec<usize>) =
        pairs.into_iter().map(|[r, w]| (all[*r].length, all[*w].length)).unzip();
    right.sort_unstable();
    wrong.sort_unstable();
    let below = |x: usize| (wrong.partition_point(|w| *w < x) + wrong.partition_point(|w| *w <= x)) as f64 / 2.0;
    let count = (right.len() * wrong.len()).max(1) as f64;
    if right.is_empty() { 0.5 } else { right.iter().map(|x| below(*x)).sum::<f64>() / count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(stratum: &str, question: &'static str, right: bool, length: usize) -> Candidate<'static> {
        Candidate { stratum: stratum.into(), question, right, length }
    }

    #[test]
    fn the_nearest_of_a_stratum_are_paired_once() {
        let all = [
            candidate("a", "p", true, 100),
            candidate("a", "p", false, 115),
            candidate("a", "q", false, 101),
            candidate("a", "q", true, 102),
            candidate("b", "p", false, 100),
            candidate("a", "p", false, 300),
        ];
        // The answer to another question is nearer, but would cost its own one its pair.
        let mut pairs = matched(&all);
        pairs.sort_unstable();
        assert_eq!(pairs, [[0, 1], [3, 2]]);
        assert_eq!(matched(&all[4..]), [[0usize; 2]; 0]);
    }

    #[test]
    fn length_says_nothing_of_what_is_left() {
        // Right ones are shorter by a fifth: near enough, but all on one side.
        let all: Vec<Candidate> = (0..200)
            .map(|i| candidate("a", "p", i < 100, if i < 100 { 80 + i % 50 } else { 100 + (i % 50) * 5 / 4 }))
            .collect();
        let pairs = matched(&all);
        let share = longer(&all, &pairs);
        assert!((share - 0.5).abs() <= LEAN && pairs.len() >= 20, "{share} of {}", pairs.len());
    }
}
