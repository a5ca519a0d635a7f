//! Gradients of attention over the token forest.

use super::attention::{Compared, Pass, Sharing, WORKGROUP, by_heads, compared, forward, params, twin};
use super::attention_tiles::{self, Gradient};
use super::case::{Case, Kernel, Trial};
use super::heads::{EXAMPLES, Heads};
use super::inputs::{head_matrix, pad_heads, sequences};
use super::mask::{Attended, Mask};
use super::scores::{self, Scores};
use super::sizes::{lanes, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::{Launch, Recorder, Source, Tensor};
use crate::layout::Forest;

static SOURCE: Source = Source {
    name: "attention_backward",
    soft: include_str!("../../shaders/attention_backward.wgsl"),
    tile: include_str!("../../shaders/attention_backward.wgsl"),
    libs: &["channels", "forest", "parts"],
    tile_size: WORKGROUP as u32,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "gradients of attention over the token forest", ways, ordered: &[], cases };

/// The pipeline of [`row_delta`].
fn delta_way(traits: &Traits, heads: Heads) -> Way {
    let d4 = (heads.padded() / 4) as u32;
    Way::new(&SOURCE, traits, "row_delta", [("D4", d4), ("PARTS", 1), ("UNIT", 1), ("ABREAST", 1)])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let mut all = Vec::new();
    for (heads, _) in EXAMPLES {
        all.push(delta_way(traits, heads));
        if !attention_tiles::suits(traits, heads) {
            let both = [("queries", Sharing::new(traits, heads, 0)), ("keys", Sharing::by_keys(traits, heads))];
            for cap in scores::examples(heads) {
                let constants = |s: Sharing| s.constants(traits, (heads, cap), 0, false);
                all.extend(both.map(|(entry, s)| Way::new(&SOURCE, traits, entry, constants(s))));
            }
        }
    }
    all
}

/// What the backward pass gives.
pub(crate) struct Gradients {
    /// That by qkv.
    pub(crate) dqkv: Tensor,
    /// rowsum(dO · O), `[T, H]`, of which the gradient by sinks is made.
    pub(crate) delta: Tensor,
}

/// The gradient by qkv from d_o.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    qkv: &Tensor,
    heads: Heads,
    mask: &Mask,
    out: &Attended,
    d_o: &Tensor,
) -> Result<Gradients> {
    out.o.expect_shape("attention's output", qkv.rows(), heads.heads * heads.padded())?;
    out.lse.expect_vector("attention's log-sums", qkv.rows() * heads.heads)?;
    d_o.expect_shape("attention's output gradient", out.o.rows(), out.o.cols())?;
    let delta = row_delta(rec, (qkv, d_o), heads, mask, out)?;
    let dqkv = rec.gpu().empty(qkv.rows(), qkv.cols())?;
    let traits = Traits::of(rec);
    if attention_tiles::suits(&traits, heads) {
        let grad = Gradient { d_o, lse: &out.lse, delta: &delta };
        attention_tiles::backward(rec, (qkv, heads), mask, grad, &dqkv)?;
        return Ok(Gradients { dqkv, delta });
    }
    let bind = [qkv, &mask.end, &mask.root, &mask.pos, d_o, &out.lse, &delta, &dqkv];
    let source = &SOURCE;
    let sharing = Sharing::new(&traits, heads, 0);
    let queries = Pass { source, entry: "queries", chunk: 0, by_keys: false, sharing, products: 3.0 };
    by_heads(rec, &queries, qkv, heads, mask, &bind)?;
    let bind = [qkv, &mask.end, &mask.pos, d_o, &out.lse, &delta, &dqkv];
    let sharing = Sharing::by_keys(&traits, heads);
    let keys = Pass { source, entry: "keys", chunk: 0, by_keys: true, sharing, products: 4.0 };
    by_heads(rec, &keys, qkv, heads, mask, &bind)?;
    Ok(Gradients { dqkv, delta })
}

/// rowsum(dO · O), `[T, H]`.
pub(super) fn row_delta(
    rec: &mut Recorder,
    (qkv, d_o): (&Tensor, &Tensor),
    heads: Heads,
    mask: &Mask,
    out: &Attended,
) -> Result<Tensor> {
    let delta = rec.gpu().empty(1, qkv.rows() * heads.heads)?;
    let way = delta_way(&Traits::of(rec), heads);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(qkv, heads, mask, 0)?,
        bind: &[&out.o, d_o, &delta],
        groups: lanes(&SOURCE, rec.variant(), qkv.rows() * heads.heads),
        cost: stream(&[&out.o, d_o], 2.0),
    })?;
    Ok(delta)
}

/// Gradient of [`twin`]'s o by x.
pub(crate) fn twin_backward(
    x: &[f64],
    heads: Heads,
    forest: &Forest,
    window: u32,
    scores: Scores,
    d_o: &[f64],
) -> Vec<f64> {
    let given = Given { heads, forest, window, scores };
    twin_backward_of(x, given, &twin(x, heads, forest, window, scores), d_o)
}

/// What a twin's backward pass is told besides numbers.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) heads: Heads,
    pub(super) forest: &'a Forest,
    pub(super) window: u32,
    pub(super) scores: Scores,
}

/// Gradient of o by x, where (o, lse) is what attention gave, with sinks or without.
pub(super) fn twin_backward_of(x: &[f64], given: Given, (o, lse): &(Vec<f64>, Vec<f64>), d_o: &[f64]) -> Vec<f64> {
    let Given { heads, forest, window, scores } = given;
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let at = |t: usize, head: usize| (t * (h + 2 * kv) + head) * d;
    let mut dx = vec![0.0; x.len()];
    for i in 0..forest.len() {
        for q in 0..h {
            let (k, here) = (h + q / (h / kv), (i * h + q) * d);
            let delta: f64 = (0..d).map(|c| o[here + c] * d_o[here + c]).sum();
            for j in (0..=i).filter(|j| forest.visible(i, *j, window)) {
                let (qi, ki, vi) = (at(i, q), at(j, k), at(j, k + kv));
                let s = scores.of((0..d).map(|c| x[qi + c] * x[ki + c]).sum(), heads);
                let p = (s - lse[i * h + q]).exp();
                let dp: f64 = (0..d).map(|c| d_o[here + c] * x[vi + c]).sum();
                let ds = p * (dp - delta) * scores.slope(s, heads);
                for c in 0..d {
                    dx[qi + c] += ds * x[ki + c];
                    dx[ki + c] += ds * x[qi + c];
                    dx[vi + c] += p * d_o[here + c];
                }
            }
        }
    }
    dx
}

/// Compares the gradient with its twin.
fn compare(t: &mut Trial, forest: &Forest, compared: Compared) -> Result<()> {
    let (h, mask) = (compared.heads, compared.mask(t.gpu, forest)?);
    let (qkv, host) = head_matrix(t, forest.len(), h.heads + 2 * h.kv_heads, h.head_dim)?;
    let (d_o, hd) = head_matrix(t, forest.len(), h.heads, h.head_dim)?;
    let out = forward(&mut t.rec, &qkv, h, &mask)?;
    let Gradients { dqkv, .. } = backward(&mut t.rec, &qkv, h, &mask, &out, &d_o)?;
    t.expect("dqkv", &dqkv, || pad_heads(&twin_backward(&host, h, forest, mask.window, mask.scores, &hd), h.head_dim));
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all = compared(compare);
    all.push(Case::timed("4x256 rows 9/3x64", |t| {
        let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let mask = Mask::new(t.gpu, &sequences(4, 256), None)?;
        let ((qkv, _), (d_o, _)) = (head_matrix(t, 1024, 15, 64)?, head_matrix(t, 1024, 9, 64)?);
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        let Gradients { dqkv, .. } = backward(&mut t.rec, &qkv, h, &mask, &out, &d_o)?;
        t.expect("dqkv", &dqkv, Vec::new);
        Ok(())
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradient_is_the_slope() {
        let h = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
        let mut f = Forest::new();
        f.open(&[0; 3]);
        f.leaf(&[0; 2]);
        f.leaf(&[0; 2]);
        f.close();
        f.leaf(&[0; 2]);
        let (x, c) = (numbers(9 * 8 * 6, 1), numbers(9 * 4 * 6, 2));
        let capped = Scores { scale: Some(0.7), cap: Some(0.8) };
        for (window, scores) in [(u32::MAX, Scores::default()), (2, Scores::default()), (u32::MAX, capped)] {
            let dx = twin_backward(&x, h, &f, window, scores, &c);
            finite_difference("qkv", &x, &dx, |x| dot(&twin(x, h, &f, window, scores).0, &c));
        }
    }
}
