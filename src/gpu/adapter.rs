//! Which GPUs there are, and which one is taken.

use super::{Units, memory, wait};
use crate::{Error, Result};

/// A GPU as the system names it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Index of the GPU in [`list`].
    pub index: usize,
    /// The adapter's own name.
    pub name: String,
    /// Vulkan, Metal, Dx12 or BrowserWebGpu.
    pub backend: String,
    /// Driver name and version, as far as the backend tells.
    pub driver: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu or Other.
    pub kind: String,
    /// Whether the adapter runs on the CPU.
    pub software: bool,
    /// The GPU's memory in bytes: what the system says, or what is assumed.
    pub memory_bytes: u64,
    /// Who says how much memory there is, such as a file of the driver, or that it is assumed.
    pub memory_source: String,
    /// Largest bindable buffer in bytes.
    pub max_binding_bytes: u64,
    /// Workgroup memory in bytes.
    pub max_workgroup_bytes: u32,
    /// Most invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// Optional features present that kernels or profiling can use.
    pub features: Vec<String>,
}

fn adapters() -> Vec<(wgpu::Adapter, DeviceInfo)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    wait::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
        .into_iter()
        // RADV's compile-only device lists itself as an adapter, but nothing can run on it.
        .filter(|a| !a.get_info().name.contains("Null hardware"))
        .enumerate()
        .map(|(index, adapter)| {
            let (i, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
            let named = [
                (features.contains(wgpu::Features::SHADER_F16), "f16"),
                (features.contains(wgpu::Features::SUBGROUP), "subgroups"),
                (features.contains(wgpu::Features::TIMESTAMP_QUERY), "timestamps"),
                (Units::of(&adapter).is_some(), "matrix-units"),
            ];
            let software = i.device_type == wgpu::DeviceType::Cpu;
            let memory::Size { bytes, source } = memory::of(&memory::Card {
                ids: [i.vendor, i.device],
                bus: i.device_pci_bus_id.clone(),
                shares: software || i.device_type == wgpu::DeviceType::IntegratedGpu,
            });
            let info = DeviceInfo {
                index,
                name: if i.name.is_empty() { "the browser's GPU".into() } else { i.name.clone() },
                backend: format!("{:?}", i.backend),
                driver: [i.driver.as_str(), i.driver_info.as_str()].join(" ").trim().to_owned(),
                kind: format!("{:?}", i.device_type),
                software,
                memory_bytes: bytes,
                memory_source: source,
                max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
                max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
                max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
                features: named.iter().filter(|(has, _)| *has).map(|(_, n)| (*n).to_owned()).collect(),
            };
            (adapter, info)
        })
        .collect()
}

/// All usable GPUs of this machine, in the system's order.
pub fn list() -> Vec<DeviceInfo> {
    adapters().into_iter().map(|(_, info)| info).collect()
}

/// Whether a workgroup of `lanes` lanes is one subgroup on it.
pub(super) fn subgroups_hold(adapter: &wgpu::Adapter, lanes: u32) -> bool {
    let info = adapter.get_info();
    info.subgroup_min_size == info.subgroup_max_size && info.subgroup_min_size >= lanes
}

/// Discrete before integrated before anything else before software; ties go to the system's order.
fn rank(info: &DeviceInfo) -> usize {
    match info.kind.as_str() {
        "DiscreteGpu" => 0,
        "IntegratedGpu" => 1,
        "Cpu" => 3,
        _ => 2,
    }
}

/// `turn` counts round and round the adapters of the best kind, for processes that share a machine; a software adapter
/// is shared.
pub(super) fn choose(wanted: Option<&str>, turn: usize) -> Result<(wgpu::Adapter, DeviceInfo)> {
    let mut all = adapters();
    if all.is_empty() {
        return Err(Error::Device(
            "no GPU adapter found. Install your GPU's Vulkan driver (on Debian: libvulkan1 with mesa-vulkan-drivers, \
             from bookworm-backports on bookworm; for NVIDIA nvidia-vulkan-icd); mesa-vulkan-drivers also brings a \
             software adapter for machines without a GPU"
                .into(),
        ));
    }
    all.sort_by_key(|(_, i)| (rank(i), i.index));
    let Some(wanted) = wanted else {
        let best = &all[0].1;
        let alike = |i: &DeviceInfo| !i.software && i.kind == best.kind && i.backend == best.backend;
        let places: Vec<usize> = (0..all.len()).filter(|p| alike(&all[*p].1)).collect();
        let place = if places.is_empty() { 0 } else { places[turn % places.len()] };
        return Ok(all.swap_remove(place));
    };
    let place = match wanted.parse::<usize>() {
        Ok(n) => all.iter().position(|(_, i)| i.index == n),
        Err(_) => all.iter().position(|(_, i)| i.name.to_lowercase().contains(&wanted.to_lowercase())),
    };
    match place {
        Some(p) => Ok(all.swap_remove(p)),
        None => {
            let names: Vec<String> = all.iter().map(|(_, i)| format!("{} {}", i.index, i.name)).collect();
            Err(Error::Device(format!("no GPU matches '{wanted}'; there are: {}", names.join(", "))))
        }
    }
}
