//! C = A B: dense, with B quantised, and with A stored by columns (weight gradients).

use super::{Case, Kernel, bytes, word};
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor, Variant, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "matmul",
    soft: include_str!("../../shaders/matmul.soft.wgsl"),
    tile: include_str!("../../shaders/matmul.tile.wgsl"),
    libs: &[],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "C = A B, dense or quantised, and A^T B",
    constants: &[
        &[("MR", 1), ("BIAS", 0), ("ADD", 0), ("BITS", 4)],
        &[("MR", 4), ("BIAS", 1), ("ADD", 0), ("BITS", 8)],
        &[("MR", 8), ("BIAS", 0), ("ADD", 1), ("BITS", 4)],
    ],
    cases,
};

/// The right-hand matrix `[K, N]` of a projection. Rows are padded to a multiple of 4 with zeros.
#[derive(Clone)]
pub enum Weight {
    /// f32 elements: a tensor `[pad4(K), N]`.
    Dense(Tensor),
    /// Blocks of 32 along K: value = word bits x scale + minimum.
    Quantised {
        /// 4 or 8.
        bits: u32,
        /// `[K * bits / 32, N]`; a word holds 32 / bits neighbours along K, the first in its low bits.
        words: Tensor,
        /// `[K / 32, N]`
        scale: Tensor,
        /// `[K / 32, N]`
        minimum: Tensor,
    },
}

impl Weight {
    /// N.
    pub fn cols(&self) -> usize {
        match self {
            Weight::Dense(w) => w.cols,
            Weight::Quantised { scale, .. } => scale.cols,
        }
    }

    /// The f32 tensor.
    ///
    /// # Errors
    /// A quantised weight.
    pub fn dense(&self) -> Result<&Tensor> {
        match self {
            Weight::Dense(w) => Ok(w),
            Weight::Quantised { .. } => {
                Err(Error::Input("training needs f32 weights; load the model dequantised".into()))
            }
        }
    }
}

/// What happens to C besides the product.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to every row, `[N]`.
    pub bias: Option<&'a Tensor>,
    /// Add to C instead of overwriting it.
    pub add: bool,
}

/// Rows that one lane of the soft and of the few-row kernels holds.
const ROWS: [u32; 4] = [1, 2, 4, 8];

/// C `[M, N]` = A `[M, K]` B.
///
/// # Errors
/// Shapes that do not fit.
pub fn forward(rec: &mut Recorder, a: &Tensor, b: &Weight, c: &Tensor, epilogue: Epilogue) -> Result<()> {
    let (m, n) = (a.rows, b.cols());
    c.expect_shape("matmul's result", m, n)?;
    if let Some(bias) = epilogue.bias {
        bias.expect_shape("matmul's bias", 1, n)?;
    }
    let k = match b {
        Weight::Dense(w) => w.rows,
        Weight::Quantised { scale, .. } => scale.rows * 32,
    };
    if a.ld != k {
        return Err(Error::Input(format!("matmul of {:?} (rows of {}) with a matrix of {k} rows", a.shape(), a.ld)));
    }
    let rows = rows_per_lane(rec, b, m, k, n)?;
    dispatch(rec, a, b, c, epilogue, k, rows)
}

/// The tuned choice; few rows leave none.
fn rows_per_lane(rec: &Recorder, b: &Weight, m: usize, k: usize, n: usize) -> Result<u32> {
    let most = ROWS.iter().copied().find(|r| *r as usize >= m).unwrap_or(8);
    let soft = rec.variant() == Variant::Soft;
    if !soft || most < 8 || rec.variant() != rec.gpu().variant() {
        return Ok(most);
    }
    let class = |x: usize| x.next_power_of_two();
    let kind = if matches!(b, Weight::Dense(_)) { "f32" } else { "q" };
    let name = format!("matmul {kind} m{} k{} n{}", class(m.min(512)), class(k), class(n));
    let gpu = rec.gpu();
    gpu.tuned(&name, &[8, 4], |rows| {
        // A slice of the real shape, so that tuning costs milliseconds.
        let m = m.min(64);
        // This runs at once: memory that launches recorded before still use must stay as it is, so no scratch here.
        let (a, c) = (gpu.upload(m, k, &vec![0.5f32; m * k])?, gpu.zeros(m, n)?);
        let mut rec = gpu.record();
        dispatch(&mut rec, &a, b, &c, Epilogue::default(), k, rows)?;
        Ok(rec.compile())
    })
}

fn dispatch(rec: &mut Recorder, a: &Tensor, b: &Weight, c: &Tensor, e: Epilogue, k: usize, rows: u32) -> Result<()> {
    let (m, n4) = (a.rows, c.ld / 4);
    let soft = rec.variant() == Variant::Soft;
    // The blocked form only pays when its 64 rows are mostly there.
    let blocked = !soft && m > 8 && matches!(b, Weight::Dense(_));
    let (rows, columns) = match (soft, blocked) {
        (true, _) => (rows, n4.div_ceil(8)),
        (_, true) => (64, n4.div_ceil(16)),
        _ => (rows, n4.div_ceil(32)),
    };
    let mut constants = vec![("BIAS", u32::from(e.bias.is_some())), ("ADD", u32::from(e.add))];
    if !blocked {
        constants.push(("MR", rows));
    }
    let bias = e.bias.unwrap_or(a);
    let (entry, ldb, bind): (&'static str, usize, Vec<&Tensor>) = match b {
        Weight::Dense(w) if soft || blocked => ("forward", w.ld, vec![a, w, bias, c]),
        Weight::Dense(w) => ("forward_rows", w.ld, vec![a, w, bias, c]),
        Weight::Quantised { bits, words, scale, minimum } => {
            constants.push(("BITS", *bits));
            ("forward_q", scale.ld, vec![a, words, scale, minimum, bias, c])
        }
    };
    let per_row = 2.0 * k as f64 * c.cols as f64;
    let weight_bytes = bytes(&bind) - bytes(&[a, c]);
    split_rows(rec, m, rows as usize, per_row, |rec, first, count| {
        let all = [m, n4, k, a.ld / 4, ldb / 4, c.ld / 4, first];
        rec.launch(Launch {
            source: &SOURCE,
            entry,
            constants: constants.clone(),
            params: all.iter().map(|x| word(*x, "a matmul size")).collect::<Result<_>>()?,
            bind: &bind,
            groups: [columns as u32, count.div_ceil(rows as usize) as u32, 1],
            cost: Cost { flops: per_row * count as f64, bytes: weight_bytes + 4.0 * (count * (a.ld + c.ld)) as f64 },
        })
    })
}

/// Cuts `m` rows so that no dispatch runs too long or has too many workgroups.
fn split_rows(
    rec: &mut Recorder,
    m: usize,
    rows: usize,
    flops_per_row: f64,
    mut launch: impl FnMut(&mut Recorder, usize, usize) -> Result<()>,
) -> Result<()> {
    let most = (rec.gpu().flops_per_dispatch() / flops_per_row.max(1.0)) as usize;
    let step = (most / rows * rows).clamp(rows, 65_535 * rows);
    (0..m).step_by(step).try_for_each(|first| launch(rec, first, step.min(m - first)))
}

/// C `[M, N]` (+)= A^T B with A `[K, M]`, B `[K, N]`; K is the number of tokens. M counts A's padding when C has it.
///
/// # Errors
/// Shapes that do not fit.
pub fn forward_tn(rec: &mut Recorder, a: &Tensor, b: &Tensor, c: &Tensor, add: bool) -> Result<()> {
    if a.rows != b.rows || c.rows != a.ld || c.cols != b.cols {
        return Err(Error::Input(format!(
            "A^T B of {:?} and {:?} does not give {:?}",
            a.shape(),
            b.shape(),
            c.shape()
        )));
    }
    let (m, k, n4) = (c.rows, a.rows, c.ld / 4);
    let (rows, columns) = match rec.variant() {
        Variant::Soft => (8, n4.div_ceil(8)),
        Variant::Tile => (64, n4.div_ceil(16)),
    };
    let per_row = 2.0 * k as f64 * c.cols as f64;
    split_rows(rec, m, rows, per_row, |rec, first, count| {
        let all = [m, n4, k, a.ld / 4, b.ld / 4, c.ld / 4, first];
        rec.launch(Launch {
            source: &SOURCE,
            entry: "forward_tn",
            constants: vec![("ADD", u32::from(add))],
            params: all.iter().map(|x| word(*x, "a matmul size")).collect::<Result<_>>()?,
            bind: &[a, b, c],
            groups: [columns as u32, count.div_ceil(rows) as u32, 1],
            cost: Cost { flops: per_row * count as f64, bytes: bytes(&[a, b, c]) * count as f64 / m as f64 },
        })
    })
}

/// C = A B in f64, A `[M, K]`, B `[K, N]`.
pub fn twin(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for (t, x) in a[i * k..(i + 1) * k].iter().enumerate() {
            for (to, y) in c[i * n..(i + 1) * n].iter_mut().zip(&b[t * n..(t + 1) * n]) {
                *to += x * y;
            }
        }
    }
    c
}

/// C = A^T B in f64, A `[K, M]`, B `[K, N]`.
pub fn twin_tn(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let turned: Vec<f64> = (0..m * k).map(|i| a[(i % k) * m + i / k]).collect();
    twin(&turned, b, m, k, n)
}

/// Rows of zeros up to a multiple of 4.
fn pad_rows(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut all = values.to_vec();
    all.resize(pad4(rows) * cols, 0.0);
    all
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (m, k, n) in [(1, 36, 36), (7, 33, 10), (33, 64, 97), (8, 576, 192), (65, 10, 130), (5, 7, 1), (611, 20, 36)] {
        for mode in 0..3 {
            let what = ["", " bias", " add"][mode];
            all.push(Case::new(format!("forward {m}x{k}x{n}{what}"), 4e-6, move |t| {
                let (a, ha) = t.matrix(m, k)?;
                let vb = t.values(k * n);
                let hb: Vec<f64> = vb.iter().map(|x| f64::from(*x)).collect();
                let b = Weight::Dense(t.gpu.upload(pad4(k), n, &pad_rows(&vb, k, n))?);
                let (bias, hbias) = t.matrix(1, n)?;
                let (c, hc) = t.matrix(m, n)?;
                let e = Epilogue { bias: (mode == 1).then_some(&bias), add: mode == 2 };
                forward(&mut t.rec, &a, &b, &c, e)?;
                t.expect("c", &c, || {
                    let mut want = twin(&ha, &hb, m, k, n);
                    for (i, x) in want.iter_mut().enumerate() {
                        *x += [0.0, hbias[i % n], hc[i]][mode];
                    }
                    want
                });
                Ok(())
            }));
        }
    }
    for (m, k, n) in [(1, 1, 1), (36, 7, 10), (64, 640, 33), (12, 33, 97)] {
        all.push(Case::new(format!("forward_tn {m}x{k}x{n}"), 4e-6, move |t| {
            let (a, ha) = t.matrix(k, m)?;
            let (b, hb) = t.matrix(k, n)?;
            let c = t.gpu.zeros(pad4(m), n)?;
            forward_tn(&mut t.rec, &a, &b, &c, true)?;
            t.expect("c", &c, || {
                let mut want = twin_tn(&ha, &hb, m, k, n);
                want.resize(pad4(m) * n, 0.0);
                want
            });
            Ok(())
        }));
    }
    for (bits, m, k, n) in [(4u32, 1, 32, 5), (4, 7, 96, 36), (8, 3, 64, 33), (8, 33, 576, 10), (4, 9, 64, 130)] {
        all.push(Case::new(format!("forward_q{bits} {m}x{k}x{n}"), 4e-6, move |t| {
            let (a, ha) = t.matrix(m, k)?;
            let (b, hb) = random_quantised(t, bits, k, n)?;
            let c = t.gpu.empty(m, n)?;
            forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
            t.expect("c", &c, || twin(&ha, &hb, m, k, n));
            Ok(())
        }));
    }
    // The shapes of SmolLM2's layers, a square, and those of the small world.
    let layers = [(1, 576, 1536), (8, 576, 1536), (128, 576, 576), (128, 576, 1536), (128, 1536, 576)];
    for (m, k, n) in layers.into_iter().chain([(512, 512, 512), (4096, 64, 64), (4096, 64, 320), (4096, 160, 64)]) {
        all.push(Case::timed(format!("forward {m}x{k}x{n}"), move |t| {
            let (a, _) = t.matrix(m, k)?;
            let (b, _) = t.matrix(k, n)?;
            let c = t.gpu.empty(m, n)?;
            forward(&mut t.rec, &a, &Weight::Dense(b), &c, Epilogue::default())?;
            t.expect("c", &c, Vec::new);
            Ok(())
        }));
    }
    for (m, k, n) in [(64, 4096, 320), (576, 128, 1536)] {
        all.push(Case::timed(format!("forward_tn {m}x{k}x{n}"), move |t| {
            let (a, _) = t.matrix(k, m)?;
            let (b, _) = t.matrix(k, n)?;
            let c = t.gpu.empty(m, n)?;
            forward_tn(&mut t.rec, &a, &b, &c, false)?;
            t.expect("c", &c, Vec::new);
            Ok(())
        }));
    }
    for m in [1, 8, 128] {
        all.push(Case::timed(format!("forward_q4 {m}x576x1536"), move |t| {
            let (a, _) = t.matrix(m, 576)?;
            let (b, _) = random_quantised(t, 4, 576, 1536)?;
            let c = t.gpu.empty(m, 1536)?;
            forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
            t.expect("c", &c, Vec::new);
            Ok(())
        }));
    }
    all
}

/// Random blocks and the dense matrix `[K, N]` that they stand for.
pub(super) fn random_quantised(t: &mut super::Trial, bits: u32, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let per = 32 / bits as usize;
    let words: Vec<u32> = (0..k / per * n).map(|_| t.below(1 << 32) as u32).collect();
    let scale: Vec<f32> = t.values(k / 32 * n).iter().map(|x| x / (1 << bits) as f32).collect();
    let minimum = t.values(k / 32 * n);
    let dense = (0..k * n)
        .map(|i| {
            let (row, col) = (i / n, i % n);
            let q = (words[row / per * n + col] >> ((row % per) as u32 * bits)) & ((1u32 << bits) - 1);
            f64::from(q) * f64::from(scale[row / 32 * n + col]) + f64::from(minimum[row / 32 * n + col])
        })
        .collect();
    let weight = Weight::Quantised {
        bits,
        words: t.gpu.upload(k / per, n, &words)?,
        scale: t.gpu.upload(k / 32, n, &scale)?,
        minimum: t.gpu.upload(k / 32, n, &minimum)?,
    };
    Ok((weight, dense))
}
