//! How well a model judges: its scores for ranked answers, and which judge mode orders them best.
//!
//! The mode is chosen on one half of the questions; what is reported of it comes from the other half.

use super::agreement::Reference;
use super::order::{JudgedAnswer, Ordered, ordered};
use crate::generate::Engine;
use crate::judge::{Item, Judge, Mode, ModelJudge, ModelJudgeSettings, Templates, Verdict};
use crate::rng::fnv;
use crate::text::Language;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

const SET: &str = include_str!("../../prompts/calibration.jsonl");

/// A question with its answers, as the shipped set has them.
#[derive(Deserialize)]
struct Shipped {
    question: String,
    /// A good, a middling and a bad one.
    answers: Vec<String>,
}

/// A question with answers of known worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The question.
    pub question: String,
    /// Its answers.
    pub answers: Vec<Reference>,
}

/// How one judge mode did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeResult {
    /// The judge mode that was measured.
    pub mode: Mode,
    /// Fraction of the answer pairs that the mode orders right, on the half of the questions by which the mode is
    /// chosen. An equal or missing score counts as half right.
    pub choosing: f64,
    /// Fraction of the answer pairs that the mode orders right, on the other half of the questions.
    pub reporting: f64,
    /// Fraction of the answers that got a score.
    pub scored: f64,
    /// Why the mode cannot be used with this model; null if it can.
    pub unusable: Option<String>,
    /// The other half with intervals, beside what length alone would give; null if the mode cannot be used, and in
    /// files of older versions.
    #[serde(default)]
    pub ordered: Option<Ordered>,
}

/// The outcome of a calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// How many questions were used.
    pub questions: usize,
    /// The results of every mode that was tried.
    pub modes: Vec<ModeResult>,
    /// The mode that did best on the half by which it is chosen; null if none can be used.
    pub recommended: Option<Mode>,
    /// Fraction of the pairs that the recommended mode orders right on the reporting half.
    pub agreement: f64,
    /// What one should know before one relies on the recommended mode.
    pub warning: Option<String>,
}

/// Reads the shipped set of ranked answers.
///
/// # Errors
/// The embedded file is broken, which only a faulty build can cause.
pub fn ranked_set() -> Result<Vec<Ranked>> {
    let mut all = Vec::new();
    for line in SET.lines() {
        let shipped: Shipped =
            serde_json::from_str(line).map_err(|e| Error::Bug(format!("shipped calibration set: {e}")))?;
        let question = shipped.question;
        let with = |(rank, response)| {
            let (prompt, score) = (question.clone(), -f64::from(rank));
            Reference { prompt, response, score, ended: None }
        };
        let answers = (0u32..).zip(shipped.answers).map(with).collect();
        all.push(Ranked { question, answers });
    }
    Ok(all)
}

/// Ranked answers by their questions, in the order in which these come first.
pub fn by_question(answers: Vec<Reference>) -> Vec<Ranked> {
    let mut place: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<Ranked> = Vec::new();
    for answer in answers {
        let at = *place.entry(answer.prompt.clone()).or_insert(all.len());
        if at == all.len() {
            all.push(Ranked { question: answer.prompt.clone(), answers: Vec::new() });
        }
        all[at].answers.push(answer);
    }
    all
}

/// The half of the questions by which no mode is chosen.
pub fn reporting_half(set: &[Ranked]) -> Vec<Ranked> {
    set.iter().skip(1).step_by(2).cloned().collect()
}

/// The answers of a set, to be judged. Equal answers draw the same random numbers in every mode and model.
pub fn items(set: &[Ranked]) -> Vec<Item<'_>> {
    fn item(a: &Reference) -> Item<'_> {
        Item::new(fnv(a.response.as_bytes()), &a.prompt, &a.response)
    }
    set.iter().flat_map(|r| r.answers.iter().map(item)).collect()
}

/// How scores, one for each of the set's answers, order them. `None` if truth orders no pair.
pub fn order(set: &[Ranked], scores: &[Option<f64>], seed: u64) -> Option<Ordered> {
    let mut scores = scores.iter();
    let judged = |a: &Reference, score: Option<f64>| JudgedAnswer {
        truth: a.score,
        score,
        length: a.response.chars().count(),
        ended: a.ended,
    };
    let questions: Vec<Vec<JudgedAnswer>> =
        set.iter().map(|r| r.answers.iter().zip(scores.by_ref()).map(|(a, s)| judged(a, *s)).collect()).collect();
    ordered(&questions, seed)
}

/// Measures every mode on the whole shipped set.
///
/// # Errors
/// As [`run_rest`].
pub fn run(
    engine: &mut dyn Engine,
    language: &dyn Language,
    seed: u64,
    observer: &dyn Observer,
) -> Result<Calibration> {
    let settings = ModelJudgeSettings { seed, ..ModelJudgeSettings::default() };
    run_rest(engine, language, &settings, &ranked_set()?, &mut Vec::new(), &mut |_| Ok(()), observer)
}

/// Measures every mode on ranked answers, but for those in `results`, which were measured before. `after` is told of
/// each mode that is measured.
///
/// # Errors
/// Errors of the engine and of `after`. A mode that does not suit the model's vocabulary is noted as unusable; that is
/// no error.
pub fn run_rest(
    engine: &mut dyn Engine,
    language: &dyn Language,
    settings: &ModelJudgeSettings,
    set: &[Ranked],
    results: &mut Vec<ModeResult>,
    after: &mut dyn FnMut(&ModeResult) -> Result<()>,
    observer: &dyn Observer,
) -> Result<Calibration> {
    let items = items(set);
    observer.begin("calibration", Some(Mode::ALL.len() as u64), "modes");
    observer.advance(results.len() as u64);
    for mode in Mode::ALL {
        if results.iter().any(|r| r.mode == mode) {
            continue;
        }
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let judge = ModelJudge { mode, language, templates: Templates::default(), settings: settings.clone() };
        let result = match judge.judge(engine, &items, observer) {
            Ok(verdicts) => measure(mode, set, &verdicts, settings.seed),
            Err(Error::Input(why)) => {
                let (choosing, reporting, scored) = (0.0, 0.0, 0.0);
                ModeResult { mode, choosing, reporting, scored, unusable: Some(why), ordered: None }
            }
            Err(e) => return Err(e),
        };
        after(&result)?;
        results.push(result);
        observer.advance(1);
    }
    observer.end();
    Ok(conclude(set.len(), results.clone()))
}

fn measure(mode: Mode, set: &[Ranked], verdicts: &[Verdict], seed: u64) -> ModeResult {
    let scores: Vec<Option<f64>> = verdicts.iter().map(|v| v.score).collect();
    let (mut right, mut all) = ([0.0; 2], [0.0; 2]);
    let (mut rest, mut reported) = (&scores[..], Vec::new());
    for (q, ranked) in set.iter().enumerate() {
        let (own, others) = rest.split_at(ranked.answers.len().min(rest.len()));
        rest = others;
        if q % 2 == 1 {
            reported.extend(own);
        }
        let judged: Vec<(f64, Option<f64>)> = ranked.answers.iter().map(|a| a.score).zip(own.iter().copied()).collect();
        for (better, one) in &judged {
            for (_, other) in judged.iter().filter(|(worse, _)| worse < better) {
                all[q % 2] += 1.0;
                right[q % 2] += match (one, other) {
                    (Some(b), Some(w)) if b > w => 1.0,
                    (Some(b), Some(w)) if b < w => 0.0,
                    _ => 0.5,
                };
            }
        }
    }
    let fraction = |half: usize| if all[half] > 0.0 { right[half] / all[half] } else { 0.0 };
    let scored = scores.iter().flatten().count() as f64 / scores.len().max(1) as f64;
    let ordered = order(&reporting_half(set), &reported, seed);
    ModeResult { mode, choosing: fraction(0), reporting: fraction(1), scored, unusable: None, ordered }
}

fn conclude(questions: usize, modes: Vec<ModeResult>) -> Calibration {
    let best = modes.iter().filter(|m| m.unusable.is_none()).reduce(|a, b| if b.choosing > a.choosing { b } else { a });
    let agreement = best.map_or(0.0, |m| m.reporting);
    // Two standard errors of a fair coin that is thrown once a question, since the pairs of one question depend on one
    // another.
    let clear = 0.5 + 1.0 / ((questions / 2).max(1) as f64).sqrt();
    let warning = match best {
        None => Some("no judge mode can be used with this model".to_owned()),
        Some(m) if agreement < clear => Some(format!(
            "the best mode, {}, orders {:.0} % of the pairs right, hardly more than chance; scores may mean nothing",
            m.mode.name(),
            agreement * 100.0
        )),
        Some(_) => None,
    };
    Calibration { questions, recommended: best.map(|m| m.mode), agreement, warning, modes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::NoEngine;
    use crate::measure::order::LengthRule;

    fn sure(mode: Mode) -> ModeResult {
        ModeResult { mode, choosing: 0.9, reporting: 0.9, scored: 1.0, unusable: None, ordered: None }
    }

    #[test]
    fn answers_are_gathered_by_question() {
        let answer = |prompt: &str, response: &str| Reference {
            prompt: prompt.into(),
            response: response.into(),
            score: 0.0,
            ended: None,
        };
        let set = by_question(vec![answer("a", "1"), answer("b", "2"), answer("a", "3")]);
        let shown: Vec<(&str, usize)> = set.iter().map(|r| (r.question.as_str(), r.answers.len())).collect();
        assert_eq!(shown, [("a", 2), ("b", 1)]);
        assert_eq!(reporting_half(&set)[0].question, "b");
    }

    #[test]
    fn the_shipped_set_is_whole() {
        let set = ranked_set().unwrap();
        assert!(set.len() >= 64, "{}", set.len());
        for r in &set {
            assert_eq!(r.answers.len(), 3, "{}", r.question);
            assert!(r.answers.windows(2).all(|a| a[0].score > a[1].score), "{}", r.question);
            let mut all: Vec<&String> = r.answers.iter().map(|a| &a.response).collect();
            all.push(&r.question);
            assert!(all.iter().all(|text| !text.trim().is_empty()), "{}", r.question);
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 4, "{}", r.question);
        }
        let mut questions: Vec<&String> = set.iter().map(|r| &r.question).collect();
        questions.sort();
        questions.dedup();
        assert_eq!(questions.len(), set.len());
        // A judge that likes only length must not look good.
        let longer = set.iter().filter(|r| r.answers[0].response.len() > r.answers[2].response.len()).count();
        assert!(longer * 10 < set.len() * 8, "{longer} of {}", set.len());
    }

    #[test]
    fn modes_measured_before_are_not_measured_again() {
        let result = |mode| ModeResult { reporting: 0.8, ..sure(mode) };
        let mut results: Vec<ModeResult> = Mode::ALL.map(result).to_vec();
        let settings = ModelJudgeSettings::default();
        let mut told = Vec::new();
        let mut run = |results: &mut Vec<ModeResult>| {
            let mut after = |r: &ModeResult| {
                told.push(r.mode);
                Ok(())
            };
            let set = &ranked_set().unwrap()[..2];
            run_rest(&mut NoEngine, &crate::world::text::WorldText, &settings, set, results, &mut after, &crate::Silent)
        };
        let c = run(&mut results).unwrap();
        assert_eq!((c.modes.len(), c.recommended), (Mode::ALL.len(), Some(Mode::ALL[0])));
        // The small world's language cannot express this mode's words, so no model is asked.
        let last = results.pop().unwrap().mode;
        assert_eq!(run(&mut results).unwrap().modes.len(), Mode::ALL.len());
        assert_eq!(told, [last]);
    }

    #[test]
    fn modes_are_measured_and_one_is_chosen() {
        let answer = |(response, score): (&str, f64)| Reference {
            prompt: "q".into(),
            response: response.into(),
            score,
            ended: None,
        };
        let answers = [("long", 2.0), ("bit", 1.0), ("c", 0.0)].map(answer);
        let set = vec![Ranked { question: "q".into(), answers: answers.to_vec() }; 2];
        let verdicts = |scores: [Option<f64>; 6]| {
            scores.map(|s| s.map_or(Verdict::unscored("x"), |s| Verdict::scored(s, 0))).to_vec()
        };
        let good = [Some(3.0), Some(2.0), Some(1.0), Some(1.0), Some(2.0), None];
        let m = measure(Mode::Yes, &set, &verdicts(good), 0);
        // All of the first question is right. In the second a < b is wrong, and the other two pairs lack a score.
        assert_eq!((m.choosing, m.reporting), (1.0, 1.0 / 3.0));
        assert!((m.scored - 5.0 / 6.0).abs() < 1e-12);
        // Only the second question is reported, where length would be right.
        let ordered = m.ordered.clone().unwrap();
        assert_eq!((ordered.answers, ordered.unscored, ordered.all.by_question), (3, 1, vec![1.0 / 3.0]));
        assert_eq!((ordered.all.length.value, ordered.all.rule), (1.0, LengthRule::Longer));
        let poor = measure(Mode::Expected, &set, &verdicts([Some(2.0); 6]), 0);
        assert_eq!(poor.choosing, 0.5);
        let broken = ModeResult { choosing: 0.0, unusable: Some("no".into()), ..sure(Mode::Marks) };
        let c = conclude(2, vec![poor, m, broken.clone()]);
        assert_eq!((c.recommended, c.agreement), (Some(Mode::Yes), 1.0 / 3.0));
        assert!(c.warning.is_some());
        assert_eq!(conclude(64, vec![broken]).recommended, None);
        assert_eq!(conclude(64, vec![sure(Mode::Yes)]).warning, None);
    }
}
