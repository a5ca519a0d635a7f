//! Generation: many sequences at once, the token loop on the GPU, prefixes shared.

#[cfg(test)]
mod tests;
mod wave;

pub use crate::kernels::sample::Sampling;

use crate::gpu::{self, Gpu};
use crate::kernels::attention_decode::PAGE;
use crate::model::{Model, params};
use crate::{Error, Observer, Result, Silent};
use std::ops::Range;

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

/// Generates answers of one model.
pub struct Generator<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
}

/// What one wave may hold. Its composition depends on the requests, the model, the device's limits and the cap on its memory
/// alone, so that a rerun computes the same bits.
struct Limits {
    sequences: usize,
    tokens: usize,
    /// Pages of the KV arena.
    pages: usize,
}

impl Limits {
    fn new(gpu: &Gpu, model: &Model) -> Limits {
        let heads = params::heads(&model.arch);
        let page = (4 * PAGE * heads.kv_heads * heads.padded()) as u64;
        let arena = if gpu.info().software { 1u64 << 30 } else { 4 << 30 };
        let binding = gpu.max_binding_bytes();
        let pages = (arena / (2 * page * model.arch.num_hidden_layers.max(1) as u64)).min(binding / page);
        Limits {
            // Every sequence has a row of logits.
            sequences: (binding / (4 * model.arch.vocab_size.max(1) as u64)).clamp(1, 1024) as usize,
            tokens: model.most_rows(gpu).min(16_384),
            pages: pages as usize,
        }
    }
}

impl<'a> Generator<'a> {
    /// A generator for `model`. Memory is taken while [`Generator::run`] runs.
    pub fn new(gpu: &'a Gpu, model: &'a Model) -> Self {
        Self { gpu, model }
    }

    /// Answers every request; the result is `[request][sample]`. `on_token(request, sample, token)` is called for each
    /// token as soon as the host sees it, in order within a sample.
    ///
    /// # Errors
    /// An empty prompt, a token outside the vocabulary, a prompt that leaves no room in the context; GPU errors;
    /// `Stopped` when the observer asks for it.
    pub fn run(
        &mut self,
        requests: &[Request],
        settings: &Settings,
        observer: &dyn Observer,
        on_token: &mut dyn FnMut(usize, usize, u32),
    ) -> Result<Vec<Vec<Output>>> {
        for (i, r) in requests.iter().enumerate() {
            self.check(i, r, settings)?;
        }
        let mut all = Vec::with_capacity(requests.len());
        for wave in self.waves(requests, settings)? {
            let first = wave.start;
            all.extend(wave::run(self.gpu, self.model, &requests[wave], settings, observer, &mut |r, s, t| {
                on_token(first + r, s, t);
            })?);
        }
        Ok(all)
    }

    /// The requests of each wave: as many as the device's limits and, where it is capped, its memory allow.
    ///
    /// # Errors
    /// One request by itself takes more memory than the cap leaves.
    pub fn waves(&self, requests: &[Request], settings: &Settings) -> Result<Vec<Range<usize>>> {
        let limits = Limits::new(self.gpu, self.model);
        let (mut waves, mut first) = (Vec::new(), 0);
        while first < requests.len() {
            let (mut last, mut sequences, mut tokens, mut pages) = (first, 0, 0, 0);
            while last < requests.len() {
                let r = &requests[last];
                let full = (r.prompt.len() + settings.max_new_tokens.max(settings.choices.len())).div_ceil(PAGE);
                let shared = r.prompt.len() / PAGE;
                sequences += r.samples.len();
                tokens += r.prompt.len();
                pages += shared + r.samples.len() * (full - shared);
                let fits = sequences <= limits.sequences && tokens <= limits.tokens && pages <= limits.pages;
                if last > first && !fits {
                    break;
                }
                last += 1;
            }
            last = self.within_memory(requests, first..last, settings)?;
            waves.push(first..last);
            first = last;
        }
        Ok(waves)
    }

    /// Where a wave must end so that its memory is not more than the cap leaves: it goes through on a device that only counts.
    fn within_memory(&self, requests: &[Request], wave: Range<usize>, settings: &Settings) -> Result<usize> {
        let Some(cap) = self.gpu.memory() else { return Ok(wave.end) };
        let needed = |n: usize| -> Result<u64> {
            let counted = self.gpu.counting(None);
            let model = self.model.like(&counted)?;
            let others = self.gpu.live_bytes().saturating_sub(counted.live_bytes());
            let wave = &requests[wave.start..wave.start + n];
            wave::run(&counted, &model, wave, settings, &Silent, &mut |_, _, _| {})?;
            Ok(gpu::with_margin(counted.peak_bytes()) + others)
        };
        match gpu::most(1, wave.len(), |n| Ok((needed(n)? <= cap).then_some(())))? {
            Some((n, ())) => Ok(wave.start + n),
            None => Err(Error::OutOfMemory(format!(
                "prompt {} of {} tokens with {} answers of up to {} tokens takes {} MiB; the cap is {} MiB. Fewer answers (-n), \
                 shorter ones or weights in fewer bits take less: `selfreward plan` says what would fit",
                wave.start,
                requests[wave.start].prompt.len(),
                requests[wave.start].samples.len(),
                settings.max_new_tokens,
                needed(1)?.div_ceil(1 << 20),
                cap >> 20,
            ))),
        }
    }

    fn check(&self, number: usize, request: &Request, settings: &Settings) -> Result<()> {
        let what = format!("prompt {number}");
        if request.prompt.is_empty() {
            return Err(Error::Input(format!("{what} is empty")));
        }
        self.model.check_tokens(&what, &request.prompt)?;
        let most = self.model.arch.context();
        if request.prompt.len() >= most {
            return Err(Error::Input(format!(
                "{what} has {} tokens, which leaves no room for an answer in the model's context of {most}",
                request.prompt.len()
            )));
        }
        if settings.max_new_tokens == 0 {
            return Err(Error::Input("max_new_tokens is 0; nothing would be generated".into()));
        }
        let s = &settings.sampling;
        let sane = s.temperature >= 0.0
            && s.temperature.is_finite()
            && (0.0..=1.0).contains(&s.top_p)
            && (0.0..=1.0).contains(&s.min_p)
            && s.repetition_penalty > 0.0
            && s.repetition_penalty.is_finite();
        if !sane {
            return Err(Error::Input(format!(
                "sampling settings out of range: {s:?}; temperature ≥ 0, top-p and min-p in 0..=1, repetition penalty > 0"
            )));
        }
        Ok(())
    }
}
