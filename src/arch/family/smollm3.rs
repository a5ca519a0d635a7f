//! SmolLM3: Llama with blocks that know no positions (NoPE, arXiv 2501.18795). Defaults: transformers' `SmolLM3Config`.

use serde_json::Value;

use super::{Arch, Defaults, Keys, LLAMA, common, set_windows, sliding, window};
use crate::{Error, Result};

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 128_256,
        hidden_size: 2048,
        num_hidden_layers: 36,
        num_attention_heads: 16,
        num_key_value_heads: Some(4),
        max_position_embeddings: 32768,
        tie_word_embeddings: true,
        rope_theta: 2e6,
        ..LLAMA
    };
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    let mut arch = Arch { qkv_bias: bias, o_bias: bias, mlp_bias, ..common(keys, "smollm3", &defaults)? };
    let turns = turns(keys, arch.num_hidden_layers)?;
    for (layer, turns) in arch.layers.iter_mut().zip(&turns) {
        layer.rope = layer.rope.filter(|_| *turns);
    }
    let window = window(keys, None)?;
    let used = keys.flag("use_sliding_window")?.unwrap_or(false) && window.is_some();
    let slides = sliding(keys, arch.num_hidden_layers)?.unwrap_or_else(|| turns.iter().map(|t| used && !t).collect());
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}

/// Whether each block turns its queries and keys.
fn turns(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    if let Some(list) = keys.typed("no_rope_layers", "a list", Value::as_array)? {
        let list: Option<Vec<bool>> = list.iter().map(|v| v.as_u64().map(|n| n != 0)).collect();
        return match list {
            Some(list) if list.len() >= layers => Ok(list),
            _ => Err(Error::Input(format!(
                "no_rope_layers: expected {layers} numbers, 0 where a block has no positions"
            ))),
        };
    }
    match keys.size("no_rope_layer_interval")?.unwrap_or(4) {
        0 => Err(Error::Input("no_rope_layer_interval is 0; expected 1 or more".into())),
        interval => Ok((1..=layers).map(|i| i % interval != 0).collect()),
    }
}
