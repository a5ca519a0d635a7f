//! What `demo` found, as it is printed and written.

use super::evaluation::QuestionRecord;
use crate::data::records::PairRecord;
use crate::measure::metrics;
use crate::recipe::round_metrics::RoundMetrics;
use crate::text::Message;
use crate::world::{Task, marks};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One model of the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// `M1`, `M2`, …
    pub name: String,
    /// True score (0 to 5) of its sampled answers to the held-out questions, mean.
    pub truth_mean: f64,
    /// Standard error of that over the questions.
    pub truth_se: f64,
    /// True score of its greedy answers, mean.
    pub greedy_mean: f64,
    /// Spearman correlation of its scores with the truth, on responses that are not its own.
    pub judge_spearman: Option<f64>,
    /// Kendall's tau-b of the same.
    pub judge_kendall: Option<f64>,
    /// Share of its scores that round to the true one.
    pub judge_exact: f64,
    /// Share of pairs with different truth that it orders right.
    pub judge_pairwise: Option<f64>,
    /// Share of different answers over the questions (one sample each).
    pub distinct: f64,
    /// Share of different answers among the samples of a question, mean.
    pub distinct_samples: f64,
    /// True score minus the previous model's, question by question, mean; null for the first.
    pub gain: Option<f64>,
    /// Standard error of `gain` over the questions.
    pub gain_se: Option<f64>,
}

/// Two models compared question by question (mean true score of the samples under the same sampling keys).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The later model.
    pub a: String,
    /// The earlier one.
    pub b: String,
    /// Questions on which `a` is better.
    pub win: usize,
    /// Equal.
    pub tie: usize,
    /// Questions on which `b` is better.
    pub loss: usize,
    /// Mean difference of the true scores.
    pub gain: f64,
    /// Its standard error.
    pub gain_se: f64,
}

/// A round, with what the truth says about its pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// The round's own metrics.
    #[serde(flatten)]
    pub metrics: RoundMetrics,
    /// Pairs whose chosen answer is truly better.
    pub pairs_right: usize,
    /// Pairs whose chosen answer is truly worse.
    pub pairs_wrong: usize,
}

/// A held-out question with every model's first sampled answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleReport {
    /// The question.
    pub prompt: String,
    /// The right answer.
    pub gold: String,
    /// Answers by model.
    pub answers: BTreeMap<String, String>,
    /// Their true scores by model.
    pub scores: BTreeMap<String, f64>,
}

/// Everything that two runs of one seed have in common: `metrics.json` of the run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoMetrics {
    /// Of the loop.
    pub seed: u64,
    /// `self`, `random` or `oracle`.
    pub judge: String,
    /// `dpo`, `dpo-nll` or `sft-best`.
    pub train: String,
    /// The models, M1 first.
    pub models: Vec<ModelReport>,
    /// Each model against the one before, then the last against the first.
    pub head_to_head: Vec<Comparison>,
    /// The rounds.
    pub rounds: Vec<RoundReport>,
    /// Three questions.
    pub samples: Vec<SampleReport>,
}

/// The document of `demo --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// What was found.
    #[serde(flatten)]
    pub metrics: DemoMetrics,
    /// Seconds of each round (measured by the process that played it).
    pub round_seconds: Vec<f64>,
    /// Seconds of this call.
    pub seconds: f64,
}

fn model(name: &str, records: &[QuestionRecord], before: Option<&[QuestionRecord]>) -> ModelReport {
    let truth = means(records);
    let (truth_mean, truth_se) = metrics::mean_se(&truth);
    let greedy: Vec<f64> = records.iter().map(|r| marks(&r.gold, &r.greedy).score() as f64).collect();
    let (expected, scores): (Vec<f64>, Vec<f64>) =
        records.iter().flat_map(|r| &r.judged).filter_map(|j| Some((j.truth, j.score?))).unzip();
    let exact = expected.iter().zip(&scores).filter(|(t, s)| s.round() == **t).count();
    let firsts: Vec<&str> = records.iter().filter_map(|r| r.answers.first().map(String::as_str)).collect();
    let spread: Vec<f64> = records.iter().map(|r| metrics::distinct(&r.answers)).collect();
    let gain = before.map(|b| metrics::paired_gain(&truth, &means(b)));
    ModelReport {
        name: name.to_owned(),
        truth_mean,
        truth_se,
        greedy_mean: metrics::mean_se(&greedy).0,
        judge_spearman: metrics::spearman(&expected, &scores),
        judge_kendall: metrics::kendall_tau_b(&expected, &scores),
        judge_exact: if scores.is_empty() { 0.0 } else { exact as f64 / scores.len() as f64 },
        judge_pairwise: metrics::pairwise_accuracy(&expected, &scores),
        distinct: metrics::distinct(&firsts),
        distinct_samples: metrics::mean_se(&spread).0,
        gain: gain.map(|g| g.0),
        gain_se: gain.map(|g| g.1),
    }
}

fn means(records: &[QuestionRecord]) -> Vec<f64> {
    records.iter().map(QuestionRecord::mean_truth).collect()
}

fn compare(a: (&str, &[QuestionRecord]), b: (&str, &[QuestionRecord])) -> Comparison {
    let (ta, tb) = (means(a.1), means(b.1));
    let metrics::HeadToHead { win, tie, loss } = metrics::head_to_head(&ta, &tb);
    let (gain, gain_se) = metrics::paired_gain(&ta, &tb);
    Comparison { a: a.0.to_owned(), b: b.0.to_owned(), win, tie, loss, gain, gain_se }
}

/// The models by name, each with its gain over the one before.
pub(crate) fn models(models: &[(String, Vec<QuestionRecord>)]) -> Vec<ModelReport> {
    let before = |at: usize| at.checked_sub(1).map(|b| models[b].1.as_slice());
    models.iter().enumerate().map(|(at, (name, records))| model(name, records, before(at))).collect()
}

/// Each model against the one before, then the last against the first.
pub(crate) fn comparisons(models: &[(String, Vec<QuestionRecord>)]) -> Vec<Comparison> {
    let side = |at: usize| (models[at].0.as_str(), models[at].1.as_slice());
    let mut all: Vec<Comparison> = (1..models.len()).map(|at| compare(side(at), side(at - 1))).collect();
    if models.len() > 2 {
        all.push(compare(side(models.len() - 1), side(0)));
    }
    all
}

pub(crate) fn round(metrics: RoundMetrics, pairs: &[PairRecord]) -> RoundReport {
    let (pairs_right, pairs_wrong) = truth_of(pairs);
    RoundReport { metrics, pairs_right, pairs_wrong }
}

/// Of how many pairs the chosen answer is truly better, and truly worse.
pub(crate) fn truth_of(pairs: &[PairRecord]) -> (usize, usize) {
    let score = |messages: &[Message], gold: &str| messages.first().map_or(0, |m| marks(gold, &m.content).score());
    let (mut right, mut wrong) = (0, 0);
    for pair in pairs {
        if let Some(task) = pair.prompt.first().and_then(|m| Task::parse(&m.content)) {
            let (chosen, rejected) = (score(&pair.chosen, &task.gold), score(&pair.rejected, &task.gold));
            right += usize::from(chosen > rejected);
            wrong += usize::from(chosen < rejected);
        }
    }
    (right, wrong)
}

/// The first question of each of three kinds, so that the same ones are shown in every run.
pub(crate) fn samples(models: &[(String, Vec<QuestionRecord>)]) -> Vec<SampleReport> {
    let Some((_, first)) = models.first() else { return Vec::new() };
    ["reverse", "join", "double"]
        .iter()
        .filter_map(|family| first.iter().position(|r| r.prompt.starts_with(family)))
        .map(|at| {
            let mut report = SampleReport {
                prompt: first[at].prompt.clone(),
                gold: first[at].gold.clone(),
                answers: BTreeMap::new(),
                scores: BTreeMap::new(),
            };
            for (name, records) in models {
                if let Some(answer) = records.get(at).and_then(|r| r.answers.first()) {
                    report.answers.insert(name.clone(), answer.clone());
                    report.scores.insert(name.clone(), marks(&report.gold, answer).score() as f64);
                }
            }
            report
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::evaluation::Judged;

    fn question(prompt: &str, gold: &str, answers: &[&str], judged: &[(&str, f64)]) -> QuestionRecord {
        let truth = |y: &str| marks(gold, y).score() as f64;
        QuestionRecord {
            prompt: prompt.into(),
            gold: gold.into(),
            greedy: answers[0].into(),
            answers: answers.iter().map(|s| (*s).to_owned()).collect(),
            truth: answers.iter().map(|y| truth(y)).collect(),
            judged: judged
                .iter()
                .map(|&(y, score)| Judged { answer: y.into(), truth: truth(y), score: Some(score) })
                .collect(),
        }
    }

    #[test]
    fn reports_count_what_is_there() {
        let old = [
            question("reverse: abcd", "dcba", &["abcd", "dcba"], &[("dcba", 4.8), ("abcd", 2.0)]),
            question("upper: cab", "CAB", &["cab", "cab"], &[("CAB", 3.0), ("cab", 2.2)]),
        ];
        let new = [
            question("reverse: abcd", "dcba", &["dcba", "dcba"], &[]),
            question("upper: cab", "CAB", &["cab", "cab"], &[]),
        ];
        let m1 = model("M1", &old, None);
        assert_eq!((m1.truth_mean, m1.truth_se, m1.greedy_mean), (3.0, 1.0, 2.5));
        assert_eq!((m1.judge_exact, m1.judge_spearman, m1.gain), (0.5, Some(0.7378647873726218), None));
        assert_eq!((m1.distinct, m1.distinct_samples), (1.0, 0.75));
        let m2 = model("M2", &new, Some(&old));
        assert_eq!((m2.gain, m2.gain_se, m2.judge_spearman), (Some(0.5), Some(0.5), None));
        let c = compare(("M2", &new), ("M1", &old));
        assert_eq!((c.win, c.tie, c.loss, c.gain), (1, 1, 0, 0.5));
        let s = samples(&[("M1".into(), old.to_vec()), ("M2".into(), new.to_vec())]);
        assert_eq!(s.len(), 1);
        assert_eq!((s[0].answers["M1"].as_str(), s[0].scores["M2"]), ("abcd", 5.0));
    }
}
