//! Text to token ids and back, and the model's own chat template.
//!
//! [`Text`] holds a Hugging Face tokenizer and what the files beside it say; its ids equal those of `transformers`.

mod bounds;
mod bpe;
mod dialect;
mod encode;
pub(crate) mod ends;
mod files;
mod language;
mod message;
mod prompt;
mod python;
pub(crate) mod sandbox;
mod source;
mod stream;
mod template;
#[cfg(test)]
mod templates;
mod tokenizer;
mod vocabulary;

pub(crate) use bpe::{Bpe, Merge};
pub use encode::{Answered, Turns};
pub use language::Language;
pub use message::Message;
pub use prompt::{Prompt, TemplateInputs, Words};
pub(crate) use prompt::{asked, system};
pub use stream::StreamDecoder;
pub(crate) use tokenizer::Parts;
pub(crate) use vocabulary::Vocabulary;

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{Model as _, NormalizerWrapper};

use crate::{Error, Result};
use template::{ChatInputs, Template};
use tokenizer::Tokenizer;

fn no_template() -> Error {
    Error::Input("this model has no chat template; give a plain prompt".into())
}

/// A tokenizer with its chat template, if it has one.
pub struct Text {
    tokenizer: Tokenizer,
    /// The content of tokenizer.json; where there is no such file it is written once somebody asks for it.
    tokenizer_json: OnceLock<String>,
    /// Where the leading blank is put, if tokenizer_config.json overrules tokenizer.json.
    prefix: Option<PrependScheme>,
    config: Value,
    template: Option<Template>,
    template_args: Map<String, Value>,
    reads_parts: OnceLock<bool>,
    end_of_turn: Option<u32>,
    /// What ends the assistant's turn where another message follows.
    end_within: OnceLock<Option<u32>>,
    /// Tokens that end an answer and that the tokenizer does not count as special; [`Text::decode`] leaves them out.
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
        let mut tokenizer_json = tokenizer_json.into();
        let (mut tokenizer, outline) = tokenizer::read(&tokenizer_json)?;
        // A file may hold the padding and truncation of the run that trained it.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::Input(format!("tokenizer.json is broken: {error}")))?;
        tokenizer.set_encode_special_tokens(tokenizer_config["split_special_tokens"] == true);
        if files::add_tokens(&mut tokenizer, &tokenizer_config)? {
            let wrong = |error| Error::Input(format!("tokenizer.json is broken: {error}"));
            tokenizer_json = tokenizer.to_string(true).map_err(wrong)?;
        }
        let prefix = tokenizer::llama_prefix(&outline, &tokenizer_config);
        if let Some(scheme) = prefix {
            tokenizer
                .with_normalizer(None::<NormalizerWrapper>)
                .with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        }
        Text::new(tokenizer, tokenizer_json.into(), prefix, tokenizer_config)
    }

    /// Makes a text from the parts of a tokenizer and from the content of tokenizer_config.json, which names no tokens
    /// but those of the parts.
    pub(crate) fn from_parts(parts: Parts, tokenizer_config: Value) -> Result<Text> {
        Text::new(tokenizer::make(parts)?, OnceLock::new(), None, tokenizer_config)
    }

    fn new(
        tokenizer: Tokenizer,
        tokenizer_json: OnceLock<String>,
        prefix: Option<PrependScheme>,
        config: Value,
    ) -> Result<Text> {
        let mut text = Text {
            tokenizer,
            tokenizer_json,
            prefix,
            template: template::from_config(&config)?,
            config,
            template_args: Map::new(),
            reads_parts: OnceLock::new(),
            end_of_turn: None,
            end_within: OnceLock::new(),
            hidden: Vec::new(),
        };
        text.end_of_turn = text.end_before(&[]);
        Ok(text)
    }

    /// Reads the tokenizer and chat template of a Hugging Face folder; `None` if it has no tokenizer.json.
    ///
    /// # Errors
    /// As [`Text::from_json`], with the folder's name; errors of the file system.
    pub fn open(folder: &Path) -> Result<Option<Text>> {
        let Some((tokenizer_json, config)) = files::read_folder(folder)? else { return Ok(None) };
        Text::from_json(tokenizer_json, config).map(Some).map_err(|error| Error::file(folder, error.to_string()))
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
        self.render(messages, &TemplateInputs::default(), add_generation_prompt)
    }

    /// The conversation as [`Text::render_chat`] gives it, with tools and variables of its own. A content of several
    /// parts is joined to one text where the template could not read the parts.
    ///
    /// # Errors
    /// As [`Text::render_chat`].
    pub fn render(&self, messages: &[Message], inputs: &TemplateInputs, add_generation_prompt: bool) -> Result<String> {
        let join = messages.iter().any(Message::has_parts) && !self.reads_parts();
        let json = |message: &Message| if join { message.joined().to_json() } else { message.to_json() };
        self.render_json(&messages.iter().map(json).collect::<Vec<_>>(), inputs, add_generation_prompt)
    }

    fn render_json(&self, messages: &[Value], inputs: &TemplateInputs, add_generation_prompt: bool) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(no_template)?;
        let tools = match &inputs.tools {
            Some(Value::String(json)) => {
                let wrong = |error| Error::Input(format!("tools is a text, but not a JSON list: {error}"));
                Some(serde_json::from_str(json).map_err(wrong)?)
            }
            other => other.clone().filter(|tools| !tools.is_null()),
        };
        let mut variables = self.template_args.clone();
        variables.extend(inputs.chat_template_kwargs.clone().unwrap_or_default());
        template.render(ChatInputs {
            messages,
            tools: tools.as_ref(),
            add_generation_prompt,
            variables: Some(&variables),
        })
    }

    /// Whether the template writes the text of a content that is a list of parts.
    fn reads_parts(&self) -> bool {
        *self.reads_parts.get_or_init(|| {
            const PART: &str = "PART";
            let parts = [json!({"role": "user", "content": [{"type": "text", "text": PART}]})];
            // A list that is printed as it is shows its keys.
            let words_alone =
                |text: String| text.contains(PART) && !text.contains("'type'") && !text.contains("\"type\"");
            self.render_json(&parts, &TemplateInputs::default(), true).is_ok_and(words_alone)
        })
    }

    /// The token ids of a conversation in full JSON: messages may carry whatever the template reads (`tool_calls`,
    /// `name`, a content of several parts), which it is given as they are.
    ///
    /// # Errors
    /// There is no message; as [`Text::render_chat`] and [`Text::encode`].
    pub fn encode_json_chat(
        &self,
        messages: &[Value],
        inputs: &TemplateInputs,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        if messages.is_empty() && self.has_chat_template() {
            return Err(Error::Input("the conversation has no message; give at least one".into()));
        }
        self.encode(&self.render_json(messages, inputs, add_generation_prompt)?)
    }

    /// Gives the chat template variables of its own, such as `enable_thinking`, in every conversation; a conversation's
    /// own ones go before them.
    #[must_use]
    pub fn with_template_args(mut self, args: Map<String, Value>) -> Self {
        self.set_template_args(args);
        self
    }

    /// Gives the chat template variables of its own, as [`Text::with_template_args`] does, in place.
    pub fn set_template_args(&mut self, args: Map<String, Value>) {
        self.template_args = args;
        // An end that only these variables let the template write is found anew.
        (self.end_of_turn, self.end_within) = (self.end_before(&[]), OnceLock::new());
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
        // The library would copy the vocabulary to count it.
        let added = self.tokenizer.get_added_vocabulary().get_vocab().keys();
        let model = self.tokenizer.get_model();
        model.get_vocab_size() + added.filter(|token| model.token_to_id(token).is_none()).count()
    }

    /// The content of tokenizer.json.
    pub fn tokenizer_json(&self) -> &str {
        // Nothing in a tokenizer refuses to be written, and keys are texts.
        #[expect(clippy::expect_used, reason = "as said")]
        self.tokenizer_json.get_or_init(|| self.tokenizer.to_string(false).expect("a tokenizer is JSON"))
    }

    /// The content of tokenizer_config.json, the chat template included.
    pub fn tokenizer_config(&self) -> &Value {
        &self.config
    }

    /// Whether tokenizer_config.json withdraws the blank that tokenizer.json puts in front of a text.
    pub(crate) fn takes_back_blank(&self) -> bool {
        matches!(self.prefix, Some(PrependScheme::Never))
    }

    /// Whether tokenizer_config.json names a class that puts the leading blank by itself.
    pub(crate) fn prefixes_itself(&self) -> bool {
        self.prefix.is_some()
    }

    /// The text of the chat template; where there are several, of the one that is used.
    pub fn chat_template(&self) -> Option<&str> {
        template::source(&self.config).ok().flatten()
    }

    /// Name and text of each chat template; the one that is used where no other is asked for is called `default`.
    pub fn chat_templates(&self) -> Vec<(&str, &str)> {
        template::named(&self.config).unwrap_or_default()
    }

    /// The id of the token that tokenizer_config.json names under `key` (`bos_token`, `pad_token`, …).
    pub fn special_token(&self, key: &str) -> Option<u32> {
        template::token_text(self.config.get(key)?).and_then(|token| self.token_to_id(token))
    }

    /// What ends the assistant's turn where another message follows.
    fn end_within(&self) -> Option<u32> {
        *self.end_within.get_or_init(|| {
            let found = self.end_before(&[Message::new("user", "QUESTION")]);
            let known = |id: &u32| self.id_to_token(*id).is_some_and(|token| ends::is_known(&token));
            // What begins the next message is no end of this one.
            found.filter(|id| Some(*id) == self.end_of_turn || known(id)).or(self.end_of_turn)
        })
    }

    /// Finds the token in what follows an answer in a rendered conversation, whatever the template looks like.
    fn end_before(&self, following: &[Message]) -> Option<u32> {
        const ANSWER: &str = "ANSWER";
        let asked = [Message::new("user", "QUESTION"), Message::new("assistant", ANSWER)];
        let rendered = self.render_chat(&[&asked, following].concat(), false).ok()?;
        let (_, rest) = rendered.rsplit_once(ANSWER)?;
        let added = self.tokenizer.get_added_tokens_decoder();
        let ends = |id: &u32| added.get(id).is_some_and(|token| token.special || ends::is_known(&token.content));
        self.encode(rest).ok()?.into_iter().find(ends)
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
