//! One message of a conversation, with all that a chat template may read of it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// One message of a conversation.
///
/// In JSON it is `{"role": …, "content": …}` or, as ShareGPT's files have it, `{"from": …, "value": …}`. The content is
/// a text, a list of text parts, or null where the message only calls tools. All further fields (`tool_calls`, `name`,
/// `reasoning_content`, …) reach the chat template as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or another role that the template knows.
    pub role: String,
    /// The words that were said; of several text parts, all of them; empty where there are none.
    pub content: String,
    /// The further fields, and `content` where it is no plain text.
    more: Map<String, Value>,
}

/// Names of the speakers in ShareGPT's files and what the field calls them.
const SPEAKERS: [(&str, &str); 16] = [
    ("human", "user"),
    ("user", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("ai", "assistant"),
    ("chatgpt", "assistant"),
    ("claude", "assistant"),
    ("bot", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("system", "system"),
    ("developer", "developer"),
    ("tool", "tool"),
    ("observation", "tool"),
];

const FORM: &str = "a message has a role and a content (or from and value)";

/// The role of a speaker in ShareGPT's files.
fn role_of(speaker: &str) -> Result<String, String> {
    match SPEAKERS.iter().find(|(name, _)| name.eq_ignore_ascii_case(speaker)) {
        Some((_, role)) => Ok((*role).to_owned()),
        None => {
            let known: Vec<&str> = SPEAKERS.iter().map(|(name, _)| *name).collect();
            let known = known.join(", ");
            Err(format!(
                "the message is from {speaker:?}; known are {known}; a role of the chat template's own is written as \
                 role, with content"
            ))
        }
    }
}

impl Message {
    /// A message of `role` with the words `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), more: Map::new() }
    }

    /// Whether the message has neither words nor a call of a tool.
    pub fn is_empty(&self) -> bool {
        let calls = |key: &str| self.more.get(key).is_some_and(|calls| !calls.is_null() && *calls != json!([]));
        self.content.is_empty() && !["tool_calls", "function_call"].into_iter().any(calls)
    }

    /// Whether the message is the assistant's and to be learnt: neither `weight` 0 (OpenAI's files) nor `train` false
    /// (Axolotl's) stands beside it.
    pub fn is_learnt(&self) -> bool {
        let weighs_nothing = self.more.get("weight").and_then(Value::as_f64) == Some(0.0);
        self.role == "assistant" && !weighs_nothing && self.more.get("train") != Some(&Value::Bool(false))
    }

    /// Whether the content is a list of parts.
    pub(super) fn has_parts(&self) -> bool {
        self.more.get("content").is_some_and(Value::is_array)
    }

    /// The message as its JSON says it, but with all text parts as one text.
    pub(super) fn joined(&self) -> Message {
        let mut message = self.clone();
        if self.has_parts() {
            message.more.remove("content");
        }
        message
    }

    /// The message as a chat template reads it.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("role".into(), json!(self.role));
        fields.insert("content".into(), json!(self.content));
        fields.extend(self.more.clone());
        Value::Object(fields)
    }

    /// Reads a message from its JSON object.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let shared = !fields.contains_key("role") && fields.contains_key("from");
        let role = match fields.remove(if shared { "from" } else { "role" }) {
            Some(Value::String(role)) => role,
            Some(other) => return Err(format!("{FORM}; the role is {other}, a text was expected")),
            None => return Err(format!("missing field `role`; {FORM}")),
        };
        let role = if shared { role_of(&role)? } else { role };
        let said = fields.remove("content").or_else(|| if shared { fields.remove("value") } else { None });
        let calls = ["tool_calls", "function_call"].iter().any(|key| fields.get(*key).is_some_and(|v| !v.is_null()));
        let content = match &said {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<String, String>>()?,
            Some(Value::Null) => String::new(),
            None if calls => String::new(),
            Some(other) => return Err(format!("{FORM}; the content is {other}, a text was expected")),
            None => return Err(format!("missing field `content`; {FORM}")),
        };
        if !matches!(said, Some(Value::String(_))) {
            fields.insert("content".into(), said.unwrap_or(Value::Null));
        }
        Ok(Self { role, content, more: fields })
    }
}

/// The words of one part of a content.
fn part(part: &Value) -> Result<String, String> {
    let kind = part.get("type").and_then(Value::as_str);
    match (part, kind, part.get("text")) {
        (Value::String(text), ..) => Ok(text.clone()),
        (_, None | Some("text"), Some(Value::String(text))) => Ok(text.clone()),
        (_, Some(kind), _) => Err(format!("the content has a part of type {kind:?}; only text can be read")),
        _ => Err(r#"a part of the content is neither a text nor {"type": "text", "text": …}"#.into()),
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(fields) => Self::from_fields(fields).map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("{FORM}; {other} is none"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_form_are_read_and_written_as_they_are() {
        let call = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
        for (written, role, content, empty) in [
            (json!({"role": "user", "content": "Hi"}), "user", "Hi", false),
            (json!({"role": "assistant", "content": null, "tool_calls": call}), "assistant", "", false),
            (json!({"role": "assistant", "content": null}), "assistant", "", true),
            (json!({"role": "tool", "content": "3", "name": "f"}), "tool", "3", false),
            (json!({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}), "user", "ab", false),
        ] {
            let message: Message = serde_json::from_value(written.clone()).unwrap();
            assert_eq!((message.role.as_str(), message.content.as_str(), message.is_empty()), (role, content, empty));
            assert_eq!(serde_json::to_value(&message).unwrap(), written);
        }
        let shared: Message = serde_json::from_value(json!({"from": "gpt", "value": "Ho"})).unwrap();
        assert_eq!(shared, Message::new("assistant", "Ho"));
        for (speaker, role) in [("Human", "user"), ("ChatGPT", "assistant"), ("claude", "assistant"), ("tool", "tool")]
        {
            let message: Message = serde_json::from_value(json!({"from": speaker, "value": "x"})).unwrap();
            assert_eq!(message.role, role);
        }
        let called: Message = serde_json::from_value(json!({"role": "assistant", "tool_calls": call})).unwrap();
        assert_eq!(serde_json::to_value(&called).unwrap()["content"], Value::Null);
    }

    #[test]
    fn what_is_no_message_is_named() {
        for (written, word) in [
            (json!({"content": "x"}), "missing field `role`"),
            (json!({"role": "user"}), "missing field `content`"),
            (json!({"role": 3, "content": "x"}), "the role is 3"),
            (json!({"role": "user", "content": 3}), "the content is 3"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "\"image_url\""),
            (json!({"role": "user", "content": [3]}), "neither a text nor"),
            (json!({"from": "Ann", "value": "x"}), "from \"Ann\"; known are human, user"),
            (json!("user"), "\"user\" is none"),
        ] {
            let error = serde_json::from_value::<Message>(written).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
