//! The blocks of a decoding step. Nothing is kept for a backward pass, so the products take over what stands around
//! them: the norm before, the gated activation and the residual addition after. Six dispatches a block where there is
//! one chunk of positions, with the merge of several seven; one fewer where q and k turn within attention.

use super::attention;
use super::context::Past;
use super::linear::{self, Linear, project};
use super::model::Model;
use super::places::{Slot, layer_param};
use crate::arch::{Gated, Mixer, Mlp, Norms};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::matmul::Epilogue;
use crate::kernels::rms_norm;
use crate::kernels::swiglu;
use crate::{Error, Result};

/// Whether a step may add up in another order than scoring does, and a branch's output goes to the stream as it is.
pub(super) fn suits(rec: &Recorder, model: &Model) -> bool {
    !rec.invariant() && model.arch.layers.iter().all(|layer| layer.norms == Norms::Before)
}

/// norm(x) W (+ bias) (+ LoRA), or the gated MLP's act(gate) · up of it; `gain` is the norm's parameter.
fn branch(
    rec: &mut Recorder,
    model: &Model,
    x: &Tensor,
    gain: usize,
    linear: Linear,
    gated: Option<&Gated>,
) -> Result<Tensor> {
    let (arch, gpu, weight) = (&model.arch, rec.gpu(), model.operand(linear.weight)?);
    let (gain, eps) = (model.gain(gain)?, arch.held_eps());
    let norm = linear::normalises(rec, model, linear, x.rows())?.then_some((gain, eps));
    let fused = match linear::gates(rec, model, linear, x.rows())? {
        true => gated,
        false => None,
    };
    let y = match norm {
        Some(_) => x.clone(),
        None => rms_norm::forward(rec, x, None, gain, eps)?.y,
    };
    let out = gpu.empty(x.rows(), fused.map_or(weight.cols(), |mlp| mlp.width))?;
    let gate = fused.map(|mlp| mlp.activation);
    project(rec, model, linear, &y, &out, Epilogue { norm, gate, ..Epilogue::default() }, None)?;
    let Some(mlp) = gated.filter(|_| gate.is_none()) else { return Ok(out) };
    let a = gpu.empty(x.rows(), mlp.width)?;
    swiglu::forward(rec, mlp.activation, &out, &a)?;
    Ok(a)
}

/// All blocks on the embedded rows x, which become the stream; gives it and the last block's addition, as the final
/// norm wants them.
pub(super) fn stack(rec: &mut Recorder, model: &Model, x: Tensor, past: Past) -> Result<(Tensor, Tensor)> {
    let added = rec.gpu().empty(x.rows(), x.cols())?;
    let Some(last) = model.arch.layers.len().checked_sub(1) else {
        return Err(Error::Input("a model without layers".into()));
    };
    let onto = Epilogue { add: true, ..Epilogue::default() };
    for layer in 0..=last {
        let norm = |slot| layer_param(layer, slot);
        let block = &model.arch.layers[layer];
        match &block.mixer {
            Mixer::Attention(attention) => {
                let raw = branch(rec, model, &x, norm(Slot::Norm1), Linear::qkv(layer), None)?;
                let o = attention::decode(rec, model, layer, attention, &raw, past)?;
                project(rec, model, Linear::output(layer), &o, &x, onto, None)?;
            }
        }
        let (to, epilogue) = if layer == last { (&added, Epilogue::default()) } else { (&x, onto) };
        match &block.mlp {
            Mlp::Gated(mlp) => {
                let a = branch(rec, model, &x, norm(Slot::Norm2), Linear::gate_up(layer), Some(mlp))?;
                project(rec, model, Linear::down(layer), &a, to, epilogue, None)?;
            }
        }
    }
    Ok((x, added))
}
