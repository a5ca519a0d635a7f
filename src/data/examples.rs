//! Training records in TRL's forms, turned into token ids.
//!
//! Prompt and answer are encoded apart and their ids joined. A plain answer gets the end token. An answer in a
//! conversation ends with the template's end of turn; what the template writes after that is left out.

use crate::json::read_jsonl;
use crate::source::ModelSource;
use crate::text::{Message, Text};
use crate::train::dpo::{Labelled, Pair};
use crate::train::objective::Objective;
use crate::train::sft::Example;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Input(what.into()))
}

/// One side of a record: a plain text or a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Side {
    Plain(String),
    Chat(Vec<Message>),
}

/// A preference in any of TRL's forms, or as token ids.
#[derive(Deserialize)]
struct PairLine {
    prompt: Option<Side>,
    chosen: Option<Side>,
    rejected: Option<Side>,
    prompt_ids: Option<Vec<u32>>,
    chosen_ids: Option<Vec<u32>>,
    rejected_ids: Option<Vec<u32>>,
    /// The [`Pair::weight`]; 1 where the record has none.
    weight: Option<f32>,
    /// The [`Pair::flip`]; 0 where the record has none.
    flip: Option<f32>,
}

/// An answer to be learnt, in any of TRL's forms or as token ids.
#[derive(Deserialize)]
struct ExampleLine {
    messages: Option<Vec<Message>>,
    prompt: Option<Side>,
    completion: Option<Side>,
    prompt_ids: Option<Vec<u32>>,
    completion_ids: Option<Vec<u32>>,
    /// For the losses on single answers: whether the answer is wanted.
    label: Option<bool>,
}

/// What happens to records whose prompt and answer are longer than `max_length` tokens.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Most tokens that prompt and answer may have together.
    pub max_length: usize,
    /// Whether to cut off the answer's end instead of dropping the record.
    pub truncate: bool,
}

impl Limit {
    /// The part of the answer that is kept, or `None` if the record is dropped.
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

/// Reads what the losses of `objective` are trained on: preferences, or single answers with labels. Also returns how
/// many records were too long and dropped. `batch` is the number of records of a step; all are one step where it is
/// None.
///
/// # Errors
/// As [`pairs`] and [`Objective::rows`].
pub fn preferences(
    path: &Path,
    source: &ModelSource,
    limit: Limit,
    objective: &Objective,
    batch: Option<usize>,
) -> Result<(Vec<Pair>, usize)> {
    if !objective.unpaired()? {
        return pairs(path, source, limit);
    }
    let (records, dropped) = labelled(path, source, limit)?;
    Ok((objective.single_answers(&records, batch.unwrap_or(records.len()))?, dropped))
}

/// Reads preferences; also returns how many were too long and dropped.
///
/// # Errors
/// The file cannot be read or holds no record that fits; a record has none of the forms, is empty, or holds ids that
/// the model does not have. The error names the file and the record.
pub fn pairs(path: &Path, source: &ModelSource, limit: Limit) -> Result<(Vec<Pair>, usize)> {
    let records: Vec<PairLine> = read_jsonl(path)?;
    let total = records.len();
    let mut pairs = Vec::new();
    for (i, record) in records.into_iter().enumerate() {
        let (weight, flip) = (record.weight.unwrap_or(1.0), record.flip.unwrap_or(0.0));
        if !(weight >= 0.0 && weight.is_finite() && (0.0..=1.0).contains(&flip)) {
            let what = format!("weight {weight} and flip {flip}; expected at least 0, and 0 to 1");
            return Err(Error::file(path, format!("record {}: {what}", i + 1)));
        }
        let ids = pair_ids(record, source).and_then(|ids| checked(ids, source));
        let [prompt, chosen, rejected] = ids.map_err(|e| at(path, i, &e))?;
        if let (Some(chosen), Some(rejected)) = (limit.fit(&prompt, chosen), limit.fit(&prompt, rejected)) {
            pairs.push(Pair { weight, flip, ..Pair::new(prompt, chosen, rejected) });
        }
    }
    usable(path, total, pairs.len())?;
    let dropped = total - pairs.len();
    Ok((pairs, dropped))
}

/// Reads answers to be learnt. Also returns how many were dropped because they are too long.
///
/// # Errors
/// The file cannot be read or holds no record that fits; a record has none of the forms, is empty, or holds ids that
/// the model does not have. The error names the file and the record.
pub fn examples(path: &Path, source: &ModelSource, limit: Limit) -> Result<(Vec<Example>, usize)> {
    answers(path, source, limit, |_, prompt, completion| Ok(Example { prompt, completion }))
}

/// Reads answers with labels. Also returns how many were dropped because they are too long.
///
/// # Errors
/// As [`examples`]; a record has no label.
pub fn labelled(path: &Path, source: &ModelSource, limit: Limit) -> Result<(Vec<Labelled>, usize)> {
    answers(path, source, limit, |label, prompt, completion| {
        let Some(desirable) = label else {
            return wrong("has no label; the losses on single answers need true or false");
        };
        Ok(Labelled { prompt, completion, desirable })
    })
}

fn answers<T>(
    path: &Path,
    source: &ModelSource,
    limit: Limit,
    make: impl Fn(Option<bool>, Vec<u32>, Vec<u32>) -> Result<T>,
) -> Result<(Vec<T>, usize)> {
    let records: Vec<ExampleLine> = read_jsonl(path)?;
    let total = records.len();
    let mut kept = Vec::new();
    for (i, record) in records.into_iter().enumerate() {
        let label = record.label;
        let ids = example_ids(record, source).and_then(|ids| checked(ids, source));
        let [prompt, completion] = ids.map_err(|e| at(path, i, &e))?;
        if let Some(completion) = limit.fit(&prompt, completion) {
            kept.push(make(label, prompt, completion).map_err(|e| at(path, i, &e))?);
        }
    }
    usable(path, total, kept.len())?;
    let dropped = total - kept.len();
    Ok((kept, dropped))
}

fn at(path: &Path, record: usize, error: &Error) -> Error {
    Error::file(path, format!("record {}: {error}", record + 1))
}

fn usable(path: &Path, total: usize, kept: usize) -> Result<()> {
    match (total, kept) {
        (0, _) => Err(Error::file(path, "holds no record")),
        (_, 0) => {
            let what = format!("all {total} records are longer than the most tokens allowed; raise that, or cut them");
            Err(Error::file(path, what))
        }
        _ => Ok(()),
    }
}

/// Checks that none of the lists is empty and that every id is in the vocabulary.
fn checked<const N: usize>(lists: [Vec<u32>; N], source: &ModelSource) -> Result<[Vec<u32>; N]> {
    let vocabulary = source.arch.vocab_size;
    for (i, list) in lists.iter().enumerate() {
        if list.is_empty() {
            return wrong(format!("the {} is empty", if i == 0 { "prompt" } else { "answer" }));
        }
        if let Some(id) = list.iter().find(|id| **id as usize >= vocabulary) {
            return wrong(format!("token {id} is outside the model's {vocabulary} tokens"));
        }
    }
    Ok(lists)
}

fn pair_ids(record: PairLine, source: &ModelSource) -> Result<[Vec<u32>; 3]> {
    if let (Some(prompt), Some(chosen), Some(rejected)) = (record.prompt_ids, record.chosen_ids, record.rejected_ids) {
        return Ok([prompt, chosen, rejected]);
    }
    let (Some(chosen), Some(rejected)) = (record.chosen, record.rejected) else {
        return wrong(
            "expected prompt, chosen and rejected (texts or message lists), or prompt_ids, chosen_ids and rejected_ids",
        );
    };
    let text = source.text()?;
    let (prompt, chosen, rejected) = match (record.prompt, chosen, rejected) {
        (Some(prompt), chosen, rejected) => (prompt, chosen, rejected),
        (None, Side::Plain(a), Side::Plain(b)) => {
            let at = common_start(&a, &b);
            (Side::Plain(a[..at].to_owned()), Side::Plain(a[at..].to_owned()), Side::Plain(b[at..].to_owned()))
        }
        (None, Side::Chat(a), Side::Chat(b)) => {
            let at = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            (Side::Chat(a[..at].to_vec()), Side::Chat(a[at..].to_vec()), Side::Chat(b[at..].to_vec()))
        }
        (None, ..) => return wrong("chosen and rejected are of different kinds"),
    };
    let chosen = encode(text, source, &prompt, &chosen)?;
    Ok([chosen.0, chosen.1, encode(text, source, &prompt, &rejected)?.1])
}

fn example_ids(record: ExampleLine, source: &ModelSource) -> Result<[Vec<u32>; 2]> {
    if let (Some(prompt), Some(completion)) = (record.prompt_ids, record.completion_ids) {
        return Ok([prompt, completion]);
    }
    let (prompt, completion) = match (record.messages, record.prompt, record.completion) {
        (Some(mut messages), _, _) => {
            let Some(last) = messages.pop() else { return wrong("messages is empty") };
            if last.role != "assistant" {
                return wrong(format!("the last message is the {}'s; the assistant's was expected", last.role));
            }
            (Side::Chat(messages), Side::Chat(vec![last]))
        }
        (None, Some(prompt), Some(completion)) => (prompt, completion),
        _ => return wrong("expected messages, or prompt and completion, or prompt_ids and completion_ids"),
    };
    let (prompt, completion) = encode(source.text()?, source, &prompt, &completion)?;
    Ok([prompt, completion])
}

/// Token ids of a prompt and of the answer that follows it.
fn encode(text: &Text, source: &ModelSource, prompt: &Side, answer: &Side) -> Result<(Vec<u32>, Vec<u32>)> {
    match (prompt, answer) {
        (Side::Plain(prompt), Side::Plain(answer)) => {
            if answer.is_empty() {
                return wrong("the answer is empty");
            }
            let mut ids = text.encode(answer)?;
            ids.extend(text.eos().or(source.stop_ids.first().copied()));
            Ok((text.encode(prompt)?, ids))
        }
        (Side::Chat(prompt), Side::Chat(answer)) => {
            if prompt.is_empty() {
                return wrong("the prompt is empty");
            }
            if answer.iter().all(|m| m.content.is_empty()) {
                return wrong("the answer is empty");
            }
            let before = text.render_chat(prompt, true)?;
            let whole = text.render_chat(&[prompt.as_slice(), answer].concat(), false)?;
            let Some(rest) = whole.strip_prefix(&before) else {
                return wrong("this model's chat template writes the prompt differently once it is answered");
            };
            let mut ids = text.encode(rest)?;
            // The last end of turn is the answer's own; what the template writes after it is left out.
            if let Some(at) = text.end_of_turn().and_then(|end| ids.iter().rposition(|id| *id == end)) {
                ids.truncate(at + 1);
            }
            Ok((text.encode(&before)?, ids))
        }
        _ => wrong("prompt and answer must both be texts, or both be message lists"),
    }
}

/// How many bytes two texts share at their start, without a last blank, which belongs to what follows.
fn common_start(a: &str, b: &str) -> usize {
    let at = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((i, _), _)| i);
    if a[..at].ends_with(' ') { at - 1 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_implicit_prompt_ends_before_the_first_difference() {
        for (a, b, want) in [
            ("The sky is blue", "The sky is green", "The sky is"),
            ("ab", "ab", "ab"),
            ("äb", "äc", "ä"),
            ("x", "y", ""),
        ] {
            assert_eq!(&a[..common_start(a, b)], want);
        }
    }

    #[test]
    fn what_is_too_long_is_dropped_or_cut() {
        let limit = |truncate| Limit { max_length: 4, truncate };
        assert_eq!(limit(false).fit(&[1, 2], vec![3, 4]), Some(vec![3, 4]));
        assert_eq!(limit(false).fit(&[1, 2], vec![3, 4, 5]), None);
        assert_eq!(limit(true).fit(&[1, 2], vec![3, 4, 5]), Some(vec![3, 4]));
        assert_eq!(limit(true).fit(&[1, 2, 3, 4], vec![5]), None);
    }
}
