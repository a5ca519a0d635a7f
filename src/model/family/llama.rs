//! Llama 2, 3 and what shares its `model_type` (SmolLM2, TinyLlama, …). Defaults: transformers' `LlamaConfig`.

use super::{Arch, Defaults, Keys, common};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 32000,
        intermediate_size: 11008,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
    };
    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    Ok(Arch {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
        ..common(keys, "llama", &defaults)?
    })
}
