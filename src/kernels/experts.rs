//! Products of rows by the matrices of their experts: C = A B, A B^T (gradients by an input), A^T B (gradients by a
//! matrix), each over the places of [`Routes`].

use super::case::{Case, Kernel};
use super::inputs::random;
use super::product::split_rows;
use super::router::{BLOCK, Routes, Routing, gather, route, spread, twin as choose};
use super::sizes::bytes;
use super::way::{Constant, Traits, Way};
use super::weight::{Block, Stored, Weight};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor, Variant, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "experts",
    soft: include_str!("../../shaders/experts.soft.wgsl"),
    tile: include_str!("../../shaders/experts.tile.wgsl"),
    libs: &["operand"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "products of rows by their experts' matrices, and back",
    ways,
    ordered: &[Variant::Tile],
    cases,
};

/// The matrices `[K, N]` of all experts, side by side: `[K, E N]`.
#[derive(Clone, Copy)]
pub(crate) struct Experts<'a> {
    weight: &'a Weight,
    /// N, with its padding.
    width: usize,
}

impl<'a> Experts<'a> {
    /// The matrices that a weight holds for `count` experts.
    ///
    /// # Errors
    /// Its columns are not so many matrices' of whole vec4s, or its blocks cut one of them.
    pub(crate) fn new(weight: &'a Weight, count: usize) -> Result<Experts<'a>> {
        let width = weight.cols() / count.max(1);
        let whole = |(first, block): (usize, &Block)| {
            first.is_multiple_of(width.max(1)) && block.cols().is_multiple_of(width.max(1))
        };
        if width * count == weight.cols() && width > 0 && width.is_multiple_of(4) && weight.blocks().all(whole) {
            return Ok(Experts { weight, width });
        }
        let shape = [weight.rows(), weight.cols()];
        Err(Error::Bug(format!("a matrix {shape:?} is not cut into those of {count} experts")))
    }

    /// The blocks, each with its first expert and how many it has.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, &'a Block)> {
        let width = self.width;
        self.weight.blocks().map(move |(first, block)| (first / width, block.cols() / width, block))
    }
}

/// What a launch knows of its matrices.
#[derive(Clone, Copy)]
struct Walk {
    /// N and K in vec4.
    n4: usize,
    k4: usize,
    /// Row distances of A, B and C in vec4.
    ld4: [usize; 3],
    /// The launch's first expert, and how many it has.
    experts: (usize, usize),
}

impl Walk {
    fn params(&self, first: usize) -> [Param<'static>; 8] {
        let ([lda4, ldb4, ldc4], (expert, count)) = (self.ld4, self.experts);
        [
            ("n4", Size(self.n4)),
            ("k4", Size(self.k4)),
            ("lda4", Size(lda4)),
            ("ldb4", Size(ldb4)),
            ("ldc4", Size(ldc4)),
            ("tile0", Size(first)),
            ("first", Size(expert)),
            ("count", Size(count)),
        ]
    }
}

/// A product's constants: of how many rows a tile is, whose rows are read, whether a bias is added.
fn constants(stored: Stored, chosen: Constant, tile: usize, (gather, bias): (bool, bool)) -> Vec<Constant> {
    let mut all = stored.constants();
    all.extend([chosen, ("MR", tile as u32), ("GATHER", u32::from(gather)), ("BIAS", u32::from(bias))]);
    all
}

fn way(traits: &Traits, stored: Stored, chosen: Constant, tile: usize, flags: (bool, bool)) -> Way {
    let few = traits.variant == Variant::Tile && tile < BLOCK;
    let entry = match (few, stored.is_quantised()) {
        (true, true) => "forward_few_q",
        (true, false) => "forward_few",
        (false, true) => "forward_q",
        (false, false) => "forward",
    };
    Way::new(&SOURCE, traits, entry, constants(stored, chosen, tile, flags))
}

fn way_nt(traits: &Traits, stored: Stored, tile: usize) -> Way {
    let entry = if stored.is_quantised() { "forward_nt_q" } else { "forward_nt" };
    let mut all = stored.constants();
    all.push(("MR", tile as u32));
    Way::new(&SOURCE, traits, entry, all)
}

fn way_tn(traits: &Traits, chosen: Constant, gather: bool) -> Way {
    Way::new(&SOURCE, traits, "forward_tn", [chosen, ("GATHER", u32::from(gather))])
}

fn way_sums(traits: &Traits) -> Way {
    Way::new(&SOURCE, traits, "sums", [])
}

fn ways(traits: &Traits) -> Vec<Way> {
    let mut all = vec![way_sums(traits)];
    for chosen in [1, 2, 4, 8].map(|n| ("CHOSEN", n)) {
        all.extend([false, true].map(|gather| way_tn(traits, chosen, gather)));
        for (stored, tile) in Stored::all().into_iter().flat_map(|s| [1, 2, 4, 8, BLOCK].map(|tile| (s, tile))) {
            if tile == BLOCK && traits.variant == Variant::Soft {
                continue;
            }
            let flags = [(false, false), (false, true), (true, false), (true, true)];
            all.extend(flags.map(|flags| way(traits, stored, chosen, tile, flags)));
            all.extend((tile == BLOCK || traits.variant == Variant::Soft).then(|| way_nt(traits, stored, tile)));
        }
    }
    all
}

/// C `[S, N]` of each place's row by its expert's matrix `[K, N]`, with the experts' biases `[E N]` if given: rows of a
/// `[T, K]` where `gather`, else a `[S, K]`. Places without a row become zero.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(
    rec: &mut Recorder,
    (a, gather): (&Tensor, bool),
    experts: Experts,
    routes: &Routes,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (k, n) = (experts.weight.rows(), experts.width);
    if a.ld() != k || (!gather && a.rows() != routes.places()) {
        return Err(Error::Bug(format!("experts of {k} rows by {:?} of {} places", a.shape(), routes.places())));
    }
    if let Some(bias) = bias {
        bias.expect_shape("the experts' biases", 1, experts.weight.cols())?;
    }
    let c = rec.gpu().empty(routes.places(), n)?;
    let (traits, soft) = (Traits::of(rec), rec.variant() == Variant::Soft);
    for (first, count, block) in experts.blocks() {
        let way = way(&traits, block.stored(), routes.constant(), routes.tile, (gather, bias.is_some()));
        let weight = block.bind();
        let bind = [&[a, &routes.row, &routes.expert], &weight[..], &[bias.unwrap_or(a), &c]].concat();
        let ld4 = [a.ld() / 4, block.ld4(), n / 4];
        let walk = Walk { n4: n / 4, k4: k / 4, ld4, experts: (first, count) };
        let columns = (n / 4).div_ceil(if soft {
            8
        } else if routes.tile < BLOCK {
            32
        } else {
            16
        }) as u32;
        over_tiles(rec, routes, 2.0 * (k * n) as f64, bytes(&weight), |rec, at, tiles, cost| {
            rec.launch(Launch {
                source: way.source,
                entry: way.entry,
                constants: way.constants.clone(),
                params: &walk.params(at),
                bind: &bind,
                groups: if soft { [tiles, columns, 1] } else { [columns, tiles, 1] },
                cost,
            })
        })?;
    }
    Ok(c)
}

/// C `[S, K]` of each place's row of a `[S, N]` by its expert's matrix `[K, N]` turned.
///
/// # Errors
/// Shapes that do not fit; routes that are not made for a pass that goes backward; out of memory.
pub(crate) fn forward_nt(rec: &mut Recorder, a: &Tensor, experts: Experts, routes: &Routes) -> Result<Tensor> {
    let (k, n) = (experts.weight.rows(), experts.width);
    let soft = rec.variant() == Variant::Soft;
    if a.ld() != n || a.rows() != routes.places() || !(soft || routes.tile == BLOCK) {
        return Err(Error::Bug(format!(
            "experts of {n} columns turned by {:?} of {} places",
            a.shape(),
            routes.places()
        )));
    }
    let c = rec.gpu().empty(routes.places(), k)?;
    for (first, count, block) in experts.blocks() {
        let way = way_nt(&Traits::of(rec), block.stored(), routes.tile);
        let weight = block.bind();
        let bind = [&[a, &routes.expert], &weight[..], &[&c]].concat();
        let walk = Walk { n4: n / 4, k4: k / 4, ld4: [n / 4, block.ld4(), k / 4], experts: (first, count) };
        let columns = (k / 4).div_ceil(if soft { 8 } else { 16 }) as u32;
        over_tiles(rec, routes, 2.0 * (k * n) as f64, bytes(&weight), |rec, at, tiles, cost| {
            rec.launch(Launch {
                source: way.source,
                entry: way.entry,
                constants: way.constants.clone(),
                params: &walk.params(at),
                bind: &bind,
                groups: if soft { [tiles, columns, 1] } else { [columns, tiles, 1] },
                cost,
            })
        })?;
    }
    Ok(c)
}

/// Launches over the tiles, some at a time, each with its share of the cost.
fn over_tiles(
    rec: &mut Recorder,
    routes: &Routes,
    per_place: f64,
    weights: f64,
    mut launch: impl FnMut(&mut Recorder, usize, u32, Cost) -> Result<()>,
) -> Result<()> {
    let per_tile = per_place * routes.tile as f64;
    split_rows(rec, routes.tiles, 1, per_tile, |rec, at, tiles| {
        let share = tiles as f64 / routes.tiles as f64;
        launch(rec, at, tiles as u32, Cost::new(share * per_place * routes.taken() as f64, share * weights))
    })
}

/// Adds to the gradient by the experts' matrices A^T B over each one's places: rows of a `[T, K]` where `gather`, else
/// a `[S, K]`; b `[S, N]`.
///
/// # Errors
/// Shapes that do not fit; a gradient that is not in f32.
pub(crate) fn forward_tn(
    rec: &mut Recorder,
    (a, gather): (&Tensor, bool),
    b: &Tensor,
    routes: &Routes,
    gradient: Experts,
) -> Result<()> {
    let (k, n) = (gradient.weight.rows(), gradient.width);
    if a.ld() != k || b.ld() != n || b.rows() != routes.places() || (!gather && a.rows() != routes.places()) {
        let what = format!("{:?} turned by {:?} gives no gradient of {k} rows", a.shape(), b.shape());
        return Err(Error::Bug(format!("{what} and {n} columns an expert")));
    }
    let (rows, wide) = if rec.variant() == Variant::Soft { (8, 8) } else { (64, 16) };
    for (first, count, block) in gradient.blocks() {
        let Block::Dense(c) = block else {
            return Err(Error::Bug("a gradient by experts' matrices is in f32".into()));
        };
        let way = way_tn(&Traits::of(rec), routes.constant(), gather);
        let walk = Walk { n4: n / 4, k4: k / 4, ld4: [a.ld() / 4, n / 4, c.ld() / 4], experts: (first, count) };
        // Where all rows have one expert.
        let per_row = 2.0 * (routes.taken() * n) as f64;
        split_rows(rec, k, rows, per_row, |rec, at, some| {
            rec.launch(Launch {
                source: way.source,
                entry: way.entry,
                constants: way.constants.clone(),
                params: &walk.params(at / rows),
                bind: &[a, &routes.row, &routes.ranges, b, c],
                groups: [(n / 4).div_ceil(wide) as u32, some.div_ceil(rows) as u32, count as u32],
                cost: Cost::new(per_row * some as f64, bytes(&[a, b, c]) * some as f64 / k as f64),
            })
        })?;
    }
    Ok(())
}

/// Adds to the gradient by the experts' biases `[E N]` the sums of each one's places of b `[S, N]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn sums(rec: &mut Recorder, b: &Tensor, routes: &Routes, gradient: &Tensor) -> Result<()> {
    gradient.expect_shape("the gradient by the experts' biases", 1, routes.experts() * b.ld())?;
    if b.rows() != routes.places() {
        return Err(Error::Bug(format!("{:?} are no rows of {} places", b.shape(), routes.places())));
    }
    let (way, n4) = (way_sums(&Traits::of(rec)), b.ld() / 4);
    let walk = Walk { n4, k4: 0, ld4: [0, n4, 0], experts: (0, routes.experts()) };
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &walk.params(0),
        bind: &[&routes.ranges, b, gradient],
        groups: [n4.div_ceil(SOURCE.workgroup(rec.variant()) as usize) as u32, 1, routes.experts() as u32],
        cost: Cost::new((routes.taken() * b.cols()) as f64, bytes(&[b, gradient])),
    })
}

/// What the experts of two layers make of rows, and the gradients, in f64: y is the weighed sum of `second` by `first`
/// by each row.
struct Twin<'a> {
    chosen: &'a [usize],
    weight: &'a [f64],
    /// How many experts a row goes to, and how many there are.
    counts: (usize, usize),
    /// K, the width between, and the width of y.
    widths: [usize; 3],
    /// The matrices `[K, E F]` and `[F, E D]`, and the biases of the first, `[E F]`.
    matrices: [&'a [f64]; 2],
    bias: &'a [f64],
}

impl Twin<'_> {
    /// x by an expert's part of a matrix `[K, E N]`.
    fn by(&self, x: &[f64], layer: usize, expert: usize) -> Vec<f64> {
        let (n, all) = (self.widths[layer + 1], self.widths[layer + 1] * self.counts.1);
        let one = |col: usize| {
            let terms = x.iter().enumerate().map(|(k, x)| x * self.matrices[layer][k * all + expert * n + col]);
            terms.sum::<f64>() + if layer == 0 { self.bias[expert * n + col] } else { 0.0 }
        };
        (0..n).map(one).collect()
    }

    /// dy by an expert's part of a matrix, turned.
    fn back(&self, dy: &[f64], layer: usize, expert: usize) -> Vec<f64> {
        let (n, all) = (self.widths[layer + 1], self.widths[layer + 1] * self.counts.1);
        let row = |k: usize| {
            dy.iter().enumerate().map(|(c, d)| d * self.matrices[layer][k * all + expert * n + c]).sum::<f64>()
        };
        (0..self.widths[layer]).map(row).collect()
    }

    /// y of x; the gradients by x, by both matrices and by the biases from dy.
    fn run(&self, x: &[f64], dy: &[f64]) -> [Vec<f64>; 5] {
        let [k, f, d] = self.widths;
        let (chosen, experts) = self.counts;
        let rows = x.len() / k;
        let (mut y, mut dx) = (vec![0.0; rows * d], vec![0.0; x.len()]);
        let mut grads = [vec![0.0; k * experts * f], vec![0.0; f * experts * d]];
        let mut dbias = vec![0.0; experts * f];
        for (at, (expert, weight)) in self.chosen.iter().zip(self.weight).enumerate() {
            let t = at / chosen;
            let (x, dy) = (&x[t * k..(t + 1) * k], &dy[t * d..(t + 1) * d]);
            let h = self.by(x, 0, *expert);
            let out = self.by(&h, 1, *expert);
            y[t * d..(t + 1) * d].iter_mut().zip(&out).for_each(|(to, v)| *to += weight * v);
            let d_out: Vec<f64> = dy.iter().map(|v| weight * v).collect();
            let dh = self.back(&d_out, 1, *expert);
            let own = self.back(&dh, 0, *expert);
            dx[t * k..(t + 1) * k].iter_mut().zip(&own).for_each(|(to, v)| *to += v);
            let mut add = |layer: usize, a: &[f64], b: &[f64]| {
                let all = b.len() * experts;
                for (i, a) in a.iter().enumerate() {
                    let to = &mut grads[layer][i * all + expert * b.len()..][..b.len()];
                    to.iter_mut().zip(b).for_each(|(to, b)| *to += a * b);
                }
            };
            add(0, x, &dh);
            add(1, &h, &d_out);
            dbias[expert * f..(expert + 1) * f].iter_mut().zip(&dh).for_each(|(to, v)| *to += v);
        }
        let [first, second] = grads;
        [y, dx, first, second, dbias]
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (dtype, rows, widths, experts, chosen) in [
        ("f32", 1, [10, 4, 8], 4, 1),
        ("f32", 7, [33, 12, 36], 5, 2),
        ("f32", 150, [64, 68, 40], 8, 4),
        ("bf16", 40, [36, 20, 4], 3, 2),
        ("q4", 3, [64, 32, 68], 16, 4),
        ("q4k", 5, [288, 32, 12], 4, 2),
        ("q6k", 90, [32, 64, 12], 4, 2),
        ("q8", 20, [96, 32, 8], 128, 8),
        ("mxfp4", 30, [64, 32, 36], 6, 2),
    ] {
        for trains in [false, true] {
            let [k, f, d] = widths;
            let name = format!("{rows}x{k}x{f}x{d} {dtype} by {chosen} of {experts} experts, trains={trains}");
            all.push(Case::new(name, 8e-6, move |t| {
                let routing = Routing { experts, chosen, all: false };
                let (logits, hl) = t.matrix(rows, experts)?;
                let routes = route(&mut t.rec, &logits, routing, trains)?;
                let (x, hx) = t.matrix(rows, k)?;
                let ((first, hfirst), (second, hsecond)) =
                    (random(t, dtype, k, experts * f)?, random(t, dtype, f, experts * d)?);
                let (bias, hbias) = t.matrix(1, experts * f)?;
                let (dy, hdy) = t.matrix(rows, d)?;
                let [a, b] = [Experts::new(&first, experts)?, Experts::new(&second, experts)?];
                let h = forward(&mut t.rec, (&x, true), a, &routes, Some(&bias))?;
                let out = forward(&mut t.rec, (&h, false), b, &routes, None)?;
                let y = t.gpu.empty(rows, d)?;
                gather(&mut t.rec, &out, &routes, (true, false), &y)?;
                let twin = move || {
                    let (chosen_by, weight) = choose(&hl, routing);
                    let counts = (chosen, experts);
                    let matrices = [&hfirst[..], &hsecond];
                    Twin { chosen: &chosen_by, weight: &weight, counts, widths, matrices, bias: &hbias }.run(&hx, &hdy)
                };
                let part = |i: usize| {
                    let twin = twin.clone();
                    move || twin()[i].clone()
                };
                t.expect("y", &y, part(0));
                if !trains {
                    return Ok(());
                }
                let d_out = spread(&mut t.rec, &dy, &routes)?;
                let dh = forward_nt(&mut t.rec, &d_out, b, &routes)?;
                let own = forward_nt(&mut t.rec, &dh, a, &routes)?;
                let dx = t.gpu.empty(rows, k)?;
                gather(&mut t.rec, &own, &routes, (false, false), &dx)?;
                t.expect("dx", &dx, part(1));
                let [dfirst, dsecond] = [first.zeros_like(t.gpu)?, second.zeros_like(t.gpu)?];
                forward_tn(&mut t.rec, (&x, true), &dh, &routes, Experts::new(&dfirst, experts)?)?;
                forward_tn(&mut t.rec, (&h, false), &d_out, &routes, Experts::new(&dsecond, experts)?)?;
                let padded = part(2);
                t.expect("dfirst", dfirst.dense()?, || {
                    let mut all = padded();
                    all.resize(pad4(k) * experts * f, 0.0);
                    all
                });
                t.expect("dsecond", dsecond.dense()?, part(3));
                let dbias = t.gpu.zeros(1, experts * f)?;
                sums(&mut t.rec, &dh, &routes, &dbias)?;
                t.expect("dbias", &dbias, part(4));
                Ok(())
            }));
        }
    }
    for (rows, trains) in [(1, false), (8, false), (512, true)] {
        let (k, f, experts, chosen) = (1024, 256, 32, 8);
        let name = format!("{rows}x{k}x{} by {chosen} of {experts} experts", 2 * f);
        all.push(Case::timed(name, move |t| {
            let (logits, _) = t.matrix(rows, experts)?;
            let routes = route(&mut t.rec, &logits, Routing { experts, chosen, all: false }, trains)?;
            let (x, _) = t.matrix(rows, k)?;
            let (weight, _) = random(t, "q4", k, experts * 2 * f)?;
            let h = forward(&mut t.rec, (&x, true), Experts::new(&weight, experts)?, &routes, None)?;
            t.expect("h", &h, Vec::new);
            Ok(())
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let (widths, counts) = ([3, 4, 2], (2, 3));
        let routing = Routing { experts: 3, chosen: 2, all: false };
        let (chosen, weight) = choose(&numbers(5 * 3, 1), routing);
        let (x, c) = (numbers(5 * 3, 2), numbers(5 * 2, 3));
        let (first, second, bias) = (numbers(3 * 12, 4), numbers(4 * 6, 5), numbers(12, 6));
        let of = |x: &[f64], first: &[f64], second: &[f64], bias: &[f64]| {
            Twin { chosen: &chosen, weight: &weight, counts, widths, matrices: [first, second], bias }.run(x, &c)
        };
        let [_, dx, dfirst, dsecond, dbias] = of(&x, &first, &second, &bias);
        let y = |all: [Vec<f64>; 5]| dot(&all[0], &c);
        finite_difference("x", &x, &dx, |x| y(of(x, &first, &second, &bias)));
        finite_difference("first", &first, &dfirst, |w| y(of(&x, w, &second, &bias)));
        finite_difference("second", &second, &dsecond, |w| y(of(&x, &first, w, &bias)));
        finite_difference("bias", &bias, &dbias, |b| y(of(&x, &first, &second, b)));
    }
}
