//! The working folder of a training from the command line: `OUT.part`, beside the model folder OUT that it will write.

use crate::disk::File;
use crate::disk::OnDisk;
use crate::json::{read_json, read_jsonl, write_json};
use crate::lock::Lock;
use crate::{Error, Observer, Result, durable};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Name of the log of steps, in the working folder and later in the model folder.
const STEPS: &str = "steps.jsonl";
const PLAN: &str = "plan.json";

/// The working folder of a training, locked against other processes.
pub struct Work {
    out: PathBuf,
    dir: PathBuf,
    /// The lock; `None` if there is nothing left to do.
    lock: Option<Lock>,
}

impl Work {
    /// Refuses, before anything is loaded, what [`Work::begin`] would refuse.
    ///
    /// # Errors
    /// `out` exists (with `resume` only if no such training wrote it); there is an interrupted training and `resume` is
    /// not set.
    pub fn check(out: &Path, resume: bool) -> Result<()> {
        let dir = folder(out);
        if out.is_there() {
            return match resume && (dir.is_there() || out.join(STEPS).is_there()) {
                true => Ok(()),
                false => Err(Error::file(out, "exists already; name another folder or remove it")),
            };
        }
        if has_checkpoint(&dir) && !resume {
            let what = "holds an interrupted training; add --resume to go on with it, or remove it";
            return Err(Error::file(dir, what));
        }
        Ok(())
    }

    /// Begins a training or continues it. `plan` holds what both must have in common; this crate's version is added to
    /// it.
    ///
    /// # Errors
    /// As [`Work::check`]; another process works on the training; it was begun with another plan; the folder cannot be
    /// written.
    pub fn begin(out: &Path, resume: bool, plan: &Value, observer: &dyn Observer) -> Result<Self> {
        Self::check(out, resume)?;
        let (out, dir) = (out.to_path_buf(), folder(out));
        if out.is_there() && !dir.is_there() {
            return Ok(Self { out, dir, lock: None });
        }
        durable::create_folder(&dir)?;
        let lock = Lock::take(&dir, File::try_lock, observer)?;
        // Another process may have finished in the meantime.
        Self::check(&out, resume)?;
        let work = Self { out, dir, lock: Some(lock) };
        if !work.finished() {
            work.agree(plan)?;
        }
        Ok(work)
    }

    fn agree(&self, plan: &Value) -> Result<()> {
        let mut plan = plan.clone();
        plan["version"] = env!("CARGO_PKG_VERSION").into();
        let path = self.dir.join(PLAN);
        if has_checkpoint(&self.dir) {
            let old: Value = read_json(&path)?;
            return match old == plan {
                true => Ok(()),
                false => Err(Error::file(&self.dir, difference(&old, &plan, "folder"))),
            };
        }
        // Without a checkpoint there is nothing to continue from.
        durable::remove_folder(&self.dir.join("train"))?;
        durable::remove_file(&self.dir.join(STEPS))?;
        write_json(&path, &plan)
    }

    /// Whether the model is written and only [`Work::close`] is left to do.
    pub fn finished(&self) -> bool {
        self.out.is_there()
    }

    /// Moves the log of steps into the model folder and removes the working folder; returns the steps.
    ///
    /// # Errors
    /// The folders cannot be written; the log is broken.
    pub fn close(self) -> Result<Vec<Value>> {
        let (from, to) = (self.dir.join(STEPS), self.out.join(STEPS));
        if from.is_there() {
            durable::rename(&from, &to)?;
            durable::sync_folder(Some(&self.out));
        }
        drop(self.lock);
        durable::remove_folder(&self.dir)?;
        read_jsonl(&to)
    }
}

/// The working folder of a training that will write `out`: where checkpoints and the log of steps lie until the model
/// is written.
pub fn folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    out.with_file_name(name)
}

fn has_checkpoint(dir: &Path) -> bool {
    dir.join("train/latest.json").is_there()
}

/// Says in which settings two plans differ, and what to do with the `kept` folder or file of the older one.
pub fn difference(old: &Value, new: &Value, kept: &str) -> String {
    let keys = |plan: &Value| -> Vec<String> { plan.as_object().into_iter().flat_map(|o| o.keys().cloned()).collect() };
    if keys(old) != keys(new) {
        return format!("was begun by a selfreward that knew other settings; remove the {kept} and begin anew");
    }
    let keys = keys(new);
    let differ: Vec<String> = keys
        .iter()
        .filter(|key| old.get(key.as_str()) != new.get(key.as_str()))
        .map(|key| format!("{key} was {}, is {}", shown(&old[key.as_str()]), shown(&new[key.as_str()])))
        .collect();
    format!("was begun with other settings ({}); give the same ones, or remove the {kept}", differ.join("; "))
}

/// A value as a person writes it: of a number that was one of f32 its own digits.
fn shown(value: &Value) -> String {
    let single = value.as_f64().filter(|x| value.is_f64() && f64::from(*x as f32) == *x);
    single.map_or_else(|| value.to_string(), |x| (x as f32).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn a_training_is_begun_gone_on_with_and_closed_once() {
        let tmp = tempfile::tempdir().unwrap();
        let (out, part) = (tmp.path().join("M"), tmp.path().join("M.part"));
        let plan = json!({ "lr": 0.5 });
        let refused = |resume, plan: &Value| Work::begin(&out, resume, plan, &crate::Silent).err().unwrap().to_string();
        let work = Work::begin(&out, false, &plan, &crate::Silent).unwrap();
        assert!(refused(true, &plan).contains("M.part: is in use by another process"), "{}", refused(true, &plan));
        fs::create_dir(part.join("train")).unwrap();
        fs::write(part.join("train/latest.json"), "{}").unwrap();
        drop(work);
        assert!(refused(false, &plan).contains("add --resume"));
        let other = refused(true, &json!({ "lr": 0.1f32 }));
        assert!(other.contains("other settings (lr was 0.5, is 0.1)"), "{other}");
        // Another version of this crate.
        let text = fs::read_to_string(part.join(PLAN)).unwrap();
        fs::write(part.join(PLAN), text.replace(env!("CARGO_PKG_VERSION"), "0.0.1")).unwrap();
        assert!(refused(true, &plan).contains("version was \"0.0.1\""));
        fs::write(part.join(PLAN), text).unwrap();
        // Killed after the model was written.
        fs::write(part.join(STEPS), "{\"step\":1}\n").unwrap();
        fs::create_dir(&out).unwrap();
        assert!(refused(false, &plan).contains("exists already"));
        let work = Work::begin(&out, true, &plan, &crate::Silent).unwrap();
        assert!(work.finished());
        assert_eq!(work.close().unwrap().len(), 1);
        assert!(!part.exists());
        let again = Work::begin(&out, true, &plan, &crate::Silent).unwrap();
        assert!(again.finished());
        assert_eq!(again.close().unwrap().len(), 1);
        assert!(!part.exists() && refused(false, &plan).contains("exists already"));
    }

    #[test]
    fn what_has_no_checkpoint_begins_again() {
        let tmp = tempfile::tempdir().unwrap();
        let (out, part) = (tmp.path().join("M"), tmp.path().join("M.part"));
        drop(Work::begin(&out, false, &json!({ "lr": 1 }), &crate::Silent).unwrap());
        fs::create_dir_all(part.join("train/step-1")).unwrap();
        fs::write(part.join(STEPS), "{}\n").unwrap();
        drop(Work::begin(&out, false, &json!({ "lr": 2 }), &crate::Silent).unwrap());
        let mut left: Vec<_> = fs::read_dir(&part).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lock", PLAN]);
        fs::create_dir(&out).unwrap();
        fs::remove_dir_all(&part).unwrap();
        let foreign = Work::begin(&out, true, &json!({}), &crate::Silent).err().unwrap().to_string();
        assert!(foreign.contains("exists already"), "{foreign}");
    }
}
