//! llama.cpp's adapter files: a LoRA adapter as GGUF, in and out.
//!
//! Of each matrix NAME there are `NAME.lora_a` and `NAME.lora_b`, with the rows that NAME has in the base's file. One α
//! holds for all of them, and the scale is always α / rank: what PEFT can say beyond that goes into B.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::gguf::{Gguf, GgufTensor, GgufValue};
use super::gguf_delta::{self, Reordered};
use super::gguf_head::{GgufHead, TensorInfo};
use super::gguf_names::{gguf_rows, hugging_face_rows};
use super::gguf_save::of_gguf;
use super::peft::Base;
use super::tensors::Mapped;
use crate::arch::lora::{Adapter, LayerRules, LoraConfig, Modules, Target, targets};
use crate::arch::{Arch, Dtype, NamedTensor, family, first_unusable, unusable};
use crate::{Error, Result};

/// The key under which this program names the base, as adapter_config.json does; others pass over it.
const BASE: &str = "selfreward.base_model_name_or_path";
/// The key under which this program names the revision of the base.
const REVISION: &str = "selfreward.base_model_revision";
/// The key under which this program says by what the base is known again.
const FINGERPRINT: &str = "selfreward.base_model_fingerprint";
/// Scales that differ by less are the same, but for rounding.
const SAME: f64 = 1e-6;

/// Writes an adapter file; it appears whole or not at all. Matrices are stored in `dtype`. Returns sentences worth
/// telling the user.
///
/// # Errors
/// The base's family, or a matrix, has no name in GGUF files; a value is beyond the range of `dtype`; errors of the
/// file system.
pub(crate) fn save(path: &Path, arch: &Arch, base: &Base, adapter: &Adapter, dtype: Dtype) -> Result<Vec<String>> {
    let (alike, (_, known)) = (arch.alike()?, of_gguf(arch)?);
    let config = &adapter.config;
    if config.dora {
        let what = "llama.cpp's adapter files know no DoRA; merge the adapter, or write it as a PEFT folder";
        return Err(Error::Input(what.into()));
    }
    let scale_of = |alpha: f64, rank: usize| alpha / rank as f64;
    // Without a rule for some matrices, this is right for all of them.
    let alpha = f64::from(config.alpha) * if config.rslora { (config.rank as f64).sqrt() } else { 1.0 };
    // An α of 0 means to llama.cpp that there is no scale.
    let alpha = if alpha == 0.0 { config.rank as f64 } else { alpha } as f32;
    let mut notes = Vec::new();
    if config.rslora {
        notes.push(format!(
            "α is written as {alpha}, since such a file has no rsLoRA: divided by the rank it gives the same scale"
        ));
    }
    let mut head = GgufHead::default();
    head.string("general.architecture", known.architecture);
    head.string("general.type", "adapter");
    head.string("adapter.type", "lora");
    head.number("adapter.lora.alpha", f64::from(alpha));
    let kind = match dtype {
        Dtype::F16 => 1,
        Dtype::BF16 => 32,
        _ => 0,
    };
    head.count("general.file_type", kind)?;
    head.string(BASE, &base.name);
    head.string(FINGERPRINT, &base.fingerprint);
    if let Some(revision) = &base.revision {
        head.string(REVISION, revision);
    }
    let mut list = Vec::new();
    let mut folded = 0;
    for target in targets(arch, config)? {
        // Tied, the output matrix has no tensor of its own there.
        if target.embeds || arch.tie_word_embeddings && target.module == "lm_head" {
            let what = "cannot be in llama.cpp's adapter file here; merge the adapter, or write it as a PEFT folder";
            return Err(Error::Input(format!("the adapter of {} {what}", target.module)));
        }
        let weight = format!("{}.weight", target.module);
        let name = known.stored(&weight).ok_or_else(|| Error::Input(format!("{weight} has no name in GGUF files")))?;
        let factor = f64::from(target.scale) / scale_of(f64::from(alpha), target.rank);
        let factor = if (factor - 1.0).abs() < SAME { 1.0 } else { factor };
        folded += usize::from(factor != 1.0);
        let heads = known.is_interleaved(&weight).then(|| heads(&weight, alike.heads, alike.kv_heads));
        let reordered = gguf_delta::net(arch).and_then(|net| Reordered::of(&weight, net));
        let Target { out, inner, rank, .. } = target;
        for (side, shape) in [("A", vec![rank, inner]), ("B", vec![out, rank])] {
            let stored = TensorInfo { name: format!("{name}.lora_{}", side.to_lowercase()), shape, dtype };
            list.push((stored, (target.name(side), (side == "B").then_some((factor, heads)), reordered)));
        }
    }
    if folded > 0 {
        notes.push(format!(
            "{folded} matrices have a scale other than α / rank, which is all that such a file can say: it is \
             multiplied into their B"
        ));
    }
    head.write(path, &list, |(stored, (name, change, reordered))| {
        let tensor = adapter.tensors.iter().find(|tensor| tensor.name == *name);
        let tensor = tensor.ok_or_else(|| Error::Input(format!("the adapter has no tensor {name}")))?;
        let mut values = tensor.data.clone();
        if let Some((factor, heads)) = change {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
            if let Some(heads) = heads {
                values = gguf_rows(&values, stored.shape[0], *heads);
            }
        }
        // The rows of a matrix are those of its B, its columns those of its A.
        let own = reordered.filter(|reordered| matches!(reordered, Reordered::Rows(_)) == change.is_some());
        if let Some(reordered) = own {
            values = reordered.write(&values, stored.shape[0]);
        }
        dtype.encode(&values).map_err(|what| Error::Input(format!("tensor {}: {what}", stored.name)))
    })?;
    Ok(notes)
}

/// The heads whose rows alternate in q and k.
fn heads(weight: &str, queries: usize, keys: usize) -> usize {
    if weight.contains(".q_proj.") { queries } else { keys }
}

/// An adapter file whose head was read.
pub(crate) struct GgufAdapter {
    path: PathBuf,
    file: Mapped,
    gguf: Gguf,
}

/// Whether a file says that it is an adapter and no model.
pub(super) fn is_adapter(gguf: &Gguf) -> bool {
    gguf.get("general.type").and_then(GgufValue::as_str) == Some("adapter")
}

/// The two tensors of a matrix, as far as they were found.
struct Pair<'a> {
    name: &'a str,
    sides: [Option<&'a GgufTensor>; 2],
}

impl GgufAdapter {
    pub(super) fn new(path: &Path, (file, gguf): (Mapped, Gguf)) -> Self {
        Self { path: path.into(), file, gguf }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.gguf.get(key).and_then(GgufValue::as_str)
    }

    /// The base and its revision, where this program wrote the file, or where it names a repository of the hub.
    pub(crate) fn base(&self) -> Option<(String, Option<String>)> {
        let hub = self.text("general.base_model.0.repo_url");
        let hub = hub.and_then(|url| url.strip_prefix("https://huggingface.co/"));
        Some((self.text(BASE).or(hub)?.to_owned(), self.text(REVISION).map(str::to_owned)))
    }

    /// By what the base is known again, where this program wrote the file.
    pub(crate) fn fingerprint(&self) -> Option<&str> {
        self.text(FINGERPRINT)
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::file(&self.path, what)
    }

    /// The adapter under PEFT's names, checked against the base.
    pub(crate) fn adapter(&self, arch: &Arch) -> Result<Adapter> {
        let (family, known) = of_gguf(arch)?;
        let (of, kind) = (self.text("general.architecture"), self.text("adapter.type"));
        if of != Some(known.architecture) {
            let (of, want) = (of.unwrap_or_default(), known.architecture);
            let what =
                format!("is an adapter of a model of {of:?}, but its base is {}, so {want:?}", family.model_type);
            return Err(self.error(what));
        }
        if kind != Some("lora") {
            let kind = kind.unwrap_or_default();
            return Err(self.error(format!("adapter.type is {kind:?}; only \"lora\" is read")));
        }
        let alpha = self.gguf.get("adapter.lora.alpha").map_or(Some(0.0), GgufValue::as_f64);
        let alpha = alpha.ok_or_else(|| self.error("adapter.lora.alpha: expected a number"))? as f32;
        let parameters = family::parameters(arch);
        let mut tensors = Vec::new();
        for Pair { name, sides } in self.pairs()? {
            let weight = known.hugging_face(name);
            let place = weight.and_then(|weight| parameters.iter().position(|(known, _)| *known == weight));
            let place = place.ok_or_else(|| self.error(format!("tensor {name}.lora_a: the base has no {name}")))?;
            let (weight, shape) = &parameters[place];
            let [Some(a), Some(b)] = sides else {
                let missing = if sides[0].is_none() { "lora_a" } else { "lora_b" };
                return Err(self.error(format!("tensor {name}.{missing} is missing")));
            };
            let fits = |a: &GgufTensor| match (&a.shape[..], &b.shape[..], &shape[..]) {
                ([rank, inner], [out, width], [rows, cols]) => rank == width && (out, inner) == (rows, cols),
                _ => false,
            };
            if !fits(a) {
                return Err(self.error(format!(
                    "tensors {name}.lora_a {:?} and {name}.lora_b {:?} do not fit the base's {weight} {shape:?}; \
                     expected [rank, in] and [out, rank]",
                    a.shape, b.shape
                )));
            }
            let (mut a_values, mut b_values) = (self.values(a)?, self.values(b)?);
            if let Some(reordered) = gguf_delta::net(arch).and_then(|net| Reordered::of(weight, net)) {
                let (values, rows) = match reordered {
                    Reordered::Columns(_) => (&mut a_values, &a.shape),
                    Reordered::Rows(_) | Reordered::Decays(_) => (&mut b_values, &b.shape),
                };
                let bytes = reordered.read(bytemuck::cast_slice(&values[..]), rows, Dtype::F32);
                *values = bytemuck::pod_collect_to_vec(&bytes);
            }
            if known.is_interleaved(weight) {
                let alike = arch.alike()?;
                let heads = heads(weight, alike.heads, alike.kv_heads);
                let bytes = hugging_face_rows(bytemuck::cast_slice(&b_values), shape[0], heads);
                b_values = bytemuck::pod_collect_to_vec(&bytes);
            }
            tensors.push((place, a.shape[0], [a_values, b_values]));
        }
        tensors.sort_by_key(|(place, ..)| *place);
        let module = |place: usize| parameters[place].0.trim_end_matches(".weight");
        let ranks: Vec<(&str, usize)> = tensors.iter().map(|(place, rank, _)| (module(*place), *rank)).collect();
        let config = config(alpha, &ranks, &parameters).ok_or_else(|| self.error("holds no LoRA tensors"))?;
        let mut named = Vec::new();
        let targets = targets(arch, &config).map_err(|error| self.error(error.to_string()))?;
        for (target, (_, _, [a, b])) in targets.iter().zip(tensors) {
            let Target { out, inner, rank, embeds, .. } = *target;
            if embeds {
                return Err(
                    self.error(format!("holds an adapter of {}, which is read from PEFT folders alone", target.module))
                );
            }
            named.push(NamedTensor { name: target.name("A"), shape: vec![rank, inner], data: a });
            named.push(NamedTensor { name: target.name("B"), shape: vec![out, rank], data: b });
        }
        Ok(Adapter { config, tensors: named })
    }

    fn pairs(&self) -> Result<Vec<Pair<'_>>> {
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for tensor in &self.gguf.tensors {
            let side = ["lora_a", "lora_b"].iter().position(|side| tensor.name.ends_with(side));
            let found = side.and_then(|side| Some((side, tensor.name.rsplit_once('.')?.0)));
            let (side, name) = found.ok_or_else(|| {
                self.error(format!("tensor {} is neither lora_a nor lora_b of a matrix; no other is read", tensor.name))
            })?;
            let place = *places.entry(name).or_insert(pairs.len());
            if place == pairs.len() {
                pairs.push(Pair { name, sides: [None, None] });
            }
            if pairs[place].sides[side].replace(tensor).is_some() {
                return Err(self.error(format!("tensor {} is there twice", tensor.name)));
            }
        }
        Ok(pairs)
    }

    fn values(&self, tensor: &GgufTensor) -> Result<Vec<f32>> {
        let GgufTensor { name, dtype, shape, range } = tensor;
        let dtype = dtype.as_ref().map_err(|found| self.error(format!("tensor {name} is stored as {found}")))?;
        let mut values = Vec::new();
        dtype.dequantise(&self.file.part(range.clone())?, &mut values);
        match first_unusable(&values) {
            Some(first) => Err(self.error(unusable(name, shape, first))),
            None => Ok(values),
        }
    }
}

/// PEFT's settings for these matrices and ranks; `None` if there are none.
fn config(alpha: f32, ranks: &[(&str, usize)], parameters: &[(String, Vec<usize>)]) -> Option<LoraConfig> {
    let (_, rank) = *ranks.first()?;
    let last = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let has = |module: &str| ranks.iter().any(|(known, _)| *known == module);
    let mut names: Vec<String> = Vec::new();
    for (module, _) in ranks {
        // One name for a layer of all blocks.
        let mut alike = parameters.iter().filter_map(|(name, _)| name.strip_suffix(".weight"));
        let all = alike.all(|other| last(other) != last(module) || has(other));
        let name = if all { last(module) } else { (*module).to_owned() };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let others = || ranks.iter().filter(|(_, other)| *other != rank).map(|(m, other)| (m.replace('.', r"\."), *other));
    let mut layers = LayerRules { rank: others().collect(), ..LayerRules::default() };
    // Without an α, llama.cpp takes a scale of 1.
    if alpha == 0.0 {
        layers.alpha = others().map(|(module, other)| (module, other as f32)).collect();
    }
    let alpha = if alpha == 0.0 { rank as f32 } else { alpha };
    Some(LoraConfig { rank, alpha, rslora: false, dora: false, dropout: 0.0, targets: Modules::Names(names), layers })
}
