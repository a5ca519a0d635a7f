//! The whole loop on a real model: `run CONFIG.toml`.

use super::chat::ChatDomain;
use super::context::{Renewed, RoundContext, RoundFiles, sizes};
use super::controls::Controls;
use super::domain::Domain;
use super::evaluation::{self, Evaluation, Subject};
use super::gate::{self, Gate};
use super::judging::{can_check, judge, ranked, templates};
use super::models::{Models, RunModels};
use super::round::play;
use super::run_folder::{RunFolder, Status, join, status};
use super::run_metrics;
use super::shards::{self, Shard};
use super::stages::prompts;
use super::stages::prompts::earlier_prompts;
use super::supervised::{self, Supervision};
use super::tasks;
use crate::config::{Judging, RunConfig};
use crate::data::answers::read_prompts;
use crate::data::records::hex;
use crate::disk::{self, OnDisk};
use crate::generate::{ChatLanguage, GpuEngine};
use crate::gpu::Gpu;
use crate::json::write_file;
use crate::measure::held_out::{HeldOut, read_held_out};
use crate::rng::fnv;
use crate::settings::setters;
use crate::source::{ModelSource, SOURCE_FILE};
use crate::{Error, Observer, Result};
use std::path::Path;

/// How far [`run`] plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// Plays to the end of the run.
    End,
    /// Plays to the prompts of the first round whose answers are still to be written; [`shard`] writes them.
    Prompts,
}

/// How [`run`] is to be played: anew, to the end and without a report, unless it is told otherwise.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RunOptions<'a> {
    /// Whether to continue a run folder that exists.
    pub resume: bool,
    /// How far to play.
    pub until: Until,
    /// Whether to train on the scores of a judge that is below `[judge] floor`.
    pub force: bool,
    /// What is called after each stage that a report shows, with the run folder.
    pub renewed: &'a Renewed<'a>,
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self { resume: false, until: Until::End, force: false, renewed: &|_, _| {} }
    }
}

setters! {
    impl RunOptions<'a> {
        /// Whether to continue a run folder that exists.
        resume: bool;
        /// How far to play.
        until: Until;
        /// Whether to train on the scores of a judge that is below `[judge] floor`.
        force: bool;
        /// What is called after each stage that a report shows, with the run folder.
        renewed: &'a Renewed<'a>;
    }
}

/// Opens the model that the loop begins with.
fn open(config: &RunConfig, observer: &dyn Observer) -> Result<ModelSource> {
    let source = ModelSource::open_or_fetch(&config.model.path, observer)?;
    Ok(source.with_template_args(&config.model.template_args))
}

/// The loop's models and what is trained of them.
fn domain<'a>(source: &'a ModelSource, config: &RunConfig, observer: &'a dyn Observer) -> Result<ChatDomain<'a>> {
    let domain = ChatDomain::new(source, &config.prompts)?.training(config.lora.as_ref(), observer)?;
    if domain.trains_adapters() {
        config.agree_with_adapter()?;
    }
    Ok(domain)
}

/// Plays the rounds that `config` asks for. A finished run is left as it is.
///
/// # Errors
/// A round's judge is below `[judge] floor` and `force` is not set; a model, seed file or template cannot be read; the
/// run folder exists, is in use or has other settings; errors of the stages; `Stopped` when the observer asks for it.
pub fn run(gpu: &Gpu, config: &RunConfig, how: &RunOptions, observer: &dyn Observer) -> Result<Status> {
    config.check()?;
    are_there(config)?;
    let source = open(config, observer)?;
    source.warnings.iter().for_each(|sentence| observer.note(sentence));
    let domain = domain(&source, config, observer)?;
    let contents = contents(config)?;
    can_check(config, &domain)?;
    let templates = templates(&config.judge)?;
    let held_out = held_out(config)?;
    // A wrong file is found here, before the first models are made.
    ranked(config)?;
    if !config.validation.prompts.as_os_str().is_empty() {
        let prompts = read_prompts(&config.validation.prompts)?;
        let language = ChatLanguage::new(&source)?;
        evaluation::fits(&config.validation.prompts, &prompts, &language, config.candidates.max_new_tokens)?;
    }
    let supervision = Supervision::read(&config.sft, &source, config.run.seed, observer)?;
    let mut sizes = sizes(gpu, &config.round());
    if let Some(supervision) = &supervision {
        sizes.insert("sft.records".to_owned(), hex(supervision.hash()).into());
    }
    sizes.extend(contents);
    if domain.trains_adapters() {
        // Every model of the run reads it again.
        sizes.insert("M0".to_owned(), hex(source.hash()?).into());
    }
    let mut folder = RunFolder::open(&config.run.out, &config.table()?, sizes, how.resume, observer)?;
    let path = folder.path().to_path_buf();
    let models = RunModels { gpu, domain: &domain, run: &path, observer, kv: config.candidates.kv };
    let evaluation = Evaluation::open(&models, &source, config, &templates, &path, observer)?;
    refer(&folder.model(0), &disk::absolute(source.whole()).map_err(Error::io(source.whole()))?)?;
    match &supervision {
        Some(supervision) => {
            let dir = path.join(supervised::FOLDER);
            let (first, next) = (folder.model(0), folder.model(1));
            supervision.run(gpu, &domain, [&first, &next, &dir], observer)?;
            folder.stage_done(&format!("{}/training", supervised::FOLDER))?;
            (how.renewed)(&path, observer);
        }
        // Without supervised data the first model that plays is the given one.
        None => refer(&folder.model(1), Path::new("../M0"))?,
    }
    let settings = config.round();
    let (seed, held_out) = (config.run.seed, &held_out[..]);
    let ctx =
        RoundContext { domain: &domain, settings: &settings, seed, round: 1, observer, models: &models, held_out };
    for round in 1..=config.run.rounds + 1 {
        if round == 2 {
            let judged = |model: &_| judge(gpu, model, &source, domain.language(), config, &templates, &path, observer);
            let evaluation = evaluation.as_ref();
            let controls = Controls { gpu, config, ctx: &ctx, evaluation, judge: &judged };
            controls.play(&mut folder, how.renewed)?;
        }
        let files = RoundFiles::new(&path, round);
        let next = folder.model(round + 1);
        let played = round > config.run.rounds || (next.is_there() && files.dir.join("metrics.json").is_there());
        let subjects = match (round, &supervision) {
            (1, Some(_)) => vec![Subject::model(1), Subject::model(0)],
            _ => vec![Subject::model(round)],
        };
        let measured = evaluation.as_ref().is_none_or(|e| subjects.iter().all(|s| e.done(s)));
        if played {
            folder.keep_newest(config.kept(), round.min(config.run.rounds) + 1)?;
        }
        if played && measured {
            continue;
        }
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let model = domain.load_model(gpu, &folder.model(round))?;
        let judge = judge(gpu, &model, &source, domain.language(), config, &templates, &path, observer)?;
        if config.judge.mode == Judging::Auto {
            folder.stage_done("calibration")?;
        }
        if !played {
            let gate = Gate { run: &path, config, force: how.force, observer };
            let hash = || ModelSource::open(&folder.model(round))?.hash();
            let engine = &mut GpuEngine::new(gpu, &model).kv(config.candidates.kv);
            if let Some(record) = gate.measure(engine, round, judge.as_ref(), &hash)? {
                folder.stage_done(&format!("{}/M{round}", gate::FOLDER))?;
                gate.pass(round, &record)?;
            }
        }
        for (at, subject) in subjects.iter().enumerate().filter(|_| !measured) {
            let Some(evaluation) = &evaluation else { continue };
            match at {
                0 => {
                    let engine = &mut GpuEngine::new(gpu, &model).kv(config.candidates.kv);
                    evaluation.measure(engine, subject, judge.as_ref())?;
                }
                _ => models.with(0, &mut |engine| evaluation.measure(engine, subject, judge.as_ref()))?,
            }
            run_metrics::write(&path, config.run.seed)?;
            folder.stage_done(&format!("{}/{}", evaluation::FOLDER, subject.name))?;
            folder.warn(observer)?;
            (how.renewed)(&path, observer);
        }
        if played {
            continue;
        }
        let ctx = RoundContext { round, ..ctx };
        let earlier = earlier_prompts(&path, round)?;
        let missing = shards::missing(&files)?;
        let answered = shards::begun(&files) && missing.is_empty() || files.jsonl("candidates").is_there();
        if how.until == Until::Prompts && !answered {
            let engine = &mut GpuEngine::new(gpu, &model).kv(config.candidates.kv);
            prompts::run(engine, &ctx, &earlier, &files)?;
            folder.stage_done(&format!("round-{round}/prompts"))?;
            observer.note(&match missing.is_empty() {
                true => format!("round {round}: the prompts are there; answer and judge them with --shard I/N"),
                false => format!("round {round}: shards that are not finished: {}", missing.join(", ")),
            });
            drop(folder);
            return status(&path);
        }
        play(gpu, model, &ctx, judge.as_ref(), &files, &next, &earlier, &mut |stage| {
            folder.stage_done(&format!("round-{round}/{stage}"))
        })?;
        folder.keep_newest(config.kept(), round + 1)?;
        folder.warn(observer)?;
        (how.renewed)(&path, observer);
    }
    run_metrics::write(&path, config.run.seed)?;
    folder.warn(observer)?;
    folder.finish()?;
    (how.renewed)(&path, observer);
    drop(folder);
    status(&path)
}

/// Writes the answers and verdicts of one shard of the prompts in the round that a run has come to; the next [`run`]
/// merges them. Several processes may work at the same time. Returns how many prompts the shard has.
///
/// # Errors
/// The run has not begun, or has not come to its answers; errors of the stages; `Stopped` when the observer asks for
/// it.
pub fn shard(gpu: &Gpu, config: &RunConfig, shard: Shard, observer: &dyn Observer) -> Result<usize> {
    config.check()?;
    let source = open(config, observer)?;
    let domain = domain(&source, config, observer)?;
    let templates = templates(&config.judge)?;
    let path = &config.run.out;
    let _shared = join(path, &config.table()?, observer)?;
    let exists = |round: u32| path.join(format!("M{}", round + 1)).is_there();
    if !exists(0) {
        return Err(Error::file(path, "has no M1 yet: run --until prompts first"));
    }
    let Some(round) = (1..=config.run.rounds).find(|round| !exists(*round)) else {
        return Err(Error::file(path, "is over: there is nothing left to share"));
    };
    let model = domain.load_model(gpu, &path.join(format!("M{round}")))?;
    let judge = judge(gpu, &model, &source, domain.language(), config, &templates, path, observer)?;
    let models = RunModels { gpu, domain: &domain, run: path, observer, kv: config.candidates.kv };
    let (settings, seed) = (config.round(), config.run.seed);
    let ctx =
        RoundContext { domain: &domain, settings: &settings, seed, round, observer, models: &models, held_out: &[] };
    shards::run(
        &mut GpuEngine::new(gpu, &model).kv(config.candidates.kv),
        &ctx,
        judge.as_ref(),
        &RoundFiles::new(path, round),
        shard,
    )
}

/// The files that a run reads beside its model and the records of `[sft]`, each with its section and key.
fn files(config: &RunConfig) -> Vec<([&'static str; 2], &Path)> {
    let single = [
        (["judge", "template"], &config.judge.template),
        (["judge", "ranked"], &config.judge.ranked),
        (["prompts", "seed_file"], &config.prompts.seed_file),
        (["validation", "prompts"], &config.validation.prompts),
        (["evaluation", "prompts"], &config.evaluation.prompts),
        (["evaluation", "ranked"], &config.evaluation.ranked),
        (["evaluation", "texts"], &config.evaluation.texts),
    ];
    let several = config.prompts.exclude.iter().map(|path| (["prompts", "exclude"], path));
    let tasks = config.evaluation.tasks.iter().flat_map(|task| [&task.data, &task.shots_from]);
    let several = several.chain(tasks.map(|path| (["evaluation", "tasks"], path)));
    let given = single.into_iter().chain(several).filter(|(_, path)| !path.as_os_str().is_empty());
    given.map(|(key, path)| (key, path.as_path())).collect()
}

/// Fails at the first file that is not there, by its key; else it would be missed after the model was read.
fn are_there(config: &RunConfig) -> Result<()> {
    let records = config.sft.files.iter().map(|path| (["sft", "files"], path.as_path()));
    match files(config).into_iter().chain(records).find(|(_, path)| !path.is_there()) {
        None => Ok(()),
        Some(([section, key], path)) => {
            Err(Error::Input(format!("[{section}] {key}: {}: does not exist", path.display())))
        }
    }
}

/// Hashes of the files that a run reads. A resume must find the same.
fn contents(config: &RunConfig) -> Result<Vec<(String, serde_json::Value)>> {
    let hash = |([section, key], path): ([&str; 2], &Path)| {
        let bytes =
            disk::read(path).map_err(|e| Error::Input(format!("[{section}] {key}: {}: {e}", path.display())))?;
        Ok((format!("{section}.{key} {}", path.display()), hex(fnv(&bytes)).into()))
    };
    files(config).into_iter().map(hash).collect()
}

/// The prompts of every file on which the run is measured.
fn held_out(config: &RunConfig) -> Result<Vec<HeldOut>> {
    let sets = [&config.validation.prompts, &config.evaluation.prompts].into_iter().chain(&config.prompts.exclude);
    let mut all = Vec::new();
    for path in sets.filter(|path| !path.as_os_str().is_empty()) {
        all.extend(read_held_out(path)?);
    }
    for section in &config.evaluation.tasks {
        let task = tasks::file(section)?;
        // Its records may say beside the prompt what it is about; not every task has them in the form of prompts.
        match read_held_out(&section.data) {
            Ok(records) => all.extend(records),
            Err(_) => all.extend((0..task.len()).map(|item| HeldOut::from(task.entry(item).prompt.clone()))),
        }
    }
    Ok(all)
}

/// Makes the folder `dir` a reference to another model.
fn refer(dir: &Path, to: &Path) -> Result<()> {
    let path = dir.join(SOURCE_FILE);
    if path.is_there() {
        return Ok(());
    }
    let json = serde_json::json!({ "path": to });
    write_file(&path, format!("{json}\n").as_bytes())
}
