//! Dropout in training: the masks of an optimiser step on a micro-batch's rows. Sites are modules by their Hugging Face
//! names: `model.layers.L.self_attn` and `….mlp` for what a block's branch adds to the stream (behind its output
//! projection and, where the family has one, its post-norm), a linear layer's own name for the input of its adapter.
//!
//! A mask is a pure function of (seed, step, site, node, position, channel): it is drawn again in a recomputed block
//! and in the backward pass, and it depends neither on the micro-batch nor on the row in which a token stands.

use crate::Result;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::dropout::{self, Mask};
use crate::layout::Forest;
use crate::rng::{fnv, halves, philox};

/// What stands for a node (a prompt, an answer) in the masks of its rows: FNV-1a, 64 bits, of its parent's key and its
/// tokens, little-endian. A root's parent is the number of the record among those of its step with the same prompt, or
/// 0 where such records share their prompt.
pub(crate) fn node_key(parent: u64, tokens: &[u32]) -> u64 {
    let mut bytes = parent.to_le_bytes().to_vec();
    bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    fnv(&bytes)
}

/// The number that stands for a module among the sites.
pub(crate) fn site(module: &str) -> u64 {
    fnv(module.as_bytes())
}

/// Dropout of one optimiser step on the rows of a forest.
pub(crate) struct Masks {
    seed: u64,
    /// Optimiser steps taken before this one.
    step: u64,
    /// Share of what each branch adds to the stream.
    branches: f32,
    /// The key of each row's node, and the row's position.
    at: Vec<(u64, u32)>,
    /// The keys and positions of `at`, as [`dropout::rows`] puts them on the GPU.
    rows: Tensor,
}

impl Masks {
    /// `nodes` holds the key of each row's node.
    pub(crate) fn new(
        gpu: &Gpu,
        forest: &Forest,
        nodes: &[u64],
        (seed, step): (u64, u64),
        branches: f32,
    ) -> Result<Masks> {
        let rows: Vec<(u64, u32)> = nodes.iter().copied().zip(forest.pos.iter().copied()).collect();
        Ok(Masks { seed, step, branches, rows: dropout::rows(gpu, &rows)?, at: rows })
    }

    /// The masks of some of the rows.
    pub(crate) fn picked(&self, gpu: &Gpu, rows: &[u32]) -> Result<Masks> {
        let at: Vec<(u64, u32)> = rows.iter().map(|row| self.at[*row as usize]).collect();
        Ok(Masks { rows: dropout::rows(gpu, &at)?, at, ..*self })
    }

    fn key(&self, site: u64) -> u64 {
        let [low, high] = halves(site);
        let words = philox([self.step as u32, 2, low, high], halves(self.seed));
        u64::from(words[0]) | u64::from(words[1]) << 32
    }
}

/// x `[T, N]` masked at a site, as a new tensor; x itself where nothing is dropped.
pub(crate) fn apply(rec: &mut Recorder, masks: Option<&Masks>, site: u64, rate: f32, x: &Tensor) -> Result<Tensor> {
    let Some(masks) = masks.filter(|_| rate > 0.0) else { return Ok(x.clone()) };
    let y = rec.gpu().empty(x.rows(), x.cols())?;
    dropout::forward(rec, x, &masks.rows, Mask { key: masks.key(site), rate }, &y)?;
    Ok(y)
}

/// Whether something is dropped of what branches add to the stream.
pub(crate) fn drops(masks: Option<&Masks>) -> bool {
    masks.is_some_and(|masks| masks.branches > 0.0)
}

/// What `branch` (`self_attn` or `mlp`) of a layer adds to the stream, masked; in the backward pass, the gradient of
/// that, masked in the same way.
pub(crate) fn branch(
    rec: &mut Recorder,
    masks: Option<&Masks>,
    layer: usize,
    branch: &str,
    x: &Tensor,
) -> Result<Tensor> {
    let rate = masks.map_or(0.0, |m| m.branches);
    apply(rec, masks, site(&format!("model.layers.{layer}.{branch}")), rate, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That they are the formula's is compared with numpy in tests/training/dropout.rs.
    #[test]
    fn keys_tell_every_part_apart() {
        let gpu = Gpu::open(None, None).unwrap();
        let mut forest = Forest::new();
        forest.leaf(&[5]);
        let masks = |seed, step| Masks::new(&gpu, &forest, &[1], (seed, step), 0.1).unwrap();
        let attention = site("model.layers.0.self_attn");
        let key = masks(7, 3).key(attention);
        for (other, what) in [
            (masks(8, 3).key(attention), "seed"),
            (masks(7, 4).key(attention), "step"),
            (masks(7, 3).key(site("model.layers.0.mlp")), "branch"),
            (masks(7, 3).key(site("model.layers.1.self_attn")), "layer"),
        ] {
            assert_ne!(key, other, "{what}");
        }
        assert_ne!(node_key(0, &[5, 6]), node_key(1, &[5, 6]));
        assert_ne!(node_key(node_key(0, &[5]), &[6]), node_key(0, &[5, 6]));
    }
}
