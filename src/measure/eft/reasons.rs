//! Why a verdict is as it is, in several ways.

use crate::measure::constraints::label;
use crate::rng::Stream;
use crate::{Error, Result};
use serde::Deserialize;

const SHIPPED: &str = include_str!("../../../prompts/reasons.json");

/// The ways to say it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reasons {
    /// All instructions are followed.
    kept: Vec<String>,
    /// An instruction is not followed.
    missed: Vec<String>,
    /// The answer is that of the key.
    right: Vec<String>,
    /// The answer is not that of the key.
    wrong: Vec<String>,
}

impl Reasons {
    pub(super) fn shipped() -> Result<Self> {
        serde_json::from_str(SHIPPED).map_err(|e| Error::Bug(format!("prompts/reasons.json: {e}")))
    }

    /// Says why, in one of the ways: by the first of what was missed, or by all that was kept.
    pub(super) fn say(&self, kinds: &[&str], missed: &[String], rng: &mut Stream) -> String {
        let of_kind = |missed: &String| {
            let (kind, why) = missed.split_once(": ")?;
            kinds.contains(&kind).then(|| (label(kind).to_owned(), why.to_owned()))
        };
        let ways = match (missed.is_empty(), kinds.is_empty()) {
            (true, true) => &self.right,
            (true, false) => &self.kept,
            (false, true) => &self.wrong,
            (false, false) => &self.missed,
        };
        let way = rng.choose(ways).cloned().unwrap_or_default();
        let (name, why) = match missed.first() {
            Some(first) => of_kind(first).unwrap_or_else(|| (String::new(), first.clone())),
            None => Default::default(),
        };
        let names: Vec<&str> = kinds.iter().map(|kind| label(kind)).collect();
        way.replace("{names}", &names.join(" and ")).replace("{name}", &name).replace("{why}", &why)
    }
}
