//! The decoder blocks, forward and backward beside one another.
//!
//! Forward overwrites its outputs. Backward reads what forward kept, adds to parameter gradients (`+=`) and to `dh`, the
//! gradient of the residual stream, which passes through every block in place; all other gradients are overwritten.

use super::params::{Outer, Slot, heads, layer_param};
use super::view::View;
use super::{Model, dropout, lora, step};
use crate::gpu::{Recorder, Tensor, pad4};
use crate::kernels::arena::Arena;
use crate::kernels::attention;
use crate::kernels::attention_backward;
use crate::kernels::embedding::{self, ByToken};
use crate::kernels::mask::Attended;
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::rms_norm::{self, Norm};
use crate::kernels::rope::{self, Place, Turn};
use crate::kernels::weight::Weight;
use crate::kernels::{column_sum, kv_write, swiglu};
use crate::{Error, Result};
use std::mem;

pub(crate) use super::step::Past;

/// Where the rows of a step find their keys and values.
pub(crate) enum Context<'a> {
    /// Rows see the step's own forest; `store` also puts keys and values into the arena: (row, slot) of each entry.
    Forest { view: &'a View, store: Option<(&'a [Arena], &'a Tensor, &'a Tensor)> },
    /// Single rows continue paths in the arena.
    Arena(Past<'a>),
}

/// What a block keeps for its backward pass.
pub(crate) struct Acts {
    norm1: Norm,
    /// The projection before RoPE; kept where QK-norm needs it.
    raw: Option<(Tensor, Tensor)>,
    qkv: Tensor,
    attended: Attended,
    post1: Option<Norm>,
    norm2: Norm,
    gu: Tensor,
    a: Tensor,
    post2: Option<Norm>,
}

impl Acts {
    /// The block's input, from which forward can run again.
    pub(crate) fn input(&self) -> &Tensor {
        &self.norm1.h
    }
}

pub(super) fn place<'a>(model: &'a Model, layer: usize, pos: &'a Tensor, turns: &'a [Turn]) -> Result<Place<'a>> {
    let qk_norm = match model.arch.qk_norm {
        true => Some((model.gain(layer_param(layer, Slot::QkGain))?, model.arch.rms_norm_eps)),
        false => None,
    };
    let turn = model.arch.layers[layer].rope.map(|r| &turns[r]);
    Ok(Place { heads: heads(&model.arch), pos, turn, qk_norm })
}

/// The norm of x + delta by a parameter's gain.
fn norm(rec: &mut Recorder, model: &Model, x: &Tensor, delta: Option<&Tensor>, param: usize) -> Result<Norm> {
    rms_norm::forward(rec, x, delta, model.gain(param)?, model.arch.rms_norm_eps)
}

/// What a branch adds to the stream: its output, normalised where the family does so.
fn post(rec: &mut Recorder, model: &Model, out: Tensor, param: usize) -> Result<(Tensor, Option<Norm>)> {
    match model.arch.post_norms {
        false => Ok((out, None)),
        true => {
            let normed = norm(rec, model, &out, None, param)?;
            Ok((normed.y.clone(), Some(normed)))
        }
    }
}

/// The gradient by a branch's output from dh, that by what it added to the stream.
fn post_backward(
    rec: &mut Recorder,
    model: &Model,
    grads: &Grads,
    (normed, param): (&Option<Norm>, usize),
    dh: &Tensor,
) -> Result<Tensor> {
    let Some(normed) = normed else { return Ok(dh.clone()) };
    let d = rec.gpu().empty(dh.rows, dh.cols)?;
    rms_norm::backward(rec, normed, model.gain(param)?, dh, (&d, false), vector_grad(grads, param)?)?;
    Ok(d)
}

/// y = x W (+ bias) (+ LoRA)
fn linear(
    rec: &mut Recorder,
    model: &Model,
    x: &Tensor,
    numbers: [usize; 2],
    drop: Option<&dropout::Masks>,
) -> Result<Tensor> {
    let y = rec.gpu().empty(x.rows, model.operand(numbers[0])?.cols())?;
    project(rec, model, (x, &y), numbers, Epilogue::default(), drop)?;
    Ok(y)
}

/// The same into y, with what else the epilogue says; the bias is the model's.
pub(super) fn project(
    rec: &mut Recorder,
    model: &Model,
    (x, y): (&Tensor, &Tensor),
    [number, bias]: [usize; 2],
    epilogue: Epilogue,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let bias = match &model.params[bias] {
        Some(b) => Some(b.dense()?),
        None => None,
    };
    matmul::forward(rec, x, model.operand(number)?, y, Epilogue { bias, ..epilogue })?;
    lora::forward(rec, model, number, x, y, drop)
}

/// Gradients by parameter number; None where the model has no such parameter, or it is frozen beside an adapter.
pub(crate) type Grads = [Option<Weight>];

pub(crate) fn grad(grads: &Grads, param: usize) -> Result<&Weight> {
    grads[param].as_ref().ok_or_else(|| Error::Input(format!("no gradient for parameter number {param}")))
}

/// A vector's gradient, where it is trained.
pub(crate) fn vector_grad(grads: &Grads, param: usize) -> Result<Option<&Tensor>> {
    grads[param].as_ref().map(Weight::dense).transpose()
}

/// dx = dy W^T; dW += x^T dy; dbias += column sums of dy; what is frozen costs nothing.
fn linear_backward(
    rec: &mut Recorder,
    model: &Model,
    grads: &Grads,
    (x, dy): (&Tensor, &Tensor),
    [weight, bias]: [usize; 2],
    drop: Option<&dropout::Masks>,
) -> Result<Tensor> {
    if let Some(dweight) = &grads[weight] {
        matmul::forward_tn(rec, x, dy, dweight, true)?;
    }
    if let Some(dbias) = vector_grad(grads, bias)? {
        column_sum::forward(rec, dy, dbias)?;
    }
    let dx = rec.gpu().empty(x.rows, x.cols)?;
    matmul::forward_nt(rec, dy, model.operand(weight)?, &dx, false)?;
    lora::backward(rec, model, grads, weight, (x, dy), &dx, drop)?;
    Ok(dx)
}

pub(super) const QKV: [Slot; 2] = [Slot::Qkv, Slot::QkvBias];
pub(super) const O: [Slot; 2] = [Slot::O, Slot::OBias];
pub(super) const GATE_UP: [Slot; 2] = [Slot::GateUp, Slot::GateUpBias];
pub(super) const DOWN: [Slot; 2] = [Slot::Down, Slot::DownBias];

/// x `[T, D]` of the step's tokens.
pub(crate) fn embed(rec: &mut Recorder, model: &Model, token: &Tensor, rows: usize) -> Result<Tensor> {
    let x = rec.gpu().empty(rows, model.arch.hidden_size)?;
    let table = model.operand(embedding_param(model) as usize)?;
    embedding::forward(rec, token, (table, model.arch.embedding_scale), &x)?;
    Ok(x)
}

/// Where the embedding lies.
fn embedding_param(model: &Model) -> Outer {
    if model.arch.tie_word_embeddings { Outer::Head } else { Outer::Embedding }
}

/// Adds the embedding's gradient from dx `[T, D]`.
pub(crate) fn embed_backward(
    rec: &mut Recorder,
    model: &Model,
    grads: &Grads,
    by: &ByToken,
    dx: &Tensor,
) -> Result<()> {
    match &grads[embedding_param(model) as usize] {
        Some(dtable) => embedding::backward(rec, by, dx, (dtable, model.arch.embedding_scale)),
        None => Ok(()),
    }
}

/// One block on the stream x + delta; gives what is kept and the block's own addition to the stream, `[T, D]`.
pub(crate) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    (x, delta): (&Tensor, Option<&Tensor>),
    context: &Context,
) -> Result<(Acts, Tensor)> {
    let (arch, gpu) = (&model.arch, rec.gpu());
    let at = |slot| layer_param(layer, slot);
    let heads = heads(arch);
    let drop = match context {
        Context::Forest { view, .. } => view.dropout.as_ref(),
        Context::Arena(_) => None,
    };
    let norm1 = norm(rec, model, x, delta, at(Slot::Norm1))?;
    let raw = linear(rec, model, &norm1.y, QKV.map(at), drop)?;
    let mut inv = None;
    let (qkv, attended) = match context {
        Context::Forest { view, store } => {
            let mask = &view.masks[layer];
            let (qkv, rms) = rope::forward(rec, &place(model, layer, &mask.pos, &view.turns)?, &raw)?;
            inv = Some(rms);
            if let Some((arena, row, slot)) = store {
                kv_write::listed(rec, &qkv, heads, (row, slot), &arena[layer])?;
            }
            let attended = attention::forward(rec, &qkv, heads, mask)?;
            (qkv, attended)
        }
        Context::Arena(past) => {
            let o = step::attend(rec, model, layer, &raw, *past)?;
            (raw.clone(), Attended { lse: o.clone(), o })
        }
    };
    let attention_out = linear(rec, model, &attended.o, O.map(at), drop)?;
    let (added, post1) = post(rec, model, attention_out, at(Slot::PostNorm1))?;
    let added = dropout::branch(rec, drop, layer, "self_attn", &added)?;
    let norm2 = norm(rec, model, &norm1.h, Some(&added), at(Slot::Norm2))?;
    let gu = linear(rec, model, &norm2.y, GATE_UP.map(at), drop)?;
    let a = gpu.empty(x.rows, arch.intermediate_size)?;
    swiglu::forward(rec, arch.activation, &gu, &a)?;
    let out = linear(rec, model, &a, DOWN.map(at), drop)?;
    let (out, post2) = post(rec, model, out, at(Slot::PostNorm2))?;
    let out = dropout::branch(rec, drop, layer, "mlp", &out)?;
    let raw = inv.filter(|_| arch.qk_norm).map(|inv| (raw, inv));
    Ok((Acts { norm1, raw, qkv, attended, post1, norm2, gu, a, post2 }, out))
}

/// All blocks on the embedded rows x; `each` takes what every block left. Gives the stream and the last block's
/// addition to it, as the final norm wants them.
pub(crate) fn stack(
    rec: &mut Recorder,
    model: &Model,
    mut x: Tensor,
    context: &Context,
    mut each: impl FnMut(Acts),
) -> Result<(Tensor, Tensor)> {
    if let Context::Arena(past) = context
        && step::suits(rec, model)
    {
        return step::stack(rec, model, x, *past);
    }
    let mut delta = None;
    for layer in 0..model.arch.num_hidden_layers {
        let (acts, out) = forward(rec, model, layer, (&x, delta.as_ref()), context)?;
        x = acts.norm2.h.clone();
        delta = Some(out);
        each(acts);
    }
    match delta {
        Some(d) => Ok((x, d)),
        None => Err(Error::Input("a model without layers".into())),
    }
}

/// The block's gradients from dh, the gradient of its output stream, which becomes that of its input stream. What was kept is let go
/// of where it was read last, so that what comes after may lie there.
pub(crate) fn backward(
    rec: &mut Recorder,
    model: &Model,
    grads: &Grads,
    layer: usize,
    acts: Acts,
    view: &View,
    dh: &Tensor,
) -> Result<()> {
    let (gpu, heads) = (rec.gpu(), heads(&model.arch));
    let at = |slot| layer_param(layer, slot);
    let (act, drop) = (model.arch.activation, view.dropout.as_ref());
    let Acts { norm1, raw, qkv, attended, post1, norm2, gu, a, post2 } = acts;
    let d_out = dropout::branch(rec, drop, layer, "mlp", dh)?;
    let d_out = post_backward(rec, model, grads, (&post2, at(Slot::PostNorm2)), &d_out)?;
    let da = linear_backward(rec, model, grads, (&a, &d_out), DOWN.map(at), drop)?;
    mem::drop((a, d_out, post2));
    let dgu = gpu.empty(dh.rows, 2 * pad4(model.arch.intermediate_size))?;
    swiglu::backward(rec, act, &gu, &da, &dgu)?;
    mem::drop((gu, da));
    let dy2 = linear_backward(rec, model, grads, (&norm2.y, &dgu), GATE_UP.map(at), drop)?;
    mem::drop(dgu);
    let gain2 = model.gain(at(Slot::Norm2))?;
    rms_norm::backward(rec, &norm2, gain2, &dy2, (dh, true), vector_grad(grads, at(Slot::Norm2))?)?;
    mem::drop((norm2, dy2));
    let d_out = dropout::branch(rec, drop, layer, "self_attn", dh)?;
    let d_out = post_backward(rec, model, grads, (&post1, at(Slot::PostNorm1)), &d_out)?;
    let d_o = linear_backward(rec, model, grads, (&attended.o, &d_out), O.map(at), drop)?;
    mem::drop((d_out, post1));
    let mask = &view.masks[layer];
    let dqkv = attention_backward::backward(rec, &qkv, heads, mask, &attended, &d_o)?;
    mem::drop(d_o);
    let place = place(model, layer, &mask.pos, &view.turns)?;
    let (raw, inv) = raw.as_ref().map_or((&qkv, &attended.lse), |(r, i)| (r, i));
    let dgain = vector_grad(grads, at(Slot::QkGain))?;
    let draw = rope::backward(rec, &place, raw, inv, &dqkv, dgain)?;
    mem::drop(dqkv);
    let dy1 = linear_backward(rec, model, grads, (&norm1.y, &draw), QKV.map(at), drop)?;
    let gain1 = model.gain(at(Slot::Norm1))?;
    rms_norm::backward(rec, &norm1, gain1, &dy1, (dh, true), vector_grad(grads, at(Slot::Norm1))?)
}

/// Zeroed gradients of every parameter that is trained: all, or the adapter's alone.
pub(crate) fn gradients(model: &Model, gpu: &crate::gpu::Gpu) -> Result<Vec<Option<Weight>>> {
    let trained = |p: usize| model.lora.as_ref().is_none_or(|lora| lora.owns(p));
    let zeros = |(p, weight): (usize, &Option<Weight>)| match weight {
        Some(w) if trained(p) => w.zeros_like(gpu).map(Some),
        _ => Ok(None),
    };
    model.params.iter().enumerate().map(zeros).collect()
}
