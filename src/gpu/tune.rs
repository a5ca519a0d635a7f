//! The autotuner: which of several constants of one kernel is fastest for a shape class on this device. Candidates
//! differ only in tiling, never in the order of a sum, so a pick changes no bit of a result.

use super::{DeviceInfo, Gpu, Plan, Preparing, Variant, lock};
use crate::{Error, Result};
use crate::{clock, disk};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How often each candidate is measured. In a browser each time is a wait, which costs more than what is measured.
const RUNS: usize = if cfg!(target_family = "wasm") { 2 } else { 5 };

/// Picks already made, kept on disk under adapter, driver and crate version.
#[derive(Clone, Default)]
pub(super) struct Table {
    picks: BTreeMap<String, u32>,
    file: Option<PathBuf>,
}

impl Table {
    pub(super) fn for_device(info: &DeviceInfo, variant: Variant) -> Table {
        let file = cache_dir().map(|d| d.join(file_name(info, variant)));
        let picks = file.as_ref().and_then(|f| disk::read(f).ok());
        // A cache that cannot be read or parsed is only a slower start.
        let picks = picks.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Table { picks, file }
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        let Ok(text) = serde_json::to_vec_pretty(&self.picks) else { return };
        let Some(folder) = file.parent() else { return };
        let temporary = file.with_extension(format!("{}.tmp", disk::process()));
        let written = disk::create_dir_all(folder)
            .and_then(|()| disk::write(&temporary, text))
            .and_then(|()| disk::rename(&temporary, file));
        if written.is_err() {
            // No cache: the next start measures again.
            let _ = disk::remove_file(&temporary);
        }
    }
}

fn file_name(info: &DeviceInfo, variant: Variant) -> String {
    let all = format!("{}-{}-{}-{}", info.name, info.driver, variant.name(), env!("CARGO_PKG_VERSION"));
    let safe: String = all.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("tune-{safe}.json")
}

/// `$XDG_CACHE_HOME/selfreward`, or the platform's usual place; None switches the disk cache off.
fn cache_dir() -> Option<PathBuf> {
    if cfg!(target_family = "wasm") {
        // In the tree, beside the run.
        return Some("/cache".into());
    }
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|h| h.join(".cache"))).or_else(|| var("LOCALAPPDATA"));
    base.map(|b| b.join("selfreward"))
}

impl Gpu {
    /// The pick for `class`, measuring `candidates` when there is none yet: `plan` makes a repeatable recording of one
    /// candidate. All of them run in turn, once to warm up and then [`RUNS`] times, since a machine has slow stretches
    /// that are longer than the runs of one of them; the least time counts, and who takes twice as long as the best is
    /// left out of what follows. The runs happen while other launches may stand recorded and not submitted, so what
    /// they write to must come from [`Gpu::upload`] or [`Gpu::zeros`], never from [`Gpu::empty`], which may give
    /// memory that those launches still read.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn tuned(&self, class: &str, candidates: &[u32], plan: impl FnMut(u32) -> Result<Plan>) -> Result<u32> {
        if let Some(p) = lock(&self.0.tuning).picks.get(class).filter(|p| candidates.contains(p)) {
            return Ok(*p);
        }
        let first = candidates.first().copied().unwrap_or(0);
        if self.counts() || candidates.len() < 2 {
            return Ok(first);
        }
        self.preparing(Preparing::Tuning(class), || self.off_the_peak(|| self.measured(class, candidates, plan)))
    }

    /// Measures the candidates and keeps the pick.
    fn measured(&self, class: &str, candidates: &[u32], plan: impl FnMut(u32) -> Result<Plan>) -> Result<u32> {
        let first = candidates.first().copied().unwrap_or(0);
        let plans: Vec<Plan> = match candidates.iter().copied().map(plan).collect() {
            // Where memory is that short, the choice is left to a later call.
            Err(Error::OutOfMemory(_)) => return Ok(first),
            plans => plans?,
        };
        plans.iter().try_for_each(|plan| self.run(plan))?;
        self.wait()?;
        let mut least = vec![f64::INFINITY; plans.len()];
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            for (plan, least) in plans.iter().zip(&mut least) {
                if *least <= 2.0 * best || least.is_infinite() {
                    let start = clock::now();
                    self.run(plan)?;
                    self.wait()?;
                    *least = least.min(start.elapsed().as_secs_f64());
                    best = best.min(*least);
                }
            }
        }
        let pick = candidates.iter().zip(&least).min_by(|a, b| a.1.total_cmp(b.1)).map_or(first, |(c, _)| *c);
        let mut table = lock(&self.0.tuning);
        table.picks.insert(class.to_owned(), pick);
        table.save();
        Ok(pick)
    }

    /// Starts as on a device that was never measured, and keeps what is measured off the disk.
    #[cfg(test)]
    pub(crate) fn forget_picks(&self) {
        *lock(&self.0.tuning) = Table::default();
    }

    /// All picks made so far, by shape class.
    #[cfg(test)]
    pub(crate) fn picks(&self) -> BTreeMap<String, u32> {
        lock(&self.0.tuning).picks.clone()
    }
}
