//! Reads a run folder's files into a [`Report`]. The run may be under way, so files that are not there yet are left
//! out.

use super::curves::VALIDATION;
use super::samples::samples;
use super::{Bin, Gate, Judging, Report, Round, StepNumbers, TaskResult, Training};
use crate::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord};
use crate::demo::evaluation::QuestionRecord;
use crate::demo::report as demo;
use crate::disk::{self, OnDisk};
use crate::json::{parse_jsonl, read_json, read_jsonl_if_there};
use crate::recipe::context::{ANCHOR_VERDICTS, ANCHORS, RoundFiles};
use crate::recipe::evaluation::{self, CONTROLS, CONTROLS_FOLDER, documents};
use crate::recipe::gate;
use crate::recipe::judging::calibration;
use crate::recipe::round_metrics::RoundMetrics;
use crate::recipe::run_folder::{PLAN_FILE, explain, status};
use crate::recipe::run_metrics::{self, RunMetrics};
use crate::recipe::stages::validation;
use crate::recipe::stages::validation::ValidationRecord;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Most bars of the histogram of lengths.
const LENGTH_BINS: usize = 12;
/// Width of a bar of the histogram of scores, which go from 0 to 5.
const SCORE_BIN: f64 = 0.5;

/// Reads what the run folder holds so far.
///
/// # Errors
/// `run` is not a run folder, or one of its files is broken.
pub fn read(run: &Path) -> Result<Report> {
    read_files(run).map_err(|e| explain(run, e))
}

fn read_files(run: &Path) -> Result<Report> {
    let status = status(run)?;
    let config_path = run.join("config.toml");
    let config = disk::read_to_string(&config_path).map_err(Error::io(&config_path))?;
    let table: toml::Table =
        toml::from_str(&config).map_err(|e| Error::file(&config_path, e.to_string().trim().to_owned()))?;
    let small_world = table.contains_key("demo");
    let seed = table.get("run").and_then(|section| section.get("seed")?.as_integer()).unwrap_or(0) as u64;
    let mut evaluated: Vec<(String, Vec<QuestionRecord>)> = Vec::new();
    if small_world {
        for model in &status.models {
            if let Some(records) = read_jsonl_if_there(&run.join("evaluation").join(format!("{model}.jsonl")))? {
                evaluated.push((model.clone(), records));
            }
        }
    }
    let (mut rounds, mut lengths) = (Vec::new(), Vec::new());
    for number in (1..).take_while(|n| RoundFiles::new(run, *n).dir.is_folder()) {
        let metrics = status.rounds.iter().find(|m| m.round == number).cloned();
        let (round, tokens) = round(run, number, metrics, small_world)?;
        rounds.push(round);
        lengths.push(tokens);
    }
    let longest = lengths.iter().flatten().copied().max().unwrap_or(0);
    for (round, tokens) in rounds.iter_mut().zip(&lengths) {
        round.lengths = length_bins(tokens, longest);
    }
    let plan_path = run.join(PLAN_FILE);
    Ok(Report {
        finished: status.finished,
        models: status.models,
        evaluations: demo::models(&evaluated),
        head_to_head: demo::comparisons(&evaluated),
        metrics: if small_world { RunMetrics::default() } else { run_metrics::measure(run, seed)? },
        gates: gate::records(run)?.into_iter().map(|(model, record)| Gate { model, record }).collect(),
        duels: evaluation::duels(run)?,
        judging: documents(&run.join(evaluation::FOLDER), |name| name.ends_with("-judge"))?
            .into_iter()
            .map(|(name, agreement)| Judging { model: name.trim_end_matches("-judge").to_owned(), agreement })
            .collect(),
        tasks: tasks(run)?,
        calibration: calibration(run)?,
        rounds,
        trainings: trainings(run)?,
        questions: demo::samples(&evaluated),
        stages: status.stages,
        partial: status.partial,
        plan: if plan_path.is_there() { Some(read_json(&plan_path)?) } else { None },
        config,
    })
}

/// What is there of the tasks that models do: one folder for each, of a model a document. Models come in their order,
/// behind them what has no number.
fn tasks(run: &Path) -> Result<Vec<TaskResult>> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = disk::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let folder = run.join(evaluation::FOLDER);
    let mut found: Vec<(String, u32, String)> = Vec::new();
    for set in names(&folder) {
        for name in names(&folder.join(&set)) {
            let Some(model) = name.strip_suffix(".json") else { continue };
            let number = model.strip_prefix('M').and_then(|number| number.parse().ok());
            found.push((set.clone(), number.unwrap_or(u32::MAX), model.to_owned()));
        }
    }
    found.sort();
    let read = |(set, _, model): (String, u32, String)| {
        let report = read_json(&folder.join(&set).join(format!("{model}.json")))?;
        Ok(TaskResult { set, report })
    };
    found.into_iter().map(read).collect()
}

/// A round whose bins of lengths are still empty, and the lengths that will fill them.
fn round(run: &Path, number: u32, metrics: Option<RoundMetrics>, small_world: bool) -> Result<(Round, Vec<usize>)> {
    let files = RoundFiles::new(run, number);
    let prompts: Option<Vec<PromptRecord>> = read_jsonl_if_there(&files.jsonl("prompts"))?;
    let candidates: Option<Vec<CandidateRecord>> = read_jsonl_if_there(&files.jsonl("candidates"))?;
    let verdicts: Option<Vec<VerdictRecord>> = read_jsonl_if_there(&files.jsonl("verdicts"))?;
    let anchors: Option<Vec<CandidateRecord>> = read_jsonl_if_there(&files.jsonl(ANCHORS))?;
    let of_anchors: Option<Vec<VerdictRecord>> = read_jsonl_if_there(&files.jsonl(ANCHOR_VERDICTS))?;
    let judged: Vec<VerdictRecord> = verdicts.iter().chain(&of_anchors).flatten().cloned().collect();
    let pairs: Option<Vec<PairRecord>> = read_jsonl_if_there(&files.jsonl("pairs"))?;
    let truth = pairs.as_ref().filter(|_| small_world).map(|pairs| demo::truth_of(pairs));
    let scores: Vec<f64> = verdicts.iter().flatten().filter_map(|v| v.score).collect();
    let round = Round {
        round: number,
        prompts: prompts.as_ref().map(Vec::len),
        candidates: candidates.as_ref().map(Vec::len),
        verdicts: verdicts.as_ref().map(Vec::len),
        pairs: pairs.as_ref().map(Vec::len),
        pairs_right: truth.map(|t| t.0),
        pairs_wrong: truth.map(|t| t.1),
        scores: score_bins(&scores),
        lengths: Vec::new(),
        samples: samples(
            prompts.as_deref().unwrap_or_default(),
            candidates.as_deref().unwrap_or_default(),
            anchors.as_deref().unwrap_or_default(),
            &judged,
            pairs.as_deref().unwrap_or_default(),
            small_world,
        ),
        metrics,
    };
    Ok((round, candidates.iter().flatten().map(|c| c.tokens).collect()))
}

fn score_bins(scores: &[f64]) -> Vec<Bin> {
    if scores.is_empty() {
        return Vec::new();
    }
    let mut bins: Vec<Bin> = (0..=10).map(|i| Bin { at: f64::from(i) * SCORE_BIN, count: 0 }).collect();
    let last = bins.len() - 1;
    for score in scores.iter().filter(|s| s.is_finite()) {
        // Rust's casts saturate, so a score out of its range lands in the outermost bin.
        bins[((score / SCORE_BIN).round() as usize).min(last)].count += 1;
    }
    bins
}

fn length_bins(tokens: &[usize], longest: usize) -> Vec<Bin> {
    if tokens.is_empty() {
        return Vec::new();
    }
    let widths = (0u32..).flat_map(|e| [1, 2, 5].map(|m: usize| m.saturating_mul(10usize.saturating_pow(e))));
    let width = widths.into_iter().find(|w| longest / w < LENGTH_BINS).unwrap_or(usize::MAX);
    let mut bins: Vec<Bin> =
        (0..=longest / width).map(|i| Bin { at: i.saturating_mul(width) as f64, count: 0 }).collect();
    tokens.iter().for_each(|t| bins[t / width].count += 1);
    bins
}

/// The trainings of the run: every folder with a steps.jsonl, first those that are not of a round, then the rounds,
/// then the controls.
fn trainings(run: &Path) -> Result<Vec<Training>> {
    let log = log(&run.join("log.jsonl"))?;
    let mut found: Vec<(Option<u32>, String)> = disk::read_dir(run)
        .map_err(Error::io(run))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| (name.strip_prefix("round-").and_then(|n| n.parse().ok()), name))
        .collect();
    found.sort();
    found.extend(CONTROLS.map(|control| (None, format!("{CONTROLS_FOLDER}/{}", control.name))));
    found.retain(|(_, name)| run.join(name).join("steps.jsonl").is_regular_file());
    found
        .into_iter()
        .map(|(round, name)| {
            let records: Vec<serde_json::Map<String, serde_json::Value>> =
                appended(&run.join(&name).join("steps.jsonl"))?;
            let stage = format!("{name}/training");
            let time = log.iter().find(|l| l.stage.as_ref() == Some(&stage)).and_then(LogLine::span);
            let mut steps: Vec<StepNumbers> = records.iter().filter_map(step).collect();
            let validations: Vec<ValidationRecord> = appended(&run.join(&name).join(validation::LOG))?;
            for (at, score) in validations.iter().filter_map(|v| Some((v.step, v.score?))) {
                if let Some(step) = steps.iter_mut().find(|s| s.step == at) {
                    step.values.insert(VALIDATION.to_owned(), score);
                }
            }
            Ok(Training { name, round, time, steps })
        })
        .collect()
}

/// The lines of log.jsonl that can be read. A kill may have torn the last one.
fn log(path: &Path) -> Result<Vec<LogLine>> {
    if !path.is_there() {
        return Ok(Vec::new());
    }
    let bytes = disk::read(path).map_err(Error::io(path))?;
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The fields of a line of log.jsonl that tell of stages.
#[derive(Deserialize)]
struct LogLine {
    unix_seconds: f64,
    stage: Option<String>,
    seconds: Option<f64>,
}

impl LogLine {
    fn span(&self) -> Option<[f64; 2]> {
        Some([self.unix_seconds - self.seconds?, self.unix_seconds])
    }
}

/// The records of a file to which lines are appended. It may be missing, and its last line may be torn.
fn appended<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.is_there() {
        return Ok(Vec::new());
    }
    let bytes = disk::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|e| Error::file(path, e.to_string()))?;
    parse_jsonl(path, text)
}

fn step(record: &serde_json::Map<String, serde_json::Value>) -> Option<StepNumbers> {
    let step = record.get("step")?.as_u64()?;
    let values = record.iter().filter(|(key, _)| *key != "step").flat_map(|(key, value)| match value {
        serde_json::Value::Array(list) => {
            list.iter().enumerate().filter_map(|(i, v)| Some((format!("{key}/{i}"), v.as_f64()?))).collect()
        }
        value => value.as_f64().map(|v| (key.clone(), v)).into_iter().collect::<Vec<_>>(),
    });
    Some(StepNumbers { step, values: values.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_everything_once() {
        let counts = |bins: Vec<Bin>| bins.iter().map(|b| b.count).collect::<Vec<_>>();
        assert_eq!(counts(score_bins(&[0.0, 0.2, 0.3, 5.0, 7.0, -3.0, f64::NAN])), [3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let bins = length_bins(&[0, 1, 57], 57);
        assert_eq!((bins.len(), bins[1].at, bins[11].count), (12, 5.0, 1));
        assert_eq!(counts(length_bins(&[0, 0], 0)), [2]);
        assert_eq!(length_bins(&[usize::MAX], usize::MAX).iter().map(|b| b.count).sum::<usize>(), 1);
        assert!(score_bins(&[]).is_empty() && length_bins(&[], 9).is_empty());
    }

    #[test]
    fn a_torn_line_is_left_out_and_a_broken_one_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("steps.jsonl");
        assert!(appended::<serde_json::Value>(&path).unwrap().is_empty());
        std::fs::write(&path, "{\"step\":1,\"loss\":0.5,\"group_loss\":[1.0,null]}\n{\"step\":2,\"lo").unwrap();
        let records: Vec<serde_json::Map<String, serde_json::Value>> = appended(&path).unwrap();
        let only = step(&records[0]).unwrap();
        assert_eq!((records.len(), only.step), (1, 1));
        assert_eq!(only.values.into_iter().collect::<Vec<_>>(), [("group_loss/0".into(), 1.0), ("loss".into(), 0.5)]);
        std::fs::write(&path, "{oops}\n").unwrap();
        assert!(appended::<serde_json::Value>(&path).unwrap_err().to_string().contains("steps.jsonl: line 1"));
    }
}
