//! Attention as a block's mixer: forward in a forest or on the arena's pages, and backward.

use super::context::{Context, Past, Store};
use super::linear::{self, Back, Ends, Linear, vector_grad};
use super::model::Model;
use super::places::{Slot, gates, heads, layer_param};
use crate::Result;
use crate::arch::{Attention, QkNorm};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::arena::Rows;
use crate::kernels::attention_backward::Gradients;
use crate::kernels::mask::Attended;
use crate::kernels::rope::{self, Rotary, Turn};
use crate::kernels::scores::Scores;
use crate::kernels::{attention, attention_backward, attention_decode, columns, kv_write, output_gate, qk_norm, sinks};
use std::mem;

/// What is kept for the backward pass.
pub(super) struct Acts {
    /// The projection before QK-norm, and the factors of the norm; kept where there is one.
    raw: Option<(Tensor, Tensor)>,
    qkv: Tensor,
    attended: Attended,
    gated: Option<Gated>,
}

/// The projection with its gates, and the output under them.
struct Gated {
    wide: Tensor,
    y: Tensor,
}

/// q, k and v of the projected rows, in which gates may stand in front of them.
fn ungated(rec: &mut Recorder, attention: &Attention, wide: &Tensor) -> Result<Tensor> {
    match attention.output_gate {
        true => columns::part(rec, wide, gates(attention), heads(attention).width()),
        false => Ok(wide.clone()),
    }
}

/// What heads read, under their gates, if they have some.
fn gated(rec: &mut Recorder, attention: &Attention, wide: Tensor, o: &Tensor) -> Result<Option<Gated>> {
    if !attention.output_gate {
        return Ok(None);
    }
    let y = output_gate::forward(rec, o, &wide, 0)?;
    Ok(Some(Gated { wide, y }))
}

/// Where the rows stand and how their queries and keys turn.
fn place<'a>(
    model: &'a Model,
    layer: usize,
    attention: &Attention,
    pos: &'a Tensor,
    turns: &'a [Turn],
) -> Result<Rotary<'a>> {
    let qk_norm = match attention.qk_norm {
        Some(QkNorm::Heads) => Some((model.gain(layer_param(layer, Slot::QkGain))?, model.arch.rms_norm_eps)),
        Some(QkNorm::Whole) | None => None,
    };
    let growth = attention.query_growth;
    Ok(Rotary { heads: heads(attention), pos, turn: attention.rope.map(|r| &turns[r]), qk_norm, growth })
}

/// The projected rows with q and k normalised over all heads, and the factors of that; None where they are not.
fn whole_norm(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    attention: &Attention,
    raw: &Tensor,
) -> Result<Option<(Tensor, Tensor)>> {
    if attention.qk_norm != Some(QkNorm::Whole) {
        return Ok(None);
    }
    let gain = model.gain(layer_param(layer, Slot::QkGain))?;
    qk_norm::forward(rec, heads(attention), raw, gain, model.arch.rms_norm_eps).map(Some)
}

/// The heads' sinks, if they have some.
fn sinks_of<'a>(model: &'a Model, layer: usize, attention: &Attention) -> Result<Option<&'a Tensor>> {
    attention.sinks.then(|| model.dense(layer_param(layer, Slot::SINKS))).transpose()
}

/// The branch's output `[T, D]` of the normalised rows y, and what is kept for the backward pass.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    attention: &Attention,
    y: &Tensor,
    context: &Context,
) -> Result<(Acts, Tensor)> {
    let drop = context.dropout();
    let wide = linear::forward(rec, model, Linear::input(layer), y, drop)?;
    let raw = ungated(rec, attention, &wide)?;
    let (raw, qkv, attended) = match context {
        Context::Forest { view, store } => {
            let (mask, heads) = (&view.masks[layer], heads(attention));
            let place = place(model, layer, attention, &mask.pos, &view.turns)?;
            let (qkv, inv) = match whole_norm(rec, model, layer, attention, &raw)? {
                Some((normed, inv)) => (rope::forward(rec, &place, &normed)?.0, inv),
                None => rope::forward(rec, &place, &raw)?,
            };
            if let Some(Store { memory, row, slot, .. }) = store {
                let arena = memory[layer].pages()?;
                kv_write::settle(rec, &qkv, heads, arena.kv)?;
                kv_write::listed(rec, &qkv, heads, (row, slot), arena)?;
            }
            let attended = attention::forward(rec, &qkv, heads, mask)?;
            if let Some(logits) = sinks_of(model, layer, attention)? {
                sinks::forward(rec, &attended, heads, logits)?;
            }
            (attention.qk_norm.map(|_| (raw, inv)), qkv, attended)
        }
        Context::Arena(past) => {
            let o = attend(rec, model, layer, attention, &raw, *past)?;
            (None, raw, Attended { lse: o.clone(), o })
        }
    };
    let gated = gated(rec, attention, wide, &attended.o)?;
    let read = gated.as_ref().map_or(&attended.o, |gated| &gated.y);
    let out = linear::forward(rec, model, Linear::output(layer), read, drop)?;
    Ok((Acts { raw, qkv, attended, gated }, out))
}

/// The output `[B, H pad4(head_dim)]` of the projected rows wide `[B, width]`, which may be overwritten.
pub(super) fn decode(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    attention: &Attention,
    wide: &Tensor,
    past: Past,
) -> Result<Tensor> {
    let raw = ungated(rec, attention, wide)?;
    let o = attend(rec, model, layer, attention, &raw, past)?;
    Ok(gated(rec, attention, wide.clone(), &o)?.map_or(o, |gated| gated.y))
}

/// o `[B, H pad4(head_dim)]` of q, k and v raw `[B, width]`, which may be overwritten.
fn attend(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    attention: &Attention,
    raw: &Tensor,
    past: Past,
) -> Result<Tensor> {
    let Past { memory, rows, turns, apart, copies, .. } = past;
    let arena = memory[layer].pages()?;
    let normed = whole_norm(rec, model, layer, attention, raw)?;
    let raw = normed.as_ref().map_or(raw, |(normed, _)| normed);
    let window = attention.window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
    let scores = Scores { scale: attention.query_scale, cap: attention.score_cap };
    let sinks = sinks_of(model, layer, attention)?.cloned();
    let rows = Rows { window, scores, sinks, ..rows.clone() };
    let place = place(model, layer, attention, &rows.pos, turns)?;
    if apart && copies.is_none() {
        return attention_decode::step(rec, raw, &place, arena, &rows);
    }
    rope::decode(rec, &place, raw, &rows, arena)?;
    if let Some(copies) = copies {
        kv_write::listed(rec, raw, heads(attention), copies, arena)?;
    }
    attention_decode::forward(rec, raw, heads(attention), arena, &rows)
}

/// The gradient by the rows y from that by the branch's output. What was kept is let go of where it was read last.
pub(super) fn backward(
    rec: &mut Recorder,
    back: Back,
    layer: usize,
    attention: &Attention,
    acts: Acts,
    y: &Tensor,
    d_out: Tensor,
) -> Result<Tensor> {
    let (Acts { raw, qkv, attended, gated }, Back { model, grads, view }) = (acts, back);
    let drop = view.dropout.as_ref();
    let read = gated.as_ref().map_or(&attended.o, |gated| &gated.y);
    let mut d_o = linear::backward(rec, back, Linear::output(layer), Ends { x: read, dy: &d_out, drop })?;
    mem::drop(d_out);
    let mut dwide = None;
    if let Some(Gated { wide, .. }) = &gated {
        let all = rec.gpu().empty(wide.rows(), wide.cols())?;
        d_o = output_gate::backward(rec, &attended.o, (wide, 0), &d_o, &all)?;
        dwide = Some(all);
    }
    mem::drop(gated);
    let mask = &view.masks[layer];
    let Gradients { dqkv, delta } = attention_backward::backward(rec, &qkv, heads(attention), mask, &attended, &d_o)?;
    mem::drop(d_o);
    if let (Some(logits), Some(grad)) =
        (sinks_of(model, layer, attention)?, vector_grad(grads, layer_param(layer, Slot::SINKS))?)
    {
        sinks::backward(rec, &attended, heads(attention), (logits, &delta), grad)?;
    }
    mem::drop(delta);
    let place = place(model, layer, attention, &mask.pos, &view.turns)?;
    let (raw, inv) = raw.as_ref().map_or((&qkv, &attended.lse), |(raw, inv)| (raw, inv));
    let dgain = match attention.qk_norm {
        Some(_) => vector_grad(grads, layer_param(layer, Slot::QkGain))?,
        None => None,
    };
    let mut draw = rope::backward(rec, &place, raw, inv, &dqkv, dgain)?;
    mem::drop(dqkv);
    if attention.qk_norm == Some(QkNorm::Whole) {
        let gain = model.gain(layer_param(layer, Slot::QkGain))?;
        draw = qk_norm::backward(rec, heads(attention), (raw, inv), gain, &draw, dgain)?;
    }
    if let Some(all) = dwide {
        columns::put(rec, &draw, gates(attention), &all)?;
        draw = all;
    }
    linear::backward(rec, back, Linear::input(layer), Ends { x: y, dy: &draw, drop })
}
