//! Rates of answers that were checked, with intervals from resampling the items, and how far apart two models are.

use super::super::metrics::mean_se;
use super::super::win_rate::{Estimate, bootstrap};
use super::{Given, Marks, Task};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A rate by one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The measure's name.
    pub measure: String,
    /// Of what the rate is: `prompt`, where all of an item must pass, or `instruction`.
    pub by: String,
    /// pass@k: how many answers to an item are drawn, of which one must pass.
    pub k: u32,
    /// The share that passed.
    #[serde(flatten)]
    pub rate: Estimate,
}

/// How far a rate lies above that of other answers to the same items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Who gave the other answers.
    pub against: String,
    /// How many items both have answered.
    pub items: usize,
    /// The measure's name.
    pub measure: String,
    /// Of what the rate is.
    pub by: String,
    /// The k of pass@k.
    pub k: u32,
    /// This rate less the other one; the resamples of both take the same items.
    #[serde(flatten)]
    pub difference: Estimate,
}

/// How the parts of one kind did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindRate {
    /// The kind's name.
    pub kind: String,
    /// How many there are.
    pub count: usize,
    /// The share that passed, by measure.
    pub passed: BTreeMap<String, f64>,
}

/// How a list of answers did in a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's name.
    pub task: String,
    /// Who gave the answers: a model or a file.
    pub name: String,
    /// How many items the task has.
    pub items: usize,
    /// How many of them have a response.
    pub answered: usize,
    /// How many have none, and are left out.
    pub unanswered: usize,
    /// How many answers an item has.
    pub samples: usize,
    /// The share of answers that the model ended itself; null where that is not known.
    pub stopped: Option<f64>,
    /// Mean words of an answer; null where nothing is written.
    pub words: Option<f64>,
    /// The rates over those with a response.
    pub rates: Vec<Rate>,
    /// The rates by kind, where the task has kinds.
    pub kinds: Vec<KindRate>,
    /// The rates less those of other answers, where there are any to compare with.
    pub differences: Vec<Difference>,
}

/// An item with what was given to it and what was found of that.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The item's number.
    pub item: usize,
    /// The number of the answer among those to the item, from 0.
    pub sample: u32,
    /// The answer.
    pub given: Given,
    /// What was found of it.
    pub marks: Marks,
}

impl Scored {
    /// Checks what was given to an item.
    ///
    /// # Errors
    /// A log-likelihood is not finite, or the item has no choices.
    pub fn new(task: &dyn Task, item: usize, sample: u32, given: Given) -> Result<Self> {
        let marks = match &given {
            Given::Answer { response, .. } => task.score(item, response),
            Given::Choice { logps } => match task.choices(item) {
                Some(choices) => choices.weigh(logps)?,
                None => return Err(Error::Input(format!("item {} of {} has no choices", item + 1, task.name()))),
            },
        };
        Ok(Self { item, sample, given, marks })
    }

    /// The line that tells of this answer, by `model` where there are several.
    pub fn record(&self, task: &dyn Task, model: Option<&str>, samples: u32) -> Value {
        let entry = task.entry(self.item);
        let mut out = Map::new();
        out.extend(entry.key.clone().map(|key| ("key".to_owned(), key)));
        out.extend(model.map(|model| ("model".to_owned(), json!(model))));
        out.insert("prompt".into(), json!(entry.prompt));
        if samples > 1 {
            out.insert("sample".into(), json!(self.sample));
        }
        match (&self.given, task.choices(self.item)) {
            (Given::Answer { response, tokens, stopped }, _) => {
                out.insert("response".into(), json!(response));
                out.extend(tokens.map(|tokens| ("tokens".to_owned(), json!(tokens))));
                out.extend(stopped.map(|stopped| ("stopped".to_owned(), json!(stopped))));
            }
            (Given::Choice { logps }, choices) => {
                let (texts, answer) = choices.map(|c| (&c.texts, c.answer)).unzip();
                out.insert("choices".into(), json!(texts));
                out.insert("answer".into(), json!(answer));
                out.insert("logps".into(), json!(logps));
            }
        }
        let kinds = task.kinds(self.item);
        for (i, measure) in task.measures().into_iter().enumerate() {
            let passed: Vec<bool> = self.marks.passed.iter().map(|passed| passed[i]).collect();
            out.insert(measure.into(), if kinds.is_empty() { json!(self.passed(i)) } else { json!(passed) });
        }
        if !kinds.is_empty() {
            out.insert("instruction_id_list".into(), json!(kinds));
        }
        out.insert("failed".into(), json!(self.marks.failed));
        Value::Object(out)
    }

    /// Whether all of it passed by a measure.
    pub fn passed(&self, measure: usize) -> bool {
        self.marks.passed.iter().all(|passed| passed[measure])
    }
}

/// What a rate counts.
#[derive(Clone, Copy)]
struct Counted {
    measure: usize,
    /// By prompt, or by its parts.
    whole: bool,
    k: u32,
}

impl Counted {
    /// All rates of a task; `k` has those of pass@k.
    fn all(task: &dyn Task, with_kinds: bool, k: &[u32]) -> Vec<Self> {
        let of = |whole, k| (0..task.measures().len()).map(move |measure| Self { measure, whole, k });
        let prompts = k.iter().flat_map(|k| of(true, *k));
        prompts.chain(of(false, 1).filter(|_| with_kinds)).collect()
    }

    /// Of the answers to an item, how much passed and how much there is.
    fn parts(self, answers: &[&Scored]) -> [f64; 2] {
        if self.whole {
            let passed = answers.iter().filter(|s| s.passed(self.measure)).count();
            return [pass_at(answers.len(), passed, self.k as usize), 1.0];
        }
        let parts = || answers.iter().flat_map(|s| &s.marks.passed);
        [parts().filter(|passed| passed[self.measure]).count() as f64, parts().count() as f64]
    }

    fn by(self) -> String {
        if self.whole { "prompt".into() } else { "instruction".into() }
    }
}

/// The chance that one of `k` answers passes, drawn from `n` of which `passed` did (arXiv 2107.03374).
fn pass_at(n: usize, passed: usize, k: usize) -> f64 {
    match k {
        1 => passed as f64 / n as f64,
        _ if n - passed < k => 1.0,
        _ => 1.0 - (n - passed + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>(),
    }
}

/// The share that passed of the items picked.
fn share(parts: &[[f64; 2]], pick: &[usize]) -> f64 {
    let sum = |part: usize| pick.iter().map(|&at| parts[at][part]).sum::<f64>();
    sum(0) / sum(1)
}

/// The answers of each item that has some, in the order of the items.
fn by_item(scored: &[Scored]) -> BTreeMap<usize, Vec<&Scored>> {
    let mut all: BTreeMap<usize, Vec<&Scored>> = BTreeMap::new();
    scored.iter().for_each(|s| all.entry(s.item).or_default().push(s));
    all
}

/// The rates of the answers that `name` gave, with intervals from resampling the items. `k` has those of pass@k, none
/// larger than an item has answers.
pub fn report(task: &dyn Task, name: &str, scored: &[Scored], k: &[u32], seed: u64) -> TaskReport {
    let items = by_item(scored);
    let counted = Counted::all(task, with_kinds(task, scored), k);
    let rates = counted.into_iter().filter_map(|counted| {
        let parts: Vec<[f64; 2]> = items.values().map(|answers| counted.parts(answers)).collect();
        let rate = bootstrap(parts.len(), seed, &|pick| share(&parts, pick))?;
        Some(Rate { measure: task.measures()[counted.measure].into(), by: counted.by(), k: counted.k, rate })
    });
    let written = scored.iter().filter_map(|s| match &s.given {
        Given::Answer { response, stopped, .. } => Some((response.split_whitespace().count() as f64, *stopped)),
        Given::Choice { .. } => None,
    });
    let (words, stopped): (Vec<f64>, Vec<Option<bool>>) = written.unzip();
    let stopped: Option<Vec<bool>> = stopped.into_iter().collect();
    TaskReport {
        task: task.name().into(),
        name: name.into(),
        items: task.len(),
        answered: items.len(),
        unanswered: task.len() - items.len(),
        samples: items.values().map(Vec::len).max().unwrap_or(0),
        stopped: stopped.filter(|stopped| !stopped.is_empty()).map(|stopped| {
            let count = stopped.iter().filter(|stopped| **stopped).count();
            count as f64 / stopped.len() as f64
        }),
        words: (!words.is_empty()).then(|| mean_se(&words).0),
        rates: rates.collect(),
        kinds: kinds(task, scored),
        differences: Vec::new(),
    }
}

/// How far the rates of `ours` lie above those of the answers `theirs`, which `against` gave, on the items that both
/// have answered.
pub fn differences(
    task: &dyn Task,
    ours: &[Scored],
    (against, theirs): (&str, &[Scored]),
    k: &[u32],
    seed: u64,
) -> Vec<Difference> {
    let (ours_by, theirs_by) = (by_item(ours), by_item(theirs));
    let pairs: Vec<_> = ours_by.iter().filter_map(|(item, a)| Some((a, theirs_by.get(item)?))).collect();
    let counted = Counted::all(task, with_kinds(task, ours), k);
    let difference = counted.into_iter().filter_map(|counted| {
        let a: Vec<[f64; 2]> = pairs.iter().map(|(a, _)| counted.parts(a)).collect();
        let b: Vec<[f64; 2]> = pairs.iter().map(|(_, b)| counted.parts(b)).collect();
        let difference = bootstrap(pairs.len(), seed, &|pick| share(&a, pick) - share(&b, pick))?;
        let measure = task.measures()[counted.measure].to_owned();
        let (by, k) = (counted.by(), counted.k);
        Some(Difference { against: against.to_owned(), items: pairs.len(), measure, by, k, difference })
    });
    difference.collect()
}

fn with_kinds(task: &dyn Task, scored: &[Scored]) -> bool {
    scored.iter().any(|s| !task.kinds(s.item).is_empty())
}

fn kinds(task: &dyn Task, scored: &[Scored]) -> Vec<KindRate> {
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for s in scored {
        for (kind, passed) in task.kinds(s.item).into_iter().zip(&s.marks.passed) {
            let count = counts.entry(kind).or_default();
            let [first, second] = passed.map(usize::from);
            *count = [count[0] + 1, count[1] + first, count[2] + second];
        }
    }
    let rate = |(kind, [count, first, second]): (&str, [usize; 3])| {
        let shares = [first, second].map(|passed| passed as f64 / count as f64);
        let passed = task.measures().into_iter().map(str::to_owned).zip(shares).collect();
        KindRate { kind: kind.to_owned(), count, passed }
    };
    counts.into_iter().map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_is_the_estimator_without_bias() {
        // 1 - C(n - c, k) / C(n, k).
        for (n, passed, k, want) in
            [(4, 1, 1, 0.25), (4, 1, 2, 0.5), (5, 2, 3, 0.9), (8, 3, 8, 1.0), (8, 0, 8, 0.0), (3, 3, 1, 1.0)]
        {
            assert!((pass_at(n, passed, k) - want).abs() < 1e-12, "{n} {passed} {k}: {}", pass_at(n, passed, k));
        }
    }

    fn task(folder: &std::path::Path) -> super::super::Exact {
        let path = folder.join("task.jsonl");
        let lines: String = (0..6).map(|i| format!("{}\n", json!({"prompt": format!("q{i}"), "answer": i}))).collect();
        std::fs::write(&path, lines).unwrap();
        super::super::Exact::open(&path).unwrap()
    }

    /// Answers of which those to the items of `right` are right in as many samples as it says.
    fn answers(task: &dyn Task, right: &[u32], n: u32) -> Vec<Scored> {
        let answer = |item: usize, sample: u32| {
            let response = if sample < right[item] { item.to_string() } else { "none".into() };
            Scored::new(task, item, sample, Given::written(response)).unwrap()
        };
        (0..right.len()).flat_map(|item| (0..n).map(move |sample| (item, sample))).map(|(i, s)| answer(i, s)).collect()
    }

    #[test]
    fn draws_and_differences_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let task = task(folder.path());
        let ours = answers(&task, &[4, 2, 1, 0, 0], 4);
        let r = report(&task, "ours", &ours, &[1, 2], 0);
        assert_eq!((r.items, r.answered, r.unanswered, r.samples, r.stopped), (6, 5, 1, 4, None));
        let of = |r: &TaskReport, k: u32| r.rates.iter().find(|x| x.measure == "strict" && x.k == k).unwrap().rate;
        assert!((of(&r, 1).value - 7.0 / 20.0).abs() < 1e-12);
        assert!((of(&r, 2).value - (1.0 + 5.0 / 6.0 + 0.5) / 5.0).abs() < 1e-12);
        // The other answers have one item less, which counts for neither.
        let theirs = answers(&task, &[4, 2, 1, 0], 4);
        let same = differences(&task, &ours, ("theirs", &theirs), &[1], 0);
        assert_eq!((same[0].items, same[0].against.as_str()), (4, "theirs"));
        assert!(same.iter().all(|d| [d.difference.value, d.difference.low, d.difference.high] == [0.0; 3]));
        let worse = answers(&task, &[3, 1, 0, 0], 4);
        let better = &differences(&task, &ours, ("worse", &worse), &[1], 0)[0].difference;
        assert!((better.value - 3.0 / 16.0).abs() < 1e-12 && better.low > 0.0 && better.high <= 0.25, "{better:?}");
    }
}
