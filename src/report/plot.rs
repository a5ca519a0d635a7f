//! Charts as plain geometry, in the units of their view box. The page's template draws them as SVG.

use super::curves;
use super::curves::Curve;
use super::tables::{Grid, short};
use super::{Bin, Training};
use serde::Serialize;
use std::fmt::Write;
use std::ops::RangeInclusive;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 34.0;
/// Width that a digit takes.
const DIGIT: f64 = 7.0;
/// Most points of a curve; of a longer one every n-th step is drawn.
const MOST_POINTS: usize = 500;
/// Most rows of a table; of a longer one every n-th step is shown.
const MOST_ROWS: usize = 100;
/// How many trainings a description speaks of.
const NAMED: usize = 3;
/// Most points of a curve that gets a dot on each of them.
const DOTTED: usize = 60;
/// Width that the label of a training takes.
const LABEL: f64 = 52.0;

/// A chart and the numbers behind it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What is shown and what can be seen, in words, also for those who do not see the picture.
    pub(super) description: String,
    pub(super) width: f64,
    pub(super) height: f64,
    /// The rectangle of the data: left, top, right and bottom.
    pub(super) area: [f64; 4],
    pub(super) x_title: String,
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<Tick>,
    pub(super) lines: Vec<Line>,
    pub(super) bars: Vec<Bar>,
    /// Where each training begins, with its name where there is room for it.
    pub(super) marks: Vec<Tick>,
    pub(super) table: Grid,
    /// A sentence about what the table leaves out.
    pub(super) left_out: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Tick {
    pub(super) at: String,
    pub(super) label: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    /// The line as SVG path data.
    pub(super) path: String,
    pub(super) dots: Vec<[String; 2]>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    pub(super) x: String,
    pub(super) y: String,
    pub(super) width: String,
    pub(super) height: String,
    /// The text above the bar.
    pub(super) label: String,
    /// The upper end of bar and error bar.
    pub(super) top: String,
    /// The error bar from its lower to its upper end, as SVG path data; empty without an error.
    pub(super) error: String,
}

/// A linear map from values to the view box.
#[derive(Clone, Copy)]
struct Scale {
    from: [f64; 2],
    to: [f64; 2],
}

impl Scale {
    fn x(from: f64, to: f64) -> Self {
        Self { from: [from, to], to: [LEFT, WIDTH - RIGHT] }
    }

    fn y(range: &RangeInclusive<f64>) -> Self {
        Self { from: [*range.start(), *range.end()], to: [HEIGHT - BOTTOM, TOP] }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value - self.from[0]) / (self.from[1] - self.from[0]);
        self.to[0] + share * (self.to[1] - self.to[0])
    }

    fn place(&self, value: f64) -> String {
        place(self.at(value))
    }
}

fn place(at: f64) -> String {
    format!("{at:.1}")
}

/// The chart of a curve over the steps of all trainings, one training after the other. `None` where no step has a
/// value.
pub(super) fn curve(curve: &Curve, trainings: &[Training]) -> Option<Chart> {
    let columns: Vec<(&str, Vec<Vec<Option<f64>>>)> = curve
        .series
        .iter()
        .map(|(key, name)| (*name, trainings.iter().map(|t| curves::values(t, key)).collect()))
        .collect();
    let every: Vec<f64> = columns.iter().flat_map(|(_, parts)| parts.iter().flatten().flatten().copied()).collect();
    let range = curve.range.clone().or_else(|| around(&every))?;
    if every.is_empty() {
        return None;
    }
    let steps: usize = trainings.iter().map(|t| t.steps.len()).sum();
    let (x, y) = (Scale::x(0.5, steps as f64 + 0.5), Scale::y(&range));
    let stride = steps.div_ceil(MOST_POINTS);
    let lines = columns.iter().map(|(name, parts)| line(name, parts, x, y, stride)).collect();
    let mut first = 0;
    let marks = trainings.iter().filter(|t| !t.steps.is_empty()).map(|t| {
        let (from, to) = (x.at(first as f64 + 0.5), x.at((first + t.steps.len()) as f64 + 0.5));
        first += t.steps.len();
        Tick { at: place(from), label: if to - from >= LABEL { curves::name(t) } else { String::new() } }
    });
    Some(Chart {
        marks: marks.collect(),
        title: curve.title.to_owned(),
        description: format!("{} {}", curve.about, ends(&columns, trainings)),
        x_title: "step".to_owned(),
        x_ticks: ticks(&(1.0..=steps as f64))
            .into_iter()
            .filter(|t| t.fract() == 0.0 && *t >= 1.0)
            .map(|t| Tick { at: x.place(t), label: short(t) })
            .collect(),
        lines,
        table: table(&columns, trainings, steps.div_ceil(MOST_ROWS)),
        left_out: left_out(steps),
        ..blank(&range)
    })
}

fn blank(range: &RangeInclusive<f64>) -> Chart {
    let y = Scale::y(range);
    Chart {
        title: String::new(),
        description: String::new(),
        width: WIDTH,
        height: HEIGHT,
        area: [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
        x_title: String::new(),
        x_ticks: Vec::new(),
        y_ticks: ticks(range).into_iter().map(|t| Tick { at: y.place(t), label: short(t) }).collect(),
        lines: Vec::new(),
        bars: Vec::new(),
        marks: Vec::new(),
        table: Grid { head: Vec::new(), rows: Vec::new() },
        left_out: String::new(),
    }
}

fn line(name: &str, parts: &[Vec<Option<f64>>], x: Scale, y: Scale, stride: usize) -> Line {
    let (mut path, mut dots, mut first) = (String::new(), Vec::new(), 0);
    for part in parts {
        let mut pen = "M";
        for (i, value) in part.iter().enumerate() {
            if i % stride != 0 && i + 1 != part.len() {
                continue;
            }
            let Some(value) = value else {
                pen = "M";
                continue;
            };
            let point = [x.place((first + i + 1) as f64), y.place(*value)];
            // Writing into a String cannot fail.
            let _ = write!(path, "{pen}{} {}", point[0], point[1]);
            dots.push(point);
            pen = "L";
        }
        first += part.len();
    }
    if dots.len() > DOTTED {
        dots.clear();
    }
    Line { name: name.to_owned(), path, dots }
}

fn table(columns: &[(&str, Vec<Vec<Option<f64>>>)], trainings: &[Training], stride: usize) -> Grid {
    let head = ["training", "step"].into_iter().chain(columns.iter().map(|(name, _)| *name)).map(str::to_owned);
    let mut rows = Vec::new();
    for (at, training) in trainings.iter().enumerate() {
        for (i, step) in training.steps.iter().enumerate() {
            if i % stride == 0 || i + 1 == training.steps.len() {
                let values = columns.iter().map(|(_, parts)| parts[at][i].map_or_else(String::new, short));
                rows.push([curves::name(training), step.step.to_string()].into_iter().chain(values).collect());
            }
        }
    }
    Grid { head: head.collect(), rows }
}

fn left_out(steps: usize) -> String {
    let stride = steps.div_ceil(MOST_ROWS);
    if stride < 2 {
        return String::new();
    }
    format!("One of {stride} steps; all are in the run folder's steps.jsonl.")
}

/// Sentences that tell each series' first and last value in the latest trainings.
fn ends(columns: &[(&str, Vec<Vec<Option<f64>>>)], trainings: &[Training]) -> String {
    let span = |(training, values): (&Training, &Vec<Option<f64>>)| {
        let mut known = values.iter().flatten();
        let first = known.next()?;
        let (name, first) = (curves::name(training), short(*first));
        Some(match known.next_back() {
            Some(last) => format!("{name} from {first} to {}", short(*last)),
            None => format!("{name} {first}"),
        })
    };
    let sentence = |(name, parts): &(&str, Vec<Vec<Option<f64>>>)| {
        let spans: Vec<String> = trainings.iter().zip(parts).filter_map(span).collect();
        let mut name = (*name).to_owned();
        name[..1].make_ascii_uppercase();
        format!("{name}: {}.", spans[spans.len().saturating_sub(NAMED)..].join(", "))
    };
    columns.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

/// The chart of a round's histogram. `most` is the largest count of all rounds, so that the rounds' charts compare.
pub(super) fn histogram(title: &str, x_title: &str, bins: &[Bin], table: Grid, most: usize) -> Option<Chart> {
    let all: usize = bins.iter().map(|b| b.count).sum();
    if all == 0 {
        return None;
    }
    let fullest = bins.iter().max_by_key(|b| b.count)?;
    let labels: Vec<String> = bins.iter().map(|b| short(b.at)).collect();
    let values: Vec<[f64; 3]> = bins.iter().map(|b| [b.count as f64; 3]).collect();
    let description = format!("{all} in all; the highest bar ({x_title} {}) has {}.", short(fullest.at), fullest.count);
    let mut chart = bars(&(0.0..=(most.max(1)) as f64), &labels, &values, &|v| short(v));
    // A count is whole, so labels with a fraction are left out.
    chart.y_ticks.retain(|t| !t.label.contains('.'));
    Some(Chart { title: title.to_owned(), description, x_title: x_title.to_owned(), table, ..chart })
}

/// One bar for each value, with the interval from its second number to its third, above its label.
pub(super) fn bars(
    range: &RangeInclusive<f64>,
    labels: &[String],
    values: &[[f64; 3]],
    text: &dyn Fn(f64) -> String,
) -> Chart {
    let (x, y) = (Scale::x(0.0, values.len() as f64), Scale::y(range));
    let width = (x.at(1.0) - x.at(0.0)) * 0.8;
    let middle = |i: usize| x.at(i as f64 + 0.5);
    let wide = labels.iter().any(|l| l.chars().count() as f64 * DIGIT > x.at(1.0) - x.at(0.0));
    let bar = |(i, [value, low, high]): (usize, &[f64; 3])| {
        let inside = |value: f64| value.clamp(*range.start(), *range.end());
        let top = y.at(inside(*value));
        Bar {
            x: place(middle(i) - width / 2.0),
            y: place(top),
            width: place(width),
            height: place(HEIGHT - BOTTOM - top),
            label: text(*value),
            top: place(if high > low { y.at(inside(*high)).min(top) } else { top }),
            error: if high > low {
                format!("M{0} {1}L{0} {2}", place(middle(i)), y.place(inside(*low)), y.place(inside(*high)))
            } else {
                String::new()
            },
        }
    };
    Chart {
        x_ticks: labels
            .iter()
            .enumerate()
            .step_by(if wide { 2 } else { 1 })
            .map(|(i, label)| Tick { at: place(middle(i)), label: label.clone() })
            .collect(),
        bars: values.iter().enumerate().map(bar).collect(),
        ..blank(range)
    }
}

/// Points by powers of ten on the x axis and shares from 0 to 1 or more on the y axis, wide enough to be a picture of
/// its own, and where each of them stands.
pub(super) fn shares(points: &[[f64; 2]], marks: &[(f64, &str)]) -> (Chart, Vec<[String; 2]>) {
    let (width, height, top, right) = (780.0, 460.0, 52.0, 3.0 * RIGHT);
    let all = points.iter().map(|p| p[0]).chain(marks.iter().map(|m| m.0));
    let powers = all
        .filter(|x| *x > 0.0)
        .map(f64::log10)
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], x| [a.min(x.floor()), b.max(x.ceil())]);
    let [low, high] = if powers[0] < powers[1] { powers } else { [0.0, 1.0] };
    let most = points.iter().map(|p| p[1]).fold(1.0, f64::max);
    let x = Scale { from: [low, high], to: [LEFT, width - right] };
    let y = Scale { from: [0.0, most * 1.05], to: [height - BOTTOM, top] };
    let at = |value: f64| x.place(value.max(10f64.powf(low)).log10());
    let places: Vec<[String; 2]> = points.iter().map(|p| [at(p[0]), y.place(p[1])]).collect();
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let power = |p: i32| Tick { at: x.place(f64::from(p)), label: short(10f64.powi(p)) };
    let chart = Chart {
        width,
        height,
        area: [LEFT, top, width - right, height - BOTTOM],
        x_ticks: (low as i32..=high as i32).map(power).collect(),
        y_ticks: ticks(&(0.0..=most)).into_iter().map(|t| Tick { at: y.place(t), label: percent(t) }).collect(),
        marks: marks.iter().map(|(value, label)| Tick { at: at(*value), label: (*label).to_owned() }).collect(),
        ..blank(&(0.0..=1.0))
    };
    (chart, places)
}

/// A range with some air around the values; `None` without values.
fn around(values: &[f64]) -> Option<RangeInclusive<f64>> {
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    let air = match (high > low, low == 0.0) {
        (true, _) => (high - low) * 0.05,
        (false, true) => 1.0,
        (false, false) => low.abs() * 0.1,
    };
    // The axis of a quantity that is never negative begins at 0 or above.
    let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
    Some((low - air).max(floor)..=high + air)
}

/// Round numbers inside a range, about four of them.
fn ticks(range: &RangeInclusive<f64>) -> Vec<f64> {
    let (low, high) = (*range.start(), *range.end());
    if high <= low {
        return vec![low];
    }
    let rough = (high - low) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    // The round number next to `rough` by ratio.
    let near = match rough / power {
        r if r < 1.5 => 1.0,
        r if r < 3.5 => 2.0,
        r if r < 7.5 => 5.0,
        _ => 10.0,
    };
    let step = near * power;
    if step <= 0.0 {
        return vec![low];
    }
    let first = (low / step).ceil();
    // The ticks are multiples, not sums, so that 0 is exactly 0; they are rounded to what the step can tell apart.
    (0..20).map(|i| (first + f64::from(i)) * step).take_while(|t| *t <= high + step * 1e-9).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::StepNumbers;

    fn training(name: &str, losses: &[f64]) -> Training {
        let step =
            |(i, loss): (usize, &f64)| StepNumbers { step: i as u64 + 1, values: [("loss".into(), *loss)].into() };
        let round = name.strip_prefix("round-").and_then(|n| n.parse().ok());
        Training { name: name.into(), round, time: None, steps: losses.iter().enumerate().map(step).collect() }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let close = |range, expected: &[f64]| {
            let found = ticks(&range);
            assert_eq!(found.len(), expected.len(), "{range:?}: {found:?}");
            found.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{range:?}: {found:?}"));
        };
        close(0.0..=1.0, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        close(0.48..=0.72, &[0.5, 0.55, 0.6, 0.65, 0.7]);
        close(-3.0..=9.0, &[-2.0, 0.0, 2.0, 4.0, 6.0, 8.0]);
        close(7.0..=7.0, &[7.0]);
        for (low, high) in [(-1e299, 1e299), (1e-300, 2e-300), (0.0, 5e-324), (1e15, 1e15 + 1.0)] {
            assert!(ticks(&(low..=high)).len() <= 20);
        }
    }

    #[test]
    fn a_curve_has_a_stroke_a_training_and_a_row_a_step() {
        let chart =
            curve(&curves::CURVES[0], &[training("round-1", &[0.7, 0.6]), training("round-2", &[0.5])]).unwrap();
        assert_eq!(chart.lines[0].path.matches('M').count(), 2);
        assert_eq!((chart.lines[0].dots.len(), chart.table.rows.len()), (3, 3));
        assert_eq!(chart.table.rows[2], ["round 2", "1", "0.5"]);
        assert!(chart.description.contains("Loss: round 1 from 0.7 to 0.6, round 2 0.5."), "{}", chart.description);
        // Higher values stand higher.
        let y: Vec<f64> = chart.lines[0].dots.iter().map(|d| d[1].parse().unwrap()).collect();
        assert!(y[0] < y[1] && y[1] < y[2]);
        assert!(curve(&curves::CURVES[1], &[training("round-1", &[0.7])]).is_none());
        assert!(curve(&curves::CURVES[0], &[]).is_none());
    }

    #[test]
    fn long_and_extreme_curves_stay_small_and_inside() {
        let long: Vec<f64> = (0..10_000).map(f64::from).collect();
        let chart = curve(&curves::CURVES[0], &[training("round-1", &long)]).unwrap();
        assert!(chart.lines[0].path.matches('L').count() <= MOST_POINTS + 1 && chart.table.rows.len() <= MOST_ROWS + 1);
        assert_eq!(chart.table.rows.last().unwrap()[1], "10000");
        assert!(chart.left_out.starts_with("One of 100 steps"));
        for values in [vec![1e299, -1e299], vec![1e308], vec![0.0], vec![5e-324, 0.0]] {
            let Some(chart) = curve(&curves::CURVES[0], &[training("round-1", &values)]) else { continue };
            let text = serde_json::to_string(&chart).unwrap();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{values:?}: {text}");
        }
    }

    #[test]
    fn bars_stand_on_the_axis() {
        let chart = bars(&(0.0..=5.0), &["M1".into(), "M2".into()], &[[2.5, 2.4, 2.6], [9.0; 3]], &short);
        let bottom = |b: &Bar| b.y.parse::<f64>().unwrap() + b.height.parse::<f64>().unwrap();
        assert!(chart.bars.iter().all(|b| (bottom(b) - (HEIGHT - BOTTOM)).abs() < 0.11));
        assert!(!chart.bars[0].error.is_empty() && chart.bars[1].error.is_empty());
        assert!(histogram("", "", &[Bin { at: 0.0, count: 0 }], chart.table, 0).is_none());
    }
}
