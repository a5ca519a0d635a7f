//! Sinks of attention: one learned logit a head that joins the sum of the softmax and reads nothing (arXiv 2309.17453,
//! section 3.3; gpt-oss). In a forest they are taken account of behind attention's forward pass; a decoding step does
//! it where it merges its partial sums.

use super::attention::{Compared, TIED, compared, forward as attend, twin as attend_twin};
use super::attention_backward::{self, Gradients};
use super::case::{Case, Kernel, Trial};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads};
use super::mask::Attended;
use super::scores::Scores;
use super::sizes::{lanes, stream};
use super::way::Way;
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor};
use crate::layout::Forest;

static SOURCE: Source = Source {
    name: "sinks",
    soft: include_str!("../../shaders/sinks.wgsl"),
    tile: include_str!("../../shaders/sinks.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "learned logits that join attention's softmax",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

fn params(out: &Attended, heads: Heads) -> [Param<'static>; 3] {
    [("rows", Size(out.o.rows())), ("heads", Size(heads.heads)), ("d4", Size(heads.padded() / 4))]
}

fn check(out: &Attended, heads: Heads, sinks: &Tensor) -> Result<()> {
    out.o.expect_shape("attention's output", out.o.rows(), heads.heads * heads.padded())?;
    out.lse.expect_vector("attention's log-sums", out.o.rows() * heads.heads)?;
    sinks.expect_vector("the sinks", heads.heads)
}

/// Takes account of the sinks `[H]` in what attention gave without them, in place.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(rec: &mut Recorder, out: &Attended, heads: Heads, sinks: &Tensor) -> Result<()> {
    check(out, heads, sinks)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &params(out, heads),
        bind: &[sinks, &out.o, &out.lse],
        groups: lanes(&SOURCE, rec.variant(), out.o.rows() * heads.heads),
        cost: stream(&[&out.o, &out.o], 1.0),
    })
}

/// Adds to the gradient by the sinks `[H]`, from what attention gave with them and the row sums that its backward pass
/// made ([`Gradients::delta`]).
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn backward(
    rec: &mut Recorder,
    out: &Attended,
    heads: Heads,
    (sinks, delta): (&Tensor, &Tensor),
    dsinks: &Tensor,
) -> Result<()> {
    check(out, heads, sinks)?;
    dsinks.expect_vector("the gradient by the sinks", heads.heads)?;
    delta.expect_vector("the sums of the sinks' gradient", out.o.rows() * heads.heads)?;
    let items = (out.o.rows() * heads.heads) as f64;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: vec![],
        params: &params(out, heads),
        bind: &[sinks, &out.lse, delta, dsinks],
        groups: lanes(&SOURCE, rec.variant(), heads.heads),
        cost: Cost::new(4.0 * items, 8.0 * items),
    })
}

/// Attention's o and lse `[T, H]`, o in heads of `head_dim`, with the sinks taken account of.
pub(crate) fn twin((o, lse): (Vec<f64>, Vec<f64>), sinks: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let head_dim = o.len() / lse.len().max(1);
    let joined = |(i, lse): (usize, &f64)| {
        let (sink, top) = (sinks[i % sinks.len()], lse.max(sinks[i % sinks.len()]));
        top + ((lse - top).exp() + (sink - top).exp()).ln()
    };
    let all: Vec<f64> = lse.iter().enumerate().map(joined).collect();
    let o = o.iter().enumerate().map(|(i, o)| o * (lse[i / head_dim] - all[i / head_dim]).exp()).collect();
    (o, all)
}

/// The gradient by the sinks from what [`twin`] gave.
fn twin_backward((o, lse): &(Vec<f64>, Vec<f64>), sinks: &[f64], d_o: &[f64]) -> Vec<f64> {
    let head_dim = o.len() / lse.len().max(1);
    let mut grad = vec![0.0; sinks.len()];
    for (i, lse) in lse.iter().enumerate() {
        let of = i * head_dim..(i + 1) * head_dim;
        let delta: f64 = o[of.clone()].iter().zip(&d_o[of]).map(|(o, d)| o * d).sum();
        grad[i % sinks.len()] -= (sinks[i % sinks.len()] - lse).exp() * delta;
    }
    grad
}

/// Compares attention with sinks, and its gradients, with the twins.
fn compare(t: &mut Trial, forest: &Forest, compared: Compared) -> Result<()> {
    let (h, mask) = (compared.heads, compared.mask(t.gpu, forest)?);
    let (qkv, host) = head_matrix(t, forest.len(), h.heads + 2 * h.kv_heads, h.head_dim)?;
    let (d_o, hd) = head_matrix(t, forest.len(), h.heads, h.head_dim)?;
    let ((sinks, hs), (dsinks, before)) = (t.matrix(1, h.heads)?, t.matrix(1, h.heads)?);
    let out = attend(&mut t.rec, &qkv, h, &mask)?;
    forward(&mut t.rec, &out, h, &sinks)?;
    let Gradients { dqkv, delta } = attention_backward::backward(&mut t.rec, &qkv, h, &mask, &out, &d_o)?;
    backward(&mut t.rec, &out, h, (&sinks, &delta), &dsinks)?;
    let want = twin(attend_twin(&host, h, forest, mask.window, mask.scores), &hs);
    t.expect("o", &out.o, || pad_heads(&want.0, h.head_dim));
    t.expect("lse", &out.lse, || want.1.clone());
    t.expect("dsinks", &dsinks, || twin_backward(&want, &hs, &hd).iter().zip(&before).map(|(g, b)| g + b).collect());
    t.expect("dqkv", &dqkv, || {
        let of = attention_backward::Given { heads: h, forest, window: mask.window, scores: mask.scores };
        pad_heads(&attention_backward::twin_backward_of(&host, of, &want, &hd), h.head_dim)
    });
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = compared(compare).into_iter().map(|case| case.without(TIED)).collect();
    // More heads than a workgroup has lanes.
    let many = Case::new("5x70", 2e-5, |t| {
        let mut forest = Forest::new();
        forest.leaf(&[0; 5]);
        let heads = Heads { heads: 70, kv_heads: 70, head_dim: 10 };
        compare(t, &forest, Compared { heads, window: None, scores: Scores::default() })
    });
    all.push(many.without(TIED));
    all.push(Case::timed("forward 1024 rows 64x64", |t| {
        let heads = Heads { heads: 64, kv_heads: 8, head_dim: 64 };
        let ((o, _), (lse, _), (sinks, _)) = (t.matrix(1024, 64 * 64)?, t.matrix(1, 64 * 1024)?, t.matrix(1, 64)?);
        forward(&mut t.rec, &Attended { o: o.clone(), lse }, heads, &sinks)?;
        t.expect("o", &o, Vec::new);
        Ok(())
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
        let mut forest = Forest::new();
        forest.open(&[0; 3]);
        forest.leaf(&[0; 2]);
        forest.leaf(&[0; 2]);
        forest.close();
        let (x, c, sinks) = (numbers(7 * 8 * 6, 1), numbers(7 * 4 * 6, 2), numbers(4, 3));
        for window in [u32::MAX, 2] {
            let scores = Scores::default();
            let of = |x: &[f64], sinks: &[f64]| twin(attend_twin(x, heads, &forest, window, scores), sinks);
            let out = of(&x, &sinks);
            let given = attention_backward::Given { heads, forest: &forest, window, scores };
            let dx = attention_backward::twin_backward_of(&x, given, &out, &c);
            finite_difference("qkv", &x, &dx, |x| dot(&of(x, &sinks).0, &c));
            let dsinks = twin_backward(&out, &sinks, &c);
            finite_difference("sinks", &sinks, &dsinks, |sinks| dot(&of(&x, sinks).0, &c));
        }
    }
}
