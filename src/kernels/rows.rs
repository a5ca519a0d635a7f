//! Picking rows out of a matrix and putting them back.

use super::case::{Case, Kernel};
use super::sizes::{several, stream};
use super::way::Way;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, Tensor};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "rows",
    soft: include_str!("../../shaders/rows.wgsl"),
    tile: include_str!("../../shaders/rows.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "gather, scatter and fill of rows",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

fn launch(rec: &mut Recorder, entry: &'static str, small: &Tensor, bind: &[&Tensor]) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: vec![],
        params: &[("rows", Size(small.rows())), ("ld4", Size(small.ld() / 4))],
        bind,
        groups: several(&SOURCE, rec.variant(), small.len() / 4),
        cost: stream(&[small, small], 0.0),
    })
}

fn check(small: &Tensor, row: &Tensor, large: &Tensor) -> Result<()> {
    row.expect_vector("the row numbers", small.rows())?;
    if small.ld() != large.ld() {
        return Err(Error::Bug(format!("rows go between matrices {:?} and {:?}", small.shape(), large.shape())));
    }
    Ok(())
}

/// y `[R, D]` = x\[row\[r\]\].
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn gather(rec: &mut Recorder, x: &Tensor, row: &Tensor, y: &Tensor) -> Result<()> {
    check(y, row, x)?;
    launch(rec, "gather", y, &[x, row, y])
}

/// y\[row\[r\]\] = x `[R, D]`; the row numbers are distinct, other rows of y stay.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn scatter(rec: &mut Recorder, x: &Tensor, row: &Tensor, y: &Tensor) -> Result<()> {
    check(x, row, y)?;
    launch(rec, "scatter", x, &[x, row, y])
}

/// y = 0, padding included.
///
/// # Errors
/// A matrix of more than 2^32 elements.
pub(crate) fn fill(rec: &mut Recorder, y: &Tensor) -> Result<()> {
    launch(rec, "fill", y, &[y])
}

/// The listed rows of x.
pub(crate) fn twin(x: &[f64], row: &[u32], cols: usize) -> Vec<f64> {
    row.iter().flat_map(|r| &x[*r as usize * cols..][..cols]).copied().collect()
}

fn cases() -> Vec<Case> {
    [(7, 3, 10), (640, 33, 36), (5, 5, 1), (1501, 300, 10)]
        .into_iter()
        .map(|(rows, picked, cols)| {
            Case::new(format!("gather and scatter {picked} of {rows}x{cols}"), 0.0, move |t| {
                let (x, hx) = t.matrix(rows, cols)?;
                let row: Vec<u32> = (0..picked).map(|i| ((i * 7 + 2) % rows) as u32).collect();
                let (y, back) = (t.gpu.empty(picked, cols)?, t.gpu.empty(rows, cols)?);
                let index = t.gpu.vector(&row)?;
                gather(&mut t.rec, &x, &index, &y)?;
                fill(&mut t.rec, &back)?;
                scatter(&mut t.rec, &y, &index, &back)?;
                t.expect("y", &y, || twin(&hx, &row, cols));
                t.expect("back", &back, || {
                    let mut want = vec![0.0; rows * cols];
                    for r in &row {
                        let at = *r as usize * cols;
                        want[at..at + cols].copy_from_slice(&hx[at..at + cols]);
                    }
                    want
                });
                Ok(())
            })
        })
        .collect()
}
