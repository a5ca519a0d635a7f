//! The driver through its binary: help, wrong usage, broken files, exit codes.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use selfreward::arch::Dtype;
use selfreward::arch::lora::{Adapter, LayerRules, LoraConfig, Modules};
use selfreward::source::{ModelSource, save_adapter};
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use std::fs;
use std::path::{Path, PathBuf};

/// Every command, as the help must list it.
const COMMANDS: [&str; 20] = [
    "demo", "devices", "check", "bench", "plan", "pull", "generate", "chat", "run", "status", "report", "prompts",
    "judge", "pairs", "data", "sft", "dpo", "eval", "export", "dump",
];
const DUMPS: [&str; 7] = ["tokens", "logits", "hidden", "logps", "generate", "dpo", "sft"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn selfreward(args: &[&str]) -> Command {
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(args).env_remove("RUST_BACKTRACE");
    command
}

/// Runs and returns (exit code, stdout, stderr).
fn outcome(args: &[&str]) -> (i32, String, String) {
    let out = selfreward(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// Fails with exit code 1 and one line of error that holds every one of `words`; nothing on stdout.
#[track_caller]
fn fails_naming(args: &[&str], words: &[&str]) {
    let (code, stdout, stderr) = outcome(args);
    assert_eq!(code, 1, "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert!(stderr.matches("os error").count() <= 1, "{args:?}: the system's words stand twice in: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: '{word}' is missing in: {stderr}");
    }
}

#[test]
fn help_lists_every_command_and_each_has_its_own() {
    let (code, help, _) = outcome(&["--help"]);
    assert_eq!(code, 0);
    for command in COMMANDS {
        assert!(
            help.lines().any(|l| l.trim_start().starts_with(&format!("{command} "))),
            "{command} is not in the help"
        );
        let (code, own, _) = outcome(&[command, "--help"]);
        assert_eq!(code, 0, "{command}");
        assert!(own.contains("Usage: selfreward"), "{command}: {own}");
        for flag in ["--device", "--memory", "--seed", "--json", "--quiet", "--verbose"] {
            assert!(own.contains(flag), "{command} does not show {flag}");
        }
    }
    for kind in DUMPS {
        assert_eq!(outcome(&["dump", kind, "--help"]).0, 0, "dump {kind}");
    }
}

#[test]
fn the_version_is_the_crates() {
    let (code, out, _) = outcome(&["--version"]);
    assert_eq!((code, out.trim()), (0, concat!("selfreward ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &[][..],
        &["fly"],
        &["devices", "--wings"],
        &["eval", "--task", "judge", "--model", "m", "--data", "d", "--out", "o"],
        &["bench", "--compare", "a", "b", "--fail-below", "nan"],
        &["devices", "--matrix-units", "--invariant"],
        &["generate"],
        &["generate", "--model", "m"],
        &["generate", "--model", "m", "--prompt", "a", "--prompts", "b"],
        &["generate", "--model", "m", "--prompt", "a", "--temperature", "-1"],
        &["generate", "--model", "m", "--prompt", "a", "--top-p", "1.5"],
        &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "0"],
        &["generate", "--model", "m", "--prompt", "a", "--kv", "bf16"],
        &["chat"],
        &["pull"],
        &["plan"],
        &["plan", "--task", "dpo"],
        &["plan", "--task", "run"],
        &["plan", "--task", "sft", "--model", "m", "--config", "c"],
        &["plan", "--task", "sft", "--model", "m", "--stored", "q4_1"],
        &["plan", "--task", "sft", "--config", "c", "--stored", "q9"],
        &["run"],
        &["status"],
        &["report"],
        &["report", "run", "--terminal", "--json"],
        &["dump"],
        &["dump", "logits", "--model", "m"],
        &["demo", "--judge", "coin"],
        &["demo", "--train", "hope"],
        &["demo", "--rounds", "none"],
        &["judge", "--model", "m", "--responses", "r", "--out", "o", "--mode", "feeling"],
        &["dpo", "--model", "m", "--data", "d", "--out", "o", "--loss", "nonsense"],
        &["sft", "--model", "m", "--data", "a,b", "--out", "o", "--mix", "1"],
        &["dpo", "--model", "m", "--data", "d", "--out", "o", "--schedule", "never"],
        &["eval"],
        &["eval", "--model", "m", "--against", "n", "--prompts", "p"],
        &["eval", "--model", "m", "--prompts", "p", "--judge", "j"],
        &["eval", "--model", "m", "--against", "n", "--judge", "j"],
        &["eval", "--task", "judge", "--model", "m"],
        &["eval", "--task", "perplexity", "--data", "d"],
        &["eval", "--task", "beauty"],
        &["eval", "--task", "ifeval", "--data", "d"],
        &["eval", "--task", "gsm8k", "--responses", "r"],
        &["eval", "--task", "perplexity", "--model", "m", "--data", "d", "--stride", "0"],
        &["eval", "--sampled", "--mode", "yes"],
        &["bench", "--shape", "1,2"],
        &["bench", "--shape", "1,2,0"],
        &["bench", "--backward"],
        &["bench", "--model", "m", "--pairs", "0,1,1"],
        &["devices", "--memory", "much"],
        &["devices", "-q", "-v"],
    ] {
        let (code, stdout, stderr) = outcome(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert_eq!(stdout, "", "{args:?}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn types_of_keys_and_values_are_listed() {
    let (code, _, stderr) = outcome(&["chat", "--model", "m", "--kv", "bf16"]);
    assert!(code == 2 && stderr.contains("bf16") && stderr.contains("f32, f16"), "{stderr}");
}

#[test]
fn a_missing_model_is_named() {
    fails_naming(&["generate", "--model", "/nowhere/model", "--prompt", "Hi"], &["/nowhere/model"]);
    fails_naming(
        &["dump", "logits", "--model", "/nowhere/x.gguf", "--tokens", "t.json", "--out", "o"],
        &["/nowhere/x.gguf"],
    );
}

#[test]
fn an_unknown_device_is_named_with_those_there_are() {
    fails_naming(&["devices", "--device", "no such gpu"], &["no such gpu", "there are"]);
}

#[test]
fn matrix_units_are_asked_of_devices_that_have_them() {
    let (_, devices, _) = outcome(&["devices", "--json"]);
    let devices: serde_json::Value = serde_json::from_str(&devices).unwrap();
    let chosen = &devices["devices"][devices["chosen"].as_u64().unwrap() as usize];
    let has = chosen["features"].as_array().unwrap().iter().any(|f| f == "matrix-units");
    let check = ["check", "--kernel", "peak_matrix", "--quick"];
    fails_naming(&check, &["peak_matrix", "--matrix-units"]);
    let asked = [&check[..], &["--matrix-units"]].concat();
    match has {
        true => assert_eq!(outcome(&asked).0, 0),
        false => fails_naming(&asked, &["has no matrix units", "run without --matrix-units"]),
    }
}

#[test]
fn a_config_of_an_unknown_family_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(golden("llama/config.json")).unwrap().replace("\"llama\"", "\"mammal\"");
    fs::write(dir.path().join("config.json"), config).unwrap();
    fs::copy(golden("llama/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let dir = dir.path().to_str().unwrap();
    fails_naming(
        &["dump", "logits", "--model", dir, "--tokens", &tokens(), "--out", "/dev/null"],
        &["mammal", "config.json"],
    );
}

#[test]
fn a_config_that_disagrees_with_the_tensors_names_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        fs::read_to_string(golden("llama/config.json")).unwrap().replace("\"hidden_size\": 42", "\"hidden_size\": 44");
    fs::write(dir.path().join("config.json"), config).unwrap();
    fs::copy(golden("llama/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let dir = dir.path().to_str().unwrap();
    fails_naming(
        &["dump", "logits", "--model", dir, "--tokens", &tokens(), "--out", "/dev/null"],
        &["model.embed_tokens.weight", "42", "44"],
    );
}

#[test]
fn a_truncated_weight_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden("llama/config.json"), dir.path().join("config.json")).unwrap();
    let whole = fs::read(golden("llama/model.safetensors")).unwrap();
    for length in [0, 5, 900, whole.len() - 1] {
        fs::write(dir.path().join("model.safetensors"), &whole[..length]).unwrap();
        let dir = dir.path().to_str().unwrap();
        fails_naming(
            &["dump", "logits", "--model", dir, "--tokens", &tokens(), "--out", "/dev/null"],
            &["model.safetensors"],
        );
    }
}

#[test]
fn a_poisoned_weight_is_named_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| path(dir.path().join(name));
    let source = ModelSource::open(&golden("../../src/world/m1")).unwrap();
    let targets = Modules::Names(vec!["q_proj".into()]);
    let layers = LayerRules::default();
    let config = LoraConfig { rank: 2, alpha: 4.0, rslora: false, dora: false, dropout: 0.0, targets, layers };
    let adapter = Adapter::fresh(&source.arch, &config, 0).unwrap();
    let (pairs, examples) = (at("pairs.jsonl"), at("examples.jsonl"));
    fs::write(&pairs, "{\"prompt_ids\": [5, 6], \"chosen_ids\": [7], \"rejected_ids\": [8]}\n").unwrap();
    fs::write(&examples, "{\"prompt_ids\": [5, 6], \"completion_ids\": [7]}\n").unwrap();
    for (number, value) in [f32::NAN, f32::INFINITY, 1e30].into_iter().enumerate() {
        let mut tensors = source.tensors_f32().unwrap();
        tensors[3].data[7] = value;
        let name = tensors[3].name.clone();
        let text = source.text.as_ref();
        let parts =
            ModelParts { config: &source.config, generation_config: None, text, tensors: &tensors, dtype: Dtype::F32 };
        let (folder, gguf, lora) =
            (at(&format!("model{number}")), at(&format!("{number}.gguf")), at(&format!("lora{number}")));
        save_model_parts(folder.as_ref(), &parts).unwrap();
        save_gguf(gguf.as_ref(), &ModelParts { text: None, ..parts }).unwrap();
        let mut poisoned = adapter.clone();
        poisoned.tensors[1].data[7] = value;
        save_adapter(lora.as_ref(), &source, &poisoned, Dtype::F32).unwrap();
        for (model, tensor) in [(&folder, &name), (&gguf, &name), (&lora, &poisoned.tensors[1].name)] {
            let words = [tensor.as_str(), "value 7"];
            if *model != gguf {
                fails_naming(&["generate", "--model", model, "--prompt", "upper: abc", "--raw"], &words);
            }
            fails_naming(&["dpo", "--model", model, "--data", &pairs, "--out", &at("out")], &words);
            fails_naming(&["sft", "--model", model, "--data", &examples, "--out", &at("out")], &words);
        }
    }
}

#[test]
fn token_ids_outside_the_vocabulary_and_empty_lists_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.json");
    let out = dir.path().join("out.safetensors");
    for (content, words) in
        [("[[1, 103]]", &["103"][..]), ("[[]]", &["empty"]), ("[[1, 2", &["t.json"]), ("{\"a\": 1}", &["t.json"])]
    {
        fs::write(&file, content).unwrap();
        let (model, file, out) = (golden("llama"), file.to_str().unwrap(), out.to_str().unwrap());
        fails_naming(&["dump", "logits", "--model", model.to_str().unwrap(), "--tokens", file, "--out", out], words);
        assert!(!Path::new(out).exists());
    }
}

#[test]
fn a_line_that_is_no_json_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pairs.jsonl");
    let good = "{\"prompt_ids\": [5], \"chosen_ids\": [6], \"rejected_ids\": [7]}\n";
    fs::write(&file, format!("{good}{{oops\n{good}")).unwrap();
    let out = dir.path().join("out");
    let args = [
        "dump",
        "dpo",
        "--model",
        &path(golden("llama")),
        "--data",
        &path(&file),
        "--loss",
        "sigmoid",
        "--beta",
        "0.1",
        "--out",
        &path(&out),
    ];
    fails_naming(&args, &["pairs.jsonl", "line 2"]);
    assert!(!out.exists());
}

#[test]
fn empty_prompts_and_answers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (prompts, answers) = (dir.path().join("prompts.jsonl"), dir.path().join("answers.jsonl"));
    let model = path(golden("llama"));
    fails_naming(&["generate", "--model", &model, "--prompt", ""], &["the prompt is empty"]);
    fs::write(&prompts, "{\"prompt\": \"fine\"}\n{\"prompt\": \"\"}\n").unwrap();
    fails_naming(
        &["generate", "--model", &model, "--prompts", &path(&prompts)],
        &["prompts.jsonl", "prompt 2 is empty"],
    );
    fs::write(&prompts, "").unwrap();
    fails_naming(&["generate", "--model", &model, "--prompts", &path(&prompts)], &["prompts.jsonl", "holds no prompt"]);
    fs::write(&answers, "{\"prompt_ids\": [5], \"completion_ids\": []}\n").unwrap();
    let out = path(dir.path().join("out"));
    fails_naming(
        &["sft", "--model", &model, "--data", &path(&answers), "--out", &out],
        &["answers.jsonl", "none of 1 records can be used", "with an empty answer"],
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn text_for_a_model_without_a_tokenizer_is_refused() {
    fails_naming(&["generate", "--model", &path(golden("llama")), "--prompt", "Hi"], &["tokenizer.json"]);
}

#[test]
fn an_existing_folder_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let out = path(dir.path());
    let data = path(golden("llama/pairs.jsonl"));
    fails_naming(
        &["dpo", "--model", &path(golden("llama")), "--data", &data, "--out", &out],
        &[&out, "exists already"],
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unwritable_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let out = file.join("out.safetensors");
    fails_naming(
        &["dump", "logits", "--model", &path(golden("llama")), "--tokens", &tokens(), "--out", &path(&out)],
        &["out.safetensors"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "in the way");
}

#[test]
fn a_run_config_and_a_run_folder_that_are_missing_are_named() {
    fails_naming(&["run", "/nowhere/config.toml"], &["/nowhere/config.toml"]);
    fails_naming(&["status", "/nowhere/run"], &["/nowhere/run"]);
    fails_naming(&["report", "/nowhere/run"], &["/nowhere/run"]);
}

#[test]
fn devices_prints_one_json_document() {
    let (code, stdout, stderr) = outcome(&["devices", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let devices = report["devices"].as_array().unwrap();
    let chosen = report["chosen"].as_u64().unwrap() as usize;
    assert!(chosen < devices.len());
    assert_eq!(devices[chosen]["index"], report["chosen"]);
    assert!(!report["reason"].as_str().unwrap().is_empty());
    assert_eq!(stderr, "");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let binary = assert_cmd::cargo::cargo_bin!("selfreward");
    let mut child = std::process::Command::new(binary)
        .args(["devices", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "");
}

fn path(p: impl AsRef<Path>) -> String {
    p.as_ref().to_str().unwrap().to_owned()
}

fn tokens() -> String {
    path(golden("llama/tokens.json"))
}

#[test]
fn what_mpirun_starts_several_times_shares_its_work_or_is_refused() {
    for (args, word) in [
        (&["devices"][..], "only sft and dpo share"),
        #[cfg(not(feature = "mpi"))]
        (&["sft", "--model", "m", "--data", "d", "--out", "o"][..], "built without MPI"),
    ] {
        for size in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
            let out = selfreward(args).env(size, "2").output().unwrap();
            let told = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(1), "{told}");
            assert!(out.stdout.is_empty() && told.contains(word), "{told}");
        }
    }
    assert!(selfreward(&["devices"]).env("OMPI_COMM_WORLD_SIZE", "1").output().unwrap().status.success());
}
