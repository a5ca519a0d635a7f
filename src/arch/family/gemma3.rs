//! Gemma 3 (text): norms before and after each branch, 1 + weight as their gain, local blocks with a rope of their own.
//! Defaults: transformers' `Gemma3TextConfig`.

use serde_json::Value;

use super::{Activation, Arch, Defaults, Keys, LLAMA, rope, set_windows, sizes, sliding, window};
use crate::{Error, Result};

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: 131_072,
        tie_word_embeddings: true,
        ..LLAMA
    };
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if keys.value(key).is_some() {
            return Err(Error::Input(format!("{key} is not supported, only null")));
        }
    }
    if keys.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(Error::Input("use_bidirectional_attention is not supported, only false".into()));
    }
    let arch = sizes(keys, "gemma3_text", &defaults)?;
    let activation = match keys.text("hidden_activation")?.unwrap_or("gelu_pytorch_tanh") {
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        act => return Err(Error::Input(format!("hidden_activation {act:?} is not supported, only gelu_pytorch_tanh"))),
    };
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let scalar = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !(scalar.is_finite() && scalar > 0.0) {
        return Err(Error::Input(format!("query_pre_attn_scalar is {scalar}; expected a positive number")));
    }
    let mut arch = Arch {
        ropes: ropes(keys, &arch)?,
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: true,
        norm_plus_one: true,
        post_norms: true,
        activation,
        embedding_scale: (arch.hidden_size as f64).sqrt() as f32,
        pad_token_id: None,
        query_scale: Some(scalar.powf(-0.5) as f32),
        ..arch
    };
    let layers = arch.num_hidden_layers;
    let slides = match sliding(keys, layers)? {
        Some(slides) => slides,
        None => match keys.size("sliding_window_pattern")?.unwrap_or(6) {
            0 => return Err(Error::Input("sliding_window_pattern is 0; expected 1 or more".into())),
            n => (1..=layers).map(|i| i % n != 0).collect(),
        },
    };
    for (layer, slides) in arch.layers.iter_mut().zip(&slides) {
        layer.rope = Some(usize::from(*slides));
    }
    let window = window(keys, Some(4096))?;
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}

/// Global blocks' rope, then local blocks'.
fn ropes(keys: &Keys<'_>, arch: &Arch) -> Result<Vec<super::Rope>> {
    let object = |keys: &Keys<'_>, key: &str| {
        let found = keys.typed(key, "an object", |v: &Value| v.is_object().then(|| v.clone()))?;
        Ok::<_, Error>(found.unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    };
    let nested = object(keys, "rope_parameters")?;
    if nested.get("rope_type").is_some() || nested.get("rope_theta").is_some() {
        let what = "rope_parameters of gemma3_text: expected full_attention and sliding_attention in it";
        return Err(Error::Input(what.into()));
    }
    let mut full = object(&Keys(&nested), "full_attention")?;
    if let (Value::Object(scaling), Some(full)) = (object(keys, "rope_scaling")?, full.as_object_mut()) {
        full.extend(scaling);
    }
    let local = object(&Keys(&nested), "sliding_attention")?;
    let theta = keys.number("rope_theta")?.unwrap_or(1e6);
    let local_theta = keys.number("rope_local_base_freq")?.unwrap_or(10000.0);
    [(full, theta), (local, local_theta)]
        .into_iter()
        .map(|(parameters, theta)| {
            let context =
                rope::Context { head_dim: arch.head_dim, theta, longest: arch.max_position_embeddings, original: None };
            let found = rope::scaled(&Keys(&parameters), &context)?;
            if 2 * found.inv_freq.len() != arch.head_dim {
                return Err(Error::Input(format!("head_dim is {}; expected an even number", arch.head_dim)));
            }
            Ok(found)
        })
        .collect()
}
