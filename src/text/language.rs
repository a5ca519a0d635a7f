//! What judges and stages need of a model's text.

use crate::Result;

/// Text of one model: its tokenizer and its templates.
pub trait Language {
    /// Ids of a piece of an answer, without special tokens.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    fn decode(&self, ids: &[u32]) -> Result<String>;

    /// Context in which the model answers one user message.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express; a template that fails.
    fn ask(&self, message: &str) -> Result<Vec<u32>>;

    /// Context in which the model continues plain text.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    fn raw(&self, text: &str) -> Result<Vec<u32>>;

    /// Ids that end an answer.
    fn stop(&self) -> &[u32];

    /// Most tokens of prompt and answer together.
    fn context(&self) -> usize;
}
