//! gpt-oss: experts in every block, whose activation is clamped, and sinks beside the keys of each head (arXiv
//! 2508.10925). Defaults: transformers' `GptOssConfig`.

use serde_json::{Value, json};

use super::common::{LLAMA, PLAIN, attentions, set_biases, set_windows, sizes, sliding, window};
use super::experts::set_aux_loss;
use super::keys::Keys;
use super::rope::{self, RopeContext};
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows, Within};
use crate::arch::layer::{Activation, Experts, Mlp};
use crate::arch::shape::{Arch, Naming};
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "gpt-oss",
    model_type: "gpt_oss",
    class: "GptOssForCausalLM",
    peculiar: "experts with biases and a clamped activation, sinks, windows in every second block",
    naming: Naming::Stacked,
    defaults: Defaults {
        vocab_size: 201_088,
        hidden_size: 2880,
        intermediate_size: 2880,
        num_hidden_layers: 36,
        num_attention_heads: 64,
        num_key_value_heads: Some(8),
        head_dim: Some(64),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 150_000.0,
        ..LLAMA
    },
    usual_rope: Some(usual_rope),
    arch,
    gguf: Some(GgufFamily {
        architecture: "gpt-oss",
        names: &[("post_attention_norm", "post_attention_layernorm"), ("ffn_gate_inp", "mlp.router")],
        endings: &[("attn_sinks.weight", "self_attn.sinks")],
        windows: Windows::Periodic { period: 2, window: 128, within: Within::Alike },
        biases: &[("attention_bias", "self_attn.q_proj")],
        experts: Some(true),
        expert_keys: ["num_local_experts", "intermediate_size"],
        ramp_is_cut: false,
        ..GGUF
    }),
    ..PLAIN
};

/// The numbers of the clamped activation, the only ones that are built, with their keys.
const CLAMPED: [(&str, f64); 2] = [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)];

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    for (key, built) in CLAMPED {
        if let Some(other) = keys.number(key)?.filter(|given| *given != built) {
            return Err(Error::Input(format!("{key} is {other}; {built} is built")));
        }
    }
    if let Some(act) = keys.text("hidden_act")?.filter(|act| *act != "silu") {
        return Err(Error::Input(format!("hidden_act is {act:?}; silu, of which the clamped one is made, is built")));
    }
    let (mut arch, attention) = sizes(keys, family)?;
    let (head_dim, longest) = (attention.head_dim, arch.max_position_embeddings);
    let context = RopeContext { head_dim, theta: family.defaults.rope_theta, longest, original: None };
    arch.ropes = vec![rope::rope(keys, &context)?];
    let bias = keys.flag("attention_bias")?.unwrap_or(true);
    set_biases(&mut arch, [bias, bias, false]);
    attentions(&mut arch).for_each(|attention| attention.sinks = true);
    let layers = arch.layers.len();
    let slides = sliding(keys, layers)?.unwrap_or_else(|| (0..layers).map(|block| block % 2 == 0).collect());
    set_windows(&mut arch, &slides, window(keys, Some(128))?)?;
    let experts = Experts {
        count: keys.size("num_local_experts")?.or(keys.size("num_experts")?).unwrap_or(128),
        chosen: keys.size("num_experts_per_tok")?.or(keys.size("experts_per_token")?).unwrap_or(4),
        width: keys.size("intermediate_size")?.unwrap_or(family.defaults.intermediate_size),
        activation: Activation::ClampedSwish,
        of_all: false,
        bias: true,
    };
    arch.layers.iter_mut().for_each(|layer| layer.mlp = Mlp::Experts(experts.clone()));
    set_aux_loss(keys, &mut arch, 0.001)?;
    Ok(arch)
}

fn usual_rope() -> Value {
    json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
           "original_max_position_embeddings": 4096})
}

#[cfg(test)]
mod tests {
    use super::super::{arch, parameters};
    use super::*;

    /// What gpt-oss-20b's config.json says.
    fn published() -> Value {
        json!({
            "model_type": "gpt_oss", "attention_bias": true, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880,
            "initial_context_length": 4096, "intermediate_size": 2880, "max_position_embeddings": 131_072,
            "layer_types": (0..24).map(|i| ["sliding_attention", "full_attention"][i % 2]).collect::<Vec<_>>(),
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8,
            "num_local_experts": 32, "output_router_logits": false, "rms_norm_eps": 1e-5, "rope_theta": 150_000,
            "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn",
                             "original_max_position_embeddings": 4096, "truncate": false},
            "quantization_config": {"quant_method": "mxfp4"}, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": false, "vocab_size": 201_088
        })
    }

    #[test]
    fn the_published_model_has_its_shape() {
        let model = arch(&published()).unwrap();
        let attention = |block: usize| model.layers[block].mixer.attention().unwrap();
        assert_eq!([0, 1, 22, 23].map(|block| attention(block).window), [Some(128), None, Some(128), None]);
        let a = attention(5);
        assert_eq!((a.heads, a.kv_heads, a.head_dim, a.sinks, a.qkv_bias, a.o_bias), (64, 8, 64, true, true, true));
        let experts = model.layers[3].mlp.experts().unwrap();
        assert_eq!((experts.count, experts.chosen, experts.width, experts.of_all), (32, 4, 2880, false));
        let values: usize = parameters(&model).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(values, 20_914_757_184);
        let rope = &model.ropes[0];
        assert!((rope.scaling - (0.1 * 32f32.ln() + 1.0)).abs() < 1e-6, "{}", rope.scaling);
        assert_eq!((rope.inv_freq.len(), rope.inv_freq[0]), (32, 1.0));
        // What the class has for missing keys is the larger model, with the same rope.
        let usual = arch(&json!({"model_type": "gpt_oss"})).unwrap();
        assert_eq!((usual.layers.len(), usual.layers[0].mlp.experts().unwrap().count), (36, 128));
        assert_eq!((&usual.ropes, &usual.layers[1].mixer), (&model.ropes, &model.layers[1].mixer));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value) in [
            ("swiglu_limit", json!(5.0)),
            ("swiglu_alpha", json!(1.0)),
            ("hidden_act", json!("gelu")),
            ("quantization_config", json!({"quant_method": "fp8"})),
            ("num_experts_per_tok", json!(33)),
        ] {
            let mut config = published();
            config[key] = value;
            let error = arch(&config).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
