//! The compute kernels: one op, one stem. Each file holds the typed launchers, the CPU twin in f64, the cases that
//! compare the two, and the work a launch does. [`ALL`] is the list that tests, `check` and `bench` walk.

pub(crate) mod adamw;
pub(crate) mod arena;
pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod attention_decode;
pub(crate) mod attention_tiles;
mod attention_tiles_cases;
#[cfg(test)]
mod attention_work;
pub(crate) mod balance;
pub mod bench;
mod between;
mod case;
pub(crate) mod cast;
pub mod check;
pub mod choice;
pub(crate) mod column_sum;
pub(crate) mod columns;
#[cfg(test)]
mod contracts;
pub(crate) mod delta;
mod delta_cases;
pub(crate) mod delta_chunks;
pub(crate) mod delta_chunks_backward;
pub(crate) mod delta_gates;
pub(crate) mod delta_inputs;
pub(crate) mod delta_rule;
mod delta_twin;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod experts;
pub mod export;
pub(crate) mod gated_norm;
pub mod half;
pub(crate) mod heads;
mod inputs;
pub(crate) mod kv_write;
mod list;
pub(crate) mod log_softmax;
pub(crate) mod lora;
pub(crate) mod mask;
pub(crate) mod matmul;
pub mod matmul_cases;
pub(crate) mod matmul_matrix;
mod matmul_way;
pub(crate) mod output_gate;
pub mod peak;
mod product;
pub(crate) mod qk_norm;
pub mod quants;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod router;
pub(crate) mod rows;
pub mod sample;
pub(crate) mod scores;
pub(crate) mod short_conv;
pub(crate) mod sinks;
mod sizes;
pub(crate) mod softcap;
pub mod support;
pub(crate) mod swiglu;
#[cfg(test)]
mod testing;
pub(crate) mod transpose;
pub mod user;
mod way;
pub(crate) mod weight;

pub use case::{Case, Inputs, Kernel};
pub use inputs::DTYPES;
pub use list::ALL;
pub use way::{Constant, Traits, Way};
