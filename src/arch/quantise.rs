//! How f32 values become stored bytes: the reverse of `dtype`.
//!
//! Types of blocks of 32 give the bytes of the `gguf` Python package, which are those of ggml's reference.

use half::{bf16, f16};

use super::dtype::{Dtype, Encoded, beyond, bounds, put_half};
use super::quantise_k;

impl Dtype {
    /// Whether [`Dtype::encode`] writes the type; the others are only read.
    pub fn is_written(self) -> bool {
        !matches!(self, Dtype::Q2K | Dtype::Q3K | Dtype::Iq4Nl | Dtype::Mxfp4)
    }

    /// Whether a value stays finite in a plain type; blocks have scales of their own.
    pub(crate) fn holds(self, value: f32) -> bool {
        match self {
            Dtype::F16 => f16::from_f32(value).is_finite(),
            Dtype::BF16 => bf16::from_f32(value).is_finite(),
            _ => true,
        }
    }

    /// The stored bytes of `values`, which make whole blocks. Plain types round to the nearest, ties to even; how each
    /// block is quantised depends on its own values alone.
    ///
    /// # Errors
    /// The type is read but not written, or it cannot hold a value; the text says which.
    pub fn encode(self, values: &[f32]) -> std::result::Result<Vec<u8>, String> {
        let (width, bytes) = self.block();
        let mut out = Vec::with_capacity(values.len() / width * bytes);
        match self {
            Dtype::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Dtype::F16 | Dtype::BF16 if !values.iter().all(|v| self.holds(*v)) => return Err(beyond(self)),
            Dtype::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Dtype::BF16 => out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            Dtype::Q8_0 => each(values, |block| q8_0(block, &mut out))?,
            Dtype::Q4_0 | Dtype::Q5_0 => each(values, |block| centred(self, block, &mut out))?,
            Dtype::Q4_1 | Dtype::Q5_1 => each(values, |block| shifted(self, block, &mut out))?,
            Dtype::Q4K | Dtype::Q5K => each(values, |block| quantise_k::shifted(self, block, &mut out))?,
            Dtype::Q6K => each(values, |block| quantise_k::centred(block, &mut out))?,
            Dtype::Q2K | Dtype::Q3K | Dtype::Iq4Nl | Dtype::Mxfp4 => {
                return Err(format!("{self} is read but not written"));
            }
        }
        Ok(out)
    }
}

fn each<const N: usize>(values: &[f32], one: impl FnMut(&[f32; N]) -> Encoded) -> Encoded {
    values.as_chunks::<N>().0.iter().try_for_each(one)
}

/// 1 / d, or 0 where all values are 0.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) -> Encoded {
    let d = block.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
    put_half(Dtype::Q8_0, d, out)?;
    let inverse = inverse(d);
    out.extend(block.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
    Ok(())
}

/// The value farthest from 0, with its sign, gets the lowest step.
fn centred(dtype: Dtype, block: &[f32; 32], out: &mut Vec<u8>) -> Encoded {
    let half = if dtype == Dtype::Q4_0 { 8u8 } else { 16 };
    let most = block.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    let d = most / -f32::from(half);
    put_half(dtype, d, out)?;
    // In f64 product and sum are as exact as with a fused multiply-add, which the references use.
    let (inverse, middle) = (f64::from(inverse(d)), f64::from(half) + 0.5);
    let steps = block.map(|v| ((f64::from(v) * inverse + middle) as f32 as u8).min(2 * half - 1));
    put_steps(dtype == Dtype::Q5_0, &steps, out);
    Ok(())
}

/// The least value gets step 0, the greatest the last one.
fn shifted(dtype: Dtype, block: &[f32; 32], out: &mut Vec<u8>) -> Encoded {
    let top = if dtype == Dtype::Q4_1 { 15u8 } else { 31 };
    let (least, greatest) = bounds(block);
    let d = (greatest - least) / f32::from(top);
    put_half(dtype, d, out)?;
    put_half(dtype, least, out)?;
    let inverse = inverse(d);
    let steps = block.map(|v| (((v - least) * inverse + 0.5) as u8).min(top));
    put_steps(dtype == Dtype::Q5_1, &steps, out);
    Ok(())
}

/// Nibbles, with the fifth bits in a little-endian word before them where there are any.
fn put_steps(fifth: bool, steps: &[u8; 32], out: &mut Vec<u8>) {
    if fifth {
        out.extend(steps.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i).to_le_bytes());
    }
    out.extend((0..16).map(|i| steps[i] & 15 | (steps[i + 16] & 15) << 4));
}
