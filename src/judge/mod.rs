//! Judging: a model reads a question with an answer, and its verdict becomes a score from 0 to 5.
//!
//! A score can be read out of a model in several ways ([`Mode`]); all of them stand behind [`Judge`]. A verdict that
//! cannot be read never becomes a score: it is counted, and the answer stays without one.

mod checks;
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
mod think;

pub use checks::Checks;
pub use mode::{Mode, ModelJudgeSettings};
pub use model_judge::{ModelJudge, Prompted, Taught};
pub use pairwise::{Match, PairwiseJudge, Preference, SAME_TEXT};
pub use parse::{NoScore, ScorePattern, parse_choice, parse_score};
pub use template::{MarksTemplate, Template, Templates};

use crate::generate::Engine;
use crate::rng::Stream;
use crate::text::Answered;
use crate::{Observer, Result};

/// An answer to be judged, with its question.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Key of the random numbers with which the answer's verdicts are drawn.
    pub key: u64,
    /// The question that was asked.
    pub question: &'a str,
    /// The answer that is judged.
    pub answer: &'a str,
    /// What its record says about right answers; a judge that asks a model reads nothing of it.
    pub checks: Option<&'a Checks>,
    /// Whether the answer is known to have been cut before it ended.
    pub cut: bool,
    /// How many of the question's samples are this answer.
    pub count: usize,
}

impl<'a> Item<'a> {
    /// An answer of one sample, of which no more is known than its words.
    pub fn new(key: u64, question: &'a str, answer: &'a str) -> Self {
        Self { key, question, answer, checks: None, cut: false, count: 1 }
    }
}

/// The outcome of judging one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The score from 0 to 5; `None` when none could be read.
    pub score: Option<f64>,
    /// `ok`, or why there is no score.
    pub status: String,
    /// The texts that the judge wrote, if it writes any.
    pub texts: Vec<String>,
    /// How many of `texts` hold no score.
    pub unparsed: usize,
    /// How many tokens were generated or scored for the verdict.
    pub tokens: usize,
}

impl Verdict {
    /// A verdict with a score and no text.
    pub fn scored(score: f64, tokens: usize) -> Self {
        Self { score: Some(score), status: "ok".into(), texts: Vec::new(), unparsed: 0, tokens }
    }

    /// A verdict without a score; `status` says why it has none.
    pub fn unscored(status: impl Into<String>) -> Self {
        Self { score: None, status: status.into(), texts: Vec::new(), unparsed: 0, tokens: 0 }
    }
}

/// Scores answers.
pub trait Judge {
    /// The judge's name in records and reports.
    fn name(&self) -> &str;

    /// The text and the ids of the prompt under which the judge writes verdicts on an item; `None` for a judge that
    /// writes none.
    ///
    /// # Errors
    /// The text cannot be encoded.
    fn prompt(&self, _item: &Item) -> Result<Option<(String, Vec<u32>)>> {
        Ok(None)
    }

    /// The ids of the prompt that [`Judge::prompt`] gives, and of verdicts as they stand behind it, without their end
    /// tokens; `None` for a judge that writes none.
    ///
    /// # Errors
    /// A text cannot be encoded.
    fn written(&self, _item: &Item, _verdicts: &[&str]) -> Result<Option<Answered>> {
        Ok(None)
    }

    /// The score in the text of a verdict; `None` if there is none in it, and for a judge that writes none.
    fn read(&self, _text: &str) -> Option<f64> {
        None
    }

    /// Gives one verdict on each item, in the order of the items. The engine holds the model of the current round.
    ///
    /// # Errors
    /// Errors of the engine; a text that cannot be encoded.
    fn judge(&self, engine: &mut dyn Engine, items: &[Item], observer: &dyn Observer) -> Result<Vec<Verdict>>;
}

/// A judge that draws its scores at random: the control that shows whether judging matters at all.
pub struct RandomJudge {
    /// Seed of the scores; with the item's key it determines each of them.
    pub seed: u64,
}

impl Judge for RandomJudge {
    fn name(&self) -> &str {
        "random"
    }

    fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
        // The key is that of the sampler's random numbers, so another seed keeps the two apart.
        let draw = |item: &Item| f64::from(Stream::new(self.seed ^ 0xD1CE, item.key).uniform()) * 5.0;
        Ok(items.iter().map(|item| Verdict::scored(draw(item), 0)).collect())
    }
}
