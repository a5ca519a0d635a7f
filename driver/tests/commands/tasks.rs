//! `eval` of answers that a program can check; the golden answers have the reference checkers' verdicts.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Kinds that hang on the language, on where sentences end, or on how words are cut: known nearly, not exactly.
const NEARLY: [&str; 5] = [
    "language:response_language",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "change_case:capital_word_frequency",
    "length_constraints:number_sentences",
];

fn lines(folder: &TempDir, name: &str, records: &[Value]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, records.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn read(path: &str) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What the command prints of the task, and what it writes of each answer.
fn eval(folder: &TempDir, task: &str, data: &str, responses: &str) -> (Value, Vec<Value>) {
    let out = folder.path().join("out.jsonl");
    let out = out.to_str().unwrap();
    let args = ["eval", "--task", task, "--data", data, "--responses", responses, "--out", out, "--json"];
    let output = cargo_bin_cmd!("selfreward").args(args).assert().success().stderr("").get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&output).unwrap();
    validate(&schema("task"), &report, "task").unwrap();
    (report, read(out))
}

#[track_caller]
fn fails(task: &str, data: &str, responses: &str, words: &[&str]) {
    let args = ["eval", "--task", task, "--data", data, "--responses", responses];
    let output = cargo_bin_cmd!("selfreward").args(args).assert().code(1).stdout("").get_output().stderr.clone();
    let error = String::from_utf8(output).unwrap();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

#[test]
fn instructions_are_checked_as_the_reference_checks_them() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/ifeval.jsonl");
    let golden = golden.to_str().unwrap();
    let (report, written) = eval(&folder, "ifeval", golden, golden);
    let records = read(golden);
    assert_eq!((report["items"].as_u64(), written.len()), (Some(records.len() as u64), records.len()));
    let (mut near, mut missed) = (0, Vec::new());
    for (record, line) in records.iter().zip(&written) {
        let kind = record["instruction_id_list"][0].as_str().unwrap();
        assert_eq!((&line["key"], &line["prompt"]), (&record["key"], &record["prompt"]));
        assert_eq!(line["response"], record["response"]);
        for measure in ["strict", "loose"] {
            let same = line[measure] == record[measure];
            if NEARLY.contains(&kind) {
                near += 1;
                missed.extend((!same).then_some(&record["key"]));
            } else {
                assert!(same, "{kind} {measure} of {}: {}", record["key"], line["failed"]);
            }
        }
        assert_eq!(line["failed"].as_array().unwrap().is_empty(), line["strict"] == json!([true]));
    }
    // The shortest answers, which the golden file has, are the hardest to tell the language of.
    assert!(near > 60 && missed.len() * 10 <= near, "{missed:?} of {near}");
    assert_eq!(report["kinds"].as_array().unwrap().len(), 25);
    let counts: u64 = report["kinds"].as_array().unwrap().iter().map(|k| k["count"].as_u64().unwrap()).sum();
    assert_eq!(counts, records.len() as u64);
}

#[test]
fn several_instructions_make_one_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ["punctuation:no_comma", "startend:quotation"];
    let item = |prompt: &str| json!({"prompt": prompt, "instruction_id_list": kinds, "kwargs": [{}, {}]});
    let data = lines(&folder, "data.jsonl", &["a", "b", "c", "d"].map(item));
    let answer = |prompt: &str, response: &str| json!({"prompt": prompt, "response": response});
    let answers = [answer("d", ""), answer("b", "\"one\""), answer("a", "*\"two\"*"), answer("z", "x")];
    let (report, written) = eval(&folder, "ifeval", &data, &lines(&folder, "answers.jsonl", &answers));
    let verdicts: Vec<_> = written.iter().map(|w| (w["prompt"].as_str().unwrap(), &w["strict"], &w["loose"])).collect();
    let [all, first, none] = [json!([true, true]), json!([true, false]), json!([false, false])];
    assert_eq!(verdicts, [("a", &first, &all), ("b", &all, &all), ("d", &none, &none)]);
    assert!(written[0].get("key").is_none());
    assert_eq!(report["unanswered"], 1);
    let rates: HashMap<(&str, &str), f64> = report["rates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| ((r["measure"].as_str().unwrap(), r["by"].as_str().unwrap()), r["value"].as_f64().unwrap()))
        .collect();
    let wanted = [("strict", "prompt", 1.0 / 3.0), ("loose", "prompt", 2.0 / 3.0), ("strict", "instruction", 0.5)];
    for (measure, by, value) in wanted.into_iter().chain([("loose", "instruction", 4.0 / 6.0)]) {
        assert!((rates[&(measure, by)] - value).abs() < 1e-12, "{measure} {by}");
    }
}

#[test]
fn numbers_and_keys_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let item = |question: &str, answer: &str| json!({"question": question, "answer": answer});
    let data =
        lines(&folder, "gsm.jsonl", &[item("q1", "so 2\n#### 2"), item("q2", "#### 1,000"), item("q3", "#### 3")]);
    let answer = |prompt: &str, response: &str| json!({"prompt": prompt, "response": response});
    let given = [answer("q2", "It is #### 1000"), answer("q1", "It is 2."), answer("q3", "")];
    let answers = lines(&folder, "answers.jsonl", &given);
    let (report, written) = eval(&folder, "gsm8k", &data, &answers);
    let verdicts: Vec<_> = written.iter().map(|w| (w["strict"] == true, w["lenient"] == true)).collect();
    assert_eq!(verdicts, [(false, true), (true, true), (false, false)]);
    assert_eq!(report["rates"].as_array().unwrap().len(), 2);
    assert!(written[0]["failed"][0].as_str().unwrap().contains("not in the form #### N"));

    let data = [json!({"prompt": "q1", "pattern": "\\b2\\b"}), json!({"key": 7, "prompt": "q2", "answer": 1000})];
    let (_, written) = eval(&folder, "exact", &lines(&folder, "exact.jsonl", &data), &answers);
    assert_eq!((&written[0]["strict"], &written[1]["strict"]), (&json!(true), &json!(false)));
    assert_eq!(written[1]["key"], 7);
}

#[test]
fn files_that_are_not_understood_give_no_score() {
    let folder = tempfile::tempdir().unwrap();
    let answers = lines(&folder, "answers.jsonl", &[json!({"prompt": "p", "response": "r"})]);
    let good = json!({"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]});
    let with = |bad: Value| lines(&folder, "bad.jsonl", &[good.clone(), bad]);
    let mut lacking = good.clone();
    lacking.as_object_mut().unwrap().remove("kwargs");
    fails("ifeval", &with(lacking), &answers, &["bad.jsonl", "line 2", "kwargs"]);
    let of = |id: &str, kwargs: Value| with(json!({"prompt": "p", "instruction_id_list": [id], "kwargs": [kwargs]}));
    fails("ifeval", &of("keywords:rhyme", json!({})), &answers, &["line 2", "known are", "startend:quotation"]);
    let file = of("language:response_language", json!({"language": "tlh"}));
    fails("ifeval", &file, &answers, &["line 2", "unknown language \"tlh\""]);
    let file = of("detectable_content:number_placeholders", json!({"num_placeholders": "2"}));
    fails("ifeval", &file, &answers, &["line 2", "num_placeholders is \"2\""]);
    fails("gsm8k", &lines(&folder, "q.jsonl", &[json!({"answer": "#### 2"})]), &answers, &["line 1", "`question`"]);
    let file = lines(&folder, "key.jsonl", &[json!({"question": "q", "answer": "#### x"})]);
    fails("gsm8k", &file, &answers, &["line 1", "expected a number"]);
    fails(
        "exact",
        &lines(&folder, "exact.jsonl", &[json!({"prompt": "p"})]),
        &answers,
        &["line 1", "answer or pattern"],
    );
    let data = lines(&folder, "good.jsonl", &[good]);
    let other = lines(&folder, "other.jsonl", &[json!({"prompt": "q", "response": "r"})]);
    fails("ifeval", &data, &other, &["other.jsonl", "no response to any prompt"]);
    fails("ifeval", &data, &lines(&folder, "none.jsonl", &[json!({"prompt": "p"})]), &["line 1", "response"]);
    let twice = ["r", "s"].map(|response| json!({"prompt": "p", "response": response}));
    fails("ifeval", &data, &lines(&folder, "twice.jsonl", &twice), &["record 2", "one response a prompt"]);
}
