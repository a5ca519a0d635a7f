//! The gated short convolution of LFM2 (arXiv 2511.23404) down the paths of the token forest, and its step in decoding.

use super::case::{Case, Kernel};
use super::inputs::{head_matrix, pad_heads, random_forest};
use super::sizes::{lanes, several, stream};
use super::way::{Constant, Traits, Way};
use crate::arch::MOST_TAPS;
use crate::gpu::Value::Size;
use crate::gpu::{Gpu, Launch, Param, Recorder, Source, Tensor, pad4};
use crate::layout::{Forest, NO_ROW};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "short_conv",
    soft: include_str!("../../shaders/short_conv.wgsl"),
    tile: include_str!("../../shaders/short_conv.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "gated short convolution down each path", ways, ordered: &[], cases };

const ENTRIES: [&str; 5] = ["forward", "backward", "backward_taps", "keep", "step"];

fn constants(taps: usize, bias: bool) -> Vec<Constant> {
    vec![("TAPS", taps as u32), ("BIAS", u32::from(bias))]
}

fn ways(traits: &Traits) -> Vec<Way> {
    let of = |(taps, bias): (usize, bool)| ENTRIES.map(|entry| Way::new(&SOURCE, traits, entry, constants(taps, bias)));
    [(1, false), (3, false), (3, true), (4, true)].into_iter().flat_map(of).collect()
}

/// Which rows of a forest follow one another: of each row its parent, its first child and the next child of its
/// parent, `[T, 4]` words.
#[derive(Clone)]
pub(crate) struct Links(Tensor);

impl Links {
    /// Uploads the links of a forest's rows.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &Gpu, forest: &Forest) -> Result<Links> {
        let parents = forest.parents();
        let mut words: Vec<[u32; 4]> = parents.iter().map(|parent| [*parent, NO_ROW, NO_ROW, 0]).collect();
        // From the last row to the first, so that the children of a row come in their order.
        for (row, parent) in parents.iter().enumerate().rev().filter(|(_, parent)| **parent != NO_ROW) {
            words[row][2] = words[*parent as usize][1];
            words[*parent as usize][1] = row as u32;
        }
        Ok(Links(gpu.upload(words.len(), 4, words.as_flattened())?))
    }

    /// The words on the GPU.
    pub(super) fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// Refuses links of another number of rows.
    pub(super) fn expect(&self, rows: usize) -> Result<()> {
        self.0.expect_shape("a convolution's links", rows, 4)
    }
}

/// What a convolution multiplies by.
#[derive(Clone, Copy)]
pub(crate) struct Taps<'a> {
    /// The factors in one row, those of the oldest position first, `[count pad4(D)]`.
    pub(crate) taps: &'a Tensor,
    /// How many positions one sum has.
    pub(crate) count: usize,
    /// D, the number of channels.
    pub(crate) channels: usize,
    /// What is added to each sum, `[D]`.
    pub(crate) bias: Option<&'a Tensor>,
}

impl Taps<'_> {
    /// Refuses rows `[T, 3 pad4(D)]` of other channels.
    fn expect(&self, bcx: &Tensor) -> Result<()> {
        let width = pad4(self.channels);
        if self.count == 0 || self.count > MOST_TAPS || bcx.ld() != 3 * width {
            let what = format!("a convolution of {} positions and {} channels", self.count, self.channels);
            return Err(Error::Bug(format!("{what} of rows {:?}: 3 parts of that width are needed", bcx.shape())));
        }
        self.taps.expect_shape("a convolution's taps", 1, self.count * width)?;
        self.bias.map_or(Ok(()), |bias| bias.expect_shape("a convolution's bias", 1, self.channels))
    }

    /// Refuses a past of other sequences.
    fn expect_past(&self, past: &Tensor) -> Result<()> {
        let needed = self.count.saturating_sub(1).max(1) * pad4(self.channels);
        match past.ld() == needed {
            true => Ok(()),
            false => Err(Error::Bug(format!("a convolution's past has {} words a sequence, not {needed}", past.ld()))),
        }
    }

    fn constants(&self) -> Vec<Constant> {
        constants(self.count, self.bias.is_some())
    }

    fn params(&self, rows: usize) -> [Param<'static>; 2] {
        [("rows", Size(rows)), ("d4", Size(pad4(self.channels) / 4))]
    }

    /// Operations on each channel of a row: a product and a sum for each tap, and what stands around them.
    fn operations(&self) -> f64 {
        2.0 + 3.0 * self.count as f64
    }

    /// The bias, or what stands in for it where there is none.
    fn bound(&self) -> &Tensor {
        self.bias.unwrap_or(self.taps)
    }
}

/// y `[T, D]` of bcx `[T, B D | C D | x D]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, bcx: &Tensor, links: &Links, taps: Taps) -> Result<Tensor> {
    taps.expect(bcx)?;
    links.expect(bcx.rows())?;
    let y = rec.gpu().empty(bcx.rows(), taps.channels)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: taps.constants(),
        params: &taps.params(bcx.rows()),
        bind: &[bcx, &links.0, taps.taps, taps.bound(), &y],
        groups: several(&SOURCE, rec.variant(), y.len() / 4),
        cost: stream(&[&y, bcx], taps.operations()),
    })?;
    Ok(y)
}

/// The gradient by bcx from dy `[T, D]`; what is given of the gradients by the taps and the bias is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    bcx: &Tensor,
    links: &Links,
    taps: Taps,
    dy: &Tensor,
    (dtaps, dbias): (Option<&Tensor>, Option<&Tensor>),
) -> Result<Tensor> {
    taps.expect(bcx)?;
    links.expect(bcx.rows())?;
    dy.expect_shape("a convolution's output gradient", bcx.rows(), taps.channels)?;
    let dbcx = rec.gpu().empty(bcx.rows(), bcx.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: taps.constants(),
        params: &taps.params(bcx.rows()),
        bind: &[bcx, &links.0, taps.taps, taps.bound(), dy, &dbcx],
        groups: several(&SOURCE, rec.variant(), dy.len() / 4),
        cost: stream(&[dy, bcx, &dbcx], 2.0 * taps.operations()),
    })?;
    let Some(dtaps) = dtaps else { return Ok(dbcx) };
    dtaps.expect_shape("the gradient of a convolution's taps", 1, taps.taps.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward_taps",
        constants: constants(taps.count, dbias.is_some()),
        params: &taps.params(bcx.rows()),
        bind: &[bcx, &links.0, dy, dtaps, dbias.unwrap_or(&dbcx)],
        groups: lanes(&SOURCE, rec.variant(), pad4(taps.channels) / 4),
        cost: stream(&[dy, bcx], taps.operations()),
    })?;
    Ok(dbcx)
}

/// Memory for what `slots` sequences keep of their last rows, `[slots, (taps - 1) pad4(D)]`, with arbitrary content.
///
/// # Errors
/// Out of memory.
pub(crate) fn room(gpu: &Gpu, slots: usize, taps: usize, channels: usize) -> Result<Tensor> {
    gpu.empty(slots, taps.saturating_sub(1).max(1) * pad4(channels))
}

/// Keeps for slot `slot[e]` what a sequence needs that goes on behind row `row[e]`; both are `[E]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn keep(
    rec: &mut Recorder,
    bcx: &Tensor,
    links: &Links,
    taps: Taps,
    (row, slot): (&Tensor, &Tensor),
    past: &Tensor,
) -> Result<()> {
    taps.expect(bcx)?;
    taps.expect_past(past)?;
    links.expect(bcx.rows())?;
    slot.expect_shape("the slots", 1, row.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "keep",
        constants: taps.constants(),
        params: &taps.params(row.cols()),
        bind: &[bcx, &links.0, row, slot, past],
        groups: several(&SOURCE, rec.variant(), row.cols() * pad4(taps.channels) / 4),
        cost: stream(&[row], 0.0),
    })
}

/// y `[N, D]` of one more row of each sequence, bcx `[N, B D | C D | x D]`, and what they keep from now on.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn step(rec: &mut Recorder, bcx: &Tensor, slot: &Tensor, taps: Taps, past: &Tensor) -> Result<Tensor> {
    taps.expect(bcx)?;
    taps.expect_past(past)?;
    slot.expect_vector("the slots of a step", bcx.rows())?;
    let y = rec.gpu().empty(bcx.rows(), taps.channels)?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "step",
        constants: taps.constants(),
        params: &taps.params(bcx.rows()),
        bind: &[bcx, slot, taps.taps, taps.bound(), past, &y],
        groups: several(&SOURCE, rec.variant(), y.len() / 4),
        cost: stream(&[&y, bcx], taps.operations()),
    })?;
    Ok(y)
}

/// The numbers of a convolution on the host, without padding.
pub(crate) struct Twin<'a> {
    /// The row before each row on its path, [`NO_ROW`] for a path's first.
    pub(crate) parents: &'a [u32],
    /// Channels.
    pub(crate) d: usize,
    /// The factors, the oldest row's first, `[taps, D]`.
    pub(crate) taps: &'a [f64],
    /// What is added to each sum, `[D]`; empty for nothing.
    pub(crate) bias: &'a [f64],
}

impl Twin<'_> {
    /// Rows of a path, from `row` backwards, each with the index of its tap.
    fn reached(&self, row: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut next = Some(row);
        (0..self.taps.len() / self.d).rev().map_while(move |tap| {
            let row = next?;
            next = Some(self.parents[row]).filter(|parent| *parent != NO_ROW).map(|parent| parent as usize);
            Some((row, tap))
        })
    }

    fn u(&self, bcx: &[f64], row: usize, c: usize) -> f64 {
        bcx[row * 3 * self.d + c] * bcx[row * 3 * self.d + 2 * self.d + c]
    }

    fn sum(&self, bcx: &[f64], row: usize, c: usize) -> f64 {
        let parts = self.reached(row).map(|(from, tap)| self.taps[tap * self.d + c] * self.u(bcx, from, c));
        self.bias.get(c).copied().unwrap_or(0.0) + parts.sum::<f64>()
    }

    /// y of bcx.
    pub(crate) fn forward(&self, bcx: &[f64]) -> Vec<f64> {
        let one = |i: usize| {
            let (row, c) = (i / self.d, i % self.d);
            bcx[row * 3 * self.d + self.d + c] * self.sum(bcx, row, c)
        };
        (0..self.parents.len() * self.d).map(one).collect()
    }

    /// The gradients by bcx, by the taps and by the bias.
    pub(crate) fn backward(&self, bcx: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
        let d = self.d;
        let (mut du, mut dbcx) = (vec![0.0; dy.len()], vec![0.0; bcx.len()]);
        let (mut dtaps, mut dbias) = (vec![0.0; self.taps.len()], vec![0.0; d]);
        for (i, dy) in dy.iter().enumerate() {
            let (row, c) = (i / d, i % d);
            let dsum = dy * bcx[row * 3 * d + d + c];
            dbcx[row * 3 * d + d + c] = dy * self.sum(bcx, row, c);
            dbias[c] += dsum;
            for (from, tap) in self.reached(row) {
                du[from * d + c] += dsum * self.taps[tap * d + c];
                dtaps[tap * d + c] += dsum * self.u(bcx, from, c);
            }
        }
        for (i, du) in du.iter().enumerate() {
            let (row, c) = (i / d, i % d);
            dbcx[row * 3 * d + c] = du * bcx[row * 3 * d + 2 * d + c];
            dbcx[row * 3 * d + 2 * d + c] = du * bcx[row * 3 * d + c];
        }
        [dbcx, dtaps, dbias]
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, d, count, with_bias) in
        [(1, 1, 3, false), (40, 10, 3, true), (150, 33, 4, true), (9, 64, 1, false), (5, 2101, 3, true)]
    {
        let name = format!("{rows}x{d} by {count}{}", if with_bias { " with a bias" } else { "" });
        all.push(Case::new(format!("forward and backward {name}"), 4e-6, move |t| {
            let forest = random_forest(t, rows);
            let (parents, links) = (forest.parents(), Links::new(t.gpu, &forest)?);
            let (bcx, host) = head_matrix(t, rows, 3, d)?;
            let ((taps, htaps), (bias, hbias)) = (head_matrix(t, 1, count, d)?, t.matrix(1, d)?);
            let ((dy, hdy), (dtaps, hdtaps), (dbias, hdbias)) =
                (t.matrix(rows, d)?, head_matrix(t, 1, count, d)?, t.matrix(1, d)?);
            let by = Taps { taps: &taps, count, channels: d, bias: with_bias.then_some(&bias) };
            let y = forward(&mut t.rec, &bcx, &links, by)?;
            let grads = (Some(&dtaps), with_bias.then_some(&dbias));
            let dbcx = backward(&mut t.rec, &bcx, &links, by, &dy, grads)?;
            let hbias = if with_bias { hbias } else { Vec::new() };
            let twin = || Twin { parents: &parents, d, taps: &htaps, bias: &hbias };
            t.expect("y", &y, || twin().forward(&host));
            let plus = |i: usize, before: &[f64]| -> Vec<f64> {
                twin().backward(&host, &hdy)[i].iter().zip(before).map(|(a, b)| a + b).collect()
            };
            t.expect("dbcx", &dbcx, || pad_heads(&twin().backward(&host, &hdy)[0], d));
            t.expect("dtaps", &dtaps, || pad_heads(&plus(1, &hdtaps), d));
            if with_bias {
                t.expect("dbias", &dbias, || plus(2, &hdbias));
            }
            Ok(())
        }));
        all.push(Case::new(format!("keep and step {name}"), 4e-6, move |t| {
            // A path whose last rows come one by one, in the second of three slots.
            let (before, after) = (rows.div_ceil(2), 3);
            let mut forest = Forest::new();
            forest.leaf(&vec![0; before + after]);
            let parents = forest.parents();
            let (bcx, mut host) = head_matrix(t, before, 3, d)?;
            let ((taps, htaps), (bias, hbias)) = (head_matrix(t, 1, count, d)?, t.matrix(1, d)?);
            let by = Taps { taps: &taps, count, channels: d, bias: with_bias.then_some(&bias) };
            let mut begun = Forest::new();
            begun.leaf(&vec![0; before]);
            let past = room(t.gpu, 3, count, d)?;
            let (row, slot) = (t.gpu.vector(&[before as u32 - 1])?, t.gpu.vector(&[1u32])?);
            keep(&mut t.rec, &bcx, &Links::new(t.gpu, &begun)?, by, (&row, &slot), &past)?;
            let hbias = if with_bias { hbias } else { Vec::new() };
            for i in before..before + after {
                let (one, own) = head_matrix(t, 1, 3, d)?;
                host.extend(own);
                let y = step(&mut t.rec, &one, &slot, by, &past)?;
                t.expect(&format!("y of row {i}"), &y, || {
                    let twin = Twin { parents: &parents[..=i], d, taps: &htaps, bias: &hbias };
                    twin.forward(&host)[i * d..].to_vec()
                });
            }
            Ok(())
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, forked, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let (parents, d) = (forked().parents(), 3);
        let rows = parents.len();
        let (bcx, taps, bias, c) = (numbers(rows * 3 * d, 1), numbers(3 * d, 2), numbers(d, 3), numbers(rows * d, 4));
        let of =
            |bcx: &[f64], taps: &[f64], bias: &[f64]| dot(&Twin { parents: &parents, d, taps, bias }.forward(bcx), &c);
        let [dbcx, dtaps, dbias] = Twin { parents: &parents, d, taps: &taps, bias: &bias }.backward(&bcx, &c);
        finite_difference("bcx", &bcx, &dbcx, |x| of(x, &taps, &bias));
        finite_difference("taps", &taps, &dtaps, |x| of(&bcx, x, &bias));
        finite_difference("bias", &bias, &dbias, |x| of(&bcx, &taps, x));
    }
}
