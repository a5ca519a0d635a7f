//! Model families: config.json -> [`Arch`], and the names and shapes of the parameters. Data, no kernels.
//!
//! A family is one file with one row ([`Family`]) that holds the defaults of Hugging Face's configuration class, what
//! its files look like, and the function that reads what is peculiar to it. Keys are config.json's own. What cannot be
//! computed exactly (an activation or a rope type that is not built) is refused here.

mod common;
mod experts;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod granite;
mod keys;
mod lfm2;
mod llama;
mod ministral;
mod ministral3;
mod mistral;
mod modules;
mod names;
mod nearest;
mod olmo;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod rope;
mod row;
mod smollm3;
mod whole;

use serde_json::Value;

use super::shape::Arch;
use crate::{Error, Result};
use keys::Keys;
pub use modules::as_modules;
pub(crate) use modules::{InStack, in_stack, is_stacked};
pub use names::parameters;
pub(crate) use names::usual;
pub(crate) use nearest::nearest;
pub(crate) use rope::{dynamic, with_usual};
pub use row::Family;
pub(crate) use row::{GgufFamily, Windows, Within};
pub(crate) use whole::of_config;
pub use whole::text_part;

/// The families that are known, in the order of their names.
pub const FAMILIES: &[Family] = &[
    gemma2::FAMILY,
    gemma3::FAMILY,
    gpt_oss::FAMILY,
    granite::GRANITE,
    granite::GRANITE_4,
    lfm2::FAMILY,
    llama::FAMILY,
    ministral::FAMILY,
    ministral3::FAMILY,
    mistral::FAMILY,
    olmo::OLMO_2,
    olmo::OLMO_3,
    experts::OLMOE,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_5::FAMILY,
    experts::QWEN_3,
    smollm3::FAMILY,
];

/// The family of a `model_type`.
pub fn of(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

/// Reads config.json, of a whole with towers for images its text part.
///
/// # Errors
/// The `model_type` is unknown (the known ones are listed), a key has the wrong type, sizes contradict one another, or
/// a feature is not built.
pub fn arch(config: &Value) -> Result<Arch> {
    if !config.is_object() {
        return Err(Error::Input("config.json is not an object".into()));
    }
    let keys = Keys(config);
    let model_type = keys.text("model_type")?.unwrap_or_default();
    let Some(family) = of(model_type) else {
        if let Some(text) = text_part(config)? {
            return arch(&text);
        }
        return Err(unknown(&keys, model_type));
    };
    let filled = rope::with_usual(config, family);
    let keys = Keys(&filled);
    let arch = (family.arch)(&keys, family)?;
    common::check(&keys, &arch)?;
    Ok(arch)
}

/// The object that holds a configuration's rope parameters.
///
/// # Errors
/// It is no object.
pub(crate) fn rope_parameters(config: &Value) -> Result<Option<&Value>> {
    rope::parameters(&Keys(config))
}

/// What is said of a `model_type` that is not known.
fn unknown(keys: &Keys<'_>, model_type: &str) -> Error {
    let known = || FAMILIES.iter().map(|family| family.model_type);
    let mut what = format!("model_type {model_type:?} is not known; ");
    // The text part of a whole is the nearer name.
    let text = keys.value("text_config").and_then(|text| text.get("model_type")).and_then(Value::as_str);
    if let Some(text) = text {
        let wholes: Vec<&str> = FAMILIES.iter().filter_map(|family| family.whole).collect();
        what += &format!("its text part is {text:?}, and text parts are read of {}; ", joined(wholes));
    } else if keys.value("vision_config").or(keys.value("audio_config")).is_some() {
        what += "it holds more than text, of which nothing is read; ";
    }
    if let Some(near) = nearest(text.unwrap_or(model_type), known()) {
        what += &format!("the nearest that is read is {near:?}; ");
    }
    Error::Input(what + "known are " + &joined(known()))
}

/// Names with commas between them, each once.
fn joined<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = names.into_iter().collect();
    all.dedup();
    all.join(", ")
}

/// The class name that `architectures` holds for a `model_type`.
pub fn class_name(model_type: &str) -> Option<&'static str> {
    of(model_type).map(|family| family.class)
}

/// The rotation frequencies a configuration asks for, `[head_dim / 2]`.
pub(crate) fn inv_freq(config: &Value, head_dim: usize) -> Result<Vec<f32>> {
    rope::rope(&Keys(config), &rope::RopeContext { head_dim, theta: 10000.0, longest: 2048, original: None })
        .map(|rope| rope.inv_freq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layer::{Attention, Gated, QkNorm};
    use serde_json::json;

    /// The attention and the MLP of the first block.
    fn parts(arch: &Arch) -> (&Attention, &Gated) {
        (arch.layers[0].mixer.attention().unwrap(), arch.layers[0].mlp.gated().unwrap())
    }

    /// What `of` says of every block's attention.
    fn each<T>(arch: &Arch, of: impl Fn(&Attention) -> T) -> Vec<T> {
        let Arch { layers, .. } = arch;
        layers.iter().filter_map(|layer| layer.mixer.attention().map(&of)).collect()
    }

    #[test]
    fn what_a_class_does_not_read_changes_nothing() {
        let read =
            |model_type: &str, keys: Value| arch(&with(with(tiny(model_type), json!({"head_dim": 12})), keys)).unwrap();
        // Qwen 3 with experts knows no max_window_layers, Gemma 3 no cap of scores.
        let windows = json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 28});
        assert!(each(&read("qwen3_moe", windows), |attention| attention.window == Some(5)).iter().all(|own| *own));
        let capped = read("gemma3_text", json!({"attn_logit_softcapping": 5.0}));
        assert!(each(&capped, |attention| attention.score_cap.is_none()).iter().all(|free| *free));
        let bases = read("olmo3", json!({"rope_theta": 1000.0})).ropes;
        assert!(bases[0].inv_freq[1] > bases[1].inv_freq[1]);
    }

    fn tiny(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "vocab_size": 97, "hidden_size": 36, "intermediate_size": 88,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512
        })
    }

    fn with(mut config: Value, changes: Value) -> Value {
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    #[test]
    fn families_differ_where_hugging_face_does() {
        let llama =
            arch(&with(tiny("llama"), json!({"attention_bias": true, "mlp_bias": true}))).unwrap_err().to_string();
        assert!(llama.contains("of 9 channels"), "36 / 4 is odd: {llama}");
        let llama =
            arch(&with(tiny("llama"), json!({"head_dim": 12, "attention_bias": true, "mlp_bias": true}))).unwrap();
        let (a, mlp) = parts(&llama);
        assert_eq!((a.qkv_bias, a.o_bias, mlp.bias, a.qk_norm), (true, true, true, None));
        let qwen2 = arch(&with(tiny("qwen2"), json!({"hidden_size": 40}))).unwrap();
        let (a, mlp) = parts(&qwen2);
        assert_eq!((a.head_dim, a.qkv_bias, a.o_bias, mlp.bias), (10, true, false, false));
        let qwen3 = arch(&tiny("qwen3")).unwrap();
        let (a, _) = parts(&qwen3);
        assert_eq!((a.head_dim, a.qkv_bias, a.o_bias, a.qk_norm), (128, false, false, Some(QkNorm::Heads)));
        let null = json!({"num_key_value_heads": null, "head_dim": 12});
        assert_eq!(parts(&arch(&with(tiny("qwen3"), null)).unwrap()).0.kv_heads, 4);
    }

    #[test]
    fn parameters_stand_in_hugging_faces_order() {
        let names = |config: Value| -> Vec<String> {
            let list = parameters(&arch(&with(config, json!({"num_hidden_layers": 1, "head_dim": 12}))).unwrap());
            list.into_iter().map(|(name, shape)| format!("{} {shape:?}", name.trim_start_matches("model."))).collect()
        };
        let qwen3 = names(with(tiny("qwen3"), json!({"attention_bias": true, "tie_word_embeddings": true})));
        let want = [
            "embed_tokens.weight [97, 36]",
            "layers.0.self_attn.q_proj.weight [48, 36]",
            "layers.0.self_attn.q_proj.bias [48]",
            "layers.0.self_attn.k_proj.weight [24, 36]",
            "layers.0.self_attn.k_proj.bias [24]",
            "layers.0.self_attn.v_proj.weight [24, 36]",
            "layers.0.self_attn.v_proj.bias [24]",
            "layers.0.self_attn.o_proj.weight [36, 48]",
            "layers.0.self_attn.o_proj.bias [36]",
            "layers.0.self_attn.q_norm.weight [12]",
            "layers.0.self_attn.k_norm.weight [12]",
            "layers.0.mlp.gate_proj.weight [88, 36]",
            "layers.0.mlp.up_proj.weight [88, 36]",
            "layers.0.mlp.down_proj.weight [36, 88]",
            "layers.0.input_layernorm.weight [36]",
            "layers.0.post_attention_layernorm.weight [36]",
            "norm.weight [36]",
        ];
        assert_eq!(qwen3, want);
        assert_eq!(names(tiny("llama")).last().unwrap(), "lm_head.weight [97, 36]");
    }

    #[test]
    fn windows_are_those_of_the_layers_named() {
        let windows = |family: &str, changes: Value| {
            let config = with(with(tiny(family), json!({"head_dim": 12})), changes);
            arch(&config).map(|arch| each(&arch, |a| a.window))
        };
        assert_eq!(windows("qwen3", json!({"sliding_window": 8})).unwrap(), [None, None]);
        let late = json!({"use_sliding_window": true, "sliding_window": 8});
        assert_eq!(windows("qwen3", late).unwrap(), [None, None]);
        let all = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
        assert_eq!(windows("qwen2", all).unwrap(), [None, Some(8)]);
        let types = json!(["sliding_attention", "full_attention"]);
        let mixed = json!({"use_sliding_window": true, "layer_types": types});
        assert_eq!(windows("qwen3", mixed).unwrap(), [Some(4096), None]);
        assert_eq!(windows("mistral", json!({})).unwrap(), [Some(4096), Some(4096)]);
        assert_eq!(windows("mistral", json!({"sliding_window": null})).unwrap(), [None, None]);
        assert_eq!(windows("phi3", json!({"sliding_window": 5})).unwrap(), [Some(5), Some(5)]);
        assert_eq!(windows("gemma3_text", json!({"layer_types": types})).unwrap(), [Some(4096), None]);
        assert_eq!(windows("gemma2", json!({"num_hidden_layers": 3})).unwrap(), [Some(4096), None, Some(4096)]);
        assert_eq!(windows("mistral", json!({"layer_types": types, "sliding_window": 7})).unwrap(), [Some(7), None]);
        let pattern = json!({"sliding_window_pattern": 2, "sliding_window": 3});
        assert_eq!(windows("gemma3_text", pattern).unwrap(), [Some(3), None]);
        let nope = json!({"use_sliding_window": true, "sliding_window": 3, "no_rope_layers": [0, 1]});
        assert_eq!(windows("smollm3", nope).unwrap(), [Some(3), None]);
        for (family, wrong) in [
            ("smollm3", json!({"layer_types": types})),
            ("mistral", json!({"sliding_window": 0})),
            ("gemma3_text", json!({"layer_types": ["sliding_attention"]})),
            ("gemma3_text", json!({"layer_types": ["sliding_attention", "chunked_attention"]})),
        ] {
            assert!(windows(family, wrong.clone()).is_err(), "{family} {wrong}");
        }
    }

    #[test]
    fn layers_without_positions_are_smollm3s() {
        let ropes = |changes: Value| {
            let a =
                arch(&with(with(tiny("smollm3"), json!({"head_dim": 12, "num_hidden_layers": 5})), changes)).unwrap();
            each(&a, |a| a.rope)
        };
        assert_eq!(ropes(json!({})), [Some(0), Some(0), Some(0), None, Some(0)]);
        assert_eq!(ropes(json!({"no_rope_layer_interval": 2})), [Some(0), None, Some(0), None, Some(0)]);
        assert_eq!(ropes(json!({"no_rope_layers": [0, 1, 1, 0, 1]})), [None, Some(0), Some(0), None, Some(0)]);
    }

    #[test]
    fn olmo_3_scales_the_rope_of_blocks_that_see_everything() {
        let sizes = json!({"num_hidden_layers": 5, "head_dim": 12});
        let yarn = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64});
        let old = json!({"rope_scaling": yarn, "rope_theta": 10000.0});
        let new = json!({"rope_parameters": {
            "full_attention": with(yarn.clone(), json!({"rope_theta": 10000.0})),
            "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
        }});
        let read = |changes| arch(&with(with(tiny("olmo3"), sizes.clone()), changes)).unwrap();
        let (old, new) = (read(old), read(new));
        assert_eq!(old, new);
        let usual = (0.1 * 8f64.ln() + 1.0) as f32;
        assert_eq!(old.ropes.iter().map(|rope| rope.scaling).collect::<Vec<_>>(), [usual, 1.0]);
        let seen = Some(4096);
        assert_eq!(each(&old, |a| a.window), [seen, seen, seen, None, seen]);
        assert_eq!(each(&old, |a| a.rope), [Some(1), Some(1), Some(1), Some(0), Some(1)]);
        assert!(each(&old, |a| a.qk_norm).iter().all(|norm| *norm == Some(QkNorm::Whole)));
    }

    #[test]
    fn granite_4_is_read_where_it_is_dense() {
        let dense = json!({"num_local_experts": 0, "layer_types": ["attention", "full_attention"],
                           "shared_intermediate_size": 60, "position_embedding_type": "rope", "head_dim": 12,
                           "residual_multiplier": 0.25, "embedding_multiplier": 12, "logits_scaling": 8});
        let read = |changes: Value| arch(&with(with(tiny("granitemoehybrid"), dense.clone()), changes));
        let found = read(json!({})).unwrap();
        assert_eq!((parts(&found).1.width, parts(&found).0.rope), (60, Some(0)));
        assert_eq!((found.held_embedding_scale(), found.logits_scale), (48.0, 0.125));
        assert_eq!(each(&read(json!({"position_embedding_type": "nope"})).unwrap(), |a| a.rope), [None, None]);
        for (changes, word) in [
            (json!({"num_local_experts": 32}), "mixtures of experts"),
            (json!({"layer_types": ["mamba", "attention"]}), "state-space blocks"),
            (json!({"layer_types": null}), "state-space blocks"),
            (json!({"layer_types": ["attention"]}), "1 entries for 2 blocks"),
            (json!({"residual_multiplier": 0.0}), "residual_multiplier is 0"),
        ] {
            let error = read(changes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn caps_are_those_of_gemma() {
        let caps = |family: &str, changes: Value| {
            let arch = arch(&with(with(tiny(family), json!({"head_dim": 12})), changes))?;
            Ok::<_, Error>((parts(&arch).0.score_cap, arch.logit_cap))
        };
        let null = json!({"attn_logit_softcapping": null, "final_logit_softcapping": 8});
        assert_eq!(caps("gemma2", json!({})).unwrap(), (Some(50.0), Some(30.0)));
        assert_eq!(caps("gemma2", null.clone()).unwrap(), (None, Some(8.0)));
        assert_eq!(caps("gemma3_text", json!({})).unwrap(), (None, None));
        assert_eq!(caps("gemma3_text", null).unwrap(), (None, Some(8.0)));
        for wrong in [json!(0), json!(-1.5), json!("50"), json!(1e300), json!(1e-60)] {
            let error = caps("gemma2", json!({"attn_logit_softcapping": wrong})).unwrap_err().to_string();
            assert!(error.contains("attn_logit_softcapping"), "{error}");
        }
    }

    #[test]
    fn unknown_types_list_the_known_ones() {
        let error = arch(&tiny("mamba")).unwrap_err().to_string();
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        assert_eq!(error, format!("model_type \"mamba\" is not known; known are {}", known.join(", ")));
        assert!(known.is_sorted(), "{known:?}");
        let near = arch(&tiny("qwen33")).unwrap_err().to_string();
        assert!(near.contains("is not known; the nearest that is read is \"qwen3\"; known are gemma2"), "{near}");
        let towers = json!({"model_type": "llava", "vision_config": {}, "text_config": {"model_type": "llama"}});
        let towers = arch(&towers).unwrap_err().to_string();
        assert!(towers.contains("its text part is \"llama\", and text parts are read of gemma3, mistral3"), "{towers}");
        assert!(towers.contains("the nearest that is read is \"llama\""), "{towers}");
        let audio = arch(&json!({"model_type": "voice", "audio_config": {}})).unwrap_err().to_string();
        assert!(audio.contains("holds more than text"), "{audio}");
        assert!(arch(&json!([])).is_err());
        assert!(arch(&json!({})).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        for (changes, word) in [
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"hidden_size": "36"}), "hidden_size: expected a whole number"),
            (json!({"hidden_size": -1}), "hidden_size"),
            (json!({"head_dim": 7}), "channels"),
            (json!({"num_hidden_layers": 1_000_000_000_000u64}), "num_hidden_layers"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}}), "proportional"),
            (json!({"quantization_config": {}}), "quantization_config"),
        ] {
            let error = arch(&with(with(tiny("llama"), json!({"head_dim": 12})), changes)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
