//! One micro-batch: its forest on the GPU, forward with what backward needs kept, and backward.

use super::Trainer;
use crate::Result;
use crate::gpu::{Gpu, Recorder, Tensor, pad4};
use crate::kernels::embedding::ByToken;
use crate::kernels::rms_norm::Norm;
use crate::layout::Forest;
use crate::model::decoder::{self, Acts, Context};
use crate::model::head::{self, Lists, Scored, Wanted};
use crate::model::view::View;
use crate::model::{Arch, Model, params};

/// Rows that a micro-batch holds at most, unless one record is longer. Larger products run faster, but what is kept for
/// the backward pass grows with them.
pub(super) fn most_rows(gpu: &Gpu, model: &Model) -> usize {
    let rows = kept_budget(gpu) / kept_bytes(&model.arch);
    rows.clamp(512, 8192).min(model.most_rows(gpu))
}

/// Bytes of activations that one row leaves for the backward pass.
fn kept_bytes(arch: &Arch) -> usize {
    let heads = params::heads(arch);
    let streams = if arch.post_norms { 8 } else { 4 };
    let wide =
        streams * arch.hidden_size + heads.width() + heads.heads * heads.padded() + 3 * pad4(arch.intermediate_size);
    4 * wide * arch.num_hidden_layers
}

/// Bytes of activations that may be kept.
fn kept_budget(gpu: &Gpu) -> usize {
    if gpu.info().software { 3 << 30 } else { 4 << 30 }
}

/// A forest with its targets, on the GPU.
pub(super) struct Batch {
    token: Tensor,
    by_token: ByToken,
    view: View,
    pub(super) lists: Lists,
    pub(super) rows: usize,
}

impl Batch {
    pub(super) fn new(gpu: &Gpu, model: &Model, forest: &Forest, wanted: &Wanted) -> Result<Batch> {
        Ok(Batch {
            token: gpu.vector(&forest.tokens)?,
            by_token: ByToken::new(gpu, &forest.tokens)?,
            view: View::new(gpu, model, forest)?,
            lists: wanted.upload(gpu)?,
            rows: forest.len(),
        })
    }
}

/// What one block left: everything, or its input alone, from which forward runs again (the same launches, so the same
/// bits).
enum Kept {
    All(Box<Acts>),
    Input(Tensor),
}

/// What a forward pass leaves for the backward one.
pub(super) struct Tape {
    blocks: Vec<Kept>,
    norm: Norm,
    pub(super) scored: Scored,
}

/// Log-probs of the batch's entries; `keep` says whether a backward pass follows.
pub(super) fn forward(rec: &mut Recorder, model: &Model, batch: &Batch, keep: bool) -> Result<Tape> {
    let gpu = rec.gpu();
    let context = Context::Forest { view: &batch.view, store: None };
    let all = keep && batch.rows * kept_bytes(&model.arch) <= kept_budget(gpu);
    let x = decoder::embed(rec, model, &batch.token, batch.rows)?;
    let mut blocks = Vec::new();
    let (x, delta) = decoder::stack(rec, model, x, &context, |acts| match (keep, all) {
        (true, true) => blocks.push(Kept::All(Box::new(acts))),
        (true, false) => blocks.push(Kept::Input(acts.input().clone())),
        (false, _) => {}
    })?;
    let norm = head::final_norm(rec, model, &x, &delta)?;
    let scored = head::logps(rec, model, &norm, &batch.lists)?;
    Ok(Tape { blocks, norm, scored })
}

/// Adds the gradients of Σ coef[sequence] · logp to the trainer's.
pub(super) fn backward(rec: &mut Recorder, trainer: &Trainer, batch: &Batch, tape: Tape, coef: &Tensor) -> Result<()> {
    let (model, grads) = (&trainer.model, &trainer.grads[..]);
    let dh = rec.gpu().empty(batch.rows, model.arch.hidden_size)?;
    let Tape { blocks, norm, scored } = tape;
    head::backward(rec, model, grads, (&norm, &batch.lists, &scored), coef, &dh)?;
    drop((norm, scored));
    let context = Context::Forest { view: &batch.view, store: None };
    for (layer, kept) in blocks.into_iter().enumerate().rev() {
        let acts = match kept {
            Kept::All(acts) => *acts,
            Kept::Input(x) => decoder::forward(rec, model, layer, (&x, None), &context)?.0,
        };
        decoder::backward(rec, model, grads, layer, &acts, &batch.view, &dh)?;
    }
    decoder::embed_backward(rec, model, grads, &batch.by_token, &dh)
}
