//! Token embedding, from a table of its own or from the output matrix (tied), and its gradient.

use super::{Case, Kernel, lanes, stream, word};
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor};
use crate::kernels::matmul::Weight;
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "embedding",
    soft: include_str!("../../shaders/embedding.wgsl"),
    tile: include_str!("../../shaders/embedding.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "token rows of the embedding, and its gradient by token",
    constants: &[&[("BITS", 4)], &[("BITS", 8)]],
    cases,
};

/// Where the embedding lives.
#[derive(Clone)]
pub enum Table {
    /// A matrix `[V, D]` of its own.
    Rows(Tensor),
    /// The columns of the output matrix `[D, V]`.
    Columns(Weight),
}

fn params(sizes: [usize; 6], factor: f32) -> Result<Vec<u32>> {
    let sizes = sizes.iter().map(|v| word(*v, "an embedding size")).collect::<Result<Vec<_>>>()?;
    Ok([sizes, vec![factor.to_bits()]].concat())
}

fn strides(table: &Tensor, by_rows: bool) -> (usize, usize) {
    if by_rows { (table.ld, 1) } else { (1, table.ld) }
}

/// x `[T, D]` = factor · table\[token\[t\]\]. Ids are checked where they enter the library.
///
/// # Errors
/// Shapes that do not fit.
pub fn forward(rec: &mut Recorder, token: &Tensor, (table, factor): (&Table, f32), x: &Tensor) -> Result<()> {
    if token.cols < x.rows {
        return Err(Error::Input(format!("{} token ids for {} rows", token.cols, x.rows)));
    }
    let launch = |rec: &mut Recorder, entry, constants, strides: (usize, usize), ldw: usize, bind: &[&Tensor]| {
        rec.launch(Launch {
            source: &SOURCE,
            entry,
            constants,
            params: params([x.rows, x.cols, x.ld, strides.0, strides.1, ldw], factor)?,
            bind,
            groups: lanes(&SOURCE, rec.variant(), x.len()),
            cost: stream(&[x, x], 0.0),
        })
    };
    match table {
        Table::Rows(t) => launch(rec, "forward", vec![], strides(t, true), 0, &[token, t, x]),
        Table::Columns(Weight::Dense(t)) => launch(rec, "forward", vec![], strides(t, false), 0, &[token, t, x]),
        Table::Columns(Weight::Quantised { bits, words, scale, minimum }) => {
            launch(rec, "forward_q", vec![("BITS", *bits)], (0, 0), scale.ld, &[token, words, scale, minimum, x])
        }
    }
}

/// Rows of a step listed by token, so that each distinct token's gradient is one sum.
#[derive(Clone)]
pub struct ByToken {
    distinct: Tensor,
    start: Tensor,
    row: Tensor,
}

impl ByToken {
    /// Sorts the rows of `tokens`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &crate::gpu::Gpu, tokens: &[u32]) -> Result<ByToken> {
        let mut rows: Vec<u32> = (0..tokens.len() as u32).collect();
        rows.sort_by_key(|r| (tokens[*r as usize], *r));
        let (mut distinct, mut start) = (Vec::new(), Vec::new());
        for (i, r) in rows.iter().enumerate() {
            if distinct.last() != Some(&tokens[*r as usize]) {
                distinct.push(tokens[*r as usize]);
                start.push(i as u32);
            }
        }
        start.push(rows.len() as u32);
        Ok(ByToken { distinct: gpu.vector(&distinct)?, start: gpu.vector(&start)?, row: gpu.vector(&rows)? })
    }
}

/// dtable += the gradient of [`forward`] from dx `[T, D]`; `by_rows` says how the table is stored.
///
/// # Errors
/// Shapes that do not fit.
pub fn backward(
    rec: &mut Recorder,
    by: &ByToken,
    dx: &Tensor,
    (dtable, factor): (&Tensor, f32),
    by_rows: bool,
) -> Result<()> {
    let s = strides(dtable, by_rows);
    rec.launch(Launch {
        source: &SOURCE,
        entry: "backward",
        constants: vec![],
        params: params([by.distinct.cols, dx.cols, dx.ld, s.0, s.1, 0], factor)?,
        bind: &[&by.distinct, &by.start, &by.row, dx, dtable],
        groups: lanes(&SOURCE, rec.variant(), by.distinct.cols * dx.cols),
        cost: Cost { flops: dx.len() as f64, bytes: 8.0 * dx.len() as f64 },
    })
}

/// The rows of `table` `[V, D]`.
pub fn twin(token: &[u32], table: &[f64], cols: usize) -> Vec<f64> {
    token.iter().flat_map(|t| &table[*t as usize * cols..][..cols]).copied().collect()
}

/// Gradient of [`twin`] by the table.
pub fn twin_backward(token: &[u32], dx: &[f64], vocabulary: usize, cols: usize) -> Vec<f64> {
    let mut d = vec![0.0; vocabulary * cols];
    for (t, row) in token.iter().zip(dx.chunks_exact(cols)) {
        d[*t as usize * cols..][..cols].iter_mut().zip(row).for_each(|(a, b)| *a += b);
    }
    d
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, v, cols, by_rows) in [(1, 5, 10, true), (33, 97, 36, true), (607, 128, 33, false), (7, 11, 1, false)] {
        all.push(Case::new(format!("forward {rows}x{v}x{cols} rows={by_rows}"), 0.0, move |t| {
            let token: Vec<u32> = (0..rows).map(|_| t.below(v) as u32).collect();
            let (table, host) = if by_rows { t.matrix(v, cols)? } else { t.matrix(cols, v)? };
            let x = t.gpu.empty(rows, cols)?;
            let (ids, place) = (
                t.gpu.vector(&token)?,
                if by_rows { Table::Rows(table) } else { Table::Columns(Weight::Dense(table)) },
            );
            // A power of two, so that the product is exact.
            forward(&mut t.rec, &ids, (&place, 0.5), &x)?;
            t.expect("x", &x, || {
                let at = |v_: usize, d: usize| if by_rows { host[v_ * cols + d] } else { host[d * v + v_] };
                let by_row: Vec<f64> = (0..v * cols).map(|i| at(i / cols, i % cols)).collect();
                twin(&token, &by_row, cols).iter().map(|x| x * 0.5).collect()
            });
            Ok(())
        }));
        all.push(Case::new(format!("backward {rows}x{v}x{cols} rows={by_rows}"), 1e-6, move |t| {
            let token: Vec<u32> = (0..rows).map(|_| t.below(v) as u32).collect();
            let (dx, host) = t.matrix(rows, cols)?;
            let d = if by_rows { t.gpu.zeros(v, cols)? } else { t.gpu.zeros(cols, v)? };
            let by = ByToken::new(t.gpu, &token)?;
            backward(&mut t.rec, &by, &dx, (&d, 0.5), by_rows)?;
            t.expect("dtable", &d, || {
                let half: Vec<f64> = host.iter().map(|x| x * 0.5).collect();
                let want = twin_backward(&token, &half, v, cols);
                if by_rows { want } else { (0..v * cols).map(|i| want[(i % v) * cols + i / v]).collect() }
            });
            Ok(())
        }));
    }
    for bits in [4u32, 8] {
        all.push(Case::new(format!("forward_q{bits} 9x37x64"), 1e-6, move |t| {
            let (weight, dense) = super::matmul::random_quantised(t, bits, 64, 37)?;
            let token: Vec<u32> = (0..9).map(|_| t.below(37) as u32).collect();
            let x = t.gpu.empty(9, 64)?;
            let ids = t.gpu.vector(&token)?;
            forward(&mut t.rec, &ids, (&Table::Columns(weight), 1.0), &x)?;
            t.expect("x", &x, || (0..9 * 64).map(|i| dense[(i % 64) * 37 + token[i / 64] as usize]).collect());
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
        finite_difference("table", &table, &twin_backward(&token, &c, 6, 5), |x| dot(&twin(&token, x, 5), &c));
    }
}
