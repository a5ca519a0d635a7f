// Debian 12's Vulkan headers (1.3.239) are older than VK_EXT_layer_settings, whose types llama.cpp names without asking for
// them; it sets them for validation layers alone. Newer headers pass through.
#pragma once
#include_next <vulkan/vulkan.hpp>
#ifndef VK_EXT_layer_settings
namespace vk {
enum class LayerSettingTypeEXT { eBool32 = 0 };
struct LayerSettingEXT {
  const char *pLayerName, *pSettingName;
  LayerSettingTypeEXT type;
  uint32_t valueCount;
  const void *pValues;
};
struct LayerSettingsCreateInfoEXT {
  explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &s) : settingCount(s.size()), pSettings(s.data()) {}
  VkStructureType sType = static_cast<VkStructureType>(1000496000);
  const void *pNext = nullptr;
  uint32_t settingCount;
  const LayerSettingEXT *pSettings;
};
}
#endif
