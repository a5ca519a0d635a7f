//! How the values of quantised matrices lie in memory: words of 4 or 8 bits a value, a scale and a minimum for a group
//! of them.

use super::half::Half;
use super::way::Constant;
use crate::arch::{DOUBLED, Dtype};
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
    /// A power of 2 in 8 bits, and no minimum: MXFP4 (OCP Microscaling 1.0), whose values are numbers of 4 bits in the
    /// place of steps.
    Power,
}

/// The number format of a quantised matrix on the GPU: groups of values along K, where a value is its bits x scale +
/// minimum. GGUF's block types ([`Dtype`]) become one of six such formats when a model is loaded.
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
    pub(super) const ALL: [Quants; 6] = [
        Quants { bits: 4, group: 32, scales: Scales::Half },
        Quants { bits: 8, group: 32, scales: Scales::Half },
        Quants { bits: 4, group: 32, scales: Scales::Full },
        Quants { bits: 8, group: 32, scales: Scales::Full },
        Quants { bits: 8, group: 16, scales: Scales::Full },
        Quants { bits: 4, group: 32, scales: Scales::Power },
    ];

    /// How blocks of a type lie on the GPU, without a change of any value (but for those of MXFP4 whose power of 2 is
    /// below 2^-125, which are 0); None of what is not in blocks.
    pub(crate) fn of(dtype: Dtype) -> Option<Quants> {
        let (bits, group, scales) = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 => (4, 32, Scales::Half),
            Dtype::Q5_0 | Dtype::Q5_1 | Dtype::Q8_0 | Dtype::Iq4Nl => (8, 32, Scales::Half),
            Dtype::Q4K => (4, 32, Scales::Full),
            Dtype::Q5K => (8, 32, Scales::Full),
            Dtype::Mxfp4 => (4, 32, Scales::Power),
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
            (_, Scales::Power, _) => "mxfp4",
            (_, Scales::Half, _) => "q8",
            (_, Scales::Full, 32) => "q5k",
            (_, Scales::Full, _) => "q6k",
        }
    }

    /// What the shaders' constants say of it.
    pub(super) fn constants(self) -> Vec<Constant> {
        let scales = match self.scales {
            Scales::Half => 0,
            Scales::Full => 1,
            Scales::Power => 2,
        };
        vec![("BITS", self.bits), ("GROUP", self.group), ("SCALES", scales)]
    }

    /// The kind that holds the values of both kinds.
    pub(crate) fn or(self, other: Quants) -> Quants {
        if self == other {
            return self;
        }
        // Beside others twice a number of 4 bits is a step, from 0 to 24.
        let even = |kind: Quants| match kind.scales {
            Scales::Power => Quants { bits: 8, scales: Scales::Full, ..kind },
            Scales::Half | Scales::Full => kind,
        };
        let (one, other) = (even(self), even(other));
        let scales = if one.scales == Scales::Full { one.scales } else { other.scales };
        Quants { bits: one.bits.max(other.bits), group: one.group.min(other.group), scales }
    }

    /// How many scales what `bits` of a word stand for takes.
    pub(super) fn step(self, bits: u32) -> f32 {
        match self.scales {
            Scales::Half | Scales::Full => bits as f32,
            Scales::Power => f32::from(DOUBLED[bits as usize & 15]),
        }
    }

    /// Words that hold the scales and minima of a row of groups in `n` columns.
    pub(super) fn scales_of(self, n: usize) -> usize {
        match self.scales {
            Scales::Half => n,
            Scales::Full => pad4(n).saturating_mul(2),
            Scales::Power => n.div_ceil(4),
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
            Scales::Power => {
                for (col, [scale, _]) in (col..).zip(pairs) {
                    let (word, shift) = (&mut row[col / 4], col % 4 * 8);
                    *word = *word & !(255 << shift) | (scale.to_bits() >> 23 & 255) << shift;
                }
            }
        }
    }

    /// Whether each word of such a row holds the scales of several columns, so that what is written to one of them has
    /// to leave the others.
    pub(crate) fn shares_words(self) -> bool {
        self.scales == Scales::Power
    }

    /// Scale and minimum of a column from such a row.
    pub(super) fn unpacked(self, row: &[u32], col: usize) -> (f32, f32) {
        match self.scales {
            Scales::Half => (Half::F16.value(row[col] as u16), Half::F16.value((row[col] >> 16) as u16)),
            Scales::Full => {
                let at = col / 4 * 8 + col % 4;
                (f32::from_bits(row[at]), f32::from_bits(row[at + 4]))
            }
            Scales::Power => (f32::from_bits((row[col / 4] >> (col % 4 * 8) & 255) << 23), 0.0),
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

    #[test]
    fn numbers_of_4_bits_stand_for_their_steps() {
        let kind = Quants::of(Dtype::Mxfp4).unwrap();
        for (code, twice) in DOUBLED.into_iter().enumerate() {
            let words = kind.words([code as u8; 32]);
            assert_eq!(kind.step(words[0] & 15), f32::from(twice), "{code}");
        }
        let mut row = [u32::MAX; 2];
        for (col, power) in [(1, 0.25), (4, 2f32.powi(-125)), (0, 2f32.powi(100)), (5, 2f32.powi(-128))] {
            kind.put(&mut row, col, &[[power, 0.0]]);
            let held = if power < f32::MIN_POSITIVE { 0.0 } else { power };
            assert_eq!(kind.unpacked(&row, col), (held, 0.0));
        }
        assert_eq!(kind.unpacked(&row, 0).0, 2f32.powi(100));
        assert_eq!(row[0] >> 16, 0xffff);
    }

    /// A matrix of several types lies in a kind that is compiled.
    #[test]
    fn kinds_together_are_one_of_the_kinds() {
        for one in Quants::ALL {
            for other in Quants::ALL {
                let both = one.or(other);
                assert!(Quants::ALL.contains(&both) && both == other.or(one), "{one:?} {other:?}: {both:?}");
            }
        }
    }
}
