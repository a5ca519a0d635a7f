//! Reads a score or a choice from a written verdict.
//!
//! A wrong score becomes a training label, while a verdict that gives none is drawn again. So what could mean two
//! things gives none.

mod clean;
mod extent;
mod label;
mod pattern;
mod sentence;
#[cfg(test)]
mod tests;
mod token;
mod value;

pub(super) use extent::{Openings, leaves_thought_open};
pub use pattern::ScorePattern;

use clean::Clean;
use label::Label;
use std::ops::Range;
use std::sync::LazyLock;

/// Why a verdict holds no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoScore {
    /// The verdict is empty.
    #[error("empty verdict")]
    Empty,
    /// The verdict does not contain `Score:`.
    #[error("no \"Score:\" in the verdict")]
    Missing,
    /// No number stands after `Score:`, or several that leave it open.
    #[error("no number after \"Score:\"")]
    NoNumber,
    /// The number is not between 0 and 5.
    #[error("the score is outside 0 to 5")]
    OutOfRange,
    /// The score is given out of another total than 5.
    #[error("the score is out of another total than 5")]
    OtherScale,
    /// Points add up to another number than the total that is written beside them.
    #[error("the points of the score add up to another total")]
    Unequal,
    /// The pattern of one's own does not match.
    #[error("the score pattern does not match the verdict")]
    NoMatch,
    /// The verdict names neither response as the better one.
    #[error("no \"Better: A\", \"Better: B\" or \"Better: tie\" in the verdict")]
    NoChoice,
}

const SCORE: Label = Label {
    names: "score scores",
    tail: "\
        for to this that the response answer reply assistant assistant's given awarded assigned earned i i'd give \
        assign award my here total points in overall",
    read: value::score,
    missing: NoScore::Missing,
};

const BETTER: Label = Label {
    names: "better",
    tail: "response answer one reply option assistant candidate choice review the two",
    read: value::choice,
    missing: NoScore::NoChoice,
};

static ADDITIVE: LazyLock<Openings> = LazyLock::new(|| Openings::of(include_str!("../../../prompts/additive.txt")));
static PAIRWISE: LazyLock<Openings> =
    LazyLock::new(|| Openings::of(include_str!("../../../prompts/pairwise_verdict.txt")));

/// A score that was read, and where the verdict says why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The score, or the choice as a probability.
    pub value: f64,
    /// The bytes of the verdict before the line or sentence that holds the score, without thoughts before them.
    pub reasons: Range<usize>,
}

/// Reads what the label names. `in_thought`: whether the prompt left a thought open.
fn read(verdict: &str, label: &Label, openings: &Openings, in_thought: bool) -> Result<Reading, NoScore> {
    if verdict.trim().is_empty() {
        return Err(NoScore::Empty);
    }
    let name = label.names.split(' ').next().unwrap_or_default();
    let clean = Clean::new(verdict, name);
    let found = |part: &Clean| {
        let (value, at) = label::find(part, label)?;
        Ok(Reading { value, reasons: part.origin(0)..part.origin(at) })
    };
    let (part, other) = extent::verdict(&clean, openings, name, in_thought);
    let reading = found(&part);
    match other.and_then(|other| found(&other).ok()) {
        // Which of them is the verdict cannot be told.
        Some(other) if reading.as_ref().ok().is_none_or(|reading| reading.value != other.value) => Err(label.missing),
        _ => reading,
    }
}

/// Reads the score of a verdict under a prompt that begins its parts with these words.
pub(super) fn read_score(verdict: &str, openings: &Openings, in_thought: bool) -> Result<Reading, NoScore> {
    read(verdict, &SCORE, openings, in_thought)
}

/// Reads a choice under a prompt that begins its parts with these words.
pub(super) fn read_choice(verdict: &str, openings: &Openings, in_thought: bool) -> Result<f64, NoScore> {
    read(verdict, &BETTER, openings, in_thought).map(|reading| reading.value)
}

/// Reads a choice: 1 for `Better: A`, 0 for `Better: B`, 0.5 for `Better: tie`. It is looked for as
/// [`parse_score`] looks for a score; the word "response" before the letter does not matter.
///
/// # Errors
/// The verdict holds no choice; the error says why.
pub fn parse_choice(verdict: &str) -> Result<f64, NoScore> {
    read_choice(verdict, &PAIRWISE, false)
}

/// Reads the score after `Score:`, as the shipped prompt asks for it. Case, emphasis, brackets, LaTeX, the widths of
/// letters and other ornaments do not matter; decimals, `3/5`, `3 out of 5`, `3 points` and stars are understood, and
/// sums are evaluated. A sum beside another total, a range, and a number on another scale than 0 to 5 are no score.
///
/// The last line that begins with `Score:` counts, even if it is broken; where there is none, the last mention within a
/// line. Thoughts and examples do not belong to the verdict, and it ends where a new turn or the prompt begins.
///
/// # Errors
/// The verdict holds no score; the error says why. A failure is never turned into a score.
pub fn parse_score(verdict: &str) -> Result<f64, NoScore> {
    read_score(verdict, &ADDITIVE, false).map(|reading| reading.value)
}
