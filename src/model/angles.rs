//! The angles by which queries and keys turn: tables by position, and where each row of a step begins in them.

use crate::Result;
use crate::arch::{Arch, Rope, Stretch, family};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::rope::{self, Turn};
use std::sync::{Arc, Mutex, PoisonError};

/// Positions for which angles are made at once, at least.
const FIRST: usize = 1024;

/// The angles of a rope that do not depend on a step: the usual ones, below them those of long sequences. They are made
/// as far as sequences have come, since a whole context takes longer than many an answer.
#[derive(Clone)]
pub(crate) struct Table {
    angle: Tensor,
    /// Positions whose angles are made.
    made: Arc<Mutex<usize>>,
}

impl Table {
    /// The frequencies of each section, and its positions.
    fn sections<'a>(arch: &Arch, rope: &'a Rope) -> Vec<(&'a [f32], usize)> {
        let context = arch.max_position_embeddings;
        match &rope.stretch {
            Stretch::Long { original, inv_freq } => {
                vec![(&rope.inv_freq, context.min(*original)), (inv_freq, context)]
            }
            _ => vec![(&rope.inv_freq, context)],
        }
    }

    /// The table with the angles of sequences of up to `length` tokens.
    fn up_to(&self, gpu: &Gpu, arch: &Arch, rope: &Rope, length: usize) -> Result<Tensor> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if *made < length {
            let reach = length.next_power_of_two().max(FIRST).min(arch.max_position_embeddings);
            let mut first = 0;
            for (inv_freq, positions) in Self::sections(arch, rope) {
                let some = (*made).min(positions)..reach.min(positions);
                rope::make_angles(gpu, &self.angle, first, (inv_freq, some), rope.scaling)?;
                first += positions;
            }
            *made = reach;
        }
        Ok(self.angle.clone())
    }
}

/// A table for each of `Arch::ropes`.
pub(super) fn tables(gpu: &Gpu, arch: &Arch) -> Result<Vec<Table>> {
    let table = |rope: &Rope| {
        let rows = Table::sections(arch, rope).iter().map(|(_, positions)| positions).sum();
        Ok(Table { angle: gpu.room(rows, 2 * rope.inv_freq.len())?, made: Arc::default() })
    };
    arch.ropes.iter().map(table).collect()
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
pub(super) fn turns(gpu: &Gpu, arch: &Arch, tables: &[Table], lengths: &[u32]) -> Result<Vec<Turn>> {
    let longest = lengths.iter().max().map_or(0, |n| *n as usize);
    let one = |(r, table): (&Rope, &Table)| match &r.stretch {
        Stretch::Never => Turn::new(gpu, table.up_to(gpu, arch, r, longest)?, &vec![0; lengths.len()]),
        Stretch::Long { original, .. } => {
            let second = arch.max_position_embeddings.min(*original) as u32;
            let start: Vec<u32> = lengths.iter().map(|n| if *n as usize > *original { second } else { 0 }).collect();
            Turn::new(gpu, table.up_to(gpu, arch, r, longest)?, &start)
        }
        Stretch::Dynamic { theta, factor, original } => {
            let mut long: Vec<u32> = lengths.iter().copied().filter(|n| *n as usize > *original).collect();
            long.sort_unstable();
            long.dedup();
            if long.is_empty() {
                return Turn::new(gpu, table.up_to(gpu, arch, r, longest)?, &vec![0; lengths.len()]);
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
