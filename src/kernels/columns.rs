//! Projections that lie side by side in one matrix (q, k, v; gate, up), taken out and added to one by one.

use super::case::{Case, Kernel};
use super::sizes::{several, stream};
use super::way::Way;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "columns",
    soft: include_str!("../../shaders/columns.wgsl"),
    tile: include_str!("../../shaders/columns.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "a range of columns taken out, and added to",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

fn launch(
    rec: &mut Recorder,
    entry: &'static str,
    (wide, narrow): (&Tensor, &Tensor),
    (first, scale): (usize, f32),
    bind: &[&Tensor],
) -> Result<()> {
    if wide.rows() != narrow.rows() || first % 4 != 0 || first + narrow.ld() > wide.ld() {
        return Err(Error::Bug(format!(
            "{:?} does not fit column {first} of {:?} (columns begin at multiples of 4)",
            narrow.shape(),
            wide.shape()
        )));
    }
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: vec![],
        params: &[
            ("rows", Size(wide.rows())),
            ("wide4", Size(wide.ld() / 4)),
            ("narrow4", Size(narrow.ld() / 4)),
            ("first4", Size(first / 4)),
            ("scale", Float(scale)),
        ],
        bind,
        groups: several(&SOURCE, rec.variant(), narrow.len() / 4),
        cost: stream(&[narrow, narrow], 1.0),
    })
}

/// y `[R, N]` = scale · x\[:, first ..\], x `[R, W]`.
///
/// # Errors
/// Shapes that do not fit; a first column that is no multiple of 4.
pub(crate) fn take(rec: &mut Recorder, x: &Tensor, first: usize, scale: f32, y: &Tensor) -> Result<()> {
    launch(rec, "take", (x, y), (first, scale), &[x, y])
}

/// Columns `first .. first + cols` of x, as a new tensor.
///
/// # Errors
/// As [`take`]; out of memory.
pub(crate) fn part(rec: &mut Recorder, x: &Tensor, first: usize, cols: usize) -> Result<Tensor> {
    let y = rec.gpu().empty(x.rows(), cols)?;
    take(rec, x, first, 1.0, &y)?;
    Ok(y)
}

/// y\[:, first ..\] += scale · x, x `[R, N]`, y `[R, W]`.
///
/// # Errors
/// As [`take`].
pub(crate) fn add(rec: &mut Recorder, x: &Tensor, first: usize, scale: f32, y: &Tensor) -> Result<()> {
    launch(rec, "add", (y, x), (first, scale), &[x, y])
}

/// y\[:, first ..\] = x, x `[R, N]`, y `[R, W]`; x's padding goes with it.
///
/// # Errors
/// As [`take`].
pub(crate) fn put(rec: &mut Recorder, x: &Tensor, first: usize, y: &Tensor) -> Result<()> {
    launch(rec, "put", (y, x), (first, 1.0), &[x, y])
}

/// Columns `first .. first + cols` of x `[R, width]`.
pub(crate) fn twin(x: &[f64], width: usize, first: usize, cols: usize) -> Vec<f64> {
    x.chunks_exact(width).flat_map(|row| &row[first..first + cols]).copied().collect()
}

fn cases() -> Vec<Case> {
    [(7, 33, 8, 25), (65, 40, 0, 10), (1, 8, 4, 3), (640, 96, 36, 60)]
        .into_iter()
        .map(|(rows, width, first, cols)| {
            Case::new(format!("columns {first}+{cols} of {rows}x{width}"), 1e-6, move |t| {
                let ((x, hx), (z, hz)) = (t.matrix(rows, width)?, t.matrix(rows, cols)?);
                let y = t.gpu.empty(rows, cols)?;
                take(&mut t.rec, &x, first, 0.75, &y)?;
                let before = hx.clone();
                t.expect("y", &y, || twin(&before, width, first, cols).iter().map(|v| 0.75 * v).collect());
                // What x is once v has come to each of the columns in its way.
                let changed = |with: &dyn Fn(&mut f64, f64)| {
                    let mut want = hx.clone();
                    for (i, v) in hz.iter().enumerate() {
                        with(&mut want[i / cols * width + first + i % cols], *v);
                    }
                    want
                };
                let over = t.gpu.empty(rows, width)?;
                take(&mut t.rec, &x, 0, 1.0, &over)?;
                put(&mut t.rec, &z, first, &over)?;
                t.expect("over", &over, || {
                    let mut want = changed(&|at, v| *at = v);
                    let end = width.min(first + pad4(cols));
                    want.chunks_exact_mut(width).for_each(|row| row[first + cols..end].fill(0.0));
                    want
                });
                add(&mut t.rec, &z, first, -1.5, &x)?;
                t.expect("x", &x, || changed(&|at, v| *at -= 1.5 * v));
                Ok(())
            })
        })
        .collect()
}
