//! Where each Hugging Face parameter lies on the GPU: q, k and v side by side in one matrix, gate and up in another, all
//! stored `[in, out]` with every head padded to a multiple of 4 channels. One table serves loading, saving and gradients.

use crate::arch::{Arch, Dtype, LARGEST, NamedTensor, family, first_unusable, unusable};
use crate::gpu::{Gpu, pad4};
use crate::kernels::half::Half;
use crate::kernels::heads::Heads;
use crate::kernels::quants::{Quants, Scales};
use crate::kernels::weight::{Stored, Weight};
use crate::source::ModelSource;
use crate::{Error, Result};
use std::ops::Range;

/// What a layer's parameters are called here; `Layer * PER_LAYER + slot` is a parameter's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Norm1,
    Qkv,
    QkvBias,
    QkGain,
    O,
    OBias,
    Norm2,
    GateUp,
    GateUpBias,
    Down,
    DownBias,
    PostNorm1,
    PostNorm2,
}

const PER_LAYER: usize = 13;

/// In which type matrices are kept on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// As the file has them: quantised blocks and 16 bits stay, all else becomes f32. No value changes.
    #[default]
    Own,
    /// f32.
    F32,
    /// Rounded to 16 bits; sums, activations and vectors stay in f32.
    Half(Half),
}

/// Parameters that belong to no layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    /// The embedding of an untied model, `[D, V]`.
    Embedding,
    /// The last norm's gain.
    Norm,
    /// The output matrix `[D, V]`; a tied model's embedding too.
    Head,
}

/// The number of a layer's parameter.
pub(crate) fn layer_param(layer: usize, slot: Slot) -> usize {
    3 + layer * PER_LAYER + slot as usize
}

/// How one named tensor sits in a parameter: element (out, in) goes to row `in`, column out (or to row out, column in where
/// not `turned`), both as the parts and `head_in` say.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) param: usize,
    pub(crate) turned: bool,
    pub(crate) head_in: bool,
    pub(crate) parts: Vec<Part>,
}

/// Rows `outs` of a named tensor go to `first` and on, heads spread to their padded width where said.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) outs: Range<usize>,
    pub(crate) first: usize,
    pub(crate) head_out: bool,
}

impl Part {
    /// All rows.
    pub(crate) fn all(first: usize, head_out: bool) -> Part {
        Part { outs: 0..usize::MAX, first, head_out }
    }

    /// The rows of a tensor of `outs` rows that it takes.
    fn of(&self, outs: usize) -> Range<usize> {
        self.outs.start..self.outs.end.min(outs)
    }
}

/// The shape `[rows, cols]` that a parameter has on the GPU, None where the model has none.
pub(crate) fn shape(arch: &Arch, param: usize) -> Option<(usize, usize)> {
    let heads = heads(arch);
    let (d, f2, q) = (arch.hidden_size, 2 * pad4(arch.intermediate_size), arch.num_attention_heads * heads.padded());
    let vector = |n: usize| Some((1, n));
    match param {
        0 => (!arch.tie_word_embeddings).then_some((pad4(d), arch.vocab_size)),
        1 => vector(d),
        2 => Some((pad4(d), arch.vocab_size)),
        n => match (n - 3) % PER_LAYER {
            x if x == Slot::Norm1 as usize || x == Slot::Norm2 as usize => vector(d),
            x if x == Slot::Qkv as usize => Some((pad4(d), heads.width())),
            x if x == Slot::QkvBias as usize => arch.qkv_bias.then_some((1, heads.width())),
            x if x == Slot::QkGain as usize => arch.qk_norm.then_some((1, 2 * arch.head_dim)),
            x if x == Slot::O as usize => Some((q, d)),
            x if x == Slot::OBias as usize => arch.o_bias.then_some((1, d)),
            x if x == Slot::GateUp as usize => Some((pad4(d), f2)),
            x if x == Slot::GateUpBias as usize => arch.mlp_bias.then_some((1, f2)),
            x if x == Slot::Down as usize => Some((pad4(arch.intermediate_size), d)),
            x if x == Slot::DownBias as usize => arch.mlp_bias.then_some((1, d)),
            _ => arch.post_norms.then_some((1, d)),
        },
    }
}

/// Number of parameter slots, empty ones included.
pub(crate) fn count(arch: &Arch) -> usize {
    3 + arch.num_hidden_layers * PER_LAYER
}

/// The head layout of a fused row.
pub(crate) fn heads(arch: &Arch) -> Heads {
    Heads { heads: arch.num_attention_heads, kv_heads: arch.num_key_value_heads, head_dim: arch.head_dim }
}

/// Where a named tensor lies.
pub(crate) fn place(arch: &Arch, name: &str) -> Result<Place> {
    let plain = |param, turned| Place { param, turned, head_in: false, parts: vec![Part::all(0, false)] };
    let part = Part::all;
    match name {
        "model.embed_tokens.weight" if arch.tie_word_embeddings => return Ok(plain(Outer::Head as usize, true)),
        "model.embed_tokens.weight" => return Ok(plain(Outer::Embedding as usize, true)),
        "model.norm.weight" => return Ok(plain(Outer::Norm as usize, false)),
        "lm_head.weight" => return Ok(plain(Outer::Head as usize, true)),
        _ => {}
    }
    let unknown = || Error::Input(format!("no place for a parameter called '{name}'"));
    let (layer, rest) = name.strip_prefix("model.layers.").and_then(|r| r.split_once('.')).ok_or_else(unknown)?;
    let layer: usize = layer.parse().map_err(|_| unknown())?;
    let heads = heads(arch);
    let (q, kv) = (heads.heads * heads.padded(), heads.kv_heads * heads.padded());
    let (f, padded) = (arch.intermediate_size, pad4(arch.intermediate_size));
    let at = |slot: Slot| layer_param(layer, slot);
    let to = |slot, parts| Place { param: at(slot), turned: true, head_in: false, parts };
    let vector = |slot, parts| Place { turned: false, ..to(slot, parts) };
    Ok(match rest {
        "input_layernorm.weight" => plain(at(Slot::Norm1), false),
        "post_attention_layernorm.weight" if arch.post_norms => plain(at(Slot::PostNorm1), false),
        "post_attention_layernorm.weight" => plain(at(Slot::Norm2), false),
        "pre_feedforward_layernorm.weight" => plain(at(Slot::Norm2), false),
        "post_feedforward_layernorm.weight" => plain(at(Slot::PostNorm2), false),
        // q, k and v follow one another head by head, as they do here.
        "self_attn.q_proj.weight" | "self_attn.qkv_proj.weight" => to(Slot::Qkv, vec![part(0, true)]),
        "self_attn.k_proj.weight" => to(Slot::Qkv, vec![part(q, true)]),
        "self_attn.v_proj.weight" => to(Slot::Qkv, vec![part(q + kv, true)]),
        "self_attn.q_proj.bias" => vector(Slot::QkvBias, vec![part(0, true)]),
        "self_attn.k_proj.bias" => vector(Slot::QkvBias, vec![part(q, true)]),
        "self_attn.v_proj.bias" => vector(Slot::QkvBias, vec![part(q + kv, true)]),
        "self_attn.q_norm.weight" => plain(at(Slot::QkGain), false),
        "self_attn.k_norm.weight" => vector(Slot::QkGain, vec![part(arch.head_dim, false)]),
        "self_attn.o_proj.weight" => Place { head_in: true, ..plain(at(Slot::O), true) },
        "self_attn.o_proj.bias" => plain(at(Slot::OBias), false),
        "mlp.gate_proj.weight" => plain(at(Slot::GateUp), true),
        "mlp.up_proj.weight" => to(Slot::GateUp, vec![part(padded, false)]),
        "mlp.gate_up_proj.weight" => {
            let half = |outs, first| Part { outs, first, head_out: false };
            to(Slot::GateUp, vec![half(0..f, 0), half(f..2 * f, padded)])
        }
        "mlp.gate_proj.bias" => plain(at(Slot::GateUpBias), false),
        "mlp.up_proj.bias" => vector(Slot::GateUpBias, vec![part(padded, false)]),
        "mlp.down_proj.weight" => plain(at(Slot::Down), true),
        "mlp.down_proj.bias" => plain(at(Slot::DownBias), false),
        _ => return Err(unknown()),
    })
}

impl Place {
    /// The first column.
    pub(crate) fn first(&self) -> usize {
        self.parts.iter().map(|p| p.first).min().unwrap_or(0)
    }

    /// The columns from the first that a tensor of `outs` rows spans.
    pub(crate) fn span(&self, heads: Heads, outs: usize) -> usize {
        let end = |p: &Part| {
            let n = p.of(outs).len();
            p.first + if p.head_out { n / heads.head_dim * heads.padded() } else { n }
        };
        self.parts.iter().map(end).max().unwrap_or(0) - self.first()
    }

    /// Calls `f(index in the named tensor, index in the parameter of `cols` columns)` for every element.
    pub(crate) fn each(&self, arch: &Arch, shape: &[usize], cols: usize, mut f: impl FnMut(usize, usize)) {
        let heads = heads(arch);
        let spread = |i: usize, by_head: bool| match by_head {
            true => i / heads.head_dim * heads.padded() + i % heads.head_dim,
            false => i,
        };
        let (outs, ins) = if shape.len() == 2 { (shape[0], shape[1]) } else { (shape[0], 1) };
        for part in &self.parts {
            for o in part.of(outs) {
                let out = part.first + spread(o - part.outs.start, part.head_out);
                for i in 0..ins {
                    let to = match (shape.len(), self.turned) {
                        (1, _) => out,
                        (_, true) => spread(i, self.head_in) * cols + out,
                        (_, false) => out * cols + i,
                    };
                    f(o * ins + i, to);
                }
            }
        }
    }
}

/// All parameters in f32 from named tensors.
pub(crate) fn upload(gpu: &Gpu, arch: &Arch, tensors: Vec<NamedTensor>) -> Result<Vec<Option<Weight>>> {
    let expected = family::parameters(arch);
    let mut named: std::collections::HashMap<String, NamedTensor> = std::collections::HashMap::new();
    for t in tensors {
        if let Some(twice) = named.insert(t.name.clone(), t) {
            return Err(Error::Input(format!("parameter '{}' is given twice", twice.name)));
        }
    }
    let mut params: Vec<Option<Weight>> = vec![None; count(arch)];
    // By parameter, so that only one of them is held padded at a time.
    let mut by_param: Vec<Vec<(Place, NamedTensor)>> = (0..count(arch)).map(|_| Vec::new()).collect();
    for (name, shape) in &expected {
        let t = named.remove(name).ok_or_else(|| Error::Input(format!("parameter '{name}' is missing")))?;
        if t.shape != *shape || t.data.len() != shape.iter().product::<usize>() {
            return Err(Error::Input(format!("parameter '{name}' has shape {:?}, expected {shape:?}", t.shape)));
        }
        if let Some(first) = first_unusable(&t.data) {
            return Err(Error::NonFinite(unusable(name, shape, first)));
        }
        let p = place(arch, name)?;
        by_param[p.param].push((p, t));
    }
    if let Some(name) = named.keys().next() {
        return Err(Error::Input(format!("parameter '{name}' is not one of this model")));
    }
    for (param, parts) in by_param.into_iter().enumerate() {
        let Some((rows, cols)) = shape(arch, param) else { continue };
        let mut host = vec![0f32; rows * cols];
        for (place, t) in &parts {
            place.each(arch, &t.shape, cols, |a, b| host[b] = t.data[a]);
        }
        params[param] = Some(Weight::upload(gpu, rows, cols, &host)?);
    }
    Ok(params)
}

/// Named tensors back from parameter-shaped tensors (weights or gradients); `of(param)` gives the tensor.
pub(crate) fn download(
    gpu: &Gpu,
    arch: &Arch,
    mut of: impl FnMut(usize) -> Result<Vec<f32>>,
) -> Result<Vec<NamedTensor>> {
    gpu.wait()?;
    let mut cache: Option<(usize, Vec<f32>)> = None;
    family::parameters(arch)
        .into_iter()
        .map(|(name, dims)| {
            let place = place(arch, &name)?;
            // Neighbouring names share a parameter (q, k, v): read it once.
            if cache.as_ref().is_none_or(|(p, _)| *p != place.param) {
                cache = Some((place.param, of(place.param)?));
            }
            let (rows, cols) = shape(arch, place.param).unwrap_or_default();
            let mut data = vec![0f32; dims.iter().product()];
            match &cache {
                Some((_, values)) if values.len() == rows * cols => {
                    place.each(arch, &dims, cols, |a, b| data[a] = values[b]);
                }
                _ => return Err(Error::Input(format!("parameter '{name}' has no values"))),
            }
            Ok(NamedTensor { name, shape: dims, data })
        })
        .collect()
}

/// How each tensor of a parameter lies in the file: its place, name and type.
type Parts = Vec<(Place, String, Dtype)>;

/// How a parameter's matrix is kept. Where its tensors are all in blocks it stays quantised unless f32 or 16 bits are
/// asked for; where all are in one 16-bit type it keeps that; vectors are in f32.
fn stored(arch: &Arch, asked: Storage, rows: usize, parts: &Parts) -> Stored {
    let quants = |(place, _, dtype): &(Place, String, Dtype)| {
        let (bits, group, scales) = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 => (4, 32, Scales::Half),
            Dtype::Q5_0 | Dtype::Q5_1 | Dtype::Q8_0 => (8, 32, Scales::Half),
            Dtype::Q4K => (4, 32, Scales::Full),
            Dtype::Q5K => (8, 32, Scales::Full),
            Dtype::Q6K => (8, 16, Scales::Full),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
        };
        place.turned.then_some(Quants { bits, group, scales })
    };
    let half = |(_, _, dtype): &(Place, String, Dtype)| match dtype {
        Dtype::BF16 => Some(Half::Bf16),
        Dtype::F16 => Some(Half::F16),
        _ => None,
    };
    match asked {
        _ if rows == 1 => Stored::Dense,
        Storage::F32 => Stored::Dense,
        Storage::Half(half) => Stored::Half(half),
        Storage::Own => {
            // The parts of a fused matrix may differ.
            let quants = parts.iter().map(quants).collect::<Option<Vec<_>>>();
            let quants = quants.and_then(|q| q.into_iter().reduce(Quants::or));
            let first = parts.first().and_then(half);
            match (quants.filter(|_| rows.is_multiple_of(32) && arch.head_dim.is_multiple_of(4)), first) {
                (Some(quants), _) => Stored::Quantised(quants),
                (None, Some(of)) if parts.iter().all(|p| half(p) == first) => Stored::Half(of),
                _ => Stored::Dense,
            }
        }
    }
}

/// Memory for all parameters of a model whose tensors are stored as `dtype` says of their names, without values.
pub(crate) fn room(
    gpu: &Gpu,
    arch: &Arch,
    storage: Storage,
    dtype: &dyn Fn(&str) -> Result<Dtype>,
) -> Result<Vec<Option<Weight>>> {
    each(arch, dtype, |(rows, cols), parts| Weight::room(gpu, stored(arch, storage, rows, parts), rows, cols))
}

/// Makes every parameter from its shape and the tensors that lie in it.
fn each(
    arch: &Arch,
    dtype: &dyn Fn(&str) -> Result<Dtype>,
    make: impl Fn((usize, usize), &Parts) -> Result<Weight>,
) -> Result<Vec<Option<Weight>>> {
    let mut by_param: Vec<Parts> = (0..count(arch)).map(|_| Vec::new()).collect();
    for (name, _) in family::parameters(arch) {
        let place = place(arch, &name)?;
        let dtype = dtype(&name)?;
        by_param[place.param].push((place, name, dtype));
    }
    let one = |(param, parts): (usize, &Parts)| shape(arch, param).map(|shape| make(shape, parts)).transpose();
    by_param.iter().enumerate().map(one).collect()
}

/// Parameters from a model on disk, one after the other: the host holds one of them at a time.
pub(crate) fn load(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Vec<Option<Weight>>> {
    let (arch, dtype) = (&source.arch, |name: &str| source.weights.dtype(name));
    if gpu.counts() {
        return room(gpu, arch, storage, &dtype);
    }
    each(arch, &dtype, |(rows, cols), parts| {
        let stored = stored(arch, storage, rows, parts);
        if let Stored::Quantised(quants) = stored {
            return quantised(gpu, source, quants, (rows, cols), parts);
        }
        let mut host = vec![0f32; rows * cols];
        for (place, name, _) in parts {
            let view = source.weights.get(name)?;
            let values = view.to_f32();
            if let Some(first) = first_unusable(&values) {
                let path = source.weights.file_of(view.name).unwrap_or(&source.path);
                return Err(Error::file(path, unusable(view.name, view.shape, first)));
            }
            place.each(arch, view.shape, cols, |a, b| host[b] = values[a]);
        }
        match stored {
            Stored::Half(half) => {
                Weight::upload_half(gpu, half, rows, cols, &host).map_err(|e| named(source, parts, e))
            }
            _ => Weight::upload(gpu, rows, cols, &host),
        }
    })
}

/// Names the tensors of a parameter that holds what its type cannot.
fn named(source: &ModelSource, parts: &Parts, error: Error) -> Error {
    let names: Vec<&str> = parts.iter().map(|(_, name, _)| name.as_str()).collect();
    match error {
        Error::NonFinite(what) => {
            Error::NonFinite(format!("{}: tensor {}: {what}", source.path.display(), names.join(", ")))
        }
        other => other,
    }
}

/// Blocks along `in` repacked for the kernels: words of neighbours along `in`, scales and minima apart.
fn quantised(
    gpu: &Gpu,
    source: &ModelSource,
    quants: Quants,
    (rows, cols): (usize, usize),
    parts: &Parts,
) -> Result<Weight> {
    let (arch, bits, per) = (&source.arch, quants.bits, 32 / quants.bits as usize);
    let mut words = vec![0u32; rows / per * cols];
    let group = quants.group as usize;
    let mut scale = vec![0f32; rows / group * cols];
    let mut minimum = scale.clone();
    for (place, name, _) in parts {
        let view = source.weights.get(name)?;
        let ins = view.shape[1];
        let mut bad = None;
        // Heads are not padded here (blocks need a head_dim that is a multiple of 4), so a block's row is its number.
        place.each(arch, &[view.shape[0], ins / 32], cols, |at, to| {
            let (out, b) = (to % cols, to / cols);
            let block = view.dtype.thirty_two(&view.data, at);
            let fits = |(d, m): &(f32, f32)| [255.0 * d, *m].iter().all(|v| (-LARGEST..=LARGEST).contains(v));
            let Some((q, pairs)) = block.filter(|(_, pairs)| pairs.iter().all(fits)) else {
                bad = Some(at);
                return;
            };
            for (row, pair) in (b * 32 / group..).zip(pairs.iter().step_by(group / 16)) {
                (scale[row * cols + out], minimum[row * cols + out]) = *pair;
            }
            for (row, q) in (b * 32..).zip(q) {
                words[row / per * cols + out] |= u32::from(q) << ((row % per) as u32 * bits);
            }
        });
        if let Some(block) = bad {
            let path = source.weights.file_of(view.name).unwrap_or(&source.path);
            let what = format!("tensor {}: the scale of block {block} is no number or too large", view.name);
            return Err(Error::file(path, what));
        }
    }
    let weight = Weight::upload_quantised(gpu, (quants, rows, cols), &words, [&scale, &minimum]);
    weight.map_err(|e| named(source, parts, e))
}

/// Whether a parameter is a matrix (weight decay acts on matrices alone).
pub(crate) fn is_matrix(weight: &Weight) -> bool {
    weight.rows() > 1
}
