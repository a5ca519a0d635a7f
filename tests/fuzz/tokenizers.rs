//! Files tokenizer.json to start from: a small one, and one of each part that those of the models have not.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// A byte-level tokenizer of five tokens.
pub(crate) fn tokenizer(folder: &Path) {
    let added = json!([{"id": 4, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}]);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<end>": 4}, "merges": [["a", "b"]]}
    });
    fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
}

/// One of each part that a tokenizer.json may have and the shipped ones have not.
pub(crate) fn tokenizers() -> Vec<Vec<u8>> {
    let split =
        json!({"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false});
    let models = [
        json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}}),
        json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}}),
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
               "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -1.5], ["ab", -2.0]]}),
        json!({"type": "BPE", "dropout": 0.1, "unk_token": "a", "continuing_subword_prefix": "##",
               "end_of_word_suffix": "</w>", "fuse_unk": true, "byte_fallback": true,
               "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}),
    ];
    let parts = [
        (
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ),
        (
            json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Replace",
                "pattern": {"Regex": " {2,}"}, "content": " "}]}),
            json!({"type": "Whitespace"}),
            Value::Null,
        ),
        (
            Value::Null,
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        ),
        (
            json!({"type": "NFC"}),
            json!({"type": "Sequence", "pretokenizers": [split, {"type": "Punctuation",
                "behavior": "Isolated"}, {"type": "Digits", "individual_digits": true}]}),
            json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip",
                "content": " ", "start": 1, "stop": 0}]}),
        ),
    ];
    let post = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                      "special_tokens": {}});
    let one = |(model, (normalizer, pre_tokenizer, decoder)): (Value, (Value, Value, Value))| {
        json!({"version": "1.0",
               "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
               "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "a"},
               "added_tokens": [{"id": 9, "content": "<end>", "single_word": true, "lstrip": true, "rstrip": true,
                                 "normalized": true, "special": false}],
               "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": decoder,
               "model": model})
        .to_string()
        .into_bytes()
    };
    models.into_iter().zip(parts).map(one).collect()
}
