//! What several tests do with a model.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::Silent;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::model::lora::{ALL_LINEAR, Adapter, LayerRules, LoraConfig, Modules};
use selfreward::weights::ModelSource;

/// An adapter on all linear layers that adds something.
pub(crate) fn lora(source: &ModelSource) -> Adapter {
    let targets = Modules::Names(vec![ALL_LINEAR.into()]);
    let config =
        LoraConfig { rank: 3, alpha: 6.0, rslora: false, dropout: 0.0, targets, layers: LayerRules::default() };
    let mut adapter = Adapter::fresh(&source.arch, &config, 5).unwrap();
    for (k, tensor) in adapter.tensors.iter_mut().enumerate() {
        // B begins at 0, which would hide what goes through it.
        tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x += ((i * 7 + k) % 13) as f32 * 0.004 - 0.024);
    }
    adapter
}

/// The likeliest continuation, six tokens.
pub(crate) fn greedy(gpu: &Gpu, model: &Model, prompt: Vec<u32>) -> Vec<u32> {
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: 6,
        stop: vec![],
        seed: 0,
        choices: vec![],
    };
    let request = Request { prompt, samples: vec![0] };
    let mut written = Generator::new(gpu, model).run(&[request], &settings, &Silent, &mut |_, _, _| {}).unwrap();
    written.remove(0).remove(0).tokens
}
