//! How far a run of the demo is: the models that are measured by now.

use super::evaluation::QuestionRecord;
use super::report::{ModelReport, SampleReport, models, samples};
use super::{METRICS, evaluation_file};
use crate::Result;
use crate::disk::OnDisk;
use crate::json::read_jsonl;
use serde::Serialize;
use std::path::Path;

/// What is known of a run that may go on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The models that are measured, M1 first.
    pub models: Vec<ModelReport>,
    /// Three held-out questions with the answers of these models.
    pub samples: Vec<SampleReport>,
    /// Whether the run has ended.
    pub finished: bool,
}

/// Reads it from the run's folder, which need not be there.
///
/// # Errors
/// A file of the run is broken.
pub fn read(run: &Path) -> Result<Standing> {
    let mut measured: Vec<(String, Vec<QuestionRecord>)> = Vec::new();
    for number in 1.. {
        let file = evaluation_file(run, number);
        if !file.is_there() {
            break;
        }
        measured.push((format!("M{number}"), read_jsonl(&file)?));
    }
    let finished = run.join(METRICS).is_there();
    Ok(Standing { models: models(&measured), samples: samples(&measured), finished })
}
