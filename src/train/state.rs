//! The state of a training on disk: weights, moments, step number; going on from it gives the same bits.

use super::Trainer;
use crate::kernels::weight::Weight;
use crate::model::{NamedTensor, lora, params};
use crate::weights::{Dtype, Weights, write_file, write_safetensors};
use crate::{Error, Result, durable};
use std::path::Path;

const FILES: [&str; 3] = ["weights.safetensors", "moment1.safetensors", "moment2.safetensors"];
const STEP: &str = "trainer.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Step {
    step: u64,
}

impl Trainer<'_> {
    /// Writes weights (of an adapter's training the adapter alone), moments and the step number into `dir` so that
    /// [`Trainer::load_state`] goes on bit for bit. The step number is written last: a folder without it is unfinished.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    pub fn save_state(&self, dir: &Path) -> Result<()> {
        durable::create_folder(dir)?;
        let weights = match self.model.adapter(self.gpu)? {
            Some(adapter) => adapter.tensors,
            None => self.model.tensors(self.gpu)?,
        };
        let all = [weights, self.named(&self.moment1)?, self.named(&self.moment2)?];
        for (name, tensors) in FILES.iter().zip(&all) {
            write_safetensors(&dir.join(name), tensors, Dtype::F32)?;
        }
        let text =
            serde_json::to_vec(&Step { step: self.step }).map_err(|e| Error::file(dir.join(STEP), e.to_string()))?;
        write_file(&dir.join(STEP), &text)
    }

    /// Reads what [`Trainer::save_state`] wrote.
    ///
    /// # Errors
    /// A missing or broken file, tensors that do not fit the model.
    pub fn load_state(&mut self, dir: &Path) -> Result<()> {
        let file = dir.join(STEP);
        let text = std::fs::read(&file).map_err(Error::io(&file))?;
        let step: Step = serde_json::from_slice(&text).map_err(|e| Error::file(&file, e.to_string()))?;
        let read = |name: &str| -> Result<Vec<Option<Weight>>> {
            let weights = Weights::open_safetensors(&dir.join(name))?;
            let tensors = weights
                .names()
                .iter()
                .map(|n| {
                    let view = weights.get(n)?;
                    Ok(NamedTensor { name: n.clone(), shape: view.shape.to_vec(), data: view.to_f32() })
                })
                .collect::<Result<Vec<_>>>()?;
            match &self.model.lora {
                Some(lora) => Ok(lora::Lora::upload(self.gpu, &self.model.arch, &lora.config, &tensors)?.1),
                None => params::upload(self.gpu, &self.model.arch, tensors),
            }
        };
        let [weights, first, second] = [read(FILES[0])?, read(FILES[1])?, read(FILES[2])?];
        // The base of an adapter is frozen and stays where it is.
        let first_trained = self.model.params.len() - weights.len();
        let frozen = || vec![None; first_trained];
        self.moment1 = [frozen(), first].concat();
        self.moment2 = [frozen(), second].concat();
        self.model.params.truncate(first_trained);
        self.model.params.extend(weights);
        self.step = step.step;
        self.copy()
    }
}
