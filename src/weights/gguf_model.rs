//! What a GGUF file means: its tensors under Hugging Face's names and its metadata as a config.json.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::{Gguf, GgufTensor, GgufValue};
use super::{Dtype, Entry, Mapped, Weights};
use crate::{Error, Result};

/// The architectures that can be read: GGUF's name is also config.json's `model_type`.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// A GGUF file as a model.
pub(super) struct GgufModel {
    pub(super) gguf: Gguf,
    pub(super) weights: Weights,
    /// As Hugging Face's config.json would say it.
    pub(super) config: Value,
    pub(super) generation_config: Value,
}

/// Reads a GGUF file.
pub(super) fn open(path: &Path) -> Result<GgufModel> {
    let file = Mapped::open(path)?;
    let gguf = Gguf::parse(&file)?;
    let head = Head { path, gguf: &gguf, architecture: architecture(path, &gguf)? };
    let mut weights = Weights { files: vec![file], ..Weights::default() };
    // llama.cpp interleaves the two halves of each head for this architecture only.
    let interleaved = head.architecture == "llama";
    let (heads, kv_heads) = head.heads()?;
    for tensor in &gguf.tensors {
        let Some(name) = hugging_face_name(&tensor.name) else { continue };
        if weights.contains(&name) {
            return Err(Error::file(path, format!("tensor {} is there twice", tensor.name)));
        }
        let heads_of = if name.contains(".q_proj.") { heads } else { kv_heads };
        let permuted = interleaved && (name.contains(".q_proj.") || name.contains(".k_proj."));
        if permuted && tensor.shape[0] % (2 * heads_of) != 0 {
            let what =
                format!("tensor {}: {} rows cannot be split into {heads_of} heads", tensor.name, tensor.shape[0]);
            return Err(Error::file(path, what));
        }
        let blocks = tensor.dtype.as_ref().map_or(1, |dtype| dtype.block().0);
        if permuted && tensor.shape.len() == 1 && blocks != 1 {
            return Err(Error::file(path, format!("tensor {}: a quantised bias cannot be reordered", tensor.name)));
        }
        let interleaved_heads = permuted.then_some(heads_of);
        let (dtype, shape, range) = (tensor.dtype.clone(), tensor.shape.clone(), tensor.range.clone());
        weights.insert(name, Entry { file: 0, dtype, shape, range, interleaved_heads });
    }
    let config = head.config(&weights)?;
    let generation_config = head.generation_config();
    Ok(GgufModel { weights, config, generation_config, gguf })
}

fn architecture<'a>(path: &Path, gguf: &'a Gguf) -> Result<&'a str> {
    match gguf.get("general.architecture").and_then(GgufValue::as_str) {
        Some(name) if ARCHITECTURES.contains(&name) => Ok(name),
        Some(name) => {
            let known = ARCHITECTURES.join(", ");
            Err(Error::file(path, format!("general.architecture is {name:?}; known in GGUF files are {known}")))
        }
        None => Err(Error::file(path, "general.architecture is missing; it is not a language model's GGUF file")),
    }
}

/// The Hugging Face name of a GGUF tensor, `None` for what has none (`rope_freqs.weight`).
fn hugging_face_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.into());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

/// Puts rows that alternate between the halves of each head (2i, 2i + 1) back into Hugging Face's order (i, i + hd / 2).
/// Works on stored rows, so quantised ones stay as they are.
pub(super) fn hugging_face_rows(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let (row, head_dim) = (data.len() / rows.max(1), rows / heads.max(1));
    for head in 0..heads {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let from = (head * head_dim + 2 * i + half) * row;
                out.extend_from_slice(&data[from..from + row]);
            }
        }
    }
    out
}

struct Head<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Head<'_> {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        self.gguf.get(&format!("{}.{key}", self.architecture))
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::file(self.path, format!("metadata {}.{key}: {what}", self.architecture))
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_usize() {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(key, &format!("expected one whole number, found {value:?}"))),
            },
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) => Ok(Some(x)),
                None => Err(self.wrong(key, "expected a number")),
            },
        }
    }

    /// Query heads, key and value heads.
    fn heads(&self) -> Result<(usize, usize)> {
        let heads = self.required("attention.head_count")?;
        let kv = self.count("attention.head_count_kv")?.unwrap_or(heads);
        if heads == 0 || kv == 0 || heads > 1 << 16 || kv > 1 << 16 {
            return Err(
                self.wrong("attention.head_count", &format!("{heads} query and {kv} key heads are not possible"))
            );
        }
        Ok((heads, kv))
    }

    fn config(&self, weights: &Weights) -> Result<Value> {
        if self.count("expert_count")?.unwrap_or(0) > 0 {
            return Err(self.wrong("expert_count", "mixtures of experts are not supported"));
        }
        let hidden = self.required("embedding_length")?;
        let (heads, kv_heads) = self.heads()?;
        let rotated = self.count("rope.dimension_count")?;
        let head_dim = self.count("attention.key_length")?.or(rotated).unwrap_or(hidden / heads);
        for (key, found) in
            [("rope.dimension_count", rotated), ("attention.value_length", self.count("attention.value_length")?)]
        {
            if found.is_some_and(|n| n != head_dim) {
                return Err(
                    self.wrong(key, &format!("differs from the head's {head_dim} channels, which is not supported"))
                );
            }
        }
        let embedding = weights.shape("model.embed_tokens.weight");
        let Some([vocab_size, _]) = embedding else {
            return Err(Error::file(self.path, "tensor token_embd.weight is missing or is no matrix"));
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.into(), value);
        set("architectures", json!([crate::model::family::class_name(self.architecture)]));
        set("model_type", self.architecture.into());
        set("vocab_size", json!(vocab_size));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(self.required("feed_forward_length")?));
        set("num_hidden_layers", json!(self.required("block_count")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(kv_heads));
        set("head_dim", json!(head_dim));
        set("hidden_act", "silu".into());
        set("max_position_embeddings", json!(self.required("context_length")?));
        let eps = self.number("attention.layer_norm_rms_epsilon")?;
        set("rms_norm_eps", json!(eps.ok_or_else(|| self.wrong("attention.layer_norm_rms_epsilon", "is missing"))?));
        set("rope_parameters", self.rope(head_dim, weights)?);
        set("tie_word_embeddings", json!(!weights.contains("lm_head.weight")));
        let bias = |part: &str| weights.contains(&format!("model.layers.0.{part}.bias"));
        if self.architecture != "qwen2" {
            set("attention_bias", json!(bias("self_attn.q_proj")));
        }
        if self.architecture == "llama" {
            set("mlp_bias", json!(bias("mlp.gate_proj")));
        }
        for (key, id) in self.special_ids() {
            set(key, json!(id));
        }
        Ok(Value::Object(config))
    }

    fn rope(&self, head_dim: usize, weights: &Weights) -> Result<Value> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10000.0);
        let mut rope = json!({"rope_type": "default", "rope_theta": theta});
        match self.get("rope.scaling.type").and_then(GgufValue::as_str) {
            None | Some("none") => {}
            Some("linear") => {
                let factor = self.number("rope.scaling.factor")?;
                let factor = factor.ok_or_else(|| self.wrong("rope.scaling.factor", "is missing"))?;
                rope = json!({"rope_type": "linear", "rope_theta": theta, "factor": factor});
            }
            Some(other) => return Err(self.wrong("rope.scaling.type", &format!("{other} is not supported"))),
        }
        match self.gguf.tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight") {
            Some(tensor) => self.llama3_rope(theta, head_dim, tensor, &weights.files[0]),
            None => Ok(rope),
        }
    }

    /// Llama 3's converter stores one divisor for each frequency instead of the formula's parameters. The parameters that
    /// every published model has are tried, and accepted if they give the stored divisors.
    fn llama3_rope(&self, theta: f64, head_dim: usize, tensor: &GgufTensor, file: &Mapped) -> Result<Value> {
        let mut stored = Vec::new();
        if tensor.dtype == Ok(Dtype::F32) {
            Dtype::F32.dequantise(&file.map[tensor.range.clone()], &mut stored);
        }
        let factor = stored.iter().copied().fold(1.0f32, f32::max);
        let parameters = json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        });
        let scaled = crate::model::family::inv_freq(&json!({"rope_parameters": parameters}), head_dim)?;
        let plain = crate::model::family::inv_freq(&json!({"rope_parameters": {"rope_theta": theta}}), head_dim)?;
        let agrees = stored.len() == plain.len()
            && plain.iter().zip(&scaled).zip(&stored).all(|((p, s), f)| (p / s - f).abs() <= 1e-3 * f.abs());
        if agrees {
            Ok(parameters)
        } else {
            Err(Error::file(
                self.path,
                "tensor rope_freqs.weight: its divisors are not those of Llama 3's rope scaling",
            ))
        }
    }

    fn special_ids(&self) -> Vec<(&'static str, usize)> {
        [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")]
            .into_iter()
            .filter_map(|(key, stored)| Some((key, self.gguf.get(&format!("tokenizer.ggml.{stored}"))?.as_usize()?)))
            .collect()
    }

    fn generation_config(&self) -> Value {
        let ids = self.special_ids().into_iter().map(|(key, id)| (key.to_string(), json!(id)));
        Value::Object(ids.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        let cases = [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("blk.11.attn_q.bias", Some("model.layers.11.self_attn.q_proj.bias")),
            ("blk.0.ffn_down.weight", Some("model.layers.0.mlp.down_proj.weight")),
            ("blk.0.attn_k_norm.weight", Some("model.layers.0.self_attn.k_norm.weight")),
            ("blk.x.ffn_down.weight", None),
            ("blk.0.weight", None),
            ("rope_freqs.weight", None),
        ];
        for (gguf, want) in cases {
            assert_eq!(hugging_face_name(gguf).as_deref(), want, "{gguf}");
        }
    }

    #[test]
    fn rows_of_each_head_are_put_back() {
        // Two heads of four rows, two bytes a row; the halves of a head alternate in the file.
        let stored: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&row| [row, row + 100]).collect();
        let want: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        assert_eq!(hugging_face_rows(&stored, 8, 2), want);
    }
}
