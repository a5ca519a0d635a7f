//! AdamW in fewer bytes: moments in 8 bits.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::gpu::{Gpu, Options};
use selfreward::model::lora::{ALL_LINEAR, Adapter, LayerRules, LoraConfig, Modules};
use selfreward::model::{Model, NamedTensor};
use selfreward::train::{MomentType, Optimiser, Trainer};
use selfreward::world;
use selfreward::world::train::{Batch, Stage};
use std::path::Path;

fn open(block: Option<u64>) -> Gpu {
    Gpu::with(&Options { block, ..Options::default() }).unwrap()
}

fn optimiser(moments: MomentType) -> Optimiser {
    Optimiser { moments, ..Optimiser::default() }
}

fn shipped(gpu: &Gpu) -> Model {
    Model::from_tensors(gpu, &world::arch(), world::model::seed_model().unwrap()).unwrap()
}

/// Small steps from the world's seed model on right answers and the judge, from step `first` on; the losses.
fn train(trainer: &mut Trainer, steps: std::ops::Range<u32>) -> Vec<f64> {
    let stage = Stage { steps: 0, schedule: 0, lr: 0.0, warmup: 0, ift: 12, eft: 8, lists: 0 };
    let step = |step| {
        let batch = Batch::draw(0, "optimiser", step, &stage, true).unwrap();
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

/// Bytes that a trainer of the seed model holds, the losses of its steps, seconds of all but the first.
fn curve(gpu: &Gpu, optimiser: Optimiser, steps: u32) -> (u64, Vec<f64>, f64) {
    let before = gpu.live_bytes();
    let mut trainer = Trainer::new(gpu, shipped(gpu), optimiser).unwrap();
    let held = gpu.live_bytes() - before;
    let first = train(&mut trainer, 0..1);
    let start = std::time::Instant::now();
    let losses = [first, train(&mut trainer, 1..steps)].concat();
    (held, losses, start.elapsed().as_secs_f64())
}

/// The bounds that docs/NUMERICS.md states: the losses of single steps, and the mean of the last ten.
#[test]
fn training_with_8_bit_moments_stays_near_that_with_f32_ones() {
    let gpu = open(None);
    let (wide, want, seconds) = curve(&gpu, optimiser(MomentType::F32), 40);
    let (small, got, seconds8) = curve(&gpu, optimiser(MomentType::Bits8), 40);
    let far = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (end, end_want) = (mean(&got[30..]), mean(&want[30..]));
    println!(
        "bytes {small} of {wide}; loss {:.3} -> {end_want:.4}, 8 bits {end:.4}, a step at most {far:.1e} off; time x {:.2}",
        want[0],
        seconds8 / seconds
    );
    // 16 bytes a parameter become 10.1; the shipped model's vectors are few.
    assert!((small as f64) < 0.67 * wide as f64, "{small} bytes, with f32 moments {wide}");
    assert_eq!(got[0], want[0]);
    assert!(end_want < 0.9 * want[0], "nothing was learned: {want:?}");
    assert!(far > 0.0 && far < 0.05, "a loss is {far} off: {got:?}, {want:?}");
    assert!((end - end_want).abs() < 0.02 * end_want, "the last losses are {end} on the mean, in f32 {end_want}");
}

fn adapter() -> Adapter {
    let targets = Modules::Names(vec![ALL_LINEAR.into()]);
    let config =
        LoraConfig { rank: 3, alpha: 6.0, rslora: false, dropout: 0.0, targets, layers: LayerRules::default() };
    Adapter::fresh(&world::arch(), &config, 5).unwrap()
}

fn weights(trainer: &Trainer, gpu: &Gpu) -> Vec<NamedTensor> {
    match trainer.model.adapter(gpu).unwrap() {
        Some(adapter) => adapter.tensors,
        None => trainer.model.tensors(gpu).unwrap(),
    }
}

#[test]
fn eight_bit_moments_go_on_from_a_state_byte_for_byte() {
    for (block, adapter) in [(None, None), (Some(8192), None), (None, Some(adapter()))] {
        let gpu = open(block);
        let fresh = || {
            let model = shipped(&gpu).with_adapter(&gpu, adapter.as_ref()).unwrap();
            Trainer::new(&gpu, model, optimiser(MomentType::Bits8)).unwrap()
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
        assert!(share < if adapter.is_some() { 0.75 } else { 0.32 }, "{share}");
        // A state of f32 moments is another training's.
        let other =
            Trainer::new(&gpu, shipped(&gpu).with_adapter(&gpu, adapter.as_ref()).unwrap(), Optimiser::default());
        let mut other = other.unwrap();
        assert!(other.load_state(&middle).is_err());
        other.save_state(&again).unwrap();
        let error = second.load_state(&again).unwrap_err().to_string();
        assert!(error.contains("moment1.safetensors") && error.contains("has no tensor"), "{error}");
    }
}
