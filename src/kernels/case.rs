//! A kernel as the reports see it, and the cases by which it is compared with its twin and timed.

use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::{Form, Gpu, Recorder, Source, Tensor, Variant};

/// One op as the reports see it.
pub struct Kernel {
    /// The WGSL text of the op.
    pub source: fn() -> &'static Source,
    /// What it computes, in a line.
    pub about: &'static str,
    /// The pipelines that its launchers ask for on devices of such traits, for shapes of all kinds; the same may be
    /// there several times.
    pub ways: fn(&Traits) -> Vec<Way>,
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

    /// What there is to check in `variants` on this device: each one as it is, and with its invariant order where that
    /// is another one.
    pub fn forms(&self, gpu: &Gpu, variants: &[Variant]) -> Vec<Form> {
        let form = |variant: &Variant, invariant| Form { variant: *variant, invariant, matrix_units: false };
        let all = variants.iter().flat_map(|v| [false, true].map(|invariant| form(v, invariant)));
        let source = (self.source)();
        let there = |f: &Form| gpu.can_build(source) && !source.entries(f.variant).is_empty();
        let checked = |f: &Form| there(f) && (!f.invariant || self.ordered.contains(&f.variant));
        all.filter(checked).collect()
    }
}

/// One set of inputs for a kernel.
pub struct Case {
    /// Entry point and shape.
    pub name: String,
    /// Largest allowed error relative to the larger of |value| and the output's root mean square.
    pub tolerance: f64,
    /// Type of the weights, of which a product may have others than f32.
    pub dtype: &'static str,
    /// Whether it is a shape to time (the twin is then left out: it would take minutes).
    pub timed: bool,
    /// Makes inputs, calls the launcher, names the outputs.
    #[expect(clippy::type_complexity, reason = "a boxed closure is what a case is")]
    pub(crate) run: Box<dyn Fn(&mut Trial) -> Result<()>>,
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        tolerance: f64,
        run: impl Fn(&mut Trial) -> Result<()> + 'static,
    ) -> Case {
        Case { name: name.into(), tolerance, dtype: "f32", timed: false, run: Box::new(run) }
    }

    pub(super) fn timed(name: impl Into<String>, run: impl Fn(&mut Trial) -> Result<()> + 'static) -> Case {
        Case { name: name.into(), tolerance: 0.0, dtype: "f32", timed: true, run: Box::new(run) }
    }

    /// This case as one with weights of type `dtype`, which its closure makes.
    pub(super) fn of(self, dtype: &'static str) -> Case {
        Case { dtype, ..self }
    }
}

/// What a case writes into: a recorder, a source of numbers, and the list of outputs to compare.
pub(crate) struct Trial<'g> {
    /// The device.
    pub(crate) gpu: &'g Gpu,
    /// Where the launches go.
    pub(crate) rec: Recorder<'g>,
    state: u64,
    with_twin: bool,
    pub(super) outputs: Vec<(String, Tensor, Expected)>,
}

pub(super) enum Expected {
    Floats(Vec<f64>),
    Words(Vec<u32>),
}

impl<'g> Trial<'g> {
    pub(super) fn new(gpu: &'g Gpu, form: Form, seed: u64, with_twin: bool) -> Trial<'g> {
        Trial { gpu, rec: gpu.record_form(form), state: seed, with_twin, outputs: Vec::new() }
    }

    /// The next 64 random bits, by splitmix64, which is plenty for test inputs.
    pub(super) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    /// About normal values (a sum of four uniform ones), as f32 can hold them.
    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        let one = |t: &mut Self| (t.word() >> 40) as f32 / 16_777_216.0 - 0.5;
        (0..n).map(|_| (one(self) + one(self) + one(self) + one(self)) * 1.732).collect()
    }

    /// A random matrix on the GPU and, for the twin, on the host.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn matrix(&mut self, rows: usize, cols: usize) -> Result<(Tensor, Vec<f64>)> {
        let v = self.values(rows * cols);
        Ok((self.gpu.upload(rows, cols, &v)?, v.iter().map(|x| f64::from(*x)).collect()))
    }

    /// Names an f32 output and what the twin says it should be.
    pub(crate) fn expect(&mut self, what: &str, tensor: &Tensor, twin: impl FnOnce() -> Vec<f64>) {
        let twin = if self.with_twin { twin() } else { Vec::new() };
        self.outputs.push((what.to_owned(), tensor.clone(), Expected::Floats(twin)));
    }

    /// Names an integer output, to be met exactly.
    pub(crate) fn expect_words(&mut self, what: &str, tensor: &Tensor, twin: impl FnOnce() -> Vec<u32>) {
        let twin = if self.with_twin { twin() } else { Vec::new() };
        self.outputs.push((what.to_owned(), tensor.clone(), Expected::Words(twin)));
    }
}
