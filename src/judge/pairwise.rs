//! Two answers side by side, judged in both orders, because judges prefer a place as well as an answer.

use super::parse::{Openings, read_choice};
use super::probability::either;
use super::sampled::write;
use super::{ModelJudgeSettings, Template, Verdict};
use crate::generate::Engine;
use crate::rng::{halves, record_id};
use crate::text::Language;
use crate::{Observer, Result};

/// The status of a match whose two answers are equal.
pub const SAME_TEXT: &str = "same text";

/// Two answers to one question, to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// Key of the random numbers with which the match's verdicts are drawn.
    pub key: u64,
    /// The question that was asked.
    pub question: &'a str,
    /// One answer.
    pub a: &'a str,
    /// The other answer.
    pub b: &'a str,
}

/// The outcome of judging one match.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    /// The probability that `a` is better, first where `a` is shown first, then where `b` is. `None` where it could not
    /// be read.
    pub p: [Option<f64>; 2],
    /// `ok`, `same text` (the answers are equal and not judged), or why a probability is missing.
    pub status: String,
    /// The texts that the judge wrote, if it writes any.
    pub texts: Vec<String>,
    /// How many of `texts` hold no choice.
    pub unparsed: usize,
}

/// A judge that asks the engine's model which of two answers is better.
pub struct PairwiseJudge<'a> {
    /// The tokenizer and templates of the engine's model.
    pub language: &'a dyn Language,
    /// The prompt, with places for `question`, `a` and `b`.
    pub template: Template,
    /// How verdicts such as `Better: A` are written; they are averaged. `None` compares P(A) with P(B) for the next
    /// token instead, in every spelling that is a single token.
    pub sampled: Option<ModelJudgeSettings>,
}

impl<'a> PairwiseJudge<'a> {
    /// A judge with the shipped prompt for the way in which verdicts are read.
    pub fn new(language: &'a dyn Language, sampled: Option<ModelJudgeSettings>) -> Self {
        let text = match sampled {
            Some(_) => include_str!("../../prompts/pairwise_verdict.txt"),
            None => include_str!("../../prompts/pairwise.txt"),
        };
        Self { language, template: Template::message(text), sampled }
    }

    /// The judge's name in records and reports.
    pub fn name(&self) -> &'static str {
        if self.sampled.is_some() { "pairwise sampled" } else { "pairwise" }
    }

    /// Gives one preference for each match, in the order of the matches. Equal texts are a tie and are not judged.
    ///
    /// # Errors
    /// Errors of the engine; a text that cannot be encoded; a model without single tokens for A and B.
    pub fn judge(
        &self,
        engine: &mut dyn Engine,
        matches: &[Match],
        observer: &dyn Observer,
    ) -> Result<Vec<Preference>> {
        let mut asked = Vec::new();
        for m in matches.iter().filter(|m| m.a != m.b) {
            for (order, (first, second)) in (0..).zip([(m.a, m.b), (m.b, m.a)]) {
                let text = self.template.fill_pair(m.question, first, second)?;
                let key = record_id(0, "pairwise", &halves(m.key), order);
                let ids = match &self.sampled {
                    Some(settings) => settings.asked(self.language, &self.template, &text)?,
                    None => self.template.encode(self.language, &text)?,
                };
                asked.push((key, ids));
            }
        }
        let verdicts = match &self.sampled {
            Some(settings) => {
                let openings = Openings::of(&self.template.text);
                let parse = |verdict: &str, in_thought| read_choice(verdict, &openings, in_thought);
                write(engine, self.language, &asked, settings, &parse, observer)?
            }
            None => {
                let prompts = asked.into_iter().map(|(_, prompt)| prompt).collect();
                either(engine, self.language, prompts, ["A", "B"], 1.0, observer)?
            }
        };
        let mut orders = verdicts.chunks_exact(2);
        let mut next = || orders.next().map_or_else(|| preference(&[]), preference);
        let same = || Preference { p: [Some(0.5); 2], status: SAME_TEXT.into(), texts: Vec::new(), unparsed: 0 };
        Ok(matches.iter().map(|m| if m.a == m.b { same() } else { next() }).collect())
    }
}

/// Joins the verdicts of both orders; each of them is the probability that the answer shown first is better.
fn preference(orders: &[Verdict]) -> Preference {
    let score = |at: usize| orders.get(at).and_then(|v| v.score);
    let failed = orders.iter().find(|v| v.score.is_none());
    Preference {
        p: [score(0), score(1).map(|p| 1.0 - p)],
        status: failed.map_or("ok".into(), |v| v.status.clone()),
        texts: orders.iter().flat_map(|v| v.texts.clone()).collect(),
        unparsed: orders.iter().map(|v| v.unparsed).sum(),
    }
}
