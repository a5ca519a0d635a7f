//! Text to token ids and back, and the model's own chat template.
//!
//! [`Text`] holds a Hugging Face tokenizer and what tokenizer_config.json says. Its ids equal those of `transformers`
//! with `add_special_tokens=False`: none are added, but special tokens that stand in the text are recognised, which is
//! how a rendered chat gets its own. Encode prompt and answer apart, and join their ids.

mod bounds;
pub(crate) mod ends;
mod language;
mod prompt;
mod python;
pub(crate) mod sandbox;
mod stream;
mod template;

pub use language::Language;
pub use prompt::Prompt;
pub use stream::StreamDecoder;

use crate::disk::{self, OnDisk};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, Tokenizer};

use crate::{Error, Result};
use template::{ChatInputs, Template};

fn no_template() -> Error {
    Error::Input("this model has no chat template; give a plain prompt".into())
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or another role that the template knows.
    pub role: String,
    /// The words that were said.
    pub content: String,
}

impl Message {
    /// A message of `role` with the words `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// The message as templates see it.
    fn to_json(&self) -> Value {
        serde_json::json!({"role": self.role, "content": self.content})
    }
}

/// A tokenizer with its chat template, if it has one.
pub struct Text {
    tokenizer: Tokenizer,
    tokenizer_json: String,
    config: Value,
    template: Option<Template>,
    end_of_turn: Option<u32>,
    /// Ends of an answer that the tokenizer does not count as special; a text does not show them.
    hidden: Vec<u32>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text")
            .field("vocab_size", &self.vocab_size())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Text {
    /// Makes a text from the content of tokenizer.json and of tokenizer_config.json (an empty object if there is none).
    ///
    /// # Errors
    /// tokenizer.json is broken, or the chat template is not a text.
    pub fn from_json(tokenizer_json: impl Into<String>, tokenizer_config: Value) -> Result<Text> {
        let tokenizer_json = tokenizer_json.into();
        let mut tokenizer = read_tokenizer(&tokenizer_json)?;
        // A file may hold the padding and truncation of the run that trained it.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::Input(format!("tokenizer.json is broken: {error}")))?;
        if let Some(scheme) = llama_prefix(&tokenizer_json, &tokenizer_config) {
            tokenizer
                .with_normalizer(None::<NormalizerWrapper>)
                .with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        }
        let template = template::from_config(&tokenizer_config)?;
        let config = tokenizer_config;
        let mut text = Text { tokenizer, tokenizer_json, config, template, end_of_turn: None, hidden: Vec::new() };
        text.end_of_turn = text.find_end_of_turn();
        Ok(text)
    }

    /// Reads a Hugging Face folder; `None` if it has no tokenizer.json. A `chat_template.jinja` takes precedence over
    /// the template in tokenizer_config.json, as in transformers.
    ///
    /// # Errors
    /// As [`Text::from_json`], with the file's name; errors of the file system.
    pub fn open(folder: &Path) -> Result<Option<Text>> {
        let path = folder.join("tokenizer.json");
        if !path.is_there() {
            return Ok(None);
        }
        let read = |path: &Path| {
            let bytes = disk::read(path).map_err(Error::io(path))?;
            String::from_utf8(bytes).map_err(|error| Error::file(path, format!("is not UTF-8: {error}")))
        };
        let tokenizer_json = read(&path)?;
        let config_path = folder.join("tokenizer_config.json");
        let mut config = Value::Object(serde_json::Map::new());
        if config_path.is_there() {
            config = serde_json::from_str(&read(&config_path)?)
                .map_err(|error| Error::file(&config_path, format!("is not JSON: {error}")))?;
            if !config.is_object() {
                return Err(Error::file(&config_path, "is not a JSON object"));
            }
        }
        let template_path = folder.join("chat_template.jinja");
        if template_path.is_there() {
            config["chat_template"] = read(&template_path)?.into();
        }
        match Text::from_json(tokenizer_json, config) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(Error::file(folder, error.to_string())),
        }
    }

    /// The token ids of `text`; no special ones are added.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text (no unknown token), or its pattern gives up.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false);
        Ok(encoding.map_err(|error| Error::Input(format!("the text cannot be encoded: {error}")))?.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let shown: Vec<u32> = ids.iter().copied().filter(|id| !self.hidden.contains(id)).collect();
        self.tokenizer.decode(&shown, true).map_err(|error| Error::Input(format!("the ids cannot be decoded: {error}")))
    }

    /// The ids of tokens that end an answer by their names, as llama.cpp takes them.
    pub(crate) fn known_ends(&self) -> Vec<u32> {
        ends::known(ends::names().filter_map(|name| Some((name, self.token_to_id(name)?))))
    }

    /// Leaves ends of an answer out of every text, if they are tokens of their own and not words (a line break is one).
    pub(crate) fn hide(&mut self, ends: &[u32]) {
        let added = self.tokenizer.get_added_tokens_decoder();
        let apart = |id: &u32| added.contains_key(id) || self.id_to_token(*id).is_some_and(|n| ends::is_known(&n));
        self.hidden = ends.iter().copied().filter(apart).collect();
    }

    /// A decoder that takes ids one by one, as they are generated.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The conversation as the model's template writes it. With `add_generation_prompt` it ends where the assistant
    /// begins to speak.
    ///
    /// # Errors
    /// There is no template, the template fails or refuses the conversation, or it does not end.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let Some(template) = &self.template else { return Err(no_template()) };
        let messages: Vec<Value> = messages.iter().map(Message::to_json).collect();
        template.render(ChatInputs { messages: &messages, add_generation_prompt, ..ChatInputs::default() })
    }

    /// The token ids of a conversation in full JSON: messages may carry whatever the template reads (`tool_calls`,
    /// `name`, a content of several parts), and `tools` lists the functions that the model may call.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_json_chat(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let Some(template) = &self.template else { return Err(no_template()) };
        let inputs = ChatInputs { messages, tools, add_generation_prompt, variables: None };
        self.encode(&template.render(inputs)?)
    }

    /// The token ids of [`Text::render_chat`]; each special token that the template writes is a single id.
    ///
    /// # Errors
    /// As [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.encode(&self.render_chat(messages, add_generation_prompt)?)
    }

    /// The special token with which the template ends the assistant's turn.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn
    }

    /// The id of tokenizer_config.json's `eos_token`.
    pub fn eos(&self) -> Option<u32> {
        self.special_token("eos_token")
    }

    /// The id of tokenizer_config.json's `bos_token`.
    pub fn bos(&self) -> Option<u32> {
        self.special_token("bos_token")
    }

    /// The id of a token, given by its exact content.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The content of a token, as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// How many tokens the vocabulary has, added ones included. The model's output may be wider.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The content of tokenizer.json.
    pub fn tokenizer_json(&self) -> &str {
        &self.tokenizer_json
    }

    /// The content of tokenizer_config.json, the chat template included.
    pub fn tokenizer_config(&self) -> &Value {
        &self.config
    }

    /// Whether tokenizer_config.json withdraws the blank that tokenizer.json puts in front of a text.
    pub(crate) fn takes_back_blank(&self) -> bool {
        matches!(llama_prefix(&self.tokenizer_json, &self.config), Some(PrependScheme::Never))
    }

    /// Whether tokenizer_config.json names a class that puts the leading blank by itself.
    pub(crate) fn prefixes_itself(&self) -> bool {
        llama_prefix(&self.tokenizer_json, &self.config).is_some()
    }

    /// The text of the chat template; where there are several, of the one that is used.
    pub fn chat_template(&self) -> Option<&str> {
        template::source(&self.config).ok().flatten()
    }

    /// The id of the token that tokenizer_config.json names under `key` (`bos_token`, `pad_token`, …).
    pub fn special_token(&self, key: &str) -> Option<u32> {
        template::token_text(self.config.get(key)?).and_then(|token| self.token_to_id(token))
    }

    /// Finds the token in what follows an answer in a rendered conversation, whatever the template looks like.
    fn find_end_of_turn(&self) -> Option<u32> {
        const ANSWER: &str = "ANSWER";
        let template = self.template.as_ref()?;
        let messages = [Message::new("user", "QUESTION"), Message::new("assistant", ANSWER)].map(|m| m.to_json());
        let rendered = template.render(ChatInputs { messages: &messages, ..ChatInputs::default() }).ok()?;
        let (_, rest) = rendered.rsplit_once(ANSWER)?;
        let added = self.tokenizer.get_added_tokens_decoder();
        let ends = |id: &u32| added.get(id).is_some_and(|token| token.special || ends::is_known(&token.content));
        self.encode(rest).ok()?.into_iter().find(ends)
    }
}

/// Where a SentencePiece BPE puts its leading blank, if not where tokenizer.json says. Converters write a normalizer
/// that puts one before every piece between special tokens. `LlamaTokenizer` of transformers takes only vocabulary and
/// merges from the file, and puts one at the text's start, or everywhere with `legacy`, or nowhere without
/// `add_prefix_space`.
fn llama_prefix(tokenizer_json: &str, config: &Value) -> Option<PrependScheme> {
    let class = config.get("tokenizer_class")?.as_str()?;
    let file: Value = serde_json::from_str(tokenizer_json).ok()?;
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "▁";
    let normalizer = &file["normalizer"];
    let converted =
        prepends(normalizer) || normalizer["normalizers"].as_array().is_some_and(|steps| steps.iter().any(prepends));
    if !converted || !matches!(class, "LlamaTokenizer" | "LlamaTokenizerFast") {
        return None;
    }
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    Some(match (flag("add_prefix_space"), flag("legacy")) {
        (Some(false), _) => PrependScheme::Never,
        (_, Some(true)) => PrependScheme::Always,
        _ => PrependScheme::First,
    })
}

/// Reads a tokenizer.json. `tokenizers` panics on some broken files (merges shorter than the prefix that they are to
/// lose, a damaged SentencePiece normaliser). To find these beforehand would mean to read the file a second time, so
/// the panic is caught.
fn read_tokenizer(json: &str) -> Result<Tokenizer> {
    let broken = |error: &dyn std::fmt::Display| Error::Input(format!("tokenizer.json is broken: {error}"));
    let document: Value = serde_json::from_str(json).map_err(|error| broken(&error))?;
    bounds::check(&document).map_err(|what| broken(&what))?;
    match std::panic::catch_unwind(|| Tokenizer::from_bytes(json.as_bytes())) {
        Ok(read) => read.map_err(|error| broken(&error)),
        Err(_) => Err(broken(&"its reader gave up; convert the tokenizer again")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A byte-level tokenizer without merges: a byte's id is the rank of its character, then come `<s>` 256,
    /// `<|im_start|>` 257 and `<|im_end|>` 258.
    pub(crate) fn byte_level(config: Value) -> Text {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab: serde_json::Map<String, Value> =
            alphabet.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        let added: Vec<Value> = ["<s>", "<|im_start|>", "<|im_end|>"]
            .iter()
            .enumerate()
            .map(|(i, content)| {
                json!({"id": 256 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
            })
            .collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                      "merges": []}
        });
        Text::from_json(json.to_string(), config).unwrap()
    }

    pub(crate) const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn text_comes_back() {
        let text = byte_level(json!({}));
        for s in ["", "plain words", " leading", "Grüße, 世界 🦀!", "tab\tnew\nline"] {
            assert_eq!(text.decode(&text.encode(s).unwrap()).unwrap(), s);
        }
        assert_eq!(text.encode("a<|im_end|>").unwrap().len(), 2);
        assert_eq!(text.decode(&[258]).unwrap(), "");
        assert!(text.render_chat(&[], true).unwrap_err().to_string().contains("no chat template"));
    }

    #[test]
    fn chat_has_its_special_tokens() {
        let text =
            byte_level(json!({"chat_template": CHATML, "eos_token": {"content": "<|im_end|>"}, "bos_token": "<s>"}));
        let ids = text.encode_chat(&[Message::new("user", "Hi")], true).unwrap();
        assert_eq!((ids[0], ids.iter().filter(|id| **id == 258).count()), (257, 1));
        assert_eq!((text.end_of_turn(), text.eos(), text.bos()), (Some(258), Some(258), Some(256)));
    }

    #[test]
    fn a_broken_tokenizer_is_an_error() {
        let charsmap = r#"{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA"},
            "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}"#;
        let early = r#"{"version": "1.0", "decoder": {"type": "Fuse""#;
        for broken in ["", "{}", "[]", "{\"model\": 3}", "\u{0}", charsmap, early] {
            assert!(Text::from_json(broken, json!({})).unwrap_err().to_string().contains("tokenizer.json"));
        }
    }
}
