//! Gemma 2 (arXiv 2408.00118): norms before and after each branch, 1 + weight as their gain, soft caps of scores and
//! logits, a window in every other block. Defaults: transformers' `Gemma2Config`.

use super::common::{LLAMA, PLAIN, attentions, common, positive, set_biases, set_windows, sliding, window};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows, Within};
use crate::arch::layer::Norms;
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "Gemma 2",
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    peculiar: "norms around each branch, soft caps, a window in every other block",
    pad_token_id: Some(0),
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    defaults: Defaults {
        vocab_size: 256_000,
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "gemma2",
        norms_plus_one: true,
        names: AFTER,
        windows: Windows::Periodic { period: 2, window: 4096, within: Within::Alike },
        biases: &[("attention_bias", "self_attn.q_proj")],
        scaled_by_width: Some(46),
        caps: Some([50.0, 30.0]),
        ..GGUF
    }),
    ..PLAIN
};

/// The norms of a block, GGUF's names first.
pub(super) const AFTER: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The soft caps of a class where the keys are missing.
#[derive(Clone, Copy, Default)]
pub(super) struct Caps {
    scores: Option<f64>,
    logits: Option<f64>,
}

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    gemma(keys, &mut arch, Caps { scores: Some(50.0), logits: Some(30.0) })?;
    let layers = arch.layers.len();
    let slides = sliding(keys, layers)?.unwrap_or_else(|| (0..layers).map(|i| i % 2 == 0).collect());
    let window = window(keys, Some(4096))?;
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}

/// What the families of Gemma have in common.
pub(super) fn gemma(keys: &Keys<'_>, arch: &mut Arch, caps: Caps) -> Result<()> {
    if keys.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(Error::Input("use_bidirectional_attention is not supported, only false".into()));
    }
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let scalar = positive("query_pre_attn_scalar", keys.number("query_pre_attn_scalar")?.unwrap_or(256.0))?;
    let cap = |key: &str, default: Option<f64>| {
        let given = keys.number(key)?.or(default.filter(|_| !keys.is_there(key)));
        Ok::<_, Error>(given.map(|cap| positive(key, cap)).transpose()?.map(|cap| cap as f32))
    };
    let scores = cap("attn_logit_softcapping", caps.scores)?;
    arch.logit_cap = cap("final_logit_softcapping", caps.logits)?;
    arch.norm_plus_one = true;
    arch.embedding_scale = (arch.hidden_size as f64).sqrt() as f32;
    set_biases(arch, [bias, bias, false]);
    for attention in attentions(arch) {
        attention.query_scale = Some(scalar.powf(-0.5) as f32);
        attention.score_cap = scores;
    }
    arch.layers.iter_mut().for_each(|layer| layer.norms = Norms::BeforeAndAfter);
    Ok(())
}
