//! Stage 5: the next model from the pairs, with checkpoints.

use super::config::Method;
use super::records::{PairRecord, line, read_json, read_jsonl, write_json, write_jsonl};
use super::round::{Context, RoundFiles};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::train::{Trainer, dpo, sft};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Trains `model` on the pairs and writes the folder `next`. Checkpoints lie in the round's `train/` until then; steps are
/// written to `steps.jsonl`. A finished training is left as it is.
///
/// # Errors
/// No pairs; errors of the training and the files; `Stopped` when the observer asks for it (the last step is saved).
pub fn run(
    gpu: &Gpu,
    model: Model,
    ctx: &Context,
    pairs: &[PairRecord],
    files: &RoundFiles,
    next: &Path,
) -> Result<()> {
    if next.exists() {
        return Ok(());
    }
    let d = &ctx.settings.dpo;
    if pairs.is_empty() {
        let hint = "every prompt is a tie: lower [pairs] min_gap, raise [candidates] temperature or n, or change the judge mode";
        return Err(Error::Input(format!("round {}: no pairs to train on; {hint}", ctx.round)));
    }
    let mut trainer = Trainer::new(gpu, model, d.optimiser())?;
    let checkpoints = Checkpoints::open(files)?;
    if let Some(dir) = checkpoints.latest()? {
        trainer.load_state(&dir)?;
    }
    let steps = RefCell::new(Steps::open(files.jsonl("steps"), trainer.step)?);
    let total = pairs.len().div_ceil(d.batch) * d.epochs;
    ctx.observer.begin("training", Some(total as u64), "steps");
    ctx.observer.advance(trainer.step);
    let after = |trainer: &Trainer, record: serde_json::Value| -> Result<()> {
        steps.borrow_mut().push(&record)?;
        ctx.observer.advance(1);
        if trainer.step.is_multiple_of(d.save_every as u64) && trainer.step < total as u64 {
            checkpoints.save(trainer)?;
        }
        Ok(())
    };
    let json = |record: serde_json::Result<serde_json::Value>| record.map_err(|e| Error::Input(e.to_string()));
    let done = match d.method {
        Method::Dpo => {
            let data: Vec<dpo::Pair> = pairs
                .iter()
                .map(|p| dpo::Pair {
                    prompt: p.prompt_ids.clone(),
                    chosen: p.chosen_ids.clone(),
                    rejected: p.rejected_ids.clone(),
                })
                .collect();
            let reference = checkpoints.reference(pairs.len())?;
            dpo::run(
                &mut trainer,
                &data,
                &d.dpo(ctx.seed)?,
                reference.as_deref(),
                ctx.observer,
                &mut |logps| checkpoints.keep_reference(logps),
                &mut |trainer, step| after(trainer, json(serde_json::to_value(step))?),
            )
        }
        Method::SftBest => {
            let data: Vec<sft::Example> = pairs
                .iter()
                .map(|p| sft::Example { prompt: p.prompt_ids.clone(), completion: p.chosen_ids.clone() })
                .collect();
            sft::run(&mut trainer, &data, &d.sft(ctx.seed)?, ctx.observer, &mut |trainer, step| {
                after(trainer, json(serde_json::to_value(step))?)
            })
        }
    };
    if matches!(done, Err(Error::Stopped)) && trainer.step > 0 {
        checkpoints.save(&trainer)?;
    }
    done?;
    ctx.observer.end();
    ctx.domain.save_model(next, &trainer.model.tensors(gpu)?)?;
    checkpoints.remove()
}

#[derive(Serialize, Deserialize)]
struct Latest {
    step: u64,
    folder: String,
}

/// `train/`: state folders, and one small file that names the newest whole one.
struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    fn open(files: &RoundFiles) -> Result<Self> {
        let dir = files.dir.join("train");
        std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        Ok(Self { dir })
    }

    fn latest(&self) -> Result<Option<PathBuf>> {
        let path = self.dir.join("latest.json");
        if !path.exists() {
            return Ok(None);
        }
        let latest: Latest = read_json(&path)?;
        Ok(Some(self.dir.join(latest.folder)))
    }

    fn save(&self, trainer: &Trainer) -> Result<()> {
        let before = self.latest()?;
        let folder = format!("step-{}", trainer.step);
        let dir = self.dir.join(&folder);
        if before.as_ref() == Some(&dir) {
            return Ok(());
        }
        trainer.save_state(&dir)?;
        write_json(&self.dir.join("latest.json"), &Latest { step: trainer.step, folder })?;
        match before {
            Some(old) => std::fs::remove_dir_all(&old).map_err(Error::io(&old)),
            None => Ok(()),
        }
    }

    /// Reference log-probs as bits, so that they come back exactly.
    fn keep_reference(&self, logps: &[dpo::PairLogps]) -> Result<()> {
        let bits: Vec<[u32; 2]> = logps.iter().map(|l| [l.chosen.to_bits(), l.rejected.to_bits()]).collect();
        write_json(&self.dir.join("reference.json"), &bits)
    }

    fn reference(&self, pairs: usize) -> Result<Option<Vec<dpo::PairLogps>>> {
        let path = self.dir.join("reference.json");
        if !path.exists() {
            return Ok(None);
        }
        let bits: Vec<[u32; 2]> = read_json(&path)?;
        if bits.len() != pairs {
            return Err(Error::file(&path, format!("holds {} pairs, the round has {pairs}", bits.len())));
        }
        let logps = |[c, r]: [u32; 2]| dpo::PairLogps { chosen: f32::from_bits(c), rejected: f32::from_bits(r) };
        Ok(Some(bits.into_iter().map(logps).collect()))
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(Error::io(&self.dir))
    }
}

/// `steps.jsonl`: one line a step, cut back to the checkpoint on resume.
struct Steps {
    path: PathBuf,
    file: File,
}

impl Steps {
    fn open(path: PathBuf, done: u64) -> Result<Self> {
        let mut kept: Vec<serde_json::Value> = Vec::new();
        if path.exists() && done > 0 {
            drop_torn_tail(&path)?;
            kept = read_jsonl(&path)?;
            kept.retain(|s: &serde_json::Value| s["step"].as_u64().is_some_and(|step| step <= done));
        }
        write_jsonl(&path, &kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    fn push(&mut self, record: &serde_json::Value) -> Result<()> {
        let bytes = line(&self.path, record)?;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(Error::io(&self.path))
    }
}

fn drop_torn_tail(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        super::records::write_file(path, &bytes[..whole])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_cut_back_to_the_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("steps.jsonl");
        let mut steps = Steps::open(path.clone(), 0).unwrap();
        for step in 1..=5 {
            steps.push(&serde_json::json!({ "step": step, "loss": 0.1 })).unwrap();
        }
        drop(steps);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"step\":6,\"lo");
        std::fs::write(&path, torn).unwrap();
        drop(Steps::open(path.clone(), 3).unwrap());
        let kept: Vec<serde_json::Value> = read_jsonl(&path).unwrap();
        assert_eq!(kept.iter().map(|s| s["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        drop(Steps::open(path.clone(), 0).unwrap());
        assert!(read_jsonl::<serde_json::Value>(&path).unwrap().is_empty());
    }

    #[test]
    fn reference_log_probs_come_back_bit_for_bit() {
        let tmp = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(&RoundFiles { dir: tmp.path().into() }).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap(), None);
        let logps = [dpo::PairLogps { chosen: -0.1, rejected: -1.234_567_9e-20 }];
        checkpoints.keep_reference(&logps).unwrap();
        assert_eq!(checkpoints.reference(1).unwrap().unwrap(), logps);
        assert!(checkpoints.reference(2).unwrap_err().to_string().contains("holds 1 pairs"));
    }
}
