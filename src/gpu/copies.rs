//! Copies of what a plan works on: to start again from the same memory, and to run it on memory that no cache holds.

use super::Gpu;
use super::buffer::Raw;
use super::record::Plan;
use crate::{Error, Result};
use std::sync::Arc;

/// Copies of the buffers of a plan, and where they were taken from.
pub(crate) struct Kept(Vec<(Arc<Raw>, wgpu::Buffer)>);

impl Plan {
    /// Bytes of all its buffers.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.buffers().iter().map(|(raw, _)| raw.bytes).sum()
    }
}

impl Gpu {
    /// The plan on buffers of its own, which hold what the plan's hold now. They are not counted as live.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn copy_of(&self, plan: &Plan) -> Result<Plan> {
        let fresh = |raw: &Arc<Raw>| -> Result<(Arc<Raw>, Arc<Raw>)> {
            let buffer = self.buffer(raw.buffer.size())?;
            let Raw { bytes, first, guarded, .. } = **raw;
            Ok((raw.clone(), Arc::new(Raw { buffer, bytes, first, guarded })))
        };
        let all: Vec<(Arc<Raw>, Arc<Raw>)> =
            plan.buffers().into_iter().map(|(raw, _)| fresh(raw)).collect::<Result<_>>()?;
        self.copy(all.iter().map(|(from, to)| (&from.buffer, &to.buffer)));
        let other = |raw: &Arc<Raw>| {
            all.iter().find(|(from, _)| Arc::ptr_eq(from, raw)).map_or_else(|| raw.clone(), |(_, to)| to.clone())
        };
        plan.on(self, other).ok_or_else(|| Error::Bug("a plan that is only counted has no copy".into()))
    }

    /// Keeps what the buffers of the plan hold before it runs.
    pub(crate) fn keep(&self, plan: &Plan) -> Kept {
        let copy = |raw: &Arc<Raw>| {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("kept"),
                size: raw.buffer.size(),
                usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let kept = Kept(plan.buffers().into_iter().map(|(raw, _)| (raw.clone(), copy(raw))).collect());
        self.copy(kept.0.iter().map(|(raw, copy)| (&raw.buffer, copy)));
        kept
    }

    /// Gives the buffers what they held when they were kept.
    pub(crate) fn put_back(&self, kept: &Kept) {
        self.copy(kept.0.iter().map(|(raw, copy)| (copy, &raw.buffer)));
    }

    fn copy<'a>(&self, all: impl Iterator<Item = (&'a wgpu::Buffer, &'a wgpu::Buffer)>) {
        let mut encoder = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        all.for_each(|(from, to)| encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size()));
        self.0.queue.submit([encoder.finish()]);
    }
}
