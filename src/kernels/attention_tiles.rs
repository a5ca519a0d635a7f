//! Attention and its gradients on adapters that run on the CPU, for heads of more than 16 channels: tiles of 16 queries and 16 keys, whose
//! weights go through memory, between products like `super::matmul`'s. A lane that holds whole rows instead, as in `super::attention`
//! and `super::attention_backward`, has them in arrays that such an adapter reads lane by lane.

use super::attention::{Attended, Mask, forward, heads_fit, random_forest, scale, twin};
use super::attention_backward::{row_delta, twin_backward};
use super::rope::{Heads, head_matrix, pad_heads};
use super::{Case, Kernel, bytes, word};
use crate::Result;
use crate::gpu::{Cost, Gpu, LANES, Launch, Recorder, Source, Tensor, Variant, WIDE};
use std::ops::Range;

static SOURCE: Source = Source {
    name: "attention_tiles",
    soft: include_str!("../../shaders/attention_tiles.wgsl"),
    tile: "",
    libs: &[],
    tile_size: 8,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention and its gradients by tiles, on software adapters",
    constants: &[&[("SOFTMAX", 0), ("COUNT", 0)], &[("SOFTMAX", 1), ("COUNT", 0)]],
    ordered: &[],
    cases,
};

/// Queries and keys of a tile.
const QUERIES: usize = 16;
const KEYS: usize = 16;

/// Tiles of a head whose weights are in memory at a time, 16 MiB of them: what they are read from is a cache.
const MOST_TILES: usize = (16 << 20) / (4 * QUERIES * KEYS);

/// Whether the forward pass goes by tiles: its softmax needs lanes that hand each other numbers, and sums it in an order of its own.
pub(super) fn suits_forward(rec: &Recorder, heads: Heads) -> bool {
    suits(rec, heads) && rec.gpu().has_lanes() && !rec.invariant()
}

/// Whether the gradients of heads of this width are quicker by tiles.
pub(super) fn suits(rec: &Recorder, heads: Heads) -> bool {
    rec.variant() == Variant::Soft && heads.padded() > 16
}

/// The tiles of a mask that hold a visible pair.
pub(super) struct Tiles {
    /// Where each query block's tiles begin, then the key block of each tile.
    by_query: Tensor,
    /// Where each key block's part begins, then the tile and the query block of each.
    by_key: Tensor,
    /// The beginning of `by_query`.
    starts: Vec<u32>,
}

impl Tiles {
    /// By end, root and position of every row, and the window.
    pub(super) fn new(gpu: &Gpu, rows: &[[u32; 3]], window: u32) -> Result<Tiles> {
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

    fn count(&self) -> usize {
        self.starts.last().map_or(0, |n| *n as usize)
    }

    fn tiles(&self, blocks: &Range<usize>) -> Range<usize> {
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

/// Heads and query blocks whose weights are in memory together.
struct Chunk {
    head0: usize,
    heads: usize,
    blocks: Range<usize>,
    tiles: Range<usize>,
}

/// Cuts the work so that no chunk has more than `most` tiles of a head; heads that share keys stay together.
fn chunks(tiles: &Tiles, heads: Heads, most: usize) -> Vec<Chunk> {
    let (group, blocks) = (heads.heads / heads.kv_heads, tiles.starts.len() - 1);
    let fitting = most / tiles.count().max(1) / group * group;
    let here = fitting.clamp(group, heads.heads);
    let mut all = Vec::new();
    for head0 in (0..heads.heads).step_by(here) {
        let here = here.min(heads.heads - head0);
        let mut first = 0;
        while first < blocks {
            let fits = |last: &usize| tiles.tiles(&(first..*last)).len() * here <= most;
            let last = (first + 2..=blocks).take_while(fits).last().unwrap_or(first + 1);
            all.push(Chunk { head0, heads: here, blocks: first..last, tiles: tiles.tiles(&(first..last)) });
            first = last;
        }
    }
    all
}

/// What all launches over one mask share.
struct Work<'a> {
    qkv: &'a Tensor,
    heads: Heads,
    mask: &'a Mask,
    tiles: &'a Tiles,
}

/// Rows that a product reads or writes: a tensor, and the vec4 of a row before its first head.
type Rows<'a> = (&'a Tensor, usize);

impl<'a> Work<'a> {
    /// With its chunks of at most so many tiles of a head, and the most tiles that one of them has.
    fn in_chunks(
        gpu: &Gpu,
        (qkv, heads): (&'a Tensor, Heads),
        mask: &'a Mask,
        most: usize,
    ) -> Result<(Work<'a>, Vec<Chunk>, usize)> {
        heads_fit(qkv, heads)?;
        let tiles = mask.tiles(gpu)?;
        let chunks = chunks(tiles, heads, most);
        let rows = chunks.iter().map(|c| c.heads * c.tiles.len()).max().unwrap_or(0);
        Ok((Work { qkv, heads, mask, tiles }, chunks, rows))
    }

    fn launch(&self, rec: &mut Recorder, chunk: &Chunk, pass: &Pass) -> Result<()> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let mut params = vec![self.qkv.rows, heads, kv_heads, self.qkv.ld / 4, self.heads.padded() / 4];
        params.extend([scale(self.mask, self.heads).to_bits() as usize, self.mask.window as usize]);
        params.extend([chunk.head0, chunk.heads, chunk.blocks.start, chunk.tiles.start, chunk.tiles.len()]);
        params.extend(pass.places);
        let counted = self.mask.work.as_ref().filter(|_| pass.counts);
        let gpu = rec.gpu();
        let words = gpu.has_wide_words().then_some(WIDE).into_iter().chain(gpu.has_lanes().then_some(LANES));
        let own = [("SOFTMAX", u32::from(pass.softmax)), ("COUNT", u32::from(counted.is_some()))];
        let pairs =
            (chunk.heads * chunk.tiles.len()) as f64 / (heads * self.tiles.count().max(1)) as f64 * self.mask.area;
        let bind: Vec<&Tensor> = pass.bind.iter().copied().chain(counted).collect();
        rec.launch(Launch {
            source: &SOURCE,
            entry: pass.entry,
            constants: own.into_iter().chain(words).collect(),
            params: params.iter().map(|x| word(*x, "an attention size")).collect::<Result<_>>()?,
            bind: &bind,
            groups: pass.groups.map(|n| n as u32),
            cost: Cost::new(2.0 * pass.products * pairs * heads as f64 * head_dim as f64, bytes(&bind)),
        })
    }

    /// Workgroups over the channels of a head.
    fn columns(&self) -> usize {
        (self.heads.padded() / 4).div_ceil(8)
    }

    /// P of all tiles, and dS unless this is the forward pass.
    fn weigh(&self, rec: &mut Recorder, chunk: &Chunk, bind: &[&Tensor], forward: bool) -> Result<()> {
        let (entry, products) = if forward { ("weights", 1.0) } else { ("scores", 2.0) };
        let groups = [chunk.blocks.len(), chunk.heads, 1];
        let pass = Pass { entry, groups, bind, products, counts: forward, softmax: false, places: [0; 6] };
        self.launch(rec, chunk, &pass)
    }

    /// dQ by dS and k, or, divided by the sum of P where that is given, the output by P and v.
    fn to_queries(
        &self,
        rec: &mut Recorder,
        chunk: &Chunk,
        (w, from): (&Tensor, usize),
        (b, c): (Rows, Rows),
        sum: Option<&Tensor>,
    ) -> Result<()> {
        let groups = [chunk.blocks.len(), chunk.heads, self.columns()];
        let bind = [w, b.0, &self.tiles.by_query, sum.unwrap_or(w), c.0];
        let (counts, softmax, places) = (sum.is_none(), sum.is_some(), places(b, c, false, from));
        let pass = Pass { entry: "to_queries", groups, bind: &bind, products: 1.0, counts, softmax, places };
        self.launch(rec, chunk, &pass)
    }

    /// dV by P and dO, dK by dS, which lies behind P, and q.
    fn to_keys(
        &self,
        rec: &mut Recorder,
        chunk: &Chunk,
        (w, from): (&Tensor, usize),
        (b, c): (Rows, Rows),
    ) -> Result<()> {
        let group = self.heads.heads / self.heads.kv_heads;
        let groups = [self.qkv.rows.div_ceil(KEYS), chunk.heads / group, self.columns()];
        let bind = [w, b.0, &self.tiles.by_key, c.0];
        // Of the two sums over the same tiles one counts.
        let (counts, places) = (from > 0, places(b, c, chunk.blocks.start > 0, from));
        let pass = Pass { entry: "to_keys", groups, bind: &bind, products: 1.0, counts, softmax: false, places };
        self.launch(rec, chunk, &pass)
    }
}

/// Where a product finds its rows: ldb4, b0, ldc4, c0, whether it adds, and the vec4 before its weights.
fn places((b, b0): Rows, (c, c0): Rows, add: bool, from: usize) -> [usize; 6] {
    [b.ld / 4, b0, c.ld / 4, c0, usize::from(add), from]
}

/// One launch over a chunk.
struct Pass<'a> {
    entry: &'static str,
    groups: [usize; 3],
    bind: &'a [&'a Tensor],
    /// The `[T, T]`-sized products.
    products: f64,
    /// Whether it counts what it computes, where that is asked for.
    counts: bool,
    /// Whether what is summed is divided by the sum of the weights.
    softmax: bool,
    places: [usize; 6],
}

/// As [`super::attention::forward`], into `out`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(super) fn attend(rec: &mut Recorder, (qkv, heads): (&Tensor, Heads), mask: &Mask, out: &Attended) -> Result<()> {
    attend_in_chunks(rec, (qkv, heads), mask, out, MOST_TILES)
}

/// The same with at most so many tiles of a head in memory.
fn attend_in_chunks(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    mask: &Mask,
    out: &Attended,
    most: usize,
) -> Result<()> {
    let (work, chunks, rows) = Work::in_chunks(rec.gpu(), (qkv, heads), mask, most)?;
    let (w, sum) = (rec.gpu().empty(rows, QUERIES * KEYS)?, rec.gpu().empty(1, qkv.rows * heads.heads)?);
    let values = (heads.heads + heads.kv_heads) * heads.padded() / 4;
    for chunk in &chunks {
        let bind = [qkv, &mask.end, &mask.pos, &work.tiles.by_query, &out.lse, &sum, &w];
        work.weigh(rec, chunk, &bind, true)?;
        work.to_queries(rec, chunk, (&w, 0), ((qkv, values), (&out.o, 0)), Some(&sum))?;
    }
    Ok(())
}

/// The gradient by attention's output and what the way back needs besides, `[T, H D]` and `[T, H]` each.
#[derive(Clone, Copy)]
pub(super) struct Gradient<'a> {
    pub(super) d_o: &'a Tensor,
    pub(super) lse: &'a Tensor,
    pub(super) delta: &'a Tensor,
}

/// As [`super::attention_backward::backward`], behind its `row_delta`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(super) fn backward(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    mask: &Mask,
    grad: Gradient,
    dqkv: &Tensor,
) -> Result<()> {
    backward_in_chunks(rec, (qkv, heads), mask, grad, dqkv, MOST_TILES / 2)
}

/// The same with at most so many tiles of a head in memory.
fn backward_in_chunks(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    mask: &Mask,
    grad: Gradient,
    dqkv: &Tensor,
    most: usize,
) -> Result<()> {
    let (work, chunks, rows) = Work::in_chunks(rec.gpu(), (qkv, heads), mask, most)?;
    let w = rec.gpu().empty(2 * rows, QUERIES * KEYS)?;
    let d4 = heads.padded() / 4;
    let (keys, values) = (heads.heads * d4, (heads.heads + heads.kv_heads) * d4);
    let Gradient { d_o, lse, delta } = grad;
    for chunk in &chunks {
        let ds = chunk.heads * chunk.tiles.len() * QUERIES * KEYS / 4;
        let bind = [qkv, d_o, &mask.end, &mask.pos, &work.tiles.by_query, lse, delta, &w];
        work.weigh(rec, chunk, &bind, false)?;
        work.to_queries(rec, chunk, (&w, ds), ((qkv, keys), (dqkv, 0)), None)?;
        work.to_keys(rec, chunk, (&w, 0), ((d_o, 0), (dqkv, values)))?;
        work.to_keys(rec, chunk, (&w, ds), ((qkv, 0), (dqkv, keys)))?;
    }
    Ok(())
}

/// `super::attention_backward` compares heads of all kinds; here the work is cut into many chunks.
fn cases() -> Vec<Case> {
    let shapes = [(70, 3, 1, 32), (45, 4, 2, 40), (131, 2, 2, 36), (33, 2, 1, 20)];
    let all = shapes.into_iter().flat_map(|shape| [None, Some(9)].map(|window| (shape, window)));
    let case = |((rows, heads, kv_heads, head_dim), window): ((usize, usize, usize, usize), Option<usize>)| {
        let name = format!("{rows}x{heads}/{kv_heads}x{head_dim} window={window:?} in chunks of 12 tiles");
        Case::new(name, 2e-5, move |t| {
            let h = Heads { heads, kv_heads, head_dim };
            let forest = random_forest(t, rows);
            let mask = Mask::new(t.gpu, &forest, window)?;
            let (qkv, host) = head_matrix(t, forest.len(), heads + 2 * kv_heads, head_dim)?;
            let (d_o, hd) = head_matrix(t, forest.len(), heads, head_dim)?;
            let out = forward(&mut t.rec, &qkv, h, &mask)?;
            if suits_forward(&t.rec, h) {
                attend_in_chunks(&mut t.rec, (&qkv, h), &mask, &out, 12)?;
                let (o, lse) = twin(&host, h, &forest, mask.window);
                t.expect("o", &out.o, || pad_heads(&o, head_dim));
                t.expect("lse", &out.lse, || lse);
            }
            let delta = row_delta(&mut t.rec, (&qkv, &d_o), h, &mask, &out)?;
            let dqkv = t.gpu.empty(qkv.rows, qkv.cols)?;
            let grad = Gradient { d_o: &d_o, lse: &out.lse, delta: &delta };
            backward_in_chunks(&mut t.rec, (&qkv, h), &mask, grad, &dqkv, 12)?;
            t.expect("dqkv", &dqkv, || pad_heads(&twin_backward(&host, h, &forest, mask.window, &hd), head_dim));
            Ok(())
        })
    };
    all.map(case).collect()
}
