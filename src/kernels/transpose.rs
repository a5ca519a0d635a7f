//! Transposes a weight for the gradient by its input, so that one form of matmul serves both directions: the copy is a
//! share of 1 / rows of the product it prepares.

use super::case::{Case, Kernel, Trial};
use super::half::Half;
use super::inputs::{pad_rows, random_half, random_quantised};
use super::quants::Quants;
use super::sizes::{bytes, several};
use super::way::{Traits, Way};
use super::weight::{Block, Stored};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};
use std::ops::Range;

static SOURCE: Source = Source {
    name: "transpose",
    soft: include_str!("../../shaders/transpose.wgsl"),
    tile: include_str!("../../shaders/transpose.wgsl"),
    libs: &["grid", "operand"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "a block of a matrix turned around, in f32",
    ways: |traits| Stored::all().into_iter().map(|stored| way(traits, stored)).collect(),
    ordered: &[],
    cases,
};

fn way(traits: &Traits, stored: Stored) -> Way {
    let entry = if stored.is_quantised() { "forward_q" } else { "forward" };
    Way::new(&SOURCE, traits, entry, stored.constants())
}

/// n columns of x `[R, C]`, R and the first one multiples of 4, turned into f32 `[pad4(n), R]`.
///
/// # Errors
/// Columns that x does not have; out of memory.
pub(crate) fn forward(rec: &mut Recorder, x: &Block, columns: Range<usize>) -> Result<Tensor> {
    let (rows, cols) = (x.rows(), columns.len());
    if columns.end > x.cols() || !columns.start.is_multiple_of(4) {
        return Err(Error::Bug(format!("columns {columns:?} of {} cannot be turned around", x.cols())));
    }
    let y = rec.gpu().empty(pad4(cols), rows)?;
    let (weight, way) = (x.bind(), way(&Traits::of(rec), x.stored()));
    let share = cols as f64 / x.cols().max(1) as f64;
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &[
            ("rows", Size(rows)),
            ("cols", Size(pad4(cols))),
            ("ldb4", Size(x.ld4())),
            ("first4", Size(columns.start / 4)),
        ],
        groups: several(&SOURCE, rec.variant(), y.len() / 16),
        cost: Cost::new(0.0, bytes(&weight) * share + bytes(&[&y])),
        bind: &[&weight[..], &[&y]].concat(),
    })?;
    Ok(y)
}

/// x `[rows, cols]` turned into `[cols, rows]`.
pub(crate) fn twin(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
}

/// Compares turned copies of a block, of all its columns and of those from the eighth on, with `host` `[rows, cols]`,
/// its values without padding.
fn expect_turned(t: &mut Trial, block: &Block, host: Vec<f64>, rows: usize, cols: usize) -> Result<()> {
    for first in [0, 8].into_iter().filter(|first| *first < cols) {
        let y = forward(&mut t.rec, block, first..cols)?;
        let mut turned = twin(&[host.clone(), vec![0.0; (pad4(rows) - rows) * cols]].concat(), pad4(rows), cols);
        t.expect(&format!("y from {first}"), &y, || {
            turned.drain(..first * pad4(rows));
            turned.resize(pad4(cols - first) * pad4(rows), 0.0);
            turned
        });
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols) in [(4, 4), (36, 10), (33, 97), (1, 7), (640, 33)] {
        all.push(Case::new(format!("forward {rows}x{cols}"), 0.0, move |t| {
            let v = t.values(rows * cols);
            let x = Block::Dense(t.gpu.upload(pad4(rows), cols, &pad_rows(&v, rows, cols))?);
            expect_turned(t, &x, v.iter().map(|x| f64::from(*x)).collect(), rows, cols)
        }));
    }
    for (half, rows, cols) in [(Half::Bf16, 36, 10), (Half::F16, 33, 97), (Half::F16, 4, 4)] {
        all.push(Case::new(format!("forward {rows}x{cols} {}", half.name()), 0.0, move |t| {
            let (weight, host) = random_half(t, half, rows, cols)?;
            let block = weight.blocks().map(|(_, b)| b.clone()).collect::<Vec<_>>();
            expect_turned(t, &block[0], host, rows, cols)
        }));
    }
    for quants in Quants::ALL {
        // One multiplication and one addition, which a device may round once or twice.
        for (rows, cols) in [(64, 37), (512, 101)] {
            all.push(Case::new(format!("forward_q {rows}x{cols} {}", quants.name()), 1e-6, move |t| {
                let (weight, host) = random_quantised(t, quants, rows, cols)?;
                let block = weight.blocks().map(|(_, b)| b.clone()).collect::<Vec<_>>();
                expect_turned(t, &block[0], host, rows, cols)
            }));
        }
    }
    all
}
