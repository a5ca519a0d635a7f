//! Model files on the host: reading safetensors and GGUF, and writing what `transformers` loads.
//!
//! Whatever the container, tensors appear under Hugging Face's names, in its shapes and its row order.
//! [`ModelSource`](crate::source::ModelSource) is the way in: it finds the files of a model, reads its configuration
//! and tokenizer, and checks that they agree.

mod gguf;
mod gguf_delta;
mod gguf_head;
pub(crate) mod gguf_lora;
pub(crate) mod gguf_model;
mod gguf_names;
pub(crate) mod gguf_parts;
mod gguf_pre;
mod gguf_save;
pub(crate) mod gguf_tokenizer;
mod gguf_types;
mod gguf_vocabulary;
pub(crate) mod peft;
pub(crate) mod safetensors;
pub(crate) mod save;
mod stacks;
mod tensors;
#[cfg(test)]
mod tests;
mod unstack;

pub use gguf::{Gguf, GgufValue};
pub use gguf_save::{save_gguf, write_gguf};
pub use gguf_types::{GgufTypes, GgufWritten, Instead};
pub(crate) use peft::{BASE as ADAPTER_BASE, CONFIG as ADAPTER_CONFIG, TENSORS as ADAPTER_TENSORS};
pub use safetensors::write_safetensors;
pub(crate) use safetensors::{INDEX, SINGLE, shards, write_matrices};
pub use save::{GgufParts, ModelParts, REMOVED_FILE, Values, remove_weights, save_model_parts};
pub use tensors::{WeightView, Weights};
