//! Families whose MLPs are mixtures of experts: Qwen 3's and OLMoE. Defaults: transformers' `Qwen3MoeConfig` and
//! `OlmoeConfig`.

use serde_json::Value;

use super::common::{LLAMA, PLAIN, QWEN, attentions, common, set_biases, set_window, window};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily};
use crate::arch::layer::{Experts, Mlp, QkNorm};
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const QWEN_3: Family = Family {
    name: "Qwen 3 with experts",
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    peculiar: "Qwen 3 with a mixture of experts in the place of some or all MLPs",
    defaults: Defaults {
        hidden_size: 2048,
        intermediate_size: 6144,
        num_hidden_layers: 24,
        num_key_value_heads: Some(4),
        ..QWEN
    },
    arch: qwen_3,
    gguf: Some(GgufFamily {
        architecture: "qwen3moe",
        biases: &[("attention_bias", "self_attn.q_proj")],
        experts: Some(true),
        ..GGUF
    }),
    ..PLAIN
};

pub(super) const OLMOE: Family = Family {
    name: "OLMoE",
    model_type: "olmoe",
    class: "OlmoeForCausalLM",
    peculiar: "a mixture of experts, QK-norm over all heads",
    pad_token_id: Some(1),
    defaults: Defaults {
        vocab_size: 50304,
        hidden_size: 2048,
        intermediate_size: 2048,
        num_hidden_layers: 16,
        num_attention_heads: 16,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        ..LLAMA
    },
    arch: olmoe,
    gguf: Some(GgufFamily {
        architecture: "olmoe",
        biases: &[("attention_bias", "self_attn.q_proj")],
        experts: Some(false),
        ..GGUF
    }),
    ..PLAIN
};

fn qwen_3(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [bias, bias, false]);
    attentions(&mut arch).for_each(|attention| attention.qk_norm = Some(QkNorm::Heads));
    // A window is every block's here, whatever max_window_layers says.
    if keys.flag("use_sliding_window")?.unwrap_or(false) {
        set_window(&mut arch, window(keys, Some(4096))?);
    }
    let width = keys.size("moe_intermediate_size")?.unwrap_or(768);
    let count = keys.size("num_experts")?.or(keys.size("num_local_experts")?).unwrap_or(128);
    let step = keys.size("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(Error::Input("decoder_sparse_step is 0; expected 1 or more".into()));
    }
    let mut dense = Vec::new();
    for number in keys.typed("mlp_only_layers", "a list", Value::as_array)?.into_iter().flatten() {
        let wrong = || Error::Input(format!("mlp_only_layers: expected numbers of blocks, found {number}"));
        dense.push(number.as_u64().ok_or_else(wrong)? as usize);
    }
    let sparse = |block: usize| count > 0 && (block + 1).is_multiple_of(step) && !dense.contains(&block);
    set_experts(keys, &mut arch, (count, width, 0.001), sparse)?;
    Ok(arch)
}

fn olmoe(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    if let Some(clip) = keys.number("clip_qkv")? {
        return Err(Error::Input(format!(
            "clip_qkv is {clip}; queries, keys and values that are clipped are not built"
        )));
    }
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [bias, bias, false]);
    attentions(&mut arch).for_each(|attention| attention.qk_norm = Some(QkNorm::Whole));
    let width = keys.size("intermediate_size")?.unwrap_or(family.defaults.intermediate_size);
    let count = keys.size("num_experts")?.or(keys.size("num_local_experts")?).unwrap_or(64);
    set_experts(keys, &mut arch, (count, width, 0.01), |_| true)?;
    Ok(arch)
}

/// Sets the weight of the routers' auxiliary loss, which counts where router logits are asked for; `usual` is the
/// class's.
pub(super) fn set_aux_loss(keys: &Keys<'_>, arch: &mut Arch, usual: f64) -> Result<()> {
    let loss = keys.number("router_aux_loss_coef")?.unwrap_or(usual);
    if !(loss >= 0.0 && loss.is_finite()) {
        return Err(Error::Input(format!("router_aux_loss_coef is {loss}; expected a number of at least 0")));
    }
    let routes = arch.layers.iter().any(|layer| layer.mlp.experts().is_some());
    if keys.flag("output_router_logits")?.unwrap_or(false) && routes {
        arch.router_aux_loss_coef = loss as f32;
    }
    Ok(())
}

/// Puts experts in the place of the MLPs of the blocks that are `sparse`; `loss` is the class's `router_aux_loss_coef`.
fn set_experts(
    keys: &Keys<'_>,
    arch: &mut Arch,
    (count, width, loss): (usize, usize, f64),
    sparse: impl Fn(usize) -> bool,
) -> Result<()> {
    let chosen = keys.size("num_experts_per_tok")?.unwrap_or(8);
    let of_all = !keys.flag("norm_topk_prob")?.unwrap_or(false);
    for (block, layer) in arch.layers.iter_mut().enumerate() {
        if let (true, Mlp::Gated(gated)) = (sparse(block), &layer.mlp) {
            let activation = gated.activation;
            layer.mlp = Mlp::Experts(Experts { count, chosen, width, activation, of_all, bias: false });
        }
    }
    set_aux_loss(keys, arch, loss)
}

#[cfg(test)]
mod tests {
    use super::super::arch;
    use serde_json::json;

    #[test]
    fn the_routers_loss_counts_where_the_configuration_asks_for_router_logits() {
        for (model_type, usual) in [("qwen3_moe", 0.001), ("olmoe", 0.01), ("gpt_oss", 0.001)] {
            let read = |flag: bool, given: Option<f64>| {
                let config = json!({
                    "model_type": model_type, "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8, "moe_intermediate_size": 12,
                    "intermediate_size": 12, "output_router_logits": flag, "router_aux_loss_coef": given
                });
                arch(&config).map(|arch| arch.router_aux_loss_coef)
            };
            assert_eq!(read(false, Some(0.5)).unwrap(), 0.0);
            assert_eq!(read(true, None).unwrap(), usual);
            assert_eq!(read(true, Some(0.5)).unwrap(), 0.5);
            assert!(read(true, Some(-0.5)).unwrap_err().to_string().contains("router_aux_loss_coef is -0.5"));
        }
    }
}
