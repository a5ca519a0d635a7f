//! What stands before the rule of a gated delta net: convolution, SiLU and lengths of queries and keys.

use super::delta::{Grads, Sizes};
use super::short_conv::Links;
use super::sizes::{lanes, several, stream};
use super::way::{Constant, Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Gpu, Launch, Param, Recorder, Source, Tensor};

pub(super) static SOURCE: Source = Source {
    name: "delta_inputs",
    soft: include_str!("../../shaders/delta_inputs.wgsl"),
    tile: include_str!("../../shaders/delta_inputs.wgsl"),
    libs: &["grid", "delta"],
    tile_size: 64,
};

const ENTRIES: [&str; 6] = ["forward", "backward", "backward_sums", "backward_taps", "keep", "step"];

fn constants(sizes: &Sizes) -> Vec<Constant> {
    vec![("TAPS", sizes.taps as u32), ("BIAS", 0)]
}

/// The pipelines of all shapes.
pub(super) fn ways(traits: &Traits) -> Vec<Way> {
    let of = |taps: u32| ENTRIES.map(|entry| Way::new(&SOURCE, traits, entry, [("TAPS", taps), ("BIAS", 0)]));
    [1, 3, 4].into_iter().flat_map(of).collect()
}

fn params(sizes: &Sizes, rows: usize) -> Vec<Param<'static>> {
    let mut all = vec![("rows", Size(rows)), ("width4", Size(sizes.width() / 4)), ("d4", Size(sizes.mixed() / 4))];
    all.extend(sizes.params());
    all.push(("scale", Float((sizes.key_dim as f32).powf(-0.5))));
    all
}

/// Heads of queries, keys and values of so many rows.
fn heads(sizes: &Sizes, rows: usize) -> usize {
    rows * (2 * sizes.key_heads + sizes.value_heads)
}

/// Operations on each channel.
fn operations(sizes: &Sizes) -> f64 {
    8.0 + 2.0 * sizes.taps as f64
}

fn expect(sizes: &Sizes, raw: &Tensor, links: &Links, taps: &Tensor) -> Result<()> {
    sizes.expect(raw)?;
    links.expect(raw.rows())?;
    taps.expect_shape("the taps of a delta net", 1, sizes.taps * sizes.mixed())
}

/// Queries, keys and values `[T, q | k | v]` of projected rows `[T, q | k | v | z | b | a]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, sizes: &Sizes, raw: &Tensor, links: &Links, taps: &Tensor) -> Result<Tensor> {
    expect(sizes, raw, links, taps)?;
    let mixed = rec.gpu().empty(raw.rows(), sizes.mixed())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: constants(sizes),
        params: &params(sizes, raw.rows()),
        bind: &[raw, links.tensor(), taps, taps, &mixed],
        groups: lanes(&SOURCE, rec.variant(), heads(sizes, raw.rows())),
        cost: stream(&[&mixed, &mixed], operations(sizes)),
    })?;
    Ok(mixed)
}

/// Writes the gradient by queries, keys and values to the first columns of draw `[T, q | k | v | z | b | a]`; that by
/// the taps is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    sizes: &Sizes,
    (raw, links, taps): (&Tensor, &Links, &Tensor),
    (gates, grads): (&Tensor, &Grads),
    (draw, dtaps): (&Tensor, Option<&Tensor>),
) -> Result<()> {
    expect(sizes, raw, links, taps)?;
    draw.expect_shape("the gradient by a delta net's rows", raw.rows(), raw.cols())?;
    let dsums = rec.gpu().empty(raw.rows(), sizes.mixed())?;
    let cost = stream(&[&dsums, &dsums], 3.0 * operations(sizes));
    let params = params(sizes, raw.rows());
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: constants(sizes),
        params: &params,
        bind: &[raw, links.tensor(), taps, taps, gates, &grads.dqk, &grads.dr, &dsums],
        groups: lanes(&SOURCE, rec.variant(), heads(sizes, raw.rows())),
        cost,
    })?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_sums",
        constants: constants(sizes),
        params: &params,
        bind: &[links.tensor(), taps, &dsums, draw],
        groups: several(&SOURCE, rec.variant(), dsums.len() / 4),
        cost: stream(&[&dsums, &dsums], 2.0 * sizes.taps as f64),
    })?;
    let Some(dtaps) = dtaps else { return Ok(()) };
    dtaps.expect_shape("the gradient of a delta net's taps", 1, taps.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_taps",
        constants: constants(sizes),
        params: &params,
        bind: &[raw, links.tensor(), &dsums, dtaps],
        groups: lanes(&SOURCE, rec.variant(), sizes.mixed() / 4),
        cost: stream(&[&dsums, &dsums], 2.0 * sizes.taps as f64),
    })
}

/// Memory for what `slots` sequences keep of their last rows, with arbitrary content.
///
/// # Errors
/// Out of memory.
pub(crate) fn room(gpu: &Gpu, slots: usize, sizes: &Sizes) -> Result<Tensor> {
    gpu.empty(slots, sizes.taps.saturating_sub(1).max(1) * sizes.mixed())
}

/// Keeps for slot `slot[e]` what a sequence needs that goes on behind row `row[e]`; both are `[E]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn keep(
    rec: &mut Recorder,
    sizes: &Sizes,
    (raw, links): (&Tensor, &Links),
    (row, slot): (&Tensor, &Tensor),
    past: &Tensor,
) -> Result<()> {
    sizes.expect(raw)?;
    links.expect(raw.rows())?;
    slot.expect_shape("the slots", 1, row.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "keep",
        constants: constants(sizes),
        params: &params(sizes, row.cols()),
        bind: &[raw, links.tensor(), row, slot, past],
        groups: several(&SOURCE, rec.variant(), row.cols() * sizes.mixed() / 4),
        cost: stream(&[row], 0.0),
    })
}

/// Queries, keys and values `[N, q | k | v]` of one more row of each sequence, and what they keep from now on.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn step(
    rec: &mut Recorder,
    sizes: &Sizes,
    raw: &Tensor,
    slot: &Tensor,
    taps: &Tensor,
    past: &Tensor,
) -> Result<Tensor> {
    sizes.expect(raw)?;
    slot.expect_vector("the slots of a step", raw.rows())?;
    taps.expect_shape("the taps of a delta net", 1, sizes.taps * sizes.mixed())?;
    let mixed = rec.gpu().empty(raw.rows(), sizes.mixed())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "step",
        constants: constants(sizes),
        params: &params(sizes, raw.rows()),
        bind: &[raw, slot, taps, past, &mixed],
        groups: lanes(&SOURCE, rec.variant(), heads(sizes, raw.rows())),
        cost: stream(&[&mixed, &mixed, past], operations(sizes)),
    })?;
    Ok(mixed)
}
