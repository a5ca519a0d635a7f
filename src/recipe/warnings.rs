//! What looks wrong with a run: one list of signs, by which status, log and report warn.

use super::evaluation;
use super::gate::{self, GateRecord};
use super::judging::calibration;
use super::round_metrics::RoundMetrics;
use super::run_metrics::{Better, RunMetrics};
use crate::Result;
use crate::measure::calibrate::Calibration;
use crate::measure::duel::DuelReport;
use crate::measure::order::Ordered;
use std::path::Path;

/// Fewest scores, records or steps from which a sign is read that a few could show by chance.
const ENOUGH: usize = 20;

/// A sign that something is wrong.
pub struct Sign {
    /// What it is called.
    pub name: &'static str,
    /// The value from which it warns.
    pub threshold: f64,
    seen: Seen,
}

/// Where a sign is seen, by a function that is given the threshold and says in a sentence what is wrong, if something
/// is.
enum Seen {
    Round(fn(&RoundMetrics, f64) -> Option<String>),
    /// In a round and the one before it.
    Rounds(fn([&RoundMetrics; 2], f64) -> Option<String>),
    Judge(fn(&Ordered, f64) -> Option<String>),
    /// Where a measure with these words in its name is worse by the threshold than for the model before. What that may
    /// mean stands beside it.
    Models(&'static str, &'static str),
}

/// All signs.
pub const SIGNS: [Sign; 13] = [
    Sign {
        name: "ties",
        threshold: 0.8,
        seen: Seen::Round(|m, most| {
            let what = "the judge hardly tells answers apart";
            (m.ties as f64 > m.prompts as f64 * most)
                .then(|| format!("{} of {} prompts are ties: {what}", m.ties, m.prompts))
        }),
    },
    Sign {
        name: "few scores",
        threshold: 0.5,
        seen: Seen::Round(|m, most| {
            let what = "verdicts do not parse, or too small a share of a prompt's answers votes for one";
            (m.too_few as f64 > m.prompts as f64 * most)
                .then(|| format!("{} of {} prompts have fewer than two scores: {what}", m.too_few, m.prompts))
        }),
    },
    Sign {
        name: "one score",
        threshold: 0.95,
        seen: Seen::Round(|m, most| {
            let scored: usize = m.score_histogram.iter().sum();
            let fullest = m.score_histogram.iter().copied().max().unwrap_or(0);
            // Modes that give small numbers (backward) may still tell answers apart.
            let tied = m.ties * 2 > m.prompts;
            (scored >= ENOUGH && fullest as f64 > scored as f64 * most && tied)
                .then(|| format!("{fullest} of {scored} scores round to the same number: the scale has collapsed"))
        }),
    },
    Sign {
        name: "verdicts that parse",
        threshold: 0.5,
        seen: Seen::Round(|m, least| {
            let percent = m.parse_rate * 100.0;
            let what = "another judge mode may serve better";
            (m.parse_rate < least).then(|| format!("only {percent:.0} % of the verdicts parsed; {what}"))
        }),
    },
    Sign {
        name: "different answers",
        threshold: 0.5,
        seen: Seen::Round(|m, least| {
            (m.candidates > 0 && m.distinct < least)
                .then(|| format!("responses to a prompt are mostly alike (distinct {:.2})", m.distinct))
        }),
    },
    Sign {
        name: "long chosen answers",
        threshold: 2.0,
        seen: Seen::Round(|m, most| {
            let what = "chosen answers are more than twice as long as rejected ones: consider [pairs] length_margin";
            (m.pairs > 0 && m.chosen_tokens > most * m.rejected_tokens).then(|| what.to_owned())
        }),
    },
    Sign {
        name: "short chosen answers",
        threshold: 2.0,
        seen: Seen::Round(|m, most| {
            let what = "rejected answers are more than twice as long as chosen ones: brevity may be all that is learnt";
            (m.pairs > 0 && m.rejected_tokens > most * m.chosen_tokens).then(|| what.to_owned())
        }),
    },
    Sign {
        name: "log-probs of chosen answers",
        threshold: 0.1,
        seen: Seen::Round(|m, most| {
            let fall = -m.chosen_gain?;
            let what = "the training moves away from what it should learn: raise [dpo] nll or beta, or lower lr";
            (fall > most).then(|| format!("chosen answers lost {fall:.2} nats a token in training: {what}"))
        }),
    },
    Sign {
        name: "longer answers",
        threshold: 1.5,
        seen: Seen::Rounds(|[before, now], most| {
            let [before, now] = [before, now].map(|m| m.candidate_tokens);
            let tokens = format!("answers have {now:.0} tokens on average, {before:.0} in the round before");
            (now > most * before).then(|| format!("{tokens}: consider [pairs] length_margin"))
        }),
    },
    Sign {
        name: "a judge like length",
        threshold: 0.0,
        seen: Seen::Judge(|o, least| {
            let lead = o.all.judge.value - o.all.length.value;
            (lead <= least).then(|| format!("as a judge it is no better than length: {}", o.all))
        }),
    },
    Sign { name: "a drifting judge", threshold: 0.1, seen: Seen::Models("as a judge", "the judge drifts") },
    Sign { name: "pass@k", threshold: 0.02, seen: Seen::Models("pass@", "fewer prompts are within reach") },
    Sign { name: "answers that end", threshold: 0.1, seen: Seen::Models("answers that end", "answers are cut") },
];

/// One sentence for each sign that a round shows.
pub fn of_round(m: &RoundMetrics) -> Vec<String> {
    let seen = |sign: &Sign| match sign.seen {
        Seen::Round(wrong) => wrong(m, sign.threshold),
        _ => None,
    };
    SIGNS.iter().filter_map(seen).collect()
}

/// What is known of a run.
pub struct Evidence<'a> {
    /// The finished rounds.
    pub rounds: &'a [&'a RoundMetrics],
    /// What was measured of each model as a judge, by its name.
    pub gates: &'a [(String, GateRecord)],
    /// All models by the same measures.
    pub metrics: &'a RunMetrics,
    /// How the judge's mode was chosen.
    pub calibration: Option<&'a Calibration>,
    /// The models' comparisons.
    pub duels: &'a [DuelReport],
}

/// One sentence for each sign that a run shows, with the place where it is seen.
pub fn of_run(e: &Evidence) -> Vec<String> {
    let mut all: Vec<String> =
        e.calibration.iter().filter_map(|c| c.warning.as_ref().map(|w| format!("judge: {w}"))).collect();
    let by_round = e.rounds.iter().flat_map(|m| m.warnings.iter().map(move |w| format!("round {}: {w}", m.round)));
    all.extend(by_round);
    for sign in &SIGNS {
        match sign.seen {
            Seen::Round(_) => {}
            Seen::Rounds(wrong) => {
                let of = |pair: &[&RoundMetrics]| {
                    wrong([pair[0], pair[1]], sign.threshold).map(|w| format!("round {}: {w}", pair[1].round))
                };
                all.extend(e.rounds.windows(2).filter_map(of));
            }
            Seen::Judge(wrong) => {
                let of = |(model, record): &(String, GateRecord)| {
                    wrong(record.ordered.as_ref()?, sign.threshold).map(|w| format!("{model}: {w}"))
                };
                all.extend(e.gates.iter().filter_map(of));
            }
            Seen::Models(words, hint) => all.extend(worse(e.metrics, words, sign.threshold, hint)),
        }
    }
    let duels = e.duels.iter().flat_map(|d| d.warnings.iter().map(move |w| format!("{} against {}: {w}", d.a, d.b)));
    all.extend(duels);
    all
}

/// Where a measure is worse by more than `most` than for the model before.
fn worse(metrics: &RunMetrics, words: &str, most: f64, hint: &str) -> Vec<String> {
    // Controls come after no model.
    let models: Vec<&String> = metrics.models.iter().filter(|name| name.starts_with('M')).collect();
    let mut all = Vec::new();
    for measure in metrics.measures.iter().filter(|m| m.name.contains(words)) {
        for pair in models.windows(2) {
            let [Some(before), Some(now)] = [pair[0], pair[1]].map(|model| measure.values.get(model)) else { continue };
            let fall = match measure.better {
                Better::Lower => now.value - before.value,
                Better::Higher | Better::Neither => before.value - now.value,
            };
            if fall > most {
                let [before, now] = [before.value, now.value].map(|share| share * 100.0);
                let (name, model, other) = (&measure.name, pair[1], pair[0]);
                all.push(format!("{model}: {name} {now:.0} %, {before:.0} % for {other}: {hint}"));
            }
        }
    }
    all
}

/// The sentences about the run in the folder `run`.
///
/// # Errors
/// A file is broken.
pub fn read(run: &Path, rounds: &[RoundMetrics], metrics: &RunMetrics) -> Result<Vec<String>> {
    let rounds: Vec<&RoundMetrics> = rounds.iter().collect();
    let (gates, calibration, duels) = (gate::records(run)?, calibration(run)?, evaluation::duels(run)?);
    let calibration = calibration.as_ref();
    Ok(of_run(&Evidence { rounds: &rounds, gates: &gates, metrics, calibration, duels: &duels }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::order::{JudgedAnswer, ordered};
    use crate::measure::win_rate::Estimate;
    use crate::recipe::run_metrics::{Measure, Unit};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    /// A round without a fault, but for `fault`.
    fn round(fault: Value) -> RoundMetrics {
        let mut m = json!({"round": 1, "prompts": 40, "dropped": {}, "candidates": 160, "distinct": 1.0,
            "candidate_tokens": 20.0, "stopped": 1.0, "judge": "yes", "verdicts": 160, "unscored": 0,
            "parse_rate": 1.0, "score_mean": 3.0, "score_histogram": [10, 10, 10, 10, 10, 10], "pairs": 30,
            "ties": 10, "too_few": 0, "chosen_tokens": 20.0, "rejected_tokens": 20.0, "steps": 4, "last_step": null,
            "chosen_gain": 0.1, "warnings": []});
        m.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        serde_json::from_value(m).unwrap()
    }

    #[test]
    fn every_sign_of_a_round_has_its_threshold() {
        assert_eq!(of_round(&round(json!({}))), [""; 0]);
        for (near, wrong, words) in [
            (json!({"ties": 32}), json!({"ties": 33}), "33 of 40 prompts are ties"),
            (json!({"too_few": 20}), json!({"too_few": 21}), "21 of 40 prompts have fewer than two scores"),
            (
                json!({"score_histogram": [38, 2, 0, 0, 0, 0], "ties": 21}),
                json!({"score_histogram": [39, 1, 0, 0, 0, 0], "ties": 21}),
                "39 of 40 scores",
            ),
            (json!({"parse_rate": 0.5}), json!({"parse_rate": 0.49}), "only 49 % of the verdicts parsed"),
            (json!({"distinct": 0.5}), json!({"distinct": 0.4}), "mostly alike"),
            (json!({"chosen_tokens": 40.0}), json!({"chosen_tokens": 41.0}), "chosen answers are more than twice"),
            (json!({"rejected_tokens": 40.0}), json!({"rejected_tokens": 41.0}), "rejected answers are more than"),
            (json!({"chosen_gain": -0.1}), json!({"chosen_gain": -0.11}), "lost 0.11 nats a token"),
            (json!({"chosen_gain": null}), json!({"chosen_gain": -3}), "lost 3.00 nats a token"),
        ] {
            assert_eq!(of_round(&round(near)), [""; 0], "{words}");
            let told = of_round(&round(wrong));
            assert!(told.len() == 1 && told[0].contains(words), "{words}: {told:?}");
        }
    }

    fn metrics(name: &str, better: Better, values: [f64; 4]) -> RunMetrics {
        let models = ["M1", "M2", "M3", "random"].map(str::to_owned);
        let estimate = |value| Estimate { value, low: value, high: value };
        let values = models.iter().cloned().zip(values.map(estimate)).collect();
        let (unit, gains) = (Unit::Share, BTreeMap::new());
        let measures = vec![Measure { name: name.into(), unit, better, items: 9, values, gains }];
        RunMetrics { models: models.to_vec(), measures }
    }

    fn told(rounds: &[RoundMetrics], gates: &[(String, GateRecord)], metrics: &RunMetrics) -> Vec<String> {
        let rounds: Vec<&RoundMetrics> = rounds.iter().collect();
        of_run(&Evidence { rounds: &rounds, gates, metrics, calibration: None, duels: &[] })
    }

    #[test]
    fn models_are_compared_with_those_before() {
        let of = |name: &str, values| told(&[], &[], &metrics(name, Better::Higher, values));
        // A control is no later model.
        assert_eq!(of("ifeval strict: pass@8", [0.5, 0.49, 0.6, 0.0]), [""; 0]);
        let fell = of("ifeval strict: pass@8", [0.5, 0.6, 0.55, 0.0]);
        assert_eq!(fell, ["M3: ifeval strict: pass@8 55 %, 60 % for M2: fewer prompts are within reach"]);
        assert!(of("as a judge: pairs in order", [1.0, 1.0, 0.0, 1.0])[0].ends_with("the judge drifts"));
        assert!(of("answers that end", [1.0, 0.8, 0.9, 1.0])[0].ends_with("answers are cut"));
        assert_eq!(of("anything else", [1.0, 0.0, 0.0, 0.0]), [""; 0]);
    }

    #[test]
    fn a_run_tells_of_its_rounds_and_of_its_judges() {
        let none = RunMetrics::default();
        let mut longer = round(json!({"round": 2, "candidate_tokens": 31.0}));
        longer.warnings = vec!["kept with the round".into()];
        let all = told(&[round(json!({})), longer], &[], &none);
        assert_eq!(all[0], "round 2: kept with the round");
        assert!(all[1].starts_with("round 2: answers have 31 tokens on average, 20 in"), "{all:?}");
        let judged = |score: f64| {
            let answer = |(truth, length)| JudgedAnswer { truth, score: Some(score * truth), length, ended: None };
            let ordered = ordered(&[vec![answer((1.0, 3)), answer((0.0, 3))]], 0);
            ("M1".to_owned(), GateRecord { model: "h".into(), judge: "yes".into(), ordered })
        };
        assert_eq!(told(&[], &[judged(1.0)], &none), [""; 0]);
        let alike = told(&[], &[judged(0.0)], &none);
        assert!(alike[0].starts_with("M1: as a judge it is no better than length: 50 % of 1 pairs"), "{alike:?}");
    }

    #[test]
    fn signs_have_names_of_their_own() {
        let mut names = SIGNS.map(|sign| sign.name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SIGNS.len());
        assert!(SIGNS.iter().all(|sign| sign.threshold.is_finite()));
    }
}
