//! Times runs of a plan by the host's clock and by the device's.

use super::record::Plan;
use super::{Gpu, lock};
use crate::Result;
use crate::clock;

/// Seconds of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    /// From the encoding to the end of the wait.
    pub(crate) host: f64,
    /// Between the timestamps before and behind all launches; None where the device has none, or the plan goes in
    /// several submits.
    pub(crate) device: Option<f64>,
}

/// What the timestamps of one run are written to.
pub(crate) struct Stopwatch<'g> {
    gpu: &'g Gpu,
    stamps: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
}

/// Two timestamps of 8 bytes.
const BYTES: u64 = 16;

impl Gpu {
    /// A stopwatch for plans of this device.
    pub(crate) fn stopwatch(&self) -> Stopwatch<'_> {
        let device = &self.0.device;
        let there = !self.counts() && device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let stamps = there.then(|| {
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("stopwatch"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: BYTES,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
            (queries, resolved, buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ))
        });
        Stopwatch { gpu: self, stamps }
    }
}

impl Stopwatch<'_> {
    /// Runs the plan and waits for it. Nothing else may be on its way.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn time(&self, plan: &Plan) -> Result<Timed> {
        let gpu = self.gpu;
        let fits = plan.cost().flops <= gpu.flops_per_dispatch() && plan.len() > 0 && gpu.0.profiler.is_none();
        let Some((queries, resolved, read)) = self.stamps.as_ref().filter(|_| fits) else {
            let all = gpu.time(plan, 1)?;
            return Ok(Timed { host: all.iter().sum(), device: None });
        };
        let start = clock::now();
        let mut encoder = gpu.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            (0..plan.len()).for_each(|i| plan.dispatch(&mut pass, i));
        }
        encoder.resolve_query_set(queries, 0..2, resolved, 0);
        encoder.copy_buffer_to_buffer(resolved, 0, read, 0, BYTES);
        gpu.0.queue.submit([encoder.finish()]);
        {
            let mut work = lock(&gpu.0.work);
            *work = work.plus(plan.cost(), 1.0);
        }
        gpu.wait()?;
        let host = start.elapsed().as_secs_f64();
        let ticks = gpu.mapped(read, "reading timestamps", |bytes| {
            let words: &[u64] = bytemuck::cast_slice(bytes);
            words[1].saturating_sub(words[0])
        })?;
        let seconds = ticks as f64 * f64::from(gpu.0.queue.get_timestamp_period()) / 1e9;
        Ok(Timed { host, device: (seconds > 0.0).then_some(seconds) })
    }
}
