//! A run's folder: its configuration, its plan, its state, and the lock that keeps a second process out.

use super::{run_metrics, warnings};
use crate::clock::{self, Instant};
use crate::config::REFERENCE;
use crate::disk::{self, File, OnDisk, TryLockError};
use crate::durable::{self, Lines};
use crate::json::{line, read_json, write_file, write_json};
use crate::lock::{LOCK_FILE, Lock};
use crate::weights::{REMOVED_FILE, remove_weights};
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name of the plan's file in a run folder.
pub(crate) const PLAN_FILE: &str = "plan.json";

/// Keys of the configuration that a resume may change, since they change no byte of what is made.
pub const FREE: [&str; 5] = ["controls.random", "controls.sft_best", "judge.floor", "run.keep", "run.rounds"];

/// A finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageState {
    /// The name of the stage, such as `round-1/prompts`.
    pub name: String,
    /// Seconds that the process which finished the stage spent on it.
    pub seconds: f64,
}

/// What has been done in a run: its `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The finished stages, in the order in which they were finished.
    pub stages: Vec<StageState>,
    /// Whether the run has ended.
    pub finished: bool,
}

/// What must stay the same for a resume to give the same bytes: `plan.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Version of this crate.
    pub version: String,
    /// Sizes and choices by their names.
    pub sizes: BTreeMap<String, serde_json::Value>,
}

/// An open, locked run folder.
pub struct RunFolder {
    path: PathBuf,
    state: RunState,
    since: Instant,
    log: Lines,
    /// The sentences of warnings that log.jsonl holds.
    warned: BTreeSet<String>,
    _lock: Lock,
}

impl RunFolder {
    /// Makes the folder or, with `resume`, opens it again. `config` is the resolved configuration.
    ///
    /// # Errors
    /// The folder is in use by another process; it exists and `resume` is not set; another version of this crate made
    /// it; its configuration (but for [`FREE`]) or sizes differ, of which the error names the key and both values; it
    /// cannot be written.
    pub fn open(
        path: &Path,
        config: &toml::Table,
        sizes: BTreeMap<String, serde_json::Value>,
        resume: bool,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let exists = path.join("config.toml").is_there();
        if exists && !resume {
            return Err(Error::file(path, "is a run folder already; go on with --resume, or name another folder"));
        }
        if !exists && disk::read_dir(path).is_ok_and(|mut d| d.any(|f| f.is_ok_and(|f| !is_ours(&f.file_name())))) {
            return Err(Error::file(path, "holds other files; a run needs a folder of its own"));
        }
        durable::create_folder(path)?;
        let lock = Lock::take(path, File::try_lock, observer)?;
        let plan = Conditions { version: env!("CARGO_PKG_VERSION").to_owned(), sizes };
        let (config_path, plan_path) = (path.join("config.toml"), path.join(PLAN_FILE));
        if exists && plan_path.is_there() {
            let before: Conditions = read_json(&plan_path)?;
            same_version(path, &before)?;
            let keys = |plan: Conditions| plan.sizes.into_iter().map(|(k, v)| (k, v.to_string())).collect();
            refuse_difference(&plan_path, &keys(before), &keys(plan))?;
        } else {
            write_json(&plan_path, &plan)?;
        }
        if exists {
            same_config(&config_path, config)?;
        }
        let text = toml::to_string(config).map_err(|e| Error::file(&config_path, e.to_string()))?;
        if !disk::read(&config_path).is_ok_and(|before| before == text.as_bytes()) {
            // This is written last, so that a folder with a config.toml always has its plan.
            write_file(&config_path, text.as_bytes())?;
        }
        let state_path = path.join("state.json");
        let state = if state_path.is_there() { read_json(&state_path)? } else { RunState::default() };
        let (log, lines) = Lines::open(&path.join("log.jsonl"))?;
        let warning = |line: &[u8]| {
            Some(serde_json::from_slice::<serde_json::Value>(line).ok()?.get("warning")?.as_str()?.to_owned())
        };
        let warned = lines.split(|&b| b == b'\n').filter_map(warning).collect();
        Ok(Self { path: path.to_path_buf(), state, since: clock::now(), log, warned, _lock: lock })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of model M`number`.
    pub fn model(&self, number: u32) -> PathBuf {
        self.path.join(format!("M{number}"))
    }

    /// Removes the weights of all models but M0, M1 and the `keep` newest ones up to M`newest`, all files of whose
    /// round are written; with `keep` 0 none are removed.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn keep_newest(&self, keep: u32, newest: u32) -> Result<()> {
        if keep == 0 {
            return Ok(());
        }
        let why = format!("were removed after M{newest} was there: [run] keep = {keep}");
        (2..=newest.saturating_sub(keep)).try_for_each(|number| remove_weights(&self.model(number), &why))
    }

    /// Whether a stage is over.
    pub fn over(&self, name: &str) -> bool {
        self.state.stages.iter().any(|s| s.name == name)
    }

    /// Notes that a stage is over. If it was over before and was read back on a resume, it keeps its time.
    ///
    /// # Errors
    /// state.json or log.jsonl cannot be written.
    pub fn stage_done(&mut self, name: &str) -> Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = clock::now();
        if self.over(name) {
            return Ok(());
        }
        // A finished run continues if more rounds are asked for.
        self.state.finished = false;
        self.state.stages.push(StageState { name: name.to_owned(), seconds });
        self.log(&serde_json::json!({ "stage": name, "seconds": seconds }))?;
        write_json(&self.path.join("state.json"), &self.state)
    }

    /// Notes that the run is over.
    ///
    /// # Errors
    /// state.json cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        self.state.finished = true;
        write_json(&self.path.join("state.json"), &self.state)
    }

    /// Seconds spent on all stages whose names start with `prefix`.
    pub fn seconds(&self, prefix: &str) -> f64 {
        self.state.stages.iter().filter(|s| s.name.starts_with(prefix)).map(|s| s.seconds).sum()
    }

    /// Tells what looks wrong with the run and writes it to log.jsonl, each sentence once in a run.
    ///
    /// # Errors
    /// A file of the run is broken, or the log cannot be written.
    pub fn warn(&mut self, observer: &dyn Observer) -> Result<()> {
        for sentence in status(&self.path)?.warnings {
            if self.warned.insert(sentence.clone()) {
                observer.note(&format!("warning: {sentence}"));
                self.log(&serde_json::json!({ "warning": sentence }))?;
            }
        }
        Ok(())
    }

    /// Appends a line to log.jsonl and adds the time of day to it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn log(&mut self, what: &serde_json::Value) -> Result<()> {
        let mut record = serde_json::json!({ "unix_seconds": unix_seconds() });
        if let (Some(record), Some(what)) = (record.as_object_mut(), what.as_object()) {
            record.extend(what.clone());
        }
        self.log.push_unsynced(&line(&self.path, &record)?)
    }
}

fn unix_seconds() -> f64 {
    clock::since_epoch().as_secs_f64()
}

/// Whether a file is one that a run leaves behind if it is killed while it begins.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    [LOCK_FILE, PLAN_FILE, ".plan.json.tmp", ".config.toml.tmp"].iter().any(|ours| name == *ours)
}

/// Takes part in a run on which others work at the same time: the folder is closed to [`RunFolder::open`] until the
/// returned lock is dropped. `config` is the resolved configuration.
///
/// # Errors
/// There is no such run; a whole run works on it; its configuration differs.
pub(super) fn join(path: &Path, config: &toml::Table, observer: &dyn Observer) -> Result<Lock> {
    let config_path = path.join("config.toml");
    if !config_path.is_there() {
        return Err(Error::file(path, "is no run folder yet: begin with run --until prompts"));
    }
    let lock = Lock::take(path, File::try_lock_shared, observer)?;
    same_config(&config_path, config)?;
    same_version(&path.join(PLAN_FILE), &read_json(&path.join(PLAN_FILE))?)?;
    Ok(lock)
}

fn same_version(path: &Path, plan: &Conditions) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    if plan.version == own {
        return Ok(());
    }
    let what = format!("was made by version {} of selfreward, this is {own}", plan.version);
    Err(Error::file(path, format!("{what}; go on with that version, or name another folder")))
}

fn same_config(path: &Path, config: &toml::Table) -> Result<()> {
    let text = disk::read_to_string(path).map_err(Error::io(path))?;
    let before: toml::Table = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim().to_owned()))?;
    let (mut before, now) = (flat(before), flat(config.clone()));
    // A key that is newer than the folder had its default when the folder was made.
    let defaults = REFERENCE.parse::<toml::Table>().map(flat).unwrap_or_default();
    for key in now.keys() {
        if let (None, Some(default)) = (before.get(key), defaults.get(key)) {
            before.insert(key.clone(), default.clone());
        }
    }
    refuse_difference(path, &before, &now)
}

fn flat(table: toml::Table) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                out.extend(flat(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => {
                out.insert(key, value.to_string());
            }
        }
    }
    out
}

fn refuse_difference(path: &Path, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Result<()> {
    for key in before.keys().chain(now.keys()).filter(|key| !FREE.contains(&key.as_str())) {
        let (old, new) = (before.get(key), now.get(key));
        if old != new {
            let show = |v: Option<&String>| v.cloned().unwrap_or_else(|| "unset".to_owned());
            let what = format!("{key} is {} in this folder and {} now", show(old), show(new));
            return Err(Error::file(path, format!("{what}; resume with the same settings or name another folder")));
        }
    }
    Ok(())
}

fn models(run: &Path) -> Vec<u32> {
    let number = |name: &str| name.strip_prefix('M').and_then(|n| n.parse().ok());
    let mut all: Vec<u32> = disk::read_dir(run)
        .into_iter()
        .flatten()
        .filter_map(|entry| number(entry.ok()?.file_name().to_str()?))
        .collect();
    all.sort_unstable();
    all
}

/// Where a run stands, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Path of the run folder.
    pub path: PathBuf,
    /// Whether a process works on the run now.
    pub running: bool,
    /// Whether the run has ended.
    pub finished: bool,
    /// Names of the finished models, the oldest first.
    pub models: Vec<String>,
    /// Names of the finished models whose weights `[run] keep` removed.
    pub removed: Vec<String>,
    /// The stages that are finished.
    pub stages: Vec<StageState>,
    /// The stages that have begun and not finished, with the number of waves that each has finished.
    pub partial: BTreeMap<String, usize>,
    /// The metrics of each finished round.
    pub rounds: Vec<super::round_metrics::RoundMetrics>,
    /// One sentence for each thing that looks wrong, with the place where it is seen.
    pub warnings: Vec<String>,
}

/// Reads a run folder without disturbing it.
///
/// # Errors
/// `run` is not a run folder, or one of its files is broken.
pub fn status(run: &Path) -> Result<Status> {
    read_status(run).map_err(|e| explain(run, e))
}

/// Adds to an error about a file's content that another version of this crate wrote the file, where that is so.
pub(crate) fn explain(run: &Path, error: Error) -> Error {
    match (error, read_json::<Conditions>(&run.join(PLAN_FILE))) {
        (Error::File { path, what }, Ok(plan)) if plan.version != env!("CARGO_PKG_VERSION") => {
            let by = format!("the run was made by version {}, this is {}", plan.version, env!("CARGO_PKG_VERSION"));
            Error::File { path, what: format!("{what} ({by})") }
        }
        (error, _) => error,
    }
}

fn read_status(run: &Path) -> Result<Status> {
    if !run.join("config.toml").is_there() {
        return Err(Error::file(run, "is no run folder: it has no config.toml"));
    }
    let state_path = run.join("state.json");
    let state: RunState = if state_path.is_there() { read_json(&state_path)? } else { RunState::default() };
    let running = matches!(disk::open(run.join(LOCK_FILE)).map(|f| f.try_lock()), Ok(Err(TryLockError::WouldBlock)));
    let (mut partial, mut rounds) = (BTreeMap::new(), Vec::new());
    for round in 1.. {
        let dir = run.join(format!("round-{round}"));
        if !dir.is_there() {
            break;
        }
        for entry in disk::read_dir(&dir).map_err(Error::io(&dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(stage) = name.strip_suffix(".part.jsonl") {
                let bytes = disk::read(entry.path()).map_err(Error::io(entry.path()))?;
                partial.insert(format!("round-{round}/{stage}"), bytes.iter().filter(|&&b| b == b'\n').count());
            }
        }
        let metrics = dir.join("metrics.json");
        if metrics.is_there() {
            rounds.push(read_json(&metrics)?);
        }
    }
    let models: Vec<String> = models(run).into_iter().map(|n| format!("M{n}")).collect();
    let removed = models.iter().filter(|name| run.join(name).join(REMOVED_FILE).is_there()).cloned().collect();
    let (path, finished, stages) = (run.into(), state.finished, state.stages);
    let warnings = warnings::read(run, &rounds, &run_metrics::read(run)?)?;
    Ok(Status { path, running, finished, models, removed, stages, partial, rounds, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    fn sizes(wave: u32) -> BTreeMap<String, serde_json::Value> {
        [("wave".to_owned(), wave.into())].into()
    }

    #[test]
    fn a_folder_is_resumed_only_as_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("run");
        let config = table("[dpo]\nbeta = 0.1\n[run]\nseed = 1\n");
        let mut run = RunFolder::open(&path, &config, sizes(4), false, &crate::Silent).unwrap();
        let busy = RunFolder::open(&path, &config, sizes(4), true, &crate::Silent).err().unwrap().to_string();
        assert!(busy.contains("another process"), "{busy}");
        assert!(status(&path).unwrap().running);
        run.stage_done("round-1/prompts").unwrap();
        drop(run);
        let log = path.join("log.jsonl");
        let mut torn = std::fs::read(&log).unwrap();
        torn.extend(b"{\"unix_sec");
        std::fs::write(&log, torn).unwrap();
        assert!(!status(&path).unwrap().running);
        let exists = RunFolder::open(&path, &config, sizes(4), false, &crate::Silent).err().unwrap().to_string();
        assert!(exists.contains("--resume"), "{exists}");
        let other = table("[dpo]\nbeta = 0.2\n[run]\nseed = 1\n");
        let differs = RunFolder::open(&path, &other, sizes(4), true, &crate::Silent).err().unwrap().to_string();
        assert!(differs.contains("dpo.beta is 0.1 in this folder and 0.2 now"), "{differs}");
        let missing = RunFolder::open(&path, &table("[run]\nseed = 1\n"), sizes(4), true, &crate::Silent)
            .err()
            .unwrap()
            .to_string();
        assert!(missing.contains("unset"), "{missing}");
        let plan = RunFolder::open(&path, &config, sizes(5), true, &crate::Silent).err().unwrap().to_string();
        assert!(plan.contains("plan.json") && plan.contains("wave is 4"), "{plan}");
        let mut run = RunFolder::open(&path, &config, sizes(4), true, &crate::Silent).unwrap();
        assert_eq!(run.state.stages[0].name, "round-1/prompts");
        run.stage_done("round-1/candidates").unwrap();
        let logged: Vec<serde_json::Value> = crate::json::read_jsonl(&log).unwrap();
        assert_eq!(logged.iter().map(|l| l["stage"].as_str().unwrap()).collect::<Vec<_>>().len(), 2);
    }

    #[test]
    fn a_run_killed_while_it_began_begins_again() {
        let tmp = tempfile::tempdir().unwrap();
        for left in ["lock", "plan.json", ".plan.json.tmp", ".config.toml.tmp"] {
            std::fs::write(tmp.path().join(left), "{\"version\":\"0\",\"sizes\":{}}").unwrap();
        }
        drop(RunFolder::open(tmp.path(), &table("[run]\nseed = 1\n"), sizes(4), false, &crate::Silent).unwrap());
        RunFolder::open(tmp.path(), &table("[run]\nseed = 1\n"), sizes(4), true, &crate::Silent).unwrap();
    }

    #[test]
    fn runs_of_another_version_are_read_and_not_gone_on_with() {
        let tmp = tempfile::tempdir().unwrap();
        let config = table("[run]\nseed = 1\n");
        let mut run = RunFolder::open(tmp.path(), &config, sizes(4), false, &crate::Silent).unwrap();
        run.stage_done("round-1/prompts").unwrap();
        drop(run);
        let plan = tmp.path().join(PLAN_FILE);
        let old = std::fs::read_to_string(&plan).unwrap().replace(env!("CARGO_PKG_VERSION"), "0.0.1");
        std::fs::write(&plan, old).unwrap();
        let e = RunFolder::open(tmp.path(), &config, sizes(4), true, &crate::Silent).err().unwrap().to_string();
        assert!(e.contains("version 0.0.1") && e.contains(env!("CARGO_PKG_VERSION")), "{e}");
        assert_eq!(status(tmp.path()).unwrap().stages.len(), 1);
        std::fs::create_dir(tmp.path().join("round-1")).unwrap();
        std::fs::write(tmp.path().join("round-1/metrics.json"), "{\"round\":1}").unwrap();
        let e = status(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("round-1/metrics.json: missing field") && e.contains("version 0.0.1"), "{e}");
    }

    #[test]
    fn only_the_newest_models_keep_their_weights() {
        let tmp = tempfile::tempdir().unwrap();
        let run = RunFolder::open(tmp.path(), &table("[run]\nseed = 1\n"), sizes(4), false, &crate::Silent).unwrap();
        for number in 1..=5 {
            crate::world::save(&run.model(number), &crate::world::init(0)).unwrap();
        }
        let removed = || status(tmp.path()).unwrap().removed;
        run.keep_newest(0, 5).unwrap();
        run.keep_newest(9, 5).unwrap();
        assert!(removed().is_empty());
        run.keep_newest(2, 4).unwrap();
        assert_eq!(removed(), ["M2"]);
        run.keep_newest(1, 5).unwrap();
        run.keep_newest(1, 5).unwrap();
        assert_eq!(removed(), ["M2", "M3", "M4"]);
        assert_eq!(status(tmp.path()).unwrap().models, ["M1", "M2", "M3", "M4", "M5"]);
        for number in [1, 5] {
            crate::source::ModelSource::open(&run.model(number)).unwrap();
        }
        let e = crate::source::ModelSource::open(&run.model(3)).err().unwrap().to_string();
        assert!(e.contains("M3: its weights were removed after M5 was there: [run] keep = 1"), "{e}");
        assert_eq!(crate::source::ModelSource::open(tmp.path()).unwrap().path, run.model(5));
    }

    #[test]
    fn what_is_kept_may_change() {
        let tmp = tempfile::tempdir().unwrap();
        let with = |keep| table(&format!("[run]\nkeep = {keep}\nseed = 1\n"));
        drop(RunFolder::open(tmp.path(), &with(0), sizes(4), false, &crate::Silent).unwrap());
        drop(RunFolder::open(tmp.path(), &with(2), sizes(4), true, &crate::Silent).unwrap());
        assert!(std::fs::read_to_string(tmp.path().join("config.toml")).unwrap().contains("keep = 2"));
    }

    #[test]
    fn a_newer_key_had_its_default_in_an_older_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("run");
        drop(RunFolder::open(&path, &table("[dpo]\nbeta = 0.2\n"), sizes(4), false, &crate::Silent).unwrap());
        drop(RunFolder::open(&path, &table("[dpo]\nbeta = 0.2\nnll = 0.0\n"), sizes(4), true, &crate::Silent).unwrap());
        std::fs::write(path.join("config.toml"), "[dpo]\nbeta = 0.2\n").unwrap();
        let newer = table("[dpo]\nbeta = 0.2\nnll = 0.3\n");
        let e = RunFolder::open(&path, &newer, sizes(4), true, &crate::Silent).err().unwrap().to_string();
        assert!(e.contains("dpo.nll is 0.0 in this folder and 0.3 now"), "{e}");
    }

    #[test]
    fn foreign_folders_are_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("thesis.tex"), "x").unwrap();
        let e = RunFolder::open(tmp.path(), &table(""), sizes(1), true, &crate::Silent).err().unwrap().to_string();
        assert!(e.contains("other files"), "{e}");
        assert!(status(tmp.path()).unwrap_err().to_string().contains("no run folder"));
    }
}
