//! Random inputs of the cases: weights in every type, heads, forests.

use super::case::Trial;
use super::half::Half;
use super::quants::{Quants, Scales};
use super::weight::Weight;
use crate::Result;
use crate::arch::Scaled;
use crate::gpu::{Tensor, pad4};
use crate::layout::Forest;

/// Rows of zeros up to a multiple of 4.
pub(super) fn pad_rows(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut all = values.to_vec();
    all.resize(pad4(rows) * cols, 0.0);
    all
}

/// A random matrix `[K, N]` of one of [`DTYPES`], and the same in f64.
pub(super) fn random(t: &mut Trial, dtype: &str, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    match dtype {
        "bf16" => random_half(t, Half::Bf16, k, n),
        "f16" => random_half(t, Half::F16, k, n),
        _ => {
            if let Some(quants) = Quants::ALL.into_iter().find(|q| q.name() == dtype) {
                return random_quantised(t, quants, k, n);
            }
            let v = t.values(k * n);
            let b = Weight::upload(t.gpu, pad4(k), n, &pad_rows(&v, k, n))?;
            Ok((b, v.iter().map(|x| f64::from(*x)).collect()))
        }
    }
}

/// Types of weights that a product can be timed with.
pub const DTYPES: [&str; 3 + Quants::ALL.len()] = {
    let mut all = [""; 3 + Quants::ALL.len()];
    (all[0], all[1], all[2]) = ("f32", "bf16", "f16");
    let mut kind = 0;
    while kind < Quants::ALL.len() {
        all[3 + kind] = Quants::ALL[kind].name();
        kind += 1;
    }
    all
};

/// Random 16-bit values and the same in f64, `[K, N]`.
pub(super) fn random_half(t: &mut Trial, half: Half, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let v: Vec<f32> = t.values(k * n).iter().map(|x| half.value(half.bits(*x))).collect();
    let weight = Weight::upload_half(t.gpu, half, pad4(k), n, &pad_rows(&v, k, n))?;
    Ok((weight, v.iter().map(|x| f64::from(*x)).collect()))
}

/// Random blocks and the dense matrix `[K, N]` that they stand for.
pub(super) fn random_quantised(t: &mut Trial, quants: Quants, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let bits = quants.bits;
    let words: Vec<u32> = (0..quants.word_rows(k) * n).map(|_| t.word() as u32).collect();
    let half = |x: f32| Half::F16.value(Half::F16.bits(x));
    let mut scales: Vec<Scaled> = Vec::with_capacity(k / 32 * n);
    for at in 0..k / 32 * n {
        let (block, col) = (at / n, at % n);
        let drawn = t.values(2);
        let [scale, minimum] = [drawn[0] / (1 << bits) as f32, drawn[1]];
        // 256 values share both numbers.
        let before = if block % 8 == 0 { None } else { scales.get((block - 1) * n + col) };
        let [a, b, c, d, ..] = t.word().to_le_bytes().map(u8::cast_signed);
        let times = if quants.group == 16 { [[a, b], [c, d]] } else { [[a, b]; 2] };
        let pair = [scale / 64.0, minimum / 64.0];
        scales.push(match quants.scales {
            Scales::Half => Scaled::plain(half(scale), half(minimum)),
            Scales::Full => Scaled { pair, times },
            Scales::Power => Scaled::plain(scale.abs().log2().ceil().clamp(-20.0, 20.0).exp2(), 0.0),
            // Below what `Quants::check` refuses.
            Scales::Times => {
                let pair = before.map_or(pair.map(|x| half(x.clamp(-32.0, 32.0))), |scaled| scaled.pair);
                Scaled { pair, times }
            }
        });
    }
    let dense = (0..k * n)
        .map(|i| {
            let (row, col) = (i / n, i % n);
            let q = quants.bits_at(&words, n, (row, col));
            let [scale, minimum] = scales[row / 32 * n + col].of(row % 32 / 16).map(f64::from);
            f64::from(quants.step(q)) * scale + minimum
        })
        .collect();
    Ok((Weight::upload_quantised(t.gpu, (quants, k, n), &words, &scales)?, dense))
}

/// Heads of `hd` channels spread to `pad4(hd)`.
pub(super) fn pad_heads(x: &[f64], hd: usize) -> Vec<f64> {
    let pad = vec![0.0; pad4(hd) - hd];
    x.chunks_exact(hd).flat_map(|h| [h, &pad[..]].concat()).collect()
}

/// A matrix of padded heads on the GPU and its unpadded twin.
pub(super) fn head_matrix(t: &mut Trial, rows: usize, count: usize, hd: usize) -> Result<(Tensor, Vec<f64>)> {
    let host: Vec<f64> = t.values(rows * count * hd).iter().map(|x| f64::from(*x)).collect();
    let padded: Vec<f32> = pad_heads(&host, hd).iter().map(|x| *x as f32).collect();
    Ok((t.gpu.upload(rows, count * pad4(hd), &padded)?, host))
}

/// A random forest of at least `rows` rows.
pub(super) fn random_forest(t: &mut Trial, rows: usize) -> Forest {
    if t.alone() {
        return sequences(rows, 1);
    }
    let mut f = Forest::new();
    let mut depth = 0;
    while f.len() < rows {
        let len = 1 + t.below(9);
        f.open(&vec![0; len.min(rows - f.len())]);
        depth += 1;
        for _ in 0..t.below(depth + 1) {
            f.close();
            depth -= 1;
        }
    }
    (0..depth).for_each(|_| f.close());
    f
}

/// `count` sequences of `len` rows.
pub(super) fn sequences(count: usize, len: usize) -> Forest {
    let mut forest = Forest::new();
    for _ in 0..count {
        forest.leaf(&vec![0; len]);
    }
    forest
}
