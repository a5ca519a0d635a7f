//! The blocks of a decoding step. Nothing is kept for a way back, so the products take over what stands around them: the norm
//! before, the gated activation and the residual addition after. Six dispatches a block where there is one chunk of positions,
//! with the merge of several seven; one fewer where q and k turn within attention.

use super::Model;
use super::decoder::{DOWN, GATE_UP, O, QKV, place, project};
use super::params::{Slot, heads, layer_param};
use crate::arch::Activation;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::arena::{Arena, Rows};
use crate::kernels::attention_decode;
use crate::kernels::kv_write;
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::rms_norm;
use crate::kernels::rope::{self, Turn};
use crate::kernels::swiglu;
use crate::{Error, Result};

/// What the rows of a step continue.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    /// Keys and values of each layer.
    pub(crate) arena: &'a [Arena],
    /// Where the rows stand; the window and the scale are each layer's own.
    pub(crate) rows: &'a Rows,
    /// Their angles, by rope of the architecture.
    pub(crate) turns: &'a [Turn],
    /// Whether each row is of a sequence of its own, so that none reads what another one writes.
    pub(crate) apart: bool,
    /// (row, slot) of keys and values that go elsewhere too.
    pub(crate) copies: Option<(&'a Tensor, &'a Tensor)>,
}

impl<'a> Past<'a> {
    /// Rows of a sequence each.
    pub(crate) fn apart(arena: &'a [Arena], rows: &'a Rows, turns: &'a [Turn]) -> Past<'a> {
        Past { arena, rows, turns, apart: true, copies: None }
    }
}

/// Whether a step may add up in another order than scoring does, and a branch's output goes to the stream as it is.
pub(super) fn suits(rec: &Recorder, model: &Model) -> bool {
    !rec.invariant() && !model.arch.post_norms
}

/// o `[B, H pad4(head_dim)]` of the projected rows raw `[B, width]`, which are overwritten.
pub(super) fn attend(rec: &mut Recorder, model: &Model, layer: usize, raw: &Tensor, past: Past) -> Result<Tensor> {
    let Past { arena, rows, turns, apart, copies } = past;
    let window = model.arch.layers[layer].window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
    let rows = Rows { window, scale: model.arch.query_scale, ..rows.clone() };
    let place = place(model, layer, &rows.pos, turns)?;
    if apart && copies.is_none() {
        return attention_decode::step(rec, raw, &place, &arena[layer], &rows);
    }
    rope::decode(rec, &place, raw, &rows, &arena[layer])?;
    if let Some(copies) = copies {
        kv_write::listed(rec, raw, heads(&model.arch), copies, &arena[layer])?;
    }
    attention_decode::forward(rec, raw, heads(&model.arch), &arena[layer], &rows)
}

/// norm(x) W (+ bias) (+ LoRA), or act(gate) * up of it; `gain` is the norm's parameter.
fn branch(
    rec: &mut Recorder,
    model: &Model,
    x: &Tensor,
    (gain, numbers): (usize, [usize; 2]),
    act: Option<Activation>,
) -> Result<Tensor> {
    let (arch, gpu, weight) = (&model.arch, rec.gpu(), model.operand(numbers[0])?);
    let (gain, eps) = (model.gain(gain)?, arch.rms_norm_eps);
    // An adapter reads the normalised rows and adds to what is gated.
    let plain = model.lora.is_none();
    let norm = (plain && matmul::normalises(rec, x.rows)).then_some((gain, eps));
    let gate = act.filter(|_| plain && matmul::gates(rec, x.rows, weight));
    let y = match norm {
        Some(_) => x.clone(),
        None => rms_norm::forward(rec, x, None, gain, eps)?.y,
    };
    let cols = if gate.is_some() { arch.intermediate_size } else { weight.cols() };
    let out = gpu.empty(x.rows, cols)?;
    project(rec, model, (&y, &out), numbers, Epilogue { norm, gate, ..Epilogue::default() }, None)?;
    let Some(act) = act.filter(|_| gate.is_none()) else { return Ok(out) };
    let a = gpu.empty(x.rows, arch.intermediate_size)?;
    swiglu::forward(rec, act, &out, &a)?;
    Ok(a)
}

/// All blocks on the embedded rows x, which become the stream; gives it and the last block's addition, as the final norm wants them.
pub(super) fn stack(rec: &mut Recorder, model: &Model, x: Tensor, past: Past) -> Result<(Tensor, Tensor)> {
    let added = rec.gpu().empty(x.rows, x.cols)?;
    let Some(last) = model.arch.num_hidden_layers.checked_sub(1) else {
        return Err(Error::Input("a model without layers".into()));
    };
    let onto = Epilogue { add: true, ..Epilogue::default() };
    for layer in 0..=last {
        let at = |slot| layer_param(layer, slot);
        let raw = branch(rec, model, &x, (at(Slot::Norm1), QKV.map(at)), None)?;
        let o = attend(rec, model, layer, &raw, past)?;
        project(rec, model, (&o, &x), O.map(at), onto, None)?;
        let a = branch(rec, model, &x, (at(Slot::Norm2), GATE_UP.map(at)), Some(model.arch.activation))?;
        let (to, epilogue) = if layer == last { (&added, Epilogue::default()) } else { (&x, onto) };
        project(rec, model, (&a, to), DOWN.map(at), epilogue, None)?;
    }
    Ok((x, added))
}
