//! The gradient of a bias: a sum over tokens.

use super::case::{Case, Kernel};
use super::sizes::{lanes, stream};
use super::way::Way;
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "column_sum",
    soft: include_str!("../../shaders/column_sum.wgsl"),
    tile: include_str!("../../shaders/column_sum.wgsl"),
    libs: &[],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "sums of columns",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// sum `[C]` += the columns of x `[R, C]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(rec: &mut Recorder, x: &Tensor, sum: &Tensor) -> Result<()> {
    sum.expect_shape("the column sums", 1, x.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &[("rows", Size(x.rows())), ("ld4", Size(x.ld() / 4))],
        bind: &[x, sum],
        groups: lanes(&SOURCE, rec.variant(), x.ld() / 4),
        cost: stream(&[x], 1.0),
    })
}

/// Sums of the columns.
pub(crate) fn twin(x: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).map(|c| x.iter().skip(c).step_by(cols).sum()).collect()
}

fn cases() -> Vec<Case> {
    [(1, 1), (7, 33), (640, 10), (5, 1030)]
        .into_iter()
        .map(|(rows, cols)| {
            Case::new(format!("forward {rows}x{cols}"), 4e-6, move |t| {
                let ((x, hx), (s, hs)) = (t.matrix(rows, cols)?, t.matrix(1, cols)?);
                forward(&mut t.rec, &x, &s)?;
                t.expect("sum", &s, || twin(&hx, cols).iter().zip(&hs).map(|(a, b)| a + b).collect());
                Ok(())
            })
        })
        .collect()
}
