//! What the kernels of a gated delta net share: the sizes of its rows, and a forest cut into chunks of rows.

use crate::arch::DeltaNet;
use crate::gpu::Value::Size;
use crate::gpu::{Gpu, Param, Tensor, pad4};
use crate::layout::{Forest, NO_ROW};
use crate::{Error, Result};
use std::ops::Range;

/// The sizes of a gated delta net's rows, in elements; every head is padded to a multiple of 4 channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Heads of queries and of keys.
    pub(crate) key_heads: usize,
    /// Heads of values, a multiple of those of keys.
    pub(crate) value_heads: usize,
    /// Channels of a head of keys, without padding.
    pub(crate) key_dim: usize,
    /// Channels of a head of values, without padding.
    pub(crate) value_dim: usize,
    /// Positions of one sum of the convolution.
    pub(crate) taps: usize,
}

impl Sizes {
    /// The sizes of a net.
    pub(crate) fn of(net: &DeltaNet) -> Sizes {
        let DeltaNet { key_heads, value_heads, key_dim, value_dim, taps } = *net;
        Sizes { key_heads, value_heads, key_dim, value_dim, taps }
    }

    /// Width of all queries, or of all keys.
    pub(crate) fn keys(&self) -> usize {
        self.key_heads * pad4(self.key_dim)
    }

    /// Width of all values.
    pub(crate) fn values(&self) -> usize {
        self.value_heads * pad4(self.value_dim)
    }

    /// Channels of the convolution: queries, keys and values.
    pub(crate) fn mixed(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Numbers of one gate.
    pub(crate) fn gate(&self) -> usize {
        pad4(self.value_heads)
    }

    /// Where the strengths begin in a projected row, behind queries, keys, values and output gates.
    pub(crate) fn strengths(&self) -> usize {
        self.mixed() + self.values()
    }

    /// Width of a projected row.
    pub(crate) fn width(&self) -> usize {
        self.strengths() + 2 * self.gate()
    }

    /// Width of the channels of all heads' keys, one after another, for each head of values.
    pub(super) fn keys_of_values(&self) -> usize {
        self.value_heads * pad4(self.key_dim)
    }

    /// The widest row of an activation: the gradients by queries and keys of each head of values, or its share of the
    /// state behind a chunk, of which many have fewer rows than they may.
    pub(crate) fn widest(&self) -> usize {
        self.width().max(3 * self.keys_of_values()).max(self.state() / 16)
    }

    /// Numbers that a row keeps for the backward pass, where chunks are as long as they may be.
    pub(crate) fn kept(&self, chunk: usize) -> usize {
        self.width() + self.mixed() + 3 * self.gate() + 3 * self.values() + self.state() / chunk.max(1)
    }

    /// Numbers of one sequence's state.
    pub(crate) fn state(&self) -> usize {
        self.keys_of_values() * pad4(self.value_dim)
    }

    /// The four parameters that every text of a delta net ends with.
    pub(super) fn params(&self) -> [Param<'static>; 4] {
        [
            ("hk", Size(self.key_heads)),
            ("hv", Size(self.value_heads)),
            ("k4", Size(pad4(self.key_dim) / 4)),
            ("v4", Size(pad4(self.value_dim) / 4)),
        ]
    }

    /// Refuses heads that do not share keys evenly, and projected rows of another width.
    pub(super) fn expect(&self, raw: &Tensor) -> Result<()> {
        let shares = self.key_heads > 0 && self.value_heads > 0 && self.value_heads.is_multiple_of(self.key_heads);
        match shares && raw.ld() == self.width() {
            true => Ok(()),
            false => Err(Error::Bug(format!("rows {:?} are none of a delta net of {self:?}", raw.shape()))),
        }
    }
}

/// A forest's rows in chunks, none of which goes on behind a row where paths part: each is a piece of one path, and
/// begins with the state behind the chunk before it. Those that can be computed at once stand together.
#[derive(Clone)]
pub(crate) struct Chunks {
    /// Of each its first row, its number of rows, the chunk before it and the first of those behind it; then the next
    /// chunk behind the one before it. `[chunks, 8]` words.
    pub(super) table: Tensor,
    /// The chunk of each row, `[T]`.
    pub(super) of_row: Tensor,
    /// The chunks whose states before them are there once those of the ranges in front are.
    pub(super) levels: Vec<Range<usize>>,
    /// Most rows of a chunk, a multiple of 4.
    pub(super) size: usize,
    /// How many rows there are.
    pub(super) rows: usize,
}

/// One chunk on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) first: usize,
    len: usize,
    before: Option<usize>,
    level: usize,
}

/// Cuts a forest's rows, given by their parents and positions, where paths part and at multiples of `size` positions,
/// so that a path is cut alike whatever stands beside it.
pub(super) fn cut(parents: &[u32], pos: &[u32], size: usize) -> Vec<Chunk> {
    let mut children = vec![0; parents.len()];
    parents.iter().filter(|parent| **parent != NO_ROW).for_each(|parent| children[*parent as usize] += 1);
    let mut all: Vec<Chunk> = Vec::new();
    let mut of_row: Vec<usize> = Vec::new();
    for (row, parent) in parents.iter().enumerate() {
        let parent = Some(*parent as usize).filter(|_| *parent != NO_ROW);
        let goes_on = parent.is_some_and(|parent| parent + 1 == row && children[parent] == 1);
        if goes_on && !(pos[row] as usize).is_multiple_of(size) {
            let last = all.len() - 1;
            all[last].len += 1;
            of_row.push(last);
            continue;
        }
        let before = parent.map(|parent| of_row[parent]);
        let level = before.map_or(0, |before| all[before].level + 1);
        of_row.push(all.len());
        all.push(Chunk { first: row, len: 1, before, level });
    }
    all
}

impl Chunks {
    /// The chunks of a forest, of at most `size` rows each.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &Gpu, forest: &Forest, size: usize) -> Result<Chunks> {
        let size = pad4(size.max(4));
        let chunks = cut(&forest.parents(), &forest.pos, size);
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_by_key(|chunk| chunks[*chunk].level);
        let mut place = vec![0; chunks.len()];
        order.iter().enumerate().for_each(|(at, chunk)| place[*chunk] = at);
        let mut words = vec![[0, 0, NO_ROW, NO_ROW, NO_ROW, 0, 0, 0]; chunks.len()];
        let mut of_row = vec![0; forest.len()];
        for (at, chunk) in order.iter().enumerate() {
            let Chunk { first, len, before, .. } = chunks[*chunk];
            words[at][..3].copy_from_slice(&[first as u32, len as u32, before.map_or(NO_ROW, |b| place[b] as u32)]);
            of_row[first..first + len].fill(at as u32);
        }
        // From the last chunk to the first, so that those behind one come in their order.
        for at in (0..words.len()).rev().filter(|at| chunks[order[*at]].before.is_some()) {
            let before = words[at][2] as usize;
            words[at][4] = words[before][3];
            words[before][3] = at as u32;
        }
        let count = |level| order.iter().filter(|chunk| chunks[**chunk].level == level).count();
        let mut levels: Vec<Range<usize>> = Vec::new();
        while levels.last().map_or(0, |level| level.end) < chunks.len() {
            let begin = levels.last().map_or(0, |level| level.end);
            levels.push(begin..begin + count(levels.len()));
        }
        let table = gpu.upload(words.len(), 8, words.as_flattened())?;
        Ok(Chunks { table, of_row: gpu.vector(&of_row)?, levels, size, rows: forest.len() })
    }

    /// How many chunks there are.
    pub(super) fn count(&self) -> usize {
        self.levels.last().map_or(0, |level| level.end)
    }

    /// All chunks.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.count()
    }
}

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

/// The gradients by what the rule reads.
pub(crate) struct Grads {
    /// Of each head of values those by its query, by its key as it reads and by its key as it is written,
    /// `[T, HV 3 pad4(key_dim)]`.
    pub(super) dqk: Tensor,
    /// That by R, of which that by the value is a part, `[T, HV pad4(value_dim)]`.
    pub(super) dr: Tensor,
    /// That by the sums of g, but for what the states behind chunks give, and that by b, `[T, 2 pad4(HV)]`.
    pub(super) dgates: Tensor,
    /// What the state behind each chunk gives to its last sum, for each channel of the keys,
    /// `[chunks pad4(key_dim), pad4(HV)]`.
    pub(super) ends: Tensor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_where_paths_part_and_at_whole_positions() {
        let mut forest = Forest::new();
        forest.open(&[0; 6]);
        forest.leaf(&[0; 4]);
        forest.leaf(&[0; 1]);
        forest.close();
        forest.open(&[0; 3]);
        forest.leaf(&[0; 2]);
        forest.close();
        let found = cut(&forest.parents(), &forest.pos, 4);
        let of = |first, len, before, level| Chunk { first, len, before, level };
        let want = [
            of(0, 4, None, 0),
            of(4, 2, Some(0), 1),
            of(6, 2, Some(1), 2),
            of(8, 2, Some(2), 3),
            of(10, 1, Some(1), 2),
            of(11, 4, None, 0),
            of(15, 1, Some(5), 1),
        ];
        assert_eq!(found, want);
    }
}
