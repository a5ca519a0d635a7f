//! Matrix units: whether an adapter has such as the kernels can use, and for what shapes.

use crate::{Error, Result};

/// Matrix units as the kernels use them: f16 operands, sums in f32, fragments held by a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Rows and columns of a fragment, 8 or 16.
    pub size: u32,
    /// Lanes of four subgroups, as far as the adapter tells how large it makes them.
    pub lanes: u32,
}

/// What the kernels need of wgpu for them.
const FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

impl Units {
    /// The matrix units of an adapter that the kernels can use, if it has such; of several, those with the larger
    /// fragments.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Option<Units> {
        if !adapter.features().contains(FEATURES) {
            return None;
        }
        let (f16, f32) = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        let all = adapter.cooperative_matrix_properties();
        let has = |size: u32| {
            all.iter().any(|p| [p.m_size, p.n_size, p.k_size] == [size; 3] && (p.ab_type, p.cr_type) == (f16, f32))
        };
        let size = [16, 8].into_iter().find(|size| has(*size))?;
        let most = adapter.limits().max_compute_invocations_per_workgroup.min(256);
        let lanes = (4 * adapter.get_info().subgroup_max_size).next_power_of_two().clamp(32, most);
        Some(Units { size, lanes })
    }
}

/// The units of an adapter of which they are demanded, and what to ask its device for.
pub(super) fn demand(
    adapter: &wgpu::Adapter,
    name: &str,
) -> Result<(Units, wgpu::Features, wgpu::ExperimentalFeatures)> {
    let units = Units::of(adapter).ok_or_else(|| {
        Error::Device(format!(
            "{name} has no matrix units that can be used here (fragments of 16 x 16 x 16 or 8 x 8 x 8, f16 with sums \
             in f32, by its Vulkan or Metal driver); run without --matrix-units"
        ))
    })?;
    #[expect(unsafe_code, reason = "wgpu gives out cooperative matrices no other way")]
    // SAFETY: the contract is that experimental features may still have bugs which end in undefined behaviour. They are
    // asked for only where the user asks for them, and two kernels use them, whose fragments lie wholly in workgroup
    // memory.
    let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
    Ok((units, FEATURES, experimental))
}
