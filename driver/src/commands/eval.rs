//! `eval`: two models head to head, a model as a judge, a model's perplexity, answers that a program can check.

use crate::app::{App, DtypeArg, check_writable};
use crate::commands::judge::{self, JudgeArgs};
use crate::commands::tasks::{self, Asked, TaskArgs};
use crate::common::{WrongUsage, name_of, needed};
use crate::flags::Flags;
use crate::models::Models;
use crate::partial::{Partial, ResumeArg, digest, discard, wave};
use crate::sample::{self, Answers, Kept, at_least_0};
use crate::tables::Table;
use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValue;
use selfreward::Observer;
use selfreward::data::answers::{AnswerSet, answer_all, read_answers, read_prompts, read_records, write_alpaca};
use selfreward::data::examples;
use selfreward::data::examples::Rules;
use selfreward::demo::domain::OracleJudge;
use selfreward::generate::ChatLanguage;
use selfreward::generate::{Engine, GpuEngine, NoEngine};
use selfreward::json::write_jsonl;
use selfreward::judge::{Item, Judge, PairwiseJudge, Template};
use selfreward::kernels::half::Half;
use selfreward::measure::agreement::{agreement, read_ranked};
use selfreward::measure::diversity::Diversity;
use selfreward::measure::duel::{DuelRecord, DuelReport, Referee, Scores, play, summarise};
use selfreward::measure::perplexity::{Passage, Perplexity, Windows, measure};
use selfreward::measure::tasks::{Known, TASKS};
use selfreward::measure::win_rate::Estimate;
use selfreward::model::Model;
use selfreward::settings;
use selfreward::source::ModelSource;
use selfreward::text::Prompt;
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The value of `--judge` for the small world's exact scorer.
const ORACLE: &str = "oracle";
/// Most tokens of a window, which one pass scores at once.
const WINDOW: usize = 4096;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is measured
    #[arg(long, value_enum, default_value_t, value_name = "T")]
    task: Task,
    /// The model: Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model; with checked answers each
    /// of its models), or hub id
    #[arg(long, value_name = "A")]
    model: Option<PathBuf>,
    /// The model to compare it with (perplexity: measured beside it)
    #[arg(long, value_name = "B")]
    against: Option<PathBuf>,
    #[command(flatten)]
    kept: Flags<Kept>,
    #[command(flatten)]
    dtype: DtypeArg,
    #[command(flatten)]
    duel: DuelArgs,
    #[command(flatten)]
    reading: JudgeArgs,
    #[command(flatten)]
    sample: Flags<Answers>,
    /// judge: ranked or scored responses. perplexity: lines with text, messages, or prompt and completion. ifeval,
    /// gsm8k: their original files. exact: lines with prompt and answer or pattern. choice: lines with question (or
    /// context), choices and answer
    #[arg(long, value_name = "F", help_heading = "Judge, perplexity and checked answers")]
    data: Option<PathBuf>,
    #[command(flatten)]
    checked: TaskArgs,
    /// perplexity: tokens read at once (default: the context, at most 4096)
    #[arg(
        long,
        value_name = "N",
        help_heading = "Judge, perplexity and checked answers",
        value_parser = clap::value_parser!(u32).range(2..)
    )]
    window: Option<u32>,
    /// perplexity: how far windows over a longer text move on (default: half a window)
    #[arg(
        long,
        value_name = "N",
        help_heading = "Judge, perplexity and checked answers",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    stride: Option<u32>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Head to head")]
struct DuelArgs {
    /// Prompts to answer: lines with prompt (or instruction), or a JSON list of them or of texts (default: those of
    /// --answers-a)
    #[arg(long, value_name = "F")]
    prompts: Option<PathBuf>,
    /// Answers to read in place of --model: lines of generate --out, or an AlpacaEval file
    #[arg(long, value_name = "F")]
    answers_a: Option<PathBuf>,
    /// Answers to read in place of --against
    #[arg(long, value_name = "F")]
    answers_b: Option<PathBuf>,
    /// Who decides: a model, by default side by side in both orders, with --mode by scores; or oracle, the small
    /// world's scorer
    #[arg(long, value_name = "M|oracle")]
    judge: Option<PathBuf>,
    /// Side by side, let the judge write verdicts (--samples of them an order) in place of reading its probabilities
    #[arg(long, conflicts_with = "mode")]
    sampled: bool,
    /// By scores, how far apart two scores must be for a win
    #[arg(long, default_value_t = 0.0, value_name = "X", value_parser = at_least_0)]
    margin: f32,
    /// Answers to each prompt (with checked answers --samples says the same)
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Write every prompt with its answers, verdicts and outcome here (with checked answers: what passed)
    #[arg(long, value_name = "F.jsonl")]
    out: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArg,
    /// Write model_outputs.json and reference_outputs.json here, as alpaca_eval reads them
    #[arg(long, value_name = "DIR")]
    alpaca: Option<PathBuf>,
}

impl Args {
    /// Whether the command writes what it has finished, so that it can go on from there.
    pub(crate) fn writes(&self) -> bool {
        self.duel.out.is_some() && self.checked.responses.is_none()
    }
}

#[derive(Clone, Copy, Default)]
enum Task {
    #[default]
    HeadToHead,
    Judge,
    Perplexity,
    /// Answers that a program can check.
    Checked(&'static Known),
}

impl clap::ValueEnum for Task {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<Task>> = LazyLock::new(|| {
            let others = [Task::HeadToHead, Task::Judge, Task::Perplexity];
            others.into_iter().chain(TASKS.iter().map(Task::Checked)).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, about) = match self {
            Self::HeadToHead => ("head-to-head", "Win, tie and loss of --model against --against, judged by --judge"),
            Self::Judge => ("judge", "How well --model's scores agree with the ranking in --data"),
            Self::Perplexity => ("perplexity", "How well --model predicts the texts in --data"),
            Self::Checked(task) => {
                let how = |tokens| format!("{} (one answer is greedy, of at most {tokens} tokens)", task.about);
                let about = task.tokens.map_or_else(|| task.about.to_owned(), how);
                return Some(PossibleValue::new(task.name).help(about));
            }
        };
        Some(PossibleValue::new(name).help(about))
    }
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if matches!(args.task, Task::Judge | Task::Perplexity) && args.duel.out.is_some() {
        return Err(WrongUsage::conflict(
            "--out takes answers, of which this task has none; `judge --responses F --out` writes each verdict",
        ));
    }
    match args.task {
        Task::HeadToHead => head_to_head(app, args),
        Task::Judge => as_judge(app, args),
        Task::Perplexity => perplexity(app, args),
        Task::Checked(task) => checked(app, args, task),
    }
}

fn checked(app: &App, args: &Args, task: &'static Known) -> Result<()> {
    let d = &args.duel;
    let others = [
        ("--prompts", d.prompts.is_some()),
        ("--answers-a", d.answers_a.is_some()),
        ("--answers-b", d.answers_b.is_some()),
        ("--judge", d.judge.is_some()),
        ("--alpaca", d.alpaca.is_some()),
        ("--mode", !args.reading.mode.is_empty()),
    ];
    if let Some((flag, _)) = others.iter().find(|(_, given)| *given) {
        return Err(WrongUsage::conflict(format!("{flag} is for head to head; {} is checked by a program", task.name)));
    }
    let n = match args.reading.samples_given() {
        Some(samples) if d.n > 1 && samples != d.n => {
            return Err(WrongUsage::conflict(format!("-n {} and --samples {samples}: expected one number", d.n)));
        }
        samples => samples.unwrap_or(d.n),
    };
    let asked = Asked {
        task,
        data: needed(args.data.as_deref(), "a task with checked answers needs --data")?,
        model: args.model.as_deref(),
        against: args.against.as_deref(),
        checked: &args.checked,
        n,
        out: d.out.as_deref(),
        resume: &d.resume,
        sample: &args.sample,
        kept: &args.kept,
        dtype: &args.dtype,
    };
    tasks::run(app, &asked)
}

/// Where the answers of one side come from.
struct Side<'a> {
    model: Option<&'a Path>,
    file: Option<&'a Path>,
    name: String,
}

fn sides(args: &Args) -> Result<[Side<'_>; 2]> {
    fn side<'a>(model: &'a Option<PathBuf>, file: &'a Option<PathBuf>, what: &str) -> Result<Side<'a>> {
        let (model, file) = (model.as_deref(), file.as_deref());
        let path = needed(model.or(file), what)?;
        Ok(Side { model, file, name: name_of(path) })
    }
    let mut both = [
        side(&args.model, &args.duel.answers_a, "head to head needs --model or --answers-a")?,
        side(&args.against, &args.duel.answers_b, "head to head needs --against or --answers-b")?,
    ];
    if both[0].name == both[1].name {
        for side in &mut both {
            side.name = side.model.or(side.file).map_or_else(String::new, |p| p.display().to_string());
        }
    }
    Ok(both)
}

fn head_to_head(app: &App, args: &Args) -> Result<()> {
    let d = &args.duel;
    if args.checked.responses.is_some() {
        let what = "--responses goes with a task of checked answers; head to head takes --answers-a";
        return Err(WrongUsage::conflict(what));
    }
    let [a, b] = sides(args)?;
    let judge = needed(d.judge.as_deref(), "head to head needs --judge: a model, or oracle in the small world")?;
    let oracle = judge == Path::new(ORACLE);
    ensure!(args.reading.mode.len() < 2, "--mode: head to head is judged by one mode");
    let from = needed(d.prompts.as_deref().or(a.file), "head to head needs --prompts or --answers-a")?;
    d.out.iter().try_for_each(|out| check_writable(out))?;
    d.alpaca.iter().try_for_each(|dir| check_writable(&dir.join("model_outputs.json")))?;
    let own = args.reading.own_template()?;
    let prompts = read_prompts(from)?;
    // A judge that is not there is reported before the answers are written.
    let judge_source = if oracle { None } else { Some(app.source(judge)?) };
    let models = &mut Models::new(app, args.dtype.storage());
    let asked = judge_source.is_some() || a.model.or(b.model).is_some();
    let wave = wave(asked && models.gpu()?.info().software, d.n);
    let plan = json!({
        "wave": wave, "data": digest(&prompts), "sides": [&a.name, &b.name], "n": d.n,
        "sampling": settings::table(&*args.sample)?,
        "judge": judge, "reading": args.reading.plan(own.as_deref())?, "sampled": d.sampled, "margin": d.margin,
        "seed": app.common.seed(), "dtype": args.dtype.half().map(Half::name), "kv": args.kept.kv,
        "invariant": app.common.invariant,
    });
    let partial = &mut Partial::open(d.out.as_deref(), &d.resume, &plan)?;
    let a = answers(app, args, ("a", &a), &prompts, wave, (models, partial))?;
    let b = answers(app, args, ("b", &b), &prompts, wave, (models, partial))?;
    if let Some(dir) = &d.alpaca {
        let dataset = from.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        write_alpaca(&dir.join("model_outputs.json"), &prompts, &a, &dataset)?;
        write_alpaca(&dir.join("reference_outputs.json"), &prompts, &b, &dataset)?;
    }
    // Has the duel judged; also gives the judge's name.
    let mut duel = |engine: &mut dyn Engine, referee: &Referee| -> Result<(String, Vec<DuelRecord>)> {
        let mut records = Vec::new();
        for (at, prompts) in (0..).step_by(wave).zip(prompts.chunks(wave)) {
            let part = |set: &AnswerSet| AnswerSet {
                name: set.name.clone(),
                answers: set.answers[at..at + prompts.len()].to_vec(),
            };
            let (a, b) = (part(&a), part(&b));
            records.extend(
                partial.step(&format!("duel {at}"), || Ok(play(engine, referee, prompts, &a, &b, &app.progress)?))?,
            );
        }
        Ok((referee.name().to_owned(), records))
    };
    let (name, records) = match judge_source {
        None => duel(&mut NoEngine, &Referee::Scores { judge: &OracleJudge, margin: d.margin.into() })?,
        Some(source) => {
            let language = ChatLanguage::new(&source)?;
            let (gpu, model) = models.load(&source)?;
            let engine = &mut GpuEngine::new(gpu, &model).kv(args.kept.kv);
            let seed = app.common.seed();
            match args.reading.mode.first() {
                Some(&mode) => {
                    let judge = args.reading.judge(mode, own.as_deref(), &language, seed);
                    duel(engine, &Referee::Scores { judge: &judge, margin: d.margin.into() })?
                }
                None => {
                    let sampled = d.sampled.then(|| args.reading.settings(seed));
                    let mut judge = PairwiseJudge::new(&language, sampled);
                    if let Some(text) = own {
                        judge.template = Template::message(&text);
                    }
                    duel(engine, &Referee::Pairwise(Box::new(judge)))?
                }
            }
        }
    };
    app.progress.clear();
    if let Some(out) = &d.out {
        write_jsonl(out, &records)?;
        discard(out)?;
    }
    let report = summarise(&name, &a, &b, &records, app.common.seed());
    if app.common.json {
        return app.json(&report);
    }
    print_duel(app, &report)
}

/// The answers of one side, from its file or its model.
fn answers(
    app: &App,
    args: &Args,
    (name, side): (&str, &Side),
    prompts: &[Prompt],
    wave: usize,
    (models, partial): (&mut Models, &mut Partial),
) -> Result<AnswerSet> {
    if let Some(file) = side.file {
        return Ok(AnswerSet { name: side.name.clone(), ..read_answers(file, prompts)? });
    }
    let Some(path) = side.model else { bail!("{}: has neither a model nor a file", side.name) };
    let source = app.source(path)?;
    let language = ChatLanguage::new(&source)?;
    let (gpu, model) = models.load(&source)?;
    let settings = sample::settings(&args.sample, &source, app.common.seed());
    let engine = &mut GpuEngine::new(gpu, &model).kv(args.kept.kv);
    let n = args.duel.n;
    let mut all = Vec::new();
    for (at, prompts) in (0..).step_by(wave).zip(prompts.chunks(wave)) {
        all.extend(partial.step(&format!("{name} {at}"), || {
            Ok(answer_all(engine, &language, &side.name, prompts, n, &settings, &app.progress)?.answers)
        })?);
    }
    Ok(AnswerSet { name: side.name.clone(), answers: all })
}

fn percent(e: Option<Estimate>) -> String {
    e.map_or("-".into(), |e| format!("{:.1} % ({:.1}-{:.1})", e.value * 100.0, e.low * 100.0, e.high * 100.0))
}

fn print_duel(app: &App, r: &DuelReport) -> Result<()> {
    app.line(format!("{} against {}, judged by {}, {} prompts\n", r.a, r.b, r.judge, r.prompts))?;
    let mut outcome = Table::new(&["win", "tie", "loss", "unjudged", "win rate", "at equal length"]);
    outcome.row([
        r.counts.win.to_string(),
        r.counts.tie.to_string(),
        r.counts.loss.to_string(),
        r.unjudged.to_string(),
        percent(r.win_rate),
        percent(r.length_controlled.map(|l| l.win_rate)),
    ]);
    outcome.print()?;
    app.line("")?;
    let mut sides = Table::new(&["answers", "score", "words", "tokens", "distinct-1", "-2", "-3", "self-BLEU"]);
    let score = |s: Option<Scores>| s.map_or("-".into(), |s| format!("{:.2} ± {:.2}", s.mean, s.se));
    for (name, d, s) in [(&r.a, &r.diversity_a, r.scores.map(|s| s.a)), (&r.b, &r.diversity_b, r.scores.map(|s| s.b))] {
        sides.row(side_cells(name, d, score(s)));
    }
    sides.print()?;
    app.line("")?;
    if let Some(o) = r.orders {
        app.line(format!(
            "Both orders agree on {:.0} % of the prompts. Mean probability: {:.2} for the answer\n\
             shown first, {:.3} for {}'s.",
            o.agree * 100.0,
            o.first,
            o.preference,
            r.a
        ))?;
    }
    if let Some(s) = r.scores {
        app.line(format!("Scores 0 to 5: {} {:?}, {} {:?}.", r.a, s.a.histogram, r.b, s.b.histogram))?;
    }
    if let Some(ratio) = r.length_drift.words {
        app.line(format!("{}'s answers have {ratio:.2} times the words of {}'s.", r.a, r.b))?;
    }
    app.line("Intervals hold 95 % of 1,000 resamples of the prompts; lengths are means.")?;
    r.warnings.iter().try_for_each(|w| app.line(format!("warning: {w}")))
}

fn side_cells(name: &str, d: &Diversity, score: String) -> [String; 8] {
    let ratio = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    [
        name.to_owned(),
        score,
        format!("{:.1}", d.words.mean),
        d.tokens.map_or("-".into(), |t| format!("{:.1}", t.mean)),
        ratio(d.distinct_1),
        ratio(d.distinct_2),
        ratio(d.distinct_3),
        ratio(d.self_bleu),
    ]
}

fn as_judge(app: &App, args: &Args) -> Result<()> {
    let model = needed(args.model.as_deref(), "--task judge needs --model")?;
    let data = needed(args.data.as_deref(), "--task judge needs --data")?;
    let own = args.reading.own_template()?;
    let list = read_ranked(data)?;
    let source = app.source(model)?;
    let language = ChatLanguage::new(&source)?;
    let items: Vec<Item> = judge::items(&language, list.iter().map(|r| (r.prompt.as_str(), r.response.as_str())))?;
    let gpu = app.gpu()?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let mut engine = GpuEngine::new(&gpu, &model).kv(args.kept.kv);
    let mut all = Vec::new();
    for (i, &mode) in args.reading.modes().iter().enumerate() {
        let own = own.as_deref().filter(|_| i == 0);
        let judge = args.reading.judge(mode, own, &language, app.common.seed());
        let verdicts = judge.judge(&mut engine, &items, &app.progress)?;
        let scored: Vec<_> =
            list.iter().zip(verdicts).map(|(r, v)| (r.prompt.as_str(), Some(r.score), v.score)).collect();
        all.push(agreement(mode.name(), &scored));
    }
    app.progress.clear();
    if app.common.json {
        return app.json(&all);
    }
    judge::table(&all).print()?;
    app.line("")?;
    let mut within = Table::new(&["mode", "spearman within prompts", "kendall within prompts"]);
    let show = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    for a in &all {
        let measured =
            |f: fn(&selfreward::measure::agreement::Against) -> Option<f64>| show(a.against.as_ref().and_then(f));
        within.row([a.mode.clone(), measured(|x| x.spearman_within), measured(|x| x.kendall_within)]);
    }
    within.print()?;
    Ok(())
}

/// A record that holds only a text; all others are training records.
#[derive(Deserialize)]
struct TextLine {
    text: Option<String>,
}

fn perplexity(app: &App, args: &Args) -> Result<()> {
    let model = needed(args.model.as_deref(), "--task perplexity needs --model")?;
    let data = needed(args.data.as_deref(), "--task perplexity needs --data")?;
    let mut all = Vec::new();
    let models = &mut Models::new(app, args.dtype.storage());
    for path in [Some(model), args.against.as_deref()].into_iter().flatten() {
        let source = app.source(path)?;
        let language = ChatLanguage::new(&source)?;
        let passages = passages(app, data, &source, &language)?;
        let length = args.window.map_or(source.arch.context().min(WINDOW), |w| w as usize);
        ensure!(
            length <= source.arch.context(),
            "--window {length} is longer than the context of {}, {} tokens",
            path.display(),
            source.arch.context()
        );
        let stride = args.stride.map_or((length / 2).max(1), |s| s as usize);
        let (gpu, model) = models.load(&source)?;
        let engine = &mut GpuEngine::new(gpu, &model).kv(args.kept.kv);
        let windows = Windows { length, stride };
        all.push(measure(engine, &name_of(path), &passages, windows, app.common.seed(), &app.progress)?);
        let left_out = passages.len() - all.last().map_or(0, |p| p.texts);
        if left_out > 0 {
            app.progress.note(&format!("{left_out} texts are left out: they have fewer than two tokens"));
        }
    }
    app.progress.clear();
    if app.common.json {
        return app.json(&all);
    }
    perplexity_table(&all).print()?;
    Ok(())
}

fn perplexity_table(all: &[Perplexity]) -> Table {
    let mut table = Table::new(&["model", "texts", "tokens", "perplexity", "bits a token", "bits a byte"]);
    for p in all {
        let e = p.perplexity;
        table.row([
            p.model.clone(),
            p.texts.to_string(),
            p.tokens.to_string(),
            format!("{:.3} ({:.3}-{:.3})", e.value, e.low, e.high),
            format!("{:.4}", p.bits_per_token),
            p.bits_per_byte.map_or("-".into(), |b| format!("{b:.4}")),
        ]);
    }
    table
}

/// What is to be scored of the records in `--data`.
fn passages(app: &App, path: &Path, source: &ModelSource, language: &ChatLanguage) -> Result<Vec<Passage>> {
    let lines: Vec<TextLine> = read_records(path)?;
    let texts: Vec<&String> = lines.iter().filter_map(|l| l.text.as_ref()).collect();
    if texts.is_empty() {
        let (examples, reading) = examples::examples(path, source, Rules::up_to(usize::MAX))?;
        if reading.dropped() > 0 {
            app.progress.note(&reading.to_string());
        }
        return examples
            .iter()
            .map(|e| Ok(Passage::answer(language, &e.prompt, &e.completion)?))
            .collect::<Result<_>>();
    }
    ensure!(texts.len() == lines.len(), "{}: some records have text, others have not", path.display());
    texts
        .iter()
        .enumerate()
        .map(|(i, text)| Passage::text(language, text).with_context(|| format!("{}: record {}", path.display(), i + 1)))
        .collect()
}
