//! A base on the GPU, beside which adapters take turns.

use super::{Model, Storage};
use crate::Result;
use crate::arch::lora::Adapter;
use crate::gpu::Gpu;
use crate::source::ModelSource;
use std::path::PathBuf;

/// The weights that several models share: they are loaded once, and a model of them costs its adapter alone.
pub struct Base {
    path: PathBuf,
    model: Model,
}

impl Base {
    /// Loads the base of a model from disk; the model's adapter, if it has one, is not loaded.
    ///
    /// # Errors
    /// As [`Model::load_as`].
    pub fn load(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Base> {
        Ok(Base { path: source.path.clone(), model: Model::load_base(gpu, source, storage)? })
    }

    /// Whether this is the base of a model.
    pub fn is_of(&self, source: &ModelSource) -> bool {
        source.has_base(&self.path)
    }

    /// A model of these weights, which stay where they are, with `adapter` beside them. In training it is to have one,
    /// for its weights are not its own.
    ///
    /// # Errors
    /// The adapter is another model's, or the device is out of memory.
    pub fn model(&self, gpu: &Gpu, adapter: Option<&Adapter>) -> Result<Model> {
        self.model.beside(gpu, adapter)
    }
}
