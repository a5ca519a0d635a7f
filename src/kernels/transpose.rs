//! Turns a weight around for the gradient by its input, so that one form of matmul serves both directions: the copy is a
//! share of 1 / rows of the product it prepares.

use super::{Case, Kernel, lanes, stream, word};
use crate::Result;
use crate::gpu::{Launch, Recorder, Source, Tensor, pad4};

static SOURCE: Source = Source {
    name: "transpose",
    soft: include_str!("../../shaders/transpose.wgsl"),
    tile: include_str!("../../shaders/transpose.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel { source: || &SOURCE, about: "a matrix turned around", constants: &[&[]], cases };

/// x `[pad4(R), C]` turned into `[pad4(C), R]`; `rows` is R.
///
/// # Errors
/// A number of rows that is no multiple of 4; out of memory.
pub fn forward(rec: &mut Recorder, x: &Tensor, rows: usize) -> Result<Tensor> {
    x.expect_shape("transpose's input", pad4(rows), x.cols)?;
    let y = rec.gpu().empty(pad4(x.cols), rows)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: vec![word(x.rows, "rows")?, word(x.ld, "columns")?],
        bind: &[x, &y],
        groups: lanes(&SOURCE, rec.variant(), x.len() / 16),
        cost: stream(&[x, &y], 0.0),
    })?;
    Ok(y)
}

/// x `[rows, cols]` turned into `[cols, rows]`.
pub fn twin(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
}

fn cases() -> Vec<Case> {
    [(4, 4), (36, 10), (33, 97), (1, 7), (640, 33)]
        .into_iter()
        .map(|(rows, cols)| {
            Case::new(format!("forward {rows}x{cols}"), 0.0, move |t| {
                let v = t.values(rows * cols);
                let mut padded = v.clone();
                padded.resize(pad4(rows) * cols, 0.0);
                let x = t.gpu.upload(pad4(rows), cols, &padded)?;
                let y = forward(&mut t.rec, &x, rows)?;
                t.expect("y", &y, || {
                    let host: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
                    let mut want = twin(&host, rows, cols);
                    want.resize(pad4(cols) * rows, 0.0);
                    want
                });
                Ok(())
            })
        })
        .collect()
}
