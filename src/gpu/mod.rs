//! The only folder that names wgpu: adapter choice, device, buffers, pipelines, recording, tuning.
//!
//! `Inner` below holds what each file keeps for a device, and each file adds its part of [`Gpu`]'s methods: so this
//! file and those of the folder know one another, while among themselves they import in one direction.

mod adapter;
mod buffer;
mod cap;
mod copies;
mod export;
mod foreign;
mod guard;
mod ledger;
mod memory;
mod options;
mod params;
mod pipeline;
mod profile;
mod record;
mod stopwatch;
#[cfg(test)]
mod tests;
mod tune;
mod units;
mod wait;
mod widen;

pub use adapter::{DeviceInfo, list};
pub use buffer::mib;
pub(crate) use buffer::{RowsToWrite, Tensor, pad4};
pub(crate) use copies::Kept;
pub use ledger::{Part, Peak};
pub(crate) use ledger::{most, with_margin};
pub use options::Options;
pub(crate) use params::{Param, Value};
pub use params::{Parameter, parameters};
pub(crate) use pipeline::{LANES, WIDE};
pub use pipeline::{PipelineKey, Source};
pub use profile::{KernelTime, Profile, Span};
pub use record::Cost;
pub(crate) use record::{Launch, Plan, Recorder, Traced, fold};
pub(crate) use units::Units;

use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Which text of a kernel an adapter gets (ARCHITECTURE.md says which).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// For adapters that run on the CPU: workgroups of 8 lanes and, but for `sample`, no barriers and no workgroup
    /// memory.
    Soft,
    /// For real GPUs: tiles in workgroup memory, reductions across a workgroup.
    Tile,
}

impl Variant {
    /// Every variant, in the order that reports use.
    pub const ALL: [Variant; 2] = [Variant::Soft, Variant::Tile];

    /// The word that file names and tables use.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Soft => "soft",
            Variant::Tile => "tile",
        }
    }
}

/// Which of the kernels' texts run, and in which orders they add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// The variant of the texts.
    pub variant: Variant,
    /// Whether a row's bits must not depend on the rows beside it ([`Options::invariant`]).
    pub invariant: bool,
    /// Whether products of many rows are left to matrix units ([`Options::matrix_units`]).
    pub matrix_units: bool,
}

impl Form {
    /// The words that reports use.
    pub fn name(self) -> String {
        let more = [(self.invariant, " invariant"), (self.matrix_units, " matrix-units")];
        more.iter().filter(|(is, _)| *is).fold(self.variant.name().to_owned(), |name, (_, word)| name + word)
    }
}

/// [`Gpu::chunk_bytes`] of a device.
fn chunk(info: &DeviceInfo, memory: Option<u64>) -> u64 {
    match info.software {
        true => 32 << 20,
        false => memory.map_or(u64::MAX, |memory| memory / 32).clamp(32 << 20, 256 << 20),
    }
}

/// Bytes that desktops' drivers bind at least.
const DESKTOP_BINDING: u64 = (2 << 30) - 4;

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    limits: wgpu::Limits,
    variant: Variant,
    checked: bool,
    guarded: bool,
    invariant: bool,
    units: Option<Units>,
    lanes: bool,
    block: Option<u64>,
    memory: Option<u64>,
    /// Most bytes of what is cut into chunks.
    chunk: u64,
    pipelines: Mutex<HashMap<pipeline::PipelineKey, Arc<pipeline::Pipeline>>>,
    pool: Mutex<buffer::Pool>,
    /// What stands for every buffer where bytes are only counted.
    stand_in: Option<wgpu::Buffer>,
    counted: Mutex<Vec<Cost>>,
    /// Bytes of uploads since the host last waited for them to be taken.
    staged: AtomicU64,
    lost: Mutex<Option<String>>,
    failure: Mutex<Option<Error>>,
    tuning: Mutex<tune::Table>,
    profiler: Option<profile::Profiler>,
    work: Mutex<Cost>,
    watcher: OnceLock<Box<Watcher>>,
    /// The GPU whose pipelines are made by what is counted here.
    rehearsed: Option<Gpu>,
}

/// Is told what a GPU prepares.
type Watcher = dyn Fn(Preparing<'_>) + Send + Sync;

/// What a GPU does before it can compute, which on a first start takes a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparing<'a> {
    /// The driver compiles this kernel.
    Compiling(&'a str),
    /// The fastest tiling for this class of shapes is looked for.
    Tuning(&'a str),
    /// What was told last is over.
    Done,
}

impl Inner {
    /// The state of a device on which nothing is allocated, built or tuned yet.
    fn new(
        (device, queue): (wgpu::Device, wgpu::Queue),
        (info, limits): (DeviceInfo, wgpu::Limits),
        (variant, chunk): (Variant, u64),
        options: &Options,
    ) -> Inner {
        Inner {
            device,
            queue,
            info,
            limits,
            variant,
            checked: options.checked,
            guarded: options.guarded,
            invariant: options.invariant,
            units: None,
            lanes: false,
            block: options.block,
            memory: options.memory,
            chunk,
            pipelines: Mutex::default(),
            pool: Mutex::default(),
            stand_in: None,
            counted: Mutex::default(),
            staged: AtomicU64::default(),
            lost: Mutex::default(),
            failure: Mutex::default(),
            tuning: Mutex::default(),
            profiler: None,
            work: Mutex::default(),
            watcher: OnceLock::new(),
            rehearsed: None,
        }
    }
}

/// An open GPU; cheap to clone.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

/// A lock whose holder panicked still guards plain data that is whole.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Has `watcher` told when kernels are compiled and tilings tuned, from the thread that does it. A GPU has one
    /// watcher; a further one is not heard.
    pub fn watch(&self, watcher: impl Fn(Preparing<'_>) + Send + Sync + 'static) {
        let _ = self.0.watcher.set(Box::new(watcher));
    }

    /// Does `work`, which the watcher is told of before and after.
    fn preparing<T>(&self, what: Preparing<'_>, work: impl FnOnce() -> T) -> T {
        let tell = |what| self.0.watcher.get().into_iter().for_each(|watcher| watcher(what));
        tell(what);
        let done = work();
        tell(Preparing::Done);
        done
    }

    /// Opens the GPU whose name contains `device` (or whose index it is), else the best one. `memory` caps the bytes
    /// that may be allocated; None leaves that to [`Gpu::memory`].
    ///
    /// # Errors
    /// No adapter, none of that name, a device that cannot be opened.
    pub fn open(device: Option<&str>, memory: Option<u64>) -> Result<Gpu> {
        Self::with(&Options { device: device.map(str::to_owned), memory, ..Options::default() })
    }

    /// Opens a GPU with every choice spelled out.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn with(options: &Options) -> Result<Gpu> {
        let (adapter, info) = adapter::choose(options.device.as_deref(), options.turn)?;
        let limits = if options.plain || options.webgpu_limits {
            wgpu::Limits { max_storage_buffers_per_shader_stage: 8, ..wgpu::Limits::default() }
        } else {
            adapter.limits()
        };
        let mut required_features =
            if options.profile { profile::feature(&adapter, &info.name)? } else { wgpu::Features::empty() };
        if options.timestamps {
            required_features |= adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        }
        if !options.plain {
            required_features |= adapter.features() & wgpu::Features::SHADER_F16;
            if info.software {
                required_features |= adapter.features() & (wgpu::Features::SHADER_INT64 | wgpu::Features::SUBGROUP);
            }
        }
        let lanes = required_features.contains(wgpu::Features::SUBGROUP) && adapter::subgroups_hold(&adapter, LANES.1);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        let mut matrix_units = None;
        if options.matrix_units {
            let (units, features, experimental) = units::demand(&adapter, &info.name)?;
            (matrix_units, experimental_features) = (Some(units), experimental);
            required_features |= features;
        }
        let (device, queue) = wait::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("selfreward"),
            required_features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        }))
        .map_err(|e| Error::Device(format!("{}: the device cannot be opened: {e}", info.name)))?;
        let variant = options.variant.unwrap_or(if info.software { Variant::Soft } else { Variant::Tile });
        let cap = options.memory.or_else(|| cap::of(&info));
        let chunk = chunk(&info, cap);
        let gpu = Gpu(Arc::new(Inner {
            tuning: Mutex::new(tune::Table::for_device(&info, variant)),
            profiler: options.profile.then(profile::Profiler::new),
            units: matrix_units,
            lanes,
            memory: cap,
            ..Inner::new((device, queue), (info, limits), (variant, chunk), options)
        }));
        let weak = Arc::downgrade(&gpu.0);
        gpu.0.device.set_device_lost_callback(move |_, why| {
            if let Some(inner) = weak.upgrade() {
                *lock(&inner.lost) = Some(why);
            }
        });
        let weak = Arc::downgrade(&gpu.0);
        gpu.0.device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            if let Some(inner) = weak.upgrade() {
                let error = match e {
                    wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory("the driver refused an allocation".into()),
                    other => Error::Device(other.to_string()),
                };
                lock(&inner.failure).get_or_insert(error);
            }
        }));
        Ok(gpu)
    }

    /// What the system says of this GPU.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Which kernel texts it runs.
    pub fn variant(&self) -> Variant {
        self.0.variant
    }

    /// The kernel texts it runs, and the order of their sums.
    pub fn form(&self) -> Form {
        let Inner { variant, invariant, units, .. } = *self.0;
        Form { variant, invariant, matrix_units: units.is_some() && !invariant }
    }

    /// A device with this one's limits, but for `memory`, that does no work and only counts. Its tensors have no memory
    /// behind them, and launches and uploads do nothing, so that any model's work can be run through, allocation by
    /// allocation, to see its peak. What is read back is not a result.
    pub fn counting(&self, memory: Option<u64>) -> Gpu {
        let inner = &self.0;
        let (info, limits, texts) = (inner.info.clone(), inner.limits.clone(), (inner.variant, inner.chunk));
        Gpu(Arc::new(self.count_as(info, limits, texts, memory)))
    }

    /// A device that counts like [`Gpu::counting`] and makes this one's pipelines on the way, so that they are there
    /// when the same work is done here.
    pub(crate) fn rehearsing(&self) -> Gpu {
        let inner = &self.0;
        let (info, limits, texts) = (inner.info.clone(), inner.limits.clone(), (inner.variant, inner.chunk));
        let tuning = Mutex::new(lock(&inner.tuning).clone());
        let counting = self.count_as(info, limits, texts, inner.memory);
        Gpu(Arc::new(Inner { rehearsed: Some(self.clone()), tuning, ..counting }))
    }

    fn count_as(
        &self,
        info: DeviceInfo,
        limits: wgpu::Limits,
        (variant, chunk): (Variant, u64),
        memory: Option<u64>,
    ) -> Inner {
        let inner = &self.0;
        let stand_in = inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("stand-in"),
            size: 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let Inner { checked, invariant, block, .. } = **inner;
        let options = Options { checked, invariant, block, memory, ..Options::default() };
        let device = (inner.device.clone(), inner.queue.clone());
        Inner {
            stand_in: Some(stand_in),
            units: inner.units,
            lanes: inner.lanes,
            ..Inner::new(device, (info, limits), (variant, chunk), &options)
        }
    }

    /// A device that only counts, as a desktop's GPU would: with bindings of 2 GiB, the kernels of GPUs, and 8 GiB of
    /// which no cap was given, whatever this device is.
    pub fn counting_desktop(&self) -> Gpu {
        let mut limits = self.0.limits.clone();
        (limits.max_storage_buffer_binding_size, limits.max_buffer_size) = (DESKTOP_BINDING, DESKTOP_BINDING);
        let info = DeviceInfo {
            name: "a desktop's GPU".into(),
            kind: "DiscreteGpu".into(),
            software: false,
            max_binding_bytes: DESKTOP_BINDING,
            memory_bytes: memory::ASSUMED,
            memory_source: memory::NOBODY.into(),
            ..self.0.info.clone()
        };
        let memory = cap::given(self).or_else(|| cap::of(&info));
        let chunk = chunk(&info, memory);
        Gpu(Arc::new(self.count_as(info, limits, (Variant::Tile, chunk), memory)))
    }

    /// The GPU whose pipelines are made by what is counted here, if there is one.
    fn rehearsed(&self) -> Option<&Gpu> {
        self.0.rehearsed.as_ref()
    }

    /// Whether it only counts ([`Gpu::counting`]).
    pub(crate) fn counts(&self) -> bool {
        self.0.stand_in.is_some()
    }

    /// Whether shaders may compute in f16.
    pub(crate) fn has_f16(&self) -> bool {
        self.0.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// The optional features that kernels use on this device, by name.
    pub fn features_in_use(&self) -> Vec<&'static str> {
        let all = [
            (self.has_f16(), "f16"),
            (self.has_wide_words(), "int64"),
            (self.has_lanes(), "subgroups"),
            (self.units().is_some(), "matrix-units"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
    }

    /// The matrix units that were asked for ([`Options::matrix_units`]).
    pub(crate) fn units(&self) -> Option<Units> {
        self.0.units
    }

    /// Whether what the `enable` directives of `source` name was asked of the device.
    ///
    /// # Errors
    /// What it lacks.
    pub(crate) fn expect_buildable(&self, source: &Source) -> Result<()> {
        let missing = source.directives(self.variant()).find_map(|name| match name {
            "f16" if self.has_f16() => None,
            "f16" => Some("shaders that compute in f16, which this device has not"),
            _ if self.units().is_some() => None,
            _ => Some("matrix units (--matrix-units, on a device that has them)"),
        });
        missing.map_or(Ok(()), |what| Err(Error::Device(format!("{} needs {what}", source.name))))
    }

    /// Whether this device can build the shader.
    pub fn can_build(&self, source: &Source) -> bool {
        self.expect_buildable(source).is_ok()
    }

    /// Whether the soft kernels can read and write in words of 64 bits.
    pub(crate) fn has_wide_words(&self) -> bool {
        self.0.device.features().contains(wgpu::Features::SHADER_INT64)
    }

    /// Whether the lanes of a soft workgroup are one subgroup, so that they can load for each other.
    pub(crate) fn has_lanes(&self) -> bool {
        self.0.lanes
    }

    /// Work of everything submitted since the device was opened.
    pub fn work(&self) -> Cost {
        *lock(&self.0.work)
    }

    /// Largest buffer that a kernel can bind, in bytes.
    pub fn max_binding_bytes(&self) -> u64 {
        let most = self.0.limits.max_storage_buffer_binding_size.min(self.0.limits.max_buffer_size);
        if self.0.guarded { most - guard::AROUND } else { most }
    }

    /// Most bytes of one buffer of a weight.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.0.block.map_or(self.max_binding_bytes(), |most| most.min(self.max_binding_bytes()))
    }

    /// Most bytes of what is computed in chunks so that it need not lie in memory as a whole: 32 MiB on adapters that
    /// share the CPU's caches; on GPUs 256 MiB, or 1/32 of a cap where that is less.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.0.chunk.min(self.max_binding_bytes())
    }

    /// Work that one dispatch may hold before it is split, in floating-point operations: about the 200 ms after which
    /// desktops begin to stutter, from what the kind of device is known to do at least; a software adapter draws no
    /// desktop, there it is about the second after which one waits for a stop.
    pub(crate) fn flops_per_dispatch(&self) -> f64 {
        match self.0.info.software {
            true => 8.0e9,
            false => 1.0e11,
        }
    }

    /// Takes the device away, as a driver does that was reset.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.0.device.destroy();
    }

    /// The first error that happened outside of a call, if any (an asynchronous failure of the device).
    fn take_failure(&self) -> Result<()> {
        let lost = || lock(&self.0.lost).clone().map_or(Ok(()), |why| Err(Error::DeviceLost(why)));
        lost()?;
        let Some(failure) = lock(&self.0.failure).take() else { return Ok(()) };
        // On a lost device every call fails before its callback has come, which a poll brings.
        let _ = self.0.device.poll(wgpu::PollType::Poll);
        lost()?;
        Err(failure)
    }

    /// Waits until everything submitted so far is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last look.
    pub(crate) fn wait(&self) -> Result<()> {
        if self.counts() {
            return Ok(());
        }
        wait::submitted(&self.0.queue);
        let polled = self.0.device.poll(wgpu::PollType::wait_indefinitely());
        self.take_failure()?;
        polled.map(|_| ()).map_err(|e| Error::Device(format!("waiting for the GPU: {e}")))
    }
}
