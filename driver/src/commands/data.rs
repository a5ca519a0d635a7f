//! `data`: training files from others' formats.

mod constraints;
mod truth;

use crate::app::{App, DtypeArg, check_writable};
use crate::flags::{Flags, Preset};
use crate::partial::{Partial, ResumeArg, digest, discard};
use crate::sample::{above_0_to_1, at_least_0, from_0_to_1};
use anyhow::{Context, Result, bail, ensure};
use selfreward::Observer;
use selfreward::data::import::{self, Counts, Lesson, Question, verdicts};
use selfreward::generate::ChatLanguage;
use selfreward::generate::GpuEngine;
use selfreward::json::write_jsonl;
use selfreward::judge::{Mode, ModelJudgeSettings, Templates};
use selfreward::kernels::half::Half;
use selfreward::model::Model;
use selfreward::settings;
use serde_json::{Value, json};
use std::path::PathBuf;

#[expect(clippy::large_enum_variant, reason = "one is made in the life of a process")]
#[derive(clap::Subcommand)]
pub(crate) enum Kind {
    /// Answers to learn, for `sft`: the best answer of each question
    ///
    /// With --rules constraints that a program checks are put behind each instruction, such that its answer meets them
    /// as it is or after a small change (constraint back-translation).
    Ift(IftArgs),
    /// Verdicts to learn, for `sft`: the judge's prompt with an answer, then a justification and a score
    ///
    /// Scored answers give their score, with the justification that stands beside it (verdict, justification or
    /// rationale). Of ranked answers --model writes verdicts by the additive prompt, and a question is kept where the
    /// mean scores of its answers fall as the ranks do, as in the paper. With --rules or --key a program says which
    /// answers are right.
    Eft(EftArgs),
    /// Preferences, for `dpo`: the best answer against the worst
    Preferences(PreferenceArgs),
    /// Prompts with constraints that a program can check, for `generate`, `judge --mode rules` and `eval --task ifeval`
    Constraints(constraints::Args),
}

#[derive(clap::Args)]
struct Common {
    /// A file with Open Assistant trees or messages, with prompt, chosen and rejected, or with prompt, response and
    /// score
    #[arg(long, value_name = "F.jsonl")]
    from: PathBuf,
    /// The file to write; it must not exist yet
    #[arg(long, value_name = "F.jsonl")]
    out: PathBuf,
    /// Language of Open Assistant's texts; an empty one takes all
    #[arg(long, default_value = "en", value_name = "L")]
    lang: String,
    /// Share of the questions with ranked answers to leave out, for measuring a judge; which ones depends on --seed and
    /// the question alone
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = from_0_to_1)]
    held_out: f32,
    /// Write what was left out here: prompt, response and score_reference, as `judge` and `eval --task judge` read it
    #[arg(long, value_name = "F.jsonl", requires = "held_out")]
    held_out_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct IftArgs {
    #[command(flatten)]
    common: Common,
    /// Leave out answers that somebody scored below this
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = at_least_0)]
    min_score: f32,
    /// Put constraints behind the instructions that their answers meet: --from has prompt and response, as `generate`
    /// writes them; answers that were cut are left out
    #[arg(long, conflicts_with_all = ["held_out", "min_score"])]
    rules: bool,
    /// --rules: shorten answers that were cut to some of their first whole sentences, in the place of leaving them out
    #[arg(long, requires = "rules")]
    shorten: bool,
    /// --rules: most examples; each answer and each kind of constraint comes as often as the others (default: as many
    /// as there are answers)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "rules")]
    count: Option<u32>,
    #[command(flatten)]
    constraints: Flags<constraints::Constraints>,
}

#[derive(clap::Args)]
pub(crate) struct EftArgs {
    #[command(flatten)]
    common: Common,
    /// The model that judges ranked answers: Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
    #[command(flatten)]
    dtype: DtypeArg,
    #[command(flatten)]
    truth: truth::TruthArgs,
    #[command(flatten)]
    verdicts: Flags<Verdicts>,
    /// Most that one score may take of the verdicts; what is above it is dropped at random
    #[arg(long, default_value_t = 0.5, value_name = "S", value_parser = above_0_to_1)]
    #[arg(conflicts_with_all = ["rules", "key"])]
    max_share: f32,
    /// A judge prompt of one's own, with {{ question }} and {{ answer }}
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArg,
}

#[derive(clap::Args)]
pub(crate) struct PreferenceArgs {
    #[command(flatten)]
    common: Common,
    /// Each answer against each that is ranked below it, instead of the best against the worst
    #[arg(long)]
    every: bool,
    /// Least difference of scores, where both answers have one
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = at_least_0)]
    min_gap: f32,
}

/// The way in which verdicts are written where flags do not say otherwise.
struct Verdicts;

impl Preset for Verdicts {
    type Of = ModelJudgeSettings;

    fn defaults() -> ModelJudgeSettings {
        ModelJudgeSettings::default()
    }

    fn takes(key: &str) -> bool {
        key != "retries"
    }
}

impl Kind {
    /// Whether the command writes what it has finished, so that it can go on from there.
    pub(crate) fn writes(&self) -> bool {
        matches!(self, Kind::Eft(EftArgs { model: Some(_), .. }))
    }
}

pub(crate) fn run(app: &App, kind: &Kind) -> Result<()> {
    match kind {
        Kind::Ift(args) if args.rules => constraints::examples(app, args),
        Kind::Ift(args) => {
            let given = args.constraints.given().keys().next();
            ensure!(given.is_none(), "--{} goes with --rules", given.map_or("", |key| key.as_str()));
            let input = args.common.read(app, false)?;
            let records = import::examples(&input.questions, f64::from(args.min_score));
            ensure!(!records.is_empty(), "{}: no answer has a score of {}", args.common.from.display(), args.min_score);
            write_jsonl(&args.common.out, &records)?;
            args.common.report(app, &input, records.len(), json!({}))
        }
        Kind::Eft(args) => eft(app, args),
        Kind::Constraints(args) => constraints::run(app, args),
        Kind::Preferences(args) => {
            let input = args.common.read(app, false)?;
            let records = import::preferences(&input.questions, args.every, f64::from(args.min_gap));
            ensure!(!records.is_empty(), "{}: no question has two answers apart", args.common.from.display());
            write_jsonl(&args.common.out, &records)?;
            args.common.report(app, &input, records.len(), json!({}))
        }
    }
}

/// What was read, without what is held out.
struct Input {
    questions: Vec<Question>,
    left_out: Counts,
    held_out: usize,
}

impl Common {
    /// Checks that what is to be written is not there yet, and can be.
    fn can_write(&self, resume: bool) -> Result<()> {
        for path in [Some(&self.out), self.held_out_file.as_ref().filter(|_| !resume)].into_iter().flatten() {
            check_writable(path)?;
            ensure!(!path.exists(), "{}: exists already; name another file or remove it", path.display());
        }
        ensure!(
            self.held_out == 0.0 || self.held_out_file.is_some(),
            "--held-out needs --held-out-file, which takes what is left out"
        );
        Ok(())
    }

    /// Reads the questions. What is held out is there already where an interrupted command is gone on with.
    fn read(&self, app: &App, resume: bool) -> Result<Input> {
        self.can_write(resume)?;
        let (questions, left_out) = import::read(&self.from, &self.lang)?;
        let (questions, held) = import::hold_out(questions, f64::from(self.held_out), app.common.seed())?;
        ensure!(!questions.is_empty(), "{}: every question was held out", self.from.display());
        if let Some(path) = &self.held_out_file {
            write_jsonl(path, &held)?;
        }
        Ok(Input { questions, left_out, held_out: held.len() })
    }

    /// Says what was written and what was not; the JSON document also holds `more`.
    fn report(&self, app: &App, input: &Input, records: usize, more: Value) -> Result<()> {
        if app.common.json {
            let mut document = json!({
                "out": self.out, "records": records, "questions": input.questions.len(),
                "held_out": input.held_out, "left_out": input.left_out,
            });
            if let (Some(all), Value::Object(more)) = (document.as_object_mut(), more) {
                all.extend(more);
            }
            return app.json(&document);
        }
        let out = self.out.display();
        app.line(format!("{out}: {records} records from {} questions", input.questions.len()))?;
        if let Some(path) = &self.held_out_file {
            app.line(format!("{}: {} answers held out", path.display(), input.held_out))?;
        }
        input.left_out.iter().try_for_each(|(why, n)| app.line(format!("left out: {n} {why}")))
    }
}

fn eft(app: &App, args: &EftArgs) -> Result<()> {
    let signal = args.truth.signal();
    let mut templates = Templates::default();
    if let Some(path) = &args.template {
        let mode = if signal.is_some() { args.truth.mode() } else { Mode::Sampled };
        templates.replace(mode, &std::fs::read_to_string(path).with_context(|| path.display().to_string())?);
    }
    if let Some(signal) = signal {
        return truth::run(app, args, signal, &templates);
    }
    let input = args.common.read(app, args.resume.resume)?;
    let mut lessons = import::lessons(&input.questions, &templates.additive)?;
    // Scored questions teach by their scores, so a model is asked only about the others.
    let unscored = |q: &&Question| q.answers.iter().any(|a| a.score.is_none());
    let ranked: Vec<Question> = input.questions.iter().filter(unscored).cloned().collect();
    let mut judged = json!(null);
    match &args.model {
        Some(_) if ranked.is_empty() => app.progress.note("--model is not needed: every answer has a score"),
        Some(path) => {
            let written = write(app, args, path, &templates, &ranked)?;
            judged = json!({"questions": written.questions, "agreed": written.agreed, "unscored": written.unscored});
            lessons.extend(written.lessons);
        }
        None if lessons.is_empty() => {
            bail!("{}: no answer has a score; give --model, which judges ranked answers", args.common.from.display())
        }
        None => {}
    }
    let total = lessons.len();
    let (lessons, dropped) = import::balance(lessons, f64::from(args.max_share), app.common.seed());
    ensure!(!lessons.is_empty(), "no verdict agreed with the ranks; try more --samples, or another --model");
    write_jsonl(&args.common.out, &lessons.iter().map(|l| &l.record).collect::<Vec<_>>())?;
    discard(&args.common.out)?;
    let mut histogram = [0usize; 6];
    lessons.iter().for_each(|l: &Lesson| histogram[l.score] += 1);
    let more = json!({"scores": histogram, "dropped_for_balance": dropped, "judged": judged});
    args.common.report(app, &input, lessons.len(), more)?;
    if !app.common.json {
        let counts: Vec<String> = histogram.iter().enumerate().map(|(s, n)| format!("{s}: {n}")).collect();
        app.line(format!("scores: {}; {} dropped for balance", counts.join(", "), total - lessons.len()))?;
        if let Some(questions) = judged["questions"].as_u64() {
            app.line(format!("{} of {questions} questions were judged in the order of their ranks", judged["agreed"]))?;
        }
    }
    Ok(())
}

fn write(
    app: &App,
    args: &EftArgs,
    path: &std::path::Path,
    templates: &Templates,
    ranked: &[Question],
) -> Result<verdicts::Written> {
    let source = app.source(path)?;
    let language = ChatLanguage::new(&source)?;
    let gpu = app.gpu()?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let how = ModelJudgeSettings::clone(&args.verdicts).seed(app.common.seed());
    let mut engine = GpuEngine::new(&gpu, &model);
    let asked: Vec<_> =
        ranked.iter().map(|q| (&q.prompt, q.answers.iter().map(|a| &a.text).collect::<Vec<_>>())).collect();
    let plan = json!({
        "data": digest(&asked), "model": source.path, "verdicts": settings::table(&*args.verdicts)?,
        "template": templates.additive.text, "seed": app.common.seed(), "dtype": args.dtype.half().map(Half::name),
        "invariant": app.common.invariant,
    });
    let mut partial = Partial::open(Some(&args.common.out), &args.resume, &plan)?;
    let mut written = verdicts::Written::default();
    for (at, ranked) in ranked.chunks(verdicts::WAVE).enumerate() {
        let work = || Ok(verdicts::write(&mut engine, &language, templates, &how, ranked, &app.progress)?);
        written.extend(partial.step(&at.to_string(), work)?);
    }
    app.progress.clear();
    Ok(written)
}
