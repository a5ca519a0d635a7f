//! What judges and stages need of a model: text to ids and back, generation, log-probs.

use crate::generate::{Generator, Output, Request, Settings};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::model::score::{self, Branch};
use crate::{Error, Observer, Result};

/// Generation and scoring by one model. The GPU is one implementation; tests use a scripted one.
pub trait Engine {
    /// As [`Generator::run`].
    ///
    /// # Errors
    /// As [`Generator::run`].
    fn generate(
        &mut self,
        requests: &[Request],
        settings: &Settings,
        observer: &dyn Observer,
    ) -> Result<Vec<Vec<Output>>>;

    /// As [`score::logps`].
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
        let outputs = self.generator.run(requests, settings, observer, &mut |_, _, _| {});
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

/// The engine of judges that ask no model.
pub struct NoEngine;

impl Engine for NoEngine {
    fn generate(&mut self, _: &[Request], _: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
        Err(Error::Input("a model was asked, but none is loaded".into()))
    }

    fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
        Err(Error::Input("a model was asked, but none is loaded".into()))
    }
}

/// Text of one model: its tokenizer and its templates.
pub trait Language {
    /// Ids of a piece of an answer, without special tokens.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    fn decode(&self, ids: &[u32]) -> Result<String>;

    /// Context in which the model answers one user message.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express; a template that fails.
    fn ask(&self, message: &str) -> Result<Vec<u32>>;

    /// Context in which the model continues plain text.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    fn raw(&self, text: &str) -> Result<Vec<u32>>;

    /// Ids that end an answer.
    fn stop(&self) -> &[u32];

    /// Most tokens of prompt and answer together.
    fn context(&self) -> usize;
}
