//! Global gradient norm, clipping and the AdamW update (arXiv 1711.05101), as torch computes them.

use super::case::{Case, Kernel, Trial};
use super::cast;
use super::half::Half;
use super::sizes::{lanes, row_groups, several, stream};
use super::way::{Traits, Way};
use super::weight::{Block, Weight};
use crate::gpu::Value::{Float, Size, Word};
use crate::gpu::{Cost, Gpu, Launch, Param, Recorder, Source, Tensor, pad4};
use crate::rng::{halves, philox};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "adamw",
    soft: include_str!("../../shaders/adamw.wgsl"),
    tile: include_str!("../../shaders/adamw.wgsl"),
    libs: &["grid", "reduce", "philox", "operand"],
    tile_size: 128,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "gradient norm, clipping, AdamW", ways, ordered: &[], cases };

/// The pipeline of `entry`, which is "step" or "step8", for weights in f32 or in bf16.
fn way(traits: &Traits, entry: &'static str, in_bf16: bool) -> Way {
    Way::new(&SOURCE, traits, entry, [("HALF", u32::from(in_bf16))])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let steps = ["step", "step8"].into_iter().flat_map(|entry| [false, true].map(|half| way(traits, entry, half)));
    let norms = ["square_sum", "clip"].map(|entry| Way::new(&SOURCE, traits, entry, []));
    norms.into_iter().chain(steps).collect()
}

/// Elements that one partial sum of squares covers.
pub(crate) const SLICE: usize = 4096;

/// Partial sums that a gradient of this shape needs.
pub(crate) fn parts(grad: &Tensor) -> usize {
    grad.len().div_ceil(SLICE)
}

/// part\[slot ..\] = sums of squares of slices of `grad`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn square_sum(rec: &mut Recorder, grad: &Tensor, part: &Tensor, slot: usize) -> Result<()> {
    part.expect_vector("the partial sums of squares", slot + parts(grad))?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "square_sum",
        constants: vec![],
        params: &[("n4", Size(grad.len() / 4)), ("slice4", Size(SLICE / 4)), ("slot", Size(slot))],
        bind: &[grad, part],
        groups: row_groups(&SOURCE, rec.variant(), parts(grad)),
        cost: stream(&[grad], 2.0),
    })
}

/// norm `[2]` = (√Σ part, clip factor max / (norm + 1e-6) at most 1; 1 where `max_norm` is 0).
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn clip(rec: &mut Recorder, part: &Tensor, max_norm: f32, norm: &Tensor) -> Result<()> {
    part.expect_vector("the partial sums of squares", part.cols())?;
    norm.expect_vector("the gradient's norm", 2)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "clip",
        constants: vec![],
        params: &[("parts", Size(part.cols())), ("max_norm", Float(max_norm))],
        bind: &[part, norm],
        groups: [1, 1, 1],
        cost: Cost::new(part.len() as f64, 4.0 * part.len() as f64),
    })
}

/// Constants of one step; `step` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// Seed of the rounding of bf16 weights, which depends besides on step, parameter and place.
    pub seed: u64,
}

/// Which part of the model a block of weights is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The parameter's number.
    pub parameter: usize,
    /// The block's first column, a multiple of 4.
    pub first: usize,
    /// Columns of the parameter.
    pub cols: usize,
}

/// The first and the second moment of a tensor `[rows, cols]`.
#[derive(Clone, Copy)]
pub(crate) enum Moments<'a> {
    /// Both in f32, as large as the tensor.
    F32([&'a Tensor; 2]),
    /// In 8 bits (arXiv 2110.02861): each of [`shape8`], all zeros at first.
    Bits8([&'a Tensor; 2], &'a Codes),
}

/// Rows of a column that share a scale in 8 bits.
pub(crate) const BLOCK: usize = 64;

/// Shape of an 8-bit moment in words: four neighbours of a row in each, the first in its low bits, then a row of scales
/// (f32) for each of the four columns of a word and each [`BLOCK`] of rows.
pub(crate) fn shape8(rows: usize, cols: usize) -> [usize; 2] {
    [rows + 4 * rows.div_ceil(BLOCK), cols.div_ceil(4)]
}

/// What 8-bit codes mean, on the GPU.
pub(crate) struct Codes(Tensor);

impl Codes {
    /// The tables of the signed and the unsigned codes.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &Gpu) -> Result<Codes> {
        let tables = [codes(true), codes(false)].map(|values| [borders(&values), values]);
        let all: Vec<f32> = tables.into_iter().flat_map(|[borders, values]| [values, borders].concat()).collect();
        Ok(Codes(gpu.vector(&all)?))
    }
}

/// The 256 values from -1 to 1 (or from 0 to 1) of the dynamic code, ascending: 7 decades, each with twice the values
/// of the one below. They are those of bitsandbytes' `create_dynamic_map`.
pub(crate) fn codes(signed: bool) -> Vec<f32> {
    let mut all = vec![0.0f32, 1.0];
    for decade in 0..7 {
        let n = if signed { 1 << decade } else { 2 << decade };
        for i in 0..n {
            let middle = 0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(n);
            let value = (10f64.powi(decade - 6) * middle) as f32;
            all.push(value);
            if signed {
                all.push(-value);
            }
        }
    }
    all.sort_by(f32::total_cmp);
    all
}

/// The borders below each code: halfway to the one before.
fn borders(values: &[f32]) -> Vec<f32> {
    let middle = |pair: &[f32]| (pair[0] + pair[1]) / 2.0;
    [f32::MIN].into_iter().chain(values.windows(2).map(middle)).collect()
}

/// Moves w (f32, or bf16 rounded stochastically) and its moments by one step; nothing moves where the norm is not
/// finite.
///
/// # Errors
/// Weights of another type, shapes that do not fit; a device error.
pub(crate) fn step(
    rec: &mut Recorder,
    rates: &Rates,
    (grad, norm): (&Tensor, &Tensor),
    (block, part): (&Block, Origin),
    moments: Moments,
) -> Result<()> {
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(rates.step as f64);
    let (w, in_bf16) = match block {
        Block::Dense(w) => (w, false),
        Block::Half { half: Half::Bf16, words, .. } => (words, true),
        _ => return Err(Error::Bug("weights are trained in f32 or bf16".into())),
    };
    let [rows, cols] = [block.rows(), block.cols()];
    grad.expect_shape("a gradient", rows, cols)?;
    norm.expect_vector("the gradient's norm", 2)?;
    let (entry, sizes, bind, groups) = match &moments {
        Moments::F32([m, v]) => {
            m.expect_shape("a moment", rows, cols)?;
            v.expect_shape("a moment", rows, cols)?;
            (
                "step",
                vec![("n4", Size(grad.len() / 4))],
                vec![grad, norm, w, *m, *v],
                several(&SOURCE, rec.variant(), grad.len() / 4),
            )
        }
        Moments::Bits8([m, v], codes) => {
            let [deep, cols4] = shape8(rows, cols);
            m.expect_shape("an 8-bit moment", deep, cols4)?;
            v.expect_shape("an 8-bit moment", deep, cols4)?;
            (
                "step8",
                vec![("rows", Size(rows)), ("cols4", Size(cols4)), ("ldm", Size(m.ld()))],
                vec![grad, norm, &codes.0, w, *m, *v],
                lanes(&SOURCE, rec.variant(), rows.div_ceil(BLOCK) * cols4),
            )
        }
    };
    let [seed_low, seed_high] = halves(rates.seed);
    let decay = (1.0 - f64::from(rates.lr) * f64::from(rates.weight_decay)) as f32;
    let common: [Param; 15] = [
        ("ld4", Size(grad.ld() / 4)),
        ("ldw4", Size(block.ld4())),
        ("first4", Size(part.first / 4)),
        ("whole4", Size(part.cols.div_ceil(4))),
        ("parameter", Size(part.parameter)),
        ("step", Word(rates.step as u32)),
        ("seed_low", Word(seed_low)),
        ("seed_high", Word(seed_high)),
        ("lr", Float(rates.lr)),
        ("beta1", Float(rates.betas[0])),
        ("beta2", Float(rates.betas[1])),
        ("eps", Float(rates.eps)),
        ("decay", Float(decay)),
        ("correction1", Float(correction(rates.betas[0]) as f32)),
        ("correction2", Float(correction(rates.betas[1]).sqrt() as f32)),
    ];
    let [m, v] = match moments {
        Moments::F32(both) | Moments::Bits8(both, _) => both,
    };
    let way = way(&Traits::of(rec), entry, in_bf16);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &[&sizes[..], &common].concat(),
        bind: &bind,
        groups,
        cost: stream(&[grad, w, w, m, m, v, v], 12.0),
    })
}

/// The bf16 bits of values `[rows, cols]` of a whole parameter, rounded as a step does.
pub(crate) fn twin_rounded(rates: &Rates, parameter: usize, cols: usize, values: &[f32]) -> Vec<u16> {
    let bits = |(i, x): (usize, &f32)| {
        let (row, col) = (i / cols, i % cols);
        let place = (row * cols.div_ceil(4) + col / 4) as u32;
        let noise = philox([place, 3, parameter as u32, rates.step as u32], halves(rates.seed))[col % 4];
        ((x.to_bits() + (noise & 0xffff)) >> 16) as u16
    };
    values.iter().enumerate().map(bits).collect()
}

/// One step on (w, m, v) given the gradient and its clip factor.
pub(crate) fn twin(rates: &Rates, grad: &[f64], factor: f64, [w, m, v]: [&mut [f64]; 3]) {
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

/// Moments in 8 bits on the host: what the GPU's words say, and their exact next ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moment8 {
    signed: bool,
    shape: [usize; 2],
    /// The codes, `[rows, pad4(cols)]`.
    codes: Vec<u8>,
    /// The scales, `[ceil(rows / BLOCK), pad4(cols)]`.
    scales: Vec<f32>,
}

impl Moment8 {
    /// The values, in f32 as the kernel computes them; `[rows, pad4(cols)]`.
    pub(crate) fn values(&self) -> Vec<f32> {
        let (map, ld) = (codes(self.signed), pad4(self.shape[1]));
        let scale = |i: usize| self.scales[i / ld / BLOCK * ld + i % ld];
        self.codes.iter().enumerate().map(|(i, q)| map[usize::from(*q)] * scale(i)).collect()
    }

    /// The nearest codes of f32 values `[rows, pad4(cols)]`; of the unsigned ones no value above 0 becomes 0.
    pub(crate) fn nearest(signed: bool, shape: [usize; 2], values: &[f32]) -> Moment8 {
        let (borders, ld) = (borders(&codes(signed)), pad4(shape[1]));
        let mut scales = vec![0f32; shape[0].div_ceil(BLOCK) * ld];
        for (i, x) in values.iter().enumerate() {
            let scale = &mut scales[i / ld / BLOCK * ld + i % ld];
            *scale = scale.max(x.abs());
        }
        let code = |(i, x): (usize, &f32)| {
            let scale = scales[i / ld / BLOCK * ld + i % ld];
            let q = borders[1..].partition_point(|b| *x >= b * scale);
            q.max(usize::from(!signed && *x > 0.0)) as u8
        };
        let codes = values.iter().enumerate().map(code).collect();
        Moment8 { signed, shape, codes, scales }
    }

    /// The words of a tensor of [`shape8`].
    pub(crate) fn words(&self) -> Vec<u32> {
        let mut words: Vec<u32> = self.codes.as_chunks::<4>().0.iter().map(|q| u32::from_le_bytes(*q)).collect();
        for row in self.scales.chunks_exact(pad4(self.shape[1]).max(4)) {
            words.extend((0..4).flat_map(|k| row.iter().skip(k).step_by(4)).map(|s| s.to_bits()));
        }
        words
    }
}

fn whole(cols: usize) -> Origin {
    Origin { cols, ..Origin::default() }
}

/// Compares the codes after a step with those of the host, of moments that decay by `beta`; all `[rows, pad4(cols)]`.
fn codes_match(t: &mut Trial, shape: [usize; 2], beta: f32, [g, m, v]: [&[f32]; 3]) -> Result<()> {
    let (m, v) = (Moment8::nearest(true, shape, m), Moment8::nearest(false, shape, v));
    let [rows, cols] = shape;
    let [deep, cols4] = shape8(rows, cols);
    let upload = |x: &Moment8| t.gpu.upload(deep, cols4, &x.words());
    let (on_m, on_v, codes) = (upload(&m)?, upload(&v)?, Codes::new(t.gpu)?);
    let narrow: Vec<f32> = g.chunks_exact(pad4(cols)).flat_map(|row| &row[..cols]).copied().collect();
    let (on_g, w) = (t.gpu.upload(rows, cols, &narrow)?, t.gpu.upload(rows, cols, &narrow)?);
    let rates = Rates { lr: 0.01, betas: [beta; 2], eps: 1e-8, weight_decay: 0.1, step: 3, seed: 0 };
    let norm = t.gpu.vector(&[1.0f32, 1.0])?;
    let moments = Moments::Bits8([&on_m, &on_v], &codes);
    step(&mut t.rec, &rates, (&on_g, &norm), (&Block::Dense(w), whole(cols)), moments)?;
    let next = |old: &Moment8, x: fn(f32) -> f32| {
        let values: Vec<f32> = old.values().iter().zip(g).map(|(y, g)| beta * y + (1.0 - beta) * x(*g)).collect();
        Moment8::nearest(old.signed, shape, &values).words()
    };
    t.expect_words("m", &on_m, || next(&m, |g| g));
    t.expect_words("v", &on_v, || next(&v, |g| g * g));
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols, max_norm) in [(1, 1, 1.0f32), (7, 33, 1.0), (640, 33, 0.0), (1, 5000, 1e9), (9, 4097, 1.0)] {
        all.push(Case::new(format!("norm, clip and step {rows}x{cols} max {max_norm}"), 4e-6, move |t| {
            let ((g, hg), (w, mut hw)) = (t.matrix(rows, cols)?, t.matrix(rows, cols)?);
            let (m, mut hm) = t.matrix(rows, cols)?;
            let square: Vec<f32> = t.values(rows * cols).iter().map(|x| x * x).collect();
            let mut hv: Vec<f64> = square.iter().map(|x| f64::from(*x)).collect();
            let v = t.gpu.upload(rows, cols, &square)?;
            let (part, norm) = (t.gpu.zeros(1, parts(&g) + 1)?, t.gpu.empty(1, 2)?);
            let rates = Rates { lr: 0.01, betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1, step: 3, seed: 0 };
            square_sum(&mut t.rec, &g, &part, 1)?;
            clip(&mut t.rec, &part, max_norm, &norm)?;
            step(&mut t.rec, &rates, (&g, &norm), (&Block::Dense(w.clone()), whole(w.cols())), Moments::F32([&m, &v]))?;
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
    // With these decays and short gradients every sum is exact, so codes and scales must be met bit for bit.
    for (rows, cols) in [(1, 1), (70, 33), (64, 8), (7, 260), (130, 561)] {
        all.push(Case::new(format!("step8 {rows}x{cols} codes"), 0.0, move |t| {
            let mut draw = |signed: bool| {
                let short = |x: f32| (x * 64.0).round() / 64.0;
                let values: Vec<f32> =
                    t.values(rows * pad4(cols)).iter().map(|x| short(if signed { *x } else { x * x })).collect();
                let magnitude = 2f32.powi(t.below(9) as i32 - 4);
                let held = |(i, x): (usize, &f32)| if i % pad4(cols) < cols { x * magnitude } else { 0.0 };
                values.iter().enumerate().map(held).collect::<Vec<f32>>()
            };
            let (g, m, v) = (draw(true), draw(true), draw(false));
            codes_match(t, [rows, cols], 0.5, [&g, &m, &v])
        }));
        all.push(Case::new(format!("step8 {rows}x{cols} weights"), 4e-6, move |t| {
            let ld = pad4(cols);
            let ((g, hg), (w, mut hw)) = (t.matrix(rows, cols)?, t.matrix(rows, cols)?);
            let held = |row: &[f32]| (0..ld).map(|c| row.get(c).copied().unwrap_or(0.0)).collect::<Vec<f32>>();
            let wide = |x: Vec<f32>| x.chunks_exact(cols).flat_map(held).collect::<Vec<f32>>();
            let square = t.values(rows * cols).iter().map(|x| x * x).collect();
            let m = Moment8::nearest(true, [rows, cols], &wide(t.values(rows * cols)));
            let v = Moment8::nearest(false, [rows, cols], &wide(square));
            let [deep, cols4] = shape8(rows, cols);
            let (on_m, on_v) = (t.gpu.upload(deep, cols4, &m.words())?, t.gpu.upload(deep, cols4, &v.words())?);
            let (codes, norm) = (Codes::new(t.gpu)?, t.gpu.vector(&[4.0f32, 0.25])?);
            let rates = Rates { lr: 0.01, betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1, step: 3, seed: 0 };
            step(
                &mut t.rec,
                &rates,
                (&g, &norm),
                (&Block::Dense(w.clone()), whole(w.cols())),
                Moments::Bits8([&on_m, &on_v], &codes),
            )?;
            let held = |x: Moment8| -> Vec<f64> {
                x.values().chunks_exact(ld).flat_map(|row| &row[..cols]).map(|x| f64::from(*x)).collect()
            };
            twin(&rates, &hg, 0.25, [&mut hw, &mut held(m), &mut held(v)]);
            t.expect("w", &w, || hw);
            Ok(())
        }));
    }
    // What is nearest to each border of codes, on both sides of it.
    for scale in [1.0f32, 3.7e-5] {
        all.push(Case::new(format!("step8 borders by {scale}"), 0.0, move |t| {
            let of = |signed: bool| borders(&codes(signed)).into_iter().skip(1);
            let at = of(true)
                .map(|b| b * scale)
                .chain(of(false).map(|b| b.sqrt() * scale))
                .chain(of(false).map(|b| -b.sqrt() * scale));
            let around: Vec<f32> = at.flat_map(|b| [b, b.next_up(), b.next_down()]).collect();
            let cols = pad4(around.len().div_ceil(BLOCK - 1));
            // Each column's block begins with its scale.
            let mut g = vec![scale; cols];
            g.extend(&around);
            g.resize(BLOCK * cols, 0.0);
            let none = vec![0.0; g.len()];
            codes_match(t, [BLOCK, cols], 0.0, [&g, &none, &none])
        }));
    }
    // Without a gradient a step is one product, the decay's, so that what is rounded is exact, and its noise is met bit
    // for bit.
    for (bits8, rows, cols) in [(false, 5, 33), (true, 68, 33), (false, 8, 4), (true, 4, 12)] {
        let name = if bits8 { "step8" } else { "step" };
        all.push(Case::new(format!("{name} {rows}x{cols} weights in bf16"), 0.0, move |t| {
            let held: Vec<f32> = t.values(rows * cols).iter().map(|x| Half::Bf16.value(Half::Bf16.bits(*x))).collect();
            let w = Weight::upload_half(t.gpu, Half::Bf16, rows, cols, &held)?;
            let [deep, wide] = if bits8 { shape8(rows, cols) } else { [rows, cols] };
            let (g, m, v) = (t.gpu.zeros(rows, cols)?, t.gpu.zeros(deep, wide)?, t.gpu.zeros(deep, wide)?);
            let (codes, norm) = (Codes::new(t.gpu)?, t.gpu.vector(&[0.0f32, 1.0])?);
            let rates = Rates { lr: 0.01, betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1, step: 7, seed: 3 << 40 };
            let moments = if bits8 { Moments::Bits8([&m, &v], &codes) } else { Moments::F32([&m, &v]) };
            for (_, block) in w.blocks() {
                let part = Origin { parameter: 11, ..whole(cols) };
                step(&mut t.rec, &rates, (&g, &norm), (block, part), moments)?;
                if let Block::Half { words, .. } = block {
                    t.expect_words("w", words, || {
                        let decay = (1.0 - f64::from(rates.lr) * f64::from(rates.weight_decay)) as f32;
                        let bits = twin_rounded(&rates, 11, cols, &held.iter().map(|x| x * decay).collect::<Vec<_>>());
                        let values: Vec<f32> = bits.iter().map(|b| Half::Bf16.value(*b)).collect();
                        values.chunks_exact(cols).flat_map(|row| cast::twin(Half::Bf16, row)).collect()
                    });
                }
            }
            Ok(())
        }));
    }
    for bits8 in [false, true] {
        let name = if bits8 { "step8" } else { "step" };
        all.push(Case::timed(format!("{name} 2048x2048"), move |t| {
            let ((g, _), (w, _)) = (t.matrix(2048, 2048)?, t.matrix(2048, 2048)?);
            let [rows, cols] = if bits8 { shape8(2048, 2048) } else { [2048, 2048] };
            let (m, v, codes) = (t.gpu.zeros(rows, cols)?, t.gpu.zeros(rows, cols)?, Codes::new(t.gpu)?);
            let norm = t.gpu.vector(&[1.0f32, 1.0])?;
            let rates = Rates { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, step: 1, seed: 0 };
            let moments = if bits8 { Moments::Bits8([&m, &v], &codes) } else { Moments::F32([&m, &v]) };
            step(&mut t.rec, &rates, (&g, &norm), (&Block::Dense(w.clone()), whole(w.cols())), moments)?;
            t.expect("w", &w, Vec::new);
            Ok(())
        }));
    }
    all.push(Case::new("a gradient that is not finite moves nothing", 0.0, |t| {
        let g = t.gpu.vector(&[1.0f32, f32::NAN, 2.0])?;
        let ((w, hw), (m, hm), (v, _)) = (t.matrix(1, 3)?, t.matrix(1, 3)?, t.matrix(1, 3)?);
        let (part, norm) = (t.gpu.zeros(1, 1)?, t.gpu.empty(1, 2)?);
        square_sum(&mut t.rec, &g, &part, 0)?;
        clip(&mut t.rec, &part, 1.0, &norm)?;
        let rates = Rates { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, step: 1, seed: 0 };
        step(&mut t.rec, &rates, (&g, &norm), (&Block::Dense(w.clone()), whole(w.cols())), Moments::F32([&m, &v]))?;
        t.expect("w", &w, || hw);
        t.expect("m", &m, || hm);
        Ok(())
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `create_dynamic_map(signed)` of bitsandbytes 0.43.3: some of its values, and the sum of all squares.
    #[test]
    fn the_codes_are_those_of_bitsandbytes() {
        let signed = [(0, -0.992_968_74), (63, -0.107031256), (127, 0.0), (128, 5.5000004e-7), (129, 3.2500002e-6)];
        let unsigned = [(0, 0.0), (1, 3.2500003e-7), (63, 0.010703126), (128, 0.110_546_87), (255, 1.0)];
        for (signed, some, square) in [(true, signed, 48.59583767), (false, unsigned, 48.59745210)] {
            let values = codes(signed);
            assert_eq!(values.len(), 256);
            assert!(values.is_sorted());
            for (at, want) in some {
                assert!((values[at] - want).abs() <= 1e-6 * want.abs(), "{signed} {at}: {} {want}", values[at]);
            }
            let all: f64 = values.iter().map(|x| f64::from(x * x)).sum();
            assert!((all - square).abs() < 1e-4, "{signed}: {all}");
        }
    }

    #[test]
    fn rounding_to_codes_is_to_the_nearest_and_keeps_what_is_above_0() {
        let values: Vec<f32> = (0..256u32).map(|i| ((i * 97 % 256) as f32 / 255.0 - 0.5).powi(3)).collect();
        let near = Moment8::nearest(true, [64, 4], &values);
        for (i, (x, y)) in values.iter().zip(near.values()).enumerate() {
            let scale = values.iter().skip(i % 4).step_by(4).fold(0f32, |a, b| a.max(b.abs()));
            let best = codes(true).iter().map(|q| (q * scale - x).abs()).fold(f32::MAX, f32::min);
            assert!((x - y).abs() <= best * 1.0001, "{x}: {y}");
        }
        let tiny = Moment8::nearest(false, [2, 1], &[1.0, 0.0, 0.0, 0.0, 1e-20, 0.0, 0.0, 0.0]);
        assert!(tiny.values()[4] > 0.0 && tiny.values()[1] == 0.0);
        let zero = Moment8::nearest(true, [2, 1], &[0.0; 8]);
        assert!(zero.values().iter().all(|x| *x == 0.0));
    }

    /// Steps of 1e-3 units in the last place of weights in bf16. Each moves a weight with that
    /// probability; rounding to the nearest would move none.
    #[test]
    fn small_steps_of_bf16_weights_are_not_lost() {
        let gpu = Gpu::with(&crate::gpu::Options::default()).unwrap();
        let (rows, cols, steps) = (256, 256, 400u64);
        // Below 1 the unit is 2^-8, above 2^-7; a gradient of 1 moves a weight by lr.
        for (sign, unit) in [(1.0f32, 1.0 / 256.0), (-1.0, 1.0 / 128.0)] {
            let w = Weight::upload_half(&gpu, Half::Bf16, rows, cols, &vec![1.0; rows * cols]).unwrap();
            let grad = gpu.upload(rows, cols, &vec![sign; rows * cols]).unwrap();
            let (m, v) = (gpu.zeros(rows, cols).unwrap(), gpu.zeros(rows, cols).unwrap());
            let norm = gpu.vector(&[1.0f32, 1.0]).unwrap();
            let lr = 1e-3 * unit;
            for step in 1..=steps {
                let rates = Rates { lr, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, step, seed: 9 };
                let mut rec = gpu.record();
                let part = Origin { parameter: 3, first: 0, cols };
                let block = w.blocks().next().unwrap().1;
                super::step(&mut rec, &rates, (&grad, &norm), (block, part), Moments::F32([&m, &v])).unwrap();
                rec.submit().unwrap();
            }
            let values = w.values(&gpu).unwrap();
            let moved =
                values.iter().map(|x| (1.0 - f64::from(*x)) * f64::from(sign)).sum::<f64>() / values.len() as f64;
            let expected = f64::from(lr) * steps as f64;
            // 65,536 weights with 0.4 moves each: the mean is known to 0.6 % (one standard deviation).
            assert!((moved / expected - 1.0).abs() < 0.03, "{moved} of {expected}");
        }
    }
}
