//! The decoder: one implementation for every family, forward and backward beside one another.

pub mod arch;
pub mod family;
pub mod score;

pub use arch::{Arch, Rope};

use crate::Result;
use crate::gpu::Gpu;

/// One named parameter on the host, in Hugging Face's name, shape and row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Hugging Face's parameter name.
    pub name: String,
    /// `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// A model's weights on the GPU.
pub struct Model {
    /// Its shape.
    pub arch: Arch,
}

impl Model {
    /// A model with f32 weights from named tensors (every parameter of `arch`, once).
    ///
    /// # Errors
    /// A missing, surplus or wrongly shaped tensor; a non-finite value; out of memory.
    pub fn from_tensors(_gpu: &Gpu, arch: &Arch, _tensors: Vec<NamedTensor>) -> Result<Model> {
        Ok(Model { arch: arch.clone() })
    }

    /// All parameters, dequantised to f32, in the family's order.
    ///
    /// # Errors
    /// GPU errors.
    pub fn tensors(&self, _gpu: &Gpu) -> Result<Vec<NamedTensor>> {
        Err(crate::Error::Device("not built yet".into()))
    }
}
