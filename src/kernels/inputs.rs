//! Random inputs of the cases: weights in every type, heads, forests.

use super::case::Trial;
use super::half::Half;
use super::quants::{Quants, Scales};
use super::weight::Weight;
use crate::Result;
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
pub const DTYPES: [&str; 9] = {
    let [q4, q8, q4k, q5k, q6k, mxfp4] = Quants::ALL;
    ["f32", "bf16", "f16", q4.name(), q8.name(), q4k.name(), q5k.name(), q6k.name(), mxfp4.name()]
};

/// Random 16-bit values and the same in f64, `[K, N]`.
pub(super) fn random_half(t: &mut Trial, half: Half, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let v: Vec<f32> = t.values(k * n).iter().map(|x| half.value(half.bits(*x))).collect();
    let weight = Weight::upload_half(t.gpu, half, pad4(k), n, &pad_rows(&v, k, n))?;
    Ok((weight, v.iter().map(|x| f64::from(*x)).collect()))
}

/// Random blocks and the dense matrix `[K, N]` that they stand for.
pub(super) fn random_quantised(t: &mut Trial, quants: Quants, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let (bits, per, group) = (quants.bits, 32 / quants.bits as usize, quants.group as usize);
    let stored = |x: f32| match quants.scales {
        Scales::Half => Half::F16.value(Half::F16.bits(x)),
        Scales::Full => x,
        Scales::Power => x.abs().log2().ceil().clamp(-20.0, 20.0).exp2(),
    };
    let words: Vec<u32> = (0..k / per * n).map(|_| t.word() as u32).collect();
    let scale: Vec<f32> = t.values(k / group * n).iter().map(|x| stored(x / (1 << bits) as f32)).collect();
    let minimum: Vec<f32> = match quants.scales {
        Scales::Power => vec![0.0; scale.len()],
        Scales::Half | Scales::Full => t.values(scale.len()).into_iter().map(stored).collect(),
    };
    let dense = (0..k * n)
        .map(|i| {
            let (row, col) = (i / n, i % n);
            let q = (words[row / per * n + col] >> ((row % per) as u32 * bits)) & ((1u32 << bits) - 1);
            let step = f64::from(quants.step(q));
            step * f64::from(scale[row / group * n + col]) + f64::from(minimum[row / group * n + col])
        })
        .collect();
    Ok((Weight::upload_quantised(t.gpu, (quants, k, n), &words, [&scale, &minimum])?, dense))
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
