//! A recording as plain data, for another WebGPU implementation to run.

use super::buffer::Raw;
use super::params::SLOT;
use super::{Recorder, Tensor};
use crate::Result;
use std::sync::Arc;

/// One dispatch: binding 0 is the uniform, the buffers follow from 1 on.
pub(crate) struct Dispatch {
    /// The whole shader.
    pub wgsl: String,
    /// The entry point of the shader.
    pub entry: &'static str,
    /// The uniform's words, padded with zeros.
    pub params: Vec<u32>,
    /// Numbers of the bound buffers.
    pub bind: Vec<usize>,
    /// The number of workgroups in each dimension.
    pub groups: [u32; 3],
}

/// Dispatches in their order and what their buffers hold before the first of them.
pub(crate) struct Recording {
    /// The words of each buffer before the first dispatch.
    pub buffers: Vec<Vec<u32>>,
    /// The dispatches, in their order.
    pub dispatches: Vec<Dispatch>,
    /// The buffer of each tensor that was asked for.
    pub places: Vec<usize>,
}

impl Recorder<'_> {
    /// What was recorded so far, with the buffers as they are now; `tensors` are those whose buffers are to be found
    /// again. Of a device that was opened with [`super::Options::plain`] the texts run everywhere.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn export(&self, tensors: &[&Tensor]) -> Result<Recording> {
        let mut known: Vec<Arc<Raw>> = Vec::new();
        let mut number = |raw: &Arc<Raw>| {
            known.iter().position(|k| Arc::ptr_eq(k, raw)).unwrap_or_else(|| {
                known.push(raw.clone());
                known.len() - 1
            })
        };
        let dispatches = self
            .steps
            .iter()
            .zip(self.params.chunks_exact(SLOT))
            .map(|(step, params)| {
                Ok(Dispatch {
                    wgsl: step.source.wgsl(step.key.variant, step.key.entry, &step.key.constants)?,
                    entry: step.key.entry,
                    params: bytemuck::pod_collect_to_vec(params),
                    bind: step.buffers.iter().map(&mut number).collect(),
                    groups: step.groups,
                })
            })
            .collect::<Result<_>>()?;
        let places = tensors.iter().map(|t| number(t.raw())).collect();
        let whole: Vec<Tensor> = known.iter().map(Tensor::whole).collect();
        let buffers = self.gpu().download_all(&whole.iter().collect::<Vec<_>>())?;
        Ok(Recording { buffers, dispatches, places })
    }
}
