//! Gemma 3 (text): norms before and after each branch, 1 + weight as their gain, local blocks with a rope of their own.
//! Defaults: transformers' `Gemma3TextConfig`.

use serde_json::Value;

use super::common::{LLAMA, PLAIN, attentions, set_windows, sizes, sliding, window};
use super::gemma2::{AFTER, Caps, gemma};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows};
use crate::arch::shape::{Arch, Rope};
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    peculiar: "norms before and after each branch, gains 1 + weight, QK-norm, windows with a rope of their own",
    whole: Some("gemma3"),
    pad_token_id: Some(0),
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    defaults: Defaults {
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: 131_072,
        tie_word_embeddings: true,
        rope_theta: 1e6,
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "gemma3",
        norms_plus_one: true,
        names: AFTER,
        windows: Windows::Periodic { period: 6, window: 1024, theta: Some(10000.0) },
        biases: &[("attention_bias", "self_attn.q_proj")],
        scaled_by_width: Some(62),
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let (mut arch, attention) = sizes(keys, family)?;
    arch.ropes = ropes(keys, family, attention.head_dim, arch.max_position_embeddings)?;
    gemma(keys, &mut arch, Caps::default())?;
    let layers = arch.layers.len();
    let slides = match sliding(keys, layers)? {
        Some(slides) => slides,
        None => match keys.size("sliding_window_pattern")?.unwrap_or(6) {
            0 => return Err(Error::Input("sliding_window_pattern is 0; expected 1 or more".into())),
            n => (1..=layers).map(|i| i % n != 0).collect(),
        },
    };
    for (attention, slides) in attentions(&mut arch).zip(&slides) {
        attention.rope = Some(usize::from(*slides));
        attention.qk_norm = true;
    }
    let window = window(keys, Some(4096))?;
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}

/// Global blocks' rope, then local blocks'.
fn ropes(keys: &Keys<'_>, family: &Family, head_dim: usize, longest: usize) -> Result<Vec<Rope>> {
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
    let theta = keys.number("rope_theta")?.unwrap_or(family.defaults.rope_theta);
    let local_theta = keys.number("rope_local_base_freq")?.unwrap_or(10000.0);
    [(full, theta), (local, local_theta)]
        .into_iter()
        .map(|(parameters, theta)| {
            let context = rope::RopeContext { head_dim, theta, longest, original: None };
            let found = rope::scaled(&Keys(&parameters), &context)?;
            if 2 * found.inv_freq.len() != head_dim {
                return Err(Error::Input(format!("head_dim is {head_dim}; expected an even number")));
            }
            Ok(found)
        })
        .collect()
}
