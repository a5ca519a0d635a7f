//! Dropout against torch and PEFT with the same masks, made in numpy (`tests/golden/make/dropout.py`); and what the
//! masks must not depend on: micro-batches, a stop in between.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use crate::gradients::{apart, gradients, norm};
use selfreward::arch::NamedTensor;
use selfreward::arch::lora::{Adapter, LayerRules, LoraConfig, Modules};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, Storage, score};
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, DpoStep, Pair, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::sft::Example;
use selfreward::train::{Dropout, LearningRate, Optimiser, Trainer};
use selfreward::weights::Weights;
use selfreward::{Error, Observer, Silent};
use serde::Deserialize;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Expected {
    seed: u64,
    step: u64,
    dropout: f32,
    lora_dropout: f32,
    beta: f32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    base: String,
    model: String,
    kind: String,
    loss: f64,
    #[serde(deserialize_with = "in_order")]
    parameters: Vec<(String, usize)>,
}

fn in_order<'d, D: serde::Deserializer<'d>>(from: D) -> Result<Vec<(String, usize)>, D::Error> {
    let map = serde_json::Map::deserialize(from)?;
    Ok(map.into_iter().map(|(name, n)| (name, n.as_u64().unwrap() as usize)).collect())
}

#[derive(Deserialize)]
struct PairRecord {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn pairs(base: &str) -> Vec<Pair> {
    let text = std::fs::read_to_string(golden(base).join("pairs.jsonl")).unwrap();
    let of = |r: PairRecord| Pair::new(r.prompt_ids, r.chosen_ids, r.rejected_ids);
    text.lines().map(|l| of(serde_json::from_str(l).unwrap())).collect()
}

fn examples(pairs: &[Pair]) -> Vec<Example> {
    pairs.iter().map(|p| Example::new(p.prompt.clone(), p.chosen.clone())).collect()
}

/// A model whose adapter, if it has one, has this rate.
fn load(gpu: &Gpu, name: &str, lora_dropout: f32) -> Model {
    let mut source = ModelSource::open(&golden(name)).unwrap();
    if let Some(adapter) = &mut source.adapter {
        adapter.config.dropout = lora_dropout;
    }
    Model::load_as(gpu, &source, Storage::F32).unwrap()
}

fn trainer<'g>(gpu: &'g Gpu, name: &str, rates: [f32; 2], seed: u64) -> Trainer<'g> {
    let mut trainer = Trainer::new(gpu, load(gpu, name, rates[1]), Optimiser::default()).unwrap();
    trainer.set_dropout(Dropout { rate: rates[0], seed });
    trainer
}

fn config(pairs: &[Pair], beta: f32, steps: usize, lr: f32) -> DpoConfig {
    DpoConfig::default()
        .objective(Objective::default().beta(beta))
        .epochs(steps)
        .batch(pairs.len())
        .lr(LearningRate::constant(lr))
}

/// The loss of step `at` of either kind, which moves nothing; its gradients stay in the trainer.
fn step(trainer: &mut Trainer, kind: &str, at: u64, pairs: &[Pair], beta: f32, reference: &[PairLogps]) -> f64 {
    trainer.set_step(at);
    if kind == "sft" {
        return trainer.sft_step(&[(&examples(pairs), 1.0)], 0.0).unwrap().loss;
    }
    let (mut loss, config) = (None, config(pairs, beta, at as usize + 1, 0.0));
    dpo::Training::new(pairs, &config)
        .reference(Some(reference))
        .on_step(&mut |_, step| {
            loss = Some(step.loss);
            Ok(())
        })
        .run(trainer)
        .unwrap();
    loss.unwrap()
}

/// Summed log-probs under a model, without dropout.
fn reference(gpu: &Gpu, model: &Model, pairs: &[Pair]) -> Vec<PairLogps> {
    let of =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(of).collect();
    score::logps(gpu, model, &branches, &Silent).unwrap().iter().map(|b| PairLogps::new(&b[0], &b[1])).collect()
}

/// In one micro-batch, where prompts are shared, and in one for each record, where they are not: PyTorch, which shares
/// nothing, has the same masks.
#[test]
fn losses_and_gradients_are_those_of_pytorch_with_the_same_masks() {
    let gpu = Gpu::open(None, None).unwrap();
    let expected: Expected =
        serde_json::from_str(&std::fs::read_to_string(golden("dropout/expected.json")).unwrap()).unwrap();
    let stored = Weights::open_safetensors(&golden("dropout/grads.safetensors")).unwrap();
    for (i, case) in expected.cases.iter().enumerate() {
        let pairs = pairs(&case.base);
        let logps = reference(&gpu, &load(&gpu, &case.base, 0.0), &pairs);
        let mut trainer = trainer(&gpu, &case.model, [expected.dropout, expected.lora_dropout], expected.seed);
        let flat = stored.get(&i.to_string()).unwrap().to_f32();
        for rows in [None, Some(1)] {
            let what = format!("{} {} {rows:?}", case.model, case.kind);
            trainer.set_micro_rows(rows);
            let loss = step(&mut trainer, &case.kind, expected.step, &pairs, expected.beta, &logps);
            assert!((loss - case.loss).abs() <= 1e-5 * case.loss, "{what}: {loss} instead of {}", case.loss);
            let (got, mut at) = (gradients(&trainer), 0);
            assert_eq!(got.len(), case.parameters.len());
            for (name, n) in &case.parameters {
                let want: Vec<f64> = flat[at..at + n].iter().map(|x| f64::from(*x)).collect();
                at += n;
                let error = norm(got[name].iter().zip(&want).map(|(a, b)| a - b)) / norm(want.iter().copied());
                assert!(error <= 1e-5, "{what}: the gradient of {name} differs by {error:e}");
            }
            assert_eq!(at, flat.len());
        }
    }
}

#[test]
fn no_mask_depends_on_the_micro_batch() {
    let gpu = Gpu::open(None, None).unwrap();
    for (base, model) in [("losses", "losses"), ("gemma3", "lora/post_norms")] {
        let pairs = pairs(base);
        let logps = reference(&gpu, &load(&gpu, base, 0.0), &pairs);
        let mut trainer = trainer(&gpu, model, [0.3, 0.5], 9);
        for kind in ["sft", "dpo"] {
            let mut cut = |rows| {
                trainer.set_micro_rows(rows);
                let loss = step(&mut trainer, kind, 2, &pairs, 0.1, &logps);
                (loss, gradients(&trainer))
            };
            let whole = cut(None);
            for rows in [1, 20, 30] {
                let part = cut(Some(rows));
                let error = apart(&part.1, &whole.1);
                assert!(error <= 1e-6, "{model} {kind}: in micro-batches of {rows} rows {error:e}");
                assert!((part.0 - whole.0).abs() <= 1e-6 * whole.0, "{model} {kind} {rows}: {} {}", part.0, whole.0);
            }
        }
    }
}

#[test]
fn seed_step_and_each_rate_change_the_gradient_and_a_repetition_does_not() {
    let gpu = Gpu::open(None, None).unwrap();
    let pairs = pairs("gemma3");
    let of = |rates, seed, at| {
        let mut trainer = trainer(&gpu, "lora/post_norms", rates, seed);
        step(&mut trainer, "sft", at, &pairs, 0.1, &[]);
        gradients(&trainer)
    };
    let first = of([0.1, 0.1], 1, 0);
    assert_eq!(first, of([0.1, 0.1], 1, 0));
    let others =
        [of([0.1, 0.1], 2, 0), of([0.1, 0.1], 1, 1), of([0.0, 0.1], 1, 0), of([0.1, 0.0], 1, 0), of([0.0, 0.0], 1, 0)];
    for (i, other) in others.iter().enumerate() {
        assert!(apart(other, &first) > 1e-2, "{i}: {:e}", apart(other, &first));
    }
}

/// Records of one prompt and answer in a step of SFT draw masks of their own.
#[test]
fn equal_records_draw_their_own_masks() {
    let gpu = Gpu::open(None, None).unwrap();
    let record = examples(&pairs("losses"))[0].clone();
    let of = |copies: usize| {
        let mut trainer = trainer(&gpu, "losses", [0.3, 0.0], 4);
        trainer.sft_step(&[(&vec![record.clone(); copies], 1.0)], 0.0).unwrap();
        gradients(&trainer)
    };
    assert!(apart(&of(2), &of(1)) > 1e-2);
}

#[derive(Default)]
struct Notes(RefCell<Vec<String>>);

impl Observer for Notes {
    fn note(&self, sentence: &str) {
        self.0.borrow_mut().push(sentence.to_owned());
    }
}

/// The same bits in one go and through a saved state. The reference is taken without dropout, and the run says so.
#[test]
fn a_resumed_training_ends_with_the_same_bits() {
    let gpu = Gpu::open(None, None).unwrap();
    let source = ModelSource::open(&golden("qwen3")).unwrap();
    let data = pairs("qwen3");
    let lora = LoraConfig {
        rank: 3,
        alpha: 6.0,
        rslora: false,
        dora: false,
        dropout: 0.2,
        targets: Modules::Names(vec!["q_proj".into(), "o_proj".into()]),
        layers: LayerRules::default(),
    };
    let fresh = Adapter::fresh(&source.arch, &lora, 7).unwrap();
    for adapter in [None, Some(&fresh)] {
        let trainer = || {
            let model = Model::load_as(&gpu, &source, Storage::F32).unwrap().with_adapter(&gpu, adapter).unwrap();
            let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
            trainer.set_dropout(Dropout { rate: 0.1, seed: 3 });
            trainer
        };
        let config = config(&data, 0.1, 2, 1e-2).batch(2);
        let (mut whole, mut steps, mut used, notes) = (trainer(), Vec::<DpoStep>::new(), Vec::new(), Notes::default());
        let keep = &mut |logps: &[PairLogps]| {
            used = logps.to_vec();
            Ok(())
        };
        dpo::Training::new(&data, &config)
            .observer(&notes)
            .on_reference(keep)
            .on_step(&mut |_, step| {
                steps.push(step.clone());
                Ok(())
            })
            .run(&mut whole)
            .unwrap();
        assert!(steps[0].rewards_chosen != 0.0 && steps.len() == 4, "{steps:?}");
        assert!(notes.0.borrow().concat().contains("bit for bit"), "{:?}", notes.0);
        let undropped = reference(&gpu, trainer().model(), &data);
        for (a, b) in used.iter().zip(&undropped) {
            assert!((a.chosen - b.chosen).abs() <= 1e-4 * b.chosen.abs(), "{a:?} {b:?}");
        }

        let (dir, mut first) = (tempfile::tempdir().unwrap(), trainer());
        let stopped = dpo::Training::new(&data, &config)
            .on_step(&mut |trainer, step| match step.step {
                3 => trainer.save_state(dir.path()).and(Err(Error::Stopped)),
                _ => Ok(()),
            })
            .run(&mut first);
        assert!(matches!(stopped, Err(Error::Stopped)));
        let mut second = trainer();
        second.load_state(dir.path()).unwrap();
        dpo::Training::new(&data, &config).reference(Some(&used)).run(&mut second).unwrap();
        let bits = |t: &Trainer| -> Vec<u32> {
            let tensors: Vec<NamedTensor> = t.model().tensors(&gpu).unwrap();
            tensors.iter().flat_map(|t| t.data.iter().map(|x| x.to_bits())).collect()
        };
        assert_eq!(bits(&whole), bits(&second));
    }
}

#[test]
fn rates_that_leave_nothing_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let data = examples(&pairs("losses"));
    for (model, rates) in [("losses", [1.0, 0.0]), ("losses", [-0.1, 0.0]), ("lora/post_norms", [0.0, 1.0])] {
        let message = trainer(&gpu, model, rates, 0).sft_step(&[(&data, 1.0)], 0.0).unwrap_err().to_string();
        assert!(message.contains("below 1"), "{message}");
    }
}
