//! What several tests do with a model.

use selfreward::arch::NamedTensor;
use selfreward::arch::lora::Adapter;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, Storage};
use selfreward::source::ModelSource;
use selfreward::train::LoraSettings;

/// An adapter on all linear layers that adds something.
pub fn lora(source: &ModelSource) -> Adapter {
    let mut adapter = Adapter::fresh(&source.arch, &LoraSettings::default().rank(3).config(), 5).unwrap();
    for (k, tensor) in adapter.tensors.iter_mut().enumerate() {
        // B begins at 0, which would hide what goes through it.
        tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x += ((i * 7 + k) % 13) as f32 * 0.004 - 0.024);
    }
    adapter
}

/// The likeliest continuation, twelve tokens.
pub fn greedy(gpu: &Gpu, model: &Model, prompt: Vec<u32>) -> Vec<u32> {
    let settings = Settings::default().sampling(Sampling::default().temperature(0.0)).max_new_tokens(12);
    let request = Request { prompt, samples: vec![0] };
    let mut written = Generator::new(gpu, model).run(&[request], &settings).unwrap();
    written.remove(0).remove(0).tokens
}

/// The model as its file has it and in f32, which hold the same values; the first
/// takes at most this share of the second's memory.
pub fn own_and_wide(gpu: &Gpu, source: &ModelSource, share: f64) -> (Model, Model) {
    let before = gpu.live_bytes();
    let own = Model::load(gpu, source).unwrap();
    let small = gpu.live_bytes() - before;
    let wide = Model::load_as(gpu, source, Storage::F32).unwrap();
    let large = gpu.live_bytes() - before - small;
    let path = source.path.display();
    assert!(small as f64 <= share * large as f64, "{path}: {small} bytes, in f32 {large}");
    assert_eq!(own.tensors(gpu).unwrap(), wide.tensors(gpu).unwrap(), "{path}: read back");
    (own, wide)
}

/// |a − b| / |b| over all tensors that hold something.
pub fn distance<'a>(pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (a, b) in pairs {
        assert_eq!(a.len(), b.len());
        off += a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>();
        all += b.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>();
    }
    (off / all).sqrt()
}

/// [`distance`] over tensors of the same names, which it compares.
pub fn named_distance(a: &[NamedTensor], b: &[NamedTensor]) -> f64 {
    assert_eq!(a.iter().map(|t| &t.name).collect::<Vec<_>>(), b.iter().map(|t| &t.name).collect::<Vec<_>>());
    distance(a.iter().zip(b).map(|(a, b)| (&a.data[..], &b.data[..])))
}
