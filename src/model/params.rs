//! Where each Hugging Face parameter lies on the GPU: q, k and v side by side in one matrix, gate and up in another,
//! all stored `[in, out]` with every head padded to a multiple of 4 channels. One table serves loading, saving and
//! gradients.

use crate::arch::{
    Arch, Attention, Dtype, Gated, LARGEST, Layer, Mixer, Mlp, NamedTensor, Norms, family, first_unusable, unusable,
};
use crate::gpu::{Gpu, pad4};
use crate::kernels::half::Half;
use crate::kernels::heads::Heads;
use crate::kernels::quants::Quants;
use crate::kernels::weight::{Stored, Weight};
use crate::source::ModelSource;
use crate::{Error, Result};
use std::ops::Range;

/// What a layer's parameters are called here; a layer has those of its parts. `layer * SLOTS.len() + slot`, behind the
/// outer ones, is a parameter's number.
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

/// Every slot, each at its own number.
const SLOTS: [Slot; 13] = [
    Slot::Norm1,
    Slot::Qkv,
    Slot::QkvBias,
    Slot::QkGain,
    Slot::O,
    Slot::OBias,
    Slot::Norm2,
    Slot::GateUp,
    Slot::GateUpBias,
    Slot::Down,
    Slot::DownBias,
    Slot::PostNorm1,
    Slot::PostNorm2,
];

/// The type in which matrices are kept on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Matrices are kept as the file has them: quantised blocks and 16 bits stay, all else becomes f32. No value
    /// changes.
    #[default]
    Own,
    /// Matrices are kept in f32.
    F32,
    /// Matrices are rounded to 16 bits; sums, activations and vectors stay in f32.
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

/// How many parameters belong to no layer.
const OUTER: usize = 3;

/// The number of a layer's parameter.
pub(crate) fn layer_param(layer: usize, slot: Slot) -> usize {
    OUTER + layer * SLOTS.len() + slot as usize
}

/// How one named tensor sits in a parameter: element (out, in) goes to row `in`, column out (or to row out, column in
/// where not `turned`), both as the parts and `head_in` say.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) param: usize,
    pub(crate) turned: bool,
    /// Channels of a head, where the inputs are heads that are spread to their padded width.
    pub(crate) head_in: Option<usize>,
    pub(crate) parts: Vec<Part>,
}

/// Rows `outs` of a named tensor go to `first` and on.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) outs: Range<usize>,
    pub(crate) first: usize,
    /// Channels of a head, where the rows are heads that are spread to their padded width.
    pub(crate) head_out: Option<usize>,
}

/// Where entry i of a row of heads of so many channels lies once each head is padded.
fn spread(i: usize, head: Option<usize>) -> usize {
    head.map_or(i, |channels| i / channels * pad4(channels) + i % channels)
}

impl Part {
    /// All rows.
    pub(crate) fn all(first: usize, head_out: Option<usize>) -> Part {
        Part { outs: 0..usize::MAX, first, head_out }
    }

    /// The rows of a tensor of `outs` rows that it takes.
    fn of(&self, outs: usize) -> Range<usize> {
        self.outs.start..self.outs.end.min(outs)
    }
}

/// The shape `[rows, cols]` that a parameter has on the GPU, None where the model has none.
pub(crate) fn shape(arch: &Arch, param: usize) -> Option<(usize, usize)> {
    let d = arch.hidden_size;
    let Some(number) = param.checked_sub(OUTER) else {
        return match param {
            0 => (!arch.tie_word_embeddings).then_some((pad4(d), arch.vocab_size)),
            1 => Some((1, d)),
            _ => Some((pad4(d), arch.vocab_size)),
        };
    };
    let Layer { mixer, norms, mlp } = arch.layers.get(number / SLOTS.len())?;
    let (Mixer::Attention(attention), Mlp::Gated(gated)) = (mixer, mlp);
    let (row, wide) = (heads(attention), 2 * pad4(gated.width));
    match SLOTS[number % SLOTS.len()] {
        Slot::Norm1 | Slot::Norm2 => Some((1, d)),
        Slot::PostNorm1 | Slot::PostNorm2 => (*norms == Norms::BeforeAndAfter).then_some((1, d)),
        Slot::Qkv => Some((pad4(d), row.width())),
        Slot::QkvBias => attention.qkv_bias.then_some((1, row.width())),
        Slot::QkGain => attention.qk_norm.then_some((1, 2 * row.head_dim)),
        Slot::O => Some((row.heads * row.padded(), d)),
        Slot::OBias => attention.o_bias.then_some((1, d)),
        Slot::GateUp => Some((pad4(d), wide)),
        Slot::GateUpBias => gated.bias.then_some((1, wide)),
        Slot::Down => Some((pad4(gated.width), d)),
        Slot::DownBias => gated.bias.then_some((1, d)),
    }
}

/// Number of parameter slots, empty ones included.
pub(crate) fn count(arch: &Arch) -> usize {
    OUTER + arch.layers.len() * SLOTS.len()
}

/// The head layout of an attention's fused row.
pub(crate) fn heads(attention: &Attention) -> Heads {
    Heads { heads: attention.heads, kv_heads: attention.kv_heads, head_dim: attention.head_dim }
}

/// Where a named tensor lies.
pub(crate) fn place(arch: &Arch, name: &str) -> Result<Place> {
    let outer = |param: Outer, turned| Ok(plain(param as usize, turned));
    match name {
        "model.embed_tokens.weight" if arch.tie_word_embeddings => return outer(Outer::Head, true),
        "model.embed_tokens.weight" => return outer(Outer::Embedding, true),
        "model.norm.weight" => return outer(Outer::Norm, false),
        "lm_head.weight" => return outer(Outer::Head, true),
        _ => {}
    }
    let of_layer = || {
        let (number, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let number: usize = number.parse().ok()?;
        let Layer { mixer, norms, mlp } = arch.layers.get(number)?;
        let (Mixer::Attention(attention), Mlp::Gated(gated)) = (mixer, mlp);
        let at = |slot| layer_param(number, slot);
        let (part, rest) = rest.split_once('.')?;
        match part {
            "self_attn" => of_attention(attention, rest, at),
            "mlp" => of_gated(gated, rest, at),
            norm => (rest == "weight").then(|| of_norms(*norms, norm)).flatten().map(|slot| plain(at(slot), false)),
        }
    };
    of_layer().ok_or_else(|| Error::Input(format!("no place for a parameter called '{name}'")))
}

/// A tensor that alone makes a parameter, or its first columns.
fn plain(param: usize, turned: bool) -> Place {
    Place { param, turned, head_in: None, parts: vec![Part::all(0, None)] }
}

fn of_norms(norms: Norms, name: &str) -> Option<Slot> {
    Some(match (norms, name) {
        (_, "input_layernorm") => Slot::Norm1,
        (Norms::Before, "post_attention_layernorm") => Slot::Norm2,
        (Norms::BeforeAndAfter, "post_attention_layernorm") => Slot::PostNorm1,
        (Norms::BeforeAndAfter, "pre_feedforward_layernorm") => Slot::Norm2,
        (Norms::BeforeAndAfter, "post_feedforward_layernorm") => Slot::PostNorm2,
        _ => return None,
    })
}

fn of_attention(attention: &Attention, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let row = heads(attention);
    let (q, kv, head) = (row.heads * row.padded(), row.kv_heads * row.padded(), Some(row.head_dim));
    let weight = |first| Place { parts: vec![Part::all(first, head)], ..plain(at(Slot::Qkv), true) };
    let bias = |first| Place { parts: vec![Part::all(first, head)], ..plain(at(Slot::QkvBias), false) };
    Some(match name {
        // q, k and v follow one another head by head, as they do here.
        "q_proj.weight" | "qkv_proj.weight" => weight(0),
        "k_proj.weight" => weight(q),
        "v_proj.weight" => weight(q + kv),
        "q_proj.bias" | "qkv_proj.bias" => bias(0),
        "k_proj.bias" => bias(q),
        "v_proj.bias" => bias(q + kv),
        "q_norm.weight" => plain(at(Slot::QkGain), false),
        "k_norm.weight" => Place { parts: vec![Part::all(row.head_dim, None)], ..plain(at(Slot::QkGain), false) },
        "o_proj.weight" => Place { head_in: head, ..plain(at(Slot::O), true) },
        "o_proj.bias" => plain(at(Slot::OBias), false),
        _ => return None,
    })
}

fn of_gated(gated: &Gated, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let (f, padded) = (gated.width, pad4(gated.width));
    let part = |outs, first| Part { outs, first, head_out: None };
    let both = vec![part(0..f, 0), part(f..2 * f, padded)];
    let second = vec![Part::all(padded, None)];
    Some(match name {
        "gate_proj.weight" => plain(at(Slot::GateUp), true),
        "up_proj.weight" => Place { parts: second, ..plain(at(Slot::GateUp), true) },
        "gate_up_proj.weight" => Place { parts: both, ..plain(at(Slot::GateUp), true) },
        "gate_proj.bias" => plain(at(Slot::GateUpBias), false),
        "up_proj.bias" => Place { parts: second, ..plain(at(Slot::GateUpBias), false) },
        "gate_up_proj.bias" => Place { parts: both, ..plain(at(Slot::GateUpBias), false) },
        "down_proj.weight" => plain(at(Slot::Down), true),
        "down_proj.bias" => plain(at(Slot::DownBias), false),
        _ => return None,
    })
}

impl Place {
    /// The first column.
    pub(crate) fn first(&self) -> usize {
        self.parts.iter().map(|p| p.first).min().unwrap_or(0)
    }

    /// The columns from the first that a tensor of `outs` rows spans.
    pub(crate) fn span(&self, outs: usize) -> usize {
        let end = |p: &Part| p.first + spread(p.of(outs).len(), p.head_out);
        self.parts.iter().map(end).max().unwrap_or(0) - self.first()
    }

    /// Calls `f(index in the named tensor, index in the parameter of `cols` columns)` for every element.
    pub(crate) fn each(&self, shape: &[usize], cols: usize, mut f: impl FnMut(usize, usize)) {
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

    /// Whether no head within it is padded, so that stored blocks keep their places.
    fn is_unpadded(&self) -> bool {
        let heads = self.parts.iter().map(|p| p.head_out).chain([self.head_in]);
        heads.flatten().all(|channels| channels.is_multiple_of(4))
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
            place.each(&t.shape, cols, |a, b| host[b] = t.data[a]);
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
                    place.each(&dims, cols, |a, b| data[a] = values[b]);
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
fn stored(asked: Storage, rows: usize, parts: &Parts) -> Stored {
    let quants =
        |(place, _, dtype): &(Place, String, Dtype)| Quants::of(*dtype).filter(|_| place.turned && place.is_unpadded());
    let half = |(_, _, dtype): &(Place, String, Dtype)| Half::of(*dtype);
    match asked {
        _ if rows == 1 => Stored::Dense,
        Storage::F32 => Stored::Dense,
        Storage::Half(half) => Stored::Half(half),
        Storage::Own => {
            // The parts of a fused matrix may differ.
            let quants = parts.iter().map(quants).collect::<Option<Vec<_>>>();
            let quants = quants.and_then(|q| q.into_iter().reduce(Quants::or));
            let first = parts.first().and_then(half);
            match (quants.filter(|_| rows.is_multiple_of(32)), first) {
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
    each(arch, dtype, |(rows, cols), parts| Weight::room(gpu, stored(storage, rows, parts), rows, cols))
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
        let stored = stored(storage, rows, parts);
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
            place.each(view.shape, cols, |a, b| host[b] = values[a]);
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
    let (bits, per) = (quants.bits, 32 / quants.bits as usize);
    let mut words = vec![0u32; rows / per * cols];
    let group = quants.group as usize;
    let mut scale = vec![0f32; rows / group * cols];
    let mut minimum = scale.clone();
    for (place, name, _) in parts {
        let view = source.weights.get(name)?;
        let ins = view.shape[1];
        let mut bad = None;
        // No head is padded here, so a block's row is its number.
        place.each(&[view.shape[0], ins / 32], cols, |at, to| {
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
