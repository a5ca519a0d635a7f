//! Where the time goes, kernel by kernel: with [`super::Options::profile`] every launch is a pass of its own between
//! two timestamps.

use super::record::{Plan, Recorded};
use super::{Cost, Gpu, Variant, lock};
use crate::clock;
use crate::clock::Instant;
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Mutex;

/// Launches that are kept one by one, for the trace; of all others only the sums are.
const MOST_SPANS: usize = 1 << 20;

/// Launches of one kernel that do the same work.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// The op's stem.
    pub name: &'static str,
    /// The entry point that was launched.
    pub entry: &'static str,
    /// The variant of the op's text.
    pub variant: Variant,
    /// Work of each launch.
    pub cost: Cost,
    /// Number of launches.
    pub launches: u64,
    /// Seconds that all these launches took together.
    pub seconds: f64,
}

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Index of the kernel in [`Profile::kernels`].
    pub kernel: usize,
    /// When it began and ended, in microseconds by the device's clock.
    pub at: [f64; 2],
}

/// What ran since the device was opened, or since [`Gpu::restart_profile`].
#[derive(Clone, Debug)]
pub struct Profile {
    /// The time of the launches, by kernel and work, in the order of their first launch.
    pub kernels: Vec<KernelTime>,
    /// The first 2^20 launches.
    pub spans: Vec<Span>,
    /// Seconds that passed in all, by the host's clock.
    pub seconds: f64,
}

impl Profile {
    /// Writes the launches as trace-event JSON, which Perfetto and Chrome open.
    ///
    /// # Errors
    /// Errors of `out`.
    pub fn write_trace(&self, device: &str, mut out: impl Write) -> std::io::Result<()> {
        let named =
            serde_json::json!({"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": device}});
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{named}")?;
        let from = self.spans.iter().map(|s| s.at[0]).fold(f64::INFINITY, f64::min);
        for span in &self.spans {
            let k = &self.kernels[span.kernel];
            let event = serde_json::json!({
                "name": format!("{}.{}", k.name, k.entry), "cat": "kernel", "ph": "X", "pid": 1, "tid": 1,
                "ts": nanoseconds(span.at[0] - from), "dur": nanoseconds(span.at[1] - span.at[0]),
                "args": {"variant": k.variant.name(), "flops": k.cost.flops, "bytes": k.cost.bytes},
            });
            write!(out, ",\n{event}")?;
        }
        out.write_all(b"\n]}\n")
    }
}

/// Microseconds without digits that no clock has.
fn nanoseconds(microseconds: f64) -> f64 {
    (microseconds * 1e3).round() / 1e3
}

type Kind = (&'static str, &'static str, Variant, [u64; 2]);

struct State {
    known: HashMap<Kind, usize>,
    kernels: Vec<KernelTime>,
    spans: Vec<Span>,
    began: Instant,
}

impl State {
    fn new() -> State {
        State { known: HashMap::new(), kernels: Vec::new(), spans: Vec::new(), began: clock::now() }
    }

    fn number(&mut self, step: &Recorded) -> usize {
        let (name, entry, variant, cost) = (step.key.name, step.key.entry, step.key.variant, step.cost);
        let kind = (name, entry, variant, [cost.flops.to_bits(), cost.bytes.to_bits()]);
        *self.known.entry(kind).or_insert_with(|| {
            self.kernels.push(KernelTime { name, entry, variant, cost, launches: 0, seconds: 0.0 });
            self.kernels.len() - 1
        })
    }

    fn add(&mut self, kernel: usize, at: [f64; 2]) {
        // A restart forgets kernels whose times are still on their way.
        let Some(k) = self.kernels.get_mut(kernel) else { return };
        k.launches += 1;
        k.seconds += (at[1] - at[0]).max(0.0) / 1e6;
        if self.spans.len() < MOST_SPANS {
            self.spans.push(Span { kernel, at });
        }
    }
}

/// Collects the times of a device that is profiled.
pub(super) struct Profiler(Mutex<State>);

impl Profiler {
    pub(super) fn new() -> Profiler {
        Profiler(Mutex::new(State::new()))
    }
}

impl Gpu {
    /// Submits the launches `range` of the plan `times` times, each in a pass between two timestamps.
    pub(super) fn submit_timed(&self, profiler: &Profiler, plan: &Plan, range: Range<usize>, times: usize) {
        let device = &self.0.device;
        let all: Vec<usize> = (0..times).flat_map(|_| range.clone()).collect();
        let buffer = |size: u64, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        for part in all.chunks(wgpu::QUERY_SET_MAX_QUERIES as usize / 2) {
            let count = 2 * part.len() as u32;
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let bytes = u64::from(count) * 8;
            let resolved = buffer(bytes, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
            let read = buffer(bytes, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (k, i) in (0..).step_by(2).zip(part) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(k),
                        end_of_pass_write_index: Some(k + 1),
                    }),
                });
                plan.dispatch(&mut pass, *i);
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &read, 0, bytes);
            let kernels: Vec<usize> = {
                let mut state = lock(&profiler.0);
                part.iter().map(|i| state.number(&plan.steps[*i])).collect()
            };
            self.0.queue.submit([encoder.finish()]);
            let (home, mapped) = (std::sync::Arc::downgrade(&self.0), read.clone());
            let microseconds = f64::from(self.0.queue.get_timestamp_period()) / 1e3;
            read.map_async(wgpu::MapMode::Read, .., move |done| {
                // Of a device that is lost or gone there is nothing to tell.
                let (Ok(()), Some(inner)) = (done, home.upgrade()) else { return };
                let (Some(profiler), Ok(view)) = (&inner.profiler, mapped.get_mapped_range(..)) else { return };
                let ticks: &[[u64; 2]] = bytemuck::cast_slice(&view);
                let mut state = lock(&profiler.0);
                for (kernel, at) in kernels.iter().zip(ticks) {
                    state.add(*kernel, at.map(|t| t as f64 * microseconds));
                }
            });
        }
    }

    /// Waits, then gives the time of every kernel so far; None where the device was opened without
    /// [`super::Options::profile`].
    ///
    /// # Errors
    /// Device errors.
    pub fn profile(&self) -> Result<Option<Profile>> {
        let Some(profiler) = &self.0.profiler else { return Ok(None) };
        self.wait()?;
        let state = lock(&profiler.0);
        let seconds = state.began.elapsed().as_secs_f64();
        Ok(Some(Profile { kernels: state.kernels.clone(), spans: state.spans.clone(), seconds }))
    }

    /// Waits, then forgets all times so far.
    ///
    /// # Errors
    /// Device errors.
    pub fn restart_profile(&self) -> Result<()> {
        self.wait()?;
        if let Some(profiler) = &self.0.profiler {
            *lock(&profiler.0) = State::new();
        }
        Ok(())
    }
}

/// The feature that profiling needs.
///
/// # Errors
/// An adapter without it.
pub(super) fn feature(adapter: &wgpu::Adapter, name: &str) -> Result<wgpu::Features> {
    let needed = wgpu::Features::TIMESTAMP_QUERY;
    match adapter.features().contains(needed) {
        true => Ok(needed),
        false => Err(Error::Device(format!("{name} has no timestamps, which profiling needs; run without --profile"))),
    }
}
