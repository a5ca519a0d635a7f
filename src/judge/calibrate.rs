//! Finds out which judge mode orders answers best for a model, on a small shipped set of ranked answers.
//!
//! The mode is chosen on one half of the questions; what is reported of it comes from the other half.

use super::{Item, Judge, Mode, ModelJudge, ModelJudgeSettings, Templates, Verdict};
use crate::generate::Engine;
use crate::rng::fnv;
use crate::text::Language;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};

const SET: &str = include_str!("../../prompts/calibration.jsonl");

/// A question with its answers, the best one first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The question.
    pub question: String,
    /// The answers: a good, a middling and a bad one.
    pub answers: Vec<String>,
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
    SET.lines()
        .map(|line| serde_json::from_str(line).map_err(|e| Error::Input(format!("shipped calibration set: {e}"))))
        .collect()
}

/// Measures every mode on the whole set.
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
    run_rest(engine, language, &settings, 0, &mut Vec::new(), &mut |_| Ok(()), observer)
}

/// Measures every mode on the first `questions` of the set (0 means all), but for those in `results`, which were
/// measured before. `after` is told of each mode that is measured.
///
/// # Errors
/// Errors of the engine and of `after`. A mode that does not suit the model's vocabulary is noted as unusable; that is
/// no error.
pub fn run_rest(
    engine: &mut dyn Engine,
    language: &dyn Language,
    settings: &ModelJudgeSettings,
    questions: usize,
    results: &mut Vec<ModeResult>,
    after: &mut dyn FnMut(&ModeResult) -> Result<()>,
    observer: &dyn Observer,
) -> Result<Calibration> {
    let mut set = ranked_set()?;
    if questions > 0 {
        set.truncate(questions);
    }
    let items: Vec<Item> = set
        .iter()
        .flat_map(|r| r.answers.iter().map(|a| Item { key: fnv(a.as_bytes()), question: &r.question, answer: a }))
        .collect();
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
            Ok(verdicts) => measure(mode, &set, &verdicts),
            Err(Error::Input(why)) => {
                ModeResult { mode, choosing: 0.0, reporting: 0.0, scored: 0.0, unusable: Some(why) }
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

fn measure(mode: Mode, set: &[Ranked], verdicts: &[Verdict]) -> ModeResult {
    let mut verdicts = verdicts.iter();
    let (mut right, mut all) = ([0.0; 2], [0.0; 2]);
    let (mut scored, mut answers) = (0, 0);
    for (q, ranked) in set.iter().enumerate() {
        let scores: Vec<Option<f64>> = verdicts.by_ref().take(ranked.answers.len()).map(|v| v.score).collect();
        scored += scores.iter().flatten().count();
        answers += scores.len();
        for better in 0..scores.len() {
            for worse in better + 1..scores.len() {
                all[q % 2] += 1.0;
                right[q % 2] += match (scores[better], scores[worse]) {
                    (Some(b), Some(w)) if b > w => 1.0,
                    (Some(b), Some(w)) if b < w => 0.0,
                    _ => 0.5,
                };
            }
        }
    }
    let fraction = |half: usize| if all[half] > 0.0 { right[half] / all[half] } else { 0.0 };
    let scored = scored as f64 / answers.max(1) as f64;
    ModeResult { mode, choosing: fraction(0), reporting: fraction(1), scored, unusable: None }
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

    #[test]
    fn the_shipped_set_is_whole() {
        let set = ranked_set().unwrap();
        assert!(set.len() >= 64, "{}", set.len());
        for r in &set {
            assert_eq!(r.answers.len(), 3, "{}", r.question);
            let mut all: Vec<&String> = r.answers.iter().collect();
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
        let longer = set.iter().filter(|r| r.answers[0].len() > r.answers[2].len()).count();
        assert!(longer * 10 < set.len() * 8, "{longer} of {}", set.len());
    }

    #[test]
    fn modes_measured_before_are_not_measured_again() {
        struct Unused;
        impl Engine for Unused {
            fn generate(
                &mut self,
                _: &[crate::generate::Request],
                _: &crate::generate::Settings,
                _: &dyn Observer,
            ) -> Result<Vec<Vec<crate::generate::Output>>> {
                Err(Error::DeviceLost("scripted".into()))
            }
            fn logps(&mut self, _: &[crate::model::score::Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
                Err(Error::DeviceLost("scripted".into()))
            }
        }
        let result = |mode| ModeResult { mode, choosing: 0.9, reporting: 0.8, scored: 1.0, unusable: None };
        let mut results: Vec<ModeResult> = Mode::ALL.map(result).to_vec();
        let settings = ModelJudgeSettings::default();
        let mut told = Vec::new();
        let mut run = |results: &mut Vec<ModeResult>| {
            let mut after = |r: &ModeResult| {
                told.push(r.mode);
                Ok(())
            };
            run_rest(&mut Unused, &crate::world::text::WorldText, &settings, 2, results, &mut after, &crate::Silent)
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
        let set = vec![Ranked { question: "q".into(), answers: ["a", "b", "c"].map(str::to_owned).to_vec() }; 2];
        let verdicts = |scores: [Option<f64>; 6]| {
            scores.map(|s| s.map_or(Verdict::unscored("x"), |s| Verdict::scored(s, 0))).to_vec()
        };
        let good = [Some(3.0), Some(2.0), Some(1.0), Some(1.0), Some(2.0), None];
        let m = measure(Mode::Yes, &set, &verdicts(good));
        // All of the first question is right. In the second a < b is wrong, and the other two pairs lack a score.
        assert_eq!((m.choosing, m.reporting), (1.0, 1.0 / 3.0));
        assert!((m.scored - 5.0 / 6.0).abs() < 1e-12);
        let poor = measure(Mode::Expected, &set, &verdicts([Some(2.0); 6]));
        assert_eq!(poor.choosing, 0.5);
        let broken =
            ModeResult { mode: Mode::Marks, choosing: 0.0, reporting: 0.0, scored: 0.0, unusable: Some("no".into()) };
        let c = conclude(2, vec![poor, m, broken.clone()]);
        assert_eq!((c.recommended, c.agreement), (Some(Mode::Yes), 1.0 / 3.0));
        assert!(c.warning.is_some());
        assert_eq!(conclude(64, vec![broken]).recommended, None);
        let sure = ModeResult { mode: Mode::Yes, choosing: 0.9, reporting: 0.9, scored: 1.0, unusable: None };
        assert_eq!(conclude(64, vec![sure]).warning, None);
    }
}
