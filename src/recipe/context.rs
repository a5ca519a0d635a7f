//! What every stage of a round is given, and where it writes.

use super::config::RoundSettings;
use super::domain::Domain;
use super::models::Models;
use crate::Observer;
use crate::gpu::Gpu;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What every stage of a round is given.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What the loop works on.
    pub domain: &'a dyn Domain,
    /// How.
    pub settings: &'a RoundSettings,
    /// Of every random number.
    pub seed: u64,
    /// From 1.
    pub round: u32,
    /// Told what goes on.
    pub observer: &'a dyn Observer,
    /// The other models of the run.
    pub models: &'a dyn Models,
    /// Prompts that are measured on: no new prompt may be one of them, or like one.
    pub held_out: &'a [String],
}

/// What a run must have in common with its resume for the same bytes: the device, the order of its sums, the sizes of
/// waves and steps.
pub(crate) fn sizes(gpu: &Gpu, settings: &RoundSettings) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([
        ("device".to_owned(), gpu.info().name.clone().into()),
        ("kernels".to_owned(), gpu.form().name().into()),
        ("prompts.wave".to_owned(), settings.prompts.wave.into()),
        ("candidates.wave".to_owned(), settings.candidates.wave.into()),
        ("judge.wave".to_owned(), settings.judge.wave.into()),
        ("dpo.batch".to_owned(), settings.dpo.batch.into()),
    ])
}

/// Files of a round.
pub struct RoundFiles {
    /// The round's folder.
    pub dir: PathBuf,
}

impl RoundFiles {
    /// Of round `round` in run folder `run`.
    pub fn new(run: &Path, round: u32) -> Self {
        Self { dir: run.join(format!("round-{round}")) }
    }

    /// `NAME.jsonl`.
    pub fn jsonl(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }
}

/// Files, stages and keys of what a round takes from other models.
pub(crate) const ANCHORS: &str = "anchors";
pub(crate) const ANCHOR_VERDICTS: &str = "anchor-verdicts";
pub(crate) const VERDICTS_BEFORE: &str = "verdicts-before";
pub(crate) const LOGPS: &str = "logps";
pub(crate) const LOGPS_BEFORE: &str = "logps-before";
/// Verdict pairs.
pub(crate) const META_PAIRS: &str = "meta-pairs";

/// Called with a run's folder when a round, or the whole run, has ended: so that a report can follow, of which the loop
/// knows nothing.
pub type Renewed<'a> = dyn Fn(&Path, &dyn Observer) + 'a;
