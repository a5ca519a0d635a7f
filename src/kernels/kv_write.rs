//! Puts keys and values into the paged arena.

use super::arena::{Arena, PAGE};
use super::case::{Case, Kernel};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads};
use super::sizes::{several, stream};
use super::way::Way;
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "kv_write",
    soft: include_str!("../../shaders/kv_write.wgsl"),
    tile: include_str!("../../shaders/kv_write.wgsl"),
    libs: &["grid", "pages"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "keys and values into the paged arena",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// Copies the k and v heads of qkv row `row[e]` to `slot[e]` for every entry.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn listed(
    rec: &mut Recorder,
    qkv: &Tensor,
    heads: Heads,
    (row, slot): (&Tensor, &Tensor),
    arena: &Arena,
) -> Result<()> {
    heads.expect(qkv)?;
    arena.expect(heads)?;
    slot.expect_shape("the slots", 1, row.cols())?;
    row.expect_shape("the rows", 1, row.cols())?;
    let d4 = heads.padded() / 4;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "listed",
        constants: vec![],
        params: &[
            ("rows", Size(row.cols())),
            ("ld4", Size(qkv.ld() / 4)),
            ("k4", Size(heads.heads * d4)),
            ("kv_heads", Size(heads.kv_heads)),
            ("d4", Size(d4)),
        ],
        bind: &[qkv, row, slot, &arena.keys, &arena.values],
        groups: several(&SOURCE, rec.variant(), row.cols() * heads.kv_heads * d4),
        cost: stream(&[qkv], 0.0),
    })
}

/// The arena after the values of each listed row, from column `first` on, went to its slot.
pub(crate) fn twin(x: &[f64], heads: Heads, first: usize, list: &[(u32, u32)], slots: usize) -> Vec<f64> {
    let (kv, d) = (heads.kv_heads, heads.padded());
    let mut all = vec![0.0; slots * kv * d];
    for (row, slot) in list {
        for head in 0..kv {
            let from = *row as usize * heads.width() + first + head * d;
            all[Arena::row(kv, head, *slot as usize) * d..][..d].copy_from_slice(&x[from..from + d]);
        }
    }
    all
}

fn cases() -> Vec<Case> {
    [(3, 2, 1, 10), (33, 4, 2, 16), (1, 1, 1, 64)]
        .into_iter()
        .map(|(rows, heads, kv_heads, head_dim)| {
            Case::new(format!("listed {rows}x{heads}/{kv_heads}x{head_dim}"), 0.0, move |t| {
                let h = Heads { heads, kv_heads, head_dim };
                let (qkv, host) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                let padded = pad_heads(&host, head_dim);
                let slots = rows * 2 * PAGE;
                let list: Vec<(u32, u32)> =
                    (0..rows as u32 * 2).map(|e| (e / 2, (e * 13 + 1) % slots as u32)).collect();
                let row = t.gpu.vector(&list.iter().map(|e| e.0).collect::<Vec<_>>())?;
                let slot = t.gpu.vector(&list.iter().map(|e| e.1).collect::<Vec<_>>())?;
                let memory = || t.gpu.zeros(slots * kv_heads, h.padded());
                let arena = Arena { keys: memory()?, values: memory()? };
                listed(&mut t.rec, &qkv, h, (&row, &slot), &arena)?;
                let k = heads * h.padded();
                t.expect("keys", &arena.keys, || twin(&padded, h, k, &list, slots));
                t.expect("values", &arena.values, || twin(&padded, h, k + kv_heads * h.padded(), &list, slots));
                Ok(())
            })
        })
        .collect()
}
