//! `check`: every kernel against its f64 twin on this device.

use super::bench::{products_only, sizes, types};
use crate::app::{App, Pin};
use crate::tables::Table;
use anyhow::{Result, bail};
use selfreward::Observer;
use selfreward::gpu::{self, DeviceInfo, Variant};
use selfreward::kernels::check::{self, CheckRow};
use selfreward::kernels::choice::{Chosen, Mode, Selection, choose, compared, named, own};
use selfreward::kernels::support::{SupportRow, support};
use selfreward::kernels::{export, matmul_cases};
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only kernels whose whole name one of these regular expressions matches
    #[arg(long, value_name = "REGEX,…")]
    kernel: Vec<String>,
    /// What is compared (default: forward and grad)
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeName>,
    /// Every case, and every extreme input; without it as few as meet each kernel, entry point, variant and order with
    /// an odd shape, one of several workgroups and an extreme input
    #[arg(long)]
    all: bool,
    /// Compare products C `[M, N]` = A `[M, K]` B `[K, N]` of this shape only, forward and backward, their weights in
    /// --dtype; may be given several times
    #[arg(long, value_name = "M,N,K", value_parser = sizes, conflicts_with_all = ["export", "all", "mode"])]
    shape: Vec<[usize; 3]>,
    /// With --shape: the type of the weights
    #[arg(long, value_name = "T", value_parser = types(), default_value = "f32", requires = "shape")]
    dtype: &'static str,
    /// Only the variant that this device would use (default: every variant)
    #[arg(long)]
    quick: bool,
    /// Write the cases as JSON and WGSL for another WebGPU implementation, and compare nothing here
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "mode"])]
    export: Option<PathBuf>,
    #[command(flatten)]
    pin: Pin,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum ModeName {
    /// What the ops compute
    Forward,
    /// Their gradients, alone and with the op between two others and a loss behind
    Grad,
    /// Which ops each device has, as a table in Markdown
    Support,
}

#[derive(Serialize)]
struct Report<'a> {
    device: &'a DeviceInfo,
    passed: usize,
    failed: usize,
    /// How many more cases `--all` has.
    left: usize,
    cases: &'a [CheckRow],
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if args.mode == Some(ModeName::Support) {
        return supported(app, args);
    }
    // An exported case may need nothing that only this device has.
    let pin = if args.export.is_some() { args.pin.portable() } else { args.pin };
    let gpu = app.open(&app.options(&pin).guarded(args.export.is_none()))?;
    let own_variant = [gpu.variant()];
    let variants = if args.quick || args.pin.is_variant() { &own_variant[..] } else { &Variant::ALL[..] };
    if let Some(dir) = &args.export {
        let count = |k: &selfreward::kernels::Kernel| compared(k).len() * k.forms(&gpu, variants).len();
        let cases: usize = named(&args.kernel)?.into_iter().map(count).sum();
        app.progress.begin("check", Some(cases as u64), "cases");
        let written = export::write(&gpu, dir, &args.kernel, variants, &app.progress)?;
        app.progress.end();
        return app.line(format!("{written} cases written to {}", dir.display()));
    }
    let mode = args.mode.map(|mode| if mode == ModeName::Grad { Mode::Grad } else { Mode::Forward });
    let selection = Selection::default().variants(variants.to_vec()).mode(mode).all(args.all).seed(app.common.seed());
    let chosen = match args.shape[..] {
        [] => choose(&gpu, &selection.names(args.kernel.clone()), &app.progress)?,
        ref shapes => products(&gpu, shapes, args, &selection)?,
    };
    app.progress.begin("check", Some(chosen.len() as u64), "cases");
    let rows = check::run(&gpu, &chosen, &app.progress)?;
    app.progress.end();
    let failures: Vec<&CheckRow> = rows.iter().filter(|r| !r.passed).collect();
    let (passed, failed, left) = (rows.len() - failures.len(), failures.len(), chosen.left);
    if app.common.json {
        app.json(&Report { device: gpu.info(), passed, failed, left, cases: &rows })?;
    } else {
        summary(&rows).print()?;
        for r in &failures {
            let inputs = if r.inputs == "normal" { String::new() } else { format!(", {} inputs", r.inputs) };
            app.line(format!(
                "FAILED {} {} {}{inputs}: {} (error {:.1e}, tolerance {:.1e})",
                r.kernel, r.variant, r.case, r.note, r.max_error, r.tolerance
            ))?;
        }
        let left = if left > 0 { format!("; {left} more with --all") } else { String::new() };
        app.line(format!("\n{}: {passed} passed, {failed} failed{left}", gpu.info().name))?;
    }
    if !failures.is_empty() {
        bail!("{} of {} kernel cases are off on {}", failures.len(), rows.len(), gpu.info().name);
    }
    Ok(())
}

/// The products of the shapes that were given.
fn products(gpu: &gpu::Gpu, shapes: &[[usize; 3]], args: &Args, selection: &Selection) -> Result<Chosen> {
    products_only(&args.kernel)?;
    let mut cases = Vec::new();
    for [m, n, k] in shapes.iter().copied() {
        cases.extend(matmul_cases::compared((m, k, n), args.dtype)?);
    }
    Ok(own(gpu, &matmul_cases::KERNEL, cases, selection))
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

/// The ops that one device has.
#[derive(Serialize)]
struct Supported {
    device: DeviceInfo,
    ops: Vec<SupportRow>,
}

/// The ops of every device, or of that which `--device` names.
fn supported(app: &App, args: &Args) -> Result<()> {
    let indices: Vec<Option<String>> = match &app.common.device {
        Some(_) => vec![app.common.device.clone()],
        None => gpu::list().iter().map(|d| Some(d.index.to_string())).collect(),
    };
    let mut all = Vec::new();
    app.progress.begin("check", None, "cases");
    for index in indices {
        let gpu = app.open(&app.options(&args.pin).device(index).guarded(true))?;
        all.push(Supported { device: gpu.info().clone(), ops: support(&gpu, &app.progress)? });
    }
    app.progress.end();
    if app.common.json {
        app.json(&all)?;
    } else {
        app.line(markdown(&all).trim_end())?;
    }
    let off = all.iter().flat_map(|s| &s.ops).filter(|op| op.off).count();
    match off {
        0 => Ok(()),
        _ => bail!("{off} ops are off"),
    }
}

/// A row for each op, a column for each device.
fn markdown(all: &[Supported]) -> String {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let names = all.iter().map(|s| format!("{} ({})", s.device.name, s.device.backend)).collect();
    let mut text = row("op", names) + &row("---", vec!["---".to_owned(); all.len()]);
    for (i, op) in all.first().map_or(&[][..], |s| &s.ops).iter().enumerate() {
        let cell = |s: &Supported| {
            let SupportRow { variant, note, off, .. } = &s.ops[i];
            match variant {
                Some(variant) => variant.clone(),
                None => format!("{}{}", if *off { "OFF: " } else { "no: " }, note.replace('|', "/")),
            }
        };
        text += &row(&op.op, all.iter().map(cell).collect());
    }
    text
}
