//! How the values of quantised matrices lie in memory: words of 4 or 8 bits a value, a scale and a minimum for a group
//! of them.

use super::half::Half;
use super::way::Constant;
use crate::arch::Dtype;
use crate::gpu::pad4;
use crate::{Error, Result};
use half::{f16, slice::HalfFloatSliceExt};

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
            // Powers of 2 reach beyond f16, and the steps between the values are not all alike.
            Dtype::Q5K | Dtype::Mxfp4 => (8, 32, Scales::Full),
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

    /// The words of 32 values along K; of 4 bits the first four.
    #[inline(always)]
    pub(crate) fn words(self, q: [u8; 32]) -> [u32; 8] {
        let mut words = [0; 8];
        if self.bits == 8 {
            for (word, bytes) in words.iter_mut().zip(q.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            return words;
        }
        for (word, bytes) in words.iter_mut().zip(q.as_chunks().0) {
            // Neighbours move together: two, four and eight of them.
            let mut eight = u64::from_le_bytes(*bytes);
            for (shift, mask) in [(4, 0x00ff_00ff_00ff_00ff), (8, 0x0000_ffff_0000_ffff), (16, 0xffff_ffff)] {
                eight = (eight | eight >> shift) & mask;
            }
            *word = eight as u32;
        }
        words
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

    /// Writes scale and minimum of neighbouring columns, the first of which is `col`, into a row of groups as
    /// [`super::weight::Block::Quantised`] holds it.
    pub(crate) fn put(self, row: &mut [u32], col: usize, pairs: &[[f32; 2]]) {
        match self.scales {
            Scales::Half => {
                // Many at once, since the library asks at every call what the CPU can do.
                for (words, pairs) in row[col..].chunks_mut(16).zip(pairs.chunks(16)) {
                    let mut halves = [[f16::ZERO; 2]; 16];
                    halves[..pairs.len()].as_flattened_mut().convert_from_f32_slice(pairs.as_flattened());
                    for (word, [scale, minimum]) in words.iter_mut().zip(&halves[..pairs.len()]) {
                        *word = u32::from(scale.to_bits()) | u32::from(minimum.to_bits()) << 16;
                    }
                }
            }
            Scales::Full => {
                for (col, [scale, minimum]) in (col..).zip(pairs) {
                    let at = col / 4 * 8 + col % 4;
                    (row[at], row[at + 4]) = (scale.to_bits(), minimum.to_bits());
                }
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
