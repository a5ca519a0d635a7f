//! The report of a run: what its folder holds, as one page, as tables, and in the forms that experiment trackers read.
//!
//! `gather` reads the folder into a [`Report`]; everything else is a pure function of that. `curves` and `tables` are
//! the lists that the page, the terminal and the document of `report --json` share. `plot` turns numbers into geometry,
//! which the template draws as SVG. `trackers` writes TensorBoard's event files and flat JSONL.

pub mod curves;
mod gather;
mod page;
mod plot;
pub mod roofline;
pub mod samples;
pub mod tables;
pub mod trackers;

pub use gather::read;
pub use page::html;

use crate::demo::report::{Comparison, ModelReport, SampleReport};
use crate::measure::agreement::Agreement;
use crate::measure::calibrate::Calibration;
use crate::measure::duel::DuelReport;
use crate::measure::tasks::TaskReport;
use crate::recipe::gate::GateRecord;
use crate::recipe::round_metrics::RoundMetrics;
use crate::recipe::run_folder::{Conditions, StageState};
use crate::recipe::run_metrics::RunMetrics;
use crate::recipe::warnings::{Evidence, of_run};
use crate::{Observer, Result};
use samples::Sample;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the report's file in a run folder.
pub const FILE: &str = "report.html";

/// Everything that a report says, which is the document of `report --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Whether the run has ended.
    pub finished: bool,
    /// Names of the finished models, the oldest first.
    pub models: Vec<String>,
    /// All models and controls by the same measures, as `[evaluation]` says; empty where nothing was measured.
    pub metrics: RunMetrics,
    /// What was measured of each model as a judge before its round.
    pub gates: Vec<Gate>,
    /// The models' true scores by the exact scorer of the small world; empty elsewhere.
    pub evaluations: Vec<ModelReport>,
    /// The models compared with one another by the exact scorer.
    pub head_to_head: Vec<Comparison>,
    /// The models compared with one another as `[evaluation]` says.
    pub duels: Vec<DuelReport>,
    /// Each model as a judge of ranked answers, as `[evaluation]` says.
    pub judging: Vec<Judging>,
    /// How each model did in the tasks of `[evaluation]`.
    pub tasks: Vec<TaskResult>,
    /// How the judge mode was chosen, if it was calibrated.
    pub calibration: Option<Calibration>,
    /// The rounds that have begun.
    pub rounds: Vec<Round>,
    /// The trainings that have begun, in their order.
    pub trainings: Vec<Training>,
    /// Held-out questions with every model's answer, in the small world; empty elsewhere.
    pub questions: Vec<SampleReport>,
    /// The finished stages with their times.
    pub stages: Vec<StageState>,
    /// The stages that have begun and not finished, with the number of waves that each has finished.
    pub partial: BTreeMap<String, usize>,
    /// The plan of the run: versions, sizes and choices.
    pub plan: Option<Conditions>,
    /// The text of the run's `config.toml`.
    pub config: String,
}

/// A model as the judge of its round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// The name of the model, such as M1.
    pub model: String,
    /// What was measured.
    pub record: GateRecord,
}

/// One model as a judge of ranked answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judging {
    /// The name of the model, such as M1.
    pub model: String,
    /// How the model's scores agree with the reference.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// How one model did in a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The name of the task's items, which is that of their file where no other is given.
    pub set: String,
    /// The model and its rates.
    #[serde(flatten)]
    pub report: TaskReport,
}

/// A round, finished or not. Counts are null where the stage that makes them has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Number of the round, from 1.
    pub round: u32,
    /// The round's metrics.json, once the round is over.
    pub metrics: Option<RoundMetrics>,
    /// How many new prompts there are.
    pub prompts: Option<usize>,
    /// How many responses there are.
    pub candidates: Option<usize>,
    /// How many different responses were judged.
    pub verdicts: Option<usize>,
    /// How many preferences there are.
    pub pairs: Option<usize>,
    /// How many pairs have a chosen answer that is truly better, in the small world.
    pub pairs_right: Option<usize>,
    /// How many pairs have a chosen answer that is truly worse, in the small world.
    pub pairs_wrong: Option<usize>,
    /// How many verdicts have each score, to the nearest half.
    pub scores: Vec<Bin>,
    /// How many responses have which length in tokens; every round has the same bins.
    pub lengths: Vec<Bin>,
    /// Some prompts with their best and worst answers.
    pub samples: Vec<Sample>,
}

/// A bar of a histogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The smallest value in the bin (lengths), or the value in its middle (scores).
    pub at: f64,
    /// How many values fall into the bin.
    pub count: usize,
}

/// A training and its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The name of the folder that holds its steps.jsonl, such as `round-1`.
    pub name: String,
    /// The round to which the training belongs, if it belongs to one.
    pub round: Option<u32>,
    /// When the training began and ended, in Unix seconds by log.jsonl.
    pub time: Option<[f64; 2]>,
    /// The optimiser steps that were taken.
    pub steps: Vec<StepNumbers>,
}

/// The numbers of an optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepNumbers {
    /// Number of the step, from 1.
    pub step: u64,
    /// Every finite number of the step's record by its key; a list becomes `key/0`, `key/1`, ….
    pub values: BTreeMap<String, f64>,
}

impl Report {
    /// How many seconds the finished stages took.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|s| s.seconds).sum()
    }

    /// One sentence for each thing that looks wrong, with the place where it was seen.
    pub fn warnings(&self) -> Vec<String> {
        let rounds: Vec<&RoundMetrics> = self.rounds.iter().filter_map(|r| r.metrics.as_ref()).collect();
        let gates: Vec<(String, GateRecord)> = self.gates.iter().map(|g| (g.model.clone(), g.record.clone())).collect();
        let (metrics, calibration) = (&self.metrics, self.calibration.as_ref());
        of_run(&Evidence { rounds: &rounds, gates: &gates, metrics, calibration, duels: &self.duels })
    }
}

/// Reads a run folder and writes its report.html; returns that file's path.
///
/// # Errors
/// `run` is not a run folder, one of its files is broken, or the report cannot be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    let path = run.join(FILE);
    crate::json::write_file(&path, html(&read(run)?)?.as_bytes())?;
    Ok(path)
}

/// Does what [`write()`] does for a run in progress. The run is worth more than its report, so a failure is only told.
pub fn refresh(run: &Path, observer: &dyn Observer) {
    if let Err(e) = write(run) {
        observer.note(&format!("the report could not be written: {e}"));
    }
}
