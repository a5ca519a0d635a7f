//! The kernels of a gated delta net in [`super::ALL`], and the cases by which they are compared with their twin.

use super::case::{Case, Inputs, Kernel, Trial};
use super::delta::{Chunks, Ruled};
use super::delta_twin::{CHUNK, LARGE, Named, Net, SIZES, Twin};
use super::inputs::sequences;
use super::way::Way;
use super::{delta_chunks, delta_chunks_backward, delta_gates, delta_inputs, delta_rule};
use crate::gpu::Tensor;
use crate::layout::Forest;
use crate::{Error, Result};

/// What stands before the rule.
pub(crate) const INPUTS: Kernel = Kernel {
    source: || &delta_inputs::SOURCE,
    about: "queries, keys and values of a gated delta net",
    ways: delta_inputs::ways,
    ordered: &[],
    cases: inputs,
};

/// The gates.
pub(crate) const GATES: Kernel = Kernel {
    source: || &delta_gates::SOURCE,
    about: "decays and strengths of a gated delta net",
    ways: |traits| Way::plain(&delta_gates::SOURCE, traits),
    ordered: &[],
    cases: gates,
};

/// The rule row by row.
pub(crate) const RULE: Kernel = Kernel {
    source: || &delta_rule::SOURCE,
    about: "gated delta rule, row by row",
    ways: |traits| Way::plain(&delta_rule::SOURCE, traits),
    ordered: &[],
    cases: rule,
};

/// The rule in chunks.
pub(crate) const CHUNKS: Kernel = Kernel {
    source: || &delta_chunks::SOURCE,
    about: "gated delta rule in chunks",
    ways: |traits| Way::plain(&delta_chunks::SOURCE, traits),
    ordered: &[],
    cases: chunks,
};

/// The gradients by the states; the cases run those by the inputs too.
pub(crate) const STATE_GRADIENTS: Kernel = Kernel {
    source: || &delta_chunks_backward::STATES,
    about: "gradients by the states of the gated delta rule",
    ways: |traits| Way::plain(&delta_chunks_backward::STATES, traits),
    ordered: &[],
    cases: gradients,
};

/// The gradients by the inputs; the cases run those by the states too.
pub(crate) const INPUT_GRADIENTS: Kernel = Kernel {
    source: || &delta_chunks_backward::INPUTS,
    about: "gradients by the inputs of the gated delta rule",
    ways: |traits| Way::plain(&delta_chunks_backward::INPUTS, traits),
    ordered: &[],
    cases: gradients,
};

/// Queries, keys and values and the gates by the kernels that stand before the rule.
fn read_by_rule(t: &mut Trial, net: &Net) -> Result<(Tensor, Tensor)> {
    let mixed = delta_inputs::forward(&mut t.rec, &net.sizes, &net.raw, &net.links, &net.taps)?;
    let gates = delta_gates::forward(&mut t.rec, &net.sizes, &net.raw, &net.decays)?;
    delta_gates::sums(&mut t.rec, &net.sizes, &net.chunks, &gates)?;
    Ok((mixed, gates))
}

fn inputs() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, sizes) in SIZES {
        all.push(Case::new(format!("forward {rows} rows, {sizes}"), 4e-6, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let mixed = delta_inputs::forward(&mut t.rec, &sizes.0, &net.raw, &net.links, &net.taps)?;
            t.expect("mixed", &mixed, || net.padded_mixed(&net.twin().mixed(&net.host)));
            Ok(())
        }));
        all.push(Case::new(format!("keep and step {rows} rows, {sizes}"), 4e-6, move |t| {
            // A path whose last rows come one by one, in the second of three slots.
            let (before, after) = (rows.div_ceil(2), 3);
            let mut forest = Forest::new();
            forest.leaf(&vec![0; before]);
            let begun = Net::of(t, &forest, sizes.0)?;
            let past = delta_inputs::room(t.gpu, 3, &sizes.0)?;
            let (row, slot) = (t.gpu.vector(&[before as u32 - 1])?, t.gpu.vector(&[1u32])?);
            delta_inputs::keep(&mut t.rec, &sizes.0, (&begun.raw, &begun.links), (&row, &slot), &past)?;
            let mut host = begun.host.clone();
            for i in before..before + after {
                let (one, own) = begun.rows(t, 1)?;
                host.extend(own);
                let mixed = delta_inputs::step(&mut t.rec, &sizes.0, &one, &slot, &begun.taps, &past)?;
                let mut whole = Forest::new();
                whole.leaf(&vec![0; i + 1]);
                let parents = whole.parents();
                t.expect(&format!("mixed of row {i}"), &mixed, || {
                    let twin = Twin { parents: &parents, ..begun.twin() };
                    let width = sizes.0.mixed();
                    begun.padded_mixed(&twin.mixed(&host))[i * width..].to_vec()
                });
            }
            Ok(())
        }));
    }
    all
}

/// A case without inputs so large that their exponentials' exponentials, the decays, are no numbers.
fn moderate(case: Case) -> Case {
    case.without(&[Inputs::Large])
}

fn gates() -> Vec<Case> {
    let one = |(rows, sizes): (usize, Named)| {
        Case::new(format!("forward {rows} rows, {sizes}"), 4e-6, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let gates = delta_gates::forward(&mut t.rec, &sizes.0, &net.raw, &net.decays)?;
            delta_gates::sums(&mut t.rec, &sizes.0, &net.chunks, &gates)?;
            t.expect("gates", &gates, || net.padded_gates(&net.twin().gates(&net.host)));
            Ok(())
        })
    };
    SIZES.into_iter().map(one).map(moderate).collect()
}

fn rule() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, sizes) in SIZES {
        all.push(Case::new(format!("scan {rows} rows, {sizes}"), 2e-5, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let (mixed, gates) = read_by_rule(t, &net)?;
            let ruled = delta_rule::scan(&mut t.rec, &sizes.0, &mixed, &gates, &net.chunks)?;
            net.expect_ruled(t, &ruled);
            Ok(())
        }));
        all.push(Case::new(format!("keep and step {rows} rows, {sizes}"), 2e-5, move |t| {
            // A path whose last rows come one by one, in the second of three slots.
            let (before, after) = (rows.div_ceil(2), 3);
            let mut forest = Forest::new();
            forest.leaf(&vec![0; before + after]);
            let net = Net::of(t, &forest, sizes.0)?;
            let (mixed, gates) = read_by_rule(t, &net)?;
            let mut begun = Forest::new();
            begun.leaf(&vec![0; before]);
            let chunks = Chunks::new(t.gpu, &begun, CHUNK)?;
            let first = |x: &Tensor| x.corner(before, x.cols());
            let ruled = delta_rule::scan(&mut t.rec, &sizes.0, &first(&mixed)?, &first(&gates)?, &chunks)?;
            let state = delta_rule::room(t.gpu, 3, &sizes.0)?;
            let (row, slot) = (t.gpu.vector(&[before as u32 - 1])?, t.gpu.vector(&[1u32])?);
            delta_rule::keep(&mut t.rec, &sizes.0, (&chunks, &ruled.ends), (&row, &slot), &state)?;
            for i in before..before + after {
                let one = |t: &mut Trial, x: &Tensor| {
                    let y = t.gpu.empty(1, x.cols())?;
                    super::rows::gather(&mut t.rec, x, &t.gpu.vector(&[i as u32])?, &y)?;
                    Ok::<_, Error>(y)
                };
                let (mixed, gates) = (one(t, &mixed)?, one(t, &gates)?);
                let o = delta_rule::step(&mut t.rec, &sizes.0, (&mixed, &gates), &slot, &state)?;
                t.expect(&format!("o of row {i}"), &o, || {
                    let width = sizes.0.values();
                    net.padded_values(&net.twin().forward(&net.host).o)[i * width..][..width].to_vec()
                });
            }
            Ok(())
        }));
    }
    all.push(Case::timed("step of 8 rows, 16 heads of 128x128", |t| {
        let sizes = LARGE;
        let (mixed, gates) = (t.matrix(8, sizes.mixed())?.0, t.matrix(8, 3 * sizes.gate())?.0);
        let (slot, state) = (t.gpu.vector(&[0u32, 1, 2, 3, 4, 5, 6, 7])?, delta_rule::room(t.gpu, 8, &sizes)?);
        delta_rule::step(&mut t.rec, &sizes, (&mixed, &gates), &slot, &state).map(drop)
    }));
    all.into_iter().map(moderate).collect()
}

fn chunks() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, sizes) in SIZES {
        all.push(Case::new(format!("forward {rows} rows, {sizes}"), 2e-5, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let (mixed, gates) = read_by_rule(t, &net)?;
            let ruled = delta_chunks::forward(&mut t.rec, &sizes.0, &mixed, &gates, &net.chunks)?;
            net.expect_ruled(t, &ruled);
            Ok(())
        }));
    }
    all.push(Case::timed("forward 1024 rows, 16 heads of 128x128", |t| {
        let sizes = LARGE;
        let (mixed, gates) = (t.matrix(1024, sizes.mixed())?.0, t.gpu.zeros(1024, 3 * sizes.gate())?);
        let chunks = Chunks::new(t.gpu, &sequences(1, 1024), delta_chunks::most_rows(t.rec.variant()))?;
        delta_chunks::forward(&mut t.rec, &sizes, &mixed, &gates, &chunks).map(drop)
    }));
    all.into_iter().map(moderate).collect()
}

fn gradients() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, sizes) in SIZES {
        all.push(Case::new(format!("backward {rows} rows, {sizes}"), 4e-5, move |t| {
            let net = Net::new(t, rows, sizes.0)?;
            let (mixed, gates) = read_by_rule(t, &net)?;
            let ruled = delta_chunks::forward(&mut t.rec, &sizes.0, &mixed, &gates, &net.chunks)?;
            let (d_o, hd_o) = net.values(t)?;
            let grads =
                delta_chunks_backward::backward(&mut t.rec, &sizes.0, (&mixed, &gates), &net.chunks, &ruled, &d_o)?;
            let (draw, dtaps) = (t.gpu.zeros(net.raw.rows(), net.raw.cols())?, t.gpu.zeros(1, net.taps.cols())?);
            let inputs = (&net.raw, &net.links, &net.taps);
            delta_inputs::backward(&mut t.rec, &sizes.0, inputs, (&gates, &grads), (&draw, Some(&dtaps)))?;
            let decays = (&net.raw, &net.decays);
            let ddecays = delta_gates::backward(&mut t.rec, &sizes.0, &net.chunks, decays, (&gates, &grads), &draw)?;
            net.expect_grads(t, &hd_o, [&draw, &dtaps, &ddecays]);
            Ok(())
        }));
    }
    all.push(Case::timed("backward 1024 rows, 16 heads of 128x128", |t| {
        let sizes = LARGE;
        let (mixed, gates) = (t.matrix(1024, sizes.mixed())?.0, t.gpu.zeros(1024, 3 * sizes.gate())?);
        let chunks = Chunks::new(t.gpu, &sequences(1, 1024), delta_chunks::most_rows(t.rec.variant()))?;
        let ruled = Ruled::room(t.gpu, &sizes, &chunks)?;
        let d_o = t.matrix(1024, sizes.values())?.0;
        delta_chunks_backward::backward(&mut t.rec, &sizes, (&mixed, &gates), &chunks, &ruled, &d_o).map(drop)
    }));
    // A row that sees itself alone has no state to decay: of that gradient nothing but rounding is left.
    all.into_iter().map(|case| moderate(case).without(&[Inputs::Alone])).collect()
}
