//! Where each Hugging Face parameter lies on the GPU: q, k and v side by side in one matrix, gate and up in another,
//! all stored `[in, out]` with every head padded to a multiple of 4 channels. One table serves loading, saving and
//! gradients; it asks each layer for its parts.

use crate::arch::{Arch, Attention, DeltaNet, Experts, Gated, Layer, Mixer, Mlp, Norms, QkNorm, ShortConv, family};
use crate::gpu::pad4;
use crate::kernels::delta::Sizes;
use crate::kernels::heads::Heads;
use crate::kernels::qk_norm;
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

/// The slots of a short convolution, which stand for slots that its layers lack.
impl Slot {
    /// The projection to b, c and x, side by side.
    pub(crate) const IN: Slot = Slot::Qkv;
    /// Its bias.
    pub(crate) const IN_BIAS: Slot = Slot::QkvBias;
    /// The factors of a sum, those of the oldest position first, in one row, `[taps pad4(D)]`.
    pub(crate) const TAPS: Slot = Slot::QkGain;
    /// What is added to each sum, `[D]`; these layers have no norms behind their branches.
    pub(crate) const TAPS_BIAS: Slot = Slot::PostNorm1;
}

/// The slots of a gated delta net besides those of its projections and its taps, which are a convolution's.
impl Slot {
    /// The gain of the norm under the gate, `[value_dim]`; these layers have no norms behind their branches.
    pub(crate) const GATED_GAIN: Slot = Slot::PostNorm1;
    /// The logarithms of the decays' rates, and what is added to a, `[A | dt]`.
    pub(crate) const DECAYS: Slot = Slot::PostNorm2;
}

/// The slots of a mixture of experts, which stand for slots that its layers lack. Its gates and ups stand side by side
/// expert by expert, `[D, E 2 F]`, and so do the matrices down, `[F, E D]`; each is padded to whole vec4s, and biases
/// are as wide.
impl Slot {
    /// The router, `[D, E]`; these layers attend, and have no norms behind their branches.
    pub(crate) const ROUTER: Slot = Slot::PostNorm2;
    /// Its bias, `[E]`.
    pub(crate) const ROUTER_BIAS: Slot = Slot::PostNorm1;
}

/// The slot of attention's sinks, `[H]`; heads that have some have no norms of q and k.
impl Slot {
    pub(crate) const SINKS: Slot = Slot::QkGain;
}

/// Every slot, each at its own number. A parameter's number keys the noise by which weights in bf16 are rounded
/// (`adamw`), so this list keeps its length: slots of a part to come share the numbers of slots that its layers lack.
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
/// Neighbours that are written together: as many words as a line of a CPU's cache holds.
pub(super) const TILE: usize = 16;

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
    /// How far apart the inputs lie, where all of them stand in one row, one behind the other.
    pub(crate) apart: Option<usize>,
    pub(crate) parts: Vec<Piece>,
}

/// Rows `outs` of a named tensor go to `first` and on.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) outs: Range<usize>,
    pub(crate) first: usize,
    /// Channels of a head, where the rows are heads that are spread to their padded width.
    pub(crate) head_out: Option<usize>,
}

/// Where entry i of a row of heads of so many channels lies once each head is padded.
fn spread(i: usize, head: Option<usize>) -> usize {
    head.map_or(i, |channels| i / channels * pad4(channels) + i % channels)
}

impl Piece {
    /// All rows.
    pub(crate) fn all(first: usize, head_out: Option<usize>) -> Piece {
        Piece { outs: 0..usize::MAX, first, head_out }
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
    match (SLOTS[number % SLOTS.len()], mlp) {
        (Slot::Norm1 | Slot::Norm2, _) => (*norms != Norms::After).then_some((1, d)),
        (Slot::PostNorm1 | Slot::PostNorm2, _) if *norms != Norms::Before => Some((1, d)),
        (Slot::GateUp, Mlp::Gated(mlp)) => Some((pad4(d), 2 * pad4(mlp.width))),
        (Slot::GateUpBias, Mlp::Gated(mlp)) => mlp.bias.then_some((1, 2 * pad4(mlp.width))),
        (Slot::Down, Mlp::Gated(mlp)) => Some((pad4(mlp.width), d)),
        (Slot::DownBias, Mlp::Gated(mlp)) => mlp.bias.then_some((1, d)),
        (Slot::ROUTER, Mlp::Experts(mlp)) => Some((pad4(d), mlp.count)),
        (Slot::ROUTER_BIAS, Mlp::Experts(mlp)) if mlp.bias => Some((1, mlp.count)),
        (Slot::GateUp, Mlp::Experts(mlp)) => Some((pad4(d), mlp.count * 2 * pad4(mlp.width))),
        (Slot::Down, Mlp::Experts(mlp)) => Some((pad4(mlp.width), mlp.count * pad4(d))),
        (Slot::GateUpBias, Mlp::Experts(mlp)) => mlp.bias.then_some((1, mlp.count * 2 * pad4(mlp.width))),
        (Slot::DownBias, Mlp::Experts(mlp)) => mlp.bias.then_some((1, mlp.count * pad4(d))),
        (of_mixer, _) => match mixer {
            Mixer::Attention(attention) => attention_shape(attention, of_mixer, d),
            Mixer::ShortConv(conv) => short_conv_shape(conv, of_mixer, d),
            Mixer::DeltaNet(net) => delta_net_shape(net, of_mixer, d),
        },
    }
}

/// The columns of a parameter that lie in one buffer: those of an expert.
pub(crate) fn unit(arch: &Arch, param: usize) -> usize {
    let Some(number) = param.checked_sub(OUTER) else { return 1 };
    let experts = arch.layers.get(number / SLOTS.len()).and_then(|layer| layer.mlp.experts());
    match (experts, SLOTS[number % SLOTS.len()]) {
        (Some(experts), Slot::GateUp) => 2 * pad4(experts.width),
        (Some(_), Slot::Down) => pad4(arch.hidden_size),
        _ => 1,
    }
}

fn attention_shape(attention: &Attention, slot: Slot, d: usize) -> Option<(usize, usize)> {
    let row = heads(attention);
    let width = gates(attention) + row.width();
    match slot {
        Slot::Qkv => Some((pad4(d), width)),
        Slot::QkvBias => attention.qkv_bias.then_some((1, width)),
        Slot::SINKS if attention.sinks => Some((1, row.heads)),
        Slot::QkGain => attention.qk_norm.map(|norm| match norm {
            QkNorm::Heads => (1, 2 * row.head_dim),
            QkNorm::Whole => (1, qk_norm::gains(row)),
        }),
        Slot::O => Some((row.heads * row.padded(), d)),
        Slot::OBias => attention.o_bias.then_some((1, d)),
        _ => None,
    }
}

fn short_conv_shape(conv: &ShortConv, slot: Slot, d: usize) -> Option<(usize, usize)> {
    match slot {
        Slot::IN => Some((pad4(d), 3 * pad4(d))),
        Slot::IN_BIAS => conv.bias.then_some((1, 3 * pad4(d))),
        Slot::TAPS => Some((1, conv.taps * pad4(d))),
        Slot::TAPS_BIAS => conv.bias.then_some((1, d)),
        Slot::O => Some((pad4(d), d)),
        Slot::OBias => conv.bias.then_some((1, d)),
        _ => None,
    }
}

fn delta_net_shape(net: &DeltaNet, slot: Slot, d: usize) -> Option<(usize, usize)> {
    let sizes = Sizes::of(net);
    match slot {
        Slot::IN => Some((pad4(d), sizes.width())),
        Slot::TAPS => Some((1, sizes.taps * sizes.mixed())),
        Slot::GATED_GAIN => Some((1, sizes.value_dim)),
        Slot::DECAYS => Some((1, 2 * sizes.gate())),
        Slot::O => Some((sizes.values(), d)),
        _ => None,
    }
}

/// The parameter of the bias that is added to a product by a layer's matrix.
pub(crate) fn bias_of(param: usize) -> Option<usize> {
    let number = param.checked_sub(OUTER)?;
    let bias = match SLOTS[number % SLOTS.len()] {
        Slot::Qkv => Slot::QkvBias,
        Slot::O => Slot::OBias,
        Slot::GateUp => Slot::GateUpBias,
        Slot::Down => Slot::DownBias,
        _ => return None,
    };
    Some(layer_param(number / SLOTS.len(), bias))
}

/// Number of parameter slots, empty ones included.
pub(crate) fn count(arch: &Arch) -> usize {
    OUTER + arch.layers.len() * SLOTS.len()
}

/// The head layout of an attention's fused row.
pub(crate) fn heads(attention: &Attention) -> Heads {
    Heads { heads: attention.heads, kv_heads: attention.kv_heads, head_dim: attention.head_dim }
}

/// Columns of an attention's fused row that gates take, in front of q, k and v.
pub(crate) fn gates(attention: &Attention) -> usize {
    if attention.output_gate { attention.heads * pad4(attention.head_dim) } else { 0 }
}

/// Where a named tensor lies.
pub(crate) fn place(arch: &Arch, name: &str) -> Result<Place> {
    let own = name;
    let name = &*family::usual(arch, name);
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
        let at = |slot| layer_param(number, slot);
        let (part, rest) = rest.split_once('.')?;
        match (part, mixer) {
            ("self_attn", Mixer::Attention(attention)) => of_attention(attention, rest, at),
            ("conv", Mixer::ShortConv(_)) => of_short_conv(arch.hidden_size, rest, at),
            ("linear_attn", Mixer::DeltaNet(net)) => of_delta_net(net, rest, at),
            ("mlp" | "shared_mlp", _) => match mlp {
                Mlp::Gated(gated) => of_gated(gated, rest, at),
                Mlp::Experts(experts) => of_experts(experts, arch.hidden_size, rest, at),
            },
            (norm, _) => {
                (rest == "weight").then(|| of_norms(*norms, norm)).flatten().map(|slot| plain(at(slot), false))
            }
        }
    };
    of_layer().ok_or_else(|| Error::Bug(format!("no place for a parameter called '{own}'")))
}

/// A tensor that alone makes a parameter, or its first columns.
fn plain(param: usize, turned: bool) -> Place {
    Place { param, turned, head_in: None, apart: None, parts: vec![Piece::all(0, None)] }
}

fn of_norms(norms: Norms, name: &str) -> Option<Slot> {
    Some(match (norms, name) {
        (Norms::Before | Norms::BeforeAndAfter, "input_layernorm") => Slot::Norm1,
        (Norms::Before, "post_attention_layernorm") => Slot::Norm2,
        (Norms::BeforeAndAfter | Norms::After, "post_attention_layernorm") => Slot::PostNorm1,
        (Norms::BeforeAndAfter, "pre_feedforward_layernorm") => Slot::Norm2,
        (Norms::BeforeAndAfter | Norms::After, "post_feedforward_layernorm") => Slot::PostNorm2,
        _ => return None,
    })
}

fn of_attention(attention: &Attention, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let row = heads(attention);
    let (q, kv, head) = (row.heads * row.padded(), row.kv_heads * row.padded(), Some(row.head_dim));
    let gates = gates(attention);
    // A gated head's query and gate follow one another in the file; here all gates stand in front of all queries.
    let apart = |h: usize| {
        let part = |i: usize, first| Piece {
            outs: (2 * h + i) * row.head_dim..(2 * h + i + 1) * row.head_dim,
            first: first + h * row.padded(),
            head_out: head,
        };
        [part(0, gates), part(1, 0)]
    };
    let parts = |first| match first {
        0 if attention.output_gate => (0..row.heads).flat_map(apart).collect(),
        _ => vec![Piece::all(gates + first, head)],
    };
    let weight = |first| Place { parts: parts(first), ..plain(at(Slot::Qkv), true) };
    let bias = |first| Place { parts: parts(first), ..plain(at(Slot::QkvBias), false) };
    // Of one head, where each is normalised by itself, else of all, padded as q and k are.
    let gain = |of_heads, whole| {
        let part = match attention.qk_norm {
            Some(QkNorm::Whole) => Piece::all(whole, head),
            Some(QkNorm::Heads) | None => Piece::all(of_heads, None),
        };
        Place { parts: vec![part], ..plain(at(Slot::QkGain), false) }
    };
    Some(match name {
        // q, k and v follow one another head by head, as they do here.
        "q_proj.weight" | "qkv_proj.weight" => weight(0),
        "k_proj.weight" => weight(q),
        "v_proj.weight" => weight(q + kv),
        "q_proj.bias" | "qkv_proj.bias" => bias(0),
        "k_proj.bias" => bias(q),
        "v_proj.bias" => bias(q + kv),
        "sinks" => plain(at(Slot::SINKS), false),
        "q_norm.weight" => gain(0, 0),
        "k_norm.weight" => gain(row.head_dim, q),
        "o_proj.weight" => Place { head_in: head, ..plain(at(Slot::O), true) },
        "o_proj.bias" => plain(at(Slot::OBias), false),
        _ => return None,
    })
}

fn of_short_conv(d: usize, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let part = |i: usize| Piece { outs: i * d..(i + 1) * d, first: i * pad4(d), head_out: None };
    let parts = vec![part(0), part(1), part(2)];
    Some(match name {
        "in_proj.weight" => Place { parts, ..plain(at(Slot::IN), true) },
        "in_proj.bias" => Place { parts, ..plain(at(Slot::IN_BIAS), false) },
        "conv.weight" => Place { apart: Some(pad4(d)), ..plain(at(Slot::TAPS), true) },
        "conv.bias" => plain(at(Slot::TAPS_BIAS), false),
        "out_proj.weight" => plain(at(Slot::O), true),
        "out_proj.bias" => plain(at(Slot::OBias), false),
        _ => return None,
    })
}

fn of_delta_net(net: &DeltaNet, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let sizes = Sizes::of(net);
    let (keys, values) = (net.key_heads * net.key_dim, net.value_heads * net.value_dim);
    let key = |outs, first| Piece { outs, first, head_out: Some(net.key_dim) };
    let value = |outs, first| Piece { outs, first, head_out: Some(net.value_dim) };
    let mixed =
        vec![key(0..keys, 0), key(keys..2 * keys, sizes.keys()), value(2 * keys..2 * keys + values, 2 * sizes.keys())];
    let input = |parts| Place { parts, ..plain(at(Slot::IN), true) };
    let decays = |first| Place { parts: vec![Piece::all(first, None)], ..plain(at(Slot::DECAYS), false) };
    Some(match name {
        "in_proj_qkv.weight" => input(mixed),
        "in_proj_z.weight" => input(vec![Piece::all(sizes.mixed(), Some(net.value_dim))]),
        "in_proj_b.weight" => input(vec![Piece::all(sizes.strengths(), None)]),
        "in_proj_a.weight" => input(vec![Piece::all(sizes.strengths() + sizes.gate(), None)]),
        "conv1d.weight" => Place { apart: Some(sizes.mixed()), parts: mixed, ..plain(at(Slot::TAPS), true) },
        "A_log" => decays(0),
        "dt_bias" => decays(sizes.gate()),
        "norm.weight" => plain(at(Slot::GATED_GAIN), false),
        "out_proj.weight" => Place { head_in: Some(net.value_dim), ..plain(at(Slot::O), true) },
        _ => return None,
    })
}

fn of_gated(gated: &Gated, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    let (f, padded) = (gated.width, pad4(gated.width));
    let part = |outs, first| Piece { outs, first, head_out: None };
    let both = vec![part(0..f, 0), part(f..2 * f, padded)];
    let second = vec![Piece::all(padded, None)];
    Some(match name {
        "gate_proj.weight" => plain(at(Slot::GateUp), true),
        "up_proj.weight" => Place { parts: second, ..plain(at(Slot::GateUp), true) },
        "gate_up_proj.weight" | "input_linear.weight" => Place { parts: both, ..plain(at(Slot::GateUp), true) },
        "gate_proj.bias" => plain(at(Slot::GateUpBias), false),
        "up_proj.bias" => Place { parts: second, ..plain(at(Slot::GateUpBias), false) },
        "gate_up_proj.bias" | "input_linear.bias" => Place { parts: both, ..plain(at(Slot::GateUpBias), false) },
        "down_proj.weight" | "output_linear.weight" => plain(at(Slot::Down), true),
        "down_proj.bias" | "output_linear.bias" => plain(at(Slot::DownBias), false),
        _ => return None,
    })
}

fn of_experts(experts: &Experts, d: usize, name: &str, at: impl Fn(Slot) -> usize) -> Option<Place> {
    match name {
        "gate.weight" => return Some(plain(at(Slot::ROUTER), true)),
        "gate.bias" => return Some(plain(at(Slot::ROUTER_BIAS), false)),
        _ => {}
    }
    let (number, rest) = name.strip_prefix("experts.")?.split_once('.')?;
    let number = number.parse().ok().filter(|number: &usize| *number < experts.count)?;
    let half = pad4(experts.width);
    let (slot, first, turned) = match rest {
        "gate_proj.weight" => (Slot::GateUp, 2 * half * number, true),
        "up_proj.weight" => (Slot::GateUp, 2 * half * number + half, true),
        "down_proj.weight" => (Slot::Down, pad4(d) * number, true),
        "gate_proj.bias" => (Slot::GateUpBias, 2 * half * number, false),
        "up_proj.bias" => (Slot::GateUpBias, 2 * half * number + half, false),
        "down_proj.bias" => (Slot::DownBias, pad4(d) * number, false),
        _ => return None,
    };
    Some(Place { parts: vec![Piece::all(first, None)], ..plain(at(slot), turned) })
}

impl Place {
    /// The first column.
    pub(crate) fn first(&self) -> usize {
        self.parts.iter().map(|p| p.first).min().unwrap_or(0)
    }

    /// Calls `f(index in the named tensor, index in the parameter of `cols` columns)` for every element; neighbours in
    /// the parameter come soon after one another, so that memory is written line by line.
    pub(crate) fn each(&self, shape: &[usize], cols: usize, mut f: impl FnMut(usize, usize)) {
        // A convolution's `[out, 1, taps]` counts as `[out, taps]`.
        let (outs, ins) = (shape[0], shape[1..].iter().product::<usize>());
        for part in &self.parts {
            let range = part.of(outs);
            for first in range.clone().step_by(TILE) {
                for i in 0..ins {
                    for o in first..(first + TILE).min(range.end) {
                        let out = part.first + spread(o - part.outs.start, part.head_out);
                        let to = match (shape.len(), self.turned) {
                            (1, _) => out,
                            (_, true) => spread(i, self.head_in) * self.apart.unwrap_or(cols) + out,
                            (_, false) => out * cols + i,
                        };
                        f(o * ins + i, to);
                    }
                }
            }
        }
    }

    /// Rows of a named tensor of `outs` rows and the column of the first of them; the others follow it, where no head
    /// is padded.
    pub(super) fn columns(&self, outs: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        self.parts.iter().map(move |part| (part.of(outs), part.first))
    }

    /// Whether no head within it is padded, so that stored blocks keep their places.
    pub(super) fn is_unpadded(&self) -> bool {
        let heads = self.parts.iter().map(|p| p.head_out).chain([self.head_in]);
        heads.flatten().all(|channels| channels.is_multiple_of(4))
    }
}
