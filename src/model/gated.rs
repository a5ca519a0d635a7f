//! A gated MLP, forward and backward.

use super::dropout;
use super::linear::{self, Back, Ends, Linear};
use super::model::Model;
use crate::Result;
use crate::arch::Gated;
use crate::gpu::{Recorder, Tensor, pad4};
use crate::kernels::swiglu;
use std::mem;

/// What is kept for the backward pass.
pub(super) struct Acts {
    /// Gate and up, side by side.
    gu: Tensor,
    a: Tensor,
}

/// The branch's output `[T, D]` of the normalised rows y, and what is kept for the backward pass.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    mlp: &Gated,
    y: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<(Acts, Tensor)> {
    let gu = linear::forward(rec, model, Linear::gate_up(layer), y, drop)?;
    let a = rec.gpu().empty(y.rows(), mlp.width)?;
    swiglu::forward(rec, mlp.activation, &gu, &a)?;
    let out = linear::forward(rec, model, Linear::down(layer), &a, drop)?;
    Ok((Acts { gu, a }, out))
}

/// The gradient by the rows y from that by the branch's output. What was kept is let go of where it was read last.
pub(super) fn backward(
    rec: &mut Recorder,
    back: Back,
    layer: usize,
    mlp: &Gated,
    acts: Acts,
    y: &Tensor,
    d_out: Tensor,
) -> Result<Tensor> {
    let (Acts { gu, a }, drop) = (acts, back.view.dropout.as_ref());
    let da = linear::backward(rec, back, Linear::down(layer), Ends { x: &a, dy: &d_out, drop })?;
    mem::drop((a, d_out));
    let dgu = rec.gpu().empty(y.rows(), 2 * pad4(mlp.width))?;
    swiglu::backward(rec, mlp.activation, &gu, &da, &dgu)?;
    mem::drop((gu, da));
    linear::backward(rec, back, Linear::gate_up(layer), Ends { x: y, dy: &dgu, drop })
}
