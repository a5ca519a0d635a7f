//! Agreement, spread and diversity: the numbers by which a loop is judged.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The mean and its standard error (sample deviation divided by the root of n). The error is 0 for fewer than two
/// values.
pub fn mean_se(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// Mean and standard error of `a - b`, item by item. Surplus items of the longer list are left out.
pub fn paired_gain(a: &[f64], b: &[f64]) -> (f64, f64) {
    mean_se(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// How often one side is above, equal to and below the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadToHead {
    /// How often a is above b.
    pub win: usize,
    /// How often the two are equal.
    pub tie: usize,
    /// How often a is below b.
    pub loss: usize,
}

/// The outcome of one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Side a is above side b.
    Win,
    /// The two are too near one another to tell.
    Tie,
    /// Side a is below side b.
    Loss,
}

impl Outcome {
    /// The outcome of a's lead over b; a lead of at most `margin` is a tie.
    pub fn of_lead(lead: f64, margin: f64) -> Self {
        match lead.abs() > margin {
            true if lead > 0.0 => Self::Win,
            true => Self::Loss,
            false => Self::Tie,
        }
    }

    /// Points for the outcome: 1, 0.5 or 0. Their mean is the win rate.
    pub fn points(self) -> f64 {
        match self {
            Self::Win => 1.0,
            Self::Tie => 0.5,
            Self::Loss => 0.0,
        }
    }
}

impl HeadToHead {
    /// Counts how many outcomes of each kind there are.
    pub fn count(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut out = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Win => out.win += 1,
                Outcome::Tie => out.tie += 1,
                Outcome::Loss => out.loss += 1,
            }
        }
        out
    }
}

/// Compares two lists item by item; surplus items of the longer list are left out.
pub fn head_to_head(a: &[f64], b: &[f64]) -> HeadToHead {
    HeadToHead::count(a.iter().zip(b).map(|(a, b)| Outcome::of_lead(a - b, 0.0)))
}

/// The rank of each value, from 1; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut out = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        for &i in &order[start..end] {
            out[i] = (start + 1 + end) as f64 / 2.0;
        }
        start = end;
    }
    out
}

/// Spearman's rank correlation, with mean ranks for ties. `None` if either list is constant or shorter than two.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    let (a, b) = (ranks(&a[..n]), ranks(&b[..n]));
    let mean = (n as f64 + 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        ab += (x - mean) * (y - mean);
        aa += (x - mean) * (x - mean);
        bb += (y - mean) * (y - mean);
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// Kendall's tau-b. `None` if either list is constant or shorter than two.
pub fn kendall_tau_b(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    let (mut score, mut pairs_a, mut pairs_b) = (0i64, 0i64, 0i64);
    for i in 0..n {
        for j in i + 1..n {
            let (x, y) = (sign(a[i] - a[j]), sign(b[i] - b[j]));
            score += x * y;
            pairs_a += x * x;
            pairs_b += y * y;
        }
    }
    (pairs_a > 0 && pairs_b > 0).then(|| score as f64 / (pairs_a as f64 * pairs_b as f64).sqrt())
}

fn sign(x: f64) -> i64 {
    i64::from(x > 0.0) - i64::from(x < 0.0)
}

/// Of the pairs that the truth orders, the fraction that the prediction orders alike; a predicted tie counts half.
/// `None` if there are no such pairs.
pub fn pairwise_accuracy(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    let n = truth.len().min(predicted.len());
    let (mut right, mut all) = (0.0, 0usize);
    for i in 0..n {
        for j in i + 1..n {
            let t = sign(truth[i] - truth[j]);
            if t != 0 {
                all += 1;
                right += (1 + t * sign(predicted[i] - predicted[j])) as f64 / 2.0;
            }
        }
    }
    (all > 0).then(|| right / all as f64)
}

/// Fraction of the groups whose whole order, ties included, is predicted. `None` if there are no groups.
pub fn exact_match(groups: &[(Vec<f64>, Vec<f64>)]) -> Option<f64> {
    if groups.is_empty() {
        return None;
    }
    let same = groups.iter().filter(|(truth, predicted)| ranks(truth) == ranks(predicted)).count();
    Some(same as f64 / groups.len() as f64)
}

/// Of the responses scored 5 (at least 4.5), the fraction that the truth ranks best in its group. `None` if there are
/// none.
pub fn five_best(groups: &[(Vec<f64>, Vec<f64>)]) -> Option<f64> {
    let (mut best, mut all) = (0usize, 0usize);
    for (truth, predicted) in groups {
        let top = truth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (t, p) in truth.iter().zip(predicted) {
            if *p >= 4.5 {
                all += 1;
                best += usize::from(*t == top);
            }
        }
    }
    (all > 0).then(|| best as f64 / all as f64)
}

/// Number of different texts divided by the number of texts; 0 if there are none.
pub fn distinct<S: AsRef<str>>(texts: &[S]) -> f64 {
    if texts.is_empty() {
        return 0.0;
    }
    texts.iter().map(AsRef::as_ref).collect::<HashSet<_>>().len() as f64 / texts.len() as f64
}

/// How many of the scores round to 0, 1, … 5.
pub fn histogram(scores: &[f64]) -> [usize; 6] {
    let mut out = [0; 6];
    for s in scores.iter().filter(|s| s.is_finite()) {
        out[s.round().clamp(0.0, 5.0) as usize] += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        assert!((a.unwrap() - b).abs() < 1e-9, "{a:?} {b}");
    }

    #[test]
    fn rank_correlations_with_ties() {
        // By hand: rank covariance 14.75 over 17, and 11 concordant less discordant of 14 untied pairs.
        let a = [1.0, 2.0, 2.0, 3.0, 5.0, 4.0];
        let b = [2.0, 1.0, 3.0, 3.0, 6.0, 5.0];
        assert_eq!(ranks(&a), [1.0, 2.5, 2.5, 4.0, 6.0, 5.0]);
        close(spearman(&a, &b), 14.75 / 17.0);
        close(kendall_tau_b(&a, &b), 11.0 / 14.0);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(kendall_tau_b(&[1.0], &[1.0]), None);
        close(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
    }

    #[test]
    fn accuracies() {
        close(pairwise_accuracy(&[1.0, 2.0, 2.0], &[0.1, 0.2, 0.1]), 0.75);
        assert_eq!(pairwise_accuracy(&[1.0, 1.0], &[0.0, 1.0]), None);
        let groups = [(vec![1.0, 2.0, 3.0], vec![0.0, 4.6, 5.0]), (vec![2.0, 1.0], vec![1.0, 5.0])];
        close(exact_match(&groups), 0.5);
        close(five_best(&groups), 1.0 / 3.0);
        assert_eq!(five_best(&[(vec![1.0], vec![1.0])]), None);
    }

    #[test]
    fn spread_and_diversity() {
        let (m, se) = mean_se(&[1.0, 2.0, 3.0]);
        assert!((m - 2.0).abs() < 1e-12 && (se - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(paired_gain(&[3.0, 4.0], &[1.0, 2.0]), (2.0, 0.0));
        assert_eq!(mean_se(&[]), (0.0, 0.0));
        assert_eq!(head_to_head(&[1.0, 2.0, 3.0], &[2.0, 2.0, 1.0]), HeadToHead { win: 1, tie: 1, loss: 1 });
        assert_eq!([0.5, -0.5, 0.4, 0.0].map(|lead| Outcome::of_lead(lead, 0.4).points()), [1.0, 0.0, 0.5, 0.5]);
        assert_eq!(distinct(&["a", "b", "a", "a"]), 0.5);
        assert_eq!(histogram(&[0.4, 0.6, 5.0, 7.0, -1.0, f64::NAN]), [2, 1, 0, 0, 0, 2]);
    }
}
