//! `eval` of answers that a program can check; the golden answers have the reference checkers' verdicts.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward::world::{Task, held_out};
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
    (report, checked(out))
}

/// The lines that tell of answers, which hold to their schema.
fn checked(path: &str) -> Vec<Value> {
    let lines = read(path);
    lines.iter().for_each(|line| validate(&schema("checked"), line, "checked").unwrap());
    lines
}

/// What the command prints as JSON.
fn document(args: &[&str], name: &str) -> Value {
    let output = cargo_bin_cmd!("selfreward").arg("eval").args(args).arg("--json").assert().success();
    let value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    validate(&schema(name), &value, name).unwrap();
    value
}

fn world() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1").to_str().unwrap().to_owned()
}

/// Questions of the small world with their answers.
fn questions(folder: &TempDir, name: &str, from: usize, count: usize) -> String {
    let record = |t: &Task| json!({"prompt": t.prompt, "answer": t.gold});
    lines(folder, name, &held_out()[from..from + count].iter().map(record).collect::<Vec<_>>())
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
fn several_draws_of_a_model_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (questions(&folder, "data.jsonl", 0, 12), folder.path().join("out.jsonl"));
    let (model, out) = (world(), out.to_str().unwrap());
    let args = ["--task", "exact", "--data", &data, "--model", &model, "--max-new-tokens", "12"];
    let greedy = document(&[&args[..], &["--out", out]].concat(), "task");
    let first = checked(out);
    assert_eq!((first.len(), &greedy["samples"], greedy["rates"].as_array().unwrap().len()), (12, &json!(1), 2));
    assert!(first.iter().all(|line| line["tokens"].is_u64() && line.get("sample").is_none()));
    // Greedy answers are the same under every seed.
    document(&[&args[..], &["--out", out, "--seed", "9"]].concat(), "task");
    assert_eq!(checked(out), first);

    let drawn = document(&[&args[..], &["--out", out, "-n", "3", "--k", "1,2,3"]].concat(), "task");
    let lines = checked(out);
    assert_eq!((lines.len(), &lines[1]["sample"], &drawn["answered"]), (36, &json!(1), &json!(12)));
    let passed = |k: u64| {
        let rates = drawn["rates"].as_array().unwrap();
        rates.iter().find(|r| r["k"] == k && r["measure"] == "strict").unwrap()["value"].as_f64().unwrap()
    };
    let right = |item: usize| lines[3 * item..3 * item + 3].iter().filter(|l| l["strict"] == true).count();
    let mean = |of: &dyn Fn(usize) -> f64| (0..12).map(of).sum::<f64>() / 12.0;
    assert!((passed(1) - mean(&|i| right(i) as f64 / 3.0)).abs() < 1e-12);
    // With three draws, two of them miss if at most one is right.
    assert!((passed(2) - mean(&|i| [0.0, 2.0 / 3.0, 1.0, 1.0][right(i)])).abs() < 1e-12);
    assert!((passed(3) - mean(&|i| f64::from(u8::from(right(i) > 0)))).abs() < 1e-12);

    // What was written is read again as responses, and is no better than itself.
    let args = ["--task", "exact", "--data", &data, "--responses", out, "--against", out, "-n", "3"];
    let both = document(&args, "tasks");
    assert_eq!((&both[0]["rates"], both.as_array().unwrap().len()), (&both[1]["rates"], 2));
    assert_eq!(both[0]["rates"][0], drawn["rates"][0]);
    let differences = both[0]["differences"].as_array().unwrap();
    assert_eq!((differences.len(), both[1]["differences"].as_array().unwrap().len()), (4, 0));
    assert!(differences.iter().all(|d| d["value"] == 0.0 && d["low"] == 0.0 && d["high"] == 0.0 && d["items"] == 12));
    fails("exact", &data, out, &["record 2", "one response a prompt"]);
    let few = ["--task", "exact", "--data", &data, "--responses", out, "-n", "4"];
    let error = cargo_bin_cmd!("selfreward").arg("eval").args(few).assert().code(1).get_output().stderr.clone();
    assert!(String::from_utf8(error).unwrap().contains("has 3 responses; expected 4"));
}

#[test]
fn worked_examples_are_none_that_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (data, more) = (questions(&folder, "data.jsonl", 0, 4), questions(&folder, "more.jsonl", 2, 4));
    let model = world();
    let args = |n: &'static str| {
        ["eval", "--task", "exact", "--data", &data, "--model", &model, "--shots", n].map(str::to_owned)
    };
    let run = |n, more: &[&str]| cargo_bin_cmd!("selfreward").args(args(n)).args(more).assert();
    let shown = run("1", &["--shots-from", &more, "--max-new-tokens", "4", "--json"]).success();
    let report: Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(report["answered"], 4);
    let error = |assert: assert_cmd::assert::Assert| String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let few = error(run("3", &["--shots-from", &more]).code(1));
    assert!(few.contains("more.jsonl: 2 of its items"), "{few}");
    let none = error(run("3", &[]).code(2));
    assert!(none.contains("--shots-from"), "{none}");
    let long = error(run("2", &["--shots-from", &more, "--max-new-tokens", "100"]).code(1));
    assert!(long.contains("item 1 of exact") && long.contains("the model's context"), "{long}");
}

#[test]
fn choices_are_weighed_as_the_harness_weighs_them() {
    let folder = tempfile::tempdir().unwrap();
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    let joining = folder.path().join("joining");
    fs::create_dir(&joining).unwrap();
    for name in ["choice/config.json", "choice/model.safetensors"] {
        fs::copy(golden(name), joining.join(Path::new(name).file_name().unwrap())).unwrap();
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("tokenizers/bytelevel").join(name), joining.join(name)).unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(golden("choice/expected.json")).unwrap()).unwrap();
    let out = folder.path().join("out.jsonl");
    let [data, shots] = ["choice/items.jsonl", "choice/shots.jsonl"].map(|n| golden(n).to_str().unwrap().to_owned());
    for (name, model) in [("world", world()), ("joining", joining.to_str().unwrap().to_owned())] {
        for n in ["0", "2"] {
            let args = ["--task", "choice", "--data", &data, "--model", &model, "--out", out.to_str().unwrap()];
            let shown = ["--shots", n, "--shots-from", &shots];
            let report = document(&[&args[..], &shown].concat(), "task");
            let (lines, wanted) = (checked(out.to_str().unwrap()), expected[name][n].as_array().unwrap());
            assert_eq!((lines.len(), &report["words"]), (wanted.len(), &Value::Null));
            for (line, want) in lines.iter().zip(wanted) {
                let logps = |of: &Value| -> Vec<f64> {
                    of["logps"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
                };
                let (got, wanted) = (logps(line), logps(want));
                assert_eq!(got.len(), wanted.len(), "{line}");
                for (a, b) in got.iter().zip(&wanted) {
                    assert!((a - b).abs() < 1e-3, "{name} {n}: {got:?}, expected {wanted:?}: {line}");
                }
                assert_eq!((&line["acc"], &line["acc_norm"]), (&want["acc"], &want["acc_norm"]), "{name} {n} {line}");
                assert_eq!(line["failed"].as_array().unwrap().is_empty(), line["acc"] == true);
            }
            let value = |measure: &str| {
                let right = wanted.iter().filter(|w| w[measure] == true).count();
                right as f64 / wanted.len() as f64
            };
            for rate in report["rates"].as_array().unwrap() {
                assert!((rate["value"].as_f64().unwrap() - value(rate["measure"].as_str().unwrap())).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn flags_that_do_not_go_together_are_wrong_usage() {
    for args in [
        &["--task", "exact", "--data", "d", "--model", "m", "-n", "2", "--temperature", "0"][..],
        &["--task", "exact", "--data", "d", "--model", "m", "-n", "2", "--k", "3"],
        &["--task", "exact", "--data", "d", "--model", "m", "--k", "0"],
        &["--task", "exact", "--data", "d", "--model", "m", "--responses", "r"],
        &["--task", "exact", "--data", "d", "--model", "m", "--judge", "j"],
        &["--task", "exact", "--data", "d", "--responses", "r", "--shots", "2", "--shots-from", "s"],
        &["--task", "choice", "--data", "d", "--model", "m", "-n", "2"],
        &["--model", "m", "--against", "n", "--judge", "j", "--responses", "r"],
    ] {
        cargo_bin_cmd!("selfreward").arg("eval").args(args).assert().code(2).stdout("");
    }
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
    let mut other = good.clone();
    other["instruction_id_list"] = json!(["startend:quotation"]);
    fails("ifeval", &with(other), &answers, &["bad.jsonl", "records 1 and 2 have the same prompt"]);
    fails("gsm8k", &lines(&folder, "empty.jsonl", &[]), &answers, &["empty.jsonl", "holds no record"]);
    let choice = |answer: Value| json!({"question": "q", "choices": ["a", "b"], "answer": answer});
    fails("choice", &lines(&folder, "c.jsonl", &[choice(json!(2))]), &answers, &["line 1", "from 0 to 1"]);
    let file = lines(&folder, "c.jsonl", &[choice(json!(1))]);
    fails("choice", &file, &answers, &["log-likelihoods", "name a model"]);
    let data = lines(&folder, "good.jsonl", &[good]);
    let other = lines(&folder, "other.jsonl", &[json!({"prompt": "q", "response": "r"})]);
    fails("ifeval", &data, &other, &["other.jsonl", "no response to any prompt"]);
    fails("ifeval", &data, &lines(&folder, "none.jsonl", &[json!({"prompt": "p"})]), &["line 1", "response"]);
    let twice = ["r", "s"].map(|response| json!({"prompt": "p", "response": response}));
    fails("ifeval", &data, &lines(&folder, "twice.jsonl", &twice), &["record 2", "one response a prompt"]);
}
