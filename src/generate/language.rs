//! The text of a model on disk, as judges and stages use it.

use crate::Result;
use crate::source::ModelSource;
use crate::text::{Answered, Language, Message, Prompt, Text, Words};

/// The tokenizer and chat template of a model on disk, as a [`Language`].
pub struct ChatLanguage<'a> {
    text: &'a Text,
    stop: &'a [u32],
    context: usize,
}

impl<'a> ChatLanguage<'a> {
    /// The language of `source`. A model without a chat template is asked by `Question: … Answer:`.
    ///
    /// # Errors
    /// The model has no tokenizer.
    pub fn new(source: &'a ModelSource) -> Result<Self> {
        let text = source.text()?;
        Ok(Self { text, stop: &source.stop_ids, context: source.arch.context() })
    }

    /// Token ids of the context in which the model answers `prompt`.
    ///
    /// # Errors
    /// Text that cannot be encoded; a conversation without a template, or one that the template refuses.
    pub fn ask_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match &prompt.words {
            Words::Plain(text) if !self.text.has_chat_template() => self.ask(text),
            _ => prompt.encode(self.text, false),
        }
    }

    /// Token ids of the context in which the model answers `question` after worked examples, each a question with its
    /// answer.
    ///
    /// # Errors
    /// Text that cannot be encoded; a conversation that the template refuses.
    pub fn ask_after(&self, examples: &[[String; 2]], question: &str) -> Result<Vec<u32>> {
        if !self.has_template() {
            let shown = examples.iter().map(|[asked, answer]| format!("{} {answer}\n\n", Self::untemplated(asked)));
            return self.raw(&(shown.collect::<String>() + &Self::untemplated(question)));
        }
        let turns = examples.iter().flat_map(|[asked, answer]| [("user", asked), ("assistant", answer)]);
        let mut messages: Vec<Message> = turns.map(|(role, words)| Message::new(role, words)).collect();
        messages.push(Message::new("user", question));
        self.text.encode_chat(&messages, true)
    }

    /// Whether the model has a chat template.
    pub fn has_template(&self) -> bool {
        self.text.has_chat_template()
    }

    /// What a model without a chat template is told to have it answer a question.
    fn untemplated(message: &str) -> String {
        format!("Question: {message}\n\nAnswer:")
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
            false => self.raw(&Self::untemplated(message)),
        }
    }

    fn ask_to_think(&self, message: &str) -> Result<Option<Vec<u32>>> {
        self.text.encode_thinking(&[Message::new("user", message)])
    }

    fn raw(&self, text: &str) -> Result<Vec<u32>> {
        self.text.encode_plain(text)
    }

    fn begin(&self, message: &str, raw: bool, begun: &[&str]) -> Result<Answered> {
        let untemplated = !raw && !self.text.has_chat_template();
        let words = if untemplated { Self::untemplated(message) } else { message.to_owned() };
        self.text.encode_begun(&words.into(), raw, begun)
    }

    fn stop(&self) -> &[u32] {
        self.stop
    }

    fn context(&self) -> usize {
        self.context
    }
}
