//! Linear layers, forward and backward: y = x W (+ bias), and what an adapter adds to it: s · drop(x) Aᵀ Bᵀ, W frozen.

use super::dropout;
use super::lora::Adapted;
use super::model::Model;
use super::places::{Slot, layer_param};
use super::view::View;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::weight::Weight;
use crate::kernels::{column_sum, columns};
use crate::{Error, Result};

/// A linear layer by the parameter numbers of its weight and its bias, which need not be there.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub(super) weight: usize,
    bias: usize,
}

impl Linear {
    /// q, k and v of a block's attention, side by side.
    pub(super) fn qkv(layer: usize) -> Linear {
        Self::at(layer, Slot::Qkv, Slot::QkvBias)
    }

    /// The output projection of a block's attention.
    pub(super) fn output(layer: usize) -> Linear {
        Self::at(layer, Slot::O, Slot::OBias)
    }

    /// Gate and up of a block's MLP, side by side.
    pub(super) fn gate_up(layer: usize) -> Linear {
        Self::at(layer, Slot::GateUp, Slot::GateUpBias)
    }

    /// The way back of a block's MLP into the stream.
    pub(super) fn down(layer: usize) -> Linear {
        Self::at(layer, Slot::Down, Slot::DownBias)
    }

    fn at(layer: usize, weight: Slot, bias: Slot) -> Linear {
        Linear { weight: layer_param(layer, weight), bias: layer_param(layer, bias) }
    }
}

/// What all parts of a way back share.
#[derive(Clone, Copy)]
pub(crate) struct Back<'a> {
    pub(crate) model: &'a Model,
    pub(crate) grads: &'a Grads,
    /// As the way there saw the rows.
    pub(crate) view: &'a View,
}

/// What stands at the two ends of a linear layer on the way back.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    /// Its input.
    pub(super) x: &'a Tensor,
    /// The gradient by its output.
    pub(super) dy: &'a Tensor,
}

/// Gradients by parameter number; None where the model has no such parameter, or it is frozen beside an adapter.
pub(crate) type Grads = [Option<Weight>];

/// The gradient of a parameter that is trained.
fn grad(grads: &Grads, param: usize) -> Result<&Weight> {
    grads[param].as_ref().ok_or_else(|| Error::Bug(format!("no gradient for parameter number {param}")))
}

/// A vector's gradient, where it is trained.
pub(super) fn vector_grad(grads: &Grads, param: usize) -> Result<Option<&Tensor>> {
    grads[param].as_ref().map(Weight::dense).transpose()
}

/// Zeroed gradients of every parameter that is trained: all, or the adapter's alone.
pub(crate) fn gradients(model: &Model, gpu: &Gpu) -> Result<Vec<Option<Weight>>> {
    let trained = |p: usize| model.lora.as_ref().is_none_or(|lora| lora.owns(p));
    let zeros = |(p, weight): (usize, &Option<Weight>)| match weight {
        Some(w) if trained(p) => w.zeros_like(gpu).map(Some),
        _ => Ok(None),
    };
    model.params.iter().enumerate().map(zeros).collect()
}

/// y = x W (+ bias) (+ LoRA), as a new tensor.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    linear: Linear,
    x: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<Tensor> {
    let y = rec.gpu().empty(x.rows(), model.operand(linear.weight)?.cols())?;
    project(rec, model, linear, x, &y, Epilogue::default(), drop)?;
    Ok(y)
}

/// The same into y, with what else the epilogue says; the bias is the model's.
pub(super) fn project(
    rec: &mut Recorder,
    model: &Model,
    linear: Linear,
    x: &Tensor,
    y: &Tensor,
    epilogue: Epilogue,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let bias = match &model.params[linear.bias] {
        Some(b) => Some(b.dense()?),
        None => None,
    };
    matmul::forward(rec, x, model.operand(linear.weight)?, y, Epilogue { bias, ..epilogue })?;
    adapt(rec, model, linear, x, y, drop)
}

/// y += s · drop(x) A B at the columns of every adapter on the layer's weight.
fn adapt(
    rec: &mut Recorder,
    model: &Model,
    linear: Linear,
    x: &Tensor,
    y: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let Some(lora) = &model.lora else { return Ok(()) };
    for adapted in lora.within(linear.weight) {
        let b = model.weight(adapted.a + 1)?;
        let x = dropout::apply(rec, drop, adapted.site, lora.config.dropout, x)?;
        let u = between(rec, model, adapted, &x)?;
        let z = rec.gpu().empty(x.rows(), b.cols())?;
        matmul::forward(rec, &u, b, &z, Epilogue::default())?;
        columns::add(rec, &z, adapted.first_column(), adapted.scale, y)?;
    }
    Ok(())
}

/// u `[T, r]` = x A.
fn between(rec: &mut Recorder, model: &Model, adapted: &Adapted, x: &Tensor) -> Result<Tensor> {
    let a = model.weight(adapted.a)?;
    let u = rec.gpu().empty(x.rows(), a.cols())?;
    matmul::forward(rec, x, a, &u, Epilogue::default())?;
    Ok(u)
}

/// dx = dy W^T; dW += x^T dy; dbias += column sums of dy; what is frozen costs nothing.
pub(super) fn backward(rec: &mut Recorder, back: Back, linear: Linear, ends: Ends) -> Result<Tensor> {
    let (Back { model, grads, .. }, Ends { x, dy }) = (back, ends);
    if let Some(dweight) = &grads[linear.weight] {
        matmul::forward_tn(rec, x, dy, dweight, true)?;
    }
    if let Some(dbias) = vector_grad(grads, linear.bias)? {
        column_sum::forward(rec, dy, dbias)?;
    }
    let dx = rec.gpu().empty(x.rows(), x.cols())?;
    matmul::forward_nt(rec, dy, model.operand(linear.weight)?, &dx, false)?;
    adapt_backward(rec, back, linear, ends, &dx)?;
    Ok(dx)
}

/// With dz = s · dy at the layer's columns: dB += uᵀ dz, du = dz Bᵀ, dA += drop(x)ᵀ du, dx += drop(du Aᵀ).
fn adapt_backward(rec: &mut Recorder, back: Back, linear: Linear, ends: Ends, dx: &Tensor) -> Result<()> {
    let (Back { model, grads, view }, Ends { x, dy }) = (back, ends);
    let drop = view.dropout.as_ref();
    let Some(lora) = &model.lora else { return Ok(()) };
    for adapted in lora.within(linear.weight) {
        let (a, b) = (model.weight(adapted.a)?, model.weight(adapted.a + 1)?);
        let dz = rec.gpu().empty(dy.rows(), b.cols())?;
        columns::take(rec, dy, adapted.first_column(), adapted.scale, &dz)?;
        let rate = lora.config.dropout;
        let x = dropout::apply(rec, drop, adapted.site, rate, x)?;
        let u = between(rec, model, adapted, &x)?;
        matmul::forward_tn(rec, &u, &dz, grad(grads, adapted.a + 1)?, true)?;
        let du = rec.gpu().empty(dy.rows(), a.cols())?;
        matmul::forward_nt(rec, &dz, b, &du, false)?;
        matmul::forward_tn(rec, &x, &du, grad(grads, adapted.a)?, true)?;
        if drop.is_some() && rate > 0.0 {
            let masked = rec.gpu().empty(dx.rows(), dx.cols())?;
            matmul::forward_nt(rec, &du, a, &masked, false)?;
            let masked = dropout::apply(rec, drop, adapted.site, rate, &masked)?;
            columns::add(rec, &masked, 0, 1.0, dx)?;
        } else {
            matmul::forward_nt(rec, &du, a, dx, true)?;
        }
    }
    Ok(())
}
