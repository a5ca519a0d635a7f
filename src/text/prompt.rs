//! What a model is asked: plain words or a conversation.

use super::{Message, Text};
use crate::Result;
use serde::{Deserialize, Serialize};

/// What a model is asked: plain words, or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// One user message; where a model is given raw text, the text itself.
    Plain(String),
    /// The messages of a conversation.
    Chat(Vec<Message>),
}

impl Prompt {
    /// The prompt's token ids, in the chat template unless `raw` is set or there is no template.
    ///
    /// # Errors
    /// The text cannot be encoded, or the template refuses the conversation.
    pub fn encode(&self, text: &Text, raw: bool) -> Result<Vec<u32>> {
        match self {
            Self::Plain(p) if raw || !text.has_chat_template() => text.encode(p),
            Self::Plain(p) => text.encode_chat(&[Message::new("user", p)], true),
            Self::Chat(messages) => text.encode_chat(messages, true),
        }
    }

    /// Whether the prompt says nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(p) => p.is_empty(),
            Self::Chat(messages) => messages.iter().all(|m| m.content.is_empty()),
        }
    }

    /// The question as a judge reads it: the text of a single message, or else every message after its role.
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
