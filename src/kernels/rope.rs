//! Rotary position embedding (arXiv 2104.09864, half-split form) on the fused q, k, v rows, with Qwen3's QK-norm.

use super::{Case, Kernel, lanes, stream, word};
use crate::gpu::{Gpu, Launch, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "rope",
    soft: include_str!("../../shaders/rope.wgsl"),
    tile: include_str!("../../shaders/rope.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "rotary embedding of q and k, QK-norm",
    constants: &[
        &[("HD", 16), ("DP", 16), ("LDA", 16), ("QK_NORM", 0)],
        &[("HD", 10), ("DP", 12), ("LDA", 12), ("QK_NORM", 1)],
    ],
    cases,
};

/// How heads lie in a fused row `[q heads | k heads | v heads]`; each head takes `padded()` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H
    pub heads: usize,
    /// KV
    pub kv_heads: usize,
    /// Channels of a head that mean something; even.
    pub head_dim: usize,
}

impl Heads {
    /// Channels of a head in memory.
    pub fn padded(&self) -> usize {
        pad4(self.head_dim)
    }

    /// Width of a fused row.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.padded()
    }
}

/// cos and sin of every position's angles, `[positions, head_dim]` (cos first), computed on the host: a GPU's sine is too
/// coarse for large arguments. The product position x frequency is rounded to f32, as transformers does.
///
/// # Errors
/// Out of memory.
pub fn angles(gpu: &Gpu, inv_freq: &[f32], scaling: f32, positions: usize) -> Result<Tensor> {
    let half = inv_freq.len();
    let mut all = Vec::with_capacity(positions * 2 * half);
    for p in 0..positions {
        let angle = |f: &f32| f64::from(p as f32 * f);
        all.extend(inv_freq.iter().map(|f| (angle(f).cos() * f64::from(scaling)) as f32));
        all.extend(inv_freq.iter().map(|f| (angle(f).sin() * f64::from(scaling)) as f32));
    }
    gpu.upload(positions, 2 * half, &all)
}

/// What the two directions share.
#[derive(Clone)]
pub struct Place<'a> {
    /// Head layout.
    pub heads: Heads,
    /// `[T]`
    pub pos: &'a Tensor,
    /// From [`angles`].
    pub angle: &'a Tensor,
    /// Gains of the QK-norm, `[2 head_dim]` (q first), and its eps.
    pub qk_norm: Option<(&'a Tensor, f32)>,
}

impl Place<'_> {
    fn constants(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("HD", self.heads.head_dim as u32),
            ("DP", self.heads.padded() as u32),
            ("LDA", self.angle.ld as u32),
            ("QK_NORM", u32::from(self.qk_norm.is_some())),
        ]
    }

    fn params(&self, x: &Tensor) -> Result<Vec<u32>> {
        if x.ld != self.heads.width() || self.pos.cols < x.rows || self.heads.head_dim % 2 == 1 {
            return Err(Error::Input(format!("rows of {} do not hold the heads {:?}", x.ld, self.heads)));
        }
        let h = &self.heads;
        let eps = self.qk_norm.map_or(0.0, |(_, e)| e);
        Ok(vec![word(x.rows, "rows")?, h.heads as u32, h.kv_heads as u32, x.ld as u32, eps.to_bits()])
    }

    fn gain(&self) -> &Tensor {
        self.qk_norm.map_or(self.angle, |(g, _)| g)
    }
}

/// Rotated rows and (with QK-norm) 1 / RMS of each head, from raw `[T, width]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub fn forward(rec: &mut Recorder, place: &Place, raw: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = rec.gpu();
    let y = gpu.empty(raw.rows, raw.cols)?;
    let normed = place.heads.heads + place.heads.kv_heads;
    let inv = gpu.empty(1, if place.qk_norm.is_some() { raw.rows * normed } else { 4 })?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: place.constants(),
        params: place.params(raw)?,
        bind: &[raw, place.pos, place.angle, place.gain(), &y, &inv],
        groups: lanes(&SOURCE, rec.variant(), raw.rows * (normed + place.heads.kv_heads)),
        cost: stream(&[raw, &y], 3.0),
    })?;
    Ok((y, inv))
}

/// The gradient by the raw rows from dy; `raw` and `inv` as in [`forward`]; dgain `[2 head_dim]` is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub fn backward(
    rec: &mut Recorder,
    place: &Place,
    raw: &Tensor,
    inv: &Tensor,
    dy: &Tensor,
    dgain: Option<&Tensor>,
) -> Result<Tensor> {
    let dx = rec.gpu().empty(dy.rows, dy.cols)?;
    let params = place.params(dy)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: place.constants(),
        params: params.clone(),
        bind: &[dy, place.pos, place.angle, place.gain(), raw, inv, &dx],
        groups: lanes(&SOURCE, rec.variant(), dy.rows * (place.heads.heads + 2 * place.heads.kv_heads)),
        cost: stream(&[dy, &dx], 3.0),
    })?;
    if let (Some(dgain), Some(_)) = (dgain, place.qk_norm) {
        rec.launch(Launch {
            source: &SOURCE,
            entry: "backward_gain",
            constants: place.constants(),
            params,
            bind: &[dy, place.pos, place.angle, raw, inv, dgain],
            groups: lanes(&SOURCE, rec.variant(), 2 * place.heads.head_dim),
            cost: stream(&[dy, raw], 4.0),
        })?;
    }
    Ok(dx)
}

/// The plain algorithm on unpadded heads: x is `[T, H + 2 KV, head_dim]`, `gain` empty without QK-norm.
pub fn twin(x: &[f64], heads: Heads, pos: &[u32], inv_freq: &[f32], gain: &[f64], eps: f64) -> Vec<f64> {
    let (hd, all) = (heads.head_dim, heads.heads + 2 * heads.kv_heads);
    let mut y = x.to_vec();
    for (i, head) in y.chunks_exact_mut(hd).enumerate() {
        let (t, h) = (i / all, i % all);
        if h >= heads.heads + heads.kv_heads {
            continue;
        }
        if !gain.is_empty() {
            let inv = 1.0 / (head.iter().map(|v| v * v).sum::<f64>() / hd as f64 + eps).sqrt();
            let g = &gain[if h >= heads.heads { hd } else { 0 }..];
            head.iter_mut().zip(g).for_each(|(v, g)| *v *= inv * g);
        }
        for d in 0..hd / 2 {
            let (s, c) = f64::from(pos[t] as f32 * inv_freq[d]).sin_cos();
            let (a, b) = (head[d], head[d + hd / 2]);
            head[d] = a * c - b * s;
            head[d + hd / 2] = b * c + a * s;
        }
    }
    y
}

/// (dx, dgain) of [`twin`].
pub fn twin_backward(
    x: &[f64],
    heads: Heads,
    pos: &[u32],
    inv_freq: &[f32],
    gain: &[f64],
    eps: f64,
    dy: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (hd, all) = (heads.head_dim, heads.heads + 2 * heads.kv_heads);
    let (mut dx, mut dgain) = (dy.to_vec(), vec![0.0; gain.len()]);
    for (i, head) in dx.chunks_exact_mut(hd).enumerate() {
        let (t, h) = (i / all, i % all);
        if h >= heads.heads + heads.kv_heads {
            continue;
        }
        for d in 0..hd / 2 {
            let (s, c) = f64::from(pos[t] as f32 * inv_freq[d]).sin_cos();
            let (a, b) = (head[d], head[d + hd / 2]);
            head[d] = a * c + b * s;
            head[d + hd / 2] = b * c - a * s;
        }
        if !gain.is_empty() {
            let first = if h >= heads.heads { hd } else { 0 };
            let (d, g) = super::rms_norm::twin_backward(&x[i * hd..(i + 1) * hd], &gain[first..first + hd], eps, head);
            head.copy_from_slice(&d);
            dgain[first..first + hd].iter_mut().zip(&g).for_each(|(a, b)| *a += b);
        }
    }
    (dx, dgain)
}

/// Heads of `hd` channels spread to `pad4(hd)`.
pub(super) fn pad_heads(x: &[f64], hd: usize) -> Vec<f64> {
    let pad = vec![0.0; pad4(hd) - hd];
    x.chunks_exact(hd).flat_map(|h| [h, &pad[..]].concat()).collect()
}

/// A matrix of padded heads on the GPU and its unpadded twin.
pub(super) fn head_matrix(t: &mut super::Trial, rows: usize, count: usize, hd: usize) -> Result<(Tensor, Vec<f64>)> {
    let host: Vec<f64> = t.values(rows * count * hd).iter().map(|x| f64::from(*x)).collect();
    let padded: Vec<f32> = pad_heads(&host, hd).iter().map(|x| *x as f32).collect();
    Ok((t.gpu.upload(rows, count * pad4(hd), &padded)?, host))
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, heads, kv_heads, head_dim) in
        [(1, 1, 1, 2), (7, 4, 2, 10), (33, 9, 3, 64), (601, 2, 1, 16), (3, 1, 1, 256)]
    {
        for normed in [false, true] {
            let h = Heads { heads, kv_heads, head_dim };
            all.push(Case::new(
                format!("forward and backward {rows}x{heads}/{kv_heads}x{head_dim} norm={normed}"),
                1e-5,
                move |t| {
                    let inv_freq: Vec<f32> =
                        (0..head_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
                    let pos: Vec<u32> = (0..rows).map(|_| t.below(900) as u32).collect();
                    let (raw, host) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                    let (dy, hdy) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                    let (gain, hg) = t.matrix(1, 2 * head_dim)?;
                    let (angle, dgain) = (angles(t.gpu, &inv_freq, 1.0, 900)?, t.gpu.zeros(1, 2 * head_dim)?);
                    let positions = t.gpu.vector(&pos)?;
                    let place =
                        Place { heads: h, pos: &positions, angle: &angle, qk_norm: normed.then_some((&gain, 1e-6)) };
                    let (y, inv) = forward(&mut t.rec, &place, &raw)?;
                    let dx = backward(&mut t.rec, &place, &raw, &inv, &dy, Some(&dgain))?;
                    let hg = if normed { hg } else { Vec::new() };
                    let eps = f64::from(1e-6f32);
                    t.expect("y", &y, || pad_heads(&twin(&host, h, &pos, &inv_freq, &hg, eps), head_dim));
                    let (wx, wg) = twin_backward(&host, h, &pos, &inv_freq, &hg, eps, &hdy);
                    t.expect("dx", &dx, || pad_heads(&wx, head_dim));
                    if normed {
                        t.expect("dgain", &dgain, || wg);
                    }
                    Ok(())
                },
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let h = Heads { heads: 2, kv_heads: 1, head_dim: 6 };
        let (x, c, g) = (numbers(3 * 4 * 6, 1), numbers(3 * 4 * 6, 2), numbers(12, 3));
        let (pos, freq) = ([0u32, 5, 2], [1.0f32, 0.3, 0.1]);
        let (dx, dg) = twin_backward(&x, h, &pos, &freq, &g, 1e-6, &c);
        finite_difference("x", &x, &dx, |x| dot(&twin(x, h, &pos, &freq, &g, 1e-6), &c));
        finite_difference("gain", &g, &dg, |g| dot(&twin(&x, h, &pos, &freq, g, 1e-6), &c));
    }
}
