//! A model's weights on the GPU.

use super::angles::{self, Table};
use super::lora::{Group, Lora};
use super::params::{self, Storage};
use super::places::{self, heads};
use crate::arch::lora::Adapter;
use crate::arch::{Arch, Dtype, Layer, Mixer, Mlp, NamedTensor, family};
use crate::gpu::{Gpu, Part, Tensor, mib, pad4};
use crate::kernels::cast;
use crate::kernels::delta::Sizes;
use crate::kernels::half::Half;
use crate::kernels::rms_norm::Gain;
use crate::kernels::router;
use crate::kernels::weight::{Block, Weight};
use crate::source::ModelSource;
use crate::{Error, Result};

/// A model on the GPU: its shape and its weights.
pub struct Model {
    /// The shape of the decoder.
    pub(crate) arch: Arch,
    /// The parameters by number (`places.rs`); None where this architecture has no such parameter.
    pub(crate) params: Vec<Option<Weight>>,
    /// The 16-bit copies that products read instead, by number; empty where they read `params`.
    pub(crate) copies: Vec<Option<Weight>>,
    /// cos and sin by position, one table for each of `Arch::ropes`.
    pub(crate) angles: Vec<Table>,
    /// The adapter beside the weights, which are then frozen.
    pub(crate) lora: Option<Lora>,
}

impl Model {
    /// The shape of the decoder, which nobody changes: token ids are checked against it, and shaders rely on that.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    fn with(gpu: &Gpu, arch: &Arch, params: Vec<Option<Weight>>) -> Result<Model> {
        let _part = gpu.book(Part::Weights);
        Ok(Model { arch: arch.clone(), params, copies: Vec::new(), angles: angles::tables(gpu, arch)?, lora: None })
    }

    /// Makes a model with f32 weights from named tensors, which hold every parameter of `arch` once.
    ///
    /// # Errors
    /// A tensor is missing, unknown or wrongly shaped; a value is not finite or too large; the device is out of memory.
    pub fn from_tensors(gpu: &Gpu, arch: &Arch, tensors: Vec<NamedTensor>) -> Result<Model> {
        let _part = gpu.book(Part::Weights);
        Self::with(gpu, arch, params::upload(gpu, arch, tensors)?)
    }

    /// Makes a model of a shape alone, for a device that counts ([`Gpu::counting`]): with the memory that
    /// [`Model::load_as`] would take for a file whose matrices are stored as `dtype`; where that is MXFP4, it is so for
    /// experts alone, and other matrices are in bf16, as such models are published.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn of_shape(gpu: &Gpu, arch: &Arch, dtype: Dtype, storage: Storage) -> Result<Model> {
        let _part = gpu.book(Part::Weights);
        let of = |name: &str| match dtype {
            Dtype::Mxfp4 if family::in_stack(arch, name).is_none() => Ok(Dtype::BF16),
            _ => Ok(dtype),
        };
        Self::with(gpu, arch, params::room(gpu, arch, storage, &of)?)
    }

    /// This model without values, on a device that counts.
    pub(crate) fn like(&self, gpu: &Gpu) -> Result<Model> {
        let _part = gpu.book(Part::Weights);
        let like = |all: &[Option<Weight>]| -> Result<Vec<Option<Weight>>> {
            all.iter().map(|w| w.as_ref().map(|w| w.like(gpu)).transpose()).collect()
        };
        let lora = self.lora.clone();
        let copies = like(&self.copies)?;
        Ok(Model { copies, lora, ..Self::with(gpu, &self.arch, like(&self.params)?)? })
    }

    /// Loads a model from disk for inference: matrices that are stored in blocks or in 16 bits stay so.
    ///
    /// # Errors
    /// As [`Model::from_tensors`].
    pub fn load(gpu: &Gpu, source: &ModelSource) -> Result<Model> {
        Self::load_as(gpu, source, Storage::Own)
    }

    /// Loads a model from disk with its matrices in a type of choice; an adapter stays apart, in f32.
    ///
    /// # Errors
    /// As [`Model::from_tensors`]; or the type cannot hold a value.
    pub fn load_as(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Model> {
        Self::load_base(gpu, source, storage)?.with_adapter(gpu, source.adapter.as_ref())
    }

    /// Loads a model from disk without its adapter.
    pub(super) fn load_base(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Model> {
        if let Some(cap) = gpu.memory().filter(|_| !gpu.counts()) {
            let counted = gpu.counting(None);
            let _model = Self::load_base(&counted, source, storage)?;
            let (weights, others) = (counted.live_bytes(), gpu.live_bytes());
            if weights + others > cap {
                let beside = if others > 0 { format!(" beside {} MiB in use", mib(others)) } else { String::new() };
                return Err(Error::OutOfMemory(format!(
                    "{}: the weights take {} MiB{beside}, and the cap is {}. In fewer bits they take less: \
                     `selfreward plan` says how much",
                    source.path.display(),
                    mib(weights),
                    gpu.cap_told(),
                )));
            }
        }
        let _part = gpu.book(Part::Weights);
        Self::with(gpu, &source.arch, params::load(gpu, source, storage)?)
    }

    /// Another model on the same weights, with `adapter` beside them in the place of this one's.
    pub(crate) fn beside(&self, gpu: &Gpu, adapter: Option<&Adapter>) -> Result<Model> {
        let params = self.params[..places::count(&self.arch)].to_vec();
        let (arch, angles) = (self.arch.clone(), self.angles.clone());
        Model { arch, params, copies: Vec::new(), angles, lora: None }.with_adapter(gpu, adapter)
    }

    /// Puts an adapter beside the model's weights; with None the model stays as it is.
    ///
    /// # Errors
    /// The model has an adapter already, the adapter is another model's, or the device is out of memory.
    pub fn with_adapter(mut self, gpu: &Gpu, adapter: Option<&Adapter>) -> Result<Model> {
        let Some(adapter) = adapter else { return Ok(self) };
        if self.lora.is_some() {
            return Err(Error::Input("the model has an adapter already; merge it first".into()));
        }
        let _part = gpu.book(Part::Weights);
        let (lora, tensors) = Lora::upload(gpu, (&self.arch, &self.params), &adapter.config, &adapter.tensors)?;
        self.params.extend(tensors);
        if !gpu.counts() {
            lora.renew(gpu, (&self.arch, &self.params))?;
            if adapter.is_fresh() {
                lora.begin(gpu, &self.params)?;
                lora.renew(gpu, (&self.arch, &self.params))?;
            }
        }
        self.lora = Some(lora);
        Ok(self)
    }

    /// Whether an adapter lies beside the weights.
    pub fn has_adapter(&self) -> bool {
        self.lora.is_some()
    }

    /// The adapter's settings and tensors, if there is one.
    ///
    /// # Errors
    /// Errors of the GPU.
    pub fn adapter(&self, gpu: &Gpu) -> Result<Option<Adapter>> {
        let Some(lora) = &self.lora else { return Ok(None) };
        let tensors = lora.download(gpu, |p| self.weight(p))?;
        Ok(Some(Adapter { config: lora.config.clone(), tensors }))
    }

    /// All parameters, dequantised to f32, in the family's order, with the adapter, if there is one, merged into them.
    ///
    /// # Errors
    /// Errors of the GPU.
    pub fn tensors(&self, gpu: &Gpu) -> Result<Vec<NamedTensor>> {
        let mut tensors = params::download(gpu, &self.arch, |p| self.params[p].as_ref())?;
        if let Some(adapter) = self.adapter(gpu)? {
            adapter.untie(&mut tensors);
            adapter.merge(&mut tensors)?;
        }
        Ok(tensors)
    }

    /// Rounds the model's matrices to bf16, to the nearest; those in 16 bits stay as they are. Vectors are in f32.
    ///
    /// # Errors
    /// Matrices are quantised, the model has an adapter, or the device is out of memory.
    pub fn rounded(mut self, gpu: &Gpu) -> Result<Model> {
        let _part = gpu.book(Part::Weights);
        if self.lora.is_some() {
            return Err(Error::Input("an adapter is trained in f32, whatever its model's weights are in".into()));
        }
        self.params = self.params.into_iter().map(|w| w.map(|w| rounded(gpu, w)).transpose()).collect::<Result<_>>()?;
        Ok(self)
    }

    /// The type in which the matrices can be written without loss: BF16 if all of them are in it, else F32.
    pub fn dtype(&self) -> Dtype {
        let bf16 = |w: &Weight| w.blocks().all(|(_, b)| matches!(b, Block::Half { half: Half::Bf16, .. }));
        let mut matrices = self.params.iter().flatten().filter(|w| params::is_matrix(w));
        if self.lora.is_none() && matrices.all(bf16) { Dtype::BF16 } else { Dtype::F32 }
    }

    /// The parameter of a number, which this architecture has.
    pub(crate) fn weight(&self, param: usize) -> Result<&Weight> {
        self.params[param].as_ref().ok_or_else(|| Error::Bug(format!("the model has no parameter number {param}")))
    }

    /// What products read of a parameter: its 16-bit copy, if there is one.
    pub(crate) fn operand(&self, param: usize) -> Result<&Weight> {
        match self.copies.get(param) {
            Some(Some(copy)) => Ok(copy),
            _ => self.weight(param),
        }
    }

    /// The adapters on a matrix by which is multiplied.
    pub(super) fn adapters(&self, param: usize) -> Option<&Group> {
        self.lora.as_ref().and_then(|lora| lora.on(param, false))
    }

    /// The adapter on a matrix in which is looked up.
    pub(super) fn embedding_adapter(&self, param: usize) -> Option<&Group> {
        self.lora.as_ref().and_then(|lora| lora.on(param, true))
    }

    /// The share of an adapter's input that is dropped in training.
    pub(super) fn lora_dropout(&self) -> f32 {
        self.lora.as_ref().map_or(0.0, |lora| lora.config.dropout)
    }

    /// A vector parameter, which is in f32.
    pub(crate) fn dense(&self, param: usize) -> Result<&Tensor> {
        self.weight(param)?.dense()
    }

    /// The gain of a norm.
    pub(crate) fn gain(&self, param: usize) -> Result<Gain<'_>> {
        Ok(Gain { weight: self.dense(param)?, plus_one: self.arch.norm_plus_one })
    }

    /// The most rows that one pass may have, so that the widest activation fits a binding.
    pub(crate) fn most_rows(&self, gpu: &Gpu) -> usize {
        let widest = |layer: &Layer| {
            let mlp = match &layer.mlp {
                Mlp::Gated(mlp) => 2 * pad4(mlp.width),
                Mlp::Experts(mlp) => mlp.chosen * (2 * pad4(mlp.width)).max(pad4(self.arch.hidden_size)),
            };
            let mixer = match &layer.mixer {
                Mixer::Attention(attention) => places::gates(attention) + heads(attention).width(),
                Mixer::ShortConv(_) => 3 * pad4(self.arch.hidden_size),
                Mixer::DeltaNet(net) => Sizes::of(net).widest(),
            };
            mlp.max(mixer)
        };
        // Experts leave places without a row, which take memory too.
        let empty = |layer: &Layer| {
            layer
                .mlp
                .experts()
                .map_or(0, |mlp| mlp.count * router::BLOCK * (2 * pad4(mlp.width)).max(self.arch.hidden_size))
        };
        let empty = self.arch.layers.iter().map(empty).fold(0, usize::max);
        let widest = self.arch.layers.iter().map(widest).fold(self.arch.hidden_size, usize::max);
        let words = (gpu.max_binding_bytes() / 4).saturating_sub(empty as u64);
        (words / widest as u64).max(1) as usize
    }

    /// Refuses token ids that the model does not know and paths longer than its context.
    pub(crate) fn check_tokens(&self, what: &str, tokens: &[u32]) -> Result<()> {
        let (v, most) = (self.arch.vocab_size, self.arch.context());
        if let Some(id) = tokens.iter().find(|t| **t as usize >= v) {
            return Err(Error::Input(format!("{what}: token id {id} is outside the vocabulary of {v}")));
        }
        if tokens.len() > most {
            return Err(Error::Input(format!("{what}: {} tokens, the model's context is {most}", tokens.len())));
        }
        Ok(())
    }
}

/// A matrix in bf16; a vector, or what is in 16 bits, as it is.
pub(crate) fn rounded(gpu: &Gpu, weight: Weight) -> Result<Weight> {
    if !params::is_matrix(&weight) || weight.blocks().all(|(_, b)| matches!(b, Block::Half { .. })) {
        return Ok(weight);
    }
    let narrow = weight.empty_half(gpu, Half::Bf16)?;
    let mut rec = gpu.record();
    cast::forward(&mut rec, &weight, &narrow)?;
    // Each by itself, so that its f32 form can go before the next one's.
    rec.submit()?;
    Ok(narrow)
}
