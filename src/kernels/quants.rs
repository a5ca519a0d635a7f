//! How the values of quantised matrices lie in memory: words of 4 or 8 bits a value, a scale and a minimum for a group
//! of them.

use super::half::Half;
use super::way::Constant;
use crate::arch::Dtype;
use crate::gpu::pad4;
use crate::{Error, Result};

/// How the scales and minima of groups are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// Both in f16, as GGUF's blocks of 32 have them.
    Half,
    /// Both in f32: the blocks of 256 of GGUF make them of products, which f16 would round.
    Full,
}

/// The number format of a quantised matrix on the GPU: groups of values along K, where a value is its bits x scale +
/// minimum. GGUF's block types ([`Dtype`]) become one of five such formats when a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quants {
    /// Bits of a value: 4 or 8.
    pub bits: u32,
    /// How many values share a scale and a minimum: 16 or 32.
    pub group: u32,
    /// The precision of scales and minima.
    pub scales: Scales,
}

impl Quants {
    /// All kinds that GGUF's types need.
    pub(super) const ALL: [Quants; 5] = [
        Quants { bits: 4, group: 32, scales: Scales::Half },
        Quants { bits: 8, group: 32, scales: Scales::Half },
        Quants { bits: 4, group: 32, scales: Scales::Full },
        Quants { bits: 8, group: 32, scales: Scales::Full },
        Quants { bits: 8, group: 16, scales: Scales::Full },
    ];

    /// How blocks of a type lie on the GPU, without a change of any value; None of what is not in blocks.
    pub(crate) fn of(dtype: Dtype) -> Option<Quants> {
        let (bits, group, scales) = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 => (4, 32, Scales::Half),
            Dtype::Q5_0 | Dtype::Q5_1 | Dtype::Q8_0 | Dtype::Iq4Nl => (8, 32, Scales::Half),
            Dtype::Q4K => (4, 32, Scales::Full),
            Dtype::Q5K => (8, 32, Scales::Full),
            Dtype::Q6K | Dtype::Q2K | Dtype::Q3K => (8, 16, Scales::Full),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
        };
        Some(Quants { bits, group, scales })
    }

    /// The name of the kind among the types of weights with which a product is timed.
    pub(super) const fn name(self) -> &'static str {
        match (self.bits, self.scales, self.group) {
            (4, Scales::Half, _) => "q4",
            (4, Scales::Full, _) => "q4k",
            (_, Scales::Half, _) => "q8",
            (_, Scales::Full, 32) => "q5k",
            (_, Scales::Full, _) => "q6k",
        }
    }

    /// What the shaders' constants say of it.
    pub(super) fn constants(self) -> Vec<Constant> {
        vec![("BITS", self.bits), ("GROUP", self.group), ("FULL", u32::from(self.scales == Scales::Full))]
    }

    /// The kind that holds the values of both kinds.
    pub(crate) fn or(self, other: Quants) -> Quants {
        let scales = if self.scales == Scales::Full { self.scales } else { other.scales };
        Quants { bits: self.bits.max(other.bits), group: self.group.min(other.group), scales }
    }

    /// Words that hold the scales and minima of a row of groups in `n` columns.
    pub(super) fn scales_of(self, n: usize) -> usize {
        match self.scales {
            Scales::Half => n,
            Scales::Full => pad4(n).saturating_mul(2),
        }
    }

    /// The `at`-th word of 32 values along K.
    pub(crate) fn word(self, q: &[u8; 32], at: usize) -> u32 {
        if self.bits == 8 {
            return u32::from_le_bytes([q[4 * at], q[4 * at + 1], q[4 * at + 2], q[4 * at + 3]]);
        }
        (0..8).fold(0, |word, i| word | u32::from(q[8 * at + i]) << (4 * i))
    }

    /// Refuses scales and minima that are to be in f16 and that f16 cannot hold.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the first of them.
    pub(crate) fn check(self, scales: &[f32]) -> Result<()> {
        match scales.iter().find(|x| self.scales == Scales::Half && !Half::F16.holds(**x)) {
            Some(x) => {
                let what = format!("a block's scale or minimum of {x} is beyond what f16 holds; take f32");
                Err(Error::NonFinite(what))
            }
            None => Ok(()),
        }
    }

    /// Writes a column's scale and minimum into a row of groups as [`super::weight::Block::Quantised`] holds it.
    pub(crate) fn put(self, row: &mut [u32], col: usize, (scale, minimum): (f32, f32)) {
        match self.scales {
            Scales::Half => {
                row[col] = u32::from(Half::F16.bits(scale)) | u32::from(Half::F16.bits(minimum)) << 16;
            }
            Scales::Full => {
                let at = col / 4 * 8 + col % 4;
                (row[at], row[at + 4]) = (scale.to_bits(), minimum.to_bits());
            }
        }
    }

    /// Scale and minimum of a column from such a row.
    pub(super) fn unpacked(self, row: &[u32], col: usize) -> (f32, f32) {
        match self.scales {
            Scales::Half => (Half::F16.value(row[col] as u16), Half::F16.value((row[col] >> 16) as u16)),
            Scales::Full => {
                let at = col / 4 * 8 + col % 4;
                (f32::from_bits(row[at]), f32::from_bits(row[at + 4]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compiled, timed and tested is what files need, no more and no less.
    #[test]
    fn the_kinds_are_those_of_the_types_of_files() {
        let needed: Vec<Quants> = Dtype::all().filter_map(Quants::of).collect();
        assert!(needed.iter().all(|kind| Quants::ALL.contains(kind)), "{needed:?}");
        assert!(Quants::ALL.iter().all(|kind| needed.contains(kind)), "{needed:?}");
        for dtype in Dtype::all() {
            let blocks = dtype.block().0 > 1;
            assert_eq!((Quants::of(dtype).is_some(), Half::of(dtype).is_some()), (blocks, dtype.block() == (1, 2)));
        }
    }
}
