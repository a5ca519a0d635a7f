//! A report in the terminal: tables, and curves and histograms in block characters.

use crate::tables::Table;
use selfreward::report::tables;
use selfreward::report::tables::{Grid, short};
use selfreward::report::{Report, curves};

/// How many columns a curve or histogram takes.
const CURVE: usize = 24;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The report as text for a screen of `width` columns.
pub(super) fn text(report: &Report, width: usize) -> String {
    let mut out = String::new();
    if !report.finished {
        out.push_str("Not finished; what there is is shown.\n\n");
    }
    for warning in report.warnings() {
        out.push_str(&format!("warning: {warning}\n\n"));
    }
    let mut section = |name: &str, text: String| {
        if !text.is_empty() {
            out.push_str(&format!("{name}\n\n{text}\n"));
        }
    };
    section("MODELS AND CONTROLS", grid(tables::metrics(report), width));
    section("MODELS", grid(tables::models(report), width));
    section("HEAD TO HEAD", grid(tables::head_to_head(report), width));
    section("HEAD TO HEAD", grid(tables::duels(report), width));
    section("MODELS AS JUDGES", grid(tables::judging(report), width));
    section("TASKS", grid(tables::tasks(report), width));
    section("ROUNDS", grid(tables::rounds(report), width));
    section("JUDGES BEFORE THEIR ROUNDS", grid(tables::gates(report), width));
    section("JUDGE MODES", grid(tables::judge(report), width));
    section("TRAINING, from the first step to the last", training(report, width));
    section("SCORES, 0 to 5, and LENGTHS in tokens", histograms(report, width));
    section("TIMING", grid(tables::stages(report), width));
    // What files hold must not steer the terminal.
    out.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A table. One that is too wide is cut into several, each with some of the columns.
fn grid(grid: Option<Grid>, width: usize) -> String {
    let Some(grid) = grid else { return String::new() };
    let cells = |c: usize| grid.rows.iter().chain([&grid.head]).filter_map(move |r| r.get(c));
    let wide = |c: usize| cells(c).map(|s| s.chars().count()).max().unwrap_or(0);
    let (mut parts, mut used) = (vec![vec![0]], wide(0));
    for column in 1..grid.head.len() {
        if used + 2 + wide(column) > width && parts.last().is_some_and(|p| p.len() > 1) {
            parts.push(vec![0]);
            used = wide(0);
        }
        used += 2 + wide(column);
        parts.last_mut().into_iter().for_each(|p| p.push(column));
    }
    let part = |columns: &Vec<usize>| {
        let pick = |row: &Vec<String>| columns.iter().filter_map(|&c| row.get(c).cloned()).collect::<Vec<_>>();
        Table::of(pick(&grid.head), grid.rows.iter().map(pick).collect()).render(width)
    };
    parts.iter().map(part).collect::<Vec<_>>().join("\n")
}

fn training(report: &Report, width: usize) -> String {
    let mut rows = Vec::new();
    for curve in &curves::CURVES {
        for (key, name) in curve.series {
            for training in &report.trainings {
                let values: Vec<f64> = curves::values(training, key).into_iter().flatten().collect();
                let (Some(first), Some(last)) = (values.first(), values.last()) else { continue };
                let what = if curve.series.len() > 1 { format!("{}, {name}", curve.title) } else { curve.title.into() };
                let line = spark(&resampled(&values, CURVE));
                rows.push(vec![what, curves::name(training), line, short(*first), short(*last)]);
            }
        }
    }
    table(["", "", "", "first", "last"], rows, width)
}

fn histograms(report: &Report, width: usize) -> String {
    let mut rows = Vec::new();
    for round in &report.rounds {
        for (what, bins) in [("scores", &round.scores), ("lengths", &round.lengths)] {
            let (Some(first), Some(last)) = (bins.first(), bins.last()) else { continue };
            let counts: Vec<f64> = bins.iter().map(|b| b.count as f64).collect();
            let all: usize = bins.iter().map(|b| b.count).sum();
            // The range begins at 0, so that an empty bar is the lowest.
            let bars: String = counts.iter().flat_map(|c| [block(*c, 0.0, largest(&counts)); 2]).collect();
            let ends = format!("{} … {}", short(first.at), short(last.at));
            rows.push(vec![format!("round {}", round.round), what.into(), bars, ends, all.to_string()]);
        }
    }
    table(["", "", "", "bars", "count"], rows, width)
}

fn table(head: [&str; 5], rows: Vec<Vec<String>>, width: usize) -> String {
    if rows.is_empty() { String::new() } else { Table::of(head.map(str::to_owned).into(), rows).render(width) }
}

/// At most `most` values, each the mean of an equal part of `values`.
fn resampled(values: &[f64], most: usize) -> Vec<f64> {
    let parts = values.len().min(most);
    let cut = |i: usize| i * values.len() / parts;
    (0..parts)
        .map(|i| {
            let part = &values[cut(i)..cut(i + 1)];
            part.iter().map(|v| v / part.len() as f64).sum()
        })
        .collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn spark(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    values.iter().map(|v| block(*v, low, largest(values))).collect()
}

fn block(value: f64, low: f64, high: f64) -> char {
    let share = if high > low { (value - low) / (high - low) } else { 0.0 };
    BLOCKS[((share * 7.0).round() as usize).min(7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_go_from_the_lowest_to_the_highest() {
        assert_eq!(spark(&[0.0, 1.0, 2.0]), "▁▅█");
        assert_eq!(spark(&[3.0, 3.0]), "▁▁");
        assert_eq!(resampled(&[1.0, 3.0, 5.0, 7.0], 2), [2.0, 6.0]);
        assert_eq!(resampled(&[1.0], 2), [1.0]);
        assert!(resampled(&[], 2).is_empty());
    }

    #[test]
    fn a_wide_table_is_cut_by_its_columns() {
        let row = |name: &str, cell: &str| [vec![name.to_owned()], vec![cell.to_owned(); 6]].concat();
        let wide = Grid { head: row("", "M1 → M2"), rows: vec![row("pairs", "1234567")] };
        let text = grid(Some(wide), 40);
        assert!(text.lines().all(|l| l.chars().count() <= 40), "{text}");
        assert_eq!(text.matches("pairs").count(), 2);
        assert_eq!(text.matches("1234567").count(), 6);
    }
}
