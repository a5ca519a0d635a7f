//! LFM2 and 2.5 (dense): gated short convolutions in most blocks, attention with QK-norm in the others. Defaults:
//! transformers' `Lfm2Config`.

use serde_json::Value;

use super::common::{LLAMA, PLAIN, attentions, common, of_type, set_mixers};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily};
use crate::arch::layer::{MOST_TAPS, Mixer, Mlp, QkNorm, ShortConv};
use crate::arch::shape::{Arch, Naming};
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "LFM2, 2.5 (dense)",
    model_type: "lfm2",
    class: "Lfm2ForCausalLM",
    peculiar: "gated short convolutions in most blocks, attention with QK-norm by head in the others",
    pad_token_id: Some(0),
    eps: "norm_eps",
    naming: Naming::Renamed(&[
        ("input_layernorm", "operator_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "self_attn.out_proj"),
        ("self_attn.q_norm", "self_attn.q_layernorm"),
        ("self_attn.k_norm", "self_attn.k_layernorm"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("model.norm", "model.embedding_norm"),
    ]),
    defaults: Defaults {
        vocab_size: 65536,
        hidden_size: 2560,
        intermediate_size: 12288,
        num_key_value_heads: Some(8),
        max_position_embeddings: 128_000,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        rope_theta: 1e6,
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "lfm2",
        names: &[
            ("token_embd_norm", "model.embedding_norm"),
            ("attn_norm", "operator_norm"),
            ("ffn_norm", "ffn_norm"),
            ("attn_output", "self_attn.out_proj"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.out_proj", "conv.out_proj"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
        ],
        convolves: true,
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    arch.tie_word_embeddings = keys.flag("tie_embedding")?.unwrap_or(arch.tie_word_embeddings);
    let width = width(keys, family)?;
    attentions(&mut arch).for_each(|attention| attention.qk_norm = Some(QkNorm::Heads));
    let taps = keys.size("conv_L_cache")?.unwrap_or(3);
    if taps == 0 || taps > MOST_TAPS {
        return Err(Error::Input(format!("conv_L_cache is {taps}; expected 1 to {MOST_TAPS}")));
    }
    let conv = ShortConv { taps, bias: keys.flag("conv_bias")?.unwrap_or(false) };
    for layer in &mut arch.layers {
        if let Mlp::Gated(mlp) = &mut layer.mlp {
            mlp.width = width;
        }
    }
    let convs = convs(keys, arch.layers.len())?;
    set_mixers(&mut arch, &convs, &Mixer::ShortConv(conv))?;
    Ok(arch)
}

/// The width of the MLPs, which is not what the key says: two thirds of it, times a factor, rounded up.
fn width(keys: &Keys<'_>, family: &Family) -> Result<usize> {
    let written = keys.size("block_ff_dim")?.or(keys.size("intermediate_size")?);
    let written = written.unwrap_or(family.defaults.intermediate_size);
    if !keys.flag("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(written);
    }
    let width = (2.0 * written as f64 / 3.0) as usize;
    // null keeps two thirds as they are.
    if keys.is_there("block_ffn_dim_multiplier") && keys.value("block_ffn_dim_multiplier").is_none() {
        return Ok(width);
    }
    let factor = keys.number("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let unit = keys.size("block_multiple_of")?.unwrap_or(256);
    if unit == 0 || !(factor.is_finite() && factor > 0.0) {
        let what = format!("block_multiple_of is {unit}, block_ffn_dim_multiplier {factor}; expected numbers above 0");
        return Err(Error::Input(what));
    }
    Ok(((factor * width as f64) as usize).div_ceil(unit).saturating_mul(unit))
}

/// Which blocks have a convolution.
fn convs(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    if let Some(convs) = of_type(keys, layers, &["conv", "short_conv"])? {
        return Ok(convs);
    }
    let Some(list) = keys.typed("full_attn_idxs", "a list", Value::as_array)? else { return Ok(vec![false; layers]) };
    let mut all = vec![true; layers];
    for index in list {
        let at = index.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < layers);
        let wrong = || Error::Input(format!("full_attn_idxs: {index} is no block of {layers}"));
        all[at.ok_or_else(wrong)?] = false;
    }
    Ok(all)
}
