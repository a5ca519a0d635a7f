//! The compute kernels: one op, one stem. Each file holds the typed launchers, the CPU twin in f64, the cases that
//! compare the two, and the work a launch does. [`ALL`] is the list that tests, `check` and `bench` walk.

pub mod adamw;
pub mod arena;
pub mod attention;
pub mod attention_backward;
pub mod attention_decode;
pub mod attention_tiles;
mod attention_tiles_cases;
mod case;
pub mod cast;
pub mod check;
pub mod column_sum;
pub mod columns;
pub mod dropout;
pub mod embedding;
pub mod export;
pub mod half;
pub mod heads;
mod inputs;
pub mod kv_write;
mod list;
pub mod log_softmax;
pub mod mask;
pub mod matmul;
pub mod matmul_cases;
pub mod matmul_matrix;
pub mod peak;
mod product;
pub mod quants;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod sample;
mod sizes;
pub mod swiglu;
#[cfg(test)]
mod testing;
pub mod transpose;
pub mod weight;

pub use case::{Case, Kernel, Trial};
pub use inputs::DTYPES;
pub use list::ALL;
