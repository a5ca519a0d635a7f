//! A tokenizer.json as a GGUF file's metadata: the reverse of `gguf_tokenizer`. What llama.cpp's tokenizers would cut
//! otherwise than the given one is refused.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::gguf_head::GgufHead;
use super::gguf_pre::{PreTokenizer, WAYS};
use super::gguf_tokenizer::{GgufTokenType as Kind, TEMPLATE, TEMPLATES, merges_by_score, split_out, swallows_blanks};
use super::save::GgufParts;
use crate::text::{Text, Vocabulary, ends};
use crate::{Error, Result};

/// Writes tokens, merges or scores, types, special ids and the chat template; without a tokenizer only the special ids
/// of the configuration. Returns what it cannot say.
pub(super) fn write(head: &mut GgufHead, parts: &GgufParts<'_>, rows: usize) -> Result<Vec<String>> {
    let Some(text) = parts.text else {
        head.string("tokenizer.ggml.model", "none");
        return special_ids(head, parts, None, &Around::default());
    };
    let json: Value = serde_json::from_str(text.tokenizer_json())
        .map_err(|error| Error::Input(format!("tokenizer.json is not JSON: {error}")))?;
    let model = &json["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") {
        return Err(cannot(format!("the model is {}", model["type"])));
    }
    let (tokens, types) = vocabulary(text, &json, rows)?;
    let merges = merges(model)?;
    if model["byte_fallback"] == true {
        let prefix = (sentencepiece_prefix(&json)? || text.prefixes_itself()) && !text.takes_back_blank();
        head.string("tokenizer.ggml.model", "llama");
        head.string("tokenizer.ggml.pre", "default");
        head.flag("tokenizer.ggml.add_space_prefix", prefix);
        head.numbers("tokenizer.ggml.scores", &scores(&tokens, &merges, &apart(&json))?);
    } else {
        let alike = |way: &&PreTokenizer| same(&way.json(), &json);
        let ignores = model["ignore_merges"] == true;
        let way = WAYS.iter().filter(alike).find(|way| way.ignore_merges == ignores).ok_or_else(|| {
            let known: Vec<&str> = WAYS.iter().map(PreTokenizer::name).collect();
            let flag = WAYS.iter().any(|way| alike(&way)).then(|| format!(" with ignore_merges {ignores}"));
            cannot(format!(
                "its normalizer and pre-tokenizer{} are none of those that have a name ({})",
                flag.unwrap_or_default(),
                known.join(", ")
            ))
        })?;
        head.string("tokenizer.ggml.model", "gpt2");
        head.string("tokenizer.ggml.pre", way.name());
        if let Some(merge) = merges.iter().find(|(left, right)| left.contains(' ') || right.contains(' ')) {
            return Err(cannot(format!("the merge {merge:?} holds a blank")));
        }
        let joined: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        head.strings("tokenizer.ggml.merges", &joined);
    }
    head.strings("tokenizer.ggml.tokens", &tokens);
    head.integers("tokenizer.ggml.token_type", &types);
    let around = Around::of(text)?;
    let notes = special_ids(head, parts, Some(text), &around)?;
    head.flag("tokenizer.ggml.add_bos_token", around.before.is_some());
    if around.behind.is_some() {
        head.flag("tokenizer.ggml.add_eos_token", true);
    }
    let letters = |name: &str| name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let (default, others): (Vec<_>, Vec<_>) =
        text.chat_templates().into_iter().partition(|(name, _)| *name == "default");
    if let [(_, template), ..] = default[..] {
        head.string(TEMPLATE, template);
    }
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|(name, _)| letters(name)).collect();
        names.iter().zip(&others).for_each(|(name, (_, text))| head.string(&format!("{TEMPLATE}.{name}"), text));
        head.strings(TEMPLATES, &names);
    }
    Ok(notes)
}

fn cannot(what: impl std::fmt::Display) -> Error {
    Error::Input(format!("the tokenizer cannot be written as GGUF: {what}"))
}

/// Every row's token and type; rows without a token get a name of their own.
fn vocabulary(text: &Text, json: &Value, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![Kind::Unused as i32; rows];
    let unknown = json["model"]["unk_token"].as_str();
    let bytes = json["model"]["byte_fallback"] == true;
    let mut set = |id: &Value, token: &str, kind: Kind| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).unwrap_or(usize::MAX);
        if id >= rows {
            let count = text.vocab_size();
            return Err(cannot(format!(
                "it has {count} tokens, token {token:?} the id {id}, but the model {rows} rows"
            )));
        }
        tokens[id] = token.to_string();
        types[id] = kind as i32;
        Ok(())
    };
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        let is_byte = bytes && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = match token.as_str() {
            token if Some(token) == unknown => Kind::Unknown,
            _ if is_byte => Kind::Byte,
            _ => Kind::Normal,
        };
        set(id, token, kind)?;
    }
    for added in added(json) {
        let content = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"] == true {
            _ if Some(content) == unknown => Kind::Unknown,
            true => Kind::Control,
            false => Kind::UserDefined,
        };
        set(&added["id"], content, kind)?;
    }
    Ok((tokens, types))
}

fn added(json: &Value) -> &[Value] {
    json["added_tokens"].as_array().map_or(&[], Vec::as_slice)
}

/// The added tokens that are cut out of a text beforehand.
fn apart(json: &Value) -> HashSet<&str> {
    let anywhere = added(json).iter().filter(|token| token["single_word"] != true);
    split_out(anywhere.filter_map(|token| token["content"].as_str()))
}

/// The name under which a model is written, whose meaning for added tokens is that of its tokenizer: `class`, which may
/// have to lose or to gain the word by which [`swallows_blanks`] knows Phi 3.
///
/// # Errors
/// Added tokens that GGUF files cannot express.
pub(super) fn model_name(class: &str, text: &Text) -> Result<String> {
    let json: Value = serde_json::from_str(text.tokenizer_json())
        .map_err(|error| Error::Input(format!("tokenizer.json is not JSON: {error}")))?;
    // LlamaTokenizer takes no normalizer from the file.
    let prepends = !text.prefixes_itself() && json["normalizer"].to_string().contains("\"Prepend\"");
    let is = |token: &Value, flag: &str| token[flag] == true;
    let content = |token: &Value| token["content"].as_str().unwrap_or_default().to_string();
    for token in added(&json) {
        let changed = prepends || content(token).contains([' ', '▁']) && !json["normalizer"].is_null();
        let flag = match token {
            token if is(token, "single_word") => "single_word",
            token if is(token, "lstrip") => "lstrip",
            token if is(token, "normalized") && changed => "normalized",
            _ => continue,
        };
        return Err(cannot(format!(
            "the token {:?} has the flag {flag}, which GGUF files do not know",
            content(token)
        )));
    }
    let template = text.chat_template().unwrap_or_default();
    for id in text.known_ends().iter().filter(|id| !added(&json).iter().any(|token| token["id"] == **id)) {
        let token = text.id_to_token(*id).unwrap_or_default();
        if ends::may_be_word(&token) && text.eos() != Some(*id) && !template.contains(&token) {
            continue;
        }
        return Err(cannot(format!("the token {token:?} is a word, but whoever reads GGUF files takes it for an end")));
    }
    let plain = class.replace("Phi3", "Phi");
    let names = [format!("{plain} phi3"), plain];
    let differs = |name: &&String| added(&json).iter().find(|t| is(t, "rstrip") != swallows_blanks(name, &content(t)));
    match names.iter().rev().find(|name| differs(name).is_none()) {
        Some(name) => Ok(name.clone()),
        None => {
            let token = names.iter().find_map(|name| differs(&name)).map(content).unwrap_or_default();
            Err(cannot(format!(
                "of the token {token:?} rstrip is not what it is of the others: GGUF files know blanks that are taken \
                 along only of all added tokens but <unk>, <s> and <|endoftext|>"
            )))
        }
    }
}

/// Pairs, as lists of two or (older files) as text with a blank between.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>> {
    fn pair(merge: &Value) -> Option<(&str, &str)> {
        match merge {
            Value::String(text) => text.split_once(' '),
            list => Some((list.get(0)?.as_str()?, list.get(1)?.as_str()?)),
        }
    }
    let list: Option<Vec<_>> = model["merges"].as_array().into_iter().flatten().map(pair).collect();
    list.ok_or_else(|| cannot("its merges are not pairs"))
}

/// SentencePiece joins by the joined piece's score, so the first merge that makes a piece gives its score; that must
/// lead back to the same merges, but for those with tokens that are `split_out`, which never happen.
fn scores(tokens: &[String], merges: &[(&str, &str)], split_out: &HashSet<&str>) -> Result<Vec<f32>> {
    let mut ranks = HashMap::new();
    for (left, right) in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    let last = ranks.len();
    let scores: Vec<f32> = tokens.iter().map(|token| -(ranks.get(token).copied().unwrap_or(last) as f32)).collect();
    let names: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let widened: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
    let happens = |(left, right): &&(&str, &str)| {
        let joined = format!("{left}{right}");
        ![left, right, joined.as_str()].iter().any(|piece| split_out.contains(piece))
    };
    let vocabulary = Vocabulary::new(names.iter().map(|name| Some(*name)));
    let token = |id: u32| names.get(id as usize).copied().unwrap_or_default();
    let again = merges_by_score(&names, &widened, &vocabulary, split_out);
    let again: Vec<_> = again.iter().map(|merge| (token(merge.left), token(merge.right))).collect();
    let merges: Vec<_> = merges.iter().filter(happens).copied().collect();
    if again == merges {
        return Ok(scores);
    }
    let same = again.iter().zip(&merges).take_while(|(a, b)| a == b).count();
    Err(cannot(format!("its merges are not those of a SentencePiece vocabulary (behind the first {same})")))
}

/// Whether a blank is put in front; the tokenizer must else do what SentencePiece does.
fn sentencepiece_prefix(json: &Value) -> Result<bool> {
    let steps = |value: &Value, list: &str| match value["type"].as_str() {
        Some("Sequence") => value[list].as_array().cloned().unwrap_or_default(),
        Some(_) => vec![value.clone()],
        None => Vec::new(),
    };
    let (mut prefix, mut replaces) = (false, false);
    for step in steps(&json["normalizer"], "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prefix = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => replaces = true,
            _ => return Err(cannot(format!("the normalizer {step} is not SentencePiece's"))),
        }
    }
    for step in steps(&json["pre_tokenizer"], "pretokenizers") {
        match (step["type"].as_str(), step["prepend_scheme"].as_str()) {
            // After the normalizer there are no blanks left to split at.
            (Some("Split"), _) if replaces && step["pattern"]["String"] == " " => {}
            (Some("Metaspace"), Some(scheme @ ("always" | "never"))) if step["split"] == false => {
                (prefix, replaces) = (prefix || scheme == "always", true);
            }
            _ => return Err(cannot(format!("the pre-tokenizer {step} is not SentencePiece's"))),
        }
    }
    if replaces { Ok(prefix) } else { Err(cannot("its blanks do not become ▁")) }
}

/// Whether normalizer and pre-tokenizer do what `known` (a pair of them) does; keys without effect on ids are left out.
fn same(known: &(Value, Value), json: &Value) -> bool {
    essence(&known.0) == essence(&json["normalizer"]) && essence(&known.1) == essence(&json["pre_tokenizer"])
}

fn essence(value: &Value) -> Vec<String> {
    let list = value.get("pretokenizers").or(value.get("normalizers")).and_then(Value::as_array);
    match (value["type"].as_str(), list) {
        (None, _) => Vec::new(),
        (Some("Sequence"), Some(list)) => list.iter().flat_map(essence).collect(),
        (Some("ByteLevel"), _) => vec![format!("ByteLevel {} {}", value["add_prefix_space"], value["use_regex"])],
        (Some("Split"), _) => {
            vec![format!("Split {} {} {}", value["pattern"], value["behavior"], value["invert"])]
        }
        (Some("Digits"), _) => vec![format!("Digits {}", value["individual_digits"])],
        (Some(_), _) => vec![value.to_string()],
    }
}

/// The tokens that the post-processor puts around a text.
#[derive(Default)]
struct Around {
    before: Option<u32>,
    behind: Option<u32>,
}

impl Around {
    fn of(text: &Text) -> Result<Self> {
        const TEXT: &str = "a";
        let (bare, whole) = (text.encode(TEXT)?, text.encode_special(TEXT)?);
        let at = whole.windows(bare.len().max(1)).position(|ids| ids == bare);
        let one = |ids: &[u32]| match ids {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            ids => Err(cannot(format!("its post-processor puts the tokens {ids:?} on one side of a text"))),
        };
        match at {
            Some(at) => Ok(Self { before: one(&whole[..at])?, behind: one(&whole[at + bare.len()..])? }),
            None if whole == bare => Ok(Self::default()),
            None => Err(cannot("its post-processor changes the ids of a text")),
        }
    }
}

fn special_ids(
    head: &mut GgufHead,
    parts: &GgufParts<'_>,
    text: Option<&Text>,
    around: &Around,
) -> Result<Vec<String>> {
    let listed = |key: &str| {
        let documents = [parts.generation_config, Some(parts.config)];
        documents.into_iter().flatten().find_map(|document| {
            let value = document.get(key)?;
            value.as_array().and_then(|list| list.first()).unwrap_or(value).as_u64()
        })
    };
    let mut eos = None;
    for (key, stored) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let named = text.and_then(|text| text.special_token(&format!("{key}_token"))).map(u64::from);
        let listed = listed(&format!("{key}_token_id"));
        let (put, id) = match key {
            "bos" => (around.before, named.or(around.before.map(u64::from)).or(listed)),
            "eos" => (around.behind, named.or(listed).or(around.behind.map(u64::from))),
            _ => (None, named.or(listed)),
        };
        if let Some(put) = put.filter(|put| id != Some(u64::from(*put))) {
            let token = text.and_then(|text| text.id_to_token(put)).unwrap_or_default();
            return Err(cannot(format!(
                "its post-processor puts {token:?} around a text, which is not its {key}_token"
            )));
        }
        if let Some(id) = id.and_then(|id| usize::try_from(id).ok()) {
            head.count(&format!("tokenizer.ggml.{stored}_token_id"), id)?;
            eos = if key == "eos" { Some(id as u64) } else { eos };
        }
    }
    // The ends that neither the first key nor a name says.
    let known = text.map(Text::known_ends).unwrap_or_default();
    let listed = parts.generation_config.and_then(|config| config.get("eos_token_id")?.as_array());
    let listed =
        listed.into_iter().flatten().filter_map(Value::as_u64).filter(|id| !known.iter().any(|k| u64::from(*k) == *id));
    let mut ends: Vec<u64> = text.and_then(Text::end_of_turn).into_iter().map(u64::from).collect();
    for id in listed.filter(|id| Some(*id) != eos) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    for (key, id) in ["eot", "eom"].iter().zip(&ends) {
        head.count(&format!("tokenizer.ggml.{key}_token_id"), usize::try_from(*id).unwrap_or(usize::MAX))?;
    }
    Ok(ends
        .get(2..)
        .unwrap_or_default()
        .iter()
        .map(|id| format!("GGUF files cannot say that token {id} ends an answer"))
        .collect())
}
