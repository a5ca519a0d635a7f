//! A gated short convolution as a block's mixer: forward in a forest or in a step of each sequence, and backward.

use super::context::{Context, Past, Store};
use super::linear::{self, Back, Ends, Linear, vector_grad};
use super::model::Model;
use super::places::{Slot, layer_param};
use super::view::View;
use crate::arch::ShortConv;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::short_conv::{self, Links, Taps};
use crate::{Error, Result};
use std::mem;

/// What is kept for the backward pass.
pub(super) struct Acts {
    /// b, c and x, side by side.
    bcx: Tensor,
    y: Tensor,
}

fn taps<'a>(model: &'a Model, layer: usize, conv: &ShortConv) -> Result<Taps<'a>> {
    let bias = match conv.bias {
        true => Some(model.dense(layer_param(layer, Slot::TAPS_BIAS))?),
        false => None,
    };
    let taps = model.dense(layer_param(layer, Slot::TAPS))?;
    Ok(Taps { taps, count: conv.taps, channels: model.arch.hidden_size, bias })
}

fn links(view: &View) -> Result<&Links> {
    view.links.as_ref().ok_or_else(|| Error::Bug("a forest without links under a convolution".into()))
}

fn without_past() -> Error {
    Error::Bug("sequences that go on under a convolution have no slots for its past".into())
}

/// The branch's output `[T, D]` of the normalised rows y, and what is kept for the backward pass.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    conv: &ShortConv,
    y: &Tensor,
    context: &Context,
) -> Result<(Acts, Tensor)> {
    let drop = context.dropout();
    let bcx = linear::forward(rec, model, Linear::input(layer), y, drop)?;
    let y = match context {
        Context::Forest { view, store } => {
            let (links, taps) = (links(view)?, taps(model, layer, conv)?);
            if let Some(Store { memory, ends, .. }) = store {
                let ends = ends.ok_or_else(without_past)?;
                short_conv::keep(rec, &bcx, links, taps, ends, memory[layer].past()?)?;
            }
            short_conv::forward(rec, &bcx, links, taps)?
        }
        Context::Arena(past) => step(rec, model, layer, conv, &bcx, *past)?,
    };
    let out = linear::forward(rec, model, Linear::output(layer), &y, drop)?;
    Ok((Acts { bcx, y }, out))
}

/// y `[N, D]` of the projected rows of a step.
pub(super) fn step(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    conv: &ShortConv,
    bcx: &Tensor,
    past: Past,
) -> Result<Tensor> {
    short_conv::step(
        rec,
        bcx,
        past.slots.ok_or_else(without_past)?,
        taps(model, layer, conv)?,
        past.memory[layer].past()?,
    )
}

/// The gradient by the rows y from that by the branch's output. What was kept is let go of where it was read last.
pub(super) fn backward(
    rec: &mut Recorder,
    back: Back,
    layer: usize,
    conv: &ShortConv,
    acts: Acts,
    y: &Tensor,
    d_out: Tensor,
) -> Result<Tensor> {
    let (Acts { bcx, y: sums }, Back { model, grads, view }) = (acts, back);
    let drop = view.dropout.as_ref();
    let dy = linear::backward(rec, back, Linear::output(layer), Ends { x: &sums, dy: &d_out, drop })?;
    mem::drop((d_out, sums));
    let grad = |slot| vector_grad(grads, layer_param(layer, slot));
    let of_taps = (grad(Slot::TAPS)?, if conv.bias { grad(Slot::TAPS_BIAS)? } else { None });
    let dbcx = short_conv::backward(rec, &bcx, links(view)?, taps(model, layer, conv)?, &dy, of_taps)?;
    mem::drop((bcx, dy));
    linear::backward(rec, back, Linear::input(layer), Ends { x: y, dy: &dbcx, drop })
}
