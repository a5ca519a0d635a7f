//! A profiled device computes the same, and every launch has its time.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::{Gpu, Options};
use selfreward::model::Model;
use selfreward::train::dpo::{self, DpoConfig, Pair};
use selfreward::train::{LearningRate, Optimiser, Trainer};
use selfreward::world::{self, text};

fn model(gpu: &Gpu) -> Model {
    Model::from_tensors(gpu, &world::arch(), world::seed_model().unwrap()).unwrap()
}

fn tokens(gpu: &Gpu) -> Vec<Vec<u32>> {
    let model = model(gpu);
    let request = Request { prompt: text::question("reverse: badge").unwrap(), samples: (0..5).collect() };
    let settings = Settings::default()
        .sampling(Sampling::default().temperature(1.0))
        .max_new_tokens(20)
        .stop(vec![text::EOS])
        .seed(3);
    let answers = Generator::new(gpu, &model).run(&[request], &settings).unwrap();
    answers[0].iter().map(|o| o.tokens.clone()).collect()
}

/// Losses of two steps, and the tokens of one.
fn losses(gpu: &Gpu, share_prompts: bool) -> (Vec<f64>, u64) {
    let pair = |a: u32| Pair::new(vec![1, 70, a], vec![a, 2], vec![a + 1, a + 2, 2]);
    let config = DpoConfig::default().epochs(2).batch(2).lr(LearningRate::constant(1e-3));
    let mut trainer = Trainer::new(gpu, model(gpu), Optimiser::default()).unwrap();
    trainer.set_share_prompts(share_prompts);
    let (mut losses, mut tokens) = (Vec::new(), 0);
    let mut each = |_: &Trainer, done: &dpo::DpoStep| {
        losses.push(done.loss);
        tokens = done.tokens;
        Ok(())
    };
    dpo::Training::new(&[pair(80), pair(90)], &config).on_step(&mut each).run(&mut trainer).unwrap();
    (losses, tokens)
}

#[test]
fn prompts_that_are_not_shared_give_the_same_losses() {
    let gpu = Gpu::with(&Options::default()).unwrap();
    let (shared, apart) = (losses(&gpu, true), losses(&gpu, false));
    assert_eq!(shared.1 + 6, apart.1, "each of two prompts of 3 tokens is computed once, or twice");
    for (a, b) in shared.0.iter().zip(&apart.0) {
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} {b}");
    }
}

#[test]
fn a_profile_changes_no_bit_and_accounts_for_the_time() {
    let plain = Gpu::with(&Options::default()).unwrap();
    let timed = Gpu::with(&Options::default().profile(true)).unwrap();
    assert!(plain.profile().unwrap().is_none());
    assert_eq!(tokens(&timed), tokens(&plain));
    let profile = timed.profile().unwrap().unwrap();
    let launches: u64 = profile.kernels.iter().map(|k| k.launches).sum();
    assert_eq!(launches, profile.spans.len() as u64);
    assert!(profile.spans.iter().all(|s| s.at[0] <= s.at[1]));
    // Every step samples once, however many rows there are; the products are most of the work.
    let sum = |name: &str| profile.kernels.iter().filter(|k| k.name == name).map(|k| k.launches).sum::<u64>();
    assert!(sum("sample") >= 2 && sum("matmul") > sum("sample"), "{:?}", profile.kernels);
    let kernels: f64 = profile.kernels.iter().map(|k| k.seconds).sum();
    assert!(kernels > 0.0 && kernels < profile.seconds, "{kernels} s of {} s", profile.seconds);

    timed.restart_profile().unwrap();
    assert_eq!(losses(&timed, true), losses(&plain, true));
    let profile = timed.profile().unwrap().unwrap();
    assert!(profile.kernels.iter().any(|k| k.name == "adamw" && k.launches > 0));
    assert!(profile.kernels.iter().any(|k| k.name == "attention_backward" && k.entry == "keys" && k.launches > 0));
    let mut trace = Vec::new();
    profile.write_trace("a \"device\"", &mut trace).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len(), 1 + profile.spans.len());
}
