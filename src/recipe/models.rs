//! The other models of a run, for stages that need more than the model whose round it is.

use super::domain::Domain;
use crate::Observer;
use crate::disk::OnDisk;
use crate::generate::{Engine, GpuEngine, KvType};
use crate::gpu::Gpu;
use crate::source::{ModelSource, SOURCE_FILE};
use crate::{Error, Result};
use std::path::Path;

/// Finds and runs models of a run by their numbers.
pub trait Models {
    /// The number of the model from which M`round` was trained; `None` if the run has no such model.
    fn before(&self, round: u32) -> Option<u32>;

    /// Calls `work` with an engine for M`number`, and unloads the model afterwards.
    ///
    /// # Errors
    /// The model cannot be loaded; errors of `work`.
    fn with(&self, number: u32, work: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()>;

    /// Calls `work` with an engine for a model from outside the run, which is found and fetched by its name, and with
    /// its files; unloads the model afterwards.
    ///
    /// # Errors
    /// As [`Models::with`].
    fn with_other(&self, path: &Path, work: &mut OtherWork) -> Result<()>;
}

/// What is done with a model from outside a run.
pub type OtherWork<'a> = dyn FnMut(&mut dyn Engine, &ModelSource) -> Result<()> + 'a;

/// The models in a run folder.
pub struct RunModels<'a> {
    /// GPU on which the models run.
    pub gpu: &'a Gpu,
    /// Domain that loads the models.
    pub domain: &'a dyn Domain,
    /// Path of the run folder.
    pub run: &'a Path,
    /// Observer that is told what is fetched.
    pub observer: &'a dyn Observer,
    /// How keys and values of what they write are kept.
    pub kv: KvType,
}

impl Models for RunModels<'_> {
    fn before(&self, round: u32) -> Option<u32> {
        let number = round.checked_sub(1)?;
        let exists = self.run.join(format!("M{number}")).is_folder();
        // A model folder that only names another model was not trained.
        let trained = !self.run.join(format!("M{round}")).join(SOURCE_FILE).is_there();
        (exists && trained).then_some(number)
    }

    fn with(&self, number: u32, work: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()> {
        let model = self.domain.load_model(self.gpu, &self.run.join(format!("M{number}")))?;
        work(&mut GpuEngine::new(self.gpu, &model).kv(self.kv))
    }

    fn with_other(&self, path: &Path, work: &mut OtherWork) -> Result<()> {
        let source = ModelSource::open_or_fetch(path, self.observer)?;
        let model = self.domain.load_other(self.gpu, &source)?;
        work(&mut GpuEngine::new(self.gpu, &model).kv(self.kv), &source)
    }
}

/// Stands for the other models where a single stage runs without a run; there are none.
pub struct NoModels;

impl Models for NoModels {
    fn before(&self, _: u32) -> Option<u32> {
        None
    }

    fn with(&self, number: u32, _: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()> {
        Err(Error::Bug(format!("M{number} is asked for outside a run")))
    }

    fn with_other(&self, path: &Path, _: &mut OtherWork) -> Result<()> {
        Err(Error::Bug(format!("{} is asked for outside a run", path.display())))
    }
}
