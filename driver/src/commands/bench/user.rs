//! A kernel of the user's, from a WGSL file with a TOML file beside it or with flags alone.

use crate::app::App;
use anyhow::{Context, Result};
use selfreward::Observer;
use selfreward::gpu::Gpu;
use selfreward::kernels::bench::{BenchRow, Timing};
use selfreward::kernels::peak::Peaks;
use selfreward::kernels::user::{self, Bound, Description};
use std::path::PathBuf;

#[derive(clap::Args, Clone)]
pub(super) struct UserArgs {
    /// Check and time a kernel of your own, always with bounds checks: the text, beside which a file with the ending
    /// .toml describes it (docs/GUIDE.md says how)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "model", "config", "shape"])]
    wgsl: Option<PathBuf>,
    /// With --wgsl: the entry point (default: what the description says, else main)
    #[arg(long, value_name = "NAME", requires = "wgsl")]
    entry: Option<String>,
    /// With --wgsl: a buffer, in the place of that which the description has for the binding: 0=a:f32[64,32]:normal; a
    /// fill is a number, normal, uniform, index, a safetensors file, or output. May be given several times
    #[arg(long, value_name = "BINDING=…", requires = "wgsl")]
    bind: Vec<Bound>,
    /// With --wgsl: workgroups in up to three dimensions
    #[arg(long, value_name = "X,Y,Z", requires = "wgsl", value_delimiter = ',')]
    workgroups: Vec<u32>,
}

impl UserArgs {
    /// Whether there is a kernel of the user's.
    pub(super) fn any(&self) -> bool {
        self.wgsl.is_some()
    }
}

/// A kernel of the user's.
pub(super) struct Own {
    file: PathBuf,
    text: String,
    description: Description,
}

/// Reads the kernel, if there is one.
pub(super) fn read(args: &UserArgs) -> Result<Option<Own>> {
    let Some(file) = &args.wgsl else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let beside = file.with_extension("toml");
    let mut description = match beside.exists() || args.bind.is_empty() {
        true => Description::open(&beside)?,
        false => Description::empty(),
    };
    if let Some(entry) = &args.entry {
        description.entry.clone_from(entry);
    }
    if !args.workgroups.is_empty() {
        description.workgroups.clone_from(&args.workgroups);
    }
    for bound in &args.bind {
        description.buffers.retain(|b| b.binding != bound.binding);
        description.buffers.push(bound.clone());
    }
    Ok(Some(Own { file: file.clone(), text, description }))
}

/// The row of the kernel, if there is one, and behind it that of the kernel that it is compared with.
pub(super) fn measure(
    app: &App,
    gpu: &Gpu,
    own: Option<Own>,
    (timing, peaks): (&Timing, &mut Peaks),
) -> Result<Vec<BenchRow>> {
    let Some(Own { file, text, description }) = own else { return Ok(Vec::new()) };
    let measured = user::measure(gpu, (&file, &text), &description, (timing, peaks), &app.progress)?;
    match measured.error {
        Some(error) => app.progress.note(&format!("the outputs are those of the reference, to {error:.1e}")),
        None => app.progress.note("the outputs were compared with nothing: the description names no reference"),
    }
    Ok(measured.rows)
}
