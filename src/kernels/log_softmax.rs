//! Log-probs of listed targets from a chunk of logits, and their gradient, in place: no `[T, V]` is ever kept.

use super::case::{Case, Inputs, Kernel};
use super::scores::{constant, parameter, slope};
use super::sizes::{row_groups, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Param, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "log_softmax",
    soft: include_str!("../../shaders/log_softmax.wgsl"),
    tile: include_str!("../../shaders/log_softmax.wgsl"),
    libs: &["grid", "reduce"],
    tile_size: 128,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "chunked log-softmax and gather, and its gradient in place",
    ways,
    ordered: &[],
    cases,
};

/// The (row, target, sequence) lists on the GPU: row r's entries are `start[r] .. start[r + 1]`.
#[derive(Clone)]
pub(crate) struct Targets {
    /// Where each row's entries begin, `[R + 1]`.
    pub start: Tensor,
    /// Token id of each entry, `[E]`.
    pub target: Tensor,
    /// Sequence of each entry, `[E]`.
    pub sequence: Tensor,
    /// The number of sequences, which all of `sequence` lie below.
    pub sequences: usize,
}

impl Targets {
    /// Refuses lists that end before the rows from `row0` on that `logits` holds, and what is too short for them: `row`
    /// has a number for each row, each of `entry` one for each target.
    fn expect(&self, logits: &Tensor, row0: usize, row: &Tensor, entry: &[&Tensor]) -> Result<()> {
        let end = row0 + logits.rows();
        self.start.expect_vector("where the targets of rows begin", end + 1)?;
        row.expect_vector("the log-sums of rows", end)?;
        let all = entry.iter().copied().chain([&self.sequence]);
        all.into_iter().try_for_each(|entry| entry.expect_vector("what each target has", self.target.cols()))
    }
}

/// The pipeline of the gradient by logits that may have a soft cap.
fn backward_way(traits: &Traits, cap: Option<f32>) -> Way {
    Way::new(&SOURCE, traits, "backward", constant(cap).into_iter().collect::<Vec<_>>())
}

fn ways(traits: &Traits) -> Vec<Way> {
    let plain = Way::plain(&SOURCE, traits).into_iter();
    plain.chain([backward_way(traits, Some(1.0))]).collect()
}

fn params(logits: &Tensor, row0: usize, cap: Option<f32>) -> [Param<'static>; 5] {
    [
        ("rows", Size(logits.rows())),
        ("cols", Size(logits.cols())),
        ("ld", Size(logits.ld())),
        ("row0", Size(row0)),
        ("cap", Float(parameter(cap))),
    ]
}

/// lse `[R]`, logp `[E]` and square `[E]` = log Σ p² over the vocabulary, of the rows `row0 ..` that `logits` `[C, V]`
/// holds.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(
    rec: &mut Recorder,
    logits: &Tensor,
    targets: &Targets,
    row0: usize,
    [lse, logp, square]: [&Tensor; 3],
) -> Result<()> {
    targets.expect(logits, row0, lse, &[logp, square])?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &params(logits, row0, None),
        bind: &[logits, &targets.start, &targets.target, lse, logp, square],
        groups: row_groups(&SOURCE, rec.variant(), logits.rows()),
        cost: stream(&[logits], 4.0),
    })
}

/// logits `[C, V]` become their gradient, given coef `[sequences]` = dloss / dlogp and what [`forward`] gave of them.
/// Where they have a soft cap it is the gradient by what they were before it.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn backward(
    rec: &mut Recorder,
    logits: &Tensor,
    targets: &Targets,
    row0: usize,
    [lse, logp]: [&Tensor; 2],
    (coef, cap): (&Tensor, Option<f32>),
) -> Result<()> {
    targets.expect(logits, row0, lse, &[logp])?;
    coef.expect_vector("the coefficients of sequences", targets.sequences)?;
    let way = backward_way(&Traits::of(rec), cap);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(logits, row0, cap),
        bind: &[&targets.start, &targets.target, &targets.sequence, coef, lse, logp, logits],
        groups: row_groups(&SOURCE, rec.variant(), logits.rows()),
        cost: stream(&[logits, logits], 4.0),
    })
}

/// [lse, logp, square] of all rows; `targets[r]` lists (target, sequence).
pub(crate) fn twin(logits: &[f64], cols: usize, targets: &[Vec<(u32, u32)>]) -> [Vec<f64>; 3] {
    let (mut lse, mut logp, mut square) = (Vec::new(), Vec::new(), Vec::new());
    for (row, list) in logits.chunks_exact(cols).zip(targets) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let l = top + row.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        lse.push(l);
        logp.extend(list.iter().map(|(t, _)| row[*t as usize] - l));
        let s = row.iter().map(|x| (2.0 * (x - l)).exp()).sum::<f64>().ln();
        square.extend(list.iter().map(|_| s));
    }
    [lse, logp, square]
}

/// Gradient of Σ coef · logp by what the logits were before their cap.
pub(crate) fn twin_backward(
    logits: &[f64],
    cols: usize,
    targets: &[Vec<(u32, u32)>],
    coef: &[f64],
    cap: Option<f32>,
) -> Vec<f64> {
    let [lse, ..] = twin(logits, cols, targets);
    let mut d = vec![0.0; logits.len()];
    for (r, list) in targets.iter().enumerate() {
        for (t, s) in list {
            for v in 0..cols {
                d[r * cols + v] -= coef[*s as usize] * (logits[r * cols + v] - lse[r]).exp();
            }
            d[r * cols + *t as usize] += coef[*s as usize];
        }
    }
    d.iter().zip(logits).map(|(d, y)| d * slope(*y, cap)).collect()
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols, scale, cap) in [
        (1, 2, 1.0f32, None),
        (7, 33, 3.0, None),
        (33, 97, 40.0, None),
        (610, 128, 1.0, None),
        (3, 49_152, 5.0, None),
        (7, 33, 3.0, Some(3.5)),
        (33, 97, 30.0, Some(30.0)),
    ] {
        let capped = if cap.is_some() { " capped" } else { "" };
        let case = Case::new(format!("forward and backward {rows}x{cols}{capped}"), 2e-5, move |t| {
            let v: Vec<f32> = t.values(rows * cols).iter().map(|x| x * scale).collect();
            let host: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
            // Every third row has no target, every fifth three of them.
            let lists: Vec<Vec<(u32, u32)>> = (0..rows)
                .map(|r| {
                    let n = if r % 3 == 2 { 0 } else { 1 + 2 * usize::from(r % 5 == 0) };
                    (0..n).map(|_| (t.below(cols) as u32, t.below(4) as u32)).collect()
                })
                .collect();
            let flat: Vec<(u32, u32)> = lists.concat();
            let mut start = vec![0u32];
            lists.iter().for_each(|l| start.push(start[start.len() - 1] + l.len() as u32));
            let targets = Targets {
                start: t.gpu.vector(&start)?,
                target: t.gpu.vector(&flat.iter().map(|e| e.0).collect::<Vec<_>>())?,
                sequence: t.gpu.vector(&flat.iter().map(|e| e.1).collect::<Vec<_>>())?,
                sequences: 4,
            };
            let logits = t.gpu.upload(rows, cols, &v)?;
            let (lse, logp) = (t.gpu.empty(1, rows)?, t.gpu.empty(1, flat.len())?);
            let square = t.gpu.empty(1, flat.len())?;
            let (coef, hc) = t.matrix(1, 4)?;
            forward(&mut t.rec, &logits, &targets, 0, [&lse, &logp, &square])?;
            backward(&mut t.rec, &logits, &targets, 0, [&lse, &logp], (&coef, cap))?;
            let [want_lse, want_logp, want_square] = twin(&host, cols, &lists);
            t.expect("lse", &lse, || want_lse);
            t.expect("logp", &logp, || want_logp);
            t.expect("square", &square, || want_square);
            t.expect("dlogits", &logits, || twin_backward(&host, cols, &lists, &hc, cap));
            Ok(())
        });
        // The log-sum of logits of 10^5 has no digit below 1/100, of which a probability is made again.
        all.push(case.without(&[Inputs::Large]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradient_is_the_slope() {
        let (x, coef) = (numbers(3 * 6, 1), [0.3, -1.2]);
        let lists = vec![vec![(1, 0), (4, 1)], vec![], vec![(5, 1)]];
        let c = [coef[0], coef[1], coef[1]];
        finite_difference("logits", &x, &twin_backward(&x, 6, &lists, &coef, None), |x| {
            dot(&twin(x, 6, &lists)[1], &c)
        });
    }
}
