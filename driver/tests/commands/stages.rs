//! The stages of a round one by one, through the binary, with the small world's model: what one writes the next one
//! reads, and every document holds to its schema.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::calls::{document, hold, world, write};
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn generate_judge_pairs_and_dpo_follow_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let model = world().to_str().unwrap().to_owned();

    write(&file("prompts.jsonl"), &[json!({"prompt": "upper: abc"}), json!({"prompt": "reverse: badge"})]);
    let common = ["--max-new-tokens", "8", "--temperature", "1", "--seed", "3"];
    let args = [
        "generate",
        "--model",
        &model,
        "--prompts",
        &text("prompts.jsonl"),
        "--raw",
        "-n",
        "4",
        "--out",
        &text("answers.jsonl"),
    ];
    let answers = document(&[&args[..], &common].concat());
    assert_eq!(answers, Value::Array(lines(&file("answers.jsonl"))), "--json and --out say the same");
    assert_eq!(answers.as_array().unwrap().len(), 8);
    answers.as_array().unwrap().iter().for_each(|a| hold("generated", a));
    let again = document(&[&args[..], &common].concat());
    assert_eq!(answers, again, "the same seed gives the same answers");

    // The shipped judge prompt is longer than this model's context.
    fs::write(file("judge.txt"), "{{ question }} {{ answer }}\n").unwrap();
    let (answers, template, scored) = (text("answers.jsonl"), text("judge.txt"), text("scored.jsonl"));
    let report = document(&[
        "judge",
        "--model",
        &model,
        "--responses",
        &answers,
        "--mode",
        "expected",
        "--template",
        &template,
        "--out",
        &scored,
    ]);
    hold("agreement", &report);
    let verdicts = lines(&file("scored.jsonl"));
    assert_eq!(verdicts.len(), 8);
    verdicts.iter().for_each(|v| hold("judged", v));
    assert_eq!(report[0]["scored"], 8);

    let report = document(&["pairs", "--verdicts", &scored, "--out", &text("pairs.jsonl")]);
    hold("pairs_report", &report);
    let pairs = lines(&file("pairs.jsonl"));
    assert_eq!(report["pairs"], pairs.len());
    pairs.iter().for_each(|p| {
        hold("preference", p);
        assert!(p["score_chosen"].as_f64() > p["score_rejected"].as_f64());
    });
}

#[test]
fn conversations_go_through_all_stages() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let model = world().to_str().unwrap().to_owned();
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let talk = json!([say("user", "upper: ab"), say("assistant", "AB"), say("user", "upper: cab")]);
    let prompts = [
        json!({"prompt": talk, "tools": [{"name": "f"}], "chat_template_kwargs": {"thinking": false}}),
        json!({"prompt": [{"role": "user", "content": [{"type": "text", "text": "reverse: bad"}]}]}),
    ];
    write(path("prompts.jsonl").as_ref(), &prompts);
    let mut args = vec!["generate", "--model", &model, "--max-new-tokens", "8", "--temperature", "1", "-n", "6"];
    let (asked, answers) = (path("prompts.jsonl"), path("answers.jsonl"));
    args.extend(["--prompts", &asked, "--out", &answers]);
    let made = document(&args);
    assert_eq!(made[0]["prompt"], talk);
    assert_eq!(made[0]["tools"], prompts[0]["tools"]);
    assert_eq!(made[6]["prompt"], prompts[1]["prompt"]);
    fs::write(path("judge.txt"), "{{ question }} {{ answer }}\n").unwrap();
    let (template, scored, pairs) = (path("judge.txt"), path("scored.jsonl"), path("pairs.jsonl"));
    let judge = ["judge", "--model", &model, "--responses", &answers, "--out", &scored, "--mode", "expected"];
    document(&[&judge[..], &["--template", &template]].concat());
    document(&["pairs", "--verdicts", &scored, "--out", &pairs, "--min-gap", "0.0001"]);
    let written = lines(pairs.as_ref());
    assert_eq!(written[0]["prompt"], talk);
    assert_eq!(written[0]["chat_template_kwargs"], prompts[0]["chat_template_kwargs"]);
    let trained = document(&["dpo", "--model", &model, "--data", &pairs, "--out", &path("tuned"), "--epochs", "1"]);
    assert_eq!(trained["read"][0]["forms"]["conversations with a prompt"], written.len());
}

#[test]
fn rules_take_prompts_to_preferences_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let model = world().to_str().unwrap().to_owned();
    let letter =
        |letter: &str| json!({"letter": letter, "let_relation": "at least", "let_frequency": 1, "keywords": null});
    let asked = |word: &str| {
        json!({"prompt": [{"role": "user", "content": format!("upper: {word}")}],
               "instruction_id_list": ["keywords:letter_frequency", "keywords:letter_frequency"],
               "kwargs": [letter("f"), letter("g")]})
    };
    let prompts = ["abcd", "bcde", "cdef"].map(asked);
    write(path("prompts.jsonl").as_ref(), &prompts);
    let (asked, answers, scored, pairs) =
        (path("prompts.jsonl"), path("answers.jsonl"), path("s.jsonl"), path("p.jsonl"));
    let mut args = vec!["generate", "--model", &model, "--max-new-tokens", "8", "--temperature", "1.5", "-n", "6"];
    args.extend(["--prompts", &asked, "--out", &answers]);
    let made = document(&args);
    made.as_array().unwrap().iter().for_each(|a| hold("generated", a));
    assert_eq!(made[6]["kwargs"], prompts[1]["kwargs"]);
    document(&["judge", "--responses", &answers, "--mode", "rules,vote", "--out", &scored]);
    let verdicts = lines(scored.as_ref());
    verdicts.iter().for_each(|v| hold("judged", v));
    assert!(
        verdicts.iter().all(|v| v["score"] == v["verdicts"]["rules"]["score"] && v["verdicts"]["vote"].is_object())
    );
    assert!(verdicts.iter().any(|v| v["score"] == 2.5) && verdicts.iter().any(|v| v["score"] == 5.0));
    document(&["pairs", "--verdicts", &scored, "--out", &pairs]);
    let written = lines(pairs.as_ref());
    written.iter().for_each(|pair| hold("preference", pair));
    assert_eq!(written[0]["kwargs"], prompts[0]["kwargs"]);
    let trained = document(&["dpo", "--model", &model, "--data", &pairs, "--out", &path("tuned"), "--epochs", "1"]);
    assert_eq!(trained["read"][0]["forms"]["conversations with a prompt"], written.len());
}

#[test]
fn what_signals_cannot_score_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, out) = (dir.path().join("answers.jsonl"), dir.path().join("scored.jsonl"));
    let fails = |mode: &str, records: &[Value], words: &[&str]| {
        write(&from, records);
        let mut command = cargo_bin_cmd!("selfreward");
        command.args(["judge", "--mode", mode, "--responses", from.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        let error = String::from_utf8(command.assert().code(1).get_output().stderr.clone()).unwrap();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!out.exists());
    };
    let answer = |more: Value| {
        let mut record = json!({"prompt": "How much?", "response": "1"});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    let rule = |id: &str, kwargs: Value| answer(json!({"instruction_id_list": [id], "kwargs": [kwargs]}));
    let right = rule("punctuation:no_comma", json!({}));
    fails("rules", &[right.clone(), answer(json!({}))], &["answers.jsonl: record 2", "has no instruction_id_list"]);
    fails("rules", &[rule("no_comma", json!({}))], &["record 1", "unknown kind", "punctuation:no_comma"]);
    let words = json!({"relation": "at least", "num_words": "ten"});
    fails("rules", &[rule("length_constraints:number_words", words)], &["num_words is \"ten\"", "a whole number"]);
    fails("key", &[answer(json!({"answer": "#### many"}))], &["record 1", "expected a number"]);
    fails("key", &[answer(json!({}))], &["record 1", "neither answer nor pattern"]);
    fails("vote", &[answer(json!({}))], &["answers.jsonl", "How much?", "at least 2"]);
    fails("rules,yes", &[right], &["--mode yes asks a model", "--model"]);
}

#[test]
fn pairs_take_the_best_against_the_worst_and_count_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (scored, out) = (dir.path().join("scored.jsonl"), dir.path().join("pairs.jsonl"));
    let verdict =
        |prompt: &str, response: &str, score: Value| json!({"prompt": prompt, "response": response, "score": score});
    write(
        &scored,
        &[
            verdict("p", "good", json!(4.0)),
            verdict("tie", "one", json!(2.0)),
            verdict("p", "bad", json!(1.0)),
            verdict("tie", "two", json!(2.0)),
            verdict("p", "unread", Value::Null),
            verdict("few", "alone", json!(3.0)),
        ],
    );
    let report = document(&["pairs", "--verdicts", scored.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(report, json!({"prompts": 3, "pairs": 1, "ties": 1, "too_few": 1}));
    let pair = &lines(&out)[0];
    assert_eq!((&pair["chosen"][0]["content"], &pair["rejected"][0]["content"]), (&json!("good"), &json!("bad")));
}

#[test]
fn a_report_is_a_page_a_text_a_document_and_files_for_trackers() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(run.join("round-1")).unwrap();
    fs::write(run.join("config.toml"), "[demo]\nseed = \"0\"\n").unwrap();
    let step = |s: u32| json!({"step": s, "loss": 0.7 / f64::from(s), "grad_norm": 2.0});
    write(&run.join("round-1/steps.jsonl"), &[step(1), step(2)]);
    let run = run.to_str().unwrap();
    let found = document(&["report", run]);
    hold("report", &found);
    assert_eq!(found["trainings"][0]["steps"][1]["values"]["loss"], json!(0.35));
    assert!(!dir.path().join("run/report.html").exists(), "the document alone was asked for");
    let text = |args: &[&str]| {
        let mut command = cargo_bin_cmd!("selfreward");
        String::from_utf8(command.args(args).assert().success().get_output().stdout.clone()).unwrap()
    };
    assert_eq!(text(&["report", run]).trim(), format!("{run}/report.html"));
    assert!(fs::read_to_string(format!("{run}/report.html")).unwrap().contains("Loss: round 1 from 0.7 to 0.35."));
    let terminal = text(&["report", run, "--terminal"]);
    assert!(terminal.contains("Loss           round 1  █▁    0.7  0.35"), "{terminal}");
    assert!(terminal.lines().all(|l| l.chars().count() <= 80), "{terminal}");
    let (board, metrics) = (file("board"), file("metrics.jsonl"));
    assert_eq!(text(&["report", run, "-q", "--tensorboard", &board, "--metrics", &metrics]), "");
    assert_eq!(fs::read_dir(Path::new(&board).join("round-1")).unwrap().count(), 1);
    lines(Path::new(&metrics)).iter().for_each(|l| hold("tracked_step", l));
    assert!(text(&["status", run]).contains("report: "));
}

#[test]
fn dpo_and_sft_write_models_that_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let model = world().to_str().unwrap().to_owned();
    let pair = |chosen: &str, rejected: &str| json!({"prompt": "upper: abc", "chosen": chosen, "rejected": rejected});
    write(&dir.path().join("pairs.jsonl"), &[pair("ABC", "abc"), pair("ABC", "CBA"), pair("ABC", "A")]);
    let answer = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion});
    write(&dir.path().join("answers.jsonl"), &[answer("upper: abc", "ABC"), answer("double: ab", "aabb")]);
    for (kind, data) in [("dpo", "pairs.jsonl"), ("sft", "answers.jsonl")] {
        let (data, out) = (text(data), text(kind));
        let report = document(&[
            kind, "--model", &model, "--data", &data, "--out", &out, "--batch", "2", "--lr", "1e-3", "--epochs", "2",
        ]);
        hold("trained", &report);
        assert_eq!(report["steps"], if kind == "dpo" { 4 } else { 2 });
        assert!(!dir.path().join(format!("{kind}.part")).exists(), "{kind}: the working folder stays");
        let answers = document(&[
            "generate",
            "--model",
            &out,
            "--prompt",
            "upper: abc",
            "--raw",
            "--temperature",
            "0",
            "--max-new-tokens",
            "4",
        ]);
        assert_eq!(answers.as_array().unwrap().len(), 1);
        // A finished folder is left as it is.
        let mut command = cargo_bin_cmd!("selfreward");
        command.args([kind, "--model", &model, "--data", &data, "--out", &out]).assert().code(1);
    }
}

#[test]
fn a_profile_names_the_kernels_and_writes_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let model = world().to_str().unwrap().to_owned();
    let generate = ["generate", "--model", &model, "--raw", "--prompt", "upper: abc", "--max-new-tokens", "8"];
    let plain = document(&generate);
    let mut command = cargo_bin_cmd!("selfreward");
    let told = command.args(generate).args(["--json", "--profile", &text("trace.json")]).assert().success();
    let told = told.get_output();
    assert_eq!(serde_json::from_slice::<Value>(&told.stdout).unwrap(), plain);
    let table = String::from_utf8(told.stderr.clone()).unwrap();
    assert!(table.contains("matmul.forward") && table.contains("of the peak"), "{table}");
    hold("trace", &serde_json::from_slice(&fs::read(dir.path().join("trace.json")).unwrap()).unwrap());

    let pair = json!({"prompt_ids": [1, 70, 71], "chosen_ids": [80, 2], "rejected_ids": [81, 2]});
    write(&dir.path().join("pairs.jsonl"), &[pair]);
    let mut command = cargo_bin_cmd!("selfreward");
    let args = ["dpo", "--model", &model, "--data", &text("pairs.jsonl"), "--out", &text("m"), "--profile"];
    let table = String::from_utf8(command.args(args).assert().success().get_output().stderr.clone()).unwrap();
    assert!(table.contains("attention_backward.keys") && table.contains("adamw.step"), "{table}");
}

#[test]
fn the_lists_of_kernels_hold_to_their_schema() {
    let kernels = document(&["bench", "--list"]);
    hold("kernels", &kernels);
    assert!(kernels.as_array().unwrap().iter().any(|k| k["name"] == "matmul"));
    let named = document(&["bench", "--list", "--kernel", "rows,matmul"]);
    assert_eq!(named.as_array().unwrap().len(), 2);
    hold("devices", &document(&["devices"]));
}

#[test]
fn a_model_is_exported_once_and_only_as_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let model = world().join("../../../tests/golden/llama").to_str().unwrap().to_owned();
    let gguf = document(&["export", "--model", &model, "--out", &text("m.gguf"), "--dtype", "f32"]);
    hold("export", &gguf);
    let folder = document(&["export", "--model", &text("m.gguf"), "--out", &text("m"), "--dtype", "bf16"]);
    let quantised = document(&["export", "--model", &model, "--out", &text("k.gguf"), "--quantize", "q4_k_m"]);
    hold("export", &quantised);
    assert_eq!(quantised["dtype"], "Q4_K_M");
    // Rows of 42, 55 and 60; the output matrix should have 6 bits.
    let instead = quantised["instead"].as_array().unwrap();
    for wanted in ["Q4_K", "Q6_K"] {
        let of = instead.iter().find(|i| i["wanted"] == wanted).unwrap();
        assert_eq!(of["stored"], "F16", "{quantised}");
    }
    hold("export", &folder);
    assert_eq!((&gguf["format"], &folder["format"]), (&"gguf".into(), &"hf".into()));
    let refused = |args: &[&str], word: &str| {
        let mut command = cargo_bin_cmd!("selfreward");
        let output =
            command.args(["export", "--model", &model, "--out"]).args(args).assert().code(1).get_output().clone();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(word), "{error}");
    };
    let adapter = world().join("../../../tests/golden/lora/qv").to_str().unwrap().to_owned();
    hold("export", &document(&["export", "--model", &adapter, "--out", &text("adapter"), "--dtype", "f16"]));
    refused(&[&text("m")], "exists already");
    refused(&[&text("m.onnx")], ".onnx files are not written");
    refused(&[&text("q"), "--quantize", "q8_0"], "--quantize is for GGUF");
    refused(&[&text("q.gguf"), "--format", "gguf-lora", "--quantize", "q8_0"], "--quantize is for GGUF");
}
