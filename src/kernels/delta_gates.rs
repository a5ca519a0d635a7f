//! The gates of a gated delta net: how much of the state a row keeps, and how strongly it is updated.

use super::delta::{Chunks, Grads, Sizes};
use super::sizes::{lanes, stream};
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Param, Recorder, Source, Tensor};

pub(super) static SOURCE: Source = Source {
    name: "delta_gates",
    soft: include_str!("../../shaders/delta_gates.wgsl"),
    tile: include_str!("../../shaders/delta_gates.wgsl"),
    libs: &["grid", "delta"],
    tile_size: 64,
};

fn params(sizes: &Sizes, rows: usize) -> Vec<Param<'static>> {
    let mut all = vec![("rows", Size(rows)), ("width4", Size(sizes.width() / 4)), ("b4", Size(sizes.strengths() / 4))];
    all.extend(sizes.params());
    all
}

/// The gates `[T, g | beta | sums of g]` of projected rows `[T, q | k | v | z | b | a]`; the sums are not there yet.
/// decays is `[A | dt]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, sizes: &Sizes, raw: &Tensor, decays: &Tensor) -> Result<Tensor> {
    sizes.expect(raw)?;
    decays.expect_shape("the decays of a delta net", 1, 2 * sizes.gate())?;
    let gates = rec.gpu().empty(raw.rows(), 3 * sizes.gate())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &params(sizes, raw.rows()),
        bind: &[raw, decays, &gates],
        groups: lanes(&SOURCE, rec.variant(), raw.rows() * sizes.gate() / 4),
        cost: stream(&[&gates, &gates], 10.0),
    })?;
    Ok(gates)
}

/// Adds up the logarithms of the decays within each chunk, which what works in chunks reads.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn sums(rec: &mut Recorder, sizes: &Sizes, chunks: &Chunks, gates: &Tensor) -> Result<()> {
    gates.expect_shape("the gates of a delta net", chunks.rows, 3 * sizes.gate())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "sums",
        constants: vec![],
        params: &params(sizes, chunks.count()),
        bind: &[&chunks.table, gates],
        groups: lanes(&SOURCE, rec.variant(), chunks.count() * sizes.gate() / 4),
        cost: stream(&[gates], 1.0),
    })
}

/// Writes the gradient by b and a to the last columns of draw `[T, q | k | v | z | b | a]`, and gives what each row
/// gives to that by the decays, `[T, A | dt]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    sizes: &Sizes,
    chunks: &Chunks,
    (raw, decays): (&Tensor, &Tensor),
    (gates, grads): (&Tensor, &Grads),
    draw: &Tensor,
) -> Result<Tensor> {
    sizes.expect(raw)?;
    draw.expect_shape("the gradient by a delta net's rows", raw.rows(), raw.cols())?;
    let ddecays = rec.gpu().empty(raw.rows(), 2 * sizes.gate())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: vec![],
        params: &params(sizes, chunks.count()),
        bind: &[&chunks.table, raw, decays, gates, &grads.dgates, &grads.ends, draw, &ddecays],
        groups: lanes(&SOURCE, rec.variant(), chunks.count() * sizes.gate() / 4),
        cost: stream(&[gates, &ddecays, &ddecays, &ddecays], 12.0),
    })?;
    Ok(ddecays)
}
