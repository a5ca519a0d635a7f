//! What a record says beside its prompt about which answers are right. It goes with the prompt through the stages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a record says about right answers to its prompt, under the keys of task files. Whether the values make sense is
/// looked at only where answers are checked by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checks {
    /// The kinds of instruction that the prompt gives, as IFEval's files name them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_id_list: Option<Value>,
    /// The arguments of each of these instructions, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Value>,
    /// The right answer, a list of right answers, or a solution that ends in `#### N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// A regular expression that right answers match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Value>,
}

impl Checks {
    /// Whether the record says nothing about right answers.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the prompt gives instructions of IFEval's kinds.
    pub fn has_rules(&self) -> bool {
        self.instruction_id_list.as_ref().is_some_and(|list| list.as_array().is_none_or(|list| !list.is_empty()))
    }

    /// The record of a prompt with these fields.
    pub fn record(&self, prompt: &str) -> Value {
        let mut record = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = record.as_object_mut() {
            fields.insert("prompt".into(), prompt.into());
        }
        record
    }
}
