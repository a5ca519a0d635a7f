//! Granite 3 and 4.0 (dense): Llama with factors on the embedding, the scores, what each branch adds to the stream, and
//! the logits. Defaults: transformers' `GraniteConfig` and `GraniteMoeHybridConfig`, which Granite 4.0 has, with and
//! without state-space blocks and experts.

use serde_json::Value;

use super::common::{LLAMA, PLAIN, attentions, by_block, common, positive, set_biases};
use super::keys::Keys;
use super::row::{Family, GGUF, GgufFamily};
use crate::arch::layer::Mlp;
use crate::arch::shape::{Arch, Naming};
use crate::{Error, Result};

pub(super) const GRANITE: Family = Family {
    name: "Granite 3",
    model_type: "granite",
    class: "GraniteForCausalLM",
    peculiar: "factors on embedding, scores, branches and logits",
    defaults: LLAMA,
    arch: dense,
    gguf: Some(FILES),
    ..PLAIN
};

pub(super) const GRANITE_4: Family = Family {
    name: "Granite 4.0 (dense)",
    model_type: "granitemoehybrid",
    class: "GraniteMoeHybridForCausalLM",
    peculiar: "Granite 4.0 without state-space blocks and experts: gate and up are one matrix",
    naming: Naming::Shared,
    arch: without_experts,
    // llama.cpp's converter writes a dense model of this kind as it writes `granite`.
    gguf: Some(GgufFamily {
        names: &[("ffn_down", "shared_mlp.output_linear")],
        halves: Some(("shared_mlp.input_linear", ["ffn_gate", "ffn_up"])),
        biases: &[],
        ..FILES
    }),
    ..GRANITE
};

const FILES: GgufFamily = GgufFamily {
    architecture: "granite",
    interleaved: true,
    biases: &[("attention_bias", "self_attn.q_proj"), ("mlp_bias", "mlp.gate_proj")],
    multipliers: &[
        ("embedding_multiplier", "embedding_scale"),
        ("attention_multiplier", "attention.scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ],
    ..GGUF
};

fn dense(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    set_biases(&mut arch, [bias, bias, mlp_bias]);
    let multiplier = |key: &str| positive(key, keys.number(key)?.unwrap_or(1.0));
    arch.embedding_scale = multiplier("embedding_multiplier")? as f32;
    arch.residual_scale = multiplier("residual_multiplier")? as f32;
    arch.logits_scale = (1.0 / multiplier("logits_scaling")?) as f32;
    let scale = multiplier("attention_multiplier")? as f32;
    attentions(&mut arch).for_each(|attention| attention.query_scale = Some(scale));
    Ok(arch)
}

fn without_experts(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let experts = keys.size_or("num_local_experts", Some(8))?.unwrap_or(0);
    if experts > 0 {
        return Err(Error::Input(format!(
            "num_local_experts is {experts}: mixtures of experts are not built; the dense models of granitemoehybrid, \
             with 0, are read"
        )));
    }
    let mut arch = dense(keys, family)?;
    let blocks = arch.layers.len();
    let types = match by_block(keys, "layer_types", blocks)? {
        None => by_block(keys, "layers_block_type", blocks)?,
        types => types,
    };
    let attends = |kind: &Value| matches!(kind.as_str(), Some("attention" | "full_attention"));
    match types {
        Some(types) if types.iter().all(attends) => {}
        _ => {
            return Err(Error::Input(
                "state-space blocks (mamba) are not built; of granitemoehybrid those models are read whose \
                 layer_types are all attention"
                    .into(),
            ));
        }
    }
    let width = keys.size("shared_intermediate_size")?.unwrap_or(1024);
    for layer in &mut arch.layers {
        if let Mlp::Gated(mlp) = &mut layer.mlp {
            (mlp.width, mlp.bias) = (width, false);
        }
    }
    if keys.text("position_embedding_type")? != Some("rope") {
        attentions(&mut arch).for_each(|attention| attention.rope = None);
    }
    Ok(arch)
}
