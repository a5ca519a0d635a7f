//! A model of any shape with random weights, to measure: no file, and on the host no more than one block of numbers.

use super::model::Model;
use super::params::Storage;
use crate::Result;
use crate::arch::{Arch, Dtype};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::half::Half;
use crate::kernels::quants::Scales;
use crate::kernels::weight::Block;
use crate::rng::Stream;

/// Words of the numbers that fill all weights, over and over.
const WORDS: usize = 1 << 20;
/// Weights lie between this and its negative.
const SIZE: f32 = 0.02;
/// Four scales of blocks whose largest number of 4 bits, 12 half ones, comes to about that: 2^-9.
const POWERS: u32 = 0x7676_7676;

impl Model {
    /// Whether it has matrices in quantised blocks.
    pub fn is_quantised(&self) -> bool {
        let mut blocks = self.params.iter().flatten().flat_map(|weight| weight.blocks());
        blocks.any(|(_, block)| matches!(block, Block::Quantised { .. }))
    }

    /// Makes a model whose matrices are stored as `dtype`, with small random weights: its speed does not depend on
    /// their values, but a device takes more power, and may clock lower, than with zeros.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn random(gpu: &Gpu, arch: &Arch, dtype: Dtype) -> Result<Model> {
        let model = Model::of_shape(gpu, arch, dtype, Storage::Own)?;
        let mut rng = Stream::new(0, 1);
        let bits: Vec<u32> = (0..WORDS).map(|_| rng.bits()).collect();
        let small = |bits: u32| SIZE * (2.0 * (bits as f32 / u32::MAX as f32) - 1.0);
        let pair = |bits: u32, half: Half| u32::from(half.bits(small(bits))) | u32::from(half.bits(small(!bits))) << 16;
        let floats: Vec<u32> = bits.iter().map(|bits| small(*bits).to_bits()).collect();
        let halves = |half: Half| bits.iter().map(|bits| pair(*bits, half)).collect::<Vec<u32>>();
        let all = model.params.iter().flatten().flat_map(|weight| weight.blocks());
        for (_, block) in all {
            match block {
                Block::Dense(values) => fill(gpu, values, &floats)?,
                Block::Half { half, words, .. } => fill(gpu, words, &halves(*half))?,
                Block::Quantised { quants, words, scales } => {
                    fill(gpu, words, &bits)?;
                    match quants.scales {
                        // In the rows of Times that hold bytes these are some number of the pairs in the others.
                        Scales::Half | Scales::Times => fill(gpu, scales, &halves(Half::F16))?,
                        Scales::Full => fill(gpu, scales, &floats)?,
                        Scales::Power => fill(gpu, scales, &[POWERS])?,
                    }
                }
            }
        }
        Ok(model)
    }
}

/// Writes the words into all rows of a tensor.
fn fill(gpu: &Gpu, tensor: &Tensor, words: &[u32]) -> Result<()> {
    let (ld, rows) = (tensor.ld().max(1), tensor.rows());
    let cycle: Vec<u32> =
        if ld > words.len() { words.iter().copied().cycle().take(ld).collect() } else { words.to_vec() };
    let most = cycle.len() / ld;
    for first in (0..rows).step_by(most.max(1)) {
        gpu.overwrite_rows(tensor, first, &cycle[..most.min(rows - first) * ld])?;
    }
    Ok(())
}
