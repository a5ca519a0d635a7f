//! What the rows of a step see and by which angles they turn, for every kind of layer.

use super::{Model, dropout};
use crate::Result;
use crate::arch::{Arch, Rope, Stretch, family};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::mask::Mask;
use crate::kernels::rope::{self, Turn};
use crate::layout::Forest;

/// A forest as each layer sees it.
pub(crate) struct View {
    /// By layer.
    pub(crate) masks: Vec<Mask>,
    /// By rope of the architecture.
    pub(crate) turns: Vec<Turn>,
    /// In training with dropout.
    pub(crate) dropout: Option<dropout::Masks>,
}

impl View {
    /// Angles are chosen tree by tree, by its longest path.
    pub(crate) fn new(gpu: &Gpu, model: &Model, forest: &Forest) -> Result<View> {
        Self::of_lengths(gpu, model, forest, &forest.longest())
    }

    /// As [`View::new`] where each row's sequence will grow to `lengths[row]` tokens.
    pub(crate) fn of_lengths(gpu: &Gpu, model: &Model, forest: &Forest, lengths: &[u32]) -> Result<View> {
        let mask = Mask::new(gpu, forest, None)?;
        let arch = &model.arch;
        let mut masks: Vec<Mask> = Vec::new();
        for (i, layer) in arch.layers.iter().enumerate() {
            // Layers of one window share what is made of it.
            let like = arch.layers[..i].iter().position(|l| l.window == layer.window);
            masks.push(match like {
                Some(first) => masks[first].clone(),
                None => mask.seeing(forest, layer.window, arch.query_scale),
            });
        }
        Ok(View { masks, turns: turns(gpu, model, lengths)?, dropout: None })
    }
}

/// The tables that do not depend on a step: the usual angles, below them those of long sequences.
pub(super) fn angles(gpu: &Gpu, arch: &Arch) -> Result<Vec<Tensor>> {
    let context = arch.max_position_embeddings;
    arch.ropes
        .iter()
        .map(|r| match &r.stretch {
            Stretch::Long { original, inv_freq } => {
                rope::angles(gpu, &[(&r.inv_freq, context.min(*original)), (inv_freq, context)], r.scaling)
            }
            _ => rope::angles(gpu, &[(&r.inv_freq, context)], r.scaling),
        })
        .collect()
}

/// What the angles of a sequence of `length` tokens depend on: equal classes, equal angles.
pub(crate) fn classes(arch: &Arch, length: usize) -> Vec<u32> {
    let class = |r: &Rope| match r.stretch {
        Stretch::Never => 0,
        Stretch::Long { original, .. } => u32::from(length > original),
        Stretch::Dynamic { original, .. } if length > original => length as u32,
        Stretch::Dynamic { .. } => 0,
    };
    arch.ropes.iter().map(class).collect()
}

/// The angles of rows whose sequences are `lengths` tokens long.
pub(crate) fn turns(gpu: &Gpu, model: &Model, lengths: &[u32]) -> Result<Vec<Turn>> {
    let one = |(r, angle): (&Rope, &Tensor)| match &r.stretch {
        Stretch::Never => Turn::new(gpu, angle.clone(), &vec![0; lengths.len()]),
        Stretch::Long { original, .. } => {
            let second = model.arch.max_position_embeddings.min(*original) as u32;
            let start: Vec<u32> = lengths.iter().map(|n| if *n as usize > *original { second } else { 0 }).collect();
            Turn::new(gpu, angle.clone(), &start)
        }
        Stretch::Dynamic { theta, factor, original } => {
            let mut long: Vec<u32> = lengths.iter().copied().filter(|n| *n as usize > *original).collect();
            long.sort_unstable();
            long.dedup();
            if long.is_empty() {
                return Turn::new(gpu, angle.clone(), &vec![0; lengths.len()]);
            }
            // Every length has frequencies of its own, so their tables are made for the step.
            let freq: Vec<Vec<f32>> =
                long.iter().map(|n| family::dynamic(*theta, *factor, *original, *n, r.inv_freq.len())).collect();
            let mut sections = vec![(&r.inv_freq[..], *original)];
            let mut first = vec![*original as u32];
            for (n, f) in long.iter().zip(&freq) {
                sections.push((f, *n as usize));
                first.push(first[first.len() - 1] + n);
            }
            let start = |n: &u32| long.binary_search(n).map_or(0, |i| first[i]);
            let start: Vec<u32> = lengths.iter().map(start).collect();
            Turn::new(gpu, rope::angles(gpu, &sections, r.scaling)?, &start)
        }
    };
    model.arch.ropes.iter().zip(&model.angles).map(one).collect()
}
