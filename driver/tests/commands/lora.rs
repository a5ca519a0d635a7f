//! The binary with PEFT folders: `dump` against torch + PEFT, and a LoRA training that writes a folder it can read.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let float = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let read = |t: &safetensors::tensor::TensorView| t.data().chunks_exact(4).map(float).collect();
    file.tensors().iter().map(|(name, t)| (name.clone(), (t.shape().to_vec(), read(t)))).collect()
}

#[track_caller]
fn compare(got: &Path, want: &Path) {
    let (got, want) = (tensors(got), tensors(want));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, (shape, want)) in want {
        assert_eq!(got[&name].0, shape, "{name}");
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let error = norm(&mut got[&name].1.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
        assert!(error <= 1e-4, "{name}: off by {error:e}");
    }
}

fn selfreward(args: &[&str], paths: &[(&str, &Path)]) {
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(args);
    paths.iter().for_each(|(flag, path)| {
        command.arg(flag).arg(path);
    });
    command.assert().success();
}

#[test]
fn logits_and_gradients_are_those_of_peft() {
    let dir = tempfile::tempdir().unwrap();
    for adapter in std::fs::read_dir(golden("lora")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = adapter.file_name().unwrap().to_str().unwrap();
        let expected = json(&adapter.join("expected.json"));
        let base = golden(expected["base"].as_str().unwrap());
        let file = base.join("model.gguf");
        let model = if file.exists() { &file } else { &base };
        let out = dir.path().join(format!("{name}.safetensors"));
        selfreward(
            &["dump", "logits"],
            &[("--model", &adapter), ("--tokens", &base.join("tokens.json")), ("--out", &out)],
        );
        compare(&out, &adapter.join("logits.safetensors"));
        let out = dir.path().join(name);
        let beta = expected["dpo"]["beta"].to_string();
        selfreward(
            &["dump", "dpo", "--beta", &beta],
            &[("--model", &adapter), ("--ref", model), ("--data", &base.join("pairs.jsonl")), ("--out", &out)],
        );
        compare(&out.join("grads.safetensors"), &adapter.join("grads.safetensors"));
        let loss = |v: &Value| v["loss"].as_f64().unwrap();
        let (got, want) = (loss(&json(&out.join("metrics.json"))), loss(&expected["dpo"]));
        assert!((got - want).abs() <= 1e-4 * want, "{name}: {got} instead of {want}");
    }
}

#[test]
fn a_trained_adapter_is_a_model_and_trains_on() {
    let dir = tempfile::tempdir().unwrap();
    let (base, first, second) = (golden("llama"), dir.path().join("first"), dir.path().join("second"));
    let data = base.join("pairs.jsonl");
    let options = ["dpo", "--batch", "4", "--lr", "1e-2", "--lora-rank", "3", "--lora-targets", "q_proj,down_proj"];
    selfreward(&options, &[("--model", &base), ("--data", &data), ("--out", &first)]);
    let shapes = |folder: &Path| -> Vec<(String, Vec<usize>)> {
        tensors(&folder.join("adapter_model.safetensors")).into_iter().map(|(n, (s, _))| (n, s)).collect()
    };
    assert_eq!(shapes(&first).len(), 8);
    assert_eq!(shapes(&first)[0].0, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
    let steps = std::fs::read_to_string(first.join("steps.jsonl")).unwrap();
    let step: Value = serde_json::from_str(steps.lines().next().unwrap()).unwrap();
    assert_eq!((&step["rewards/chosen"], &step["rewards/rejected"]), (&Value::from(0.0), &Value::from(0.0)));
    selfreward(&["dpo", "--batch", "4"], &[("--model", &first), ("--data", &data), ("--out", &second)]);
    assert_eq!(shapes(&first), shapes(&second));
}

fn export(model: &Path, out: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = cargo_bin_cmd!("selfreward");
    command.arg("export").arg("--model").arg(model).arg("--out").arg(out).args(args).assert()
}

/// An adapter goes through `export` unchanged, and so do the rules that say which layers have one.
#[test]
fn an_adapter_is_exported_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["all", "patterns", "blocks"] {
        let (adapter, out) = (golden("lora").join(name), dir.path().join(name));
        let done = export(&adapter, &out, &["--json"]).success();
        let document: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
        assert_eq!((&document["format"], &document["dtype"]), (&"peft".into(), &"F32".into()));
        let tensors = |folder: &Path| tensors(&folder.join("adapter_model.safetensors"));
        assert_eq!(tensors(&out), tensors(&adapter), "{name}");
        let [got, want] = [&out, &adapter].map(|folder| json(&folder.join("adapter_config.json")));
        for key in ["r", "lora_alpha", "use_rslora", "exclude_modules", "layers_to_transform", "layers_pattern"] {
            let number = |v: &Value| v.as_f64().map_or(v.clone(), Value::from);
            assert_eq!(number(&got[key]), number(&want[key]), "{name}: {key}");
        }
        assert_eq!(got["target_modules"], want["target_modules"], "{name}");
        for key in ["rank_pattern", "alpha_pattern"] {
            let numbers = |v: &Value| -> Vec<(String, Option<f64>)> {
                v[key].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.as_f64())).collect()
            };
            assert_eq!(numbers(&got), numbers(&want), "{name}: {key}");
        }
        let base = Path::new(got["base_model_name_or_path"].as_str().unwrap());
        assert!(base.is_absolute() && base.join("config.json").exists(), "{}", base.display());
    }
    let half = dir.path().join("half.gguf");
    export(&golden("lora/qv"), &half, &["--format", "peft", "--dtype", "bf16"]).success();
    let bytes = std::fs::read(half.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.tensors().iter().all(|(_, t)| t.dtype() == safetensors::Dtype::BF16));
}

#[test]
fn an_adapter_is_merged_only_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, base) = (golden("lora/qv"), golden("qwen3"));
    let out = |name: &str| dir.path().join(name);
    for (model, name, args, words) in [
        (&adapter, "m.gguf", &[][..], &["--merge", "--format peft"][..]),
        (&adapter, "m", &["--format", "hf"], &["--merge", "--format peft"]),
        (&adapter, "m", &["--merge", "--format", "peft"], &["exclude each other"]),
        (&adapter, "m", &["--quantize", "q8_0"], &["--quantize"]),
        (&base, "m", &["--format", "peft"], &["qwen3", "no adapter"]),
    ] {
        let failed = export(model, &out(name), args).code(1);
        let stderr = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
        assert!(words.iter().all(|word| stderr.contains(word)), "{args:?}: {stderr}");
        assert!(!out(name).exists(), "{args:?}");
    }
    // Nothing to merge: the model as it is, with a note.
    let done = export(&base, &out("base"), &["--merge"]).success();
    let stderr = String::from_utf8(done.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("no adapter to merge"), "{stderr}");
    let weights = |folder: &Path| tensors(&folder.join("model.safetensors"));
    assert_eq!(weights(&out("base")), weights(&base));
    // A merged model gives the adapter's logits from the base's graph; a tied one may become untied.
    for (adapter, base) in [
        ("qv", "qwen3"),
        ("ensured", "qwen3"),
        ("dora", "qwen2"),
        ("dora_some", "gemma3"),
        ("dora_outer", "llama"),
        ("dora_tied", "gemma3"),
        ("tied", "gemma3"),
    ] {
        let (adapter, merged, file) = (golden("lora").join(adapter), out(adapter), out(&format!("{adapter}.gguf")));
        export(&adapter, &merged, &["--merge"]).success();
        let mut models = vec![merged];
        // What the other golden models have a GGUF file cannot say.
        if base == "qwen3" {
            export(&adapter, &file, &["--merge"]).success();
            models.push(file);
        }
        for model in models {
            let (logits, tokens) = (out("logits.safetensors"), golden(base).join("tokens.json"));
            selfreward(&["dump", "logits"], &[("--model", &model), ("--tokens", &tokens), ("--out", &logits)]);
            compare(&logits, &adapter.join("logits.safetensors"));
        }
    }
}

/// llama.cpp's file holds q and k by another order of rows, and one scale for all: read again, the logits are PEFT's.
#[test]
fn an_adapter_goes_through_llama_cpps_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["all", "qv", "fused", "post_norms", "patterns", "blocks"] {
        let adapter = golden("lora").join(name);
        let base = golden(json(&adapter.join("expected.json"))["base"].as_str().unwrap());
        let (file, out) = (dir.path().join(format!("{name}.gguf")), dir.path().join(format!("{name}.safetensors")));
        export(&adapter, &file, &["--format", "gguf-lora"]).success();
        let tokens = base.join("tokens.json");
        let paths = [("--model", &*file), ("--tokens", &tokens), ("--out", &out), ("--base", &base)];
        selfreward(&["dump", "logits"], &paths);
        compare(&out, &adapter.join("logits.safetensors"));
        // It names its base itself.
        selfreward(&["dump", "logits"], &paths[..3]);
        let back = dir.path().join(name);
        export(&file, &back, &["--format", "peft"]).success();
        let names = |folder: &Path| -> Vec<(String, Vec<usize>)> {
            let tensors = tensors(&folder.join("adapter_model.safetensors"));
            tensors.into_iter().map(|(name, (shape, _))| (name, shape)).collect()
        };
        assert_eq!(names(&back), names(&adapter), "{name}");
    }
    // Over another base: the first tensor that does not fit, and both shapes.
    let logits = |file: &str, base: &str| {
        let mut command = cargo_bin_cmd!("selfreward");
        command.args(["dump", "logits", "--model"]).arg(dir.path().join(file)).arg("--base").arg(golden(base));
        command.arg("--tokens").arg(golden(base).join("tokens.json")).arg("--out").arg(dir.path().join("none"));
        String::from_utf8(command.assert().code(1).get_output().stderr.clone()).unwrap()
    };
    let told = logits("all.gguf", "llama_bias");
    assert!(["blk.0.attn_q.weight.lora_a", "[3, 42]", "q_proj.weight"].iter().all(|w| told.contains(w)), "{told}");
    let told = logits("all.gguf", "qwen3");
    assert!(told.contains("\"llama\"") && told.contains("\"qwen3\""), "{told}");
    for (model, word) in [("llama", "no adapter"), ("lora/dora", "DoRA"), ("lora/tied", "llama.cpp's adapter file")] {
        let failed = export(&golden(model), &dir.path().join("none"), &["--format", "gguf-lora"]).code(1);
        let told = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
        assert!(told.contains(word), "{model}: {told}");
    }
}

#[test]
fn an_adapter_keeps_its_dropout_until_another_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (golden("llama"), golden("llama").join("pairs.jsonl"));
    let train = |options: &[&str], model: &Path, out: &str| -> (PathBuf, String) {
        let out = dir.path().join(out);
        let mut command = cargo_bin_cmd!("selfreward");
        command.args(["dpo", "--batch", "4", "--lr", "1e-2"]).args(options);
        let output =
            command.arg("--model").arg(model).arg("--data").arg(&data).arg("--out").arg(&out).output().unwrap();
        (out, String::from_utf8(output.stderr).unwrap())
    };
    let rate = |folder: &Path| json(&folder.join("adapter_config.json"))["lora_dropout"].clone();
    let loss = |folder: &Path| {
        let steps = std::fs::read_to_string(folder.join("steps.jsonl")).unwrap();
        serde_json::from_str::<Value>(steps.lines().next().unwrap()).unwrap()["loss"].as_f64().unwrap()
    };
    let even = std::f64::consts::LN_2;

    let new = ["--lora-rank", "3", "--lora-dropout", "0.3", "--dropout", "0.1"];
    let (first, notes) = train(&new, &base, "first");
    assert!(notes.contains("dropout is on"), "{notes}");
    assert_eq!(rate(&first), Value::from(0.3));
    assert!((loss(&first) - even).abs() > 1e-6);
    let (kept, _) = train(&[], &first, "kept");
    assert_eq!(rate(&kept), Value::from(0.3));
    assert!((loss(&kept) - even).abs() > 1e-6);
    let (off, notes) = train(&["--lora-dropout", "0"], &first, "off");
    assert_eq!((rate(&off), notes.contains("dropout")), (Value::from(0.0), false));
    assert!((loss(&off) - even).abs() <= 1e-12);

    // What `dump` writes is without dropout.
    let dumped = dir.path().join("dumped");
    selfreward(&["dump", "dpo"], &[("--model", &first), ("--data", &data), ("--out", &dumped)]);
    assert!((json(&dumped.join("metrics.json"))["loss"].as_f64().unwrap() - even).abs() <= 1e-12);

    // Any of the flags asks for an adapter.
    let (asked, _) = train(&["--lora-dropout", "0.1"], &base, "asked");
    assert_eq!(rate(&asked), Value::from(0.1));
    let (_, error) = train(&["--dropout", "1"], &base, "refused");
    assert!(error.contains("below 1"), "{error}");
}
