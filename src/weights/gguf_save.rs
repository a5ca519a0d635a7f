//! Writing a model as a GGUF file that llama.cpp's graphs read: the reverse of `gguf_model`.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::gguf_delta::{self, Reordered};
use super::gguf_head::{GgufHead, TensorInfo};
use super::gguf_names::{gguf_rows, is_convolution};
use super::gguf_types::{GgufTypes, GgufWritten, encode, fitting};
use super::gguf_vocabulary;
use super::save::{self, GgufParts, ModelParts};
use crate::arch::family::{self, FAMILIES, Family, GgufFamily, Windows, Within};
use crate::arch::{Activation, Alike, Arch, Dtype, Layer, QueryGrowth, ShortConv};
use crate::{Error, Result};

/// Where a tensor's values come from.
enum Source {
    /// Hugging Face's name.
    Parameter(String),
    /// Of the parameter of this name one half of the rows, the first or the second.
    Half(String, usize),
    /// The matrices of so many experts one behind the other; of the first one Hugging Face's name.
    Stack(String, usize),
    Values(Vec<f32>),
}

/// Writes a GGUF file of tensors in memory, their matrices in `parts.dtype`. Returns sentences worth telling the user.
///
/// # Errors
/// As [`write_gguf`]; tensors that do not fit the configuration.
pub fn save_gguf(path: &Path, parts: &ModelParts<'_>) -> Result<Vec<String>> {
    save::check_tensors(parts)?;
    let ModelParts { config, generation_config, text, tensors, dtype } = *parts;
    let values = |name: &str, _: &[usize]| {
        let found = tensors.iter().find(|tensor| tensor.name == name);
        let missing = || Error::Bug(format!("tensor {name} was there before"));
        found.map(|tensor| Cow::Borrowed(tensor.data.as_slice())).ok_or_else(missing)
    };
    let types = GgufTypes::Each(dtype);
    Ok(write_gguf(path, &GgufParts { config, generation_config, text, types, values: &values })?.notes)
}

/// Writes a GGUF file, tensor by tensor: matrices in `parts.types`, or where their rows do not fit in the type that
/// llama.cpp takes instead, vectors in F32, with the tokenizer and the chat template. The file appears whole or not at
/// all.
///
/// # Errors
/// A family, rope scaling, window or tokenizer that GGUF's architectures cannot express; a type that is not written;
/// values beyond the storage type's range; what `parts.values` or the file system says.
pub fn write_gguf(path: &Path, parts: &GgufParts<'_>) -> Result<GgufWritten> {
    let arch = family::arch(parts.config)?;
    let alike = arch.alike()?;
    let (family, known) = of_gguf(&arch)?;
    let Some(kind) = parts.types.number() else {
        let written: Vec<&str> = Dtype::all().filter(|dtype| dtype.is_written()).map(Dtype::name).collect();
        let (written, name) = (written.join(", "), parts.types.name());
        return Err(Error::Input(format!("GGUF files are written as {written}, not {name}")));
    };
    let mut head = GgufHead::default();
    head.string("general.architecture", known.architecture);
    head.string("general.type", "model");
    // Not the model type: transformers takes a file whose name is "mistral" for an architecture that its reader lacks.
    let name = parts.text.map(|text| gguf_vocabulary::model_name(family.class, text)).transpose()?;
    head.string("general.name", name.as_deref().unwrap_or(family.class));
    head.count("general.file_type", kind)?;
    if parts.types.most().block().0 > 1 {
        head.count("general.quantization_version", 2)?;
    }
    let (extra, notes) = (Vec::new(), Vec::new());
    let config = &family::with_usual(parts.config, family);
    let mut writer = Model { head, family, known, arch: &arch, alike, config, extra, notes };
    writer.shape()?;
    writer.family_keys()?;
    let Model { mut head, extra, notes, .. } = writer;
    let mut written = GgufWritten { notes, ..GgufWritten::default() };
    written.notes.extend(gguf_vocabulary::write(&mut head, parts, arch.vocab_size)?);
    let mut list = Vec::new();
    for (parameter, shape) in family::parameters(&arch) {
        let mut add = |name: String, shape: Vec<usize>, source: Source| {
            let of_taps = matches!(&source, Source::Parameter(name) if is_convolution(name));
            let (wanted, width) = match shape[..] {
                [.., _, width] if !of_taps && !name.ends_with(".bias") => {
                    (parts.types.wanted(&name, &arch, known), width)
                }
                _ => (Dtype::F32, 1),
            };
            let dtype = fitting(wanted, width);
            written.count(&name, width, wanted, dtype);
            list.push((TensorInfo { name, shape, dtype }, source));
        };
        if let Some(halves) = known.stored_halves(&parameter) {
            for (half, name) in halves.into_iter().enumerate() {
                let shape = [&[shape[0] / 2], &shape[1..]].concat();
                add(name, shape, Source::Half(parameter.clone(), half));
            }
            continue;
        }
        if let Some((name, expert)) = known.stacked(&parameter) {
            if let (0, Some(mlp)) = (expert, arch.layers.iter().find_map(|layer| layer.mlp.experts())) {
                add(name, [&[mlp.count], &shape[..]].concat(), Source::Stack(parameter, mlp.count));
            }
            continue;
        }
        let Some(name) = known.stored(&parameter) else {
            return Err(Error::Input(format!("tensor {parameter} has no name in GGUF files")));
        };
        let stored = if is_convolution(&parameter) { vec![shape[0], shape[2]] } else { shape };
        add(name, stored, Source::Parameter(parameter));
    }
    for (name, values) in extra {
        written.count(name, 1, Dtype::F32, Dtype::F32);
        let stored = TensorInfo { name: name.into(), shape: vec![values.len()], dtype: Dtype::F32 };
        list.push((stored, Source::Values(values)));
    }
    head.write(path, &list, |(stored, source)| {
        let values = match source {
            Source::Values(values) => values.into(),
            Source::Stack(name, count) => {
                let mut all = Vec::with_capacity(stored.shape.iter().product());
                for expert in 0..*count {
                    let name = name.replacen(".experts.0.", &format!(".experts.{expert}."), 1);
                    all.extend_from_slice(&(parts.values)(&name, &stored.shape[1..])?);
                }
                all.into()
            }
            Source::Half(name, half) => {
                let whole = [&[2 * stored.shape[0]], &stored.shape[1..]].concat();
                let values = (parts.values)(name, &whole)?;
                let length = values.len() / 2;
                values[half * length..(half + 1) * length].to_vec().into()
            }
            Source::Parameter(name) => {
                let values = match stored.shape[..] {
                    [channels, taps] if is_convolution(name) => (parts.values)(name, &[channels, 1, taps])?,
                    _ => (parts.values)(name, &stored.shape)?,
                };
                if known.is_interleaved(name) {
                    let heads = if name.contains(".q_proj.") { alike.heads } else { alike.kv_heads };
                    gguf_rows(&values, stored.shape[0], heads).into()
                } else if known.is_plus_one(name) {
                    values.iter().map(|w| w + 1.0).collect()
                } else if let Some(reordered) = gguf_delta::net(&arch).and_then(|net| Reordered::of(name, net)) {
                    reordered.write(&values, stored.shape[0]).into()
                } else {
                    values
                }
            }
        };
        encode(stored.dtype, &values).map_err(|what| Error::Input(format!("tensor {}: {what}", stored.name)))
    })?;
    Ok(written)
}

/// A model's family, and what its row says of GGUF files.
pub(super) fn of_gguf(arch: &Arch) -> Result<(&'static Family, &'static GgufFamily)> {
    let all = || FAMILIES.iter().filter_map(|family| Some((family, family.gguf.as_ref()?)));
    all().find(|(family, _)| family.model_type == arch.model_type).ok_or_else(|| {
        let known: Vec<&str> = all().map(|(family, _)| family.model_type).collect();
        let (found, known) = (&arch.model_type, known.join(", "));
        Error::Input(format!("model_type {found:?} cannot be written as GGUF; {known} can"))
    })
}

struct Model<'a> {
    head: GgufHead,
    family: &'static Family,
    /// What the family's row says of GGUF files.
    known: &'static GgufFamily,
    arch: &'a Arch,
    alike: Alike,
    config: &'a Value,
    /// Tensors of divisors of the rotation's frequencies.
    extra: Vec<(&'static str, Vec<f32>)>,
    notes: Vec<String>,
}

impl Model<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.known.architecture)
    }

    fn count(&mut self, key: &str, n: usize) -> Result<()> {
        let key = self.key(key);
        self.head.count(&key, n)
    }

    fn number(&mut self, key: &str, x: f64) {
        let key = self.key(key);
        self.head.number(&key, x);
    }

    fn string(&mut self, key: &str, text: &str) {
        let key = self.key(key);
        self.head.string(&key, text);
    }

    fn size(&self, key: &str) -> Option<usize> {
        self.config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
    }

    fn cannot(&self, what: impl std::fmt::Display) -> Error {
        Error::Input(format!("{what}, which a GGUF file of {} cannot say", self.known.architecture))
    }

    fn shape(&mut self) -> Result<()> {
        let (arch, alike) = (self.arch, self.alike);
        let rotated = 2 * arch.ropes[0].inv_freq.len();
        for (key, n) in [
            ("vocab_size", arch.vocab_size),
            ("context_length", arch.max_position_embeddings),
            ("embedding_length", arch.hidden_size),
            ("block_count", arch.layers.len()),
            ("feed_forward_length", self.dense_width()),
            ("attention.head_count", alike.heads),
            ("attention.key_length", alike.head_dim),
            ("attention.value_length", alike.head_dim),
            ("rope.dimension_count", rotated),
        ] {
            self.count(key, n)?;
        }
        self.experts()?;
        match arch.has_past() && !self.known.nets {
            true => self.convolutions()?,
            false => self.count("attention.head_count_kv", alike.kv_heads)?,
        }
        if self.known.nets {
            let keys = gguf_delta::keys(arch).map_err(|what| self.cannot(what))?;
            keys.into_iter().try_for_each(|(key, n)| self.count(key, n))?;
        }
        self.number("attention.layer_norm_rms_epsilon", f64::from(arch.rms_norm_eps));
        Ok(())
    }

    /// The width of the MLP; where experts are in its place, what config.json says of it.
    fn dense_width(&self) -> usize {
        let named = self.size("intermediate_size").filter(|_| self.known.experts.is_some());
        named.unwrap_or(self.alike.width)
    }

    /// How many experts there are, how many are chosen and how; every block has them.
    fn experts(&mut self) -> Result<()> {
        let of_blocks: Vec<_> = self.arch.layers.iter().map(|layer| layer.mlp.experts()).collect();
        let Some(first) = of_blocks.iter().find_map(|mlp| *mlp) else { return Ok(()) };
        if of_blocks.iter().any(|mlp| *mlp != Some(first)) {
            return Err(self.cannot("some blocks have experts and others have none"));
        }
        if self.known.experts != Some(!first.of_all) {
            return Err(self.cannot(format!("norm_topk_prob is {}", !first.of_all)));
        }
        let (count, chosen, width) = (first.count, first.chosen, first.width);
        self.count("expert_count", count)?;
        self.count("expert_used_count", chosen)?;
        self.count("expert_feed_forward_length", width)
    }

    /// Which blocks are convolutions, by their key heads of which there are none, and how many positions they see.
    fn convolutions(&mut self) -> Result<()> {
        let convs: Vec<&ShortConv> = self.arch.layers.iter().filter_map(|layer| layer.mixer.short_conv()).collect();
        let Some(first) = convs.first().filter(|_| self.known.convolves) else {
            return Err(self.cannot("blocks have no attention"));
        };
        if convs.iter().any(|conv| conv.bias || conv.taps != first.taps) {
            return Err(self.cannot("convolutions have a bias, or differ in their length"));
        }
        let taps = first.taps;
        let heads = |layer: &Layer| layer.mixer.attention().map_or(0, |attention| attention.kv_heads as i32);
        let key = self.key("attention.head_count_kv");
        self.head.integers(&key, &self.arch.layers.iter().map(heads).collect::<Vec<_>>());
        self.count("shortconv.l_cache", taps)
    }

    /// Rope, windows and what else differs from family to family.
    fn family_keys(&mut self) -> Result<()> {
        let rope = family::rope_parameters(self.config)?.cloned().unwrap_or_default();
        self.activation()?;
        self.query_scale()?;
        self.positions()?;
        for (key, stored) in self.known.multipliers {
            self.number(stored, self.config.get(*key).and_then(Value::as_f64).unwrap_or(1.0));
        }
        self.caps()?;
        self.growth(&rope)?;
        let windows: Vec<Option<usize>> = self
            .arch
            .layers
            .iter()
            .map(|layer| layer.mixer.attention().and_then(|attention| attention.window))
            .collect();
        let first = windows.first().copied().flatten();
        let slides = windows.iter().any(Option::is_some);
        match self.known.windows {
            Windows::Never if slides => return Err(self.cannot("blocks have a sliding window")),
            Windows::Never => {}
            Windows::Every { .. } if windows.iter().any(|window| *window != first) => {
                return Err(self.cannot("blocks differ in their sliding window"));
            }
            Windows::Every { always } => {
                if let Some(window) = first.or(always.then_some(0)) {
                    self.window(window)?;
                }
            }
            Windows::Periodic { period, within, .. } => {
                self.periodic(period, &windows)?;
                if !matches!(within, Within::Alike) {
                    return self.two_rotations(&rope, within);
                }
            }
        }
        self.rope(&rope)
    }

    /// The gate's activation is not in the file, but in llama.cpp's graph.
    fn activation(&self) -> Result<()> {
        let (key, usual) = self.family.activation;
        match self.config.get(key).and_then(Value::as_str) {
            Some(given) if Activation::named(given) != Activation::named(usual) => {
                Err(self.cannot(format!("{key} is {given:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Which blocks know positions is not in the file, but in llama.cpp's graph.
    fn positions(&self) -> Result<()> {
        let implied = |block: usize| self.known.still.is_none_or(|n| !(block + 1).is_multiple_of(n));
        let differs = |(block, layer): (usize, &Layer)| {
            layer.mixer.attention().is_some_and(|attention| attention.rope.is_some() != implied(block))
        };
        match self.arch.layers.iter().enumerate().position(differs) {
            Some(block) if implied(block) => Err(self.cannot(format!("block {block} knows no positions"))),
            Some(block) => Err(self.cannot(format!("block {block} knows positions"))),
            None => Ok(()),
        }
    }

    /// Where the file has no factor on the queries, it must be the one that llama.cpp's graph takes.
    fn query_scale(&self) -> Result<()> {
        if self.known.multipliers.iter().any(|(_, stored)| *stored == "attention.scale") {
            return Ok(());
        }
        let (heads, head_dim) = (self.alike.heads, self.alike.head_dim);
        let implied = match self.known.scaled_by_width {
            Some(blocks) if blocks == self.arch.layers.len() => self.arch.hidden_size / heads,
            _ => head_dim,
        };
        let implied_scale = (implied as f64).powf(-0.5) as f32;
        match self.alike.query_scale {
            Some(scale) if scale != implied_scale => Err(self.cannot(format!(
                "query_pre_attn_scalar makes the factor on the queries {scale} and not {implied}^-0.5"
            ))),
            _ => Ok(()),
        }
    }

    /// The soft caps of scores and logits, which llama.cpp's graph has or has not.
    fn caps(&mut self) -> Result<()> {
        let caps = [self.alike.score_cap, self.arch.logit_cap];
        for (cap, key) in caps.into_iter().zip(["attn_logit_softcapping", "final_logit_softcapping"]) {
            match (cap, self.known.caps.is_some()) {
                (Some(cap), true) => self.number(key, f64::from(cap)),
                (None, false) => {}
                (cap, _) => {
                    let given = cap.map_or("null".into(), |cap| cap.to_string());
                    return Err(self.cannot(format!("{key} is {given}")));
                }
            }
        }
        Ok(())
    }

    /// How queries grow with their position: llama.cpp's graph takes the steps from YaRN's first context.
    fn growth(&mut self, rope: &Value) -> Result<()> {
        let Some(QueryGrowth { beta, span }) = self.alike.query_growth else { return Ok(()) };
        let kind = rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str);
        if !self.known.grows || kind != Some("yarn") {
            let kind = kind.unwrap_or("default");
            return Err(self.cannot(format!("queries grow every {span} positions with rope_type {kind:?}")));
        }
        self.number("attention.temperature_scale", f64::from(beta));
        Ok(())
    }

    /// Writes by what YaRN's growth of q and k is divided, where the graph reads that; says whether it does.
    fn yarn_divisor(&mut self, number: &dyn Fn(&str) -> Option<f64>) -> Result<bool> {
        if self.known.grows {
            let divisor = match (number("mscale").unwrap_or(0.0), number("mscale_all_dim").unwrap_or(0.0)) {
                (0.0, _) | (_, 0.0) => 0.0,
                (1.0, divisor) => divisor,
                (mscale, _) => return Err(self.cannot(format!("rope parameter mscale is {mscale}"))),
            };
            self.number("rope.scaling.yarn_log_multiplier", divisor);
        }
        Ok(self.known.grows)
    }

    /// A window of every block, which llama.cpp's graphs of these families leave out.
    fn window(&mut self, window: usize) -> Result<()> {
        if (1..self.arch.max_position_embeddings).contains(&window) {
            self.notes.push(format!(
                "llama.cpp computes {} without the sliding window of {window} tokens: behind it its results differ",
                self.family.model_type
            ));
        }
        self.count("attention.sliding_window", window)
    }

    /// A window of all blocks but every n-th, where n is `usual` if the file does not say it.
    fn periodic(&mut self, usual: usize, windows: &[Option<usize>]) -> Result<()> {
        let window = windows.iter().flatten().next().copied().or(self.size("sliding_window")).unwrap_or(4096);
        if windows.iter().flatten().any(|other| *other != window) {
            return Err(self.cannot("blocks differ in their sliding window"));
        }
        self.count("attention.sliding_window", window)?;
        let periodic = |n: usize| windows.iter().enumerate().all(|(i, w)| w.is_some() == ((i + 1) % n != 0));
        // llama.cpp's graph has the usual period built in; another one is a key that newer versions read.
        match [usual].into_iter().chain(1..=windows.len() + 1).find(|n| periodic(*n)) {
            Some(n) if n == usual => {}
            Some(n) => self.count("attention.sliding_window_pattern", n)?,
            None => {
                let key = self.key("attention.sliding_window_pattern");
                self.head.flags(&key, &windows.iter().map(Option::is_some).collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    /// The rotation of the blocks with a window, and that of the others.
    fn two_rotations(&mut self, rope: &Value, within: Within) -> Result<()> {
        let local_type = rope.get("sliding_attention").and_then(|r| r.get("rope_type")).and_then(Value::as_str);
        if !matches!(local_type, None | Some("default")) {
            return Err(self.cannot("the sliding blocks' rotation is scaled"));
        }
        let local = rope.get("sliding_attention").and_then(|rope| rope.get("rope_theta"));
        let local = local.or(self.config.get("rope_local_base_freq")).and_then(Value::as_f64);
        match within {
            Within::Own(usual) => self.number("rope.freq_base_swa", local.unwrap_or(usual)),
            Within::Alike | Within::Unscaled => {
                let whole = self.plain(self.base(rope.get("full_attention").unwrap_or(&Value::Null)))?;
                if self.arch.ropes.get(1).is_some_and(|local| local.inv_freq != whole) {
                    return Err(self.cannot("the sliding blocks' rotation has a base of its own"));
                }
            }
        }
        let whole = rope.get("full_attention").unwrap_or(rope).clone();
        self.rope(&whole)
    }

    /// The frequencies of a rotation that is not scaled.
    fn plain(&self, theta: f64) -> Result<Vec<f32>> {
        let rotated = 2 * self.arch.ropes[0].inv_freq.len();
        family::inv_freq(&serde_json::json!({"rope_parameters": {"rope_theta": theta}}), rotated)
    }

    /// The base of a rotation's frequencies.
    fn base(&self, rope: &Value) -> f64 {
        let given = rope.get("rope_theta").or(self.config.get("rope_theta")).and_then(Value::as_f64);
        given.unwrap_or(self.family.defaults.rope_theta)
    }

    fn rope(&mut self, rope: &Value) -> Result<()> {
        let theta = self.base(rope);
        self.number("rope.freq_base", theta);
        if self.known.nets {
            // Of images; of text all sections turn alike.
            let given = rope.get("mrope_section").and_then(Value::as_array);
            let given: Option<Vec<i32>> = given.map(|of| of.iter().flat_map(Value::as_i64).map(|n| n as i32).collect());
            let sections = given.filter(|of| of.len() == 3).unwrap_or_else(|| vec![11, 11, 10]);
            let key = self.key("rope.dimension_sections");
            self.head.integers(&key, &[&sections[..], &[0]].concat());
        }
        let kind = rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| rope.get(key).and_then(Value::as_f64);
        let original = rope.get("original_max_position_embeddings").and_then(Value::as_u64);
        let original = original.and_then(|n| usize::try_from(n).ok());
        // As the families' own reading has it, the one beside the parameters goes first.
        let original = self.size("original_max_position_embeddings").or(original);
        match kind {
            "default" => {}
            "linear" | "yarn" => {
                self.string("rope.scaling.type", kind);
                self.number("rope.scaling.factor", number("factor").unwrap_or(1.0));
                if kind == "yarn" {
                    // Otherwise llama.cpp takes the usual factor on q and k for this factor on the context.
                    let usual = 1.0 + 0.1 * number("factor").unwrap_or(1.0).max(1.0).ln();
                    let own = match self.yarn_divisor(&number)? {
                        true => number("attention_factor").is_some(),
                        false => (f64::from(self.arch.ropes[0].scaling) - usual).abs() > 1e-6,
                    };
                    if own {
                        return Err(self.cannot("yarn has a factor on queries and keys of its own"));
                    }
                    let is_cut = rope.get("truncate").and_then(Value::as_bool).unwrap_or(true);
                    if is_cut != self.known.ramp_is_cut {
                        return Err(self.cannot(format!("rope parameter truncate is {is_cut}")));
                    }
                    let original = original.unwrap_or(self.arch.max_position_embeddings);
                    self.count("rope.scaling.original_context_length", original)?;
                    for (key, stored) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                        if let Some(value) = number(key) {
                            self.number(&format!("rope.scaling.{stored}"), value);
                        }
                    }
                }
            }
            "llama3" => {
                let (plain, scaled) = (self.plain(theta)?, &self.arch.ropes[0].inv_freq);
                self.extra.push(("rope_freqs.weight", plain.iter().zip(scaled).map(|(p, s)| p / s).collect()));
            }
            "longrope" => {
                let list = |key: &str| -> Option<Vec<f32>> {
                    rope.get(key)?.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect()
                };
                let (Some(short), Some(long)) = (list("short_factor"), list("long_factor")) else {
                    return Err(self.cannot("longrope is without its factors"));
                };
                if self.known.two_ropes {
                    let original = original.unwrap_or(self.arch.max_position_embeddings);
                    self.count("rope.scaling.original_context_length", original)?;
                    self.number("rope.scaling.attn_factor", f64::from(self.arch.ropes[0].scaling));
                    self.extra.push(("rope_factors_long.weight", long));
                    self.extra.push(("rope_factors_short.weight", short));
                } else if short == long && self.arch.ropes[0].scaling == 1.0 {
                    self.extra.push(("rope_freqs.weight", long));
                } else {
                    return Err(self.cannot("longrope has two lists of factors"));
                }
            }
            other => return Err(self.cannot(format!("rope_type is {other:?}"))),
        }
        Ok(())
    }
}
