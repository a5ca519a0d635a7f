//! What a model is asked: plain words or a conversation, and what its chat template is told beside them.

use super::{Message, Text};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The words of a prompt: plain text or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// One user message; where a model is given raw text, the text itself.
    Plain(String),
    /// The messages of a conversation.
    Chat(Vec<Message>),
}

impl Words {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        match self {
            Words::Plain(text) => text.is_empty(),
            Words::Chat(messages) => messages.iter().all(Message::is_empty),
        }
    }

    /// Whether these are the messages of a conversation, and there is just one.
    pub fn is_one_turn(&self) -> bool {
        matches!(self, Words::Chat(messages) if messages.len() == 1)
    }

    /// The words as messages; a text is said by `role`.
    pub fn into_messages(self, role: &str) -> Vec<Message> {
        match self {
            Words::Plain(text) => vec![Message::new(role, text)],
            Words::Chat(messages) => messages,
        }
    }
}

/// What a chat template is told beside the messages. A record has it under these keys, as in TRL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TemplateInputs {
    /// The tools that the model may call, as a list of JSON schemas (or as that list's text).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Variables of the template such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// The fields in which a record may hold its prompt.
const KEYS: [&str; 5] = ["prompt", "instruction", "question", "messages", "conversations"];

/// What a model is asked. A record holds it as `prompt`, as `instruction` or `question` (perhaps with `input`,
/// `context`, `system` and `history`), or as `messages` (or `conversations`, perhaps with `system`), of which the
/// answer at the end is left out. [`TemplateInputs`] stand beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Prompt {
    /// The words.
    #[serde(rename = "prompt")]
    pub words: Words,
    /// What the chat template is told beside them.
    #[serde(flatten)]
    pub inputs: TemplateInputs,
}

/// Takes the text of the first of some columns that has one.
fn take_text(record: &mut Map<String, Value>, keys: &[&str]) -> Option<String> {
    let key = keys.iter().find(|key| record.get(**key).is_some_and(Value::is_string))?;
    record.remove(*key)?.as_str().map(str::to_owned)
}

/// Takes a question in columns of its own: `instruction` with `input` (Alpaca) or `context` (Dolly), `question` or,
/// where both are missing, `input`; perhaps with `system` and with the turns before it as `history`. A question alone
/// is plain text.
///
/// # Errors
/// The history is no list of questions with their answers.
pub(crate) fn asked(record: &mut Map<String, Value>) -> Result<Option<Words>, String> {
    let Some(mut asked) = take_text(record, &["instruction", "question", "input"]) else { return Ok(None) };
    if let Some(input) = take_text(record, &["input", "context"]).filter(|input| !input.is_empty()) {
        asked = format!("{asked}\n\n{input}");
    }
    let before: Option<Vec<(String, String)>> =
        serde_json::from_value(record.remove("history").unwrap_or_default()).map_err(|e| format!("history: {e}"))?;
    let turns = before.into_iter().flatten();
    let mut messages: Vec<Message> =
        turns.flat_map(|(asked, answer)| [Message::new("user", asked), Message::new("assistant", answer)]).collect();
    messages.push(Message::new("user", asked));
    system(&mut messages, record);
    Ok(Some(match messages.len() {
        1 => Words::Plain(messages.remove(0).content),
        _ => Words::Chat(messages),
    }))
}

/// Puts the system message that stands in a column of its own before a conversation that has none.
pub(crate) fn system(messages: &mut Vec<Message>, record: &mut Map<String, Value>) {
    if messages.first().is_some_and(|first| first.role != "system") {
        let system = take_text(record, &["system", "system_prompt"]).filter(|system| !system.is_empty());
        messages.splice(..0, system.map(|system| Message::new("system", system)));
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Map::deserialize(deserializer)?;
        let key = KEYS.into_iter().find(|key| record.get(*key).is_some_and(|value| !value.is_null()));
        let Some(key) = key else {
            let keys: Vec<&str> = record.keys().map(String::as_str).collect();
            let expected = format!("expected a prompt in one of the fields {}", KEYS.join(", "));
            let has = if keys.is_empty() { String::new() } else { format!("; the record has {}", keys.join(", ")) };
            return Err(D::Error::custom(format!("{expected}{has}")));
        };
        let wrong = |error| D::Error::custom(format!("{key}: {error}"));
        let in_columns = matches!(key, "instruction" | "question") && record[key].is_string();
        let words = if in_columns { asked(&mut record).map_err(D::Error::custom)? } else { None };
        let mut words = match (words, record.remove(key).unwrap_or_default()) {
            (Some(words), _) => words,
            (None, Value::String(text)) => Words::Plain(text),
            (None, said @ Value::Array(_)) => Words::Chat(serde_json::from_value(said).map_err(wrong)?),
            (None, other) => {
                return Err(D::Error::custom(format!("{key} is {other}; expected a text or a list of messages")));
            }
        };
        if key == "conversations"
            && let Words::Chat(messages) = &mut words
        {
            system(messages, &mut record);
        }
        if let (Words::Chat(messages), "messages" | "conversations") = (&mut words, key) {
            let asked = messages.iter().rposition(|message| message.role != "assistant").map_or(0, |last| last + 1);
            messages.truncate(asked);
        }
        let inputs = TemplateInputs::deserialize(&Value::Object(record)).map_err(D::Error::custom)?;
        Ok(Self { words, inputs })
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self { words: Words::Plain(text), inputs: TemplateInputs::default() }
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self { words: Words::Chat(messages), inputs: TemplateInputs::default() }
    }
}

impl Prompt {
    /// The prompt's token ids, in the chat template unless `raw` is set or there is no template. Plain text has the
    /// special tokens that the tokenizer puts around a text.
    ///
    /// # Errors
    /// The text cannot be encoded, or the template refuses the conversation.
    pub fn encode(&self, text: &Text, raw: bool) -> crate::Result<Vec<u32>> {
        text.encode_prompt(self, raw)
    }

    /// Whether the prompt says nothing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The question as a judge reads it: the text of a single message, or else every message after its role.
    pub fn question(&self) -> String {
        match &self.words {
            Words::Plain(p) => p.clone(),
            Words::Chat(messages) => match &messages[..] {
                [only] => only.content.clone(),
                all => all.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("\n\n"),
            },
        }
    }

    /// The prompt as a conversation; plain text is the user's one message.
    pub fn messages(&self) -> Vec<Message> {
        self.words.clone().into_messages("user")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_of_a_prompt_is_read() {
        let user = json!({"role": "user", "content": "A"});
        let answer = json!({"role": "assistant", "content": "B"});
        let read = |record: Value| serde_json::from_value::<Prompt>(record);
        for record in [
            json!({"prompt": "A", "messages": [answer]}),
            json!({"instruction": "A", "input": null}),
            json!({"question": "A", "prompt": null}),
            json!({"prompt": [user]}),
            json!({"messages": [user]}),
            json!({"messages": [user, answer]}),
            json!({"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]}),
        ] {
            assert_eq!(read(record.clone()).unwrap().question(), "A", "{record}");
        }
        for (record, asked) in [
            (json!({"instruction": "A", "input": "X"}), "A\n\nX"),
            (json!({"instruction": "A", "context": "X", "response": "B"}), "A\n\nX"),
            (json!({"instruction": "A", "system": "S", "output": "B"}), "system: S\n\nuser: A"),
            (json!({"system_prompt": "S", "question": "A"}), "system: S\n\nuser: A"),
            (json!({"conversations": [{"from": "human", "value": "A"}], "system": "S"}), "system: S\n\nuser: A"),
            (json!({"instruction": "A", "history": [["Q", "R"]]}), "user: Q\n\nassistant: R\n\nuser: A"),
            (json!({"prompt": "A", "system": "S", "context": "X"}), "A"),
        ] {
            assert_eq!(read(record.clone()).unwrap().question(), asked, "{record}");
        }
        let begun = read(json!({"prompt": [user, answer]})).unwrap();
        assert_eq!(begun.messages().len(), 2);
        for (record, word) in [
            (json!({"text": "A"}), "messages, conversations; the record has text"),
            (json!({"prompt": 3}), "prompt is 3"),
            (json!({"messages": ["A"]}), "messages: a message has a role"),
        ] {
            let error = read(record).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
