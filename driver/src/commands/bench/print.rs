//! The tables that `bench` prints.

use super::compare::same;
use super::rows::{Earlier, Row};
use super::{Report, sweep};
use crate::app::App;
use crate::tables::Table;
use anyhow::{Context, Result};
use selfreward::kernels::bench::BenchRow;
use selfreward::kernels::peak::Peaks;
use serde_json::Value;

/// Whether the last third of the runs differs from the first by more than 5 %, and by more than the spread of so many
/// runs explains.
fn drifts(r: &BenchRow) -> bool {
    let third = (r.n / 3) as f64;
    let noise = 2.0 * r.sd_ms / r.mean_ms * (2.0 / third.max(1.0)).sqrt();
    third >= 2.0 && r.drift.abs() > noise.max(0.05)
}

/// How many times as fast it is now, if there is an earlier figure.
fn ratio(faster: Option<f64>) -> String {
    faster.map_or("-".into(), |x| format!("{x:.2}"))
}

/// Where the kernels' memory lay.
fn memory(report: &Report, peaks: &Peaks) -> String {
    match report.kernels.iter().any(|r| r.warm) {
        true => "caches were warm".to_owned(),
        false => format!("runs took turns on memory beyond a cache of {} MiB", peaks.cache_bytes >> 20),
    }
}

/// Prints the tables, each figure beside that of an earlier measurement if there is one.
pub(super) fn print(
    app: &App,
    report: &Report,
    (rows, old): (&[Row], Option<&Earlier>),
    sweep: &sweep::SweepArgs,
) -> Result<()> {
    let was = |row: &Row| old.and_then(|old| same(row, &old.rows)).map(|row| row.median_ms);
    let (kernels, phases) = rows.split_at(report.kernels.len());
    let device = report.device;
    app.line(format!("{} ({}, {})", device.name, device.backend, device.driver))?;
    let p = &report.peaks;
    app.line(format!(
        "peaks: {:.1} GFLOP/s in f32{}{}; {:.1} GB/s read, {:.1} from a cache, {:.1} copied; {:.1} µs a dispatch, \
         {:.1} written. Share is of the peak that bounds; {}",
        p.gflops,
        p.f16_gflops.map_or(String::new(), |g| format!(", {g:.1} in f16")),
        p.matrix_gflops.map_or(String::new(), |g| format!(", {g:.1} on matrix units")),
        p.read_gbs,
        p.cached_gbs,
        p.copy_gbs,
        p.dispatch_us,
        p.write_gbs,
        memory(report, p)
    ))?;
    if !report.kernels.is_empty() {
        app.line("")?;
        let mut table = Table::new(&[
            "kernel",
            "variant",
            "shape",
            "ms",
            "by device",
            "spread",
            "GFLOP/s",
            "GB/s",
            "share",
            "was ms",
            "x as fast",
        ]);
        for (r, row) in report.kernels.iter().zip(kernels) {
            let before = was(row);
            table.row([
                r.name.clone(),
                r.variant.clone(),
                r.shape.clone(),
                format!("{:.3}", r.median_ms),
                r.device_ms.map_or("-".into(), |ms| format!("{ms:.3}")),
                format!("{:.0} %", r.spread * 100.0),
                format!("{:.1}", r.gflops),
                format!("{:.1}", r.gbs),
                format!("{:.0} %", r.share * 100.0),
                before.map_or("-".into(), |ms| format!("{ms:.3}")),
                ratio(before.map(|ms| ms / r.median_ms)),
            ]);
        }
        table.print()?;
    }
    let drifted: Vec<&BenchRow> = report.kernels.iter().filter(|r| drifts(r)).collect();
    if let Some(r) = drifted.iter().max_by(|a, b| a.drift.abs().total_cmp(&b.drift.abs())) {
        let (percent, word) = (100.0 * r.drift.abs(), if r.drift > 0.0 { "slower" } else { "faster" });
        let (count, all) = (drifted.len(), report.kernels.len());
        app.line(format!(
            "\nthe machine changed while {count} of {all} were timed: the last third of the runs of {} {} was \
             {percent:.0} % {word} than the first",
            r.name, r.shape
        ))?;
    }
    if !phases.is_empty() {
        let columns = ["phase", "ms", "±", "n", "tok/s", "GFLOP/s", "GB/s", "share", "was ms", "x as fast"];
        let mut table = Table::new(&columns);
        for p in phases {
            let before = was(p);
            table.row([
                p.shape.clone(),
                format!("{:.1}", p.median_ms),
                format!("{:.1}", p.sd_ms),
                p.n.to_string(),
                p.tok_s.map_or("-".into(), |rate| format!("{rate:.1}")),
                format!("{:.1}", p.gflops),
                format!("{:.1}", p.gbs),
                format!("{:.0} %", p.share * 100.0),
                before.map_or("-".into(), |ms| format!("{ms:.1}")),
                ratio(before.map(|ms| ms / p.median_ms)),
            ]);
        }
        app.line("")?;
        table.print()?;
    }
    if let Some(table) = sweep::batched(sweep, &report.tests) {
        app.line("")?;
        table.print()?;
    }
    if let Some(speed) = &report.model {
        let now = serde_json::to_value(speed)?;
        let now = now.as_object().context("a report is an object")?;
        let before = old.and_then(|old| old.model.as_ref());
        app.line("")?;
        let mut table = Table::new(&["model", "now", "was"]);
        for (name, value) in now.iter().filter(|(name, _)| *name != "phases") {
            let was = before.and_then(|b| b.get(name)).map_or("-".into(), figure);
            table.row([name.clone(), figure(value), was]);
        }
        table.print()?;
    }
    Ok(())
}

/// A figure, or several by batch size, as text for a table.
fn figure(value: &Value) -> String {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}: {}", figure(v))).collect::<Vec<_>>().join(", "),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
