//! What most families have in common, and the keys that several of them read alike.

use serde_json::Value;

use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family};
use crate::arch::layer::{Activation, Attention, Gated, Layer, Mixer, Mlp, Norms};
use crate::arch::shape::{Arch, Naming};
use crate::{Error, Result};

/// More blocks than any model has; keeps a damaged configuration from asking for endless names.
const MAX_LAYERS: usize = 4096;
/// More experts than any layer has, and more than any chooses for a position.
const MAX_EXPERTS: usize = 4096;
const MAX_CHOSEN: usize = 16;
/// Widths beyond this are damage; products of two of them still fit 64 bits.
const MAX_WIDTH: usize = 1 << 28;

/// The defaults of transformers' `LlamaConfig`.
pub(super) const LLAMA: Defaults = Defaults {
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

/// The defaults of transformers' `Qwen2Config`, which `Qwen3Config` has too, but for head_dim.
pub(super) const QWEN: Defaults = Defaults {
    vocab_size: 151936,
    intermediate_size: 22016,
    num_key_value_heads: Some(32),
    max_position_embeddings: 32768,
    ..LLAMA
};

/// A family without peculiarities.
pub(super) const PLAIN: Family = Family {
    name: "",
    model_type: "",
    class: "",
    peculiar: "",
    whole: None,
    whole_ties: true,
    pad_token_id: None,
    activation: ("hidden_act", "silu"),
    naming: Naming::Apart,
    eps: "rms_norm_eps",
    turns_part: false,
    tokenizer_as_written: false,
    defaults: LLAMA,
    usual_rope: None,
    arch: common,
    gguf: None,
};

/// An [`Arch`] without the families' peculiarities: no biases, no windows, one rope of the configuration's own for all
/// blocks.
pub(super) fn common(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let (arch, attention) = sizes(keys, family)?;
    let context = rope::RopeContext {
        head_dim: attention.head_dim,
        theta: family.defaults.rope_theta,
        longest: arch.max_position_embeddings,
        original: keys.size("original_max_position_embeddings")?.or(family.defaults.original_max_position_embeddings),
    };
    let rope = rope::rope(keys, &context)?;
    if 2 * rope.inv_freq.len() != attention.head_dim && !family.turns_part {
        return Err(Error::Input(format!(
            "{} of {} channels of a head would turn; {} turns all of them",
            2 * rope.inv_freq.len(),
            attention.head_dim,
            family.model_type
        )));
    }
    Ok(Arch { ropes: vec![rope], ..arch })
}

/// The [`Arch`] that [`common`] gives, but without ropes, and the attention that all its blocks have.
pub(super) fn sizes(keys: &Keys<'_>, family: &Family) -> Result<(Arch, Attention)> {
    let defaults = &family.defaults;
    let hidden_size = keys.size("hidden_size")?.unwrap_or(defaults.hidden_size);
    let heads = keys.size("num_attention_heads")?.unwrap_or(defaults.num_attention_heads);
    // null means as many as query heads; only a missing key takes the class's default.
    let kv_heads = keys.size_or("num_key_value_heads", defaults.num_key_value_heads)?.unwrap_or(heads);
    let head_dim = match keys.size_or("head_dim", defaults.head_dim)? {
        Some(head_dim) => head_dim,
        None if heads == 0 || hidden_size % heads != 0 => {
            let what = format!("hidden_size {hidden_size} is no multiple of num_attention_heads {heads}");
            return Err(Error::Input(format!("{what}, and head_dim is not given")));
        }
        None => hidden_size / heads,
    };
    if head_dim == 0 || head_dim > 1 << 16 {
        return Err(Error::Input(format!("head_dim is {head_dim}; expected 1 to 65536")));
    }
    let num_hidden_layers = keys.size("num_hidden_layers")?.unwrap_or(defaults.num_hidden_layers);
    if num_hidden_layers == 0 || num_hidden_layers > MAX_LAYERS {
        return Err(Error::Input(format!("num_hidden_layers is {num_hidden_layers}; expected 1 to {MAX_LAYERS}")));
    }
    let (key, default) = family.activation;
    let act = keys.text(key)?.unwrap_or(default);
    let activation = Activation::named(act).ok_or_else(|| {
        Error::Input(format!("{key} {act:?} is not supported; supported are silu and gelu_pytorch_tanh"))
    })?;
    let attention = Attention {
        heads,
        kv_heads,
        head_dim,
        window: None,
        rope: Some(0),
        qkv_bias: false,
        o_bias: false,
        qk_norm: None,
        query_scale: None,
        score_cap: None,
        query_growth: None,
        output_gate: false,
        sinks: false,
    };
    let width = keys.size("intermediate_size")?.unwrap_or(defaults.intermediate_size);
    let layer = Layer {
        mixer: Mixer::Attention(attention.clone()),
        norms: Norms::Before,
        mlp: Mlp::Gated(Gated { width, activation, bias: false }),
    };
    let arch = Arch {
        model_type: family.model_type.into(),
        vocab_size: keys.size("vocab_size")?.unwrap_or(defaults.vocab_size),
        hidden_size,
        max_position_embeddings: keys.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings),
        rms_norm_eps: keys.number(family.eps)?.unwrap_or(defaults.rms_norm_eps) as f32,
        norm_plus_one: false,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logit_cap: None,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(defaults.tie_word_embeddings),
        pad_token_id: None,
        router_aux_loss_coef: 0.0,
        ropes: Vec::new(),
        layers: vec![layer; num_hidden_layers],
        naming: family.naming,
    };
    Ok((Arch { pad_token_id: pad_token(keys, family, arch.vocab_size)?, ..arch }, attention))
}

/// `pad_token_id`, by the class's default where the key is missing; torch counts negative ones from the end.
fn pad_token(keys: &Keys<'_>, family: &Family, vocabulary: usize) -> Result<Option<u32>> {
    let id = match keys.0.get("pad_token_id") {
        Some(Value::Null) => None,
        Some(value) => {
            let wrong = || Error::Input(format!("pad_token_id is {value}; expected a token id or null"));
            Some(value.as_i64().ok_or_else(wrong)?)
        }
        None => family.pad_token_id.map(i64::from),
    };
    let id = id.map(|id| if id < 0 { id + vocabulary as i64 } else { id });
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocabulary))
}

/// Refuses sizes that contradict one another and what is not built.
pub(super) fn check(keys: &Keys<'_>, arch: &Arch) -> Result<()> {
    let wrong = |what: String| Err(Error::Input(what));
    let within = |key: &str, n: usize, most: usize| match n == 0 || n > most {
        true => Err(Error::Input(format!("{key} is {n}; expected 1 to {most}"))),
        false => Ok(()),
    };
    within("vocab_size", arch.vocab_size, MAX_WIDTH)?;
    within("hidden_size", arch.hidden_size, MAX_WIDTH)?;
    within("max_position_embeddings", arch.max_position_embeddings, MAX_WIDTH)?;
    within("num_hidden_layers", arch.layers.len(), MAX_LAYERS)?;
    for layer in &arch.layers {
        match &layer.mlp {
            Mlp::Gated(mlp) => within("intermediate_size", mlp.width, MAX_WIDTH)?,
            Mlp::Experts(mlp) => {
                within("the experts' intermediate size", mlp.width, MAX_WIDTH)?;
                within("num_experts", mlp.count, MAX_EXPERTS)?;
                within("num_experts_per_tok", mlp.chosen, mlp.count.min(MAX_CHOSEN))?;
            }
        }
        let Mixer::Attention(attention) = &layer.mixer else { continue };
        let (heads, kv) = (attention.heads, attention.kv_heads);
        within("num_attention_heads", heads, 1 << 16)?;
        within("num_key_value_heads", kv, 1 << 16)?;
        within("head_dim", attention.head_dim, 1 << 16)?;
        if heads % kv != 0 {
            return wrong(format!("num_attention_heads {heads} is no multiple of num_key_value_heads {kv}"));
        }
        if attention.window == Some(0) {
            return wrong("sliding_window is 0; expected 1 or more, or null".into());
        }
    }
    if arch.rms_norm_eps.is_nan() || arch.rms_norm_eps < 0.0 || arch.rms_norm_eps.is_infinite() {
        return wrong(format!("the norms' eps is {}; expected a small positive number", arch.rms_norm_eps));
    }
    if let Some(config) = keys.value("quantization_config") {
        let method = Keys(config).text("quant_method")?.unwrap_or_default();
        if arch.naming != Naming::Stacked || method != "mxfp4" {
            let what = "quantised Hugging Face folders are not read, but for gpt-oss in mxfp4; use a GGUF file";
            return wrong(format!("quantization_config: {what}"));
        }
    }
    Ok(())
}

/// The attention of every block that has one.
pub(super) fn attentions(arch: &mut Arch) -> impl Iterator<Item = &mut Attention> {
    arch.layers.iter_mut().filter_map(|layer| match &mut layer.mixer {
        Mixer::Attention(attention) => Some(attention),
        Mixer::ShortConv(_) | Mixer::DeltaNet(_) => None,
    })
}

/// Biases of every block's attention (q, k and v; the output) and of its MLP.
pub(super) fn set_biases(arch: &mut Arch, [qkv, output, mlp]: [bool; 3]) {
    attentions(arch).for_each(|attention| (attention.qkv_bias, attention.o_bias) = (qkv, output));
    for layer in &mut arch.layers {
        if let Mlp::Gated(gated) = &mut layer.mlp {
            gated.bias = mlp;
        }
    }
}

/// Which blocks have a sliding window by `layer_types`, None where the key is missing.
pub(super) fn sliding(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    of_type(keys, layers, &["sliding_attention"])
}

/// Which blocks `layer_types` gives one of these names, where all others have `full_attention`; None where the key is
/// missing.
pub(super) fn of_type(keys: &Keys<'_>, layers: usize, names: &[&str]) -> Result<Option<Vec<bool>>> {
    let Some(types) = by_block(keys, "layer_types", layers)? else { return Ok(None) };
    let one = |t: &Value| match t.as_str() {
        Some("full_attention") => Ok(false),
        Some(name) if names.contains(&name) => Ok(true),
        _ => Err(Error::Input(format!("layer_types: expected {} or full_attention, found {t}", names[0]))),
    };
    types.iter().map(one).collect::<Result<_>>().map(Some)
}

/// Puts another mixer in the place of the attention of some blocks, not of all.
pub(super) fn set_mixers(arch: &mut Arch, others: &[bool], mixer: &Mixer) -> Result<()> {
    if !others.contains(&false) {
        return Err(Error::Input("layer_types: no block has attention; expected at least one".into()));
    }
    for (layer, _) in arch.layers.iter_mut().zip(others).filter(|(_, other)| **other) {
        layer.mixer = mixer.clone();
    }
    Ok(())
}

/// A number that is above 0 as an f32, which it becomes.
pub(super) fn positive(key: &str, x: f64) -> Result<f64> {
    match (x as f32).is_normal() && x > 0.0 {
        true => Ok(x),
        false => Err(Error::Input(format!("{key} is {x}; expected a positive number"))),
    }
}

/// A list with an entry for each block, None where the key is missing.
pub(super) fn by_block<'a>(keys: &Keys<'a>, key: &str, layers: usize) -> Result<Option<&'a [Value]>> {
    match keys.typed(key, "a list", Value::as_array)? {
        Some(list) if list.len() != layers => {
            Err(Error::Input(format!("{key} has {} entries for {layers} blocks", list.len())))
        }
        list => Ok(list.map(Vec::as_slice)),
    }
}

/// Gives `window` to the blocks that slide.
pub(super) fn set_windows(arch: &mut Arch, slides: &[bool], window: Option<usize>) -> Result<()> {
    if slides.contains(&true) && window.is_none() {
        return Err(Error::Input("layer_types asks for sliding_attention, but sliding_window is not given".into()));
    }
    for (attention, slides) in attentions(arch).zip(slides) {
        attention.window = window.filter(|_| *slides);
    }
    Ok(())
}

/// Gives every block the same window, if there is one.
pub(super) fn set_window(arch: &mut Arch, window: Option<usize>) {
    attentions(arch).for_each(|attention| attention.window = window);
}

/// `sliding_window` of a class that has a default for it; null means none.
pub(super) fn window(keys: &Keys<'_>, default: Option<usize>) -> Result<Option<usize>> {
    keys.size_or("sliding_window", default)
}

/// Qwen's window: used if `use_sliding_window`, in the blocks that `layer_types` names, else from `max_window_layers`
/// on.
pub(super) fn qwen_windows(keys: &Keys<'_>, arch: &mut Arch) -> Result<()> {
    if !keys.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let window = window(keys, Some(4096))?;
    let layers = arch.layers.len();
    let from = keys.size("max_window_layers")?.unwrap_or(28);
    let slides = sliding(keys, layers)?.unwrap_or_else(|| (0..layers).map(|i| window.is_some() && i >= from).collect());
    set_windows(arch, &slides, window)
}
