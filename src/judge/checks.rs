//! What a record says beside its prompt about which answers are right. It goes with the prompt through the stages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// By what answers to a prompt can be checked, as task files have it. Only a judge that checks answers reads it, so
/// nothing is expected of the values before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checks {
    /// The kinds of instruction that the prompt gives, as IFEval's files name them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_id_list: Option<Value>,
    /// The arguments of each of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Value>,
    /// The answer that is right, a list of such, or a solution that ends in `#### N`.
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

    /// The record of a prompt with these fields.
    pub fn record(&self, prompt: &str) -> Value {
        let mut record = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = record.as_object_mut() {
            fields.insert("prompt".into(), prompt.into());
        }
        record
    }
}
