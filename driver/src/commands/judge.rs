//! `judge`: scores for responses, and how well a model judges at all.

use crate::app::{App, DtypeArg, check_writable};
use crate::tables::Table;
use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::judge::{
    GpuEngine, Item, Judge, Language, Mode, ModelJudge, ModelJudgeSettings, Templates, Verdict, calibrate,
};
use selfreward::model::Model;
use selfreward::recipe::chat::ChatLanguage;
use selfreward::recipe::metrics;
use selfreward::recipe::records::{hex, read_jsonl, write_jsonl};
use selfreward::rng::record_id;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, or run folder (its newest model)
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Lines with prompt and response, and score_reference where the true score is known
    #[arg(long, value_name = "F.jsonl", required_unless_present = "calibrate", requires = "out")]
    responses: Option<PathBuf>,
    /// The scored responses
    #[arg(long, value_name = "F.jsonl")]
    out: Option<PathBuf>,
    /// How a score is read; several may be listed, the first one is the score
    #[arg(long, value_delimiter = ',', default_value = "sampled", value_name = "MODE,…", value_parser = modes())]
    mode: Vec<Mode>,
    /// Verdicts an answer in mode sampled
    #[arg(long, default_value_t = ModelJudgeSettings::default().samples as u32, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// A judge prompt of one's own (with {{ question }} and {{ answer }}) for the first mode listed
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    #[command(flatten)]
    dtype: DtypeArg,
    /// Measure every mode on a shipped set of ranked answers and recommend one
    #[arg(long, conflicts_with_all = ["responses", "out", "template"])]
    calibrate: bool,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| name.parse::<Mode>())
}

/// What is read of a line.
#[derive(Deserialize)]
struct Response {
    prompt: String,
    #[serde(alias = "text")]
    response: String,
    tokens: Option<usize>,
    score_reference: Option<f64>,
}

/// One scored response.
#[derive(Serialize)]
struct Scored<'a> {
    /// Keys the random numbers of its verdicts, together with the seed.
    id: String,
    prompt: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    /// 0 to 5 by the first mode; null when none could be read.
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score_reference: Option<f64>,
    /// By mode.
    verdicts: BTreeMap<&'static str, Reading>,
}

#[derive(Serialize)]
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

/// How a mode did.
#[derive(Serialize)]
struct Agreement {
    mode: &'static str,
    scored: usize,
    unscored: usize,
    mean: f64,
    /// The rest only where reference scores are given.
    #[serde(flatten)]
    against: Option<Against>,
}

#[derive(Serialize)]
struct Against {
    pairwise: Option<f64>,
    five_best: Option<f64>,
    exact: Option<f64>,
    spearman: Option<f64>,
    kendall: Option<f64>,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if args.calibrate {
        return calibrate_modes(app, args);
    }
    let (Some(responses), Some(out)) = (&args.responses, &args.out) else { bail!("--responses and --out are needed") };
    check_writable(out)?;
    let list: Vec<Response> = read_jsonl(responses)?;
    ensure!(!list.is_empty(), "{}: holds no record", responses.display());
    if let Some(i) = list.iter().position(|r| r.prompt.trim().is_empty()) {
        bail!("{}: record {}: the prompt is empty", responses.display(), i + 1);
    }
    let own = match &args.template {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    let source = app.source(&args.model)?;
    let language = ChatLanguage::new(&source)?;
    let mut samples: HashMap<&str, u32> = HashMap::new();
    let mut items = Vec::new();
    for r in &list {
        let sample = samples.entry(&r.prompt).or_default();
        let key = record_id(0, "judge", &language.ask(&r.prompt)?, *sample);
        *sample += 1;
        items.push(Item { key, question: &r.prompt, answer: &r.response });
    }
    let gpu = app.gpu()?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let mut engine = GpuEngine::new(&gpu, &model);
    let mut scored: Vec<Scored> = list
        .iter()
        .zip(&items)
        .map(|(r, item)| Scored {
            id: hex(item.key),
            prompt: &r.prompt,
            response: &r.response,
            tokens: r.tokens,
            score: None,
            score_reference: r.score_reference,
            verdicts: BTreeMap::new(),
        })
        .collect();
    for (i, mode) in args.mode.iter().enumerate() {
        let mut templates = Templates::default();
        if let (0, Some(text)) = (i, &own) {
            templates.replace(*mode, text);
        }
        let settings = ModelJudgeSettings {
            samples: args.samples as usize,
            seed: app.common.seed,
            ..ModelJudgeSettings::default()
        };
        let judge = ModelJudge { mode: *mode, language: &language, templates, settings };
        let verdicts = judge.judge(&mut engine, &items, &app.progress)?;
        for (record, verdict) in scored.iter_mut().zip(verdicts) {
            if i == 0 {
                record.score = verdict.score;
            }
            record.verdicts.insert(mode.name(), verdict.into());
        }
    }
    app.progress.clear();
    write_jsonl(out, &scored)?;
    let agreement: Vec<Agreement> = args.mode.iter().map(|m| agreement(m.name(), &scored)).collect();
    if app.common.json {
        return app.json(&agreement);
    }
    table(&agreement).print()?;
    Ok(())
}

fn agreement(mode: &'static str, scored: &[Scored]) -> Agreement {
    let score = |s: &Scored| s.verdicts.get(mode).and_then(|r| r.score);
    let scores: Vec<f64> = scored.iter().filter_map(score).collect();
    let mut groups: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for s in scored {
        if let (Some(truth), Some(own)) = (s.score_reference, score(s)) {
            let group = groups.entry(s.prompt).or_default();
            group.0.push(truth);
            group.1.push(own);
        }
    }
    let groups: Vec<(Vec<f64>, Vec<f64>)> = groups.into_values().collect();
    let (truth, own) = (
        groups.iter().flat_map(|g| g.0.clone()).collect::<Vec<f64>>(),
        groups.iter().flat_map(|g| g.1.clone()).collect::<Vec<f64>>(),
    );
    // Answers to different questions are not compared: each prompt orders its own.
    let pairwise: Vec<f64> = groups.iter().filter_map(|(t, p)| metrics::pairwise_accuracy(t, p)).collect();
    Agreement {
        mode,
        scored: scores.len(),
        unscored: scored.len() - scores.len(),
        mean: metrics::mean_se(&scores).0,
        against: (!groups.is_empty()).then(|| Against {
            pairwise: (!pairwise.is_empty()).then(|| metrics::mean_se(&pairwise).0),
            five_best: metrics::five_best(&groups),
            exact: metrics::exact_match(&groups),
            spearman: metrics::spearman(&truth, &own),
            kendall: metrics::kendall_tau_b(&truth, &own),
        }),
    }
}

fn table(agreement: &[Agreement]) -> Table {
    let mut table =
        Table::new(&["mode", "scored", "unscored", "mean", "pairwise", "5-best", "exact", "spearman", "kendall"]);
    let show = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    for a in agreement {
        let of = |f: fn(&Against) -> Option<f64>| show(a.against.as_ref().and_then(f));
        table.row([
            a.mode.into(),
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
    let source = app.source(&args.model)?;
    let language = ChatLanguage::new(&source)?;
    let gpu = app.gpu()?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let report = calibrate::run(&mut GpuEngine::new(&gpu, &model), &language, app.common.seed, &app.progress)?;
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
    }
    if let Some(warning) = &report.warning {
        app.line(format!("warning: {warning}"))?;
    }
    Ok(())
}
