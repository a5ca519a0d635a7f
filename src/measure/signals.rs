//! Judges that ask no model: a program checks each answer, or the answers to a prompt vote.

use super::metrics::mean_se;
use super::tasks::{Exact, Gsm8k, IfEval, Task, exact, gsm8k};
use crate::generate::Engine;
use crate::judge::{Checks, Item, Judge, Verdict};
use crate::{Error, Observer, Result};
use fancy_regex::Regex;
use serde_json::Value;
use std::collections::HashMap;
use std::str::FromStr;

/// How answers are scored without a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// By IFEval's kinds of instruction, which the prompt's record lists: 5 times the share that an answer follows.
    Rules,
    /// By the key in the prompt's record, a number, a text or a pattern: 5 or 0.
    Key,
    /// By the share of the prompt's answers that arrive at the same (self-consistency).
    Vote,
}

/// The signals with their names.
const NAMES: [(Signal, &str); 3] = [(Signal::Rules, "rules"), (Signal::Key, "key"), (Signal::Vote, "vote")];

/// Fewest answers to a prompt that can vote.
const VOTERS: usize = 2;

/// How much of an answer's words an error shows.
const SHOWN: usize = 60;

impl Signal {
    /// All signals.
    pub const ALL: [Signal; 3] = [NAMES[0].0, NAMES[1].0, NAMES[2].0];

    /// The signal's name in configurations, records and reports.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// Whether it checks answers by what their prompt's record says.
    pub fn needs_checks(self) -> bool {
        self != Signal::Vote
    }

    /// The program that checks the answers to a prompt; `None` for a signal that needs nothing of the record.
    ///
    /// # Errors
    /// The record lacks the fields, or a field is not what it should be. The error names the field.
    pub fn checker(self, prompt: &str, checks: &Checks) -> std::result::Result<Option<Checker>, String> {
        let task: Box<dyn Task> = match self {
            Signal::Vote => return Ok(None),
            Signal::Rules => {
                if checks.instruction_id_list.is_none() {
                    return Err("has no instruction_id_list, by which the mode rules checks answers".into());
                }
                Box::new(IfEval::single(checks.record(prompt))?)
            }
            Signal::Key => match (&checks.answer, &checks.pattern) {
                (None, None) => {
                    return Err("has neither answer nor pattern, by which the mode key checks answers".into());
                }
                (Some(Value::String(key)), None) if gsm8k::is_number(key) => Box::new(Gsm8k::single(prompt, key)?),
                (Some(Value::Number(key)), None) => Box::new(Gsm8k::single(prompt, &key.to_string())?),
                _ => Box::new(Exact::single(checks.record(prompt))?),
            },
        };
        // A key asks for the right answer; the format that some benchmarks ask for beside it is no part of it.
        let measure = usize::from(self == Signal::Key);
        Ok(Some(Checker { task, measure }))
    }
}

impl FromStr for Signal {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal).ok_or_else(|| {
            let known = NAMES.map(|(_, name)| name).join(", ");
            Error::Input(format!("signal {name:?} is unknown; there are {known}"))
        })
    }
}

/// A program that checks the answers to one prompt.
pub struct Checker {
    task: Box<dyn Task>,
    measure: usize,
}

/// What a program found of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The share of the prompt's parts that the answer keeps to.
    pub share: f64,
    /// What it misses, in words; empty where it keeps to all.
    pub missed: Vec<String>,
}

impl Checker {
    /// The kinds of the prompt's parts; none where it is one thing.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.task.kinds(0)
    }

    /// Checks an answer.
    pub fn check(&self, answer: &str) -> Found {
        let marks = self.task.score(0, answer);
        let passed: Vec<f64> = marks.passed.iter().map(|part| f64::from(u8::from(part[self.measure]))).collect();
        let share = mean_se(&passed).0;
        Found { share, missed: if share < 1.0 { marks.failed } else { Vec::new() } }
    }
}

/// A judge that asks no model.
pub struct SignalJudge {
    /// How answers are scored.
    pub signal: Signal,
    /// The share of the votes from which an answer is chosen; more than a half.
    pub share: f64,
    /// What the answers vote with is this pattern's first group; without it the number that an answer arrives at, or,
    /// where no answer to the prompt has one, its last line.
    pub pattern: Option<Regex>,
}

impl SignalJudge {
    /// A judge from its settings, of which only votes have any: `pattern` is empty for none.
    ///
    /// # Errors
    /// The share leaves more than one winner; the pattern is no regular expression, or has no group.
    pub fn new(signal: Signal, share: f64, pattern: &str) -> Result<Self> {
        if !(share > 0.5 && share <= 1.0) {
            return Err(Error::Input(format!("vote_share is {share}; expected more than 0.5, and at most 1")));
        }
        let compile = |pattern: &str| exact::compile(pattern, false).map_err(Error::Input);
        let pattern = (!pattern.is_empty()).then(|| compile(pattern)).transpose()?;
        match &pattern {
            Some(p) if p.captures_len() < 2 => {
                let what = "has no group for what the answers vote with, such as in 'answer is (.+)'";
                Err(Error::Input(format!("pattern {:?} {what}", p.as_str())))
            }
            _ => Ok(Self { signal, share, pattern }),
        }
    }

    /// Scores answers, one verdict for each.
    ///
    /// # Errors
    /// A prompt's record has not what its answers are checked by, or only one answer is there to vote.
    pub fn score(&self, items: &[Item]) -> Result<Vec<Verdict>> {
        if !self.signal.needs_checks() {
            return self.vote(items);
        }
        let (none, mut last): (_, Option<((&str, &Checks), Checker)>) = (Checks::default(), None);
        let mut verdicts = Vec::with_capacity(items.len());
        for item in items {
            // Answers to one prompt mostly stand together, so its patterns are compiled once.
            let prompt = (item.question, item.checks.unwrap_or(&none));
            let checker = match last.take().filter(|(before, _)| *before == prompt) {
                Some((_, checker)) => checker,
                None => {
                    let made = self.signal.checker(prompt.0, prompt.1);
                    let wrong = |what| Error::Input(format!("the prompt {:?} {what}", begin(item.question)));
                    made.map_err(wrong)?.ok_or_else(|| Error::Bug("a signal without a checker".into()))?
                }
            };
            verdicts.push(verdict(item, &checker));
            last = Some((prompt, checker));
        }
        Ok(verdicts)
    }

    fn vote(&self, items: &[Item]) -> Result<Vec<Verdict>> {
        let mut polls: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, item) in items.iter().enumerate() {
            polls.entry(item.question).or_default().push(at);
        }
        let mut verdicts = vec![Verdict::unscored(""); items.len()];
        for (question, places) in polls {
            let all: usize = places.iter().map(|at| items[*at].count).sum();
            if all < VOTERS {
                let what = format!("has {all} answer; the mode vote needs at least {VOTERS} to a prompt");
                return Err(Error::Input(format!("the prompt {:?} {what}", begin(question))));
            }
            let votes = self.votes(&places.iter().map(|at| items[*at].answer).collect::<Vec<_>>());
            let mut counts: HashMap<&str, usize> = HashMap::new();
            for (vote, at) in votes.iter().zip(&places) {
                if let Some(vote) = vote {
                    *counts.entry(vote).or_default() += items[*at].count;
                }
            }
            let most = counts.values().copied().max().unwrap_or(0);
            let of = |count: usize| count as f64 / all as f64;
            for (vote, at) in votes.iter().zip(&places) {
                let count = vote.as_ref().map_or(0, |vote| counts[vote.as_str()]);
                verdicts[*at] = if of(most) < self.share {
                    Verdict::unscored(format!("no answer has {} of the votes; the most is {most} of {all}", self.share))
                } else {
                    let words = match vote {
                        Some(vote) => format!("{vote:?} has {count} of {all} votes"),
                        None => "nothing to vote with was found in the answer".into(),
                    };
                    Verdict { texts: vec![words], ..Verdict::scored(5.0 * of(count), 0) }
                };
            }
        }
        Ok(verdicts)
    }

    /// What each answer to a prompt votes with.
    fn votes(&self, answers: &[&str]) -> Vec<Option<String>> {
        if let Some(pattern) = &self.pattern {
            let group = |answer: &&str| {
                let found = pattern.captures(answer).ok().flatten()?;
                Some(found.get(1)?.as_str().trim().to_owned())
            };
            return answers.iter().map(group).collect();
        }
        let numbers: Vec<Option<String>> = answers.iter().map(|answer| gsm8k::number(answer)).collect();
        if numbers.iter().any(Option::is_some) {
            return numbers;
        }
        answers.iter().map(|answer| Some(exact::last_line(answer)).filter(|line| !line.is_empty())).collect()
    }
}

/// An answer that was cut keeps to nothing: what it would have ended in is not known.
fn verdict(item: &Item, checker: &Checker) -> Verdict {
    let found = checker.check(item.answer);
    let mut missed = found.missed;
    let share = if item.cut { 0.0 } else { found.share };
    if item.cut {
        missed.insert(0, "the answer was cut before it ended".into());
    }
    let words = match (missed.is_empty(), checker.kinds()) {
        (false, _) => missed.join("; "),
        (true, kinds) if kinds.is_empty() => "the answer is right".into(),
        (true, kinds) => format!("follows {}", kinds.join(", ")),
    };
    Verdict { texts: vec![words], ..Verdict::scored(5.0 * share, 0) }
}

fn begin(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl Judge for SignalJudge {
    fn name(&self) -> &str {
        self.signal.name()
    }

    fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
        self.score(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checks(record: Value) -> Checks {
        serde_json::from_value(record).unwrap()
    }

    fn judge(signal: Signal) -> SignalJudge {
        SignalJudge::new(signal, 0.7, "").unwrap()
    }

    /// The score of each answer and the words of its verdict.
    fn scores(judge: &SignalJudge, checks: &Checks, answers: &[&str]) -> Vec<(Option<f64>, String)> {
        let item = |answer: &&'static str| Item { checks: Some(checks), ..Item::new(0, "q", answer) };
        let answers: Vec<&'static str> = answers.iter().map(|a| &*a.to_string().leak()).collect();
        let verdicts = judge.score(&answers.iter().map(item).collect::<Vec<_>>()).unwrap();
        verdicts.into_iter().map(|v| (v.score, v.texts.first().cloned().unwrap_or(v.status))).collect()
    }

    #[test]
    fn names_stand_in_the_order_of_the_signals() {
        assert!(Signal::ALL.iter().all(|signal| signal.name().parse::<Signal>().unwrap() == *signal));
    }

    #[test]
    fn rules_score_by_the_share_that_is_followed_and_say_what_is_not() {
        let checks = checks(json!({
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "less than", "num_words": 4}]
        }));
        let found = scores(&judge(Signal::Rules), &checks, &["one two", "one, two", "a, b c d e", ""]);
        let text = |i: usize| found[i].1.as_str();
        assert_eq!(found.iter().map(|f| f.0.unwrap()).collect::<Vec<_>>(), [5.0, 2.5, 0.0, 0.0]);
        assert_eq!(text(0), "follows punctuation:no_comma, length_constraints:number_words");
        assert_eq!(text(1), "punctuation:no_comma: there is a comma");
        assert!(text(2).contains("; length_constraints:number_words: 5 words, wanted less than 4"), "{}", text(2));
        assert!(text(3).contains("the answer is empty"));
        let cut = Item { checks: Some(&checks), cut: true, ..Item::new(0, "q", "one two") };
        let verdict = &judge(Signal::Rules).score(&[cut]).unwrap()[0];
        assert_eq!((verdict.score, verdict.texts[0].as_str()), (Some(0.0), "the answer was cut before it ended"));
    }

    #[test]
    fn keys_are_numbers_texts_or_patterns() {
        for (record, right, wrong) in [
            (json!({"answer": "so 3 * 4 = 12\n#### 12"}), vec!["It is 12.", "#### 12"], vec!["It is 13.", "twelve"]),
            (json!({"answer": 12}), vec!["It is 12."], vec!["12 or 13", ""]),
            (json!({"answer": "1,200"}), vec!["That makes $1200"], vec!["1"]),
            (json!({"answer": 12}), vec!["It is 12...", "It is 12, or so...", "#### 12.."], vec!["..."]),
            (json!({"answer": ["Paris", "paris"]}), vec!["Paris", "It is\nParis."], vec!["Rome"]),
            (json!({"pattern": "^B\\b"}), vec!["B, the second"], vec!["A", "Bee"]),
        ] {
            let checks = checks(record);
            let all = |answers: &[&str], score| {
                scores(&judge(Signal::Key), &checks, answers).iter().all(|found| found.0 == Some(score))
            };
            assert!(all(&right, 5.0) && all(&wrong, 0.0), "{checks:?}");
        }
    }

    #[test]
    fn each_record_is_checked_by_what_it_says_itself() {
        let [twelve, thirteen] = [12, 13].map(|key| checks(json!({ "answer": key })));
        let items = [&twelve, &thirteen].map(|checks| Item { checks: Some(checks), ..Item::new(0, "q", "12") });
        let found = judge(Signal::Key).score(&items).unwrap();
        assert_eq!(found.iter().map(|v| v.score).collect::<Vec<_>>(), [Some(5.0), Some(0.0)]);
    }

    #[test]
    fn answers_vote_where_enough_of_them_agree() {
        let none = Checks::default();
        let judged = |answers: &[&str]| scores(&judge(Signal::Vote), &none, answers);
        let eight = ["12", "It is 12.", "#### 12", "12", "12", "= 12", "13", "no idea"];
        let found = judged(&eight);
        let share = |n: f64| Some(5.0 * n / 8.0);
        let score: Vec<_> = found.iter().map(|f| f.0).collect();
        assert_eq!(score, [[share(6.0); 6].as_slice(), &[share(1.0), share(0.0)]].concat());
        assert_eq!(found[6].1, "\"13\" has 1 of 8 votes");
        // The middle is dropped: 0.6 is a majority, but not one to train on.
        let found = judged(&["1", "1", "1", "2", "3"]);
        assert!(found.iter().all(|f| f.0.is_none() && f.1.contains("the most is 3 of 5")), "{found:?}");
        // Without a number the last lines vote.
        assert_eq!(
            judged(&["So:\nParis.", "paris", "It is\n*Paris*"]).iter().map(|f| f.0).collect::<Vec<_>>(),
            [Some(5.0); 3]
        );
        let found = judged(&["Paris", "Paris", "Well...\nParis"]);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Some(5.0); 3]);
        let letter = SignalJudge::new(Signal::Vote, 0.7, "answer is \\(?([A-D])").unwrap();
        let found = scores(&letter, &none, &["The answer is (B) 12", "answer is B 13", "answer is B", "answer: C"]);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Some(3.75), Some(3.75), Some(3.75), Some(0.0)]);
        // Samples with one text are one item.
        let same = [Item { count: 3, ..Item::new(0, "q", "1") }, Item::new(0, "q", "2")];
        assert_eq!(judge(Signal::Vote).score(&same).unwrap()[0].score, Some(3.75));
    }

    #[test]
    fn what_cannot_be_checked_is_named() {
        let error = |signal, record: Value| {
            let checks = checks(record);
            let item = Item { checks: Some(&checks), ..Item::new(0, "How much?", "1") };
            judge(signal).score(&[item]).unwrap_err().to_string()
        };
        for (signal, record, word) in [
            (Signal::Rules, json!({}), "has no instruction_id_list"),
            (Signal::Rules, json!({"answer": "1"}), "has no instruction_id_list"),
            (Signal::Rules, json!({"instruction_id_list": ["no_comma"], "kwargs": [{}]}), "punctuation:no_comma"),
            (Signal::Rules, json!({"instruction_id_list": ["punctuation:no_comma"]}), "kwargs"),
            (
                Signal::Rules,
                json!({"instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": 3}]}),
                "end_phrase is 3; expected a text",
            ),
            (Signal::Key, json!({}), "neither answer nor pattern"),
            (Signal::Key, json!({"answer": "about\n#### many"}), "expected a number"),
            (Signal::Key, json!({"answer": {"a": 1}}), "expected a text, a number"),
            (Signal::Vote, json!({}), "has 1 answer; the mode vote needs at least 2"),
        ] {
            let e = error(signal, record);
            assert!(e.contains("How much?") && e.contains(word), "{e}");
        }
        for (share, pattern, word) in [(0.5, "", "more than 0.5"), (0.7, "a", "no group"), (0.7, "(", "regular")] {
            let e = SignalJudge::new(Signal::Vote, share, pattern).err().unwrap().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
