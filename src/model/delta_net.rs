//! A gated delta net as a block's mixer: forward in a forest or in a step of each sequence, and backward.

use super::context::{Context, Past, Store};
use super::linear::{self, Back, Ends, Linear, vector_grad};
use super::model::Model;
use super::places::{Slot, layer_param};
use super::view::View;
use crate::arch::DeltaNet;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::delta::{Chunks, Ruled, Sizes};
use crate::kernels::gated_norm::{self, Gated};
use crate::kernels::short_conv::Links;
use crate::kernels::{column_sum, delta_chunks, delta_chunks_backward, delta_gates, delta_inputs, delta_rule};
use crate::{Error, Result};
use std::mem;

/// What is kept for the backward pass.
pub(super) struct Acts {
    /// The projected rows: q, k, v, z, b and a, side by side.
    raw: Tensor,
    y: Tensor,
    /// What the rule read and left; not of rows that continue a path.
    rule: Option<Rule>,
}

/// What the rule read and left.
struct Rule {
    mixed: Tensor,
    gates: Tensor,
    ruled: Ruled,
}

fn param(model: &Model, layer: usize, slot: Slot) -> Result<&Tensor> {
    model.dense(layer_param(layer, slot))
}

fn of(view: &View) -> Result<(&Links, &Chunks)> {
    let without = || Error::Bug("a forest without links or chunks under a delta net".into());
    view.links.as_ref().zip(view.chunks.as_ref()).ok_or_else(without)
}

fn without_state() -> Error {
    Error::Bug("sequences that go on under a delta net have no slots for its state".into())
}

/// The norm behind the rule, under the gate z.
fn norm<'a>(model: &'a Model, layer: usize, sizes: &Sizes, raw: &'a Tensor) -> Result<Gated<'a>> {
    let gain = param(model, layer, Slot::GATED_GAIN)?;
    let (heads, dim, eps) = (sizes.value_heads, sizes.value_dim, model.arch.rms_norm_eps);
    Ok(Gated { wide: raw, first: sizes.mixed(), heads, dim, gain, eps })
}

/// The branch's output `[T, D]` of the normalised rows y, and what is kept for the backward pass.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    net: &DeltaNet,
    y: &Tensor,
    context: &Context,
) -> Result<(Acts, Tensor)> {
    let (drop, sizes) = (context.dropout(), Sizes::of(net));
    let raw = linear::forward(rec, model, Linear::input(layer), y, drop)?;
    let (y, rule) = match context {
        Context::Forest { view, store } => {
            let (links, chunks) = of(view)?;
            let mixed = delta_inputs::forward(rec, &sizes, &raw, links, param(model, layer, Slot::TAPS)?)?;
            let gates = delta_gates::forward(rec, &sizes, &raw, param(model, layer, Slot::DECAYS)?)?;
            delta_gates::sums(rec, &sizes, chunks, &gates)?;
            let ruled = match rec.invariant() {
                true => delta_rule::scan(rec, &sizes, &mixed, &gates, chunks)?,
                false => delta_chunks::forward(rec, &sizes, &mixed, &gates, chunks)?,
            };
            if let Some(Store { memory, ends, .. }) = store {
                let ((past, state), ends) = (memory[layer].state()?, ends.ok_or_else(without_state)?);
                delta_inputs::keep(rec, &sizes, (&raw, links), ends, past)?;
                delta_rule::keep(rec, &sizes, (chunks, &ruled.ends), ends, state)?;
            }
            let y = gated_norm::forward(rec, &ruled.o, norm(model, layer, &sizes, &raw)?)?;
            (y, Some(Rule { mixed, gates, ruled }))
        }
        Context::Arena(past) => (step(rec, model, layer, net, &raw, *past)?, None),
    };
    let out = linear::forward(rec, model, Linear::output(layer), &y, drop)?;
    Ok((Acts { raw, y, rule }, out))
}

/// y `[N, HV pad4(value_dim)]` of the projected rows of a step.
pub(super) fn step(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    net: &DeltaNet,
    raw: &Tensor,
    past: Past,
) -> Result<Tensor> {
    let (sizes, slots) = (Sizes::of(net), past.slots.ok_or_else(without_state)?);
    let (inputs, state) = past.memory[layer].state()?;
    let mixed = delta_inputs::step(rec, &sizes, raw, slots, param(model, layer, Slot::TAPS)?, inputs)?;
    let gates = delta_gates::forward(rec, &sizes, raw, param(model, layer, Slot::DECAYS)?)?;
    let o = delta_rule::step(rec, &sizes, (&mixed, &gates), slots, state)?;
    gated_norm::forward(rec, &o, norm(model, layer, &sizes, raw)?)
}

/// The gradient by the rows y from that by the branch's output. What was kept is let go of where it was read last.
pub(super) fn backward(
    rec: &mut Recorder,
    back: Back,
    layer: usize,
    net: &DeltaNet,
    acts: Acts,
    y: &Tensor,
    d_out: Tensor,
) -> Result<Tensor> {
    let (Acts { raw, y: normed, rule }, Back { model, grads, view }) = (acts, back);
    let without = || Error::Bug("a backward pass of rows that continue a path".into());
    let (Rule { mixed, gates, ruled }, (links, chunks)) = (rule.ok_or_else(without)?, of(view)?);
    let (drop, sizes) = (view.dropout.as_ref(), Sizes::of(net));
    let grad = |slot| vector_grad(grads, layer_param(layer, slot));
    let dy = linear::backward(rec, back, Linear::output(layer), Ends { x: &normed, dy: &d_out, drop })?;
    mem::drop((d_out, normed));
    let draw = rec.gpu().empty(raw.rows(), raw.cols())?;
    let dgain = grad(Slot::GATED_GAIN)?;
    let d_o = gated_norm::backward(rec, &ruled.o, norm(model, layer, &sizes, &raw)?, &dy, (&draw, dgain))?;
    mem::drop(dy);
    let by_rule = delta_chunks_backward::backward(rec, &sizes, (&mixed, &gates), chunks, &ruled, &d_o)?;
    mem::drop((d_o, ruled, mixed));
    let (taps, decays) = (param(model, layer, Slot::TAPS)?, param(model, layer, Slot::DECAYS)?);
    let ddecays = delta_gates::backward(rec, &sizes, chunks, (&raw, decays), (&gates, &by_rule), &draw)?;
    if let Some(sum) = grad(Slot::DECAYS)? {
        column_sum::forward(rec, &ddecays, sum)?;
    }
    let into = (&draw, grad(Slot::TAPS)?);
    delta_inputs::backward(rec, &sizes, (&raw, links, taps), (&gates, &by_rule), into)?;
    mem::drop((raw, gates, by_rule, ddecays));
    linear::backward(rec, back, Linear::input(layer), Ends { x: y, dy: &draw, drop })
}
