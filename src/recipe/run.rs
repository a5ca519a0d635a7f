//! `run CONFIG.toml`: the loop on a real model.

use super::chat::ChatDomain;
use super::config::{JudgeSection, RunConfig};
use super::demo::earlier_prompts;
use super::domain::Domain;
use super::records::{read_json, write_file, write_json};
use super::report;
use super::round::{Context, RoundFiles, play, sizes};
use super::run_folder::{RunFolder, Status, status};
use crate::gpu::Gpu;
use crate::judge::{GpuEngine, Judge, Language, Mode, ModelJudge, RandomJudge, Templates, calibrate};
use crate::model::Model;
use crate::rng::fnv;
use crate::weights::{ModelSource, SOURCE_FILE};
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Plays the rounds that `config` asks for; a finished run is left as it is.
///
/// # Errors
/// A model, seed file or template that cannot be read; a run folder that exists, is in use or has other settings; errors of the
/// stages; `Stopped` when the observer asks for it.
pub fn run(gpu: &Gpu, config: &RunConfig, resume: bool, observer: &dyn Observer) -> Result<Status> {
    config.check()?;
    let source = ModelSource::open_or_fetch(&config.model.path, observer)?;
    source.warnings.iter().for_each(|sentence| observer.note(sentence));
    let domain = ChatDomain::new(&source, &config.prompts)?;
    let templates = templates(&config.judge)?;
    let table = toml::Table::try_from(config).map_err(|e| Error::Input(format!("configuration: {e}")))?;
    let sizes = sizes(gpu, &config.round());
    let mut folder = RunFolder::open(&config.run.out, &table, sizes, resume)?;
    refer(&folder.model(0), &std::path::absolute(&source.path).map_err(Error::io(&source.path))?)?;
    // Without supervised data the first model that plays is the given one.
    refer(&folder.model(1), Path::new("../M0"))?;
    for round in 1..=config.run.rounds {
        let files = RoundFiles::new(folder.path(), round);
        let next = folder.model(round + 1);
        if next.exists() && files.dir.join("metrics.json").exists() {
            continue;
        }
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let model = domain.load_model(gpu, &folder.model(round))?;
        let judge = judge(gpu, &model, &source, domain.language(), config, &templates, folder.path(), observer)?;
        if config.judge.mode == "auto" {
            folder.stage_done("calibration")?;
        }
        let settings = config.round();
        let ctx = Context { domain: &domain, settings: &settings, seed: config.run.seed, round, observer };
        let earlier = earlier_prompts(folder.path(), round)?;
        play(gpu, model, &ctx, judge.as_ref(), &files, &next, &earlier, &mut |stage| {
            folder.stage_done(&format!("round-{round}/{stage}"))
        })?;
        report::refresh(folder.path(), observer);
    }
    folder.finish()?;
    report::refresh(folder.path(), observer);
    let path = folder.path().to_path_buf();
    drop(folder);
    status(&path)
}

/// Makes `dir` a reference to another model.
fn refer(dir: &Path, to: &Path) -> Result<()> {
    let path = dir.join(SOURCE_FILE);
    if path.exists() {
        return Ok(());
    }
    let json = serde_json::json!({ "path": to });
    write_file(&path, format!("{json}\n").as_bytes())
}

/// The shipped templates, with the user's own in the place that the mode reads.
fn templates(section: &JudgeSection) -> Result<Templates> {
    let mut templates = Templates::default();
    if !section.template.as_os_str().is_empty() {
        let path = &section.template;
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mode: Mode = section
            .mode
            .parse()
            .map_err(|_| Error::Input(format!("[judge] template needs a mode, not {:?}", section.mode)))?;
        templates.replace(mode, &text);
        // Found out here, not after the first candidates are written.
        let all = [&templates.additive, &templates.yes, &templates.backward, &templates.marks.template];
        for template in all.into_iter().chain(&templates.criteria) {
            template.fill("question", "answer").map_err(|e| Error::file(path, e.to_string()))?;
        }
    }
    Ok(templates)
}

/// The file of [`Kept`] in a run folder.
pub(super) const CALIBRATION_FILE: &str = "calibration.json";

/// `calibration.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    /// Hash of the given model's configuration and weights.
    model: String,
    pub(super) calibration: calibrate::Calibration,
}

#[expect(clippy::too_many_arguments, reason = "called once; the arguments have nothing else in common")]
fn judge<'a>(
    gpu: &Gpu,
    model: &Model,
    source: &ModelSource,
    language: &'a dyn Language,
    config: &RunConfig,
    templates: &Templates,
    run: &Path,
    observer: &dyn Observer,
) -> Result<Box<dyn Judge + 'a>> {
    if config.judge.mode == "random" {
        return Ok(Box::new(RandomJudge { seed: config.run.seed }));
    }
    let mode = match config.judge.mode.as_str() {
        "auto" => calibrated(gpu, model, source, language, config, run, observer)?,
        name => name.parse()?,
    };
    let settings = config.judge.settings(config.run.seed);
    Ok(Box::new(ModelJudge { mode, language, templates: templates.clone(), settings }))
}

/// The mode that suits the given model; measured once a run, before round 1.
fn calibrated(
    gpu: &Gpu,
    model: &Model,
    source: &ModelSource,
    language: &dyn Language,
    config: &RunConfig,
    run: &Path,
    observer: &dyn Observer,
) -> Result<Mode> {
    let path = run.join(CALIBRATION_FILE);
    let hash = hash(source)?;
    let kept: Kept = if path.exists() {
        read_json(&path)?
    } else {
        let settings = config.judge.settings(config.run.seed);
        let mut engine = GpuEngine::new(gpu, model);
        let questions = config.judge.calibration;
        let calibration = calibrate::with(&mut engine, language, &settings, &Mode::ALL, questions, observer)?;
        let kept = Kept { model: hash.clone(), calibration };
        write_json(&path, &kept)?;
        kept
    };
    if kept.model != hash {
        return Err(Error::file(&path, "was measured with another model; name another folder"));
    }
    if let Some(warning) = &kept.calibration.warning {
        observer.note(warning);
    }
    let none = "no judge mode can be used with this model; see the file for the reasons";
    kept.calibration.recommended.ok_or_else(|| Error::file(&path, none))
}

fn hash(source: &ModelSource) -> Result<String> {
    let mut all = fnv(source.config.to_string().as_bytes());
    for name in source.weights.names() {
        all = fnv(&[all.to_le_bytes(), fnv(&source.weights.get(name)?.data).to_le_bytes()].concat());
    }
    Ok(super::records::hex(all))
}
