//! Llama 2, 3 and what shares its `model_type` (SmolLM2, TinyLlama, …). Defaults: transformers' `LlamaConfig`.

use super::{Arch, Keys, LLAMA, common};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    Ok(Arch {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
        ..common(keys, "llama", &LLAMA)?
    })
}
