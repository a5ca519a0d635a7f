//! The gated delta net on the host, in f64 and row by row, and the random nets that its kernels' cases share.

use super::case::Trial;
use super::delta::{Chunks, Ruled, Sizes, cut};
use super::inputs::{pad_heads, random_forest};
use super::short_conv::Links;
use crate::Result;
use crate::gpu::Tensor;
use crate::layout::{Forest, NO_ROW};
use std::fmt;

/// Most rows of a chunk in the cases.
pub(super) const CHUNK: usize = 16;

/// Sizes as a case's name says them.
#[derive(Clone, Copy)]
pub(super) struct Named(pub(super) Sizes);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { key_heads, value_heads, key_dim, value_dim, taps } = self.0;
        write!(f, "{key_heads}x{key_dim} keys, {value_heads}x{value_dim} values, {taps} taps")
    }
}

const fn named(key_heads: usize, value_heads: usize, key_dim: usize, value_dim: usize, taps: usize) -> Named {
    Named(Sizes { key_heads, value_heads, key_dim, value_dim, taps })
}

/// Rows and sizes of the cases.
pub(super) const SIZES: [(usize, Named); 5] = [
    (1, named(1, 1, 3, 5, 4)),
    (40, named(2, 4, 6, 10, 4)),
    (110, named(1, 3, 8, 4, 3)),
    (60, named(2, 2, 13, 12, 1)),
    // One row has work for several workgroups.
    (70, named(22, 22, 44, 12, 4)),
];

/// The sizes of Qwen3.5 with 0.8 billion parameters.
pub(super) const LARGE: Sizes = named(16, 16, 128, 128, 4).0;

/// The numbers of a net on the host, without padding.
#[derive(Clone, Copy)]
pub(super) struct Twin<'a> {
    pub(super) sizes: Sizes,
    /// The row before each row on its path, [`NO_ROW`] for a path's first.
    pub(super) parents: &'a [u32],
    /// The factors, the oldest row's first, `[taps, q | k | v]`.
    pub(super) taps: &'a [f64],
    /// `[A | dt]`, a number for each head of values.
    pub(super) decays: &'a [f64],
}

/// What the rule leaves, without padding: of each row what it writes, what it reads, and the state behind it.
pub(super) struct Run {
    pub(super) u: Vec<f64>,
    pub(super) o: Vec<f64>,
    states: Vec<Vec<f64>>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Twin<'_> {
    fn keys(&self) -> usize {
        self.sizes.key_heads * self.sizes.key_dim
    }

    fn values(&self) -> usize {
        self.sizes.value_heads * self.sizes.value_dim
    }

    /// Channels of the convolution.
    fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Width of a projected row.
    fn width(&self) -> usize {
        self.channels() + self.values() + 2 * self.sizes.value_heads
    }

    /// Rows of a path, from `row` backwards, each with the index of its tap.
    fn reached(&self, row: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut next = Some(row);
        (0..self.sizes.taps).rev().map_while(move |tap| {
            let row = next?;
            next = Some(self.parents[row]).filter(|parent| *parent != NO_ROW).map(|parent| parent as usize);
            Some((row, tap))
        })
    }

    fn sum(&self, raw: &[f64], row: usize, c: usize) -> f64 {
        let one = |(from, tap): (usize, usize)| self.taps[tap * self.channels() + c] * raw[from * self.width() + c];
        self.reached(row).map(one).sum()
    }

    /// Where the heads of queries and keys begin, with the factor on their length 1.
    fn heads(&self) -> impl Iterator<Item = (usize, f64)> {
        let scale = (self.sizes.key_dim as f64).powf(-0.5);
        let Sizes { key_heads, key_dim, .. } = self.sizes;
        (0..2 * key_heads).map(move |part| (part * key_dim, if part < key_heads { scale } else { 1.0 }))
    }

    /// Queries, keys and values of projected rows.
    pub(super) fn mixed(&self, raw: &[f64]) -> Vec<f64> {
        let channels = self.channels();
        let silu = |i: usize| {
            let m = self.sum(raw, i / channels, i % channels);
            m * sigmoid(m)
        };
        let mut mixed: Vec<f64> = (0..self.parents.len() * channels).map(silu).collect();
        for row in mixed.chunks_exact_mut(channels) {
            for (first, scale) in self.heads() {
                let head = &mut row[first..first + self.sizes.key_dim];
                let inv = scale / (head.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                head.iter_mut().for_each(|x| *x *= inv);
            }
        }
        mixed
    }

    /// Of each row the logarithms of the decays and the strengths, by head of values.
    pub(super) fn gates(&self, raw: &[f64]) -> Vec<[Vec<f64>; 2]> {
        let (heads, at) = (self.sizes.value_heads, self.channels() + self.values());
        let of = |row: &[f64]| {
            let g = |h: usize| -self.decays[h].exp() * (row[at + heads + h] + self.decays[heads + h]).exp().ln_1p();
            [(0..heads).map(g).collect(), (0..heads).map(|h| sigmoid(row[at + h])).collect()]
        };
        raw.chunks_exact(self.width()).map(of).collect()
    }

    /// Where the query, the key and the value of a head of values begin in a mixed row, and its state.
    fn at(&self, h: usize) -> [usize; 4] {
        let Sizes { key_heads, value_heads, key_dim, value_dim, .. } = self.sizes;
        let q = h / (value_heads / key_heads) * key_dim;
        [q, self.keys() + q, 2 * self.keys() + h * value_dim, h * key_dim * value_dim]
    }

    /// The rule on projected rows.
    pub(super) fn forward(&self, raw: &[f64]) -> Run {
        let (mixed, gates) = (self.mixed(raw), self.gates(raw));
        let Sizes { value_heads, key_dim, value_dim, .. } = self.sizes;
        let mut run = Run { u: Vec::new(), o: Vec::new(), states: Vec::new() };
        for (t, row) in mixed.chunks_exact(self.channels()).enumerate() {
            let mut state = match self.parents[t] {
                NO_ROW => vec![0.0; value_heads * key_dim * value_dim],
                parent => run.states[parent as usize].clone(),
            };
            let [decays, strengths] = &gates[t];
            for (h, (g, beta)) in decays.iter().zip(strengths).enumerate() {
                let [q, k, v, s] = self.at(h);
                for j in 0..value_dim {
                    let cell = |i: usize| s + i * value_dim + j;
                    let read: f64 = (0..key_dim).map(|i| g.exp() * state[cell(i)] * row[k + i]).sum();
                    let u = beta * (row[v + j] - read);
                    (0..key_dim).for_each(|i| state[cell(i)] = g.exp() * state[cell(i)] + row[k + i] * u);
                    run.u.push(u);
                    run.o.push((0..key_dim).map(|i| state[cell(i)] * row[q + i]).sum());
                }
            }
            run.states.push(state);
        }
        run
    }

    /// The gradients by the rows, by the taps, and what each row gives to that by the decays, from d_o.
    pub(super) fn backward(&self, raw: &[f64], d_o: &[f64]) -> [Vec<f64>; 3] {
        let (mixed, gates, run) = (self.mixed(raw), self.gates(raw), self.forward(raw));
        let Sizes { value_heads: heads, key_dim, value_dim, .. } = self.sizes;
        let (channels, width, rows) = (self.channels(), self.width(), self.parents.len());
        let mut dstates = vec![vec![0.0; heads * key_dim * value_dim]; rows];
        let nothing = vec![0.0; heads * key_dim * value_dim];
        let (mut dmixed, mut draw) = (vec![0.0; mixed.len()], vec![0.0; raw.len()]);
        let (mut dtaps, mut ddecays) = (vec![0.0; self.taps.len()], vec![0.0; rows * 2 * heads]);
        for t in (0..rows).rev() {
            let (row, drow) = (&mixed[t * channels..][..channels], &mut dmixed[t * channels..][..channels]);
            let parent = Some(self.parents[t] as usize).filter(|_| self.parents[t] != NO_ROW);
            let before = parent.map_or(&nothing, |parent| &run.states[parent]);
            let mut dstate = std::mem::take(&mut dstates[t]);
            for h in 0..heads {
                let ([q, k, v, s], [g, beta]) = (self.at(h), [gates[t][0][h], gates[t][1][h]]);
                let (mut dalpha, mut dbeta) = (0.0, 0.0);
                for j in 0..value_dim {
                    let (cell, at) = (|i: usize| s + i * value_dim + j, t * heads * value_dim + h * value_dim + j);
                    for i in 0..key_dim {
                        drow[q + i] += run.states[t][cell(i)] * d_o[at];
                        dstate[cell(i)] += row[q + i] * d_o[at];
                    }
                    let du: f64 = (0..key_dim).map(|i| dstate[cell(i)] * row[k + i]).sum();
                    let read: f64 = (0..key_dim).map(|i| before[cell(i)] * row[k + i]).sum();
                    dbeta += du * (row[v + j] - g.exp() * read);
                    drow[v + j] += beta * du;
                    dalpha -= beta * du * read;
                    for i in 0..key_dim {
                        drow[k + i] += dstate[cell(i)] * run.u[at] - beta * du * g.exp() * before[cell(i)];
                        dalpha += dstate[cell(i)] * before[cell(i)];
                        dstate[cell(i)] = g.exp() * (dstate[cell(i)] - row[k + i] * beta * du);
                    }
                }
                let (b, a) = (channels + self.values() + h, channels + self.values() + heads + h);
                let dg = dalpha * g.exp();
                let slope = sigmoid(raw[t * width + a] + self.decays[heads + h]);
                draw[t * width + b] = dbeta * beta * (1.0 - beta);
                draw[t * width + a] = -dg * self.decays[h].exp() * slope;
                ddecays[t * 2 * heads + h] = dg * g;
                ddecays[t * 2 * heads + heads + h] = draw[t * width + a];
            }
            if let Some(parent) = parent {
                dstates[parent].iter_mut().zip(&dstate).for_each(|(sum, d)| *sum += d);
            }
        }
        self.inputs_backward(raw, &mut dmixed, &mut draw, &mut dtaps);
        [draw, dtaps, ddecays]
    }

    /// From the gradient by queries, keys and values those by rows and taps.
    fn inputs_backward(&self, raw: &[f64], dmixed: &mut [f64], draw: &mut [f64], dtaps: &mut [f64]) {
        let (channels, width, dim) = (self.channels(), self.width(), self.sizes.key_dim);
        for (t, drow) in dmixed.chunks_exact_mut(channels).enumerate() {
            let sums: Vec<f64> = (0..channels).map(|c| self.sum(raw, t, c)).collect();
            let x: Vec<f64> = sums.iter().map(|m| m * sigmoid(*m)).collect();
            for (first, scale) in self.heads() {
                let (x, d) = (&x[first..first + dim], &mut drow[first..first + dim]);
                let inv = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                let along: f64 = x.iter().zip(&*d).map(|(x, d)| x * d).sum();
                d.iter_mut().zip(x).for_each(|(d, x)| *d = scale * inv * (*d - x * inv * inv * along));
            }
            for (c, m) in sums.iter().enumerate() {
                let d = drow[c] * sigmoid(*m) * (1.0 + m * (1.0 - sigmoid(*m)));
                for (from, tap) in self.reached(t) {
                    draw[from * width + c] += d * self.taps[tap * channels + c];
                    dtaps[tap * channels + c] += d * raw[from * width + c];
                }
            }
        }
    }
}

/// A random net, and rows of a forest, on the GPU and on the host.
pub(super) struct Net {
    pub(super) sizes: Sizes,
    parents: Vec<u32>,
    /// Whether each row is the first of its chunk.
    begins: Vec<bool>,
    pub(super) raw: Tensor,
    pub(super) host: Vec<f64>,
    pub(super) links: Links,
    pub(super) chunks: Chunks,
    pub(super) taps: Tensor,
    host_taps: Vec<f64>,
    pub(super) decays: Tensor,
    host_decays: Vec<f64>,
}

/// Random numbers of parts that are padded each by itself.
fn padded_rows(t: &mut Trial, rows: usize, parts: &[(usize, usize)]) -> Result<(Tensor, Vec<f64>)> {
    let width: usize = parts.iter().map(|(count, dim)| count * dim).sum();
    let host: Vec<f64> = t.values(rows * width).iter().map(|x| f64::from(*x)).collect();
    let padded: Vec<f32> = pad_parts(&host, parts).iter().map(|x| *x as f32).collect();
    Ok((t.gpu.upload(rows, padded.len() / rows, &padded)?, host))
}

/// Rows of parts, each of so many heads of so many channels, with every head padded.
fn pad_parts(rows: &[f64], parts: &[(usize, usize)]) -> Vec<f64> {
    let width: usize = parts.iter().map(|(count, dim)| count * dim).sum();
    let mut all = Vec::new();
    for row in rows.chunks_exact(width) {
        let mut rest = row;
        for (count, dim) in parts {
            let (part, behind) = rest.split_at(count * dim);
            all.extend(pad_heads(part, *dim));
            rest = behind;
        }
    }
    all
}

impl Net {
    /// A net on a random forest of at least `rows` rows, and one longer path where there are many.
    pub(super) fn new(t: &mut Trial, rows: usize, sizes: Sizes) -> Result<Net> {
        let mut forest = random_forest(t, rows);
        if rows > 1 {
            forest.leaf(&[0; 37]);
        }
        Self::of(t, &forest, sizes)
    }

    /// A net on the rows of a forest.
    pub(super) fn of(t: &mut Trial, forest: &Forest, sizes: Sizes) -> Result<Net> {
        let parents = forest.parents();
        let mut begins = vec![false; parents.len()];
        cut(&parents, &forest.pos, CHUNK).iter().for_each(|chunk| begins[chunk.first] = true);
        let (raw, host) = padded_rows(t, parents.len(), &parts(&sizes))?;
        let mixed = &parts(&sizes)[..3];
        let (_, host_taps) = padded_rows(t, sizes.taps, mixed)?;
        // Decays by which a state lasts some rows.
        let heads = sizes.value_heads;
        let all: Vec<f32> = t.values(2 * heads);
        let shifted = |(i, x): (usize, &f32)| f64::from(x - if i < heads { 1.5 } else { 0.0 });
        let host_decays: Vec<f64> = all.iter().enumerate().map(shifted).collect();
        let padded: Vec<f32> = pad_parts(&host_decays, &[(1, heads), (1, heads)]).iter().map(|x| *x as f32).collect();
        let flat: Vec<f32> = pad_parts(&host_taps, mixed).iter().map(|x| *x as f32).collect();
        Ok(Net {
            sizes,
            parents,
            begins,
            raw,
            host,
            links: Links::new(t.gpu, forest)?,
            chunks: Chunks::new(t.gpu, forest, CHUNK)?,
            taps: t.gpu.vector(&flat)?,
            host_taps,
            decays: t.gpu.vector(&padded)?,
            host_decays,
        })
    }

    /// The net on the host.
    pub(super) fn twin(&self) -> Twin<'_> {
        Twin { sizes: self.sizes, parents: &self.parents, taps: &self.host_taps, decays: &self.host_decays }
    }

    /// More projected rows.
    pub(super) fn rows(&self, t: &mut Trial, rows: usize) -> Result<(Tensor, Vec<f64>)> {
        padded_rows(t, rows, &parts(&self.sizes))
    }

    /// Random rows as wide as the values.
    pub(super) fn values(&self, t: &mut Trial) -> Result<(Tensor, Vec<f64>)> {
        padded_rows(t, self.parents.len(), &parts(&self.sizes)[2..3])
    }

    pub(super) fn padded_mixed(&self, mixed: &[f64]) -> Vec<f64> {
        pad_parts(mixed, &parts(&self.sizes)[..3])
    }

    pub(super) fn padded_values(&self, values: &[f64]) -> Vec<f64> {
        pad_parts(values, &parts(&self.sizes)[2..3])
    }

    /// The gates with their sums, as the kernels lay them out: heads that are not there have what zeros give.
    pub(super) fn padded_gates(&self, gates: &[[Vec<f64>; 2]]) -> Vec<f64> {
        let width = self.sizes.gate();
        let (mut all, mut sums) = (Vec::new(), vec![0.0; width]);
        for ([g, beta], begins) in gates.iter().zip(&self.begins) {
            let (mut g, mut beta) = (g.clone(), beta.clone());
            g.resize(width, -2f64.ln());
            beta.resize(width, 0.5);
            if *begins {
                sums.fill(0.0);
            }
            sums.iter_mut().zip(&g).for_each(|(sum, g)| *sum += g);
            all.extend([g, beta, sums.clone()].concat());
        }
        all
    }

    /// Names what the rule leaves of the net's rows.
    pub(super) fn expect_ruled(&self, t: &mut Trial, ruled: &Ruled) {
        t.expect("u", &ruled.u, || self.padded_values(&self.twin().forward(&self.host).u));
        t.expect("o", &ruled.o, || self.padded_values(&self.twin().forward(&self.host).o));
    }

    /// Names the gradients by the rows, by the taps, and of each row by the decays.
    pub(super) fn expect_grads(&self, t: &mut Trial, d_o: &[f64], [draw, dtaps, ddecays]: [&Tensor; 3]) {
        let heads = self.sizes.value_heads;
        t.expect("draw", draw, || pad_parts(&self.twin().backward(&self.host, d_o)[0], &parts(&self.sizes)));
        t.expect("dtaps", dtaps, || self.padded_mixed(&self.twin().backward(&self.host, d_o)[1]));
        let both = [(1, heads), (1, heads)];
        t.expect("ddecays", ddecays, || pad_parts(&self.twin().backward(&self.host, d_o)[2], &both));
    }
}

/// The parts of a projected row: heads, and channels of each.
fn parts(sizes: &Sizes) -> [(usize, usize); 6] {
    let Sizes { key_heads, value_heads, key_dim, value_dim, .. } = *sizes;
    let (keys, values) = ((key_heads, key_dim), (value_heads, value_dim));
    [keys, keys, values, values, (1, value_heads), (1, value_heads)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, forked, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let sizes = Sizes { key_heads: 1, value_heads: 2, key_dim: 3, value_dim: 2, taps: 3 };
        let parents = forked().parents();
        let (taps, decays) = (numbers(3 * 10, 2), numbers(4, 3));
        let twin = Twin { sizes, parents: &parents, taps: &taps, decays: &decays };
        let (raw, c) = (numbers(parents.len() * twin.width(), 1), numbers(parents.len() * twin.values(), 4));
        let [draw, dtaps, ddecays] = twin.backward(&raw, &c);
        let by_decays: Vec<f64> = (0..4).map(|i| ddecays.iter().skip(i).step_by(4).sum()).collect();
        finite_difference("raw", &raw, &draw, |x| dot(&twin.forward(x).o, &c));
        finite_difference("taps", &taps, &dtaps, |x| dot(&Twin { taps: x, ..twin }.forward(&raw).o, &c));
        finite_difference("decays", &decays, &by_decays, |x| dot(&Twin { decays: x, ..twin }.forward(&raw).o, &c));
    }
}
