//! Launchers append to a recorder; one place submits.

use super::buffer::Raw;
use super::params::{self, Param, SLOT};
use super::pipeline::{Pipeline, PipelineKey, Source};
use super::{Form, Gpu, Tensor, Variant, lock};
use crate::clock;
use crate::{Error, Result};
use std::sync::Arc;

/// The least work that a launch has to do, from which every figure per second is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations (a fused multiply-add is two).
    pub flops: f64,
    /// Bytes read and written, each once.
    pub bytes: f64,
    /// The part of `flops` that is done on matrix units.
    pub on_units: f64,
}

impl Cost {
    /// The cost of work on f32 units alone.
    pub fn new(flops: f64, bytes: f64) -> Cost {
        Cost { flops, bytes, on_units: 0.0 }
    }

    /// The work of all of them.
    pub fn sum(all: impl Iterator<Item = Cost>) -> Cost {
        all.fold(Cost::default(), |a, b| a.plus(b, 1.0))
    }

    /// With `times` the work of `other` added.
    pub fn plus(self, other: Cost, times: f64) -> Cost {
        Cost {
            flops: self.flops + other.flops * times,
            bytes: self.bytes + other.bytes * times,
            on_units: self.on_units + other.on_units * times,
        }
    }
}

/// One dispatch, as a launcher describes it.
pub(crate) struct Launch<'a> {
    /// The op that is launched.
    pub(crate) source: &'static Source,
    /// The entry point of the op.
    pub(crate) entry: &'static str,
    /// `const` lines put in front of the text.
    pub(crate) constants: Vec<(&'static str, u32)>,
    /// The uniform at binding 0: the members of the shader's `Params`, by name and in its order.
    pub(crate) params: &'a [Param<'a>],
    /// Storage bindings from 1 on, in the shader's order.
    pub(crate) bind: &'a [&'a Tensor],
    /// The number of workgroups in each dimension.
    pub(crate) groups: [u32; 3],
    /// The work of the launch.
    pub(crate) cost: Cost,
}

pub(super) struct Recorded {
    pub(super) source: &'static Source,
    pub(super) key: PipelineKey,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) buffers: Vec<Arc<Raw>>,
    pub(super) groups: [u32; 3],
    pub(super) cost: Cost,
}

/// A list of launches that was not yet submitted.
pub(crate) struct Recorder<'g> {
    gpu: &'g Gpu,
    pub(super) steps: Vec<Recorded>,
    pub(super) params: Vec<u8>,
    counted: Counted,
    form: Form,
}

/// Launches that are only counted: what they hold as long as their recording lives, and their work.
#[derive(Default)]
pub(super) struct Counted {
    held: Vec<Arc<Raw>>,
    cost: Cost,
    /// The launches one by one, where they are asked for.
    traced: Option<Vec<Traced>>,
}

/// A launch that was only counted.
pub(crate) struct Traced {
    /// Name of the [`Source`].
    pub(crate) name: &'static str,
    /// The entry point.
    pub(crate) entry: &'static str,
    /// Workgroups in all.
    pub(crate) groups: u64,
    /// Whether a tensor has rows that do not fill their last vec4.
    pub(crate) odd: bool,
    /// The work of the launch.
    pub(crate) cost: Cost,
}

/// Workgroups for `n` of them in one dimension, folded into two when there are more than a dimension may have.
pub(crate) fn fold(n: usize) -> [u32; 3] {
    let n = n.max(1);
    let y = n.div_ceil(65_535);
    [n.div_ceil(y) as u32, y as u32, 1]
}

impl<'g> Recorder<'g> {
    /// The device it records for.
    pub(crate) fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// The kernel texts in use.
    pub(crate) fn variant(&self) -> Variant {
        self.form.variant
    }

    /// Whether a row's bits must not depend on the rows beside it.
    pub(crate) fn invariant(&self) -> bool {
        self.form.invariant
    }

    /// Whether products of many rows are left to matrix units.
    pub(crate) fn matrix_units(&self) -> bool {
        self.form.matrix_units
    }

    /// Has launches that are only counted listed one by one.
    pub(crate) fn trace(&mut self) {
        self.counted.traced = Some(Vec::new());
    }

    /// The launches that were counted since [`Recorder::trace`].
    pub(crate) fn traced(self) -> Vec<Traced> {
        self.counted.traced.unwrap_or_default()
    }

    /// Number of launches so far.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Appends a dispatch.
    ///
    /// # Errors
    /// A shader that does not build, other parameters than its own, a wrong number of bindings, too many workgroups.
    pub(crate) fn launch(&mut self, l: Launch) -> Result<()> {
        let name = || format!("{}.{}", l.source.name, l.entry);
        params::check_sizes(name, l.params)?;
        if l.groups.contains(&0) {
            return Ok(());
        }
        if self.gpu.counts() {
            self.counted.held.extend(l.bind.iter().map(|t| t.raw().clone()));
            self.counted.cost = Cost::sum([self.counted.cost, l.cost].into_iter());
            if let Some(all) = &mut self.counted.traced {
                let odd = l.bind.iter().any(|t| t.cols() != t.ld() || (t.rows() > 1 && t.rows() % 4 != 0));
                let groups = l.groups.iter().map(|n| u64::from(*n)).product();
                all.push(Traced { name: l.source.name, entry: l.entry, groups, odd, cost: l.cost });
            }
        }
        let key =
            PipelineKey { name: l.source.name, variant: self.form.variant, entry: l.entry, constants: l.constants };
        if self.gpu.counts() {
            return self.gpu.rehearsed().map_or(Ok(()), |gpu| gpu.pipeline(l.source, &key).map(drop));
        }
        let pipeline = self.gpu.pipeline(l.source, &key)?;
        params::check(name, &pipeline.params, l.params)?;
        if pipeline.storage != l.bind.len() {
            let (bound, bindings) = (l.bind.len(), pipeline.storage);
            return Err(Error::Bug(format!("{}: {bound} tensors for {bindings} bindings", name())));
        }
        if let Some(t) = l.bind.iter().find(|t| 4 * t.len() as u64 > t.raw().bytes) {
            let bytes = t.raw().bytes;
            return Err(Error::Bug(format!("{}: a tensor {:?} in a buffer of {bytes} bytes", name(), t.shape())));
        }
        if l.groups.iter().any(|g| *g > 65_535) {
            let groups = l.groups;
            return Err(Error::Input(format!(
                "{}: {groups:?} workgroups are needed and a dimension has at most 65535; use a smaller batch",
                name()
            )));
        }
        params::append(&mut self.params, l.params);
        self.params.resize((self.steps.len() + 1) * SLOT, 0);
        self.steps.push(Recorded {
            source: l.source,
            key,
            pipeline,
            buffers: l.bind.iter().map(|t| t.raw().clone()).collect(),
            groups: l.groups,
            cost: l.cost,
        });
        Ok(())
    }

    /// Makes the recording repeatable: bind groups and parameters are made once.
    pub(crate) fn compile(self) -> Plan {
        if self.gpu.counts() {
            return Plan { steps: Vec::new(), groups: Vec::new(), uniform: None, counted: self.counted };
        }
        let device = &self.gpu.0.device;
        let uniform = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (self.params.len().max(SLOT)) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.gpu.0.queue.write_buffer(&uniform, 0, &self.params);
        Plan::bound(self.gpu, self.steps, uniform, self.counted)
    }

    /// Submits everything recorded; does not wait.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last look.
    pub(crate) fn submit(self) -> Result<()> {
        let gpu = self.gpu;
        gpu.run(&self.compile())
    }
}

/// A compiled recording. The tensors it reads and writes between runs must be kept alive by its owner.
pub(crate) struct Plan {
    pub(super) steps: Vec<Recorded>,
    groups: Vec<wgpu::BindGroup>,
    /// The parameters of all launches.
    pub(super) uniform: Option<wgpu::Buffer>,
    counted: Counted,
}

impl Plan {
    /// Launches with their parameters in `uniform`, each bound to its buffers.
    pub(super) fn bound(gpu: &Gpu, steps: Vec<Recorded>, uniform: wgpu::Buffer, counted: Counted) -> Plan {
        let bind = |step: &Recorded| {
            let window =
                wgpu::BufferBinding { buffer: &uniform, offset: 0, size: std::num::NonZeroU64::new(SLOT as u64) };
            let own = step.pipeline.own_bindings.as_deref();
            let params = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(window) };
            let mut entries: Vec<_> = own.is_none().then_some(params).into_iter().collect();
            entries.extend(step.buffers.iter().enumerate().map(|(i, raw)| wgpu::BindGroupEntry {
                binding: own.map_or(i as u32 + 1, |own| own[i]),
                resource: wgpu::BindingResource::Buffer(raw.binding()),
            }));
            gpu.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &step.pipeline.layout,
                entries: &entries,
            })
        };
        let groups = steps.iter().map(bind).collect();
        Plan { steps, groups, uniform: Some(uniform), counted }
    }

    /// The same launches on other buffers.
    pub(super) fn on(&self, gpu: &Gpu, buffer: impl Fn(&Arc<Raw>) -> Arc<Raw>) -> Option<Plan> {
        let other = |step: &Recorded| Recorded {
            buffers: step.buffers.iter().map(&buffer).collect(),
            key: step.key.clone(),
            pipeline: step.pipeline.clone(),
            ..*step
        };
        let uniform = self.uniform.clone()?;
        Some(Plan::bound(gpu, self.steps.iter().map(other).collect(), uniform, Counted::default()))
    }

    /// Number of dispatches.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// All work of one run.
    pub(crate) fn cost(&self) -> Cost {
        Cost::sum(self.steps.iter().map(|s| s.cost).chain([self.counted.cost]))
    }

    /// Encodes launch number `i`.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass, i: usize) {
        let step = &self.steps[i];
        pass.set_pipeline(&step.pipeline.pipeline);
        match step.pipeline.own_bindings {
            None => pass.set_bind_group(0, &self.groups[i], &[(i * SLOT) as u32]),
            Some(_) => pass.set_bind_group(0, &self.groups[i], &[]),
        }
        pass.dispatch_workgroups(step.groups[0], step.groups[1], step.groups[2]);
    }
}

impl Gpu {
    /// An empty recorder.
    pub(crate) fn record(&self) -> Recorder<'_> {
        self.record_form(self.form())
    }

    /// An empty recorder for other kernel texts than the adapter's own.
    pub(crate) fn record_form(&self, form: Form) -> Recorder<'_> {
        Recorder { gpu: self, steps: Vec::new(), params: Vec::new(), counted: Counted::default(), form }
    }

    /// The work of each submit so far, where it is only counted ([`Gpu::counting`]).
    pub(crate) fn counted(&self) -> Vec<Cost> {
        lock(&self.0.counted).clone()
    }

    fn submit(&self, plan: &Plan, range: std::ops::Range<usize>, times: usize) {
        let cost = Cost::sum(plan.steps[range.clone()].iter().map(|s| s.cost));
        {
            let mut work = lock(&self.0.work);
            let times = times as f64;
            *work = work.plus(cost, times);
        }
        if let Some(profiler) = &self.0.profiler {
            return self.submit_timed(profiler, plan, range, times);
        }
        let mut encoder = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for _ in 0..times {
                range.clone().for_each(|i| plan.dispatch(&mut pass, i));
            }
        }
        self.0.queue.submit([encoder.finish()]);
    }

    /// Submits one run of the plan; does not wait. Long plans go in several submits, so that a desktop stays usable.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last look.
    pub(crate) fn run(&self, plan: &Plan) -> Result<()> {
        if self.counts() {
            lock(&self.0.counted).push(plan.cost());
            return Ok(());
        }
        let (mut from, mut work) = (0, 0.0);
        for (i, step) in plan.steps.iter().enumerate() {
            work += step.cost.flops;
            if work > self.flops_per_dispatch() || i + 1 == plan.steps.len() {
                self.submit(plan, from..i + 1, 1);
                (from, work) = (i + 1, 0.0);
            }
        }
        self.take_failure()
    }

    /// Submits `times` runs of the plan as one piece of work, as the token loop does; does not wait.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last look.
    pub(crate) fn repeat(&self, plan: &Plan, times: usize) -> Result<()> {
        if self.counts() || plan.cost().flops * times as f64 > self.flops_per_dispatch() {
            return (0..times).try_for_each(|_| self.run(plan));
        }
        self.submit(plan, 0..plan.len(), times);
        self.take_failure()
    }

    /// Seconds of one run of the plan by the host's clock, `repetitions` times; each ends in a wait.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn time(&self, plan: &Plan, repetitions: usize) -> Result<Vec<f64>> {
        self.wait()?;
        (0..repetitions)
            .map(|_| {
                let start = clock::now();
                self.run(plan)?;
                self.wait()?;
                Ok(start.elapsed().as_secs_f64())
            })
            .collect()
    }
}
