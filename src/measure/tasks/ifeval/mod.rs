//! IFEval (arXiv 2311.07911): instructions that a program can check, each by one of 25 kinds.

mod arguments;
mod capitals;
mod json;
mod kinds;
mod language;
mod python;
mod sentences;
mod tokens;

use super::{Entry, Marks, Task, one_truth};
use crate::Result;
use crate::data::answers::read_records;
use arguments::Arguments;
use kinds::{Check, KINDS};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A task file of IFEval.
pub struct IfEval {
    items: Vec<Item>,
}

/// A line of the file as it stands there.
#[derive(Deserialize)]
struct Line {
    key: Option<Value>,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<Option<Map<String, Value>>>,
}

#[derive(Deserialize)]
#[serde(try_from = "Line")]
struct Item {
    entry: Entry,
    checks: Vec<(&'static str, Check)>,
    truth: String,
}

impl TryFrom<Line> for Item {
    type Error = String;

    fn try_from(line: Line) -> std::result::Result<Self, String> {
        let (ids, kwargs) = (line.instruction_id_list, line.kwargs);
        if line.prompt.trim().is_empty() || ids.is_empty() {
            let empty = if ids.is_empty() { "instruction_id_list" } else { "prompt" };
            return Err(format!("{empty} is empty"));
        }
        if ids.len() != kwargs.len() {
            return Err(format!("kwargs has {} entries, instruction_id_list {}", kwargs.len(), ids.len()));
        }
        let pairs = ids.iter().zip(&kwargs);
        let checks =
            pairs.map(|(id, kwargs)| check(id, kwargs.as_ref())).collect::<std::result::Result<_, String>>()?;
        let truth = format!("{ids:?} {kwargs:?}");
        Ok(Self { entry: Entry { key: line.key, prompt: line.prompt }, checks, truth })
    }
}

fn check(id: &str, kwargs: Option<&Map<String, Value>>) -> std::result::Result<(&'static str, Check), String> {
    let unknown = || {
        let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        format!("unknown kind of instruction {id:?}; known are {}", known.join(", "))
    };
    let (name, build) = KINDS.iter().find(|(name, _)| *name == id).ok_or_else(unknown)?;
    let none = Map::new();
    let mut arguments = Arguments::new(kwargs.unwrap_or(&none));
    let check = build(&mut arguments).and_then(|check| arguments.finish().map(|()| check));
    Ok((name, check.map_err(|e| format!("{id}: {e}"))?))
}

impl IfEval {
    /// Reads a task file: lines with `prompt`, `instruction_id_list` and `kwargs`, perhaps with `key`.
    ///
    /// # Errors
    /// The file cannot be read; a line lacks a field, names an unknown kind or has arguments that do not fit. The error
    /// names the line. Two lines have one prompt and different instructions.
    pub fn open(path: &Path) -> Result<Self> {
        let items: Vec<Item> = read_records(path)?;
        one_truth(path, items.iter().map(|item| (item.entry.prompt.as_str(), item.truth.as_str())))?;
        Ok(Self { items })
    }

    /// The task of one record alone.
    ///
    /// # Errors
    /// The record lacks a field, names an unknown kind or has arguments that do not fit.
    pub fn single(record: Value) -> std::result::Result<Self, String> {
        Ok(Self { items: vec![serde_json::from_value(record).map_err(|e| e.to_string())?] })
    }

    /// The names of all kinds of instruction.
    pub fn known_kinds() -> [&'static str; KINDS.len()] {
        KINDS.map(|(name, _)| name)
    }
}

/// The answer and what is left without its first line, its last and both, each also without stars.
fn variants(answer: &str) -> Vec<String> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let last = lines.len() - 1;
    let part = |lines: &[&str]| python::strip(&lines.join("\n")).to_owned();
    let inner = lines.get(1..last).map_or_else(String::new, part);
    let mut out = vec![answer.to_owned(), part(&lines[1..]), part(&lines[..last]), inner];
    out.extend(out.clone().iter().map(|text| text.replace('*', "")));
    out
}

impl Task for IfEval {
    fn name(&self) -> &'static str {
        "ifeval"
    }

    fn measures(&self) -> [&'static str; 2] {
        ["strict", "loose"]
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn entry(&self, item: usize) -> &Entry {
        &self.items[item].entry
    }

    fn kinds(&self, item: usize) -> Vec<&'static str> {
        self.items[item].checks.iter().map(|(kind, _)| *kind).collect()
    }

    fn score(&self, item: usize, answer: &str) -> Marks {
        let texts = variants(answer);
        let mut marks = Marks::default();
        for (kind, check) in &self.items[item].checks {
            let miss = |text: &str| match python::strip(text).is_empty() {
                true => Some("the answer is empty".to_owned()),
                false => check.miss(text),
            };
            let strict = miss(answer);
            let loose = strict.is_none() || texts[1..].iter().any(|text| miss(text).is_none());
            marks.passed.push([strict.is_none(), loose]);
            marks.failed.extend(strict.map(|why| format!("{kind}: {why}")));
        }
        marks
    }
}

#[cfg(test)]
mod tests;
