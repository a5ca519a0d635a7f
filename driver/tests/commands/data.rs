//! `data`: what it builds is what `sft` and `dpo` read.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::path::Path;

fn run(args: &[&str]) -> assert_cmd::assert::Assert {
    cargo_bin_cmd!("selfreward").args(args).assert()
}

fn document(args: &[&str]) -> Value {
    let done = run(&[args, &["--json"]].concat()).success();
    let document = serde_json::from_slice(&done.get_output().stdout).unwrap();
    validate(&schema("data_report"), &document, "data_report").unwrap();
    document
}

fn lines(path: &str) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn what_is_built_can_be_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let record = |q: usize, score: f64| {
        json!({"prompt": format!("upper: {}", ["abc", "bcd", "cde", "def"][q]), "response": format!("r{score}"),
               "score": score, "verdict": "Because."})
    };
    let all: Vec<String> =
        (0..4).flat_map(|q| [1.0, 4.0, 5.0].map(|s| record(q, s - 0.2 * q as f64).to_string() + "\n")).collect();
    std::fs::write(file("scored.jsonl"), all.concat()).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1");
    let model = model.to_str().unwrap();
    let from = ["--from", &file("scored.jsonl")];

    let ift = document(&[&["data", "ift"][..], &from, &["--out", &file("ift.jsonl"), "--min-score", "4.5"]].concat());
    assert_eq!((&ift["records"], &ift["questions"]), (&json!(3), &json!(4)));
    let train = ["sft", "--model", model, "--data", &file("ift.jsonl"), "--out", &file("tuned"), "-q"];
    run(&train).success();

    let pairs = document(&[&["data", "preferences"][..], &from, &["--out", &file("pairs.jsonl"), "--every"]].concat());
    assert_eq!(pairs["records"], json!(12));
    let train = ["dpo", "--model", model, "--data", &file("pairs.jsonl"), "--out", &file("preferred"), "-q"];
    run(&train).success();

    let held = ["--held-out", "0.5", "--held-out-file", &file("held.jsonl"), "--max-share", "0.5"];
    let eft = document(&[&["data", "eft"][..], &from, &["--out", &file("eft.jsonl")], &held].concat());
    assert_eq!(eft["records"].as_u64().unwrap() + eft["held_out"].as_u64().unwrap(), 12 - dropped(&eft));
    assert!(lines(&file("held.jsonl")).iter().all(|r| r["score_reference"].is_f64()));
    let said = lines(&file("eft.jsonl"))[0]["messages"][1]["content"].as_str().unwrap().to_owned();
    assert!(said.starts_with("Because.\nScore: "), "{said}");
}

fn dropped(report: &Value) -> u64 {
    report["dropped_for_balance"].as_array().unwrap().iter().filter_map(Value::as_u64).sum()
}

#[test]
fn what_cannot_be_built_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ranked = json!({"prompt": "upper: abc", "chosen": "ABC", "rejected": "x"}).to_string();
    std::fs::write(file("ranked.jsonl"), ranked + "\n").unwrap();
    let (from, out) = (file("ranked.jsonl"), file("out.jsonl"));
    let fails = |args: &[&str], word: &str| {
        let done = run(&[args, &["--from", &from, "--out", &out]].concat()).code(1);
        let stderr = String::from_utf8(done.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(word), "{args:?}: {stderr}");
        assert!(!Path::new(&out).exists(), "{args:?}");
    };
    fails(&["data", "eft"], "--model");
    fails(&["data", "ift", "--held-out", "0.5"], "--held-out-file");
    fails(&["data", "ift", "--held-out", "1", "--held-out-file", &file("h.jsonl")], "every question");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1");
    fails(&["data", "eft", "--model", model.to_str().unwrap()], "no verdict agreed");
}

#[test]
fn prompts_with_constraints_are_made_of_topics() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(file("t.jsonl"), "{\"topic\": \"a kite\"}\n{\"prompt\": \"Explain tea.\"}\n").unwrap();
    let (from, dev, last) = (file("t.jsonl"), file("dev.jsonl"), file("final.jsonl"));
    let make = ["data", "constraints", "--from", &from];
    let done = run(&[&make[..], &["--count", "12", "--most", "2", "--out", &dev, "--json"]].concat()).success();
    let report: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    validate(&schema("constraints_report"), &report, "constraints_report").unwrap();
    let made = lines(&dev);
    made.iter().for_each(|record| validate(&schema("constrained"), record, "constrained").unwrap());
    assert_eq!((made.len(), report["subjects"].as_u64()), (12, Some(2)));
    let constraints: usize = made.iter().map(|r| r["kwargs"].as_array().unwrap().len()).sum();
    assert_eq!(
        report["kinds"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(),
        constraints as u64
    );
    // What is made is what `eval --task ifeval` reads.
    let answer = |r: &Value| json!({"prompt": r["prompt"], "response": "No."}).to_string() + "\n";
    std::fs::write(file("answers.jsonl"), made.iter().map(answer).collect::<String>()).unwrap();
    run(&["eval", "--task", "ifeval", "--data", &dev, "--responses", &file("answers.jsonl")]).success();
    let fails = |more: &[&str], word: &str| {
        let failed = run(&[&make[..], &["--out", &last], more].concat()).failure();
        let error = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
        assert!(error.contains(word) && !Path::new(&last).exists(), "{error}");
    };
    fails(&["--kinds", "no_comma"], "punctuation:no_comma");
    fails(&["--least", "4"], "least is 4, most is 3");
    fails(&["--kinds", "punctuation:no_comma", "--count", "100", "--most", "1"], "of 100 prompts differ");
    fails(&["--exclude", &dev], "every record is excluded");
    // Without constraints they are the instructions alone.
    let plain = file("plain.jsonl");
    run(&[&make[..], &["--most", "0", "--out", &plain]].concat()).success();
    assert!(lines(&plain).iter().all(|r| r["prompt"] == r["base_prompt"] && r["kwargs"].is_null()));
    std::fs::write(&from, "{\"topic\": \"\"}\n").unwrap();
    fails(&[], "record 1: has neither prompt nor topic");
}

#[test]
fn answers_are_learnt_with_constraints_that_they_meet() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let record = |i: usize| {
        let answer = format!("Kites of paper fly over hill {i}. The wind carries them. Nobody holds the string.");
        json!({"prompt": format!("Describe kite {}.", i % 9), "response": answer, "stopped": !i.is_multiple_of(4)})
            .to_string()
            + "\n"
    };
    std::fs::write(file("answers.jsonl"), (0..40).map(record).collect::<String>()).unwrap();
    let (from, out) = (file("answers.jsonl"), file("ift.jsonl"));
    let make = ["data", "ift", "--rules", "--from", &from, "--most", "2"];
    let report = document(&[&make[..], &["--out", &out, "--count", "50"]].concat());
    let made = lines(&out);
    assert_eq!((made.len(), report["left_out"]["answers that were cut"].as_u64()), (50, Some(10)));
    // What was made is right by the program that checks it.
    let of = |r: &Value, i: usize| r["messages"][i]["content"].as_str().unwrap().to_owned();
    let answer = |r: &Value| {
        let checks = (&r["instruction_id_list"], &r["kwargs"]);
        json!({"prompt": of(r, 0), "response": of(r, 1), "instruction_id_list": checks.0, "kwargs": checks.1})
            .to_string()
            + "\n"
    };
    let (asked, scored) = (file("asked.jsonl"), file("scored.jsonl"));
    std::fs::write(&asked, made.iter().map(answer).collect::<String>()).unwrap();
    run(&["judge", "--responses", &asked, "--mode", "rules", "--out", &scored]).success();
    assert!(lines(&scored).iter().all(|r| r["score"] == 5.0));
    let fails = |arguments: &[&str], word: &str| {
        let failed = run(&[arguments, &["--out", &file("no.jsonl")]].concat()).failure();
        let error = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
        assert!(error.contains(word), "{error}");
    };
    fails(&["data", "ift", "--from", &from, "--most", "2"], "--most goes with --rules");
    fails(&[&make[..], &["--kinds", "language:response_language"]].concat(), "could be fitted to any of 30 answers");
    fails(&["data", "ift", "--rules", "--from", &from, "--most", "0"], "--most is 0");
    fails(&["data", "ift", "--rules", "--from", &asked], "record 1: the answer was given to a prompt with constraints");
    // What is read is not written over.
    let failed = run(&["judge", "--responses", &asked, "--mode", "rules", "--out", &asked]).failure().code(2);
    let error = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
    assert!(error.contains("--out is what --responses reads") && lines(&asked).len() == 50, "{error}");
}

#[test]
fn verdicts_are_learnt_of_answers_that_a_program_checks() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let record = |i: usize, right: bool| {
        let text = if right { "a word" } else { "a, word" };
        json!({"prompt": format!("q{}", i % 9), "response": format!("{text} {}", "b".repeat(i)),
               "stopped": !i.is_multiple_of(3), "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
        .to_string()
            + "\n"
    };
    let all: String = (0..60).flat_map(|i| [record(i, true), record(i, false)]).collect();
    std::fs::write(file("answers.jsonl"), &all).unwrap();
    let (from, out, held, template) = (file("answers.jsonl"), file("eft.jsonl"), file("held.jsonl"), file("t.txt"));
    std::fs::write(&template, "{{ question }} {{ answer }}?\n").unwrap();
    let make = ["data", "eft", "--rules", "--from", &from];
    let more = ["--out", &out, "--held-out", "0.4", "--held-out-file", &held, "--template", &template];
    let report = document(&[&make[..], &more].concat());
    let taught = report["balance"]["kinds"]["punctuation:no_comma"]["taught"].as_u64().unwrap();
    assert_eq!(report["scores"], json!([taught, 0, 0, 0, 0, taught]));
    let by = |when: &str| report["balance"][when]["right_ended"] == report["balance"][when]["wrong_ended"];
    assert!(by("before") && by("taught") && taught > 15, "{report}");
    let records = lines(&out);
    assert!(
        records.len() as u64 == 2 * taught
            && records.iter().all(|r| {
                let [asked, said] = [0, 1].map(|i| r["messages"][i]["content"].as_str().unwrap());
                asked.ends_with('?') && said == if asked.contains(',') { "No" } else { "Yes" }
            })
    );
    let apart = lines(&held);
    assert!(report["held_out"] == apart.len() && apart.iter().all(|r| r["stopped"].is_boolean()));
    // What is held out says the truth, by which a judge is measured.
    assert!(apart.iter().all(|r| {
        let right = r["stopped"] == true && !r["response"].as_str().unwrap().contains(',');
        r["score_reference"] == if right { 5.0 } else { 0.0 }
    }));
    // The same answers as a run keeps them.
    let round = dir.path().join("run/round-1");
    std::fs::create_dir_all(&round).unwrap();
    let prompt = |i: usize| {
        json!({"id": i.to_string(), "round": 1, "prompt": format!("q{i}"), "source": "seed", "key": "",
               "seed": 0, "tokens": 0, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
    };
    let candidate = |(i, r): (usize, &Value)| {
        json!({"id": i.to_string(), "prompt_id": r["prompt"].as_str().unwrap()[1..], "round": 1, "sample": i, "seed": 0,
               "text": r["response"], "token_ids": [], "tokens": 0, "stopped": r["stopped"]})
    };
    let write = |name: &str, all: Vec<Value>| {
        let text: String = all.iter().map(|v| format!("{v}\n")).collect();
        std::fs::write(round.join(name), text).unwrap();
    };
    write("prompts.jsonl", (0..9).map(prompt).collect());
    write("candidates.jsonl", lines(&from).iter().enumerate().map(candidate).collect());
    let (folder, again) = (file("run"), file("again.jsonl"));
    for from in [&folder, round.to_str().unwrap()] {
        [&again, &held].iter().for_each(|old| drop(std::fs::remove_file(old)));
        let more = ["--out", &again, "--held-out", "0.4", "--held-out-file", &held, "--template", &template];
        run(&[&["data", "eft", "--rules", "--from", from][..], &more].concat()).success();
        assert_eq!(lines(&again), records);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1");
    let model = model.to_str().unwrap();
    run(&["sft", "--model", model, "--data", &out, "--out", &file("tuned"), "-q"]).success();
    let fails = |args: &[&str], word: &str| {
        let error = String::from_utf8(run(args).failure().get_output().stderr.clone()).unwrap();
        assert!(error.contains(word), "{error}");
    };
    fails(&[&make[..], &["--out", &out]].concat(), "exists already");
    let nothing = dir.path().to_str().unwrap();
    fails(&["data", "eft", "--rules", "--from", nothing, "--out", &file("x")], "is no run folder with answers");
    fails(&[&make[..], &["--out", &file("x"), "--key"]].concat(), "--key");
    fails(&[&make[..], &["--out", &file("x"), "--mode", "backward"]].concat(), "sampled");
    fails(&["data", "eft", "--key", "--from", &from, "--out", &file("x")], "record 1: has neither answer nor pattern");
    std::fs::write(&from, record(1, true) + "{\"prompt\": \"q\", \"response\": \"a\"}\n").unwrap();
    fails(&[&make[..], &["--out", &file("x")]].concat(), "record 2: has no instruction_id_list");
    std::fs::write(&from, record(1, true)).unwrap();
    fails(&[&make[..], &["--out", &file("x")]].concat(), "1 of 1 different answers are right");
}
