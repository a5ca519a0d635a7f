//! Names and shapes of a model's parameters, as Hugging Face's files have them.

use crate::arch::layer::{Attention, DeltaNet, Experts, Gated, Mixer, Mlp, Norms, QkNorm, ShortConv};
use crate::arch::shape::{Arch, Naming};
use std::borrow::Cow;

type Named = Vec<(String, Vec<usize>)>;

/// Names and shapes of all parameters in Hugging Face's order; the output matrix only where it is not the embedding.
pub fn parameters(arch: &Arch) -> Vec<(String, Vec<usize>)> {
    let mut all = usual_parameters(arch);
    for (name, _) in &mut all {
        if let Cow::Owned(renamed) = renamed(name, arch.naming.renamed().iter().copied()) {
            *name = renamed;
        }
    }
    all
}

/// The name that a parameter would have in Llama's files.
pub(crate) fn usual<'a>(arch: &Arch, name: &'a str) -> Cow<'a, str> {
    renamed(name, arch.naming.renamed().iter().map(|(usual, own)| (*own, *usual)))
}

/// A parameter's name with its module called otherwise, by the first of the pairs (from, to) that fits.
fn renamed<'a>(name: &'a str, mut pairs: impl Iterator<Item = (&'static str, &'static str)>) -> Cow<'a, str> {
    let Some((module, kind)) = name.rsplit_once('.') else { return Cow::Borrowed(name) };
    let of = |from: &str| module.strip_suffix(from).filter(|rest| rest.is_empty() || rest.ends_with('.'));
    match pairs.find_map(|(from, to)| Some((of(from)?, to))) {
        Some((rest, to)) => Cow::Owned(format!("{rest}{to}.{kind}")),
        None => Cow::Borrowed(name),
    }
}

fn usual_parameters(arch: &Arch) -> Vec<(String, Vec<usize>)> {
    let d = arch.hidden_size;
    let mut list = vec![("model.embed_tokens.weight".to_string(), vec![arch.vocab_size, d])];
    for (number, layer) in arch.layers.iter().enumerate() {
        let mut parts = match &layer.mixer {
            Mixer::Attention(a) => attention(a, d, arch.naming),
            Mixer::ShortConv(conv) => short_conv(conv, d),
            Mixer::DeltaNet(net) => delta_net(net, d),
        };
        parts.extend(match &layer.mlp {
            Mlp::Gated(mlp) => gated(mlp, d, arch.naming),
            Mlp::Experts(mlp) => experts(mlp, d),
        });
        parts.extend(norms(layer.norms).iter().map(|name| (format!("{name}.weight"), vec![d])));
        list.extend(parts.into_iter().map(|(name, shape)| (format!("model.layers.{number}.{name}"), shape)));
    }
    list.push(("model.norm.weight".into(), vec![d]));
    if !arch.tie_word_embeddings {
        list.push(("lm_head.weight".into(), vec![arch.vocab_size, d]));
    }
    list
}

fn attention(a: &Attention, d: usize, naming: Naming) -> Named {
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    if naming == Naming::Fused {
        return [
            linear("self_attn.o_proj", [d, q], a.o_bias),
            linear("self_attn.qkv_proj", [q + 2 * kv, d], a.qkv_bias),
        ]
        .concat();
    }
    let mut list = [
        // Each head's query, and behind it its gate.
        linear("self_attn.q_proj", [if a.output_gate { 2 * q } else { q }, d], a.qkv_bias),
        linear("self_attn.k_proj", [kv, d], a.qkv_bias),
        linear("self_attn.v_proj", [kv, d], a.qkv_bias),
        linear("self_attn.o_proj", [d, q], a.o_bias),
    ]
    .concat();
    list.extend(a.sinks.then(|| ("self_attn.sinks".to_owned(), vec![a.heads])));
    let widths = a.qk_norm.map(|norm| match norm {
        QkNorm::Heads => [a.head_dim; 2],
        QkNorm::Whole => [q, kv],
    });
    let norm = |(of, width): (&str, usize)| (format!("self_attn.{of}_norm.weight"), vec![width]);
    list.extend(widths.into_iter().flat_map(|widths| ["q", "k"].into_iter().zip(widths)).map(norm));
    list
}

fn short_conv(conv: &ShortConv, d: usize) -> Named {
    let mut list = vec![("conv.conv.weight".to_owned(), vec![d, 1, conv.taps])];
    if conv.bias {
        list.push(("conv.conv.bias".into(), vec![d]));
    }
    list.extend(linear("conv.in_proj", [3 * d, d], conv.bias));
    list.extend(linear("conv.out_proj", [d, d], conv.bias));
    list
}

fn delta_net(net: &DeltaNet, d: usize) -> Named {
    let (keys, values) = (net.key_heads * net.key_dim, net.value_heads * net.value_dim);
    let mixed = 2 * keys + values;
    let mut list = vec![
        ("linear_attn.dt_bias".to_owned(), vec![net.value_heads]),
        ("linear_attn.A_log".to_owned(), vec![net.value_heads]),
        ("linear_attn.conv1d.weight".to_owned(), vec![mixed, 1, net.taps]),
        ("linear_attn.norm.weight".to_owned(), vec![net.value_dim]),
    ];
    list.extend(linear("linear_attn.out_proj", [d, values], false));
    for (part, out) in [("qkv", mixed), ("z", values), ("b", net.value_heads), ("a", net.value_heads)] {
        list.extend(linear(&format!("linear_attn.in_proj_{part}"), [out, d], false));
    }
    list
}

fn gated(mlp: &Gated, d: usize, naming: Naming) -> Named {
    let f = mlp.width;
    let into = match naming {
        Naming::Apart | Naming::Renamed(_) | Naming::Stacked => {
            [linear("mlp.gate_proj", [f, d], mlp.bias), linear("mlp.up_proj", [f, d], mlp.bias)].concat()
        }
        Naming::Fused => linear("mlp.gate_up_proj", [2 * f, d], mlp.bias),
        Naming::Shared => linear("shared_mlp.input_linear", [2 * f, d], mlp.bias),
    };
    let down = if naming == Naming::Shared { "shared_mlp.output_linear" } else { "mlp.down_proj" };
    [into, linear(down, [d, f], mlp.bias)].concat()
}

/// The matrices of each expert by itself, as most files have them; [`super::modules`] has the others.
fn experts(mlp: &Experts, d: usize) -> Named {
    let f = mlp.width;
    let of = |e: usize| {
        let part = |name: &str, shape| linear(&format!("{EXPERTS}.{e}.{name}"), shape, mlp.bias);
        [part("gate_proj", [f, d]), part("up_proj", [f, d]), part("down_proj", [d, f])].concat()
    };
    linear(ROUTER, [mlp.count, d], mlp.bias).into_iter().chain((0..mlp.count).flat_map(of)).collect()
}

/// The modules of a mixture of experts in a block.
const ROUTER: &str = "mlp.gate";
pub(super) const EXPERTS: &str = "mlp.experts";

/// A linear layer's weight `[out, in]` and, where it has one, its bias `[out]`.
fn linear(name: &str, [out, inner]: [usize; 2], bias: bool) -> Named {
    let weight = (format!("{name}.weight"), vec![out, inner]);
    let bias = bias.then(|| (format!("{name}.bias"), vec![out]));
    std::iter::once(weight).chain(bias).collect()
}

fn norms(norms: Norms) -> &'static [&'static str] {
    match norms {
        Norms::Before => &["input_layernorm", "post_attention_layernorm"],
        Norms::After => &["post_attention_layernorm", "post_feedforward_layernorm"],
        Norms::BeforeAndAfter => {
            &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        }
    }
}
