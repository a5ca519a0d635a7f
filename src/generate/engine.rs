//! Generating and scoring with one model, behind a trait, so that judges and stages can be tested without a GPU.

use super::{Generator, KvType, Output, Request, Settings};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::model::score;
use crate::model::score::Branch;
use crate::{Error, Observer, Result};

/// Generates and scores with one model. [`GpuEngine`] is the real one; tests use a scripted one.
pub trait Engine {
    /// Answers every request, as [`Generator::run`] does.
    ///
    /// # Errors
    /// As [`Generator::run`].
    fn generate(
        &mut self,
        requests: &[Request],
        settings: &Settings,
        observer: &dyn Observer,
    ) -> Result<Vec<Vec<Output>>>;

    /// Log-probability of every token of every completion, as [`score::logps`] computes it.
    ///
    /// # Errors
    /// As [`score::logps`].
    fn logps(&mut self, branches: &[Branch], observer: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>>;
}

/// An [`Engine`] on the GPU.
pub struct GpuEngine<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    generator: Generator<'a>,
}

impl<'a> GpuEngine<'a> {
    /// An engine that runs `model`.
    pub fn new(gpu: &'a Gpu, model: &'a Model) -> Self {
        Self { gpu, model, generator: Generator::new(gpu, model) }
    }

    /// Keeps the keys and values of what is generated in the type `kv`; without this call in f32.
    #[must_use]
    pub fn kv(self, kv: KvType) -> Self {
        Self { generator: self.generator.kv(kv), ..self }
    }
}

impl Engine for GpuEngine<'_> {
    fn generate(
        &mut self,
        requests: &[Request],
        settings: &Settings,
        observer: &dyn Observer,
    ) -> Result<Vec<Vec<Output>>> {
        let samples: usize = requests.iter().map(|r| r.samples.len()).sum();
        observer.begin("generate", Some((samples * settings.max_new_tokens) as u64), "tokens");
        let outputs = self.generator.run_with(requests, settings, observer, &mut |_, _, _| {});
        observer.end();
        outputs
    }

    fn logps(&mut self, branches: &[Branch], observer: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
        observer.begin("score", None, "tokens");
        let logps = score::logps(self.gpu, self.model, branches, observer);
        observer.end();
        logps
    }
}

/// The engine of judges that ask no model; every call is an error.
pub struct NoEngine;

impl Engine for NoEngine {
    fn generate(&mut self, _: &[Request], _: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
        Err(Error::Bug("a model was asked, but none is loaded".into()))
    }

    fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
        Err(Error::Bug("a model was asked, but none is loaded".into()))
    }
}
