//! The blocks of a decoding step. Nothing is kept for a backward pass, so the products take over what stands around
//! them: the norm before, the gated activation and the residual addition after. Six dispatches a block where there is
//! one chunk of positions, with the merge of several seven; one fewer where q and k turn within attention. Norms behind
//! the branches add to the stream in place of the products.

use super::context::Past;
use super::linear::{self, Linear, project};
use super::model::Model;
use super::places::{Slot, layer_param};
use super::stream::Stream;
use super::{attention, delta_net, experts, short_conv};
use crate::arch::{Gated, Mixer, Mlp, Norms};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::columns;
use crate::kernels::matmul::Epilogue;
use crate::kernels::rms_norm;
use crate::kernels::swiglu;
use crate::{Error, Result};

/// Whether a step may add up in another order than scoring does, and no branch is normalised at both ends.
pub(super) fn suits(rec: &Recorder, model: &Model) -> bool {
    !rec.invariant() && model.arch.layers.iter().all(|layer| layer.norms != Norms::BeforeAndAfter)
}

/// norm(x) W (+ bias) (+ LoRA), or the gated MLP's act(gate) · up of it; `gain` is the parameter of the norm, if there
/// is one.
fn branch(
    rec: &mut Recorder,
    model: &Model,
    x: &Tensor,
    gain: Option<usize>,
    linear: Linear,
    gated: Option<&Gated>,
) -> Result<Tensor> {
    let within = linear::normalises(rec, model, linear, x.rows())?;
    let (arch, gpu, weight) = (&model.arch, rec.gpu(), model.operand(linear.weight)?);
    let gain = gain.map(|param| Ok::<_, Error>((model.gain(param)?, arch.held_eps()))).transpose()?;
    let norm = gain.filter(|_| within);
    let fused = match linear::gates(rec, model, linear, x.rows())? {
        true => gated,
        false => None,
    };
    let y = match gain.filter(|_| !within) {
        Some((gain, eps)) => rms_norm::forward(rec, x, None, gain, eps)?.y,
        None => x.clone(),
    };
    let out = gpu.empty(x.rows(), fused.map_or(weight.cols(), |mlp| mlp.width))?;
    let gate = fused.map(|mlp| mlp.activation);
    project(rec, model, linear, &y, &out, Epilogue { norm, gate, ..Epilogue::default() }, None)?;
    let Some(mlp) = gated.filter(|_| gate.is_none()) else { return Ok(out) };
    let a = gpu.empty(x.rows(), mlp.width)?;
    swiglu::forward(rec, mlp.activation, &out, &a)?;
    Ok(a)
}

/// Where a branch's output goes, on its way through a linear layer.
enum Onto {
    /// To the stream as it is.
    Stream,
    /// Through a norm with a parameter's gain to the stream.
    Norm(usize),
    /// Nowhere: the final norm adds it.
    Delta,
}

/// The stream behind x W (+ bias) (+ LoRA), which may take the place of the stream before.
fn join(rec: &mut Recorder, model: &Model, linear: Linear, x: &Tensor, stream: Stream, to: Onto) -> Result<Stream> {
    if let Onto::Stream = to {
        let add = Epilogue { add: true, ..Epilogue::default() };
        project(rec, model, linear, x, &stream.x, add, None)?;
        return Ok(stream);
    }
    let out = linear::forward(rec, model, linear, x, None)?;
    add(rec, model, out, stream, to)
}

/// The stream behind a branch's output, which may take the place of the stream before.
fn add(rec: &mut Recorder, model: &Model, out: Tensor, stream: Stream, to: Onto) -> Result<Stream> {
    match to {
        Onto::Stream => {
            columns::add(rec, &out, 0, 1.0, &stream.x)?;
            Ok(stream)
        }
        Onto::Norm(gain) => {
            let gain = model.gain(gain)?;
            Ok(rms_norm::onto(rec, &out, &stream.x, gain, model.arch.rms_norm_eps)?.y.into())
        }
        Onto::Delta => Ok(Stream { delta: Some(out), ..stream }),
    }
}

/// All blocks on the embedded rows x; gives the stream as the final norm wants it.
pub(super) fn stack(rec: &mut Recorder, model: &Model, x: Tensor, past: Past) -> Result<Stream> {
    let Some(last) = model.arch.layers.len().checked_sub(1) else {
        return Err(Error::Input("a model without layers".into()));
    };
    let mut stream = Stream::from(x);
    for layer in 0..=last {
        let block = &model.arch.layers[layer];
        let after = block.norms == Norms::After;
        let before = |slot| (!after).then_some(layer_param(layer, slot));
        let behind = |slot| if after { Onto::Norm(layer_param(layer, slot)) } else { Onto::Stream };
        let raw = branch(rec, model, &stream.x, before(Slot::Norm1), Linear::input(layer), None)?;
        let mixed = match &block.mixer {
            Mixer::Attention(attention) => attention::decode(rec, model, layer, attention, &raw, past)?,
            Mixer::ShortConv(conv) => short_conv::step(rec, model, layer, conv, &raw, past)?,
            Mixer::DeltaNet(net) => delta_net::step(rec, model, layer, net, &raw, past)?,
        };
        stream = join(rec, model, Linear::output(layer), &mixed, stream, behind(Slot::PostNorm1))?;
        let to = if layer == last && !after { Onto::Delta } else { behind(Slot::PostNorm2) };
        match &block.mlp {
            Mlp::Gated(mlp) => {
                let a = branch(rec, model, &stream.x, before(Slot::Norm2), Linear::gate_up(layer), Some(mlp))?;
                stream = join(rec, model, Linear::down(layer), &a, stream, to)?;
            }
            Mlp::Experts(mlp) => {
                let y = match before(Slot::Norm2) {
                    Some(gain) => rms_norm::forward(rec, &stream.x, None, model.gain(gain)?, model.arch.held_eps())?.y,
                    None => stream.x.clone(),
                };
                let (_, out) = experts::forward(rec, model, layer, mlp, &y, (false, None))?;
                stream = add(rec, model, out, stream, to)?;
            }
        }
    }
    Ok(stream)
}
