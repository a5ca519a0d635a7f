//! The 16-bit types in which matrices are stored.

use super::way::Constant;
use crate::arch::Dtype;
use crate::gpu::pad4;
use crate::{Error, Result};

/// A number format of 16 bits, as matrices on the GPU and rounded copies of them may have it. [`Dtype`] names all
/// formats that files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// bfloat16: f32's exponent, 8 bits of precision.
    Bf16,
    /// IEEE half: 11 bits of precision up to 65,504.
    F16,
}

impl Half {
    /// Both types.
    pub const ALL: [Half; 2] = [Half::Bf16, Half::F16];

    /// The 16-bit type that a file's type is; None of any other type.
    pub(crate) fn of(dtype: Dtype) -> Option<Half> {
        match dtype {
            Dtype::BF16 => Some(Half::Bf16),
            Dtype::F16 => Some(Half::F16),
            _ => None,
        }
    }

    /// The type's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        }
    }

    /// The bits of the value that is nearest to `x`, ties to even.
    pub fn bits(self, x: f32) -> u16 {
        match self {
            Half::Bf16 => half::bf16::from_f32(x).to_bits(),
            Half::F16 => half::f16::from_f32(x).to_bits(),
        }
    }

    /// The value that 16 bits stand for.
    pub fn value(self, bits: u16) -> f32 {
        match self {
            Half::Bf16 => half::bf16::from_bits(bits).to_f32(),
            Half::F16 => half::f16::from_bits(bits).to_f32(),
        }
    }

    /// Refuses values that would not stay finite in this type.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the first of them.
    pub(crate) fn check(self, values: &[f32]) -> Result<()> {
        match values.iter().find(|x| !self.holds(**x)) {
            Some(x) => Err(Error::NonFinite(format!("{x} is beyond what {} holds; take bf16 or f32", self.name()))),
            None => Ok(()),
        }
    }

    /// Whether a value stays finite in this type: whether it lies below the middle between the largest value and what
    /// would come next.
    pub(crate) fn holds(self, x: f32) -> bool {
        let middle = match self {
            Half::Bf16 => 0x7f7f_8000,
            Half::F16 => 0x477f_f000,
        };
        x.abs() < f32::from_bits(middle)
    }

    /// The constant by which the shaders know the type.
    pub(super) fn constant(self) -> Constant {
        let value = match self {
            Half::Bf16 => 1,
            Half::F16 => 2,
        };
        ("HALF", value)
    }

    /// The words of a row of values: two neighbours in each, the first in its low bits, and zeros up to a multiple of 4
    /// values.
    pub(crate) fn words(self, row: &[f32]) -> Vec<u32> {
        let word =
            |pair: &[f32]| u32::from(self.bits(pair[0])) | pair.get(1).map_or(0, |x| u32::from(self.bits(*x)) << 16);
        let mut words: Vec<u32> = row.chunks(2).map(word).collect();
        words.resize(pad4(row.len()) / 2, 0);
        words
    }
}
