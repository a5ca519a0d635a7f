//! What a training leaves on disk while it runs: its states, and the log of its steps.

use super::exchange::Exchange;
use super::{Trainer, dpo};
use crate::disk::{self, OnDisk};
use crate::durable::{self, Lines};
use crate::json::{line, read_json, write_json};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct Latest {
    step: u64,
    folder: String,
}

/// The folder `train/` of a training: folders of states, and one small file that names the newest whole one.
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Opens the checkpoints in `dir`, the folder of the training.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = dir.join("train");
        durable::create_folder(&dir)?;
        let checkpoints = Self { dir };
        checkpoints.tidy()?;
        Ok(checkpoints)
    }

    /// Opens the checkpoints from which several ranks train: the first rank makes them, then the others may read.
    pub(super) fn shared(dir: &Path, exchange: &dyn Exchange) -> Result<Self> {
        let opened = exchange.first().then(|| Self::open(dir)).transpose()?;
        exchange.barrier()?;
        Ok(opened.unwrap_or_else(|| Self { dir: dir.join("train") }))
    }

    /// Removes the folders of all states but the newest whole one. A kill between writing a state and removing the
    /// earlier one leaves such folders.
    fn tidy(&self) -> Result<()> {
        let latest = self.latest()?;
        for entry in disk::read_dir(&self.dir).map_err(Error::io(&self.dir))? {
            let path = entry.map_err(Error::io(&self.dir))?.path();
            if path.is_folder() && latest.as_ref() != Some(&path) {
                durable::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// The folder of the newest whole state, if there is one.
    ///
    /// # Errors
    /// The file that names the state is broken.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        let path = self.dir.join("latest.json");
        if !path.is_there() {
            return Ok(None);
        }
        let latest: Latest = read_json(&path)?;
        Ok(Some(self.dir.join(latest.folder)))
    }

    /// Saves a state in place of the earlier one.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    pub fn save(&self, trainer: &Trainer) -> Result<()> {
        let before = self.latest()?;
        let folder = format!("step-{}", trainer.step);
        let dir = self.dir.join(&folder);
        if before.as_ref() == Some(&dir) {
            return Ok(());
        }
        trainer.save_state(&dir)?;
        write_json(&self.dir.join("latest.json"), &Latest { step: trainer.step, folder })?;
        match before {
            Some(old) => durable::remove_folder(&old),
            None => Ok(()),
        }
    }

    /// Keeps reference log-probs as bits, so that they come back exactly.
    pub(super) fn keep_reference(&self, logps: &[dpo::PairLogps]) -> Result<()> {
        let bits: Vec<[u32; 4]> = logps.iter().map(dpo::PairLogps::bits).collect();
        write_json(&self.dir.join("reference.json"), &bits)
    }

    pub(super) fn reference(&self, pairs: usize) -> Result<Option<Vec<dpo::PairLogps>>> {
        let path = self.dir.join("reference.json");
        if !path.is_there() {
            return Ok(None);
        }
        let bits: Vec<[u32; 4]> = read_json(&path)?;
        if bits.len() != pairs {
            return Err(Error::file(&path, format!("holds {} pairs, the round has {pairs}", bits.len())));
        }
        Ok(Some(bits.into_iter().map(dpo::PairLogps::from_bits).collect()))
    }

    /// Removes the checkpoints; call it when the model is written.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn remove(self) -> Result<()> {
        durable::remove_folder(&self.dir)
    }
}

/// A file with one line for a step, such as `steps.jsonl`, cut back to the checkpoint on resume.
pub(crate) struct StepLog {
    path: PathBuf,
    lines: Lines,
}

impl StepLog {
    /// Keeps the records of the first `done` steps.
    pub(crate) fn open(path: PathBuf, done: u64) -> Result<Self> {
        let (mut lines, bytes) = Lines::open(&path)?;
        let step = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok()?["step"].as_u64();
        let known = |line: &&[u8]| step(line).is_some_and(|step| step <= done);
        lines.cut(bytes.split_inclusive(|&b| b == b'\n').take_while(known).map(<[u8]>::len).sum())?;
        Ok(Self { path, lines })
    }

    pub(crate) fn push(&mut self, record: &serde_json::Value) -> Result<()> {
        self.lines.push(&line(&self.path, record)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::read_jsonl;

    #[test]
    fn only_the_newest_whole_checkpoint_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let train = tmp.path().join("train");
        let names = || {
            let mut all: Vec<_> = std::fs::read_dir(&train).unwrap().map(|f| f.unwrap().file_name()).collect();
            all.sort();
            all
        };
        ["step-4", "step-8", "step-12"].iter().for_each(|name| std::fs::create_dir_all(train.join(name)).unwrap());
        std::fs::write(train.join("reference.json"), "[]").unwrap();
        std::fs::write(train.join("latest.json"), "{\"step\":8,\"folder\":\"step-8\"}").unwrap();
        Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(names(), ["latest.json", "reference.json", "step-8"]);
        // As after a kill before the first state was named.
        std::fs::remove_file(train.join("latest.json")).unwrap();
        Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(names(), ["reference.json"]);
    }

    #[test]
    fn steps_are_cut_back_to_the_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("steps.jsonl");
        let mut steps = StepLog::open(path.clone(), 0).unwrap();
        for step in 1..=5 {
            steps.push(&serde_json::json!({ "step": step, "loss": 0.1 })).unwrap();
        }
        drop(steps);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"step\":6,\"lo");
        std::fs::write(&path, torn).unwrap();
        drop(StepLog::open(path.clone(), 3).unwrap());
        let kept: Vec<serde_json::Value> = read_jsonl(&path).unwrap();
        assert_eq!(kept.iter().map(|s| s["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        drop(StepLog::open(path.clone(), 0).unwrap());
        assert!(read_jsonl::<serde_json::Value>(&path).unwrap().is_empty());
    }

    #[test]
    fn reference_log_probs_come_back_bit_for_bit() {
        let tmp = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(tmp.path()).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap(), None);
        let logps = [dpo::PairLogps { chosen: -0.1, rejected: -1.234_567_9e-20, tail: [0.0, -1e-30] }];
        checkpoints.keep_reference(&logps).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap().unwrap(), logps);
        assert!(checkpoints.reference(2).unwrap_err().to_string().contains("holds 1 pairs"));
    }
}
