//! Phi 3 and 4 (dense): q, k, v in one matrix, gate and up in another, LongRoPE. Defaults: transformers' `Phi3Config`.

use super::common::{LLAMA, PLAIN, common, set_window, window};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows};
use crate::arch::shape::{Arch, Naming};
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "Phi 3, 4",
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    peculiar: "q, k and v in one matrix, gate and up in another; LongRoPE, a part of each head turns",
    tokenizer_as_written: true,
    pad_token_id: Some(32_000),
    naming: Naming::Fused,
    turns_part: true,
    defaults: Defaults {
        vocab_size: 32064,
        hidden_size: 3072,
        intermediate_size: 8192,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        original_max_position_embeddings: Some(4096),
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "phi3",
        names: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        windows: Windows::Every { always: true },
        biases: &[("attention_bias", "self_attn.qkv_proj")],
        two_ropes: true,
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let kind = rope::kind(keys)?;
    if !matches!(kind, "default" | "longrope" | "su") {
        return Err(Error::Input(format!("rope_type {kind:?} is not one of phi3's: default, longrope")));
    }
    let mut arch = common(keys, family)?;
    set_window(&mut arch, window(keys, None)?);
    Ok(arch)
}
