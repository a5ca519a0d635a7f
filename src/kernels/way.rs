//! Which entry point a launch takes, with which constants. Each kernel chooses by pure functions of a shape and of
//! [`Traits`]; its launchers, the tests of the choice and the translations of its texts ask the same functions.

use crate::Result;
use crate::gpu::{LANES, PipelineKey, Recorder, Source, Units, Variant, WIDE};

/// A constant of a text, with its value.
pub type Constant = (&'static str, u32);

/// What kernels are chosen by besides shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// The texts in use.
    pub variant: Variant,
    /// Whether a row's bits must not depend on the rows beside it.
    pub invariant: bool,
    /// Whether the lanes of a soft workgroup are one subgroup, so that they can load for each other.
    pub lanes: bool,
    /// Whether soft kernels can read and write in words of 64 bits.
    pub wide_words: bool,
    /// The device's matrix units, where it was opened with them.
    pub(crate) units: Option<Units>,
    /// Whether products of many rows are left to them.
    pub matrix_units: bool,
}

impl Traits {
    /// The traits of a variant on a device without anything optional.
    pub const fn plain(variant: Variant) -> Traits {
        Traits { variant, invariant: false, lanes: false, wide_words: false, units: None, matrix_units: false }
    }

    /// The traits of the device and of the texts that `rec` records for.
    pub(super) fn of(rec: &Recorder) -> Traits {
        let (gpu, soft) = (rec.gpu(), rec.variant() == Variant::Soft);
        Traits {
            variant: rec.variant(),
            invariant: rec.invariant(),
            lanes: soft && gpu.has_lanes(),
            wide_words: soft && gpu.has_wide_words(),
            units: gpu.units(),
            matrix_units: rec.matrix_units(),
        }
    }

    /// All traits that kernels tell apart.
    pub fn all() -> Vec<Traits> {
        let both = [false, true];
        let mut all = Vec::new();
        for invariant in both {
            for (lanes, wide_words) in both.into_iter().flat_map(|lanes| both.map(|wide| (lanes, wide))) {
                all.push(Traits { invariant, lanes, wide_words, ..Traits::plain(Variant::Soft) });
            }
            all.push(Traits { invariant, ..Traits::plain(Variant::Tile) });
        }
        // Subgroups have 8 to 64 lanes, of which there are to be four.
        for (size, lanes) in [8, 16].into_iter().flat_map(|size| [32, 64, 128, 256].map(|lanes| (size, lanes))) {
            let units = Some(Units { size, lanes });
            all.extend(Variant::ALL.map(|v| Traits { units, matrix_units: true, ..Traits::plain(v) }));
        }
        all
    }
}

/// An entry point of one variant with its constants: a pipeline.
#[derive(Clone, Debug)]
pub struct Way {
    /// The op.
    pub source: &'static Source,
    /// Which of the op's texts.
    pub variant: Variant,
    /// The entry point.
    pub entry: &'static str,
    /// The `const` lines put in front of the text.
    pub constants: Vec<Constant>,
}

impl Way {
    pub(super) fn new(
        source: &'static Source,
        traits: &Traits,
        entry: &'static str,
        constants: impl Into<Vec<Constant>>,
    ) -> Way {
        Way { source, variant: traits.variant, entry, constants: constants.into() }
    }

    /// All entry points of a text that has no constants.
    pub(super) fn plain(source: &'static Source, traits: &Traits) -> Vec<Way> {
        source.entries(traits.variant).into_iter().map(|entry| Way::new(source, traits, entry, [])).collect()
    }

    /// What the device knows the pipeline by.
    pub fn key(&self) -> PipelineKey {
        let Way { source, variant, entry, constants } = self.clone();
        PipelineKey { name: source.name, variant, entry, constants }
    }

    /// The whole text.
    ///
    /// # Errors
    /// An entry point, a library block or a constant that does not exist.
    pub fn wgsl(&self) -> Result<String> {
        self.source.wgsl(self.variant, self.entry, &self.constants)
    }

    /// Whether it needs more than every device has.
    pub fn is_optional(&self) -> bool {
        self.source.is_optional() || self.constants.iter().any(|c| [LANES, WIDE].contains(c))
    }
}
