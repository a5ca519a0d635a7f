//! Puts keys and values into the paged arena.

use super::arena::{Arena, KvType, PAGE};
use super::case::{Case, Kernel, Trial};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads};
use super::sizes::{several, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Param, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "kv_write",
    soft: include_str!("../../shaders/kv_write.wgsl"),
    tile: include_str!("../../shaders/kv_write.wgsl"),
    libs: &["grid", "pages", "operand"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "keys and values into the paged arena",
    ways: |traits| {
        let of = |(entry, kv): (_, KvType)| Way::new(&SOURCE, traits, entry, kv.constants());
        [("listed", KvType::F32), ("listed", KvType::F16), ("settle", KvType::F16)].into_iter().map(of).collect()
    },
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
    let way = Way::new(&SOURCE, &Traits::of(rec), "listed", arena.kv.constants());
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(qkv, heads, row.cols()),
        bind: &[qkv, row, slot, &arena.keys, &arena.values],
        groups: several(&SOURCE, rec.variant(), row.cols() * heads.kv_heads * heads.padded() / 4),
        cost: stream(&[qkv], 0.0),
    })
}

fn params(qkv: &Tensor, heads: Heads, rows: usize) -> [Param<'static>; 5] {
    let d4 = heads.padded() / 4;
    [
        ("rows", Size(rows)),
        ("ld4", Size(qkv.ld() / 4)),
        ("k4", Size(heads.heads * d4)),
        ("kv_heads", Size(heads.kv_heads)),
        ("d4", Size(d4)),
    ]
}

/// Rounds the k and v heads of all rows, in place, to what an arena of the type `kv` keeps of them.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn settle(rec: &mut Recorder, qkv: &Tensor, heads: Heads, kv: KvType) -> Result<()> {
    if kv == KvType::F32 {
        return Ok(());
    }
    heads.expect(qkv)?;
    let way = Way::new(&SOURCE, &Traits::of(rec), "settle", kv.constants());
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(qkv, heads, qkv.rows()),
        bind: &[qkv],
        groups: several(&SOURCE, rec.variant(), qkv.rows() * heads.kv_heads * heads.padded() / 2),
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

/// Numbers that f16 rounds to either side, those at and beyond its ends, small ones and none.
const EDGES: [f32; 12] = [
    65504.0,
    65519.996,
    65520.0,
    -65520.0,
    1e30,
    -3e38,
    6.0e-8,
    -2.9e-8,
    1.000_488_3,
    1.001_464_8,
    6.103_515_6e-5,
    0.0,
];

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, heads, kv_heads, head_dim) in [(3, 2, 1, 10), (33, 4, 2, 16), (1, 1, 1, 64)] {
        let (h, shape) = (Heads { heads, kv_heads, head_dim }, format!("{rows}x{heads}/{kv_heads}x{head_dim}"));
        let (k, width) = (heads * h.padded(), kv_heads * h.padded());
        let list = move |slots: usize| -> Vec<(u32, u32)> {
            (0..rows as u32 * 2).map(|e| (e / 2, (e * 13 + 1) % slots as u32)).collect()
        };
        let write = move |t: &mut Trial, qkv: &Tensor, kv: KvType| -> Result<Arena> {
            let slots = rows * 2 * PAGE;
            let list = list(slots);
            let row = t.gpu.vector(&list.iter().map(|e| e.0).collect::<Vec<_>>())?;
            let slot = t.gpu.vector(&list.iter().map(|e| e.1).collect::<Vec<_>>())?;
            let memory = || t.gpu.zeros(slots * kv_heads * kv.bytes() / 4, h.padded());
            let arena = Arena { keys: memory()?, values: memory()?, kv };
            listed(&mut t.rec, qkv, h, (&row, &slot), &arena)?;
            Ok(arena)
        };
        all.push(Case::new(format!("listed {shape}"), 0.0, move |t| {
            let (qkv, host) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
            let padded = pad_heads(&host, head_dim);
            let arena = write(t, &qkv, KvType::F32)?;
            let twin = |first| twin(&padded, h, first, &list(rows * 2 * PAGE), rows * 2 * PAGE);
            t.expect("keys", &arena.keys, || twin(k));
            t.expect("values", &arena.values, || twin(k + width));
            Ok(())
        }));
        all.push(Case::new(format!("listed and settle {shape} f16"), 0.0, move |t| {
            let mut host = t.values(rows * (heads + 2 * kv_heads) * head_dim);
            let edges = EDGES.iter().cycle().take(host.len() / 3);
            host.iter_mut().rev().step_by(2).zip(edges).for_each(|(x, edge)| *x = *edge);
            let exact: Vec<f64> = pad_heads(&host.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), head_dim);
            let floats: Vec<f32> = exact.iter().map(|x| *x as f32).collect();
            let qkv = t.gpu.upload(rows, h.width(), &floats)?;
            let arena = write(t, &qkv, KvType::F16)?;
            let slots = rows * 2 * PAGE;
            let kept = |first: usize| -> Vec<u32> {
                let all: Vec<f64> = twin(&exact, h, first, &list(slots), slots);
                KvType::F16.words(&all.iter().map(|x| KvType::F16.kept(*x) as f32).collect::<Vec<_>>())
            };
            t.expect_words("keys", &arena.keys, || kept(k));
            t.expect_words("values", &arena.values, || kept(k + width));
            let own = t.gpu.upload(rows, h.width(), &floats)?;
            settle(&mut t.rec, &own, h, KvType::F16)?;
            t.expect("settled", &own, || {
                let at = |i: usize| if i % h.width() < k { exact[i] } else { KvType::F16.kept(exact[i]) };
                (0..exact.len()).map(at).collect()
            });
            Ok(())
        }));
    }
    all
}
