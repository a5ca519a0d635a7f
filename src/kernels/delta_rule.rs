//! The gated delta rule (arXiv 2412.06464) row by row: in decoding, and in a forest where the bits of a row must not
//! depend on how its path was cut.

use super::case::{Case, Kernel};
use super::delta::{Chunks, Sizes};
use super::delta_twin::Net;
use super::sizes::{bytes, lanes, several, stream};
use super::way::Way;
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Gpu, Launch, Param, Recorder, Source, Tensor, pad4};
use crate::layout::Forest;
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "delta_rule",
    soft: include_str!("../../shaders/delta_rule.wgsl"),
    tile: include_str!("../../shaders/delta_rule.wgsl"),
    libs: &["grid", "delta"],
    tile_size: 32,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "gated delta rule, row by row",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// What the rule leaves.
#[derive(Clone)]
pub(crate) struct Ruled {
    /// What each row adds to the state beside its key, `[T, HV pad4(value_dim)]`.
    pub(crate) u: Tensor,
    /// What each row's query reads of the state, of the same shape.
    pub(crate) o: Tensor,
    /// The state behind each chunk, `[chunks HV pad4(key_dim), pad4(value_dim)]`.
    pub(crate) ends: Tensor,
}

impl Ruled {
    /// Memory for what the rule leaves of chunks.
    pub(super) fn room(gpu: &Gpu, sizes: &Sizes, chunks: &Chunks) -> Result<Ruled> {
        let rows = || gpu.empty(chunks.rows, sizes.values());
        let ends = gpu.empty(chunks.count() * sizes.keys_of_values(), pad4(sizes.value_dim))?;
        Ok(Ruled { u: rows()?, o: rows()?, ends })
    }
}

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

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, sizes) in super::delta_twin::SIZES {
        all.push(Case::new(format!("scan {rows} rows, {sizes}"), 2e-5, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let (mixed, gates) = net.mixed_and_gates(t)?;
            let ruled = scan(&mut t.rec, &sizes.0, &mixed, &gates, &net.chunks)?;
            net.expect_ruled(t, &ruled);
            Ok(())
        }));
        all.push(Case::new(format!("keep and step {rows} rows, {sizes}"), 2e-5, move |t| {
            // A path whose last rows come one by one, in the second of three slots.
            let (before, after) = (rows.div_ceil(2), 3);
            let mut forest = Forest::new();
            forest.leaf(&vec![0; before + after]);
            let net = Net::of(t, &forest, sizes.0)?;
            let (mixed, gates) = net.mixed_and_gates(t)?;
            let mut begun = Forest::new();
            begun.leaf(&vec![0; before]);
            let chunks = Chunks::new(t.gpu, &begun, super::delta_twin::CHUNK)?;
            let first = |x: &Tensor| x.corner(before, x.cols());
            let ruled = scan(&mut t.rec, &sizes.0, &first(&mixed)?, &first(&gates)?, &chunks)?;
            let state = room(t.gpu, 3, &sizes.0)?;
            let (row, slot) = (t.gpu.vector(&[before as u32 - 1])?, t.gpu.vector(&[1u32])?);
            keep(&mut t.rec, &sizes.0, (&chunks, &ruled.ends), (&row, &slot), &state)?;
            for i in before..before + after {
                let one = |t: &mut super::case::Trial, x: &Tensor| {
                    let y = t.gpu.empty(1, x.cols())?;
                    super::rows::gather(&mut t.rec, x, &t.gpu.vector(&[i as u32])?, &y)?;
                    Ok::<_, Error>(y)
                };
                let (mixed, gates) = (one(t, &mixed)?, one(t, &gates)?);
                let o = step(&mut t.rec, &sizes.0, (&mixed, &gates), &slot, &state)?;
                t.expect(&format!("o of row {i}"), &o, || {
                    let width = sizes.0.values();
                    net.padded_values(&net.twin().forward(&net.host).o)[i * width..][..width].to_vec()
                });
            }
            Ok(())
        }));
    }
    all.push(Case::timed("step of 8 rows, 16 heads of 128x128", |t| {
        let sizes = super::delta_twin::LARGE;
        let (mixed, gates) = (t.matrix(8, sizes.mixed())?.0, t.matrix(8, 3 * sizes.gate())?.0);
        let (slot, state) = (t.gpu.vector(&[0u32, 1, 2, 3, 4, 5, 6, 7])?, room(t.gpu, 8, &sizes)?);
        step(&mut t.rec, &sizes, (&mixed, &gates), &slot, &state).map(drop)
    }));
    all
}
