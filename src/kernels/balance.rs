//! The auxiliary loss by which a router spreads rows over its experts (Switch Transformers, arXiv 2101.03961, section
//! 2.2): what it adds up of the rows of a block, and its gradient.

use super::case::{Case, Inputs, Kernel};
use super::column_sum;
use super::router::{self, Routes, Routing};
use super::rows;
use super::sizes::{lanes, stream};
use super::way::{Traits, Way};
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, Tensor};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "balance",
    soft: include_str!("../../shaders/balance.wgsl"),
    tile: include_str!("../../shaders/balance.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "the router's auxiliary loss: its sums over rows, and back",
    ways,
    ordered: &[],
    cases,
};

fn ways(traits: &Traits) -> Vec<Way> {
    let way = |chosen, entry| Way::new(&SOURCE, traits, entry, vec![("CHOSEN", chosen)]);
    [1, 2, 4, 8].into_iter().flat_map(|chosen| ["count", "backward"].map(|entry| way(chosen, entry))).collect()
}

fn launch(
    rec: &mut Recorder,
    entry: &'static str,
    logits: &Tensor,
    (routes, often): (&Routes, &Tensor),
    bind: &[&Tensor],
) -> Result<()> {
    routes.expect_logits(logits)?;
    often.expect_shape("how often rows count", 1, logits.rows())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry,
        constants: vec![routes.constant()],
        params: &[("rows", Size(logits.rows())), ("experts", Size(logits.cols())), ("ld", Size(logits.ld()))],
        bind: &[&[logits, routes.chosen(), often], bind].concat(),
        groups: lanes(&SOURCE, rec.variant(), logits.rows()),
        cost: stream(&[logits, logits], 6.0),
    })
}

/// sums `[2 E']` = over the rows, each as often as `often` `[T]` says, the experts' probabilities by the logits
/// `[T, E]`, and beside them how many rows chose each; E' is E rounded up to a multiple of 4.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn count(rec: &mut Recorder, logits: &Tensor, routes: &Routes, often: &Tensor, sums: &Tensor) -> Result<()> {
    let counted = rec.gpu().empty(logits.rows(), 2 * logits.ld())?;
    launch(rec, "count", logits, (routes, often), &[&counted])?;
    rows::fill(rec, sums)?;
    column_sum::forward(rec, &counted, sums)
}

/// dlogits `[T, E]` += the gradient by the logits from the slopes `[E]`, that by the sums of the probabilities.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn backward(
    rec: &mut Recorder,
    logits: &Tensor,
    routes: &Routes,
    (often, slopes): (&Tensor, &Tensor),
    dlogits: &Tensor,
) -> Result<()> {
    slopes.expect_shape("the slopes by probabilities", 1, logits.cols())?;
    if dlogits.shape() != logits.shape() {
        return Err(Error::Bug(format!("a gradient {:?} by logits {:?}", dlogits.shape(), logits.shape())));
    }
    launch(rec, "backward", logits, (routes, often), &[slopes, dlogits])
}

/// The sums of probabilities `[E]` and of choices `[E]`.
pub(crate) fn twin(logits: &[f64], routing: Routing, often: &[f64]) -> [Vec<f64>; 2] {
    let experts = routing.experts;
    let [mut probabilities, mut choices] = [vec![0.0; experts], vec![0.0; experts]];
    let all = Routing { chosen: experts, all: true, ..routing };
    let (order, weight) = router::twin(logits, all);
    for (t, often) in often.iter().enumerate() {
        for (j, at) in (t * experts..(t + 1) * experts).enumerate() {
            probabilities[order[at]] += often * weight[at];
            choices[order[at]] += if j < routing.chosen { *often } else { 0.0 };
        }
    }
    [probabilities, choices]
}

/// The gradient by the logits from that by the sums of probabilities.
pub(crate) fn twin_backward(logits: &[f64], often: &[f64], slopes: &[f64]) -> Vec<f64> {
    let experts = slopes.len();
    let routing = Routing { experts, chosen: experts, all: true };
    let order = router::twin(logits, routing).0;
    let by_weight: Vec<f64> = order.iter().enumerate().map(|(i, e)| often[i / experts] * slopes[*e]).collect();
    router::twin_backward(logits, routing, &by_weight)
}

fn cases() -> Vec<Case> {
    let sizes = [(1, 4, 1), (7, 5, 2), (40, 16, 4), (150, 9, 8), (3, 128, 8)];
    let case = |(rows, experts, chosen): (usize, usize, usize)| {
        let routing = Routing { experts, chosen, all: false };
        let case = Case::new(format!("{rows} rows to {chosen} of {experts}"), 4e-6, move |t| {
            let (logits, hl) = t.matrix(rows, experts)?;
            let (slopes, hs) = t.matrix(1, experts)?;
            let (dlogits, before) = t.matrix(rows, experts)?;
            let ho: Vec<f64> = (0..rows).map(|row| (row % 4) as f64).collect();
            let often = t.gpu.vector(&ho.iter().map(|x| *x as f32).collect::<Vec<_>>())?;
            let routes = router::route(&mut t.rec, &logits, routing, true)?;
            let sums = t.gpu.empty(1, 2 * logits.ld())?;
            count(&mut t.rec, &logits, &routes, &often, &sums)?;
            let (of, counts, ld) = (hl.clone(), ho.clone(), logits.ld());
            t.expect("sums", &sums, || {
                let padded = |mut part: Vec<f64>| {
                    part.resize(ld, 0.0);
                    part
                };
                twin(&of, routing, &counts).map(padded).concat()
            });
            backward(&mut t.rec, &logits, &routes, (&often, &slopes), &dlogits)?;
            t.expect("dlogits", &dlogits, || {
                twin_backward(&hl, &ho, &hs).iter().zip(before).map(|(a, b)| a + b).collect()
            });
            Ok(())
        });
        // Of large slopes that are all alike the mean is taken off, and nothing but rounding is left.
        case.without(&[Inputs::Large])
    };
    sizes.into_iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let routing = Routing { experts: 5, chosen: 2, all: false };
        let (logits, often, slopes) = (numbers(4 * 5, 1), [1.0, 0.0, 2.0, 3.0], numbers(5, 2));
        let dlogits = twin_backward(&logits, &often, &slopes);
        finite_difference("logits", &logits, &dlogits, |x| dot(&twin(x, routing, &often)[0], &slopes));
    }
}
