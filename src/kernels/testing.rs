//! What the tests of the twins share.

use crate::layout::Forest;

/// Compares a gradient with central differences of `f` along random directions.
pub(crate) fn finite_difference(what: &str, at: &[f64], grad: &[f64], f: impl Fn(&[f64]) -> f64) {
    let mut rng = crate::rng::Stream::new(7, 0);
    for _ in 0..4 {
        let direction: Vec<f64> = at.iter().map(|_| f64::from(rng.uniform()) - 0.5).collect();
        let step = 1e-5;
        let moved = |s: f64| at.iter().zip(&direction).map(|(a, d)| a + s * d).collect::<Vec<_>>();
        let slope = (f(&moved(step)) - f(&moved(-step))) / (2.0 * step);
        let product: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert!(
            (slope - product).abs() <= 1e-6 * (1.0 + slope.abs().max(product.abs())),
            "{what}: the slope is {slope}, the gradient says {product}"
        );
    }
}

/// Two trees, one of which branches twice.
pub(crate) fn forked() -> Forest {
    let mut forest = Forest::new();
    forest.open(&[0; 3]);
    forest.leaf(&[0; 2]);
    forest.open(&[0]);
    forest.leaf(&[0; 4]);
    forest.leaf(&[0]);
    forest.close();
    forest.close();
    forest.leaf(&[0; 2]);
    forest
}

/// Repeatable numbers around 0.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f64> {
    (0..n as u64).map(|i| ((i * 2_654_435_761 + seed * 97_531) % 1009) as f64 / 504.5 - 1.0).collect()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
