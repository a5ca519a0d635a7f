//! RADV's compiler through plain Vulkan: SPIR-V in, statistics and machine code out. RADV opens a device for hardware
//! that is not there when RADV_FORCE_FAMILY names one; nothing can run on it.

use ash::{Device, Entry, Instance, khr, vk};
use std::ffi::CStr;
use std::path::PathBuf;

/// A device that can only compile.
pub(crate) struct Compiler {
    /// The driver and its version.
    pub(crate) version: String,
    /// Whether the chip has matrix units.
    pub(crate) matrices: bool,
    device: Device,
    instance: Instance,
    // The library must stay loaded as long as the handles above.
    _entry: Entry,
}

/// What the compiler says of one kernel.
#[derive(Default)]
pub(crate) struct Executable {
    pub(crate) statistics: Vec<(String, u64)>,
    /// The compiler's own listing: blocks with their kinds, then machine instructions.
    pub(crate) listing: String,
}

impl Executable {
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.statistics.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
    }
}

/// The description of RADV, where the system's drivers are described.
pub(crate) fn driver_file() -> Option<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let files = folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten().map(|f| f.path());
    files.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().contains("radeon")))
}

fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Compiler {
    /// Opens RADV's null device for a chip such as navi31. The process must have no other thread.
    pub(crate) fn open(driver: &std::path::Path, family: &str) -> Result<Compiler, String> {
        let failed = |e: vk::Result| e.to_string();
        // SAFETY: no other thread reads the environment; handles are used with the instance and device they come from.
        unsafe {
            std::env::set_var("VK_DRIVER_FILES", driver);
            std::env::set_var("RADV_FORCE_FAMILY", family);
            let entry = Entry::load().map_err(|e| e.to_string())?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = entry
                .create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)
                .map_err(failed)?;
            let physical = instance.enumerate_physical_devices().map_err(failed)?;
            let physical = physical.first().copied().ok_or("RADV lists no device")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            instance.get_physical_device_properties2(
                physical,
                &mut vk::PhysicalDeviceProperties2::default().push_next(&mut driver),
            );
            let version = text(&driver.driver_info);
            let extensions = [khr::pipeline_executable_properties::NAME, khr::cooperative_matrix::NAME];
            let known = instance.enumerate_device_extension_properties(physical).map_err(failed)?;
            let has = |name: &&CStr| known.iter().any(|e| e.extension_name_as_c_str() == Ok(*name));
            let names: Vec<_> = extensions.into_iter().filter(has).map(CStr::as_ptr).collect();
            let has_matrices = names.len() == extensions.len();
            let priorities = [1.0];
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&priorities)];
            let mut executables =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut matrices =
                vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(has_matrices);
            let mut vulkan11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut vulkan12 =
                vk::PhysicalDeviceVulkan12Features::default().shader_float16(true).vulkan_memory_model(true);
            let wanted = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&names)
                .push_next(&mut executables)
                .push_next(&mut matrices)
                .push_next(&mut vulkan11)
                .push_next(&mut vulkan12);
            let device = instance.create_device(physical, &wanted, None).map_err(failed)?;
            Ok(Compiler { version, matrices: has_matrices, device, instance, _entry: entry })
        }
    }

    /// Compiles one entry point whose bindings are a uniform at 0 and `storage` buffers after it.
    pub(crate) fn compile(&self, spirv: &[u32], entry: &CStr, storage: u32) -> Result<Executable, String> {
        let failed = |e: vk::Result| e.to_string();
        let binding = |i: u32| {
            let kind =
                if i == 0 { vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC } else { vk::DescriptorType::STORAGE_BUFFER };
            vk::DescriptorSetLayoutBinding::default()
                .binding(i)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = (0..=storage).map(binding).collect();
        let device = &self.device;
        // SAFETY: every handle comes from this device, is not used after it is
        // destroyed, and the SPIR-V was validated by naga.
        unsafe {
            let module = device
                .create_shader_module(&vk::ShaderModuleCreateInfo::default().code(spirv), None)
                .map_err(failed)?;
            let set = device
                .create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings), None)
                .map_err(failed)?;
            let sets = [set];
            let layout = device
                .create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&sets), None)
                .map_err(failed)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(entry);
            let wanted = vk::ComputePipelineCreateInfo::default()
                .flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                )
                .stage(stage)
                .layout(layout);
            let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[wanted], None);
            let read = pipelines.map_err(|(_, e)| e).and_then(|all| {
                let read = self.read(all[0]);
                device.destroy_pipeline(all[0], None);
                read
            });
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            device.destroy_shader_module(module, None);
            read.map_err(failed)
        }
    }

    /// Statistics and listings of a pipeline's only executable.
    unsafe fn read(&self, pipeline: vk::Pipeline) -> Result<Executable, vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        let api = khr::pipeline_executable_properties::Device::new(&self.instance, &self.device);
        // SAFETY: the pipeline is alive and was made with both capture
        // flags; the buffers are as large as was asked for.
        unsafe {
            let mut found = Executable::default();
            for s in api.get_pipeline_executable_statistics(&info)? {
                let value = match s.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => s.value.u64,
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => s.value.i64 as u64,
                    _ => continue,
                };
                found.statistics.push((text(&s.name), value));
            }
            let get = api.fp().get_pipeline_executable_internal_representations_khr;
            let mut count = 0;
            get(self.device.handle(), &info, &mut count, std::ptr::null_mut()).result()?;
            let mut all = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(self.device.handle(), &info, &mut count, all.as_mut_ptr()).result()?;
            let mut bytes: Vec<Vec<u8>> = all.iter().map(|r| vec![0; r.data_size]).collect();
            for (r, to) in all.iter_mut().zip(&mut bytes) {
                r.p_data = to.as_mut_ptr().cast();
            }
            get(self.device.handle(), &info, &mut count, all.as_mut_ptr()).result()?;
            for (r, bytes) in all.iter().zip(&bytes) {
                found.listing += &format!("## {}\n{}\n", text(&r.name), String::from_utf8_lossy(bytes));
            }
            Ok(found)
        }
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: all that was made from the device was destroyed in `compile`.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
