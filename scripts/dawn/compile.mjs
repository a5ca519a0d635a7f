// node compile.mjs DIR: makes a compute pipeline of every .wgsl text in DIR. Dawn's compiler (Tint) is stricter than naga,
// above all about uniform control flow.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { open } from './dawn.mjs';

const dir = process.argv[2];
const names = readdirSync(dir).filter((name) => name.endsWith('.wgsl')).sort();
const { device, name: adapter } = await open();
let refused = 0;
for (const name of names) {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code: readFileSync(join(dir, name), 'utf8') });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((m) => m.type === 'error').map((m) => `line ${m.lineNum}: ${m.message}`);
  if (errors.length === 0) {
    device.createComputePipeline({ layout: 'auto', compute: { module } });
  }
  const error = await device.popErrorScope();
  if (error || errors.length > 0) {
    refused += 1;
    console.error(`${name}: ${errors.join('; ') || error.message}`);
  }
}
console.log(`Dawn on ${adapter}: ${names.length - refused} of ${names.length} shaders compile`);
process.exit(refused === 0 && names.length > 0 ? 0 : 1);
