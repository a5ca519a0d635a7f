//! Tiny models against PyTorch: log-probs, greedy continuations, every DPO loss, an AdamW trajectory, the SFT loss.
//!
//! The expected values, their origin and the script that made them stand in `tests/golden`. Gradients by name and
//! logits are compared through the binary (`driver/tests/commands/dump.rs`), which is the one that writes them out.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::Silent;
use selfreward::arch::family::FAMILIES;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::sft::{Example, SftConfig};
use selfreward::train::{LearningRate, Optimiser, Trainer, sft};
use selfreward_testing::golden::having;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the folder of a tiny model holds, and what those hold that are trained for longer too.
const MODELS: &str = "grads.sigmoid.safetensors";
const TRAINED: &str = "sft.jsonl";
/// Where the two best logits lie closer than this, either token is right, and what follows is not compared.
const CLOSE: f64 = 1e-3;

#[derive(Deserialize)]
struct Expected {
    logps: Vec<Vec<f64>>,
    greedy: Vec<Vec<u32>>,
    greedy_gaps: Vec<Vec<f64>>,
    max_new_tokens: usize,
    dpo: ExpectedDpo,
    adamw: Option<ExpectedAdamw>,
    sft: Option<ExpectedSft>,
}

#[derive(Deserialize)]
struct ExpectedDpo {
    beta: f32,
    label_smoothing: BTreeMap<String, f32>,
    ref_logps_chosen: Vec<f32>,
    ref_logps_rejected: Vec<f32>,
    logps_chosen: Vec<f64>,
    logps_rejected: Vec<f64>,
    loss: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct ExpectedAdamw {
    lr: f32,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
    max_grad_norm: f32,
    /// `[loss, gradient norm before clipping]` of each step.
    trajectory: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct ExpectedSft {
    loss: f64,
}

#[derive(Deserialize)]
struct PairRecord {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct SftRecord {
    prompt_ids: Vec<u32>,
    completion_ids: Vec<u32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json<T: DeserializeOwned>(name: &str, file: &str) -> T {
    serde_json::from_str(&fs::read_to_string(folder(name).join(file)).unwrap()).unwrap()
}

fn jsonl<T: DeserializeOwned>(name: &str, file: &str) -> Vec<T> {
    fs::read_to_string(folder(name).join(file)).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn load(gpu: &Gpu, dir: &Path) -> Model {
    let source = ModelSource::open(dir).unwrap();
    Model::from_tensors(gpu, &source.arch, source.tensors_f32().unwrap()).unwrap()
}

/// |got − want| in the Euclidean norm, relative to |want|.
fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-30)
}

fn constant(peak: f32) -> LearningRate {
    LearningRate::constant(peak)
}

fn pairs(name: &str) -> Vec<Pair> {
    let records = jsonl::<PairRecord>(name, "pairs.jsonl").into_iter();
    records.map(|r| Pair::new(r.prompt_ids, r.chosen_ids, r.rejected_ids)).collect()
}

#[test]
fn every_family_has_a_golden_model() {
    let types: Vec<String> = having(MODELS)
        .iter()
        .map(|name| json::<serde_json::Value>(name, "config.json")["model_type"].as_str().unwrap().to_owned())
        .collect();
    for family in FAMILIES {
        assert!(types.iter().any(|t| t == family.model_type), "{} is in none of {types:?}", family.model_type);
    }
}

#[test]
fn logps_are_those_of_pytorch() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        let (expected, tokens): (Expected, Vec<Vec<u32>>) = (json(name, "expected.json"), json(name, "tokens.json"));
        let model = load(&gpu, &folder(name));
        // The first token is the prompt, the rest its completion; one token alone has nothing to score.
        let scored: Vec<usize> = (0..tokens.len()).filter(|i| tokens[*i].len() > 1).collect();
        let branches: Vec<score::Branch> = scored
            .iter()
            .map(|i| score::Branch { prompt: tokens[*i][..1].to_vec(), completions: vec![tokens[*i][1..].to_vec()] })
            .collect();
        let got = score::logps(&gpu, &model, &branches, &Silent).unwrap();
        for (got, i) in got.iter().zip(scored) {
            let got: Vec<f64> = got[0].iter().map(|x| f64::from(*x)).collect();
            let error = relative(&got, &expected.logps[i]);
            assert!(error <= 1e-5, "{name}: log-probs of sequence {i} differ by {error:e}");
        }
    }
}

#[test]
fn a_shared_prompt_gives_the_log_probs_of_separate_ones() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        let expected: Expected = json(name, "expected.json");
        let model = load(&gpu, &folder(name));
        let branches: Vec<score::Branch> = pairs(name)
            .into_iter()
            .map(|p| score::Branch { prompt: p.prompt, completions: vec![p.chosen, p.rejected] })
            .collect();
        let got = score::logps(&gpu, &model, &branches, &Silent).unwrap();
        for (side, want) in [&expected.dpo.logps_chosen, &expected.dpo.logps_rejected].into_iter().enumerate() {
            let got: Vec<f64> = got.iter().map(|b| b[side].iter().map(|x| f64::from(*x)).sum()).collect();
            let error = relative(&got, want);
            assert!(error <= 1e-5, "{name}: summed log-probs of side {side} differ by {error:e}");
        }
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        let (expected, tokens): (Expected, Vec<Vec<u32>>) = (json(name, "expected.json"), json(name, "tokens.json"));
        let model = load(&gpu, &folder(name));
        let config: serde_json::Value = json(name, "config.json");
        let settings = Settings::default()
            .sampling(Sampling::default().temperature(0.0))
            .max_new_tokens(expected.max_new_tokens)
            .stop(config["eos_token_id"].as_u64().map(|id| id as u32).into_iter().collect());
        let requests: Vec<Request> = tokens.iter().map(|t| Request { prompt: t.clone(), samples: vec![0] }).collect();
        let got = Generator::new(&gpu, &model).run(&requests, &settings).unwrap();
        let mut ended_early = 0;
        for (i, got) in got.iter().enumerate() {
            let (got, want) = (&got[0], &expected.greedy[i]);
            match got.tokens.iter().zip(want).position(|(a, b)| a != b) {
                Some(at) => {
                    let gap = expected.greedy_gaps[i][at];
                    assert!(
                        gap <= CLOSE,
                        "{name}: continuation {i} differs at token {at} (gap {gap}): {:?} {want:?}",
                        got.tokens
                    );
                }
                None => {
                    assert_eq!(&got.tokens, want, "{name}: continuation {i}");
                    assert_eq!(
                        got.stopped,
                        want.last().is_some_and(|t| settings.stop.contains(t)),
                        "{name}: continuation {i}"
                    );
                    ended_early += usize::from(got.stopped);
                }
            }
        }
        assert!(ended_early > 0 || settings.stop.is_empty(), "{name}: no continuation reached the stop token");
    }
}

/// One full-batch step at rate 0 gives the loss of each name.
#[test]
fn every_dpo_loss_is_the_one_of_pytorch() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        let expected: Expected = json(name, "expected.json");
        for (loss, want) in &expected.dpo.loss {
            let steps = train_dpo(&gpu, name, &expected, loss, constant(0.0), Optimiser::default(), 1);
            let got = steps[0][0];
            assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{name}: {loss} is {got}, expected {want}");
        }
    }
}

#[test]
fn dpo_with_adamw_follows_the_trajectory_of_pytorch() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(TRAINED) {
        let expected: Expected = json(name, "expected.json");
        let a = expected.adamw.as_ref().unwrap();
        let optimiser = Optimiser::default()
            .betas(a.betas)
            .eps(a.eps)
            .weight_decay(a.weight_decay)
            .decay_vectors(true)
            .max_grad_norm(a.max_grad_norm);
        let got = train_dpo(&gpu, name, &expected, "sigmoid", constant(a.lr), optimiser, a.trajectory.len());
        for column in 0..2 {
            let scale = a.trajectory.iter().map(|t| t[column].abs()).fold(0.0, f64::max);
            for (step, (got, want)) in got.iter().zip(&a.trajectory).enumerate() {
                let error = (got[column] - want[column]).abs() / scale;
                assert!(error <= 1e-3, "{name}: step {step}: {got:?}, expected {want:?}");
            }
        }
    }
}

/// `[loss, gradient norm, chosen reward, rejected reward]` of each step of
/// one epoch, the model being its own reference.
fn own_reference(gpu: &Gpu, name: &str, batch: usize, lr: f32) -> Vec<[f64; 4]> {
    let data = pairs(name);
    let config = DpoConfig::default().batch(batch).lr(constant(lr)).seed(3);
    let mut trainer = Trainer::new(gpu, load(gpu, &folder(name)), Optimiser::default()).unwrap();
    let mut taken = Vec::new();
    dpo::Training::new(&data, &config)
        .on_step(&mut |_, step| {
            taken.push([step.loss, step.grad_norm, step.rewards_chosen, step.rewards_rejected]);
            Ok(())
        })
        .run(&mut trainer)
        .unwrap();
    assert_eq!(taken.len(), data.len().div_ceil(batch));
    taken
}

#[test]
fn rewards_are_exactly_zero_in_every_batch_while_no_weight_moves() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        for batch in [1, 3] {
            for (at, step) in own_reference(&gpu, name, batch, 0.0).iter().enumerate() {
                assert_eq!(step[2..], [0.0, 0.0], "{name}: step {at} of batch {batch}");
            }
        }
    }
}

#[test]
fn a_rerun_of_dpo_gives_the_same_bits() {
    let gpu = Gpu::open(None, None).unwrap();
    let run = || own_reference(&gpu, "llama", 1, 1e-3).concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(run(), run());
}

/// `[loss, gradient norm]` of `steps` full-batch steps.
fn train_dpo(
    gpu: &Gpu,
    name: &str,
    expected: &Expected,
    loss: &str,
    lr: LearningRate,
    optimiser: Optimiser,
    steps: usize,
) -> Vec<[f64; 2]> {
    let (data, d) = (pairs(name), &expected.dpo);
    let config = DpoConfig::default()
        .objective(
            Objective::default()
                .losses(vec![(loss.to_owned(), 1.0)])
                .beta(d.beta)
                .label_smoothing(d.label_smoothing[loss]),
        )
        .epochs(steps)
        .batch(data.len())
        .lr(lr);
    let reference: Vec<PairLogps> = d
        .ref_logps_chosen
        .iter()
        .zip(&d.ref_logps_rejected)
        .map(|(chosen, rejected)| PairLogps { chosen: *chosen, rejected: *rejected, ..PairLogps::default() })
        .collect();
    let mut trainer = Trainer::new(gpu, load(gpu, &folder(name)), optimiser).unwrap();
    let mut taken = Vec::new();
    dpo::Training::new(&data, &config)
        .reference(Some(&reference))
        .on_step(&mut |_, step| {
            taken.push([step.loss, step.grad_norm]);
            Ok(())
        })
        .run(&mut trainer)
        .unwrap();
    assert_eq!(taken.len(), steps);
    taken
}

#[test]
fn the_sft_loss_is_the_one_of_pytorch() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(TRAINED) {
        let expected: Expected = json(name, "expected.json");
        let data: Vec<Example> = jsonl::<SftRecord>(name, "sft.jsonl")
            .into_iter()
            .map(|r| Example::new(r.prompt_ids, r.completion_ids))
            .collect();
        let config = SftConfig::default().batch(data.len()).lr(constant(0.0));
        let mut trainer = Trainer::new(&gpu, load(&gpu, &folder(name)), Optimiser::default()).unwrap();
        let mut losses = Vec::new();
        sft::run(&mut trainer, &data, &config, &Silent, &mut |_, step| {
            losses.push(step.loss);
            Ok(())
        })
        .unwrap();
        let want = expected.sft.unwrap().loss;
        assert_eq!(losses.len(), 1);
        assert!((losses[0] - want).abs() <= 1e-4 * want.abs().max(1.0), "{name}: {} instead of {want}", losses[0]);
    }
}

/// The reference model is the same model slightly moved, stored in f16.
#[test]
fn f16_weights_give_the_reference_log_probs() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in &having(MODELS) {
        let expected: Expected = json(name, "expected.json");
        let model = load(&gpu, &folder(name).join("ref"));
        let branches: Vec<score::Branch> =
            pairs(name).into_iter().map(|p| score::Branch { prompt: p.prompt, completions: vec![p.chosen] }).collect();
        let got = score::logps(&gpu, &model, &branches, &Silent).unwrap();
        let got: Vec<f64> = got.iter().map(|b| b[0].iter().map(|x| f64::from(*x)).sum()).collect();
        let want: Vec<f64> = expected.dpo.ref_logps_chosen.iter().map(|x| f64::from(*x)).collect();
        let error = relative(&got, &want);
        assert!(error <= 1e-5, "{name}: {error:e}");
    }
}
