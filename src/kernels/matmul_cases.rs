//! The products' comparisons with their twins, and the shapes to time.

use super::case::{Case, Kernel};
use super::half::Half;
use super::inputs::{DTYPES, pad_rows, random, random_half, random_quantised};
use super::lora::{self, Adapters, Layout};
use super::matmul::{Epilogue, adapts, forward, forward_nt, forward_tn, gates, normalises};
use super::matmul_way::{SOURCE, ways};
use super::product::{twin, twin_tn};
use super::quants::Quants;
use super::rms_norm::{self, Gain};
use super::swiglu;
use super::transpose;
use super::weight::Weight;
use crate::arch::Activation;
use crate::gpu::{Variant, pad4};
use crate::{Error, Result};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "C = A B with B in f32, 16 bits or quantised, A B^T and A^T B",
    ways,
    ordered: &Variant::ALL,
    cases,
};

fn cases() -> Vec<Case> {
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
        for act in [None].into_iter().chain(Activation::ALL.map(Some)) {
            for (plus_one, biased) in [(false, true), (true, false)] {
                let what = format!("{m}x{k}x{} {dtype} {act:?} plus_one={plus_one} bias={biased}", 2 * f);
                all.push(Case::new(format!("forward of normalised rows {what}"), 4e-6, move |t| {
                    let n = 2 * f;
                    let (a, ha) = t.matrix(m, k)?;
                    let (b, hb) = random(t, dtype, k, n)?;
                    let (gain, hg) = t.matrix(1, k)?;
                    let (bias, hbias) = t.matrix(1, n)?;
                    let (norm, eps) = (Gain { weight: &gain, plus_one }, 1e-5f32);
                    let normed = normalises(&t.rec, m, false);
                    let gated = act.filter(|_| gates(&t.rec, m, &b));
                    let c = t.gpu.empty(m, if gated.is_some() { f } else { n })?;
                    let e = Epilogue {
                        bias: biased.then_some(&bias),
                        add: false,
                        norm: normed.then_some((norm, eps)),
                        gate: gated,
                        adapters: None,
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
    all.extend(adapted());
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
    let shapes = [(1, 544, 5), (7, 288, 36), (3, 64, 33), (33, 576, 10), (9, 32, 130)];
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
        ("q5", 4, 32, 12),
        ("q8", 3, 32, 7),
        ("q4k", 2, 64, 33),
        ("q6k", 1, 32, 6),
        ("mxfp4", 5, 96, 70),
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
    all.extend([(64, 4096, 320), (576, 128, 1536)].map(|s| Case { timed: true, ..by_weights(s) }));
    let stored = ["bf16", "q4"].into_iter().flat_map(|dtype| [1, 8, 128].map(|m| timed((m, 576, 1536), dtype)));
    all.extend(stored.filter_map(Result::ok));
    all
}

/// Products with adapters on the way, gated and normalised where a device does that; in two launches where it takes no
/// adapters.
fn adapted() -> Vec<Case> {
    let layouts = [
        Layout { rank: 4, layers: 1, edges: [72; 3] },
        Layout { rank: 16, layers: 2, edges: [36, 72, 72] },
        Layout { rank: 8, layers: 3, edges: [40, 56, 72] },
        Layout { rank: 8, layers: 4, edges: [12, 40, 64] },
    ];
    let few = [("f32", 1), ("f32", 5), ("bf16", 2), ("q4", 1), ("q6k", 8), ("q8", 3)];
    let rows = few.into_iter().chain([("f32", 21), ("q4", 40)]);
    let shapes = rows.flat_map(|of| layouts.map(|layout| (of, layout)));
    let shapes = shapes.flat_map(|of| [false, true].map(|gate| (of, gate)));
    let case = |(((dtype, m), layout), gate): (((&'static str, usize), Layout), bool)| {
        let (k, n) = (64, 72);
        let what = format!("{m}x{k}x{n} {dtype} with {} adapters of rank {}", layout.layers, layout.rank);
        let name = format!("forward {what}, gated={gate}");
        Case::new(name, 4e-6, move |t| {
            let (a, ha) = t.matrix(m, k)?;
            let (b, hb) = random(t, dtype, k, n)?;
            let (gain, hg) = t.matrix(1, k)?;
            let (u, hu) = t.matrix(m, layout.rank * layout.layers)?;
            let (low, hl) = t.matrix(layout.rank, n)?;
            let (columns, hc) = t.matrix(lora::COLUMNS, n)?;
            let (low, norm) = (Weight::from(low), Gain { weight: &gain, plus_one: false });
            let adapters = Adapters { layout, b: &low, columns: &columns };
            let on_the_way = adapts(&t.rec, m, &b, &low);
            let normed = on_the_way && normalises(&t.rec, m, true);
            let gate = Some(Activation::Silu).filter(|_| gate && on_the_way && gates(&t.rec, m, &b));
            let (c, hc0) = t.matrix(m, if gate.is_some() { n / 2 } else { n })?;
            let e = Epilogue { norm: normed.then_some((norm, 1e-5)), gate, ..Epilogue::default() };
            if on_the_way {
                let e = Epilogue { add: gate.is_none(), adapters: Some((adapters, &u)), ..e };
                forward(&mut t.rec, &a, &b, &c, e)?;
            } else {
                forward(&mut t.rec, &a, &b, &c, e)?;
                lora::add(&mut t.rec, &u, adapters, &c)?;
            }
            t.expect("c", &c, || {
                let rows = ha.chunks_exact(k).flat_map(|x| match normed {
                    true => rms_norm::twin(x, &hg, 1e-5).0,
                    false => x.to_vec(),
                });
                let whole = twin(&rows.collect::<Vec<_>>(), &hb, m, k, n);
                let part = lora::twin(&hu, &hl, layout, n);
                let one = |(i, (x, y)): (usize, (&f64, &f64))| {
                    let [bias, g, f] = [0, 1, 2].map(|row| hc[row * n + i % n]);
                    bias + g * x + f * y
                };
                let want: Vec<f64> = whole.iter().zip(&part).enumerate().map(one).collect();
                let halves = || want.chunks_exact(n / 2).step_by(2).zip(want.chunks_exact(n / 2).skip(1).step_by(2));
                match gate {
                    Some(act) => halves().flat_map(|(gate, up)| swiglu::twin(act, gate, up)).collect(),
                    None if on_the_way => want.iter().zip(&hc0).map(|(x, y)| x + y).collect(),
                    None => want,
                }
            });
            Ok(())
        })
    };
    shapes.map(case).collect()
}

/// A product of any shape to time: `(M, K, N)`, weights in `dtype`.
///
/// # Errors
/// A size of 0; a type that there is not; quantised weights whose K is no multiple of 32.
pub fn timed(shape: (usize, usize, usize), dtype: &'static str) -> Result<Case> {
    let [forward, _] = of_shape(shape, dtype)?;
    Ok(Case { timed: true, ..forward })
}

/// The products of the backward pass through that of [`timed`]: the gradient by its input, with weights in `dtype`, and
/// by its weights.
///
/// # Errors
/// As [`timed`].
pub fn timed_backward(shape: (usize, usize, usize), dtype: &'static str) -> Result<[Case; 2]> {
    let ([_, by_input], (m, k, n)) = (of_shape(shape, dtype)?, shape);
    Ok([by_input, by_weights((pad4(k), m, n))].map(|case| Case { timed: true, ..case }))
}

/// The products of one shape `(M, K, N)`, forward and backward, to be compared with their twins.
///
/// # Errors
/// As [`timed`].
pub fn compared(shape: (usize, usize, usize), dtype: &'static str) -> Result<[Case; 3]> {
    let ([forward, by_input], (m, k, n)) = (of_shape(shape, dtype)?, shape);
    Ok([forward, by_input, by_weights((k, m, n))])
}

/// The largest error of a sum of so many products.
fn tolerance(count: usize) -> f64 {
    if count > 1000 { 1e-5 } else { 4e-6 }
}

/// Most elements of a matrix, of which the host holds a copy in f32 and one in f64.
const LARGEST_MATRIX: usize = 1 << 30;

/// The product of a shape, and the gradient by its input.
fn of_shape((m, k, n): (usize, usize, usize), dtype: &'static str) -> Result<[Case; 2]> {
    let wrong = |what: String| Err(Error::Input(format!("matmul {m}x{k}x{n} {dtype}: {what}")));
    if m == 0 || k == 0 || n == 0 {
        return wrong("a size is 0".into());
    }
    if Quants::ALL.iter().any(|kind| kind.name() == dtype) && k % 32 != 0 {
        return wrong("quantised weights need a K that is a multiple of 32".into());
    }
    if !DTYPES.contains(&dtype) {
        return wrong(format!("there are the types {}", DTYPES.join(", ")));
    }
    if [(m, k), (k, n), (m, n)].iter().any(|(rows, cols)| rows.saturating_mul(*cols) > LARGEST_MATRIX) {
        return wrong(format!("a matrix is too large; expected at most {LARGEST_MATRIX} elements"));
    }
    let suffix = if dtype == "f32" { String::new() } else { format!(" {dtype}") };
    let forward = Case::new(format!("forward {m}x{k}x{n}{suffix}"), tolerance(k), move |t| {
        let (a, ha) = t.matrix(m, k)?;
        let (b, hb) = random(t, dtype, k, n)?;
        let c = t.gpu.empty(m, n)?;
        forward(&mut t.rec, &a, &b, &c, Epilogue::default())?;
        t.expect("c", &c, || twin(&ha, &hb, m, k, n));
        Ok(())
    });
    let by_input = Case::new(format!("forward_nt {m}x{n}x{k}{suffix}"), tolerance(n), move |t| {
        let (a, ha) = t.matrix(m, n)?;
        let (b, hb) = random(t, dtype, k, n)?;
        let c = t.gpu.empty(m, b.rows())?;
        forward_nt(&mut t.rec, &a, &b, &c, false)?;
        t.expect("c", &c, || {
            let rows = twin(&ha, &transpose::twin(&hb, k, n), m, n, k);
            let pad = vec![0.0; b.rows() - k];
            rows.chunks_exact(k).flat_map(|row| [row, &pad].concat()).collect()
        });
        Ok(())
    });
    Ok([forward, by_input].map(|case| case.of(dtype)))
}

/// A product C `[pad4(M), N]` = A^T B: `(M, K, N)`.
fn by_weights((m, k, n): (usize, usize, usize)) -> Case {
    Case::new(format!("forward_tn {m}x{k}x{n}"), tolerance(k), move |t| {
        let (a, ha) = t.matrix(k, m)?;
        let (b, hb) = t.matrix(k, n)?;
        let c = t.gpu.empty(pad4(m), n)?;
        forward_tn(&mut t.rec, &a, &b, &c.clone().into(), false)?;
        t.expect("c", &c, || {
            let mut want = twin_tn(&ha, &hb, m, k, n);
            want.resize(pad4(m) * n, 0.0);
            want
        });
        Ok(())
    })
}
