//! The products' comparisons with their twins, the shapes to time, and random weights in every type.

use super::{Epilogue, forward, forward_nt, forward_tn, gates, normalises};
use crate::arch::Activation;
use crate::gpu::pad4;
use crate::kernels::quants::{Quants, Scales};
use crate::kernels::rms_norm::{self, Gain};
use crate::kernels::swiglu;
use crate::kernels::weight::{Half, Weight};
use crate::kernels::{Case, Trial, transpose};
use crate::{Error, Result};

/// Rows of zeros up to a multiple of 4.
pub(in crate::kernels) fn pad_rows(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut all = values.to_vec();
    all.resize(pad4(rows) * cols, 0.0);
    all
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (m, k, n) in
        [(1, 36, 36), (7, 33, 10), (33, 64, 97), (8, 576, 192), (65, 10, 130), (5, 7, 1), (611, 20, 36), (9, 4100, 36)]
    {
        for mode in 0..3 {
            let what = ["", " bias", " add"][mode];
            // A chain of 4,100 additions loses more digits.
            let tolerance = if k > 1000 { 1e-5 } else { 4e-6 };
            all.push(Case::new(format!("forward {m}x{k}x{n}{what}"), tolerance, move |t| {
                let (a, ha) = t.matrix(m, k)?;
                let vb = t.values(k * n);
                let hb: Vec<f64> = vb.iter().map(|x| f64::from(*x)).collect();
                let b = Weight::upload(t.gpu, pad4(k), n, &pad_rows(&vb, k, n))?;
                let (bias, hbias) = t.matrix(1, n)?;
                let (c, hc) = t.matrix(m, n)?;
                let e = Epilogue { bias: (mode == 1).then_some(&bias), add: mode == 2, ..Epilogue::default() };
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
    for (dtype, m, k, f) in [
        ("f32", 1, 33, 4),
        ("bf16", 2, 10, 36),
        ("q4", 1, 64, 132),
        ("q8", 2, 96, 8),
        ("f32", 7, 20, 12),
        ("q4", 33, 32, 36),
    ] {
        for act in [None, Some(Activation::Silu), Some(Activation::GeluTanh)] {
            for (plus_one, biased) in [(false, true), (true, false)] {
                let what = format!("{m}x{k}x{} {dtype} {act:?} plus_one={plus_one} bias={biased}", 2 * f);
                all.push(Case::new(format!("forward of normalised rows {what}"), 4e-6, move |t| {
                    let n = 2 * f;
                    let (a, ha) = t.matrix(m, k)?;
                    let (b, hb) = random(t, dtype, k, n)?;
                    let (gain, hg) = t.matrix(1, k)?;
                    let (bias, hbias) = t.matrix(1, n)?;
                    let (norm, eps) = (Gain { weight: &gain, plus_one }, 1e-5f32);
                    let normed = normalises(&t.rec, m);
                    let gated = act.filter(|_| gates(&t.rec, m, &b));
                    let c = t.gpu.empty(m, if gated.is_some() { f } else { n })?;
                    let e = Epilogue {
                        bias: biased.then_some(&bias),
                        add: false,
                        norm: normed.then_some((norm, eps)),
                        gate: gated,
                    };
                    forward(&mut t.rec, &a, &b, &c, e)?;
                    t.expect("c", &c, || {
                        let hg = rms_norm::whole(&hg, plus_one);
                        let rows = ha.chunks_exact(k).flat_map(|x| match normed {
                            true => rms_norm::twin(x, &hg, f64::from(eps)).0,
                            false => x.to_vec(),
                        });
                        let mut want = twin(&rows.collect::<Vec<_>>(), &hb, m, k, n);
                        if biased {
                            want.iter_mut().enumerate().for_each(|(i, x)| *x += hbias[i % n]);
                        }
                        match gated {
                            Some(act) => {
                                let halves =
                                    want.chunks_exact(f).step_by(2).zip(want.chunks_exact(f).skip(1).step_by(2));
                                halves.flat_map(|(gate, up)| swiglu::twin(act, gate, up)).collect()
                            }
                            None => want,
                        }
                    });
                    Ok(())
                }));
            }
        }
    }
    for (m, k, n) in [(1, 1, 1), (36, 7, 10), (64, 640, 33), (12, 33, 97)] {
        all.push(Case::new(format!("forward_tn {m}x{k}x{n}"), 4e-6, move |t| {
            let (a, ha) = t.matrix(k, m)?;
            let (b, hb) = t.matrix(k, n)?;
            let c = t.gpu.zeros(pad4(m), n)?;
            forward_tn(&mut t.rec, &a, &b, &c.clone().into(), true)?;
            t.expect("c", &c, || {
                let mut want = twin_tn(&ha, &hb, m, k, n);
                want.resize(pad4(m) * n, 0.0);
                want
            });
            Ok(())
        }));
    }
    let shapes = [(1, 32, 5), (7, 96, 36), (3, 64, 33), (33, 576, 10), (9, 64, 130)];
    for (quants, (m, k, n)) in Quants::ALL.into_iter().flat_map(|q| shapes.map(|s| (q, s))) {
        all.push(Case::new(format!("forward_q {m}x{k}x{n} {}", quants.name()), 4e-6, move |t| {
            let (a, ha) = t.matrix(m, k)?;
            let (b, hb) = random_quantised(t, quants, k, n)?;
            let c = t.gpu.empty(m, n)?;
            forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
            t.expect("c", &c, || twin(&ha, &hb, m, k, n));
            Ok(())
        }));
    }
    for (half, m, k, n) in
        [(Half::Bf16, 1, 36, 36), (Half::F16, 7, 33, 10), (Half::Bf16, 65, 10, 130), (Half::F16, 9, 96, 6)]
    {
        all.push(Case::new(format!("forward {m}x{k}x{n} {}", half.name()), 4e-6, move |t| {
            let (a, ha) = t.matrix(m, k)?;
            let (b, hb) = random_half(t, half, k, n)?;
            let c = t.gpu.empty(m, n)?;
            forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
            t.expect("c", &c, || twin(&ha, &hb, m, k, n));
            Ok(())
        }));
    }
    for (kind, m, k, n) in [
        ("f32", 7, 33, 10),
        ("bf16", 65, 10, 130),
        ("q4", 9, 64, 34),
        ("q8", 3, 32, 7),
        ("q4k", 2, 64, 33),
        ("q6k", 1, 32, 6),
    ] {
        all.push(Case::new(format!("forward_nt {m}x{n}x{k} {kind}"), 4e-6, move |t| {
            let (a, ha) = t.matrix(m, n)?;
            let (b, hb) = random(t, kind, k, n)?;
            let (c, hc) = t.matrix(m, k)?;
            forward_nt(&mut t.rec, &a, &b, &c, true)?;
            t.expect("c", &c, || {
                let product = twin(&ha, &transpose::twin(&hb, k, n), m, n, k);
                product.iter().zip(&hc).map(|(x, y)| x + y).collect()
            });
            Ok(())
        }));
    }
    // The shapes of SmolLM2's layers, a square, and those of the small world.
    let layers = [(1, 576, 1536), (8, 576, 1536), (128, 576, 576), (128, 576, 1536), (128, 1536, 576)];
    let rest = [(512, 512, 512), (4096, 64, 64), (4096, 64, 320), (4096, 160, 64)];
    all.extend(layers.into_iter().chain(rest).filter_map(|shape| timed(shape, "f32").ok()));
    all.extend([(64, 4096, 320), (576, 128, 1536)].map(timed_tn));
    let stored = ["bf16", "q4"].into_iter().flat_map(|dtype| [1, 8, 128].map(|m| timed((m, 576, 1536), dtype)));
    all.extend(stored.filter_map(Result::ok));
    all
}

/// A product of any shape to time: `(M, K, N)`, weights in `dtype`.
///
/// # Errors
/// A size of 0; a type that there is not; quantised weights whose K is no multiple of 32.
pub fn timed((m, k, n): (usize, usize, usize), dtype: &'static str) -> Result<Case> {
    let wrong = |what: String| Err(Error::Input(format!("matmul {m}x{k}x{n} {dtype}: {what}")));
    if m == 0 || k == 0 || n == 0 {
        return wrong("a size is 0".into());
    }
    if dtype.starts_with('q') && k % 32 != 0 {
        return wrong("quantised weights need a K that is a multiple of 32".into());
    }
    if !DTYPES.contains(&dtype) {
        return wrong(format!("there are the types {}", DTYPES.join(", ")));
    }
    let suffix = if dtype == "f32" { String::new() } else { format!(" {dtype}") };
    Ok(Case::timed(format!("forward {m}x{k}x{n}{suffix}"), move |t| {
        let (a, _) = t.matrix(m, k)?;
        let (b, _) = random(t, dtype, k, n)?;
        let c = t.gpu.empty(m, n)?;
        forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
        t.expect("c", &c, Vec::new);
        Ok(())
    }))
}

/// The products of the way back through that of [`timed`]: the gradient by its input, with weights in `dtype`, and by its weights.
///
/// # Errors
/// As [`timed`].
pub fn timed_backward((m, k, n): (usize, usize, usize), dtype: &'static str) -> Result<[Case; 2]> {
    timed((m, k, n), dtype)?;
    let suffix = if dtype == "f32" { String::new() } else { format!(" {dtype}") };
    let nt = Case::timed(format!("forward_nt {m}x{n}x{k}{suffix}"), move |t| {
        let (a, _) = t.matrix(m, n)?;
        let (b, _) = random(t, dtype, k, n)?;
        let c = t.gpu.empty(m, b.rows())?;
        forward_nt(&mut t.rec, &a, &b, &c, false)?;
        t.expect("c", &c, Vec::new);
        Ok(())
    });
    Ok([nt, timed_tn((pad4(k), m, n))])
}

/// A product C `[M, N]` = A^T B to time: `(M, K, N)`.
fn timed_tn((m, k, n): (usize, usize, usize)) -> Case {
    Case::timed(format!("forward_tn {m}x{k}x{n}"), move |t| {
        let (a, _) = t.matrix(k, m)?;
        let (b, _) = t.matrix(k, n)?;
        let c = t.gpu.empty(m, n)?;
        forward_tn(&mut t.rec, &a, &b, &c.clone().into(), false)?;
        t.expect("c", &c, Vec::new);
        Ok(())
    })
}

/// A random matrix `[K, N]` of one of [`DTYPES`], and the same in f64.
pub(in crate::kernels) fn random(t: &mut Trial, dtype: &str, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
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
pub const DTYPES: [&str; 8] = {
    let [q4, q8, q4k, q5k, q6k] = Quants::ALL;
    ["f32", "bf16", "f16", q4.name(), q8.name(), q4k.name(), q5k.name(), q6k.name()]
};

/// Random 16-bit values and the same in f64, `[K, N]`.
pub(in crate::kernels) fn random_half(t: &mut Trial, half: Half, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let v: Vec<f32> = t.values(k * n).iter().map(|x| half.value(half.bits(*x))).collect();
    let weight = Weight::upload_half(t.gpu, half, pad4(k), n, &pad_rows(&v, k, n))?;
    Ok((weight, v.iter().map(|x| f64::from(*x)).collect()))
}

/// Random blocks and the dense matrix `[K, N]` that they stand for.
pub(in crate::kernels) fn random_quantised(
    t: &mut Trial,
    quants: Quants,
    k: usize,
    n: usize,
) -> Result<(Weight, Vec<f64>)> {
    let (bits, per, group) = (quants.bits, 32 / quants.bits as usize, quants.group as usize);
    let stored = |x: f32| match quants.scales {
        Scales::Half => Half::F16.value(Half::F16.bits(x)),
        Scales::Full => x,
    };
    let words: Vec<u32> = (0..k / per * n).map(|_| t.below(1 << 32) as u32).collect();
    let scale: Vec<f32> = t.values(k / group * n).iter().map(|x| stored(x / (1 << bits) as f32)).collect();
    let minimum: Vec<f32> = t.values(k / group * n).into_iter().map(stored).collect();
    let dense = (0..k * n)
        .map(|i| {
            let (row, col) = (i / n, i % n);
            let q = (words[row / per * n + col] >> ((row % per) as u32 * bits)) & ((1u32 << bits) - 1);
            f64::from(q) * f64::from(scale[row / group * n + col]) + f64::from(minimum[row / group * n + col])
        })
        .collect();
    Ok((Weight::upload_quantised(t.gpu, (quants, k, n), &words, [&scale, &minimum])?, dense))
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
