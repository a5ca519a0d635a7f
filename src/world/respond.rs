//! Imperfect responses: what the seed model is taught to sample, and what its judge is taught to tell apart.

use super::score::{MAX_RESPONSE, marks};
use super::tasks::{LETTERS, Task};
use crate::rng::Stream;

/// How often each score 0..=5 occurs among the responses from which M1's policy is learnt: deliberately poor, with a
/// mean of about 2.3.
pub const IFT_WEIGHTS: [f32; 6] = [0.10, 0.24, 0.25, 0.19, 0.10, 0.12];
/// How often each score 0..=5 occurs among the responses from which the judge learns: the whole scale, with many near
/// misses.
pub const EFT_WEIGHTS: [f32; 6] = [0.08, 0.14, 0.16, 0.19, 0.20, 0.23];

const ATTEMPTS: usize = 60;

fn pick(rng: &mut Stream, from: &[char]) -> char {
    // 'z' occurs in no answer, so it stands for "no other character of the answer".
    rng.choose(from).copied().unwrap_or('z')
}

fn picks(rng: &mut Stream, from: &[char], n: usize) -> Vec<char> {
    (0..n).map(|_| pick(rng, from)).collect()
}

/// A wrong (or, rarely, right) response of one of nine kinds, at most 16 characters.
pub fn corrupt(task: &Task, rng: &mut Stream) -> String {
    let gold: Vec<char> = task.gold.chars().collect();
    let word: Vec<char> = task.word.chars().collect();
    let pool: Vec<char> = LETTERS.iter().flat_map(|&b| [char::from(b), char::from(b.to_ascii_uppercase())]).collect();
    let n = gold.len();
    let mut y = gold.clone();
    match rng.below(9) {
        0 => {
            let at = rng.below(n);
            let others: Vec<char> = gold.iter().copied().filter(|&c| c != gold[at]).collect();
            y[at] = pick(rng, &distinct(others));
        }
        1 => {
            for _ in 0..rng.between(1, 2) {
                let at = rng.below(n);
                y[at] = pick(rng, &pool);
            }
        }
        2 => rng.shuffle(&mut y),
        3 => {
            if rng.below(2) == 0 {
                y.truncate(rng.between(1, n.saturating_sub(1).max(1)));
            } else {
                let more = rng.between(1, 3);
                y.extend(picks(rng, &gold, more));
            }
        }
        4 => y = word,
        5 => {
            let len = rng.between(1, 8);
            y = picks(rng, &gold, len);
        }
        6 => y = picks(rng, &pool, n),
        7 => {
            let len = rng.between(1, 10);
            y = picks(rng, &pool, len);
        }
        _ => {
            y = if rng.uniform() < 0.6 {
                vec![pick(rng, &word); MAX_RESPONSE]
            } else {
                picks(rng, &pool, MAX_RESPONSE)
            };
        }
    }
    y.truncate(MAX_RESPONSE);
    y.into_iter().collect()
}

fn distinct(mut chars: Vec<char>) -> Vec<char> {
    chars.sort_unstable();
    chars.dedup();
    chars
}

/// A response whose score is drawn from `weights`, which are given by score 0..=5. For 5 it is the right answer,
/// otherwise a corruption with that score, or, after 60 attempts, the nearest one found below 5.
pub fn response(task: &Task, weights: &[f32; 6], rng: &mut Stream) -> String {
    let mut left = rng.uniform() * weights.iter().sum::<f32>();
    let target = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    let target = target.unwrap_or(5);
    if target == 5 {
        return task.gold.clone();
    }
    let mut nearest: Option<(usize, String)> = None;
    for _ in 0..ATTEMPTS {
        let y = corrupt(task, rng);
        let score = marks(&task.gold, &y).score();
        let off = score.abs_diff(target);
        if score < 5 && nearest.as_ref().is_none_or(|(best, _)| off < *best) {
            nearest = Some((off, y));
            if off == 0 {
                break;
            }
        }
    }
    nearest.map(|(_, y)| y).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_counts(weights: &[f32; 6]) -> (f64, [usize; 6]) {
        let mut rng = Stream::new(11, 0);
        let mut counts = [0; 6];
        for _ in 0..4000 {
            let task = Task::draw(&mut rng);
            let y = response(&task, weights, &mut rng);
            assert!(y.len() <= MAX_RESPONSE);
            counts[marks(&task.gold, &y).score()] += 1;
        }
        let mean = counts.iter().enumerate().map(|(s, &c)| s as f64 * c as f64).sum::<f64>() / 4000.0;
        (mean, counts)
    }

    #[test]
    fn scores_follow_the_weights() {
        let (mean, counts) = mean_and_counts(&IFT_WEIGHTS);
        assert!((2.2..2.5).contains(&mean), "{mean}");
        for (count, weight) in counts.iter().zip(IFT_WEIGHTS) {
            let share = *count as f32 / 4000.0;
            assert!((share - weight).abs() < 0.03, "{counts:?}");
        }
        let (mean, counts) = mean_and_counts(&EFT_WEIGHTS);
        assert!((2.8..3.2).contains(&mean), "{mean}");
        assert!(counts.iter().all(|&c| c > 200), "{counts:?}");
    }

    #[test]
    fn a_word_of_one_letter_has_no_other_character() {
        let task = Task::parse("sort: aaa").unwrap();
        let mut rng = Stream::new(0, 0);
        let all: Vec<String> = (0..300).map(|_| corrupt(&task, &mut rng)).collect();
        assert!(all.iter().any(|y| y.len() == 3 && y.contains('z')));
    }
}
