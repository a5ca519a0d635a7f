//! Gradients through an op that stands between two products, with a loss of log-probs behind them: what comes to its
//! backward pass are gradients of all sizes, from launches just before, and what it gives goes on to others.

use super::attention_backward;
use super::case::{Case, Kernel, Trial};
use super::dropout;
use super::heads::Heads;
use super::inputs::{pad_rows, random, random_forest};
use super::log_softmax::{self, Targets};
use super::lora::{self, Adapters, Layout};
use super::mask::Mask;
use super::matmul::{Epilogue, forward, forward_nt, forward_tn};
use super::product::{twin, twin_tn};
use super::rms_norm::{self, Gain};
use super::rope::{self, Rotary, Turn};
use super::scores::Scores;
use super::short_conv::{self, Links, Taps};
use super::weight::Weight;
use super::{attention, matmul_cases, qk_norm, swiglu, transpose};
use crate::Result;
use crate::arch::Activation;
use crate::gpu::{Tensor, pad4};

/// An op of an input of `width` columns.
struct Op {
    kernel: &'static Kernel,
    what: &'static str,
    width: usize,
    pass: Pass,
}

type Pass = fn(&mut Trial, &Tensor, &[f64]) -> Result<Passed>;

/// What an op gave of its input, on the device and by its twin, and how the gradient goes back.
struct Passed {
    y: Tensor,
    twin: Vec<f64>,
    back: Back,
}

type Back = Box<dyn FnOnce(&mut Trial, &Tensor, &[f64]) -> Result<(Tensor, Vec<f64>)>>;

/// Heads whose channels fill vec4, so that products give and take them as they are.
const HEADS: Heads = Heads { heads: 2, kv_heads: 1, head_dim: 12 };
const EPS: f32 = 1e-5;

const OPS: [Op; 10] = [
    Op { kernel: &log_softmax::KERNEL, what: "nothing", width: 22, pass: nothing },
    Op { kernel: &matmul_cases::KERNEL, what: "a quantised product", width: 32, pass: product },
    Op { kernel: &rms_norm::KERNEL, what: "RMSNorm", width: 22, pass: norm },
    Op { kernel: &swiglu::KERNEL, what: "SwiGLU", width: 24, pass: gate },
    Op { kernel: &qk_norm::KERNEL, what: "QK-norm", width: 48, pass: head_norm },
    Op { kernel: &rope::KERNEL, what: "RoPE", width: 48, pass: turn },
    Op { kernel: &attention_backward::KERNEL, what: "attention", width: 48, pass: attend },
    Op { kernel: &short_conv::KERNEL, what: "a short convolution", width: 36, pass: convolve },
    Op { kernel: &dropout::KERNEL, what: "dropout", width: 22, pass: drop_out },
    Op { kernel: &lora::KERNEL, what: "an adapter", width: 8, pass: adapt },
];

/// The cases in which a kernel's op stands between two others.
pub(super) fn cases(kernel: &Kernel) -> Vec<Case> {
    let own = OPS.iter().filter(|op| op.kernel.name() == kernel.name());
    own.flat_map(|op| [7, 33].map(|rows| case(op, rows))).collect()
}

/// A matrix of weights `[K, N]`, small enough that what follows keeps its size.
fn weight(t: &mut Trial, k: usize, n: usize) -> Result<(Weight, Vec<f64>)> {
    let values: Vec<f32> = t.values(k * n).iter().map(|x| x / (k as f32).sqrt()).collect();
    let weight = Weight::upload(t.gpu, pad4(k), n, &pad_rows(&values, k, n))?;
    Ok((weight, wide(&values)))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// C = A B^T of A `[M, N]` and B `[K, N]`.
fn turned(a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    twin(a, &transpose::twin(b, k, n), m, n, k)
}

fn case(op: &'static Op, rows: usize) -> Case {
    let case = Case::new(format!("{rows} rows through {} between two products", op.what), 2e-5, move |t| {
        let (k, width, v) = (18, op.width, 29);
        let (a, ha) = t.matrix(rows, k)?;
        let (before, hb) = weight(t, k, width)?;
        let x = t.gpu.empty(rows, width)?;
        forward(&mut t.rec, &a, &before, &x, Epilogue::default())?;
        let Passed { y, twin: hy, back } = (op.pass)(t, &x, &twin(&ha, &hb, rows, k, width))?;
        let out = y.cols();
        let (behind, hw) = weight(t, out, v)?;
        let logits = t.gpu.empty(rows, v)?;
        forward(&mut t.rec, &y, &behind, &logits, Epilogue::default())?;
        let hl = twin(&hy, &hw, rows, out, v);

        // The loss: log-probs of one target a row, of three sequences with factors of their own.
        let list = |i: usize| ((i * 5 + 3) as u32 % v as u32, i as u32 % 3);
        let lists: Vec<Vec<(u32, u32)>> = (0..rows).map(|i| vec![list(i)]).collect();
        let targets = Targets {
            start: t.gpu.vector(&(0..=rows as u32).collect::<Vec<_>>())?,
            target: t.gpu.vector(&(0..rows).map(|i| list(i).0).collect::<Vec<_>>())?,
            sequence: t.gpu.vector(&(0..rows).map(|i| list(i).1).collect::<Vec<_>>())?,
            sequences: 3,
        };
        let factors = [0.37f32, -2.5, 11.0];
        let coef = t.gpu.vector(&factors)?;
        let [lse, logp, square] = [t.gpu.empty(1, rows)?, t.gpu.empty(1, rows)?, t.gpu.empty(1, rows)?];
        log_softmax::forward(&mut t.rec, &logits, &targets, 0, [&lse, &logp, &square])?;
        log_softmax::backward(&mut t.rec, &logits, &targets, 0, [&lse, &logp], (&coef, None))?;
        let hdl = log_softmax::twin_backward(&hl, v, &lists, &wide(&factors), None);

        let dy = t.gpu.empty(rows, out)?;
        forward_nt(&mut t.rec, &logits, &behind, &dy, false)?;
        let (dx, hdx) = back(t, &dy, &turned(&hdl, &hw, [rows, v, out]))?;
        let (da, dw) = (t.gpu.empty(rows, k)?, t.gpu.zeros(pad4(k), width)?);
        forward_nt(&mut t.rec, &dx, &before, &da, false)?;
        forward_tn(&mut t.rec, &a, &dx, &dw.clone().into(), true)?;
        t.expect("da", &da, || turned(&hdx, &hb, [rows, width, k]));
        t.expect("dw", &dw, || {
            let mut want = twin_tn(&ha, &hdx, k, rows, width);
            want.resize(pad4(k) * width, 0.0);
            want
        });
        Ok(())
    });
    Case { between: true, extremes: Vec::new(), ..case }
}

fn nothing(_: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let back: Back = Box::new(|_, dy, hdy| Ok((dy.clone(), hdy.to_vec())));
    Ok(Passed { y: x.clone(), twin: hx.to_vec(), back })
}

fn product(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let (rows, k, n) = (x.rows(), x.cols(), 17);
    let (b, hb) = random(t, "q8", k, n)?;
    let y = t.gpu.empty(rows, n)?;
    forward(&mut t.rec, x, &b, &y, Epilogue::default())?;
    let twin = twin(hx, &hb, rows, k, n);
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = t.gpu.empty(rows, k)?;
        forward_nt(&mut t.rec, dy, &b, &dx, false)?;
        Ok((dx, turned(hdy, &hb, [rows, n, k])))
    });
    Ok(Passed { y, twin, back })
}

fn norm(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let (gain, hg) = t.matrix(1, x.cols())?;
    let normed = rms_norm::forward(&mut t.rec, x, None, Gain { weight: &gain, plus_one: true }, EPS)?;
    let (hg, hx, eps) = (rms_norm::whole(&hg, true), hx.to_vec(), f64::from(EPS));
    let (y, twin) = (normed.y.clone(), rms_norm::twin(&hx, &hg, eps).0);
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = t.gpu.empty(dy.rows(), dy.cols())?;
        let gain = Gain { weight: &gain, plus_one: true };
        rms_norm::backward(&mut t.rec, &normed, gain, dy, (&dx, false), None)?;
        Ok((dx, rms_norm::twin_backward(&hx, &hg, eps, hdy).0))
    });
    Ok(Passed { y, twin, back })
}

fn gate(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let (x, half, act) = (x.clone(), x.cols() / 2, Activation::Silu);
    let y = t.gpu.empty(x.rows(), half)?;
    swiglu::forward(&mut t.rec, act, &x, &y)?;
    let side = |first: usize| -> Vec<f64> {
        hx.chunks_exact(2 * half).flat_map(|row| &row[first..first + half]).copied().collect()
    };
    let (gate, up) = (side(0), side(half));
    let twin = swiglu::twin(act, &gate, &up);
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = t.gpu.empty(x.rows(), x.cols())?;
        swiglu::backward(&mut t.rec, act, &x, dy, &dx)?;
        let (dg, du) = swiglu::twin_backward(act, &gate, &up, hdy);
        let rows = dg.chunks_exact(half).zip(du.chunks_exact(half));
        Ok((dx, rows.flat_map(|(g, u)| [g, u].concat()).collect()))
    });
    Ok(Passed { y, twin, back })
}

fn head_norm(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let (gain, hg) = t.matrix(1, qk_norm::gains(HEADS))?;
    let (y, inv) = qk_norm::forward(&mut t.rec, HEADS, x, Gain { weight: &gain, plus_one: false }, EPS)?;
    let (x, hx, eps) = (x.clone(), hx.to_vec(), f64::from(EPS));
    let twin = qk_norm::twin(&hx, HEADS, &hg, eps);
    let back: Back = Box::new(move |t, dy, hdy| {
        let gain = Gain { weight: &gain, plus_one: false };
        let dx = qk_norm::backward(&mut t.rec, HEADS, (&x, &inv), gain, dy, None)?;
        Ok((dx, qk_norm::twin_backward(&hx, HEADS, &hg, eps, hdy).0))
    });
    Ok(Passed { y, twin, back })
}

fn turn(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let rows = x.rows();
    let inv_freq: Vec<f32> = (0..6).map(|i| 100f32.powf(-(i as f32) / 6.0)).collect();
    let host: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 90).collect();
    let turn = Turn::new(t.gpu, rope::angles(t.gpu, &[(&inv_freq, 90)], 1.0)?, &vec![0; rows])?;
    let pos = t.gpu.vector(&host)?;
    let place = Rotary { heads: HEADS, pos: &pos, turn: Some(&turn), qk_norm: None, growth: None };
    let (y, inv) = rope::forward(&mut t.rec, &place, x)?;
    let (x, hx) = (x.clone(), hx.to_vec());
    let twin = rope::twin(&hx, HEADS, &host, &inv_freq, &[], 0.0);
    let back: Back = Box::new(move |t, dy, hdy| {
        let place = Rotary { heads: HEADS, pos: &pos, turn: Some(&turn), qk_norm: None, growth: None };
        let dx = rope::backward(&mut t.rec, &place, &x, &inv, dy, None)?;
        Ok((dx, rope::twin_backward(&hx, HEADS, &host, &inv_freq, &[], 0.0, hdy).0))
    });
    Ok(Passed { y, twin, back })
}

fn attend(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let forest = random_forest(t, x.rows());
    let (mask, scores) = (Mask::new(t.gpu, &forest, None)?, Scores::default());
    let out = attention::forward(&mut t.rec, x, HEADS, &mask)?;
    let (x, hx, y) = (x.clone(), hx.to_vec(), out.o.clone());
    let twin = attention::twin(&hx, HEADS, &forest, mask.window, scores).0;
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = attention_backward::backward(&mut t.rec, &x, HEADS, &mask, &out, dy)?.dqkv;
        Ok((dx, attention_backward::twin_backward(&hx, HEADS, &forest, mask.window, scores, hdy)))
    });
    Ok(Passed { y, twin, back })
}

fn convolve(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let forest = random_forest(t, x.rows());
    let (parents, links, (count, d)) = (forest.parents(), Links::new(t.gpu, &forest)?, (3, x.cols() / 3));
    let (taps, ht) = t.matrix(1, count * d)?;
    let by = Taps { taps: &taps, count, channels: d, bias: None };
    let y = short_conv::forward(&mut t.rec, x, &links, by)?;
    let (x, hx) = (x.clone(), hx.to_vec());
    let twin = short_conv::Twin { parents: &parents, d, taps: &ht, bias: &[] }.forward(&hx);
    let back: Back = Box::new(move |t, dy, hdy| {
        let by = Taps { taps: &taps, count, channels: d, bias: None };
        let dx = short_conv::backward(&mut t.rec, &x, &links, by, dy, (None, None))?;
        let [want, ..] = short_conv::Twin { parents: &parents, d, taps: &ht, bias: &[] }.backward(&hx, hdy);
        Ok((dx, want))
    });
    Ok(Passed { y, twin, back })
}

fn drop_out(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let at: Vec<(u64, u32)> = (0..x.rows()).map(|r| (7 + r as u64 / 3, r as u32 % 5)).collect();
    let (mask, row, y) =
        (dropout::Mask { key: 5, rate: 0.3 }, dropout::rows(t.gpu, &at)?, t.gpu.empty(x.rows(), x.cols())?);
    dropout::forward(&mut t.rec, x, &row, mask, &y)?;
    let twin = dropout::twin(hx, &at, mask);
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = t.gpu.empty(dy.rows(), dy.cols())?;
        dropout::forward(&mut t.rec, dy, &row, mask, &dx)?;
        Ok((dx, dropout::twin(hdy, &at, mask)))
    });
    Ok(Passed { y, twin, back })
}

fn adapt(t: &mut Trial, x: &Tensor, hx: &[f64]) -> Result<Passed> {
    let edges = std::array::from_fn(|i| if i == 0 { 8 } else { 17 });
    let (n, layout) = (17, Layout { rank: 4, layers: 2, edges });
    let ((b, hb), (columns, hc)) = (t.matrix(layout.rank, n)?, t.matrix(lora::COLUMNS, n)?);
    let (b, y) = (Weight::from(b), t.gpu.zeros(x.rows(), n)?);
    lora::add(&mut t.rec, x, Adapters { layout, b: &b, columns: &columns }, &y)?;
    let scaled = |x: &[f64]| -> Vec<f64> { x.iter().enumerate().map(|(i, x)| x * hc[2 * n + i % n]).collect() };
    let mut twin = scaled(&lora::twin(hx, &hb, layout, n));
    twin.iter_mut().enumerate().for_each(|(i, y)| *y += hc[i % n]);
    let (part, shape) = (hc[2 * n..].to_vec(), (x.rows(), x.cols()));
    let back: Back = Box::new(move |t, dy, hdy| {
        let dx = t.gpu.empty(shape.0, shape.1)?;
        lora::back_u(&mut t.rec, dy, Adapters { layout, b: &b, columns: &columns }, &dx)?;
        let scaled: Vec<f64> = hdy.iter().enumerate().map(|(i, d)| d * part[i % n]).collect();
        Ok((dx, lora::twin_back_u(&scaled, &hb, layout, n)))
    });
    Ok(Passed { y, twin, back })
}
