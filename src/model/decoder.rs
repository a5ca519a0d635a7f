//! The decoder blocks, forward and backward beside one another.
//!
//! Forward overwrites its outputs. Backward reads what forward kept, adds to parameter gradients (`+=`) and to `dh`,
//! the gradient of the residual stream, which passes through every block in place; all other gradients are overwritten.

use super::context::Context;
use super::linear::{Back, Grads, grad, vector_grad};
use super::lora::Group;
use super::model::Model;
use super::places::{Outer, Slot, layer_param};
use super::{attention, dropout, gated, step};
use crate::Result;
use crate::arch::{Mixer, Mlp, Norms};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::embedding::{self, ByToken};
use crate::kernels::lora;
use crate::kernels::rms_norm::{self, Norm};
use crate::kernels::rows;
use std::mem;

/// The residual stream between two blocks: x + delta `[T, D]`, which the next norm adds up. It is held divided by the
/// architecture's `residual_scale`, as `held_embedding_scale` says.
pub(crate) struct Stream {
    /// The stream before the last branch.
    pub(crate) x: Tensor,
    /// What the last branch adds; None before the first.
    pub(crate) delta: Option<Tensor>,
}

impl From<Tensor> for Stream {
    fn from(x: Tensor) -> Stream {
        Stream { x, delta: None }
    }
}

impl Stream {
    /// The rows of the stream that `list` names, in its order.
    pub(crate) fn gather(&self, rec: &mut Recorder, list: &Tensor) -> Result<Stream> {
        let gpu = rec.gpu();
        let empty = || gpu.empty(list.cols(), self.x.cols());
        let picked = Stream { x: empty()?, delta: self.delta.as_ref().map(|_| empty()).transpose()? };
        rows::gather(rec, &self.x, list, &picked.x)?;
        if let (Some(from), Some(to)) = (&self.delta, &picked.delta) {
            rows::gather(rec, from, list, to)?;
        }
        Ok(picked)
    }
}

/// What a block keeps for its backward pass.
pub(crate) struct Acts {
    norm1: Norm,
    mixer: attention::Acts,
    post1: Option<Norm>,
    norm2: Norm,
    mlp: gated::Acts,
    post2: Option<Norm>,
}

impl Acts {
    /// The block's input, from which forward can run again.
    pub(crate) fn input(&self) -> &Tensor {
        &self.norm1.h
    }
}

/// The norm of the stream x + delta by a parameter's gain.
fn norm(rec: &mut Recorder, model: &Model, x: &Tensor, delta: Option<&Tensor>, param: usize) -> Result<Norm> {
    rms_norm::forward(rec, x, delta, model.gain(param)?, model.arch.held_eps())
}

/// What a branch adds to the stream: its output, normalised where the block does so.
fn post(rec: &mut Recorder, model: &Model, layer: usize, out: Tensor, slot: Slot) -> Result<(Tensor, Option<Norm>)> {
    match model.arch.layers[layer].norms {
        Norms::Before => Ok((out, None)),
        Norms::BeforeAndAfter => {
            let gain = model.gain(layer_param(layer, slot))?;
            let normed = rms_norm::forward(rec, &out, None, gain, model.arch.rms_norm_eps)?;
            Ok((normed.y.clone(), Some(normed)))
        }
    }
}

/// The gradient by a branch's output from dh, that by what it added to the stream.
fn post_backward(rec: &mut Recorder, back: Back, normed: Option<&Norm>, param: usize, dh: &Tensor) -> Result<Tensor> {
    let Some(normed) = normed else { return Ok(dh.clone()) };
    let d = rec.gpu().empty(dh.rows(), dh.cols())?;
    let dgain = vector_grad(back.grads, param)?;
    rms_norm::backward(rec, normed, back.model.gain(param)?, dh, (&d, false), dgain)?;
    Ok(d)
}

/// x `[T, D]` of the step's tokens.
pub(crate) fn embed(rec: &mut Recorder, model: &Model, token: &Tensor, rows: usize) -> Result<Tensor> {
    let x = rec.gpu().empty(rows, model.arch.hidden_size)?;
    let param = embedding_param(model) as usize;
    embedding::forward(rec, token, (model.operand(param)?, model.arch.held_embedding_scale()), &x)?;
    if let Some(group) = model.embedding_adapter(param) {
        let u = embed_between(rec, model, group, token, rows)?;
        lora::add(rec, &u, group.adapters(&model.params)?, &x)?;
    }
    Ok(x)
}

/// The columns of an adapter's A `[T, rank]` of the step's tokens.
fn embed_between(rec: &mut Recorder, model: &Model, group: &Group, token: &Tensor, rows: usize) -> Result<Tensor> {
    let u = rec.gpu().empty(rows, group.layout.rank)?;
    embedding::forward(rec, token, (model.weight(group.a())?, 1.0), &u)?;
    Ok(u)
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
    (token, by): (&Tensor, &ByToken),
    dx: &Tensor,
) -> Result<()> {
    let param = embedding_param(model) as usize;
    if let Some(dtable) = &grads[param] {
        embedding::backward(rec, by, dx, (dtable, model.arch.held_embedding_scale()))?;
    }
    let Some(group) = model.embedding_adapter(param) else { return Ok(()) };
    let (u, adapters) = (embed_between(rec, model, group, token, dx.rows())?, group.adapters(&model.params)?);
    lora::back_b(rec, &u, dx, adapters, grad(grads, group.b())?)?;
    if group.dora {
        let whole = rec.gpu().empty(dx.rows(), dx.cols())?;
        embedding::forward(rec, token, (model.operand(param)?, model.arch.held_embedding_scale()), &whole)?;
        lora::back_m(rec, &u, (dx, &whole), adapters, grad(grads, group.magnitude())?.dense()?)?;
    }
    lora::back_u(rec, dx, adapters, &u)?;
    embedding::backward(rec, by, &u, (grad(grads, group.a())?, 1.0))
}

/// One block on the stream; gives what is kept and the block's own addition to the stream, `[T, D]`.
pub(crate) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    stream: &Stream,
    context: &Context,
) -> Result<(Acts, Tensor)> {
    let block = &model.arch.layers[layer];
    let at = |slot| layer_param(layer, slot);
    let drop = match context {
        Context::Forest { view, .. } => view.dropout.as_ref(),
        Context::Arena(_) => None,
    };
    let norm1 = norm(rec, model, &stream.x, stream.delta.as_ref(), at(Slot::Norm1))?;
    let (mixer, out) = match &block.mixer {
        Mixer::Attention(attention) => attention::forward(rec, model, layer, attention, &norm1.y, context)?,
    };
    let (added, post1) = post(rec, model, layer, out, Slot::PostNorm1)?;
    let added = dropout::branch(rec, drop, layer, "self_attn", &added)?;
    let norm2 = norm(rec, model, &norm1.h, Some(&added), at(Slot::Norm2))?;
    let (mlp, out) = match &block.mlp {
        Mlp::Gated(mlp) => gated::forward(rec, model, layer, mlp, &norm2.y, drop)?,
    };
    let (out, post2) = post(rec, model, layer, out, Slot::PostNorm2)?;
    let out = dropout::branch(rec, drop, layer, "mlp", &out)?;
    Ok((Acts { norm1, mixer, post1, norm2, mlp, post2 }, out))
}

/// All blocks on the embedded rows x; `each` takes what every block left. Gives the stream as the final norm wants it.
pub(crate) fn stack(
    rec: &mut Recorder,
    model: &Model,
    x: Tensor,
    context: &Context,
    mut each: impl FnMut(Acts),
) -> Result<Stream> {
    if let Context::Arena(past) = context
        && step::suits(rec, model)
    {
        let (x, added) = step::stack(rec, model, x, *past)?;
        return Ok(Stream { x, delta: Some(added) });
    }
    let mut stream = Stream::from(x);
    for layer in 0..model.arch.layers.len() {
        let (acts, out) = forward(rec, model, layer, &stream, context)?;
        stream = Stream { x: acts.norm2.h.clone(), delta: Some(out) };
        each(acts);
    }
    Ok(stream)
}

/// The block's gradients from dh, the gradient of its output stream, which becomes that of its input stream. What was
/// kept is let go of where it was read last, so that what comes after may lie there.
pub(crate) fn backward(rec: &mut Recorder, back: Back, layer: usize, acts: Acts, dh: &Tensor) -> Result<()> {
    let Back { model, grads, view } = back;
    let (block, drop) = (&model.arch.layers[layer], view.dropout.as_ref());
    let at = |slot| layer_param(layer, slot);
    let Acts { norm1, mixer, post1, norm2, mlp, post2 } = acts;
    let d_out = dropout::branch(rec, drop, layer, "mlp", dh)?;
    let d_out = post_backward(rec, back, post2.as_ref(), at(Slot::PostNorm2), &d_out)?;
    mem::drop(post2);
    let dy2 = match &block.mlp {
        Mlp::Gated(gated) => gated::backward(rec, back, layer, gated, mlp, &norm2.y, d_out)?,
    };
    let gain2 = model.gain(at(Slot::Norm2))?;
    rms_norm::backward(rec, &norm2, gain2, &dy2, (dh, true), vector_grad(grads, at(Slot::Norm2))?)?;
    mem::drop((norm2, dy2));
    let d_out = dropout::branch(rec, drop, layer, "self_attn", dh)?;
    let d_out = post_backward(rec, back, post1.as_ref(), at(Slot::PostNorm1), &d_out)?;
    mem::drop(post1);
    let dy1 = match &block.mixer {
        Mixer::Attention(attention) => attention::backward(rec, back, layer, attention, mixer, &norm1.y, d_out)?,
    };
    let gain1 = model.gain(at(Slot::Norm1))?;
    rms_norm::backward(rec, &norm1, gain1, &dy1, (dh, true), vector_grad(grads, at(Slot::Norm1))?)
}
