//! Ministral 3: Mistral whose queries grow with their position, by YaRN. Defaults: transformers' `Ministral3Config`.

use serde_json::{Value, json};

use super::common::{LLAMA, PLAIN, attentions, common, set_window, window};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows};
use crate::arch::QueryGrowth;
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "Ministral 3",
    model_type: "ministral3",
    class: "Ministral3ForCausalLM",
    whole: Some("mistral3"),
    peculiar: "queries grow with their position",
    tokenizer_as_written: true,
    pad_token_id: Some(11),
    defaults: Defaults {
        vocab_size: 131_072,
        intermediate_size: 14336,
        num_hidden_layers: 34,
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        max_position_embeddings: 262_144,
        rms_norm_eps: 1e-5,
        rope_theta: 1e6,
        ..LLAMA
    },
    usual_rope: Some(usual_rope),
    arch,
    gguf: Some(GgufFamily {
        architecture: "mistral3",
        interleaved: true,
        windows: Windows::Every { always: false },
        grows: true,
        few_values: Some(80),
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    let growth = growth(keys, arch.max_position_embeddings)?;
    attentions(&mut arch).for_each(|attention| attention.query_growth = growth);
    set_window(&mut arch, window(keys, None)?);
    Ok(arch)
}

fn usual_rope() -> Value {
    json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1
    })
}

/// How queries grow: by `llama_4_scaling_beta`, a step for each `original_max_position_embeddings`.
fn growth(keys: &Keys<'_>, longest: usize) -> Result<Option<QueryGrowth>> {
    let nothing = Value::Null;
    let parameters = Keys(rope::parameters(keys)?.unwrap_or(&nothing));
    let beta = parameters.number("llama_4_scaling_beta")?.unwrap_or(0.0);
    let span = parameters.size("original_max_position_embeddings")?.unwrap_or(longest);
    let beta = match (0.0..=1e6).contains(&beta) {
        true => beta as f32,
        false => return Err(Error::Input(format!("llama_4_scaling_beta is {beta}; expected 0 to 1e6"))),
    };
    match u32::try_from(span) {
        Ok(span) if span > 0 => Ok((beta > 0.0).then_some(QueryGrowth { beta, span })),
        _ => Err(Error::Input(format!("original_max_position_embeddings is {span}; expected 1 to {}", u32::MAX))),
    }
}
