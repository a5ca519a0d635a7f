//! Global gradient norm, clipping and the AdamW update (arXiv 1711.05101), as torch computes them.

use super::{Case, Kernel, lanes, row_groups, stream, word};
use crate::Result;
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "adamw",
    soft: include_str!("../../shaders/adamw.wgsl"),
    tile: include_str!("../../shaders/adamw.wgsl"),
    libs: &["grid", "reduce"],
    tile_size: 128,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "gradient norm, clipping, AdamW", constants: &[&[]], ordered: &[], cases };

/// Elements that one partial sum of squares covers.
pub const SLICE: usize = 4096;

/// Partial sums that a gradient of this shape needs.
pub fn parts(grad: &Tensor) -> usize {
    grad.len().div_ceil(SLICE)
}

/// part\[slot ..\] = sums of squares of slices of `grad`.
///
/// # Errors
/// A device error.
pub fn square_sum(rec: &mut Recorder, grad: &Tensor, part: &Tensor, slot: usize) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "square_sum",
        constants: vec![],
        params: vec![word(grad.len() / 4, "elements")?, (SLICE / 4) as u32, slot as u32],
        bind: &[grad, part],
        groups: row_groups(&SOURCE, rec.variant(), parts(grad)),
        cost: stream(&[grad], 2.0),
    })
}

/// norm `[2]` = (√Σ part, clip factor max / (norm + 1e-6) at most 1; 1 where `max_norm` is 0).
///
/// # Errors
/// A device error.
pub fn clip(rec: &mut Recorder, part: &Tensor, max_norm: f32, norm: &Tensor) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "clip",
        constants: vec![],
        params: vec![part.cols as u32, max_norm.to_bits()],
        bind: &[part, norm],
        groups: [1, 1, 1],
        cost: Cost { flops: part.len() as f64, bytes: 4.0 * part.len() as f64 },
    })
}

/// Constants of one step; `step` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
}

/// Moves w and its moments by one step; nothing moves where the norm is not finite.
///
/// # Errors
/// A device error.
pub fn step(rec: &mut Recorder, rates: &Rates, grad: &Tensor, norm: &Tensor, [w, m, v]: [&Tensor; 3]) -> Result<()> {
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(rates.step as f64);
    let floats = [
        rates.lr,
        rates.betas[0],
        rates.betas[1],
        rates.eps,
        (1.0 - f64::from(rates.lr) * f64::from(rates.weight_decay)) as f32,
        correction(rates.betas[0]) as f32,
        correction(rates.betas[1]).sqrt() as f32,
    ];
    let mut params = vec![word(w.len() / 4, "elements")?];
    params.extend(floats.map(f32::to_bits));
    rec.launch(Launch {
        source: &SOURCE,
        entry: "step",
        constants: vec![],
        params,
        bind: &[grad, norm, w, m, v],
        groups: lanes(&SOURCE, rec.variant(), w.len() / 4),
        cost: stream(&[w, w, m, m, v, v, grad], 12.0),
    })
}

/// One step on (w, m, v) given the gradient and its clip factor.
pub fn twin(rates: &Rates, grad: &[f64], factor: f64, [w, m, v]: [&mut [f64]; 3]) {
    let [b1, b2] = rates.betas.map(f64::from);
    let t = rates.step as f64;
    for i in 0..w.len() {
        let g = grad[i] * factor;
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
        let bottom = v[i].sqrt() / (1.0 - b2.powf(t)).sqrt() + f64::from(rates.eps);
        w[i] = w[i] * (1.0 - f64::from(rates.lr) * f64::from(rates.weight_decay))
            - f64::from(rates.lr) / (1.0 - b1.powf(t)) * m[i] / bottom;
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols, max_norm) in [(1, 1, 1.0f32), (7, 33, 1.0), (640, 33, 0.0), (1, 5000, 1e9)] {
        all.push(Case::new(format!("norm, clip and step {rows}x{cols} max {max_norm}"), 4e-6, move |t| {
            let ((g, hg), (w, mut hw)) = (t.matrix(rows, cols)?, t.matrix(rows, cols)?);
            let (m, mut hm) = t.matrix(rows, cols)?;
            let square: Vec<f32> = t.values(rows * cols).iter().map(|x| x * x).collect();
            let mut hv: Vec<f64> = square.iter().map(|x| f64::from(*x)).collect();
            let v = t.gpu.upload(rows, cols, &square)?;
            let (part, norm) = (t.gpu.zeros(1, parts(&g) + 1)?, t.gpu.empty(1, 2)?);
            let rates = Rates { lr: 0.01, betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1, step: 3 };
            square_sum(&mut t.rec, &g, &part, 1)?;
            clip(&mut t.rec, &part, max_norm, &norm)?;
            step(&mut t.rec, &rates, &g, &norm, [&w, &m, &v])?;
            let all = hg.iter().map(|x| x * x).sum::<f64>().sqrt();
            let factor = if max_norm == 0.0 { 1.0 } else { (f64::from(max_norm) / (all + 1e-6)).min(1.0) };
            twin(&rates, &hg, factor, [&mut hw, &mut hm, &mut hv]);
            t.expect("norm", &norm, || vec![all, factor]);
            t.expect("w", &w, || hw);
            t.expect("m", &m, || hm);
            t.expect("v", &v, || hv);
            Ok(())
        }));
    }
    all.push(Case::new("a gradient that is not finite moves nothing", 0.0, |t| {
        let g = t.gpu.vector(&[1.0f32, f32::NAN, 2.0])?;
        let ((w, hw), (m, hm), (v, _)) = (t.matrix(1, 3)?, t.matrix(1, 3)?, t.matrix(1, 3)?);
        let (part, norm) = (t.gpu.zeros(1, 1)?, t.gpu.empty(1, 2)?);
        square_sum(&mut t.rec, &g, &part, 0)?;
        clip(&mut t.rec, &part, 1.0, &norm)?;
        let rates = Rates { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, step: 1 };
        step(&mut t.rec, &rates, &g, &norm, [&w, &m, &v])?;
        t.expect("w", &w, || hw);
        t.expect("m", &m, || hm);
        Ok(())
    }));
    all
}
