//! Qwen3.5 (dense, text): gated delta nets in most blocks, gated attention in the others. Defaults: transformers'
//! `Qwen3_5TextConfig`.

use serde_json::json;

use super::common::{LLAMA, PLAIN, attentions, common, of_type, set_biases, set_mixers};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily};
use crate::arch::layer::{Activation, DeltaNet, Layer, MOST_TAPS, Mixer, Mlp, QkNorm};
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "Qwen 3.5 (dense, text)",
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    peculiar: "gated delta nets in most blocks; attention with QK-norm under a gate, a quarter of each head turns",
    whole: Some("qwen3_5"),
    whole_ties: false,
    turns_part: true,
    defaults: Defaults {
        vocab_size: 248_320,
        hidden_size: 4096,
        intermediate_size: 12288,
        num_attention_heads: 16,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: 32768,
        ..LLAMA
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "qwen35",
        norms_plus_one: true,
        names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("attn_qkv", "linear_attn.in_proj_qkv"),
            ("attn_gate", "linear_attn.in_proj_z"),
            ("ssm_alpha", "linear_attn.in_proj_a"),
            ("ssm_beta", "linear_attn.in_proj_b"),
            ("ssm_conv1d", "linear_attn.conv1d"),
            ("ssm_norm", "linear_attn.norm"),
            ("ssm_out", "linear_attn.out_proj"),
        ],
        endings: &[("ssm_a", "linear_attn.A_log"), ("ssm_dt.bias", "linear_attn.dt_bias")],
        nets: true,
        ..GGUF
    }),
    ..PLAIN
};

/// Most heads of a delta net, and most channels of one.
const MOST: usize = 1 << 16;

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut config = keys.0.clone();
    let said = rope::parameters(keys)?.and_then(|parameters| parameters.get("partial_rotary_factor"));
    if said.or(keys.value("partial_rotary_factor")).is_none() {
        config["partial_rotary_factor"] = json!(0.25);
    }
    let mut arch = common(&Keys(&config), family)?;
    arch.norm_plus_one = true;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    set_biases(&mut arch, [bias, bias, false]);
    for attention in attentions(&mut arch) {
        (attention.qk_norm, attention.output_gate) = (Some(QkNorm::Heads), true);
    }
    let silu = |layer: &Layer| matches!(&layer.mlp, Mlp::Gated(mlp) if mlp.activation == Activation::Silu);
    if !arch.layers.iter().all(silu) {
        return Err(Error::Input(
            "hidden_act: the convolutions of this model_type are supported with silu alone".into(),
        ));
    }
    let net = delta_net(keys)?;
    let nets = nets(keys, arch.layers.len())?;
    set_mixers(&mut arch, &nets, &Mixer::DeltaNet(net))?;
    Ok(arch)
}

fn delta_net(keys: &Keys<'_>) -> Result<DeltaNet> {
    let size = |key: &str, default| match keys.size(key)?.unwrap_or(default) {
        size if (1..=MOST).contains(&size) => Ok(size),
        size => Err(Error::Input(format!("{key} is {size}; expected 1 to {MOST}"))),
    };
    let net = DeltaNet {
        key_heads: size("linear_num_key_heads", 16)?,
        value_heads: size("linear_num_value_heads", 32)?,
        key_dim: size("linear_key_head_dim", 128)?,
        value_dim: size("linear_value_head_dim", 128)?,
        taps: size("linear_conv_kernel_dim", 4)?,
    };
    if !net.value_heads.is_multiple_of(net.key_heads) {
        return Err(Error::Input(format!(
            "linear_num_value_heads {} is no multiple of linear_num_key_heads {}",
            net.value_heads, net.key_heads
        )));
    }
    if net.taps > MOST_TAPS {
        return Err(Error::Input(format!("linear_conv_kernel_dim is {}; expected 1 to {MOST_TAPS}", net.taps)));
    }
    // A sequence's state in one block, as numbers that 32 bits count.
    if net.value_heads as u64 * net.key_dim as u64 * net.value_dim as u64 > 1 << 28 {
        return Err(Error::Input(format!("the state of a block would have more than {} numbers", 1 << 28)));
    }
    Ok(net)
}

/// Which blocks have a delta net.
fn nets(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    if let Some(nets) = of_type(keys, layers, &["linear_attention"])? {
        return Ok(nets);
    }
    match keys.size("full_attention_interval")?.unwrap_or(4) {
        0 => Err(Error::Input("full_attention_interval is 0; expected 1 or more".into())),
        interval => Ok((1..=layers).map(|block| !block.is_multiple_of(interval)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{arch, text_part};
    use super::*;
    use serde_json::Value;

    fn read(changes: Value) -> Result<Arch> {
        let mut config = json!({
            "model_type": "qwen3_5_text", "vocab_size": 97, "hidden_size": 36, "intermediate_size": 88, "head_dim": 16,
            "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "linear_num_key_heads": 2,
            "linear_num_value_heads": 6, "linear_key_head_dim": 5, "linear_value_head_dim": 7
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        arch(&config)
    }

    #[test]
    fn every_fourth_block_has_gated_attention_of_which_a_quarter_turns() {
        let attends =
            |arch: &Arch| arch.layers.iter().map(|layer| layer.mixer.attention().is_some()).collect::<Vec<_>>();
        let usual = read(json!({})).unwrap();
        assert_eq!(attends(&usual), [false, false, false, true, false]);
        assert_eq!((usual.ropes[0].inv_freq.len(), usual.norm_plus_one), (2, true));
        assert!(usual.layers[3].mixer.attention().unwrap().output_gate);
        let net = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 5, value_dim: 7, taps: 4 };
        assert_eq!(usual.layers[0].mixer, Mixer::DeltaNet(net));
        assert_eq!(attends(&read(json!({"full_attention_interval": 2})).unwrap()), [false, true, false, true, false]);
        let half = read(json!({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}})).unwrap();
        assert_eq!(half.ropes[0].inv_freq.len(), 4);
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for (changes, word) in [
            (json!({"linear_num_value_heads": 5}), "no multiple of linear_num_key_heads 2"),
            (json!({"linear_conv_kernel_dim": 9}), "expected 1 to 8"),
            (json!({"linear_key_head_dim": 0}), "linear_key_head_dim is 0"),
            (json!({"linear_key_head_dim": 65536, "linear_value_head_dim": 65536}), "more than"),
            (json!({"layer_types": vec!["linear_attention"; 5]}), "no block has attention"),
            (json!({"layer_types": vec!["mamba"; 5]}), "expected linear_attention or full_attention"),
            (json!({"full_attention_interval": 0}), "full_attention_interval is 0"),
            (json!({"hidden_act": "gelu_pytorch_tanh"}), "silu alone"),
        ] {
            let error = read(changes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_whole_ties_nothing_that_it_does_not_say() {
        let whole = json!({"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text"}});
        assert_eq!(text_part(&whole).unwrap().unwrap()["tie_word_embeddings"], json!(false));
    }
}
