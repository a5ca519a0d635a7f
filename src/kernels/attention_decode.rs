//! Attention of single rows onto the paged KV arena, split over positions and merged.

use super::rope::{Heads, head_matrix, pad_heads};
use super::{Case, Kernel, lanes, word};
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor, Variant, fold};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "attention_decode",
    soft: include_str!("../../shaders/attention_decode.wgsl"),
    tile: concat!(
        include_str!("../../shaders/attention_decode.wgsl"),
        include_str!("../../shaders/attention_decode.tile.wgsl")
    ),
    libs: &["grid", "pages", "reduce"],
    tile_size: CHUNK as u32,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention of single rows onto the paged KV arena",
    constants: &[
        &[("D4", 3), ("NB", 1), ("CHUNK", CHUNK as u32), ("WHOLE", 1)],
        &[("D4", 64), ("NB", 1), ("CHUNK", CHUNK as u32), ("WHOLE", 0)],
    ],
    ordered: &[Variant::Tile],
    cases,
};

/// Positions of one page.
pub const PAGE: usize = 32;

/// Positions of one partial sum, counted from position 0.
pub const CHUNK: usize = 128;

/// One layer's keys and values, `[slots, KV pad4(head_dim)]`; slot = page * PAGE + offset.
#[derive(Clone)]
pub struct Arena {
    /// Keys, rotated.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

/// Where the rows of a step stand.
#[derive(Clone)]
pub struct Rows {
    /// Page numbers of each row's path, `[B, pages]`.
    pub table: Tensor,
    /// Position of each row, `[B]`; it sees itself and everything before.
    pub pos: Tensor,
    /// Most positions that any row will see.
    pub longest: usize,
    /// Positions a row sees back, itself included.
    pub window: u32,
    /// Factor on the scores, head_dim^-0.5 if None.
    pub scale: Option<f32>,
}

/// o `[B, H pad4(head_dim)]` of rotated rows qkv `[B, width]`, whose own k and v are already in the arena.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub fn forward(rec: &mut Recorder, qkv: &Tensor, heads: Heads, arena: &Arena, rows: &Rows) -> Result<Tensor> {
    let (b, gpu) = (qkv.rows, rec.gpu());
    if qkv.ld != heads.width() || rows.table.rows != b || rows.longest > rows.table.cols * PAGE {
        return Err(Error::Input(format!(
            "decode of {:?} with heads {heads:?}, pages {:?}, {} positions",
            qkv.shape(),
            rows.table.shape(),
            rows.longest
        )));
    }
    let chunks = rows.longest.div_ceil(CHUNK).max(1);
    let d4 = heads.padded() / 4;
    let o = gpu.empty(b, heads.heads * heads.padded())?;
    let norm = gpu.empty(1, b * heads.heads * chunks * 2)?;
    let part = if chunks == 1 { o.clone() } else { gpu.empty(1, b * heads.heads * chunks * d4 * 4)? };
    let scale = rows.scale.unwrap_or(1.0 / (heads.head_dim as f32).sqrt());
    let params = vec![
        word(b, "rows")?,
        heads.heads as u32,
        heads.kv_heads as u32,
        (qkv.ld / 4) as u32,
        scale.to_bits(),
        rows.window,
        chunks as u32,
        rows.table.ld as u32,
        d4 as u32,
    ];
    // As in the attention of scoring.
    let together = if rec.variant() == Variant::Soft && d4 > 4 && !rec.invariant() { 4 } else { 1 };
    let whole = u32::from(chunks == 1);
    let constants = vec![("D4", d4 as u32), ("NB", together), ("CHUNK", CHUNK as u32), ("WHOLE", whole)];
    let seen = (b * rows.longest * heads.padded()) as f64;
    let items = b * heads.heads * chunks;
    let (entry, groups) = match rec.variant() {
        Variant::Tile if !rec.invariant() => ("chunk", fold(items)),
        variant => ("split", lanes(&SOURCE, variant, items)),
    };
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: constants.clone(),
        params: params.clone(),
        bind: &[qkv, &arena.keys, &arena.values, &rows.table, &rows.pos, &part, &norm],
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
        params,
        bind: &[&part, &norm, &o],
        groups: lanes(&SOURCE, rec.variant(), o.len() / 4),
        cost: Cost::new(2.0 * part.len() as f64, 4.0 * part.len() as f64),
    })?;
    Ok(o)
}

/// The same with each row's keys and values in a row: `past[b]` is `[pos + 1, 2, KV, head_dim]`.
pub fn twin(q: &[f64], heads: Heads, past: &[Vec<f64>], window: usize) -> Vec<f64> {
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

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let shapes: [(usize, usize, usize, usize, usize); 5] =
        [(1, 1, 1, 10, 1), (3, 4, 2, 12, 33), (9, 9, 3, 64, 131), (2, 2, 1, 256, 300), (33, 2, 2, 16, 7)];
    for (b, heads, kv_heads, head_dim, longest) in shapes {
        for window in [usize::MAX, 6] {
            let h = Heads { heads, kv_heads, head_dim };
            let name = format!("split and merge {b}x{heads}/{kv_heads}x{head_dim} up to {longest} window={window}");
            all.push(Case::new(name, 1e-5, move |t| {
                let pages = longest.div_ceil(PAGE);
                let pos: Vec<u32> =
                    (0..b).map(|i| if i == 0 { longest - 1 } else { t.below(longest) } as u32).collect();
                // Pages of all rows, in an order that no row finds consecutive.
                let table: Vec<u32> = (0..b * pages).map(|i| ((i * 7 + 3) % (b * pages * 7)) as u32).collect();
                let slots = b * pages * 7 * PAGE;
                let width = kv_heads * crate::gpu::pad4(head_dim);
                let (mut keys, mut values) = (vec![0f32; slots * width], vec![0f32; slots * width]);
                let mut past = Vec::new();
                for row in 0..b {
                    let mut mine = Vec::new();
                    for j in 0..=pos[row] as usize {
                        let slot = table[row * pages + j / PAGE] as usize * PAGE + j % PAGE;
                        for store in [&mut keys, &mut values] {
                            let v: Vec<f64> = t.values(kv_heads * head_dim).iter().map(|x| f64::from(*x)).collect();
                            let padded: Vec<f32> = pad_heads(&v, head_dim).iter().map(|x| *x as f32).collect();
                            store[slot * width..][..width].copy_from_slice(&padded);
                            mine.extend(v);
                        }
                    }
                    past.push(mine);
                }
                let arena =
                    Arena { keys: t.gpu.upload(slots, width, &keys)?, values: t.gpu.upload(slots, width, &values)? };
                let (qkv, host) = head_matrix(t, b, heads + 2 * kv_heads, head_dim)?;
                let rows = Rows {
                    table: t.gpu.upload(b, pages, &table)?,
                    pos: t.gpu.vector(&pos)?,
                    longest,
                    window: window.min(u32::MAX as usize) as u32,
                    scale: None,
                };
                let o = forward(&mut t.rec, &qkv, h, &arena, &rows)?;
                t.expect("o", &o, || pad_heads(&twin(&host, h, &past, window), head_dim));
                Ok(())
            }));
        }
    }
    all
}
