//! Sizes of a launch: workgroups, and the bytes it moves.

use crate::gpu::{Cost, Source, Tensor, Variant};

/// Workgroups for one lane per item.
pub(super) fn lanes(source: &Source, variant: Variant, items: usize) -> [u32; 3] {
    crate::gpu::fold(items.div_ceil(source.workgroup(variant) as usize))
}

/// Workgroups for texts whose lanes have several items each.
pub(super) fn several(source: &Source, variant: Variant, items: usize) -> [u32; 3] {
    lanes(source, variant, items.div_ceil(Source::per(variant) as usize))
}

/// Workgroups for one reduction per row: a lane each, or a workgroup each.
pub(super) fn row_groups(source: &Source, variant: Variant, rows: usize) -> [u32; 3] {
    match variant {
        Variant::Soft => lanes(source, variant, rows),
        Variant::Tile => crate::gpu::fold(rows),
    }
}

/// Bytes of tensors read or written once.
pub(super) fn bytes(tensors: &[&Tensor]) -> f64 {
    tensors.iter().map(|t| 4.0 * t.len() as f64).sum()
}

/// Cost of an op that is bound by memory: `per_element` operations on each element of `tensors[0]`.
pub(super) fn stream(tensors: &[&Tensor], per_element: f64) -> Cost {
    Cost::new(tensors.first().map_or(0.0, |t| t.len() as f64) * per_element, bytes(tensors))
}
