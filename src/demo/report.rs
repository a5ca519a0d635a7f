//! What the demo found, in the form in which it is printed and written.

use super::evaluation::QuestionRecord;
use crate::data::records::PairRecord;
use crate::measure::metrics;
use crate::recipe::round_metrics::RoundMetrics;
use crate::text::Message;
use crate::world::{Task, marks};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How good one model of the loop is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// The model's name: `M1`, `M2`, ….
    pub name: String,
    /// Mean true score (0 to 5) of the model's sampled answers to the held-out questions.
    pub truth_mean: f64,
    /// Standard error of `truth_mean` over the questions.
    pub truth_se: f64,
    /// Mean true score of the model's greedy answers.
    pub greedy_mean: f64,
    /// Spearman's correlation of the scores that the model gives with the truth, on responses that are not its own.
    pub judge_spearman: Option<f64>,
    /// Kendall's tau-b of the scores that the model gives with the truth, on the same responses.
    pub judge_kendall: Option<f64>,
    /// Fraction of the scores that the model gives which round to the true one.
    pub judge_exact: f64,
    /// Fraction of the pairs with different truth that the model orders right.
    pub judge_pairwise: Option<f64>,
    /// Fraction of different answers over the questions, one sample of each.
    pub distinct: f64,
    /// Fraction of different answers among the samples of a question, averaged over the questions.
    pub distinct_samples: f64,
    /// Mean over the questions of the true score less that of the model before; null for the first model.
    pub gain: Option<f64>,
    /// Standard error of `gain` over the questions.
    pub gain_se: Option<f64>,
}

/// Two models compared question by question, by the mean true score of the samples under the same sampling keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the later model.
    pub a: String,
    /// Name of the earlier model.
    pub b: String,
    /// How many questions `a` answers better.
    pub win: usize,
    /// How many questions both answer equally well.
    pub tie: usize,
    /// How many questions `b` answers better.
    pub loss: usize,
    /// Mean over the questions of a's true score less b's.
    pub gain: f64,
    /// Standard error of the gain.
    pub gain_se: f64,
}

/// A round, with what the truth says about its pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// The round's own metrics.
    #[serde(flatten)]
    pub metrics: RoundMetrics,
    /// How many pairs have a chosen answer that is truly better.
    pub pairs_right: usize,
    /// How many pairs have a chosen answer that is truly worse.
    pub pairs_wrong: usize,
}

/// A held-out question with every model's first sampled answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleReport {
    /// The question that was asked.
    pub prompt: String,
    /// The right answer.
    pub gold: String,
    /// The answer of each model, by the model's name.
    pub answers: BTreeMap<String, String>,
    /// The true score of each answer, by the model's name.
    pub scores: BTreeMap<String, f64>,
}

/// Everything in which two runs with the same settings agree: the run folder's `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoMetrics {
    /// Seed of the loop.
    pub seed: u64,
    /// Who judged: `self`, `random` or `oracle`.
    pub judge: String,
    /// What was trained: `dpo`, `dpo-nll` or `sft-best`.
    pub train: String,
    /// The models, M1 first.
    pub models: Vec<ModelReport>,
    /// Each model compared with the one before, then the last with the first.
    pub head_to_head: Vec<Comparison>,
    /// The rounds that were played.
    pub rounds: Vec<RoundReport>,
    /// Three held-out questions with the models' answers.
    pub samples: Vec<SampleReport>,
}

/// The document of `demo --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// Everything that was found.
    #[serde(flatten)]
    pub metrics: DemoMetrics,
    /// Seconds that each round took, measured by the process that played it.
    pub round_seconds: Vec<f64>,
    /// Seconds that this call took.
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

/// The reports of the models, given by name, each with its gain over the one before.
pub(crate) fn models(models: &[(String, Vec<QuestionRecord>)]) -> Vec<ModelReport> {
    let before = |at: usize| at.checked_sub(1).map(|b| models[b].1.as_slice());
    models.iter().enumerate().map(|(at, (name, records))| model(name, records, before(at))).collect()
}

/// Compares each model with the one before, then the last with the first.
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

/// How many pairs have a chosen answer that is truly better, and how many one that is truly worse.
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

/// The first question of each of three kinds, so that every run shows the same ones.
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
