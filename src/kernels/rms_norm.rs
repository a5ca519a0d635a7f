//! RMSNorm (arXiv 1910.07467, eq. 4) with the residual addition in front.

use super::case::{Case, Inputs, Kernel};
use super::sizes::{lanes, row_groups, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Param, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "rms_norm",
    soft: include_str!("../../shaders/rms_norm.wgsl"),
    tile: include_str!("../../shaders/rms_norm.wgsl"),
    libs: &["grid", "reduce"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "residual addition and RMSNorm", ways, ordered: &[], cases };

fn way(traits: &Traits, entry: &'static str, add: u32, plus_one: bool) -> Way {
    Way::new(&SOURCE, traits, entry, [("ADD", add), ("OFFSET", u32::from(plus_one))])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let mut all = vec![Way::new(&SOURCE, traits, "backward_gain", [])];
    for (add, plus_one) in [(0, false), (0, true), (1, false), (1, true)] {
        all.extend(["forward", "backward"].map(|entry| way(traits, entry, add, plus_one)));
    }
    all.extend([false, true].map(|plus_one| way(traits, "forward", 2, plus_one)));
    all
}

/// The factor on the normalised channels.
#[derive(Clone, Copy)]
pub(crate) struct Gain<'a> {
    /// The weight of each channel, `[D]`.
    pub weight: &'a Tensor,
    /// Whether the factor is 1 + weight (Gemma) instead of the weight itself.
    pub plus_one: bool,
}

/// What a forward pass leaves for the backward one.
#[derive(Clone)]
pub(crate) struct Norm {
    /// The residual stream that was normalised, `[T, D]`.
    pub h: Tensor,
    /// The normalised rows, `[T, D]`.
    pub y: Tensor,
    /// 1 / sqrt(mean(h²) + eps), `[T]`.
    pub inv: Tensor,
}

fn params(x: &Tensor, eps: f32) -> [Param<'static>; 4] {
    [("rows", Size(x.rows())), ("cols", Size(x.cols())), ("ld4", Size(x.ld() / 4)), ("eps", Float(eps))]
}

/// h = x + delta (or x itself), y = norm(h) * gain; x and delta are `[T, D]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, x: &Tensor, delta: Option<&Tensor>, gain: Gain, eps: f32) -> Result<Norm> {
    let (add, gpu) = (u32::from(delta.is_some()), rec.gpu());
    let (y, inv) = (gpu.empty(x.rows(), x.cols())?, gpu.empty(1, x.rows())?);
    let h = match delta {
        Some(d) => {
            d.expect_shape("RMSNorm's residual", x.rows(), x.cols())?;
            gpu.empty(x.rows(), x.cols())?
        }
        None => gpu.empty(1, 4)?,
    };
    launch(rec, add, x, delta.unwrap_or(x), gain, eps, [&h, &y, &inv])?;
    Ok(Norm { h: if delta.is_some() { h } else { x.clone() }, y, inv })
}

/// stream + norm(x) * gain as the norm's rows y, where a branch is normalised before it joins the stream; all are
/// `[T, D]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn onto(rec: &mut Recorder, x: &Tensor, stream: &Tensor, gain: Gain, eps: f32) -> Result<Norm> {
    stream.expect_shape("RMSNorm's residual", x.rows(), x.cols())?;
    let gpu = rec.gpu();
    let (y, inv, unused) = (gpu.empty(x.rows(), x.cols())?, gpu.empty(1, x.rows())?, gpu.empty(1, 4)?);
    launch(rec, 2, x, stream, gain, eps, [&unused, &y, &inv])?;
    Ok(Norm { h: x.clone(), y, inv })
}

fn launch(
    rec: &mut Recorder,
    add: u32,
    x: &Tensor,
    delta: &Tensor,
    gain: Gain,
    eps: f32,
    [h, y, inv]: [&Tensor; 3],
) -> Result<()> {
    gain.weight.expect_shape("RMSNorm's gain", 1, x.cols())?;
    let way = way(&Traits::of(rec), "forward", add, gain.plus_one);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(x, eps),
        bind: &[x, delta, gain.weight, h, y, inv],
        groups: row_groups(&SOURCE, rec.variant(), x.rows()),
        cost: stream(&[x, if add == 0 { inv } else { delta }, h, y], 5.0),
    })
}

/// The gradient by the stream is added to dh where `add`, else overwrites it; the gradient by the gain's weight is
/// added to dgain; dy `[T, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn backward(
    rec: &mut Recorder,
    norm: &Norm,
    gain: Gain,
    dy: &Tensor,
    (dh, add): (&Tensor, bool),
    dgain: Option<&Tensor>,
) -> Result<()> {
    let h = &norm.h;
    dy.expect_shape("RMSNorm's output gradient", h.rows(), h.cols())?;
    dh.expect_shape("RMSNorm's input gradient", h.rows(), h.cols())?;
    gain.weight.expect_shape("RMSNorm's gain", 1, h.cols())?;
    norm.inv.expect_vector("RMSNorm's factors", h.rows())?;
    let way = way(&Traits::of(rec), "backward", u32::from(add), gain.plus_one);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(h, 0.0),
        bind: &[h, gain.weight, &norm.inv, dy, dh],
        groups: row_groups(&SOURCE, rec.variant(), h.rows()),
        cost: stream(&[h, dy, dh, dh], 8.0),
    })?;
    let Some(dgain) = dgain else { return Ok(()) };
    dgain.expect_shape("the gradient of RMSNorm's gain", 1, h.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_gain",
        constants: vec![],
        params: &params(h, 0.0),
        bind: &[h, &norm.inv, dy, dgain],
        groups: lanes(&SOURCE, rec.variant(), h.ld() / 4),
        cost: stream(&[h, dy], 3.0),
    })
}

/// (y, inv) of rows of `cols`.
pub(crate) fn twin(h: &[f64], gain: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let cols = gain.len();
    let inv: Vec<f64> =
        h.chunks_exact(cols).map(|r| 1.0 / (r.iter().map(|x| x * x).sum::<f64>() / cols as f64 + eps).sqrt()).collect();
    (h.iter().enumerate().map(|(i, x)| x * inv[i / cols] * gain[i % cols]).collect(), inv)
}

/// (dh, dgain) of [`twin`].
pub(crate) fn twin_backward(h: &[f64], gain: &[f64], eps: f64, dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let cols = gain.len();
    let (_, inv) = twin(h, gain, eps);
    let (mut dh, mut dgain) = (vec![0.0; h.len()], vec![0.0; cols]);
    for (t, r) in inv.iter().enumerate() {
        let at = t * cols;
        let sum: f64 = (0..cols).map(|d| gain[d] * dy[at + d] * h[at + d]).sum();
        for d in 0..cols {
            dh[at + d] = r * gain[d] * dy[at + d] - h[at + d] * r.powi(3) * sum / cols as f64;
            dgain[d] += dy[at + d] * h[at + d] * r;
        }
    }
    (dh, dgain)
}

/// The gain that [`Gain`] stands for.
pub(super) fn whole(weight: &[f64], plus_one: bool) -> Vec<f64> {
    weight.iter().map(|w| w + f64::from(u8::from(plus_one))).collect()
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (i, (rows, cols)) in [(1, 1), (7, 10), (33, 36), (640, 64), (9, 1027)].into_iter().enumerate() {
        let plus_one = i % 2 == 1;
        all.push(Case::new(format!("forward {rows}x{cols} plus_one={plus_one}"), 2e-6, move |t| {
            let ((x, hx), (d, hd), (g, hg)) = (t.matrix(rows, cols)?, t.matrix(rows, cols)?, t.matrix(1, cols)?);
            let gain = Gain { weight: &g, plus_one };
            let plain = forward(&mut t.rec, &x, None, gain, 1e-5)?;
            let added = forward(&mut t.rec, &x, Some(&d), gain, 1e-5)?;
            let sum: Vec<f64> = hx.iter().zip(&hd).map(|(a, b)| a + b).collect();
            let hg = whole(&hg, plus_one);
            t.expect("y", &plain.y, || twin(&hx, &hg, f64::from(1e-5f32)).0);
            t.expect("h", &added.h, || sum.clone());
            t.expect("y with residual", &added.y, || twin(&sum, &hg, f64::from(1e-5f32)).0);
            let behind = onto(&mut t.rec, &x, &d, gain, 1e-5)?;
            t.expect("y onto the residual", &behind.y, || {
                let normed = twin(&hx, &hg, f64::from(1e-5f32)).0;
                normed.iter().zip(&hd).map(|(a, b)| a + b).collect()
            });
            t.expect("inv", &added.inv, || twin(&sum, &hg, f64::from(1e-5f32)).1);
            Ok(())
        }));
        let backward = Case::new(format!("backward {rows}x{cols} plus_one={plus_one}"), 8e-6, move |t| {
            let ((x, hx), (g, hg)) = (t.matrix(rows, cols)?, t.matrix(1, cols)?);
            let ((dy, hdy), (dh, hdh)) = (t.matrix(rows, cols)?, t.matrix(rows, cols)?);
            let (dgain, alone) = (t.gpu.zeros(1, cols)?, t.gpu.empty(rows, cols)?);
            let gain = Gain { weight: &g, plus_one };
            let norm = forward(&mut t.rec, &x, None, gain, 1e-5)?;
            backward(&mut t.rec, &norm, gain, &dy, (&dh, true), Some(&dgain))?;
            backward(&mut t.rec, &norm, gain, &dy, (&alone, false), None)?;
            let want = twin_backward(&hx, &whole(&hg, plus_one), f64::from(1e-5f32), &hdy);
            t.expect("dh", &dh, || want.0.iter().zip(&hdh).map(|(a, b)| a + b).collect());
            // The norm of one channel is its sign: the gradient is what cancels, without a digit of its own.
            if cols > 1 {
                t.expect("dh overwritten", &alone, || want.0.clone());
            }
            t.expect("dgain", &dgain, || want.1.clone());
            Ok(())
        });
        // Of a row of equal channels nothing of the gradient is left but what rounding left.
        all.push(backward.without(&[Inputs::Equal]));
    }
    all.push(Case::new("forward of extreme rows", 2e-6, |t| {
        let values = [1e15f32, -1e15, 3e14, 0.0, 1e-20, -1e-20, 0.0, 0.0];
        let (x, g) = (t.gpu.upload(2, 4, &values)?, t.gpu.vector(&[1f32; 4])?);
        let norm = forward(&mut t.rec, &x, None, Gain { weight: &g, plus_one: false }, 1e-6)?;
        t.expect("y", &norm.y, || twin(&values.map(f64::from), &[1.0; 4], f64::from(1e-6f32)).0);
        Ok(())
    }));
    all.push(Case::timed("forward 1024x576", |t| {
        let ((x, _), (d, _), (g, _)) = (t.matrix(1024, 576)?, t.matrix(1024, 576)?, t.matrix(1, 576)?);
        let norm = forward(&mut t.rec, &x, Some(&d), Gain { weight: &g, plus_one: false }, 1e-5)?;
        t.expect("y", &norm.y, Vec::new);
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
        let (h, g, c) = (numbers(21, 1), numbers(7, 2), numbers(21, 3));
        let (dh, dgain) = twin_backward(&h, &g, 1e-5, &c);
        finite_difference("h", &h, &dh, |x| dot(&twin(x, &g, 1e-5).0, &c));
        finite_difference("gain", &g, &dgain, |x| dot(&twin(&h, x, 1e-5).0, &c));
    }
}
