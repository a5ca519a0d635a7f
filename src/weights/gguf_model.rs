//! What a GGUF file means: its tensors under Hugging Face's names and its metadata as a config.json.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::{Gguf, GgufTensor, GgufValue};
use super::gguf_delta::Reordered;
use super::gguf_lora::{self, GgufAdapter};
use super::gguf_names::{is_convolution, of_expert};
use super::gguf_parts;
use super::tensors::{Change, Entry, Mapped, Weights};
use crate::arch::family::{self, FAMILIES, Family, Windows, Within};
use crate::arch::{DeltaNet, Dtype};
use crate::text::ends;
use crate::{Error, Result};

/// More blocks than any model has.
const MAX_LAYERS: usize = 4096;

/// A GGUF file as a model.
pub(crate) struct GgufModel {
    pub(crate) gguf: Gguf,
    pub(crate) weights: Weights,
    /// The configuration, as Hugging Face's config.json would say it.
    pub(crate) config: Value,
    pub(crate) generation_config: Value,
}

/// What a GGUF file holds.
pub(crate) enum GgufFile {
    Model(GgufModel),
    Adapter(GgufAdapter),
}

/// Reads a GGUF file, in one or in several parts.
pub(crate) fn open(path: &Path) -> Result<GgufFile> {
    let mut parts = gguf_parts::open(path)?;
    if gguf_lora::is_adapter(&parts[0].1) {
        return Ok(GgufFile::Adapter(GgufAdapter::new(path, parts.swap_remove(0))));
    }
    model(path, parts).map(GgufFile::Model)
}

fn model(path: &Path, parts: Vec<gguf_parts::OpenedPart>) -> Result<GgufModel> {
    let mut weights = Weights::default();
    let mut heads_of_files = Vec::new();
    for (file, head) in parts {
        weights.files.push(file);
        heads_of_files.push(head);
    }
    let mut tensors = Vec::new();
    for (file, head) in heads_of_files.iter_mut().enumerate() {
        tensors.extend(std::mem::take(&mut head.tensors).into_iter().map(|tensor| (file, tensor)));
    }
    let gguf = heads_of_files.swap_remove(0);
    let (family, known) = family(path, &gguf)?;
    let head = Head { path, gguf: &gguf, tensors: &tensors, family, known };
    let (heads, kv_heads) = head.heads()?;
    let net = head.delta_net()?;
    for (file, tensor) in &tensors {
        if let Some((layer, part)) = head.known.stack(&tensor.name) {
            for (expert, entry) in unstacked(path, *file, tensor)?.into_iter().enumerate() {
                weights.insert(of_expert(layer, expert, &part), entry);
            }
            continue;
        }
        let Some(name) = head.known.hugging_face(&tensor.name) else { continue };
        if weights.contains(&name) {
            return Err(Error::file(path, format!("tensor {} is there twice", tensor.name)));
        }
        let heads_of = if name.contains(".q_proj.") { heads } else { kv_heads };
        let interleaved = head.known.is_interleaved(&name);
        if interleaved && tensor.shape[0] % (2 * heads_of) != 0 {
            let what =
                format!("tensor {}: {} rows cannot be split into {heads_of} heads", tensor.name, tensor.shape[0]);
            return Err(Error::file(path, what));
        }
        let blocks = tensor.dtype.as_ref().map_or(1, |dtype| dtype.block().0);
        if interleaved && tensor.shape.len() == 1 && blocks != 1 {
            return Err(Error::file(path, format!("tensor {}: a quantised bias cannot be reordered", tensor.name)));
        }
        let reordered = net.as_ref().and_then(|net| Reordered::of(&name, net));
        if let Some(reordered) = reordered {
            let fits = reordered.fits(&tensor.shape, tensor.dtype.as_ref().ok());
            fits.map_err(|what| Error::file(path, format!("tensor {}: {what}", tensor.name)))?;
        }
        let change = match (interleaved, head.known.is_plus_one(&name), reordered) {
            (true, ..) => Change::Interleaved(heads_of),
            (false, true, _) => Change::PlusOne,
            (false, false, Some(reordered)) => Change::Reordered(reordered),
            (false, false, None) => Change::None,
        };
        let (dtype, mut shape, range) = (tensor.dtype.clone(), tensor.shape.clone(), tensor.range.clone());
        if is_convolution(&name) && shape.len() == 2 {
            shape.insert(1, 1);
        }
        weights.insert(name, Entry { file: *file, dtype, shape, range, change });
    }
    let config = head.config(&weights)?;
    let generation_config = head.generation_config();
    Ok(GgufModel { weights, config, generation_config, gguf })
}

/// The matrices of a stack `[E, out, in]`, or the biases of one `[E, out]`.
fn unstacked(path: &Path, file: usize, tensor: &GgufTensor) -> Result<Vec<Entry>> {
    let [experts, ref shape @ ..] = tensor.shape[..] else { return Ok(Vec::new()) };
    let bytes = tensor.range.len() / experts.max(1);
    let axes = if tensor.name.ends_with(".bias") { 1 } else { 2 };
    if shape.len() != axes || bytes * experts != tensor.range.len() {
        let what = format!("tensor {}: shape {:?} is no stack of experts' parts", tensor.name, tensor.shape);
        return Err(Error::file(path, what));
    }
    let one = |expert: usize| {
        let first = tensor.range.start + expert * bytes;
        let (dtype, shape) = (tensor.dtype.clone(), shape.to_vec());
        Entry { file, dtype, shape, range: first..first + bytes, change: Change::None }
    };
    Ok((0..experts).map(one).collect())
}

/// The family of a file, and what its row says of such files. Of families that share an architecture it is the one with
/// a window if the file has one, else the first.
fn family(path: &Path, gguf: &Gguf) -> Result<(&'static Family, &'static family::GgufFamily)> {
    let Some(name) = gguf.get("general.architecture").and_then(GgufValue::as_str) else {
        return Err(Error::file(path, "general.architecture is missing; it is not a language model's GGUF file"));
    };
    let windowed = gguf.get(&format!("{name}.attention.sliding_window")).and_then(GgufValue::as_usize).unwrap_or(0) > 0;
    let all = FAMILIES.iter().filter_map(|family| Some((family, family.gguf.as_ref()?)));
    let mut fitting = all.clone().filter(|(_, known)| known.architecture == name);
    match (fitting.next(), fitting.find(|(_, known)| !matches!(known.windows, Windows::Never))) {
        (_, Some(second)) if windowed => Ok(second),
        (Some(first), _) => Ok(first),
        (None, _) => {
            let mut known: Vec<&str> = all.map(|(_, known)| known.architecture).collect();
            known.sort_unstable();
            known.dedup();
            let near = family::nearest(name, known.iter().copied());
            let near = near.map_or(String::new(), |near| format!("the nearest that is read is {near:?}; "));
            let known = known.join(", ");
            Err(Error::file(path, format!("general.architecture is {name:?}; {near}known in GGUF files are {known}")))
        }
    }
}

struct Head<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    /// The tensors of all parts, each with the number of its file.
    tensors: &'a [(usize, GgufTensor)],
    family: &'static Family,
    /// What the family's row says of GGUF files.
    known: &'static family::GgufFamily,
}

impl Head<'_> {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        self.gguf.get(&format!("{}.{key}", self.known.architecture))
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::file(self.path, format!("metadata {}.{key}: {what}", self.known.architecture))
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

    /// The numbers of query heads and of key and value heads.
    fn heads(&self) -> Result<(usize, usize)> {
        let heads = self.required("attention.head_count")?;
        let kv = match self.convolutions()? {
            // Blocks with attention have as many as one another.
            Some(of_blocks) => of_blocks.into_iter().max().unwrap_or(0),
            None => self.count("attention.head_count_kv")?.unwrap_or(heads),
        };
        if heads == 0 || kv == 0 || heads > 1 << 16 || kv > 1 << 16 {
            return Err(
                self.wrong("attention.head_count", &format!("{heads} query and {kv} key heads are not possible"))
            );
        }
        Ok((heads, kv))
    }

    /// The number of key heads of each block, of which those that are convolutions have none.
    fn convolutions(&self) -> Result<Option<Vec<usize>>> {
        let Some(GgufValue::Array(list)) = self.get("attention.head_count_kv").filter(|_| self.known.convolves) else {
            return Ok(None);
        };
        let all: Option<Vec<usize>> = list.iter().map(GgufValue::as_usize).collect();
        let fits = |all: &Vec<usize>| {
            let most = all.iter().copied().max().unwrap_or(0);
            all.iter().all(|n| *n == 0 || *n == most) && Some(all.len()) == self.count("block_count").ok().flatten()
        };
        let wrong = || self.wrong("attention.head_count_kv", "expected one number for each block: 0, or as many heads");
        Ok(Some(all.filter(fits).ok_or_else(wrong)?))
    }

    /// How many blocks compute tokens; behind them there may be some that guess further ones.
    fn blocks(&self) -> Result<usize> {
        let guess = if self.known.nets { self.count("nextn_predict_layers")?.unwrap_or(0) } else { 0 };
        Ok(self.required("block_count")?.saturating_sub(guess))
    }

    /// The gated delta net of the blocks without attention, in a family that has such blocks.
    fn delta_net(&self) -> Result<Option<DeltaNet>> {
        if !self.known.nets {
            return Ok(None);
        }
        let size = |key: &str, most: usize| match self.required(key)? {
            size if (1..=most).contains(&size) => Ok(size),
            size => Err(self.wrong(key, &format!("is {size}; expected 1 to {most}"))),
        };
        let [key_heads, value_heads, key_dim] =
            ["ssm.group_count", "ssm.time_step_rank", "ssm.state_size"].map(|key| size(key, 1 << 14));
        let (key_heads, value_heads, key_dim) = (key_heads?, value_heads?, key_dim?);
        let (width, taps) = (size("ssm.inner_size", 1 << 24)?, size("ssm.conv_kernel", 1 << 14)?);
        if !value_heads.is_multiple_of(key_heads) || !width.is_multiple_of(value_heads) {
            let what =
                format!("{value_heads} heads of values, {key_heads} of keys and a width of {width}: no multiples");
            return Err(self.wrong("ssm.time_step_rank", &what));
        }
        Ok(Some(DeltaNet { key_heads, value_heads, key_dim, value_dim: width / value_heads, taps }))
    }

    /// `layer_types` where every n-th block has attention and the others a delta net.
    fn net_types(&self) -> Result<Value> {
        let (blocks, interval) = (self.blocks()?, self.count("full_attention_interval")?.unwrap_or(4).max(1));
        if blocks > MAX_LAYERS {
            return Err(self.wrong("block_count", &format!("is {blocks}; up to {MAX_LAYERS} are possible")));
        }
        let kind = |attends: bool| if attends { "full_attention" } else { "linear_attention" };
        let given = self.get("attention.recurrent_layers").and_then(GgufValue::as_array);
        let recurrent = |value: &GgufValue| value.as_bool().or(value.as_usize().map(|n| n > 0));
        let given = given.map(|list| list.iter().take(blocks).map(recurrent).collect::<Option<Vec<bool>>>());
        match given {
            None => Ok((1..=blocks).map(|block| kind(block % interval == 0)).collect()),
            Some(Some(list)) if list.len() == blocks => Ok(list.iter().map(|recurrent| kind(!recurrent)).collect()),
            Some(_) => Err(self.wrong("attention.recurrent_layers", "expected one truth value for each block")),
        }
    }

    fn config(&self, weights: &Weights) -> Result<Value> {
        if self.known.experts.is_none() && self.count("expert_count")?.unwrap_or(0) > 0 {
            return Err(self.wrong("expert_count", "experts are not read in this family"));
        }
        let hidden = self.required("embedding_length")?;
        let (heads, kv_heads) = self.heads()?;
        let rotated = self.count("rope.dimension_count")?;
        let of_rotation = rotated.filter(|_| !self.family.turns_part);
        let head_dim = self.count("attention.key_length")?.or(of_rotation).unwrap_or(hidden / heads);
        let differs = |key: &str| {
            Err(self.wrong(key, &format!("differs from the head's {head_dim} channels, which is not supported")))
        };
        if self.count("attention.value_length")?.is_some_and(|n| n != head_dim) {
            return differs("attention.value_length");
        }
        if of_rotation.is_some_and(|n| n != head_dim) {
            return differs("rope.dimension_count");
        }
        let embedding = weights.shape("model.embed_tokens.weight");
        let Some([vocab_size, _]) = embedding else {
            return Err(Error::file(self.path, "tensor token_embd.weight is missing or is no matrix"));
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| {
            config.insert(key.into(), value);
        };
        set("architectures", json!([self.family.class]));
        set("model_type", self.family.model_type.into());
        set("vocab_size", json!(vocab_size));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(self.required("feed_forward_length")?));
        set("num_hidden_layers", json!(self.blocks()?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(kv_heads));
        set("head_dim", json!(head_dim));
        let (activation, of_the_graph) = self.family.activation;
        set(activation, of_the_graph.into());
        set("max_position_embeddings", json!(self.required("context_length")?));
        let eps = self.number("attention.layer_norm_rms_epsilon")?;
        set(self.family.eps, json!(eps.ok_or_else(|| self.wrong("attention.layer_norm_rms_epsilon", "is missing"))?));
        set("tie_word_embeddings", json!(!weights.contains("lm_head.weight")));
        let mut rope = self.rope(rotated.unwrap_or(head_dim), weights)?;
        if let Some(beta) = self.number("attention.temperature_scale")?.filter(|_| self.known.grows) {
            rope["llama_4_scaling_beta"] = json!(beta);
        }
        let window = self.count("attention.sliding_window")?.filter(|n| *n > 0);
        match self.known.windows {
            Windows::Never => set("rope_parameters", rope),
            Windows::Every { .. } => {
                set("sliding_window", json!(window));
                set("rope_parameters", rope);
            }
            Windows::Periodic { period, window: usual, within } => {
                set("sliding_window", json!(window.unwrap_or(usual)));
                set("layer_types", self.layer_types(period)?);
                let local = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
                let both = |local: Value| json!({"full_attention": rope, "sliding_attention": local});
                let parameters = match within {
                    Within::Alike => rope.clone(),
                    Within::Own(usual) => both(local(self.number("rope.freq_base_swa")?.unwrap_or(usual))),
                    Within::Unscaled => both(local(self.number("rope.freq_base")?.unwrap_or(10000.0))),
                };
                set("rope_parameters", parameters);
            }
        }
        if let Some(usual) = self.known.caps {
            for (key, usual) in ["attn_logit_softcapping", "final_logit_softcapping"].into_iter().zip(usual) {
                set(key, json!(self.number(key)?.unwrap_or(usual)));
            }
        }
        if let Some(normalised) = self.known.experts {
            let [count, width] = self.known.expert_keys;
            set(count, json!(self.required("expert_count")?));
            set("num_experts_per_tok", json!(self.required("expert_used_count")?));
            set("norm_topk_prob", json!(normalised));
            set("decoder_sparse_step", json!(1));
            if let Some(n) = self.count("expert_feed_forward_length")? {
                set(width, json!(n));
            }
        }
        if let Some(net) = self.delta_net()? {
            set("layer_types", self.net_types()?);
            set("linear_num_key_heads", json!(net.key_heads));
            set("linear_num_value_heads", json!(net.value_heads));
            set("linear_key_head_dim", json!(net.key_dim));
            set("linear_value_head_dim", json!(net.value_dim));
            set("linear_conv_kernel_dim", json!(net.taps));
        }
        if let Some(of_blocks) = self.convolutions()? {
            let kind = |heads: &usize| if *heads == 0 { "conv" } else { "full_attention" };
            set("layer_types", of_blocks.iter().map(kind).collect());
            set("conv_L_cache", json!(self.required("shortconv.l_cache")?));
            // The width is that of the file's matrices already.
            set("block_auto_adjust_ff_dim", json!(false));
        }
        if let Some(blocks) = self.known.scaled_by_width {
            let by_width = self.required("block_count")? == blocks;
            set("query_pre_attn_scalar", json!(if by_width { hidden / heads } else { head_dim }));
        }
        if self.known.two_ropes
            && let Some(length) = self.count("rope.scaling.original_context_length")?
        {
            set("original_max_position_embeddings", json!(length));
        }
        if self.family.turns_part {
            set("partial_rotary_factor", json!(rotated.unwrap_or(head_dim) as f64 / head_dim as f64));
        }
        for (key, stored) in self.known.multipliers {
            // As in llama.cpp's graphs, 0 is as good as none.
            let usual = if *stored == "attention.scale" { (head_dim as f64).powf(-0.5) } else { 1.0 };
            set(key, json!(self.number(stored)?.filter(|x| *x != 0.0).unwrap_or(usual)));
        }
        if self.get("rope.scaling.finetuned").and_then(GgufValue::as_bool) == Some(false) {
            return Err(self.wrong("rope.scaling.finetuned", "blocks without positions are not read here"));
        }
        for (key, module) in self.known.biases {
            set(key, json!(weights.contains(&format!("model.layers.0.{module}.bias"))));
        }
        // Where the key is missing, some of transformers' classes take a padding token that the vocabulary need not
        // have.
        set("pad_token_id", Value::Null);
        for (key, id) in self.special_ids() {
            set(key, json!(id));
        }
        Ok(Value::Object(config))
    }

    /// `layer_types` where every n-th block sees everything and the others a window.
    fn layer_types(&self, period: usize) -> Result<Value> {
        let layers = self.required("block_count")?;
        if layers > MAX_LAYERS {
            return Err(self.wrong("block_count", &format!("is {layers}; up to {MAX_LAYERS} are possible")));
        }
        let pattern = match self.get("attention.sliding_window_pattern").and_then(GgufValue::as_array) {
            Some(list) => list.iter().map(GgufValue::as_bool).collect::<Option<Vec<bool>>>(),
            None => {
                let period = self.count("attention.sliding_window_pattern")?.unwrap_or(period).max(1);
                Some((1..=layers).map(|layer| layer % period != 0).collect())
            }
        };
        let pattern = pattern.filter(|list| list.len() == layers).ok_or_else(|| {
            self.wrong("attention.sliding_window_pattern", &format!("expected a period or {layers} truth values"))
        })?;
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        Ok(pattern.iter().map(kind).collect())
    }

    /// `rotated` channels of each head turn.
    fn rope(&self, rotated: usize, weights: &Weights) -> Result<Value> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10000.0);
        let mut rope = json!({"rope_type": "default", "rope_theta": theta});
        let sections = self.get("rope.dimension_sections").and_then(GgufValue::as_array).filter(|_| self.known.nets);
        if let Some([of_time, of_height, of_width, ..]) = sections {
            let sections = [of_time, of_height, of_width].map(GgufValue::as_usize);
            (rope["mrope_section"], rope["mrope_interleaved"]) = (json!(sections), json!(true));
        }
        let scaling = |key: &str| self.number(&format!("rope.scaling.{key}"));
        let original = self.count("rope.scaling.original_context_length")?;
        match self.get("rope.scaling.type").and_then(GgufValue::as_str) {
            None | Some("none" | "longrope") => {}
            Some(kind @ ("linear" | "yarn")) => {
                let factor = scaling("factor")?.ok_or_else(|| self.wrong("rope.scaling.factor", "is missing"))?;
                rope["rope_type"] = kind.into();
                rope["factor"] = json!(factor);
                if kind == "yarn" {
                    rope["original_max_position_embeddings"] = json!(original);
                    if !self.known.ramp_is_cut {
                        rope["truncate"] = json!(false);
                    }
                    for (key, stored) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                        if let Some(value) = scaling(stored)? {
                            rope[key] = json!(value);
                        }
                    }
                    if let Some(divisor) = scaling("yarn_log_multiplier")?.filter(|x| self.known.grows && *x != 0.0) {
                        (rope["mscale"], rope["mscale_all_dim"]) = (json!(1.0), json!(divisor));
                    }
                }
            }
            Some(other) => return Err(self.wrong("rope.scaling.type", &format!("{other} is not supported"))),
        }
        let files = &weights.files;
        let short = self.divisors("rope_factors_short.weight", rotated, files)?;
        match (short, self.divisors("rope_factors_long.weight", rotated, files)?) {
            (Some(short), Some(long)) => {
                let (context, factor) = (self.required("context_length")?, scaling("attn_factor")?);
                rope = json!({"rope_type": "longrope", "rope_theta": theta, "short_factor": short, "long_factor": long,
                              "original_max_position_embeddings": original.unwrap_or(context)});
                if let Some(factor) = factor {
                    rope["attention_factor"] = json!(factor);
                }
                return Ok(rope);
            }
            (None, None) => {}
            _ => return Err(Error::file(self.path, "only one of the tensors rope_factors_short and _long is there")),
        }
        match self.divisors("rope_freqs.weight", rotated, files)? {
            Some(divisors) => self.divided_rope(theta, rotated, divisors),
            None => Ok(rope),
        }
    }

    /// A tensor of one divisor for each frequency.
    fn divisors(&self, name: &str, rotated: usize, files: &[Mapped]) -> Result<Option<Vec<f32>>> {
        let found = self.tensors.iter().find(|(_, tensor)| tensor.name == name);
        let Some((file, tensor)) = found else { return Ok(None) };
        let mut values = Vec::new();
        if tensor.dtype == Ok(Dtype::F32) {
            Dtype::F32.dequantise(&files[*file].part(tensor.range.clone())?, &mut values);
        }
        if values.len() != rotated / 2 || values.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
            let what = format!("tensor {name}: expected {} positive F32 values", rotated / 2);
            return Err(Error::file(self.path, what));
        }
        Ok(Some(values))
    }

    /// Llama 3's converter stores one divisor for each frequency instead of the formula's parameters. Those that
    /// published models have are tried; else longrope with equal lists says the same with the divisors themselves.
    fn divided_rope(&self, theta: f64, rotated: usize, divisors: Vec<f32>) -> Result<Value> {
        let inv_freq = |rope: &Value| crate::arch::family::inv_freq(&json!({"rope_parameters": rope}), rotated);
        let plain = inv_freq(&json!({"rope_theta": theta}))?;
        let factor = divisors.iter().copied().fold(1.0f32, f32::max);
        for original in (5..=20).map(|bits| 1u32 << bits) {
            let parameters = json!({
                "rope_type": "llama3", "rope_theta": theta, "factor": f64::from(factor), "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": original
            });
            let scaled = inv_freq(&parameters)?;
            if plain.iter().zip(&scaled).zip(&divisors).all(|((p, s), d)| (p / s - d).abs() <= 1e-5 * d) {
                return Ok(parameters);
            }
        }
        Ok(json!({"rope_type": "longrope", "rope_theta": theta, "attention_factor": 1.0, "short_factor": divisors,
                  "long_factor": divisors, "original_max_position_embeddings": self.required("context_length")?}))
    }

    fn special_ids(&self) -> Vec<(&'static str, usize)> {
        [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")]
            .into_iter()
            .filter_map(|(key, stored)| Some((key, self.gguf.get(&format!("tokenizer.ggml.{stored}"))?.as_usize()?)))
            .collect()
    }

    /// All ends of an answer that the file knows, by keys or by names.
    fn generation_config(&self) -> Value {
        let mut config: Map<String, Value> =
            self.special_ids().into_iter().map(|(key, id)| (key.to_string(), json!(id))).collect();
        let id = |key: &str| self.gguf.get(&format!("tokenizer.ggml.{key}_token_id"))?.as_usize();
        let tokens = self.gguf.get("tokenizer.ggml.tokens").and_then(GgufValue::as_array).unwrap_or_default();
        let named = ends::known(tokens.iter().map(|token| token.as_str().unwrap_or_default()).zip(0..));
        let mut ids: Vec<usize> =
            ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"].iter().filter_map(|k| id(k)).collect();
        ids.extend(named.into_iter().map(|id| id as usize));
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        if !ids.is_empty() {
            let one = json!(ids[0]);
            config.insert("eos_token_id".into(), if ids.len() == 1 { one } else { json!(ids) });
        }
        Value::Object(config)
    }
}
