//! Generation: many sequences at once, with the token loop on the GPU and common prefixes computed once.

mod batch;
mod engine;
mod language;
mod pages;
mod prefill;
mod schedule;
mod sequences;
#[cfg(test)]
mod tests;

pub use crate::kernels::arena::KvType;
pub use crate::kernels::sample::Sampling;
pub use crate::text::Language;
pub use engine::{Engine, GpuEngine, NoEngine};
pub use language::ChatLanguage;

use crate::arch::{Layer, Mixer};
use crate::gpu::{self, Gpu};
use crate::kernels::arena::{Arena, PAGE};
use crate::kernels::delta::Sizes;
use crate::kernels::heads::Heads;
use crate::kernels::{delta_inputs, delta_rule, short_conv};
use crate::model::context::Memory;
use crate::model::{Model, Storage, places};
use crate::settings::{self, Takes, settings};
use crate::source::ModelSource;
use crate::{Error, Observer, Result, Silent};
use sequences::Sequences;

/// Most tokens of an answer of which the pipelines are made before it is asked for.
const REHEARSED: usize = 16;

/// One prompt and the samples wanted of it. The prompt is computed and stored once.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Record id of each sample; with the seed and the position it keys the sample's random numbers.
    pub samples: Vec<u64>,
}

impl Request {
    /// Asks for `n` answers to one prompt; their random numbers are keyed by 0 to n - 1.
    pub fn new(prompt: Vec<u32>, n: usize) -> Self {
        Self { prompt, samples: (0..n as u64).collect() }
    }
}

settings! {
    /// What holds for all requests of one call.
    pub struct Settings {
        /// Most tokens of an answer. The stop token counts.
        max_new_tokens: usize = 256 => "max_new_tokens", "N", Takes::Whole(1);
    }
    parts {
        /// How tokens are drawn.
        sampling: Sampling = Sampling::default(), without [];
    }
    beside {
        /// Token ids that end an answer.
        stop: Vec<u32> = Vec::new();
        /// Seed of the random numbers.
        seed: u64 = 0;
        /// When not empty: answer token i is the likelier of these two (the first on a tie), whatever the sampling
        /// says, and the answer has exactly this many tokens.
        choices: Vec<[u32; 2]> = Vec::new();
    }
}

/// One generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Token ids of the answer; the last one is the stop token when `stopped`.
    pub tokens: Vec<u32>,
    /// Whether a stop token was written (otherwise the answer was cut at `max_new_tokens`).
    pub stopped: bool,
    /// The probability of each first choice against its second; empty without [`Settings::choices`].
    pub choice_p: Vec<f32>,
}

/// Generates answers of one model.
pub struct Generator<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    kv: KvType,
}

/// What may be on the device at once. It depends on the model and the device's limits alone, so that a rerun computes
/// the same bits.
struct Room {
    /// Most sequences that run at once.
    sequences: usize,
    /// Most tokens of prompts that one pass computes.
    tokens: usize,
    /// Pages that the KV arena has.
    pages: usize,
    /// The number format of the arena's keys and values.
    kv: KvType,
}

impl Room {
    fn most(gpu: &Gpu, model: &Model, kv: KvType) -> Room {
        let bytes = |heads: Heads| (kv.bytes() * PAGE * heads.kv_heads * heads.padded()) as u64;
        let pages: Vec<u64> = model.arch.layers.iter().filter_map(|layer| Some(bytes(heads(layer)?))).collect();
        let (all, largest) = (pages.iter().sum::<u64>().max(1), pages.into_iter().max().unwrap_or(1));
        // On a GPU what its memory has room for is counted, and no arena is larger than that.
        let arena = if gpu.info().software { 1 << 30 } else { gpu.planned_bytes() };
        let binding = gpu.max_binding_bytes();
        let states: Vec<u64> = model.arch.layers.iter().map(state_bytes).collect();
        let (every, widest) = (states.iter().sum::<u64>(), states.into_iter().max().unwrap_or(0));
        let fit = (binding / widest.max(1)).min(arena / 2 / every.max(1));
        // Every sequence has a row of logits, and all of them lie in one buffer; so do the states of a block.
        let sequences = (binding / (4 * model.arch.vocab_size.max(1) as u64)).min(fit).clamp(1, 1024);
        // A page has keys and values in each layer.
        let pages = (arena.saturating_sub(sequences * every) / (2 * all)).min(binding / largest);
        Room { sequences: sequences as usize, tokens: model.most_rows(gpu).min(16_384), pages: pages as usize, kv }
    }
}

/// The heads whose keys and values a block keeps in pages, if it has attention.
fn heads(layer: &Layer) -> Option<Heads> {
    layer.mixer.attention().map(places::heads)
}

/// Bytes of the state that a block keeps of each sequence, if it has one.
fn state_bytes(layer: &Layer) -> u64 {
    match &layer.mixer {
        Mixer::DeltaNet(net) => 4 * Sizes::of(net).state() as u64,
        Mixer::Attention(_) | Mixer::ShortConv(_) => 0,
    }
}

/// Room in every block for what it remembers: the keys and values of so many pages, the past of so many sequences.
fn memory(gpu: &Gpu, model: &Model, (pages, sequences): (usize, usize), kv: KvType) -> Result<Vec<Memory>> {
    let one = |layer: &Layer| match &layer.mixer {
        Mixer::Attention(attention) => Arena::room(gpu, pages, places::heads(attention), kv).map(Memory::Pages),
        Mixer::ShortConv(conv) => short_conv::room(gpu, sequences, conv.taps, model.arch.hidden_size).map(Memory::Past),
        Mixer::DeltaNet(net) => {
            let sizes = Sizes::of(net);
            let past = delta_inputs::room(gpu, sequences, &sizes)?;
            Ok(Memory::State { past, state: delta_rule::room(gpu, sequences, &sizes)? })
        }
    };
    model.arch.layers.iter().map(one).collect()
}

/// Loads a model for answers to `requests`, and makes the pipelines that those need while the weights are on their way.
///
/// # Errors
/// As [`Model::load_as`].
pub fn load_for(
    gpu: &Gpu,
    source: &ModelSource,
    storage: Storage,
    (requests, settings, kv): (&[Request], &Settings, KvType),
) -> Result<Model> {
    if cfg!(target_family = "wasm") {
        // A browser has no thread to start for it.
        return Model::load_as(gpu, source, storage);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let counting = gpu.rehearsing();
            // Prompts, a few tokens, and the fewer rows that are left: what is longer needs no other pipelines.
            let settings = settings.clone().max_new_tokens(settings.max_new_tokens.min(REHEARSED));
            let model = Model::load_as(&counting, source, storage)?;
            // Whatever is wrong comes again, and is told, where the work is done.
            Generator::new(&counting, &model).kv(kv).run(requests, &settings)
        });
        Model::load_as(gpu, source, storage)
    })
}

impl<'a> Generator<'a> {
    /// A generator for `model`. Memory is taken while [`Generator::run`] runs.
    pub fn new(gpu: &'a Gpu, model: &'a Model) -> Self {
        Self { gpu, model, kv: KvType::F32 }
    }

    /// Keeps keys and values in the type `kv`; without this call in f32.
    #[must_use]
    pub fn kv(self, kv: KvType) -> Self {
        Self { kv, ..self }
    }

    /// Answers every request; the result is indexed by `[request][sample]`.
    ///
    /// # Errors
    /// An empty prompt, a token or choice outside the vocabulary, a prompt that leaves no room in the context; errors
    /// of the GPU.
    pub fn run(&mut self, requests: &[Request], settings: &Settings) -> Result<Vec<Vec<Output>>> {
        self.run_with(requests, settings, &Silent, &mut |_, _, _| {})
    }

    /// Does what [`Generator::run`] does and tells of it: `on_token(request, sample, token)` is called for each token
    /// as soon as the host sees it, in order within a sample.
    ///
    /// # Errors
    /// As [`Generator::run`]; `Stopped` when the observer asks for it.
    pub fn run_with(
        &mut self,
        requests: &[Request],
        settings: &Settings,
        observer: &dyn Observer,
        on_token: &mut dyn FnMut(usize, usize, u32),
    ) -> Result<Vec<Vec<Output>>> {
        self.check(requests, settings)?;
        let at_once = self.fitting(requests, settings)?;
        let sequences = Sequences::new(self.model, requests, settings)?;
        let room = sequences.room(at_once, &Room::most(self.gpu, self.model, self.kv));
        schedule::run(self.gpu, self.model, sequences, &room, observer, on_token)
    }

    /// How many sequences run at once: as many as the device's limits and its memory cap, if there is one, allow. The
    /// others wait until those are done.
    ///
    /// # Errors
    /// Requests that [`Generator::run`] refuses; one sequence by itself takes more memory than the cap leaves.
    pub fn at_once(&self, requests: &[Request], settings: &Settings) -> Result<usize> {
        self.check(requests, settings)?;
        self.fitting(requests, settings)
    }

    fn fitting(&self, requests: &[Request], settings: &Settings) -> Result<usize> {
        let room = Room::most(self.gpu, self.model, self.kv);
        let all: usize = requests.iter().map(|r| r.samples.len()).sum();
        let most = all.min(room.sequences);
        let (Some(cap), true) = (self.gpu.memory(), most > 0) else { return Ok(most) };
        let needed = |n| self.needed(requests, settings, n, &room);
        match gpu::most(1, most, |n| Ok((needed(n)? <= cap).then_some(())))? {
            Some((n, ())) => Ok(n),
            None => Err(Error::OutOfMemory(format!(
                "an answer of up to {} tokens to a prompt of {} takes {} MiB; the cap is {}. Shorter ones, \
                 weights in fewer bits or --kv f16 take less: `selfreward plan` says what would fit",
                settings.max_new_tokens,
                requests.iter().map(|r| r.prompt.len()).max().unwrap_or(0),
                needed(1)?.div_ceil(1 << 20),
                self.gpu.cap_told(),
            ))),
        }
    }

    /// Most bytes that any `n` of the sequences take when they run at once. A device that only counts goes through the
    /// heaviest of them.
    fn needed(&self, requests: &[Request], settings: &Settings, n: usize, most: &Room) -> Result<u64> {
        let counted = self.gpu.counting(None);
        let model = self.model.like(&counted)?;
        let others = self.gpu.live_bytes().saturating_sub(counted.live_bytes());
        let sequences = Sequences::new(&model, requests, settings)?;
        let room = sequences.room(n, most);
        schedule::run(&counted, &model, sequences.heaviest(n), &room, &Silent, &mut |_, _, _| {})?;
        Ok(gpu::with_margin(counted.peak_bytes()) + others)
    }

    /// Refuses what the kernels rely on not being given.
    fn check(&self, requests: &[Request], settings: &Settings) -> Result<()> {
        settings::check(settings)?;
        let vocabulary = self.model.arch.vocab_size;
        if let Some(id) = settings.choices.iter().flatten().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Input(format!("a choice: token id {id} is outside the vocabulary of {vocabulary}")));
        }
        requests.iter().enumerate().try_for_each(|(i, r)| self.check_prompt(i, r))
    }

    fn check_prompt(&self, number: usize, request: &Request) -> Result<()> {
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
        Ok(())
    }
}
