//! The gated delta rule (arXiv 2412.06464) in chunks of rows, whose triangular systems are solved first, so that what
//! has to wait for the state of the chunk before is products.

use super::delta::{Chunks, Ruled, Sizes};
use super::delta_rule::expect;
use super::sizes::{bytes, lanes};
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor, Variant, pad4};
use std::ops::Range;

pub(super) static SOURCE: Source = Source {
    name: "delta_chunks",
    soft: include_str!("../../shaders/delta_chunks.wgsl"),
    tile: include_str!("../../shaders/delta_chunks.wgsl"),
    libs: &["grid", "delta", "chunks"],
    tile_size: 64,
};

/// Most rows of a chunk. What is done within chunks grows with them, what waits for the chunk before gets less.
pub(crate) fn most_rows(variant: Variant) -> usize {
    match variant {
        Variant::Soft => 32,
        Variant::Tile => 64,
    }
}

/// The matrices of the chunks: of what queries read, `[T, HV size]`, the inverse of what keys read, of that shape, and
/// the keys behind it, `[T, HV pad4(key_dim)]`.
pub(super) struct Solved {
    pub(super) scores: Tensor,
    pub(super) inverse: Tensor,
    pub(super) keys: Tensor,
}

pub(super) fn params(sizes: &Sizes, chunks: &Chunks, of: &Range<usize>) -> Vec<Param<'static>> {
    let mut all = vec![("first", Size(of.start)), ("count", Size(of.len())), ("size4", Size(chunks.size / 4))];
    all.extend(sizes.params());
    all
}

/// Multiplications and additions of products of a row of `columns` with the rows of its chunk, in all heads.
pub(super) fn within(sizes: &Sizes, chunks: &Chunks, columns: usize) -> f64 {
    (chunks.rows * sizes.value_heads * chunks.size * columns) as f64
}

/// Those of a row's products with a state.
pub(super) fn with_state(sizes: &Sizes, chunks: &Chunks, of: &Range<usize>) -> f64 {
    2.0 * (chunks.rows * of.len() / chunks.count().max(1) * sizes.state()) as f64
}

/// The matrices of the chunks; `u` gets what keys give to the values on their own.
pub(super) fn solve(
    rec: &mut Recorder,
    sizes: &Sizes,
    (mixed, gates): (&Tensor, &Tensor),
    chunks: &Chunks,
    u: &Tensor,
) -> Result<Solved> {
    expect(sizes, mixed, gates, chunks.rows)?;
    let (gpu, all) = (rec.gpu(), chunks.all());
    let square = || gpu.empty(chunks.rows, sizes.value_heads * chunks.size);
    let (scores, triangle, inverse) = (square()?, square()?, square()?);
    let keys = gpu.empty(chunks.rows, sizes.keys_of_values())?;
    let (items, tiles) = (chunks.count() * sizes.value_heads, chunks.size / 4);
    let (k4, v4) = (pad4(sizes.key_dim) / 4, pad4(sizes.value_dim) / 4);
    let params = params(sizes, chunks, &all);
    let groups = |items| lanes(&SOURCE, rec.variant(), items);
    let (by_scores, by_solve, by_apply) =
        (groups(items * tiles * tiles), groups(items * tiles), groups(items * tiles * (k4 + v4)));
    rec.launch(Launch {
        source: &SOURCE,
        entry: "scores",
        constants: vec![],
        params: &params,
        bind: &[&chunks.table, mixed, gates, &scores, &triangle],
        groups: by_scores,
        cost: Cost::new(2.0 * within(sizes, chunks, 4 * k4), bytes(&[mixed, &scores, &triangle])),
    })?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "solve",
        constants: vec![],
        params: &params,
        bind: &[&chunks.table, &triangle, &inverse],
        groups: by_solve,
        cost: Cost::new(within(sizes, chunks, chunks.size) / 3.0, bytes(&[&triangle, &inverse])),
    })?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "apply",
        constants: vec![],
        params: &params,
        bind: &[&chunks.table, mixed, gates, &inverse, &keys, u],
        groups: by_apply,
        cost: Cost::new(within(sizes, chunks, 4 * (k4 + v4)), bytes(&[mixed, &inverse, &keys, u])),
    })?;
    Ok(Solved { scores, inverse, keys })
}

/// The rule down each path of a forest, from mixed `[T, q | k | v]` and the gates with their sums.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(
    rec: &mut Recorder,
    sizes: &Sizes,
    mixed: &Tensor,
    gates: &Tensor,
    chunks: &Chunks,
) -> Result<Ruled> {
    let ruled = Ruled::room(rec.gpu(), sizes, chunks)?;
    let Ruled { u, o, ends } = &ruled;
    let solved = solve(rec, sizes, (mixed, gates), chunks, u)?;
    let (k4, v4, tiles) = (pad4(sizes.key_dim) / 4, pad4(sizes.value_dim) / 4, chunks.size / 4);
    for level in &chunks.levels {
        let (params, heads) = (params(sizes, chunks, level), level.len() * sizes.value_heads);
        // What begins a path has no state before it.
        if level.start > 0 {
            rec.launch(Launch {
                source: &SOURCE,
                entry: "enter",
                constants: vec![],
                params: &params,
                bind: &[&chunks.table, &solved.keys, ends, u],
                groups: lanes(&SOURCE, rec.variant(), heads * tiles * v4),
                cost: Cost::new(with_state(sizes, chunks, level), 0.0),
            })?;
        }
        rec.launch(Launch {
            source: &SOURCE,
            entry: "carry",
            constants: vec![],
            params: &params,
            bind: &[&chunks.table, mixed, gates, u, ends],
            groups: lanes(&SOURCE, rec.variant(), heads * k4 * v4),
            cost: Cost::new(with_state(sizes, chunks, level), 4.0 * (level.len() * sizes.state()) as f64),
        })?;
    }
    let all = chunks.all();
    rec.launch(Launch {
        source: &SOURCE,
        entry: "query",
        constants: vec![],
        params: &params(sizes, chunks, &all),
        bind: &[&chunks.table, mixed, gates, &solved.scores, ends, u, o],
        groups: lanes(&SOURCE, rec.variant(), chunks.count() * sizes.value_heads * tiles * v4),
        cost: Cost::new(
            with_state(sizes, chunks, &all) + within(sizes, chunks, 4 * v4),
            bytes(&[mixed, &solved.scores, ends, u, o]),
        ),
    })?;
    Ok(ruled)
}
