//! The tasks of `[evaluation]`: every model does them, and a program checks its answers.

use crate::config::{EvaluationTask, RunConfig};
use crate::disk::OnDisk;
use crate::generate::{ChatLanguage, Engine, Language, Settings};
use crate::json::{read_jsonl, write_json};
use crate::measure::tasks::{Given, Known, Questions, Scored, Shots, Task, differences, report};
use crate::waves::{WaveStage, in_waves};
use crate::{Error, Observer, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A task with all that its models are asked.
pub(super) struct RunTask<'a> {
    config: &'a RunConfig,
    section: &'a EvaluationTask,
    task: Box<dyn Task>,
    questions: Questions,
    /// Where its files lie.
    dir: PathBuf,
    /// The folder's name in progress.
    stage: String,
}

/// Reads the task's file.
pub(super) fn file(section: &EvaluationTask) -> Result<Box<dyn Task>> {
    Known::named(&section.task)?.open(&section.data)
}

impl<'a> RunTask<'a> {
    /// Reads a task whose files lie in `folder` of the run at `run`.
    ///
    /// # Errors
    /// A file cannot be read, or an item is too long for the models.
    pub(super) fn open(
        config: &'a RunConfig,
        section: &'a EvaluationTask,
        language: &ChatLanguage,
        (run, folder): (&Path, &str),
    ) -> Result<Self> {
        let task = file(section)?;
        let shots = match section.shots {
            0 => Shots::default(),
            n => {
                let from = &section.shots_from;
                Shots::choose(&*task, &*Known::named(&section.task)?.open(from)?, from, n as usize)?
            }
        };
        let tokens = section.tokens(config.candidates.max_new_tokens);
        let questions = Questions::new(&*task, &shots, language, tokens)
            .map_err(|e| Error::Input(format!("[evaluation] {}: {e}", section.data.display())))?;
        let label = section.label();
        Ok(Self {
            config,
            section,
            task,
            questions,
            dir: run.join(folder).join(&label),
            stage: format!("{folder}/{label}"),
        })
    }

    /// Whether a model has done it.
    pub(super) fn done(&self, model: &str) -> bool {
        self.document(model).is_there()
    }

    /// Has a model do it, and compares it with those of `rivals` that have.
    ///
    /// # Errors
    /// Errors of the engine and of the files; `Stopped` when the observer asks for it.
    pub(super) fn measure(
        &self,
        (engine, language, observer): (&mut dyn Engine, &ChatLanguage, &dyn Observer),
        model: &str,
        rivals: &[String],
    ) -> Result<()> {
        if self.done(model) {
            return Ok(());
        }
        let (seed, n) = (self.config.run.seed, self.section.samples);
        let settings = self.settings(language);
        let items: Vec<usize> = (0..self.questions.len()).collect();
        let lines = in_waves(
            observer,
            &WaveStage {
                name: &format!("{}/{model}", self.stage),
                unit: "items",
                items: &items,
                wave: self.config.candidates.wave,
                out: &self.lines(model),
            },
            &mut |items| {
                let (Some(first), Some(last)) = (items.first(), items.last()) else { return Ok(Vec::new()) };
                let given = self.questions.ask(*first..*last + 1, n, &settings, (engine, language, observer))?;
                let line = |(item, sample, given)| {
                    Ok(Scored::new(&*self.task, item, sample, given)?.record(&*self.task, None, n))
                };
                given.into_iter().map(line).collect()
            },
            |_| {},
        )?;
        let scored = self.scored(&lines)?;
        let k = if n == 1 { vec![1] } else { vec![1, n] };
        let mut document = report(&*self.task, model, &scored, &k, seed);
        for rival in rivals.iter().filter(|rival| self.done(rival)) {
            let theirs = self.scored(&read_jsonl::<Value>(&self.lines(rival))?)?;
            document.differences.extend(differences(&*self.task, &scored, (rival, &theirs), &k, seed));
        }
        write_json(&self.document(model), &document)
    }

    /// How a model answers: the likeliest words where an item has one answer.
    fn settings(&self, language: &ChatLanguage) -> Settings {
        let mut settings = self.config.candidates.settings(language.stop(), self.config.run.seed);
        settings.max_new_tokens = self.section.tokens(settings.max_new_tokens);
        if self.section.samples == 1 {
            settings.sampling.temperature = 0.0;
        } else if let Some(temperature) = self.section.temperature {
            settings.sampling.temperature = temperature;
        }
        settings
    }

    /// The answers of the lines that tell of them.
    fn scored(&self, lines: &[Value]) -> Result<Vec<Scored>> {
        let n = self.section.samples as usize;
        let wrong = || Error::file(&self.dir, format!("holds {} answers; expected {n} to each item", lines.len()));
        if lines.len() != n * self.task.len() {
            return Err(wrong());
        }
        let read = |(i, line): (usize, &Value)| {
            let given = Given::deserialize(line).map_err(|_| wrong())?;
            Scored::new(&*self.task, i / n, (i % n) as u32, given)
        };
        lines.iter().enumerate().map(read).collect()
    }

    fn lines(&self, model: &str) -> PathBuf {
        self.dir.join(format!("{model}.jsonl"))
    }

    fn document(&self, model: &str) -> PathBuf {
        self.dir.join(format!("{model}.json"))
    }
}
