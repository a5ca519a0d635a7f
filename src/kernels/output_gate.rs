//! The gate on attention's output (arXiv 2505.06708): a sigmoid of a part of the projected rows.

use super::case::{Case, Kernel};
use super::sizes::{several, stream};
use super::way::Way;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, Tensor};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "output_gate",
    soft: include_str!("../../shaders/output_gate.wgsl"),
    tile: include_str!("../../shaders/output_gate.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "sigmoid gate on attention's output",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

fn launch(
    rec: &mut Recorder,
    entry: &'static str,
    (x, wide, first): (&Tensor, &Tensor, usize),
    bind: &[&Tensor],
    operations: f64,
) -> Result<()> {
    if x.rows() != wide.rows() || first % 4 != 0 || first + x.ld() > wide.ld() {
        let (x, wide) = (x.shape(), wide.shape());
        return Err(Error::Bug(format!("{x:?} gated by column {first} of {wide:?} (columns begin at multiples of 4)")));
    }
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: vec![],
        params: &[
            ("rows", Size(x.rows())),
            ("d4", Size(x.ld() / 4)),
            ("width4", Size(wide.ld() / 4)),
            ("first4", Size(first / 4)),
        ],
        bind,
        groups: several(&SOURCE, rec.variant(), x.len() / 4),
        cost: stream(&[x, x, x], operations),
    })
}

/// y = x · sigmoid of the columns of wide `[T, W]` from `first` on.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, x: &Tensor, wide: &Tensor, first: usize) -> Result<Tensor> {
    let y = rec.gpu().empty(x.rows(), x.cols())?;
    launch(rec, "forward", (x, wide, first), &[x, wide, &y], 4.0)?;
    Ok(y)
}

/// The gradient by x from dy; that by the gate goes to its columns of dwide.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    x: &Tensor,
    (wide, first): (&Tensor, usize),
    dy: &Tensor,
    dwide: &Tensor,
) -> Result<Tensor> {
    dy.expect_shape("a gate's output gradient", x.rows(), x.cols())?;
    dwide.expect_shape("the gradient by gates", wide.rows(), wide.cols())?;
    let dx = rec.gpu().empty(x.rows(), x.cols())?;
    launch(rec, "backward", (x, wide, first), &[x, wide, dy, &dx, dwide], 8.0)?;
    Ok(dx)
}

/// Of one element y, the gradient by x and that by the gate.
fn twin(x: f64, gate: f64, dy: f64) -> [f64; 3] {
    let s = 1.0 / (1.0 + (-gate).exp());
    [x * s, dy * s, dy * x * s * (1.0 - s)]
}

fn cases() -> Vec<Case> {
    let one = |(rows, cols): (usize, usize)| {
        Case::new(format!("forward and backward {rows}x{cols}"), 4e-6, move |t| {
            let ((x, hx), (gate, hgate), (dy, hdy)) =
                (t.matrix(rows, cols)?, t.matrix(rows, cols)?, t.matrix(rows, cols)?);
            // The gate behind four columns, and four behind it.
            let wide = t.gpu.zeros(rows, gate.ld() + 8)?;
            super::columns::add(&mut t.rec, &gate, 4, 1.0, &wide)?;
            let dwide = t.gpu.zeros(rows, wide.cols())?;
            let y = forward(&mut t.rec, &x, &wide, 4)?;
            let dx = backward(&mut t.rec, &x, (&wide, 4), &dy, &dwide)?;
            let dgate = super::columns::part(&mut t.rec, &dwide, 4, cols)?;
            let all = |part: usize| (0..hx.len()).map(|i| twin(hx[i], hgate[i], hdy[i])[part]).collect();
            t.expect("y", &y, || all(0));
            t.expect("dx", &dx, || all(1));
            t.expect("dgate", &dgate, || all(2));
            Ok(())
        })
    };
    [(1, 1), (7, 33), (640, 10)].into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::finite_difference;

    #[test]
    fn the_gradients_are_the_slopes() {
        let [_, dx, dgate] = twin(0.7, -0.4, 1.3);
        finite_difference("x", &[0.7], &[dx], |x| 1.3 * twin(x[0], -0.4, 0.0)[0]);
        finite_difference("gate", &[-0.4], &[dgate], |gate| 1.3 * twin(0.7, gate[0], 0.0)[0]);
    }
}
