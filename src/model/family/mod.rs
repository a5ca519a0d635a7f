//! Model families: config.json -> [`Arch`], and the names and shapes of the parameters. Data, no kernels.
//!
//! A family is one file with the defaults of Hugging Face's configuration class and one arm in [`arch`]. Keys are
//! config.json's own. What cannot be computed exactly (an activation or a rope type that is not built) is refused here.

mod llama;
mod qwen2;
mod qwen3;
mod rope;

use serde_json::Value;

use super::{Arch, Rope};
use crate::{Error, Result};

/// The `model_type`s that are known, with the class that `architectures` names.
pub const FAMILIES: &[(&str, &str)] =
    &[("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// More blocks than any model has; keeps a damaged configuration from asking for endless names.
const MAX_LAYERS: usize = 4096;
/// Widths beyond this are damage; products of two of them still fit 64 bits.
const MAX_WIDTH: usize = 1 << 28;

/// Reads config.json.
///
/// # Errors
/// An unknown `model_type` (the known ones are listed), a key of the wrong type, sizes that contradict one another, a
/// feature that is not built.
pub fn arch(config: &Value) -> Result<Arch> {
    if !config.is_object() {
        return Err(Error::Input("config.json is not an object".into()));
    }
    let keys = Keys(config);
    let model_type = keys.text("model_type")?.unwrap_or_default();
    let arch = match model_type {
        "llama" => llama::arch(&keys)?,
        "qwen2" => qwen2::arch(&keys)?,
        "qwen3" => qwen3::arch(&keys)?,
        unknown => {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            return Err(Error::Input(format!("model_type {unknown:?} is not known; known are {}", known.join(", "))));
        }
    };
    check(&keys, &arch)?;
    Ok(arch)
}

/// The class name that `architectures` holds for a `model_type`.
pub fn class_name(model_type: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class)
}

/// The rotation frequencies a configuration asks for, `[head_dim / 2]`.
pub(crate) fn inv_freq(config: &Value, head_dim: usize) -> Result<Vec<f32>> {
    rope::rope(&Keys(config), head_dim).map(|rope| rope.inv_freq)
}

/// Names and shapes of all parameters in Hugging Face's order; the output matrix only where it is not the embedding.
pub fn parameters(arch: &Arch) -> Vec<(String, Vec<usize>)> {
    let (d, f, hd) = (arch.hidden_size, arch.intermediate_size, arch.head_dim);
    let (q, kv) = (arch.num_attention_heads * hd, arch.num_key_value_heads * hd);
    let mut list = vec![("model.embed_tokens.weight".to_string(), vec![arch.vocab_size, d])];
    for layer in 0..arch.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (name, out, bias) in
            [("q_proj", q, arch.qkv_bias), ("k_proj", kv, arch.qkv_bias), ("v_proj", kv, arch.qkv_bias)]
        {
            add(&format!("self_attn.{name}.weight"), &[out, d]);
            if bias {
                add(&format!("self_attn.{name}.bias"), &[out]);
            }
        }
        add("self_attn.o_proj.weight", &[d, q]);
        if arch.o_bias {
            add("self_attn.o_proj.bias", &[d]);
        }
        if arch.qk_norm {
            add("self_attn.q_norm.weight", &[hd]);
            add("self_attn.k_norm.weight", &[hd]);
        }
        for (name, out, of) in [("gate_proj", f, d), ("up_proj", f, d), ("down_proj", d, f)] {
            add(&format!("mlp.{name}.weight"), &[out, of]);
            if arch.mlp_bias {
                add(&format!("mlp.{name}.bias"), &[out]);
            }
        }
        add("input_layernorm.weight", &[d]);
        add("post_attention_layernorm.weight", &[d]);
    }
    list.push(("model.norm.weight".into(), vec![d]));
    if !arch.tie_word_embeddings {
        list.push(("lm_head.weight".into(), vec![arch.vocab_size, d]));
    }
    list
}

fn check(keys: &Keys<'_>, arch: &Arch) -> Result<()> {
    let wrong = |what: String| Err(Error::Input(what));
    for (key, n, most) in [
        ("vocab_size", arch.vocab_size, MAX_WIDTH),
        ("hidden_size", arch.hidden_size, MAX_WIDTH),
        ("intermediate_size", arch.intermediate_size, MAX_WIDTH),
        ("num_hidden_layers", arch.num_hidden_layers, MAX_LAYERS),
        ("num_attention_heads", arch.num_attention_heads, 1 << 16),
        ("num_key_value_heads", arch.num_key_value_heads, 1 << 16),
        ("head_dim", arch.head_dim, 1 << 16),
        ("max_position_embeddings", arch.max_position_embeddings, MAX_WIDTH),
    ] {
        if n == 0 || n > most {
            return wrong(format!("{key} is {n}; expected 1 to {most}"));
        }
    }
    let (heads, kv) = (arch.num_attention_heads, arch.num_key_value_heads);
    if heads % kv != 0 {
        return wrong(format!("num_attention_heads {heads} is no multiple of num_key_value_heads {kv}"));
    }
    if arch.rms_norm_eps.is_nan() || arch.rms_norm_eps < 0.0 || arch.rms_norm_eps.is_infinite() {
        return wrong(format!("rms_norm_eps is {}; expected a small positive number", arch.rms_norm_eps));
    }
    if let Some(act) = keys.text("hidden_act")?
        && act != "silu"
        && act != "swish"
    {
        return wrong(format!("hidden_act {act:?} is not supported; the families read here use silu"));
    }
    if keys.value("quantization_config").is_some() {
        return wrong("quantization_config: quantised Hugging Face folders are not read; use a GGUF file".into());
    }
    Ok(())
}

/// config.json's keys, typed. A missing key and null are the same.
struct Keys<'a>(&'a Value);

impl<'a> Keys<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(Error::Input(format!("{key}: expected {expected}, found {value}"))),
            },
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "text", Value::as_str)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number, not negative", |v| usize::try_from(v.as_u64()?).ok())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }
}

/// What the configuration classes of the families disagree on when a key is missing.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
}

/// The keys that all Llama-like families share; biases, norms and windows are the family's own.
fn common(keys: &Keys<'_>, model_type: &str, defaults: &Defaults) -> Result<Arch> {
    let hidden_size = keys.size("hidden_size")?.unwrap_or(4096);
    let num_attention_heads = keys.size("num_attention_heads")?.unwrap_or(32);
    // null means as many as query heads; only a missing key takes the class's default.
    let kv_default = if keys.0.get("num_key_value_heads").is_some() { None } else { defaults.num_key_value_heads };
    let num_key_value_heads = keys.size("num_key_value_heads")?.or(kv_default).unwrap_or(num_attention_heads);
    let head_dim_default = if keys.0.get("head_dim").is_some() { None } else { defaults.head_dim };
    let head_dim = match keys.size("head_dim")?.or(head_dim_default) {
        Some(head_dim) => head_dim,
        None if num_attention_heads == 0 || hidden_size % num_attention_heads != 0 => {
            let what = format!("hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}");
            return Err(Error::Input(format!("{what}, and head_dim is not given")));
        }
        None => hidden_size / num_attention_heads,
    };
    if head_dim == 0 || head_dim % 2 != 0 || head_dim > 1 << 16 {
        return Err(Error::Input(format!("head_dim is {head_dim}; expected an even number of channels up to 65536")));
    }
    Ok(Arch {
        model_type: model_type.into(),
        vocab_size: keys.size("vocab_size")?.unwrap_or(defaults.vocab_size),
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?.unwrap_or(defaults.intermediate_size),
        num_hidden_layers: keys.size("num_hidden_layers")?.unwrap_or(32),
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings: keys.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings),
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope::rope(keys, head_dim)?,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_window: None,
    })
}

/// Qwen's window: used if `use_sliding_window`, in the blocks that `layer_types` names, else from `max_window_layers` on.
fn qwen_window(keys: &Keys<'_>, layers: usize) -> Result<Option<usize>> {
    if !keys.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    let default = if keys.0.get("sliding_window").is_some() { None } else { Some(4096) };
    let Some(window) = keys.size("sliding_window")?.or(default) else { return Ok(None) };
    let sliding = match keys.typed("layer_types", "a list", Value::as_array)? {
        Some(types) => types.iter().filter(|t| t.as_str() == Some("sliding_attention")).count(),
        None => layers.saturating_sub(keys.size("max_window_layers")?.unwrap_or(28)),
    };
    match sliding {
        0 => Ok(None),
        n if n == layers && window > 0 => Ok(Some(window)),
        n => Err(Error::Input(format!(
            "sliding_window {window} in {n} of {layers} blocks: only all or none is supported"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tiny(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "vocab_size": 97, "hidden_size": 36, "intermediate_size": 88, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512
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
        assert!(llama.contains("head_dim is 9"), "36 / 4 is odd: {llama}");
        let llama =
            arch(&with(tiny("llama"), json!({"head_dim": 12, "attention_bias": true, "mlp_bias": true}))).unwrap();
        assert_eq!((llama.qkv_bias, llama.o_bias, llama.mlp_bias, llama.qk_norm), (true, true, true, false));
        let qwen2 = arch(&with(tiny("qwen2"), json!({"hidden_size": 40}))).unwrap();
        assert_eq!((qwen2.head_dim, qwen2.qkv_bias, qwen2.o_bias, qwen2.mlp_bias), (10, true, false, false));
        let qwen3 = arch(&tiny("qwen3")).unwrap();
        assert_eq!((qwen3.head_dim, qwen3.qkv_bias, qwen3.o_bias, qwen3.qk_norm), (128, false, false, true));
        let null = json!({"num_key_value_heads": null, "head_dim": 12});
        assert_eq!(arch(&with(tiny("qwen3"), null)).unwrap().num_key_value_heads, 4);
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
    fn windows_are_for_all_blocks_or_none() {
        let window = |changes: Value| arch(&with(tiny("qwen3"), changes)).map(|arch| arch.sliding_window);
        assert_eq!(window(json!({"sliding_window": 8})).unwrap(), None);
        assert_eq!(window(json!({"use_sliding_window": true, "sliding_window": 8})).unwrap(), None);
        let all = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0});
        assert_eq!(window(all).unwrap(), Some(8));
        let types = json!({"use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]});
        assert!(window(types).unwrap_err().to_string().contains("1 of 2 blocks"));
    }

    #[test]
    fn unknown_types_list_the_known_ones() {
        let error = arch(&tiny("mamba")).unwrap_err().to_string();
        assert_eq!(error, "model_type \"mamba\" is not known; known are llama, qwen2, qwen3");
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
            (json!({"head_dim": 7}), "head_dim"),
            (json!({"num_hidden_layers": 1_000_000_000_000u64}), "num_hidden_layers"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
            (json!({"quantization_config": {}}), "quantization_config"),
        ] {
            let error = arch(&with(with(tiny("llama"), json!({"head_dim": 12})), changes)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
