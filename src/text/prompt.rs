//! What a model is asked: plain words or a conversation.

use super::{Message, Text};
use crate::Result;
use serde::{Deserialize, Serialize};

/// A plain prompt, or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// One user message, or the text itself where a model is given raw text.
    Plain(String),
    /// Messages.
    Chat(Vec<Message>),
}

impl Prompt {
    /// Its ids: in the chat template unless `raw` or there is none.
    ///
    /// # Errors
    /// Text that cannot be encoded; a conversation that the template refuses.
    pub fn encode(&self, text: &Text, raw: bool) -> Result<Vec<u32>> {
        match self {
            Self::Plain(p) if raw || !text.has_chat_template() => text.encode(p),
            Self::Plain(p) => text.encode_chat(&[Message::new("user", p)], true),
            Self::Chat(messages) => text.encode_chat(messages, true),
        }
    }

    /// Whether nothing is said in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(p) => p.is_empty(),
            Self::Chat(messages) => messages.iter().all(|m| m.content.is_empty()),
        }
    }

    /// The question as a judge reads it: a single message's text, else every message behind its role.
    pub fn question(&self) -> String {
        match self {
            Self::Plain(p) => p.clone(),
            Self::Chat(messages) => match &messages[..] {
                [only] => only.content.clone(),
                all => all.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("\n\n"),
            },
        }
    }
}
