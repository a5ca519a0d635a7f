//! Generation: many sequences at once, the token loop on the GPU, prefixes shared.

use crate::gpu::Gpu;
use crate::model::Model;
use crate::{Observer, Result};

/// How a token is drawn. The steps apply in the order of the fields, repetition penalty first.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides positive and multiplies negative logits of tokens already in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// 0 is greedy (lowest id among equal logits).
    pub temperature: f32,
    /// Keep the k largest; 0 is off.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens that reaches this mass, the crossing token included; 1 is off.
    pub top_p: f32,
    /// Drop tokens less probable than this share of the most probable one; 0 is off.
    pub min_p: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

/// One prompt and the samples wanted of it; the prompt is computed and stored once.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, not empty.
    pub prompt: Vec<u32>,
    /// Record id of each sample: keys its random numbers, together with seed and position.
    pub samples: Vec<u64>,
}

/// What holds for all requests of one call.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most tokens of an answer, the stop token included.
    pub max_new_tokens: usize,
    /// Token ids that end an answer.
    pub stop: Vec<u32>,
    /// Seed of the random numbers.
    pub seed: u64,
    /// When not empty: answer token i is the likelier of these two (the first on a tie), whatever the sampling says,
    /// and the answer has exactly this many tokens.
    pub choices: Vec<[u32; 2]>,
}

/// One generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Token ids; the last one is the stop token when `stopped`.
    pub tokens: Vec<u32>,
    /// Whether a stop token was written (otherwise the answer was cut at `max_new_tokens`).
    pub stopped: bool,
    /// With `choices`: the probability of each first choice against its second, else empty.
    pub choice_p: Vec<f32>,
}

/// Generates answers of one model; keeps its KV arena and pipelines between calls.
pub struct Generator<'a> {
    _gpu: &'a Gpu,
    _model: &'a Model,
}

impl<'a> Generator<'a> {
    /// A generator for `model`. Memory is taken at the first [`Generator::run`].
    pub fn new(gpu: &'a Gpu, model: &'a Model) -> Self {
        Self { _gpu: gpu, _model: model }
    }

    /// Answers every request; the result is `[request][sample]`. `on_token(request, sample, token)` is called for each
    /// token as soon as the host sees it, in order within a sample.
    ///
    /// # Errors
    /// An empty prompt, a token outside the vocabulary, a prompt that leaves no room in the context; GPU errors;
    /// `Stopped` when the observer asks for it.
    pub fn run(
        &mut self,
        _requests: &[Request],
        _settings: &Settings,
        _observer: &dyn Observer,
        _on_token: &mut dyn FnMut(usize, usize, u32),
    ) -> Result<Vec<Vec<Output>>> {
        Err(crate::Error::Device("not built yet".into()))
    }
}
