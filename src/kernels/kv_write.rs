//! Puts keys and values into the paged arena.

use super::attention_decode::Arena;
use super::rope::Heads;
use super::{Case, Kernel, lanes, stream, word};
use crate::Result;
use crate::gpu::{Launch, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "kv_write",
    soft: include_str!("../../shaders/kv_write.wgsl"),
    tile: include_str!("../../shaders/kv_write.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "keys and values into the paged arena",
    constants: &[&[]],
    ordered: &[],
    cases,
};

/// Copies the k and v heads of qkv row `row[e]` to `slot[e]` for every entry.
///
/// # Errors
/// Shapes that do not fit.
pub fn listed(
    rec: &mut Recorder,
    qkv: &Tensor,
    heads: Heads,
    (row, slot): (&Tensor, &Tensor),
    arena: &Arena,
) -> Result<()> {
    slot.expect_shape("the slots", 1, row.cols)?;
    let kv4 = heads.kv_heads * heads.padded() / 4;
    let k4 = heads.heads * heads.padded() / 4;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "listed",
        constants: vec![],
        params: vec![word(row.cols, "entries")?, (qkv.ld / 4) as u32, k4 as u32, kv4 as u32],
        bind: &[qkv, row, slot, &arena.keys, &arena.values],
        groups: lanes(&SOURCE, rec.variant(), row.cols * kv4),
        cost: stream(&[qkv], 0.0),
    })
}

/// The arena `[slots, width]` after `width` values of each listed row, from column `first` on, went to its slot.
pub fn twin(x: &[f64], ld: usize, first: usize, width: usize, list: &[(u32, u32)], slots: usize) -> Vec<f64> {
    let mut all = vec![0.0; slots * width];
    for (row, slot) in list {
        all[*slot as usize * width..][..width].copy_from_slice(&x[*row as usize * ld + first..][..width]);
    }
    all
}

fn cases() -> Vec<Case> {
    [(3, 2, 1, 10), (33, 4, 2, 16), (1, 1, 1, 64)]
        .into_iter()
        .map(|(rows, heads, kv_heads, head_dim)| {
            Case::new(format!("listed {rows}x{heads}/{kv_heads}x{head_dim}"), 0.0, move |t| {
                let h = Heads { heads, kv_heads, head_dim };
                let (qkv, host) = super::rope::head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                let padded = super::rope::pad_heads(&host, head_dim);
                let (slots, width, ld) = (rows * 2 * 32, kv_heads * h.padded(), h.width());
                let list: Vec<(u32, u32)> =
                    (0..rows as u32 * 2).map(|e| (e / 2, (e * 13 + 1) % slots as u32)).collect();
                let row = t.gpu.vector(&list.iter().map(|e| e.0).collect::<Vec<_>>())?;
                let slot = t.gpu.vector(&list.iter().map(|e| e.1).collect::<Vec<_>>())?;
                let arena = Arena { keys: t.gpu.zeros(slots, width)?, values: t.gpu.zeros(slots, width)? };
                listed(&mut t.rec, &qkv, h, (&row, &slot), &arena)?;
                let k = heads * h.padded();
                t.expect("keys", &arena.keys, || twin(&padded, ld, k, width, &list, slots));
                t.expect("values", &arena.values, || twin(&padded, ld, k + width, width, &list, slots));
                Ok(())
            })
        })
        .collect()
}
