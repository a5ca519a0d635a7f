//! `eval` of tasks whose answers a program can check: a model's, those of each model of a run, or written ones.

use crate::app::{App, DtypeArg, check_writable};
use crate::common::{WrongUsage, name_of, needed};
use crate::flags::Flags;
use crate::models::Models;
use crate::partial::{Partial, ResumeArg, digest, discard, wave};
use crate::sample::{self, Answers, Kept};
use crate::tables::Table;
use anyhow::{Result, bail};
use selfreward::Observer;
use selfreward::generate::{ChatLanguage, GpuEngine, Settings};
use selfreward::json::write_jsonl;
use selfreward::kernels::half::Half;
use selfreward::measure::tasks::{
    Given, Known, Questions, Scored, Shots, Task, TaskReport, differences, report, score_responses,
};
use selfreward::measure::win_rate::Estimate;
use selfreward::recipe::run_folder::status;
use selfreward::settings;
use selfreward::source::ModelSource;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The settings that draw an answer other than the likeliest one.
const DRAWS: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];

#[derive(clap::Args)]
#[command(next_help_heading = "Checked answers")]
pub(crate) struct TaskArgs {
    /// Answers to check in place of a model's, lines with prompt and response; --against takes such a file too
    #[arg(long, value_name = "F.jsonl", conflicts_with_all = ["model", "shots"])]
    pub(crate) responses: Option<PathBuf>,
    /// Worked examples before each item
    #[arg(long, default_value_t = 0, value_name = "N")]
    shots: u32,
    /// Where those are from: the first items of a file of the same task that --data does not have
    #[arg(long, value_name = "F", requires = "shots")]
    shots_from: Option<PathBuf>,
    /// pass@k: how often one of k answers passes, of -n that are drawn; several may be listed (default: 1 and -n)
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    k: Vec<u32>,
}

/// What is to be done, and how.
pub(crate) struct Asked<'a> {
    pub(crate) task: &'static Known,
    pub(crate) data: &'a Path,
    pub(crate) model: Option<&'a Path>,
    pub(crate) against: Option<&'a Path>,
    pub(crate) checked: &'a TaskArgs,
    /// Answers to each item.
    pub(crate) n: u32,
    pub(crate) out: Option<&'a Path>,
    pub(crate) resume: &'a ResumeArg,
    pub(crate) sample: &'a Flags<Answers>,
    pub(crate) kept: &'a Flags<Kept>,
    pub(crate) dtype: &'a DtypeArg,
}

/// Who answers.
enum Side {
    Model { name: String, path: PathBuf },
    File { name: String, path: PathBuf },
}

impl Side {
    fn of(path: &Path) -> Self {
        let (name, path) = (name_of(path), path.to_owned());
        match path.extension().is_some_and(|e| e == "jsonl" || e == "json") {
            true => Self::File { name, path },
            false => Self::Model { name, path },
        }
    }

    fn name(&self) -> &str {
        let (Self::Model { name, .. } | Self::File { name, .. }) = self;
        name
    }

    /// Names it by its whole path.
    fn in_full(&mut self) {
        let (Self::Model { name, path } | Self::File { name, path }) = self;
        *name = path.display().to_string();
    }
}

/// Those who answer, and how many of them are models of one run, each of which is compared with the one before it.
fn sides(app: &App, args: &Asked) -> Result<(Vec<Side>, usize)> {
    let own = args.checked.responses.as_deref().or(args.model);
    let own = needed(own, "a task with checked answers needs --model, or --responses")?;
    let mut all = Vec::new();
    match args.checked.responses {
        Some(_) => all.push(Side::File { name: name_of(own), path: own.to_owned() }),
        None if !own.join("config.toml").is_file() => all.push(Side::of(own)),
        None => {
            let run = status(own)?;
            for name in run.models {
                if run.removed.contains(&name) {
                    app.progress.note(&format!("{name} is left out: its weights were removed"));
                } else if name == "M1" && app.source(&own.join("M1"))?.whole() == app.source(&own.join("M0"))?.whole() {
                    app.progress.note("M1 is M0, and is left out");
                } else {
                    all.push(Side::Model { path: own.join(&name), name });
                }
            }
        }
    }
    let of_run = all.len();
    if let Some(other) = args.against {
        all.push(Side::of(other));
    }
    let [first, .., last] = &mut all[..] else { return Ok((all, of_run)) };
    if first.name() == last.name() {
        first.in_full();
        last.in_full();
    }
    Ok((all, of_run))
}

/// How a model answers: the likeliest words, unless several answers or how to draw one is asked for.
fn drawn(args: &Asked, source: &ModelSource, seed: u64) -> Settings {
    let mut settings = sample::settings(args.sample, source, seed);
    let given = args.sample.given();
    if args.n == 1 && !DRAWS.iter().any(|key| given.contains_key(*key)) {
        settings.sampling.temperature = 0.0;
    }
    if let Some(tokens) = args.task.tokens.filter(|_| !given.contains_key("max_new_tokens")) {
        settings.max_new_tokens = tokens;
    }
    settings
}

/// Refuses flags that do not go together.
fn agree(args: &Asked) -> Result<()> {
    let (checked, n) = (args.checked, args.n);
    let greedy = args.sample.given().contains_key("temperature") && args.sample.sampling.temperature == 0.0;
    if n > 1 && greedy {
        return Err(WrongUsage::conflict(format!("-n {n} answers are all the same with --temperature 0")));
    }
    if n > 1 && args.task.tokens.is_none() {
        let what = format!("-n {n}: {} draws no answers, so that -n stays 1", args.task.name);
        return Err(WrongUsage::conflict(what));
    }
    if let Some(k) = checked.k.iter().find(|k| **k > n) {
        let what = format!("--k {k}: pass@{k} needs at least as many answers to an item; -n is {n}");
        return Err(WrongUsage::conflict(what));
    }
    if checked.shots > 0 && checked.shots_from.is_none() {
        let what = format!("--shots {} needs --shots-from, a file of worked examples", checked.shots);
        return Err(WrongUsage::missing(what));
    }
    Ok(())
}

/// Answers to the items of a task, checked.
pub(crate) fn run(app: &App, args: &Asked) -> Result<()> {
    agree(args)?;
    let (sides, of_run) = sides(app, args)?;
    let (which, out, n) = (args.task, args.out, args.n);
    out.iter().try_for_each(|out| check_writable(out))?;
    let task = which.open(args.data)?;
    let shots = match &args.checked.shots_from {
        Some(from) if args.checked.shots > 0 => {
            Shots::choose(&*task, &*which.open(from)?, from, args.checked.shots as usize)?
        }
        _ => Shots::default(),
    };
    let asks: Vec<String> = (0..task.len()).map(|item| task.ask(item)).collect();
    let loaded = &mut Models::new(app, args.dtype.storage());
    let models: Vec<&str> = sides.iter().filter(|s| matches!(s, Side::Model { .. })).map(Side::name).collect();
    let software = !models.is_empty() && loaded.gpu()?.info().software;
    let wave = wave(software, n);
    let plan = json!({
        "wave": wave, "task": which.name, "data": digest(&asks), "shots": digest(&shots), "models": models, "n": n,
        "sampling": settings::table(&**args.sample)?, "seed": app.common.seed(),
        "dtype": args.dtype.half().map(Half::name), "kv": args.kept.kv, "invariant": app.common.invariant,
    });
    let part = out.filter(|_| !models.is_empty());
    let partial = &mut Partial::open(part, args.resume, &plan)?;
    let mut all = Vec::new();
    for side in &sides {
        all.push(match side {
            Side::File { path, .. } => score_responses(&*task, path, n)?,
            Side::Model { name, path } => answers(app, args, (&*task, &shots), (name, path), (loaded, partial, wave))?,
        });
    }
    app.progress.clear();
    if let Some(out) = out {
        let several = sides.len() > 1;
        let of = |(side, scored): (&Side, &Vec<Scored>)| -> Vec<Value> {
            let name = several.then(|| side.name());
            scored.iter().map(|s| s.record(&*task, name, n)).collect()
        };
        write_jsonl(out, &sides.iter().zip(&all).flat_map(of).collect::<Vec<_>>())?;
        if part.is_some() {
            discard(out)?;
        }
    }
    let reports = reports(args, &*task, (&sides, of_run), &all, app.common.seed());
    match &reports[..] {
        [one] if app.common.json => app.json(one),
        all if app.common.json => app.json(&all),
        all => print(app, all, task.measures()),
    }
}

/// The rates of each side, with its differences to those that it is compared with.
fn reports(
    args: &Asked,
    task: &dyn Task,
    (sides, of_run): (&[Side], usize),
    all: &[Vec<Scored>],
    seed: u64,
) -> Vec<TaskReport> {
    let n = args.n;
    let mut k = if args.checked.k.is_empty() { vec![1, n] } else { args.checked.k.clone() };
    k.sort_unstable();
    k.dedup();
    let made = |at: usize| {
        let mut made = report(task, sides[at].name(), &all[at], &k, seed);
        // Another side is what all are compared with; without one a run's models meet the one before and the first.
        let others = match at {
            _ if of_run < sides.len() && at < of_run => vec![sides.len() - 1],
            0 => vec![],
            _ if at >= of_run => vec![],
            1 => vec![0],
            _ => vec![at - 1, 0],
        };
        for other in others {
            let against = (sides[other].name(), &all[other][..]);
            made.differences.extend(differences(task, &all[at], against, &k, seed));
        }
        made
    };
    (0..sides.len()).map(made).collect()
}

/// What a model answers to each item, in waves.
fn answers(
    app: &App,
    args: &Asked,
    (task, shots): (&dyn Task, &Shots),
    (name, path): (&str, &Path),
    (models, partial, wave): (&mut Models, &mut Partial, usize),
) -> Result<Vec<Scored>> {
    let source = app.source(path)?;
    let language = ChatLanguage::new(&source)?;
    let settings = drawn(args, &source, app.common.seed());
    let questions = Questions::new(task, shots, &language, settings.max_new_tokens)?;
    if questions.cut > 0 {
        app.progress
            .note(&format!("{} contexts are longer than the model's, and are cut at their beginning", questions.cut));
    }
    let (gpu, model) = models.load(&source)?;
    let engine = &mut GpuEngine::new(gpu, &model).kv(args.kept.kv);
    let mut all = Vec::new();
    for at in (0..questions.len()).step_by(wave) {
        let items = at..questions.len().min(at + wave);
        let made: Vec<(usize, u32, Given)> = partial.step(&format!("{name} {at}"), || {
            Ok(questions.ask(items, args.n, &settings, (engine, &language, &app.progress))?)
        })?;
        for (item, sample, given) in made {
            if item >= task.len() {
                bail!("the part file names item {}, the task has {}", item + 1, task.len());
            }
            all.push(Scored::new(task, item, sample, given)?);
        }
    }
    Ok(all)
}

fn percent(x: f64) -> String {
    format!("{:.1} %", x * 100.0)
}

fn points(x: f64) -> String {
    format!("{:+.1}", x * 100.0)
}

/// What a rate or difference is of, in words.
fn measured(measure: &str, k: u32, samples: usize) -> String {
    if samples > 1 { format!("{measure} pass@{k}") } else { measure.to_owned() }
}

fn print(app: &App, all: &[TaskReport], measures: [&str; 2]) -> Result<()> {
    for r in all {
        app.line(about(r))?;
    }
    app.line("")?;
    let several = all.len() > 1;
    let cells = |name: &str, rest: Vec<String>| match several {
        true => [vec![name.to_owned()], rest].concat(),
        false => rest,
    };
    let head = |name: &str, rest: &[&str]| cells(name, rest.iter().map(|s| (*s).to_owned()).collect());
    let row = |measure: String, by: &str, e: &Estimate, show: fn(f64) -> String| {
        vec![measure, by.to_owned(), show(e.value), show(e.low), show(e.high)]
    };
    let rates = all.iter().flat_map(|r| r.rates.iter().map(move |rate| (r, rate)));
    let rates = rates.map(|(r, rate)| {
        cells(&r.name, row(measured(&rate.measure, rate.k, r.samples), &rate.by, &rate.rate, percent))
    });
    Table::of(head("model", &["measure", "by", "passed", "from", "to"]), rates.collect()).print()?;
    for r in all.iter().filter(|r| !r.kinds.is_empty()) {
        app.line(if several { format!("\n{}\n", r.name) } else { String::new() })?;
        let mut kinds = Table::new(&["instruction", "count", measures[0], measures[1]]);
        for k in &r.kinds {
            let [first, second] = measures.map(|m| k.passed.get(m).map_or("-".into(), |x| percent(*x)));
            kinds.row([k.kind.clone(), k.count.to_string(), first, second]);
        }
        kinds.print()?;
    }
    let gains = all.iter().flat_map(|r| r.differences.iter().map(move |d| (r, d)));
    let gains: Vec<Vec<String>> = gains
        .map(|(r, d)| {
            let what = row(measured(&d.measure, d.k, r.samples), &d.by, &d.difference, points);
            cells(&format!("{} less {}", r.name, d.against), what)
        })
        .collect();
    if !gains.is_empty() {
        app.line("\nDifferences in points, on the items that both have answered\n")?;
        Table::of(head("models", &["measure", "by", "points", "from", "to"]), gains).print()?;
    }
    app.line("\nIntervals hold 95 % of 1,000 resamples of the prompts.")
}

/// Who answered how much.
fn about(r: &TaskReport) -> String {
    let each = if r.samples > 1 { format!(", {} times each", r.samples) } else { String::new() };
    let ended = r.stopped.map(|share| format!("{:.0} % ended by the model", share * 100.0));
    let words = r.words.map(|mean| format!("{mean:.1} words an answer"));
    let more: Vec<String> = words.into_iter().chain(ended).collect();
    let more = if more.is_empty() { String::new() } else { format!(": {}", more.join(", ")) };
    format!("{}, {} of {} items of {} answered{each}{more}", r.name, r.answered, r.items, r.task)
}
