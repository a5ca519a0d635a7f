//! What the rows of a step see and by which angles they turn, for every kind of layer.

use super::angles;
use super::balance::Balance;
use super::dropout;
use super::model::Model;
use crate::Result;
use crate::arch::{Attention, Mixer};
use crate::gpu::Gpu;
use crate::kernels::delta::Chunks;
use crate::kernels::delta_chunks;
use crate::kernels::mask::Mask;
use crate::kernels::rope::Turn;
use crate::kernels::scores::Scores;
use crate::kernels::short_conv::Links;
use crate::layout::Forest;

/// A forest as each layer sees it.
pub(crate) struct View {
    /// The mask of each layer; those without attention read none.
    pub(crate) masks: Vec<Mask>,
    /// The angles of the rows, for each rope of the architecture.
    pub(crate) turns: Vec<Turn>,
    /// Which rows follow one another, where a block has a convolution.
    pub(crate) links: Option<Links>,
    /// The pieces of paths that are computed together, where a block has a delta net.
    pub(crate) chunks: Option<Chunks>,
    /// The masks of dropout; None where nothing is dropped.
    pub(crate) dropout: Option<dropout::Masks>,
    /// What is counted for the routers' auxiliary loss; None where it has no weight.
    pub(crate) balance: Option<Balance>,
}

impl View {
    /// The view of a forest whose trees will not grow: the angles of a tree are those for its longest path.
    pub(crate) fn new(gpu: &Gpu, model: &Model, forest: &Forest) -> Result<View> {
        Self::of_lengths(gpu, model, forest, &forest.longest())
    }

    /// What [`View::new`] gives, where each row's sequence will grow to `lengths[row]` tokens.
    pub(crate) fn of_lengths(gpu: &Gpu, model: &Model, forest: &Forest, lengths: &[u32]) -> Result<View> {
        let mask = Mask::new(gpu, forest, None)?;
        let mut masks: Vec<Mask> = Vec::new();
        let sights: Vec<(Option<usize>, Scores)> = model
            .arch
            .layers
            .iter()
            .map(|layer| {
                let of = |a: &Attention| (a.window, Scores { scale: a.query_scale, cap: a.score_cap });
                layer.mixer.attention().map_or((None, Scores::default()), of)
            })
            .collect();
        for (i, (window, scores)) in sights.iter().enumerate() {
            // Layers of one window share what is made of it.
            masks.push(match sights[..i].iter().position(|sight| *sight == sights[i]) {
                Some(first) => masks[first].clone(),
                None => mask.seeing(forest, *window, *scores),
            });
        }
        let links = model.arch.has_past().then(|| Links::new(gpu, forest)).transpose()?;
        let has_net = model.arch.layers.iter().any(|layer| matches!(layer.mixer, Mixer::DeltaNet(_)));
        let most = delta_chunks::most_rows(gpu.form().variant);
        let chunks = has_net.then(|| Chunks::new(gpu, forest, most)).transpose()?;
        Ok(View { masks, turns: turns(gpu, model, lengths)?, links, chunks, dropout: None, balance: None })
    }
}

/// The angles of rows whose sequences are `lengths` tokens long, by rope of the architecture.
pub(crate) fn turns(gpu: &Gpu, model: &Model, lengths: &[u32]) -> Result<Vec<Turn>> {
    angles::turns(gpu, &model.arch, &model.angles, lengths)
}

pub(crate) use super::angles::classes;
