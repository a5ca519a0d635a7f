//! Model families: config.json -> [`Arch`], and the names and shapes of the parameters. Data, no kernels.
//!
//! A family is one file with the defaults of Hugging Face's configuration class and one arm in [`arch`]. Keys are
//! config.json's own. What cannot be computed exactly (an activation or a rope type that is not built) is refused here.

mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;

use serde_json::Value;

use crate::arch::{Activation, Arch, Layer, Rope, Stretch};
use crate::{Error, Result};

/// The `model_type`s that are known, with the class that `architectures` names.
pub const FAMILIES: &[(&str, &str)] = &[
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("smollm3", "SmolLM3ForCausalLM"),
];

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
        "gemma3_text" => gemma3::arch(&keys)?,
        "llama" => llama::arch(&keys)?,
        "mistral" => mistral::arch(&keys)?,
        "phi3" => phi3::arch(&keys)?,
        "smollm3" => smollm3::arch(&keys)?,
        "gemma3" => {
            let what = "model_type \"gemma3\" holds images too; only its text part, saved as \"gemma3_text\", is read";
            return Err(Error::Input(what.into()));
        }
        "qwen2" => qwen2::arch(&keys)?,
        "qwen3" => qwen3::arch(&keys)?,
        unknown => {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            return Err(Error::Input(format!("model_type {unknown:?} is not known; known are {}", known.join(", "))));
        }
    };
    check(&keys, &arch)?;
    Ok(Arch { pad_token_id: pad_token(&keys, model_type, arch.vocab_size)?, ..arch })
}

/// `pad_token_id`, by the class's default where the key is missing; torch counts negative ones from the end.
fn pad_token(keys: &Keys<'_>, model_type: &str, vocabulary: usize) -> Result<Option<u32>> {
    let id = match (keys.0.get("pad_token_id"), model_type) {
        (Some(Value::Null), _) => None,
        (Some(value), _) => {
            let wrong = || Error::Input(format!("pad_token_id is {value}; expected a token id or null"));
            Some(value.as_i64().ok_or_else(wrong)?)
        }
        (None, "gemma3_text") => Some(0),
        (None, "phi3") => Some(32_000),
        (None, "smollm3") => Some(128_004),
        (None, _) => None,
    };
    let id = id.map(|id| if id < 0 { id + vocabulary as i64 } else { id });
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocabulary))
}

/// The class name that `architectures` holds for a `model_type`.
pub fn class_name(model_type: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class)
}

/// The rotation frequencies a configuration asks for, `[head_dim / 2]`.
pub(crate) fn inv_freq(config: &Value, head_dim: usize) -> Result<Vec<f32>> {
    rope::rope(&Keys(config), &rope::Context { head_dim, theta: 10000.0, longest: 2048, original: None })
        .map(|rope| rope.inv_freq)
}

pub(crate) use rope::dynamic;

/// Names and shapes of all parameters in Hugging Face's order; the output matrix only where it is not the embedding.
pub fn parameters(arch: &Arch) -> Vec<(String, Vec<usize>)> {
    let (d, f, hd) = (arch.hidden_size, arch.intermediate_size, arch.head_dim);
    let (q, kv) = (arch.num_attention_heads * hd, arch.num_key_value_heads * hd);
    // (name, out, in, whether it has a bias)
    let matrices: &[(&str, usize, usize, bool)] = match arch.fused {
        false => &[
            ("self_attn.q_proj", q, d, arch.qkv_bias),
            ("self_attn.k_proj", kv, d, arch.qkv_bias),
            ("self_attn.v_proj", kv, d, arch.qkv_bias),
            ("self_attn.o_proj", d, q, arch.o_bias),
            ("mlp.gate_proj", f, d, arch.mlp_bias),
            ("mlp.up_proj", f, d, arch.mlp_bias),
            ("mlp.down_proj", d, f, arch.mlp_bias),
        ],
        true => &[
            ("self_attn.o_proj", d, q, false),
            ("self_attn.qkv_proj", q + 2 * kv, d, false),
            ("mlp.gate_up_proj", 2 * f, d, false),
            ("mlp.down_proj", d, f, false),
        ],
    };
    let norms: &[&str] = match arch.post_norms {
        false => &["input_layernorm", "post_attention_layernorm"],
        true => {
            &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        }
    };
    let mut list = vec![("model.embed_tokens.weight".to_string(), vec![arch.vocab_size, d])];
    for layer in 0..arch.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (i, (name, out, of, bias)) in matrices.iter().enumerate() {
            add(&format!("{name}.weight"), &[*out, *of]);
            if *bias {
                add(&format!("{name}.bias"), &[*out]);
            }
            if arch.qk_norm && matrices.get(i + 1).is_some_and(|(next, ..)| *next == "mlp.gate_proj") {
                add("self_attn.q_norm.weight", &[hd]);
                add("self_attn.k_norm.weight", &[hd]);
            }
        }
        for name in norms {
            add(&format!("{name}.weight"), &[d]);
        }
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
    if arch.layers.iter().any(|l| l.window == Some(0)) {
        return wrong("sliding_window is 0; expected 1 or more, or null".into());
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
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    rope_theta: f64,
    original_max_position_embeddings: Option<usize>,
}

/// transformers' `LlamaConfig`.
const LLAMA: Defaults = Defaults {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
    rope_theta: 10000.0,
    original_max_position_embeddings: None,
};

/// `Qwen2Config`; `Qwen3Config` but for the head_dim.
const QWEN: Defaults = Defaults {
    vocab_size: 151936,
    intermediate_size: 22016,
    num_key_value_heads: Some(32),
    max_position_embeddings: 32768,
    ..LLAMA
};

/// An [`Arch`] without the families' peculiarities: no biases, no windows, one rope of the configuration's own for all
/// blocks.
fn common(keys: &Keys<'_>, model_type: &str, defaults: &Defaults) -> Result<Arch> {
    let arch = sizes(keys, model_type, defaults)?;
    let context = rope::Context {
        head_dim: arch.head_dim,
        theta: defaults.rope_theta,
        longest: arch.max_position_embeddings,
        original: keys.size("original_max_position_embeddings")?.or(defaults.original_max_position_embeddings),
    };
    let rope = rope::rope(keys, &context)?;
    // Only Phi 3's attention leaves channels unturned.
    if 2 * rope.inv_freq.len() != arch.head_dim && model_type != "phi3" {
        return Err(Error::Input(format!(
            "{} of {} channels of a head would turn; {model_type} turns all of them",
            2 * rope.inv_freq.len(),
            arch.head_dim
        )));
    }
    Ok(Arch { ropes: vec![rope], ..arch })
}

/// As [`common`], but without ropes.
fn sizes(keys: &Keys<'_>, model_type: &str, defaults: &Defaults) -> Result<Arch> {
    let hidden_size = keys.size("hidden_size")?.unwrap_or(defaults.hidden_size);
    let num_attention_heads = keys.size("num_attention_heads")?.unwrap_or(defaults.num_attention_heads);
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
    if head_dim == 0 || head_dim > 1 << 16 {
        return Err(Error::Input(format!("head_dim is {head_dim}; expected 1 to 65536")));
    }
    let num_hidden_layers = keys.size("num_hidden_layers")?.unwrap_or(defaults.num_hidden_layers);
    if num_hidden_layers > MAX_LAYERS {
        return Err(Error::Input(format!("num_hidden_layers is {num_hidden_layers}; expected 1 to {MAX_LAYERS}")));
    }
    let activation = match keys.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Activation::Silu,
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        act => {
            let what = format!("hidden_act {act:?} is not supported; supported are silu and gelu_pytorch_tanh");
            return Err(Error::Input(what));
        }
    };
    Ok(Arch {
        model_type: model_type.into(),
        vocab_size: keys.size("vocab_size")?.unwrap_or(defaults.vocab_size),
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?.unwrap_or(defaults.intermediate_size),
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings: keys.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings),
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps) as f32,
        ropes: Vec::new(),
        layers: vec![Layer { window: None, rope: Some(0) }; num_hidden_layers],
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(defaults.tie_word_embeddings),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        norm_plus_one: false,
        post_norms: false,
        activation,
        embedding_scale: 1.0,
        query_scale: None,
        pad_token_id: None,
        fused: false,
    })
}

/// Which blocks have a sliding window by `layer_types`, None where the key is missing.
fn sliding(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.typed("layer_types", "a list", Value::as_array)? else { return Ok(None) };
    if types.len() != layers {
        return Err(Error::Input(format!("layer_types has {} entries for {layers} blocks", types.len())));
    }
    let one = |t: &Value| match t.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::Input(format!("layer_types: expected sliding_attention or full_attention, found {t}"))),
    };
    types.iter().map(one).collect::<Result<_>>().map(Some)
}

/// Gives `window` to the blocks that slide.
fn set_windows(arch: &mut Arch, slides: &[bool], window: Option<usize>) -> Result<()> {
    if slides.contains(&true) && window.is_none() {
        return Err(Error::Input("layer_types asks for sliding_attention, but sliding_window is not given".into()));
    }
    for (layer, slides) in arch.layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| *slides);
    }
    Ok(())
}

/// `sliding_window` of a class that has a default for it; null means none.
fn window(keys: &Keys<'_>, default: Option<usize>) -> Result<Option<usize>> {
    Ok(keys.size("sliding_window")?.or(if keys.0.get("sliding_window").is_some() { None } else { default }))
}

/// Qwen's window: used if `use_sliding_window`, in the blocks that `layer_types` names, else from `max_window_layers` on.
fn qwen_windows(keys: &Keys<'_>, arch: &mut Arch) -> Result<()> {
    if !keys.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let window = window(keys, Some(4096))?;
    let layers = arch.num_hidden_layers;
    let from = keys.size("max_window_layers")?.unwrap_or(28);
    let slides = sliding(keys, layers)?.unwrap_or_else(|| (0..layers).map(|i| window.is_some() && i >= from).collect());
    set_windows(arch, &slides, window)
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
        assert!(llama.contains("of 9 channels"), "36 / 4 is odd: {llama}");
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
    fn windows_are_those_of_the_layers_named() {
        let windows = |family: &str, changes: Value| {
            let config = with(with(tiny(family), json!({"head_dim": 12})), changes);
            arch(&config).map(|a| a.layers.iter().map(|l| l.window).collect::<Vec<_>>())
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
            a.layers.iter().map(|l| l.rope).collect::<Vec<_>>()
        };
        assert_eq!(ropes(json!({})), [Some(0), Some(0), Some(0), None, Some(0)]);
        assert_eq!(ropes(json!({"no_rope_layer_interval": 2})), [Some(0), None, Some(0), None, Some(0)]);
        assert_eq!(ropes(json!({"no_rope_layers": [0, 1, 1, 0, 1]})), [None, Some(0), Some(0), None, Some(0)]);
    }

    #[test]
    fn unknown_types_list_the_known_ones() {
        let error = arch(&tiny("mamba")).unwrap_err().to_string();
        assert_eq!(
            error,
            "model_type \"mamba\" is not known; known are gemma3_text, llama, mistral, phi3, qwen2, qwen3, smollm3"
        );
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
