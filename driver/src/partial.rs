//! Output that is written as it comes: `NAME.part.jsonl` beside `NAME.jsonl`, from which `--resume` goes on.

use anyhow::{Result, bail};
use selfreward::data::records::hex;
use selfreward::rng::fnv;
use selfreward::train::out_folder::difference;
use selfreward::waves::{self, Waves, part};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The flag of commands that go on with what an interrupted one has written.
#[derive(clap::Args)]
pub(crate) struct ResumeArg {
    /// Go on with an interrupted command of the same settings and data; what it finished lies in NAME.part.jsonl beside
    /// --out
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
}

/// How many items, for each of which `n` sequences are written, are worked through between two savings: fewer on a
/// device that runs in software, whose sequences take long.
pub(crate) fn wave(software: bool, n: u32) -> usize {
    let sequences: usize = if software { 32 } else { 256 };
    (sequences / n.max(1) as usize).max(1)
}

/// A line of the part file: first what was asked, then each step that is done.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    step: String,
    value: Value,
}

/// The steps of a command, of which those that are done are kept until its output is written.
pub(crate) struct Partial(Option<Open>);

struct Open {
    lines: Waves<Line>,
    /// How many of the lines have been taken.
    taken: usize,
}

/// The step of the first line.
const PLAN: &str = "plan";

impl Partial {
    /// Opens the part file of `out`, if there is an output. `plan` is what a resumed command must have in common with
    /// the interrupted one.
    pub(crate) fn open(out: Option<&Path>, resume: &ResumeArg, plan: &Value) -> Result<Self> {
        let Some(out) = out.filter(|out| !waves::is_special(out)) else { return Ok(Self(None)) };
        let mut lines = Waves::<Line>::open(out)?;
        let (path, resume) = (part(out), resume.resume);
        match lines.done().first() {
            None => lines.push(Line { step: PLAN.into(), value: plan.clone() })?,
            Some(_) if !resume => {
                bail!(
                    "{}: holds what an interrupted command wrote; add --resume to go on, or remove it",
                    path.display()
                )
            }
            Some(first) if first.value != *plan => {
                bail!("{}: {}", path.display(), difference(&first.value, plan, "file"))
            }
            Some(_) => {}
        }
        Ok(Self(Some(Open { lines, taken: 1 })))
    }

    /// What a step gives: read where it is done, otherwise made by `work` and written.
    pub(crate) fn step<T: Serialize + DeserializeOwned>(
        &mut self,
        step: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some(open) = &mut self.0 else { return work() };
        if let Some(line) = open.lines.done().get(open.taken).filter(|line| line.step == step) {
            open.taken += 1;
            return Ok(T::deserialize(&line.value)?);
        }
        let made = work()?;
        open.lines.push(Line { step: step.into(), value: serde_json::to_value(&made)? })?;
        open.taken += 1;
        Ok(made)
    }
}

/// Removes the part file of `out`. Call it when the output is written.
pub(crate) fn discard(out: &Path) -> Result<()> {
    Ok(waves::tidy(out)?)
}

/// A hash of records, which differs where they differ, whatever file they come from.
pub(crate) fn digest(records: &impl Serialize) -> String {
    let bytes = serde_json::to_vec(records).unwrap_or_default();
    hex(fnv(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_done_is_not_done_again() {
        let tmp = tempfile::tempdir().unwrap();
        let out = tmp.path().join("answers.jsonl");
        let open = |resume, plan: &Value| Partial::open(Some(&out), &ResumeArg { resume }, plan);
        let plan = json!({"seed": 1});
        let mut partial = open(false, &plan).unwrap();
        assert_eq!(partial.step("0", || Ok(vec![0.1f64])).unwrap(), [0.1]);
        drop(partial);
        assert!(open(false, &plan).err().unwrap().to_string().contains("--resume"));
        let other = open(true, &json!({"seed": 2})).err().unwrap().to_string();
        assert!(other.contains("seed was 1, is 2"), "{other}");
        let mut partial = open(true, &plan).unwrap();
        let again = || -> Result<Vec<f64>> { bail!("done twice") };
        assert_eq!(partial.step("0", again).unwrap(), [0.1]);
        assert!(partial.step("1", again).is_err());
        drop(partial);
        discard(&out).unwrap();
        assert!(!part(&out).exists());
        assert_eq!(Partial::open(None, &ResumeArg { resume: false }, &plan).unwrap().step("0", || Ok(1)).unwrap(), 1);
    }
}
