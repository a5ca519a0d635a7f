//! What the products on f32 units and those on matrix units share.

use super::lora::Adapters;
use super::rms_norm::Gain;
use crate::Result;
use crate::arch::Activation;
use crate::gpu::{Recorder, Tensor};

/// What happens to A and to C besides the product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added to every row, `[N]`.
    pub bias: Option<&'a Tensor>,
    /// Add to C instead of overwriting it.
    pub add: bool,
    /// RMS-normalise A's rows first, with this gain `[K]` and eps; only where
    /// [`normalises`](super::matmul::normalises) says so.
    pub norm: Option<(Gain<'a>, f32)>,
    /// B is `[gate | up]`; C `[M, N / 2]` is act(A gate) · (A up); only where [`gates`](super::matmul::gates) says so.
    pub gate: Option<Activation>,
    /// Adapters on B, with u: C is bias + g · (A B) + f · (u their B), the bias being theirs; only where
    /// [`adapts`](super::matmul::adapts) says so.
    pub adapters: Option<(Adapters<'a>, &'a Tensor)>,
}

/// What a product does besides multiplying, as far as its kernel is chosen by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extras {
    /// Whether a bias is added.
    pub(super) bias: bool,
    /// Whether C is added to.
    pub(super) add: bool,
    /// Whether A's rows are normalised, and then whether 1 is added to the gain.
    pub(super) norm: Option<bool>,
    /// The activation of gated columns.
    pub(super) gate: Option<Activation>,
    /// Whether adapters act on B.
    pub(super) lora: bool,
}

impl Epilogue<'_> {
    pub(super) fn extras(&self) -> Extras {
        let norm = self.norm.map(|(gain, _)| gain.plus_one);
        Extras { bias: self.bias.is_some(), add: self.add, norm, gate: self.gate, lora: self.adapters.is_some() }
    }
}

/// Cuts `m` rows so that no dispatch runs too long or has too many workgroups.
pub(super) fn split_rows(
    rec: &mut Recorder,
    m: usize,
    rows: usize,
    flops_per_row: f64,
    mut launch: impl FnMut(&mut Recorder, usize, usize) -> Result<()>,
) -> Result<()> {
    let most = (rec.gpu().flops_per_dispatch() / flops_per_row.max(1.0)) as usize;
    let step = (most / rows * rows).clamp(rows, 65_535 * rows);
    (0..m).step_by(step).try_for_each(|first| launch(rec, first, step.min(m - first)))
}

/// C = A B in f64, A `[M, K]`, B `[K, N]`.
pub(super) fn twin(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for (t, x) in a[i * k..(i + 1) * k].iter().enumerate() {
            for (to, y) in c[i * n..(i + 1) * n].iter_mut().zip(&b[t * n..(t + 1) * n]) {
                *to += x * y;
            }
        }
    }
    c
}

/// C = A^T B in f64, A `[K, M]`, B `[K, N]`.
pub(super) fn twin_tn(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let turned: Vec<f64> = (0..m * k).map(|i| a[(i % k) * m + i / k]).collect();
    twin(&turned, b, m, k, n)
}
