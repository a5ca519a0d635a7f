//! Questions with choices, answered by how likely a model finds each, as lm-evaluation-harness counts them.

use super::{Entry, Marks, Task, one_truth};
use crate::data::answers::read_records;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// A file of questions with choices.
pub struct Choice {
    items: Vec<Item>,
}

/// What may follow a context, and which of it is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// What stands before each choice.
    pub context: String,
    /// The choices, without the blank before them.
    pub texts: Vec<String>,
    /// The number of the right one, from 0.
    pub answer: usize,
}

#[derive(Deserialize)]
struct Line {
    #[serde(alias = "id")]
    key: Option<Value>,
    #[serde(alias = "prompt")]
    question: Option<String>,
    context: Option<String>,
    choices: Listed,
    #[serde(alias = "answerKey")]
    answer: Value,
}

/// The choices of a line: texts, or texts with a name for each, as ARC's files have them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "choices must be a list of texts, or have the lists text and label")]
enum Listed {
    Texts(Vec<String>),
    Named { text: Vec<String>, label: Vec<String> },
}

#[derive(Deserialize)]
#[serde(try_from = "Line")]
struct Item {
    entry: Entry,
    choices: Choices,
    truth: String,
}

impl TryFrom<Line> for Item {
    type Error = String;

    fn try_from(line: Line) -> std::result::Result<Self, String> {
        let (prompt, context) = match (line.question, line.context) {
            (Some(question), None) => {
                let context = format!("Question: {question}\nAnswer:");
                (question, context)
            }
            (None, Some(context)) => (context.clone(), context),
            _ => return Err("expected question, or context in its place".into()),
        };
        if prompt.trim().is_empty() {
            return Err("question is empty".into());
        }
        let (texts, names) = match line.choices {
            Listed::Texts(texts) => (texts, None),
            Listed::Named { text, label } if text.len() == label.len() => (text, Some(label)),
            Listed::Named { text, label } => {
                return Err(format!("choices has {} texts and {} labels", text.len(), label.len()));
            }
        };
        if texts.len() < 2 {
            return Err(format!("choices has {}; expected two or more", texts.len()));
        }
        if let Some(at) = texts.iter().position(|text| text.trim().is_empty()) {
            return Err(format!("choice {at} is empty"));
        }
        let answer = right(&line.answer, &texts, names.as_deref())?;
        let truth = format!("{answer} {texts:?}");
        Ok(Self { entry: Entry { key: line.key, prompt }, choices: Choices { context, texts, answer }, truth })
    }
}

/// The number of the right choice, by its number, its name, its text or its letter.
fn right(answer: &Value, texts: &[String], names: Option<&[String]>) -> std::result::Result<usize, String> {
    let count = texts.len();
    let wanted =
        || format!("answer is {answer}; expected a number from 0 to {}, a letter or a choice's text", count - 1);
    let given = match answer {
        Value::Number(number) => {
            let index = number.as_u64().map(|index| index as usize).filter(|index| *index < count);
            return index.ok_or_else(wanted);
        }
        Value::String(text) => text.trim(),
        _ => return Err(wanted()),
    };
    if let Some(names) = names {
        let named = names.iter().position(|name| name.trim() == given);
        return named.ok_or_else(|| format!("answer is {answer}; expected one of the labels {}", names.join(", ")));
    }
    let letter = match given.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')).filter(|index| *index < count),
        _ => None,
    };
    let mut same = (0..count).filter(|i| texts[*i].trim() == given);
    match (letter, same.next(), same.next()) {
        (_, Some(_), Some(_)) => Err(format!("answer is {answer}, which several choices are; expected a number")),
        (Some(letter), Some(text), None) if letter != text => {
            Err(format!("answer is {answer}: the letter of choice {letter} and the text of choice {text}"))
        }
        (letter, text, _) => text.or(letter).ok_or_else(wanted),
    }
}

impl Choice {
    /// Reads a task file: lines with `question` (or `context`, which stands before the choices as it is), `choices` and
    /// `answer`.
    ///
    /// # Errors
    /// The file cannot be read; a line lacks a field, or its answer is none of its choices. The error names the line.
    pub fn open(path: &Path) -> Result<Self> {
        let items: Vec<Item> = read_records(path)?;
        one_truth(path, items.iter().map(|item| (item.entry.prompt.as_str(), item.truth.as_str())))?;
        Ok(Self { items })
    }
}

impl Choices {
    /// Whether the right choice is the likeliest, by its log-likelihood and by that divided by its characters. The
    /// first of equal ones counts.
    ///
    /// # Errors
    /// There is not one finite log-likelihood for each choice.
    pub fn weigh(&self, logps: &[f64]) -> Result<Marks> {
        if logps.len() != self.texts.len() || logps.iter().any(|logp| !logp.is_finite()) {
            let what = format!("log-likelihoods of {} choices are {logps:?}", self.texts.len());
            return Err(Error::NonFinite(format!("{what}; expected as many finite numbers")));
        }
        let characters = self.texts.iter().map(|text| text.chars().count().max(1) as f64);
        let normed: Vec<f64> = logps.iter().zip(characters).map(|(logp, count)| logp / count).collect();
        let chosen = [largest(logps), largest(&normed)];
        let passed = chosen.map(|chosen| chosen == self.answer);
        let why = format!("the likeliest choice is {:?}, wanted {:?}", self.texts[chosen[0]], self.texts[self.answer]);
        Ok(Marks { passed: vec![passed], failed: (!passed[0]).then_some(why).into_iter().collect() })
    }
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

impl Task for Choice {
    fn name(&self) -> &'static str {
        "choice"
    }

    fn measures(&self) -> [&'static str; 2] {
        ["acc", "acc_norm"]
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn entry(&self, item: usize) -> &Entry {
        &self.items[item].entry
    }

    /// A written answer passes if it is the right choice's text.
    fn score(&self, item: usize, answer: &str) -> Marks {
        let choices = &self.items[item].choices;
        let wanted = choices.texts[choices.answer].trim();
        let passed = answer.trim() == wanted;
        let why = (!passed).then(|| format!("the answer is not {wanted:?}"));
        Marks { passed: vec![[passed; 2]], failed: why.into_iter().collect() }
    }

    fn worked(&self, item: usize) -> Option<&str> {
        let choices = &self.items[item].choices;
        Some(&choices.texts[choices.answer])
    }

    fn choices(&self, item: usize) -> Option<&Choices> {
        Some(&self.items[item].choices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: Value) -> std::result::Result<Choices, String> {
        serde_json::from_value::<Item>(line).map(|item| item.choices).map_err(|e| e.to_string())
    }

    #[test]
    fn the_right_choice_is_named_in_many_ways() {
        for (choices, answer, want) in [
            (json!(["red", "blue"]), json!(1), 1),
            (json!(["red", "blue"]), json!("B"), 1),
            (json!(["red", "blue"]), json!(" blue"), 1),
            (json!(["A", "B", "C"]), json!("B"), 1),
            (json!({"text": ["red", "blue"], "label": ["1", "2"]}), json!("2"), 1),
            (json!({"text": ["red", "blue"], "label": ["A", "B"]}), json!("A"), 0),
        ] {
            let line = json!({"question": "q", "choices": choices, "answer": answer});
            let read = read(line.clone()).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!((read.answer, read.context.as_str()), (want, "Question: q\nAnswer:"), "{line}");
        }
        let raw = read(json!({"context": "It is", "choices": ["red", "blue"], "answer": 0})).unwrap();
        assert_eq!(raw.context, "It is");
    }

    #[test]
    fn what_is_no_choice_is_refused() {
        for (choices, answer, word) in [
            (json!(["red", "blue"]), json!(2), "expected a number from 0 to 1"),
            (json!(["red", "blue"]), json!(-1), "expected a number from 0 to 1"),
            (json!(["red", "blue"]), json!(0.5), "expected a number from 0 to 1"),
            (json!(["red", "blue"]), json!("C"), "expected a number from 0 to 1"),
            (json!(["red", "blue"]), json!("1"), "expected a number from 0 to 1"),
            (json!(["red", "blue"]), json!(null), "expected a number from 0 to 1"),
            (json!(["B", "A"]), json!("A"), "the letter of choice 0 and the text of choice 1"),
            (json!(["red", "red"]), json!("red"), "several choices"),
            (json!(["red"]), json!(0), "two or more"),
            (json!(["red", " "]), json!(0), "choice 1 is empty"),
            (json!("red"), json!(0), "a list of texts"),
            (json!([1, 2]), json!(0), "a list of texts"),
            (json!({"text": ["a", "b"], "label": ["A"]}), json!("A"), "2 texts and 1 labels"),
            (json!({"text": ["a", "b"], "label": ["A", "B"]}), json!("C"), "one of the labels A, B"),
        ] {
            let line = json!({"question": "q", "choices": choices, "answer": answer});
            let e = read(line.clone()).unwrap_err();
            assert!(e.contains(word), "{line}: {e}");
        }
        assert!(read(json!({"choices": ["a", "b"], "answer": 0})).is_err_and(|e| e.contains("expected question")));
        let empty = json!({"question": " ", "choices": ["a", "b"], "answer": 0});
        assert!(read(empty).is_err_and(|e| e.contains("question is empty")));
    }

    #[test]
    fn the_likeliest_choice_counts_by_its_length_too() {
        let of = |texts: [&str; 2], answer| Choices {
            context: "c".into(),
            texts: texts.map(str::to_owned).to_vec(),
            answer,
        };
        let passed = |choices: Choices, logps: [f64; 2]| choices.weigh(&logps).unwrap().passed[0];
        assert_eq!(passed(of(["no", "certainly"], 0), [-4.0, -9.0]), [true, false]);
        assert_eq!(passed(of(["no", "certainly"], 1), [-4.0, -9.0]), [false, true]);
        // Two characters of two bytes each are as long as two others.
        assert_eq!(passed(of(["\u{e4}\u{e4}", "ab"], 0), [-3.0, -3.1]), [true, true]);
        assert_eq!(passed(of(["a", "b"], 0), [-1.0, -1.0]), [true, true]);
        for logps in [[f64::NAN, 0.0], [0.0, f64::NEG_INFINITY]] {
            assert!(matches!(of(["a", "b"], 0).weigh(&logps), Err(Error::NonFinite(_))));
        }
        assert!(of(["a", "b"], 0).weigh(&[0.0]).is_err());
    }
}
