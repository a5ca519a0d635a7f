//! What judges and stages need of a model's tokenizer and templates.

use super::Answered;
use crate::Result;

/// The tokenizer and the templates of one model.
pub trait Language {
    /// Token ids of a piece of an answer, without special tokens.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// The text of `ids`, without their special tokens.
    ///
    /// # Errors
    /// An id lies outside the vocabulary.
    fn decode(&self, ids: &[u32]) -> Result<String>;

    /// Token ids of the context in which the model answers one user message.
    ///
    /// # Errors
    /// The vocabulary cannot express the text, or the template fails.
    fn ask(&self, message: &str) -> Result<Vec<u32>>;

    /// Token ids of the context in which the model thinks before it answers one user message; `None` where its template
    /// does not know `enable_thinking`.
    ///
    /// # Errors
    /// As [`Language::ask`].
    fn ask_to_think(&self, _message: &str) -> Result<Option<Vec<u32>>> {
        Ok(None)
    }

    /// Token ids of the context in which the model continues plain text.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    fn raw(&self, text: &str) -> Result<Vec<u32>>;

    /// Token ids of the context of [`Language::ask`], or of [`Language::raw`], and of beginnings of an answer to it, as
    /// they stand behind the context.
    ///
    /// # Errors
    /// As [`Language::ask`] and [`Language::raw`].
    fn begin(&self, message: &str, raw: bool, begun: &[&str]) -> Result<Answered> {
        let prompt = if raw { self.raw(message)? } else { self.ask(message)? };
        Ok(Answered { prompt, answers: begun.iter().map(|text| self.encode(text)).collect::<Result<_>>()? })
    }

    /// The token ids each of which ends an answer.
    fn stop(&self) -> &[u32];

    /// Most tokens that prompt and answer may have together.
    fn context(&self) -> usize;
}
