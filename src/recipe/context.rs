//! What every stage of a round is given, and where it writes.

use super::domain::Domain;
use super::models::Models;
use crate::Observer;
use crate::config::RoundSettings;
use crate::gpu::Gpu;
use crate::measure::held_out::HeldOut;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What every stage of a round is given.
#[derive(Clone, Copy)]
pub struct RoundContext<'a> {
    /// The domain on which the loop works.
    pub domain: &'a dyn Domain,
    /// The settings of all stages of the round.
    pub settings: &'a RoundSettings,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// Number of the round, from 1.
    pub round: u32,
    /// Observer that is told what goes on.
    pub observer: &'a dyn Observer,
    /// The other models of the run.
    pub models: &'a dyn Models,
    /// Prompts that are measured on. No new prompt may be one of them, or be like one.
    pub held_out: &'a [HeldOut],
}

/// What a run and its resume must have in common to give the same bytes: the device, the order of its sums, and the
/// sizes of waves and steps.
pub(crate) fn sizes(gpu: &Gpu, settings: &RoundSettings) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([
        ("device".to_owned(), gpu.info().name.clone().into()),
        ("kernels".to_owned(), gpu.form().name().into()),
        ("prompts.wave".to_owned(), settings.prompts.wave.into()),
        ("candidates.wave".to_owned(), settings.candidates.wave.into()),
        ("judge.wave".to_owned(), settings.judge.wave.into()),
        ("dpo.batch".to_owned(), settings.dpo.training.batch.into()),
    ])
}

/// The files that a round writes.
pub struct RoundFiles {
    /// The folder of the round.
    pub dir: PathBuf,
}

impl RoundFiles {
    /// The files of round `round` in the run folder `run`.
    pub fn new(run: &Path, round: u32) -> Self {
        Self { dir: run.join(format!("round-{round}")) }
    }

    /// The path of the round's file `NAME.jsonl`.
    pub fn jsonl(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }
}

/// Name of the files, stages and sampling keys for the answers that a round takes from the first model.
pub(crate) const ANCHORS: &str = "anchors";
pub(crate) const ANCHOR_VERDICTS: &str = "anchor-verdicts";
pub(crate) const VERDICTS_BEFORE: &str = "verdicts-before";
pub(crate) const LOGPS: &str = "logps";
pub(crate) const LOGPS_BEFORE: &str = "logps-before";
/// Name of the file and of the stage of verdict pairs.
pub(crate) const META_PAIRS: &str = "meta-pairs";

/// Called with a run's folder when a round or the whole run has ended, so that a report can be written, of which the
/// loop knows nothing.
pub type Renewed<'a> = dyn Fn(&Path, &dyn Observer) + 'a;
