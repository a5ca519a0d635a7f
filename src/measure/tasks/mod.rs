//! Tasks whose answers a program can check: one file each behind [`Task`].

mod ask;
mod choice;
pub(crate) mod exact;
pub(crate) mod gsm8k;
mod ifeval;
mod report;
mod responses;

use crate::{Error, Result};
pub use ask::{Given, Questions, Shots};
pub use choice::{Choice, Choices};
pub use exact::Exact;
pub use gsm8k::Gsm8k;
pub use ifeval::IfEval;
pub use report::{Difference, KindRate, Rate, Scored, TaskReport, differences, report};
pub use responses::score_responses;
use serde_json::Value;
use std::collections::HashMap;
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

    /// The words by which a model is asked that has seen no worked examples.
    fn ask(&self, item: usize) -> String {
        self.entry(item).prompt.clone()
    }

    /// The answer to an item as a worked example shows it, where the file has it.
    fn worked(&self, _item: usize) -> Option<&str> {
        None
    }

    /// The choices of an item that is answered by their log-likelihoods in place of words.
    fn choices(&self, _item: usize) -> Option<&Choices> {
        None
    }
}

/// A task by its name, with what reads its files.
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Most tokens of an answer where nothing else is said; none where nothing is written.
    pub tokens: Option<usize>,
    /// Reads a file of it.
    open: fn(&Path) -> Result<Box<dyn Task>>,
}

/// Every task.
pub static TASKS: [Known; 4] = [
    Known {
        name: "ifeval",
        about: "How many instructions that a program can check are followed",
        tokens: Some(1280),
        open: |path| Ok(Box::new(IfEval::open(path)?)),
    },
    Known {
        name: "gsm8k",
        about: "How many word problems end in the right number",
        tokens: Some(512),
        open: |path| Ok(Box::new(Gsm8k::open(path)?)),
    },
    Known {
        name: "exact",
        about: "How many answers are a key or match a pattern",
        tokens: Some(256),
        open: |path| Ok(Box::new(Exact::open(path)?)),
    },
    Known {
        name: "choice",
        about: "How often the right choice is the likeliest one",
        tokens: None,
        open: |path| Ok(Box::new(Choice::open(path)?)),
    },
];

impl Known {
    /// The task of this name.
    ///
    /// # Errors
    /// There is none; the error lists the names.
    pub fn named(name: &str) -> Result<&'static Self> {
        let names = || TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
        let found = TASKS.iter().find(|task| task.name == name);
        found.ok_or_else(|| Error::Input(format!("unknown task {name:?}; known are {}", names())))
    }

    /// Reads a file of the task.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no item of the task. The error names the line.
    pub fn open(&self, path: &Path) -> Result<Box<dyn Task>> {
        (self.open)(path)
    }
}

/// Refuses a file that says of one prompt that different things are right; `items` has each prompt with what is right.
fn one_truth<'a>(path: &Path, items: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let mut seen: HashMap<&str, (usize, &str)> = HashMap::new();
    for (i, (prompt, truth)) in items.enumerate() {
        let (first, before) = *seen.entry(prompt).or_insert((i, truth));
        if before != truth {
            let what = "have the same prompt, but not the same is right; expected one truth a prompt";
            return Err(Error::file(path, format!("records {} and {} {what}", first + 1, i + 1)));
        }
    }
    Ok(())
}
