//! What adapters add to a product (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353), and its backward pass: up to three
//! layers whose columns lie side by side in one matrix have their A side by side and their B in one matrix of those
//! columns.

use super::case::{Case, Inputs, Kernel, Trial};
use super::sizes::{bytes, lanes, row_groups, several, stream};
use super::way::{Traits, Way};
use super::weight::Weight;
use crate::gpu::Value::{Size, Words};
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor, Variant, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "lora",
    soft: include_str!("../../shaders/lora.wgsl"),
    tile: include_str!("../../shaders/lora.wgsl"),
    libs: &["grid", "layers"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "what adapters add to a product, and the way back", ways, ordered: &[], cases };

/// Rows of [`Adapters::columns`].
pub(crate) const COLUMNS: usize = 3;
/// Rows of [`Adapters::columns`] with DoRA.
pub(crate) const DORA_COLUMNS: usize = 5;

/// Rows of a lane, which share what it loads of B.
fn held(variant: Variant) -> u32 {
    match variant {
        Variant::Soft => 4,
        Variant::Tile => 1,
    }
}

fn way(traits: &Traits, entry: &'static str) -> Way {
    Way::new(&SOURCE, traits, entry, [("MR", held(traits.variant))])
}

fn ways(traits: &Traits) -> Vec<Way> {
    SOURCE.entries(traits.variant).into_iter().map(|entry| way(traits, entry)).collect()
}

/// How the adapters of layers side by side lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns of u and rows of B for each layer, a multiple of 4.
    pub rank: usize,
    /// The number of layers, up to four.
    pub layers: usize,
    /// The first columns of the layers behind the first, multiples of 4; where there is none, the width of B.
    pub edges: [usize; 3],
}

impl Layout {
    /// The edges in vec4, and one that no column reaches.
    pub(super) fn edges4(&self) -> [u32; 4] {
        let [second, third, fourth] = self.edges.map(|edge| edge.div_ceil(4) as u32);
        [second, third, fourth, u32::MAX]
    }
}

/// The adapters of layers side by side.
#[derive(Clone, Copy)]
pub(crate) struct Adapters<'a> {
    /// How they lie.
    pub layout: Layout,
    /// B `[rank, N]`.
    pub b: &'a Weight,
    /// For each column the bias, the factor of the product and that of the adapter, `[3, N]`; with DoRA also s and the
    /// norm, which is 0 where there is no adapter, `[5, N]`.
    pub columns: &'a Tensor,
}

impl Adapters<'_> {
    /// Refuses u and y `[T, N]` that do not fit.
    pub(super) fn check(&self, u: &Tensor, y: [usize; 2]) -> Result<()> {
        let Adapters { layout: Layout { rank, layers, edges }, b, columns } = self;
        let fits = rank % 4 == 0 && (1..=4).contains(layers) && edges.iter().all(|e| e % 4 == 0 || *e == y[1]);
        if !fits || u.cols() != rank * layers || b.rows() != *rank || u.rows() != y[0] {
            let what = format!("adapters {:?} of {:?} rows and u {:?}", self.layout, b.rows(), u.shape());
            return Err(Error::Bug(format!("{what} do not fit {y:?}")));
        }
        if b.cols() != y[1] || columns.cols() != y[1] || columns.rows() < COLUMNS {
            let what = format!("B of {} columns, factors {:?}", b.cols(), columns.shape());
            return Err(Error::Bug(format!("{what} do not fit {y:?}")));
        }
        Ok(())
    }

    fn params<'p>(
        &self,
        u: &Tensor,
        y: &Tensor,
        (first, block): (usize, &Tensor),
        edges: &'p [u32; 4],
    ) -> [Param<'p>; 9] {
        [
            ("rows", Size(y.rows())),
            ("n4", Size(block.ld() / 4)),
            ("ldy4", Size(y.ld() / 4)),
            ("ldu4", Size(u.ld() / 4)),
            ("ldl4", Size(block.ld() / 4)),
            ("ldf4", Size(self.columns.ld() / 4)),
            ("first4", Size(first / 4)),
            ("rank4", Size(self.layout.rank / 4)),
            ("edges", Words(edges)),
        ]
    }

    fn cost(&self, u: &Tensor, y: &Tensor, block: &Tensor) -> Cost {
        let products = 2.0 * (y.rows() * block.len()) as f64;
        Cost::new(products, bytes(&[u, block]) + 8.0 * (y.rows() * block.cols()) as f64)
    }
}

/// y `[T, N]` = bias + g · y + f · (u B), u `[T, layers · rank]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn add(rec: &mut Recorder, u: &Tensor, adapters: Adapters, y: &Tensor) -> Result<()> {
    adapters.check(u, y.shape())?;
    let (way, edges) = (way(&Traits::of(rec), "add"), adapters.layout.edges4());
    for (first, block) in adapters.b.tensors()? {
        let items = y.rows().div_ceil(held(rec.variant()) as usize) * (block.ld() / 4);
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants.clone(),
            params: &adapters.params(u, y, (first, block), &edges),
            bind: &[u, block, adapters.columns, y],
            groups: lanes(&SOURCE, rec.variant(), items),
            cost: adapters.cost(u, y, block),
        })?;
    }
    Ok(())
}

/// du `[T, layers · rank]` = (f · dy) B^T.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn back_u(rec: &mut Recorder, dy: &Tensor, adapters: Adapters, du: &Tensor) -> Result<()> {
    adapters.check(du, dy.shape())?;
    let (way, edges) = (way(&Traits::of(rec), "back_u"), adapters.layout.edges4());
    for (first, block) in adapters.b.tensors()? {
        let items = dy.rows().div_ceil(held(rec.variant()) as usize) * (du.ld() / 4);
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants.clone(),
            params: &adapters.params(du, dy, (first, block), &edges),
            bind: &[dy, block, adapters.columns, du],
            groups: lanes(&SOURCE, rec.variant(), items),
            cost: adapters.cost(du, dy, block),
        })?;
    }
    Ok(())
}

/// dB += u^T (f · dy), as B lies.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn back_b(rec: &mut Recorder, u: &Tensor, dy: &Tensor, adapters: Adapters, db: &Weight) -> Result<()> {
    adapters.check(u, dy.shape())?;
    if [db.rows(), db.cols()] != [adapters.b.rows(), adapters.b.cols()] {
        return Err(Error::Bug(format!("the gradient of an adapter's B has shape [{}, {}]", db.rows(), db.cols())));
    }
    let (way, edges) = (way(&Traits::of(rec), "back_b"), adapters.layout.edges4());
    for (first, block) in db.tensors()? {
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants.clone(),
            params: &adapters.params(u, dy, (first, block), &edges),
            bind: &[u, dy, adapters.columns, block],
            groups: lanes(&SOURCE, rec.variant(), block.ld() / 4 * (adapters.layout.rank / 4)),
            cost: adapters.cost(u, dy, block),
        })?;
    }
    Ok(())
}

/// z `[T, N]` = g · dy.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn scale(rec: &mut Recorder, dy: &Tensor, adapters: Adapters, z: &Tensor) -> Result<()> {
    z.expect_shape("a scaled gradient", dy.rows(), dy.cols())?;
    adapters.columns.expect_shape("an adapter's factors", adapters.columns.rows(), dy.cols())?;
    let (way, edges) = (way(&Traits::of(rec), "scale"), adapters.layout.edges4());
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &adapters.params(z, dy, (0, dy), &edges),
        bind: &[dy, adapters.columns, z],
        groups: several(&SOURCE, rec.variant(), dy.len() / 4),
        cost: stream(&[dy, z], 1.0),
    })
}

/// dm `[N]` += the sums over rows of dy · (whole + s · (u B)) / norm, whole `[T, N]` being x W; with DoRA.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn back_m(
    rec: &mut Recorder,
    u: &Tensor,
    (dy, whole): (&Tensor, &Tensor),
    adapters: Adapters,
    dm: &Tensor,
) -> Result<()> {
    adapters.check(u, dy.shape())?;
    whole.expect_shape("the product beside an adapter", dy.rows(), dy.cols())?;
    dm.expect_shape("the gradient of magnitudes", 1, dy.cols())?;
    adapters.columns.expect_shape("the factors of DoRA", DORA_COLUMNS, dy.cols())?;
    let (way, edges, b) = (way(&Traits::of(rec), "back_m"), adapters.layout.edges4(), adapters.b.dense()?);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &adapters.params(u, dy, (0, b), &edges),
        bind: &[u, dy, whole, b, adapters.columns, dm],
        groups: lanes(&SOURCE, rec.variant(), b.ld() / 4),
        cost: adapters.cost(u, dy, b),
    })
}

/// Renews g, f and norm of the columns from `first` on by those of W and of B A, both transposed, `[n, K]`, and the
/// magnitudes m `[N]`; with DoRA.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn norms(
    rec: &mut Recorder,
    (turned, part): (&Tensor, &Tensor),
    (adapters, m): (Adapters, &Tensor),
    (first, count): (usize, usize),
) -> Result<()> {
    let columns = adapters.columns;
    part.expect_shape("what an adapter adds to a matrix", turned.rows(), turned.cols())?;
    m.expect_shape("magnitudes", 1, columns.cols())?;
    if columns.rows() != DORA_COLUMNS || first % 4 != 0 || count > turned.rows() || first + count > columns.cols() {
        let what = format!("columns {first} to {} of {:?}", first + count, columns.shape());
        return Err(Error::Bug(format!("{what} have no norms in {:?}", turned.shape())));
    }
    let (way, edges) = (way(&Traits::of(rec), "norms"), adapters.layout.edges4());
    let mut params = adapters.params(part, turned, (first, turned), &edges);
    params[0] = ("rows", Size(count));
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params,
        bind: &[turned, part, m, columns],
        groups: row_groups(&SOURCE, rec.variant(), count),
        cost: stream(&[turned, part], 4.0),
    })
}

/// The layer of a column.
fn layer(Layout { edges, .. }: Layout, column: usize) -> usize {
    edges.iter().filter(|edge| column >= **edge).count()
}

/// The norm of each row of W + s V.
pub(crate) fn twin_norms(w: &[f64], v: &[f64], s: &[f64]) -> Vec<f64> {
    let k = w.len() / s.len().max(1);
    let rows = w.chunks_exact(k).zip(v.chunks_exact(k)).zip(s);
    rows.map(|((w, v), s)| w.iter().zip(v).map(|(w, v)| (w + s * v).powi(2)).sum::<f64>().sqrt()).collect()
}

/// u B `[T, N]` with each layer's own columns of u.
pub(crate) fn twin(u: &[f64], b: &[f64], layout: Layout, n: usize) -> Vec<f64> {
    let width = layout.rank * layout.layers;
    let one = |row: &[f64], c: usize| -> f64 {
        let own = &row[layer(layout, c) * layout.rank..][..layout.rank];
        own.iter().zip(b.iter().skip(c).step_by(n)).map(|(x, y)| x * y).sum()
    };
    u.chunks_exact(width).flat_map(|row| (0..n).map(move |c| one(row, c))).collect()
}

/// The gradient of [`twin`] by u.
pub(crate) fn twin_back_u(dy: &[f64], b: &[f64], layout: Layout, n: usize) -> Vec<f64> {
    let width = layout.rank * layout.layers;
    let mut du = vec![0.0; dy.len() / n * width];
    for (row, d) in du.chunks_exact_mut(width).zip(dy.chunks_exact(n)) {
        for (c, d) in d.iter().enumerate() {
            let own = &mut row[layer(layout, c) * layout.rank..][..layout.rank];
            own.iter_mut().zip(b.iter().skip(c).step_by(n)).for_each(|(to, b)| *to += d * b);
        }
    }
    du
}

/// The gradient of [`twin`] by B.
pub(crate) fn twin_back_b(u: &[f64], dy: &[f64], layout: Layout, n: usize) -> Vec<f64> {
    let width = layout.rank * layout.layers;
    let one = |j: usize, c: usize| -> f64 {
        let own = layer(layout, c) * layout.rank + j;
        u.iter().skip(own).step_by(width).zip(dy.iter().skip(c).step_by(n)).map(|(x, d)| x * d).sum()
    };
    (0..layout.rank * n).map(|i| one(i / n, i % n)).collect()
}

fn cases() -> Vec<Case> {
    let shapes = [
        (1, Layout { rank: 4, layers: 1, edges: [10; 3] }, 10),
        (7, Layout { rank: 8, layers: 2, edges: [20, 33, 33] }, 33),
        (65, Layout { rank: 4, layers: 3, edges: [36, 48, 60] }, 60),
        (33, Layout { rank: 20, layers: 3, edges: [8, 12, 97] }, 97),
        (21, Layout { rank: 4, layers: 4, edges: [16, 28, 32] }, 39),
    ];
    let case = |(rows, layout, n): (usize, Layout, usize)| {
        Case::new(format!("{rows} rows, {} x rank {}, {n} columns", layout.layers, layout.rank), 4e-6, move |t| {
            let (u, hu) = t.matrix(rows, layout.rank * layout.layers)?;
            let (b, hb) = t.matrix(layout.rank, n)?;
            let (columns, hc) = t.matrix(COLUMNS, n)?;
            let (y, hy) = t.matrix(rows, n)?;
            let (du, (db, hdb)) = (t.gpu.empty(rows, u.cols())?, t.matrix(layout.rank, n)?);
            let b = Weight::from(b);
            let adapters = Adapters { layout, b: &b, columns: &columns };
            let scaled: Vec<f64> = hy.iter().enumerate().map(|(i, d)| d * hc[2 * n + i % n]).collect();
            back_u(&mut t.rec, &y, adapters, &du)?;
            t.expect("du", &du, || twin_back_u(&scaled, &hb, layout, n));
            back_b(&mut t.rec, &u, &y, adapters, &db.clone().into())?;
            t.expect("db", &db, || twin_back_b(&hu, &scaled, layout, n).iter().zip(&hdb).map(|(x, y)| x + y).collect());
            add(&mut t.rec, &u, adapters, &y)?;
            t.expect("y", &y, || {
                let low = twin(&hu, &hb, layout, n);
                let one = |(i, (low, y)): (usize, (&f64, &f64))| {
                    let [bias, whole, part] = [0, 1, 2].map(|row| hc[row * n + i % n]);
                    bias + whole * y + part * low
                };
                low.iter().zip(&hy).enumerate().map(one).collect()
            });
            Ok(())
        })
    };
    shapes.map(case).into_iter().chain(dora()).collect()
}

/// Factors of which the first `bare` columns have no adapter.
fn factors(t: &mut Trial, n: usize, bare: usize) -> Result<(Tensor, Vec<f64>)> {
    let mut columns = t.values(DORA_COLUMNS * n);
    for (i, norm) in columns[4 * n..].iter_mut().enumerate() {
        *norm = if i < bare { 0.0 } else { norm.abs() + 0.5 };
    }
    let host = columns.iter().map(|x| f64::from(*x)).collect();
    Ok((t.gpu.upload(DORA_COLUMNS, n, &columns)?, host))
}

fn dora() -> Vec<Case> {
    let layout = Layout { rank: 8, layers: 2, edges: [12, 33, 33] };
    let back = [1, 33].map(|rows| {
        Case::new(format!("back_m and scale of {rows} rows"), 4e-6, move |t| compare_dora(t, layout, rows, 33))
    });
    // Several workgroups of rows, and of columns.
    let large = [(650, 33), (7, 301)].map(|(rows, n)| {
        let layout = Layout { edges: layout.edges.map(|edge| if edge == 33 { n } else { edge }), ..layout };
        Case::new(format!("back_m and scale of {rows}x{n}"), 4e-6, move |t| compare_dora(t, layout, rows, n))
    });
    let norms = [(36, 4), (10, 8)].map(|(k, first)| {
        Case::new(format!("norms of columns of {k} from {first} on"), 4e-6, move |t| {
            let (n, count) = (33, 33 - first);
            let ((w, hw), (v, hv)) = (t.matrix(36, pad4(k))?, t.matrix(36, pad4(k))?);
            let ((m, hm), (columns, hc)) = (t.matrix(1, n)?, factors(t, n, 6)?);
            let (b, k) = (Weight::from(t.gpu.zeros(8, n)?), pad4(k));
            let adapters = Adapters { layout, b: &b, columns: &columns };
            self::norms(&mut t.rec, (&w, &v), (adapters, &m), (first, count))?;
            t.expect("columns", &columns, || {
                let s: Vec<f64> = hc[3 * n + first..4 * n].to_vec();
                let mut want = hc.clone();
                for (i, norm) in twin_norms(&hw[..count * k], &hv[..count * k], &s).into_iter().enumerate() {
                    let at = first + i;
                    if at >= 6 {
                        want[n + at] = hm[at] / norm;
                        want[2 * n + at] = s[i] * hm[at] / norm;
                        want[4 * n + at] = norm;
                    }
                }
                want
            });
            Ok(())
        })
    });
    // A column whose squares are nothing in f32 has no norm to divide by.
    let norms = norms.map(|case| case.without(&[Inputs::Tiny, Inputs::OneHot]));
    back.into_iter().chain(norms).chain(large).collect()
}

/// The gradient of the magnitudes, and that of the product, of `rows` rows and n columns.
fn compare_dora(t: &mut Trial, layout: Layout, rows: usize, n: usize) -> Result<()> {
    let ((u, hu), (b, hb)) = (t.matrix(rows, 16)?, t.matrix(8, n)?);
    let ((dy, hd), (whole, hw), (dm, hm)) = (t.matrix(rows, n)?, t.matrix(rows, n)?, t.matrix(1, n)?);
    let ((columns, hc), z) = (factors(t, n, 5)?, t.gpu.empty(rows, n)?);
    let b = Weight::from(b);
    let adapters = Adapters { layout, b: &b, columns: &columns };
    back_m(&mut t.rec, &u, (&dy, &whole), adapters, &dm)?;
    t.expect("dm", &dm, || {
        let low = twin(&hu, &hb, layout, n);
        let sum =
            |c: usize| -> f64 { (c..rows * n).step_by(n).map(|i| hd[i] * (hw[i] + hc[3 * n + c] * low[i])).sum() };
        let one = |c: usize| hm[c] + if c < 5 { 0.0 } else { sum(c) / hc[4 * n + c] };
        (0..n).map(one).collect()
    });
    scale(&mut t.rec, &dy, adapters, &z)?;
    t.expect("z", &z, || hd.iter().enumerate().map(|(i, d)| d * hc[n + i % n]).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let (layout, n) = (Layout { rank: 4, layers: 3, edges: [4, 8, 11] }, 11);
        let (u, b, c) = (numbers(3 * 12, 1), numbers(4 * n, 2), numbers(3 * n, 3));
        finite_difference("u", &u, &twin_back_u(&c, &b, layout, n), |u| dot(&twin(u, &b, layout, n), &c));
        finite_difference("b", &b, &twin_back_b(&u, &c, layout, n), |b| dot(&twin(&u, b, layout, n), &c));
    }
}
