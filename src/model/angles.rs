//! The angles by which queries and keys turn: tables by position, and where each row of a step begins in them.

use crate::Result;
use crate::arch::{Arch, Rope, Stretch, family};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::rope::{self, Turn};

/// The tables that do not depend on a step: the usual angles, below them those of long sequences.
pub(super) fn tables(gpu: &Gpu, arch: &Arch) -> Result<Vec<Tensor>> {
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

/// The angles of rows whose sequences are `lengths` tokens long; `tables` are those of [`tables`].
pub(super) fn turns(gpu: &Gpu, arch: &Arch, tables: &[Tensor], lengths: &[u32]) -> Result<Vec<Turn>> {
    let one = |(r, angle): (&Rope, &Tensor)| match &r.stretch {
        Stretch::Never => Turn::new(gpu, angle.clone(), &vec![0; lengths.len()]),
        Stretch::Long { original, .. } => {
            let second = arch.max_position_embeddings.min(*original) as u32;
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
    arch.ropes.iter().zip(tables).map(one).collect()
}
