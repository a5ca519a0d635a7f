//! `demo`: the whole loop in the small world, measured against the truth.

pub mod domain;
pub mod evaluation;
pub mod from_scratch;
#[cfg(test)]
mod interruption;
mod lessons;
pub mod play;
pub mod report;
pub mod standing;

use crate::clock;
use crate::config::{Method, RoundSettings};
use crate::data::records::PairRecord;
use crate::disk::{self, OnDisk};
use crate::generate::GpuEngine;
use crate::gpu::Gpu;
use crate::json::{read_json, read_jsonl, write_json};
use crate::judge::{Judge, RandomJudge};
use crate::recipe::context::{Renewed, RoundContext, RoundFiles, sizes};
use crate::recipe::domain::Domain;
use crate::recipe::models::RunModels;
use crate::recipe::round::play;
use crate::recipe::run_folder::RunFolder;
use crate::recipe::stages::prompts::earlier_prompts;
use crate::train::Trainer;
use crate::train::checkpoints::Checkpoints;
use crate::world;
use crate::{Error, Observer, Result, durable};
use domain::{OracleJudge, WorldDomain, self_judge, settings};
use evaluation::QuestionRecord;
use from_scratch::{FromScratch, States, from_scratch};
use report::{DemoMetrics, DemoReport, round, samples};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Who scores the candidates of the demo's rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgeKind {
    /// The model itself scores.
    Own,
    /// Scores are drawn at random: the control.
    Random,
    /// The exact scorer scores: the ceiling.
    Oracle,
}

/// What a round of the demo trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainKind {
    /// DPO on the preferences alone.
    Dpo,
    /// DPO on the preferences plus 0.2 times the chosen answers' negative log-likelihood.
    DpoNll,
    /// Supervised training on the chosen answers alone: the paper's negative control.
    SftBest,
}

impl JudgeKind {
    /// Every kind of judge with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("self", Self::Own), ("random", Self::Random), ("oracle", Self::Oracle)];

    /// The kind's name on the command line and in reports.
    pub fn name(self) -> &'static str {
        name_of(&Self::ALL, self)
    }
}

impl TrainKind {
    /// Every kind of training with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("dpo", Self::Dpo), ("dpo-nll", Self::DpoNll), ("sft-best", Self::SftBest)];

    /// The kind's name on the command line and in reports.
    pub fn name(self) -> &'static str {
        name_of(&Self::ALL, self)
    }
}

fn name_of<T: Copy + PartialEq>(all: &[(&'static str, T)], kind: T) -> &'static str {
    all.iter().find(|(_, k)| *k == kind).map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(all: &[(&'static str, T)], what: &str, name: &str) -> Result<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
        Error::Input(format!("{what} {name:?} is unknown; there are {}", known.join(", ")))
    })
}

impl FromStr for JudgeKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name(&Self::ALL, "judge", name)
    }
}

impl FromStr for TrainKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name(&Self::ALL, "training", name)
    }
}

/// The file of what was found, which a finished run has.
const METRICS: &str = "metrics.json";

/// Settings of [`run`].
#[derive(Clone, Debug, PartialEq)]
pub struct DemoConfig {
    /// Seed of the loop.
    pub seed: u64,
    /// How many rounds are played; there is one model more than rounds.
    pub rounds: u32,
    /// How many new prompts a round has.
    pub prompts: usize,
    /// How many held-out questions measure a model.
    pub questions: usize,
    /// Who scores the candidates.
    pub judge: JudgeKind,
    /// What each round trains.
    pub train: TrainKind,
    /// How to train M1 from random weights; `None` takes the shipped weights.
    pub from_scratch: Option<FromScratch>,
    /// The run folder; `None` plays in a temporary one.
    pub out: Option<PathBuf>,
    /// Whether to continue the run of an existing folder.
    pub resume: bool,
}

impl Default for DemoConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            rounds: 2,
            prompts: 400,
            questions: world::tasks::HELD_OUT,
            judge: JudgeKind::Own,
            train: TrainKind::Dpo,
            from_scratch: None,
            out: None,
            resume: false,
        }
    }
}

impl DemoConfig {
    fn round(&self) -> RoundSettings {
        let (method, nll) = match self.train {
            TrainKind::Dpo => (Method::Dpo, 0.0),
            TrainKind::DpoNll => (Method::Dpo, 0.2),
            TrainKind::SftBest => (Method::SftBest, 0.0),
        };
        settings(self.prompts, method, nll)
    }

    /// The settings that a resumed run must have in common with its beginning.
    fn table(&self) -> toml::Table {
        let mut demo = toml::Table::new();
        demo.insert("seed".into(), toml::Value::String(self.seed.to_string()));
        demo.insert("rounds".into(), toml::Value::Integer(self.rounds.into()));
        demo.insert("prompts".into(), toml::Value::String(self.prompts.to_string()));
        // Runs of older versions have no such line, and all questions.
        if self.questions != world::tasks::HELD_OUT {
            demo.insert("questions".into(), toml::Value::String(self.questions.to_string()));
        }
        demo.insert("judge".into(), toml::Value::String(self.judge.name().into()));
        demo.insert("train".into(), toml::Value::String(self.train.name().into()));
        let scratch = self.from_scratch.as_ref().map_or("no".to_owned(), |s| format!("{s:?}"));
        demo.insert("from_scratch".into(), toml::Value::String(scratch));
        [("demo".to_owned(), toml::Value::Table(demo))].into_iter().collect()
    }
}

/// The run folder, which is removed when the demo is over unless the user named it.
struct DemoFolder {
    path: PathBuf,
    temporary: bool,
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing can be done about a temporary folder that cannot be removed.
            let _ = disk::remove_dir_all(&self.path);
        }
    }
}

/// Plays the loop: M1 and `rounds` further models, each evaluated on the held-out questions. `renewed` is called after
/// each round.
///
/// # Errors
/// The folder exists already, is in use or has other settings; errors of the stages; `Stopped` when the observer asks
/// for it.
pub fn run(gpu: &Gpu, config: &DemoConfig, renewed: &Renewed, observer: &dyn Observer) -> Result<DemoReport> {
    if config.rounds == 0 || config.prompts == 0 {
        return Err(Error::Input("demo needs at least one round and one prompt".into()));
    }
    if !(1..=world::tasks::HELD_OUT).contains(&config.questions) {
        let most = world::tasks::HELD_OUT;
        return Err(Error::Input(format!("demo measures by 1 to {most} questions, not by {}", config.questions)));
    }
    let start = clock::now();
    let place = match &config.out {
        Some(path) => DemoFolder { path: path.clone(), temporary: false },
        None => DemoFolder { path: disk::temporary("demo"), temporary: true },
    };
    let settings = config.round();
    let sizes = sizes(gpu, &settings);
    let mut folder = RunFolder::open(&place.path, &config.table(), sizes, config.resume, observer)?;
    let scratch = Scratch { dir: folder.path().join("from-scratch") };
    if !folder.model(1).is_there() {
        let tensors = match &config.from_scratch {
            Some(settings) => from_scratch(gpu, settings, &scratch, observer)?,
            None => world::seed_model()?,
        };
        world::save(&folder.model(1), &tensors)?;
        folder.stage_done("M1")?;
    }
    durable::remove_folder(&scratch.dir)?;
    for number in 1..=config.rounds + 1 {
        step(gpu, config, &settings, &mut folder, number, renewed, observer)?;
    }
    let metrics = summarise(config, folder.path())?;
    write_json(&folder.path().join(METRICS), &metrics)?;
    folder.finish()?;
    renewed(folder.path(), observer);
    let round_seconds = (1..=config.rounds).map(|r| folder.seconds(&format!("round-{r}/"))).collect();
    Ok(DemoReport { metrics, round_seconds, seconds: start.elapsed().as_secs_f64() })
}

/// Keeps the states of the training from scratch, in a folder for each stage.
struct Scratch {
    dir: PathBuf,
}

impl States for Scratch {
    fn load(&self, stage: &str, trainer: &mut Trainer) -> Result<()> {
        match Checkpoints::open(&self.dir.join(stage))?.latest()? {
            Some(state) => trainer.load_state(&state),
            None => Ok(()),
        }
    }

    fn save(&self, stage: &str, trainer: &Trainer) -> Result<()> {
        Checkpoints::open(&self.dir.join(stage))?.save(trainer)
    }
}

/// Evaluates M`number` and, unless it is the last one, plays its round.
fn step(
    gpu: &Gpu,
    config: &DemoConfig,
    settings: &RoundSettings,
    folder: &mut RunFolder,
    number: u32,
    renewed: &Renewed,
    observer: &dyn Observer,
) -> Result<()> {
    let answers = evaluation_file(folder.path(), number);
    let files = RoundFiles::new(folder.path(), number);
    let next = folder.model(number + 1);
    let played = number > config.rounds || (next.is_there() && files.dir.join("metrics.json").is_there());
    if answers.is_there() && played {
        return Ok(());
    }
    if observer.stop_requested() {
        return Err(Error::Stopped);
    }
    let domain = WorldDomain;
    let model = domain.load_model(gpu, &folder.model(number))?;
    // The model's own judgment is measured, whoever judges the loop.
    let asked = (config.questions, config.seed);
    evaluation::run(&mut GpuEngine::new(gpu, &model), &self_judge(), asked, &answers, observer)?;
    folder.stage_done(&format!("evaluation/M{number}"))?;
    if played {
        return Ok(());
    }
    let judge: Box<dyn Judge> = match config.judge {
        JudgeKind::Own => Box::new(self_judge()),
        JudgeKind::Random => Box::new(RandomJudge { seed: config.seed }),
        JudgeKind::Oracle => Box::new(OracleJudge),
    };
    let path = folder.path().to_path_buf();
    let models = RunModels { gpu, domain: &domain, run: &path, observer, kv: settings.candidates.kv };
    let (seed, round) = (config.seed, number);
    // The world keeps its held-out questions out by itself.
    let ctx = RoundContext { domain: &domain, settings, seed, round, observer, models: &models, held_out: &[] };
    let earlier = earlier_prompts(folder.path(), number)?;
    play(gpu, model, &ctx, judge.as_ref(), &files, &next, &earlier, &mut |stage| {
        folder.stage_done(&format!("round-{number}/{stage}"))
    })?;
    folder.warn(observer)?;
    renewed(folder.path(), observer);
    Ok(())
}

fn evaluation_file(run: &Path, number: u32) -> PathBuf {
    run.join("evaluation").join(format!("M{number}.jsonl"))
}

/// Gathers everything that the report says, from the files of the run alone.
///
/// # Errors
/// A file of a finished run is missing or broken.
pub fn summarise(config: &DemoConfig, run: &Path) -> Result<DemoMetrics> {
    let mut models: Vec<(String, Vec<QuestionRecord>)> = Vec::new();
    for number in 1..=config.rounds + 1 {
        models.push((format!("M{number}"), read_jsonl(&evaluation_file(run, number))?));
    }
    let mut rounds = Vec::new();
    for number in 1..=config.rounds {
        let files = RoundFiles::new(run, number);
        let pairs: Vec<PairRecord> = read_jsonl(&files.jsonl("pairs"))?;
        rounds.push(round(read_json(&files.dir.join("metrics.json"))?, &pairs));
    }
    Ok(DemoMetrics {
        seed: config.seed,
        judge: config.judge.name().to_owned(),
        train: config.train.name().to_owned(),
        head_to_head: report::comparisons(&models),
        models: report::models(&models),
        rounds,
        samples: samples(&models),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An observer that asks for a stop after so many steps.
    struct Stops(std::cell::Cell<u64>);

    impl Observer for Stops {
        fn advance(&self, n: u64) {
            self.0.set(self.0.get().saturating_sub(n));
        }
        fn stop_requested(&self) -> bool {
            self.0.get() == 0
        }
    }

    #[test]
    fn a_training_from_scratch_goes_on_where_it_stopped() {
        let (gpu, tmp) = (Gpu::open(None, None).unwrap(), tempfile::tempdir().unwrap());
        let mut settings = FromScratch::default();
        for stage in [&mut settings.base, &mut settings.policy] {
            (stage.steps, stage.ift, stage.eft, stage.lists) = (3, 2, 2, 1);
        }
        let scratch = |name: &str| Scratch { dir: tmp.path().join(name) };
        let whole = from_scratch(&gpu, &settings, &scratch("whole"), &crate::Silent).unwrap();
        for steps in 1..6 {
            let states = scratch(&steps.to_string());
            let stopped = from_scratch(&gpu, &settings, &states, &Stops(steps.into())).unwrap_err();
            assert!(matches!(stopped, Error::Stopped), "{stopped}");
            assert_eq!(from_scratch(&gpu, &settings, &states, &crate::Silent).unwrap(), whole, "after {steps} steps");
        }
    }

    #[test]
    fn names_read_back() {
        for (name, kind) in JudgeKind::ALL {
            assert_eq!((name.parse::<JudgeKind>().unwrap(), kind.name()), (kind, name));
        }
        for (name, kind) in TrainKind::ALL {
            assert_eq!((name.parse::<TrainKind>().unwrap(), kind.name()), (kind, name));
        }
        let e = "best".parse::<TrainKind>().unwrap_err().to_string();
        assert!(e.contains("dpo, dpo-nll, sft-best"), "{e}");
    }
}
