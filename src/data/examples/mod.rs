//! Training records in the forms that people have, turned into token ids.
//!
//! A plain answer gets the end token; an answer in a conversation ends with the template's end of turn. What cannot be
//! learnt from (an empty answer, answers that are alike, too many tokens) is left out and counted, and never the end of
//! a file.

mod record;

use crate::json::read_jsonl;
use crate::source::ModelSource;
use crate::train::dpo::{Labelled, Pair};
use crate::train::objective::Objective;
use crate::train::sft::Example;
use crate::{Error, Result};
use record::{Found, Ids, Record};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Input(what.into()))
}

/// How records become token ids.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Most tokens that prompt and answer may have together; longer records are left out and counted.
    pub max_length: usize,
    /// Whether to cut off the end of an answer that is too long instead.
    pub truncate: bool,
    /// Whether only the last of the assistant's turns in `messages` is learnt instead of all.
    pub last_turn_only: bool,
}

impl Rules {
    /// Records of at most `max_length` tokens, of which every turn of the assistant is learnt.
    pub fn up_to(max_length: usize) -> Self {
        Self { max_length, truncate: false, last_turn_only: false }
    }

    /// The part of the answer that is kept, or `None` if the record is left out.
    fn fit(self, prompt: &[u32], mut answer: Vec<u32>) -> Option<Vec<u32>> {
        if prompt.len() + answer.len() > self.max_length {
            if !self.truncate || prompt.len() >= self.max_length {
                return None;
            }
            answer.truncate(self.max_length - prompt.len());
        }
        Some(answer)
    }
}

/// What was read of a file, to be told to the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The file.
    pub path: PathBuf,
    /// How many records it holds.
    pub records: usize,
    /// How many records have each form.
    pub forms: BTreeMap<&'static str, usize>,
    /// How many records were left out, by reason.
    pub dropped: BTreeMap<String, usize>,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let forms: Vec<&str> = self.forms.keys().copied().collect();
        write!(f, "{}: {} records ({})", self.path.display(), self.records, forms.join("; "))?;
        if self.dropped() > 0 {
            write!(f, ", {} left out: {}", self.dropped(), self.reasons())?;
        }
        Ok(())
    }
}

impl Reading {
    /// How many records were left out.
    pub fn dropped(&self) -> usize {
        self.dropped.values().sum()
    }

    fn reasons(&self) -> String {
        self.dropped.iter().map(|(why, n)| format!("{n} {why}")).collect::<Vec<_>>().join(", ")
    }

    fn drop(&mut self, why: impl Into<String>) {
        *self.dropped.entry(why.into()).or_default() += 1;
    }

    /// Counts a record of a form and gives what is kept of it.
    fn count(&mut self, (form, found): (&'static str, Found<Ids>)) -> Option<Ids> {
        *self.forms.entry(form).or_default() += 1;
        match found {
            Found::Kept(ids) => Some(ids),
            Found::Dropped(why) => {
                self.drop(why);
                None
            }
        }
    }
}

/// Reads what the losses of `objective` are trained on: preferences, or single answers with labels. `batch` is the
/// number of records of a step; all are one step where it is None.
///
/// # Errors
/// As [`pairs`] and [`Objective::rows`].
pub fn preferences(
    path: &Path,
    source: &ModelSource,
    rules: Rules,
    objective: &Objective,
    batch: Option<usize>,
) -> Result<(Vec<Pair>, Reading)> {
    if !objective.unpaired()? {
        return pairs(path, source, rules);
    }
    let (records, reading) = labelled(path, source, rules)?;
    Ok((objective.single_answers(&records, batch.unwrap_or(records.len()))?, reading))
}

/// Reads preferences.
///
/// # Errors
/// The file cannot be read or holds no record that can be used; a record has none of the forms, or holds ids that the
/// model does not have. The error names the file and the record.
pub fn pairs(path: &Path, source: &ModelSource, rules: Rules) -> Result<(Vec<Pair>, Reading)> {
    walk(path, |record, reading, pairs| {
        let number = |key: &str, default: f32| record.0.get(key).and_then(Value::as_f64).map_or(default, |x| x as f32);
        let (weight, flip) = (number("weight", 1.0), number("flip", 0.0));
        if !(weight >= 0.0 && weight.is_finite() && (0.0..=1.0).contains(&flip)) {
            return wrong(format!("weight {weight} and flip {flip}; expected at least 0, and 0 to 1"));
        }
        let Some(ids) = reading.count(record::pair(record, source)?) else { return Ok(()) };
        let fit = |answer: &Vec<u32>| rules.fit(&ids.prompt, answer.clone());
        match (fit(&ids.answers[0]), fit(&ids.answers[1])) {
            (Some(chosen), Some(rejected)) => {
                pairs.push(Pair { weight, flip, ..Pair::new(ids.prompt, chosen, rejected) });
            }
            _ => reading.drop(too_long(rules)),
        }
        Ok(())
    })
}

/// Reads answers to be learnt.
///
/// # Errors
/// As [`pairs`].
pub fn examples(path: &Path, source: &ModelSource, rules: Rules) -> Result<(Vec<Example>, Reading)> {
    walk(path, |record, reading, examples| {
        let Some(mut ids) = reading.count(record::example(record, source, rules)?) else { return Ok(()) };
        match rules.fit(&ids.prompt, ids.answers.swap_remove(0)) {
            Some(mut completion) => {
                // A cut may fall into what is context only, after which nothing is learnt.
                if let Some(part) = ids.context.iter().find(|part| part.end >= completion.len()) {
                    completion.truncate(part.start);
                }
                ids.context.retain(|part| part.end < completion.len());
                examples.push(Example { prompt: ids.prompt, completion, context: ids.context });
            }
            None => reading.drop(too_long(rules)),
        }
        Ok(())
    })
}

/// Reads answers with labels. A preference gives two of them, the chosen answer and the rejected one.
///
/// # Errors
/// As [`pairs`]; a single answer has no label.
pub fn labelled(path: &Path, source: &ModelSource, rules: Rules) -> Result<(Vec<Labelled>, Reading)> {
    // A label is about one answer.
    let rules = Rules { last_turn_only: true, ..rules };
    walk(path, |record, reading, all| {
        let paired = record.has("chosen") && record.has("rejected");
        let labels = match record.0.get("label") {
            _ if paired => vec![true, false],
            Some(Value::Bool(label)) => vec![*label],
            Some(Value::Number(label)) if label.as_f64() == Some(1.0) => vec![true],
            Some(Value::Number(label)) if label.as_f64() == Some(0.0) => vec![false],
            Some(other) if !other.is_null() => return wrong(format!("label is {other}; expected true or false")),
            _ => return wrong("has no label; the losses on single answers need true or false"),
        };
        let read = if paired { record::pair(record, source) } else { record::example(record, source, rules) };
        let Some(ids) = reading.count(read?) else { return Ok(()) };
        for (answer, desirable) in ids.answers.into_iter().zip(labels) {
            match rules.fit(&ids.prompt, answer) {
                Some(completion) => all.push(Labelled { prompt: ids.prompt.clone(), completion, desirable }),
                None => reading.drop(too_long(rules)),
            }
        }
        Ok(())
    })
}

fn too_long(rules: Rules) -> String {
    format!("longer than {} tokens", rules.max_length)
}

/// Reads every record of a file.
fn walk<T>(
    path: &Path,
    mut read: impl FnMut(Record, &mut Reading, &mut Vec<T>) -> Result<()>,
) -> Result<(Vec<T>, Reading)> {
    let records: Vec<Map<String, Value>> = read_jsonl(path)?;
    let mut reading = Reading { path: path.to_owned(), records: records.len(), ..Reading::default() };
    let mut all = Vec::new();
    for (i, record) in records.into_iter().enumerate() {
        let at = |error: Error| Error::file(path, format!("record {}: {error}", i + 1));
        read(Record(record), &mut reading, &mut all).map_err(at)?;
    }
    match (reading.records, all.len()) {
        (0, _) => Err(Error::file(path, "holds no record")),
        (total, 0) => {
            let long = reading.dropped.keys().any(|why| why.starts_with("longer"));
            let advice = if long { "; raise the most tokens allowed, or cut them" } else { "" };
            Err(Error::file(path, format!("none of {total} records can be used ({}){advice}", reading.reasons())))
        }
        _ => Ok((all, reading)),
    }
}

#[cfg(test)]
mod tests;
