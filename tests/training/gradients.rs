//! Gradients by parameter name, and how far they lie apart.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::train::Trainer;
use std::collections::BTreeMap;

pub(crate) fn gradients(trainer: &Trainer) -> BTreeMap<String, Vec<f64>> {
    let all = trainer.gradients().unwrap().into_iter();
    all.map(|t| (t.name, t.data.iter().map(|x| f64::from(*x)).collect())).collect()
}

pub(crate) fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|v| v * v).sum::<f64>().sqrt()
}

/// |a − b| over all parameters, relative to |b|.
pub(crate) fn apart(a: &BTreeMap<String, Vec<f64>>, b: &BTreeMap<String, Vec<f64>>) -> f64 {
    assert!(a.keys().eq(b.keys()));
    let all = |x: &BTreeMap<String, Vec<f64>>| x.values().flatten().copied().collect::<Vec<f64>>();
    let (a, b) = (all(a), all(b));
    norm(a.iter().zip(&b).map(|(x, y)| x - y)) / norm(b.into_iter())
}
