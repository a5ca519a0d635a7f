//! The kernels: against their twins, translated, and on quantised blocks.

mod blocks;
mod shaders;
mod twins;
