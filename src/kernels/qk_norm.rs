//! RMSNorm over the whole width of q and of k (OLMo 2), on the fused q, k, v rows.

use super::case::{Case, Kernel};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads};
use super::rms_norm::{self, Gain};
use super::sizes::{lanes, row_groups, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Param, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "qk_norm",
    soft: include_str!("../../shaders/qk_norm.wgsl"),
    tile: include_str!("../../shaders/qk_norm.wgsl"),
    libs: &["grid", "reduce"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "RMSNorm over all heads of q, and of k", ways, ordered: &[], cases };

fn way(traits: &Traits, entry: &'static str, plus_one: bool) -> Way {
    Way::new(&SOURCE, traits, entry, [("OFFSET", u32::from(plus_one))])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let both = [false, true].into_iter();
    let mut all: Vec<Way> = both.flat_map(|p| ["forward", "backward"].map(|entry| way(traits, entry, p))).collect();
    all.push(Way::new(&SOURCE, traits, "backward_gain", []));
    all
}

/// The width of the gains: all heads of q, then all of k, each padded.
pub(crate) fn gains(heads: Heads) -> usize {
    (heads.heads + heads.kv_heads) * heads.padded()
}

fn params(heads: Heads, x: &Tensor, gain: &Tensor, eps: f32) -> Result<[Param<'static>; 6]> {
    heads.expect(x)?;
    gain.expect_shape("the gain of QK-norm", 1, gains(heads))?;
    let Heads { heads: h, kv_heads: kv, head_dim } = heads;
    Ok([
        ("rows", Size(x.rows())),
        ("q4", Size(h * heads.padded() / 4)),
        ("k4", Size(kv * heads.padded() / 4)),
        ("q", Size(h * head_dim)),
        ("k", Size(kv * head_dim)),
        ("eps", Float(eps)),
    ])
}

/// The rows with q and k normalised, and the factors of both, from x `[T, width]`; gain `[1, gains]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, heads: Heads, x: &Tensor, gain: Gain, eps: f32) -> Result<(Tensor, Tensor)> {
    let (y, inv) = (rec.gpu().empty(x.rows(), x.cols())?, rec.gpu().empty(1, 2 * x.rows())?);
    let way = way(&Traits::of(rec), "forward", gain.plus_one);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(heads, x, gain.weight, eps)?,
        bind: &[x, gain.weight, &y, &inv],
        groups: row_groups(&SOURCE, rec.variant(), 2 * x.rows()),
        cost: stream(&[x, &y], 4.0),
    })?;
    Ok((y, inv))
}

/// The gradient by x from that by the rows that [`forward`] gave; dgain is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    heads: Heads,
    (x, inv): (&Tensor, &Tensor),
    gain: Gain,
    dy: &Tensor,
    dgain: Option<&Tensor>,
) -> Result<Tensor> {
    dy.expect_shape("the gradient of QK-norm's rows", x.rows(), x.cols())?;
    inv.expect_vector("the factors of QK-norm", 2 * x.rows())?;
    let (dx, params) = (rec.gpu().empty(x.rows(), x.cols())?, params(heads, x, gain.weight, 0.0)?);
    let way = way(&Traits::of(rec), "backward", gain.plus_one);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params,
        bind: &[x, gain.weight, inv, dy, &dx],
        groups: row_groups(&SOURCE, rec.variant(), 2 * x.rows()),
        cost: stream(&[x, dy, &dx], 7.0),
    })?;
    let Some(dgain) = dgain else { return Ok(dx) };
    dgain.expect_shape("the gradient of QK-norm's gain", 1, gains(heads))?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_gain",
        constants: vec![],
        params: &params,
        bind: &[x, inv, dy, dgain],
        groups: lanes(&SOURCE, rec.variant(), gains(heads) / 4),
        cost: stream(&[x, dy], 3.0),
    })?;
    Ok(dx)
}

/// Where q and k stand in an unpadded row, and where their gains begin.
fn parts(heads: Heads) -> [std::ops::Range<usize>; 2] {
    let (q, k) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    [0..q, q..q + k]
}

/// The plain algorithm on unpadded heads: x is `[T, H + 2 KV, head_dim]`, gain `[H + KV, head_dim]`.
pub(crate) fn twin(x: &[f64], heads: Heads, gain: &[f64], eps: f64) -> Vec<f64> {
    let mut y = x.to_vec();
    for row in y.chunks_exact_mut((heads.heads + 2 * heads.kv_heads) * heads.head_dim) {
        for part in parts(heads) {
            let normed = rms_norm::twin(&row[part.clone()], &gain[part.clone()], eps).0;
            row[part].copy_from_slice(&normed);
        }
    }
    y
}

/// (dx, dgain) of [`twin`].
pub(crate) fn twin_backward(x: &[f64], heads: Heads, gain: &[f64], eps: f64, dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dgain) = (dy.to_vec(), vec![0.0; gain.len()]);
    let width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    for (t, row) in dx.chunks_exact_mut(width).enumerate() {
        for part in parts(heads) {
            let own = &x[t * width..][part.clone()];
            let (d, g) = rms_norm::twin_backward(own, &gain[part.clone()], eps, &row[part.clone()]);
            row[part.clone()].copy_from_slice(&d);
            dgain[part].iter_mut().zip(&g).for_each(|(a, b)| *a += b);
        }
    }
    (dx, dgain)
}

fn compare(rows: usize, heads: Heads, plus_one: bool) -> Case {
    let Heads { heads: h, kv_heads: kv, head_dim } = heads;
    Case::new(format!("forward and backward {rows}x{h}/{kv}x{head_dim} plus_one={plus_one}"), 8e-6, move |t| {
        let ((x, hx), (dy, hdy)) =
            (head_matrix(t, rows, h + 2 * kv, head_dim)?, head_matrix(t, rows, h + 2 * kv, head_dim)?);
        let (gain, hg) = head_matrix(t, 1, h + kv, head_dim)?;
        let dgain = t.gpu.zeros(1, gains(heads))?;
        let gain = Gain { weight: &gain, plus_one };
        let (y, inv) = forward(&mut t.rec, heads, &x, gain, 1e-5)?;
        let dx = backward(&mut t.rec, heads, (&x, &inv), gain, &dy, Some(&dgain))?;
        let (hg, eps) = (rms_norm::whole(&hg, plus_one), f64::from(1e-5f32));
        t.expect("y", &y, || pad_heads(&twin(&hx, heads, &hg, eps), head_dim));
        let (wx, wg) = twin_backward(&hx, heads, &hg, eps, &hdy);
        t.expect("dx", &dx, || pad_heads(&wx, head_dim));
        t.expect("dgain", &dgain, || pad_heads(&wg, head_dim));
        Ok(())
    })
}

fn cases() -> Vec<Case> {
    let of = |heads, kv_heads, head_dim| Heads { heads, kv_heads, head_dim };
    let mut all: Vec<Case> =
        [(1, of(1, 1, 2)), (7, of(4, 2, 10)), (33, of(9, 3, 64)), (640, of(2, 1, 12)), (3, of(2, 2, 256))]
            .into_iter()
            .zip([false, true].into_iter().cycle())
            .map(|((rows, heads), plus_one)| compare(rows, heads, plus_one))
            .collect();
    all.push(Case::timed("forward 1024x16/16x64", move |t| {
        let heads = of(16, 16, 64);
        let ((x, _), (gain, _)) = (head_matrix(t, 1024, 48, 64)?, head_matrix(t, 1, 32, 64)?);
        let (y, _) = forward(&mut t.rec, heads, &x, Gain { weight: &gain, plus_one: false }, 1e-5)?;
        t.expect("y", &y, Vec::new);
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
        let h = Heads { heads: 2, kv_heads: 1, head_dim: 3 };
        let (x, c, g) = (numbers(2 * 12, 1), numbers(2 * 12, 2), numbers(9, 3));
        let (dx, dg) = twin_backward(&x, h, &g, 1e-6, &c);
        finite_difference("x", &x, &dx, |x| dot(&twin(x, h, &g, 1e-6), &c));
        finite_difference("gain", &g, &dg, |g| dot(&twin(&x, h, g, 1e-6), &c));
    }
}
