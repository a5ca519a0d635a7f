//! Token ids of tiny tokenizers against transformers: strings, and conversations through chat templates. No GPU.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::text::{Message, TemplateInputs, Text};
use serde_json::Value;
use std::path::Path;

/// Checks every string and conversation of tests/golden/tokenizers/`name`; lists all that differ.
fn compare(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers").join(name);
    let text = Text::open(&folder).unwrap().unwrap();
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let ids = |case: &Value| -> Option<Vec<u32>> { serde_json::from_value(case["ids"].clone()).unwrap() };
    let mut wrong = Vec::new();
    let strings = expected["strings"].as_array().unwrap();
    for case in strings {
        let got = text.encode(case["text"].as_str().unwrap()).unwrap();
        if Some(&got) != ids(case).as_ref() {
            wrong.push(format!("{}: {got:?}, expected {}", case["text"], case["ids"]));
        }
    }
    let chats = expected["chats"].as_array().unwrap();
    for case in chats {
        // What the template refuses has no ids.
        let inputs = TemplateInputs { tools: case.get("tools").cloned(), chat_template_kwargs: None };
        let got = text.encode_json_chat(case["messages"].as_array().unwrap(), &inputs, true);
        let plain: Option<Vec<Message>> = serde_json::from_value(case["messages"].clone()).ok();
        let whole =
            |m: &Vec<Message>| serde_json::to_value(m).unwrap() == case["messages"] && case.get("tools").is_none();
        if let Some(messages) = plain.filter(whole) {
            assert_eq!(text.encode_chat(&messages, true).ok(), got.as_ref().ok().cloned(), "{}", case["messages"]);
        }
        if got.as_ref().ok() != ids(case).as_ref() {
            wrong.push(format!("{}: {got:?}, expected {}", case["messages"], case["ids"]));
        }
    }
    assert!(strings.len() >= 200 && chats.len() >= 30);
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn byte_level_ids_are_those_of_transformers() {
    compare("bytelevel");
}

#[test]
fn metaspace_ids_are_those_of_transformers() {
    compare("metaspace");
}

/// What the class, its flags and the model's family make of a tokenizer.json (tests/golden/make/prefixes.py).
#[test]
fn the_leading_blank_is_where_transformers_puts_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(golden.join(name)).unwrap()).unwrap() };
    let (expected, mut file) = (read("prefixes.json"), read("tokenizers/metaspace/tokenizer.json"));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    let (texts, cases) = (expected["texts"].as_array().unwrap(), expected["cases"].as_array().unwrap());
    let mut wrong = Vec::new();
    for case in cases {
        file["normalizer"] = case["shape"][0].clone();
        file["pre_tokenizer"] = case["shape"][1].clone();
        write("tokenizer.json", &file);
        write("tokenizer_config.json", &case["config"]);
        write("config.json", &serde_json::json!({"model_type": case["model_type"]}));
        let text = Text::open(folder.path()).unwrap().unwrap();
        let ids: Vec<Vec<u32>> = texts.iter().map(|t| text.encode(t.as_str().unwrap()).unwrap()).collect();
        if serde_json::to_value(&ids).unwrap() != case["ids"] {
            wrong.push(format!("{} {} {}", case["model_type"], case["config"], case["shape"]));
        }
    }
    assert!(cases.len() > 200);
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

/// The tokens that other files of the folder add, with their flags (tests/golden/make/added_tokens.py).
#[test]
fn added_tokens_are_those_of_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let expected: Value = serde_json::from_slice(&std::fs::read(golden.join("added_tokens.json")).unwrap()).unwrap();
    let (texts, cases) = (expected["texts"].as_array().unwrap(), expected["cases"].as_array().unwrap());
    let mut wrong = Vec::new();
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden.join("tokenizers/bytelevel/tokenizer.json"), folder.path().join("tokenizer.json"))
            .unwrap();
        for (name, content) in case["files"].as_object().unwrap() {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
        let text = Text::open(folder.path()).unwrap().unwrap();
        let ids: Vec<Vec<u32>> = texts.iter().map(|t| text.encode(t.as_str().unwrap()).unwrap()).collect();
        if serde_json::to_value(&ids).unwrap() != case["ids"] {
            wrong.push(format!("{}: {ids:?}, expected {}", case["files"], case["ids"]));
        }
    }
    assert!(cases.len() >= 25);
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}
