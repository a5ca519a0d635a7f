//! `check`: every kernel against its f64 twin on this device.

use crate::app::{App, Pin};
use crate::tables::Table;
use anyhow::{Result, bail};
use selfreward::Observer;
use selfreward::gpu::{DeviceInfo, Variant};
use selfreward::kernels::check::{self, CheckRow};
use selfreward::kernels::export;
use selfreward::kernels::{ALL, Kernel};
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this kernel
    #[arg(long, value_name = "K")]
    kernel: Option<String>,
    /// Only the variant that this device would use (default: every variant)
    #[arg(long)]
    quick: bool,
    /// Write the cases as JSON and WGSL for another WebGPU implementation, and compare nothing here
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    export: Option<PathBuf>,
    #[command(flatten)]
    pin: Pin,
}

#[derive(Serialize)]
struct Report<'a> {
    device: &'a DeviceInfo,
    passed: usize,
    failed: usize,
    cases: &'a [CheckRow],
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    // An exported case may need nothing that only this device has.
    let pin = if args.export.is_some() { args.pin.portable() } else { args.pin };
    let gpu = app.pinned_gpu(&pin)?;
    let own = [gpu.variant()];
    let variants = if args.quick || args.pin.is_variant() { &own[..] } else { &Variant::ALL[..] };
    let selected = ALL.iter().filter(|k| args.kernel.as_deref().is_none_or(|name| name == (k.source)().name));
    let cases = |k: &Kernel| (k.cases)().iter().filter(|c| !c.timed).count() * k.forms(&gpu, variants).len();
    app.progress.begin("check", Some(selected.map(cases).sum::<usize>() as u64), "cases");
    if let Some(dir) = &args.export {
        let written = export::write(&gpu, dir, args.kernel.as_deref(), variants, &app.progress)?;
        app.progress.end();
        return app.line(format!("{written} cases written to {}", dir.display()));
    }
    let rows = check::run(&gpu, args.kernel.as_deref(), variants, &app.progress)?;
    app.progress.end();
    let failures: Vec<&CheckRow> = rows.iter().filter(|r| !r.passed).collect();
    let report =
        Report { device: gpu.info(), passed: rows.len() - failures.len(), failed: failures.len(), cases: &rows };
    if app.common.json {
        app.json(&report)?;
    } else {
        summary(&rows).print()?;
        for r in &failures {
            app.line(format!(
                "FAILED {} {} {}: {} (error {:.1e}, tolerance {:.1e})",
                r.kernel, r.variant, r.case, r.note, r.max_error, r.tolerance
            ))?;
        }
        app.line(format!("\n{}: {} passed, {} failed", gpu.info().name, report.passed, report.failed))?;
    }
    if !failures.is_empty() {
        bail!("{} of {} kernel cases are off on {}", failures.len(), rows.len(), gpu.info().name);
    }
    Ok(())
}

/// One row for each kernel and variant: its number of cases, and the case that is nearest to its tolerance.
fn summary(rows: &[CheckRow]) -> Table {
    let mut table = Table::new(&["kernel", "variant", "cases", "error", "ulp", "tolerance", "result"]);
    for group in rows.chunk_by(|a, b| (&a.kernel, &a.variant) == (&b.kernel, &b.variant)) {
        let used = |r: &CheckRow| r.max_error / r.tolerance.max(f64::MIN_POSITIVE);
        let Some(worst) = group.iter().max_by(|a, b| used(a).total_cmp(&used(b))) else { continue };
        table.row([
            worst.kernel.clone(),
            worst.variant.clone(),
            group.len().to_string(),
            format!("{:.1e}", worst.max_error),
            format!("{:.0}", worst.max_ulp),
            format!("{:.1e}", worst.tolerance),
            if group.iter().all(|r| r.passed) { "passed" } else { "FAILED" }.to_owned(),
        ]);
    }
    table
}
