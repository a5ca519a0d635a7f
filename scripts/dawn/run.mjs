// node run.mjs DIR: runs the kernel cases that `selfreward check --export DIR` wrote and compares them with the f64 twins.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { open } from './dawn.mjs';

const dir = process.argv[2];
const cases = JSON.parse(readFileSync(join(dir, 'cases.json'), 'utf8'));
const data = new Uint8Array(readFileSync(join(dir, 'data.bin'))).buffer;
const { device, name: adapter } = await open();
const pipelines = new Map();

// The layout is the text's own list of bindings: 'auto' would leave out those that a variant does not use.
function pipelineOf({ wgsl, entry }) {
  if (!pipelines.has(wgsl)) {
    const code = readFileSync(join(dir, wgsl), 'utf8');
    const types = { uniform: 'uniform', 'storage, read': 'read-only-storage', 'storage, read_write': 'storage' };
    const entries = [...code.matchAll(/@binding\((\d+)\) var<([^>]+)>/g)].map(([, binding, space]) => (
      { binding: Number(binding), visibility: GPUShaderStage.COMPUTE, buffer: { type: types[space] } }));
    const layout = device.createBindGroupLayout({ entries });
    const pipeline = device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ code }), entryPoint: entry },
    });
    pipelines.set(wgsl, { layout, pipeline });
  }
  return pipelines.get(wgsl);
}

function bufferOf(bytes, usage) {
  const buffer = device.createBuffer({ size: bytes.byteLength, usage: usage | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
  device.queue.writeBuffer(buffer, 0, bytes);
  return buffer;
}

async function read(buffer) {
  const staging = device.createBuffer({ size: buffer.size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = staging.getMappedRange().slice(0);
  staging.destroy();
  return bytes;
}

// The first value that is off, or nothing; an error counts against the larger of |value| and the output's root mean square.
function difference(output, bytes, tolerance) {
  const { rows, cols, ld, type, offset, what } = output;
  const n = rows * cols;
  const float = type === 'f32';
  const got = float ? new Float32Array(bytes) : new Uint32Array(bytes);
  const want = float ? new Float64Array(data.slice(offset, offset + 8 * n)) : new Uint32Array(data.slice(offset, offset + 4 * n));
  const rms = Math.sqrt(want.reduce((sum, x) => sum + x * x, 0) / Math.max(n, 1));
  for (let i = 0; i < n; i += 1) {
    const g = got[Math.floor(i / cols) * ld + (i % cols)];
    const error = float ? Math.abs(g - want[i]) / Math.max(Math.abs(want[i]), rms, 1e-30) : Number(g !== want[i]);
    if (!(error <= (float ? tolerance : 0))) return `${what}[${i}] is ${g}, the twin says ${want[i]}`;
  }
  return undefined;
}

let failed = 0;
for (const c of cases) {
  device.pushErrorScope('validation');
  const buffers = c.buffers.map(([at, size]) => bufferOf(new Uint8Array(data, at, size), GPUBufferUsage.STORAGE));
  const encoder = device.createCommandEncoder();
  for (const d of c.dispatches) {
    const { layout, pipeline } = pipelineOf(d);
    const bound = [bufferOf(new Uint32Array(d.params), GPUBufferUsage.UNIFORM), ...d.bind.map((i) => buffers[i])];
    const entries = bound.map((buffer, binding) => ({ binding, resource: { buffer } }));
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
    pass.dispatchWorkgroups(...d.groups);
    pass.end();
  }
  device.queue.submit([encoder.finish()]);
  const problems = [];
  for (const output of c.outputs) {
    const off = difference(output, await read(buffers[output.buffer]), c.tolerance);
    if (off) problems.push(off);
  }
  const error = await device.popErrorScope();
  if (error) problems.unshift(error.message);
  buffers.forEach((buffer) => buffer.destroy());
  if (problems.length > 0) {
    failed += 1;
    console.error(`${c.kernel} ${c.variant} ${c.case}: ${problems[0]}`);
  }
}
console.log(`Dawn on ${adapter}: ${cases.length - failed} of ${cases.length} kernel cases agree with their twins`);
process.exit(failed === 0 && cases.length > 0 ? 0 : 1);
