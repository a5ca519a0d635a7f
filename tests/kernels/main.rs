//! The kernels: against their twins, translated, on quantised blocks, and how much work they do.

mod attention_work;
mod blocks;
mod shaders;
mod twins;
