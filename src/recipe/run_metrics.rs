//! All models of a run by the same measures, the controls among them: one list of measures, a pure function of the
//! evaluation's files.

use super::evaluation::{CONTROLS, Control, FOLDER, JudgedRecord, TextRecord};
use crate::disk::{self, OnDisk};
use crate::json::{read_json, read_jsonl_if_there, write_json};
use crate::measure::agreement::Reference;
use crate::measure::calibrate::{by_question, order};
use crate::measure::duel::DuelRecord;
use crate::measure::metrics::distinct;
use crate::measure::tasks::TaskReport;
use crate::measure::win_rate::{Estimate, bootstrap};
use crate::text::Prompt;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the file in a run folder that holds [`RunMetrics`].
pub const FILE: &str = "metrics.json";

/// What a measure counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A fraction from 0 to 1.
    Share,
    /// Tokens.
    Tokens,
    /// exp of a mean negative log-prob.
    Perplexity,
}

/// Which values of a measure are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Higher ones.
    Higher,
    /// Lower ones.
    Lower,
    /// The measure only describes.
    Neither,
}

/// The difference of a model to another one, prompt by prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The name of the other model.
    pub over: String,
    /// The difference, whose interval resamples the prompts that both answered.
    #[serde(flatten)]
    pub difference: Estimate,
}

/// One measure of all models that have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What is measured.
    pub name: String,
    /// What it counts in.
    pub unit: Unit,
    /// Which values are better.
    pub better: Better,
    /// How many prompts, questions or texts it is taken over.
    pub items: usize,
    /// The value of each model, with its interval over these.
    pub values: BTreeMap<String, Estimate>,
    /// The gain of each model over the one that the loop began with.
    pub gains: BTreeMap<String, Gain>,
}

/// All models by the same measures: a run's `metrics.json`. What was not measured is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunMetrics {
    /// The names of the measured models, the oldest first, the controls behind them.
    pub models: Vec<String>,
    /// The measures that at least one model has.
    pub measures: Vec<Measure>,
}

/// One model by one measure.
#[derive(Clone)]
struct Series {
    name: String,
    unit: Unit,
    better: Better,
    taken: Taken,
}

/// How a value was come by.
#[derive(Clone)]
enum Taken {
    /// From items, each with a sum and a weight; the value is all sums divided by all weights.
    Items(BTreeMap<String, [f64; 2]>),
    /// Elsewhere: over so many items, this value, with these differences to other models.
    Elsewhere(usize, Estimate, BTreeMap<String, Estimate>),
}

impl Series {
    /// A measure whose items weigh alike.
    fn of(name: String, unit: Unit, better: Better, items: impl Iterator<Item = (String, f64)>) -> Option<Self> {
        let items: BTreeMap<String, [f64; 2]> = items.map(|(key, value)| (key, [value, 1.0])).collect();
        (!items.is_empty()).then_some(Self { name, unit, better, taken: Taken::Items(items) })
    }

    fn count(&self) -> usize {
        match &self.taken {
            Taken::Items(items) => items.len(),
            Taken::Elsewhere(items, ..) => *items,
        }
    }

    fn value(&self, items: &[[f64; 2]], pick: &[usize]) -> f64 {
        let sum = |part: usize| pick.iter().map(|&i| items[i][part]).sum::<f64>();
        let mean = sum(0) / sum(1).max(f64::MIN_POSITIVE);
        if self.unit == Unit::Perplexity { mean.exp() } else { mean }
    }

    fn estimate(&self, seed: u64) -> Option<Estimate> {
        let items: Vec<[f64; 2]> = match &self.taken {
            Taken::Items(items) => items.values().copied().collect(),
            Taken::Elsewhere(_, value, _) => return Some(*value),
        };
        bootstrap(items.len(), seed, &|pick| self.value(&items, pick))
    }

    /// How far it lies above another model; both come with their names.
    fn gain(&self, name: &str, (over, other): (&str, &Series), seed: u64) -> Option<Estimate> {
        match (&self.taken, &other.taken) {
            (Taken::Items(own), Taken::Items(others)) => {
                let both = |of: &[f64; 2], key: &String| Some((*of, *others.get(key)?));
                let (a, b): (Vec<_>, Vec<_>) = own.iter().filter_map(|(key, of)| both(of, key)).unzip();
                bootstrap(a.len(), seed, &|pick| self.value(&a, pick) - other.value(&b, pick))
            }
            (Taken::Elsewhere(_, _, own), Taken::Elsewhere(_, _, others)) => {
                let turned = |e: &Estimate| Estimate { value: -e.value, low: -e.high, high: -e.low };
                own.get(over).copied().or_else(|| others.get(name).map(turned))
            }
            _ => None,
        }
    }
}

/// Reads what a model's files tell of it.
type Source = fn(&Path, &str) -> Result<Vec<Series>>;

/// Every file from which measures come, in the order of the table.
const SOURCES: [Source; 5] = [tasks, duels, judgment, texts, answers];

/// The tasks of `[evaluation]`, by prompt.
fn tasks(dir: &Path, model: &str) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for label in folders(dir) {
        let path = dir.join(&label).join(format!("{model}.json"));
        if !path.is_there() {
            continue;
        }
        let report: TaskReport = read_json(&path)?;
        for rate in report.rates.iter().filter(|rate| rate.by == "prompt") {
            let draws = if report.samples > 1 { format!(" pass@{}", rate.k) } else { String::new() };
            let same =
                report.differences.iter().filter(|d| (&d.measure, &d.by, d.k) == (&rate.measure, &rate.by, rate.k));
            let differences = same.map(|d| (d.against.clone(), d.difference)).collect();
            let name = format!("{label}: {}{draws}", rate.measure);
            let taken = Taken::Elsewhere(report.answered, rate.rate, differences);
            all.push(Series { name, unit: Unit::Share, better: Better::Higher, taken });
        }
        all.extend(written(&dir.join(&label).join(format!("{model}.jsonl")), &format!("{label}: "))?);
    }
    Ok(all)
}

/// The outcomes of its answers against those of the model that the loop began with.
fn duels(dir: &Path, model: &str) -> Result<Vec<Series>> {
    let records: Vec<DuelRecord> = read_jsonl_if_there(&dir.join(format!("{model}-M1.jsonl")))?.unwrap_or_default();
    let points = records.into_iter().enumerate().filter_map(|(i, r)| Some((format!("{i}"), r.outcome?.points())));
    Ok(Series::of("win rate against M1".into(), Unit::Share, Better::Higher, points).into_iter().collect())
}

/// Its own judgment on the ranked answers of `[evaluation] ranked`.
fn judgment(dir: &Path, model: &str) -> Result<Vec<Series>> {
    let records: Vec<JudgedRecord> =
        read_jsonl_if_there(&dir.join(format!("{model}-judge.jsonl")))?.unwrap_or_default();
    let mut all = Vec::new();
    let reference = |r: &JudgedRecord| Reference {
        prompt: r.prompt.clone(),
        response: r.response.clone(),
        score: r.score_reference,
        ended: None,
    };
    for ranked in by_question(records.iter().map(reference).collect()) {
        let score = |answer: &Reference| {
            records.iter().find(|r| r.prompt == answer.prompt && r.response == answer.response).and_then(|r| r.score)
        };
        let scores: Vec<Option<f64>> = ranked.answers.iter().map(score).collect();
        let question = ranked.question.clone();
        all.extend(order(&[ranked], &scores, 0).map(|o| (question, o.all.judge.value)));
    }
    let name = "as a judge: pairs in order".to_owned();
    Ok(Series::of(name, Unit::Share, Better::Higher, all.into_iter()).into_iter().collect())
}

/// How well it predicts texts of another origin.
fn texts(dir: &Path, model: &str) -> Result<Vec<Series>> {
    let records: Vec<TextRecord> = read_jsonl_if_there(&dir.join(format!("{model}-texts.jsonl")))?.unwrap_or_default();
    let scored = records.into_iter().enumerate().filter(|(_, text)| text.tokens > 0);
    let items: BTreeMap<String, [f64; 2]> =
        scored.map(|(i, text)| (format!("{i:09}"), [text.nll, text.tokens as f64])).collect();
    let name = "perplexity of other texts".to_owned();
    let (unit, better, some) = (Unit::Perplexity, Better::Lower, !items.is_empty());
    Ok(some.then_some(Series { name, unit, better, taken: Taken::Items(items) }).into_iter().collect())
}

/// Its answers to the held-out prompts.
fn answers(dir: &Path, model: &str) -> Result<Vec<Series>> {
    written(&dir.join(format!("{model}.jsonl")), "")
}

/// The fields of a written answer that are measured.
#[derive(Deserialize)]
struct Written {
    #[serde(flatten)]
    prompt: Prompt,
    response: Option<String>,
    tokens: Option<usize>,
    stopped: Option<bool>,
    /// What the harder measure of a task says: of the whole, or of each part.
    #[serde(default)]
    strict: Value,
}

impl Written {
    /// Whether it passed a task's harder measure, all of it; None where nothing says so.
    fn passed(&self) -> Option<bool> {
        match &self.strict {
            Value::Array(parts) => parts.iter().map(Value::as_bool).try_fold(true, |all, part| Some(all & part?)),
            whole => whole.as_bool(),
        }
    }
}

fn share_of(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// How many answers are right and ended, how they end, how long they are, how much they differ; `of` says in the
/// measures' names to what they answer.
fn written(path: &Path, of: &str) -> Result<Vec<Series>> {
    let records: Vec<Written> = read_jsonl_if_there(path)?.unwrap_or_default();
    let mut by_prompt: BTreeMap<String, Vec<&Written>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.response.is_some()) {
        by_prompt.entry(record.prompt.question()).or_default().push(record);
    }
    let mean = |of: fn(&Written) -> Option<f64>| {
        by_prompt.iter().filter_map(move |(prompt, answers)| {
            let values: Vec<f64> = answers.iter().filter_map(|a| of(a)).collect();
            (!values.is_empty()).then(|| (prompt.clone(), values.iter().sum::<f64>() / values.len() as f64))
        })
    };
    let different = by_prompt.iter().filter(|(_, answers)| answers.len() > 1).map(|(prompt, answers)| {
        let texts: Vec<&str> = answers.iter().filter_map(|a| a.response.as_deref()).collect();
        (prompt.clone(), distinct(&texts))
    });
    let right = mean(|a| a.stopped.zip(a.passed()).map(|(stopped, passed)| share_of(stopped && passed)));
    let ends = mean(|a| a.stopped.map(share_of));
    let (share, higher, name) = (Unit::Share, Better::Higher, |what: &str| format!("{of}{what}"));
    let rows = [
        Series::of(name("right and ended"), share, higher, right),
        Series::of(name("answers that end"), share, higher, ends),
        Series::of(name("tokens an answer"), Unit::Tokens, Better::Neither, mean(|a| Some(a.tokens? as f64))),
        Series::of(name("different answers to a prompt"), share, higher, different),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// The folders in a folder, by name.
fn folders(dir: &Path) -> Vec<String> {
    let inside = disk::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_folder());
    let mut names: Vec<String> = inside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// The models of which the evaluation has a file, in the order of the table.
fn models(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for place in folders(dir).iter().map(|label| dir.join(label)).chain([dir.to_path_buf()]) {
        let files = disk::read_dir(place).into_iter().flatten().flatten().filter(|e| e.path().is_regular_file());
        names.extend(files.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    names.retain(|name| !name.contains(".part."));
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number(name.split(['-', '.']).next()?)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let measured = |control: &Control| names.iter().any(|name| name.starts_with(control.name));
    let controls = CONTROLS.iter().filter(|control| measured(control)).map(|control| control.name.to_owned());
    numbers.into_iter().map(|n| format!("M{n}")).chain(controls).collect()
}

fn number(model: &str) -> Option<u32> {
    model.strip_prefix('M')?.parse().ok()
}

/// Compares the models that the run in the folder `run` has measured; `seed` determines the resamples.
///
/// # Errors
/// A file of the evaluation is broken.
pub fn measure(run: &Path, seed: u64) -> Result<RunMetrics> {
    let dir = run.join(FOLDER);
    let names = models(&dir);
    let (mut found, mut order) = (vec![Vec::new(); names.len()], Vec::new());
    for source in SOURCES {
        for (name, all) in names.iter().zip(&mut found) {
            for series in source(&dir, name)? {
                if !order.contains(&(series.name.clone(), series.unit, series.better)) {
                    order.push((series.name.clone(), series.unit, series.better));
                }
                all.push(series);
            }
        }
    }
    let mut measures: Vec<Measure> = Vec::new();
    for (measure, unit, better) in order {
        let of = |all: &'_ Vec<Series>| all.iter().position(|s| s.name == measure);
        let with: Vec<(&String, &Series)> =
            names.iter().zip(&found).filter_map(|(name, all)| Some((name, &all[of(all)?]))).collect();
        let items = with.iter().map(|(_, s)| s.count()).max().unwrap_or(0);
        let (values, gains) = (BTreeMap::new(), BTreeMap::new());
        let mut of = Measure { name: measure.clone(), unit, better, items, values, gains };
        for (name, series) in &with {
            of.values.extend(series.estimate(seed).map(|value| ((*name).clone(), value)));
            // The loop begins with M1, which itself was made from M0.
            let over = if *name == "M1" { "M0" } else { "M1" };
            let other = with.iter().find(|(other, _)| *other == over).filter(|_| *name != "M0");
            let gain = other.and_then(|(_, other)| series.gain(name, (over, other), seed));
            of.gains.extend(gain.map(|difference| ((*name).clone(), Gain { over: over.to_owned(), difference })));
        }
        measures.push(of);
    }
    Ok(RunMetrics { models: names, measures })
}

/// What the run in the folder `run` has written of its models; empty where that is nothing.
///
/// # Errors
/// The file is broken.
pub fn read(run: &Path) -> Result<RunMetrics> {
    let path = run.join(FILE);
    if !path.is_there() {
        return Ok(RunMetrics::default());
    }
    let value: serde_json::Value = read_json(&path)?;
    // The demo's document has the same name, and measures of its own.
    if value.get("measures").is_none() {
        return Ok(RunMetrics::default());
    }
    serde_json::from_value(value).map_err(|e| Error::file(&path, e.to_string()))
}

/// Writes a run's `metrics.json`, unless nothing is measured.
///
/// # Errors
/// A file of the evaluation is broken, or the file cannot be written.
pub fn write(run: &Path, seed: u64) -> Result<()> {
    let metrics = measure(run, seed)?;
    if metrics.measures.is_empty() { Ok(()) } else { write_json(&run.join(FILE), &metrics) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::write_jsonl;
    use crate::recipe::evaluation::AnswerRecord;

    fn answer(prompt: &str, response: &str, tokens: usize, stopped: bool) -> AnswerRecord {
        let prompt = serde_json::from_value(serde_json::json!({ "prompt": prompt })).unwrap();
        AnswerRecord { prompt, response: response.into(), tokens, stopped: Some(stopped) }
    }

    #[test]
    fn models_and_controls_stand_in_one_table() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(FOLDER);
        std::fs::create_dir(&dir).unwrap();
        let write = |model: &str, longer: usize| {
            let answers =
                ["a", "b", "c"].map(|p| answer(p, &format!("{model} {p}"), 10 + longer, p != "a" || longer == 0));
            write_jsonl(&dir.join(format!("{model}.jsonl")), &answers).unwrap();
        };
        write("M1", 4);
        write("M2", 0);
        write("random", 4);
        write("M10", 4);
        std::fs::write(dir.join("M11.part.jsonl"), "[]\n").unwrap();
        let judged = |score: f64| {
            let of = |(response, truth): (&str, f64)| JudgedRecord {
                prompt: "q".into(),
                response: response.into(),
                score_reference: truth,
                score: (truth > 0.0).then_some(score),
            };
            [("x", 2.0), ("y", 1.0), ("z", 0.0)].map(of)
        };
        write_jsonl(&dir.join("M2-judge.jsonl"), &judged(3.0)).unwrap();
        let m = measure(tmp.path(), 0).unwrap();
        assert_eq!(m.models, ["M1", "M2", "M10", "random"]);
        let names: Vec<&str> = m.measures.iter().map(|m| m.name.as_str()).collect();
        // Nobody has two answers to a prompt, and no duel was played.
        assert_eq!(names, ["as a judge: pairs in order", "answers that end", "tokens an answer"]);
        let [judging, ends, tokens] = &m.measures[..] else { panic!() };
        assert_eq!((judging.values["M2"].value, judging.values.len(), judging.gains.len()), (0.5, 1, 0));
        assert_eq!((tokens.items, tokens.values["M1"].value, tokens.values["M2"].value), (3, 14.0, 10.0));
        let gain = &tokens.gains["M2"];
        assert_eq!(
            (gain.over.as_str(), gain.difference.value, gain.difference.low, gain.difference.high),
            ("M1", -4.0, -4.0, -4.0)
        );
        assert!((ends.gains["M2"].difference.value - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(ends.gains["random"].difference.value, 0.0);
        assert!(!ends.gains.contains_key("M1"));
        // A task that a program checks, with what it knows of M1.
        let task = dir.join("keyed");
        std::fs::create_dir(&task).unwrap();
        let rate = |value: f64| {
            let of = serde_json::json!({"measure": "strict", "by": "prompt", "k": 1, "low": 0.1, "high": 0.9});
            let mut of: serde_json::Map<_, _> = serde_json::from_value(of).unwrap();
            of.insert("value".into(), value.into());
            serde_json::Value::from(of)
        };
        let of = |name: &str, value: f64, against: Option<&str>| {
            let mut rate = rate(value);
            let mut report = serde_json::json!({"task": "exact", "name": name, "items": 9, "answered": 8,
                "unanswered": 1, "samples": 1, "stopped": null, "words": null, "rates": [rate], "kinds": [],
                "differences": []});
            if let Some(against) = against {
                rate["against"] = against.into();
                rate["items"] = 8.into();
                rate["value"] = 0.25.into();
                report["differences"] = serde_json::json!([rate]);
            }
            std::fs::write(task.join(format!("{name}.json")), report.to_string()).unwrap();
        };
        of("M0", 0.5, Some("M1"));
        of("M1", 0.25, None);
        of("M2", 0.5, Some("M1"));
        let checked = |stopped: bool, strict: serde_json::Value| {
            serde_json::json!({"prompt": "p", "response": "r", "stopped": stopped, "strict": strict}).to_string()
        };
        let lines = [
            checked(true, serde_json::json!([true, true])),
            checked(true, serde_json::json!([true, false])),
            checked(false, true.into()),
            checked(true, true.into()),
        ];
        std::fs::write(task.join("M2.jsonl"), lines.join("\n")).unwrap();
        let m = measure(tmp.path(), 0).unwrap();
        assert_eq!(m.models, ["M0", "M1", "M2", "M10", "random"]);
        let first = &m.measures[0];
        assert_eq!((first.name.as_str(), first.items, first.values["M2"].value), ("keyed: strict", 8, 0.5));
        let gain = |model: &str| {
            (first.gains[model].over.as_str(), first.gains[model].difference.value, first.gains[model].difference.high)
        };
        let right = m.measures.iter().find(|m| m.name == "keyed: right and ended").unwrap();
        assert_eq!((right.values["M2"].value, right.values.len()), (0.5, 1));
        assert_eq!((gain("M2"), gain("M1")), (("M1", 0.25, 0.9), ("M0", -0.25, -0.1)));
        super::write(tmp.path(), 0).unwrap();
        let written: RunMetrics = crate::json::read_json(&tmp.path().join(FILE)).unwrap();
        assert_eq!(written, m);
    }

    #[test]
    fn what_is_not_measured_is_not_written() {
        let tmp = tempfile::tempdir().unwrap();
        write(tmp.path(), 0).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_perplexity_weighs_its_texts_by_their_tokens() {
        let series = |a: f64| Series {
            name: "p".into(),
            unit: Unit::Perplexity,
            better: Better::Lower,
            taken: Taken::Items([("a".to_owned(), [a * 3.0, 3.0]), ("b".to_owned(), [1.0, 1.0])].into()),
        };
        let value = series(2.0).estimate(0).unwrap().value;
        assert!((value - (7.0f64 / 4.0).exp()).abs() < 1e-12);
        let gain = series(1.0).gain("M2", ("M1", &series(2.0)), 0).unwrap();
        assert!((gain.value - (1f64.exp() - value)).abs() < 1e-12 && gain.high <= 0.0, "{gain:?}");
    }
}
