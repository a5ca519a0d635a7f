//! SmolLM2-135M-Instruct, the smallest of the real models. Needs the file that `scripts/fetch-models smollm2` fetches,
//! so `scripts/test` runs it and plain `cargo test` does not.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod real;

use assert_cmd::cargo::cargo_bin_cmd;
use real::{Real, root};
use selfreward::arch::Dtype;
use selfreward::source::ModelSource;
use serde_json::Value;
use std::fs;

real!("smollm2": token_ids_of_strings, conversations, greedy_continuations, log_probs, perplexity_of_a_page, judges,
      first_steps);

/// A word is cut without the heap that a tokenizer.json of the whole vocabulary would take.
#[test]
fn opening_a_tokenizer_takes_little_memory() {
    let Real { model, tmp, .. } = Real::new("smollm2");
    let (file, out) = (tmp.path().join("in.json"), tmp.path().join("out.json"));
    fs::write(&file, r#"["hello"]"#).unwrap();
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["-v", "dump", "tokens", "--model"]).arg(model).arg("--text").arg(&file).arg("--out").arg(&out);
    let stderr = String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap();
    let megabytes = stderr.rsplit_once("heap: ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    assert!(megabytes.is_some_and(|n: u64| (1..=50).contains(&n)), "{stderr}");
}

/// With no more error than llama.cpp's quantiser makes, as `benches/peers/src/bin/llama_quants.rs` measured it.
#[test]
fn matrices_are_quantised_as_well_as_by_llama_cpp() {
    let model = Real::new("smollm2");
    let source = ModelSource::open(&model.model).unwrap();
    let text = fs::read_to_string(root().join("tests/golden/quants.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    for (stored, errors) in golden["SmolLM2-135M-Instruct.Q4_1"].as_object().unwrap() {
        let block = stored.split('.').nth(1).unwrap();
        let values = source.weights.get(&format!("model.layers.{block}.mlp.down_proj.weight")).unwrap().to_f32();
        for (name, want) in errors.as_object().unwrap() {
            let dtype = Dtype::named(name).unwrap();
            let mut got = Vec::new();
            dtype.dequantise(&dtype.encode(&values).unwrap(), &mut got);
            let squares = got.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2));
            let error = (squares.sum::<f64>() / values.len() as f64).sqrt();
            assert!(error <= 1.02 * want.as_f64().unwrap(), "{stored} {name}: {error:e}, llama.cpp's {want}");
        }
    }
}

/// A whole round on the real model, as small as it can be; the model it writes is one like any other.
#[test]
fn the_smallest_run_ends_with_a_model_that_speaks() {
    let model = Real::new("smollm2");
    let (config, run) = (model.tmp.path().join("config.toml"), model.tmp.path().join("run"));
    let text = fs::read_to_string(root().join("configs/smollm2-ci.toml")).unwrap();
    let named = text.replace("\"runs/smollm2-ci\"", &format!("{:?}", run.to_str().unwrap()));
    assert_ne!(named, text, "the configuration names its run folder otherwise");
    fs::write(&config, named).unwrap();
    let json = |args: &[&str]| -> Value {
        let mut command = cargo_bin_cmd!("selfreward");
        command.current_dir(root()).args(args).arg("--json");
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    };
    let status = json(&["run", config.to_str().unwrap()]);
    assert_eq!(status["finished"], true);
    assert!(status["rounds"][0]["pairs"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status, json(&["status", run.to_str().unwrap()]));
    let written = run.join("M2");
    assert!(written.join("model.safetensors").exists() && written.join("tokenizer.json").exists());
    let prompt = ["--prompt", "What is the capital of France?", "--temperature", "0", "--max-new-tokens", "8"];
    let answers = json(&[&["generate", "--model", run.to_str().unwrap()], &prompt[..]].concat());
    assert!(!answers[0]["response"].as_str().unwrap().is_empty());
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("M1 → M2") && page.contains("Samples") && !page.contains("Not finished"));
    // Finished runs are left as they are.
    let again = json(&["run", config.to_str().unwrap(), "--resume"]);
    assert_eq!(again["models"], status["models"]);
}
