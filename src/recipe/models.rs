//! The other models of a run, for the stages that need more than the one whose round it is.

use super::domain::Domain;
use crate::generate::{Engine, GpuEngine};
use crate::gpu::Gpu;
use crate::source::SOURCE_FILE;
use crate::{Error, Result};
use std::path::Path;

/// Finds and runs models by their numbers.
pub trait Models {
    /// The number of the model that M`round` was trained from; None where there is none in this run.
    fn before(&self, round: u32) -> Option<u32>;

    /// Runs `work` with M`number`, which is let go of afterwards.
    ///
    /// # Errors
    /// A model that cannot be loaded; errors of `work`.
    fn with(&self, number: u32, work: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()>;
}

/// The models of a run folder.
pub struct RunModels<'a> {
    /// Where they run.
    pub gpu: &'a Gpu,
    /// Loads them.
    pub domain: &'a dyn Domain,
    /// The run folder.
    pub run: &'a Path,
}

impl Models for RunModels<'_> {
    fn before(&self, round: u32) -> Option<u32> {
        let number = round.checked_sub(1)?;
        let exists = self.run.join(format!("M{number}")).is_dir();
        // A model that only names another one was not trained.
        let trained = !self.run.join(format!("M{round}")).join(SOURCE_FILE).exists();
        (exists && trained).then_some(number)
    }

    fn with(&self, number: u32, work: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()> {
        let model = self.domain.load_model(self.gpu, &self.run.join(format!("M{number}")))?;
        work(&mut GpuEngine::new(self.gpu, &model))
    }
}

/// No other models: for single stages.
pub struct NoModels;

impl Models for NoModels {
    fn before(&self, _: u32) -> Option<u32> {
        None
    }

    fn with(&self, number: u32, _: &mut dyn FnMut(&mut dyn Engine) -> Result<()>) -> Result<()> {
        Err(Error::Input(format!("M{number} is asked for outside a run")))
    }
}
