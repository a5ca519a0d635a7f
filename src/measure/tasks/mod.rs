//! Tasks whose answers a program can check: one file each behind [`Task`].

mod exact;
mod gsm8k;
mod ifeval;

use super::win_rate::{Estimate, bootstrap};
use crate::data::answers::read_records;
use crate::{Error, Result};
pub use exact::Exact;
pub use gsm8k::Gsm8k;
pub use ifeval::IfEval;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What a task file says of an item, beside what is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The item's own name.
    pub key: Option<Value>,
    /// The words that are asked.
    pub prompt: String,
}

/// What was found of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Of each part of the item, whether it passed by the task's first measure and by its second one.
    pub passed: Vec<[bool; 2]>,
    /// What failed by the first measure, in words.
    pub failed: Vec<String>,
}

/// A list of items whose answers a program can check.
pub trait Task {
    /// The task's name.
    fn name(&self) -> &'static str;

    /// The names of its two measures, the harder one first.
    fn measures(&self) -> [&'static str; 2];

    /// How many items there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the file says of an item.
    fn entry(&self, item: usize) -> &Entry;

    /// The kinds of an item's parts; none where an item is one thing.
    fn kinds(&self, _item: usize) -> Vec<&'static str> {
        Vec::new()
    }

    /// Checks an answer to an item.
    fn score(&self, item: usize, answer: &str) -> Marks;
}

/// A rate by one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The measure's name.
    pub measure: String,
    /// Of what the rate is: `prompt`, where all of an item must pass, or `instruction`.
    pub by: String,
    /// The share that passed.
    #[serde(flatten)]
    pub rate: Estimate,
}

/// How the parts of one kind did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindRate {
    /// The kind's name.
    pub kind: String,
    /// How many there are.
    pub count: usize,
    /// The share that passed, by measure.
    pub passed: BTreeMap<String, f64>,
}

/// How a list of answers did in a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's name.
    pub task: String,
    /// How many items the task has.
    pub items: usize,
    /// How many of them have a response.
    pub answered: usize,
    /// How many have none, and are left out.
    pub unanswered: usize,
    /// The rates over those with a response.
    pub rates: Vec<Rate>,
    /// The rates by kind, where the task has kinds.
    pub kinds: Vec<KindRate>,
}

/// An item with its response and what was found of it.
pub struct Scored {
    /// The item's number.
    pub item: usize,
    /// The answer.
    pub response: String,
    /// What was found of it.
    pub marks: Marks,
}

#[derive(Deserialize)]
struct ResponseLine {
    #[serde(alias = "question")]
    prompt: String,
    #[serde(alias = "output")]
    response: String,
}

/// Reads written answers, lines with `prompt` and `response`, and scores those to items of the task, in its order.
///
/// # Errors
/// The file cannot be read, a line lacks a field, one prompt has several responses, or no response is to an item.
pub fn score_responses(task: &dyn Task, path: &Path) -> Result<Vec<Scored>> {
    let mut responses: HashMap<String, String> = HashMap::new();
    for (i, line) in read_records::<ResponseLine>(path)?.into_iter().enumerate() {
        match responses.get(&line.prompt) {
            Some(other) if *other != line.response => {
                let what = "answers a prompt that an earlier record answers otherwise; expected one response a prompt";
                return Err(Error::file(path, format!("record {}: {what}", i + 1)));
            }
            _ => responses.insert(line.prompt, line.response),
        };
    }
    let score = |item| {
        let response = responses.get(&task.entry(item).prompt)?.clone();
        Some(Scored { item, marks: task.score(item, &response), response })
    };
    let scored: Vec<Scored> = (0..task.len()).filter_map(score).collect();
    match scored.is_empty() {
        true => Err(Error::file(path, "has no response to any prompt of the task; prompts must be the same texts")),
        false => Ok(scored),
    }
}

impl Scored {
    /// The line that tells of this answer.
    pub fn record(&self, task: &dyn Task) -> Value {
        let entry = task.entry(self.item);
        let mut out = Map::new();
        out.extend(entry.key.clone().map(|key| ("key".to_owned(), key)));
        out.insert("prompt".into(), json!(entry.prompt));
        out.insert("response".into(), json!(self.response));
        let kinds = task.kinds(self.item);
        for (i, measure) in task.measures().into_iter().enumerate() {
            let passed: Vec<bool> = self.marks.passed.iter().map(|passed| passed[i]).collect();
            out.insert(measure.into(), if kinds.is_empty() { json!(self.passed(i)) } else { json!(passed) });
        }
        if !kinds.is_empty() {
            out.insert("instruction_id_list".into(), json!(kinds));
        }
        out.insert("failed".into(), json!(self.marks.failed));
        Value::Object(out)
    }

    /// Whether all of it passed by a measure.
    fn passed(&self, measure: usize) -> bool {
        self.marks.passed.iter().all(|passed| passed[measure])
    }
}

/// The rates of answers, with intervals from resampling the items.
pub fn report(task: &dyn Task, scored: &[Scored], seed: u64) -> TaskReport {
    let with_kinds = scored.iter().any(|s| !task.kinds(s.item).is_empty());
    let mut rates = Vec::new();
    for (by, whole) in [("prompt", true), ("instruction", false)] {
        for (i, measure) in task.measures().into_iter().enumerate().filter(|_| whole || with_kinds) {
            // Passed and all, of each item.
            let counts: Vec<[usize; 2]> = scored
                .iter()
                .map(|s| match whole {
                    true => [usize::from(s.passed(i)), 1],
                    false => [s.marks.passed.iter().filter(|p| p[i]).count(), s.marks.passed.len()],
                })
                .collect();
            let rate = bootstrap(counts.len(), seed, &|pick| {
                let sum = |part: usize| pick.iter().map(|&at| counts[at][part]).sum::<usize>() as f64;
                sum(0) / sum(1)
            });
            rates.extend(rate.map(|rate| Rate { measure: measure.into(), by: by.into(), rate }));
        }
    }
    TaskReport {
        task: task.name().into(),
        items: task.len(),
        answered: scored.len(),
        unanswered: task.len() - scored.len(),
        rates,
        kinds: kinds(task, scored),
    }
}

fn kinds(task: &dyn Task, scored: &[Scored]) -> Vec<KindRate> {
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for s in scored {
        for (kind, passed) in task.kinds(s.item).into_iter().zip(&s.marks.passed) {
            let count = counts.entry(kind).or_default();
            let [first, second] = passed.map(usize::from);
            *count = [count[0] + 1, count[1] + first, count[2] + second];
        }
    }
    let rate = |(kind, [count, first, second]): (&str, [usize; 3])| {
        let shares = [first, second].map(|passed| passed as f64 / count as f64);
        let passed = task.measures().into_iter().map(str::to_owned).zip(shares).collect();
        KindRate { kind: kind.to_owned(), count, passed }
    };
    counts.into_iter().map(rate).collect()
}
