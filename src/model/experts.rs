//! A mixture of experts, forward and backward.

use super::balance::Balance;
use super::dropout;
use super::linear::{self, Back, Ends, Linear, vector_grad};
use super::model::Model;
use crate::arch;
use crate::gpu::{Recorder, Tensor, pad4};
use crate::kernels::balance;
use crate::kernels::experts::{self, Experts};
use crate::kernels::router::{self, Routes, Routing};
use crate::kernels::swiglu;
use crate::kernels::weight::Weight;
use crate::{Error, Result};
use std::mem;

/// What is kept for the backward pass; S is the number of places.
pub(super) struct Acts {
    /// The router's, `[T, E]`.
    logits: Tensor,
    routes: Routes,
    /// Gate and up, side by side, `[S, 2 F]`.
    gu: Tensor,
    /// `[S, F]`.
    a: Tensor,
    /// What each expert made of its rows, `[S, D]`.
    made: Tensor,
}

impl Acts {
    /// Adds up the block's rows for the routers' auxiliary loss. Run again, it gives the same sums.
    pub(super) fn count(&self, rec: &mut Recorder, layer: usize, balance: &Balance) -> Result<()> {
        let missing = || Error::Bug(format!("block {layer} has experts, and no sums for their router's loss"));
        let sums = balance.sums.get(layer).and_then(Option::as_ref).ok_or_else(missing)?;
        balance::count(rec, &self.logits, &self.routes, &balance.often, sums)
    }
}

/// The matrices of a linear layer of the experts.
fn matrices<'a>(model: &'a Model, linear: Linear, mlp: &arch::Experts) -> Result<Experts<'a>> {
    Experts::new(model.operand(linear.weight)?, mlp.count)
}

/// The biases of a linear layer of the experts, if there are some.
fn bias(model: &Model, linear: Linear) -> Result<Option<&Tensor>> {
    linear.bias.and_then(|bias| model.params[bias].as_ref()).map(Weight::dense).transpose()
}

/// Adds to the gradient by those biases.
fn add_bias(rec: &mut Recorder, back: Back, linear: Linear, dy: &Tensor, routes: &Routes) -> Result<()> {
    match linear.bias.map(|bias| vector_grad(back.grads, bias)).transpose()?.flatten() {
        Some(gradient) => experts::sums(rec, dy, routes, gradient),
        None => Ok(()),
    }
}

/// The branch's output `[T, D]` of the normalised rows y, and what is kept for the backward pass, where it `trains`.
pub(super) fn forward(
    rec: &mut Recorder,
    model: &Model,
    layer: usize,
    mlp: &arch::Experts,
    y: &Tensor,
    (trains, drop): (bool, Option<&dropout::Masks>),
) -> Result<(Acts, Tensor)> {
    let logits = linear::forward(rec, model, Linear::router(layer), y, drop)?;
    let routing = Routing { experts: mlp.count, chosen: mlp.chosen, all: mlp.of_all };
    let routes = router::route(rec, &logits, routing, trains)?;
    let [into, down] = [Linear::gate_up(layer), Linear::down(layer)];
    let gu = experts::forward(rec, (y, true), matrices(model, into, mlp)?, &routes, bias(model, into)?)?;
    let a = rec.gpu().empty(routes.places(), mlp.width)?;
    swiglu::forward(rec, mlp.activation, &gu, &a)?;
    let made = experts::forward(rec, (&a, false), matrices(model, down, mlp)?, &routes, bias(model, down)?)?;
    let out = rec.gpu().empty(y.rows(), y.cols())?;
    router::gather(rec, &made, &routes, (true, false), &out)?;
    Ok((Acts { logits, routes, gu, a, made }, out))
}

/// The gradient by the rows y from that by the branch's output. What was kept is let go of where it was read last.
pub(super) fn backward(
    rec: &mut Recorder,
    back: Back,
    layer: usize,
    mlp: &arch::Experts,
    acts: Acts,
    y: &Tensor,
    d_out: Tensor,
) -> Result<Tensor> {
    let (Acts { logits, routes, gu, a, made }, drop) = (acts, back.view.dropout.as_ref());
    let dlogits = router::backward(rec, &logits, &made, &d_out, &routes)?;
    if let Some(Balance { often, slopes, .. }) = &back.view.balance {
        balance::backward(rec, &logits, &routes, (often, slopes), &dlogits)?;
    }
    mem::drop((logits, made));
    let d_made = router::spread(rec, &d_out, &routes)?;
    mem::drop(d_out);
    let [into, down] = [Linear::gate_up(layer), Linear::down(layer)];
    let da = experts::forward_nt(rec, &d_made, matrices(back.model, down, mlp)?, &routes)?;
    if let Some(gradient) = &back.grads[down.weight] {
        experts::forward_tn(rec, (&a, false), &d_made, &routes, Experts::new(gradient, mlp.count)?)?;
    }
    add_bias(rec, back, down, &d_made, &routes)?;
    mem::drop((a, d_made));
    let dgu = rec.gpu().empty(routes.places(), 2 * pad4(mlp.width))?;
    swiglu::backward(rec, mlp.activation, &gu, &da, &dgu)?;
    mem::drop((gu, da));
    if let Some(gradient) = &back.grads[into.weight] {
        experts::forward_tn(rec, (y, true), &dgu, &routes, Experts::new(gradient, mlp.count)?)?;
    }
    add_bias(rec, back, into, &dgu, &routes)?;
    let own = experts::forward_nt(rec, &dgu, matrices(back.model, into, mlp)?, &routes)?;
    mem::drop(dgu);
    let dy = linear::backward(rec, back, Linear::router(layer), Ends { x: y, dy: &dlogits, drop })?;
    router::gather(rec, &own, &routes, (false, true), &dy)?;
    Ok(dy)
}
