// Dawn, the WebGPU of Chromium, on this machine's Vulkan driver, at WebGPU's default limits.
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);

export async function open() {
  // Held by name: once the instance is collected as garbage, Dawn crashes in its threads.
  globalThis.gpu = create(['backend=vulkan']);
  const adapter = await globalThis.gpu.requestAdapter();
  if (!adapter) {
    console.error('Dawn finds no Vulkan adapter');
    process.exit(1);
  }
  return { device: await adapter.requestDevice(), name: adapter.info.description };
}
