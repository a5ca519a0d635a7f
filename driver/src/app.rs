//! What every command needs: the common flags, the GPU, progress, and one way to print.

use crate::args::{Common, LimitSet};
use crate::progress::{Progress, Verbosity};
use anyhow::{Context, Result, bail};
use selfreward::Observer;
use selfreward::gpu::{Gpu, Options, Variant};
use selfreward::weights::ModelSource;
use serde::Serialize;
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
        self.pinned_gpu(&Pin::default())
    }

    /// The same with kernels and features pinned.
    pub(crate) fn pinned_gpu(&self, pin: &Pin) -> Result<Gpu> {
        let gpu = Gpu::with(&Options {
            device: self.common.device.clone(),
            memory: self.common.memory,
            variant: pin.variant.map(Variant::from),
            plain: pin.no_features,
            webgpu_limits: self.common.limits == LimitSet::Webgpu,
            ..Options::default()
        })?;
        let info = gpu.info();
        self.progress.detail(&format!("{} ({}, {})", info.name, info.backend, info.driver));
        Ok(gpu)
    }

    /// Finds a model's files; what is odd about them is told.
    pub(crate) fn source(&self, path: &Path) -> Result<ModelSource> {
        let source = ModelSource::open(path)?;
        source.warnings.iter().for_each(|w| self.progress.note(&format!("warning: {w}")));
        Ok(source)
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

/// Flags of commands that compare or measure: they fix what a device would choose by itself.
#[derive(clap::Args, Default)]
pub(crate) struct Pin {
    /// Kernel texts to use (default: soft on software adapters, tile on GPUs)
    #[arg(long, value_enum, value_name = "V")]
    variant: Option<VariantName>,
    /// Use no optional feature of the device and no more than WebGPU's default limits
    #[arg(long)]
    no_features: bool,
}

impl Pin {
    /// Whether a variant was named.
    pub(crate) fn is_variant(&self) -> bool {
        self.variant.is_some()
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum VariantName {
    /// No barriers, no workgroup memory
    Soft,
    /// Tiles in workgroup memory
    Tile,
}

impl From<VariantName> for Variant {
    fn from(name: VariantName) -> Variant {
        match name {
            VariantName::Soft => Variant::Soft,
            VariantName::Tile => Variant::Tile,
        }
    }
}

/// Fails now, before any work, when `path` cannot be made because something that is no folder is in the way.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let parents = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
    for parent in parents {
        match std::fs::metadata(parent) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => bail!("{}: cannot be written, for {} is no folder", path.display(), parent.display()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("{}: cannot be written", path.display())),
        }
    }
    Ok(())
}
