//! Verdicts to be learnt of answers whose truth a program knows (EFT): what the judge is asked, and what it is to say.
//!
//! Right and wrong answers are matched in kind, in length and in whether they ended. Otherwise these alone would tell
//! most of them apart, and a model would learn to look at nothing else.

mod matching;
mod reasons;

use super::metrics::mean_se;
use super::order::{JudgedAnswer, LengthRule, ordered};
use super::signals::{Checker, Found, Signal};
use crate::data::import::{ExampleRecord, Lesson};
use crate::judge::{Checks, Mode, Taught, Templates};
use crate::rng::{Stream, fnv};
use crate::{Error, Result};
use matching::{Candidate, matched};
use reasons::Reasons;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// An answer, with what its prompt's record says about right ones.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownAnswer {
    /// The question that was asked.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// What the record of its prompt says about right answers.
    pub checks: Checks,
    /// Whether the model ended the answer itself.
    pub ended: bool,
}

/// How lessons are written.
#[derive(Clone, Copy, Debug)]
pub struct Teaching<'a> {
    /// What checks the answers.
    pub signal: Signal,
    /// The mode in which the judge is asked.
    pub mode: Mode,
    /// The judge's prompts.
    pub templates: &'a Templates,
    /// Whether a verdict of one word is followed by its reasons.
    pub reasons: bool,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// How many answers of a kind there are, and how many of them are taught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// Right answers.
    pub right: usize,
    /// Wrong answers.
    pub wrong: usize,
    /// How many right answers are taught, and as many wrong ones.
    pub taught: usize,
}

/// What length alone would tell of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ByLength {
    /// The share of all pairs of a right and a wrong answer that the rule puts in order; a half is chance.
    pub in_order: f64,
    /// The rule by length that puts most pairs in order.
    pub rule: LengthRule,
    /// Mean length of the right ones in characters.
    pub right: f64,
    /// Mean length of the wrong ones.
    pub wrong: f64,
    /// The share of the right ones that ended.
    pub right_ended: f64,
    /// The share of the wrong ones that ended.
    pub wrong_ended: f64,
}

/// How alike right and wrong answers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// The answers by the kinds of their instructions.
    pub kinds: BTreeMap<String, KindCount>,
    /// All different answers.
    pub before: ByLength,
    /// The answers that are taught.
    pub taught: ByLength,
}

/// An answer and what was found of it.
struct Judged<'a> {
    known: &'a KnownAnswer,
    kinds: Vec<&'static str>,
    share: f64,
    missed: Vec<String>,
}

impl Judged<'_> {
    fn right(&self) -> bool {
        self.missed.is_empty()
    }
}

/// Writes lessons of the answers: as many right as wrong ones, matched.
///
/// # Errors
/// The mode is none whose verdicts can be written, a record cannot be checked, which the error names by its number, a
/// template cannot be filled, or no right answer has a wrong one like it.
pub fn teach(answers: &[KnownAnswer], how: &Teaching) -> Result<(Vec<Lesson>, Balance)> {
    let taught = how.mode.taught().ok_or_else(|| {
        let known = Mode::ALL.into_iter().filter(|mode| mode.taught().is_some()).map(Mode::name);
        let known = known.collect::<Vec<_>>().join(", ");
        Error::Input(format!("verdicts of the mode {} cannot be written; those of {known} can", how.mode.name()))
    })?;
    let judged = judge(answers, how.signal)?;
    let candidates: Vec<Candidate> = judged
        .iter()
        .map(|j| Candidate {
            stratum: format!("{}\0{}", kind(j), j.known.ended),
            question: &j.known.question,
            right: j.right(),
            length: j.known.answer.chars().count(),
        })
        .collect();
    let pairs = matched(&candidates);
    if pairs.is_empty() {
        let right = judged.iter().filter(|j| j.right()).count();
        let what = format!("{right} of {} different answers are right", judged.len());
        return Err(Error::Input(format!("{what}; none of them has a wrong one of its kind and length beside it")));
    }
    let mut kinds: BTreeMap<String, KindCount> = BTreeMap::new();
    for j in &judged {
        let count = kinds.entry(kind(j)).or_default();
        *(if j.right() { &mut count.right } else { &mut count.wrong }) += 1;
    }
    pairs.iter().for_each(|[right, _]| kinds.entry(kind(&judged[*right])).or_default().taught += 1);
    let chosen: Vec<&Judged> = pairs.iter().flatten().map(|at| &judged[*at]).collect();
    let balance = Balance { kinds, before: by_length(&judged.iter().collect::<Vec<_>>()), taught: by_length(&chosen) };
    let reasons = Reasons::shipped()?;
    let mut lessons = Vec::with_capacity(chosen.len());
    for j in chosen {
        let key = fnv(format!("{}\0{}", j.known.question, j.known.answer).as_bytes());
        let why = || reasons.say(&j.kinds, &j.missed, &mut Stream::new(how.seed, key));
        let score = score(j);
        let verdict = match taught.0 {
            Taught::Word if how.reasons => format!("{}. {}", word(j), why()),
            Taught::Word => word(j).to_owned(),
            Taught::Number => format!("Score: {score}"),
            Taught::Reasons => format!("{}\nScore: {score}", why()),
        };
        let asked = (taught.1)(how.templates).fill(&j.known.question, &j.known.answer)?;
        lessons.push(Lesson { record: ExampleRecord::new(&asked, &verdict), score });
    }
    let mut order: Vec<usize> = (0..lessons.len()).collect();
    Stream::new(how.seed, 0xEF7).shuffle(&mut order);
    Ok((order.into_iter().map(|at| lessons[at].clone()).collect(), balance))
}

/// Checks every different answer.
fn judge(answers: &[KnownAnswer], signal: Signal) -> Result<Vec<Judged<'_>>> {
    let mut checkers: HashMap<&str, (&Checks, Checker)> = HashMap::new();
    let (mut seen, mut judged) = (HashSet::new(), Vec::with_capacity(answers.len()));
    for (at, known) in answers.iter().enumerate() {
        let wrong = |what| Error::Input(format!("record {}: {what}", at + 1));
        let made = signal.checker(&known.question, &known.checks).map_err(wrong)?;
        let made = made.ok_or_else(|| Error::Input(format!("the mode {} knows no truth", signal.name())))?;
        let (checks, checker) = checkers.entry(&known.question).or_insert((&known.checks, made));
        if **checks != known.checks {
            return Err(wrong("its prompt stands above with another truth; one prompt has one".into()));
        }
        if seen.insert((&known.question, &known.answer)) {
            let Found { share, missed } = checker.check(&known.answer);
            judged.push(Judged { known, kinds: checker.kinds(), share, missed });
        }
    }
    Ok(judged)
}

/// What the instructions ask for, so that answers of one kind can be compared.
fn kind(judged: &Judged) -> String {
    let mut kinds = judged.kinds.clone();
    kinds.sort_unstable();
    if kinds.is_empty() { "key".into() } else { kinds.join(" ") }
}

/// 5 for what keeps to all, less for all else.
fn score(judged: &Judged) -> usize {
    if judged.right() { 5 } else { ((5.0 * judged.share).round() as usize).min(4) }
}

fn word(judged: &Judged) -> &'static str {
    if judged.right() { "Yes" } else { "No" }
}

fn by_length(answers: &[&Judged]) -> ByLength {
    let all: Vec<JudgedAnswer> = answers
        .iter()
        .map(|j| JudgedAnswer {
            truth: f64::from(u8::from(j.right())),
            score: None,
            length: j.known.answer.chars().count(),
            ended: Some(j.known.ended),
        })
        .collect();
    let mean = |right: bool, of: &dyn Fn(&Judged) -> f64| {
        mean_se(&answers.iter().filter(|j| j.right() == right).map(|j| of(j)).collect::<Vec<_>>()).0
    };
    let length = |j: &Judged| j.known.answer.chars().count() as f64;
    let ended = |j: &Judged| f64::from(u8::from(j.known.ended));
    let order = ordered(&[all], 0).map(|o| (o.all.length.value, o.all.rule));
    let (in_order, rule) = order.unwrap_or((0.5, LengthRule::Shorter));
    ByLength {
        in_order,
        rule,
        right: mean(true, &length),
        wrong: mean(false, &length),
        right_ended: mean(true, &ended),
        wrong_ended: mean(false, &ended),
    }
}

#[cfg(test)]
mod tests;
