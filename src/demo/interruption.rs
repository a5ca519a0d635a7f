//! A round on the GPU may be ended anywhere by a full disk, a lost device or a wish to stop. It then says so, and when
//! it is resumed it gives the same bytes. With `SELFREWARD_KILLS` set, as in `scripts/test-full`, every place is tried,
//! otherwise one in some.

use super::domain::{WorldDomain, self_judge, settings};
use crate::durable::faults::fail_after;
use crate::gpu::Gpu;
use crate::recipe::config::{Method, RoundSettings};
use crate::recipe::context::{RoundContext, RoundFiles, sizes};
use crate::recipe::domain::Domain;
use crate::recipe::models::RunModels;
use crate::recipe::round::play;
use crate::recipe::run_folder::RunFolder;
use crate::{Error, Observer, Result, Silent, world};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Settings with a few prompts in two waves, and a few steps with a checkpoint after each and a validation after each
/// second one.
fn small(held_out: PathBuf) -> RoundSettings {
    let mut s = settings(8, Method::Dpo, 0.2);
    (s.prompts.wave, s.candidates.wave, s.judge.wave) = (12, 4, 4);
    (s.dpo.training.batch, s.dpo.training.save_every) = (2, 1);
    (s.validation.prompts, s.validation.every) = (held_out, 2);
    s
}

/// Writes the questions to validate on, beside the run folders.
fn held_out(tmp: &Path) {
    let path = tmp.join("held-out.jsonl");
    let lines = world::held_out()[..3].iter().map(|task| format!("{}\n", serde_json::json!({ "prompt": task.prompt })));
    std::fs::write(&path, lines.collect::<String>()).unwrap();
}

/// A run of one round, as the demo plays it, without the evaluations.
fn run(gpu: &Gpu, dir: &Path, observer: &dyn Observer) -> Result<()> {
    let settings = small(dir.with_file_name("held-out.jsonl"));
    let table: toml::Table = [("seed".to_owned(), toml::Value::Integer(1))].into_iter().collect();
    let mut folder = RunFolder::open(dir, &table, sizes(gpu, &settings), true, observer)?;
    let (first, next) = (folder.model(1), folder.model(2));
    if !first.exists() {
        world::save(&first, &world::seed_model()?)?;
        folder.stage_done("M1")?;
    }
    let model = WorldDomain.load_model(gpu, &first)?;
    let models = RunModels { gpu, domain: &WorldDomain, run: dir, observer };
    let (domain, settings, models) = (&WorldDomain, &settings, &models);
    let ctx = RoundContext { domain, settings, seed: 1, round: 1, observer, models, held_out: &[] };
    let files = RoundFiles::new(dir, 1);
    play(gpu, model, &ctx, &self_judge(), &files, &next, &[], &mut |stage| folder.stage_done(stage))?;
    folder.finish()
}

/// The distance between the places tried.
fn one_in(some: usize) -> usize {
    if std::env::var_os("SELFREWARD_KILLS").is_some() { 1 } else { some }
}

/// The bytes of every file that must not depend on interruptions, and every folder.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut folders) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = path.strip_prefix(dir).unwrap().to_path_buf();
            if path.is_dir() {
                all.insert(name, Vec::new());
                folders.push(path);
            } else if !["state.json", "log.jsonl"].iter().any(|free| name.ends_with(free)) {
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// A device, a place for run folders, and what an undisturbed run leaves there.
fn undisturbed() -> (Gpu, tempfile::TempDir, BTreeMap<PathBuf, Vec<u8>>) {
    let (gpu, tmp) = (Gpu::open(None, None).unwrap(), tempfile::tempdir().unwrap());
    held_out(tmp.path());
    let whole = tmp.path().join("whole");
    run(&gpu, &whole, &Silent).unwrap();
    let expected = bytes(&whole);
    (gpu, tmp, expected)
}

#[test]
fn a_full_disk_is_named_and_costs_nothing() {
    let (gpu, tmp, expected) = undisturbed();
    assert!(expected.keys().any(|name| name.ends_with("M2/model.safetensors")), "{:?}", expected.keys());
    let mut operations = 0;
    loop {
        let dir = tmp.path().join(operations.to_string());
        fail_after(Some(operations));
        let outcome = run(&gpu, &dir, &Silent);
        fail_after(None);
        match outcome {
            Ok(()) => break,
            Err(Error::Io { path, .. }) => assert!(path.starts_with(&dir), "{}", path.display()),
            Err(other) => panic!("after {operations} operations: {other}"),
        }
        run(&gpu, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {operations} operations");
        std::fs::remove_dir_all(&dir).unwrap();
        operations += one_in(17);
    }
    assert!(operations > 100, "{operations}");
}

/// An observer that takes the device away after so many calls from the library.
struct Loses<'a> {
    gpu: &'a Gpu,
    left: Cell<usize>,
}

impl Observer for Loses<'_> {
    fn advance(&self, _: u64) {
        match self.left.get() {
            0 => self.gpu.lose(),
            left => self.left.set(left - 1),
        }
    }
}

#[test]
fn a_lost_device_is_named_and_costs_nothing() {
    let (gpu, tmp, expected) = undisturbed();
    let mut losses = 0;
    for words in (0..).step_by(one_in(50)) {
        let dir = tmp.path().join(words.to_string());
        let doomed = Gpu::open(None, None).unwrap();
        match run(&doomed, &dir, &Loses { gpu: &doomed, left: Cell::new(words) }) {
            Ok(()) => break,
            Err(e @ Error::DeviceLost(_)) => assert!(e.to_string().contains("resume"), "{e}"),
            Err(other) => panic!("after {words} words: {other:?}"),
        }
        losses += 1;
        run(&gpu, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {words} words");
    }
    assert!(losses >= 3, "{losses}");
}

/// An observer that wishes to stop once it was asked so often whether it does.
struct Stops(Cell<usize>);

impl Observer for Stops {
    fn stop_requested(&self) -> bool {
        match self.0.get() {
            0 => true,
            left => {
                self.0.set(left - 1);
                false
            }
        }
    }
}

#[test]
fn a_stop_at_any_safe_point_costs_nothing() {
    let (gpu, tmp, expected) = undisturbed();
    let mut stops = 0;
    for asked in (0..).step_by(one_in(5)) {
        let dir = tmp.path().join(asked.to_string());
        match run(&gpu, &dir, &Stops(Cell::new(asked))) {
            Ok(()) => break,
            Err(Error::Stopped) => stops += 1,
            Err(other) => panic!("after {asked} questions: {other}"),
        }
        run(&gpu, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {asked} questions");
    }
    assert!(stops >= 5, "{stops}");
}
