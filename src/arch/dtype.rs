//! How a tensor's numbers are stored, and how they become f32.
//!
//! Quantised rows are runs of blocks: a scale (f16), sometimes a minimum or sub-scales, and small integers. The layouts
//! are those of GGUF; the order of the f32 operations is that of the `gguf` Python package, so that both give the same
//! bits.

use half::{bf16, f16};

/// The number format of one tensor in a file: a plain float type, or one of GGUF's block types. `GgufTypes` chooses one
/// for each tensor of a file, and `Storage` says what becomes of a file's matrices on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Numbers in IEEE single precision.
    F32,
    /// Numbers in IEEE half precision.
    F16,
    /// Numbers as the upper half of an f32 (bfloat16).
    BF16,
    /// Blocks of 32 values: an f16 scale, and 8 bits for each value.
    Q8_0,
    /// Blocks of 32 values: an f16 scale, and 4 bits for each value, from which 8 is subtracted.
    Q4_0,
    /// Blocks of 32 values: an f16 scale and minimum, and 4 bits for each value.
    Q4_1,
    /// Blocks of 32 values: an f16 scale, and 5 bits for each value, from which 16 is subtracted.
    Q5_0,
    /// Blocks of 32 values: an f16 scale and minimum, and 5 bits for each value.
    Q5_1,
    /// Blocks of 256 values: an f16 scale and minimum, eight 6-bit sub-scales and sub-minima, and 4 bits for each
    /// value.
    Q4K,
    /// Blocks as [`Dtype::Q4K`] has them, with 5 bits for each value.
    Q5K,
    /// Blocks of 256 values: an f16 scale, sixteen 8-bit sub-scales, and 6 bits for each value, from which 32 is
    /// subtracted.
    Q6K,
    /// Blocks of 256 values: an f16 scale and minimum, sixteen 4-bit sub-scales and sub-minima, and 2 bits for each
    /// value.
    Q2K,
    /// Blocks of 256 values: an f16 scale, sixteen 6-bit sub-scales, and 3 bits for each value, from which 4 is
    /// subtracted.
    Q3K,
    /// Blocks of 32 values: an f16 scale, and 4 bits for each value that choose one of 16 fixed steps.
    Iq4Nl,
    /// Blocks of 32 values: a power of 2 in 8 bits, and 4 bits for each value that are a sign and one of 0, 0.5, 1,
    /// 1.5, 2, 3, 4 and 6 (OCP Microscaling 1.0, MXFP4).
    Mxfp4,
}

/// Twice the values of a number of [`Dtype::Mxfp4`], the upper eight with a sign.
pub(crate) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The values that [`Dtype::Iq4Nl`] chooses from: close together around 0, where weights are many.
const STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What is known of each type: its name, GGUF's number for it, values and bytes of a block.
const TYPES: [(Dtype, &str, u32, (usize, usize)); 15] = [
    (Dtype::F32, "F32", 0, (1, 4)),
    (Dtype::F16, "F16", 1, (1, 2)),
    (Dtype::BF16, "BF16", 30, (1, 2)),
    (Dtype::Q8_0, "Q8_0", 8, (32, 34)),
    (Dtype::Q4_0, "Q4_0", 2, (32, 18)),
    (Dtype::Q4_1, "Q4_1", 3, (32, 20)),
    (Dtype::Q5_0, "Q5_0", 6, (32, 22)),
    (Dtype::Q5_1, "Q5_1", 7, (32, 24)),
    (Dtype::Q4K, "Q4_K", 12, (256, 144)),
    (Dtype::Q5K, "Q5_K", 13, (256, 176)),
    (Dtype::Q6K, "Q6_K", 14, (256, 210)),
    (Dtype::Q2K, "Q2_K", 10, (256, 84)),
    (Dtype::Q3K, "Q3_K", 11, (256, 110)),
    (Dtype::Iq4Nl, "IQ4_NL", 20, (32, 18)),
    (Dtype::Mxfp4, "MXFP4", 39, (32, 17)),
];

impl Dtype {
    /// Every type, in the order of the enum.
    pub fn all() -> impl Iterator<Item = Dtype> {
        TYPES.iter().map(|(dtype, ..)| *dtype)
    }

    /// The number of values and of bytes in one block; a plain type has blocks of one value.
    pub fn block(self) -> (usize, usize) {
        TYPES[self as usize].3
    }

    /// The type's name in files and messages.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// The type with this name, in letters of any case.
    pub fn named(name: &str) -> Option<Dtype> {
        Dtype::all().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// The number that stands for the type in GGUF files.
    pub fn gguf(self) -> u32 {
        TYPES[self as usize].2
    }

    /// The type with this number in GGUF files.
    pub fn of_gguf(number: u32) -> Option<Dtype> {
        Dtype::all().find(|dtype| dtype.gguf() == number)
    }

    /// The bytes that a tensor of this shape takes; rows lie along the last axis. `None` if the last axis is no
    /// multiple of the block, or the product overflows.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (values, bytes) = self.block();
        if shape.last().is_some_and(|last| last % values != 0) {
            return None;
        }
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (count / values).checked_mul(bytes)
    }

    /// Appends the values of the blocks in `data` to `out`; a torn last block is ignored.
    pub fn dequantise(self, data: &[u8], out: &mut Vec<f32>) {
        let (values, bytes) = self.block();
        out.reserve(data.len() / bytes * values);
        match self {
            Dtype::F32 => out.extend(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => out.extend(data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Dtype::BF16 => out.extend(data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Dtype::Q8_0 => data.as_chunks().0.iter().for_each(|b| q8_0(b, out)),
            Dtype::Q4_0 => data.as_chunks().0.iter().for_each(|b| q4_0(b, out)),
            Dtype::Q4_1 => data.as_chunks().0.iter().for_each(|b| q4_1(b, out)),
            Dtype::Q5_0 => data.as_chunks().0.iter().for_each(|b| q5_0(b, out)),
            Dtype::Q5_1 => data.as_chunks().0.iter().for_each(|b| q5_1(b, out)),
            Dtype::Q4K => data.as_chunks().0.iter().for_each(|b| q4_k(b, out)),
            Dtype::Q5K => data.as_chunks().0.iter().for_each(|b| q5_k(b, out)),
            Dtype::Q6K => data.as_chunks().0.iter().for_each(|b| q6_k(b, out)),
            Dtype::Q2K => data.as_chunks().0.iter().for_each(|b| q2_k(b, out)),
            Dtype::Q3K => data.as_chunks().0.iter().for_each(|b| q3_k(b, out)),
            Dtype::Iq4Nl => data.as_chunks().0.iter().for_each(|b| iq4_nl(b, out)),
            Dtype::Mxfp4 => data.as_chunks().0.iter().for_each(|b| mxfp4(b, out)),
        }
    }
}

/// Scale and minimum of 32 values: two numbers that their block has, and how many of each the first 16 values take, and
/// the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scaled {
    pub(crate) pair: [f32; 2],
    pub(crate) times: [[i8; 2]; 2],
}

impl Scaled {
    /// One scale and one minimum.
    #[inline(always)]
    pub(crate) fn plain(scale: f32, minimum: f32) -> Scaled {
        Scaled { pair: [scale, minimum], times: [[1; 2]; 2] }
    }

    /// Scale and minimum of the first 16 values (0) or of the others (1).
    #[inline(always)]
    pub(crate) fn of(self, part: usize) -> [f32; 2] {
        [0, 1].map(|i| self.pair[i] * f32::from(self.times[part][i]))
    }
}

/// 32 values and what they are scaled by.
type ThirtyTwo = ([u8; 32], Scaled);

impl Dtype {
    /// Values q of the `at`-th 32 of `data`, and their scales and minima: a value is q x scale + minimum, or of MXFP4
    /// [`DOUBLED`] of q x scale. `None` where the type is not quantised, or the data end before.
    #[inline(always)]
    pub(crate) fn thirty_two(self, data: &[u8], at: usize) -> Option<ThirtyTwo> {
        let (values, bytes) = self.block();
        let g = at % (values / 32).max(1);
        let b = data.get(at * 32 / values * bytes..)?.get(..bytes)?;
        let (d, m) = (half_at(b, 0), half_at(b, 2));
        Some(match self {
            Dtype::Q8_0 => (thirty_two_at(b, 2).map(|q| q ^ 0x80), Scaled::plain(d, -128.0 * d)),
            Dtype::Q4_0 => (nibbles(b, 2), Scaled::plain(d, -8.0 * d)),
            Dtype::Q4_1 => (nibbles(b, 4), Scaled::plain(d, m)),
            Dtype::Q5_0 => (fives(b, 2), Scaled::plain(d, -16.0 * d)),
            Dtype::Q5_1 => (fives(b, 4), Scaled::plain(d, m)),
            Dtype::Q4K | Dtype::Q5K => {
                let q = if self == Dtype::Q4K { k_nibbles(b, 16, g) } else { k_fives(b, g) };
                (q, Scaled { pair: [d, -m], times: [sub_scale(&b[4..16], g); 2] })
            }
            Dtype::Q6K => {
                let d = half_at(b, 208);
                let times = [0, 1].map(|i| [b[192 + 2 * g + i].cast_signed(); 2]);
                (sixes(b, g), Scaled { pair: [d, -32.0 * d], times })
            }
            Dtype::Q2K => {
                let (d, m) = (half_at(b, 80), half_at(b, 82));
                let times = [0, 1].map(|i| [b[2 * g + i] & 15, b[2 * g + i] >> 4].map(u8::cast_signed));
                (each(|i| two(&b[16..80], 32 * g + i)), Scaled { pair: [d, -m], times })
            }
            Dtype::Q3K => {
                let d = half_at(b, 108);
                let times = [0, 1].map(|i| [three_scale(&b[96..108], 2 * g + i); 2]);
                (each(|i| three(b, 32 * g + i)), Scaled { pair: [d, -4.0 * d], times })
            }
            Dtype::Iq4Nl => {
                let step = |q: u8| STEPS[usize::from(q)].cast_unsigned() ^ 0x80;
                (nibbles(b, 2).map(step), Scaled::plain(d, -128.0 * d))
            }
            Dtype::Mxfp4 => (nibbles(b, 1), Scaled::plain(half_power(b[0]), 0.0)),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
        })
    }
}

/// What [`Dtype::thirty_two`] gives of MXFP4 as it gives other types: a value is q x scale + minimum.
pub(crate) fn evened((q, scaled): ThirtyTwo) -> ThirtyTwo {
    let d = scaled.pair[0];
    (q.map(|q| (DOUBLED[usize::from(q)] + 12).cast_unsigned()), Scaled::plain(d, -12.0 * d))
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Nothing where a block was stored, or why it cannot be.
pub(super) type Encoded = std::result::Result<(), String>;

/// The message for a value that does not fit the type.
pub(super) fn beyond(dtype: Dtype) -> String {
    format!("a value is beyond the range of {dtype}")
}

/// Appends a scale or a minimum as f16.
pub(super) fn put_half(dtype: Dtype, value: f32, out: &mut Vec<u8>) -> Encoded {
    let half = f16::from_f32(value);
    if !half.is_finite() {
        return Err(beyond(dtype));
    }
    out.extend(half.to_le_bytes());
    Ok(())
}

/// The least and the greatest value.
pub(super) fn bounds(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, greatest), v| (least.min(*v), greatest.max(*v)))
}

/// The f16 at a place. The library asks at every number what the CPU can do, which takes longer than the number.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    wide(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// What the bits of an f16 mean.
#[inline(always)]
fn wide(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    // The exponents' biases differ by 112. A product takes along what lies below f16's smallest exponent; infinity and
    // NaN have an exponent of their own.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    f32::from_bits(sign | if bits & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled })
}

/// 32 values, by a loop of which the compiler makes vectors.
#[inline(always)]
fn each(of: impl Fn(usize) -> u8) -> [u8; 32] {
    let mut values = [0; 32];
    for (i, value) in values.iter_mut().enumerate() {
        *value = of(i);
    }
    values
}

/// 32 bytes of a block.
#[inline(always)]
fn thirty_two_at(block: &[u8], at: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&block[at..at + 32]);
    bytes
}

/// The 4-bit values of a 32-block whose 16 bytes begin at `at`: low nibbles first, then high ones.
#[inline(always)]
fn nibbles(block: &[u8], at: usize) -> [u8; 32] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&block[at..at + 16]);
    let (all, low) = (u128::from_le_bytes(bytes), u128::from_le_bytes([15; 16]));
    let mut values = [0; 32];
    values[..16].copy_from_slice(&(all & low).to_le_bytes());
    values[16..].copy_from_slice(&(all >> 4 & low).to_le_bytes());
    values
}

/// The 5-bit values of a 32-block whose word of fifth bits begins at `at`, a nibble and one bit of the
/// little-endian word each.
#[inline(always)]
fn fives(block: &[u8], at: usize) -> [u8; 32] {
    let mut values = nibbles(block, at + 4);
    for (eight, bits) in values.as_chunks_mut().0.iter_mut().zip(&block[at..at + 4]) {
        *eight = (u64::from_le_bytes(*eight) | FIFTH[usize::from(*bits)]).to_le_bytes();
    }
    values
}

/// For each byte its bits, the lowest first, each as the fifth bit of a byte.
const FIFTH: [u64; 256] = {
    let (mut all, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            all[byte] |= ((byte >> bit & 1) as u64) << (8 * bit + 4);
            bit += 1;
        }
        byte += 1;
    }
    all
};

fn q8_0(b: &[u8; 34], out: &mut Vec<f32>) {
    let d = half_at(b, 0);
    out.extend(b[2..].iter().map(|&q| f32::from(q.cast_signed()) * d));
}

fn q4_0(b: &[u8; 18], out: &mut Vec<f32>) {
    let d = half_at(b, 0);
    out.extend(nibbles(b, 2).map(|q| d * (f32::from(q) - 8.0)));
}

fn q4_1(b: &[u8; 20], out: &mut Vec<f32>) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    out.extend(nibbles(b, 4).map(|q| d * f32::from(q) + m));
}

fn q5_0(b: &[u8; 22], out: &mut Vec<f32>) {
    let d = half_at(b, 0);
    out.extend(fives(b, 2).map(|q| d * (f32::from(q) - 16.0)));
}

fn q5_1(b: &[u8; 24], out: &mut Vec<f32>) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    out.extend(fives(b, 4).map(|q| d * f32::from(q) + m));
}

/// Sub-scale and sub-minimum of group g of 8, 6 bits each, packed in 12 bytes.
#[inline(always)]
fn sub_scale(scales: &[u8], g: usize) -> [i8; 2] {
    let sub = if g < 4 {
        [scales[g] & 63, scales[g + 4] & 63]
    } else {
        let low = scales[g + 4];
        [low & 15 | (scales[g - 4] >> 2) & 0x30, low >> 4 | (scales[g] >> 2) & 0x30]
    };
    sub.map(u8::cast_signed)
}

/// The 4-bit values of group g of 8, whose bytes begin at `at`: two groups share 32 bytes, the first has their low
/// nibbles.
#[inline(always)]
fn k_nibbles(block: &[u8], at: usize, g: usize) -> [u8; 32] {
    thirty_two_at(block, at + g / 2 * 32).map(|byte| byte >> (g % 2 * 4) & 15)
}

/// The 5-bit values of group g of a Q5_K block: nibbles, and bit g of 32 bytes.
#[inline(always)]
fn k_fives(block: &[u8], g: usize) -> [u8; 32] {
    let (low, high) = (k_nibbles(block, 48, g), thirty_two_at(block, 16));
    each(|i| low[i] | (high[i] >> g & 1) << 4)
}

fn q4_k(b: &[u8; 144], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for g in 0..8 {
        let [scale, minimum] = Scaled { pair: [d, -dmin], times: [sub_scale(&b[4..16], g); 2] }.of(0);
        out.extend(k_nibbles(b, 16, g).map(|q| scale * f32::from(q) + minimum));
    }
}

fn q5_k(b: &[u8; 176], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for g in 0..8 {
        let [scale, minimum] = Scaled { pair: [d, -dmin], times: [sub_scale(&b[4..16], g); 2] }.of(0);
        out.extend(k_fives(b, g).map(|q| scale * f32::from(q) + minimum));
    }
}

/// The 6-bit values of the g-th 32 of a Q6_K block: four of these share 32 bytes of two upper bits each, and two share
/// 32 bytes of nibbles.
#[inline(always)]
fn sixes(block: &[u8], g: usize) -> [u8; 32] {
    let low = thirty_two_at(block, g / 4 * 64 + g % 2 * 32);
    let high = thirty_two_at(block, 128 + g / 4 * 32);
    each(|i| low[i] >> (g % 4 / 2 * 4) & 15 | (high[i] >> (g % 4 * 2) & 3) << 4)
}

fn q6_k(b: &[u8; 210], out: &mut Vec<f32>) {
    let d = half_at(b, 208);
    for g in 0..8 {
        let scale = |i: usize| d * f32::from(b[192 + 2 * g + i / 16].cast_signed());
        out.extend(sixes(b, g).iter().enumerate().map(|(i, q)| scale(i) * (f32::from(*q) - 32.0)));
    }
}

/// The i-th 2-bit value of a block of 256: groups of 32 take turns in the bits of 32 bytes.
fn two(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

fn q2_k(b: &[u8; 84], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    out.extend((0..256).map(|i| {
        let scale = b[i / 16];
        d * f32::from(scale & 15) * f32::from(two(&b[16..80], i)) - dmin * f32::from(scale >> 4)
    }));
}

/// The i-th 3-bit value of a block of 256: two bits as [`two`] has them, and one of the first 32 bytes.
fn three(b: &[u8], i: usize) -> u8 {
    two(&b[32..96], i) | (b[i % 32] >> (i / 32) & 1) << 2
}

/// The j-th of 16 sub-scales of 6 bits, less 32: 4 bits in the first 8 bytes, 2 in the last 4.
fn three_scale(scales: &[u8], j: usize) -> i8 {
    let low = scales[j % 8] >> (j / 8 * 4) & 15;
    let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
    (low | high << 4).cast_signed() - 32
}

fn q3_k(b: &[u8; 110], out: &mut Vec<f32>) {
    let d = half_at(b, 108);
    out.extend((0..256).map(|i| d * f32::from(three_scale(&b[96..108], i / 16)) * (f32::from(three(b, i)) - 4.0)));
}

fn iq4_nl(b: &[u8; 18], out: &mut Vec<f32>) {
    let d = half_at(b, 0);
    out.extend(nibbles(b, 2).map(|q| d * f32::from(STEPS[usize::from(q)])));
}

/// Half of the power of 2 that the scale of an [`Dtype::Mxfp4`] block stands for: 2^(scale - 128). Of 255, which stands
/// for no number, it is NaN.
#[inline(always)]
fn half_power(scale: u8) -> f32 {
    match scale {
        // What is below the smallest exponent.
        0 | 1 => f32::from_bits(0x20_0000 << scale),
        255 => f32::NAN,
        _ => f32::from_bits((u32::from(scale) - 1) << 23),
    }
}

fn mxfp4(b: &[u8; 17], out: &mut Vec<f32>) {
    let d = half_power(b[0]);
    out.extend(nibbles(b, 1).map(|q| d * f32::from(DOUBLED[usize::from(q)])));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(dtype: Dtype, data: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        dtype.dequantise(data, &mut out);
        out
    }

    #[test]
    fn each_type_stands_at_its_place_in_the_table() {
        for (i, (dtype, ..)) in TYPES.iter().enumerate() {
            assert_eq!(*dtype as usize, i);
            assert_eq!(Dtype::of_gguf(dtype.gguf()), Some(*dtype));
        }
    }

    #[test]
    fn plain_types_are_little_endian() {
        assert_eq!(values(Dtype::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(values(Dtype::F16, &[0x00, 0x3e]), [1.5]);
        assert_eq!(values(Dtype::BF16, &[0xc0, 0x3f]), [1.5]);
    }

    // Block b of each type holds d = 0.5, m = 0.25 where it has one, and bytes that count up. The expected values were
    // worked out from the layout by hand for the first, a middle and the last value.
    #[test]
    fn blocks_of_32() {
        let mut block = vec![0x00, 0x38];
        block.extend(0..32u8);
        let v = values(Dtype::Q8_0, &block);
        assert_eq!((v.len(), v[0], v[17], v[31]), (32, 0.0, 8.5, 15.5));

        let mut block = vec![0x00, 0x38];
        block.extend((0..16u8).map(|i| i << 4 | (15 - i)));
        let v = values(Dtype::Q4_0, &block);
        assert_eq!((v.len(), v[0], v[15], v[16], v[31]), (32, 3.5, -4.0, -4.0, 3.5));

        let mut block = vec![0x00, 0x38, 0x00, 0x34];
        block.extend((0..16u8).map(|i| i << 4 | (15 - i)));
        let v = values(Dtype::Q4_1, &block);
        assert_eq!((v.len(), v[0], v[15], v[16], v[31]), (32, 7.75, 0.25, 0.25, 7.75));

        let mut block = vec![0x00, 0x38, 0x01, 0x00, 0x00, 0x80];
        block.extend([0x21; 16]);
        let v = values(Dtype::Q5_0, &block);
        assert_eq!((v[0], v[1], v[16], v[31]), (0.5, -7.5, -7.0, 1.0));

        let mut block = vec![0x00, 0x38, 0x00, 0x34, 0x01, 0x00, 0x00, 0x80];
        block.extend([0x21; 16]);
        let v = values(Dtype::Q5_1, &block);
        assert_eq!((v[0], v[1], v[16], v[31]), (8.75, 0.75, 1.25, 9.25));

        let mut block = vec![126];
        block.extend((0..16u8).map(|i| i << 4 | (15 - i)));
        let v = values(Dtype::Mxfp4, &block);
        assert_eq!((v.len(), v[0], v[8], v[15], v[23], v[31]), (32, -3.0, 3.0, 0.0, 3.0, -3.0));
        // The smallest powers, and a scale that is none.
        block[0] = 0;
        assert_eq!(values(Dtype::Mxfp4, &block)[9], 4.0 * 2f32.powi(-127));
        block[0] = 255;
        assert!(values(Dtype::Mxfp4, &block)[0].is_nan());
    }

    #[test]
    fn sub_scales_of_k_blocks() {
        // Scales 1..=8 and minima 9..=16: all below 16, so only the low parts are set.
        let packed = [1, 2, 3, 4, 9, 10, 11, 12, 13 << 4 | 5, 14 << 4 | 6, 15 << 4 | 7, 8];
        let got: Vec<_> = (0..8).map(|g| sub_scale(&packed, g)).collect();
        assert_eq!(got[0], [1, 9]);
        assert_eq!(got[3], [4, 12]);
        assert_eq!(got[4], [5, 13]);
        assert_eq!(got[7], [8, 0]);
        // The two upper bits of byte g - 4 and g belong to the groups 4..8.
        let packed = [0xc0, 0, 0, 0, 0x80, 0, 0, 0, 0x21, 0, 0, 0];
        assert_eq!(sub_scale(&packed, 4), [49, 34]);
        assert_eq!(sub_scale(&packed, 0), [0, 0]);
    }

    #[test]
    fn every_half_is_what_the_library_reads() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (wide(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}: {ours}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Dtype::Q4_1.bytes(&[3, 64]), Some(120));
        assert_eq!(Dtype::Q4_1.bytes(&[3, 48]), None);
        assert_eq!(Dtype::F32.bytes(&[usize::MAX, 2]), None);
        assert_eq!(Dtype::F32.bytes(&[]), Some(4));
    }
}
