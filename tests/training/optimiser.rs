//! AdamW in fewer bytes: moments in 8 bits, weights in bf16.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::arch::NamedTensor;
use selfreward::arch::lora::Adapter;
use selfreward::demo::from_scratch::{Lessons, ScratchStage};
use selfreward::gpu::{Gpu, Options};
use selfreward::model::Model;
use selfreward::settings;
use selfreward::train::{LoraSettings, Optimiser, OptimiserKind, TrainSettings, Trainer};
use selfreward::world;
use std::path::Path;

fn open(block: Option<u64>) -> Gpu {
    Gpu::with(&Options::default().block(block)).unwrap()
}

fn optimiser(kind: OptimiserKind) -> Optimiser {
    Optimiser::default().kind(kind)
}

fn shipped(gpu: &Gpu) -> Model {
    Model::from_tensors(gpu, &world::arch(), world::model::seed_model().unwrap()).unwrap()
}

/// Small steps from the world's seed model on right answers and the judge, from step `first` on; the losses.
fn train(trainer: &mut Trainer, steps: std::ops::Range<u32>) -> Vec<f64> {
    let stage = ScratchStage { steps: 0, schedule: 0, lr: 0.0, warmup: 0, ift: 12, eft: 8, lists: 0 };
    let step = |step| {
        let batch = Lessons::draw(0, "optimiser", step, &stage, true).unwrap();
        trainer.sft_step(&[(&batch.ift, 1.0), (&batch.eft, 1.0)], 1e-3).unwrap().loss
    };
    steps.map(step).collect()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap())
        .map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap()))
        .collect();
    all.sort();
    all
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Bytes that a trainer of the model holds, and the losses of its steps.
fn curve(gpu: &Gpu, model: impl Fn() -> Model, optimiser: Optimiser, steps: u32) -> (u64, Vec<f64>) {
    let before = gpu.live_bytes();
    let mut trainer = Trainer::new(gpu, model(), optimiser).unwrap();
    let held = gpu.live_bytes() - before;
    (held, train(&mut trainer, 0..steps))
}

/// The first step of AdamW moves a weight by lr · g / (|g| + eps), as torch computes it: with the `eps` that a
/// configuration or a flag gives.
#[test]
fn eps_reaches_the_weights() {
    let gpu = open(None);
    for (text, eps) in [("", 1e-8), ("eps = 0.01", 0.01)] {
        let given = format!("max_grad_norm = 0.0\n{text}").parse().unwrap();
        let settings = settings::with(&TrainSettings::default(), &given).unwrap();
        let mut trainer = Trainer::new(&gpu, shipped(&gpu), settings.optimiser).unwrap();
        let before = trainer.model().tensors(&gpu).unwrap();
        train(&mut trainer, 0..1);
        let (after, gradients) = (trainer.model().tensors(&gpu).unwrap(), trainer.gradients().unwrap());
        let mut least = f64::INFINITY;
        for ((before, after), gradient) in before.iter().zip(&after).zip(&gradients) {
            assert_eq!(before.name, gradient.name);
            for ((w, moved), g) in before.data.iter().zip(&after.data).zip(&gradient.data) {
                let (w, moved, g) = (f64::from(*w), f64::from(*moved), f64::from(*g));
                let want = 1e-3 * g / (g.abs() + eps);
                assert!((w - moved - want).abs() < 1e-6, "{}: {w} became {moved}, a step of {want}", before.name);
                least = if g == 0.0 { least } else { least.min(want.abs()) };
            }
        }
        // With a large eps a small gradient moves a weight less than lr.
        assert!(eps < 0.01 || least < 1e-4, "the smallest step is {least}");
    }
}

/// The bounds that docs/NUMERICS.md states: the losses of single steps, and the mean of the last ten.
#[test]
fn training_with_8_bit_moments_stays_near_that_with_f32_ones() {
    let gpu = open(None);
    let (wide, want) = curve(&gpu, || shipped(&gpu), optimiser(OptimiserKind::AdamW), 40);
    let (small, got) = curve(&gpu, || shipped(&gpu), optimiser(OptimiserKind::AdamW8bit), 40);
    let far = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (end, end_want) = (mean(&got[30..]), mean(&want[30..]));
    // 16 bytes a parameter become 10.1; the shipped model's vectors are few.
    assert!((small as f64) < 0.67 * wide as f64, "{small} bytes, with f32 moments {wide}");
    assert_eq!(got[0], want[0]);
    assert!(end_want < 0.9 * want[0], "nothing was learned: {want:?}");
    assert!(far > 0.0 && far < 0.05, "a loss is {far} off: {got:?}, {want:?}");
    assert!((end - end_want).abs() < 0.02 * end_want, "the last losses are {end} on the mean, in f32 {end_want}");
}

/// The bounds that docs/NUMERICS.md states.
#[test]
fn training_of_bf16_weights_stays_near_that_of_f32_ones() {
    let gpu = open(None);
    let narrow = || shipped(&gpu).rounded(&gpu).unwrap();
    let (wide, want) = curve(&gpu, || shipped(&gpu), optimiser(OptimiserKind::AdamW), 40);
    for (kind, most) in [(OptimiserKind::AdamW, 0.89), (OptimiserKind::AdamW8bit, 0.54)] {
        let (small, got) = curve(&gpu, narrow, optimiser(kind), 40);
        let far = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let (end, end_want) = (mean(&got[30..]), mean(&want[30..]));
        assert!((small as f64) < most * wide as f64, "{small} bytes, in f32 {wide}");
        assert!(far > 0.0 && far < 0.1, "a loss is {far} off: {got:?}, {want:?}");
        assert!((end - end_want).abs() < 0.05 * end_want, "the last losses are {end} on the mean, in f32 {end_want}");
    }
}

fn adapter() -> Adapter {
    Adapter::fresh(&world::arch(), &LoraSettings::default().rank(3).config(), 5).unwrap()
}

fn weights(trainer: &Trainer, gpu: &Gpu) -> Vec<NamedTensor> {
    match trainer.model().adapter(gpu).unwrap() {
        Some(adapter) => adapter.tensors,
        None => trainer.model().tensors(gpu).unwrap(),
    }
}

#[test]
fn states_in_fewer_bits_go_on_byte_for_byte() {
    for (block, adapter, bf16) in
        [(None, None, false), (Some(8192), None, true), (None, Some(adapter()), false), (None, None, true)]
    {
        let gpu = open(block);
        let load = || if bf16 { shipped(&gpu).rounded(&gpu).unwrap() } else { shipped(&gpu) };
        let fresh = || {
            let model = load().with_adapter(&gpu, adapter.as_ref()).unwrap();
            Trainer::new(&gpu, model, optimiser(OptimiserKind::AdamW8bit)).unwrap()
        };
        let (mut whole, mut first, mut second) = (fresh(), fresh(), fresh());
        let losses = train(&mut whole, 0..6);
        train(&mut first, 0..3);
        let dir = tempfile::tempdir().unwrap();
        let [middle, again, end, want] = ["middle", "again", "end", "want"].map(|name| dir.path().join(name));
        first.save_state(&middle).unwrap();
        second.load_state(&middle).unwrap();
        second.save_state(&again).unwrap();
        assert_eq!(files(&again), files(&middle));
        assert_eq!(train(&mut second, 3..6), losses[3..]);
        assert_eq!(weights(&second, &gpu), weights(&whole, &gpu));
        second.save_state(&end).unwrap();
        whole.save_state(&want).unwrap();
        assert_eq!(files(&end), files(&want));
        // A quarter of what f32 takes; small matrices lose some of it to their scales.
        let size = |name| std::fs::metadata(want.join(name)).unwrap().len();
        let share = size("moment1.safetensors") as f64 / size("weights.safetensors") as f64;
        let most = if adapter.is_some() { 0.75 } else { 0.32 };
        assert!(share < if bf16 { 2.0 * most } else { most }, "{share}");
        // A state of f32 moments is another training's.
        let other = || {
            let model = shipped(&gpu).with_adapter(&gpu, adapter.as_ref()).unwrap();
            Trainer::new(&gpu, model, Optimiser::default()).unwrap()
        };
        let mut emptied = other();
        assert!(emptied.load_state(&middle).is_err());
        assert!(emptied.save_state(&again).is_err());
        other().save_state(&again).unwrap();
        let error = second.load_state(&again).unwrap_err().to_string();
        assert!(error.contains("moment1.safetensors") && error.contains("has no tensor"), "{error}");
    }
}
