//! Constraints that a program can check, drawn and put behind instructions: prompts for answers that are scored by
//! rules. The kinds and their arguments are IFEval's; the words are those of `prompts/constraints.jsonl`.

mod fitted;
mod kinds;
mod phrasings;
#[cfg(test)]
mod tests;

use crate::judge::Checks;
use crate::rng::Stream;
use crate::settings::{Section, Takes, settings};
use crate::{Error, Result};
use kinds::{KINDS, Kind};
use phrasings::Sayings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub use fitted::{Example, Examples, OwnAnswer, examples};
pub use phrasings::label;

/// Which phrasings of the constraints are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phrasings {
    /// Those for training.
    #[default]
    Train,
    /// Those that are kept out of training, for the prompts on which models are measured.
    HeldOut,
}

settings! {
    /// Constraints that a program checks, put behind new prompts; the judge mode "rules" scores answers by them.
    pub struct ConstraintSection {
        /// Most constraints of a prompt; 0 adds none.
        most: usize = 0 => "most", "N", Takes::Whole(0);
        /// Fewest constraints of a prompt.
        least: usize = 1 => "least", "N", Takes::Whole(1);
        /// Kinds that are drawn, by IFEval's names; [] takes all that a small model can meet.
        kinds: Vec<String> = Vec::new() => "kinds", "KIND,…", Takes::Texts;
        /// train, or held-out: the phrasings that no training sees.
        phrasings: Phrasings = Phrasings::Train => "phrasings", "P", Takes::OneOf(&["train", "held-out"]);
    }
}

impl Section for ConstraintSection {
    const NAME: &'static str = "constraints";

    fn agree(&self) -> Result<()> {
        if self.most > 0 && self.least > self.most {
            let what = format!("least is {}, most is {}: there are no such counts", self.least, self.most);
            return Err(Error::Input(what));
        }
        let kinds = self.drawn()?.iter().map(|kind| kind.name).collect::<BTreeSet<_>>().len();
        if self.most > 0 && self.least > kinds {
            let what = format!("least is {}, but kinds names {kinds}: a prompt has each kind once", self.least);
            return Err(Error::Input(what));
        }
        Ok(())
    }
}

impl ConstraintSection {
    /// The kinds that may be drawn.
    fn drawn(&self) -> Result<Vec<&'static Kind>> {
        if self.kinds.is_empty() {
            return Ok(KINDS.iter().filter(|kind| kind.usual).collect());
        }
        let find = |name: &String| {
            KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
                let known = KINDS.each_ref().map(|kind| kind.name).join(", ");
                Error::Input(format!("kinds: {name:?} is no kind that is drawn; there are {known}"))
            })
        };
        self.kinds.iter().map(find).collect()
    }
}

/// A constraint on an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// Its kind, by IFEval's name.
    pub kind: &'static str,
    /// What its checker is told.
    pub kwargs: Map<String, Value>,
    /// What the prompt says.
    pub words: String,
}

/// Draws constraints on the answer to the instruction `base`. Of the kinds that go with those drawn so far one with the
/// fewest `uses` is drawn, and counted.
///
/// # Errors
/// A kind is unknown.
pub fn draw(
    base: &str,
    how: &ConstraintSection,
    uses: &mut BTreeMap<&'static str, usize>,
    rng: &mut Stream,
) -> Result<Vec<Constraint>> {
    let (kinds, sayings) = (how.drawn()?, Sayings::shipped()?);
    let count = if how.most == 0 { 0 } else { rng.between(how.least, how.most) };
    let mut chosen: Vec<&Kind> = Vec::new();
    while chosen.len() < count {
        let used = |kind: &Kind| uses.get(kind.name).copied().unwrap_or(0);
        let left: Vec<&Kind> = kinds.iter().copied().filter(|k| chosen.iter().all(|c| k.goes_with(c))).collect();
        let fewest = left.iter().map(|kind| used(kind)).min().unwrap_or(0);
        let left: Vec<&Kind> = left.into_iter().filter(|kind| used(kind) == fewest).collect();
        // Few kinds may leave room for fewer constraints than were wanted.
        let Some(kind) = rng.choose(&left).copied() else { break };
        *uses.entry(kind.name).or_default() += 1;
        chosen.push(kind);
    }
    let made = chosen.into_iter().map(|kind| {
        let kwargs = kind.draw(rng, base);
        let words = sayings.say(kind.name, &kwargs, how.phrasings, rng)?;
        Ok(Constraint { kind: kind.name, kwargs, words })
    });
    made.collect()
}

/// The instruction with its constraints behind it.
pub fn prompt(base: &str, constraints: &[Constraint]) -> String {
    let words = constraints.iter().map(|c| c.words.as_str());
    [base].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// By what the answers to a prompt with these constraints are checked; nothing where there are none.
pub fn checks(constraints: &[Constraint]) -> Checks {
    if constraints.is_empty() {
        return Checks::default();
    }
    let ids = constraints.iter().map(|c| Value::from(c.kind)).collect();
    let kwargs = constraints.iter().map(|c| Value::Object(c.kwargs.clone())).collect();
    Checks { instruction_id_list: Some(ids), kwargs: Some(kwargs), ..Checks::default() }
}
