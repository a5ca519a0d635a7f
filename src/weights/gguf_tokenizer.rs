//! The tokenizer of a GGUF file: byte-level BPE with the pattern that `tokenizer.ggml.pre` names, or SentencePiece BPE
//! (`llama`), whose merges follow from the scores.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::gguf::{Gguf, GgufValue};
use super::gguf_pre::{self, PreTokenizer};
use crate::text::{Bpe, Merge, Parts, Text, Vocabulary, ends};
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

/// The key of the chat template; those of others are followed by a dot and their names.
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
/// The key that lists these names.
pub(super) const TEMPLATES: &str = "tokenizer.chat_templates";
/// The key that names the way to cut text.
const PRE: &str = "tokenizer.ggml.pre";
/// The way of files without that key, as in llama.cpp; it may be another than the model was trained with.
const UNNAMED: &str = "default";

/// The longest run of blanks that is a token of its own; Gemma's has 31.
const RUN: &str = "▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁";

/// Longer pieces are damage; splitting them at every character would take for ever.
const MAX_PIECE: usize = 1024;
/// Most threads that look for merges.
const SEARCHERS: usize = 4;
/// The fewest tokens for which another thread is worth starting.
const SHARE: usize = 1 << 14;

/// Rebuilds the tokenizer and takes over the chat template; `None` if the file has no tokenizer.
pub(crate) fn text(path: &Path, gguf: &Gguf) -> Result<Option<Text>> {
    let kind = match gguf.get("tokenizer.ggml.model").and_then(GgufValue::as_str) {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(kind) => kind,
    };
    let mut head = Head::read(path, gguf)?;
    let parts = match kind {
        "gpt2" => head.byte_level()?,
        "llama" => {
            head.respell();
            head.sentencepiece()?
        }
        other => return Err(head.wrong(format!("tokenizer.ggml.model is {other:?}; known are gpt2 and llama"))),
    };
    let text = Text::from_parts(parts, head.config());
    text.map(Some).map_err(|error| Error::file(path, error.to_string()))
}

/// What is uncertain about a file's tokenizer, in a sentence for the user.
pub(crate) fn warning(path: &Path, gguf: &Gguf) -> Option<String> {
    let byte_level = gguf.get("tokenizer.ggml.model").and_then(GgufValue::as_str) == Some("gpt2");
    (byte_level && gguf.get(PRE).is_none()).then(|| {
        format!(
            "{}: {PRE} is missing, so that text is cut in the way {UNNAMED:?}, which may not be the model's own; a \
             newer conversion of the model names it",
            path.display()
        )
    })
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
pub(super) fn merges_by_score(
    tokens: &[&str],
    scores: &[f64],
    vocabulary: &Vocabulary,
    apart: &HashSet<&str>,
) -> Vec<Merge> {
    struct Found {
        /// Ascends as the score descends.
        score: i64,
        /// Ascends as the lengths descend, the left one's first.
        lengths: u32,
        merge: Merge,
    }
    let mut is_apart = vec![false; tokens.len()];
    apart.iter().filter_map(|token| vocabulary.id(token)).for_each(|id| is_apart[id as usize] = true);
    let id = |token: &str| vocabulary.id(token).filter(|id| !is_apart[*id as usize]);
    let find = |tokens: &[&str], scores: &[f64]| {
        let mut found: Vec<Found> = Vec::with_capacity(2 * tokens.len());
        for (token, score) in tokens.iter().zip(scores).filter(|(token, _)| token.len() <= MAX_PIECE) {
            let Some(joined) = id(token) else { continue };
            let (begin, length) = (found.len(), token.chars().count() as u32);
            for (left_length, (at, _)) in (0..length).zip(token.char_indices()).skip(1) {
                let Some(left) = id(&token[..at]) else { continue };
                let Some(right) = id(&token[at..]) else { continue };
                let lengths = u32::MAX - (left_length << 16 | (length - left_length));
                found.push(Found { score: descending(*score), lengths, merge: Merge { left, right, joined } });
            }
            found[begin..].sort_unstable_by_key(|found| (found.merge.left, found.merge.right));
        }
        found
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(SEARCHERS);
    let share = tokens.len().div_ceil(threads).max(SHARE);
    let mut found = std::thread::scope(|scope| {
        let mut shares = tokens.chunks(share).zip(scores.chunks(share));
        let first = shares.next();
        let others: Vec<_> = shares.map(|(tokens, scores)| scope.spawn(|| find(tokens, scores))).collect();
        let mut found = first.map_or_else(Vec::new, |(tokens, scores)| find(tokens, scores));
        for other in others {
            found.append(&mut other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    found.sort_by_key(|found| (found.score, found.lengths));
    found.into_iter().map(|found| found.merge).collect()
}

/// A number that ascends as `x` descends in the order of `f64::total_cmp`.
fn descending(x: f64) -> i64 {
    let bits = x.to_bits().cast_signed();
    !(bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed())
}

/// Of the contents of added tokens, none of which must be a word alone, those that are cut out of a text before
/// anything is joined. What holds ▁ is not: the text has a blank there.
pub(super) fn split_out<'a>(added: impl Iterator<Item = &'a str>) -> HashSet<&'a str> {
    added.filter(|content| !content.contains('▁')).collect()
}

struct Head<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    types: Vec<usize>,
    /// Tokens that stand for runs of blanks; they are joined before all others, the shorter ones first.
    runs: Vec<usize>,
}

impl<'a> Head<'a> {
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
        Ok(Self { path, gguf, tokens, types, runs: Vec::new() })
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

    /// Spells the runs of blanks in Gemma's files as the text has them once it is normalised. Converters write them as
    /// tokens of the user with plain blanks, which a text with a written ▁ would not meet.
    fn respell(&mut self) {
        if !self.string("general.architecture").is_some_and(|name| name.starts_with("gemma")) {
            return;
        }
        let known: HashSet<&str> = self.tokens.iter().copied().filter(|token| token.starts_with("▁▁")).collect();
        for (id, token) in self.tokens.iter_mut().enumerate() {
            let blanks = token.len();
            let run = RUN.get(..blanks * '▁'.len_utf8()).filter(|_| blanks > 1 && token.bytes().all(|b| b == b' '));
            if let Some(run) = run.filter(|run| !known.contains(run)) {
                (*token, self.types[id]) = (run, GgufTokenType::Normal as usize);
                self.runs.push(id);
            }
        }
    }

    fn vocabulary(&self) -> Vocabulary {
        // Converters fill the rows that the tokenizer does not reach.
        let filler = |id: usize, token: &str| self.types[id] == UNUSED && token == format!("[PAD{id}]");
        let tokens = self.tokens.iter().enumerate();
        Vocabulary::new(tokens.map(|(id, token)| (!filler(id, token)).then_some(*token)))
    }

    fn added_tokens(&self) -> Vec<AddedToken> {
        let name = self.string("general.name").unwrap_or_default();
        // Converters have marked some ends of answers as plain words. What may be a word is one unless it has a role.
        let template = self.string(TEMPLATE).unwrap_or_default();
        let role =
            |token: &str| template.contains(token) || ["eos", "eot"].iter().any(|k| self.named(k) == Some(token));
        let mut ends = ends::known(self.tokens.iter().copied().zip(0..));
        ends.retain(|id| {
            let token = self.tokens[*id as usize];
            !ends::may_be_word(token) || role(token)
        });
        let added = |(id, kind): (usize, &usize)| {
            let special = *kind == CONTROL || *kind == UNKNOWN || ends.iter().any(|end| *end as usize == id);
            (special || *kind == USER_DEFINED).then(|| {
                let content = self.tokens[id];
                AddedToken::from(content, special).normalized(false).rstrip(swallows_blanks(name, content))
            })
        };
        self.types.iter().enumerate().filter_map(added).collect()
    }

    fn byte_level(&self) -> Result<Parts> {
        let name = self.string(PRE).unwrap_or(UNNAMED);
        let Some(way) = PreTokenizer::named(name) else {
            let known = gguf_pre::names();
            return Err(self.wrong(format!("{PRE} is {name:?}; known are {known}")));
        };
        let texts = self.gguf.get("tokenizer.ggml.merges").and_then(GgufValue::as_array);
        let texts = texts.ok_or_else(|| self.wrong("tokenizer.ggml.merges is missing"))?;
        let vocabulary = self.vocabulary();
        let id = |token: &str| {
            let unknown = || self.wrong(format!("tokenizer.ggml.merges: {token:?} is not one of the tokens"));
            vocabulary.id(token).ok_or_else(unknown)
        };
        let mut merges = Vec::with_capacity(texts.len());
        let mut joined = String::new();
        for text in texts {
            let pair = text.as_str().and_then(|text| text.split_once(' '));
            let (left, right) =
                pair.ok_or_else(|| self.wrong("tokenizer.ggml.merges: expected two parts with a blank between"))?;
            joined.clear();
            joined.extend([left, right]);
            merges.push(Merge { left: id(left)?, right: id(right)?, joined: id(&joined)? });
        }
        let mut model = Bpe::new(vocabulary, merges.into_iter());
        model.ignores_merges = way.ignore_merges;
        let (normalizer, pre_tokenizer) = way.json();
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let steps = json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
                           "post_processor": self.post_processor(way.adds_bos)});
        Ok(Parts { model, added: self.added_tokens(), steps })
    }

    fn sentencepiece(&self) -> Result<Parts> {
        let scores = self.gguf.get("tokenizer.ggml.scores").and_then(GgufValue::as_array).unwrap_or_default();
        let scores: Option<Vec<f64>> = scores.iter().map(score).collect();
        let scores = scores.filter(|scores| scores.len() == self.tokens.len());
        let mut scores = scores.ok_or_else(|| self.wrong("tokenizer.ggml.scores: expected a number for each token"))?;
        self.runs.iter().for_each(|id| scores[*id] = f64::from(f32::MAX) / (*id as f64 + 2.0));
        let (vocabulary, added) = (self.vocabulary(), self.added_tokens());
        let apart = split_out(added.iter().map(|token| token.content.as_str()));
        let merges = merges_by_score(&self.tokens, &scores, &vocabulary, &apart);
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let mut model = Bpe::new(vocabulary, merges.into_iter());
        model.unknown = self.named("unknown").map(str::to_owned);
        (model.fuses_unknown, model.falls_to_bytes) = (true, true);
        let steps = json!({"normalizer": {"type": "Sequence", "normalizers": normalizers},
                           "decoder": {"type": "Sequence", "decoders": decoders},
                           "post_processor": self.post_processor(true)});
        Ok(Parts { model, added, steps })
    }

    /// Puts `bos` in front where the file (or else the kind) asks for it, and `eos` behind where the file does.
    fn post_processor(&self, adds_bos: bool) -> Value {
        let asks = |end: &str, default| self.flag(&format!("tokenizer.ggml.add_{end}_token")).unwrap_or(default);
        let bos = self.named("bos").filter(|_| asks("bos", adds_bos));
        let eos = self.named("eos").filter(|_| asks("eos", false));
        if bos.or(eos).is_none() {
            return Value::Null;
        }
        let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let around = |texts: &[Value]| -> Vec<Value> {
            bos.map(special).into_iter().chain(texts.iter().cloned()).chain(eos.map(special)).collect()
        };
        let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
        let (single, pair) = (around(&[text("A", 0)]), around(&[text("A", 0), text("B", 1)]));
        let entry = |token: &str| {
            let id = self.tokens.iter().position(|other| *other == token);
            (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}))
        };
        json!({"type": "TemplateProcessing", "single": single, "pair": pair,
               "special_tokens": bos.into_iter().chain(eos).map(entry).collect::<Map<_, _>>()})
    }

    /// The templates beside the default one, such as the one for tools.
    fn named_templates(&self) -> Vec<(&'a str, &'a str)> {
        let names = self.gguf.get(TEMPLATES).and_then(GgufValue::as_array).unwrap_or_default();
        let template = |name: &'a str| Some((name, self.string(&format!("{TEMPLATE}.{name}"))?));
        names.iter().filter_map(GgufValue::as_str).filter_map(template).collect()
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
        let default = self.string(TEMPLATE);
        match &self.named_templates()[..] {
            [] => drop(default.map(|template| config.insert("chat_template".into(), template.into()))),
            named => {
                let all = default.map(|template| ("default", template)).into_iter().chain(named.iter().copied());
                let entry = |(name, template)| json!({"name": name, "template": template});
                config.insert("chat_template".into(), all.map(entry).collect());
            }
        }
        Value::Object(config)
    }
}

fn score(value: &GgufValue) -> Option<f64> {
    match value {
        GgufValue::F32(x) => Some(f64::from(*x)),
        other => other.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_descend_in_total_order() {
        let scores = [f64::NAN, f64::INFINITY, 3.5, 1e-300, 0.0, -0.0, -1e-300, -2.0, f64::NEG_INFINITY, -f64::NAN];
        assert!(scores.map(descending).is_sorted_by(|a, b| a < b));
    }

    /// The best joined token first, then the longer left part; what stands apart is no part.
    #[test]
    fn merges_stand_by_the_score_of_what_they_make() {
        let tokens = ["a", "b", "aa", "ab", "aab", "<a>", "aa<a>", "ab"];
        let scores = [0.0, 0.0, -2.0, -3.0, -1.0, 0.0, -1.0, -3.0];
        let vocabulary = Vocabulary::new(tokens.iter().map(|token| Some(*token)));
        let merges = merges_by_score(&tokens, &scores, &vocabulary, &HashSet::from(["<a>"]));
        let names = |merge: &Merge| [merge.left, merge.right, merge.joined].map(|id| vocabulary.token(id).unwrap());
        let want = [["aa", "b", "aab"], ["a", "ab", "aab"], ["a", "a", "aa"], ["a", "b", "ab"], ["a", "b", "ab"]];
        assert_eq!(merges.iter().map(names).collect::<Vec<_>>(), want);
    }
}
