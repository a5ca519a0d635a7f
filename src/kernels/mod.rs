//! The compute kernels: one op, one stem. Each file holds the typed launchers, the CPU twin in f64, the cases that compare
//! the two, and the work a launch does. [`ALL`] is the list that tests, `check` and `bench` walk.

pub mod adamw;
pub mod attention;
pub mod attention_backward;
pub mod attention_decode;
pub mod attention_tiles;
pub mod cast;
pub mod check;
pub mod column_sum;
pub mod columns;
pub mod dropout;
pub mod embedding;
pub mod export;
pub mod kv_write;
pub mod log_softmax;
pub mod matmul;
pub mod matmul_matrix;
pub mod peak;
pub mod quants;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod swiglu;
pub mod transpose;
pub mod weight;

use crate::Result;
use crate::gpu::{Cost, Form, Gpu, Recorder, Source, Tensor, Variant};

/// One op as the reports see it.
pub struct Kernel {
    /// Its WGSL.
    pub source: fn() -> &'static Source,
    /// What it computes, in a line.
    pub about: &'static str,
    /// The constants of every pipeline that the launchers can ask for, for translation tests.
    pub constants: &'static [&'static [(&'static str, u32)]],
    /// The variants that add up in another order where a row's bits must not depend on the others (`--invariant`).
    pub ordered: &'static [Variant],
    /// Comparisons with the twin, and shapes to time.
    pub cases: fn() -> Vec<Case>,
}

impl Kernel {
    /// The op's stem.
    pub fn name(&self) -> &'static str {
        (self.source)().name
    }

    /// What there is to check in `variants` on this device: each one as it is, and with its invariant order where that is another one.
    pub fn forms(&self, gpu: &Gpu, variants: &[Variant]) -> Vec<Form> {
        let form = |variant: &Variant, invariant| Form { variant: *variant, invariant, matrix_units: false };
        let all = variants.iter().flat_map(|v| [false, true].map(|invariant| form(v, invariant)));
        let source = (self.source)();
        let there = |f: &Form| gpu.can_build(source) && !source.entries(f.variant).is_empty();
        let checked = |f: &Form| there(f) && (!f.invariant || self.ordered.contains(&f.variant));
        all.filter(checked).collect()
    }
}

/// Every kernel.
pub const ALL: &[Kernel] = &[
    embedding::KERNEL,
    rms_norm::KERNEL,
    matmul::KERNEL,
    matmul_matrix::KERNEL,
    transpose::KERNEL,
    cast::KERNEL,
    column_sum::KERNEL,
    columns::KERNEL,
    rope::KERNEL,
    attention::KERNEL,
    attention_backward::KERNEL,
    attention_tiles::KERNEL,
    attention_decode::KERNEL,
    kv_write::KERNEL,
    swiglu::KERNEL,
    dropout::KERNEL,
    rows::KERNEL,
    log_softmax::KERNEL,
    sample::KERNEL,
    adamw::KERNEL,
    peak::KERNEL,
    peak::F16,
    peak::MATRIX,
];

/// One set of inputs for a kernel.
pub struct Case {
    /// Entry point and shape.
    pub name: String,
    /// Largest allowed error relative to the larger of |value| and the output's root mean square.
    pub tolerance: f64,
    /// Whether it is a shape to time (the twin is then left out: it would take minutes).
    pub timed: bool,
    /// Makes inputs, calls the launcher, names the outputs.
    #[expect(clippy::type_complexity, reason = "a boxed closure is what a case is")]
    pub run: Box<dyn Fn(&mut Trial) -> Result<()>>,
}

impl Case {
    fn new(name: impl Into<String>, tolerance: f64, run: impl Fn(&mut Trial) -> Result<()> + 'static) -> Case {
        Case { name: name.into(), tolerance, timed: false, run: Box::new(run) }
    }

    /// Type of the weights, by the case's name.
    pub fn dtype(&self) -> &'static str {
        ["bf16", "f16", "q4", "q8"].into_iter().find(|t| self.name.contains(t)).unwrap_or("f32")
    }

    fn timed(name: impl Into<String>, run: impl Fn(&mut Trial) -> Result<()> + 'static) -> Case {
        Case { name: name.into(), tolerance: 0.0, timed: true, run: Box::new(run) }
    }
}

/// What a case writes into: a recorder, a source of numbers, and the list of outputs to compare.
pub struct Trial<'g> {
    /// The device.
    pub gpu: &'g Gpu,
    /// Where the launches go.
    pub rec: Recorder<'g>,
    state: u64,
    with_twin: bool,
    outputs: Vec<(String, Tensor, Expected)>,
}

enum Expected {
    Floats(Vec<f64>),
    Words(Vec<u32>),
}

impl<'g> Trial<'g> {
    fn new(gpu: &'g Gpu, form: Form, seed: u64, with_twin: bool) -> Trial<'g> {
        Trial { gpu, rec: gpu.record_form(form), state: seed, with_twin, outputs: Vec::new() }
    }

    /// splitmix64: plenty for test inputs.
    fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    /// About normal values (a sum of four uniform ones), as f32 can hold them.
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        let one = |t: &mut Self| (t.word() >> 40) as f32 / 16_777_216.0 - 0.5;
        (0..n).map(|_| (one(self) + one(self) + one(self) + one(self)) * 1.732).collect()
    }

    /// A random matrix on the GPU and, for the twin, on the host.
    ///
    /// # Errors
    /// Out of memory.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Result<(Tensor, Vec<f64>)> {
        let v = self.values(rows * cols);
        Ok((self.gpu.upload(rows, cols, &v)?, v.iter().map(|x| f64::from(*x)).collect()))
    }

    /// Names an f32 output and what the twin says it should be.
    pub fn expect(&mut self, what: &str, tensor: &Tensor, twin: impl FnOnce() -> Vec<f64>) {
        let twin = if self.with_twin { twin() } else { Vec::new() };
        self.outputs.push((what.to_owned(), tensor.clone(), Expected::Floats(twin)));
    }

    /// Names an integer output, to be met exactly.
    pub fn expect_words(&mut self, what: &str, tensor: &Tensor, twin: impl FnOnce() -> Vec<u32>) {
        let twin = if self.with_twin { twin() } else { Vec::new() };
        self.outputs.push((what.to_owned(), tensor.clone(), Expected::Words(twin)));
    }
}

/// Workgroups for one lane per item.
fn lanes(source: &Source, variant: Variant, items: usize) -> [u32; 3] {
    crate::gpu::fold(items.div_ceil(source.workgroup(variant) as usize))
}

/// Workgroups for texts whose lanes have several items each.
fn several(source: &Source, variant: Variant, items: usize) -> [u32; 3] {
    lanes(source, variant, items.div_ceil(Source::per(variant) as usize))
}

/// Workgroups for one reduction per row: a lane each, or a workgroup each.
fn row_groups(source: &Source, variant: Variant, rows: usize) -> [u32; 3] {
    match variant {
        Variant::Soft => lanes(source, variant, rows),
        Variant::Tile => crate::gpu::fold(rows),
    }
}

/// Bytes of tensors read or written once.
fn bytes(tensors: &[&Tensor]) -> f64 {
    tensors.iter().map(|t| 4.0 * t.len() as f64).sum()
}

/// Cost of an op that is bound by memory: `per_element` operations on each element of `tensors[0]`.
fn stream(tensors: &[&Tensor], per_element: f64) -> Cost {
    Cost::new(tensors.first().map_or(0.0, |t| t.len() as f64) * per_element, bytes(tensors))
}

/// Refuses what the shaders' 32-bit indices cannot reach.
fn word(n: usize, what: &str) -> Result<u32> {
    u32::try_from(n)
        .map_err(|_| crate::Error::Input(format!("{what} is {n}, more than 32 bits hold; use a smaller batch")))
}

#[cfg(test)]
pub(crate) mod testing {
    /// Compares a gradient with central differences of `f` along random directions.
    pub(crate) fn finite_difference(what: &str, at: &[f64], grad: &[f64], f: impl Fn(&[f64]) -> f64) {
        let mut seed = 7u64;
        for _ in 0..4 {
            let direction: Vec<f64> = at
                .iter()
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 40) as f64 / 16_777_216.0 - 0.5
                })
                .collect();
            let step = 1e-5;
            let moved = |s: f64| at.iter().zip(&direction).map(|(a, d)| a + s * d).collect::<Vec<_>>();
            let slope = (f(&moved(step)) - f(&moved(-step))) / (2.0 * step);
            let product: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
            assert!(
                (slope - product).abs() <= 1e-6 * (1.0 + slope.abs().max(product.abs())),
                "{what}: the slope is {slope}, the gradient says {product}"
            );
        }
    }

    /// Repeatable numbers around 0.
    pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f64> {
        (0..n as u64).map(|i| ((i * 2_654_435_761 + seed * 97_531) % 1009) as f64 / 504.5 - 1.0).collect()
    }

    pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }
}
