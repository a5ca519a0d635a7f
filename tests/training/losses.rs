//! Every preference loss and option against TRL (`tests/golden/make/losses.py`): value, derivatives by the log-probs,
//! and the gradient of every parameter, in one micro-batch and in many.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use crate::gradients::{apart, gradients, norm};
use selfreward::Silent;
use selfreward::gpu::Gpu;
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, DpoStep, Labelled, Pair, PairLogps};
use selfreward::train::losses::{Family, LOSSES};
use selfreward::train::objective::{Divergence, Objective, Seen};
use selfreward::train::sft::Example;
use selfreward::train::{LearningRate, Optimiser, Trainer};
use selfreward::weights::Weights;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Expected {
    beta: f32,
    parameters: Vec<(String, Vec<usize>)>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    objective: Options,
    loss: f64,
    dlogps: Vec<[f64; 2]>,
    seen: Vec<SeenRecord>,
}

#[derive(Debug, Deserialize)]
struct Options {
    losses: BTreeMap<String, f32>,
    label_smoothing: Option<f32>,
    nll: Option<f32>,
    f_divergence: Option<Divergence>,
    f_alpha: Option<f32>,
    wpo: Option<bool>,
    ld_alpha: Option<f32>,
    simpo_gamma: Option<f32>,
    desirable_weight: Option<f32>,
    undesirable_weight: Option<f32>,
}

impl Options {
    fn objective(&self, beta: f32) -> Objective {
        let d = Objective::default();
        Objective::default()
            .losses(self.losses.clone().into_iter().collect())
            .beta(beta)
            .label_smoothing(self.label_smoothing.unwrap_or(d.label_smoothing))
            .nll(self.nll.unwrap_or(d.nll))
            .f_divergence(self.f_divergence.unwrap_or(d.f_divergence))
            .f_alpha(self.f_alpha.unwrap_or(d.f_alpha))
            .wpo(self.wpo.unwrap_or(d.wpo))
            .ld_alpha(self.ld_alpha.unwrap_or(d.ld_alpha))
            .simpo_gamma(self.simpo_gamma.unwrap_or(d.simpo_gamma))
            .desirable_weight(self.desirable_weight.unwrap_or(d.desirable_weight))
            .undesirable_weight(self.undesirable_weight.unwrap_or(d.undesirable_weight))
    }
}

#[derive(Deserialize)]
struct SeenRecord {
    policy: [f64; 2],
    reference: [f64; 2],
    chosen_sum: f64,
    prompt_sum: f64,
    weight: f64,
}

#[derive(Deserialize)]
struct PairRecord {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct LabelRecord {
    prompt_ids: Vec<u32>,
    completion_ids: Vec<u32>,
    label: bool,
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/losses").join(name)
}

fn lines<T: DeserializeOwned>(name: &str) -> Vec<T> {
    fs::read_to_string(file(name)).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn expected() -> Expected {
    serde_json::from_str(&fs::read_to_string(file("expected.json")).unwrap()).unwrap()
}

fn load(gpu: &Gpu, name: &str) -> Model {
    let source = ModelSource::open(&file(name)).unwrap();
    Model::from_tensors(gpu, &source.arch, source.tensors_f32().unwrap()).unwrap()
}

fn data(o: &Objective) -> Vec<Pair> {
    if o.unpaired().unwrap() {
        let of = |r: LabelRecord| Labelled { prompt: r.prompt_ids, completion: r.completion_ids, desirable: r.label };
        let records: Vec<Labelled> = lines::<LabelRecord>("labelled.jsonl").into_iter().map(of).collect();
        return dpo::unpaired(&records, records.len());
    }
    let of = |r: PairRecord| Pair::new(r.prompt_ids, r.chosen_ids, r.rejected_ids);
    lines::<PairRecord>("pairs.jsonl").into_iter().map(of).collect()
}

fn reference(gpu: &Gpu, model: &Model, pairs: &[Pair]) -> Vec<PairLogps> {
    let of =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let branches: Vec<score::Branch> = pairs.iter().map(of).collect();
    score::logps(gpu, model, &branches, &Silent).unwrap().iter().map(|b| PairLogps::new(&b[0], &b[1])).collect()
}

/// One step on all pairs that moves nothing, and its gradients by name.
fn step(
    trainer: &mut Trainer,
    objective: &Objective,
    pairs: &[Pair],
    reference: Option<&[PairLogps]>,
) -> (DpoStep, BTreeMap<String, Vec<f64>>) {
    let lr = LearningRate::constant(0.0);
    let config = DpoConfig::default().objective(objective.clone()).batch(pairs.len()).lr(lr).seed(3);
    let mut taken = None;
    trainer.set_step(0);
    dpo::Training::new(pairs, &config)
        .reference(reference)
        .on_step(&mut |_, step| {
            taken = Some(step.clone());
            Ok(())
        })
        .run(trainer)
        .unwrap();
    (taken.unwrap(), gradients(trainer))
}

#[test]
fn every_loss_is_that_of_trl() {
    let gpu = Gpu::open(None, None).unwrap();
    let (expected, stored) = (expected(), Weights::open_safetensors(&file("grads.safetensors")).unwrap());
    let reference_model = load(&gpu, "ref");
    let mut trainer = Trainer::new(&gpu, load(&gpu, ""), Optimiser::default()).unwrap();
    for (i, case) in expected.cases.iter().enumerate() {
        let what = format!("case {i} {:?}", case.objective);
        let objective = case.objective.objective(expected.beta);
        let pairs = data(&objective);
        let logps = reference(&gpu, &reference_model, &pairs);
        let (whole, got) = step(&mut trainer, &objective, &pairs, Some(&logps));
        assert!(
            (whole.loss - case.loss).abs() <= 1e-5 * case.loss.abs().max(1.0),
            "{what}: {}, {}",
            whole.loss,
            case.loss
        );
        let (flat, mut at) = (stored.get(&i.to_string()).unwrap().to_f32(), 0);
        let scale = norm(flat.iter().map(|x| f64::from(*x)));
        for (name, shape) in &expected.parameters {
            let n = shape.iter().product::<usize>();
            let want = &flat[at..at + n];
            at += n;
            let got = &got[name];
            assert_eq!(got.len(), n, "{name}");
            let error = norm(got.iter().zip(want).map(|(a, b)| a - f64::from(*b)));
            // A gain of one head may have hardly any gradient: it is held against the whole.
            let of = norm(want.iter().map(|x| f64::from(*x))).max(1e-2 * scale);
            assert!(error <= 1e-4 * of, "{what}: the gradient of {name} differs by {:e}", error / of);
        }
        assert_eq!(at, flat.len());
        trainer.set_micro_rows(Some(1));
        let (cut, many) = step(&mut trainer, &objective, &pairs, Some(&logps));
        trainer.set_micro_rows(None);
        assert!((cut.loss - whole.loss).abs() <= 1e-6 * whole.loss.abs().max(1.0), "{what}: {} cut", cut.loss);
        let error = apart(&many, &got);
        assert!(error <= 1e-6, "{what}: in micro-batches of one pair the gradient differs by {error:e}");
    }
}

#[test]
fn the_derivatives_by_the_log_probs_are_those_of_trl() {
    let expected = expected();
    for (i, case) in expected.cases.iter().enumerate() {
        let objective = case.objective.objective(expected.beta);
        let pairs = data(&objective);
        let n = pairs.len() as f64;
        let tokens = |f: &dyn Fn(&Pair) -> usize| n / pairs.iter().map(f).sum::<usize>() as f64;
        let chosen_share = tokens(&|p| p.chosen.len());
        let whole_share = tokens(&|p| p.chosen.len() + p.prompt.len() - 1);
        let of = |(s, p): (&SeenRecord, &Pair)| Seen {
            policy: s.policy,
            reference: s.reference,
            nc: p.chosen.len() as f64,
            nr: p.rejected.len() as f64,
            chosen_sum: s.chosen_sum,
            prompt_sum: s.prompt_sum,
            chosen_share,
            whole_share,
            weight: s.weight,
            pair_weight: 1.0,
            desirable: p.desirable,
            ..Seen::default()
        };
        let mut seen: Vec<Seen> = case.seen.iter().zip(&pairs).map(of).collect();
        let slopes = objective.evaluate(&mut seen).unwrap();
        let loss = slopes.iter().map(|s| s.loss).sum::<f64>() / n;
        assert!((loss - case.loss).abs() <= 1e-5 * case.loss.abs().max(1.0), "case {i}: {loss}, {}", case.loss);
        for (pair, (slope, want)) in slopes.iter().zip(&case.dlogps).enumerate() {
            for (got, want) in [(slope.dc + slope.dsum) / n, slope.dr / n].iter().zip(want) {
                assert!((got - want).abs() <= 1e-5 * want.abs().max(1e-2), "case {i} pair {pair}: {got}, {want}");
            }
        }
    }
}

#[test]
fn every_loss_and_divergence_has_a_case() {
    let expected = expected();
    let seen: BTreeSet<String> = expected.cases.iter().flat_map(|c| c.objective.losses.keys().cloned()).collect();
    assert_eq!(seen, LOSSES.iter().map(|l| l.name.to_owned()).collect());
    for (name, f) in Divergence::NAMES {
        assert!(expected.cases.iter().any(|c| c.objective.f_divergence.unwrap_or_default() == f), "{name}");
    }
}

/// Rewards of the first step are exactly 0 where the model is its own reference, in any cut.
#[test]
fn the_own_reference_gives_rewards_of_zero() {
    let gpu = Gpu::open(None, None).unwrap();
    let mut trainer = Trainer::new(&gpu, load(&gpu, ""), Optimiser::default()).unwrap();
    for rows in [None, Some(1), Some(30)] {
        trainer.set_micro_rows(rows);
        for loss in LOSSES.iter().filter(|l| !matches!(l.family, Family::Free | Family::Chosen)) {
            let wpo = loss.family == Family::Margin;
            let objective = Objective::default().losses(vec![(loss.name.into(), 1.0)]).wpo(wpo).ld_alpha(if wpo {
                0.3
            } else {
                1.0
            });
            let (step, _) = step(&mut trainer, &objective, &data(&objective), None);
            assert_eq!((step.rewards_chosen, step.rewards_rejected), (0.0, 0.0), "{} {rows:?}", loss.name);
        }
    }
}

#[test]
fn the_sft_gradient_is_that_of_one_batch() {
    let gpu = Gpu::open(None, None).unwrap();
    let mut trainer = Trainer::new(&gpu, load(&gpu, ""), Optimiser::default()).unwrap();
    let records = lines::<PairRecord>("pairs.jsonl").into_iter();
    let examples: Vec<Example> = records.map(|r| Example::new(r.prompt_ids, r.chosen_ids)).collect();
    let mut grads = |rows| {
        trainer.set_micro_rows(rows);
        let step = trainer.sft_step(&[(&examples, 1.0)], 0.0).unwrap();
        (step.loss, gradients(&trainer))
    };
    let (whole, cut) = (grads(None), grads(Some(1)));
    assert!((whole.0 - cut.0).abs() < 1e-6);
    assert!(apart(&cut.1, &whole.1) <= 1e-6);
}
