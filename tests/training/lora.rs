//! LoRA adapters against torch + PEFT: log-probs, summed log-probs and the DPO trajectory; fresh adapters,
//! saved states and merged weights against one another. Logits and gradients by name are compared through
//! the binary (`driver/tests/commands/lora.rs`).

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::Silent;
use selfreward::arch::Dtype;
use selfreward::arch::lora::{Adapter, LayerRules, LoraConfig, Modules};
use selfreward::arch::{NamedTensor, family};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, Storage, score};
use selfreward::source::{ModelSource, save_adapter, save_gguf_adapter, save_model};
use selfreward::train::dpo::{self, DpoConfig, DpoStep, Pair, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::{LearningRate, Optimiser, Trainer};
use serde_json::Value;
use std::path::{Path, PathBuf};

const ADAPTERS: [&str; 19] = [
    "all",
    "qv",
    "fused",
    "multiplied",
    "after",
    "post_norms",
    "capped",
    "patterns",
    "blocks",
    "outer",
    "tied",
    "others",
    "experts",
    "stacked_experts",
    "dora",
    "dora_some",
    "dora_outer",
    "dora_tied",
    "dora_quantised",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn open(adapter: &str) -> (ModelSource, Value) {
    let dir = golden("lora").join(adapter);
    (ModelSource::open(&dir).unwrap(), json(&dir.join("expected.json")))
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-30)
}

fn pairs(base: &str) -> Vec<Pair> {
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    let text = std::fs::read_to_string(golden(base).join("pairs.jsonl")).unwrap();
    let pair = |line| {
        let v: Value = serde_json::from_str(line).unwrap();
        Pair::new(ids(&v["prompt_ids"]), ids(&v["chosen_ids"]), ids(&v["rejected_ids"]))
    };
    text.lines().map(pair).collect()
}

fn config(beta: f32, steps: usize, batch: usize, lr: f32) -> DpoConfig {
    DpoConfig::default()
        .objective(Objective::default().beta(beta))
        .epochs(steps)
        .batch(batch)
        .lr(LearningRate::constant(lr))
}

fn train(trainer: &mut Trainer, data: &[Pair], config: &DpoConfig, reference: Option<&[PairLogps]>) -> Vec<DpoStep> {
    let mut steps = Vec::new();
    dpo::Training::new(data, config)
        .reference(reference)
        .on_step(&mut |_, step| {
            steps.push(step.clone());
            Ok(())
        })
        .run(trainer)
        .unwrap();
    steps
}

fn sums(gpu: &Gpu, model: &Model, data: &[Pair]) -> [Vec<f64>; 2] {
    let branch =
        |p: &Pair| score::Branch { prompt: p.prompt.clone(), completions: vec![p.chosen.clone(), p.rejected.clone()] };
    let got = score::logps(gpu, model, &data.iter().map(branch).collect::<Vec<_>>(), &Silent).unwrap();
    [0, 1].map(|side| got.iter().map(|b| b[side].iter().map(|x| f64::from(*x)).sum()).collect())
}

#[test]
fn log_probs_are_those_of_peft_beside_and_merged() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in ADAPTERS.into_iter().chain(["ensured"]) {
        let (source, expected) = open(name);
        let told = source.warnings.iter().any(|warning| warning.contains("ensure_weight_tying"));
        assert_eq!(told, name == "ensured");
        let data = pairs(expected["base"].as_str().unwrap());
        let beside = Model::load(&gpu, &source).unwrap();
        let tensors = source.tensors_f32().unwrap();
        let arch = family::arch(&source.merged_config()).unwrap();
        let merged = Model::from_tensors(&gpu, &arch, tensors).unwrap();
        for model in [&beside, &merged] {
            for (got, side) in sums(&gpu, model, &data).iter().zip(["logps_chosen", "logps_rejected"]) {
                let error = relative(got, &list(&expected["dpo"][side]));
                assert!(error <= 1e-5, "{name} {side}: {error:e}");
            }
        }
        let (a, b) = (beside.tensors(&gpu).unwrap(), source.tensors_f32().unwrap());
        assert_eq!(a, b, "{name}: merging what was downloaded is merging what was read");
    }
}

#[test]
fn dpo_follows_the_trajectory_of_peft_and_leaves_the_base_alone() {
    let gpu = Gpu::open(None, None).unwrap();
    for name in ADAPTERS {
        let (source, expected) = open(name);
        let (data, d, a) = (pairs(expected["base"].as_str().unwrap()), &expected["dpo"], &expected["adamw"]);
        let float = |v: &Value| v.as_f64().unwrap() as f32;
        let (chosen, rejected) = (list(&d["ref_logps_chosen"]), list(&d["ref_logps_rejected"]));
        let reference: Vec<PairLogps> = chosen
            .iter()
            .zip(&rejected)
            .map(|(c, r)| PairLogps { chosen: *c as f32, rejected: *r as f32, ..PairLogps::default() })
            .collect();
        let optimiser = Optimiser::default()
            .weight_decay(float(&a["weight_decay"]))
            .decay_vectors(true)
            .max_grad_norm(float(&a["max_grad_norm"]));
        let want = a["trajectory"].as_array().unwrap();
        let config = config(float(&d["beta"]), want.len(), data.len(), float(&a["lr"]));
        let mut trainer = Trainer::new(&gpu, Model::load(&gpu, &source).unwrap(), optimiser).unwrap();
        let steps = train(&mut trainer, &data, &config, Some(&reference));
        for (step, want) in steps.iter().zip(want.iter().map(list)) {
            let error = relative(&[step.loss, step.grad_norm], &want);
            assert!(error <= 1e-3, "{name}: step {} is {} {}, expected {want:?}", step.step, step.loss, step.grad_norm);
        }
        let adapter = trainer.model().adapter(&gpu).unwrap().unwrap();
        assert_ne!(Some(&adapter), source.adapter.as_ref());
        let mut base = ModelSource { adapter: Some(adapter), ..open(name).0 };
        let merged = base.tensors_f32().unwrap();
        assert_eq!(trainer.model().tensors(&gpu).unwrap(), merged, "{name}: the base did not move");
        base.adapter = None;
        assert_ne!(base.tensors_f32().unwrap(), merged);
    }
}

/// Magnitudes begin as the norms of the weights, so that a fresh adapter of DoRA changes nothing that rounding does
/// not; it trains, and goes on from a saved state with the same bits.
#[test]
fn a_fresh_adapter_of_dora_trains_and_resumes() {
    let gpu = Gpu::open(None, None).unwrap();
    let source = ModelSource::open(&golden("qwen3")).unwrap();
    let data = pairs("qwen3");
    let targets = Modules::Names(vec!["all-linear".into(), "lm_head".into(), "embed_tokens".into()]);
    let layers = LayerRules::default();
    let lora = LoraConfig { rank: 5, alpha: 10.0, rslora: false, dora: true, dropout: 0.2, targets, layers };
    let fresh = Adapter::fresh(&source.arch, &lora, 7).unwrap();
    let base = || Model::load_as(&gpu, &source, Storage::F32).unwrap();
    let (with, without) =
        (sums(&gpu, &base().with_adapter(&gpu, Some(&fresh)).unwrap(), &data), sums(&gpu, &base(), &data));
    for side in 0..2 {
        assert!(relative(&with[side], &without[side]) <= 1e-6, "{with:?} {without:?}");
    }
    let trainer = || {
        Trainer::new(&gpu, base().with_adapter(&gpu, Some(&fresh)).unwrap(), Optimiser::default().decay_vectors(true))
            .unwrap()
    };
    let config = config(0.1, 2, 2, 1e-2);
    let (mut whole, mut kept) = (trainer(), Vec::new());
    dpo::Training::new(&data, &config)
        .on_reference(&mut |logps| {
            kept = logps.to_vec();
            Ok(())
        })
        .run(&mut whole)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (trainer(), trainer());
    let stopped = dpo::Training::new(&data, &config)
        .on_step(&mut |trainer, step| match step.step {
            3 => trainer.save_state(dir.path()).and(Err(selfreward::Error::Stopped)),
            _ => Ok(()),
        })
        .run(&mut first);
    assert!(stopped.is_err());
    second.load_state(dir.path()).unwrap();
    train(&mut second, &data, &config, Some(&kept));
    let adapter = |t: &Trainer| t.model().adapter(&gpu).unwrap().unwrap();
    assert_eq!(adapter(&whole), adapter(&second));
    let magnitude = |a: &Adapter| a.tensors.iter().find(|t| t.name.ends_with("magnitude_vector")).cloned().unwrap();
    let begun = base().with_adapter(&gpu, Some(&fresh)).unwrap().adapter(&gpu).unwrap().unwrap();
    assert_ne!(magnitude(&begun), magnitude(&adapter(&whole)), "magnitudes are trained");
    let out = dir.path().join("adapter");
    save_adapter(&out, &source, &adapter(&whole), Dtype::F32).unwrap();
    assert_eq!(ModelSource::open(&out).unwrap().adapter, Some(adapter(&whole)));
}

/// PEFT writes a copy of a matrix beside its adapter; another base's copy is refused.
#[test]
fn a_copy_of_another_bases_matrix_is_refused() {
    let (dir, from) = (tempfile::tempdir().unwrap(), golden("lora/outer"));
    let config = std::fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let base = golden("llama").display().to_string();
    std::fs::write(dir.path().join("adapter_config.json"), config.replace("../../llama", &base)).unwrap();
    let file = dir.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    ModelSource::open(dir.path()).unwrap();
    // The first tensor of the file is the output matrix.
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    bytes[header + 2] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = ModelSource::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("lm_head.base_layer.weight") && error.contains("another base's"), "{error}");
}

/// What others may have written beside adapter_config.json, which is not read.
#[test]
fn tensors_in_other_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = open("qv");
    save_adapter(dir.path(), &source, source.adapter.as_ref().unwrap(), Dtype::F32).unwrap();
    let tensors = dir.path().join("adapter_model.safetensors");
    for (name, word) in [("adapter_model.bin", "pickle"), ("adapter_model.safetensors.index.json", "several files")] {
        std::fs::rename(&tensors, dir.path().join(name)).unwrap();
        let error = ModelSource::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(word) && error.contains("PEFT"), "{error}");
        std::fs::rename(dir.path().join(name), &tensors).unwrap();
    }
    ModelSource::open(dir.path()).unwrap();
}

/// A base may move, and may be stored in other files or fewer bits; other weights of its shapes are another base.
#[test]
fn an_adapter_knows_its_base_again() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = open("qv");
    let adapter = source.adapter.as_ref().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut tensors = ModelSource { adapter: None, ..open("qv").0 }.tensors_f32().unwrap();
    save_model(&at("base"), &source, &tensors, Dtype::F32).unwrap();
    let base = ModelSource::open(&at("base")).unwrap();
    save_adapter(&at("peft"), &base, adapter, Dtype::F32).unwrap();
    save_gguf_adapter(&at("lora.gguf"), &base, adapter, Dtype::F32).unwrap();
    std::fs::rename(at("base"), at("moved")).unwrap();
    save_model(&at("half"), &source, &tensors, Dtype::BF16).unwrap();
    tensors.iter_mut().filter(|t| t.name.ends_with("up_proj.weight")).for_each(|t| *t.data.last_mut().unwrap() += 0.5);
    save_model(&at("base"), &source, &tensors, Dtype::F32).unwrap();
    let other = golden("tied");
    for name in ["peft", "lora.gguf"] {
        let over = |base: &Path| ModelSource::open_over(&at(name), base, &Silent);
        for same in ["moved", "half"] {
            assert_eq!(over(&at(same)).unwrap().adapter.unwrap().tensors.len(), adapter.tensors.len());
        }
        let [named, found] = [ModelSource::open(&at(name)), over(&at("base"))].map(|r| r.unwrap_err().to_string());
        assert_eq!(named, found);
        let words = ["base is another model", "fingerprint", "--base M"];
        assert!(words.iter().all(|word| found.contains(word)), "{found}");
        let error = over(&other).unwrap_err().to_string();
        assert!(error.contains("q_proj") || error.contains("qwen3"), "{error}");
    }
    let error = ModelSource::open_over(&at("peft"), &other, &Silent).unwrap_err().to_string();
    assert!(
        error.contains("q_proj.lora_A.weight") && error.contains("[8, 36]") && error.contains("[8, 33]"),
        "{error}"
    );
    // What PEFT writes says nothing of the base but its name.
    std::fs::remove_file(at("peft").join("adapter_base.json")).unwrap();
    ModelSource::open(&at("peft")).unwrap();
}

/// A fresh adapter changes no log-prob; what it becomes is the same in one go and through a saved state, and comes back
/// from disk bit for bit.
#[test]
fn a_fresh_adapter_trains_resumes_and_comes_back() {
    let gpu = Gpu::open(None, None).unwrap();
    let source = ModelSource::open(&golden("qwen3")).unwrap();
    let data = pairs("qwen3");
    let targets = Modules::Names(vec!["all-linear".into()]);
    let lora = LoraConfig {
        rank: 5,
        alpha: 10.0,
        rslora: false,
        dora: false,
        dropout: 0.0,
        targets,
        layers: LayerRules::default(),
    };
    let fresh = Adapter::fresh(&source.arch, &lora, 7).unwrap();
    assert_ne!(fresh, Adapter::fresh(&source.arch, &lora, 8).unwrap());
    let model = || Model::load_as(&gpu, &source, Storage::F32).unwrap().with_adapter(&gpu, Some(&fresh)).unwrap();
    assert_eq!(sums(&gpu, &model(), &data), sums(&gpu, &Model::load_as(&gpu, &source, Storage::F32).unwrap(), &data));

    let trainer = || Trainer::new(&gpu, model(), Optimiser::default()).unwrap();
    let config = config(0.1, 3, 2, 1e-2);
    let mut whole = trainer();
    let steps = train(&mut whole, &data, &config, None);
    assert_eq!((steps[0].rewards_chosen, steps[0].rewards_rejected), (0.0, 0.0));
    assert!(steps[5].loss < steps[0].loss, "{steps:?}");

    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut kept) = (trainer(), Vec::new());
    let stopped = dpo::Training::new(&data, &config)
        .on_reference(&mut |logps| {
            kept = logps.to_vec();
            Ok(())
        })
        .on_step(&mut |trainer, step| match step.step {
            3 => trainer.save_state(dir.path()).and(Err(selfreward::Error::Stopped)),
            _ => Ok(()),
        })
        .run(&mut first);
    assert!(stopped.is_err());
    let mut second = trainer();
    second.load_state(dir.path()).unwrap();
    train(&mut second, &data, &config, Some(&kept));
    let bits = |t: &Trainer| -> Vec<u32> {
        let tensors: Vec<NamedTensor> = t.model().adapter(&gpu).unwrap().unwrap().tensors;
        tensors.iter().flat_map(|t| t.data.iter().map(|x| x.to_bits())).collect()
    };
    assert_eq!(bits(&whole), bits(&second));

    let adapter = whole.model().adapter(&gpu).unwrap().unwrap();
    let out = dir.path().join("adapter");
    save_adapter(&out, &source, &adapter, Dtype::F32).unwrap();
    let back = ModelSource::open(&out).unwrap();
    assert_eq!(back.adapter.as_ref(), Some(&adapter));
    assert_eq!(back.text.is_some(), source.text.is_some());
}

#[test]
fn broken_adapters_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, _) = open("qv");
    let adapter = source.adapter.clone().unwrap();
    let message = |adapter: &Adapter| {
        save_adapter(dir.path(), &source, adapter, Dtype::F32).unwrap();
        ModelSource::open(dir.path()).unwrap_err().to_string()
    };
    let mut missing = adapter.clone();
    let gone = missing.tensors.pop().unwrap();
    assert!(message(&missing).contains(&gone.name));
    let mut nan = adapter.clone();
    nan.tensors[1].data[3] = f32::NAN;
    assert!(message(&nan).contains("value 3"), "{}", message(&nan));
    let mut giant = adapter.clone();
    giant.tensors[1].data[3] = 1e30;
    assert!(message(&giant).contains("value 3"), "{}", message(&giant));
    let mut scale = adapter.clone();
    scale.config.alpha = 1e30;
    assert!(message(&scale).contains("q_proj") && message(&scale).contains("scale"), "{}", message(&scale));
    let mut rank = adapter.clone();
    rank.config.rank = 4;
    assert!(message(&rank).contains("[4, 36]"), "{}", message(&rank));
    rank.config.rank = 37;
    rank.tensors.clear();
    let told = message(&rank);
    assert!(told.contains("rank 37") && told.contains("v_proj") && told.contains("at most 36"), "{told}");
    let mut dora = adapter.clone();
    dora.config.dora = true;
    assert!(message(&dora).contains("lora_magnitude_vector"), "{}", message(&dora));
    let mut target = adapter;
    target.config.targets = Modules::Names(vec!["q_proj".into()]);
    assert!(message(&target).contains("v_proj"), "{}", message(&target));
    target.config.targets = Modules::Names(vec!["c_attn".into(), "fc1".into()]);
    let told = message(&target);
    assert!(told.contains("c_attn") && told.contains("o_proj, q_proj, up_proj, v_proj"), "{told}");
}
