//! The ways in which a score is read out of a model, and what they are set to.

use super::parse::{Openings, Reading, read_score};
use super::{NoScore, ScorePattern, Template, think};
use crate::Result;
use crate::generate::Sampling;
use crate::settings::{Takes, settings};
use crate::text::Language;
use serde::{Deserialize, Serialize};

/// How a score is read out of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// The mean of several written verdicts that are parsed, as in the paper.
    Sampled,
    /// The expectation over the digit after `Score: `.
    Expected,
    /// The sum of P(Yes) over five short questions.
    Criteria,
    /// P(yes) of one question, times 5.
    Yes,
    /// How well the question can be told from the answer.
    Backward,
    /// The sum of the probabilities of five marks.
    Marks,
}

settings! {
    /// How verdicts are written; modes that write none draw nothing.
    pub struct ModelJudgeSettings {
        /// Verdicts an answer where they are written.
        samples: usize = 3 => "samples", "K", Takes::Whole(1);
        /// How often a verdict that does not parse is drawn again.
        retries: usize = 2 => "retries", "N", Takes::Whole(0);
        /// Most tokens of a verdict.
        max_new_tokens: usize = 200 => "max_new_tokens", "N", Takes::Whole(1);
        /// Most tokens of a thought before a written verdict, of models whose chat template knows `enable_thinking`; a
        /// longer one is cut and closed. 0 is off.
        think: usize = 0 => "think", "N", Takes::Whole(0);
    }
    parts {
        /// How verdicts are drawn.
        sampling: Sampling = Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::default() },
            without ["top_k", "min_p", "repetition_penalty"];
    }
    beside {
        /// How a verdict under a prompt of one's own is read; None reads what stands behind `Score:`.
        pattern: Option<ScorePattern> = None;
        /// Seed of the random numbers.
        seed: u64 = 0;
    }
}

impl ModelJudgeSettings {
    /// The token ids of a prompt that was filled in, up to where the verdict, or the thought before it, begins.
    ///
    /// # Errors
    /// The text cannot be encoded; a thought is asked for and the model's template knows none.
    pub(super) fn asked(&self, language: &dyn Language, template: &Template, text: &str) -> Result<Vec<u32>> {
        if self.think > 0 { think::asked(language, template, text) } else { template.encode(language, text) }
    }

    /// Reads a verdict under a prompt that begins its parts with these words. `in_thought`: whether the prompt left a
    /// thought open. A pattern of one's own reads the whole text as it is.
    pub(super) fn parse(
        &self,
        verdict: &str,
        openings: &Openings,
        in_thought: bool,
    ) -> std::result::Result<Reading, NoScore> {
        match &self.pattern {
            Some(pattern) => pattern.reading(verdict),
            None => read_score(verdict, openings, in_thought),
        }
    }
}
