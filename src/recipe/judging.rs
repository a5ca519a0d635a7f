//! The judge of a run: its templates, and, where the configuration says `auto`, the mode that suits the model.

use super::domain::Domain;
use crate::config::{JudgeSection, Judging, RunConfig};
use crate::data::answers::read_asked;
use crate::data::records::hex;
use crate::disk::{self, OnDisk};
use crate::generate::GpuEngine;
use crate::gpu::Gpu;
use crate::json::{read_json, write_json};
use crate::judge::{Checks, Judge, Mode, ModelJudge, RandomJudge, Templates};
use crate::measure::agreement::read_ranked;
use crate::measure::calibrate::{self, Ranked, by_question, ranked_set};
use crate::measure::signals::Signal;
use crate::model::Model;
use crate::source::ModelSource;
use crate::text::Language;
use crate::waves::{Waves, tidy};
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The shipped templates, with the user's own one in the place that the mode reads.
pub(crate) fn templates(section: &JudgeSection) -> Result<Templates> {
    let mut templates = Templates::default();
    if !section.template.as_os_str().is_empty() {
        let path = &section.template;
        let text = disk::read_to_string(path).map_err(Error::io(path))?;
        if let Judging::By(mode) = section.mode {
            templates.replace(mode, &text);
        }
        // Found out here, not after the first candidates are written.
        let all = [&templates.additive, &templates.yes, &templates.backward, &templates.marks.template];
        for template in all.into_iter().chain(&templates.criteria) {
            template.fill("question", "answer").map_err(|e| Error::file(path, e.to_string()))?;
        }
    }
    Ok(templates)
}

/// The ranked answers on which a run's judge is measured: those of `[judge] ranked`, or the shipped ones; as many
/// questions as `[judge] calibration` says.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn ranked(config: &RunConfig) -> Result<Vec<Ranked>> {
    let section = &config.judge;
    let mut set = match section.ranked.as_os_str().is_empty() {
        true => ranked_set()?,
        false => by_question(read_ranked(&section.ranked)?),
    };
    if section.calibration > 0 {
        set.truncate(section.calibration);
    }
    Ok(set)
}

/// Name of the file in a run folder that holds the calibration ([`KeptCalibration`]).
pub(super) const CALIBRATION_FILE: &str = "calibration.json";

/// The content of `calibration.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptCalibration {
    /// Hash of the configuration and the weights of the model that was calibrated.
    model: String,
    pub(super) calibration: calibrate::Calibration,
}

/// How the judge's mode was chosen in the run folder `run`; `None` where it was given.
///
/// # Errors
/// The file is broken.
pub fn calibration(run: &Path) -> Result<Option<calibrate::Calibration>> {
    let path = run.join(CALIBRATION_FILE);
    if !path.is_there() {
        return Ok(None);
    }
    let kept: KeptCalibration = read_json(&path)?;
    Ok(Some(kept.calibration))
}

#[expect(clippy::too_many_arguments, reason = "called once; the arguments have nothing else in common")]
pub(super) fn judge<'a>(
    gpu: &Gpu,
    model: &Model,
    source: &ModelSource,
    language: &'a dyn Language,
    config: &RunConfig,
    templates: &Templates,
    run: &Path,
    observer: &dyn Observer,
) -> Result<Box<dyn Judge + 'a>> {
    let mode = match config.judge.mode {
        Judging::Signal(_) => {
            let signal = config.judge.signal()?.ok_or_else(|| Error::Bug("a signal without its judge".into()))?;
            return Ok(Box::new(signal));
        }
        Judging::Random => return Ok(Box::new(RandomJudge { seed: config.run.seed })),
        Judging::Auto => calibrated(gpu, model, source, language, config, run, observer)?,
        Judging::By(mode) => mode,
    };
    let settings = config.judge.settings(config.run.seed)?;
    Ok(Box::new(ModelJudge { mode, language, templates: templates.clone(), settings }))
}

/// Checks that each prompt whose answers a program is to check says by what: those of the seed file, unless constraints
/// are put behind them, and those of early stopping.
///
/// # Errors
/// The first record that does not.
pub(super) fn can_check(config: &RunConfig, domain: &dyn Domain) -> Result<()> {
    let Judging::Signal(signal) = config.judge.mode else { return Ok(()) };
    let check = |path: &Path, at: usize, prompt: &str, checks: &Checks| {
        let wrong = |what| Error::file(path, format!("record {}: {what}", at + 1));
        signal.checker(prompt, checks).map(|_| ()).map_err(wrong)
    };
    let drawn = signal == Signal::Rules && config.constraints.most > 0;
    if config.prompts.from_seed > 0 {
        for (at, (prompt, checks)) in domain.seed_prompts().iter().zip(domain.seed_checks()).enumerate() {
            if !(drawn && checks.is_empty()) {
                check(&config.prompts.seed_file, at, prompt, checks)?;
            }
        }
    }
    let path = &config.validation.prompts;
    if !path.as_os_str().is_empty() {
        for (at, asked) in read_asked(path)?.iter().enumerate() {
            check(path, at, &asked.prompt.question(), &asked.checks)?;
        }
    }
    Ok(())
}

/// The mode that suits the given model. It is measured once in a run, before round 1.
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
    let hash = hex(source.hash()?);
    let kept: KeptCalibration = if path.is_there() {
        tidy(&path)?;
        read_json(&path)?
    } else {
        let settings = config.judge.settings(config.run.seed)?;
        let mut engine = GpuEngine::new(gpu, model).kv(config.candidates.kv);
        let set = ranked(config)?;
        // What was measured before a stop counts only if it was measured with the same weights.
        let mut waves = Waves::<(String, calibrate::ModeResult)>::open(&path)?;
        let mut done: Vec<calibrate::ModeResult> =
            waves.done().iter().filter(|(of, _)| *of == hash).map(|(_, result)| result.clone()).collect();
        let mut after = |result: &calibrate::ModeResult| waves.push((hash.clone(), result.clone()));
        let calibration = calibrate::run_rest(&mut engine, language, &settings, &set, &mut done, &mut after, observer)?;
        let kept = KeptCalibration { model: hash.clone(), calibration };
        write_json(&path, &kept)?;
        waves.remove()?;
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
