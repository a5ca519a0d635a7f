//! What every command needs: the common flags, the GPU, progress, and one way to print.

use crate::args::Common;
use crate::progress::{Progress, Verbosity};
use anyhow::{Context, Result};
use selfreward::gpu::Gpu;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::Path;

/// The resolved common flags.
pub(crate) struct App {
    pub(crate) common: Common,
    pub(crate) progress: Progress,
}

impl App {
    pub(crate) fn new(common: Common) -> Self {
        let verbosity = match (common.quiet, common.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        Self { common, progress: Progress::new(verbosity) }
    }

    /// Opens the GPU that `--device` and `--memory` ask for.
    pub(crate) fn gpu(&self) -> Result<Gpu> {
        let gpu = Gpu::open(self.common.device.as_deref(), self.common.memory)?;
        let info = gpu.info();
        self.progress.detail(&format!("{} ({}, {})", info.name, info.backend, info.driver));
        Ok(gpu)
    }

    /// Writes one line to stdout.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<()> {
        Ok(writeln!(std::io::stdout(), "{}", text.as_ref())?)
    }

    /// Writes the one JSON document of `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string_pretty(value)?)
    }
}

/// Reads a whole JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Reads a JSONL file, one record a line; blank lines are passed over.
pub(crate) fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let records = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    records
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1)))
        .collect()
}
