//! The routers' auxiliary loss in a pass: what it counts of the blocks with experts, and the slopes by which it goes
//! backward.

use crate::Result;
use crate::arch::{Arch, Experts};
use crate::gpu::{Gpu, Tensor, pad4};

/// What a pass adds up for the routers' auxiliary loss.
pub(crate) struct Balance {
    /// In how many sequences each row stands, `[T]`.
    pub(crate) often: Tensor,
    /// Of each block with experts its sums over the rows: E probabilities and, from [`pad4`] of E on, E choices.
    pub(crate) sums: Vec<Option<Tensor>>,
    /// The loss's derivative by the sum of each expert's probabilities, `[E]`, before the backward pass.
    pub(crate) slopes: Tensor,
}

/// The blocks with experts; those of one model have equally many.
fn mixtures(arch: &Arch) -> impl Iterator<Item = Option<&Experts>> {
    arch.layers.iter().map(|layer| layer.mlp.experts())
}

/// E, or 0 in a model without experts.
pub(crate) fn experts(arch: &Arch) -> usize {
    mixtures(arch).flatten().map(|mlp| mlp.count).max().unwrap_or(0)
}

impl Balance {
    /// For a pass over rows that stand in so many sequences each.
    pub(crate) fn new(gpu: &Gpu, arch: &Arch, often: &[f32]) -> Result<Balance> {
        let sums = |mlp: Option<&Experts>| mlp.map(|mlp| gpu.zeros(1, 2 * pad4(mlp.count))).transpose();
        Ok(Balance {
            often: gpu.vector(often)?,
            sums: mixtures(arch).map(sums).collect::<Result<_>>()?,
            slopes: gpu.zeros(1, experts(arch))?,
        })
    }
}
