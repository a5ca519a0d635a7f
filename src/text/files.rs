//! The tokenizer's files of a Hugging Face folder, and what they add to tokenizer.json.

use super::bounds;
use super::template::{self, token_text};
use super::tokenizer::{Tokenizer, outline};
use crate::arch::family;
use crate::disk::{self, OnDisk};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;
use tokenizers::AddedToken;

/// Keys of tokenizer_config.json that name one special token each.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys of tokenizer_config.json that list further special tokens, or name them.
const LISTED: [&str; 3] = ["model_specific_special_tokens", "extra_special_tokens", "additional_special_tokens"];
/// The key under which tokenizer_config.json has added tokens by their ids.
const DECODER: &str = "added_tokens_decoder";

/// The class that takes tokenizer.json as it is.
const AS_IT_IS: &str = "PreTrainedTokenizerFast";

/// Whether tokenizer.json is taken as it is for the model in a folder, as transformers does for some families.
fn as_written(folder: &Path) -> bool {
    let config = object(&folder.join("config.json")).ok().flatten();
    let family = config.and_then(|config| family::of_config(&Value::Object(config)));
    family.is_some_and(|family| family.tokenizer_as_written)
}

/// The content of tokenizer.json and of tokenizer_config.json, with what stands in the files of chat
/// templates, special_tokens_map.json and added_tokens.json put into the latter; `None` if there is no tokenizer.json.
///
/// As in transformers, templates in files of their own take precedence over tokenizer_config.json, and the two older
/// files are read only where tokenizer_config.json has no list of added tokens itself.
pub(super) fn read_folder(folder: &Path) -> Result<Option<(String, Value)>> {
    let path = folder.join("tokenizer.json");
    if !path.is_there() {
        return Ok(None);
    }
    let tokenizer_json = read(&path)?;
    let mut config = object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    template::add_files(folder, &mut config)?;
    if as_written(folder) && config.get("tokenizer_class").is_some_and(|class| class != AS_IT_IS) {
        config.insert("tokenizer_class".into(), AS_IT_IS.into());
    }
    if !config.contains_key(DECODER) {
        config.extend(object(&folder.join("special_tokens_map.json"))?.unwrap_or_default());
        if let Some(added) = object(&folder.join("added_tokens.json"))? {
            let tokens = older(&added, &config, &tokenizer_json);
            config.insert(DECODER.into(), Value::Object(tokens));
        }
    }
    Ok(Some((tokenizer_json, Value::Object(config))))
}

fn read(path: &Path) -> Result<String> {
    let bytes = disk::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|error| Error::file(path, format!("is not UTF-8: {error}")))
}

/// The JSON object in a file, if there is such a file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_there() {
        return Ok(None);
    }
    let value = serde_json::from_str(&read(path)?);
    match value.map_err(|error| Error::file(path, format!("is not JSON: {error}")))? {
        Value::Object(object) => Ok(Some(object)),
        _ => Err(Error::file(path, "is not a JSON object")),
    }
}

/// The tokens of added_tokens.json (content to id) that tokenizer.json does not have, in the form of
/// `added_tokens_decoder`.
fn older(added: &Map<String, Value>, config: &Map<String, Value>, tokenizer_json: &str) -> Map<String, Value> {
    let file = outline(tokenizer_json).unwrap_or_default();
    let known: Vec<&Value> = file["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]).collect();
    let special: Vec<&str> = named(config).chain(listed(config)).filter_map(token_text).collect();
    let new = added.iter().filter(|(_, id)| !known.contains(id));
    new.map(|(content, id)| {
        let special = special.contains(&content.as_str());
        (id.to_string(), json!({"content": content, "normalized": !special, "special": special}))
    })
    .collect()
}

/// The tokens with a name of their own; a model may have names that no other has, such as `image_token`.
fn named(config: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let own = |(key, value): &(&String, &Value)| {
        key.ends_with("_token") && value.is_string() && !NAMED.contains(&key.as_str())
    };
    NAMED.iter().filter_map(|key| config.get(*key)).chain(config.iter().filter(own).map(|(_, value)| value))
}

fn listed(config: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    LISTED.iter().filter_map(|key| config.get(*key)).flat_map(|value| match value {
        Value::Array(tokens) => tokens.iter().collect(),
        Value::Object(tokens) => tokens.values().collect::<Vec<_>>(),
        _ => Vec::new(),
    })
}

/// A token as tokenizer_config.json describes it: its content, or an object with its flags.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = token_text(value)?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(match flag("normalized") {
        Some(normalized) => token.normalized(normalized),
        None => token,
    })
}

/// Adds the tokens of tokenizer_config.json to the tokenizer: those of `added_tokens_decoder`, which also override the
/// flags that tokenizer.json gives them, and the special tokens that the vocabulary lacks. Tells if there were any.
///
/// # Errors
/// The tokens are longer than any tokenizer's.
pub(super) fn add_tokens(tokenizer: &mut Tokenizer, config: &Value) -> Result<bool> {
    let Some(config) = config.as_object() else { return Ok(false) };
    let known: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
    let mut decoder: Vec<(u32, AddedToken)> = config
        .get(DECODER)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(id, value)| Some((id.parse().ok()?, token(value, false)?)))
        .collect();
    decoder.sort_by_key(|(id, _)| *id);
    let mut new: Vec<AddedToken> =
        decoder.into_iter().map(|(_, token)| token).filter(|token| !known.contains(token)).collect();
    for value in named(config).chain(listed(config)) {
        let Some(token) = token(value, true) else { continue };
        if !known.iter().chain(&new).any(|other| other.content == token.content) && !token.content.is_empty() {
            new.push(token.special(true));
        }
    }
    bounds::check_config(new.iter().map(|token| token.content.len())).map_err(Error::Input)?;
    // Even without a new token the tokenizer would build its search for all of them anew.
    Ok(!new.is_empty() && tokenizer.add_tokens(&new) > 0)
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::super::tests::byte_level;
    use serde_json::{Value, json};

    /// The folder of a byte-level tokenizer with the files given beside tokenizer.json.
    fn folder(files: &[(&str, Value)]) -> Text {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("tokenizer.json"), byte_level(json!({})).tokenizer_json()).unwrap();
        for (name, content) in files {
            std::fs::write(tmp.path().join(name), content.to_string()).unwrap();
        }
        Text::open(tmp.path()).unwrap().unwrap()
    }

    #[test]
    fn special_tokens_may_be_named_by_the_older_file_alone() {
        let map = json!({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}});
        let text = folder(&[("special_tokens_map.json", map.clone())]);
        assert_eq!((text.bos(), text.eos()), (Some(256), Some(258)));
        let newer = json!({"added_tokens_decoder": {}, "bos_token": "<|im_start|>"});
        let text = folder(&[("special_tokens_map.json", map), ("tokenizer_config.json", newer)]);
        assert_eq!((text.bos(), text.eos()), (Some(257), None));
    }

    #[test]
    fn added_tokens_override_flags_and_get_new_ids() {
        let stripping = json!({"content": "<s>", "lstrip": false, "rstrip": true, "normalized": false,
            "single_word": false, "special": true});
        let new = json!({"content": "<new>", "lstrip": false, "rstrip": false, "normalized": false,
            "single_word": false, "special": true});
        let text =
            folder(&[("tokenizer_config.json", json!({"added_tokens_decoder": {"256": stripping, "259": new}}))]);
        assert_eq!(text.encode("a<s> b").unwrap(), text.encode("a<s>b").unwrap());
        assert_eq!(text.encode("<new>").unwrap(), [259]);
        // What is written elsewhere holds them too.
        let written = Text::from_json(text.tokenizer_json(), json!({})).unwrap();
        assert_eq!(written.encode("<s>  <new>").unwrap(), [256, 259]);
        let text = folder(&[("added_tokens.json", json!({"<s>": 256, "<old>": 259}))]);
        assert_eq!(text.encode("<old><s>").unwrap(), [259, 256]);
        let named = json!({"pad_token": "<pad>", "image_token": "<img>", "add_bos_token": true,
            "extra_special_tokens": {"sound_token": "<snd>"}});
        let text = folder(&[("tokenizer_config.json", named)]);
        assert_eq!(text.encode("<pad><img><snd>").unwrap(), [259, 260, 261]);
    }

    /// As transformers 5 does with the same files: tokens that are added and not special are still cut out.
    #[test]
    fn special_tokens_in_a_text_are_plain_where_the_folder_says_so() {
        let new = |name: &str, special: bool| {
            json!({"content": name, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false,
                   "special": special})
        };
        let split = |split: bool| {
            let added = json!({"256": new("<s>", true), "259": new("<new>", false)});
            let config = json!({"split_special_tokens": split, "eos_token": "<s>", "added_tokens_decoder": added});
            folder(&[("tokenizer_config.json", config)])
        };
        assert_eq!(split(false).encode("a<s><new>").unwrap(), [64, 256, 259]);
        let text = split(true);
        assert_eq!((text.encode("a<s><new>").unwrap(), text.eos()), (vec![64, 27, 82, 29, 259], Some(256)));
    }
}
