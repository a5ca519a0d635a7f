//! The gated MLP's activation (arXiv 2002.05202).

use super::case::{Case, Kernel};
use super::sizes::{several, stream};
use super::way::{Traits, Way};
use crate::arch::Activation;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Param, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "swiglu",
    soft: include_str!("../../shaders/swiglu.wgsl"),
    tile: include_str!("../../shaders/swiglu.wgsl"),
    libs: &["grid", "gate"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "silu(gate) * up, gelu(gate) * up, clamped swish(gate) * (up + 1)",
    ways,
    ordered: &[],
    cases,
};

impl Activation {
    /// The constant by which the shaders know the activation.
    pub(super) fn constant(self) -> (&'static str, u32) {
        ("ACT", self as u32)
    }
}

fn way(traits: &Traits, entry: &'static str, act: Activation) -> Way {
    Way::new(&SOURCE, traits, entry, [act.constant()])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let of = |act| ["forward", "backward"].map(|entry| way(traits, entry, act));
    Activation::ALL.into_iter().flat_map(of).collect()
}

/// Refuses an `a` that is no result of `rows` rows `[gate | up]` of this width.
pub(super) fn check(rows: usize, width: usize, a: &Tensor) -> Result<()> {
    if a.rows() != rows || width != 2 * a.ld() {
        let given = format!("{rows} rows of gate and up, {width} wide");
        return Err(Error::Bug(format!("{given}, do not give {:?}: 2 x {} (padded) is needed", a.shape(), a.ld())));
    }
    Ok(())
}

fn params(gu: &Tensor, a: &Tensor) -> Result<[Param<'static>; 2]> {
    check(gu.rows(), gu.ld(), a)?;
    Ok([("rows", Size(gu.rows())), ("f4", Size(a.ld() / 4))])
}

/// a `[T, F]` from gu `[T, 2 pad4(F)]`, gate first.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(rec: &mut Recorder, act: Activation, gu: &Tensor, a: &Tensor) -> Result<()> {
    let way = way(&Traits::of(rec), "forward", act);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(gu, a)?,
        bind: &[gu, a],
        groups: several(&SOURCE, rec.variant(), a.len() / 4),
        cost: stream(&[a, gu], 6.0),
    })
}

/// dgu from da `[T, F]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn backward(rec: &mut Recorder, act: Activation, gu: &Tensor, da: &Tensor, dgu: &Tensor) -> Result<()> {
    dgu.expect_shape("the gradient of gate and up", gu.rows(), gu.cols())?;
    let way = way(&Traits::of(rec), "backward", act);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(gu, da)?,
        bind: &[gu, da, dgu],
        groups: several(&SOURCE, rec.variant(), da.len() / 4),
        cost: stream(&[da, gu, dgu], 14.0),
    })
}

/// What the sigmoid is taken of, and its slope.
fn inner(act: Activation, x: f64) -> (f64, f64) {
    let c = (8.0 / std::f64::consts::PI).sqrt();
    match act {
        Activation::Silu => (x, 1.0),
        Activation::GeluTanh => (c * (x + 0.044715 * x.powi(3)), c * (1.0 + 3.0 * 0.044715 * x * x)),
        Activation::ClampedSwish => (1.702 * x, 1.702),
    }
}

/// What a gate and an up count as, and whether each moves with it.
fn counted(act: Activation, gate: f64, up: f64) -> ((f64, f64), (f64, f64)) {
    let moves = |within: bool| f64::from(u8::from(within));
    match act {
        Activation::Silu | Activation::GeluTanh => ((gate, 1.0), (up, 1.0)),
        Activation::ClampedSwish => {
            ((gate.min(7.0), moves(gate <= 7.0)), (up.clamp(-7.0, 7.0) + 1.0, moves(up.abs() <= 7.0)))
        }
    }
}

/// a from gate and up.
pub(crate) fn twin(act: Activation, gate: &[f64], up: &[f64]) -> Vec<f64> {
    let one = |(g, u): (&f64, &f64)| {
        let ((g, _), (u, _)) = counted(act, *g, *u);
        g / (1.0 + (-inner(act, g).0).exp()) * u
    };
    gate.iter().zip(up).map(one).collect()
}

/// (dgate, dup) of [`twin`].
pub(crate) fn twin_backward(act: Activation, gate: &[f64], up: &[f64], da: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let one = |i: usize| {
        let ((gate, gate_moves), (up, up_moves)) = counted(act, gate[i], up[i]);
        let (z, slope) = inner(act, gate);
        let s = 1.0 / (1.0 + (-z).exp());
        (gate_moves * da[i] * up * s * (1.0 + gate * (1.0 - s) * slope), up_moves * da[i] * gate * s)
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
    let acts = Activation::ALL;
    let shapes = [(1, 1), (7, 33), (640, 10), (33, 160)];
    for (act, (rows, cols)) in acts.into_iter().flat_map(|a| shapes.map(|s| (a, s))) {
        all.push(Case::new(format!("forward and backward {rows}x{cols} {act:?}"), 4e-6, move |t| {
            let n = rows * cols;
            let mut host = |scale: f64| t.values(n).iter().map(|x| f64::from(*x) * scale).collect::<Vec<_>>();
            // Of clamped ones some lie beyond.
            let (gate, up) = (host(8.0), host(if act == Activation::ClampedSwish { 8.0 } else { 1.0 }));
            let both: Vec<f32> = join(&gate, &up, cols).iter().map(|x| *x as f32).collect();
            let gu = t.gpu.upload(rows, 2 * pad4(cols), &both)?;
            let (a, dgu) = (t.gpu.empty(rows, cols)?, t.gpu.empty(rows, 2 * pad4(cols))?);
            let (da, hda) = t.matrix(rows, cols)?;
            forward(&mut t.rec, act, &gu, &a)?;
            backward(&mut t.rec, act, &gu, &da, &dgu)?;
            t.expect("a", &a, || twin(act, &gate, &up));
            t.expect("dgu", &dgu, || {
                let (dg, du) = twin_backward(act, &gate, &up, &hda);
                join(&dg, &du, cols)
            });
            Ok(())
        }));
    }
    for act in acts {
        all.push(Case::new(format!("forward of extreme gates {act:?}"), 4e-6, move |t| {
            let v = [200f32, -200.0, 1e30, -1e30, 1.0, 1.0, 1.0, 1.0];
            let (gu, a) = (t.gpu.upload(1, 8, &v)?, t.gpu.empty(1, 4)?);
            forward(&mut t.rec, act, &gu, &a)?;
            t.expect("a", &a, || match act {
                Activation::Silu | Activation::GeluTanh => vec![200.0, 0.0, f64::from(1e30f32), 0.0],
                Activation::ClampedSwish => {
                    let most = 14.0 / (1.0 + (-1.702f64 * 7.0).exp());
                    vec![most, 0.0, most, 0.0]
                }
            });
            Ok(())
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let (g, u, c) = (numbers(15, 1), numbers(15, 2), numbers(15, 3));
        for act in Activation::ALL {
            let (dg, du) = twin_backward(act, &g, &u, &c);
            finite_difference("gate", &g, &dg, |x| dot(&twin(act, x, &u), &c));
            finite_difference("up", &u, &du, |x| dot(&twin(act, &g, x), &c));
        }
        // A gate above 7 and ups beyond ±7 move nothing; a gate below -7 does.
        let (g, u, c) = (numbers(15, 1), numbers(15, 2), numbers(15, 3));
        let far = |x: &[f64]| x.iter().map(|x| 12.0 * x).collect::<Vec<_>>();
        let (g, u) = (far(&g), far(&u));
        let (dg, du) = twin_backward(Activation::ClampedSwish, &g, &u, &c);
        finite_difference("gate", &g, &dg, |x| dot(&twin(Activation::ClampedSwish, x, &u), &c));
        finite_difference("up", &u, &du, |x| dot(&twin(Activation::ClampedSwish, &g, x), &c));
    }
}
