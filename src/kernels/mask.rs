//! Which rows of a token forest see which: what attention reads of it, and what attention gives.

use super::scores::Scores;
use crate::gpu::{Gpu, Tensor};
use crate::layout::Forest;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The forest's arrays on the GPU, `[T]` each.
#[derive(Clone)]
pub(crate) struct Mask {
    /// End of each row's subtree.
    pub end: Tensor,
    /// First row of each row's tree.
    pub root: Tensor,
    /// Position along the path.
    pub pos: Tensor,
    /// Positions a row sees back, itself included.
    pub window: u32,
    /// What makes a score of a product.
    pub scores: Scores,
    /// (row, visible row) pairs: the work of one head.
    pub area: f64,
    /// End, root and position of every row, from which the tiles are made.
    rows: Arc<[[u32; 3]]>,
    tiles: Arc<OnceLock<Tiles>>,
    /// Where the kernels count what they compute, for tests: (query, key) pairs and jumps of the forward pass, of dQ's
    /// and of dK and dV's, `[6]` words, added up over lanes.
    pub work: Option<Tensor>,
}

impl Mask {
    /// Uploads the arrays.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &Gpu, forest: &Forest, window: Option<usize>) -> Result<Mask> {
        let (end, root, pos) = (gpu.vector(&forest.end)?, gpu.vector(&forest.root)?, gpu.vector(&forest.pos)?);
        let of = |i: usize| [forest.end[i], forest.root[i], forest.pos[i]];
        let rows = (0..forest.len()).map(of).collect();
        let scores = Scores::default();
        let none = Mask { end, root, pos, window: 0, scores, area: 0.0, rows, tiles: Arc::default(), work: None };
        Ok(none.seeing(forest, window, scores))
    }

    /// The mask of these rows with another window and other scores.
    pub(crate) fn seeing(&self, forest: &Forest, window: Option<usize>, scores: Scores) -> Mask {
        let window = window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
        // A row sees its whole path: pos + 1 rows.
        let area = forest.pos.iter().map(|p| f64::from((p + 1).min(window))).sum();
        let tiles = if window == self.window { self.tiles.clone() } else { Arc::default() };
        Mask { window, scores, area, tiles, ..self.clone() }
    }

    /// Refuses another number of rows than the mask has.
    pub(super) fn expect(&self, rows: usize) -> Result<()> {
        if self.rows.len() == rows {
            return Ok(());
        }
        Err(Error::Bug(format!("a mask of {} rows for {rows}", self.rows.len())))
    }

    /// The tiles that hold a visible pair, made when first needed.
    pub(super) fn tiles(&self, gpu: &Gpu) -> Result<&Tiles> {
        if self.tiles.get().is_none() {
            // Whoever was first has made the same.
            let _ = self.tiles.set(Tiles::new(gpu, &self.rows, self.window)?);
        }
        self.tiles.get().ok_or_else(|| Error::Bug("a mask's tiles were not made".into()))
    }
}

/// Output `[T, H pad4(head_dim)]` and log-sum-exp `[T, H]`.
#[derive(Clone)]
pub(crate) struct Attended {
    /// Weighted values.
    pub o: Tensor,
    /// log Σ exp of each row's scores.
    pub lse: Tensor,
}

/// Queries and keys of a tile.
pub(super) const QUERIES: usize = 16;
pub(super) const KEYS: usize = 16;

/// The tiles of a mask that hold a visible pair.
pub(super) struct Tiles {
    /// Where each query block's tiles begin, then the key block of each tile.
    pub(super) by_query: Tensor,
    /// Where each key block's part begins, then the tile and the query block of each.
    pub(super) by_key: Tensor,
    /// The beginning of `by_query`.
    pub(super) starts: Vec<u32>,
}

impl Tiles {
    /// The tiles of rows whose end, root and position are given, under a window.
    fn new(gpu: &Gpu, rows: &[[u32; 3]], window: u32) -> Result<Tiles> {
        let (starts, keys) = tiles(rows, window);
        let mut columns = vec![Vec::new(); rows.len().div_ceil(KEYS)];
        for (block, range) in starts.windows(2).enumerate() {
            for t in range[0]..range[1] {
                columns[keys[t as usize] as usize].push([t, block as u32]);
            }
        }
        let mut by_key = vec![0];
        for column in &columns {
            by_key.push(by_key.last().map_or(0, |n| n + column.len() as u32));
        }
        by_key.extend(columns.iter().flatten().flatten());
        Ok(Tiles { by_query: gpu.vector(&[&starts[..], &keys].concat())?, by_key: gpu.vector(&by_key)?, starts })
    }

    pub(super) fn count(&self) -> usize {
        self.starts.last().map_or(0, |n| *n as usize)
    }

    pub(super) fn tiles(&self, blocks: &Range<usize>) -> Range<usize> {
        self.starts[blocks.start] as usize..self.starts[blocks.end] as usize
    }
}

/// Where each query block's tiles begin (and the last one's end), and the key block of each tile.
fn tiles(rows: &[[u32; 3]], window: u32) -> (Vec<u32>, Vec<u32>) {
    let visible = |i: usize, j: usize| {
        let ([_, _, here], [end, _, there]) = (rows[i], rows[j]);
        j <= i && i < end as usize && here - there < window
    };
    // Of a key block: where the last subtree ends, and the largest position.
    let reach: Vec<(u32, u32)> = rows
        .chunks(KEYS)
        .map(|block| block.iter().fold((0, 0), |(end, pos), row| (end.max(row[0]), pos.max(row[2]))))
        .collect();
    let (mut starts, mut keys) = (vec![0], Vec::new());
    for (block, queries) in rows.chunks(QUERIES).enumerate() {
        let all = block * QUERIES..block * QUERIES + queries.len();
        let root = queries.iter().map(|row| row[1] as usize).min().unwrap_or(0);
        let low = queries.iter().map(|row| row[2]).min().unwrap_or(0);
        for (kb, (end, pos)) in reach.iter().enumerate().take(all.end.div_ceil(KEYS)).skip(root / KEYS) {
            let near = *end as usize > all.start && low.saturating_sub(*pos) < window;
            let within = kb * KEYS..((kb + 1) * KEYS).min(all.end);
            if near && all.clone().any(|i| within.clone().any(|j| visible(i, j))) {
                keys.push(kb as u32);
            }
        }
        starts.push(keys.len() as u32);
    }
    (starts, keys)
}
