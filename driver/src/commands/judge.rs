//! `judge`: scores for responses, and how well a model judges at all.

use crate::app::{App, DtypeArg, check_writable};
use crate::flags::{Flags, Preset};
use crate::partial::{Partial, ResumeArg, digest, discard, wave};
use crate::sample::Kept;
use crate::tables::Table;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::config::JudgeSection;
use selfreward::data::answers::with_response;
use selfreward::data::records::hex;
use selfreward::generate::ChatLanguage;
use selfreward::generate::GpuEngine;
use selfreward::json::{read_jsonl, write_jsonl};
use selfreward::judge::{Checks, Item, Judge, Mode, ModelJudge, ModelJudgeSettings, ScorePattern, Templates, Verdict};
use selfreward::kernels::half::Half;
use selfreward::measure::agreement::{Against, Agreement, agreement};
use selfreward::measure::calibrate;
use selfreward::measure::signals::{Signal, SignalJudge};
use selfreward::model::Model;
use selfreward::rng::record_id;
use selfreward::settings;
use selfreward::text::{Language, Prompt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id; the modes rules, key and
    /// vote need none
    #[arg(long, value_name = "M", required_unless_present = "mode")]
    model: Option<PathBuf>,
    /// Lines with prompt and response (or output, completion, text, messages), and score_reference where the true score
    /// is known; for rules also instruction_id_list and kwargs, for key answer or pattern
    #[arg(long, value_name = "F.jsonl", required_unless_present = "calibrate", requires = "out")]
    responses: Option<PathBuf>,
    /// The scored responses
    #[arg(long, value_name = "F.jsonl")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArg,
    /// How a score is read; several may be listed, the first one is the score (default: sampled). rules, key and vote
    /// ask no model: a program checks each answer, or the answers to a prompt vote
    #[arg(long, value_delimiter = ',', value_name = "MODE,…", value_parser = ways())]
    mode: Vec<Way>,
    /// vote: the share of a prompt's answers that must agree; other prompts get no score
    #[arg(long, value_name = "S", default_value_t = JudgeSection::default().vote_share)]
    vote_share: f64,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    kept: Flags<Kept>,
    #[command(flatten)]
    dtype: DtypeArg,
    /// Measure every mode on a shipped set of ranked answers and recommend one
    #[arg(long, conflicts_with_all = ["responses", "out", "template", "mode"], requires = "model")]
    calibrate: bool,
}

/// How an answer gets its score.
#[derive(Clone, Copy)]
enum Way {
    /// It is read out of a model.
    Asked(Mode),
    /// No model is asked.
    Found(Signal),
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Asked(mode) => mode.name(),
            Way::Found(signal) => signal.name(),
        }
    }
}

fn ways() -> impl TypedValueParser<Value = Way> {
    let names: Vec<&str> = Mode::ALL.map(Mode::name).into_iter().chain(Signal::ALL.map(Signal::name)).collect();
    PossibleValuesParser::new(names).try_map(|name| match name.parse::<Signal>() {
        Ok(signal) => Ok(Way::Found(signal)),
        Err(_) => name.parse::<Mode>().map(Way::Asked),
    })
}

/// How scores are read out of a model, in modes that are listed.
#[derive(clap::Args)]
pub(crate) struct JudgeArgs {
    /// How a score is read; several may be listed, the first one is the score (default: sampled; eval's head to head:
    /// none, side by side)
    #[arg(long, value_delimiter = ',', value_name = "MODE,…", value_parser = modes())]
    pub(crate) mode: Vec<Mode>,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// How scores are read out of a model.
#[derive(clap::Args)]
pub(crate) struct ReadingArgs {
    #[command(flatten)]
    verdicts: Flags<Verdicts>,
    /// A judge prompt of one's own (with {{ question }} and {{ answer }}; side by side {{ a }} and {{ b }}) for the
    /// first mode listed
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// How a written verdict is read: a regular expression whose first group is the number (default: what stands behind
    /// `Score:`)
    #[arg(long, value_name = "REGEX", value_parser = one_with_a_group)]
    score_pattern: Option<String>,
    /// The numbers of --score-pattern that mean 0 and 5
    #[arg(long, value_name = "LOW,HIGH", default_value = "0,5", requires = "score_pattern", value_parser = range)]
    score_range: Range,
}

/// The way in which verdicts are written where flags do not say otherwise.
pub(crate) struct Verdicts;

impl Preset for Verdicts {
    type Of = ModelJudgeSettings;

    fn defaults() -> ModelJudgeSettings {
        ModelJudgeSettings::default()
    }

    fn takes(key: &str) -> bool {
        ["samples", "think"].contains(&key)
    }
}

/// The two numbers that mean the ends of the scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range([f64; 2]);

fn range(text: &str) -> Result<Range, String> {
    let ends = text.split_once(',').and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
    let ends = ends.ok_or("expected two numbers such as 1,10")?;
    ScorePattern::new("(.)", ends).map(|_| Range(ends)).map_err(|e| e.to_string())
}

fn one_with_a_group(text: &str) -> Result<String, String> {
    ScorePattern::new(text, [0.0, 5.0]).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

impl JudgeArgs {
    /// The modes that the flags list.
    pub(crate) fn modes(&self) -> &[Mode] {
        if self.mode.is_empty() { &[Mode::Sampled] } else { &self.mode }
    }

    /// What a resumed command must have in common with the interrupted one.
    pub(crate) fn plan(&self, own: Option<&str>) -> Result<Value> {
        self.reading.plan(self.mode.iter().map(|mode| mode.name()).collect(), own)
    }
}

impl std::ops::Deref for JudgeArgs {
    type Target = ReadingArgs;

    fn deref(&self) -> &ReadingArgs {
        &self.reading
    }
}

impl ReadingArgs {
    /// The text of `--template`.
    pub(crate) fn own_template(&self) -> Result<Option<String>> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        self.template.as_ref().map(read).transpose()
    }

    /// The number of `--samples`, if it was given.
    pub(crate) fn samples_given(&self) -> Option<u32> {
        self.verdicts.given().contains_key("samples").then_some(self.verdicts.samples as u32)
    }

    /// The settings with which verdicts are written.
    pub(crate) fn settings(&self, seed: u64) -> ModelJudgeSettings {
        // Both were read when the arguments were parsed, so neither fails here.
        let pattern = self.score_pattern.as_ref().and_then(|p| ScorePattern::new(p, self.score_range.0).ok());
        ModelJudgeSettings::clone(&self.verdicts).pattern(pattern).seed(seed)
    }

    /// What a resumed command must have in common with the interrupted one.
    fn plan(&self, modes: Vec<&str>, own: Option<&str>) -> Result<Value> {
        Ok(json!({
            "modes": modes, "verdicts": settings::table(&*self.verdicts)?, "template": own,
            "pattern": self.score_pattern, "range": self.score_range.0,
        }))
    }

    /// The judge of a mode, with the user's own prompt if there is one.
    pub(crate) fn judge<'a>(
        &self,
        mode: Mode,
        own: Option<&str>,
        language: &'a dyn Language,
        seed: u64,
    ) -> ModelJudge<'a> {
        let mut templates = Templates::default();
        if let Some(text) = own {
            templates.replace(mode, text);
        }
        ModelJudge { mode, language, templates, settings: self.settings(seed) }
    }
}

/// Questions and answers to be judged; equal questions number their answers.
pub(crate) fn items<'a>(
    language: &dyn Language,
    list: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<Item<'a>>> {
    let mut samples: HashMap<&str, u32> = HashMap::new();
    list.map(|(question, answer)| {
        let sample = samples.entry(question).or_default();
        let key = record_id(0, "judge", &language.ask(question)?, *sample);
        *sample += 1;
        Ok(Item::new(key, question, answer))
    })
    .collect()
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| name.parse::<Mode>())
}

/// Those fields of a line that are read.
#[derive(Deserialize)]
struct Response {
    #[serde(flatten)]
    prompt: Prompt,
    response: String,
    tokens: Option<usize>,
    /// Whether the response ended; it is taken to have where nothing is said.
    stopped: Option<bool>,
    score_reference: Option<f64>,
    #[serde(flatten)]
    checks: Checks,
}

/// One scored response.
#[derive(Serialize)]
struct Scored<'a> {
    /// Keys the random numbers of its verdicts, together with the seed.
    id: String,
    #[serde(flatten)]
    prompt: &'a Prompt,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<bool>,
    #[serde(flatten)]
    checks: &'a Checks,
    /// 0 to 5 by the first mode; null when none could be read.
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score_reference: Option<f64>,
    /// By mode.
    verdicts: BTreeMap<&'static str, Reading>,
}

#[derive(Serialize, Deserialize)]
struct Reading {
    score: Option<f64>,
    /// `ok`, or why there is no score.
    status: String,
    texts: Vec<String>,
    unparsed: usize,
    tokens: usize,
}

impl From<Verdict> for Reading {
    fn from(v: Verdict) -> Self {
        Self { score: v.score, status: v.status, texts: v.texts, unparsed: v.unparsed, tokens: v.tokens }
    }
}

/// Reads prompts with their responses, in any of the forms that other programs write.
fn read_responses(path: &Path) -> Result<Vec<Response>> {
    const FORMS: &str = "expected a prompt and its response (or output, completion, text), or messages that end \
                         with the assistant's";
    let records: Vec<Map<String, Value>> = read_jsonl(path)?;
    let numbered = records.into_iter().enumerate();
    let read = |(i, record): (usize, Map<String, Value>)| {
        let at = || format!("{}: record {}", path.display(), i + 1);
        let record = with_response(record).with_context(at)?;
        if record.get("response").is_none_or(Value::is_null) {
            let keys: Vec<&str> = record.keys().map(String::as_str).collect();
            bail!("{}: {FORMS}; the record has {}", at(), keys.join(", "));
        }
        serde_json::from_value(record.into()).with_context(at)
    };
    numbered.map(read).collect()
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if args.calibrate {
        return calibrate_modes(app, args);
    }
    let modes = if args.mode.is_empty() { &[Way::Asked(Mode::Sampled)][..] } else { &args.mode };
    let (Some(responses), Some(out)) = (&args.responses, &args.out) else { bail!("--responses and --out are needed") };
    check_writable(out)?;
    let list = read_responses(responses)?;
    ensure!(!list.is_empty(), "{}: holds no record", responses.display());
    if let Some(i) = list.iter().position(|r| r.prompt.question().trim().is_empty()) {
        bail!("{}: record {}: the prompt is empty", responses.display(), i + 1);
    }
    let questions: Vec<String> = list.iter().map(|r| r.prompt.question()).collect();
    let found = found(args, modes, &list, &questions)?;
    let mut scored: Vec<Scored> = list
        .iter()
        .enumerate()
        .map(|(at, r)| Scored {
            id: hex(record_id(0, "judge", &[], at as u32)),
            prompt: &r.prompt,
            response: &r.response,
            tokens: r.tokens,
            stopped: r.stopped,
            checks: &r.checks,
            score: None,
            score_reference: r.score_reference,
            verdicts: BTreeMap::new(),
        })
        .collect();
    if modes.iter().any(|way| matches!(way, Way::Asked(_))) {
        ask(app, args, modes, out, &questions, &mut scored)?;
    }
    for (signal, verdicts) in found {
        for (record, verdict) in scored.iter_mut().zip(verdicts) {
            // What a program finds is the truth where the file does not say it.
            if signal.needs_checks() {
                record.score_reference = record.score_reference.or(verdict.score);
            }
            record.verdicts.insert(signal.name(), verdict.into());
        }
    }
    let first = modes[0].name();
    scored.iter_mut().for_each(|record| record.score = record.verdicts.get(first).and_then(|r| r.score));
    app.progress.clear();
    write_jsonl(out, &scored)?;
    discard(out)?;
    let of = |way: &Way| {
        let score = |s: &Scored| s.verdicts.get(way.name()).and_then(|r| r.score);
        let asked = questions.iter().map(String::as_str).zip(&scored);
        let triples: Vec<_> = asked.map(|(question, s)| (question, s.score_reference, score(s))).collect();
        agreement(way.name(), &triples)
    };
    let agreement: Vec<Agreement> = modes.iter().map(of).collect();
    if app.common.json {
        return app.json(&agreement);
    }
    table(&agreement).print()?;
    Ok(())
}

/// The verdicts of those modes that ask no model.
fn found(args: &Args, modes: &[Way], list: &[Response], questions: &[String]) -> Result<Vec<(Signal, Vec<Verdict>)>> {
    let path = args.responses.as_deref().unwrap_or(Path::new("")).display();
    let items: Vec<Item> = list
        .iter()
        .zip(questions)
        .map(|(r, question)| Item {
            checks: Some(&r.checks),
            cut: r.stopped == Some(false),
            ..Item::new(0, question, &r.response)
        })
        .collect();
    let mut all = Vec::new();
    for signal in modes.iter().filter_map(|way| if let Way::Found(signal) = way { Some(*signal) } else { None }) {
        for (i, item) in items.iter().enumerate() {
            // The first record of a prompt is named, not the prompt.
            let before = i.checked_sub(1).map(|at| &items[at]);
            if before.is_none_or(|b| b.question != item.question || b.checks != item.checks) {
                let wrong = |what| anyhow!("{path}: record {}: {what}", i + 1);
                signal.checker(item.question, &list[i].checks).map_err(wrong)?;
            }
        }
        let pattern = args.reading.score_pattern.as_deref().unwrap_or_default();
        let judge = SignalJudge::new(signal, args.vote_share, pattern)?;
        all.push((signal, judge.score(&items).with_context(|| path.to_string())?));
    }
    Ok(all)
}

/// Has a model score the responses in those modes that ask one.
fn ask(app: &App, args: &Args, modes: &[Way], out: &Path, questions: &[String], scored: &mut [Scored]) -> Result<()> {
    let Some(model) = &args.model else {
        let asked = modes.iter().find(|way| matches!(way, Way::Asked(_))).map_or("", |way| way.name());
        bail!("--mode {asked} asks a model: name one by --model");
    };
    let own = args.reading.own_template()?;
    let (source, gpu) = app.source_beside(model, || app.gpu())?;
    let language = ChatLanguage::new(&source)?;
    let answers = scored.iter().map(|s| s.response);
    let items = items(&language, questions.iter().map(String::as_str).zip(answers))?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let mut engine = GpuEngine::new(&gpu, &model).kv(args.kept.kv);
    scored.iter_mut().zip(&items).for_each(|(record, item)| record.id = hex(item.key));
    let asked: Vec<_> = items.iter().map(|item| (item.question, item.answer)).collect();
    let names = args.mode.iter().map(|way| way.name()).collect();
    let written = modes.iter().any(|way| matches!(way, Way::Asked(Mode::Sampled)));
    let wave = wave(gpu.info().software, if written { args.reading.verdicts.samples as u32 } else { 1 });
    let plan = json!({
        "wave": wave, "data": digest(&asked), "model": source.path,
        "judge": args.reading.plan(names, own.as_deref())?,
        "seed": app.common.seed(), "dtype": args.dtype.half().map(Half::name), "kv": args.kept.kv,
        "invariant": app.common.invariant,
    });
    let mut partial = Partial::open(Some(out), &args.resume, &plan)?;
    let modes: Vec<(usize, Mode)> = modes
        .iter()
        .enumerate()
        .filter_map(|(i, way)| if let Way::Asked(mode) = way { Some((i, *mode)) } else { None })
        .collect();
    for (at, items) in items.chunks(wave).enumerate() {
        let of = |engine: &mut GpuEngine, (i, mode): (usize, Mode)| -> Result<Vec<Reading>> {
            let own = own.as_deref().filter(|_| i == 0);
            let judge = args.reading.judge(mode, own, &language, app.common.seed());
            let verdicts = judge.judge(engine, items, &app.progress)?;
            Ok(verdicts.into_iter().map(Reading::from).collect())
        };
        let work = || modes.iter().map(|one| of(&mut engine, *one)).collect::<Result<Vec<_>>>();
        let readings = partial.step(&at.to_string(), work)?;
        for ((_, mode), readings) in modes.iter().zip(readings) {
            for (record, reading) in scored[at * wave..].iter_mut().zip(readings) {
                record.verdicts.insert(mode.name(), reading);
            }
        }
    }
    Ok(())
}

/// A table of the metrics of some modes.
pub(crate) fn table(agreement: &[Agreement]) -> Table {
    let mut table =
        Table::new(&["mode", "scored", "unscored", "mean", "pairwise", "5-best", "exact", "spearman", "kendall"]);
    let show = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    for a in agreement {
        let of = |f: fn(&Against) -> Option<f64>| show(a.against.as_ref().and_then(f));
        table.row([
            a.mode.clone(),
            a.scored.to_string(),
            a.unscored.to_string(),
            format!("{:.2}", a.mean),
            of(|x| x.pairwise),
            of(|x| x.five_best),
            of(|x| x.exact),
            of(|x| x.spearman),
            of(|x| x.kendall),
        ]);
    }
    table
}

fn calibrate_modes(app: &App, args: &Args) -> Result<()> {
    let Some(model) = &args.model else { bail!("--calibrate needs --model") };
    let (source, gpu) = app.source_beside(model, || app.gpu())?;
    let language = ChatLanguage::new(&source)?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let report = calibrate::run(
        &mut GpuEngine::new(&gpu, &model).kv(args.kept.kv),
        &language,
        app.common.seed(),
        &app.progress,
    )?;
    app.progress.clear();
    if app.common.json {
        return app.json(&report);
    }
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut table = Table::new(&["mode", "right", "scored", "note"]);
    for m in &report.modes {
        let right = if m.unusable.is_none() { percent(m.reporting) } else { "-".into() };
        table.row([m.mode.name().into(), right, percent(m.scored), m.unusable.clone().unwrap_or_default()]);
    }
    table.print()?;
    app.line(format!("\nshare of answer pairs ordered right, of {} questions; chance is 50 %", report.questions))?;
    if let Some(mode) = report.recommended {
        app.line(format!("recommended: --mode {}", mode.name()))?;
        let ordered = report.modes.iter().find(|m| m.mode == mode).and_then(|m| m.ordered.as_ref());
        ordered.map_or(Ok(()), |o| app.line(format!("on the half by which it was not chosen: {}", o.all)))?;
    }
    if let Some(warning) = &report.warning {
        app.line(format!("warning: {warning}"))?;
    }
    Ok(())
}
