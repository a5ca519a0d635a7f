//! The report's tables as text, in one form for the page and the terminal. Quantities are rows, so that a table of few
//! models or rounds is narrow.

use super::{Bin, Judging, Report, Round};
use crate::demo::report::ModelReport;
use crate::measure::agreement::Against;
use crate::measure::diversity::Diversity;
use crate::measure::order::InOrder;
use crate::measure::tasks::TaskReport;
use crate::measure::win_rate::Estimate;
use crate::recipe::evaluation::CONTROLS;
use crate::recipe::round_metrics::RoundMetrics;
use crate::recipe::run_metrics::Unit;
use std::collections::BTreeSet;

/// A table. Every row is as long as `head`, and the first cell of a row names it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Grid {
    /// Names of the columns.
    pub head: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
}

/// What is written where nothing is known.
const NONE: &str = "–";

/// An interval this narrow is one point.
const POINT: f64 = 1e-9;

type Row<T> = (&'static str, fn(&T) -> Option<String>);

const MODELS: [Row<ModelReport>; 9] = [
    ("true score (0 to 5)", |m| with_error(Some(m.truth_mean), Some(m.truth_se), false)),
    ("gain over the model before", |m| with_error(m.gain, m.gain_se, true)),
    ("true score, greedy", |m| decimals(m.greedy_mean)),
    ("judging: rank correlation (Spearman)", |m| m.judge_spearman.and_then(decimals)),
    ("judging: rank correlation (Kendall τ-b)", |m| m.judge_kendall.and_then(decimals)),
    ("judging: pairs ordered right", |m| m.judge_pairwise.map(percent)),
    ("judging: exact scores", |m| Some(percent(m.judge_exact))),
    ("different answers to a question", |m| Some(percent(m.distinct_samples))),
    ("different answers over the questions", |m| Some(percent(m.distinct))),
];

const JUDGING: [Row<Judging>; 8] = [
    ("mode", |j| Some(j.agreement.mode.clone())),
    ("pairs ordered right", |j| against(j, |a| a.pairwise).map(percent)),
    ("5-best", |j| against(j, |a| a.five_best).map(percent)),
    ("whole rankings right", |j| against(j, |a| a.exact).map(percent)),
    ("rank correlation (Spearman)", |j| against(j, |a| a.spearman).and_then(decimals)),
    ("rank correlation (Kendall τ-b)", |j| against(j, |a| a.kendall).and_then(decimals)),
    ("score, mean", |j| decimals(j.agreement.mean)),
    ("answers without a score", |j| Some(j.agreement.unscored.to_string())),
];

const ROUNDS: [Row<Round>; 25] = [
    ("new prompts", |r| number(r.prompts)),
    ("dropped prompts", |r| metric(r, |m| m.dropped.values().sum::<usize>().to_string())),
    ("answers", |r| number(r.candidates)),
    ("different answers to a prompt", |r| metric(r, |m| percent(m.distinct))),
    ("different words over all answers", |r| diverse(r, |d| d.distinct_1).map(percent)),
    ("different word pairs over all answers", |r| diverse(r, |d| d.distinct_2).map(percent)),
    ("likeness of the answers (self-BLEU)", |r| diverse(r, |d| d.self_bleu).and_then(decimals)),
    ("answers that the model ended", |r| metric(r, |m| percent(m.stopped))),
    ("tokens an answer, mean", |r| metric(r, |m| format!("{:.1}", m.candidate_tokens))),
    ("judge", |r| metric(r, |m| m.judge.clone())),
    ("score, mean", |r| r.metrics.as_ref().and_then(|m| decimals(m.score_mean))),
    ("verdicts that parsed", |r| metric(r, |m| percent(m.parse_rate))),
    ("answers without a score", |r| metric(r, |m| m.unscored.to_string())),
    ("pairs", |r| number(r.pairs)),
    ("pairs truly right", |r| share(r.pairs_right, r.pairs)),
    ("pairs truly wrong", |r| share(r.pairs_wrong, r.pairs)),
    ("ties", |r| metric(r, |m| m.ties.to_string())),
    ("prompts with too few scores", |r| metric(r, |m| m.too_few.to_string())),
    ("pairs left out by log-probs", |r| counted(r, |m| m.disagreeing)),
    ("agreement with the model before", |r| r.metrics.as_ref()?.agreement.and_then(decimals)),
    ("verdict pairs", |r| counted(r, |m| m.meta_pairs)),
    ("tokens of chosen / rejected", |r| metric(r, |m| format!("{:.1} / {:.1}", m.chosen_tokens, m.rejected_tokens))),
    ("optimiser steps", |r| metric(r, |m| m.steps.to_string())),
    ("step whose model was kept", |r| r.metrics.as_ref()?.best_step.map(|s| s.to_string())),
    ("warnings", |r| counted(r, |m| m.warnings.len())),
];

/// All models and controls by the same measures, one column for each: what the loop began with, its models, the
/// controls. Under each measure stand the gains over what the loop began with. `None` where nothing was measured.
pub fn metrics(report: &Report) -> Option<Grid> {
    let m = &report.metrics;
    let head = std::iter::once(String::new()).chain(m.models.iter().enumerate().map(|(i, model)| title(model, i)));
    let mut rows = Vec::new();
    for measure in &m.measures {
        let scale = if measure.unit == Unit::Share { 100.0 } else { 1.0 };
        let plain = |e: &Estimate| {
            let [value, low, high] = [e.value, e.low, e.high].map(|x| x * scale);
            let digits = digits(low, high);
            // An interval of one point is no news.
            match high - low > POINT {
                true => format!("{value:.1} ({low:.digits$}–{high:.digits$})"),
                false => format!("{value:.1}"),
            }
        };
        let signed = |e: &Estimate| {
            let [value, low, high] = [e.value, e.low, e.high].map(|x| x * scale);
            let digits = digits(low, high);
            match high - low > POINT {
                true => format!("{value:+.1} ({low:+.digits$} to {high:+.digits$})"),
                false => format!("{value:+.1}"),
            }
        };
        let unit = if measure.unit == Unit::Share { ", %" } else { "" };
        let none = || NONE.to_owned();
        let value = |model| measure.values.get(model).map_or_else(none, plain);
        rows.push(
            std::iter::once(format!("{}{unit} (n = {})", measure.name, measure.items))
                .chain(m.models.iter().map(value))
                .collect(),
        );
        let gain = |model| measure.gains.get(model).map_or_else(none, |g| signed(&g.difference));
        let over: BTreeSet<&str> = measure.gains.values().map(|g| g.over.as_str()).collect();
        if !over.is_empty() {
            let name = format!("↳ gain over {}", over.into_iter().collect::<Vec<_>>().join(", "));
            rows.push(std::iter::once(name).chain(m.models.iter().map(gain)).collect());
        }
    }
    (!rows.is_empty()).then(|| Grid { head: head.collect(), rows })
}

/// How many digits the ends of an interval need behind the point.
fn digits(low: f64, high: f64) -> usize {
    usize::from(high - low < 4.0)
}

/// What tables call a model, which is the `place`-th of them.
fn title(model: &str, place: usize) -> String {
    match CONTROLS.iter().find(|c| c.name == model) {
        Some(control) => control.title.to_owned(),
        None if place == 0 => format!("{model} (base)"),
        None => model.to_owned(),
    }
}

/// The models as the judges of their rounds, beside what length alone would give. `None` if none was measured.
pub fn gates(report: &Report) -> Option<Grid> {
    let rows = report.gates.iter().filter_map(|g| {
        let ordered = g.record.ordered.as_ref()?;
        let share = |e: &Estimate| format!("{:.0} % ({:.0} to {:.0})", e.value * 100.0, e.low * 100.0, e.high * 100.0);
        let pair = |o: &InOrder| [o.pairs.to_string(), share(&o.judge), share(&o.length)];
        let ended = ordered.ended.as_ref().map_or_else(|| [NONE; 3].map(str::to_owned), pair);
        let [pairs, judge, length] = pair(&ordered.all);
        Some([vec![g.model.clone(), g.record.judge.clone(), pairs, judge, length], ended.to_vec()].concat())
    });
    let of_ended = ["of ended ones", "in order", "length alone"];
    filled(&[&["model", "mode", "pairs", "in order", "length alone"][..], &of_ended].concat(), rows.collect())
}

/// The models' scores and how well they judge, against the truth; one column for each model. `None` outside the small
/// world.
pub fn models(report: &Report) -> Option<Grid> {
    let columns: Vec<_> = report.evaluations.iter().map(|m| (m.name.clone(), m)).collect();
    grid("", &columns, &MODELS)
}

/// The metrics of the rounds, one column for each. `None` before the first round.
pub fn rounds(report: &Report) -> Option<Grid> {
    let name = |r: &Round| format!("M{} → M{}", r.round, r.round + 1);
    let columns: Vec<_> = report.rounds.iter().map(|r| (name(r), r)).collect();
    let mut grid = grid("", &columns, &ROUNDS)?;
    let seconds = report.rounds.iter().map(|r| seconds_of(report, r.round));
    grid.rows.push(std::iter::once("seconds".to_owned()).chain(seconds).collect());
    Some(grid)
}

/// The comparisons by the exact scorer, one row for each.
pub fn head_to_head(report: &Report) -> Option<Grid> {
    let rows = report.head_to_head.iter().map(|c| {
        let all = (c.win + c.tie + c.loss).max(1) as f64;
        let part = |n: usize| format!("{n} ({})", percent(n as f64 / all));
        let gain = with_error(Some(c.gain), Some(c.gain_se), true).unwrap_or_default();
        vec![format!("{} against {}", c.a, c.b), part(c.win), part(c.tie), part(c.loss), gain]
    });
    filled(&["questions", "win", "tie", "loss", "gain"], rows.collect())
}

/// The comparisons that `[evaluation]` asks for, one row for each.
pub fn duels(report: &Report) -> Option<Grid> {
    let rows = report.duels.iter().map(|d| {
        let all = (d.counts.win + d.counts.tie + d.counts.loss).max(1) as f64;
        let part = |n: usize| format!("{n} ({})", percent(n as f64 / all));
        let interval =
            |value: f64, low: f64, high: f64| format!("{} ({:.0}–{:.0})", percent(value), low * 100.0, high * 100.0);
        vec![
            format!("{} against {}", d.a, d.b),
            part(d.counts.win),
            part(d.counts.tie),
            part(d.counts.loss),
            d.unjudged.to_string(),
            d.win_rate.map_or_else(|| NONE.to_owned(), |w| interval(w.value, w.low, w.high)),
            d.length_controlled.map_or_else(|| NONE.to_owned(), |w| percent(w.win_rate.value)),
            d.length_drift.characters.map_or_else(|| NONE.to_owned(), |x| format!("{x:.2}")),
        ]
    });
    let head = ["prompts", "win", "tie", "loss", "unjudged", "win rate", "at equal length", "length ratio"];
    filled(&head, rows.collect())
}

/// How the models judge ranked answers, one column for each model. `None` if there are none.
pub fn judging(report: &Report) -> Option<Grid> {
    let columns: Vec<_> = report.judging.iter().map(|j| (j.model.clone(), j)).collect();
    grid("", &columns, &JUDGING)
}

/// What the tasks of `[evaluation]` tell beside their rates by prompt, one column for each model: rates by instruction,
/// how far each lies above the model before, and the kinds of instruction. `None` if there is nothing of it.
pub fn tasks(report: &Report) -> Option<Grid> {
    let (mut sets, mut models): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for result in &report.tasks {
        let (set, model) = (result.set.as_str(), result.report.name.as_str());
        sets.extend((!sets.contains(&set)).then_some(set));
        models.extend((!models.contains(&model)).then_some(model));
    }
    let mut rows = Vec::new();
    for set in sets {
        let of = |model: &&str| report.tasks.iter().find(|r| r.set == set && r.report.name == **model);
        let columns: Vec<Option<&TaskReport>> = models.iter().map(|model| of(model).map(|r| &r.report)).collect();
        let mut row = |name: String, cell: &dyn Fn(&TaskReport) -> Option<String>| {
            let cells: Vec<Option<String>> = columns.iter().map(|report| report.and_then(cell)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| NONE.to_owned()));
                rows.push(std::iter::once(name).chain(cells).collect::<Vec<String>>());
            }
        };
        let Some(first) = columns.iter().flatten().next() else { continue };
        for rate in &first.rates {
            let (measure, by, k) = (rate.measure.as_str(), rate.by.as_str(), rate.k);
            let draws = if first.samples > 1 { format!(" pass@{k}") } else { String::new() };
            let name = format!("{set}: {measure}{draws}{}", if by == "prompt" { "" } else { ", by instruction" });
            let same = |m: &str, b: &str, other: u32| (m, b, other) == (measure, by, k);
            if by != "prompt" {
                row(name.clone(), &|r| {
                    let rate = r.rates.iter().find(|x| same(&x.measure, &x.by, x.k))?.rate;
                    Some(interval(&rate, |x| format!("{x:.0}")) + " %")
                });
            }
            row(format!("{name}, less the model before"), &|r| {
                // What the loop began from has no model before it, and is compared with the first one after.
                let known = r.differences.iter().filter(|_| r.name != "M0");
                let mut before = known.filter(|d| same(&d.measure, &d.by, d.k));
                before.next().map(|d| interval(&d.difference, |x| format!("{x:+.0}")))
            });
        }
        for kind in &first.kinds {
            let Some(measure) = kind.passed.keys().find(|m| first.rates.first().is_some_and(|r| r.measure == **m))
            else {
                continue;
            };
            row(format!("{set}: {} ({}), {measure}", kind.kind, kind.count), &|r| {
                r.kinds.iter().find(|k| k.kind == kind.kind)?.passed.get(measure).map(|share| percent(*share))
            });
        }
    }
    let head: Vec<&str> = std::iter::once("").chain(models).collect();
    filled(&head, rows)
}

/// A share in hundredths with its interval.
fn interval(e: &Estimate, shown: impl Fn(f64) -> String) -> String {
    let [value, low, high] = [e.value, e.low, e.high].map(|x| shown(x * 100.0));
    format!("{value} ({low} to {high})")
}

/// The judge modes as they were calibrated. `None` where the mode was given.
pub fn judge(report: &Report) -> Option<Grid> {
    let calibration = report.calibration.as_ref()?;
    let rows = calibration.modes.iter().map(|m| {
        let chosen = if calibration.recommended == Some(m.mode) { "taken" } else { "" };
        let remark = m.unusable.clone().unwrap_or_else(|| chosen.to_owned());
        vec![m.mode.name().to_owned(), percent(m.choosing), percent(m.reporting), percent(m.scored), remark]
    });
    filled(&["mode", "right (choosing half)", "right (other half)", "scored", ""], rows.collect())
}

/// The finished stages, one row for each, with their part of the time; those under way follow.
pub fn stages(report: &Report) -> Option<Grid> {
    let all = report.seconds().max(f64::MIN_POSITIVE);
    let done =
        report.stages.iter().map(|s| vec![s.name.clone(), format!("{:.1}", s.seconds), percent(s.seconds / all)]);
    let begun =
        report.partial.iter().map(|(name, waves)| vec![name.clone(), format!("{waves} waves done"), NONE.into()]);
    filled(&["stage", "seconds", "share"], done.chain(begun).collect())
}

/// The plan of the run, one row for each entry.
pub fn plan(report: &Report) -> Option<Grid> {
    let plan = report.plan.as_ref()?;
    let shown = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let version = [vec!["version".to_owned(), plan.version.clone()]];
    filled(&["", ""], version.into_iter().chain(plan.sizes.iter().map(|(k, v)| vec![k.clone(), shown(v)])).collect())
}

/// The bins of a round's histogram, with the range that each covers.
pub fn histogram(what: &str, label: impl Fn(&Bin) -> String, bins: &[Bin]) -> Grid {
    let rows = bins.iter().map(|b| vec![label(b), b.count.to_string()]).collect();
    Grid { head: vec![what.to_owned(), "count".to_owned()], rows }
}

/// A number in few characters: four significant digits, with powers of ten if it is very large or small.
pub fn short(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let digits = x.abs().log10().floor();
    if !(-3.0..6.0).contains(&digits) {
        let text = format!("{x:.3e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(mantissa));
    }
    trimmed(&format!("{x:.*}", (3.0 - digits).max(0.0) as usize)).to_owned()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn grid<T>(corner: &str, columns: &[(String, &T)], rows: &[Row<T>]) -> Option<Grid> {
    let head: Vec<String> = std::iter::once(corner.to_owned()).chain(columns.iter().map(|(n, _)| n.clone())).collect();
    let row = |(name, cell): &Row<T>| -> Option<Vec<String>> {
        let cells: Vec<Option<String>> = columns.iter().map(|(_, of)| cell(of)).collect();
        // A row of which nothing is known is left out.
        cells.iter().any(Option::is_some).then(|| {
            let cells = cells.into_iter().map(|c| c.unwrap_or_else(|| NONE.to_owned()));
            std::iter::once((*name).to_owned()).chain(cells).collect()
        })
    };
    (!columns.is_empty()).then(|| Grid { head, rows: rows.iter().filter_map(row).collect() })
}

fn filled(head: &[&str], rows: Vec<Vec<String>>) -> Option<Grid> {
    (!rows.is_empty()).then(|| Grid { head: head.iter().map(|h| (*h).to_owned()).collect(), rows })
}

fn seconds_of(report: &Report, round: u32) -> String {
    let prefix = format!("round-{round}/");
    let own: Vec<f64> = report.stages.iter().filter(|s| s.name.starts_with(&prefix)).map(|s| s.seconds).collect();
    if own.is_empty() { NONE.to_owned() } else { format!("{:.1}", own.iter().sum::<f64>()) }
}

fn metric(round: &Round, of: impl Fn(&RoundMetrics) -> String) -> Option<String> {
    round.metrics.as_ref().map(of)
}

/// A count of a round, where it is not 0; otherwise it is not worth a row.
fn counted(round: &Round, of: impl Fn(&RoundMetrics) -> usize) -> Option<String> {
    round.metrics.as_ref().map(of).filter(|n| *n > 0).map(|n| n.to_string())
}

fn diverse(round: &Round, of: impl Fn(&Diversity) -> Option<f64>) -> Option<f64> {
    round.metrics.as_ref()?.diversity.as_ref().and_then(of)
}

fn against(judging: &Judging, of: impl Fn(&Against) -> Option<f64>) -> Option<f64> {
    judging.agreement.against.as_ref().and_then(of)
}

fn number(n: Option<usize>) -> Option<String> {
    n.map(|n| n.to_string())
}

fn share(part: Option<usize>, whole: Option<usize>) -> Option<String> {
    let (part, whole) = (part?, whole?);
    Some(if whole == 0 { part.to_string() } else { format!("{part} ({})", percent(part as f64 / whole as f64)) })
}

fn decimals(x: f64) -> Option<String> {
    Some(format!("{x:.2}"))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn with_error(value: Option<f64>, error: Option<f64>, signed: bool) -> Option<String> {
    let (value, error) = (value?, error?);
    Some(if signed { format!("{value:+.2} ± {error:.2}") } else { format!("{value:.2} ± {error:.2}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (0.691_249, "0.6912"),
            (-12.5, "-12.5"),
            (1e-6, "1e-6"),
            (1.234_56e-7, "1.235e-7"),
            (123_456.7, "123457"),
            (2e9, "2e9"),
            (1.0, "1"),
            (100.0, "100"),
        ] {
            assert_eq!(short(x), text);
        }
    }
}
