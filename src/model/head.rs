//! The end of the model: final norm, output matrix, log-probs of listed targets in chunks, and the backward pass of
//! these. No `[T, V]` is ever kept: backward computes each chunk's logits again.

use super::dropout::Masks;
use super::linear::{self, Back, Ends, Linear, vector_grad};
use super::model::Model;
use super::places::Outer;
use super::stream::Stream;
use crate::gpu::{Gpu, Part, Recorder, Tensor};
use crate::kernels::columns;
use crate::kernels::log_softmax::{self, Targets};
use crate::kernels::rms_norm::{self, Norm};
use crate::kernels::{rows, softcap};
use crate::{Error, Result};

/// What is scored: for each row that predicts something, its targets; each target belongs to a sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// (row, target, sequence), in any order.
    pub(crate) entries: Vec<(u32, u32, u32)>,
}

/// The lists of a step on the GPU.
pub(crate) struct Lists {
    /// Distinct rows, ascending.
    rows: Vec<u32>,
    /// Targets of each row.
    pub(crate) targets: Targets,
    /// Place of `Wanted::entries[i]` among the sorted entries.
    pub(crate) order: Vec<u32>,
    /// E, the number of entries.
    pub(crate) entries: usize,
}

impl Wanted {
    /// Sorts the entries by row and uploads them.
    pub(crate) fn upload(&self, gpu: &Gpu) -> Result<Lists> {
        let mut by_row: Vec<usize> = (0..self.entries.len()).collect();
        by_row.sort_by_key(|i| (self.entries[*i].0, *i));
        let (mut row, mut start, mut order) = (Vec::new(), Vec::new(), vec![0u32; by_row.len()]);
        for (at, i) in by_row.iter().enumerate() {
            order[*i] = at as u32;
            if row.last() != Some(&self.entries[*i].0) {
                row.push(self.entries[*i].0);
                start.push(at as u32);
            }
        }
        start.push(by_row.len() as u32);
        let sorted = |f: fn(&(u32, u32, u32)) -> u32| by_row.iter().map(|i| f(&self.entries[*i])).collect::<Vec<_>>();
        Ok(Lists {
            rows: row,
            targets: Targets {
                start: gpu.vector(&start)?,
                target: gpu.vector(&sorted(|e| e.1))?,
                sequence: gpu.vector(&sorted(|e| e.2))?,
                sequences: self.entries.iter().map(|e| e.2 as usize + 1).max().unwrap_or(0),
            },
            order,
            entries: by_row.len(),
        })
    }
}

/// Rows of logits that are in memory at once.
pub(crate) fn chunk_rows(gpu: &Gpu, vocabulary: usize) -> usize {
    let most = gpu.chunk_bytes() as usize / (4 * vocabulary.max(1));
    (most / 8 * 8).max(8)
}

/// The final norm of the stream, its rows as the output matrix takes them: with the factor on the logits.
pub(crate) fn final_norm(rec: &mut Recorder, model: &Model, stream: &Stream) -> Result<Norm> {
    let norm = normed(rec, model, stream)?;
    Ok(Norm { y: for_logits(rec, model, &norm.y)?, ..norm })
}

/// The final norm of the stream as it is.
pub(crate) fn normed(rec: &mut Recorder, model: &Model, stream: &Stream) -> Result<Norm> {
    let gain = model.gain(Outer::Norm as usize)?;
    rms_norm::forward(rec, &stream.x, stream.delta.as_ref(), gain, model.arch.held_eps())
}

/// x `[T, D]` times the factor on the logits, which is the same before the output matrix as behind it.
fn for_logits(rec: &mut Recorder, model: &Model, x: &Tensor) -> Result<Tensor> {
    let factor = model.arch.logits_scale;
    if factor == 1.0 {
        return Ok(x.clone());
    }
    let scaled = rec.gpu().empty(x.rows(), x.cols())?;
    columns::take(rec, x, 0, factor, &scaled)?;
    Ok(scaled)
}

/// Logits `[R, V]` of normalised rows `[R, D]`.
pub(crate) fn logits(rec: &mut Recorder, model: &Model, y: &Tensor) -> Result<Tensor> {
    chunk_logits(rec, model, y, None)
}

/// What [`logits`] gives, of some rows of a training, with an adapter's input masked.
fn chunk_logits(rec: &mut Recorder, model: &Model, y: &Tensor, drop: Option<&Masks>) -> Result<Tensor> {
    let _part = rec.gpu().book(Part::Logits);
    let logits = linear::forward(rec, model, Linear::head(), y, drop)?;
    if let Some(cap) = model.arch.logit_cap {
        softcap::forward(rec, &logits, cap)?;
    }
    Ok(logits)
}

/// The masks of some rows.
fn picked(gpu: &Gpu, drop: Option<&Masks>, rows: &[u32]) -> Result<Option<Masks>> {
    drop.map(|masks| masks.picked(gpu, rows)).transpose()
}

/// What the backward pass needs of [`logps`].
pub(crate) struct Scored {
    /// (first listed row, row numbers, the rows normalised) of each chunk.
    chunks: Vec<(usize, Tensor, Tensor)>,
    lse: Tensor,
    /// Log-prob of each sorted entry, `[E]`.
    pub(crate) logp: Tensor,
    /// log Σ p² over the vocabulary at each sorted entry, `[E]`.
    pub(crate) square: Tensor,
}

/// Log-probs of the listed entries.
pub(crate) fn logps(
    rec: &mut Recorder,
    model: &Model,
    norm: &Norm,
    lists: &Lists,
    drop: Option<&Masks>,
) -> Result<Scored> {
    let gpu = rec.gpu();
    if lists.rows.is_empty() {
        return Err(Error::Input("nothing to score: no completion tokens".into()));
    }
    let lse = gpu.empty(1, lists.rows.len())?;
    let (logp, square) = (gpu.empty(1, lists.entries)?, gpu.empty(1, lists.entries)?);
    let step = chunk_rows(gpu, model.arch.vocab_size);
    let mut chunks = Vec::new();
    for (i, part) in lists.rows.chunks(step).enumerate() {
        let (row, chunk) = (gpu.vector(part)?, gpu.empty(part.len(), norm.y.cols())?);
        rows::gather(rec, &norm.y, &row, &chunk)?;
        let logits = chunk_logits(rec, model, &chunk, picked(gpu, drop, part)?.as_ref())?;
        log_softmax::forward(rec, &logits, &lists.targets, i * step, [&lse, &logp, &square])?;
        chunks.push((i * step, row, chunk));
    }
    Ok(Scored { chunks, lse, logp, square })
}

/// What was scored, for the backward pass.
#[derive(Clone, Copy)]
pub(crate) struct Scoring<'a> {
    /// The final norm of all rows.
    pub(crate) norm: &'a Norm,
    /// What was asked.
    pub(crate) lists: &'a Lists,
    /// What [`logps`] gave.
    pub(crate) scored: &'a Scored,
}

/// Gradients from coef `[sequences]` = dloss / dlogp: dh `[T, D]` is overwritten by the gradient of the stream before
/// the final norm, the output matrix's and the norm's gradients are added to.
pub(crate) fn backward(
    rec: &mut Recorder,
    back: Back,
    Scoring { norm, lists, scored }: Scoring,
    coef: &Tensor,
    dh: &Tensor,
) -> Result<()> {
    let (gpu, Back { model, grads, view }) = (rec.gpu(), back);
    let dy = gpu.empty(norm.y.rows(), norm.y.cols())?;
    rows::fill(rec, &dy)?;
    for (first, row, chunk) in &scored.chunks {
        let drop = picked(gpu, view.dropout.as_ref(), &lists.rows[*first..first + chunk.rows()])?;
        let dlogits = chunk_logits(rec, model, chunk, drop.as_ref())?;
        let (of_rows, by) = ([&scored.lse, &scored.logp], (coef, model.arch.logit_cap));
        log_softmax::backward(rec, &dlogits, &lists.targets, *first, of_rows, by)?;
        let ends = Ends { x: chunk, dy: &dlogits, drop: drop.as_ref() };
        let dchunk = linear::backward(rec, back, Linear::head(), ends)?;
        rows::scatter(rec, &dchunk, row, &dy)?;
    }
    let dy = for_logits(rec, model, &dy)?;
    rows::fill(rec, dh)?;
    let dgain = vector_grad(grads, Outer::Norm as usize)?;
    rms_norm::backward(rec, norm, model.gain(Outer::Norm as usize)?, &dy, (dh, true), dgain)
}
