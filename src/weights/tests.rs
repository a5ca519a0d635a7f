//! GGUF tokenizers against transformers, read and written again.

use std::path::Path;

use super::gguf::Gguf;
use super::gguf_head::GgufHead;
use super::gguf_types::GgufTypes;
use super::{GgufParts, gguf_tokenizer, gguf_vocabulary};
use crate::arch::Dtype;
use crate::text::Text;
use serde_json::{Value, json};

/// Of files that are made for one question each (tests/golden/make/gguf_tokens.py).
#[test]
fn ids_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_tokens.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (n, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let set = &golden["sets"][case["set"].as_str().unwrap()];
        let texts = |key: &str| -> Vec<String> { serde_json::from_value(set[key].clone()).unwrap() };
        let mut head = GgufHead::default();
        head.string("general.architecture", set["architecture"].as_str().unwrap());
        head.string("tokenizer.ggml.model", set["model"].as_str().unwrap());
        let tokens = texts("tokens");
        head.strings("tokenizer.ggml.tokens", &tokens);
        head.integers("tokenizer.ggml.token_type", &serde_json::from_value::<Vec<i32>>(set["types"].clone()).unwrap());
        head.string("tokenizer.ggml.pre", "gpt-2");
        head.strings("tokenizer.ggml.merges", &["h i"]);
        head.numbers("tokenizer.ggml.scores", &(0..tokens.len()).map(|id| -(id as f32)).collect::<Vec<_>>());
        for name in case["named"].as_str().unwrap().split(' ') {
            let id = set[name].as_u64().unwrap() as usize;
            head.count(&format!("tokenizer.ggml.{name}_token_id"), id).unwrap();
        }
        let unknown = tokens.iter().position(|token| token == "<unk>").unwrap();
        head.count("tokenizer.ggml.unknown_token_id", unknown).unwrap();
        for (flag, value) in case["flags"].as_object().unwrap() {
            head.flag(&format!("tokenizer.ggml.{flag}"), value.as_bool().unwrap());
        }
        let path = folder.path().join(format!("{n}.gguf"));
        head.write(&path, &[], |(_, ()): &(_, ())| Ok(Vec::new())).unwrap();
        let text = gguf_tokenizer::text(&path, &Gguf::open(&path).unwrap()).unwrap().unwrap();
        let ids =
            |text: &Text| -> Vec<Vec<u32>> { texts("texts").iter().map(|t| text.encode_special(t).unwrap()).collect() };
        assert_eq!(json!(ids(&text)), case["ids"], "{} {} {}", case["set"], case["flags"], case["named"]);
        // What is written of it means the same.
        let mut again = GgufHead::default();
        again.string("general.architecture", set["architecture"].as_str().unwrap());
        let config = json!({});
        let (values, types) = (|_: &str, _: &[usize]| Ok(Vec::new().into()), GgufTypes::Each(Dtype::F32));
        let parts = GgufParts { config: &config, generation_config: None, text: Some(&text), types, values: &values };
        gguf_vocabulary::write(&mut again, &parts, tokens.len()).unwrap();
        let path = folder.path().join(format!("{n}-again.gguf"));
        again.write(&path, &[], |(_, ()): &(_, ())| Ok(Vec::new())).unwrap();
        let again = gguf_tokenizer::text(&path, &Gguf::open(&path).unwrap()).unwrap().unwrap();
        assert_eq!(ids(&again), ids(&text), "{} {} {}", case["set"], case["flags"], case["named"]);
    }
}
