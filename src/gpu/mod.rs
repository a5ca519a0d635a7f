//! The only folder that names wgpu: adapter choice, device, buffers, pipelines, recording.

use crate::Result;

/// An open GPU; cheap to clone.
#[derive(Clone)]
pub struct Gpu {}

impl Gpu {
    /// Opens the GPU whose name contains `device` (or whose index it is), else the best one. `memory` caps the bytes
    /// that may be allocated.
    ///
    /// # Errors
    /// No adapter, none of that name, a device that cannot be opened.
    pub fn open(_device: Option<&str>, _memory: Option<u64>) -> Result<Gpu> {
        Err(crate::Error::Device("not built yet".into()))
    }
}
