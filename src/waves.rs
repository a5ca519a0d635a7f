//! The finished waves of a stage on disk: one line for each, appended and synced, so that a killed stage continues from
//! there.

use crate::disk::OnDisk;
use crate::durable::{self, Lines};
use crate::json::{line, read_jsonl, write_jsonl};
use crate::{Error, Observer, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The path of a stage's part file: `NAME.part.jsonl` for `NAME.jsonl`.
pub fn part(out: &Path) -> PathBuf {
    out.with_extension("part.jsonl")
}

/// Whether nothing can be kept beside an output: it is a device or a pipe, or a name of what the process has open.
pub fn is_special(out: &Path) -> bool {
    OnDisk::is_special(out)
}

/// Removes the part file that a stage leaves behind if it is killed right after it wrote its final file `out`.
///
/// # Errors
/// The part file cannot be removed.
pub fn tidy(out: &Path) -> Result<()> {
    durable::remove_file(&part(out))
}

/// The records of a finished stage, whose part file is removed; `None` as long as its final file `out` is not there.
///
/// # Errors
/// The file is broken, or the part file cannot be removed.
pub fn finished<T: DeserializeOwned>(out: &Path) -> Result<Option<Vec<T>>> {
    if !out.is_there() {
        return Ok(None);
    }
    tidy(out)?;
    read_jsonl(out).map(Some)
}

/// The part file of a stage, with the waves that are finished.
pub struct Waves<R> {
    path: PathBuf,
    lines: Lines,
    done: Vec<R>,
}

impl<R: Serialize + DeserializeOwned> Waves<R> {
    /// Opens the part file beside the stage's final file `out`, reads the finished waves and drops a torn tail.
    ///
    /// # Errors
    /// The file cannot be opened, or a line that is not the last one is broken.
    pub fn open(out: &Path) -> Result<Self> {
        if let Some(dir) = out.parent().filter(|d| !d.as_os_str().is_empty()) {
            durable::create_folder(dir)?;
        }
        let path = part(out);
        let (mut lines, bytes) = Lines::open(&path)?;
        let (mut done, mut good) = (Vec::new(), 0);
        while let Some(len) = bytes[good..].iter().position(|&b| b == b'\n') {
            match serde_json::from_slice(&bytes[good..good + len]) {
                Ok(wave) => done.push(wave),
                // A power cut can leave a last line of the right length with the wrong bytes.
                Err(_) if good + len + 1 == bytes.len() => break,
                Err(e) => return Err(Error::file(&path, format!("line {}: {e}", done.len() + 1))),
            }
            good += len + 1;
        }
        lines.cut(good)?;
        Ok(Self { path, lines, done })
    }

    /// The waves that are finished so far.
    pub fn done(&self) -> &[R] {
        &self.done
    }

    /// Appends a finished wave.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, wave: R) -> Result<()> {
        self.lines.push(&line(&self.path, &wave)?)?;
        self.done.push(wave);
        Ok(())
    }

    /// Removes the part file and returns its waves. Call it when the final file is written.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> Result<Vec<R>> {
        drop(self.lines);
        durable::remove_file(&self.path)?;
        Ok(self.done)
    }
}

/// A stage whose waves do not depend on one another.
pub struct WaveStage<'a, T> {
    /// The stage's name in progress.
    pub name: &'a str,
    /// What progress counts, such as `prompts`.
    pub unit: &'a str,
    /// The items that the stage works through.
    pub items: &'a [T],
    /// How many items a wave has.
    pub wave: usize,
    /// The stage's final file.
    pub out: &'a Path,
}

/// Works through the items of a stage in waves and, once all are done, writes the records to the stage's final file,
/// brought into order by `sort`. The records of a finished stage are read from that file.
///
/// # Errors
/// Errors of `work` and of the files; `Stopped` when the observer asks for it.
pub fn in_waves<T, R: Clone + Serialize + DeserializeOwned>(
    observer: &dyn Observer,
    stage: &WaveStage<T>,
    work: &mut dyn FnMut(&[T]) -> Result<Vec<R>>,
    sort: impl FnOnce(&mut Vec<R>),
) -> Result<Vec<R>> {
    if let Some(all) = finished(stage.out)? {
        return Ok(all);
    }
    let mut waves = Waves::<Vec<R>>::open(stage.out)?;
    observer.begin(stage.name, Some(stage.items.len() as u64), stage.unit);
    for (i, chunk) in stage.items.chunks(stage.wave.max(1)).enumerate() {
        if i >= waves.done().len() {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            waves.push(work(chunk)?)?;
        }
        observer.advance(chunk.len() as u64);
    }
    observer.end();
    let mut all = waves.done().concat();
    sort(&mut all);
    write_jsonl(stage.out, &all)?;
    waves.remove()?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_survive_and_a_torn_tail_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.part.jsonl");
        let mut waves = Waves::<Vec<u32>>::open(&tmp.path().join("x.jsonl")).unwrap();
        waves.push(vec![1, 2]).unwrap();
        waves.push(vec![3]).unwrap();
        drop(waves);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut waves = Waves::<Vec<u32>>::open(&tmp.path().join("x.jsonl")).unwrap();
            let expected: Vec<Vec<u32>> = if cut < 6 { vec![] } else { vec![vec![1, 2]] };
            assert_eq!(waves.done(), expected, "cut at {cut}");
            if expected.is_empty() {
                waves.push(vec![1, 2]).unwrap();
            }
            waves.push(vec![3]).unwrap();
            drop(waves);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        assert_eq!(Waves::<Vec<u32>>::open(&tmp.path().join("x.jsonl")).unwrap().remove().unwrap().len(), 2);
        assert!(!path.exists());
    }

    #[test]
    fn a_finished_stage_is_read_back_and_tidied() {
        let tmp = tempfile::tempdir().unwrap();
        let out = tmp.path().join("x.jsonl");
        Waves::<Vec<u32>>::open(&out).unwrap().push(vec![1]).unwrap();
        assert_eq!(finished::<u32>(&out).unwrap(), None);
        std::fs::write(&out, "1\n").unwrap();
        assert_eq!(finished::<u32>(&out).unwrap(), Some(vec![1]));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1, "the part file stays");
    }

    #[test]
    fn damage_in_the_middle_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("x.part.jsonl"), "[1]\nnot json\n[2]\n").unwrap();
        let e = Waves::<Vec<u32>>::open(&tmp.path().join("x.jsonl")).err().unwrap().to_string();
        assert!(e.contains("line 2"), "{e}");
        std::fs::write(tmp.path().join("x.part.jsonl"), "[1]\n\0\0\0\n").unwrap();
        assert_eq!(Waves::<Vec<u32>>::open(&tmp.path().join("x.jsonl")).unwrap().done(), [vec![1]]);
    }
}
