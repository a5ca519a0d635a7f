//! What prompts and verdicts say of a constraint.

use super::Phrasings;
use super::kinds::LANGUAGES;
use crate::rng::Stream;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::OnceLock;

const SHIPPED: &str = include_str!("../../../prompts/constraints.jsonl");

/// The arguments that hold a relation.
const RELATIONS: [&str; 3] = ["relation", "let_relation", "capital_relation"];

/// The ways to ask for constraints of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saying {
    pub(super) kind: String,
    /// The relation for which these are the ways, where the kind has one.
    #[serde(default)]
    pub(super) relation: Option<String>,
    /// What it is about, in a few words.
    pub(super) name: String,
    pub(super) train: Vec<String>,
    pub(super) held_out: Vec<String>,
}

/// The ways to ask for all kinds.
pub(super) struct Sayings(pub(super) Vec<Saying>);

impl Sayings {
    /// Those that ship.
    pub(super) fn shipped() -> Result<&'static Self> {
        static READ: OnceLock<std::result::Result<Sayings, String>> = OnceLock::new();
        let read = || {
            let line = |line| serde_json::from_str(line).map_err(|e: serde_json::Error| e.to_string());
            SHIPPED.lines().map(line).collect::<std::result::Result<_, _>>().map(Sayings)
        };
        READ.get_or_init(read).as_ref().map_err(|e| Error::Bug(format!("prompts/constraints.jsonl: {e}")))
    }

    /// Asks for a constraint in one of the ways.
    pub(super) fn say(
        &self,
        kind: &str,
        kwargs: &Map<String, Value>,
        which: Phrasings,
        rng: &mut Stream,
    ) -> Result<String> {
        let relation = RELATIONS.iter().find_map(|name| kwargs.get(*name)).and_then(Value::as_str);
        let saying = self.0.iter().find(|s| s.kind == kind && s.relation.as_deref() == relation);
        let ways = saying.map(|s| match which {
            Phrasings::Train => &s.train,
            Phrasings::HeldOut => &s.held_out,
        });
        let way = ways.and_then(|ways| rng.choose(ways));
        let way = way.ok_or_else(|| Error::Bug(format!("no way to ask for {kind}, {relation:?}")))?;
        Ok(kwargs.iter().fold(way.clone(), |text, (name, value)| text.replace(&format!("{{{name}}}"), &shown(value))))
    }
}

/// An argument as a prompt shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(code) => {
            LANGUAGES.iter().find(|(known, _)| known == code).map_or(code.as_str(), |(_, name)| name).to_owned()
        }
        Value::Array(list) => {
            let quoted: Vec<String> = list.iter().filter_map(Value::as_str).map(|word| format!("\"{word}\"")).collect();
            match &quoted[..] {
                [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
                _ => quoted.concat(),
            }
        }
        other => other.to_string(),
    }
}

/// What a kind of constraint is about, in a few words.
pub fn label(kind: &str) -> &str {
    let known = Sayings::shipped().ok().and_then(|all| all.0.iter().find(|s| s.kind == kind));
    known.map_or(kind, |s| s.name.as_str())
}
