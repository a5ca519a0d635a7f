//! Measures every model of a run as `[evaluation]` says: its answers to held-out prompts against those of other models,
//! its own judgment on ranked answers, and tasks whose answers a program checks. The small world has a measure of its
//! own (`demo/evaluation.rs`).

use super::models::Models;
use super::tasks::RunTask;
use crate::config::{Comparison, RunConfig};
use crate::data::answers::{AnswerSet, ask, read_answers, read_prompts, read_records, write_alpaca};
use crate::disk::{self, OnDisk};
use crate::generate::ChatLanguage;
use crate::generate::Engine;
use crate::json::{read_json, write_json};
use crate::judge::{Item, Judge, ModelJudge, PairwiseJudge, Templates};
use crate::measure::agreement::{Reference, agreement, read_ranked};
use crate::measure::duel::{DuelRecord, DuelReport, Referee, play, summarise};
use crate::measure::perplexity::{Passage, Windows, each};
use crate::rng::fnv;
use crate::source::ModelSource;
use crate::text::Language;
use crate::text::Prompt;
use crate::waves::{WaveStage, in_waves};
use crate::{Error, Observer, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the folder in a run folder that holds the evaluation's files.
pub(crate) const FOLDER: &str = "evaluation";

/// One answer to a held-out prompt: a line of `evaluation/M1.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// The held-out prompt.
    #[serde(flatten)]
    pub prompt: Prompt,
    /// The model's answer.
    pub response: String,
    /// How many tokens the answer has.
    pub tokens: usize,
    /// Whether the model ended the answer itself; not there in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<bool>,
}

/// How a model predicts one of the texts of `[evaluation] texts`: a line of `evaluation/M1-texts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextRecord {
    /// How many of its tokens were scored.
    pub tokens: usize,
    /// The sum of their negative log-probs, in nats.
    pub nll: f64,
}

/// A line of the file of texts.
#[derive(Deserialize)]
struct TextLine {
    text: String,
}

/// Most tokens that are read at once of a text.
pub(crate) const WINDOW: usize = 4096;

/// A model that is trained beside those of the run, to compare with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The name of its folder and of its files.
    pub name: &'static str,
    /// What tables call it.
    pub title: &'static str,
    /// What plots call it.
    pub short: &'static str,
}

/// Name of the folder in a run folder that holds the controls.
pub(crate) const CONTROLS_FOLDER: &str = "controls";

/// All controls.
pub const CONTROLS: [Control; 2] = [
    Control { name: "random", title: "random judge", short: "random" },
    Control { name: "sft-best", title: "SFT on the best", short: "SFT" },
];

/// What is measured: a model of the run, or a control beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// How files and tables name it, such as `M2`.
    pub name: String,
    /// The numbers of the models with whose answers its own are compared.
    rivals: Vec<u32>,
}

impl Subject {
    /// The model M`number`, which is compared with the one before it and with the first of the loop.
    pub fn model(number: u32) -> Self {
        let rivals = match number {
            0 | 1 => Vec::new(),
            2 => vec![1],
            _ => vec![number - 1, 1],
        };
        Self { name: format!("M{number}"), rivals }
    }

    /// A control, which is compared with the model from which it was trained.
    pub fn control(control: &Control) -> Self {
        Self { name: control.name.to_owned(), rivals: vec![1] }
    }
}

/// A ranked answer with the model's own score: a line of `evaluation/M1-judge.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedRecord {
    /// The question of the ranked answer.
    pub prompt: String,
    /// The answer that is judged.
    pub response: String,
    /// The answer's score in the reference; higher is better.
    pub score_reference: f64,
    /// The model's score; null when none could be read.
    pub score: Option<f64>,
}

/// The evaluation of one run: what is measured, and where it is written.
pub struct Evaluation<'a> {
    models: &'a dyn Models,
    language: ChatLanguage<'a>,
    config: &'a RunConfig,
    dir: PathBuf,
    prompts: Vec<Prompt>,
    ranked: Vec<Reference>,
    texts: Vec<Passage>,
    tasks: Vec<RunTask<'a>>,
    templates: &'a Templates,
    observer: &'a dyn Observer,
}

/// The documents in a folder of a run whose file stems are wanted, by their stems: those of earlier models first, those
/// of controls last.
///
/// # Errors
/// A document is broken.
pub(crate) fn documents<T: DeserializeOwned>(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, T)>> {
    let mut found: Vec<(u32, String)> = Vec::new();
    for entry in disk::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".json").filter(|stem| wanted(stem)) else { continue };
        let model = CONTROLS.iter().map(|c| c.name).find(|c| stem.starts_with(c)).or(stem.split('-').next());
        let number = model.and_then(|model| model.strip_prefix('M')?.parse().ok());
        let control = CONTROLS.iter().any(|c| model == Some(c.name));
        found.extend(number.or(control.then_some(u32::MAX)).map(|n| (n, stem.to_owned())));
    }
    found.sort();
    found.into_iter().map(|(_, stem)| Ok((stem.clone(), read_json(&dir.join(format!("{stem}.json")))?))).collect()
}

/// The comparisons that the run in the folder `run` has made.
///
/// # Errors
/// A document is broken.
pub(crate) fn duels(run: &Path) -> Result<Vec<DuelReport>> {
    let all = documents(&run.join(FOLDER), |stem| stem.contains("-M"))?;
    Ok(all.into_iter().map(|(_, duel)| duel).collect())
}

/// Checks that every prompt of a file leaves room for an answer of `new` tokens.
///
/// # Errors
/// A prompt leaves no room, which the error names by number, or cannot be encoded.
pub(crate) fn fits(path: &Path, prompts: &[Prompt], language: &ChatLanguage, new: usize) -> Result<()> {
    for (i, prompt) in prompts.iter().enumerate() {
        let (tokens, context) = (language.ask_prompt(prompt)?.len(), language.context());
        if tokens + new > context {
            let what = format!("prompt {} has {tokens} tokens; with [candidates] max_new_tokens = {new}", i + 1);
            return Err(Error::file(path, format!("{what} that is more than the model's context of {context}")));
        }
    }
    Ok(())
}

impl<'a> Evaluation<'a> {
    /// Reads what is to be measured on; `None` if the configuration asks for nothing. Answers that are scored alone are
    /// scored with `templates`, those of the run.
    ///
    /// # Errors
    /// The prompts, the ranked answers or the tasks cannot be read, or are too long.
    pub fn open(
        models: &'a dyn Models,
        source: &'a ModelSource,
        config: &'a RunConfig,
        templates: &'a Templates,
        run: &Path,
        observer: &'a dyn Observer,
    ) -> Result<Option<Self>> {
        let section = &config.evaluation;
        let given = |path: &Path| !path.as_os_str().is_empty();
        let prompts = if given(&section.prompts) { read_prompts(&section.prompts)? } else { Vec::new() };
        let ranked = if given(&section.ranked) { read_ranked(&section.ranked)? } else { Vec::new() };
        let lines: Vec<TextLine> = if given(&section.texts) { read_records(&section.texts)? } else { Vec::new() };
        if prompts.is_empty() && ranked.is_empty() && lines.is_empty() && section.tasks.is_empty() {
            return Ok(None);
        }
        if given(&section.judge) {
            // A wrong judge is found here, before the first models are made.
            ModelSource::open(&section.judge)?.text()?;
        }
        let (language, dir) = (ChatLanguage::new(source)?, run.join(FOLDER));
        fits(&section.prompts, &prompts, &language, config.candidates.max_new_tokens)?;
        let task = |section| RunTask::open(config, section, &language, (run, FOLDER));
        let tasks = section.tasks.iter().map(task).collect::<Result<_>>()?;
        let texts = lines.iter().map(|line| Passage::text(&language, &line.text)).collect::<Result<_>>()?;
        Ok(Some(Self { models, language, config, dir, prompts, ranked, texts, tasks, templates, observer }))
    }

    /// Whether all has been measured of a model.
    pub fn done(&self, of: &Subject) -> bool {
        let name = &of.name;
        let duels = self.rivals(of).iter().map(|rival| self.file(&format!("{name}-M{rival}.json")));
        let answers = (!self.prompts.is_empty()).then(|| self.file(&format!("{name}.json")));
        let judged = (!self.ranked.is_empty()).then(|| self.file(&format!("{name}-judge.json")));
        let texts = (!self.texts.is_empty()).then(|| self.texts_file(name));
        let tasks = self.tasks.iter().all(|task| task.done(name));
        tasks && duels.chain(answers).chain(judged).chain(texts).all(|path| path.is_there())
    }

    /// Measures a model, which `engine` runs; `judge` is the judge of the run. Finished parts are left as they are.
    ///
    /// # Errors
    /// Errors of the engine, of the judges and of the files; `Stopped` when the observer asks for it.
    pub fn measure(&self, engine: &mut dyn Engine, of: &Subject, judge: &dyn Judge) -> Result<()> {
        if !self.prompts.is_empty() {
            self.answer(engine, &of.name)?;
        }
        if !self.ranked.is_empty() {
            self.judge(engine, &of.name, judge)?;
        }
        if !self.texts.is_empty() {
            self.read_texts(engine, &of.name)?;
        }
        // What the loop began from is there once M1 has been measured, and is compared with that.
        let base = (of.name == "M0").then_some(1);
        let rivals: Vec<String> = of.rivals.iter().copied().chain(base).map(|number| format!("M{number}")).collect();
        for task in &self.tasks {
            task.measure((engine, &self.language, self.observer), &of.name, &rivals)?;
        }
        self.duels(of)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The numbers of the models with which a model is compared.
    fn rivals<'s>(&self, of: &'s Subject) -> &'s [u32] {
        if self.prompts.is_empty() { &[] } else { &of.rivals }
    }

    fn answer(&self, engine: &mut dyn Engine, model: &str) -> Result<()> {
        let c = &self.config.candidates;
        let settings = c.settings(self.language.stop(), self.config.run.seed);
        let name = format!("{FOLDER}/{model}");
        in_waves(
            self.observer,
            &WaveStage {
                name: &name,
                unit: "prompts",
                items: &self.prompts,
                wave: c.wave,
                out: &self.answers_file(model),
            },
            &mut |prompts| {
                let ids = prompts.iter().map(|p| self.language.ask_prompt(p)).collect::<Result<Vec<_>>>()?;
                let outputs = ask(engine, &ids, self.config.evaluation.samples, &settings, self.observer)?;
                let mut records = Vec::new();
                for (prompt, outputs) in prompts.iter().zip(outputs) {
                    for output in outputs {
                        let response = self.language.decode(&output.tokens)?.trim().to_owned();
                        let (tokens, stopped) = (output.tokens.len(), Some(output.stopped));
                        records.push(AnswerRecord { prompt: prompt.clone(), response, tokens, stopped });
                    }
                }
                Ok(records)
            },
            |_| {},
        )?;
        let dataset =
            self.config.evaluation.prompts.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
        let out = self.file(&format!("{model}.json"));
        if out.is_there() { Ok(()) } else { write_alpaca(&out, &self.prompts, &self.answers(model)?, &dataset) }
    }

    fn answers_file(&self, model: &str) -> PathBuf {
        self.file(&format!("{model}.jsonl"))
    }

    fn answers(&self, model: &str) -> Result<AnswerSet> {
        read_answers(&self.answers_file(model), &self.prompts)
    }

    fn texts_file(&self, model: &str) -> PathBuf {
        self.file(&format!("{model}-texts.jsonl"))
    }

    fn read_texts(&self, engine: &mut dyn Engine, model: &str) -> Result<()> {
        let (name, out) = (format!("{FOLDER}/{model}-texts"), self.texts_file(model));
        let (unit, wave) = ("texts", self.config.candidates.wave);
        let length = self.language.context().clamp(2, WINDOW);
        let windows = Windows { length, stride: (length / 2).max(1) };
        let stage = WaveStage { name: &name, unit, items: &self.texts, wave, out: &out };
        let mut work = |passages: &[Passage]| {
            let sums = each(engine, passages, windows, self.observer)?;
            if let Some((nll, _)) = sums.iter().find(|(nll, _)| !nll.is_finite()) {
                return Err(Error::NonFinite(format!("{model}: the log-probs of a text sum to {}", -nll)));
            }
            Ok(sums.into_iter().map(|(nll, tokens)| TextRecord { tokens, nll }).collect())
        };
        in_waves(self.observer, &stage, &mut work, |_| {}).map(|_| ())
    }

    fn judge(&self, engine: &mut dyn Engine, model: &str, judge: &dyn Judge) -> Result<()> {
        let name = format!("{FOLDER}/{model}-judge");
        let records = in_waves(
            self.observer,
            &WaveStage {
                name: &name,
                unit: "answers",
                items: &self.ranked,
                wave: self.config.judge.wave,
                out: &self.file(&format!("{model}-judge.jsonl")),
            },
            &mut |ranked| {
                let key = |r: &Reference| fnv(format!("{}\0{}", r.prompt, r.response).as_bytes());
                let item = |r| Item::new(key(r), &r.prompt, &r.response);
                let items: Vec<Item> = ranked.iter().map(item).collect();
                let verdicts = judge.judge(engine, &items, self.observer)?;
                let record = |(r, score): (&Reference, Option<f64>)| JudgedRecord {
                    prompt: r.prompt.clone(),
                    response: r.response.clone(),
                    score_reference: r.score,
                    score,
                };
                Ok(ranked.iter().zip(verdicts.iter().map(|v| v.score)).map(record).collect())
            },
            |_| {},
        )?;
        let out = self.file(&format!("{model}-judge.json"));
        if out.is_there() {
            return Ok(());
        }
        let scored: Vec<_> = records.iter().map(|r| (r.prompt.as_str(), Some(r.score_reference), r.score)).collect();
        write_json(&out, &agreement(judge.name(), &scored))
    }

    fn duels(&self, of: &Subject) -> Result<()> {
        let path = &self.config.evaluation.judge;
        for rival in self.rivals(of).iter().map(|number| format!("M{number}")) {
            let sides = [of.name.as_str(), rival.as_str()];
            if self.file(&format!("{}.json", sides.join("-"))).is_there() {
                continue;
            }
            if path.as_os_str().is_empty() {
                self.models.with(1, &mut |engine| self.duel(engine, &self.language, sides))?;
            } else {
                self.models
                    .with_other(path, &mut |engine, source| self.duel(engine, &ChatLanguage::new(source)?, sides))?;
            }
        }
        Ok(())
    }

    fn duel(&self, engine: &mut dyn Engine, language: &dyn Language, sides: [&str; 2]) -> Result<()> {
        let section = &self.config.evaluation;
        let settings = self.config.judge.settings(self.config.run.seed)?;
        let scoring = match section.mode {
            Comparison::SideBySide => None,
            Comparison::Scores(mode) => {
                Some(ModelJudge { mode, language, templates: self.templates.clone(), settings })
            }
        };
        let referee = match &scoring {
            Some(judge) => Referee::Scores { judge, margin: section.margin },
            None => Referee::Pairwise(Box::new(PairwiseJudge::new(language, None))),
        };
        let (a, b) = (self.answers(sides[0])?, self.answers(sides[1])?);
        let name = sides.join("-");
        let places: Vec<usize> = (0..self.prompts.len()).collect();
        let records: Vec<DuelRecord> = in_waves(
            self.observer,
            &WaveStage {
                name: &format!("{FOLDER}/{name}"),
                unit: "prompts",
                items: &places,
                wave: self.config.judge.wave,
                out: &self.file(&format!("{name}.jsonl")),
            },
            &mut |places| {
                let part = |set: &AnswerSet| AnswerSet {
                    name: set.name.clone(),
                    answers: places.iter().map(|at| set.answers[*at].clone()).collect(),
                };
                let prompts: Vec<Prompt> = places.iter().map(|at| self.prompts[*at].clone()).collect();
                play(engine, &referee, &prompts, &part(&a), &part(&b), self.observer)
            },
            |_| {},
        )?;
        let report = summarise(referee.name(), &a, &b, &records, self.config.run.seed);
        write_json(&self.file(&format!("{name}.json")), &report)
    }
}
