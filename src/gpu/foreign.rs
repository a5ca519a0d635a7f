//! Kernels that are not the crate's own: any text, always with bounds checks, on guarded buffers.

use super::pipeline::{Pipeline, PipelineKey, Source};
use super::record::{Cost, Counted, Plan, Recorded};
use super::{Gpu, Tensor, Variant, wait};
use crate::{Error, Result};
use std::sync::Arc;

/// What stands for the text of a kernel that is none of the crate's.
static SOURCE: Source = Source { name: "user", soft: "", tile: "", libs: &[], tile_size: 1 };

/// A kernel that a user wrote.
pub(crate) struct Foreign(Arc<Pipeline>);

impl Gpu {
    /// Builds an entry point of a text, whose group 0 has storage and uniform buffers with the given numbers. Indices
    /// are held within the buffers.
    ///
    /// # Errors
    /// A text or an entry point that does not validate: what was found, with `file` and the line.
    pub(crate) fn foreign(&self, (file, text): (&str, &str), entry: &str, bindings: &[u32]) -> Result<Foreign> {
        let device = &self.0.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(file),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let failed = |e: wgpu::Error| {
            let told = e.to_string().replace("wgsl:", &format!("{file}:"));
            Error::Input(told.trim().to_owned())
        };
        if let Some(e) = wait::block_on(scope.pop()) {
            return Err(failed(e));
        }
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(file),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        if let Some(e) = wait::block_on(scope.pop()) {
            return Err(failed(e));
        }
        let layout = pipeline.get_bind_group_layout(0);
        let (storage, own_bindings) = (bindings.len(), Some(bindings.to_vec()));
        Ok(Foreign(Arc::new(Pipeline { pipeline, layout, storage, params: Vec::new(), own_bindings })))
    }

    /// One launch of the kernel on buffers in the order of its bindings.
    ///
    /// # Errors
    /// Another number of buffers, too many workgroups, buffers that its bindings do not take.
    pub(crate) fn foreign_plan(
        &self,
        kernel: &Foreign,
        buffers: &[&Tensor],
        groups: [u32; 3],
        cost: Cost,
    ) -> Result<Plan> {
        if buffers.len() != kernel.0.storage || groups.iter().any(|g| *g > 65_535) {
            let (given, needed) = (buffers.len(), kernel.0.storage);
            return Err(Error::Input(format!(
                "{given} buffers for {needed} bindings, and {groups:?} workgroups; a dimension has at most 65535"
            )));
        }
        let key = PipelineKey { name: SOURCE.name, variant: Variant::Tile, entry: "kernel", constants: Vec::new() };
        let step = Recorded {
            source: &SOURCE,
            key,
            pipeline: kernel.0.clone(),
            buffers: buffers.iter().map(|t| t.raw().clone()).collect(),
            groups,
            cost,
        };
        let device = &self.0.device;
        let uniform = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: false,
        });
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let plan = Plan::bound(self, vec![step], uniform, Counted::default());
        match wait::block_on(scope.pop()) {
            None => Ok(plan),
            Some(e) => {
                let numbers = kernel.0.own_bindings.iter().flatten().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let told = e.to_string();
                let why = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
                Err(Error::Input(format!(
                    "the described buffers, of the bindings {numbers}, are not those that the kernel uses: {why}"
                )))
            }
        }
    }

    /// Words in a guarded buffer that holds no more than them; those of `fill` where there are some, else NaN.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn foreign_buffer(&self, words: usize, fill: Option<&[u32]>) -> Result<Tensor> {
        let bytes = 4 * words as u64;
        if bytes > self.max_binding_bytes() {
            return Err(Error::OutOfMemory(format!(
                "{} binds at most {} bytes",
                self.info().name,
                self.max_binding_bytes()
            )));
        }
        let tensor = Tensor::whole(&Arc::new(self.guarded(bytes, bytes)?));
        if let Some(fill) = fill {
            self.overwrite(&tensor, fill)?;
        }
        Ok(tensor)
    }
}
