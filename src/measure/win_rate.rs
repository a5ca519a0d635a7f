//! Win rates with intervals, and what would be left of them if answers were equally long.

use super::metrics::mean_se;
use crate::rng::{Stream, record_id};
use serde::{Deserialize, Serialize};

/// How many resamples a bootstrap draws.
pub const RESAMPLES: u32 = 1000;
/// The ridge of [`length_controlled`] on both parameters, against a sum over the prompts. It moves a fit of ten prompts
/// by less than 0.01, and keeps a fit finite in which one side always wins.
const RIDGE: f64 = 0.01;

/// A rate, with the interval that holds 95 % of its bootstrap resamples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The rate over all prompts.
    pub value: f64,
    /// The 2.5 % quantile over the resamples.
    pub low: f64,
    /// The 97.5 % quantile over the resamples.
    pub high: f64,
}

/// `statistic` of all `n` items, and its 95 % percentile interval over [`RESAMPLES`] resamples with replacement. The
/// counter-based generator draws these from `seed` alone. `None` without items.
pub fn bootstrap(n: usize, seed: u64, statistic: &dyn Fn(&[usize]) -> f64) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let value = statistic(&(0..n).collect::<Vec<_>>());
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|r| {
            let mut rng = Stream::new(seed, record_id(0, "bootstrap", &[], r));
            statistic(&(0..n).map(|_| rng.below(n)).collect::<Vec<_>>())
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    Some(Estimate { value, low: quantile(&resampled, 0.025), high: quantile(&resampled, 0.975) })
}

/// The quantile of values that are sorted and not empty; between two of them, on the line through both.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (at - at.floor()) * (sorted[high] - sorted[low])
}

/// How often one side won, from its points on each prompt: 1 for a win, 0.5 for a tie, 0 for a loss.
pub fn win_rate(points: &[f64], seed: u64) -> Option<Estimate> {
    bootstrap(points.len(), seed, &|pick| mean_se(&pick.iter().map(|&i| points[i]).collect::<Vec<_>>()).0)
}

/// The fit of a logistic regression of preference on difference in length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// σ(θ), the win rate at equal length.
    pub win_rate: Estimate,
    /// θ, the advantage of side a at equal length, in log-odds.
    pub theta: f64,
    /// φ, the weight of the difference in length; above 0 if the judge prefers the longer answer.
    pub phi: f64,
}

/// The win rate at equal length, after AlpacaEval 2 (arXiv 2404.04475).
///
/// The model is P(a wins) = σ(θ + φ · tanh(d / s)), where d is a's length less b's and s the standard deviation of d
/// over the prompts (where s is 0, the term of d is left out). A tie counts as half a win and half a loss. θ and φ
/// maximise the log-likelihood less ½ · 0.01 · (θ² + φ²). The result is σ(θ), with the term of length at 0. The paper's
/// third term, how hard each prompt is, needs many models and is left out. The interval comes from refitting every
/// resample. `None` without prompts.
pub fn length_controlled(points: &[f64], differences: &[f64], seed: u64) -> Option<LengthControlled> {
    let n = points.len().min(differences.len());
    let on = |pick: &[usize]| {
        let (y, d): (Vec<f64>, Vec<f64>) = pick.iter().map(|&i| (points[i], differences[i])).unzip();
        fit(&y, &d)
    };
    let win_rate = bootstrap(n, seed, &|pick| sigmoid(on(pick)[0]))?;
    let [theta, phi] = on(&(0..n).collect::<Vec<_>>());
    Some(LengthControlled { win_rate, theta, phi })
}

/// Finds θ and φ by Newton's method. The objective is strictly concave; a step that does not improve it is halved.
fn fit(y: &[f64], d: &[f64]) -> [f64; 2] {
    let mean = mean_se(d).0;
    let deviation = (d.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / d.len().max(1) as f64).sqrt();
    let x: Vec<f64> = d.iter().map(|v| if deviation > 0.0 { (v / deviation).tanh() } else { 0.0 }).collect();
    let objective = |p: [f64; 2]| {
        let log_likelihood: f64 = y
            .iter()
            .zip(&x)
            .map(|(y, x)| {
                let z = p[0] + p[1] * x;
                // y z − log(1 + e^z), without overflow.
                y * z - z.max(0.0) - (-z.abs()).exp().ln_1p()
            })
            .sum();
        log_likelihood - RIDGE / 2.0 * (p[0] * p[0] + p[1] * p[1])
    };
    let mut p = [0.0; 2];
    let mut best = objective(p);
    for _ in 0..100 {
        let (mut g, mut h) = ([-RIDGE * p[0], -RIDGE * p[1]], [RIDGE, 0.0, RIDGE]);
        for (y, x) in y.iter().zip(&x) {
            let q = sigmoid(p[0] + p[1] * x);
            let w = q * (1.0 - q);
            g = [g[0] + y - q, g[1] + (y - q) * x];
            h = [h[0] + w, h[1] + w * x, h[2] + w * x * x];
        }
        let determinant = h[0] * h[2] - h[1] * h[1];
        let step = [(h[2] * g[0] - h[1] * g[1]) / determinant, (h[0] * g[1] - h[1] * g[0]) / determinant];
        let mut share = 1.0;
        let better = loop {
            let next = [p[0] + share * step[0], p[1] + share * step[1]];
            let value = objective(next);
            if value > best {
                break Some((next, value));
            }
            share /= 2.0;
            if share < 1e-10 {
                break None;
            }
        };
        match better {
            Some((next, value)) => (p, best) = (next, value),
            None => break,
        }
    }
    p
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const Y: [f64; 10] = [1.0, 1.0, 0.5, 0.0, 1.0, 0.0, 1.0, 0.5, 1.0, 0.0];
    const D: [f64; 10] = [40.0, 55.0, 10.0, -30.0, 80.0, 5.0, -12.0, 0.0, 33.0, -70.0];

    #[test]
    fn the_fit_is_scipys() {
        // By scipy 1.17, BFGS on the same objective down to a gradient of 1e-12.
        let [theta, phi] = fit(&Y, &D);
        assert!((theta - 0.046_879_94).abs() < 1e-6 && (phi - 3.168_813_48).abs() < 1e-6, "{theta} {phi}");
        // The data is separable: a always wins.
        let [theta, phi] = fit(&[1.0; 10], &D);
        assert!((theta - 5.215_015_39).abs() < 1e-5 && (phi - 0.304_532_34).abs() < 1e-5, "{theta} {phi}");
        // Without differences in length only θ is left, and σ(θ) is nearly the plain win rate.
        let [theta, phi] = fit(&Y, &[0.0; 10]);
        assert!((sigmoid(theta) - 0.6).abs() < 1e-3 && phi == 0.0, "{theta} {phi}");
        assert!(fit(&Y, &[f64::MAX / 1e9; 10]).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn length_explains_what_length_did() {
        let plain = mean_se(&Y).0;
        let lc = length_controlled(&Y, &D, 0).unwrap();
        assert!(lc.phi > 0.0 && lc.win_rate.value < plain, "{lc:?}");
        assert!(lc.win_rate.low < lc.win_rate.value && lc.win_rate.value < lc.win_rate.high, "{lc:?}");
        // With the sides swapped, the win rate is the rest to one.
        let swapped = length_controlled(&Y.map(|y| 1.0 - y), &D.map(|d| -d), 0).unwrap();
        assert!((lc.win_rate.value + swapped.win_rate.value - 1.0).abs() < 1e-9);
        assert_eq!(length_controlled(&[], &[], 0), None);
    }

    #[test]
    fn intervals_are_seeded_and_as_wide_as_they_should_be() {
        let points: Vec<f64> = (0..100).map(|i| if i < 60 { 1.0 } else { 0.0 }).collect();
        let e = win_rate(&points, 7).unwrap();
        // 1.96 √(0.6 · 0.4 / 100) = 0.096.
        assert!((e.value - 0.6).abs() < 1e-12 && (e.high - e.low - 0.192).abs() < 0.03, "{e:?}");
        assert_eq!(win_rate(&points, 7), Some(e));
        assert_ne!(length_controlled(&Y, &D, 7), length_controlled(&Y, &D, 8));
        assert_eq!(win_rate(&[], 0), None);
        let sure = win_rate(&[1.0; 5], 0).unwrap();
        assert_eq!((sure.low, sure.value, sure.high), (1.0, 1.0, 1.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    }
}
