//! Linear layers, forward and backward: y = x W (+ bias), and what an adapter adds to it: s · drop(x) A B, W frozen.

use super::dropout;
use super::lora::Group;
use super::model::Model;
use super::places::{Outer, Slot, layer_param};
use super::view::View;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::rms_norm::Gain;
use crate::kernels::weight::Weight;
use crate::kernels::{column_sum, columns, lora, rows};
use crate::{Error, Result};
use std::ops::Range;

/// A linear layer by the parameter numbers of its weight and its bias, which need not be there.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub(super) weight: usize,
    pub(super) bias: Option<usize>,
}

impl Linear {
    /// What a block's mixer begins with, side by side: q, k and v, or b, c and x.
    pub(super) fn input(layer: usize) -> Linear {
        Self::at(layer, Slot::Qkv, Slot::QkvBias)
    }

    /// The output projection of a block's mixer.
    pub(super) fn output(layer: usize) -> Linear {
        Self::at(layer, Slot::O, Slot::OBias)
    }

    /// Gate and up of a block's MLP, side by side.
    pub(super) fn gate_up(layer: usize) -> Linear {
        Self::at(layer, Slot::GateUp, Slot::GateUpBias)
    }

    /// The projection of a block's MLP down to the width of the stream.
    pub(super) fn down(layer: usize) -> Linear {
        Self::at(layer, Slot::Down, Slot::DownBias)
    }

    /// The router of a block's experts.
    pub(super) fn router(layer: usize) -> Linear {
        Self::at(layer, Slot::ROUTER, Slot::ROUTER_BIAS)
    }

    fn at(layer: usize, weight: Slot, bias: Slot) -> Linear {
        Linear { weight: layer_param(layer, weight), bias: Some(layer_param(layer, bias)) }
    }

    /// The output matrix.
    pub(super) fn head() -> Linear {
        Linear { weight: Outer::Head as usize, bias: None }
    }
}

/// What all parts of a backward pass share.
#[derive(Clone, Copy)]
pub(crate) struct Back<'a> {
    pub(crate) model: &'a Model,
    pub(crate) grads: &'a Grads,
    /// How the rows saw one another in the forward pass.
    pub(crate) view: &'a View,
}

/// What stands at the two ends of a linear layer in the backward pass.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    /// The layer's input.
    pub(super) x: &'a Tensor,
    /// The gradient by its output.
    pub(super) dy: &'a Tensor,
    /// The masks of an adapter's input.
    pub(super) drop: Option<&'a dropout::Masks>,
}

/// Gradients by parameter number; None where the model has no such parameter, or it is frozen beside an adapter.
pub(crate) type Grads = [Option<Weight>];

/// The gradient of a parameter that is trained.
pub(super) fn grad(grads: &Grads, param: usize) -> Result<&Weight> {
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

/// Whether a product of so many rows can take over what stands around it: always without an adapter, else where the
/// adapter comes in on the way.
pub(super) fn fuses(rec: &Recorder, model: &Model, linear: Linear, rows: usize) -> Result<bool> {
    match model.adapters(linear.weight) {
        Some(group) => Ok(matmul::adapts(rec, rows, model.operand(linear.weight)?, model.weight(group.b())?)),
        None => Ok(true),
    }
}

/// Whether [`project`] can normalise so many rows on the way.
pub(super) fn normalises(rec: &Recorder, model: &Model, linear: Linear, rows: usize) -> Result<bool> {
    let adapted = model.adapters(linear.weight).is_some();
    Ok(matmul::normalises(rec, rows, adapted) && fuses(rec, model, linear, rows)?)
}

/// Whether [`project`] can end in the gated activation.
pub(super) fn gates(rec: &Recorder, model: &Model, linear: Linear, rows: usize) -> Result<bool> {
    Ok(matmul::gates(rec, rows, model.operand(linear.weight)?) && fuses(rec, model, linear, rows)?)
}

/// Writes x W (+ bias) (+ LoRA) to y, with what else the epilogue says; the bias is the model's.
pub(super) fn project(
    rec: &mut Recorder,
    model: &Model,
    linear: Linear,
    x: &Tensor,
    y: &Tensor,
    epilogue: Epilogue,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let weight = model.operand(linear.weight)?;
    let Some(group) = model.adapters(linear.weight) else {
        let bias = match linear.bias.and_then(|bias| model.params[bias].as_ref()) {
            Some(b) => Some(b.dense()?),
            None => None,
        };
        return matmul::forward(rec, x, weight, y, Epilogue { bias, ..epilogue });
    };
    let adapters = group.adapters(&model.params)?;
    let drop = drop.filter(|_| model.lora_dropout() > 0.0);
    let u = between(rec, model, group, x, epilogue.norm, drop)?;
    if drop.is_none() && fuses(rec, model, linear, x.rows())? {
        return matmul::forward(rec, x, weight, y, Epilogue { adapters: Some((adapters, &u)), ..epilogue });
    }
    let own = match epilogue.add {
        true => rec.gpu().empty(y.rows(), y.cols())?,
        false => y.clone(),
    };
    matmul::forward(rec, x, weight, &own, Epilogue { add: false, ..epilogue })?;
    match drop.filter(|_| group.dora) {
        None => lora::add(rec, &u, adapters, &own)?,
        Some(_) => {
            // W acts on x - drop(x) as it is.
            let masked = masked_product(rec, model, (linear, group), x, drop)?;
            columns::add(rec, &masked, 0, -1.0, &own)?;
            lora::add(rec, &u, adapters, &masked)?;
            columns::add(rec, &masked, 0, 1.0, &own)?;
        }
    }
    if epilogue.add { columns::add(rec, &own, 0, 1.0, y) } else { Ok(()) }
}

/// u `[T, layers · rank]` = drop(x) A, by the mask of each layer.
fn between(
    rec: &mut Recorder,
    model: &Model,
    group: &Group,
    x: &Tensor,
    norm: Option<(Gain, f32)>,
    drop: Option<&dropout::Masks>,
) -> Result<Tensor> {
    let a = model.weight(group.a())?;
    let empty = || rec.gpu().empty(x.rows(), a.cols());
    let u = empty()?;
    if drop.is_none() {
        matmul::forward(rec, x, a, &u, Epilogue { norm, ..Epilogue::default() })?;
        return Ok(u);
    }
    let all = empty()?;
    rows::fill(rec, &u)?;
    for (layer, first) in group.layers() {
        let x = dropout::apply(rec, drop, layer.site, model.lora_dropout(), x)?;
        matmul::forward(rec, &x, a, &all, Epilogue::default())?;
        add_part(rec, &all, first..first + group.layout.rank, &u)?;
    }
    Ok(u)
}

/// drop(x) W, by the mask of each layer, without a bias.
fn masked_product(
    rec: &mut Recorder,
    model: &Model,
    (linear, group): (Linear, &Group),
    x: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<Tensor> {
    let weight = model.operand(linear.weight)?;
    let empty = || rec.gpu().empty(x.rows(), weight.cols());
    let y = empty()?;
    if drop.is_none() {
        matmul::forward(rec, x, weight, &y, Epilogue::default())?;
        return Ok(y);
    }
    let all = empty()?;
    rows::fill(rec, &y)?;
    for (i, (layer, _)) in group.layers().enumerate() {
        let x = dropout::apply(rec, drop, layer.site, model.lora_dropout(), x)?;
        matmul::forward(rec, &x, weight, &all, Epilogue::default())?;
        add_part(rec, &all, group.columns_of(i), &y)?;
    }
    Ok(y)
}

/// to\[:, columns\] += from\[:, columns\].
fn add_part(rec: &mut Recorder, from: &Tensor, columns: Range<usize>, to: &Tensor) -> Result<()> {
    let part = columns::part(rec, from, columns.start, columns.len())?;
    columns::add(rec, &part, columns.start, 1.0, to)
}

/// x with zeros in all other columns.
fn only(rec: &mut Recorder, x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    let own = rec.gpu().empty(x.rows(), x.cols())?;
    rows::fill(rec, &own)?;
    add_part(rec, x, columns, &own)?;
    Ok(own)
}

/// dx = dy W^T; dW += x^T dy; dbias += column sums of dy; what is frozen costs nothing.
pub(super) fn backward(rec: &mut Recorder, back: Back, linear: Linear, ends: Ends) -> Result<Tensor> {
    let (Back { model, grads, .. }, Ends { x, dy, .. }) = (back, ends);
    if let Some(dweight) = &grads[linear.weight] {
        matmul::forward_tn(rec, x, dy, dweight, true)?;
    }
    if let Some(bias) = linear.bias
        && let Some(dbias) = vector_grad(grads, bias)?
    {
        column_sum::forward(rec, dy, dbias)?;
    }
    let dx = rec.gpu().empty(x.rows(), x.cols())?;
    let Some(group) = model.adapters(linear.weight) else {
        matmul::forward_nt(rec, dy, model.operand(linear.weight)?, &dx, false)?;
        return Ok(dx);
    };
    adapt_backward(rec, back, (linear, group), ends, &dx)?;
    Ok(dx)
}

/// Adds what an adapter does to the gradients. With dz = f · dy: dB += u^T dz, du = dz B^T, dA += drop(x)^T du, dx = (g
/// · dy) W^T + drop(du A^T). With DoRA and dropout W too acts on drop(x), and on x - drop(x) without magnitudes.
fn adapt_backward(
    rec: &mut Recorder,
    back: Back,
    (linear, group): (Linear, &Group),
    ends: Ends,
    dx: &Tensor,
) -> Result<()> {
    let (Back { model, grads, .. }, Ends { x, dy, drop }) = (back, ends);
    let (drop, rate) = (drop.filter(|_| model.lora_dropout() > 0.0), model.lora_dropout());
    let (a, adapters, weight) =
        (model.weight(group.a())?, group.adapters(&model.params)?, model.operand(linear.weight)?);
    let u = between(rec, model, group, x, None, drop)?;
    lora::back_b(rec, &u, dy, adapters, grad(grads, group.b())?)?;
    let du = rec.gpu().empty(dy.rows(), a.cols())?;
    lora::back_u(rec, dy, adapters, &du)?;
    let da = grad(grads, group.a())?;
    let scaled = match group.dora {
        true => {
            let whole = masked_product(rec, model, (linear, group), x, drop)?;
            lora::back_m(rec, &u, (dy, &whole), adapters, grad(grads, group.magnitude())?.dense()?)?;
            let scaled = rec.gpu().empty(dy.rows(), dy.cols())?;
            lora::scale(rec, dy, adapters, &scaled)?;
            scaled
        }
        false => dy.clone(),
    };
    if drop.is_none() {
        matmul::forward_nt(rec, &scaled, weight, dx, false)?;
        matmul::forward_tn(rec, x, &du, da, true)?;
        return matmul::forward_nt(rec, &du, a, dx, true);
    }
    matmul::forward_nt(rec, dy, weight, dx, false)?;
    if group.dora {
        columns::add(rec, dy, 0, -1.0, &scaled)?;
    }
    for (i, (layer, first)) in group.layers().enumerate() {
        let own = only(rec, &du, first..first + group.layout.rank)?;
        let x = dropout::apply(rec, drop, layer.site, rate, x)?;
        matmul::forward_tn(rec, &x, &own, da, true)?;
        let through = rec.gpu().empty(dx.rows(), dx.cols())?;
        matmul::forward_nt(rec, &own, a, &through, false)?;
        if group.dora {
            let own = only(rec, &scaled, group.columns_of(i))?;
            matmul::forward_nt(rec, &own, weight, &through, true)?;
        }
        let through = dropout::apply(rec, drop, layer.site, rate, &through)?;
        columns::add(rec, &through, 0, 1.0, dx)?;
    }
    Ok(())
}
