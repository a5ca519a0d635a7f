//! One micro-batch: its forest on the GPU, its forward pass with what the backward pass needs, and its backward pass.

use super::Trainer;
use crate::arch::{Arch, Layer, Mixer, Mlp, Norms};
use crate::gpu::{Gpu, Part, Recorder, Tensor, Variant, pad4};
use crate::kernels::delta::Sizes;
use crate::kernels::delta_chunks;
use crate::kernels::embedding::ByToken;
use crate::kernels::rms_norm::Norm;
use crate::layout::Forest;
use crate::model::balance::Balance;
use crate::model::context::Context;
use crate::model::decoder::{self, Acts};
use crate::model::head::{self, Lists, Scored, Scoring, Wanted};
use crate::model::linear::Back;
use crate::model::view::View;
use crate::model::{Model, dropout, places};
use crate::{Error, Result};

/// Most rows that a micro-batch holds, unless one record is longer. Larger products run faster, but what is kept for
/// the backward pass grows with them.
pub(super) fn most_rows(trainer: &Trainer) -> usize {
    let rows = trainer.kept / kept_bytes(&trainer.model.arch);
    rows.clamp(512, MOST_ROWS).min(trainer.model.most_rows(trainer.gpu))
}

/// The number of rows beyond which products gain nothing.
pub(crate) const MOST_ROWS: usize = 8192;

/// Bytes of activations that one row leaves for the backward pass.
fn kept_bytes(arch: &Arch) -> usize {
    let of = |layer: &Layer| {
        let mixer = match &layer.mixer {
            Mixer::Attention(attention) => {
                let heads = places::heads(attention);
                places::gates(attention) + heads.width() + heads.heads * heads.padded()
            }
            Mixer::ShortConv(_) => 4 * pad4(arch.hidden_size),
            Mixer::DeltaNet(net) => Sizes::of(net).kept(delta_chunks::most_rows(Variant::Soft)),
        };
        let streams = match layer.norms {
            Norms::Before | Norms::After => 4,
            Norms::BeforeAndAfter => 8,
        };
        let mlp = match &layer.mlp {
            Mlp::Gated(mlp) => 3 * pad4(mlp.width),
            Mlp::Experts(mlp) => mlp.count + mlp.chosen * (3 * pad4(mlp.width) + pad4(arch.hidden_size)),
        };
        streams * arch.hidden_size + mixer + mlp
    };
    4 * arch.layers.iter().map(of).sum::<usize>()
}

/// Bytes of activations that may be kept for the backward pass, where nothing was counted: on a GPU half of what is
/// left of its memory; the other half is for what comes and goes within a pass.
pub(super) fn kept_budget(gpu: &Gpu) -> usize {
    match gpu.info().software {
        true => 3 << 30,
        false => (gpu.planned_bytes().saturating_sub(gpu.live_bytes()) / 2) as usize,
    }
}

/// Whether the activations of this many rows exceed the memory that is planned for.
pub(super) fn exceeds(trainer: &Trainer, rows: usize) -> bool {
    rows * kept_bytes(&trainer.model.arch) > trainer.kept
}

/// A forest with its targets, on the GPU.
pub(super) struct Batch {
    token: Tensor,
    by_token: ByToken,
    view: View,
    pub(super) lists: Lists,
    pub(super) rows: usize,
    /// How many tokens all its sequences have, where it counts for the routers' auxiliary loss.
    tokens: f64,
}

impl Batch {
    /// Uploads a micro-batch. `dropout` is `None` for a pass in which nothing is dropped.
    pub(super) fn new(
        gpu: &Gpu,
        model: &Model,
        forest: &Forest,
        wanted: &Wanted,
        dropout: Option<dropout::Masks>,
    ) -> Result<Batch> {
        Ok(Batch {
            token: gpu.vector(&forest.tokens)?,
            by_token: ByToken::new(gpu, &forest.tokens, model.arch.pad_token_id)?,
            view: View { dropout, ..View::new(gpu, model, forest)? },
            lists: wanted.upload(gpu)?,
            rows: forest.len(),
            tokens: 0.0,
        })
    }

    /// This micro-batch as one that counts for the routers' auxiliary loss, where row t stands in `often[t]` sequences.
    pub(super) fn counting(mut self, gpu: &Gpu, arch: &Arch, often: &[f32]) -> Result<Batch> {
        self.tokens = often.iter().map(|n| f64::from(*n)).sum();
        self.view.balance = Some(Balance::new(gpu, arch, often)?);
        Ok(self)
    }

    fn balance(&self) -> Result<&Balance> {
        let missing = || Error::Bug("a micro-batch counts nothing for the routers' auxiliary loss".into());
        self.view.balance.as_ref().ok_or_else(missing)
    }

    /// What it counted in its forward pass: tokens times blocks with experts, then sums of probabilities and of choices
    /// by expert, over all these blocks.
    pub(super) fn counted(&self, gpu: &Gpu, experts: usize) -> Result<Vec<f64>> {
        let blocks: Vec<&Tensor> = self.balance()?.sums.iter().flatten().collect();
        let mut sums = vec![0.0; 1 + 2 * experts];
        sums[0] = self.tokens * blocks.len() as f64;
        for block in gpu.download_all::<f32>(&blocks)? {
            let parts = [&block[..experts], &block[pad4(experts)..][..experts]].concat();
            sums[1..].iter_mut().zip(parts).for_each(|(sum, x)| *sum += f64::from(x));
        }
        Ok(sums)
    }

    /// Takes the auxiliary loss's slopes by the experts' probabilities, for the backward pass.
    pub(super) fn set_slopes(&self, gpu: &Gpu, slopes: &[f32]) -> Result<()> {
        gpu.overwrite(&self.balance()?.slopes, slopes)
    }
}

/// What a forward pass keeps of the blocks for a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing, since no backward pass follows.
    Nothing,
    /// The inputs of the blocks, from which they run forward again.
    Inputs,
    /// All activations of the blocks.
    All,
}

impl Keep {
    /// What the trainer asks for, or else all that fits the memory that is planned for.
    pub(super) fn of(trainer: &Trainer, rows: usize) -> Keep {
        if trainer.checkpoint.unwrap_or_else(|| exceeds(trainer, rows)) { Keep::Inputs } else { Keep::All }
    }
}

/// What one block left for the backward pass: everything, or its input alone, from which it runs forward again (with
/// the same launches, so with the same bits).
enum Kept {
    All(Box<Acts>),
    Input(Tensor),
}

/// What a forward pass leaves for the backward pass.
pub(super) struct Tape {
    blocks: Vec<Kept>,
    norm: Norm,
    pub(super) scored: Scored,
}

/// Computes the log-probs of the batch's entries.
pub(super) fn forward(rec: &mut Recorder, model: &Model, batch: &Batch, keep: Keep) -> Result<Tape> {
    let _part = rec.gpu().book(Part::Activations);
    let context = Context::Forest { view: &batch.view, store: None };
    let x = decoder::embed(rec, model, &batch.token, batch.rows)?;
    let mut blocks = Vec::new();
    let stream = decoder::stack(rec, model, x, &context, |acts| match keep {
        Keep::All => blocks.push(Kept::All(Box::new(acts))),
        Keep::Inputs => blocks.push(Kept::Input(acts.input().clone())),
        Keep::Nothing => {}
    })?;
    let norm = head::final_norm(rec, model, &stream)?;
    let scored = head::logps(rec, model, &norm, &batch.lists, batch.view.dropout.as_ref())?;
    Ok(Tape { blocks, norm, scored })
}

/// Adds the gradients of Σ coef[sequence] · logp to the trainer's.
pub(super) fn backward(rec: &mut Recorder, trainer: &Trainer, batch: &Batch, tape: Tape, coef: &Tensor) -> Result<()> {
    let (model, grads) = (&trainer.model, &trainer.grads[..]);
    let dh = rec.gpu().empty(batch.rows, model.arch.hidden_size)?;
    let Tape { blocks, norm, scored } = tape;
    let scoring = Scoring { norm: &norm, lists: &batch.lists, scored: &scored };
    let back = Back { model, grads, view: &batch.view };
    head::backward(rec, back, scoring, coef, &dh)?;
    drop((norm, scored));
    let context = Context::Forest { view: &batch.view, store: None };
    for (layer, kept) in blocks.into_iter().enumerate().rev() {
        let acts = match kept {
            Kept::All(acts) => *acts,
            Kept::Input(x) => decoder::forward(rec, model, layer, &x.into(), &context)?.0,
        };
        decoder::backward(rec, back, layer, acts, &dh)?;
    }
    decoder::embed_backward(rec, model, grads, (&batch.token, &batch.by_token), &dh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Storage;
    use crate::model::dropout::node_key;
    use crate::model::score::predicted;
    use crate::source::ModelSource;
    use crate::train::{Dropout, Optimiser};
    use std::path::Path;

    /// Blocks that run forward again draw the same masks as before, at every site.
    #[test]
    fn gradients_have_the_same_bits_whatever_is_kept() {
        let gpu = Gpu::open(None, None).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        for (name, rate, lora) in [
            ("llama", 0.0, 0.0),
            ("llama", 0.3, 0.0),
            ("olmo3", 0.3, 0.0),
            ("lora/post_norms", 0.0, 0.4),
            ("lora/post_norms", 0.3, 0.4),
        ] {
            let mut source = ModelSource::open(&golden.join(name)).unwrap();
            if let Some(adapter) = &mut source.adapter {
                adapter.config.dropout = lora;
            }
            let mut trainer =
                Trainer::new(&gpu, Model::load_as(&gpu, &source, Storage::F32).unwrap(), Optimiser::default()).unwrap();
            trainer.dropout = Dropout { rate, seed: 5 };
            let (mut forest, mut wanted) = (Forest::new(), Wanted::default());
            forest.open(&[3, 4, 5]);
            let answer = [6, 7, 8, 9];
            wanted.entries.extend(predicted(&forest.leaf(&answer), &answer, 0));
            forest.close();
            let nodes = [vec![node_key(0, &[3, 4, 5]); 3], vec![1; 4]].concat();
            let coef = gpu.vector(&[-1f32]).unwrap();
            let bits = |keep: Keep| -> Vec<u32> {
                trainer.zero_gradients().unwrap();
                let masks = trainer.masks(&forest, &nodes).unwrap();
                assert_eq!(masks.is_some(), rate + lora > 0.0);
                let batch = Batch::new(&gpu, &trainer.model, &forest, &wanted, masks).unwrap();
                let mut rec = gpu.record();
                let tape = forward(&mut rec, &trainer.model, &batch, keep).unwrap();
                assert!(tape.blocks.iter().all(|b| matches!(b, Kept::All(_)) == (keep == Keep::All)));
                backward(&mut rec, &trainer, &batch, tape, &coef).unwrap();
                rec.submit().unwrap();
                trainer.gradients().unwrap().iter().flat_map(|t| t.data.iter().map(|x| x.to_bits())).collect()
            };
            let all = bits(Keep::All);
            assert!(all.iter().any(|b| *b != 0));
            assert_eq!(all, bits(Keep::Inputs), "{name} {rate} {lora}");
        }
    }
}
