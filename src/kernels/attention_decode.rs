//! Attention of single rows onto the paged KV arena, split over positions and merged.

use super::arena::{Arena, CHUNK, PAGE, Rows};
use super::case::{Case, Kernel, Trial};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads};
use super::rms_norm::Gain;
use super::rope::{self, Place, Turn};
use super::sizes::lanes;
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
    libs: &["grid", "pages"],
    tile_size: CHUNK as u32,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention of single rows onto the paged KV arena",
    constants: &[
        &[
            ("D4", 3),
            ("NB", 1),
            ("CHUNK", CHUNK as u32),
            ("WHOLE", 1),
            ("HQ", 1),
            ("SHARE", 3),
            ("AT_ONCE", 1),
            ("HALF4", 1),
            ("QK_NORM", 1),
            ("OFFSET", 1),
        ],
        &[
            ("D4", 64),
            ("NB", 1),
            ("CHUNK", CHUNK as u32),
            ("WHOLE", 0),
            ("HQ", 2),
            ("SHARE", 8),
            ("AT_ONCE", 1),
            ("HALF4", 32),
            ("QK_NORM", 0),
            ("OFFSET", 0),
        ],
    ],
    ordered: &Variant::ALL,
    cases,
};

/// o `[B, H pad4(head_dim)]` of rotated rows qkv `[B, width]`, whose own k and v are already in the arena.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, qkv: &Tensor, heads: Heads, arena: &Arena, rows: &Rows) -> Result<Tensor> {
    let (b, d4, chunks) = (qkv.rows(), heads.padded() / 4, rows.chunks());
    let items = b * heads.heads * chunks;
    let way = match (rec.variant(), rec.invariant()) {
        (Variant::Tile, false) => ("chunk", Vec::new(), fold(items)),
        (Variant::Soft, false) if beside(rec, heads) => by_key_head(rec, "group", heads, (b, chunks)),
        // As in the attention of scoring.
        (variant, ordered) => {
            let together = if variant == Variant::Soft && d4 > 4 && !ordered { 4 } else { 1 };
            ("split", vec![("NB", together)], lanes(&SOURCE, variant, items))
        }
    };
    attend(rec, (qkv, heads), arena, rows, way, None)
}

/// The same of raw rows `[B, width]`, each of a sequence of its own: their q and k turn, and their k and v go to the
/// arena. The raw rows may be overwritten.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn step(rec: &mut Recorder, raw: &Tensor, place: &Place, arena: &Arena, rows: &Rows) -> Result<Tensor> {
    let heads = place.heads;
    // In vec4: no head has padding, and the pairs of channels lie whole vec4 apart; 8 bindings have no room for
    // sections of the angles.
    let even = |turn: &Turn| turn.from_zero && heads.head_dim.is_multiple_of(4) && turn.angle.cols().is_multiple_of(8);
    let soft = rec.variant() == Variant::Soft && !rec.invariant();
    let Some(turn) = place.turn.filter(|turn| soft && beside(rec, heads) && even(turn)) else {
        rope::decode(rec, place, raw, rows, arena)?;
        return forward(rec, raw, heads, arena, rows);
    };
    let mut way = by_key_head(rec, "turned", heads, (raw.rows(), rows.chunks()));
    way.1.push(("HALF4", turn.angle.cols() as u32 / 8));
    way.1.extend(place.normalises());
    attend(rec, (raw, heads), arena, rows, way, Some((place, turn)))
}

/// Whether lanes stand side by side over the channels of a head; in a narrower one some would have none.
fn beside(rec: &Recorder, heads: Heads) -> bool {
    rec.gpu().has_lanes() && heads.padded() / 4 >= LANES.1 as usize
}

/// An entry point, its own constants and its workgroups.
type Way = (&'static str, Vec<(&'static str, u32)>, [u32; 3]);

/// The way of an entry point whose lanes stand so, for `b` rows of so many chunks.
fn by_key_head(rec: &Recorder, entry: &'static str, heads: Heads, (b, chunks): (usize, usize)) -> Way {
    let share = (heads.padded() / 4).div_ceil(LANES.1 as usize);
    // Each vec4 of a query head is 8 of a lane's registers.
    let together = heads.together((8 / share).clamp(1, 4));
    let mut constants = vec![("HQ", together as u32), ("SHARE", share as u32), ("AT_ONCE", LANES.1), LANES];
    // Of one row keys and values come from memory (as in a product of few rows), of several often from a cache.
    constants.extend((b > 1 && rec.gpu().has_wide_words()).then_some(WIDE));
    (entry, constants, fold(b * heads.heads * chunks / together))
}

fn attend(
    rec: &mut Recorder,
    (qkv, heads): (&Tensor, Heads),
    arena: &Arena,
    rows: &Rows,
    (entry, own, groups): Way,
    turns: Option<(&Place, &Turn)>,
) -> Result<Tensor> {
    let (b, gpu, chunks) = (qkv.rows(), rec.gpu(), rows.chunks());
    let fits = qkv.ld() == heads.width() && arena.keys.ld() == heads.padded() && rows.table.rows() == b;
    if !fits || rows.longest > rows.table.cols() * PAGE {
        return Err(Error::Input(format!(
            "decode of {:?} with heads {heads:?}, pages {:?}, {} positions",
            qkv.shape(),
            rows.table.shape(),
            rows.longest
        )));
    }
    let d4 = heads.padded() / 4;
    let o = gpu.empty(b, heads.heads * heads.padded())?;
    // Behind the chunks' numerators their maxima and sums.
    let part = if chunks == 1 { o.clone() } else { gpu.empty(1, b * heads.heads * chunks * (d4 + 1) * 4)? };
    let scale = rows.scale.unwrap_or(1.0 / (heads.head_dim as f32).sqrt());
    let eps = turns.and_then(|(place, _)| place.qk_norm).map_or(0.0, |(_, eps)| eps);
    let params = [
        ("rows", Size(b)),
        ("heads", Size(heads.heads)),
        ("kv_heads", Size(heads.kv_heads)),
        ("ld4", Size(qkv.ld() / 4)),
        ("scale", Float(scale)),
        ("window", Word(rows.window)),
        ("chunks", Size(chunks)),
        ("pages", Size(rows.table.ld())),
        ("d4", Size(d4)),
        ("eps", Float(eps)),
    ];
    let mut constants = vec![("D4", d4 as u32), ("CHUNK", CHUNK as u32), ("WHOLE", u32::from(chunks == 1))];
    constants.extend(own);
    let mut bind = vec![qkv, &arena.keys, &arena.values, &rows.table, &rows.pos, &part];
    if let Some((place, turn)) = turns {
        bind.extend([&turn.angle, place.gain()]);
    }
    let seen = (b * rows.longest * heads.padded()) as f64;
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: constants.clone(),
        params: &params,
        bind: &bind,
        groups,
        cost: Cost::new(4.0 * seen * heads.heads as f64, 8.0 * seen * heads.kv_heads as f64),
    })?;
    if chunks == 1 {
        return Ok(o);
    }
    rec.launch(Launch {
        source: &SOURCE,
        entry: "merge",
        constants,
        params: &params,
        bind: &[&part, &o],
        groups: lanes(&SOURCE, rec.variant(), o.len() / 4),
        cost: Cost::new(2.0 * part.len() as f64, 4.0 * part.len() as f64),
    })?;
    Ok(o)
}

/// The twin, with each row's keys and values in one list: `past[b]` is `[pos + 1, 2, KV, head_dim]`.
pub(crate) fn twin(q: &[f64], heads: Heads, past: &[Vec<f64>], window: usize) -> Vec<f64> {
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let mut o = Vec::new();
    for (b, all) in past.iter().enumerate() {
        let len = all.len() / (2 * kv * d);
        for head in 0..h {
            let key = |j: usize| &all[(j * 2 * kv + head / (h / kv)) * d..][..d];
            let value = |j: usize| &all[(j * 2 * kv + kv + head / (h / kv)) * d..][..d];
            let q = &q[(b * (h + 2 * kv) + head) * d..][..d];
            let first = len.saturating_sub(window);
            let s: Vec<f64> = (first..len)
                .map(|j| q.iter().zip(key(j)).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt())
                .collect();
            let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let z: f64 = s.iter().map(|v| (v - top).exp()).sum();
            o.extend((0..d).map(|c| (first..len).map(|j| (s[j - first] - top).exp() * value(j)[c]).sum::<f64>() / z));
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
    /// As [`twin`] wants it.
    past: Vec<Vec<f64>>,
}

impl Filled {
    fn new(t: &mut Trial, b: usize, heads: Heads, longest: usize, window: usize) -> Result<Filled> {
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
                    let v: Vec<f64> = t.values(kv_heads * head_dim).iter().map(|x| f64::from(*x)).collect();
                    for (kv, head) in pad_heads(&v, head_dim).chunks_exact(padded).enumerate() {
                        let to = Arena::row(kv_heads, kv, slot(row, j)) * padded;
                        store[to..to + padded].iter_mut().zip(head).for_each(|(to, x)| *to = *x as f32);
                    }
                    mine.extend(v);
                }
            }
            past.push(mine);
        }
        let upload = |all: &[f32]| t.gpu.upload(held, padded, all);
        let arena = Arena { keys: upload(&keys)?, values: upload(&values)? };
        let rows = Rows {
            table: t.gpu.upload(b, pages, &table)?,
            pos: t.gpu.vector(&pos)?,
            longest,
            window: window.min(u32::MAX as usize) as u32,
            scale: None,
        };
        let own = pos.iter().enumerate().map(|(row, j)| slot(row, *j as usize)).collect();
        Ok(Filled { arena, rows, pos, own, past })
    }
}

fn compare_forward(b: usize, h: Heads, longest: usize, window: usize) -> Case {
    let Heads { heads, kv_heads, head_dim } = h;
    let name = format!("split and merge {b}x{heads}/{kv_heads}x{head_dim} up to {longest} window={window}");
    Case::new(name, 1e-5, move |t| {
        let Filled { arena, rows, past, .. } = Filled::new(t, b, h, longest, window)?;
        let (qkv, host) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
        let o = forward(&mut t.rec, &qkv, h, &arena, &rows)?;
        t.expect("o", &o, || pad_heads(&twin(&host, h, &past, window), head_dim));
        Ok(())
    })
}

fn compare_step(b: usize, h: Heads, turned: usize, longest: usize, normed: bool) -> Case {
    let Heads { heads, kv_heads, head_dim } = h;
    let name = format!("step {b}x{heads}/{kv_heads}x{head_dim} turned={turned} up to {longest} norm={normed}");
    Case::new(name, 1e-5, move |t| {
        let Filled { arena, rows, pos, own, mut past } = Filled::new(t, b, h, longest, longest)?;
        let (raw, host) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
        let (gain, host_gain) = t.matrix(1, 2 * head_dim)?;
        let inv_freq: Vec<f32> = (0..turned / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / turned as f32)).collect();
        let turn = Turn::new(t.gpu, rope::angles(t.gpu, &[(&inv_freq, longest)], 1.0)?, &vec![0; b])?;
        let weight = Gain { weight: &gain, plus_one: true };
        let place = Place { heads: h, pos: &rows.pos, turn: Some(&turn), qk_norm: normed.then_some((weight, 1e-6)) };
        let o = step(&mut t.rec, &raw, &place, &arena, &rows)?;
        let all = |slot: &usize| (0..kv_heads).map(|kv| Arena::row(kv_heads, kv, *slot) as u32).collect::<Vec<_>>();
        let own = t.gpu.vector(&own.iter().flat_map(all).collect::<Vec<_>>())?;
        let room = || t.gpu.empty(b * kv_heads, h.padded());
        let (keys, values) = (room()?, room()?);
        super::rows::gather(&mut t.rec, &arena.keys, &own, &keys)?;
        super::rows::gather(&mut t.rec, &arena.values, &own, &values)?;
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
            past[last..].copy_from_slice(&[k[row], v[row]].concat());
        }
        t.expect("keys", &keys, || pad_heads(&k.concat(), head_dim));
        t.expect("values", &values, || pad_heads(&v.concat(), head_dim));
        t.expect("o", &o, || pad_heads(&twin(&rotated, h, &past, longest), head_dim));
        Ok(())
    })
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let heads = |heads, kv_heads, head_dim| Heads { heads, kv_heads, head_dim };
    for (b, h, longest) in [
        (1, heads(1, 1, 10), 1),
        (3, heads(4, 2, 12), 33),
        (9, heads(9, 3, 64), 131),
        (5, heads(5, 1, 40), 129),
        (2, heads(2, 1, 256), 300),
        (33, heads(2, 2, 16), 7),
    ] {
        all.extend([usize::MAX, 6].map(|window| compare_forward(b, h, longest, window)));
    }
    for (b, h, turned, longest) in [
        (7, heads(9, 3, 64), 64, 131),
        (3, heads(4, 2, 32), 16, 40),
        (5, heads(8, 1, 40), 40, 129),
        (1, heads(2, 2, 80), 20, 3),
        (2, heads(2, 1, 256), 256, 300),
        (3, heads(3, 1, 12), 6, 40),
    ] {
        all.extend([false, true].map(|normed| compare_step(b, h, turned, longest, normed)));
    }
    // One row, few of them, and many that continue one prompt.
    for (b, longest) in [(1, 128), (1, 1024), (8, 1024), (64, 1024)] {
        all.push(Case::timed(format!("{b}x9/3x64 up to {longest}"), move |t| {
            let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
            let pages = longest / PAGE;
            let mut all = || Ok(t.matrix(longest * h.kv_heads, h.head_dim)?.0);
            let arena = Arena { keys: all()?, values: all()? };
            let (qkv, _) = head_matrix(t, b, h.heads + 2 * h.kv_heads, h.head_dim)?;
            let table: Vec<u32> = (0..b).flat_map(|_| 0..pages as u32).collect();
            let rows = Rows {
                table: t.gpu.upload(b, pages, &table)?,
                pos: t.gpu.vector(&vec![longest as u32 - 1; b])?,
                longest,
                window: u32::MAX,
                scale: None,
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

    /// One dispatch where lanes load for each other and a head has a vec4 for each, else RoPE has its own.
    #[test]
    fn a_step_turns_within_attention() {
        for plain in [false, true] {
            let gpu = Gpu::with(&Options { variant: Some(Variant::Soft), plain, ..Options::default() }).unwrap();
            for head_dim in [64, 16] {
                let heads = Heads { heads: 3, kv_heads: 1, head_dim };
                let (arena, pos) = (Arena::room(&gpu, 1, heads).unwrap(), gpu.vector(&[4u32]).unwrap());
                let table = gpu.vector(&[0u32]).unwrap();
                let rows = Rows { table, pos: pos.clone(), longest: 5, window: u32::MAX, scale: None };
                let angle = rope::angles(&gpu, &[(&vec![0.1; head_dim / 2], 8)], 1.0).unwrap();
                let turn = Turn::new(&gpu, angle, &[0]).unwrap();
                let place = Place { heads, pos: &pos, turn: Some(&turn), qk_norm: None };
                let (raw, mut rec) = (gpu.zeros(1, heads.width()).unwrap(), gpu.record());
                step(&mut rec, &raw, &place, &arena, &rows).unwrap();
                let fused = gpu.has_lanes() && head_dim == 64;
                assert_eq!(rec.len(), if fused { 1 } else { 2 }, "heads of {head_dim}, plain: {plain}");
            }
        }
    }
}
