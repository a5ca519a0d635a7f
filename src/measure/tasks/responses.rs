//! Answers that were written elsewhere, and which item each is to.

use super::{Given, Scored, Task};
use crate::data::answers::read_records;
use crate::text::Prompt;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    prompt: Prompt,
    #[serde(alias = "output")]
    response: String,
}

/// Reads written answers, lines with `prompt` and `response`, and scores those to items of the task, in its order: `n`
/// to an item, the first ones where there are more.
///
/// # Errors
/// The task has choices; the file cannot be read, a line lacks a field, one prompt has several responses where one is
/// asked for, or fewer than are asked for; no response is to an item.
pub fn score_responses(task: &dyn Task, path: &Path, n: u32) -> Result<Vec<Scored>> {
    if (0..task.len()).any(|item| task.choices(item).is_some()) {
        let what = "is scored by a model's log-likelihoods of the choices, not by written answers: name a model";
        return Err(Error::Input(format!("{} {what}", task.name())));
    }
    let mut responses: HashMap<String, Vec<String>> = HashMap::new();
    for (i, line) in read_records::<Line>(path)?.into_iter().enumerate() {
        let of = responses.entry(line.prompt.question()).or_default();
        match of.first() {
            Some(other) if n == 1 && *other != line.response => {
                let what = "answers a prompt that an earlier record answers otherwise; expected one response a prompt";
                return Err(Error::file(path, format!("record {}: {what}, or -n", i + 1)));
            }
            Some(_) if n == 1 => {}
            _ => of.push(line.response),
        }
    }
    let mut scored = Vec::new();
    for item in 0..task.len() {
        let prompt = &task.entry(item).prompt;
        let Some(of) = responses.get(prompt) else { continue };
        if of.len() < n as usize {
            let begin: String = prompt.chars().take(60).collect();
            let what = format!("the prompt that begins {begin:?} has {} responses; expected {n}", of.len());
            return Err(Error::file(path, what));
        }
        for (sample, response) in (0..n).zip(of) {
            scored.push(Scored::new(task, item, sample, Given::written(response.clone()))?);
        }
    }
    match scored.is_empty() {
        true => Err(Error::file(path, "has no response to any prompt of the task; prompts must be the same texts")),
        false => Ok(scored),
    }
}
