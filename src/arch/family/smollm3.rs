//! SmolLM3: Llama with blocks that know no positions (NoPE, arXiv 2501.18795). Defaults: transformers' `SmolLM3Config`.

use serde_json::Value;

use super::common::{LLAMA, PLAIN, attentions, common, set_biases, set_windows, sliding, window};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily};
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "SmolLM3",
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    peculiar: "blocks that know no positions",
    pad_token_id: Some(128_004),
    defaults: Defaults {
        vocab_size: 128_256,
        hidden_size: 2048,
        num_hidden_layers: 36,
        num_attention_heads: 16,
        num_key_value_heads: Some(4),
        max_position_embeddings: 32768,
        tie_word_embeddings: true,
        rope_theta: 2e6,
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "smollm3",
        interleaved: true,
        biases: &[("attention_bias", "self_attn.q_proj"), ("mlp_bias", "mlp.gate_proj")],
        still: Some(4),
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [bias, bias, mlp_bias]);
    let layers = arch.layers.len();
    let turns = turns(keys, layers)?;
    for (attention, turns) in attentions(&mut arch).zip(&turns) {
        attention.rope = attention.rope.filter(|_| *turns);
    }
    let window = window(keys, None)?;
    let used = keys.flag("use_sliding_window")?.unwrap_or(false) && window.is_some();
    let slides = sliding(keys, layers)?.unwrap_or_else(|| turns.iter().map(|t| used && !t).collect());
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
