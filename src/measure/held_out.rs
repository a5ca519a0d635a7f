//! Prompts on which models are measured, and what is kept out of training for their sake.

use super::rouge::{KeptTexts, words};
use crate::data::answers::read_records;
use crate::text::Prompt;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

/// A prompt on which models are measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// Its words.
    pub prompt: String,
    /// The instruction without its constraints, if it has any.
    pub base_prompt: Option<String>,
    /// What it is about, if its record says so. No new prompt may speak of it.
    pub topic: Option<String>,
}

/// A line of a file of such prompts.
#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    prompt: Option<Prompt>,
    base_prompt: Option<String>,
    topic: Option<String>,
}

/// Reads the prompts of a file, in any form that a prompt has, or topics alone.
///
/// # Errors
/// The file cannot be read or holds no record; a record has neither prompt nor topic, which the error names by its
/// number.
pub fn read_held_out(path: &Path) -> Result<Vec<HeldOut>> {
    let held_out = |(i, line): (usize, Line)| {
        let Line { prompt, base_prompt, topic } = line;
        let prompt = prompt.map(|prompt| prompt.question()).unwrap_or_default();
        match prompt.is_empty() && topic.is_none() {
            true => Err(Error::file(path, without_prompt(i))),
            false => Ok(HeldOut { prompt, base_prompt, topic }),
        }
    };
    read_records::<Line>(path)?.into_iter().enumerate().map(held_out).collect()
}

/// What is wrong with the record at this place, the first of which is 0, of a file of prompts or topics.
pub(crate) fn without_prompt(at: usize) -> String {
    format!("record {}: has neither prompt nor topic, or it is empty", at + 1)
}

impl From<String> for HeldOut {
    fn from(prompt: String) -> Self {
        Self { prompt, base_prompt: None, topic: None }
    }
}

/// All of them, prepared for comparison.
pub struct HeldOutSet {
    words: HashSet<Vec<String>>,
    topics: Vec<Vec<String>>,
    near: KeptTexts,
}

impl HeldOutSet {
    /// Prepares the prompts.
    pub fn new(all: &[HeldOut]) -> Self {
        let (mut near, mut whole) = (KeptTexts::default(), HashSet::new());
        for HeldOut { prompt, base_prompt, .. } in all {
            // Constraints in the same words would make all prompts alike.
            near.push(base_prompt.as_ref().unwrap_or(prompt));
            whole.extend([Some(prompt), base_prompt.as_ref()].into_iter().flatten().map(|p| words(p).collect()));
        }
        let topics = all.iter().filter_map(|p| p.topic.as_deref()).map(topic).filter(|topic| !topic.is_empty());
        Self { words: whole, topics: topics.collect(), near }
    }

    /// Whether a prompt has the words of one of these prompts, speaks of what one is about, or is similar to one:
    /// nearer by ROUGE-L F1 than `max_rouge`, above 1 none is.
    pub fn contains(&mut self, prompt: &str, max_rouge: f64) -> bool {
        let own: Vec<String> = words(prompt).collect();
        self.words.contains(&own)
            || self.topics.iter().any(|topic| own.windows(topic.len()).any(|part| part == topic))
            || (max_rouge <= 1.0 && self.near.nearest(prompt) >= max_rouge)
    }
}

/// The words of a topic, without an article.
fn topic(text: &str) -> Vec<String> {
    let mut words: Vec<String> = words(text).collect();
    if words.len() > 1 && ["a", "an", "the"].contains(&words[0].as_str()) {
        words.remove(0);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_their_instructions_and_their_topics_are_held_out() {
        let held = |prompt: &str, base: Option<&str>, topic: Option<&str>| HeldOut {
            prompt: prompt.into(),
            base_prompt: base.map(str::to_owned),
            topic: topic.map(str::to_owned),
        };
        let mut set = HeldOutSet::new(&[
            held("Write about tea. Use no commas.", Some("Write about tea."), Some("tea")),
            held("Describe the old harbour by night.", None, None),
            held("p", None, Some("A paper kite")),
        ]);
        for (prompt, near, contained) in [
            ("write about tea", 2.0, true),
            ("Which TEA do you like?", 2.0, true),
            ("Which team do you like?", 0.7, false),
            ("Fold paper kites.", 2.0, false),
            ("Fold a paper kite.", 2.0, true),
            ("Describe the old harbour at night.", 0.7, true),
            ("Describe the old harbour at night.", 2.0, false),
            ("Use no commas.", 0.7, false),
        ] {
            assert_eq!(set.contains(prompt, near), contained, "{prompt}");
        }
    }
}
