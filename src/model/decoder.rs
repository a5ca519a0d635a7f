//! The decoder blocks, forward and backward beside one another.
//!
//! Forward overwrites its outputs. Backward reads what forward kept, adds to parameter gradients (`+=`) and to `dh`,
//! the gradient of the residual stream, which passes through every block in place; all other gradients are overwritten.

use super::context::Context;
use super::linear::{Back, Grads, grad, vector_grad};
use super::lora::Group;
use super::model::Model;
use super::places::{Outer, Slot, layer_param};
use super::stream::Stream;
use super::{attention, delta_net, dropout, experts, gated, short_conv, step};
use crate::arch::{Mixer, Mlp, Norms};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::columns;
use crate::kernels::embedding::{self, ByToken};
use crate::kernels::lora;
use crate::kernels::rms_norm::{self, Norm};
use crate::{Error, Result};
use std::mem;

/// What a branch reads.
enum Entry {
    /// The stream, normalised.
    Normed(Norm),
    /// The stream as it is.
    Plain(Tensor),
}

impl Entry {
    /// The stream.
    fn stream(&self) -> &Tensor {
        match self {
            Entry::Normed(norm) => &norm.h,
            Entry::Plain(h) => h,
        }
    }

    /// The rows that the branch reads.
    fn rows(&self) -> &Tensor {
        match self {
            Entry::Normed(norm) => &norm.y,
            Entry::Plain(h) => h,
        }
    }
}

/// What a block's mixer keeps for its backward pass.
enum Mixed {
    Attention(attention::Acts),
    ShortConv(short_conv::Acts),
    DeltaNet(delta_net::Acts),
}

/// What a block's MLP keeps for its backward pass.
enum Worked {
    Gated(gated::Acts),
    Experts(Box<experts::Acts>),
}

/// What a block keeps for its backward pass.
pub(crate) struct Acts {
    entry1: Entry,
    mixer: Mixed,
    post1: Option<Norm>,
    entry2: Entry,
    mlp: Worked,
    post2: Option<Norm>,
}

impl Acts {
    /// The block's input, from which forward can run again.
    pub(crate) fn input(&self) -> &Tensor {
        self.entry1.stream()
    }
}

/// What a branch of a layer reads of the stream, which is normalised by a parameter's gain where the block does so.
fn enter(rec: &mut Recorder, model: &Model, layer: usize, stream: &Stream, slot: Slot) -> Result<Entry> {
    let Stream { x, delta } = stream;
    match (model.arch.layers[layer].norms, delta) {
        (Norms::Before | Norms::BeforeAndAfter, _) => {
            let gain = model.gain(layer_param(layer, slot))?;
            rms_norm::forward(rec, x, delta.as_ref(), gain, model.arch.held_eps()).map(Entry::Normed)
        }
        (Norms::After, None) => Ok(Entry::Plain(x.clone())),
        (Norms::After, Some(delta)) => {
            let h = rec.gpu().empty(x.rows(), x.cols())?;
            columns::take(rec, x, 0, 1.0, &h)?;
            columns::add(rec, delta, 0, 1.0, &h)?;
            Ok(Entry::Plain(h))
        }
    }
}

/// The stream h behind a branch of a layer whose output is `out`: normalised where the block does so, and masked. Gives
/// the norm too.
fn leave(
    rec: &mut Recorder,
    model: &Model,
    (layer, branch, slot): (usize, &str, Slot),
    (h, out): (&Tensor, Tensor),
    drop: Option<&dropout::Masks>,
) -> Result<(Stream, Option<Norm>)> {
    let eps = model.arch.rms_norm_eps;
    let (added, normed) = match model.arch.layers[layer].norms {
        Norms::Before => (out, None),
        Norms::After if !dropout::drops(drop) => {
            let normed = rms_norm::onto(rec, &out, h, model.gain(layer_param(layer, slot))?, eps)?;
            return Ok((normed.y.clone().into(), Some(normed)));
        }
        Norms::BeforeAndAfter | Norms::After => {
            let normed = rms_norm::forward(rec, &out, None, model.gain(layer_param(layer, slot))?, eps)?;
            (normed.y.clone(), Some(normed))
        }
    };
    let delta = Some(dropout::branch(rec, drop, layer, branch, &added)?);
    Ok((Stream { x: h.clone(), delta }, normed))
}

/// Adds to dh, the gradient by the stream, that of what a branch read of it.
fn enter_backward(rec: &mut Recorder, back: Back, entry: &Entry, param: usize, dy: &Tensor, dh: &Tensor) -> Result<()> {
    match entry {
        Entry::Plain(_) => columns::add(rec, dy, 0, 1.0, dh),
        Entry::Normed(norm) => {
            let dgain = vector_grad(back.grads, param)?;
            rms_norm::backward(rec, norm, back.model.gain(param)?, dy, (dh, true), dgain)
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

/// One block on the stream; gives what is kept and the stream behind the block.
pub(crate) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    stream: &Stream,
    context: &Context,
) -> Result<(Acts, Stream)> {
    let block = &model.arch.layers[layer];
    let drop = context.dropout();
    let entry1 = enter(rec, model, layer, stream, Slot::Norm1)?;
    let (mixer, out) = match &block.mixer {
        Mixer::Attention(attention) => {
            let (acts, out) = attention::forward(rec, model, layer, attention, entry1.rows(), context)?;
            (Mixed::Attention(acts), out)
        }
        Mixer::ShortConv(conv) => {
            let (acts, out) = short_conv::forward(rec, model, layer, conv, entry1.rows(), context)?;
            (Mixed::ShortConv(acts), out)
        }
        Mixer::DeltaNet(net) => {
            let (acts, out) = delta_net::forward(rec, model, layer, net, entry1.rows(), context)?;
            (Mixed::DeltaNet(acts), out)
        }
    };
    let module = block.mixer.module();
    let (stream, post1) = leave(rec, model, (layer, module, Slot::PostNorm1), (entry1.stream(), out), drop)?;
    let entry2 = enter(rec, model, layer, &stream, Slot::Norm2)?;
    let (mlp, out) = match &block.mlp {
        Mlp::Gated(mlp) => {
            let (acts, out) = gated::forward(rec, model, layer, mlp, entry2.rows(), drop)?;
            (Worked::Gated(acts), out)
        }
        Mlp::Experts(mlp) => {
            let (acts, out) = experts::forward(rec, model, layer, mlp, entry2.rows(), (true, drop))?;
            if let Some(balance) = context.balance() {
                acts.count(rec, layer, balance)?;
            }
            (Worked::Experts(Box::new(acts)), out)
        }
    };
    let (stream, post2) = leave(rec, model, (layer, "mlp", Slot::PostNorm2), (entry2.stream(), out), drop)?;
    Ok((Acts { entry1, mixer, post1, entry2, mlp, post2 }, stream))
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
        return step::stack(rec, model, x, *past);
    }
    let mut stream = Stream::from(x);
    for layer in 0..model.arch.layers.len() {
        let (acts, behind) = forward(rec, model, layer, &stream, context)?;
        stream = behind;
        each(acts);
    }
    Ok(stream)
}

/// The block's gradients from dh, the gradient of its output stream, which becomes that of its input stream. What was
/// kept is let go of where it was read last, so that what comes after may lie there.
pub(crate) fn backward(rec: &mut Recorder, back: Back, layer: usize, acts: Acts, dh: &Tensor) -> Result<()> {
    let Back { model, view, .. } = back;
    let (block, drop) = (&model.arch.layers[layer], view.dropout.as_ref());
    let at = |slot| layer_param(layer, slot);
    let Acts { entry1, mixer, post1, entry2, mlp, post2 } = acts;
    let d_out = dropout::branch(rec, drop, layer, "mlp", dh)?;
    let d_out = post_backward(rec, back, post2.as_ref(), at(Slot::PostNorm2), &d_out)?;
    mem::drop(post2);
    let another = |part: &str| Error::Bug(format!("block {layer} kept what another {part} keeps"));
    let dy2 = match (&block.mlp, mlp) {
        (Mlp::Gated(gated), Worked::Gated(acts)) => {
            gated::backward(rec, back, layer, gated, acts, entry2.rows(), d_out)?
        }
        (Mlp::Experts(mlp), Worked::Experts(acts)) => {
            experts::backward(rec, back, layer, mlp, *acts, entry2.rows(), d_out)?
        }
        _ => return Err(another("MLP")),
    };
    enter_backward(rec, back, &entry2, at(Slot::Norm2), &dy2, dh)?;
    mem::drop((entry2, dy2));
    let d_out = dropout::branch(rec, drop, layer, block.mixer.module(), dh)?;
    let d_out = post_backward(rec, back, post1.as_ref(), at(Slot::PostNorm1), &d_out)?;
    mem::drop(post1);
    let dy1 = match (&block.mixer, mixer) {
        (Mixer::Attention(attention), Mixed::Attention(acts)) => {
            attention::backward(rec, back, layer, attention, acts, entry1.rows(), d_out)?
        }
        (Mixer::ShortConv(conv), Mixed::ShortConv(acts)) => {
            short_conv::backward(rec, back, layer, conv, acts, entry1.rows(), d_out)?
        }
        (Mixer::DeltaNet(net), Mixed::DeltaNet(acts)) => {
            delta_net::backward(rec, back, layer, net, acts, entry1.rows(), d_out)?
        }
        _ => return Err(another("mixer")),
    };
    enter_backward(rec, back, &entry1, at(Slot::Norm1), &dy1, dh)
}
