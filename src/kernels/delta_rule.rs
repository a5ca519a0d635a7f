//! The gated delta rule (arXiv 2412.06464) row by row: in decoding, and in a forest where the bits of a row must not
//! depend on how its path was cut.

use super::delta::{Chunks, Ruled, Sizes};
use super::sizes::{bytes, lanes, several, stream};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Gpu, Launch, Param, Recorder, Source, Tensor};
use crate::{Error, Result};

pub(super) static SOURCE: Source = Source {
    name: "delta_rule",
    soft: include_str!("../../shaders/delta_rule.wgsl"),
    tile: include_str!("../../shaders/delta_rule.wgsl"),
    libs: &["grid", "delta"],
    tile_size: 32,
};

fn params(sizes: &Sizes, first: usize, count: usize) -> Vec<Param<'static>> {
    let mut all = vec![("first", Size(first)), ("count", Size(count))];
    all.extend(sizes.params());
    all
}

/// Refuses queries, keys, values and gates of other rows.
pub(super) fn expect(sizes: &Sizes, mixed: &Tensor, gates: &Tensor, rows: usize) -> Result<()> {
    mixed.expect_shape("queries, keys and values of a delta net", rows, sizes.mixed())?;
    gates.expect_shape("the gates of a delta net", rows, 3 * sizes.gate())
}

/// The work on so many rows: the state is read twice and written once.
fn cost(sizes: &Sizes, rows: usize, moved: &[&Tensor]) -> Cost {
    let states = (rows * sizes.state()) as f64;
    Cost::new(7.0 * states, 4.0 * 2.0 * states + bytes(moved))
}

/// The rule down each path of a forest, from mixed `[T, q | k | v]` and the gates.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn scan(
    rec: &mut Recorder,
    sizes: &Sizes,
    mixed: &Tensor,
    gates: &Tensor,
    chunks: &Chunks,
) -> Result<Ruled> {
    expect(sizes, mixed, gates, chunks.rows)?;
    let ruled = Ruled::room(rec.gpu(), sizes, chunks)?;
    for level in &chunks.levels {
        rec.launch(Launch {
            source: &SOURCE,
            entry: "scan",
            constants: vec![],
            params: &params(sizes, level.start, level.len()),
            bind: &[&chunks.table, mixed, gates, &ruled.ends, &ruled.u, &ruled.o],
            groups: lanes(&SOURCE, rec.variant(), level.len() * sizes.values() / 4),
            cost: cost(sizes, chunks.rows * level.len() / chunks.count(), &[]),
        })?;
    }
    Ok(ruled)
}

/// Memory for the states of `slots` sequences, with arbitrary content.
///
/// # Errors
/// Out of memory.
pub(crate) fn room(gpu: &Gpu, slots: usize, sizes: &Sizes) -> Result<Tensor> {
    gpu.empty(slots, sizes.state())
}

/// o `[N, HV pad4(value_dim)]` of one more row of each sequence, whose states become those behind it.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn step(
    rec: &mut Recorder,
    sizes: &Sizes,
    (mixed, gates): (&Tensor, &Tensor),
    slot: &Tensor,
    state: &Tensor,
) -> Result<Tensor> {
    expect(sizes, mixed, gates, mixed.rows())?;
    slot.expect_vector("the slots of a step", mixed.rows())?;
    if state.ld() != sizes.state() {
        return Err(Error::Bug(format!("states {:?} are none of a delta net of {sizes:?}", state.shape())));
    }
    let o = rec.gpu().empty(mixed.rows(), sizes.values())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "step",
        constants: vec![],
        params: &params(sizes, 0, mixed.rows()),
        bind: &[slot, mixed, gates, state, &o],
        groups: lanes(&SOURCE, rec.variant(), mixed.rows() * sizes.values() / 4),
        cost: cost(sizes, mixed.rows(), &[mixed, &o]),
    })?;
    Ok(o)
}

/// Keeps for slot `slot[e]` the state behind row `row[e]`, which is the last of its path; both are `[E]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn keep(
    rec: &mut Recorder,
    sizes: &Sizes,
    (chunks, ends): (&Chunks, &Tensor),
    (row, slot): (&Tensor, &Tensor),
    state: &Tensor,
) -> Result<()> {
    slot.expect_shape("the slots", 1, row.cols())?;
    if state.ld() != sizes.state() {
        return Err(Error::Bug(format!("states {:?} are none of a delta net of {sizes:?}", state.shape())));
    }
    rec.launch(Launch {
        source: &SOURCE,
        entry: "keep",
        constants: vec![],
        params: &params(sizes, 0, row.cols()),
        bind: &[&chunks.of_row, ends, row, slot, state],
        groups: several(&SOURCE, rec.variant(), row.cols() * sizes.state() / 4),
        cost: stream(&[row], 0.0),
    })
}
