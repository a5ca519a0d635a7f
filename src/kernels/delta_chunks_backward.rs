//! The gradients of the gated delta rule in chunks of rows. What a chunk passes on to the one before it adds up over
//! the chunks behind that one, in their order.

use super::delta::{Chunks, Grads, Ruled, Sizes};
use super::delta_chunks::{Solved, params, solve, with_state, within};
use super::sizes::{bytes, lanes};
use crate::Result;
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor, pad4};
use std::ops::Range;

pub(super) static STATES: Source = Source {
    name: "delta_chunks_backward",
    soft: include_str!("../../shaders/delta_chunks_backward.wgsl"),
    tile: include_str!("../../shaders/delta_chunks_backward.wgsl"),
    libs: &["grid", "delta", "chunks"],
    tile_size: 64,
};

pub(super) static INPUTS: Source = Source {
    name: "delta_chunks_inputs",
    soft: include_str!("../../shaders/delta_chunks_inputs.wgsl"),
    tile: include_str!("../../shaders/delta_chunks_inputs.wgsl"),
    libs: &["grid", "delta"],
    tile_size: 64,
};

/// A recorder, and what all launches of a backward pass read.
struct Pass<'a, 'g> {
    rec: &'a mut Recorder<'g>,
    sizes: &'a Sizes,
    chunks: &'a Chunks,
}

impl Pass<'_, '_> {
    /// A launch with `items` lanes for each of `of`'s chunks.
    fn launch(
        &mut self,
        (source, entry): (&'static Source, &'static str),
        of: &Range<usize>,
        items: usize,
        bind: &[&Tensor],
        flops: f64,
    ) -> Result<()> {
        let outputs = bind.last().map_or(0.0, |out| bytes(&[out]));
        self.rec.launch(Launch {
            source,
            entry,
            constants: vec![],
            params: &params(self.sizes, self.chunks, of),
            bind,
            groups: lanes(source, self.rec.variant(), of.len() * items),
            cost: Cost::new(flops, outputs * (of.len() as f64 / self.chunks.count().max(1) as f64).min(1.0)),
        })
    }
}

/// The gradients from d_o, that by what the queries read, and from the gates with their sums.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    sizes: &Sizes,
    (mixed, gates): (&Tensor, &Tensor),
    chunks: &Chunks,
    ruled: &Ruled,
    d_o: &Tensor,
) -> Result<Grads> {
    d_o.expect_shape("the gradient by a delta net's output", chunks.rows, sizes.values())?;
    let gpu = rec.gpu().clone();
    let values = || gpu.empty(chunks.rows, sizes.values());
    let (unused, du) = (values()?, values()?);
    let Solved { scores, inverse, keys } = solve(rec, sizes, (mixed, gates), chunks, &unused)?;
    let dr = unused;
    let dstate = gpu.empty(ruled.ends.rows(), ruled.ends.cols())?;
    let dqk = gpu.empty(chunks.rows, 3 * sizes.keys_of_values())?;
    let both = gpu.empty(chunks.rows, 2 * sizes.value_heads * chunks.size)?;
    let ends = gpu.empty(chunks.count() * pad4(sizes.key_dim), sizes.gate())?;
    let dgates = gpu.empty(chunks.rows, 2 * sizes.gate())?;
    let (table, all, heads) = (&chunks.table, chunks.all(), sizes.value_heads);
    let (k4, v4, tiles) = (pad4(sizes.key_dim) / 4, pad4(sizes.value_dim) / 4, chunks.size / 4);
    let pairs = |columns| within(sizes, chunks, columns);
    let states = |of: &Range<usize>| with_state(sizes, chunks, of);
    let mut pass = Pass { rec, sizes, chunks };
    pass.launch((&STATES, "across"), &all, heads * tiles * v4, &[table, &scores, d_o, &du], pairs(4 * v4))?;
    for level in chunks.levels.iter().rev() {
        let bind = [table, mixed, gates, &dstate, &du];
        pass.launch((&STATES, "leave"), level, heads * tiles * v4, &bind, states(level))?;
        // What begins a path passes nothing on.
        if level.start > 0 {
            let bind = [table, mixed, gates, &keys, d_o, &du, &dstate];
            pass.launch((&STATES, "back"), level, heads * k4 * v4, &bind, 2.0 * states(level))?;
        }
    }
    pass.launch((&STATES, "across"), &all, heads * tiles * v4, &[table, &inverse, &du, &dr], pairs(4 * v4))?;
    let bind = [table, &ruled.ends, &dstate, &ends];
    pass.launch((&STATES, "finals"), &all, sizes.gate() * 4 * k4, &bind, 0.0)?;
    let bind = [table, gates, d_o, &dr, &ruled.u, &both];
    pass.launch((&INPUTS, "pairs"), &all, heads * tiles * tiles, &bind, 2.0 * pairs(4 * v4))?;
    let bind = [table, mixed, gates, &ruled.ends, d_o, &dr, &both, &dqk];
    pass.launch((&INPUTS, "reads"), &all, heads * tiles * k4, &bind, 2.0 * (states(&all) + pairs(4 * k4)))?;
    let bind = [table, mixed, gates, &dstate, &ruled.u, &both, &dqk];
    pass.launch((&INPUTS, "writes"), &all, heads * tiles * k4, &bind, states(&all) + 2.0 * pairs(4 * k4))?;
    let bind = [mixed, gates, &dqk, &dr, &ruled.u, &dgates];
    pass.launch((&INPUTS, "by_gates"), &(0..chunks.rows), sizes.gate(), &bind, 0.0)?;
    Ok(Grads { dqk, dr, dgates, ends })
}
