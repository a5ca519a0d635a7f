//! Two measurements side by side: how many times as fast the newer one is, with the interval in which that lies.

use super::rows::{Earlier, Row};
use crate::app::App;
use crate::tables::Table;
use anyhow::{Result, bail};
use serde::Serialize;

/// A row that both measurements have.
#[derive(Serialize)]
pub(super) struct Pair {
    name: String,
    variant: String,
    shape: String,
    dtype: String,
    old_ms: f64,
    new_ms: f64,
    /// How many times as fast the newer one is.
    ratio: f64,
    /// Where that lies with 95 %, by the runs of both.
    interval: [f64; 2],
}

/// Two measurements.
#[derive(Serialize)]
struct Comparison<'a> {
    /// Device and commit of each, the newer first.
    new: String,
    old: String,
    /// The rows that became slowest first.
    rows: &'a [Pair],
    /// How many rows only one of them has.
    unmatched: usize,
}

/// Standard deviations on both sides of a mean between which 95 % lie.
const DEVIATIONS: f64 = 1.96;
/// How many times the error of a mean that of a median is.
const OF_MEDIAN: f64 = 1.2533;

/// The row of `old` that measured the same: of the same variant if there is one, for devices differ in that.
pub(super) fn same<'a>(row: &Row, old: &'a [Row]) -> Option<&'a Row> {
    let key = |r: &Row| (r.name.clone(), r.shape.clone(), r.dtype.clone());
    let fits = |o: &&&Row| key(o) == key(row) || (o.dtype.is_empty() && o.name == row.name && o.shape == row.shape);
    let all: Vec<&Row> = old.iter().collect();
    let like = |r: &&&Row| r.variant == row.variant && r.cache == row.cache;
    let mut found = all.iter().filter(fits);
    found
        .clone()
        .find(like)
        .or_else(|| found.clone().find(|r| r.variant == row.variant))
        .or_else(|| found.next())
        .copied()
}

/// How many times as fast, and the interval in which that lies.
fn ratio(new: &Row, old: &Row) -> (f64, [f64; 2]) {
    let ratio = old.median_ms / new.median_ms;
    let error = |r: &Row| OF_MEDIAN * r.sd_ms / r.median_ms / (r.n.max(1) as f64).sqrt();
    let width = DEVIATIONS * error(new).hypot(error(old));
    (ratio, [ratio * (-width).exp(), ratio * width.exp()])
}

/// The rows that both have, those that lost most first.
pub(super) fn pairs(new: &[Row], old: &[Row]) -> Vec<Pair> {
    let pair = |n: &Row| {
        let o = same(n, old)?;
        let (ratio, interval) = ratio(n, o);
        Some(Pair {
            name: n.name.clone(),
            variant: n.variant.clone(),
            shape: n.shape.clone(),
            dtype: n.dtype.clone(),
            old_ms: o.median_ms,
            new_ms: n.median_ms,
            ratio,
            interval,
        })
    };
    let mut all: Vec<Pair> = new.iter().filter_map(pair).collect();
    all.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    all
}

/// Fails where a row of both is less than this many times as fast as it was.
pub(super) fn expect(pairs: &[Pair], least: Option<f64>) -> Result<()> {
    let Some(least) = least else { return Ok(()) };
    let below: Vec<&Pair> = pairs.iter().filter(|p| p.ratio < least).collect();
    match below.first() {
        None => Ok(()),
        Some(p) => bail!(
            "{} of {} rows are less than {least} times as fast as before, {} {} {:.2} times",
            below.len(),
            pairs.len(),
            p.name,
            p.shape,
            p.ratio
        ),
    }
}

/// Compares two files.
pub(super) fn files(app: &App, new: &Earlier, old: &Earlier, least: Option<f64>) -> Result<()> {
    let all = pairs(&new.rows, &old.rows);
    if all.is_empty() {
        bail!("no row of the first file is in the second");
    }
    let of = |e: &Earlier| {
        e.rows.first().map_or(String::new(), |r| {
            let commit = if r.commit.is_empty() { "an unknown commit" } else { &r.commit };
            format!("{} ({}, {}), {commit}", r.device, r.backend, r.driver)
        })
    };
    let unmatched = new.rows.len() + old.rows.len() - 2 * all.len().min(old.rows.len());
    let comparison = Comparison { new: of(new), old: of(old), rows: &all, unmatched };
    if app.common.json {
        app.json(&comparison)?;
    } else {
        app.line(format!("new: {}\nold: {}\n", comparison.new, comparison.old))?;
        let mut table = Table::new(&["name", "variant", "shape", "dtype", "old ms", "new ms", "x as fast", "95 %"]);
        for p in &all {
            table.row([
                p.name.clone(),
                p.variant.clone(),
                p.shape.clone(),
                p.dtype.clone(),
                format!("{:.3}", p.old_ms),
                format!("{:.3}", p.new_ms),
                format!("{:.2}", p.ratio),
                format!("{:.2} to {:.2}", p.interval[0], p.interval[1]),
            ]);
        }
        table.print()?;
        if unmatched > 0 {
            app.line(format!("{unmatched} rows are in one of the files only"))?;
        }
    }
    expect(&all, least)
}
