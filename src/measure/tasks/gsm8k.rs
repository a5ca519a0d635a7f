//! GSM8K (arXiv 2110.14168): the number at which an answer arrives, read as lm-evaluation-harness reads it.

use super::{Entry, Marks, Task, one_truth};
use crate::Result;
use crate::data::answers::read_records;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// What stands before the number in the asked format.
const MARK: &str = "#### ";

/// What a model is told beside the question that sees no worked examples, so that it knows the asked format.
const FORMAT: &str = "Work it out step by step, then write the final number after \"#### \".";

/// A task file of GSM8K.
pub struct Gsm8k {
    items: Vec<Item>,
    /// Whether 18.00 is 18, which it is not for the harness.
    by_value: bool,
}

#[derive(Deserialize)]
struct Line {
    key: Option<Value>,
    #[serde(alias = "prompt")]
    question: String,
    answer: String,
}

#[derive(Deserialize)]
#[serde(try_from = "Line")]
struct Item {
    entry: Entry,
    answer: String,
    key: String,
}

impl TryFrom<Line> for Item {
    type Error = String;

    fn try_from(line: Line) -> std::result::Result<Self, String> {
        if line.question.trim().is_empty() {
            return Err("question is empty".into());
        }
        let key = plain(line.answer.trim_end());
        if !is_plain(&key) {
            let end: String = line.answer.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect();
            return Err(format!("answer ends in {end:?}; expected a number, such as in \"#### 12\""));
        }
        Ok(Self { entry: Entry { key: line.key, prompt: line.question }, answer: line.answer, key })
    }
}

impl Gsm8k {
    /// Reads a task file: lines with `question` and `answer`, which ends in `#### N` or is the number.
    ///
    /// # Errors
    /// The file cannot be read; a line lacks a field, or its answer has no number. The error names the line. Two lines
    /// have one question and different numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let items: Vec<Item> = read_records(path)?;
        one_truth(path, items.iter().map(|item| (item.entry.prompt.as_str(), item.key.as_str())))?;
        Ok(Self { items, by_value: false })
    }

    /// The task of one question alone, whose number may be written in any way.
    ///
    /// # Errors
    /// The question is empty, or its answer has no number.
    pub fn single(question: &str, answer: &str) -> std::result::Result<Self, String> {
        let line = Line { key: None, question: question.to_owned(), answer: answer.to_owned() };
        Ok(Self { items: vec![Item::try_from(line)?], by_value: true })
    }
}

/// The number that an answer gives, in the asked format or else the last one, so that equal numbers are equal texts.
pub(crate) fn number(answer: &str) -> Option<String> {
    strict(answer).and_then(tidy).or_else(|| last(answer)).map(|number| value(&plain(number)))
}

/// Whether two texts are the same number, each written in any way.
pub(super) fn same(one: &str, other: &str) -> bool {
    let read = |text: &str| Some(plain(text)).filter(|digits| is_plain(digits)).map(|digits| value(&digits));
    read(one).is_some_and(|one| Some(one) == read(other))
}

/// Digits, which may have a sign before them and a dot among them.
fn is_plain(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.parse::<f64>().is_ok() && digits.bytes().all(|b| b == b'.' || b.is_ascii_digit())
}

/// A number without the dots of an ellipsis and the signs of a sentence around it; `None` if it has no digit.
fn tidy(number: &str) -> Option<&str> {
    let number = number.trim_end_matches(['.', ',', '$']).trim_start_matches(',');
    let number = if number.starts_with("..") { number.trim_start_matches('.') } else { number };
    number.bytes().any(|b| b.is_ascii_digit()).then_some(number)
}

/// The last number that has a digit.
fn last(answer: &str) -> Option<&str> {
    numbers(answer).filter_map(tidy).last()
}

/// A plain number without zeros that tell nothing: 0.5 of `.50`, 0 of `-0.0`.
fn value(plain: &str) -> String {
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain), |digits| ("-", digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    match (whole, part) {
        ("0", "") => whole.to_owned(),
        (_, "") => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{part}"),
    }
}

/// Whether an answer that is a key is a number, or ends in one as the keys of this task do.
pub(crate) fn is_number(key: &str) -> bool {
    let number = plain(key);
    // "inf" and "nan" can be read as numbers, and are words of an answer here.
    let digits = number.contains(|c: char| c.is_ascii_digit());
    key.contains(MARK.trim_end()) || digits && number.trim_start_matches('-').parse::<f64>().is_ok()
}

/// A number as it is compared: without what leads to it, commas, dollar signs and a dot at the end.
fn plain(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text.rfind(MARK).map_or(text.as_str(), |at| &text[at + MARK.len()..]);
    let (text, line) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
    (text.strip_suffix('.').unwrap_or(text).to_owned() + line).to_lowercase()
}

/// The number after the first mark.
fn strict(answer: &str) -> Option<&str> {
    answer.match_indices(MARK).find_map(|(at, _)| {
        let text = &answer[at + MARK.len()..];
        let sign = text.len() - text.strip_prefix('-').unwrap_or(text).len();
        let length = count(&text[sign..], "");
        (length > 0).then(|| &text[..sign + length])
    })
}

/// How many bytes at the beginning belong to a number that may hold `more` beside digits, dots and commas.
fn count(text: &str, more: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',' || more.contains(c))).unwrap_or(text.len())
}

/// What the harness takes for numbers: two or more digits, signs of money, dots and commas, or one digit.
fn numbers(answer: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(c) = answer[at..].chars().next() {
            let (begin, sign) = (at, usize::from(c == '-'));
            let rest = &answer[at + sign..];
            match count(rest, "$") {
                0 => at += c.len_utf8(),
                1 if !rest.starts_with(|c: char| c.is_ascii_digit()) => at += c.len_utf8(),
                length => {
                    at += sign + length;
                    return Some(&answer[begin..at]);
                }
            }
        }
        None
    })
}

impl Task for Gsm8k {
    fn name(&self) -> &'static str {
        "gsm8k"
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
        let key = &self.items[item].key;
        let found = match self.by_value {
            true => [strict(answer).and_then(tidy), last(answer)],
            false => [strict(answer), numbers(answer).last()],
        };
        let found = found.map(|number| number.map(plain));
        let right = |number: &String| number == key || self.by_value && value(number) == value(key);
        let passed = found.each_ref().map(|number| number.as_ref().is_some_and(right));
        let why = match &found {
            _ if passed[0] => None,
            [None, Some(last)] if passed[1] => Some(format!("the number {last} is right, but not in the form #### N")),
            [Some(number), _] | [None, Some(number)] => Some(format!("the number is {number}, wanted {key}")),
            [None, None] => Some("the answer holds no number".to_owned()),
        };
        Marks { passed: vec![passed], failed: why.into_iter().collect() }
    }

    fn ask(&self, item: usize) -> String {
        format!("{}\n\n{FORMAT}", self.items[item].entry.prompt)
    }

    fn worked(&self, item: usize) -> Option<&str> {
        Some(&self.items[item].answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(answer: &str) -> std::result::Result<Gsm8k, String> {
        let line = Line { key: None, question: "q".into(), answer: answer.into() };
        Ok(Gsm8k { items: vec![Item::try_from(line)?], by_value: false })
    }

    #[test]
    fn numbers_are_read_as_the_harness_reads_them() {
        // Verdicts of the filters strict-match and flexible-extract with the metric exact_match.
        for (key, answer, passed) in [
            ("so\n#### 1,234", "It is #### 1234", [true, true]),
            ("#### 18", "#### 18 and then 19", [true, false]),
            ("#### 18", "#### 17\n#### 18", [false, true]),
            ("#### 18", "The answer is $18.", [false, true]),
            ("#### 18", "The answer is 18.00", [false, false]),
            ("#### -5", "####-5", [false, true]),
            ("#### -5", "#### -5.", [true, true]),
            ("#### 5", "5", [false, true]),
            ("#### 5", "5 ...", [false, false]),
            ("#### 5", "#### $5", [false, true]),
            ("#### 5", "#### x", [false, false]),
            ("#### 5", "", [false, false]),
            ("#### 5", "3-5", [false, false]),
        ] {
            let marks = task(key).unwrap().score(0, answer);
            assert_eq!(marks.passed, [passed], "{key} {answer}");
            assert_eq!(marks.failed.is_empty(), passed[0], "{:?}", marks.failed);
        }
    }

    #[test]
    fn a_number_alone_may_be_written_in_any_way() {
        for (key, answer, right) in [
            ("5", "5.0", true),
            ("5", "It is 5...", true),
            ("5", "5, I think...", true),
            ("5", "...5", true),
            ("5 ", "5", true),
            ("7.5", "It costs $7.50", true),
            ("0.5", ".5", true),
            ("0", "-0", true),
            ("1000", "#### 1,000.00", true),
            ("-5", "5", false),
            ("50", "5", false),
            ("0.05", "0.5", false),
        ] {
            let marks = Gsm8k::single("q", key).unwrap().score(0, answer);
            assert_eq!(marks.passed[0][1], right, "{key} {answer}");
            assert_eq!(number(answer) == number(key), right, "{key} {answer}");
        }
    }

    #[test]
    fn a_key_without_a_number_is_refused() {
        for answer in
            ["", "#### many", "#### ", "a long way\n#### -", "#### inf", "#### NaN", "#### 1e999", "#### 1.2.3"]
        {
            assert!(task(answer).is_err_and(|e| e.contains("expected a number")), "{answer}");
        }
        assert!(["-5", "1,000.", "$7.50", "so\n#### 3"].iter().all(|key| is_number(key)));
        assert!(["inf", "NaN", "-infinity", "five", ""].iter().all(|key| !is_number(key)));
    }
}
