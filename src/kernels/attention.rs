//! Attention over the token forest, forward and backward.

use super::attention_decode::CHUNK;
use super::rope::{Heads, head_matrix, pad_heads};
use super::{Case, Kernel, Trial, lanes, stream, word};
use crate::gpu::{Cost, Gpu, Launch, Recorder, Source, Tensor, Variant, WIDE};
use crate::layout::Forest;
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "attention",
    soft: include_str!("../../shaders/attention.wgsl"),
    tile: include_str!("../../shaders/attention.wgsl"),
    libs: &[],
    tile_size: 32,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention over the token forest and its gradients",
    constants: &[
        &[("D4", 1), ("HQ", 2), ("NB", 4), ("KR", 2), ("CHUNK", 0), ("COUNT", 0)],
        &[("D4", 3), ("HQ", 1), ("NB", 1), ("KR", 1), ("CHUNK", 0), ("COUNT", 0)],
        &[("D4", 16), ("HQ", 1), ("NB", 1), ("KR", 1), ("CHUNK", CHUNK as u32), ("COUNT", 0)],
        &[("D4", 64), ("HQ", 1), ("NB", 1), ("KR", 1), ("CHUNK", 0), ("COUNT", 0)],
    ],
    ordered: &Variant::ALL,
    cases,
};

/// The forest's arrays on the GPU, `[T]` each.
#[derive(Clone)]
pub struct Mask {
    /// End of each row's subtree.
    pub end: Tensor,
    /// First row of each row's tree.
    pub root: Tensor,
    /// Position along the path.
    pub pos: Tensor,
    /// Positions a row sees back, itself included.
    pub window: u32,
    /// Factor on the scores, head_dim^-0.5 if None.
    pub scale: Option<f32>,
    /// (row, visible row) pairs: the work of one head.
    pub area: f64,
    /// Where the kernels count what they compute, for tests: (query, key) pairs and jumps of the forward pass, of dQ's and of
    /// dK and dV's, `[6]` words, added up over lanes.
    pub work: Option<Tensor>,
}

impl Mask {
    /// Uploads the arrays.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, forest: &Forest, window: Option<usize>) -> Result<Mask> {
        let (end, root, pos) = (gpu.vector(&forest.end)?, gpu.vector(&forest.root)?, gpu.vector(&forest.pos)?);
        Ok(Mask { end, root, pos, window: 0, scale: None, area: 0.0, work: None }.seeing(forest, window, None))
    }

    /// The same rows with another window and another factor on the scores.
    pub fn seeing(&self, forest: &Forest, window: Option<usize>, scale: Option<f32>) -> Mask {
        let window = window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
        // A row sees its whole path: pos + 1 rows.
        let area = forest.pos.iter().map(|p| f64::from((p + 1).min(window))).sum();
        Mask { window, scale, area, ..self.clone() }
    }
}

/// Output `[T, H pad4(head_dim)]` and log-sum-exp `[T, H]`.
#[derive(Clone)]
pub struct Attended {
    /// Weighted values.
    pub o: Tensor,
    /// log Σ exp of each row's scores.
    pub lse: Tensor,
}

fn constants(rec: &Recorder, heads: Heads, together: usize) -> Vec<(&'static str, u32)> {
    let d4 = heads.padded() / 4;
    let soft = rec.variant() == Variant::Soft;
    // Wide heads lie in arrays that a software adapter reads lane by lane, so each is read once for 4 rows of the other side. Where
    // the order of sums must be that of decoding, one follows the other.
    let rows = if soft && d4 > 4 && !rec.invariant() { 4 } else { 1 };
    let mut all = vec![("D4", d4 as u32), ("HQ", together as u32), ("NB", rows), ("KR", key_rows(rec, heads) as u32)];
    all.extend((soft && rec.gpu().has_wide_words()).then_some(WIDE));
    all
}

/// Key rows that a lane of `backward_kv` holds; narrow heads are quicker through one.
fn key_rows(rec: &Recorder, heads: Heads) -> usize {
    if rec.variant() == Variant::Soft && heads.padded() > 16 { 2 } else { 1 }
}

/// Query heads that a lane holds: they read the same keys and values, and on software adapters a load costs more than what is done
/// with it. On a GPU they would take the registers of three.
fn together(rec: &Recorder, heads: Heads) -> usize {
    let group = heads.heads / heads.kv_heads.max(1);
    let most = if rec.variant() == Variant::Soft { 4 } else { 1 };
    (1..=most).rev().find(|n| group.is_multiple_of(*n)).unwrap_or(1)
}

fn params(qkv: &Tensor, heads: Heads, mask: &Mask, head0: usize) -> Result<Vec<u32>> {
    if qkv.ld != heads.width() || heads.kv_heads == 0 || !heads.heads.is_multiple_of(heads.kv_heads) {
        return Err(Error::Input(format!("rows of {} do not hold the heads {heads:?}", qkv.ld)));
    }
    let scale = mask.scale.unwrap_or(1.0 / (heads.head_dim as f32).sqrt());
    Ok(vec![
        word(qkv.rows, "rows")?,
        heads.heads as u32,
        heads.kv_heads as u32,
        (qkv.ld / 4) as u32,
        scale.to_bits(),
        mask.window,
        head0 as u32,
        (heads.padded() / 4) as u32,
    ])
}

/// One dispatch per slice of heads, so that none runs too long. `together` query heads make a lane's work; `products` counts the
/// [T, T]-sized products.
fn by_heads(
    rec: &mut Recorder,
    (entry, chunk): (&'static str, usize),
    qkv: &Tensor,
    (heads, together, products): (Heads, usize, f64),
    mask: &Mask,
    bind: &[&Tensor],
) -> Result<()> {
    let wg = SOURCE.workgroup(rec.variant()) as usize;
    // Of those that a workgroup takes.
    let per_head = 2.0 * products * mask.area * heads.head_dim as f64 * together as f64;
    let count = heads.heads / together;
    let is_kv = entry == "backward_kv";
    let block = if is_kv { wg * key_rows(rec, heads) } else { wg };
    let mut constants = constants(rec, heads, together);
    constants.extend([("CHUNK", chunk as u32), ("COUNT", u32::from(mask.work.is_some()))]);
    let bind: Vec<&Tensor> = bind.iter().copied().chain(&mask.work).collect();
    let most = ((rec.gpu().flops_per_dispatch() / per_head.max(1.0)) as usize).clamp(1, count);
    (0..count).step_by(most).try_for_each(|first| {
        let here = most.min(count - first);
        rec.launch(Launch {
            source: &SOURCE,
            entry,
            constants: constants.clone(),
            params: params(qkv, heads, mask, if is_kv { first } else { first * together })?,
            bind: &bind,
            groups: [qkv.rows.div_ceil(block) as u32, here as u32, 1],
            cost: Cost { flops: per_head * here as f64, bytes: stream(&bind, 0.0).bytes * here as f64 / count as f64 },
        })
    })
}

/// Attention of rotated rows qkv `[T, width]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub fn forward(rec: &mut Recorder, qkv: &Tensor, heads: Heads, mask: &Mask) -> Result<Attended> {
    let gpu = rec.gpu();
    let o = gpu.empty(qkv.rows, heads.heads * heads.padded())?;
    let lse = gpu.empty(1, qkv.rows * heads.heads)?;
    let bind = [qkv, &mask.end, &mask.root, &mask.pos, &o, &lse];
    let chunk = if rec.invariant() { CHUNK } else { 0 };
    by_heads(rec, ("forward", chunk), qkv, (heads, together(rec, heads), 2.0), mask, &bind)?;
    Ok(Attended { o, lse })
}

/// The gradient by qkv from d_o.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub fn backward(
    rec: &mut Recorder,
    qkv: &Tensor,
    heads: Heads,
    mask: &Mask,
    out: &Attended,
    d_o: &Tensor,
) -> Result<Tensor> {
    let gpu = rec.gpu();
    d_o.expect_shape("attention's output gradient", out.o.rows, out.o.cols)?;
    let (delta, dqkv) = (gpu.empty(1, qkv.rows * heads.heads)?, gpu.empty(qkv.rows, qkv.cols)?);
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_delta",
        constants: constants(rec, heads, 1),
        params: params(qkv, heads, mask, 0)?,
        bind: &[&out.o, d_o, &delta],
        groups: lanes(&SOURCE, rec.variant(), qkv.rows * heads.heads),
        cost: stream(&[&out.o, d_o], 2.0),
    })?;
    let bind = [qkv, &mask.end, &mask.root, &mask.pos, d_o, &out.lse, &delta, &dqkv];
    by_heads(rec, ("backward_q", 0), qkv, (heads, together(rec, heads), 3.0), mask, &bind)?;
    let bind = [qkv, &mask.end, &mask.pos, d_o, &out.lse, &delta, &dqkv];
    by_heads(rec, ("backward_kv", 0), qkv, (heads, heads.heads / heads.kv_heads, 4.0), mask, &bind)?;
    Ok(dqkv)
}

/// (o, lse) of unpadded heads x `[T, H + 2 KV, head_dim]`.
pub fn twin(x: &[f64], heads: Heads, forest: &Forest, window: u32) -> (Vec<f64>, Vec<f64>) {
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let row = |t: usize, head: usize| &x[(t * (h + 2 * kv) + head) * d..][..d];
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for i in 0..forest.len() {
        for q in 0..h {
            let k = h + q / (h / kv);
            let seen: Vec<usize> = (0..=i).filter(|j| forest.visible(i, *j, window)).collect();
            let score = |j: usize| row(i, q).iter().zip(row(j, k)).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt();
            let s: Vec<f64> = seen.iter().map(|j| score(*j)).collect();
            let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let l = top + s.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
            lse.push(l);
            o.extend((0..d).map(|c| seen.iter().zip(&s).map(|(j, s)| (s - l).exp() * row(*j, k + kv)[c]).sum::<f64>()));
        }
    }
    (o, lse)
}

/// Gradient of [`twin`]'s o by x.
pub fn twin_backward(x: &[f64], heads: Heads, forest: &Forest, window: u32, d_o: &[f64]) -> Vec<f64> {
    let Heads { heads: h, kv_heads: kv, head_dim: d } = heads;
    let (o, lse) = twin(x, heads, forest, window);
    let at = |t: usize, head: usize| (t * (h + 2 * kv) + head) * d;
    let root = (d as f64).sqrt();
    let mut dx = vec![0.0; x.len()];
    for i in 0..forest.len() {
        for q in 0..h {
            let (k, here) = (h + q / (h / kv), (i * h + q) * d);
            let delta: f64 = (0..d).map(|c| o[here + c] * d_o[here + c]).sum();
            for j in (0..=i).filter(|j| forest.visible(i, *j, window)) {
                let (qi, ki, vi) = (at(i, q), at(j, k), at(j, k + kv));
                let s: f64 = (0..d).map(|c| x[qi + c] * x[ki + c]).sum::<f64>() / root;
                let p = (s - lse[i * h + q]).exp();
                let dp: f64 = (0..d).map(|c| d_o[here + c] * x[vi + c]).sum();
                let ds = p * (dp - delta) / root;
                for c in 0..d {
                    dx[qi + c] += ds * x[ki + c];
                    dx[ki + c] += ds * x[qi + c];
                    dx[vi + c] += p * d_o[here + c];
                }
            }
        }
    }
    dx
}

/// A random forest of at least `rows` rows.
fn random_forest(t: &mut Trial, rows: usize) -> Forest {
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

/// Compares both passes over a forest with their twins.
fn compare(t: &mut Trial, forest: &Forest, h: Heads, window: Option<usize>) -> Result<()> {
    let mask = Mask::new(t.gpu, forest, window)?;
    let (qkv, host) = head_matrix(t, forest.len(), h.heads + 2 * h.kv_heads, h.head_dim)?;
    let (d_o, hd) = head_matrix(t, forest.len(), h.heads, h.head_dim)?;
    let out = forward(&mut t.rec, &qkv, h, &mask)?;
    let dqkv = backward(&mut t.rec, &qkv, h, &mask, &out, &d_o)?;
    let (o, lse) = twin(&host, h, forest, mask.window);
    t.expect("o", &out.o, || pad_heads(&o, h.head_dim));
    t.expect("lse", &out.lse, || lse);
    t.expect("dqkv", &dqkv, || pad_heads(&twin_backward(&host, h, forest, mask.window, &hd), h.head_dim));
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let shapes = [(1, 1, 1, 10), (7, 4, 2, 12), (33, 3, 1, 64), (150, 2, 2, 16), (70, 2, 1, 256), (610, 1, 1, 10)];
    for (rows, heads, kv_heads, head_dim) in shapes {
        for window in [None, Some(5)] {
            let h = Heads { heads, kv_heads, head_dim };
            let name = format!("forward and backward {rows}x{heads}/{kv_heads}x{head_dim} window={window:?}");
            all.push(Case::new(name, 2e-5, move |t| {
                let forest = random_forest(t, rows);
                compare(t, &forest, h, window)
            }));
        }
    }
    for window in [None, Some(140)] {
        // Siblings on both sides of the chunks' borders, in blocks of queries that hold several of them.
        all.push(Case::new(format!("forward and backward paths of 270 window={window:?}"), 2e-5, move |t| {
            let mut forest = Forest::new();
            forest.open(&[0; 123]);
            for n in [3, 2, 147, 9, 140] {
                forest.leaf(&vec![0; n]);
            }
            forest.close();
            compare(t, &forest, Heads { heads: 2, kv_heads: 1, head_dim: 12 }, window)
        }));
    }
    all.push(Case::timed("forward 64x48 rows 4/4x16", |t| {
        let h = Heads { heads: 4, kv_heads: 4, head_dim: 16 };
        let mut forest = Forest::new();
        for _ in 0..64 {
            forest.leaf(&[0; 48]);
        }
        let mask = Mask::new(t.gpu, &forest, None)?;
        let (qkv, _) = head_matrix(t, 64 * 48, 12, 16)?;
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        t.expect("o", &out.o, Vec::new);
        Ok(())
    }));
    all.push(Case::timed("forward 4x256 rows 9/3x64", |t| {
        let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let mut forest = Forest::new();
        for _ in 0..4 {
            forest.leaf(&[0; 256]);
        }
        let mask = Mask::new(t.gpu, &forest, None)?;
        let (qkv, _) = head_matrix(t, 1024, 15, 64)?;
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        t.expect("o", &out.o, Vec::new);
        Ok(())
    }));
    all.push(Case::timed("backward 4x256 rows 9/3x64", |t| {
        let h = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let mut forest = Forest::new();
        for _ in 0..4 {
            forest.leaf(&[0; 256]);
        }
        let mask = Mask::new(t.gpu, &forest, None)?;
        let ((qkv, _), (d_o, _)) = (head_matrix(t, 1024, 15, 64)?, head_matrix(t, 1024, 9, 64)?);
        let out = forward(&mut t.rec, &qkv, h, &mask)?;
        let dqkv = backward(&mut t.rec, &qkv, h, &mask, &out, &d_o)?;
        t.expect("dqkv", &dqkv, Vec::new);
        Ok(())
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradient_is_the_slope() {
        let h = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
        let mut f = Forest::new();
        f.open(&[0; 3]);
        f.leaf(&[0; 2]);
        f.leaf(&[0; 2]);
        f.close();
        f.leaf(&[0; 2]);
        let (x, c) = (numbers(9 * 8 * 6, 1), numbers(9 * 4 * 6, 2));
        for window in [u32::MAX, 2] {
            let dx = twin_backward(&x, h, &f, window, &c);
            finite_difference("qkv", &x, &dx, |x| dot(&twin(x, h, &f, window).0, &c));
        }
    }
}
