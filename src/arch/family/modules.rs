//! The matrices of experts as transformers' modules hold them, all of a kind in one tensor, and as some files do too.

use super::names::EXPERTS;
use crate::arch::shape::{Arch, Naming};
use crate::arch::tensor::NamedTensor;
use std::collections::HashMap;

/// Where an expert's matrix or bias lies in the tensor of all experts': element (out, in) stands at `first + out ·
/// steps[0] + in · steps[1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InStack {
    /// The tensor's name.
    pub(crate) name: String,
    /// The tensor's shape.
    pub(crate) shape: Vec<usize>,
    pub(crate) first: usize,
    pub(crate) steps: [usize; 2],
}

/// Whether files hold stacks in the place of each expert's matrices.
pub(crate) fn is_stacked(arch: &Arch) -> bool {
    arch.naming == Naming::Stacked
}

/// The stack in which a parameter lies; None of what is no expert's. Stacks are `experts.gate_up_proj` `[E, 2 F, D]`
/// with each gate above its up and `experts.down_proj` `[E, D, F]`; in gpt-oss `[E, D, 2 F]` with gates and ups by
/// turns and `[E, F, D]`, and each with a bias.
pub(crate) fn in_stack(arch: &Arch, name: &str) -> Option<InStack> {
    let (layer, rest) = name.split_once(&format!(".{EXPERTS}."))?;
    let (number, part) = rest.split_once('.')?;
    let mlp = arch.layers.get(layer.rsplit('.').next()?.parse::<usize>().ok()?)?.mlp.experts()?;
    let expert = number.parse::<usize>().ok().filter(|expert| *expert < mlp.count)?;
    let (d, f, turned) = (arch.hidden_size, mlp.width, is_stacked(arch));
    let (part, kind) = part.rsplit_once('.')?;
    let second = usize::from(part == "up_proj");
    let (stack, outs, ins) = match part {
        "gate_proj" | "up_proj" => ("gate_up_proj", 2 * f, d),
        "down_proj" => ("down_proj", d, f),
        _ => return None,
    };
    // The row of the stack that is the part's first, and how far its rows lie apart.
    let (row, step) = match (stack, turned) {
        ("gate_up_proj", true) => (second, 2),
        _ => (second * f, 1),
    };
    let (shape, first, steps) = match (kind, turned) {
        ("weight", true) => (vec![mlp.count, ins, outs], row, [step, outs]),
        ("weight", false) => (vec![mlp.count, outs, ins], row * ins, [step * ins, 1]),
        ("bias", _) => (vec![mlp.count, outs], row, [step, 0]),
        _ => return None,
    };
    let first = expert * shape[1..].iter().product::<usize>() + first;
    let suffix = if kind == "bias" { "_bias" } else { "" };
    Some(InStack { name: format!("{layer}.{EXPERTS}.{stack}{suffix}"), shape, first, steps })
}

/// Tensors of a model's parameters as transformers' modules hold them: the matrices of all experts in one.
pub fn as_modules(arch: &Arch, tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    let (mut all, mut places): (Vec<NamedTensor>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    for tensor in tensors {
        let Some(InStack { name, shape, first, steps: [out, inner] }) = in_stack(arch, &tensor.name) else {
            all.push(tensor);
            continue;
        };
        let at = *places.entry(name.clone()).or_insert_with(|| {
            let data = vec![0.0; shape.iter().product()];
            all.push(NamedTensor { name, shape, data });
            all.len() - 1
        });
        let ins = tensor.shape.get(1).copied().unwrap_or(1).max(1);
        for (row, values) in tensor.data.chunks_exact(ins).enumerate() {
            for (i, value) in values.iter().enumerate() {
                all[at].data[first + row * out + i * inner] = *value;
            }
        }
    }
    all
}
