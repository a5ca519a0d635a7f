//! Attention of single rows onto the paged KV arena, split over positions and merged.

use super::arena::{Arena, CHUNK, KvType, PAGE, Rows};
use super::attention::TIED;
use super::case::{Case, Kernel, Trial};
use super::heads::{EXAMPLES, Heads};
use super::inputs::{head_matrix, pad_heads};
use super::rms_norm::Gain;
use super::rope::{self, Rotary, Turn};
use super::scores::{self, Scores};
use super::sizes::lanes;
use super::way::{Traits, Way};
use crate::gpu::Value::{Float, Size, Word};
use crate::gpu::{Cost, LANES, Launch, Recorder, Source, Tensor, Variant, WIDE, fold};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "attention_decode",
    soft: concat!(
        include_str!("../../shaders/attention_decode.wgsl"),
        include_str!("../../shaders/attention_decode.soft.wgsl")
    ),
    tile: concat!(
        include_str!("../../shaders/attention_decode.wgsl"),
        include_str!("../../shaders/attention_decode.tile.wgsl")
    ),
    libs: &["grid", "pages", "operand"],
    tile_size: CHUNK as u32,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention of single rows onto the paged KV arena",
    ways,
    ordered: &Variant::ALL,
    cases,
};

/// What decides how a step's rows attend, besides the device.
#[derive(Clone, Copy, Debug)]
struct Asked {
    heads: Heads,
    /// Rows of the step.
    rows: usize,
    /// Partial sums of a row.
    chunks: usize,
    /// Where q and k turn within attention: the channels that turn, and the QK-norm as [`Rotary::norm`] has it.
    turned: Option<(usize, Option<bool>)>,
    /// The type of the arena.
    kv: KvType,
    /// The scores' soft cap.
    cap: Option<f32>,
    /// Whether the heads have sinks, which `merge` takes account of.
    sinks: bool,
}

impl Asked {
    /// Whether there is nothing to merge.
    fn is_whole(&self) -> bool {
        self.chunks == 1 && !self.sinks
    }
}

/// The entry point with its constants, and its workgroups.
fn choose(traits: &Traits, asked: Asked) -> (Way, [u32; 3]) {
    let Asked { heads, rows, chunks, turned, kv, cap, .. } = asked;
    let d4 = heads.padded() / 4;
    let items = rows * heads.heads * chunks;
    let mut constants = vec![("D4", d4 as u32), ("CHUNK", CHUNK as u32), ("WHOLE", u32::from(asked.is_whole()))];
    constants.extend(kv.constants());
    constants.extend(scores::constant(cap));
    if traits.variant == Variant::Tile && !traits.invariant {
        return (Way::new(&SOURCE, traits, "chunk", constants), fold(items));
    }
    if !beside(traits, heads) {
        // As in the attention of scoring.
        let at_once = if traits.variant == Variant::Soft && d4 > 4 && !traits.invariant { 4 } else { 1 };
        constants.push(("NB", at_once));
        return (Way::new(&SOURCE, traits, "split", constants), lanes(&SOURCE, traits.variant, items));
    }
    let share = d4.div_ceil(LANES.1 as usize);
    // Each vec4 of a query head is 8 of a lane's registers.
    let together = heads.together((8 / share).clamp(1, 4));
    constants.extend([("HQ", together as u32), ("SHARE", share as u32), ("AT_ONCE", LANES.1), LANES]);
    // Of one row keys and values come from memory (as in a product of few rows), of several often from a cache.
    constants.extend((rows > 1 && traits.wide_words).then_some(WIDE));
    let entry = if turned.is_some() { "turned" } else { "group" };
    if let Some((turned, norm)) = turned {
        constants.push(("HALF4", turned as u32 / 8));
        constants.extend(rope::norm_constants(norm));
    }
    (Way::new(&SOURCE, traits, entry, constants), fold(items / together))
}

/// The pipeline that adds up the chunks of another: it sees no scores.
fn merging(mut way: Way, sinks: bool) -> Way {
    way.constants.retain(|(name, _)| *name != scores::NAME);
    way.constants.push(("SINK", u32::from(sinks)));
    Way { entry: "merge", ..way }
}

/// Whether lanes stand side by side over the channels of a head; in a narrower one some would have none.
fn beside(traits: &Traits, heads: Heads) -> bool {
    traits.lanes && !traits.invariant && heads.padded() / 4 >= LANES.1 as usize
}

/// Whether q and k turn within attention: in vec4 no head has padding, and the pairs of channels lie whole vec4 apart.
fn turns_within(traits: &Traits, heads: Heads, turned: usize) -> bool {
    beside(traits, heads) && heads.head_dim.is_multiple_of(4) && turned.is_multiple_of(8)
}

fn ways(traits: &Traits) -> Vec<Way> {
    let mut all = Vec::new();
    for (heads, turned) in EXAMPLES {
        let sizes = [(1, 1), (1, 2), (2, 1), (2, 2)];
        for ((rows, chunks), kv) in sizes.into_iter().flat_map(|size| KvType::ALL.map(|kv| (size, kv))) {
            let norms = [None, Some(false), Some(true)].map(|norm| Some((turned, norm)));
            let within = norms.into_iter().filter(|_| turned > 0 && turns_within(traits, heads, turned));
            for turned in within.chain([None]) {
                for (cap, sinks) in scores::examples(heads).map(|cap| (cap, false)).chain([(None, true)]) {
                    let asked = Asked { heads, rows, chunks, turned, kv, cap, sinks };
                    let (way, _) = choose(traits, asked);
                    all.extend((!asked.is_whole()).then(|| merging(way.clone(), sinks)));
                    all.push(way);
                }
            }
        }
    }
    all
}

/// o `[B, H pad4(head_dim)]` of rotated rows qkv `[B, width]`, whose own k and v are already in the arena.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, qkv: &Tensor, heads: Heads, arena: &Arena, rows: &Rows) -> Result<Tensor> {
    attend(rec, (qkv, heads), arena, rows, None)
}

/// o `[B, H pad4(head_dim)]` of raw rows `[B, width]`, each of a sequence of its own: their q and k are rotated, and
/// their k and v go to the arena. The raw rows may be overwritten.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn step(rec: &mut Recorder, raw: &Tensor, place: &Rotary, arena: &Arena, rows: &Rows) -> Result<Tensor> {
    let heads = place.heads;
    let traits = Traits::of(rec);
    // 8 bindings have no room for sections of the angles.
    let within = |turn: &Turn| turn.from_zero && turns_within(&traits, heads, turn.angle.cols());
    let Some(turn) = place.turn.filter(|turn| place.growth.is_none() && within(turn)) else {
        rope::decode(rec, place, raw, rows, arena)?;
        return forward(rec, raw, heads, arena, rows);
    };
    attend(rec, (raw, heads), arena, rows, Some((place, turn)))
}

fn attend(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    arena: &Arena,
    rows: &Rows,
    turns: Option<(&Rotary, &Turn)>,
) -> Result<Tensor> {
    let (b, gpu, chunks) = (qkv.rows(), rec.gpu(), rows.chunks());
    heads.expect(qkv)?;
    arena.expect(heads)?;
    rows.expect(b)?;
    if let Some((place, turn)) = turns {
        place.expect(qkv)?;
        if turn.angle.rows() < rows.longest {
            let (held, longest) = (turn.angle.rows(), rows.longest);
            return Err(Error::Bug(format!("angles of {held} positions for rows that see {longest}")));
        }
    }
    let d4 = heads.padded() / 4;
    let o = gpu.empty(b, heads.heads * heads.padded())?;
    // Behind the chunks' numerators their maxima and sums.
    let turned = turns.map(|(place, turn)| (turn.angle.cols(), place.norm()));
    let cap = rows.scores.cap;
    let asked = Asked { heads, rows: b, chunks, turned, kv: arena.kv, cap, sinks: rows.sinks.is_some() };
    let part = if asked.is_whole() { o.clone() } else { gpu.empty(1, b * heads.heads * chunks * (d4 + 1) * 4)? };
    let eps = turns.and_then(|(place, _)| place.qk_norm).map_or(0.0, |(_, eps)| eps);
    let params = [
        ("rows", Size(b)),
        ("heads", Size(heads.heads)),
        ("kv_heads", Size(heads.kv_heads)),
        ("ld4", Size(qkv.ld() / 4)),
        ("scale", Float(rows.scores.factor(heads))),
        ("window", Word(rows.window)),
        ("chunks", Size(chunks)),
        ("pages", Size(rows.table.ld())),
        ("d4", Size(d4)),
        ("eps", Float(eps)),
        ("cap", Float(scores::parameter(cap))),
    ];
    let (way, groups) = choose(&Traits::of(rec), asked);
    let mut bind = vec![qkv, &arena.keys, &arena.values, &rows.table, &rows.pos, &part];
    if let Some((place, turn)) = turns {
        bind.extend([&turn.angle, place.gain()]);
    }
    let seen = (b * rows.longest * heads.padded()) as f64;
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants.clone(),
        params: &params,
        bind: &bind,
        groups,
        cost: Cost::new(4.0 * seen * heads.heads as f64, (2 * arena.kv.bytes()) as f64 * seen * heads.kv_heads as f64),
    })?;
    if asked.is_whole() {
        return Ok(o);
    }
    let way = merging(way, asked.sinks);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params,
        // What is bound in the place of sinks is not read.
        bind: &[&part, rows.sinks.as_ref().unwrap_or(&rows.pos), &o],
        groups: lanes(&SOURCE, rec.variant(), o.len() / 4),
        cost: Cost::new(2.0 * part.len() as f64, 4.0 * part.len() as f64),
    })?;
    Ok(o)
}

/// The twin, with each row's keys and values in one list: `past[b]` is `[pos + 1, 2, KV, head_dim]`.
pub(crate) fn twin(q: &[f64], heads: Heads, past: &[Vec<f64>], window: usize, scores: Scores) -> Vec<f64> {
    twin_with(q, heads, past, window, scores, None)
}

/// The twin of heads that may have sinks.
fn twin_with(
    q: &[f64],
    heads: Heads,
    past: &[Vec<f64>],
    window: usize,
    scores: Scores,
    sinks: Option<&[f64]>,
) -> Vec<f64> {
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let mut o = vec![0.0; past.len() * h * d];
    for (b, all) in past.iter().enumerate() {
        let len = all.len() / (2 * kv * d);
        let first = len.saturating_sub(window);
        for head in 0..h {
            let (qi, here) = ((b * (h + 2 * kv) + head) * d, (b * h + head) * d);
            let key = |j: usize| (j * 2 * kv + head / (h / kv)) * d;
            let mut each = Vec::new();
            for j in first..len {
                each.push(scores.of((0..d).map(|c| q[qi + c] * all[key(j) + c]).sum(), heads));
            }
            let top = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = each.iter().map(|s| (s - top).exp()).collect();
            let sum = weights.iter().sum::<f64>() + sinks.map_or(0.0, |sinks| (sinks[head] - top).exp());
            for (j, weight) in (first..len).zip(&weights) {
                let value = key(j) + kv * d;
                for c in 0..d {
                    o[here + c] += weight * all[value + c];
                }
            }
            for c in 0..d {
                o[here + c] /= sum;
            }
        }
    }
    o
}

/// Rows of random lengths in an arena of random numbers.
struct Filled {
    arena: Arena,
    rows: Rows,
    pos: Vec<u32>,
    /// Slot of each row's own position.
    own: Vec<usize>,
    /// The keys and values of each row, as [`twin`] takes them.
    past: Vec<Vec<f64>>,
}

impl Filled {
    fn new(t: &mut Trial, b: usize, (heads, kv): (Heads, KvType), longest: usize, window: usize) -> Result<Filled> {
        let Heads { kv_heads, head_dim, .. } = heads;
        let (pages, padded) = (longest.div_ceil(PAGE), heads.padded());
        let pos: Vec<u32> = (0..b).map(|i| if i == 0 { longest - 1 } else { t.below(longest) } as u32).collect();
        // Pages of all rows, in an order that no row finds consecutive.
        let table: Vec<u32> = (0..b * pages).map(|i| ((i * 7 + 3) % (b * pages * 7)) as u32).collect();
        let slot = |row: usize, j: usize| table[row * pages + j / PAGE] as usize * PAGE + j % PAGE;
        let held = b * pages * 7 * PAGE * kv_heads;
        let (mut keys, mut values) = (vec![0f32; held * padded], vec![0f32; held * padded]);
        let mut past = Vec::new();
        for (row, last) in pos.iter().enumerate() {
            let mut mine = Vec::new();
            for j in 0..=*last as usize {
                for store in [&mut keys, &mut values] {
                    let each = t.values(kv_heads * head_dim);
                    let v: Vec<f64> = each.iter().map(|x| kv.kept(f64::from(*x))).collect();
                    for (kv, head) in pad_heads(&v, head_dim).chunks_exact(padded).enumerate() {
                        let to = Arena::row(kv_heads, kv, slot(row, j)) * padded;
                        store[to..to + padded].iter_mut().zip(head).for_each(|(to, x)| *to = *x as f32);
                    }
                    mine.extend(v);
                }
            }
            past.push(mine);
        }
        let upload = |all: &[f32]| t.gpu.upload(held * kv.bytes() / 4, padded, &kv.words(all));
        let arena = Arena { keys: upload(&keys)?, values: upload(&values)?, kv };
        let rows = Rows {
            table: t.gpu.upload(b, pages, &table)?,
            pos: t.gpu.vector(&pos)?,
            longest,
            window: window.min(u32::MAX as usize) as u32,
            scores: Scores::default(),
            sinks: None,
        };
        let own = pos.iter().enumerate().map(|(row, j)| slot(row, *j as usize)).collect();
        Ok(Filled { arena, rows, pos, own, past })
    }
}

/// What tells a case in f16 from the same in f32, and one with a cap from the same without.
fn suffix(kv: KvType, scores: Scores) -> &'static str {
    match (kv, scores.cap) {
        (KvType::F32, None) => "",
        (KvType::F32, Some(_)) => " capped",
        (KvType::F16, None) => " f16",
        (KvType::F16, Some(_)) => " f16 capped",
    }
}

fn compare_forward(
    b: usize,
    h: Heads,
    longest: usize,
    window: usize,
    kv: KvType,
    (scores, sunk): (Scores, bool),
) -> Case {
    let Heads { heads, kv_heads, head_dim } = h;
    let suffix = format!("{}{}", suffix(kv, scores), if sunk { " sinks" } else { "" });
    let name = format!("split and merge {b}x{heads}/{kv_heads}x{head_dim} up to {longest} window={window}{suffix}");
    Case::new(name, 1e-5, move |t| {
        let Filled { arena, rows, past, .. } = Filled::new(t, b, (h, kv), longest, window)?;
        let (sinks, hs) = t.matrix(1, heads)?;
        let rows = Rows { scores, sinks: sunk.then_some(sinks), ..rows };
        let (qkv, host) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
        let o = forward(&mut t.rec, &qkv, h, &arena, &rows)?;
        let sinks = sunk.then_some(&hs[..]);
        t.expect("o", &o, || pad_heads(&twin_with(&host, h, &past, window, scores, sinks), head_dim));
        Ok(())
    })
}

fn compare_step(
    b: usize,
    (h, turned): (Heads, usize),
    longest: usize,
    normed: bool,
    kv: KvType,
    scores: Scores,
) -> Case {
    let Heads { heads, kv_heads, head_dim } = h;
    let suffix = suffix(kv, scores);
    let name = format!("step {b}x{heads}/{kv_heads}x{head_dim} turned={turned} up to {longest} norm={normed}{suffix}");
    // Half the distance of two numbers in f16, where a key that was computed in f32 lies between them.
    let tolerance = if kv == KvType::F32 { 1e-5 } else { 5e-4 };
    Case::new(name, tolerance, move |t| {
        let Filled { arena, rows, pos, own, mut past } = Filled::new(t, b, (h, kv), longest, longest)?;
        let rows = Rows { scores, ..rows };
        let (raw, host) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
        let (gain, host_gain) = t.matrix(1, 2 * head_dim)?;
        let inv_freq: Vec<f32> = (0..turned / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / turned as f32)).collect();
        let turn = Turn::new(t.gpu, rope::angles(t.gpu, &[(&inv_freq, longest)], 1.0)?, &vec![0; b])?;
        let weight = Gain { weight: &gain, plus_one: true };
        let qk_norm = normed.then_some((weight, 1e-6));
        let place = Rotary { heads: h, pos: &rows.pos, turn: Some(&turn), qk_norm, growth: None };
        let o = step(&mut t.rec, &raw, &place, &arena, &rows)?;
        let written = match kv {
            KvType::F32 => {
                let all =
                    |slot: &usize| (0..kv_heads).map(|kv| Arena::row(kv_heads, kv, *slot) as u32).collect::<Vec<_>>();
                let own = t.gpu.vector(&own.iter().flat_map(all).collect::<Vec<_>>())?;
                let room = || t.gpu.empty(b * kv_heads, h.padded());
                let (keys, values) = (room()?, room()?);
                super::rows::gather(&mut t.rec, &arena.keys, &own, &keys)?;
                super::rows::gather(&mut t.rec, &arena.values, &own, &values)?;
                Ok((keys, values))
            }
            // Rows are not gathered in f16; other queries read what was written.
            KvType::F16 => {
                let (other, queries) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
                Err((forward(&mut t.rec, &other, h, &arena, &rows)?, queries))
            }
        };
        let gains = if normed { super::rms_norm::whole(&host_gain, true) } else { Vec::new() };
        let rotated = rope::twin(&host, h, &pos, &inv_freq, &gains, f64::from(1e-6f32));
        let width = kv_heads * head_dim;
        let of = |first: usize| {
            rotated.chunks_exact((heads + 2 * kv_heads) * head_dim).map(move |r| &r[first..first + width])
        };
        let (k, v): (Vec<&[f64]>, Vec<&[f64]>) =
            (of(heads * head_dim).collect(), of(heads * head_dim + width).collect());
        for (row, past) in past.iter_mut().enumerate() {
            let last = past.len() - 2 * width;
            let new: Vec<f64> = [k[row], v[row]].concat().iter().map(|x| kv.kept(*x)).collect();
            past[last..].copy_from_slice(&new);
        }
        match written {
            Ok((keys, values)) => {
                t.expect("keys", &keys, || pad_heads(&k.concat(), head_dim));
                t.expect("values", &values, || pad_heads(&v.concat(), head_dim));
            }
            Err((again, queries)) => {
                t.expect("again", &again, || pad_heads(&twin(&queries, h, &past, longest, scores), head_dim));
            }
        }
        t.expect("o", &o, || pad_heads(&twin(&rotated, h, &past, longest, scores), head_dim));
        Ok(())
    })
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let heads = |heads, kv_heads, head_dim| Heads { heads, kv_heads, head_dim };
    let (plain, capped) = (Scores::default(), Scores { scale: Some(0.6), cap: Some(2.5) });
    for (b, h, longest) in [
        (1, heads(1, 1, 10), 1),
        (3, heads(4, 2, 12), 33),
        (9, heads(9, 3, 64), 131),
        (5, heads(5, 1, 40), 129),
        (2, heads(2, 1, 256), 300),
        (33, heads(2, 2, 16), 7),
    ] {
        // The orders of the sums are those of f32.
        for kv in KvType::ALL.into_iter().filter(|kv| *kv == KvType::F32 || longest > 7 && b < 9) {
            all.extend([usize::MAX, 6].map(|window| compare_forward(b, h, longest, window, kv, (plain, false))));
            all.extend((kv == KvType::F32).then(|| compare_forward(b, h, longest, 6, kv, (plain, true))));
        }
        let few = [12, 64].contains(&h.head_dim);
        all.extend(few.then(|| compare_forward(b, h, longest, usize::MAX, KvType::F32, (capped, false))));
        all.extend(few.then(|| compare_forward(b, h, longest, usize::MAX, KvType::F32, (plain, true))));
    }
    for (b, h, turned, longest) in [
        (7, heads(9, 3, 64), 64, 131),
        (3, heads(4, 2, 32), 16, 40),
        (5, heads(8, 1, 40), 40, 129),
        (1, heads(2, 2, 80), 20, 3),
        (2, heads(2, 1, 256), 256, 300),
        (3, heads(3, 1, 12), 6, 40),
    ] {
        let h = (h, turned);
        all.extend([false, true].map(|normed| compare_step(b, h, longest, normed, KvType::F32, plain)));
        all.extend((longest > 3 && longest < 200).then(|| compare_step(b, h, longest, true, KvType::F16, plain)));
        all.extend((b > 5).then(|| compare_step(b, h, longest, false, KvType::F32, capped)));
    }
    all = all.into_iter().map(|case| case.without(TIED)).collect();
    // One row, few of them, and many that continue one prompt.
    let sizes = [(1, 128), (1, 1024), (8, 1024), (64, 1024)];
    for ((b, longest), kv) in sizes.into_iter().flat_map(|size| KvType::ALL.map(|kv| (size, kv))) {
        all.push(Case::timed(format!("{b}x9/3x64 up to {longest}{}", suffix(kv, Scores::default())), move |t| {
            let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
            let pages = longest / PAGE;
            let mut all = || {
                let rows = longest * h.kv_heads;
                let values = t.values(rows * h.head_dim);
                t.gpu.upload(rows * kv.bytes() / 4, h.head_dim, &kv.words(&values))
            };
            let arena = Arena { keys: all()?, values: all()?, kv };
            let (qkv, _) = head_matrix(t, b, h.heads + 2 * h.kv_heads, h.head_dim)?;
            let table: Vec<u32> = (0..b).flat_map(|_| 0..pages as u32).collect();
            let rows = Rows {
                table: t.gpu.upload(b, pages, &table)?,
                pos: t.gpu.vector(&vec![longest as u32 - 1; b])?,
                longest,
                window: u32::MAX,
                scores: Scores::default(),
                sinks: None,
            };
            let o = forward(&mut t.rec, &qkv, h, &arena, &rows)?;
            t.expect("o", &o, Vec::new);
            Ok(())
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, Options};

    #[test]
    fn a_step_goes_by_what_the_device_can_do() {
        let heads = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let (soft, tile) = (Traits::plain(Variant::Soft), Traits::plain(Variant::Tile));
        let able = Traits { lanes: true, wide_words: true, ..soft };
        let ordered = |traits| Traits { invariant: true, ..traits };
        for (traits, rows, chunks, entry, groups, constants) in [
            (tile, 2, 3, "chunk", 54, vec![]),
            (ordered(tile), 2, 3, "split", 1, vec![("NB", 1)]),
            (soft, 2, 3, "split", 7, vec![("NB", 4)]),
            (ordered(able), 2, 1, "split", 3, vec![("NB", 1)]),
            (able, 1, 1, "group", 3, vec![("HQ", 3), ("SHARE", 2), ("AT_ONCE", 8), LANES]),
            (able, 2, 3, "group", 18, vec![("HQ", 3), ("SHARE", 2), ("AT_ONCE", 8), LANES, WIDE]),
        ] {
            for (kv, more) in [(KvType::F32, vec![]), (KvType::F16, vec![("HALF", 2)])] {
                let (way, [x, y, z]) =
                    choose(&traits, Asked { heads, rows, chunks, turned: None, kv, cap: None, sinks: false });
                let whole = u32::from(chunks == 1);
                let all = [&[("D4", 16), ("CHUNK", 128), ("WHOLE", whole)][..], &more, &constants].concat();
                assert_eq!((way.entry, x * y * z, way.constants), (entry, groups, all), "{traits:?}");
            }
        }
        assert!(turns_within(&able, heads, 64) && turns_within(&able, heads, 16));
        assert!(!turns_within(&able, heads, 20) && !turns_within(&ordered(able), heads, 64));
        assert!(!turns_within(&able, Heads { head_dim: 28, ..heads }, 16) && !turns_within(&tile, heads, 64));
    }

    /// One dispatch where lanes load for each other and a head has a vec4 for each, else RoPE has its own.
    #[test]
    fn a_step_turns_within_attention() {
        for plain in [false, true] {
            let gpu = Gpu::with(&Options { variant: Some(Variant::Soft), plain, ..Options::default() }).unwrap();
            for head_dim in [64, 16] {
                let heads = Heads { heads: 3, kv_heads: 1, head_dim };
                let (arena, pos) = (Arena::room(&gpu, 1, heads, KvType::F32).unwrap(), gpu.vector(&[4u32]).unwrap());
                let table = gpu.vector(&[0u32]).unwrap();
                let scores = Scores::default();
                let rows = Rows { table, pos: pos.clone(), longest: 5, window: u32::MAX, scores, sinks: None };
                let angle = rope::angles(&gpu, &[(&vec![0.1; head_dim / 2], 8)], 1.0).unwrap();
                let turn = Turn::new(&gpu, angle, &[0]).unwrap();
                let place = Rotary { heads, pos: &pos, turn: Some(&turn), qk_norm: None, growth: None };
                let (raw, mut rec) = (gpu.zeros(1, heads.width()).unwrap(), gpu.record());
                step(&mut rec, &raw, &place, &arena, &rows).unwrap();
                let fused = gpu.has_lanes() && head_dim == 64;
                assert_eq!(rec.len(), if fused { 1 } else { 2 }, "heads of {head_dim}, plain: {plain}");
            }
        }
    }
}
