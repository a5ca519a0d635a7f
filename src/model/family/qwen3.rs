//! Qwen 3 (dense): RMSNorm on each head of q and k. Defaults: transformers' `Qwen3Config`.

use super::{Arch, Defaults, Keys, common, qwen_window};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 151936,
        intermediate_size: 22016,
        num_key_value_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32768,
    };
    let arch = common(keys, "qwen3", &defaults)?;
    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let sliding_window = qwen_window(keys, arch.num_hidden_layers)?;
    Ok(Arch { qkv_bias: attention_bias, o_bias: attention_bias, qk_norm: true, sliding_window, ..arch })
}
