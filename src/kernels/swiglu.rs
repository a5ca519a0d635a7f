//! The gated MLP's activation (arXiv 2002.05202).

use super::{Case, Kernel, lanes, stream};
use crate::gpu::{Launch, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "swiglu",
    soft: include_str!("../../shaders/swiglu.wgsl"),
    tile: include_str!("../../shaders/swiglu.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel { source: || &SOURCE, about: "silu(gate) * up", constants: &[&[]], cases };

fn check(gu: &Tensor, width: usize) -> Result<Vec<u32>> {
    if gu.ld != 2 * pad4(width) {
        return Err(Error::Input(format!("gate and up are {} wide where 2 x {width} (padded) is needed", gu.ld)));
    }
    Ok(vec![gu.rows as u32, (pad4(width) / 4) as u32])
}

/// a `[T, F]` from gu `[T, 2 pad4(F)]`, gate first.
///
/// # Errors
/// Shapes that do not fit.
pub fn forward(rec: &mut Recorder, gu: &Tensor, a: &Tensor) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: check(gu, a.cols)?,
        bind: &[gu, a],
        groups: lanes(&SOURCE, rec.variant(), a.len() / 4),
        cost: stream(&[a, gu], 6.0),
    })
}

/// dgu from da `[T, F]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn backward(rec: &mut Recorder, gu: &Tensor, da: &Tensor, dgu: &Tensor) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: vec![],
        params: check(gu, da.cols)?,
        bind: &[gu, da, dgu],
        groups: lanes(&SOURCE, rec.variant(), da.len() / 4),
        cost: stream(&[da, gu, dgu], 14.0),
    })
}

/// a from gate and up.
pub fn twin(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

/// (dgate, dup) of [`twin`].
pub fn twin_backward(gate: &[f64], up: &[f64], da: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let one = |i: usize| {
        let s = 1.0 / (1.0 + (-gate[i]).exp());
        (da[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)), da[i] * gate[i] * s)
    };
    (0..gate.len()).map(one).unzip()
}

/// Gate and up in one row, each padded.
fn join(gate: &[f64], up: &[f64], cols: usize) -> Vec<f64> {
    let pad = vec![0.0; pad4(cols) - cols];
    gate.chunks_exact(cols).zip(up.chunks_exact(cols)).flat_map(|(g, u)| [g, &pad[..], u, &pad[..]].concat()).collect()
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols) in [(1, 1), (7, 33), (640, 10), (33, 160)] {
        all.push(Case::new(format!("forward and backward {rows}x{cols}"), 4e-6, move |t| {
            let n = rows * cols;
            let mut host = |scale: f64| t.values(n).iter().map(|x| f64::from(*x) * scale).collect::<Vec<_>>();
            let (gate, up) = (host(8.0), host(1.0));
            let both: Vec<f32> = join(&gate, &up, cols).iter().map(|x| *x as f32).collect();
            let gu = t.gpu.upload(rows, 2 * pad4(cols), &both)?;
            let (a, dgu) = (t.gpu.empty(rows, cols)?, t.gpu.empty(rows, 2 * pad4(cols))?);
            let (da, hda) = t.matrix(rows, cols)?;
            forward(&mut t.rec, &gu, &a)?;
            backward(&mut t.rec, &gu, &da, &dgu)?;
            t.expect("a", &a, || twin(&gate, &up));
            t.expect("dgu", &dgu, || {
                let (dg, du) = twin_backward(&gate, &up, &hda);
                join(&dg, &du, cols)
            });
            Ok(())
        }));
    }
    all.push(Case::new("forward of extreme gates", 4e-6, |t| {
        let v = [200f32, -200.0, 1e30, -1e30, 1.0, 1.0, 1.0, 1.0];
        let (gu, a) = (t.gpu.upload(1, 8, &v)?, t.gpu.empty(1, 4)?);
        forward(&mut t.rec, &gu, &a)?;
        t.expect("a", &a, || vec![200.0, 0.0, f64::from(1e30f32), 0.0]);
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
        let (g, u, c) = (numbers(15, 1), numbers(15, 2), numbers(15, 3));
        let (dg, du) = twin_backward(&g, &u, &c);
        finite_difference("gate", &g, &dg, |x| dot(&twin(x, &u), &c));
        finite_difference("up", &u, &du, |x| dot(&twin(&g, x), &c));
    }
}
