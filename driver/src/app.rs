//! What every command needs: the common flags, the GPU, progress, and one way to print.

use crate::common::{Common, LimitSet};
use crate::dtype::{ON_DEVICE, one_of};
use crate::progress::{Progress, Verbosity};
use crate::ranks::Ranks;
use anyhow::{Context, Result, bail};
use selfreward::Observer;
use selfreward::arch::Dtype;
use selfreward::gpu::{Gpu, Options, Variant};
use selfreward::kernels::half::Half;
use selfreward::model::{Model, Storage};
use selfreward::source::ModelSource;
use selfreward::train::WeightType;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;

/// The common flags with what they stand for.
pub(crate) struct App {
    pub(crate) common: Common,
    pub(crate) progress: Progress,
    pub(crate) ranks: Ranks,
}

impl App {
    pub(crate) fn new(common: Common, ranks: Ranks) -> Self {
        // Of several MPI ranks only the first one speaks.
        let verbosity = match (common.quiet || !ranks.exchange().first(), common.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        Self { common, progress: Progress::new(verbosity), ranks }
    }

    /// Opens the GPU that `--device` and `--memory` ask for.
    pub(crate) fn gpu(&self) -> Result<Gpu> {
        self.pinned_gpu(&Pin::default())
    }

    /// Opens the GPU that `--device` and `--memory` ask for, with the kernels and features that `pin` asks for.
    pub(crate) fn pinned_gpu(&self, pin: &Pin) -> Result<Gpu> {
        self.opened(pin, false)
    }

    /// Opens the GPU as [`App::pinned_gpu`] does; if `profile` is set, every launch is timed.
    pub(crate) fn opened(&self, pin: &Pin, profile: bool) -> Result<Gpu> {
        self.open(&self.options(pin).profile(profile))
    }

    /// What `--device`, `--memory` and `pin` ask for.
    pub(crate) fn options(&self, pin: &Pin) -> Options {
        Options::default()
            .device(self.common.device.clone())
            .turn(self.ranks.turn())
            .memory(self.common.memory)
            .variant(pin.variant.map(Variant::from))
            .plain(pin.no_features)
            .webgpu_limits(self.common.limits == LimitSet::Webgpu)
            .invariant(self.common.invariant)
            .matrix_units(self.common.matrix_units)
    }

    /// Opens a GPU and tells what it prepares.
    pub(crate) fn open(&self, options: &Options) -> Result<Gpu> {
        let gpu = Gpu::with(options)?;
        self.progress.watch(&gpu);
        self.progress.detail(&device(&gpu));
        Ok(gpu)
    }

    /// Says which GPU a long work runs on, and what it plans with; with `-v` it was said when that was opened.
    pub(crate) fn tell_device(&self, gpu: &Gpu) {
        if !self.common.verbose {
            self.progress.note(&device(gpu));
        }
    }

    /// Tells with `-v` the most memory that live buffers took, for each part.
    pub(crate) fn tell_peak(&self, gpu: &Gpu) {
        let peak = gpu.peak();
        self.progress.detail(&format!("peak of live buffers: {} bytes ({peak})", peak.bytes));
        self.progress.tell_prepared();
    }

    /// Finds a model's files, and fetches them if they are a hub id's and not in the cache. Tells what is odd about
    /// them.
    pub(crate) fn source(&self, path: &Path) -> Result<ModelSource> {
        let source = match &self.common.base {
            Some(base) => ModelSource::open_over(path, base, &self.progress)?,
            None => ModelSource::open_or_fetch(path, &self.progress)?,
        };
        source.warnings.iter().for_each(|w| self.progress.note(&format!("warning: {w}")));
        let args: Map<String, Value> = self.common.template_arg.iter().cloned().collect();
        Ok(if args.is_empty() { source } else { source.with_template_args(&args) })
    }

    /// Finds a model's files as [`App::source`] does, while `gpu` opens a device.
    pub(crate) fn source_beside<T: Send>(
        &self,
        path: &Path,
        gpu: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(ModelSource, T)> {
        std::thread::scope(|scope| {
            let gpu = scope.spawn(gpu);
            let source = self.source(path)?;
            Ok((source, gpu.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
        })
    }

    /// Says how PEFT opens the base of an adapter that was written, where its name alone does not do.
    pub(crate) fn tell_base(&self, base: &ModelSource) {
        let file = base.path.file_name().filter(|_| base.path.extension().is_some_and(|e| e == "gguf"));
        // A folder without a name is nothing to PEFT.
        let whole = std::path::absolute(&base.path).unwrap_or_else(|_| base.path.clone());
        let (Some(folder), Some(file)) = (whole.parent(), file) else { return };
        self.progress.note(&format!(
            "PEFT cannot open the adapter by its base's name, which is a GGUF file: first load the base with \
             AutoModelForCausalLM.from_pretrained({folder:?}, gguf_file={file:?}), then use \
             PeftModel.from_pretrained(base, …)"
        ));
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

fn device(gpu: &Gpu) -> String {
    let info = gpu.info();
    format!("{} ({}, {}); {}", info.name, info.backend, info.driver, planned(gpu))
}

/// What memory a device's work is planned with.
pub(crate) fn planned(gpu: &Gpu) -> String {
    let (info, of) = (gpu.info(), |bytes: u64| bytes >> 20);
    let card = format!("{} MiB of memory ({})", of(info.memory_bytes), info.memory_source);
    match gpu.memory() {
        Some(bytes) => format!("{card}, of which {} are planned with", of(bytes)),
        None => format!("{card}, of which software adapters plan with a fixed part unless --memory says how much"),
    }
}

/// The flag for the type in which a model's matrices are kept.
#[derive(clap::Args, Default)]
pub(crate) struct DtypeArg {
    /// Type of the model's matrices on the device; sums and activations are always in f32 (default: as the file has
    /// them; sft and dpo train all weights in f32, and with bf16 or f16 their products read rounded copies)
    #[arg(long, value_name = "T", value_parser = one_of(ON_DEVICE))]
    dtype: Option<Dtype>,
}

impl DtypeArg {
    /// The flag as if `dtype` had been given.
    pub(crate) fn of(dtype: Option<Dtype>) -> Self {
        Self { dtype }
    }

    /// How to load a model that is not trained itself.
    pub(crate) fn storage(&self) -> Storage {
        match (self.dtype, self.half()) {
            (_, Some(half)) => Storage::Half(half),
            (Some(_), None) => Storage::F32,
            (None, None) => Storage::Own,
        }
    }

    /// How the matrices of a model to be trained are kept: all of it in the type `weights`, or, frozen beside an
    /// adapter, as the flag says.
    pub(crate) fn trained(&self, weights: WeightType, adapter: bool) -> Result<Storage> {
        match weights {
            WeightType::F32 if adapter => Ok(self.storage()),
            WeightType::F32 => Ok(Storage::F32),
            WeightType::Bf16 if adapter => {
                bail!("--weights bf16 is for the training of all weights; --dtype bf16 keeps an adapter's model so")
            }
            WeightType::Bf16 => match self.half() {
                Some(half) => {
                    bail!("--dtype {} is for copies of f32 weights; it does not go with --weights bf16", half.name())
                }
                None => Ok(Storage::Half(Half::Bf16)),
            },
        }
    }

    /// Loads a model to be trained, as [`DtypeArg::trained`] says.
    pub(crate) fn trainable(
        &self,
        gpu: &Gpu,
        source: &ModelSource,
        weights: WeightType,
        adapter: bool,
    ) -> Result<Model> {
        Ok(Model::load_as(gpu, source, self.trained(weights, adapter)?)?)
    }

    /// How to load a model for passes that its training in the type `weights` will repeat.
    pub(crate) fn passes(&self, weights: WeightType) -> Storage {
        match weights {
            WeightType::F32 => self.storage(),
            WeightType::Bf16 => Storage::Half(Half::Bf16),
        }
    }

    /// The type of the copies that products read while all weights are trained.
    pub(crate) fn copies(&self, model: &Model) -> Option<Half> {
        self.half().filter(|_| !model.has_adapter())
    }

    /// The 16-bit type that was asked for, if it was one.
    pub(crate) fn half(&self) -> Option<Half> {
        match self.dtype {
            Some(Dtype::BF16) => Some(Half::Bf16),
            Some(Dtype::F16) => Some(Half::F16),
            _ => None,
        }
    }
}

/// Flags of commands that compare or measure: they fix what a device would choose by itself.
#[derive(Clone, Copy, clap::Args, Default)]
pub(crate) struct Pin {
    /// Kernel texts to use (default: soft on software adapters, tile on GPUs)
    #[arg(long, value_enum, value_name = "V")]
    variant: Option<VariantName>,
    /// Use no optional feature of the device and no more than WebGPU's default limits
    #[arg(long)]
    no_features: bool,
}

impl Pin {
    /// These flags without the device's optional features.
    pub(crate) fn portable(self) -> Pin {
        Pin { no_features: true, ..self }
    }

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

/// Fails before any work is done if `path` cannot be made because something that is not a folder is in its way.
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
