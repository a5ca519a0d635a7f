//! Attention and its gradients on adapters that run on the CPU, for heads of more than 16 channels: tiles of 16 queries
//! and 16 keys, whose weights go through memory, between products like `super::matmul`'s. A lane that holds whole rows
//! instead, as in `super::attention` and `super::attention_backward`, has them in arrays that such an adapter reads
//! lane by lane.

use super::heads::Heads;
use super::mask::{Attended, KEYS, Mask, QUERIES, Tiles};
use super::scores;
use super::sizes::bytes;
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size, Word};
use crate::gpu::{Cost, Gpu, LANES, Launch, Recorder, Source, Tensor, Variant, WIDE};
use std::ops::Range;

pub(super) static SOURCE: Source = Source {
    name: "attention_tiles",
    soft: concat!(
        include_str!("../../shaders/attention_tiles.wgsl"),
        include_str!("../../shaders/attention_tiles.products.wgsl")
    ),
    tile: "",
    libs: &[],
    tile_size: 8,
};

/// Tiles of a head whose weights are in memory at a time, 16 MiB of them: what they are read from is a cache.
const MOST_TILES: usize = (16 << 20) / (4 * QUERIES * KEYS);

/// Whether the forward pass goes by tiles: its softmax needs lanes that hand each other numbers, and sums it in an
/// order of its own.
pub(super) fn suits_forward(traits: &Traits, heads: Heads) -> bool {
    suits(traits, heads) && traits.lanes && !traits.invariant
}

/// Whether the gradients of heads of this width are quicker by tiles.
pub(super) fn suits(traits: &Traits, heads: Heads) -> bool {
    traits.variant == Variant::Soft && heads.padded() > 16
}

/// The pipeline of `entry`. With `softmax` what is summed is divided by the sum of the weights; with `counts` it counts
/// what it computes.
fn way(traits: &Traits, entry: &'static str, softmax: bool, cap: Option<f32>, counts: bool) -> Way {
    let words = traits.wide_words.then_some(WIDE).into_iter().chain(traits.lanes.then_some(LANES));
    let words = words.chain(scores::constant(cap));
    let own = [("SOFTMAX", u32::from(softmax)), ("COUNT", u32::from(counts))];
    Way::new(&SOURCE, traits, entry, own.into_iter().chain(words).collect::<Vec<_>>())
}

/// All pipelines that launches ask for, none of which counts what it computes.
pub(super) fn ways(traits: &Traits) -> Vec<Way> {
    if traits.variant != Variant::Soft {
        return Vec::new();
    }
    let weighing = |entry| [None, Some(1.0)].map(|cap| way(traits, entry, false, cap, false));
    let mut all = weighing("scores").to_vec();
    all.extend(["to_queries", "to_keys"].map(|entry| way(traits, entry, false, None, false)));
    if traits.lanes && !traits.invariant {
        all.extend(weighing("weights"));
        all.push(way(traits, "to_queries", true, None, false));
    }
    all
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
struct TiledMask<'a> {
    qkv: &'a Tensor,
    heads: Heads,
    mask: &'a Mask,
    tiles: &'a Tiles,
}

/// Rows that a product reads or writes: a tensor, and the vec4 of a row before its first head.
type Rows<'a> = (&'a Tensor, usize);

impl<'a> TiledMask<'a> {
    /// The mask with its chunks of at most `most` tiles of a head, and the most tiles that one of them has.
    fn in_chunks(
        gpu: &Gpu,
        (qkv, heads): (&'a Tensor, Heads),
        mask: &'a Mask,
        most: usize,
    ) -> Result<(TiledMask<'a>, Vec<Chunk>, usize)> {
        heads.expect(qkv)?;
        mask.expect(qkv.rows())?;
        let tiles = mask.tiles(gpu)?;
        let chunks = chunks(tiles, heads, most);
        let rows = chunks.iter().map(|c| c.heads * c.tiles.len()).max().unwrap_or(0);
        Ok((TiledMask { qkv, heads, mask, tiles }, chunks, rows))
    }

    fn launch(&self, rec: &mut Recorder, chunk: &Chunk, pass: &Pass) -> Result<()> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let [ldb4, b0, ldc4, c0, add, from_w] = pass.places;
        let counted = self.mask.work.as_ref().filter(|_| pass.counts);
        let cap = self.mask.scores.cap.filter(|_| pass.weighs);
        let way = way(&Traits::of(rec), pass.entry, pass.softmax, cap, counted.is_some());
        let pairs =
            (chunk.heads * chunk.tiles.len()) as f64 / (heads * self.tiles.count().max(1)) as f64 * self.mask.area;
        let bind: Vec<&Tensor> = pass.bind.iter().copied().chain(counted).collect();
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants,
            params: &[
                ("rows", Size(self.qkv.rows())),
                ("heads", Size(heads)),
                ("kv_heads", Size(kv_heads)),
                ("ld4", Size(self.qkv.ld() / 4)),
                ("d4", Size(self.heads.padded() / 4)),
                ("scale", Float(self.mask.scores.factor(self.heads))),
                ("window", Word(self.mask.window)),
                ("head0", Size(chunk.head0)),
                ("heads_here", Size(chunk.heads)),
                ("block0", Size(chunk.blocks.start)),
                ("tile0", Size(chunk.tiles.start)),
                ("tiles", Size(chunk.tiles.len())),
                ("ldb4", Size(ldb4)),
                ("b0", Size(b0)),
                ("ldc4", Size(ldc4)),
                ("c0", Size(c0)),
                ("add", Size(add)),
                ("from_w", Size(from_w)),
                ("cap", Float(scores::parameter(cap))),
            ],
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
        let places = [0; 6];
        let pass = Pass { entry, groups, bind, products, counts: forward, softmax: false, weighs: true, places };
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
        let entry = "to_queries";
        let pass = Pass { entry, groups, bind: &bind, products: 1.0, counts, softmax, weighs: false, places };
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
        let groups = [self.qkv.rows().div_ceil(KEYS), chunk.heads / group, self.columns()];
        let bind = [w, b.0, &self.tiles.by_key, c.0];
        // Of the two sums over the same tiles one counts.
        let (counts, places) = (from > 0, places(b, c, chunk.blocks.start > 0, from));
        let (entry, softmax) = ("to_keys", false);
        let pass = Pass { entry, groups, bind: &bind, products: 1.0, counts, softmax, weighs: false, places };
        self.launch(rec, chunk, &pass)
    }
}

/// Where a product finds its rows: ldb4, b0, ldc4, c0, whether it adds, and the vec4 before its weights.
fn places((b, b0): Rows, (c, c0): Rows, add: bool, from: usize) -> [usize; 6] {
    [b.ld() / 4, b0, c.ld() / 4, c0, usize::from(add), from]
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
    /// Whether it makes weights of scores.
    weighs: bool,
    /// The places that [`places`] gives; zeros where the pass has no product.
    places: [usize; 6],
}

/// Does what [`super::attention::forward`] does, into `out`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(super) fn attend(rec: &mut Recorder, (qkv, heads): (&Tensor, Heads), mask: &Mask, out: &Attended) -> Result<()> {
    attend_in_chunks(rec, (qkv, heads), mask, out, MOST_TILES)
}

/// Does what [`attend`] does, with at most so many tiles of a head in memory.
pub(super) fn attend_in_chunks(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    mask: &Mask,
    out: &Attended,
    most: usize,
) -> Result<()> {
    let (work, chunks, rows) = TiledMask::in_chunks(rec.gpu(), (qkv, heads), mask, most)?;
    let (w, sum) = (rec.gpu().empty(rows, QUERIES * KEYS)?, rec.gpu().empty(1, qkv.rows() * heads.heads)?);
    let values = (heads.heads + heads.kv_heads) * heads.padded() / 4;
    for chunk in &chunks {
        let bind = [qkv, &mask.end, &mask.pos, &work.tiles.by_query, &out.lse, &sum, &w];
        work.weigh(rec, chunk, &bind, true)?;
        work.to_queries(rec, chunk, (&w, 0), ((qkv, values), (&out.o, 0)), Some(&sum))?;
    }
    Ok(())
}

/// The gradient by attention's output and what the backward pass needs besides, `[T, H D]` and `[T, H]` each.
#[derive(Clone, Copy)]
pub(super) struct Gradient<'a> {
    pub(super) d_o: &'a Tensor,
    pub(super) lse: &'a Tensor,
    pub(super) delta: &'a Tensor,
}

/// Does what [`super::attention_backward::backward`] does after its `row_delta`.
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

/// Does what [`backward`] does, with at most so many tiles of a head in memory.
pub(super) fn backward_in_chunks(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    mask: &Mask,
    grad: Gradient,
    dqkv: &Tensor,
    most: usize,
) -> Result<()> {
    let (work, chunks, rows) = TiledMask::in_chunks(rec.gpu(), (qkv, heads), mask, most)?;
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
