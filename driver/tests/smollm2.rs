//! SmolLM2-135M-Instruct from its GGUF file against transformers: token ids, greedy continuations and
//! log-probs, through the binary. Needs the file that `scripts/fetch-smollm2` fetches, so
//! `scripts/test` runs it and plain `cargo test` does not.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the two best logits lie closer than this, either token is right, and what follows is not compared.
const CLOSE: f64 = 1e-3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("tests/golden/smollm2.json")).unwrap()).unwrap()
}

fn model() -> PathBuf {
    let path = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing; scripts/fetch-smollm2 fetches it", path.display());
    path
}

/// Writes `input` to a file, runs `dump KIND --model … FLAG FILE`, reads what it writes.
fn dump_bytes(kind: &str, flag: &str, input: &Value, more: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("in.json"), dir.path().join("out.json"));
    fs::write(&file, input.to_string()).unwrap();
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["dump", kind, "--model"]).arg(model()).arg(flag).arg(&file).arg("--out").arg(&out).args(more);
    command.assert().success();
    fs::read(out).unwrap()
}

fn dump(kind: &str, flag: &str, input: &Value, more: &[&str]) -> Value {
    serde_json::from_slice(&dump_bytes(kind, flag, input, more)).unwrap()
}

#[test]
fn token_ids_are_the_tokenizers() {
    let golden = golden();
    let cases: Vec<(&Value, &Value)> = ["strings", "chats"]
        .iter()
        .zip(["text", "messages"])
        .flat_map(|(list, key)| golden[list].as_array().unwrap().iter().map(move |c| (&c[key], &c["ids"])))
        .collect();
    let input: Vec<&Value> = cases.iter().map(|(input, _)| *input).collect();
    let got = dump("tokens", "--text", &json!(input), &[]);
    assert_eq!(got.as_array().unwrap().len(), cases.len());
    for (got, (input, ids)) in got.as_array().unwrap().iter().zip(&cases) {
        assert_eq!(got, *ids, "{input}");
    }
}

/// A word is cut without the heap that a tokenizer.json of the whole vocabulary would take.
#[test]
fn opening_a_tokenizer_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("in.json"), dir.path().join("out.json"));
    fs::write(&file, r#"["hello"]"#).unwrap();
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["-v", "dump", "tokens", "--model"]).arg(model()).arg("--text").arg(&file).arg("--out").arg(&out);
    let stderr = String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap();
    let megabytes = stderr.rsplit_once("heap: ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    assert!(megabytes.is_some_and(|n: u64| (1..=50).contains(&n)), "{stderr}");
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let golden = golden();
    let cases = golden["continuations"].as_array().unwrap();
    let prompts: Vec<&Value> = cases.iter().map(|c| &c["prompt_ids"]).collect();
    let n = golden["max_new_tokens"].to_string();
    let got = dump("generate", "--tokens", &json!(prompts), &["--max-new-tokens", &n]);
    for (got, case) in got.as_array().unwrap().iter().zip(cases) {
        let (got, want) = (got.as_array().unwrap(), case["greedy"].as_array().unwrap());
        let gaps = case["gaps"].as_array().unwrap();
        for (i, (want, gap)) in want.iter().zip(gaps).enumerate() {
            if got.get(i) != Some(want) {
                assert!(
                    gap.as_f64().unwrap() <= CLOSE,
                    "{}: token {i} is {:?}, expected {want} (gap {gap})",
                    case["text"],
                    got.get(i)
                );
                break;
            }
        }
    }
}

/// A thousand tokens of text, code and other scripts.
#[test]
fn log_probs_are_those_of_transformers() {
    let golden = golden();
    let bytes = dump_bytes("logps", "--tokens", &golden["text_ids"], &[]);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let got = tensors.tensor("logps.0").unwrap();
    let got = got.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let want = golden["text_logps"][0].as_array().unwrap();
    assert_eq!((got.len(), want.len()), (999, 999));
    for (i, (got, want)) in got.zip(want).enumerate() {
        let want = want.as_f64().unwrap();
        assert!((got - want).abs() <= CLOSE, "token {}: {got}, expected {want}", i + 1);
    }
}

/// A whole round on the real model, as small as it can be; the model it writes is one like any other.
#[test]
fn the_smallest_run_ends_with_a_model_that_speaks() {
    model();
    let dir = tempfile::tempdir().unwrap();
    let (config, run) = (dir.path().join("config.toml"), dir.path().join("run"));
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
