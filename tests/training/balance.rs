//! The routers' auxiliary loss against transformers and TRL's meaning of it (`tests/golden/make/balance.py`), however a
//! step is cut.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use crate::exchange::{Room, Seat};
use crate::gradients::{gradients, norm};
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, Labelled, Pair, PairLogps};
use selfreward::train::exchange::{Alone, Exchange};
use selfreward::train::objective::{Objective, parse};
use selfreward::train::sft::Example;
use selfreward::train::{Dropout, LearningRate, Optimiser, Trainer};
use selfreward::weights::Weights;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("balance/expected.json")).unwrap()).unwrap()
}

fn pairs(model: &Value) -> Vec<Pair> {
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    let pair = |v: &Value| Pair::new(ids(&v["prompt_ids"]), ids(&v["chosen_ids"]), ids(&v["rejected_ids"]));
    model["pairs"].as_array().unwrap().iter().map(pair).collect()
}

/// How a step is cut and what is kept of it.
#[derive(Clone, Copy, Debug)]
struct Cut {
    micro_rows: Option<usize>,
    checkpoint: bool,
    share_prompts: bool,
}

const WHOLE: Cut = Cut { micro_rows: None, checkpoint: false, share_prompts: true };

fn trainer<'a>(gpu: &'a Gpu, name: &str, weight: Option<f32>, cut: Cut) -> Trainer<'a> {
    let folder = if name == "experts" { "lora/experts" } else { name };
    let source = ModelSource::open(&golden(folder)).unwrap();
    let model = Model::load_as(gpu, &source, selfreward::model::Storage::F32).unwrap();
    let mut trainer = Trainer::new(gpu, model, Optimiser::default()).unwrap();
    trainer.set_router_aux_loss_coef(weight).unwrap();
    trainer.set_micro_rows(cut.micro_rows);
    trainer.set_checkpoint(Some(cut.checkpoint));
    trainer.set_share_prompts(cut.share_prompts);
    trainer
}

/// Loss, auxiliary loss and gradients of a first step.
type Step = (f64, Option<f64>, BTreeMap<String, Vec<f64>>);

fn supervised(trainer: &mut Trainer, pairs: &[Pair]) -> Step {
    let example = |p: &Pair| Example::new(p.prompt.clone(), p.chosen.clone());
    let examples: Vec<Example> = pairs.iter().map(example).collect();
    let step = trainer.sft_step(&[(&examples, 1.0)], 0.0).unwrap();
    (step.loss, step.aux_loss, gradients(trainer))
}

fn preferences(trainer: &mut Trainer, pairs: &[Pair], objective: &Objective) -> Step {
    let lr = LearningRate::constant(0.0);
    let config = DpoConfig::default().objective(objective.clone()).batch(pairs.len()).lr(lr);
    let mut seen = None;
    dpo::Training::new(pairs, &config)
        .reference(Some(&vec![PairLogps::default(); pairs.len()]))
        .on_step(&mut |trainer, step| {
            seen = Some((step.loss, step.aux_loss, gradients(trainer)));
            Ok(())
        })
        .run(trainer)
        .unwrap();
    seen.unwrap()
}

fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    norm(got.iter().zip(want).map(|(a, b)| a - b)) / norm(want.iter().copied()).max(1e-30)
}

#[test]
fn losses_and_gradients_are_those_of_transformers_however_a_step_is_cut() {
    let (gpu, expected) = (Gpu::open(None, None).unwrap(), expected());
    let weight = expected["weight"].as_f64().unwrap() as f32;
    let objective = Objective::default().beta(expected["beta"].as_f64().unwrap() as f32);
    for (name, model) in expected["models"].as_object().unwrap() {
        let pairs = pairs(model);
        for cut in [
            WHOLE,
            Cut { micro_rows: Some(30), checkpoint: true, share_prompts: true },
            Cut { micro_rows: Some(1), checkpoint: false, share_prompts: false },
        ] {
            for of in ["sft", "dpo"] {
                let mut trainer = trainer(&gpu, name, Some(weight), cut);
                let (loss, aux, got) = match of {
                    "sft" => supervised(&mut trainer, &pairs),
                    _ => preferences(&mut trainer, &pairs, &objective),
                };
                let close = |got: f64, key: &str| {
                    let want = model[of][key].as_f64().unwrap();
                    assert!((got / want - 1.0).abs() < 2e-6, "{name} {of} {cut:?}: {key} is {got}, not {want}");
                };
                close(loss, "loss");
                close(aux.unwrap(), "aux_loss");
                let file = golden("balance").join(format!("{name}.{of}.safetensors"));
                let wanted = Weights::open_safetensors(&file).unwrap();
                let names: Vec<String> = wanted.names().to_vec();
                let router = if name == "gpt_oss" { "mlp.router.weight" } else { "mlp.gate.weight" };
                assert!(name == "experts" || names.iter().any(|name| name.ends_with(router)));
                for tensor in names {
                    let want = wanted.get(&tensor).unwrap().to_f32();
                    let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
                    let error = relative(&got[&tensor], &want);
                    assert!(error < 2e-5, "{name} {of} {cut:?}: the gradient of {tensor} is off by {error:.1e}");
                }
            }
        }
    }
}

/// The loss's part of the gradient is what is left of that with the loss without the one that goes without.
#[test]
fn without_a_weight_nothing_counts() {
    let (gpu, expected) = (Gpu::open(None, None).unwrap(), expected());
    let pairs = pairs(&expected["models"]["qwen3_moe"]);
    let of = |weight| supervised(&mut trainer(&gpu, "qwen3_moe", weight, WHOLE), &pairs);
    let (without, zero, with) = (of(None), of(Some(0.0)), of(Some(0.01)));
    assert!(without == zero && without.1.is_none() && with.2 != without.2);
    assert!((with.0 - without.0 - f64::from(0.01f32) * with.1.unwrap()).abs() < 1e-9);
    let dense = ModelSource::open(&golden("llama")).unwrap();
    let model = Model::load_as(&gpu, &dense, selfreward::model::Storage::F32).unwrap();
    let mut dense = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
    dense.set_router_aux_loss_coef(Some(0.0)).unwrap();
    let refused = dense.set_router_aux_loss_coef(Some(0.1)).unwrap_err().to_string();
    assert!(refused.contains("no mixture of experts"), "{refused}");
}

/// Of single answers the mismatched ones are computed for kto's baseline alone.
#[test]
fn ranks_and_micro_batches_count_as_one_process_does() {
    let gpu = Gpu::open(None, None).unwrap();
    let pairs = pairs(&expected()["models"]["olmoe"]);
    let single = |(i, p): (usize, &Pair)| Labelled {
        prompt: p.prompt.clone(),
        completion: p.chosen.clone(),
        desirable: i % 2 == 0,
    };
    let labelled: Vec<Labelled> = pairs.iter().enumerate().map(single).collect();
    let alone = supervised(&mut trainer(&gpu, "olmoe", Some(0.4), WHOLE), &pairs).1.unwrap();
    for loss in ["sigmoid", "aot", "kto", "apo_zero_unpaired"] {
        let objective = Objective::default().losses(parse(loss).unwrap());
        let data = match objective.unpaired().unwrap() {
            true => objective.single_answers(&labelled, labelled.len()).unwrap(),
            false => pairs.clone(),
        };
        let of = |gpu: &Gpu, micro_rows, exchange: &dyn Exchange| {
            let mut trainer = trainer(gpu, "olmoe", Some(0.4), Cut { micro_rows, ..WHOLE });
            trainer.set_dropout(Dropout { rate: 0.2, seed: 3 });
            trainer.set_exchange(exchange);
            preferences(&mut trainer, &data, &objective)
        };
        let (whole, cut) = (of(&gpu, None, &Alone), of(&gpu, Some(30), &Alone));
        if objective.unpaired().unwrap() {
            let mut trainer = trainer(&gpu, "olmoe", Some(0.4), WHOLE);
            let aux = preferences(&mut trainer, &data, &objective).1.unwrap();
            assert!((aux / alone - 1.0).abs() < 1e-6, "{loss}: {aux}, not {alone}");
        }
        let room = Room::new(3);
        let ranks: Vec<Step> = std::thread::scope(|scope| {
            let (of, room) = (&of, &room);
            let seat = |rank| scope.spawn(move || of(&Gpu::open(None, None).unwrap(), None, &Seat { room, rank }));
            let threads: Vec<_> = (0..3).map(seat).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for other in ranks.iter().chain([&cut]) {
            let apart = [other.0 / whole.0 - 1.0, other.1.unwrap() / whole.1.unwrap() - 1.0];
            assert!(apart.iter().all(|x| x.abs() < 2e-6), "{loss}: {apart:?}");
            for (name, gradient) in &whole.2 {
                let error = relative(&other.2[name], gradient);
                assert!(error < 2e-5, "{loss}: the gradient of {name} is off by {error:.1e}");
            }
        }
    }
}
