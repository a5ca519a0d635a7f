//! Training: SFT and DPO with explicit backward passes, and AdamW.

mod balance;
mod batch;
pub mod checkpoints;
pub mod dpo;
pub mod exchange;
pub mod fit;
pub mod job;
mod lora;
pub mod losses;
mod moments;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod objective;
pub mod out_folder;
mod pair;
pub mod run;
mod settings;
pub mod sft;
mod state;

use crate::arch::Dtype;
use crate::arch::{NamedTensor, family};
use crate::gpu::{self, Gpu, Tensor};
use crate::kernels::adamw::{self, Codes, Moments, Origin, Rates};
use crate::kernels::half::Half;
use crate::kernels::weight::Weight;
use crate::kernels::{cast, rows};
use crate::layout::Forest;
use crate::model::balance::experts;
use crate::model::{Model, dropout, linear, params};
use crate::{Error, Result};
pub(crate) use batch::MOST_ROWS;
use exchange::{Alone, Exchange};
pub use lora::LoraSettings;
use moments::Moment;
pub use moments::OptimiserKind;
pub use settings::{LearningRate, Optimiser, Schedule, TrainSettings, WeightType};

/// Dropout in training. Scoring, generation and the reference pass of DPO never drop anything. The rate on the input of
/// an adapter is the adapter's own setting, [`crate::arch::lora::LoraConfig::dropout`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Fraction that is dropped of what each attention and MLP branch adds to the residual stream, from 0 to below 1.
    /// The values that are kept are divided by 1 minus it.
    pub rate: f32,
    /// Seed of the masks, which depend besides only on the step, the place in the model and the tokens.
    pub seed: u64,
}

/// A model in training, on the GPU: its weights with their gradients and the optimiser's state.
pub struct Trainer<'a> {
    gpu: &'a Gpu,
    /// The model that is trained.
    pub(crate) model: Model,
    /// How many optimiser steps have been taken.
    step: u64,
    micro_rows: Option<usize>,
    checkpoint: Option<bool>,
    share_prompts: bool,
    dropout: Dropout,
    exchange: &'a dyn Exchange,
    optimiser: Optimiser,
    /// The weight of the routers' auxiliary loss.
    aux_weight: f32,
    /// The gradients, by parameter number, as are the following fields.
    grads: Vec<Option<Weight>>,
    moments: [Vec<Option<Moment>>; 2],
    codes: Codes,
    /// Partial sums of squares of all gradients.
    parts: Tensor,
    /// Bytes of activations that may be kept for the backward pass unless the rows of a micro-batch are given.
    kept: usize,
}

impl<'a> Trainer<'a> {
    /// Takes `model`, whose matrices are in f32 or in bf16 and stay so, into training with fresh moments. Of a model
    /// with an adapter only the adapter is trained.
    ///
    /// # Errors
    /// Out of memory; a model with weights in f16 or quantised.
    pub fn new(gpu: &'a Gpu, model: Model, optimiser: Optimiser) -> Result<Self> {
        optimiser.check()?;
        let booked = gpu.book(gpu::Part::Gradients);
        let grads = linear::gradients(&model, gpu)?;
        drop(booked);
        let mut trained = model.params.iter().zip(&grads).filter_map(|(w, g)| g.as_ref().and(w.as_ref()));
        trained.try_for_each(Weight::check_trainable)?;
        let tensors = Self::tensors(&grads)?;
        let parts = gpu.zeros(1, tensors.iter().map(|t| adamw::parts(t)).sum())?;
        let booked = gpu.book(gpu::Part::Moments);
        let zeros =
            |grad: &Option<Weight>| grad.as_ref().map(|grad| Moment::zeros(gpu, optimiser.kind, grad)).transpose();
        let moment = || grads.iter().map(zeros).collect::<Result<Vec<_>>>();
        let (moments, codes) = ([moment()?, moment()?], Codes::new(gpu)?);
        drop(booked);
        let dropout = Dropout::default();
        let (micro_rows, checkpoint) = (None, None);
        let exchange: &dyn Exchange = &Alone;
        let aux_weight = model.arch.router_aux_loss_coef;
        Ok(Self {
            gpu,
            model,
            step: 0,
            micro_rows,
            checkpoint,
            share_prompts: true,
            dropout,
            exchange,
            optimiser,
            aux_weight,
            grads,
            moments,
            codes,
            parts,
            kept: batch::kept_budget(gpu),
        })
    }

    /// How many optimiser steps have been taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Counts on from step `step`, as if so many had been taken.
    pub fn set_step(&mut self, step: u64) {
        self.step = step;
    }

    /// Sets the most rows of a micro-batch (one record may be longer); at first, and with `None`, it has as many as the
    /// memory planned for allows. But for rounding, a step's gradient is the same whatever it is.
    pub fn set_micro_rows(&mut self, rows: Option<usize>) {
        self.micro_rows = rows;
    }

    /// Sets whether a block keeps only its input and runs forward again in the backward pass, rather than keeping all
    /// activations; at first, and with `None`, it does only if they exceed the memory planned for. The bits are the
    /// same.
    pub fn set_checkpoint(&mut self, checkpoint: Option<bool>) {
        self.checkpoint = checkpoint;
    }

    /// Sets whether the answers to one prompt share its rows in a micro-batch, as they do at first. Otherwise each has
    /// a copy, for comparison; losses and gradients differ by no more than rounding.
    pub fn set_share_prompts(&mut self, share: bool) {
        self.share_prompts = share;
    }

    /// Sets the dropout of the steps that follow; at first there is only that of an adapter.
    pub fn set_dropout(&mut self, dropout: Dropout) {
        self.dropout = dropout;
    }

    /// Sets the weight of the routers' auxiliary loss beside the loss of a step; at first, and with `None`, it is the
    /// model's own ([`crate::arch::Arch::router_aux_loss_coef`]).
    ///
    /// # Errors
    /// A weight that is not a finite number of at least 0, or above 0 for a model without experts.
    pub fn set_router_aux_loss_coef(&mut self, weight: Option<f32>) -> Result<()> {
        let weight = weight.unwrap_or(self.model.arch.router_aux_loss_coef);
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(Error::Input(format!("router_aux_loss_coef is {weight}; expected a number of at least 0")));
        }
        if weight > 0.0 && experts(&self.model.arch) == 0 {
            let what = "the model has no mixture of experts, so no router that could have a loss; leave it out";
            return Err(Error::Input(format!("router_aux_loss_coef is {weight}: {what}")));
        }
        self.aux_weight = weight;
        Ok(())
    }

    /// Whether the routers' auxiliary loss counts.
    fn balances(&self) -> bool {
        self.aux_weight > 0.0
    }

    /// Sets the other processes of this training; at first there are none.
    pub fn set_exchange(&mut self, exchange: &'a dyn Exchange) {
        self.exchange = exchange;
    }

    /// The tensors of all gradients, in the order of the parameters.
    fn tensors(all: &[Option<Weight>]) -> Result<Vec<&Tensor>> {
        let each = all.iter().flatten().map(Weight::tensors);
        Ok(each.collect::<Result<Vec<_>>>()?.into_iter().flatten().map(|(_, t)| t).collect())
    }

    /// Lets products read copies of the trained matrices in 16 bits, which are made anew after each step. Weights,
    /// gradients, moments, activations and sums stay in f32.
    ///
    /// # Errors
    /// Out of memory; a weight that f16 cannot hold, by tensor; weights that are in 16 bits themselves.
    pub fn read_half(&mut self, half: Half) -> Result<()> {
        if self.model.dtype() == Dtype::BF16 {
            return Err(Error::Input("weights kept in bf16 need no copies in 16 bits; ask for one of the two".into()));
        }
        let matrix = |(p, w): (usize, &Option<Weight>)| match (w, &self.grads[p]) {
            (Some(w), Some(_)) if params::is_matrix(w) => w.empty_half(self.gpu, half).map(Some),
            _ => Ok(None),
        };
        if half == Half::F16 && !self.gpu.counts() {
            for tensor in self.model.tensors(self.gpu)?.iter().filter(|t| t.shape.len() > 1) {
                if let Some(x) = tensor.data.iter().find(|x| !half.holds(**x)) {
                    let name = &tensor.name;
                    return Err(Error::NonFinite(format!(
                        "tensor '{name}' holds {x}, beyond what f16 holds; take bf16"
                    )));
                }
            }
        }
        let booked = self.gpu.book(gpu::Part::Weights);
        self.model.copies = self.model.params.iter().enumerate().map(matrix).collect::<Result<_>>()?;
        drop(booked);
        self.copy()
    }

    /// Brings what follows from the weights up to date: 16-bit copies, and the norms of DoRA.
    fn renew(&self) -> Result<()> {
        if let Some(lora) = &self.model.lora {
            lora.renew(self.gpu, (&self.model.arch, &self.model.params))?;
        }
        self.copy()
    }

    /// Brings the 16-bit copies up to date.
    fn copy(&self) -> Result<()> {
        let mut rec = self.gpu.record();
        for (weight, copy) in self.model.params.iter().zip(&self.model.copies) {
            if let (Some(weight), Some(copy)) = (weight, copy) {
                cast::forward(&mut rec, weight, copy)?;
            }
        }
        rec.submit()
    }

    fn micro_rows(&self) -> usize {
        self.micro_rows.unwrap_or_else(|| batch::most_rows(self))
    }

    /// The rows of a micro-batch, and whether blocks keep only their inputs, for a step whose records have these
    /// numbers of rows.
    pub(crate) fn untold(&self, records: &[usize]) -> (usize, bool) {
        let most = self.micro_rows();
        let longest = records.iter().copied().max().unwrap_or(0);
        let largest = records.iter().sum::<usize>().min(most.max(longest));
        (most, self.checkpoint.unwrap_or_else(|| batch::exceeds(self, largest)))
    }

    /// The rates of dropout on the branches and on the input of an adapter.
    ///
    /// # Errors
    /// A rate is not from 0 to below 1.
    fn drops(&self) -> Result<[f32; 2]> {
        let rates = [self.dropout.rate, self.model.lora.as_ref().map_or(0.0, |lora| lora.config.dropout)];
        match rates.iter().find(|p| !(0.0..1.0).contains(*p)) {
            Some(p) => Err(Error::Input(format!("dropout of {p}; expected a share from 0 to below 1"))),
            None => Ok(rates),
        }
    }

    /// The masks of the step that begins, on a forest with the key of each row's node; `None` if nothing is dropped.
    fn masks(&self, forest: &Forest, nodes: &[u64]) -> Result<Option<dropout::Masks>> {
        if self.drops()? == [0.0; 2] {
            return Ok(None);
        }
        let Dropout { rate, seed } = self.dropout;
        dropout::Masks::new(self.gpu, forest, nodes, (seed, self.step), rate).map(Some)
    }

    /// The model in training.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, once its training is over.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// The gradients of the last step before clipping, under Hugging Face's names and with their shapes; those of an
    /// adapter under PEFT's names.
    ///
    /// # Errors
    /// GPU errors.
    pub fn gradients(&self) -> Result<Vec<NamedTensor>> {
        let gradients = self.named(&self.grads)?;
        Ok(if self.model.lora.is_some() { gradients } else { family::as_modules(&self.model.arch, gradients) })
    }

    fn named(&self, tensors: &[Option<Weight>]) -> Result<Vec<NamedTensor>> {
        if let Some(lora) = &self.model.lora {
            let missing = |p| Error::Bug(format!("no tensor for parameter number {p}"));
            return lora.download(self.gpu, |p| tensors[p].as_ref().ok_or_else(|| missing(p)));
        }
        params::download(self.gpu, &self.model.arch, |p| tensors[p].as_ref())
    }

    /// Starts a step: all gradients become 0.
    fn zero_gradients(&self) -> Result<()> {
        let mut rec = self.gpu.record();
        Self::tensors(&self.grads)?.into_iter().try_for_each(|g| rows::fill(&mut rec, g))?;
        rec.submit()
    }

    /// Adds up the gradients that the ranks computed for the step.
    fn sum_gradients(&self) -> Result<()> {
        if self.exchange.ranks() == 1 {
            return Ok(());
        }
        for grad in Self::tensors(&self.grads)? {
            let mut values = self.gpu.download::<f32>(grad)?;
            self.exchange.sum(&mut values)?;
            self.gpu.overwrite(grad, &values)?;
        }
        Ok(())
    }

    /// Ends a step: adds up the ranks' gradients, clips by the global norm and moves the weights. Returns the norm
    /// before clipping.
    fn update(&mut self, lr: f32) -> Result<f64> {
        let gpu = self.gpu;
        self.sum_gradients()?;
        let norm = gpu.empty(1, 2)?;
        let mut rec = gpu.record();
        let mut slot = 0;
        for grad in Self::tensors(&self.grads)? {
            adamw::square_sum(&mut rec, grad, &self.parts, slot)?;
            slot += adamw::parts(grad);
        }
        adamw::clip(&mut rec, &self.parts, self.optimiser.max_grad_norm, &norm)?;
        for p in 0..self.grads.len() {
            let (Some(grad), Some(m), Some(v)) = (&self.grads[p], &self.moments[0][p], &self.moments[1][p]) else {
                continue;
            };
            let weight = self.model.weight(p)?;
            let decays = self.optimiser.decay_vectors || params::is_matrix(weight);
            let rates = Rates {
                lr,
                betas: self.optimiser.betas,
                eps: self.optimiser.eps,
                weight_decay: if decays { self.optimiser.weight_decay } else { 0.0 },
                step: self.step + 1,
                seed: self.optimiser.seed,
            };
            let state = weight.blocks().zip(m.tensors()?).zip(v.tensors()?);
            for ((_, grad), (((first, w), t1), t2)) in grad.tensors()?.into_iter().zip(state) {
                let moments = match m {
                    Moment::F32(_) => Moments::F32([t1, t2]),
                    Moment::Bits8(_) => Moments::Bits8([t1, t2], &self.codes),
                };
                adamw::step(
                    &mut rec,
                    &rates,
                    (grad, &norm),
                    (w, Origin { parameter: p, first, cols: weight.cols() }),
                    moments,
                )?;
            }
        }
        rec.submit()?;
        let norm = f64::from(gpu.download::<f32>(&norm)?[0]);
        if !norm.is_finite() {
            return Err(Error::NonFinite(format!(
                "step {}: the gradient's norm is {norm}; no weight was changed. Lower the learning rate, or look for \
                 broken records in this step's batch",
                self.step + 1
            )));
        }
        self.renew()?;
        self.step += 1;
        Ok(norm)
    }
}
