//! How the values of quantised matrices lie in memory: words with 4, 5, 6 or 8 bits a value, a scale and a minimum for
//! a group of them.

use super::half::Half;
use super::way::Constant;
use crate::arch::{DOUBLED, Dtype, Scaled};
use crate::gpu::pad4;
use crate::{Error, Result};
use half::{f16, slice::HalfFloatSliceExt};

/// How the scales and minima of groups are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// Both in f16, as GGUF's blocks of 32 have them.
    Half,
    /// Both in f32.
    Full,
    /// A power of 2 in 8 bits, and no minimum: MXFP4 (OCP Microscaling 1.0), whose values are numbers of 4 bits in the
    /// place of steps.
    Power,
    /// Two numbers in f16 for 256 values, and in 8 bits how many of each a group takes: GGUF's blocks of 256, whose
    /// products f16 would round.
    Times,
}

/// Values along K that share the two numbers of [`Scales::Times`].
const TOGETHER: usize = 256;

/// What those two are multiplied by where they are stored (`shaders/lib/scales.times.wgsl`). Of small weights they lie
/// below f16's smallest normal number, and what does a device may take for 0; 1,024 times as large none does.
const RAISED: f32 = 1024.0;

/// The number format of a quantised matrix on the GPU: groups of values along K, where a value is its bits x scale +
/// minimum. GGUF's block types ([`Dtype`]) become one of eight such formats when a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quants {
    /// Bits of a value: 4, 8, or 5 of a group of 32, or 6 of a group of 16 (`shaders/lib/bits.wgsl`).
    pub bits: u32,
    /// How many values share a scale and a minimum: 16 or 32.
    pub group: u32,
    /// How scales and minima are stored.
    pub scales: Scales,
}

impl Quants {
    /// All kinds that GGUF's types need.
    pub(super) const ALL: [Quants; 8] = [
        Quants { bits: 4, group: 32, scales: Scales::Half },
        Quants { bits: 5, group: 32, scales: Scales::Half },
        Quants { bits: 8, group: 32, scales: Scales::Half },
        Quants { bits: 4, group: 32, scales: Scales::Times },
        Quants { bits: 5, group: 32, scales: Scales::Times },
        Quants { bits: 6, group: 16, scales: Scales::Times },
        Quants { bits: 4, group: 32, scales: Scales::Power },
        Quants::MIXED,
    ];

    /// What holds every type, for a matrix whose parts are of types that have no other kind in common.
    const MIXED: Quants = Quants { bits: 8, group: 16, scales: Scales::Full };

    /// How blocks of a type lie on the GPU, without a change of any value (but for those of MXFP4 whose power of 2 is
    /// below 2^-125, which are 0); None of what is not in blocks.
    pub(crate) fn of(dtype: Dtype) -> Option<Quants> {
        let (bits, group, scales) = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 => (4, 32, Scales::Half),
            Dtype::Q5_0 | Dtype::Q5_1 => (5, 32, Scales::Half),
            Dtype::Q8_0 | Dtype::Iq4Nl => (8, 32, Scales::Half),
            Dtype::Q4K => (4, 32, Scales::Times),
            Dtype::Q5K => (5, 32, Scales::Times),
            Dtype::Mxfp4 => (4, 32, Scales::Power),
            Dtype::Q6K | Dtype::Q2K | Dtype::Q3K => (6, 16, Scales::Times),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
        };
        Some(Quants { bits, group, scales })
    }

    /// The name of the kind among the types of weights with which a product is timed.
    pub(super) const fn name(self) -> &'static str {
        match (self.bits, self.scales) {
            (4, Scales::Half) => "q4",
            (5, Scales::Half) => "q5",
            (_, Scales::Half) => "q8",
            (4, Scales::Times) => "q4k",
            (5, Scales::Times) => "q5k",
            (_, Scales::Times) => "q6k",
            (_, Scales::Power) => "mxfp4",
            (_, Scales::Full) => "mixed",
        }
    }

    /// What the shaders' constants say of it.
    pub(super) fn constants(self) -> Vec<Constant> {
        let scales = match self.scales {
            Scales::Half => 0,
            Scales::Full => 1,
            Scales::Power => 2,
            Scales::Times => 3,
        };
        vec![("BITS", self.bits), ("GROUP", self.group), ("SCALES", scales)]
    }

    /// The kind that holds the values of both kinds.
    pub(crate) fn or(self, other: Quants) -> Quants {
        match self.scales == other.scales {
            true => Quants { bits: self.bits.max(other.bits), group: self.group.min(other.group), ..self },
            false => Quants::MIXED,
        }
    }

    /// How many scales what `bits` of a word stand for takes.
    pub(super) fn step(self, bits: u32) -> f32 {
        match self.scales {
            Scales::Half | Scales::Full | Scales::Times => bits as f32,
            Scales::Power => f32::from(DOUBLED[bits as usize & 15]),
        }
    }

    /// Words of a row of the scales of `n` columns.
    pub(super) fn scale_cols(self, n: usize) -> usize {
        match self.scales {
            Scales::Half | Scales::Times => n,
            Scales::Full => pad4(n).saturating_mul(2),
            Scales::Power => n.div_ceil(4),
        }
    }

    /// Rows of the scales of `k` values along K.
    pub(crate) fn scale_rows(self, k: usize) -> usize {
        match self.scales {
            Scales::Half | Scales::Full | Scales::Power => k / self.group as usize,
            Scales::Times => k.div_ceil(TOGETHER) * self.rows_together(),
        }
    }

    /// What the first row of a piece of a matrix is a multiple of, where its pieces are packed apart.
    pub(crate) fn unit(self) -> usize {
        if self.scales == Scales::Times { TOGETHER } else { 32 }
    }

    /// Groups of the values that share the two numbers of [`Scales::Times`].
    fn groups_together(self) -> usize {
        TOGETHER / self.group as usize
    }

    /// Rows of the scales of 256 values: their two numbers, and one for every two groups.
    fn rows_together(self) -> usize {
        1 + self.groups_together() / 2
    }

    /// Rows of words of `k` values along K, a multiple of 32.
    pub(crate) fn word_rows(self, k: usize) -> usize {
        k.saturating_mul(self.bits as usize) / 32
    }

    /// How many bits of a value stand apart from its lower ones.
    fn above(self) -> u32 {
        self.bits % 4
    }

    /// The words of 32 values along K, `bits` of them; the rest is 0.
    #[inline(always)]
    pub(crate) fn words(self, q: [u8; 32]) -> [u32; 8] {
        let mut words = [0; 8];
        if self.bits == 8 {
            for (word, bytes) in words.iter_mut().zip(q.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            return words;
        }
        let above = self.above();
        // Of what stands apart there is one word for a group: of 32 values of 5 bits, of 16 of 6.
        let per_group = if above == 2 { 2 } else { 4 };
        for (i, bytes) in q.as_chunks().0.iter().enumerate() {
            let all = u64::from_le_bytes(*bytes);
            let at = if above == 0 { i } else { i + i / per_group };
            words[at] = gathered(all & 0x0f0f_0f0f_0f0f_0f0f, 4);
            if above > 0 {
                let i = i % per_group * 8;
                words[at / (per_group + 1) * (per_group + 1) + per_group] |=
                    gathered(all >> 4 & 0x0303_0303_0303_0303, above) << (i as u32 * above);
            }
        }
        words
    }

    /// The bits of the `k`-th value of a column, from rows of `ld` such words.
    pub(super) fn bits_at(self, words: &[u32], ld: usize, (k, col): (usize, usize)) -> u32 {
        let (above, group) = (self.above(), self.group as usize);
        let lower = self.bits - above;
        let (first, i) = (self.word_rows(k / group * group), k % group);
        let bits = |row: usize, shift: u32, count: u32| words[row * ld + col] >> shift & ((1 << count) - 1);
        let per = 32 / lower as usize;
        let low = bits(first + i / per, (i % per) as u32 * lower, lower);
        match above {
            0 => low,
            _ => low | bits(first + group / per, i as u32 * above, above) << 4,
        }
    }

    /// Refuses scales and minima that are to be in f16 and that f16 cannot hold as they are stored.
    ///
    /// # Errors
    /// [`Error::NonFinite`] that names the first of them.
    pub(crate) fn check(self, scales: &[Scaled]) -> Result<()> {
        let raised = match self.scales {
            Scales::Half => 1.0,
            Scales::Times => RAISED,
            Scales::Full | Scales::Power => return Ok(()),
        };
        let mut pairs = scales.iter().flat_map(|scaled| scaled.pair);
        match pairs.find(|x| !Half::F16.holds(raised * x)) {
            Some(x) => {
                let most = f32::from(f16::MAX) / raised;
                let what =
                    format!("a block's scale or minimum of {x} is beyond ±{most}, which is all that fits; take f32");
                Err(Error::NonFinite(what))
            }
            None => Ok(()),
        }
    }

    /// The row of the scales that says of a group of the values along K what it does not share.
    fn row(self, group: usize) -> usize {
        match self.scales {
            Scales::Half | Scales::Full | Scales::Power => group,
            Scales::Times => self.pair_row(group) + 1 + group % self.groups_together() / 2,
        }
    }

    /// The row in which the 256 values of a group have the two numbers of [`Scales::Times`].
    fn pair_row(self, group: usize) -> usize {
        group / self.groups_together() * self.rows_together()
    }

    /// Writes what the `block`-th 32 values along K are scaled by in neighbouring columns, the first of which is `col`,
    /// into rows of `ld` words as [`super::weight::Block::Quantised`] has them. Blocks are written in their order; of
    /// those that share two numbers the first one's are kept.
    pub(crate) fn put(self, rows: &mut [u32], ld: usize, (block, col): (usize, usize), scaled: &[Scaled]) {
        let groups = 32 / self.group as usize;
        for (part, group) in (block * groups..(block + 1) * groups).enumerate() {
            let row = self.row(group) * ld;
            match self.scales {
                Scales::Half => put_halves(&mut rows[row + col..], scaled, |scaled| scaled.of(part)),
                Scales::Full => {
                    for (col, scaled) in (col..).zip(scaled) {
                        let at = row + col / 4 * 8 + col % 4;
                        [rows[at], rows[at + 4]] = scaled.of(part).map(f32::to_bits);
                    }
                }
                Scales::Power => {
                    for (col, scaled) in (col..).zip(scaled) {
                        let (word, shift) = (&mut rows[row + col / 4], col % 4 * 8);
                        *word = *word & !(255 << shift) | (scaled.pair[0].to_bits() >> 23 & 255) << shift;
                    }
                }
                Scales::Times => {
                    if group % self.groups_together() == 0 {
                        let pairs = &mut rows[self.pair_row(group) * ld + col..];
                        put_halves(pairs, scaled, |scaled| scaled.pair.map(|x| RAISED * x));
                    }
                    for (col, scaled) in (col..).zip(scaled) {
                        let times = u32::from(u16::from_le_bytes(scaled.times[part].map(i8::cast_unsigned)));
                        let word = &mut rows[row + col];
                        *word = if group % 2 == 0 { times } else { *word & 0xffff | times << 16 };
                    }
                }
            }
        }
    }

    /// Whether a word of the scales holds those of several columns, so that what is written to one of them has to leave
    /// the others.
    pub(crate) fn shares_words(self) -> bool {
        self.scales == Scales::Power
    }

    /// Scale and minimum of the `k`-th value of a column, from such rows.
    pub(super) fn unpacked(self, rows: &[u32], ld: usize, (k, col): (usize, usize)) -> [f32; 2] {
        let group = k / self.group as usize;
        let row = &rows[self.row(group) * ld..];
        let halves = |word: u32| [word as u16, (word >> 16) as u16].map(|bits| Half::F16.value(bits));
        match self.scales {
            Scales::Half => halves(row[col]),
            Scales::Full => [0, 4].map(|at| f32::from_bits(row[col / 4 * 8 + col % 4 + at])),
            Scales::Power => [f32::from_bits((row[col / 4] >> (col % 4 * 8) & 255) << 23), 0.0],
            Scales::Times => {
                let times = (row[col] >> (group % 2 * 16)) as u16;
                let scaled = Scaled {
                    pair: halves(rows[self.pair_row(group) * ld + col]).map(|x| x / RAISED),
                    times: [times.to_le_bytes().map(u8::cast_signed); 2],
                };
                scaled.of(0)
            }
        }
    }
}

/// The lowest `bits` bits of eight bytes, the first byte's lowest; all else in them is 0.
#[inline(always)]
fn gathered(eight: u64, bits: u32) -> u32 {
    // Neighbours move together: two, four and eight of them.
    let two = (eight | eight >> (8 - bits)) & 0x00ff_00ff_00ff_00ff;
    let four = (two | two >> (16 - 2 * bits)) & 0x0000_ffff_0000_ffff;
    (four | four >> (32 - 4 * bits)) as u32
}

/// Writes two numbers a word in f16, the first in its low half.
fn put_halves(words: &mut [u32], scaled: &[Scaled], of: impl Fn(&Scaled) -> [f32; 2]) {
    // Many at once, since the library asks at every call what the CPU can do.
    for (words, scaled) in words.chunks_mut(16).zip(scaled.chunks(16)) {
        let (mut pairs, mut halves) = ([[0.0; 2]; 16], [[f16::ZERO; 2]; 16]);
        pairs.iter_mut().zip(scaled).for_each(|(pair, scaled)| *pair = of(scaled));
        halves.as_flattened_mut().convert_from_f32_slice(pairs.as_flattened());
        for (word, [low, high]) in words.iter_mut().zip(&halves[..scaled.len()]) {
            *word = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compiled, timed and tested is what files need, no more and no less.
    #[test]
    fn the_kinds_are_those_of_the_types_of_files() {
        let needed: Vec<Quants> = Dtype::all().filter_map(Quants::of).chain([Quants::MIXED]).collect();
        assert!(needed.iter().all(|kind| Quants::ALL.contains(kind)), "{needed:?}");
        assert!(Quants::ALL.iter().all(|kind| needed.contains(kind)), "{needed:?}");
        for dtype in Dtype::all() {
            let blocks = dtype.block().0 > 1;
            assert_eq!((Quants::of(dtype).is_some(), Half::of(dtype).is_some()), (blocks, dtype.block() == (1, 2)));
        }
    }

    #[test]
    fn bits_are_found_where_they_were_put() {
        for kind in Quants::ALL {
            let q: [u8; 32] = std::array::from_fn(|i| (i * 37 + 11) as u8 & ((1u32 << kind.bits) - 1) as u8);
            let words = [q, q.map(|q| q ^ 1)].map(|q| kind.words(q));
            assert!(words.iter().all(|w| w[kind.bits as usize..].iter().all(|word| *word == 0)), "{kind:?}");
            let rows: Vec<u32> = words.iter().flat_map(|w| &w[..kind.bits as usize]).copied().collect();
            assert_eq!(rows.len(), kind.word_rows(64));
            for (k, want) in q.into_iter().chain(q.map(|q| q ^ 1)).enumerate() {
                assert_eq!(kind.bits_at(&rows, 1, (k, 0)), u32::from(want), "{kind:?} {k}");
            }
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
            kind.put(&mut row, 2, (0, col), &[Scaled::plain(power, 0.0)]);
            let held = if power < f32::MIN_POSITIVE { 0.0 } else { power };
            assert_eq!(kind.unpacked(&row, 2, (0, col)), [held, 0.0]);
        }
        assert_eq!(kind.unpacked(&row, 2, (0, 0))[0], 2f32.powi(100));
        assert_eq!(row[0] >> 16, 0xffff);
    }

    /// Each group of two times 256 values finds its own, whatever the memory held before.
    #[test]
    fn scales_are_found_where_they_were_put() {
        for kind in Quants::ALL {
            let ld = kind.scale_cols(8);
            let mut rows = vec![u32::MAX; kind.scale_rows(512) * ld];
            let of = |block: usize, col: usize| match kind.scales {
                Scales::Half | Scales::Full => Scaled::plain((8 * block + col) as f32, -(block as f32)),
                Scales::Power => Scaled::plain(2f32.powi((block + col) as i32), 0.0),
                Scales::Times => {
                    let of = |part: usize| [(3 * block + part) as i8, -((block + col) as i8)];
                    let second = if kind.group == 16 { of(1) } else { of(0) };
                    Scaled { pair: [(block / 8 + 1) as f32, col as f32], times: [of(0), second] }
                }
            };
            for block in 0..16 {
                for col in [0, 4] {
                    kind.put(&mut rows, ld, (block, col), &[0, 1, 2, 3].map(|c| of(block, col + c)));
                }
            }
            for (k, col) in (0..512).flat_map(|k| (0..8).map(move |col| (k, col))) {
                assert_eq!(kind.unpacked(&rows, ld, (k, col)), of(k / 32, col).of(k % 32 / 16), "{kind:?} {k} {col}");
            }
        }
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
