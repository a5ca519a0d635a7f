//! Qwen 2 and 2.5: bias on q, k and v, always. Defaults: transformers' `Qwen2Config`.

use super::{Arch, Defaults, Keys, common, qwen_window};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 151936,
        intermediate_size: 22016,
        num_key_value_heads: Some(32),
        head_dim: None,
        max_position_embeddings: 32768,
    };
    let arch = common(keys, "qwen2", &defaults)?;
    Ok(Arch { qkv_bias: true, sliding_window: qwen_window(keys, arch.num_hidden_layers)?, ..arch })
}
