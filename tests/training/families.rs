//! docs/FAMILIES.md: what every family is, and how far its golden models are from transformers.
//! `FAMILIES_OUT=docs/FAMILIES.md cargo test --workspace --test training families` writes the page anew.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use crate::gradients::{gradients, norm};
use selfreward::arch::family::{FAMILIES, Family, as_modules};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use selfreward::train::dpo::{self, DpoConfig, Pair, PairLogps};
use selfreward::train::objective::Objective;
use selfreward::train::{LearningRate, Optimiser, Trainer};
use selfreward::weights::Weights;
use selfreward_testing::golden::having;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FAMILIES.md");
/// How many times the page's error may be met on the device that it names: drivers change the order of a sum.
const NEAR: f64 = 3.0;
/// What the errors of any device may be: of logits, log-probs, gradients, and weights after the steps.
const TOLERANCES: [f64; 4] = [1e-4, 1e-5, 1e-3, 1e-4];

const TEXT: &str = "\
# The families of models

Each is one row of data (`src/arch/family/`) and one or more tiny golden models of odd sizes and random weights, whose
numbers torch and transformers 5 gave (`tests/golden/make/families.py`, `tiny.py`, `steps.py`). All are read from
Hugging Face folders and, where an architecture stands, from GGUF files, and are written as both; all generate, and are
trained whole or by adapters.

The errors are the largest of a family's models, on llvmpipe (LLVM 15.0.6, 256 bits): of *logits*, *log-probs* and
*gradients* (of the DPO loss, each parameter by itself) relative in norm; of *weights after two steps* of AdamW at a
rate of 1e-3 the largest difference of any number. A test holds them on any device to 1e-4, 1e-5, 1e-3 and 1e-4, and on
this one to three times what stands here. `FAMILIES_OUT=docs/FAMILIES.md cargo test --workspace --test training
families` makes this page.

| family | `model_type` | class | GGUF | peculiar to it | logits | log-probs | gradients | \
weights after two steps |
|---|---|---|---|---|---|---|---|---|
";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn stored(weights: &Weights, name: &str) -> Vec<f64> {
    wide(&weights.get(name).unwrap().to_f32())
}

fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    norm(got.iter().zip(want).map(|(a, b)| a - b))
}

fn relative(got: &[f64], want: &[f64]) -> f64 {
    difference(got, want) / norm(want.iter().copied()).max(1e-30)
}

/// Errors of logits, log-probs, gradients and weights.
fn errors(gpu: &Gpu, name: &str) -> [f64; 4] {
    let dir = golden(name);
    let (expected, tokens) = (json(&dir.join("expected.json")), json(&dir.join("tokens.json")));
    let source = ModelSource::open(&dir).unwrap();
    let load = || Model::from_tensors(gpu, &source.arch, source.tensors_f32().unwrap()).unwrap();
    let (model, logits) = (load(), Weights::open_safetensors(&dir.join("logits.safetensors")).unwrap());
    let (mut by_logits, mut by_logps) = (0f64, 0f64);
    for (i, tokens) in tokens.as_array().unwrap().iter().enumerate() {
        let (tokens, want) = (ids(tokens), stored(&logits, &format!("logits.{i}")));
        let got = wide(&score::logits(gpu, &model, &tokens).unwrap());
        by_logits = by_logits.max(relative(&got, &want));
        let vocabulary = source.arch.vocab_size;
        let logp = |(row, next): (&[f64], &u32)| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row[*next as usize] - top - row.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
        };
        let got: Vec<f64> = got.chunks(vocabulary).zip(&tokens[1..]).map(logp).collect();
        by_logps = by_logps.max(relative(&got, &numbers(&expected["logps"][i])));
    }

    let settings = json(&golden("steps.json"));
    let of = |key: &str| settings[key].as_f64().unwrap() as f32;
    let betas = numbers(&settings["betas"]);
    let optimiser = Optimiser::default()
        .betas([betas[0] as f32, betas[1] as f32])
        .eps(of("eps"))
        .weight_decay(of("weight_decay"))
        .decay_vectors(true)
        .max_grad_norm(of("max_grad_norm"));
    let dpo = &expected["dpo"];
    let [chosen, rejected] = ["ref_logps_chosen", "ref_logps_rejected"].map(|key| numbers(&dpo[key]));
    let against = |(chosen, rejected): (&f64, &f64)| PairLogps {
        chosen: *chosen as f32,
        rejected: *rejected as f32,
        ..PairLogps::default()
    };
    let reference: Vec<PairLogps> = chosen.iter().zip(&rejected).map(against).collect();
    let text = fs::read_to_string(dir.join("pairs.jsonl")).unwrap();
    let pair = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        Pair::new(ids(&record["prompt_ids"]), ids(&record["chosen_ids"]), ids(&record["rejected_ids"]))
    };
    let pairs: Vec<Pair> = text.lines().map(pair).collect();
    let objective = Objective::default().beta(dpo["beta"].as_f64().unwrap() as f32);
    let steps = settings["steps"].as_u64().unwrap() as usize;
    let config = DpoConfig::default().objective(objective).epochs(steps).batch(pairs.len());
    let config = config.lr(LearningRate::constant(of("lr")));
    let mut trainer = Trainer::new(gpu, load(), optimiser).unwrap();
    let mut first = BTreeMap::new();
    dpo::Training::new(&pairs, &config)
        .reference(Some(&reference))
        .on_step(&mut |trainer, step| {
            if step.step == 1 {
                first = gradients(trainer);
            }
            Ok(())
        })
        .run(&mut trainer)
        .unwrap();
    let wanted = Weights::open_safetensors(&dir.join("grads.sigmoid.safetensors")).unwrap();
    let all: Vec<(&[f64], Vec<f64>)> = first.iter().map(|(name, got)| (&got[..], stored(&wanted, name))).collect();
    // A gradient that is nothing but rounding has no error of its own.
    let floor = 1e-6 * all.iter().map(|(_, want)| norm(want.iter().copied())).fold(0.0, f64::max);
    let own = all.iter().filter(|(_, want)| norm(want.iter().copied()) > floor);
    let by_gradients = own.map(|(got, want)| relative(got, want)).fold(0.0, f64::max);
    let wanted = Weights::open_safetensors(&dir.join("steps.safetensors")).unwrap();
    let mut by_weights = 0f64;
    for tensor in as_modules(&source.arch, trainer.model().tensors(gpu).unwrap()) {
        let want = stored(&wanted, &tensor.name);
        let apart = tensor.data.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs());
        by_weights = apart.fold(by_weights, f64::max);
    }
    [by_logits, by_logps, by_gradients, by_weights]
}

/// A family's row up to its errors, and these.
fn row(gpu: &Gpu, family: &Family, models: &[String]) -> (String, [f64; 4]) {
    let mut worst = [0f64; 4];
    for name in models {
        if json(&golden(name).join("config.json"))["model_type"] == family.model_type {
            worst.iter_mut().zip(errors(gpu, name)).for_each(|(worst, error)| *worst = worst.max(error));
        }
    }
    for (error, tolerance) in worst.iter().zip(TOLERANCES) {
        assert!(*error > 0.0 && *error <= tolerance, "{}: {worst:?}, at most {TOLERANCES:?}", family.name);
    }
    let gguf = family.gguf_architecture().map_or("—".to_owned(), |name| format!("`{name}`"));
    let (name, model_type, class) = (family.name, family.model_type, family.class);
    (format!("| {name} | `{model_type}` | `{class}` | {gguf} | {} |", family.peculiar), worst)
}

#[test]
fn the_page_of_families_is_true() {
    let gpu = Gpu::open(None, None).unwrap();
    let models = having("grads.sigmoid.safetensors");
    let rows: Vec<_> = FAMILIES.iter().map(|family| row(&gpu, family, &models)).collect();
    if let Some(path) = std::env::var_os("FAMILIES_OUT") {
        let told = |(what, errors): &(String, [f64; 4])| {
            let errors: String = errors.iter().map(|error| format!(" {error:.1e} |")).collect();
            format!("{what}{errors}\n")
        };
        fs::write(path, TEXT.to_owned() + &rows.iter().map(told).collect::<String>()).unwrap();
        return;
    }
    let again = "made anew by FAMILIES_OUT=docs/FAMILIES.md cargo test --workspace --test training families";
    let page = fs::read_to_string(PAGE).unwrap();
    let written = page.strip_prefix(TEXT).unwrap_or_else(|| panic!("docs/FAMILIES.md is old; it is {again}"));
    assert_eq!(written.lines().count(), rows.len(), "docs/FAMILIES.md is old; it is {again}");
    let here = TEXT.contains(&gpu.info().name);
    for (line, (what, errors)) in written.lines().zip(rows) {
        let told = line.strip_prefix(&what);
        let told = told.unwrap_or_else(|| panic!("docs/FAMILIES.md is old; it is {again}\n{line}\n{what}"));
        let told: Vec<f64> = told.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        assert_eq!(told.len(), errors.len(), "{line}");
        let near = told.iter().zip(errors).all(|(told, error)| error <= NEAR * told);
        assert!(!here || near, "the errors grew to {errors:?}: {line}");
    }
}
