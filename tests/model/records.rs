//! Training records against the rows that TRL's own trainers make of them (tests/golden/make/records.py). No GPU.
//!
//! One difference is meant: what a template writes after the end of the last turn is not learnt here, as it is not in
//! TRL's own templates for training.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::arch::{Dtype, NamedTensor, family};
use selfreward::data::examples::{self, Rules};
use selfreward::source::ModelSource;
use selfreward::text::Text;
use selfreward::weights::{ModelParts, save_model_parts};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model of 700 tokens, all of whose weights are 0, with the tokenizer of a case.
fn model(folder: &Path, case: &Value) -> ModelSource {
    let of = golden("tokenizers").join(case["tokenizer"].as_str().unwrap());
    let (mut file, mut settings) = (read(of.join("tokenizer.json")), read(of.join("tokenizer_config.json")));
    file["post_processor"] = case["post_processor"].clone();
    settings["chat_template"] = case["chat_template"].clone();
    let text = Text::from_json(file.to_string(), settings).unwrap();
    let mut config = read(golden("llama").join("config.json"));
    config["vocab_size"] = json!(700);
    config["max_position_embeddings"] = json!(512);
    let parameters = family::parameters(&family::arch(&config).unwrap());
    let zeros =
        |(name, shape): (String, Vec<usize>)| NamedTensor { data: vec![0.0; shape.iter().product()], name, shape };
    let tensors: Vec<NamedTensor> = parameters.into_iter().map(zeros).collect();
    let parts = ModelParts {
        config: &config,
        generation_config: None,
        text: Some(&text),
        tensors: &tensors,
        dtype: Dtype::BF16,
    };
    save_model_parts(folder, &parts).unwrap();
    ModelSource::open(folder).unwrap()
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(row[key].clone()).unwrap()
}

/// The ids up to the last end of turn, if they are a chat's.
fn to_its_end(source: &ModelSource, ids: &[u32], chat: bool) -> Vec<u32> {
    let end = source.text().unwrap().end_of_turn().filter(|_| chat);
    let last = end.and_then(|end| ids.iter().rposition(|id| *id == end));
    ids[..last.map_or(ids.len(), |at| at + 1)].to_vec()
}

/// How a record is read, in the words of the row; None where it is left out.
fn ours(file: &Path, source: &ModelSource, kind: &str) -> Result<Vec<Vec<u32>>, String> {
    let rules = Rules::up_to(512);
    if kind == "dpo" {
        let (pairs, _) = examples::pairs(file, source, rules).map_err(|e| e.to_string())?;
        return Ok(vec![pairs[0].prompt.clone(), pairs[0].chosen.clone(), pairs[0].rejected.clone()]);
    }
    let (mut examples, _) = examples::examples(file, source, rules).map_err(|e| e.to_string())?;
    let example = examples.remove(0);
    let context = |i: &usize| example.context.iter().any(|part| part.contains(i));
    let learnt = (0..example.completion.len()).filter(|i| !context(i));
    let learnt: Vec<u32> = learnt.map(|i| (example.prompt.len() + i) as u32).collect();
    Ok(vec![[example.prompt, example.completion].concat(), learnt])
}

fn theirs(source: &ModelSource, row: &Value) -> Vec<Vec<u32>> {
    let record = &row["record"];
    let chat = !["prompt", "chosen", "text"].iter().any(|key| record[*key].is_string()) || record["chosen"].is_array();
    if row["kind"] == "dpo" {
        let answer = |key: &str| to_its_end(source, &ids(row, key), chat);
        return vec![ids(row, "prompt_ids"), answer("chosen_ids"), answer("rejected_ids")];
    }
    let all = to_its_end(source, &ids(row, "ids"), chat);
    // The first token is predicted by nothing, so that it has no loss there either.
    let learnt = ids(row, "learnt").into_iter().filter(|at| (1..all.len() as u32).contains(at)).collect();
    vec![all, learnt]
}

#[test]
fn records_become_the_ids_of_trl() {
    let cases = read(golden("records.json"));
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in cases.as_array().unwrap() {
        let tmp = tempfile::tempdir().unwrap();
        let source = model(&tmp.path().join("model"), case);
        for row in case["rows"].as_array().unwrap() {
            let file = tmp.path().join("records.jsonl");
            std::fs::write(&file, format!("{}\n", row["record"])).unwrap();
            let got = ours(&file, &source, row["kind"].as_str().unwrap());
            if let Some(error) = row["error"].as_str() {
                // What a template refuses there it refuses here; other errors are TRL's own.
                if error.starts_with("TemplateError") && got.is_ok() {
                    wrong.push(format!("{} {}: {got:?}\n   expected {error}", case["tokenizer"], row["record"]));
                }
                continue;
            }
            compared += 1;
            let want = theirs(&source, row);
            if got.as_ref() != Ok(&want) {
                wrong.push(format!("{} {}: {got:?}\n   expected {want:?}", case["tokenizer"], row["record"]));
            }
        }
    }
    assert!(compared > 80, "{compared}");
    assert!(wrong.is_empty(), "{} of {compared} differ\n{}", wrong.len(), wrong.join("\n"));
}
