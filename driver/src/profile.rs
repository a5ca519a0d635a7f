//! `--profile`: the time of each kernel, as a table on stderr and as a trace.

use crate::app::App;
use crate::tables::Table;
use anyhow::{Context, Result};
use selfreward::Observer;
use selfreward::gpu::{Gpu, Profile};
use selfreward::kernels::peak::{self, Peaks};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

#[derive(clap::Args, Default)]
pub(crate) struct ProfileArg {
    /// Say on stderr how long each kernel took, and write FILE as a trace that Perfetto and Chrome open (slower: a pass
    /// for each launch)
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    profile: Option<Option<PathBuf>>,
}

/// The launches of one kernel, added up.
#[derive(Default)]
struct Total {
    launches: u64,
    seconds: f64,
    flops: f64,
    bytes: f64,
    least: f64,
}

impl ProfileArg {
    /// Opens the GPU. If times are asked for, its peaks are measured first.
    pub(crate) fn gpu(&self, app: &App) -> Result<(Gpu, Option<Peaks>)> {
        if let Some(Some(path)) = &self.profile {
            crate::app::check_writable(path)?;
        }
        let gpu = app.opened(&crate::app::Pin::default(), self.profile.is_some())?;
        if self.profile.is_none() {
            return Ok((gpu, None));
        }
        let peaks = peak::measure(&gpu, gpu.form())?;
        gpu.restart_profile()?;
        Ok((gpu, Some(peaks)))
    }

    /// Tells what has run since the last call, if that was asked for.
    pub(crate) fn tell(&self, app: &App, gpu: &Gpu, peaks: Option<&Peaks>) -> Result<()> {
        let (Some(peaks), Some(profile)) = (peaks, gpu.profile()?) else { return Ok(()) };
        app.progress.note(table(&profile, peaks).trim_end());
        let path = self.profile.as_ref().and_then(Option::as_ref);
        let Some(path) = path.filter(|_| app.ranks.exchange().first()) else { return Ok(()) };
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(File::create(path)?);
            profile.write_trace(&gpu.info().name, &mut out)?;
            out.flush()
        };
        write().with_context(|| format!("{}: cannot be written", path.display()))?;
        let all: u64 = profile.kernels.iter().map(|k| k.launches).sum();
        if all > profile.spans.len() as u64 {
            let held = profile.spans.len();
            app.progress.note(&format!("{}: holds the first {held} of {all} launches", path.display()));
        }
        Ok(())
    }
}

fn table(profile: &Profile, peaks: &Peaks) -> String {
    let mut totals: BTreeMap<(String, &str), Total> = BTreeMap::new();
    for k in &profile.kernels {
        let t = totals.entry((format!("{}.{}", k.name, k.entry), k.variant.name())).or_default();
        let n = k.launches as f64;
        t.launches += k.launches;
        t.seconds += k.seconds;
        t.flops += n * k.cost.flops;
        t.bytes += n * k.cost.bytes;
        t.least += n * peaks.least(k.cost);
    }
    let all: f64 = totals.values().map(|t| t.seconds).sum();
    let mut totals: Vec<_> = totals.into_iter().filter(|(_, t)| t.launches > 0).collect();
    totals.sort_by(|(_, a), (_, b)| b.seconds.total_cmp(&a.seconds));
    let columns = ["kernel", "variant", "launches", "ms", "of all", "GFLOP/s", "GB/s", "of the peak"];
    let mut table = Table::new(&columns);
    for ((name, variant), t) in totals {
        let per = |x: f64| if t.seconds > 0.0 { x / t.seconds } else { 0.0 };
        table.row([
            name,
            variant.to_owned(),
            t.launches.to_string(),
            format!("{:.3}", t.seconds * 1e3),
            format!("{:.1} %", 100.0 * t.seconds / all),
            format!("{:.2}", per(t.flops) / 1e9),
            format!("{:.2}", per(t.bytes) / 1e9),
            format!("{:.0} %", 100.0 * per(t.least)),
        ]);
    }
    let text = table.render(usize::MAX);
    format!(
        "{text}kernels: {all:.3} s of {:.3} s; a share of the peak is of the one that bounds each launch",
        profile.seconds
    )
}
