//! Attention over the token forest.

use super::arena::CHUNK;
use super::attention_tiles;
use super::case::{Case, Inputs, Kernel, Trial};
use super::heads::{EXAMPLES, Heads};
use super::inputs::{head_matrix, pad_heads, random_forest, sequences};
use super::mask::{Attended, Mask};
use super::scores::{self, Scores};
use super::sizes::stream;
use super::way::{Constant, Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size, Word};
use crate::gpu::{Cost, Gpu, Launch, Param, Recorder, Source, Tensor, Variant, WIDE};
use crate::layout::Forest;

static SOURCE: Source = Source {
    name: "attention",
    soft: include_str!("../../shaders/attention.wgsl"),
    tile: include_str!("../../shaders/attention.wgsl"),
    libs: &["channels", "forest", "parts"],
    tile_size: WORKGROUP as u32,
};

/// Lanes of the tile variant's workgroups: one subgroup on most GPUs, where lanes that wait cost the most.
pub(super) const WORKGROUP: usize = 32;

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "attention over the token forest", ways, ordered: &Variant::ALL, cases };

/// How the lanes of a workgroup share rows and heads. A GPU's registers hold no whole head of 64 channels, and the
/// fewer rows a workgroup has, the fewer of its lanes wait for one another. `docs/RADV.md` has what came of it.
#[derive(Clone, Copy)]
pub(super) struct Sharing {
    /// Lanes that share a row's channels. Where a row's bits must be those of decoding, one lane adds up.
    parts: usize,
    /// Words that a vec4 is read in, so that many lanes can share heads of any width.
    unit: usize,
    /// Heads beside one another in a workgroup, where a row is one lane's.
    abreast: usize,
    /// Query heads that a lane holds: they read the same keys and values, and a load costs more than what is done with
    /// it. On a GPU as many as leave registers for what is read.
    together: usize,
    /// Rows of the other side that are read at a time. Wide heads lie in arrays that a software adapter reads lane by
    /// lane, so each is read once for 8 rows; lanes that share a row meet once for 4. Where the order of sums must be
    /// that of decoding, one row follows the other.
    at_once: usize,
}

impl Sharing {
    /// The sharing in the forward pass and in that of dQ, with partial sums of `chunk` positions; 0 means one sum.
    pub(super) fn new(traits: &Traits, heads: Heads, chunk: usize) -> Sharing {
        let width = heads.padded();
        let none = Sharing { parts: 1, unit: 1, abreast: 1, together: 1, at_once: 1 };
        match (traits.variant, chunk) {
            (Variant::Soft, _) => {
                let at_once = if width > 16 && chunk == 0 { 8 } else { 1 };
                Sharing { together: heads.together(4), at_once, ..none }
            }
            // 5 leave 2 of 32 lanes without work, 7 would leave 4.
            (Variant::Tile, 1..) => {
                let abreast = [4, 3, 5, 2].into_iter().find(|n| heads.heads.is_multiple_of(*n)).unwrap_or(1);
                Sharing { abreast, ..none }
            }
            (Variant::Tile, 0) => {
                // Of at least two words of 16, 8 or 4 bytes a lane; more than 20 channels would leave no registers in
                // dK and dV.
                let parts = |unit: usize| {
                    let fits = |n: &usize| width.is_multiple_of(4 * n / unit) && width >= 8 * n / unit;
                    [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1)
                };
                let fits = |unit: &usize| parts(*unit) > 1 && width <= 20 * parts(*unit);
                let unit = [1, 2, 4].into_iter().find(fits).unwrap_or(4);
                let parts = parts(unit);
                let at_once = if width <= 16 * parts { 4 } else { 2 };
                let together = heads.together((24 * parts / width.max(1)).min(4));
                Sharing { parts, unit, together, at_once, ..none }
            }
        }
    }

    /// The sharing in the pass of dK and dV, where a lane goes through the query heads of a key head one by one.
    pub(super) fn by_keys(traits: &Traits, heads: Heads) -> Sharing {
        Sharing { together: heads.group(), ..Sharing::new(traits, heads, 0) }
    }

    /// What the constants say of it; with `counts` the kernel counts what it computes.
    pub(super) fn constants(
        &self,
        traits: &Traits,
        (heads, cap): (Heads, Option<f32>),
        chunk: usize,
        counts: bool,
    ) -> Vec<Constant> {
        let mut constants = vec![
            ("D4", (heads.padded() / 4) as u32),
            ("PARTS", self.parts as u32),
            ("UNIT", self.unit as u32),
            ("ABREAST", self.abreast as u32),
            ("HQ", self.together as u32),
            ("NB", self.at_once as u32),
            ("QS", self.at_once as u32),
            ("CHUNK", chunk as u32),
            ("COUNT", u32::from(counts)),
        ];
        constants.extend(scores::constant(cap));
        constants.extend(traits.wide_words.then_some(WIDE));
        constants
    }
}

/// Positions of one partial sum of the forward pass, 0 where there is one sum.
fn chunk(traits: &Traits) -> usize {
    if traits.invariant { CHUNK } else { 0 }
}

fn ways(traits: &Traits) -> Vec<Way> {
    let here = EXAMPLES.into_iter().map(|(heads, _)| heads).filter(|h| !attention_tiles::suits_forward(traits, *h));
    let of = |(heads, cap): (Heads, Option<f32>)| {
        let chunk = chunk(traits);
        let constants = Sharing::new(traits, heads, chunk).constants(traits, (heads, cap), chunk, false);
        Way::new(&SOURCE, traits, "forward", constants)
    };
    here.flat_map(|heads| scores::examples(heads).map(move |cap| (heads, cap))).map(of).collect()
}

pub(super) fn params(qkv: &Tensor, heads: Heads, mask: &Mask, head0: usize) -> Result<[Param<'static>; 9]> {
    heads.expect(qkv)?;
    mask.expect(qkv.rows())?;
    Ok([
        ("rows", Size(qkv.rows())),
        ("heads", Size(heads.heads)),
        ("kv_heads", Size(heads.kv_heads)),
        ("ld4", Size(qkv.ld() / 4)),
        ("scale", Float(mask.scores.factor(heads))),
        ("window", Word(mask.window)),
        ("head0", Size(head0)),
        ("d4", Size(heads.padded() / 4)),
        ("cap", Float(scores::parameter(mask.scores.cap))),
    ])
}

/// An entry point of this kernel or of its gradients.
pub(super) struct Pass {
    pub(super) source: &'static Source,
    pub(super) entry: &'static str,
    /// Positions of one partial sum, 0 where there is one sum.
    pub(super) chunk: usize,
    /// Whether lanes hold key rows.
    pub(super) by_keys: bool,
    pub(super) sharing: Sharing,
    /// The `[T, T]`-sized products.
    pub(super) products: f64,
}

/// One dispatch per slice of heads, so that none runs too long.
pub(super) fn by_heads(
    rec: &mut Recorder,
    pass: &Pass,
    qkv: &Tensor,
    heads: Heads,
    mask: &Mask,
    bind: &[&Tensor],
) -> Result<()> {
    let Sharing { parts, abreast, together, .. } = pass.sharing;
    // Of those that a workgroup takes.
    let taken = together * abreast;
    let per_head = 2.0 * pass.products * mask.area * heads.head_dim as f64 * taken as f64;
    let count = heads.heads / taken;
    let block = pass.source.workgroup(rec.variant()) as usize / parts / abreast;
    let head_step = if pass.by_keys { 1 } else { taken };
    let constants = pass.sharing.constants(&Traits::of(rec), (heads, mask.scores.cap), pass.chunk, mask.work.is_some());
    let bind: Vec<&Tensor> = bind.iter().copied().chain(&mask.work).collect();
    let most = ((rec.gpu().flops_per_dispatch() / per_head.max(1.0)) as usize).clamp(1, count);
    (0..count).step_by(most).try_for_each(|first| {
        let here = most.min(count - first);
        rec.launch(Launch {
            source: pass.source,
            entry: pass.entry,
            constants: constants.clone(),
            params: &params(qkv, heads, mask, first * head_step)?,
            bind: &bind,
            groups: [qkv.rows().div_ceil(block) as u32, here as u32, 1],
            cost: Cost::new(per_head * here as f64, stream(&bind, 0.0).bytes * here as f64 / count as f64),
        })
    })
}

/// Attention of rotated rows qkv `[T, width]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, qkv: &Tensor, heads: Heads, mask: &Mask) -> Result<Attended> {
    let gpu = rec.gpu();
    let o = gpu.empty(qkv.rows(), heads.heads * heads.padded())?;
    let lse = gpu.empty(1, qkv.rows() * heads.heads)?;
    let traits = Traits::of(rec);
    if attention_tiles::suits_forward(&traits, heads) {
        let out = Attended { o, lse };
        attention_tiles::attend(rec, (qkv, heads), mask, &out)?;
        return Ok(out);
    }
    let bind = [qkv, &mask.end, &mask.root, &mask.pos, &o, &lse];
    let chunk = chunk(&traits);
    let sharing = Sharing::new(&traits, heads, chunk);
    let pass = Pass { source: &SOURCE, entry: "forward", chunk, by_keys: false, sharing, products: 2.0 };
    by_heads(rec, &pass, qkv, heads, mask, &bind)?;
    Ok(Attended { o, lse })
}

/// (o, lse) of unpadded heads x `[T, H + 2 KV, head_dim]`.
pub(crate) fn twin(x: &[f64], heads: Heads, forest: &Forest, window: u32, scores: Scores) -> (Vec<f64>, Vec<f64>) {
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let at = |t: usize, head: usize| (t * (h + 2 * kv) + head) * d;
    let (mut o, mut lse) = (vec![0.0; forest.len() * h * d], Vec::new());
    for i in 0..forest.len() {
        let seen: Vec<usize> = (0..=i).filter(|j| forest.visible(i, *j, window)).collect();
        for q in 0..h {
            let (k, here) = (h + q / (h / kv), (i * h + q) * d);
            let mut all = Vec::new();
            for j in &seen {
                let (qi, ki) = (at(i, q), at(*j, k));
                all.push(scores.of((0..d).map(|c| x[qi + c] * x[ki + c]).sum(), heads));
            }
            let top = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = top + all.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
            lse.push(log_sum);
            for (j, s) in seen.iter().zip(&all) {
                let (weight, vi) = ((s - log_sum).exp(), at(*j, k + kv));
                for c in 0..d {
                    o[here + c] += weight * x[vi + c];
                }
            }
        }
    }
    (o, lse)
}

/// What attention over a forest is compared by.
#[derive(Clone, Copy)]
pub(super) struct Compared {
    pub(super) heads: Heads,
    pub(super) window: Option<usize>,
    pub(super) scores: Scores,
}

impl Compared {
    /// The mask of a forest.
    pub(super) fn mask(&self, gpu: &Gpu, forest: &Forest) -> Result<Mask> {
        Ok(Mask::new(gpu, forest, None)?.seeing(forest, self.window, self.scores))
    }
}

/// Heads, rows, windows and scores of all kinds.
pub(super) fn compared(compare: fn(&mut Trial, &Forest, Compared) -> Result<()>) -> Vec<Case> {
    let mut all = Vec::new();
    let shapes = [
        (1, 1, 1, 10),
        (7, 4, 2, 12),
        (33, 3, 1, 64),
        (150, 2, 2, 16),
        (45, 6, 2, 40),
        (40, 4, 2, 72),
        (40, 2, 1, 100),
        (70, 4, 1, 128),
        (70, 2, 1, 256),
        (610, 1, 1, 10),
    ];
    for (rows, heads, kv_heads, head_dim) in shapes {
        for window in [None, Some(5)] {
            let heads = Heads { heads, kv_heads, head_dim };
            all.push(Case::new(format!("{rows}x{heads} window={window:?}"), 2e-5, move |t| {
                let forest = random_forest(t, rows);
                compare(t, &forest, Compared { heads, window, scores: Scores::default() })
            }));
        }
    }
    for (rows, heads, kv_heads, head_dim) in [(33, 2, 1, 12), (45, 9, 3, 64), (40, 3, 1, 64)] {
        let heads = Heads { heads, kv_heads, head_dim };
        all.push(Case::new(format!("{rows}x{heads} capped"), 2e-5, move |t| {
            let forest = random_forest(t, rows);
            // Products of up to about head_dim / 3 lie on both sides of the cap.
            let scores = Scores { scale: Some(0.6), cap: Some(2.5) };
            compare(t, &forest, Compared { heads, window: None, scores })
        }));
    }
    for window in [None, Some(140)] {
        // Siblings on both sides of the chunks' borders, in blocks of queries that hold several of them.
        all.push(Case::new(format!("paths of 270 window={window:?}"), 2e-5, move |t| {
            let mut forest = Forest::new();
            forest.open(&[0; 123]);
            for n in [3, 2, 147, 9, 140] {
                forest.leaf(&vec![0; n]);
            }
            forest.close();
            let heads = Heads { heads: 2, kv_heads: 1, head_dim: 12 };
            compare(t, &forest, Compared { heads, window, scores: Scores::default() })
        }));
    }
    all.into_iter().map(|case| case.without(TIED)).collect()
}

/// Products of channels of 10^4 are too large for f32 to tell a tie of scores from the nearest that is none.
pub(super) const TIED: &[Inputs] = &[Inputs::Large];

/// Compares the forward pass over a forest with its twin.
fn compare(t: &mut Trial, forest: &Forest, compared: Compared) -> Result<()> {
    let (h, mask) = (compared.heads, compared.mask(t.gpu, forest)?);
    let (qkv, host) = head_matrix(t, forest.len(), h.heads + 2 * h.kv_heads, h.head_dim)?;
    let out = forward(&mut t.rec, &qkv, h, &mask)?;
    let (o, lse) = twin(&host, h, forest, mask.window, mask.scores);
    t.expect("o", &out.o, || pad_heads(&o, h.head_dim));
    t.expect("lse", &out.lse, || lse);
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all = compared(compare);
    all.push(Case::timed("forward 64x48 rows 4/4x16", |t| {
        let h = Heads { heads: 4, kv_heads: 4, head_dim: 16 };
        let mask = Mask::new(t.gpu, &sequences(64, 48), None)?;
        let (qkv, _) = head_matrix(t, 64 * 48, 12, 16)?;
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        t.expect("o", &out.o, Vec::new);
        Ok(())
    }));
    all.push(Case::timed("forward 4x256 rows 9/3x64", |t| {
        let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let mask = Mask::new(t.gpu, &sequences(4, 256), None)?;
        let (qkv, _) = head_matrix(t, 1024, 15, 64)?;
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        t.expect("o", &out.o, Vec::new);
        Ok(())
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing(traits: &Traits, heads: Heads, chunk: usize) -> [usize; 5] {
        let s = Sharing::new(traits, heads, chunk);
        [s.parts, s.unit, s.abreast, s.together, s.at_once]
    }

    /// Parts of a row, words of a vec4, heads abreast, query heads held together, rows read at once.
    #[test]
    fn lanes_share_rows_as_the_heads_divide() {
        let (soft, tile) = (Traits::plain(Variant::Soft), Traits::plain(Variant::Tile));
        let of = |heads, kv_heads, head_dim| Heads { heads, kv_heads, head_dim };
        for (heads, chunk, on_soft, on_tile) in [
            (of(1, 1, 3), 0, [1, 1, 1, 1, 1], [2, 4, 1, 1, 4]),
            (of(4, 2, 12), 0, [1, 1, 1, 2, 1], [2, 2, 1, 2, 4]),
            (of(9, 3, 64), 0, [1, 1, 1, 3, 8], [8, 1, 1, 3, 4]),
            (of(9, 3, 64), CHUNK, [1, 1, 1, 3, 1], [1, 1, 3, 1, 1]),
            (of(14, 2, 64), CHUNK, [1, 1, 1, 1, 1], [1, 1, 2, 1, 1]),
            (of(1, 1, 100), 0, [1, 1, 1, 1, 8], [4, 4, 1, 1, 2]),
            (of(2, 1, 256), 0, [1, 1, 1, 2, 8], [16, 1, 1, 1, 4]),
        ] {
            assert_eq!(sharing(&soft, heads, chunk), on_soft, "soft {heads:?} {chunk}");
            assert_eq!(sharing(&tile, heads, chunk), on_tile, "tile {heads:?} {chunk}");
        }
    }
}
