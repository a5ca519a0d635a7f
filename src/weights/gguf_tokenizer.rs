//! The tokenizer of a GGUF file as a Hugging Face tokenizer.json: byte-level BPE with the pattern that
//! `tokenizer.ggml.pre` names, or SentencePiece BPE (`llama`), whose merges follow from the scores.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::{Gguf, GgufValue};
use super::gguf_pre::{self, PreTokenizer};
use crate::text::{Text, ends};
use crate::{Error, Result};

/// GGUF's token types.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum GgufTokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

const UNKNOWN: usize = GgufTokenType::Unknown as usize;
const CONTROL: usize = GgufTokenType::Control as usize;
const USER_DEFINED: usize = GgufTokenType::UserDefined as usize;
const UNUSED: usize = GgufTokenType::Unused as usize;

/// Longer pieces are damage; splitting them at every character would take for ever.
const MAX_PIECE: usize = 1024;

/// Rebuilds the tokenizer and takes over the chat template; `None` if the file has no tokenizer.
pub(crate) fn text(path: &Path, gguf: &Gguf) -> Result<Option<Text>> {
    let kind = match gguf.get("tokenizer.ggml.model").and_then(GgufValue::as_str) {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(kind) => kind,
    };
    let head = Vocabulary::read(path, gguf)?;
    let tokenizer = match kind {
        "gpt2" => head.byte_level()?,
        "llama" => head.sentencepiece()?,
        other => return Err(head.wrong(format!("tokenizer.ggml.model is {other:?}; known are gpt2 and llama"))),
    };
    let text = Text::from_json(tokenizer.to_string(), head.config());
    text.map(Some).map_err(|error| Error::file(path, error.to_string()))
}

/// Whether an added token takes the blanks behind it along. GGUF files do not say it; llama.cpp knows that Phi 3's do,
/// by the model's name.
pub(super) fn swallows_blanks(model_name: &str, token: &str) -> bool {
    let name = model_name.to_ascii_lowercase();
    (name.contains("phi-3") || name.contains("phi3")) && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
}

/// Every way to join two tokens into a third, the joined token's best score first; among equals the order of
/// transformers' converter: longer left part, longer right part, then ids. Tokens that stand `apart` are cut out of a
/// text beforehand, so they are neither joined nor parts.
pub(super) fn merges_by_score<'a>(
    tokens: &[&'a str],
    scores: &[f64],
    apart: &HashSet<&str>,
) -> Vec<(&'a str, &'a str)> {
    let joined = || tokens.iter().enumerate().filter(|(_, token)| !apart.contains(*token));
    let ids: HashMap<&str, usize> = joined().map(|(id, token)| (*token, id)).collect();
    let mut found = Vec::new();
    let pieces = joined().map(|(id, token)| (token, &scores[id]));
    for (token, score) in pieces.filter(|(token, _)| token.len() <= MAX_PIECE) {
        let mut local: Vec<(usize, usize)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?)))
            .collect();
        local.sort_unstable();
        found.extend(local.into_iter().map(|(left, right)| (*score, tokens[left], tokens[right])));
    }
    found.sort_by(|a, b| {
        let lengths = |x: &(f64, &str, &str)| (x.1.chars().count(), x.2.chars().count());
        b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
    });
    found.into_iter().map(|(_, left, right)| (left, right)).collect()
}

/// Added tokens that are cut out of a text before anything is joined. What holds ▁ is not: the text has a blank there.
pub(super) fn split_out(added: &[Value]) -> HashSet<&str> {
    let contents =
        added.iter().filter(|token| token["single_word"] != true).filter_map(|token| token["content"].as_str());
    contents.filter(|content| !content.contains('▁')).collect()
}

struct Vocabulary<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    types: Vec<usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(path: &'a Path, gguf: &'a Gguf) -> Result<Self> {
        let list = |key: &str| gguf.get(key).and_then(GgufValue::as_array);
        let wrong = |what: &str| Error::file(path, what);
        let tokens = list("tokenizer.ggml.tokens").ok_or_else(|| wrong("tokenizer.ggml.tokens is missing"))?;
        let tokens: Option<Vec<&str>> = tokens.iter().map(GgufValue::as_str).collect();
        let tokens = tokens.ok_or_else(|| wrong("tokenizer.ggml.tokens holds something else than text"))?;
        let types = match list("tokenizer.ggml.token_type") {
            Some(types) => types.iter().map(|kind| kind.as_usize().unwrap_or(1)).collect(),
            None => vec![1; tokens.len()],
        };
        if types.len() != tokens.len() {
            let what = format!("tokenizer.ggml.token_type has {} entries for {} tokens", types.len(), tokens.len());
            return Err(wrong(&what));
        }
        Ok(Self { path, gguf, tokens, types })
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::file(self.path, what)
    }

    fn string(&self, key: &str) -> Option<&'a str> {
        self.gguf.get(key).and_then(GgufValue::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.gguf.get(key).and_then(GgufValue::as_bool)
    }

    /// The content of the token whose id a metadata key holds.
    fn named(&self, key: &str) -> Option<&'a str> {
        let id = self.gguf.get(&format!("tokenizer.ggml.{key}_token_id"))?.as_usize()?;
        self.tokens.get(id).copied()
    }

    fn vocab(&self) -> Map<String, Value> {
        // Converters fill the rows that the tokenizer does not reach.
        let filler = |id: usize, token: &str| self.types[id] == UNUSED && token == format!("[PAD{id}]");
        let tokens = self.tokens.iter().enumerate().filter(|(id, token)| !filler(*id, token));
        tokens.map(|(id, token)| ((*token).to_string(), json!(id))).collect()
    }

    fn added_tokens(&self) -> Vec<Value> {
        let name = self.string("general.name").unwrap_or_default();
        // Converters have marked some ends of answers as plain words.
        let ends = ends::known(self.tokens.iter().copied().zip(0..));
        let added = |(id, kind): (usize, &usize)| {
            let special = *kind == CONTROL || *kind == UNKNOWN || ends.iter().any(|end| *end as usize == id);
            (special || *kind == USER_DEFINED).then(|| {
                let (content, rstrip) = (self.tokens[id], swallows_blanks(name, self.tokens[id]));
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": rstrip,
                       "normalized": false, "special": special})
            })
        };
        self.types.iter().enumerate().filter_map(added).collect()
    }

    fn byte_level(&self) -> Result<Value> {
        let Some(name) = self.string("tokenizer.ggml.pre") else {
            return Err(self.wrong("tokenizer.ggml.pre is missing; the file is too old, convert the model again"));
        };
        let Some(way) = PreTokenizer::named(name) else {
            let known = gguf_pre::names();
            return Err(self.wrong(format!("tokenizer.ggml.pre is {name:?}; known are {known}")));
        };
        let merges = self.gguf.get("tokenizer.ggml.merges").and_then(GgufValue::as_array);
        let merges = merges.ok_or_else(|| self.wrong("tokenizer.ggml.merges is missing"))?;
        let pairs: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.as_str()?.split_once(' ')).collect();
        let pairs =
            pairs.ok_or_else(|| self.wrong("tokenizer.ggml.merges: expected two parts with a blank between"))?;
        let (normalizer, pre_tokenizer) = way.json();
        let mut tokenizer = self.shell(normalizer, pre_tokenizer, way.adds_bos);
        tokenizer["decoder"] =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        tokenizer["model"] = self.bpe(&pairs, way.ignore_merges);
        Ok(tokenizer)
    }

    fn sentencepiece(&self) -> Result<Value> {
        let scores = self.gguf.get("tokenizer.ggml.scores").and_then(GgufValue::as_array).unwrap_or_default();
        let scores: Option<Vec<f64>> = scores.iter().map(GgufValue::as_f64).collect();
        let scores = scores.filter(|scores| scores.len() == self.tokens.len());
        let scores = scores.ok_or_else(|| self.wrong("tokenizer.ggml.scores: expected a number for each token"))?;
        let added = self.added_tokens();
        let pairs = merges_by_score(&self.tokens, &scores, &split_out(&added));
        let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
            steps.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let mut tokenizer = self.shell(json!({"type": "Sequence", "normalizers": steps}), Value::Null, true);
        tokenizer["decoder"] = json!({"type": "Sequence", "decoders": decoders});
        let mut model = self.bpe(&pairs, false);
        model["unk_token"] = json!(self.named("unknown"));
        model["fuse_unk"] = json!(true);
        model["byte_fallback"] = json!(true);
        tokenizer["model"] = model;
        Ok(tokenizer)
    }

    fn bpe(&self, merges: &[(&str, &str)], ignore_merges: bool) -> Value {
        json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
               "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
               "vocab": self.vocab(), "merges": merges})
    }

    /// Everything but decoder and model. transformers puts `bos` in front where the file (or else the kind) asks for
    /// it; this crate never adds tokens.
    fn shell(&self, normalizer: Value, pre_tokenizer: Value, adds_bos: bool) -> Value {
        let adds_bos = self.flag("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
        let post_processor = match self.named("bos").filter(|_| adds_bos) {
            Some(bos) => {
                let (special, a) = (
                    json!({"SpecialToken": {"id": bos, "type_id": 0}}),
                    json!({"Sequence": {"id": "A", "type_id": 0}}),
                );
                let b = json!({"Sequence": {"id": "B", "type_id": 1}});
                let id = self.tokens.iter().position(|token| *token == bos);
                json!({"type": "TemplateProcessing", "single": [special, a], "pair": [special, a, b],
                       "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}})
            }
            None => Value::Null,
        };
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added_tokens(),
               "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor})
    }

    fn config(&self) -> Value {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        for (key, stored) in
            [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
        {
            if let Some(token) = self.named(stored) {
                config.insert(key.into(), token.into());
            }
        }
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        let architecture = self.string("general.architecture").unwrap_or_default();
        if let Some(length) = self.gguf.get(&format!("{architecture}.context_length")).and_then(GgufValue::as_usize) {
            config.insert("model_max_length".into(), length.into());
        }
        if let Some(template) = self.string("tokenizer.chat_template") {
            config.insert("chat_template".into(), template.into());
        }
        Value::Object(config)
    }
}
