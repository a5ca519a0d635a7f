//! Token embedding from the columns of a matrix `[D, V]`, which a tied model's output matrix is too, and its gradient.

use super::case::{Case, Kernel};
use super::half::Half;
use super::inputs::{pad_rows, random_half, random_quantised};
use super::quants::Quants;
use super::sizes::{several, stream};
use super::way::{Traits, Way};
use super::weight::{Stored, Weight};
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Cost, Launch, Param, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "embedding",
    soft: include_str!("../../shaders/embedding.wgsl"),
    tile: include_str!("../../shaders/embedding.wgsl"),
    libs: &["grid", "operand"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "token columns of the embedding, and its gradient by token",
    ways,
    ordered: &[],
    cases,
};

/// The pipeline of a lookup in a table in the form `stored`.
fn way(traits: &Traits, stored: Stored) -> Way {
    let entry = if stored.is_quantised() { "forward_q" } else { "forward" };
    Way::new(&SOURCE, traits, entry, stored.constants())
}

fn ways(traits: &Traits) -> Vec<Way> {
    let lookups = Stored::all().into_iter().map(|stored| way(traits, stored));
    lookups.chain([Way::new(&SOURCE, traits, "backward", [])]).collect()
}

fn params(
    rows: usize,
    x: &Tensor,
    table_ld4: usize,
    (first, count): (usize, usize),
    factor: f32,
) -> [Param<'static>; 7] {
    [
        ("rows", Size(rows)),
        ("cols", Size(x.cols())),
        ("ld", Size(x.ld())),
        ("table_ld4", Size(table_ld4)),
        ("first", Size(first)),
        ("count", Size(count)),
        ("factor", Float(factor)),
    ]
}

/// x `[T, D]` = factor · table\[:, token\[t\]\]. Ids are checked where they enter the library.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(rec: &mut Recorder, token: &Tensor, (table, factor): (&Weight, f32), x: &Tensor) -> Result<()> {
    if token.cols() < x.rows() || table.rows() != x.ld() {
        let shape = [table.rows(), table.cols()];
        return Err(Error::Bug(format!("{} ids from a table {shape:?} for {:?}", token.cols(), x.shape())));
    }
    for (first, block) in table.blocks() {
        let way = way(&Traits::of(rec), block.stored());
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants,
            params: &params(x.rows(), x, block.ld4(), (first, block.cols()), factor),
            bind: &[&[token], &block.bind()[..], &[x]].concat(),
            groups: several(&SOURCE, rec.variant(), x.len()),
            cost: stream(&[x, x], 0.0),
        })?;
    }
    Ok(())
}

/// Rows of a step listed by token, so that each distinct token's gradient is one sum.
#[derive(Clone)]
pub(crate) struct ByToken {
    distinct: Tensor,
    start: Tensor,
    row: Tensor,
    /// Rows of the step, which all of `row` lie below.
    rows: usize,
}

impl ByToken {
    /// Sorts the rows of `tokens`; those of the token `but` get no gradient.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &crate::gpu::Gpu, tokens: &[u32], but: Option<u32>) -> Result<ByToken> {
        let mut rows: Vec<u32> = (0..tokens.len() as u32).filter(|r| Some(tokens[*r as usize]) != but).collect();
        rows.sort_by_key(|r| (tokens[*r as usize], *r));
        let (mut distinct, mut start) = (Vec::new(), Vec::new());
        for (i, r) in rows.iter().enumerate() {
            if distinct.last() != Some(&tokens[*r as usize]) {
                distinct.push(tokens[*r as usize]);
                start.push(i as u32);
            }
        }
        start.push(rows.len() as u32);
        let (distinct, start, row) = (gpu.vector(&distinct)?, gpu.vector(&start)?, gpu.vector(&rows)?);
        Ok(ByToken { distinct, start, row, rows: tokens.len() })
    }
}

/// dtable `[D, V]` += the gradient of [`forward`] from dx `[T, D]`.
///
/// # Errors
/// Shapes that do not fit; a gradient that is not in f32.
pub(crate) fn backward(rec: &mut Recorder, by: &ByToken, dx: &Tensor, (dtable, factor): (&Weight, f32)) -> Result<()> {
    if dx.rows() != by.rows || dx.cols() > dtable.rows() {
        let (rows, channels) = (by.rows, dtable.rows());
        return Err(Error::Bug(format!("{:?} for {rows} listed rows and a table of {channels} channels", dx.shape())));
    }
    for (first, part) in dtable.tensors()? {
        rec.launch(Launch {
            source: &SOURCE,
            entry: "backward",
            constants: vec![],
            params: &params(by.distinct.cols(), dx, part.ld() / 4, (first, part.cols()), factor),
            bind: &[&by.distinct, &by.start, &by.row, dx, part],
            groups: several(&SOURCE, rec.variant(), by.distinct.cols() * dx.cols()),
            cost: Cost::new(dx.len() as f64, 8.0 * dx.len() as f64),
        })?;
    }
    Ok(())
}

/// The columns of `table` `[D, V]`, as rows.
pub(crate) fn twin(token: &[u32], table: &[f64], vocabulary: usize) -> Vec<f64> {
    let column = |t: &u32| table.iter().skip(*t as usize).step_by(vocabulary).copied();
    token.iter().flat_map(column).collect()
}

/// Gradient of [`twin`] by the table.
pub(crate) fn twin_backward(token: &[u32], dx: &[f64], vocabulary: usize, channels: usize) -> Vec<f64> {
    let mut d = vec![0.0; vocabulary * channels];
    for (t, row) in token.iter().zip(dx.chunks_exact(channels)) {
        row.iter().enumerate().for_each(|(c, x)| d[c * vocabulary + *t as usize] += x);
    }
    d
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, v, channels) in [(1, 5, 10), (33, 97, 36), (607, 128, 33), (7, 11, 1)] {
        for half in [None, Some(Half::Bf16), Some(Half::F16)] {
            let kind = half.map_or("f32", Half::name);
            all.push(Case::new(format!("forward {rows}x{v}x{channels} {kind}"), 0.0, move |t| {
                let token: Vec<u32> = (0..rows).map(|_| t.below(v) as u32).collect();
                let (table, host) = match half {
                    Some(half) => random_half(t, half, channels, v)?,
                    None => {
                        let values = t.values(channels * v);
                        let table = Weight::upload(t.gpu, pad4(channels), v, &pad_rows(&values, channels, v))?;
                        (table, values.iter().map(|x| f64::from(*x)).collect())
                    }
                };
                let (ids, x) = (t.gpu.vector(&token)?, t.gpu.empty(rows, channels)?);
                // A power of two, so that the product is exact.
                forward(&mut t.rec, &ids, (&table, 0.5), &x)?;
                t.expect("x", &x, || twin(&token, &host, v).iter().map(|x| x * 0.5).collect());
                Ok(())
            }));
        }
        all.push(Case::new(format!("backward {rows}x{v}x{channels}"), 1e-6, move |t| {
            let token: Vec<u32> = (0..rows).map(|_| t.below(v) as u32).collect();
            let (dx, host) = t.matrix(rows, channels)?;
            let (d, by) = (t.gpu.zeros(channels, v)?, ByToken::new(t.gpu, &token, None)?);
            backward(&mut t.rec, &by, &dx, (&d.clone().into(), 0.5))?;
            t.expect("dtable", &d, || {
                let half: Vec<f64> = host.iter().map(|x| x * 0.5).collect();
                twin_backward(&token, &half, v, channels)
            });
            Ok(())
        }));
    }
    for quants in Quants::ALL {
        all.push(Case::new(format!("forward_q 9x37x320 {}", quants.name()), 1e-6, move |t| {
            let (weight, dense) = random_quantised(t, quants, 320, 37)?;
            let token: Vec<u32> = (0..9).map(|_| t.below(37) as u32).collect();
            let x = t.gpu.empty(9, 320)?;
            let ids = t.gpu.vector(&token)?;
            forward(&mut t.rec, &ids, (&weight, 1.0), &x)?;
            t.expect("x", &x, || twin(&token, &dense, 37));
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
    fn the_gradient_is_the_slope() {
        let (token, c) = ([3u32, 0, 3, 2], numbers(4 * 5, 1));
        let table = numbers(6 * 5, 2);
        finite_difference("table", &table, &twin_backward(&token, &c, 6, 5), |x| dot(&twin(&token, x, 6), &c));
    }
}
