//! RMSNorm of each head under a gate, behind the rule of a gated delta net (arXiv 2412.06464).

use super::case::{Case, Inputs, Kernel};
use super::column_sum;
use super::inputs::{head_matrix, pad_heads};
use super::sizes::{lanes, several, stream};
use super::way::Way;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Param, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "gated_norm",
    soft: include_str!("../../shaders/gated_norm.wgsl"),
    tile: include_str!("../../shaders/gated_norm.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "RMSNorm of heads under a gate",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// The gated norm of rows x `[T, heads pad4(dim)]`.
#[derive(Clone, Copy)]
pub(crate) struct Gated<'a> {
    /// Rows that hold z, `[T, W]`.
    pub(crate) wide: &'a Tensor,
    /// The column at which z begins in them, a multiple of 4.
    pub(crate) first: usize,
    /// The number of heads.
    pub(crate) heads: usize,
    /// Channels of a head, without padding.
    pub(crate) dim: usize,
    /// The factor on the channels of every head, `[dim]`.
    pub(crate) gain: &'a Tensor,
    /// What is added to the mean square.
    pub(crate) eps: f32,
}

impl Gated<'_> {
    fn expect(&self, x: &Tensor) -> Result<()> {
        let width = self.heads * pad4(self.dim);
        self.gain.expect_shape("a gated norm's gain", 1, self.dim)?;
        let fits = x.ld() == width && self.wide.rows() == x.rows() && self.first + width <= self.wide.ld();
        match fits && self.first.is_multiple_of(4) {
            true => Ok(()),
            false => Err(Error::Bug(format!(
                "{} heads of {} channels in {:?}, gated by column {} of {:?}",
                self.heads,
                self.dim,
                x.shape(),
                self.first,
                self.wide.shape()
            ))),
        }
    }

    fn params(&self) -> [Param<'static>; 7] {
        [
            ("rows", Size(self.wide.rows())),
            ("heads", Size(self.heads)),
            ("d4", Size(pad4(self.dim) / 4)),
            ("cols", Size(self.dim)),
            ("width4", Size(self.wide.ld() / 4)),
            ("first4", Size(self.first / 4)),
            ("eps", Float(self.eps)),
        ]
    }
}

/// y of x.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, x: &Tensor, of: Gated) -> Result<Tensor> {
    of.expect(x)?;
    let y = rec.gpu().empty(x.rows(), x.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &of.params(),
        bind: &[x, of.wide, of.gain, &y],
        groups: lanes(&SOURCE, rec.variant(), x.rows() * of.heads),
        cost: stream(&[&y, x, x], 8.0),
    })?;
    Ok(y)
}

/// The gradient by x from dy; that by z goes to its columns of dwide, that by the gain is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    x: &Tensor,
    of: Gated,
    dy: &Tensor,
    (dwide, dgain): (&Tensor, Option<&Tensor>),
) -> Result<Tensor> {
    of.expect(x)?;
    dy.expect_shape("a gated norm's output gradient", x.rows(), x.cols())?;
    dwide.expect_shape("the gradient by gates", of.wide.rows(), of.wide.cols())?;
    let gpu = rec.gpu();
    let (dx, invs) = (gpu.empty(x.rows(), x.cols())?, gpu.empty(1, x.rows() * of.heads)?);
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: vec![],
        params: &of.params(),
        bind: &[x, of.wide, of.gain, dy, &dx, dwide, &invs],
        groups: lanes(&SOURCE, rec.variant(), x.rows() * of.heads),
        cost: stream(&[&dx, x, x, dy, dy], 20.0),
    })?;
    let Some(dgain) = dgain else { return Ok(dx) };
    let part = gpu.empty(x.rows(), of.dim)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_gain",
        constants: vec![],
        params: &of.params(),
        bind: &[x, of.wide, dy, &invs, &part],
        groups: several(&SOURCE, rec.variant(), part.len() / 4),
        cost: stream(&[x, x, dy], 8.0),
    })?;
    column_sum::forward(rec, &part, dgain)?;
    Ok(dx)
}

/// Rows on the host, each of heads of `dim` channels, without padding.
struct Twin<'a> {
    dim: usize,
    x: &'a [f64],
    z: &'a [f64],
    gain: &'a [f64],
    eps: f64,
}

impl Twin<'_> {
    fn inv(&self, i: usize) -> f64 {
        let head = &self.x[i / self.dim * self.dim..][..self.dim];
        1.0 / (head.iter().map(|x| x * x).sum::<f64>() / self.dim as f64 + self.eps).sqrt()
    }

    fn sigmoid(&self, i: usize) -> f64 {
        1.0 / (1.0 + (-self.z[i]).exp())
    }

    fn forward(&self) -> Vec<f64> {
        let one = |i: usize| self.x[i] * self.inv(i) * self.gain[i % self.dim] * self.z[i] * self.sigmoid(i);
        (0..self.x.len()).map(one).collect()
    }

    /// The gradients by x, by z and by the gain.
    fn backward(&self, dy: &[f64]) -> [Vec<f64>; 3] {
        let (d, mut dgain) = (self.dim, vec![0.0; self.dim]);
        let gated = |i: usize| dy[i] * self.gain[i % d] * self.z[i] * self.sigmoid(i);
        let dx = |i: usize| {
            let head = i / d * d..i / d * d + d;
            let along: f64 = head.map(|k| gated(k) * self.x[k]).sum();
            self.inv(i) * gated(i) - self.x[i] * self.inv(i).powi(3) * along / d as f64
        };
        let dz = |i: usize| {
            let s = self.sigmoid(i);
            dy[i] * self.gain[i % d] * self.x[i] * self.inv(i) * s * (1.0 + self.z[i] * (1.0 - s))
        };
        for (i, dy) in dy.iter().enumerate() {
            dgain[i % d] += dy * self.x[i] * self.inv(i) * self.z[i] * self.sigmoid(i);
        }
        [(0..dy.len()).map(dx).collect(), (0..dy.len()).map(dz).collect(), dgain]
    }
}

fn cases() -> Vec<Case> {
    let one = |(rows, heads, dim): (usize, usize, usize)| {
        Case::new(format!("forward and backward {rows} rows, {heads} heads of {dim}"), 4e-6, move |t| {
            let ((x, hx), (z, hz)) = (head_matrix(t, rows, heads, dim)?, head_matrix(t, rows, heads, dim)?);
            let ((gain, hgain), (dgain, hdgain)) = (t.matrix(1, dim)?, t.matrix(1, dim)?);
            let (dy, hdy) = head_matrix(t, rows, heads, dim)?;
            // z behind four columns, and four behind it.
            let wide = t.gpu.zeros(rows, z.ld() + 8)?;
            super::columns::add(&mut t.rec, &z, 4, 1.0, &wide)?;
            let dwide = t.gpu.zeros(rows, wide.cols())?;
            let of = Gated { wide: &wide, first: 4, heads, dim, gain: &gain, eps: 1e-5 };
            let y = forward(&mut t.rec, &x, of)?;
            let dx = backward(&mut t.rec, &x, of, &dy, (&dwide, Some(&dgain)))?;
            let dz = super::columns::part(&mut t.rec, &dwide, 4, z.cols())?;
            let twin = || Twin { dim, x: &hx, z: &hz, gain: &hgain, eps: 1e-5 };
            t.expect("y", &y, || pad_heads(&twin().forward(), dim));
            t.expect("dx", &dx, || pad_heads(&twin().backward(&hdy)[0], dim));
            t.expect("dz", &dz, || pad_heads(&twin().backward(&hdy)[1], dim));
            t.expect("dgain", &dgain, || twin().backward(&hdy)[2].iter().zip(&hdgain).map(|(a, b)| a + b).collect());
            Ok(())
        })
    };
    // As in RMSNorm's gradient, of equal channels nothing is left but what cancels.
    [(1, 1, 3), (33, 4, 10), (150, 2, 32)].into_iter().map(|of| one(of).without(&[Inputs::Equal])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let (x, z, gain, c) = (numbers(24, 1), numbers(24, 2), numbers(4, 3), numbers(24, 4));
        let of = |x: &[f64], z: &[f64], gain: &[f64]| dot(&Twin { dim: 4, x, z, gain, eps: 1e-3 }.forward(), &c);
        let [dx, dz, dgain] = Twin { dim: 4, x: &x, z: &z, gain: &gain, eps: 1e-3 }.backward(&c);
        finite_difference("x", &x, &dx, |x| of(x, &z, &gain));
        finite_difference("z", &z, &dz, |z| of(&x, z, &gain));
        finite_difference("gain", &gain, &dgain, |gain| of(&x, &z, gain));
    }
}
