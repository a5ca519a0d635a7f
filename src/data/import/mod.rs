//! Training files made from others' formats: answers to be learnt (IFT), verdicts to be learnt (EFT) and preferences.
//! All of them come from one list of questions whose answers somebody ranked or scored.

mod read;
pub mod verdicts;

pub use read::{Counts, read};

use crate::data::records::alone;
use crate::judge::Template;
use crate::rng::{Stream, fnv};
use crate::text::Message;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// An answer and what is known of its quality.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedAnswer {
    /// The words of the answer.
    pub text: String,
    /// The answer's place among those to its question; 0 is the best, and equal places are ties.
    pub rank: usize,
    /// The score from 0 to 5, where somebody gave one.
    pub score: Option<f64>,
    /// The justification of the score, where there is one.
    pub verdict: Option<String>,
}

/// A question with the answers that somebody ranked, the best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The question.
    pub prompt: String,
    /// The question's answers, at least one.
    pub answers: Vec<RankedAnswer>,
}

/// An answer to be learnt, in TRL's conversational form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleRecord {
    /// The user's message, then the assistant's.
    pub messages: Vec<Message>,
}

impl ExampleRecord {
    /// A question with its answer.
    pub fn new(asked: &str, answered: &str) -> Self {
        Self { messages: vec![Message::new("user", asked), Message::new("assistant", answered)] }
    }
}

/// A preference, in TRL's conversational form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreferenceRecord {
    /// The user's message, as a conversation.
    pub prompt: Vec<Message>,
    /// The better answer, as a conversation.
    pub chosen: Vec<Message>,
    /// The worse answer, as a conversation.
    pub rejected: Vec<Message>,
}

/// An answer with its true quality, as `judge --responses` and `eval --task judge` read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// The question that was asked.
    pub prompt: String,
    /// The answer that was given.
    pub response: String,
    /// The answer's score, where it has one; otherwise its place counted from the end, so that the worst answer has 0.
    pub score_reference: f64,
    /// Whether the answer ended by itself, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<bool>,
}

/// The best answer of each question if it is good enough, which means that it has no score or at least `min_score`.
pub fn examples(questions: &[Question], min_score: f64) -> Vec<ExampleRecord> {
    let good = |a: &&RankedAnswer| a.score.is_none_or(|s| s >= min_score);
    let best = |q: &Question| q.answers.first().filter(good).map(|a| ExampleRecord::new(&q.prompt, &a.text));
    questions.iter().filter_map(best).collect()
}

/// Preferences between the best answer and the worst one, or, with `every`, between each answer and each that is ranked
/// below it. Where both are scored, their scores must lie at least `min_gap` apart.
pub fn preferences(questions: &[Question], every: bool, min_gap: f64) -> Vec<PreferenceRecord> {
    let mut all = Vec::new();
    for q in questions {
        let apart = |a: &RankedAnswer, b: &RankedAnswer| match (a.score, b.score) {
            (Some(x), Some(y)) => x - y >= min_gap,
            _ => true,
        };
        let last = q.answers.len() - 1;
        for (i, a) in q.answers.iter().enumerate().filter(|(i, _)| every || *i == 0) {
            let below = q.answers.iter().enumerate().skip(i + 1).filter(|(j, _)| every || *j == last);
            for (_, b) in below.filter(|(_, b)| a.rank < b.rank && a.text != b.text && apart(a, b)) {
                all.push(PreferenceRecord {
                    prompt: alone("user", &q.prompt),
                    chosen: alone("assistant", &a.text),
                    rejected: alone("assistant", &b.text),
                });
            }
        }
    }
    all
}

/// Takes out a fraction `share` of the questions whose answers have at least two ranks, to measure a judge with them.
/// Which ones these are depends on the seed and the question alone, so a longer file gives up the same ones.
///
/// # Errors
/// The share is not between 0 and 1.
pub fn hold_out(questions: Vec<Question>, share: f64, seed: u64) -> Result<(Vec<Question>, Vec<ReferenceRecord>)> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::Input(format!("a share of {share} cannot be held out; expected 0 to 1")));
    }
    let chosen = |q: &Question| {
        let ranked = q.answers.iter().any(|a| a.rank > 0);
        ranked && f64::from(Stream::new(seed, fnv(q.prompt.as_bytes())).uniform()) < share
    };
    let (held, kept): (Vec<_>, Vec<_>) = questions.into_iter().partition(chosen);
    let mut records = Vec::new();
    for q in held {
        let worst = q.answers.iter().map(|a| a.rank).max().unwrap_or(0);
        for a in q.answers {
            let score_reference = a.score.unwrap_or((worst - a.rank) as f64);
            let prompt = q.prompt.clone();
            records.push(ReferenceRecord { prompt, response: a.text, score_reference, stopped: None });
        }
    }
    Ok((kept, records))
}

/// A verdict to be learnt: what the judge is asked, and what it is to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    /// The question to the judge and the verdict, as a training record.
    pub record: ExampleRecord,
    /// The score of the verdict, rounded to a whole number.
    pub score: usize,
}

/// Verdicts to be learnt from scored answers: the justification, if there is one, then `Score: k`. Answers without a
/// score give none.
///
/// # Errors
/// The template cannot be filled.
pub fn lessons(questions: &[Question], template: &Template) -> Result<Vec<Lesson>> {
    let mut all = Vec::new();
    for q in questions {
        for a in &q.answers {
            let Some(score) = a.score else { continue };
            let justification = a.verdict.as_deref().map(str::trim).filter(|v| !v.is_empty());
            all.push(lesson(template, q, a, justification, score)?);
        }
    }
    Ok(all)
}

fn lesson(template: &Template, q: &Question, a: &RankedAnswer, why: Option<&str>, score: f64) -> Result<Lesson> {
    let score = score.round().clamp(0.0, 5.0);
    let verdict = match why {
        Some(why) => format!("{why}\nScore: {score}"),
        None => format!("Score: {score}"),
    };
    let record = ExampleRecord::new(&template.fill(&q.prompt, &a.text)?, &verdict);
    Ok(Lesson { record, score: score as usize })
}

/// Drops lessons, drawn by the seed, until no score has more than a fraction `share` of those that are left. Also
/// returns how many of each score were dropped.
pub fn balance(lessons: Vec<Lesson>, share: f64, seed: u64) -> (Vec<Lesson>, [usize; 6]) {
    let mut counts = [0usize; 6];
    lessons.iter().for_each(|l| counts[l.score] += 1);
    let full = counts;
    // The largest count is lowered until it keeps to its share; then the others do too.
    while let Some(most) = (0..6).max_by_key(|s| (counts[*s], usize::MAX - s))
        && counts[most] > 1
        && counts[most] as f64 > share * counts.iter().sum::<usize>() as f64
    {
        counts[most] -= 1;
    }
    let mut order: Vec<usize> = (0..lessons.len()).collect();
    Stream::new(seed, 0xBA1A).shuffle(&mut order);
    let (mut keep, mut left) = (vec![false; lessons.len()], counts);
    for i in order {
        let room = &mut left[lessons[i].score];
        if *room > 0 {
            *room -= 1;
            keep[i] = true;
        }
    }
    let kept = lessons.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(l, _)| l).collect();
    (kept, std::array::from_fn(|s| full[s] - counts[s]))
}

#[cfg(test)]
mod tests;
