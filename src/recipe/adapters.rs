//! Adapters over one base: the base lies on the GPU once for the whole process, as it is stored, and each model of the
//! run is an adapter beside it.

use crate::arch::Dtype;
use crate::arch::lora::{Adapter, LoraConfig};
use crate::gpu::Gpu;
use crate::model::{Base, Model, Storage};
use crate::source::{ModelSource, save_adapter};
use crate::train::LoraSettings;
use crate::{Error, Observer, Result};
use std::cell::OnceCell;
use std::path::Path;

/// The models of a run that trains adapters.
pub(super) struct Adapters<'a> {
    source: &'a ModelSource,
    /// What a fresh adapter is.
    config: LoraConfig,
    base: OnceCell<Base>,
    observer: &'a dyn Observer,
}

impl<'a> Adapters<'a> {
    /// The models of a run that begins with `source`; `None` if all weights are trained. An adapter is trained if
    /// `lora` asks for it, or if the given model is one.
    ///
    /// # Errors
    /// The given model is another adapter than `lora` asks for, or has not the layers.
    pub(super) fn of(
        source: &'a ModelSource,
        lora: Option<&LoraSettings>,
        observer: &'a dyn Observer,
    ) -> Result<Option<Self>> {
        let config = match (lora, &source.adapter) {
            (None, None) => return Ok(None),
            (None, Some(given)) => given.config.clone(),
            (Some(lora), None) => lora.config(),
            (Some(lora), Some(given)) => {
                let named = |e| Error::Input(format!("[lora] {e}"));
                lora.agree_with(&source.arch, &given.config).map_err(named)?;
                LoraConfig { dropout: lora.dropout, ..given.config.clone() }
            }
        };
        // Targets that the model does not have are found here, not after the first stages.
        Adapter::parameters(&source.arch, &config).map_err(|e| Error::Input(format!("[lora] {e}")))?;
        Ok(Some(Self { source, config, base: OnceCell::new(), observer }))
    }

    fn base(&self, gpu: &Gpu) -> Result<&Base> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let path = self.source.path.display();
        self.observer.note(&format!("the base {path} goes to the GPU once; its adapters take turns beside it"));
        let base = Base::load(gpu, self.source, Storage::Own)?;
        Ok(self.base.get_or_init(|| base))
    }

    /// The model in a folder of the run: the base, or an adapter beside it.
    ///
    /// # Errors
    /// The folder holds neither, or an adapter that does not fit the base.
    pub(super) fn load(&self, gpu: &Gpu, folder: &Path) -> Result<Model> {
        self.beside(gpu, self.source.adapter_in(folder)?)
    }

    /// The model of a source that has the same base; `None` if it has another.
    ///
    /// # Errors
    /// The GPU's memory does not suffice.
    pub(super) fn load_source(&self, gpu: &Gpu, source: &ModelSource) -> Result<Option<Model>> {
        let same = source.has_base(&self.source.path);
        same.then(|| self.beside(gpu, source.adapter.clone())).transpose()
    }

    fn beside(&self, gpu: &Gpu, adapter: Option<Adapter>) -> Result<Model> {
        let trained = |mut adapter: Adapter| {
            adapter.config.dropout = self.config.dropout;
            adapter
        };
        self.base(gpu)?.model(gpu, adapter.map(trained).as_ref())
    }

    /// The model as its training begins: with a fresh adapter if it has none.
    ///
    /// # Errors
    /// The GPU's memory does not suffice.
    pub(super) fn trainable(&self, gpu: &Gpu, model: Model, seed: u64) -> Result<Model> {
        if model.has_adapter() {
            return Ok(model);
        }
        model.with_adapter(gpu, Some(&Adapter::fresh(&self.source.arch, &self.config, seed)?))
    }

    /// Writes the model's adapter to a PEFT folder.
    ///
    /// # Errors
    /// Errors of the file system and of the GPU.
    pub(super) fn save(&self, gpu: &Gpu, folder: &Path, model: &Model) -> Result<()> {
        let adapter = model.adapter(gpu)?.ok_or_else(|| Error::Bug("a trained model without its adapter".into()))?;
        save_adapter(folder, self.source, &adapter, Dtype::F32)
    }
}
