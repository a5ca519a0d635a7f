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

/// How the names of entry points begin that go backward.
const BACK: &str = "back";
/// Kernels and their entry points whose names do not say that they go backward.
const GRADIENTS: [(&str, &str); 4] =
    [("matmul", "forward_nt"), ("matmul", "forward_tn"), ("column_sum", "forward"), ("attention_tiles", "to_keys")];

impl Kernel {
    /// The op's stem.
    pub fn name(&self) -> &'static str {
        (self.source)().name
    }

    /// Whether an entry point computes a gradient.
    pub(super) fn is_gradient(&self, entry: &str) -> bool {
        let more = GRADIENTS.iter().any(|known| *known == (self.name(), entry));
        more || self.name().contains("backward") || entry.starts_with(BACK)
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

/// What the random numbers are that a case is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inputs {
    /// About normal.
    Normal,
    /// 10^4 or -10^4.
    Large,
    /// 10^-30 or -10^-30.
    Tiny,
    /// All the same.
    Equal,
    /// Nearly all 0, one of some sixteen far above them.
    OneHot,
    /// About normal, and of all rows of a forest each sees itself alone.
    Alone,
}

impl Inputs {
    /// Those at the edge of what may come.
    pub const EXTREME: [Inputs; 5] = [Inputs::Large, Inputs::Tiny, Inputs::Equal, Inputs::OneHot, Inputs::Alone];

    /// As reports call them.
    pub fn name(self) -> &'static str {
        match self {
            Inputs::Normal => "normal",
            Inputs::Large => "large",
            Inputs::Tiny => "tiny",
            Inputs::Equal => "equal",
            Inputs::OneHot => "one-hot",
            Inputs::Alone => "all masked but one",
        }
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
    /// The extreme inputs of which the twin knows the result to the tolerance.
    pub extremes: Vec<Inputs>,
    /// Whether the op stands between two others, with a loss behind them.
    pub between: bool,
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
        let extremes = Inputs::EXTREME.to_vec();
        Case { name: name.into(), tolerance, dtype: "f32", timed: false, extremes, between: false, run: Box::new(run) }
    }

    pub(super) fn timed(name: impl Into<String>, run: impl Fn(&mut Trial) -> Result<()> + 'static) -> Case {
        Case { timed: true, extremes: Vec::new(), ..Case::new(name, 0.0, run) }
    }

    /// This case as one with weights of type `dtype`, which its closure makes.
    pub(super) fn of(self, dtype: &'static str) -> Case {
        Case { dtype, ..self }
    }

    /// This case without extreme inputs that lose the digits that the twin has.
    pub(super) fn without(mut self, inputs: &[Inputs]) -> Case {
        self.extremes.retain(|extreme| !inputs.contains(extreme));
        self
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
    inputs: Inputs,
    /// Whether rows were drawn that see one another.
    pub(super) forest: bool,
    pub(super) outputs: Vec<(String, Tensor, Expected)>,
}

pub(super) enum Expected {
    Floats(Vec<f64>),
    Words(Vec<u32>),
}

impl<'g> Trial<'g> {
    pub(super) fn new(gpu: &'g Gpu, form: Form, seed: u64, with_twin: bool) -> Trial<'g> {
        let (rec, inputs) = (gpu.record_form(form), Inputs::Normal);
        Trial { gpu, rec, state: seed, with_twin, inputs, forest: false, outputs: Vec::new() }
    }

    /// The same with other numbers.
    pub(super) fn of(self, inputs: Inputs) -> Trial<'g> {
        Trial { inputs, ..self }
    }

    /// Whether each row of the forest that is drawn next is to see itself alone.
    pub(super) fn alone(&mut self) -> bool {
        self.forest = true;
        self.inputs == Inputs::Alone
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

    /// Values as the case is to have them: about normal ones (a sum of four uniform ones), if nothing else was asked
    /// for.
    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        let one = |t: &mut Self| (t.word() >> 40) as f32 / 16_777_216.0 - 0.5;
        let signed = |t: &mut Self, size: f32| if t.word() & 1 == 0 { size } else { -size };
        let inputs = self.inputs;
        let mut value = || match inputs {
            Inputs::Normal | Inputs::Alone => (one(self) + one(self) + one(self) + one(self)) * 1.732,
            Inputs::Large => signed(self, 1e4),
            Inputs::Tiny => signed(self, 1e-30),
            Inputs::Equal => 0.75,
            Inputs::OneHot => f32::from(u8::from(self.below(16) == 0)) * 40.0,
        };
        (0..n).map(|_| value()).collect()
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
