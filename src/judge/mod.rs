//! Judging: a model reads a question with an answer, and its verdict becomes a score from 0 to 5.
//!
//! There are several ways to read a score out of a model ([`Mode`]); all stand behind [`Judge`]. A verdict that cannot
//! be read is never a score: it is counted, and the answer stays without one.

pub mod calibrate;
mod marks;
mod mode;
mod model_judge;
mod pairwise;
mod parse;
mod probability;
mod sampled;
mod template;
#[cfg(test)]
mod tests;

pub use mode::{Mode, ModelJudgeSettings};
pub use model_judge::ModelJudge;
pub use pairwise::{Match, PairwiseJudge, Preference, SAME_TEXT};
pub use parse::{NoScore, ScorePattern, parse_choice, parse_score};
pub use template::{MarksTemplate, Template, Templates};

use crate::generate::Engine;
use crate::rng::Stream;
use crate::{Observer, Result};

/// An answer to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Keys the random numbers of its verdicts.
    pub key: u64,
    /// The question.
    pub question: &'a str,
    /// The answer.
    pub answer: &'a str,
}

/// What came of judging one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// 0 to 5; None when none could be read.
    pub score: Option<f64>,
    /// `ok`, or why there is no score.
    pub status: String,
    /// What the judge wrote, where it writes.
    pub texts: Vec<String>,
    /// How many of `texts` held no score.
    pub unparsed: usize,
    /// Tokens generated or scored for it.
    pub tokens: usize,
}

impl Verdict {
    /// A verdict with a score and no text.
    pub fn of(score: f64, tokens: usize) -> Self {
        Self { score: Some(score), status: "ok".into(), texts: Vec::new(), unparsed: 0, tokens }
    }

    /// No verdict, and why.
    pub fn none(status: impl Into<String>) -> Self {
        Self { score: None, status: status.into(), texts: Vec::new(), unparsed: 0, tokens: 0 }
    }
}

/// Anything that scores answers.
pub trait Judge {
    /// Its name in records and reports.
    fn name(&self) -> &str;

    /// The text and the ids of the prompt under which verdicts on an item are written; None for a judge that writes
    /// none.
    ///
    /// # Errors
    /// Text that cannot be encoded.
    fn prompt(&self, _item: &Item) -> Result<Option<(String, Vec<u32>)>> {
        Ok(None)
    }

    /// The score in the text of a verdict; None for a judge that writes none, and where there is no score in it.
    fn read(&self, _text: &str) -> Option<f64> {
        None
    }

    /// One verdict per item, in order. The engine holds the model of the current round.
    ///
    /// # Errors
    /// Errors of the engine; text that cannot be encoded.
    fn judge(&self, engine: &mut dyn Engine, items: &[Item], observer: &dyn Observer) -> Result<Vec<Verdict>>;
}

/// A judge that rolls dice: the control that shows whether judging matters at all.
pub struct RandomJudge {
    /// Of its dice; the item's key does the rest.
    pub seed: u64,
}

impl Judge for RandomJudge {
    fn name(&self) -> &str {
        "random"
    }

    fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
        // Another stream than the sampler's, though keyed by the same record.
        let draw = |item: &Item| f64::from(Stream::new(self.seed ^ 0xD1CE, item.key).uniform()) * 5.0;
        Ok(items.iter().map(|item| Verdict::of(draw(item), 0)).collect())
    }
}
