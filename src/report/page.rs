//! The page: a [`Report`] as one HTML file that loads nothing.
//!
//! All markup is in the template, whose engine escapes whatever it inserts; nothing here writes markup.

use super::plot;
use super::plot::Chart;
use super::samples::{Sample, SampleAnswer};
use super::tables;
use super::tables::Grid;
use super::{Bin, Report, Round, curves};
use crate::demo::report::ModelReport;
use crate::measure::win_rate::Estimate;
use crate::recipe::evaluation::CONTROLS;
use crate::recipe::run_metrics::{Measure, Unit};
use crate::{Error, Result};
use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

const TEMPLATES: [(&str, &str); 4] = [
    ("report.html", include_str!("report.html")),
    ("parts.html", include_str!("parts.html")),
    ("report.css", include_str!("report.css")),
    ("chart.svg.html", include_str!("chart.svg.html")),
];
/// How many characters of a text are shown at once; the rest of a longer one is behind a disclosure.
const SHOWN: usize = 1200;
/// How many measures are drawn.
const MEASURES: usize = 3;

/// What the template inserts.
#[derive(Serialize)]
struct Page {
    title: String,
    subject: String,
    finished: bool,
    facts: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    partial: Vec<String>,
    metrics: Option<Grid>,
    measures: Vec<Chart>,
    gates: Option<Grid>,
    models: Option<Grid>,
    head_to_head: Option<Grid>,
    duels: Option<Grid>,
    judging: Option<Grid>,
    tasks: Option<Grid>,
    truth: Option<Chart>,
    rounds: Option<Grid>,
    judge: Option<Grid>,
    curves: Vec<Chart>,
    scores: Vec<Chart>,
    lengths: Vec<Chart>,
    samples: Vec<RoundSamples>,
    questions: Vec<Question>,
    stages: Option<Grid>,
    plan: Option<Grid>,
    config: String,
}

#[derive(Serialize)]
struct RoundSamples {
    round: u32,
    samples: Vec<ShownSample>,
}

#[derive(Serialize)]
struct ShownSample {
    prompt: CutText,
    pair: bool,
    answers: [ShownAnswer; 2],
}

#[derive(Serialize)]
struct ShownAnswer {
    what: &'static str,
    class: &'static str,
    text: CutText,
    tokens: usize,
    score: String,
    truth: Option<String>,
    mode: String,
    verdicts: Vec<CutText>,
    /// Whether the verdicts are so short that they are shown at once.
    verdicts_are_short: bool,
}

#[derive(Serialize)]
struct Question {
    prompt: CutText,
    gold: CutText,
    answers: Vec<(String, String, CutText)>,
}

/// A text of a model or of a file, cut if it is long.
#[derive(Serialize)]
struct CutText {
    head: String,
    rest: String,
    rest_chars: usize,
}

/// The page of a report. The same report always gives the same bytes.
///
/// # Errors
/// The template is broken, which only a faulty build can cause.
pub fn html(report: &Report) -> Result<String> {
    render("report.html", page(report))
}

/// One of the templates with what it inserts.
pub(super) fn render(template: &str, inserted: impl Serialize) -> Result<String> {
    let failed = |e: minijinja::Error| Error::Bug(format!("the report's template: {e:#}"));
    let mut env = Environment::new();
    env.set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
    env.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if text.chars().any(char::is_control) => {
            minijinja::escape_formatter(out, state, &keep_safe(value, visible(text)))
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    for (name, source) in TEMPLATES {
        env.add_template(name, source).map_err(failed)?;
    }
    let template = env.get_template(template).map_err(failed)?;
    template.render(inserted).map_err(failed)
}

fn page(report: &Report) -> Page {
    let subject = subject(report);
    Page {
        title: format!("Self-rewarding run: {subject}"),
        subject,
        finished: report.finished,
        facts: facts(report),
        warnings: report.warnings(),
        partial: report.partial.iter().map(|(stage, waves)| format!("{stage}: {waves} waves done")).collect(),
        metrics: tables::metrics(report),
        measures: measures(report),
        gates: tables::gates(report),
        models: tables::models(report),
        head_to_head: tables::head_to_head(report),
        duels: tables::duels(report),
        judging: tables::judging(report),
        tasks: tables::tasks(report),
        truth: truth(report),
        rounds: tables::rounds(report),
        judge: tables::judge(report),
        curves: curves::CURVES.iter().filter_map(|c| plot::curve(c, &report.trainings)).collect(),
        scores: histograms(report, "Scores", "score", |r| &r.scores, |b, _| tables::short(b.at)),
        lengths: histograms(report, "Lengths", "tokens", |r| &r.lengths, length_label),
        samples: report
            .rounds
            .iter()
            .filter(|r| !r.samples.is_empty())
            .map(|r| RoundSamples { round: r.round, samples: r.samples.iter().map(sample).collect() })
            .collect(),
        questions: report
            .questions
            .iter()
            .map(|q| {
                let score = |model: &String| q.scores.get(model).map_or_else(String::new, |s| tables::short(*s));
                let answers = q.answers.iter().map(|(model, answer)| (model.clone(), score(model), text(answer)));
                Question { prompt: text(&q.prompt), gold: text(&q.gold), answers: answers.collect() }
            })
            .collect(),
        stages: tables::stages(report),
        plan: tables::plan(report),
        config: report.config.clone(),
    }
}

/// What the run is about, according to its configuration.
fn subject(report: &Report) -> String {
    let table: toml::Table = report.config.parse().unwrap_or_default();
    let setting = |section: &str, key: &str| {
        let value = table.get(section)?.get(key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    if let (Some(judge), Some(train), Some(seed)) =
        (setting("demo", "judge"), setting("demo", "train"), setting("demo", "seed"))
    {
        return format!("the small world (judge {judge}, training {train}, seed {seed})");
    }
    match (setting("run", "out"), setting("model", "path")) {
        (Some(out), Some(model)) => format!("{out}, from {model}"),
        _ => "its folder".to_owned(),
    }
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if !report.models.is_empty() {
        facts.push(("Models", report.models.join(", ")));
    }
    let over = report.rounds.iter().filter(|r| r.metrics.is_some()).count();
    let begun = report.rounds.len() - over;
    facts.push(("Rounds", if begun == 0 { over.to_string() } else { format!("{over} over, {begun} begun") }));
    if let (Some(first), Some(last), true) =
        (report.evaluations.first(), report.evaluations.last(), report.evaluations.len() > 1)
    {
        let gain = format!("{:.2} → {:.2}", first.truth_mean, last.truth_mean);
        facts.push(("True score", format!("{gain} ({} → {})", first.name, last.name)));
    }
    let steps: usize = report.trainings.iter().map(|t| t.steps.len()).sum();
    facts.push(("Optimiser steps", steps.to_string()));
    facts.push(("Time", duration(report.seconds())));
    if let Some(device) = report.plan.as_ref().and_then(|p| p.sizes.get("device")).and_then(serde_json::Value::as_str) {
        facts.push(("Device", device.to_owned()));
    }
    facts
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..120 => format!("{seconds:.0} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A chart of the models' true scores, as bars with their standard errors.
fn truth(report: &Report) -> Option<Chart> {
    let all = &report.evaluations;
    let last = all.last()?;
    let with_error = |m: &ModelReport| [m.truth_mean, m.truth_mean - m.truth_se, m.truth_mean + m.truth_se];
    let values: Vec<[f64; 3]> = all.iter().map(with_error).collect();
    let labels: Vec<String> = all.iter().map(|m| m.name.clone()).collect();
    let rows = all.iter().map(|m| vec![m.name.clone(), format!("{:.2}", m.truth_mean), format!("{:.2}", m.truth_se)]);
    Some(Chart {
        title: "True score by model".to_owned(),
        description: format!(
            "Mean score of an exact scorer, from 0 to 5, on held-out questions, with standard errors; {} has {:.2}.",
            last.name, last.truth_mean
        ),
        x_title: "model".to_owned(),
        table: Grid { head: ["model", "mean", "standard error"].map(str::to_owned).to_vec(), rows: rows.collect() },
        ..plot::bars(&(0.0..=5.0), &labels, &values, &|v| format!("{v:.2}"))
    })
}

/// Charts of the first shares by which all models are compared, as bars with their intervals.
fn measures(report: &Report) -> Vec<Chart> {
    let m = &report.metrics;
    let told = m.measures.iter().filter(|of| of.unit == Unit::Share && of.values.len() > 1);
    let chart = |of: &Measure| {
        let with: Vec<(&String, &Estimate)> =
            m.models.iter().filter_map(|name| of.values.get_key_value(name)).collect();
        let percent: Vec<[f64; 3]> = with.iter().map(|(_, e)| [e.value, e.low, e.high].map(|x| x * 100.0)).collect();
        let most = percent.iter().map(|[_, _, high]| *high).fold(1.0, f64::max);
        let short = |name: &str| CONTROLS.iter().find(|c| c.name == name).map_or(name, |c| c.short).to_owned();
        let labels: Vec<String> = with.iter().map(|(name, _)| short(name)).collect();
        let cells = |(name, e): &(&String, &Estimate)| {
            let numbers = [e.value, e.low, e.high].map(|x| format!("{:.1}", x * 100.0));
            [vec![(*name).clone()], numbers.to_vec()].concat()
        };
        let rows = with.iter().map(cells).collect();
        let values: Vec<String> = labels.iter().zip(&percent).map(|(l, [v, ..])| format!("{l} {v:.0}")).collect();
        let (name, n) = (&of.name, of.items);
        Chart {
            title: format!("{name}, %"),
            description: format!("By model, n = {n}, with 95 % intervals: {}.", values.join(", ")),
            x_title: "model".to_owned(),
            table: Grid { head: ["model", "%", "from", "to"].map(str::to_owned).to_vec(), rows },
            ..plot::bars(&(0.0..=(most * 1.1).min(100.0)), &labels, &percent, &|v| format!("{v:.0}"))
        }
    };
    told.take(MEASURES).map(chart).collect()
}

fn histograms(
    report: &Report,
    what: &str,
    unit: &str,
    of: impl Fn(&Round) -> &Vec<Bin>,
    label: impl Fn(&Bin, &[Bin]) -> String,
) -> Vec<Chart> {
    let most = report.rounds.iter().flat_map(|r| of(r).iter().map(|b| b.count)).max().unwrap_or(0);
    let chart = |round: &Round| {
        let bins = of(round);
        let table = tables::histogram(unit, |b| label(b, bins), bins);
        plot::histogram(&format!("{what}, round {}", round.round), unit, bins, table, most)
    };
    report.rounds.iter().filter_map(chart).collect()
}

/// The range of lengths that a bin covers, as a label.
fn length_label(bin: &Bin, bins: &[Bin]) -> String {
    let width = bins.get(1).map_or(1.0, |second| second.at);
    let last = bin.at + width - 1.0;
    if last > bin.at { format!("{} to {last}", bin.at) } else { bin.at.to_string() }
}

fn sample(sample: &Sample) -> ShownSample {
    let names = if sample.pair { ["Chosen", "Rejected"] } else { ["Highest score", "Lowest score"] };
    ShownSample {
        prompt: text(&sample.prompt),
        pair: sample.pair,
        answers: [answer(names[0], "best", &sample.best), answer(names[1], "worst", &sample.worst)],
    }
}

fn answer(what: &'static str, class: &'static str, answer: &SampleAnswer) -> ShownAnswer {
    ShownAnswer {
        what,
        class,
        text: text(&answer.text),
        tokens: answer.tokens,
        score: format!("{:.2}", answer.score),
        truth: answer.truth.map(tables::short),
        mode: answer.mode.clone(),
        verdicts: answer.verdicts.iter().map(|v| text(v)).collect(),
        verdicts_are_short: answer.verdicts.iter().map(|v| v.chars().count()).sum::<usize>() <= SHOWN,
    }
}

fn text(whole: &str) -> CutText {
    let at = whole.char_indices().nth(SHOWN).map_or(whole.len(), |(at, _)| at);
    let (head, rest) = whole.split_at(at);
    CutText { head: head.to_owned(), rest: rest.to_owned(), rest_chars: rest.chars().count() }
}

/// `text` with the kind of `value`: it is markup if `value` is.
fn keep_safe(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { text.into() }
}

/// Replaces control characters by their pictures, since HTML has no place for them.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\u{7f}' => '\u{2421}',
            c if c < ' ' => char::from_u32(0x2400 + c as u32).unwrap_or(c),
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_lose_nothing() {
        let whole = "ä".repeat(SHOWN) + "\u{0}é";
        let cut = text(&whole);
        assert_eq!((cut.head.chars().count(), cut.rest.as_str(), cut.rest_chars), (SHOWN, "\u{0}é", 2));
        assert_eq!(visible("\u{0}a\tb\nc\u{7f}"), "\u{2400}a\tb\nc\u{2421}");
        assert_eq!(text("short").rest_chars, 0);
    }

    #[test]
    fn times_are_read_easily() {
        assert_eq!(["59 s", "2 min 5 s", "2 h 0 min"].map(str::to_owned), [59.2, 125.9, 7201.0].map(duration));
    }

    #[test]
    fn a_bin_of_lengths_says_what_it_holds() {
        let bins = [Bin { at: 0.0, count: 1 }, Bin { at: 5.0, count: 1 }];
        assert_eq!(length_label(&bins[1], &bins), "5 to 9");
        assert_eq!(length_label(&bins[0], &bins[..1]), "0");
    }
}
