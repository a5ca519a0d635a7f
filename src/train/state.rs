//! The state of a training on disk: weights, moments and the step number. Continuing from it gives the same bits.

use super::moments::Moment;
use super::{OptimiserKind, Trainer};
use crate::disk;
use crate::gpu::{Gpu, Part};

use crate::arch::Dtype;
use crate::arch::NamedTensor;
use crate::durable::write_file;
use crate::kernels::weight::Weight;
use crate::model::{Model, lora, params, rounded};
use crate::weights::{Weights, write_matrices, write_safetensors};
use crate::{Error, Result, durable};
use std::path::Path;

const FILES: [&str; 3] = ["weights.safetensors", "moment1.safetensors", "moment2.safetensors"];
const STEP: &str = "trainer.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct StepFile {
    step: u64,
}

impl Trainer<'_> {
    /// Writes the weights (of an adapter's training only the adapter), the moments and the step number to `dir`, so
    /// that [`Trainer::load_state`] continues bit for bit. The step number is written last: a folder without it is
    /// unfinished.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    pub fn save_state(&self, dir: &Path) -> Result<()> {
        durable::create_folder(dir)?;
        let weights = match self.model.adapter(self.gpu)? {
            Some(adapter) => adapter.tensors,
            None => self.model.tensors(self.gpu)?,
        };
        write_matrices(&dir.join(FILES[0]), &weights, self.model.dtype())?;
        for (name, moment) in FILES[1..].iter().zip(&self.moments) {
            let tensors = match self.optimiser.kind {
                OptimiserKind::AdamW => {
                    let weight = |m: &Option<Moment>| m.as_ref().map(|m| m.weight().cloned()).transpose();
                    self.named(&moment.iter().map(weight).collect::<Result<Vec<_>>>()?)?
                }
                OptimiserKind::AdamW8bit => self.words(moment)?,
            };
            write_safetensors(&dir.join(name), &tensors, Dtype::F32)?;
        }
        let text = serde_json::to_vec(&StepFile { step: self.step })
            .map_err(|e| Error::file(dir.join(STEP), e.to_string()))?;
        write_file(&dir.join(STEP), &text)
    }

    /// Reads what [`Trainer::save_state`] wrote.
    ///
    /// # Errors
    /// A file is missing or broken, or its tensors do not fit the model; the trainer then has no weights.
    pub fn load_state(&mut self, dir: &Path) -> Result<()> {
        let file = dir.join(STEP);
        let text = disk::read(&file).map_err(Error::io(&file))?;
        let step: StepFile = serde_json::from_slice(&text).map_err(|e| Error::file(&file, e.to_string()))?;
        let read = |model: &Model, name: &str| -> Result<Vec<Option<Weight>>> {
            let tensors = tensors(&dir.join(name))?;
            match &model.lora {
                Some(lora) => Ok(lora::Lora::upload(self.gpu, (&model.arch, &model.params), &lora.config, &tensors)?.1),
                None => params::upload(self.gpu, &model.arch, tensors),
            }
        };
        // What is read replaces what is there, so that continuing takes no more memory than the training itself.
        let bf16 = self.model.dtype() == Dtype::BF16;
        // The base of an adapter is frozen and stays where it is.
        let trained = |p: &usize| self.model.lora.as_ref().is_none_or(|lora| lora.owns(*p));
        let first_trained = (0..self.model.params.len()).find(trained).unwrap_or(self.model.params.len());
        self.model.params[first_trained..].fill(None);
        if self.optimiser.kind == OptimiserKind::AdamW {
            self.moments.iter_mut().flatten().for_each(|moment| *moment = None);
        }
        let booked = self.gpu.book(Part::Weights);
        let mut weights = read(&self.model, FILES[0])?;
        if bf16 {
            weights =
                weights.into_iter().map(|w| w.map(|w| rounded(self.gpu, w)).transpose()).collect::<Result<_>>()?;
        }
        drop(booked);
        let _part = self.gpu.book(Part::Moments);
        for (name, moment) in FILES[1..].iter().zip(&mut self.moments) {
            match self.optimiser.kind {
                OptimiserKind::AdamW => {
                    let read = (first_trained..).zip(read(&self.model, name)?);
                    let moments = read.map(|(p, w)| w.filter(|_| trained(&p)).map(Moment::F32));
                    *moment = (0..first_trained).map(|_| None).chain(moments).collect();
                }
                OptimiserKind::AdamW8bit => overwrite(self.gpu, moment, &dir.join(name))?,
            }
        }
        self.model.params.truncate(first_trained);
        self.model.params.extend(weights);
        self.step = step.step;
        self.renew()
    }

    /// The moments as they lie on the GPU, by parameter number and block. Words of 8-bit codes go through a file of f32
    /// unchanged.
    fn words(&self, moment: &[Option<Moment>]) -> Result<Vec<NamedTensor>> {
        let mut all = Vec::new();
        for (p, moment) in moment.iter().enumerate() {
            let tensors = moment.as_ref().map(Moment::tensors).transpose()?.unwrap_or_default();
            let read = self.gpu.download_all(&tensors)?;
            for (block, (tensor, data)) in tensors.iter().zip(read).enumerate() {
                all.push(NamedTensor { name: format!("{p}.{block}"), shape: tensor.shape().to_vec(), data });
            }
        }
        Ok(all)
    }
}

fn tensors(path: &Path) -> Result<Vec<NamedTensor>> {
    let weights = Weights::open_safetensors(path)?;
    let one = |name: &String| {
        let view = weights.get(name)?;
        Ok(NamedTensor { name: name.clone(), shape: view.shape.to_vec(), data: view.to_f32() })
    };
    weights.names().iter().map(one).collect()
}

/// Fills moments with the words of a file.
fn overwrite(gpu: &Gpu, moment: &[Option<Moment>], path: &Path) -> Result<()> {
    let read = tensors(path)?;
    for (p, moment) in moment.iter().enumerate() {
        for (block, tensor) in moment.as_ref().map(Moment::tensors).transpose()?.into_iter().flatten().enumerate() {
            let (name, shape) = (format!("{p}.{block}"), tensor.shape());
            let found = read.iter().find(|t| t.name == name && t.shape == shape);
            let found = found.ok_or_else(|| Error::file(path, format!("has no tensor {name} of shape {shape:?}")))?;
            gpu.overwrite(tensor, &found.data)?;
        }
    }
    Ok(())
}
