//! Questions of the user's own, each with the answer that is right or with a pattern for it.

use super::gsm8k::same;
use super::{Entry, Marks, Task, one_truth};
use crate::Result;
use crate::data::answers::read_records;
use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::path::Path;

/// How many steps a search may take before it counts as one without a match.
const MAX_STEPS: usize = 1_000_000;
/// How much memory a compiled pattern may take.
const MAX_COMPILED: usize = 1 << 20;

/// A file of questions with keys.
pub struct Exact {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Line {
    key: Option<Value>,
    #[serde(alias = "question", alias = "instruction")]
    prompt: String,
    #[serde(default, deserialize_with = "given")]
    answer: Option<Value>,
    pattern: Option<String>,
}

/// A value that is there, be it null.
fn given<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Deserialize)]
#[serde(try_from = "Line")]
struct Item {
    entry: Entry,
    wanted: Wanted,
    truth: String,
}

enum Wanted {
    /// One of these texts, or the same number where it is one.
    Texts(Vec<String>),
    /// A match: as it is, and whatever the case of letters.
    Pattern(Box<[Regex; 2]>),
}

impl TryFrom<Line> for Item {
    type Error = String;

    fn try_from(line: Line) -> std::result::Result<Self, String> {
        if line.prompt.trim().is_empty() {
            return Err("prompt is empty".into());
        }
        let truth = format!("{:?} {:?}", line.answer, line.pattern);
        let wanted = match (line.answer, line.pattern) {
            (Some(answer), None) => Wanted::Texts(texts(&answer)?),
            (None, Some(pattern)) if pattern.is_empty() => {
                return Err("pattern is empty, which every answer matches".into());
            }
            (None, Some(pattern)) => Wanted::Pattern(Box::new([compile(&pattern, false)?, compile(&pattern, true)?])),
            _ => return Err("expected answer or pattern, and not both".into()),
        };
        Ok(Self { entry: Entry { key: line.key, prompt: line.prompt }, wanted, truth })
    }
}

/// The texts that are right: a text, a number, or a list of these.
fn texts(answer: &Value) -> std::result::Result<Vec<String>, String> {
    let list = answer.as_array().map_or(std::slice::from_ref(answer), Vec::as_slice);
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let texts: Option<Vec<String>> = list.iter().map(text).collect();
    let wrong = || format!("answer is {answer}; expected a text, a number or a list of these");
    texts.filter(|texts| !texts.is_empty()).ok_or_else(wrong)
}

pub(crate) fn compile(pattern: &str, any_case: bool) -> std::result::Result<Regex, String> {
    let whole = format!("{}{pattern}", if any_case { "(?i)" } else { "" });
    let built = RegexBuilder::new(&whole).backtrack_limit(MAX_STEPS).delegate_size_limit(MAX_COMPILED).build();
    built.map_err(|e| format!("pattern {pattern:?} is no regular expression that is understood: {e}"))
}

impl Exact {
    /// Reads a file of questions: lines with `prompt` (or `question`) and `answer` or `pattern`.
    ///
    /// # Errors
    /// The file cannot be read; a line lacks a field, or its key or pattern is none, which the error names by its line;
    /// two lines have one prompt and different keys.
    pub fn open(path: &Path) -> Result<Self> {
        let items: Vec<Item> = read_records(path)?;
        one_truth(path, items.iter().map(|item| (item.entry.prompt.as_str(), item.truth.as_str())))?;
        Ok(Self { items })
    }

    /// The task of one record alone.
    ///
    /// # Errors
    /// The record lacks a field, or its key or pattern is none.
    pub fn single(record: Value) -> std::result::Result<Self, String> {
        Ok(Self { items: vec![serde_json::from_value(record).map_err(|e| e.to_string())?] })
    }
}

/// The last line with words, in small letters, without signs around it.
pub(crate) fn last_line(answer: &str) -> String {
    let sign = |c: char| c.is_whitespace() || "*\"'`.,!?()[]".contains(c);
    let last = answer.lines().rev().map(|line| line.trim_matches(sign)).find(|line| !line.is_empty());
    last.unwrap_or_default().to_lowercase()
}

impl Task for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn measures(&self) -> [&'static str; 2] {
        ["strict", "lenient"]
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn entry(&self, item: usize) -> &Entry {
        &self.items[item].entry
    }

    fn score(&self, item: usize, answer: &str) -> Marks {
        let given = answer.trim();
        let passed = match &self.items[item].wanted {
            _ if given.is_empty() => [false, false],
            Wanted::Texts(texts) => {
                let last = last_line(given);
                let strict = texts.iter().any(|text| text == given);
                let like = |text: &String| last_line(text) == last || same(text, &last);
                [strict, strict || texts.iter().any(like)]
            }
            Wanted::Pattern(both) => both.each_ref().map(|pattern| pattern.is_match(given).unwrap_or(false)),
        };
        let why = || match &self.items[item].wanted {
            _ if given.is_empty() => "the answer is empty".to_owned(),
            Wanted::Texts(texts) => format!("the answer is not {:?}", texts.join("\" or \"")),
            Wanted::Pattern(both) => format!("the answer does not match {:?}", both[0].as_str()),
        };
        Marks { passed: vec![passed], failed: (!passed[0]).then(why).into_iter().collect() }
    }

    fn worked(&self, item: usize) -> Option<&str> {
        match &self.items[item].wanted {
            Wanted::Texts(texts) => texts.first().map(String::as_str),
            Wanted::Pattern(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(line: Value, answer: &str) -> [bool; 2] {
        let item = serde_json::from_value(line).unwrap();
        Exact { items: vec![item] }.score(0, answer).passed[0]
    }

    #[test]
    fn answers_are_compared_with_their_keys() {
        let paris = || serde_json::json!({"prompt": "q", "answer": ["Paris", "The city of Paris"]});
        for (answer, wanted) in [
            (" Paris\n", [true, true]),
            ("It is this:\n\n**paris**.\n", [false, true]),
            ("Paris, France", [false, false]),
            ("the city of Paris", [false, true]),
            ("", [false, false]),
            ("...", [false, false]),
        ] {
            assert_eq!(passed(paris(), answer), wanted, "{answer:?}");
        }
        let number = |key: Value, answer: &str| passed(serde_json::json!({"question": "q", "answer": key}), answer);
        assert_eq!(number(12.into(), "12"), [true, true]);
        // Keys that are numbers may be written in any way, but only for the lenient measure.
        for (key, answer) in [("12", "12.0"), ("1,234", "1234"), ("1.5", "So:\n**$1.50**."), ("-3", "(-3)")] {
            assert_eq!(number(key.into(), answer), [false, true], "{key} {answer}");
        }
        assert_eq!(number("12".into(), "120"), [false, false]);
        assert_eq!(passed(serde_json::json!({"prompt": "q", "answer": "B"}), "(B)"), [false, true]);
        let colour = || serde_json::json!({"prompt": "q", "pattern": "^colou?r$"});
        assert_eq!(passed(colour(), "color"), [true, true]);
        assert_eq!(passed(colour(), "Colour"), [false, true]);
        assert_eq!(passed(colour(), "colouur"), [false, false]);
        // A search that would take for ever finds nothing.
        let slow = serde_json::json!({"prompt": "q", "pattern": "(a|a?)+(?<=x)$"});
        assert_eq!(passed(slow, &"a".repeat(60)), [false, false]);
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for (line, word) in [
            (r#"{"prompt": "q"}"#, "expected answer or pattern"),
            (r#"{"prompt": "q", "answer": "a", "pattern": "a"}"#, "not both"),
            (r#"{"prompt": "q", "answer": {"a": 1}}"#, "expected a text, a number"),
            (r#"{"prompt": "q", "answer": " "}"#, "expected a text, a number"),
            (r#"{"prompt": "q", "answer": []}"#, "expected a text, a number"),
            (r#"{"prompt": "q", "answer": null}"#, "answer is null; expected a text, a number"),
            (r#"{"prompt": "q", "pattern": ""}"#, "pattern is empty"),
            (r#"{"prompt": "q", "pattern": "("}"#, "no regular expression"),
            (r#"{"prompt": " ", "answer": "a"}"#, "prompt is empty"),
        ] {
            let e = serde_json::from_str::<Item>(line).err().unwrap().to_string();
            assert!(e.contains(word), "{line}: {e}");
        }
    }
}
