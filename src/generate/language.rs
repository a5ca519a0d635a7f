//! The text of a model on disk, as judges and stages use it.

use crate::Result;
use crate::source::ModelSource;
use crate::text::{Language, Message, Prompt, Text};

/// The tokenizer and chat template of a model on disk, as a [`Language`].
pub struct ChatLanguage<'a> {
    text: &'a Text,
    stop: &'a [u32],
    /// Token that stands in front of plain text, where the tokenizer's configuration says so.
    bos: Option<u32>,
    context: usize,
}

impl<'a> ChatLanguage<'a> {
    /// The language of `source`. A model without a chat template is asked by `Question: … Answer:`.
    ///
    /// # Errors
    /// The model has no tokenizer.
    pub fn new(source: &'a ModelSource) -> Result<Self> {
        let text = source.text()?;
        let adds_bos = text.tokenizer_config().get("add_bos_token").and_then(|v| v.as_bool()) == Some(true);
        Ok(Self { text, stop: &source.stop_ids, bos: text.bos().filter(|_| adds_bos), context: source.arch.context() })
    }

    /// Token ids of the context in which the model answers `prompt`.
    ///
    /// # Errors
    /// Text that cannot be encoded; a conversation without a template, or one that the template refuses.
    pub fn ask_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match prompt {
            Prompt::Plain(text) => self.ask(text),
            Prompt::Chat(messages) => self.text.encode_chat(messages, true),
        }
    }
}

impl Language for ChatLanguage<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.text.encode(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.text.decode(ids)
    }

    fn ask(&self, message: &str) -> Result<Vec<u32>> {
        match self.text.has_chat_template() {
            true => self.text.encode_chat(&[Message::new("user", message)], true),
            false => self.raw(&format!("Question: {message}\n\nAnswer:")),
        }
    }

    fn raw(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.into_iter().collect();
        ids.extend(self.text.encode(text)?);
        Ok(ids)
    }

    fn stop(&self) -> &[u32] {
        self.stop
    }

    fn context(&self) -> usize {
        self.context
    }
}
