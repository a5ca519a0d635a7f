//! A round on the GPU may be ended anywhere by a full disk, a lost device or a wish to stop. It then says so, and when
//! it is resumed it gives the same bytes. With `SELFREWARD_KILLS` set, as in `scripts/test-full`, every place is tried,
//! otherwise one in some.

use super::domain::{WorldDomain, self_judge, settings};
use crate::config::{Method, RoundSettings};
use crate::durable::faults::fail_after;
use crate::gpu::Gpu;
use crate::json::write_file;
use crate::recipe::chat::ChatDomain;
use crate::recipe::context::{RoundContext, RoundFiles, sizes};
use crate::recipe::domain::Domain;
use crate::recipe::models::RunModels;
use crate::recipe::round::play;
use crate::recipe::run_folder::RunFolder;
use crate::source::{ModelSource, SOURCE_FILE};
use crate::train::LoraSettings;
use crate::{Error, Observer, Result, Silent, world};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a run trains.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trained {
    /// All weights of the small world's model.
    Weights,
    /// An adapter over it.
    Adapter,
}

/// Settings with a few prompts in two waves, and a few steps with a checkpoint after each and a validation after each
/// second one.
fn small(held_out: PathBuf) -> RoundSettings {
    let mut s = settings(8, Method::Dpo, 0.2);
    (s.prompts.wave, s.candidates.wave, s.judge.wave) = (12, 4, 4);
    (s.dpo.training.batch, s.dpo.training.save_every) = (2, 1);
    (s.validation.prompts, s.validation.every) = (held_out, 2);
    s
}

/// Writes what the runs read, beside their folders: the questions to validate on, those to answer where no model writes
/// new ones, and the base of adapters.
fn inputs(tmp: &Path) {
    let tasks = |name: &str, from: usize, to: usize| {
        let line = |task: &world::Task| format!("{}\n", serde_json::json!({ "prompt": task.prompt }));
        std::fs::write(tmp.join(name), world::held_out()[from..to].iter().map(line).collect::<String>()).unwrap();
    };
    tasks("held-out.jsonl", 0, 3);
    tasks("seeds.jsonl", 3, 11);
    world::save(&tmp.join("base"), &world::seed_model().unwrap()).unwrap();
}

/// A run of one round, as the demo plays it, without the evaluations.
fn run(gpu: &Gpu, trained: Trained, dir: &Path, observer: &dyn Observer) -> Result<()> {
    let mut settings = small(dir.with_file_name("held-out.jsonl"));
    let base = dir.with_file_name("base");
    if trained == Trained::Adapter {
        // An invitation of a chat model is longer than the small world's context.
        (settings.prompts.count, settings.prompts.from_seed) = (0, 8);
        settings.prompts.seed_file = dir.with_file_name("seeds.jsonl");
    }
    let table: toml::Table = [("seed".to_owned(), toml::Value::Integer(1))].into_iter().collect();
    let mut folder = RunFolder::open(dir, &table, sizes(gpu, &settings), true, observer)?;
    let (first, next) = (folder.model(1), folder.model(2));
    if !first.exists() {
        match trained {
            Trained::Weights => world::save(&first, &world::seed_model()?)?,
            Trained::Adapter => {
                let json = serde_json::json!({ "path": base }).to_string();
                write_file(&first.join(SOURCE_FILE), json.as_bytes())?;
            }
        }
        folder.stage_done("M1")?;
    }
    let source = ModelSource::open(&base)?;
    let lora = LoraSettings::default().rank(2);
    let chat = ChatDomain::new(&source, &settings.prompts)?.training(Some(&lora), observer)?;
    let domain: &dyn Domain = if trained == Trained::Adapter { &chat } else { &WorldDomain };
    let model = domain.load_model(gpu, &first)?;
    let models = RunModels { gpu, domain, run: dir, observer, kv: settings.candidates.kv };
    let (settings, models) = (&settings, &models);
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
fn undisturbed(trained: Trained) -> (Gpu, tempfile::TempDir, BTreeMap<PathBuf, Vec<u8>>) {
    let (gpu, tmp) = (Gpu::open(None, None).unwrap(), tempfile::tempdir().unwrap());
    inputs(tmp.path());
    let whole = tmp.path().join("whole");
    run(&gpu, trained, &whole, &Silent).unwrap();
    let expected = bytes(&whole);
    (gpu, tmp, expected)
}

#[test]
fn a_full_disk_is_named_and_costs_nothing() {
    full_disk(Trained::Weights, "M2/model.safetensors", 17);
}

#[test]
fn a_full_disk_costs_an_adapter_nothing() {
    full_disk(Trained::Adapter, "M2/adapter_model.safetensors", 47);
}

fn full_disk(trained: Trained, made: &str, some: usize) {
    let (gpu, tmp, expected) = undisturbed(trained);
    assert!(expected.keys().any(|name| name.ends_with(made)), "{:?}", expected.keys());
    let mut operations = 0;
    loop {
        let dir = tmp.path().join(operations.to_string());
        fail_after(Some(operations));
        let outcome = run(&gpu, trained, &dir, &Silent);
        fail_after(None);
        match outcome {
            Ok(()) => break,
            Err(Error::Io { path, .. }) => assert!(path.starts_with(&dir), "{}", path.display()),
            Err(other) => panic!("after {operations} operations: {other}"),
        }
        run(&gpu, trained, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {operations} operations");
        std::fs::remove_dir_all(&dir).unwrap();
        operations += one_in(some);
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
    lost_device(Trained::Weights, 50);
}

#[test]
fn a_lost_device_costs_an_adapter_nothing() {
    lost_device(Trained::Adapter, 60);
}

fn lost_device(trained: Trained, some: usize) {
    let (gpu, tmp, expected) = undisturbed(trained);
    let mut losses = 0;
    for words in (0..).step_by(one_in(some)) {
        let dir = tmp.path().join(words.to_string());
        let doomed = Gpu::open(None, None).unwrap();
        match run(&doomed, trained, &dir, &Loses { gpu: &doomed, left: Cell::new(words) }) {
            Ok(()) => break,
            Err(e @ Error::DeviceLost(_)) => assert!(e.to_string().contains("resume"), "{e}"),
            Err(other) => panic!("after {words} words: {other:?}"),
        }
        losses += 1;
        run(&gpu, trained, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {words} words");
    }
    assert!(losses >= 2, "{losses}");
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
    stop(Trained::Weights, 5);
}

#[test]
fn a_stop_costs_an_adapter_nothing() {
    stop(Trained::Adapter, 9);
}

fn stop(trained: Trained, some: usize) {
    let (gpu, tmp, expected) = undisturbed(trained);
    let mut stops = 0;
    for asked in (0..).step_by(one_in(some)) {
        let dir = tmp.path().join(asked.to_string());
        match run(&gpu, trained, &dir, &Stops(Cell::new(asked))) {
            Ok(()) => break,
            Err(Error::Stopped) => stops += 1,
            Err(other) => panic!("after {asked} questions: {other}"),
        }
        run(&gpu, trained, &dir, &Silent).unwrap();
        assert!(bytes(&dir) == expected, "other bytes after {asked} questions");
    }
    assert!(stops >= 2, "{stops}");
}
