//! Stage 5: trains the next model on the pairs.

use super::validation::{self, Validator};
use crate::config::Method;
use crate::data::records::PairRecord;
use crate::disk::OnDisk;
use crate::gpu::Gpu;
use crate::judge::Judge;
use crate::model::Model;
use crate::recipe::context::{RoundContext, RoundFiles};
use crate::train::checkpoints::Checkpoints;
use crate::train::exchange::Alone;
use crate::train::job::{Data, EarlyStop, Job};
use crate::train::run::train;
use crate::train::{TrainSettings, dpo, sft};
use crate::{Error, Result};
use std::path::Path;

/// Trains the round's next model on its pairs and writes it to the folder `next`; with `[validation]` that is the best
/// of its checkpoints. A finished training is left as it is.
///
/// # Errors
/// There are no pairs; errors of [`train`] and of writing the model.
pub fn run(
    gpu: &Gpu,
    model: Model,
    ctx: &RoundContext,
    judge: &dyn Judge,
    pairs: &[PairRecord],
    files: &RoundFiles,
    next: &Path,
) -> Result<()> {
    if next.is_there() {
        // A run that was killed right after it wrote the model has left its checkpoints behind.
        validation::remove(&files.dir)?;
        return Checkpoints::open(&files.dir)?.remove();
    }
    let d = &ctx.settings.dpo;
    if pairs.is_empty() {
        return Err(Error::Input(format!("round {}: no pairs to train on", ctx.round)));
    }
    let settings = TrainSettings { seed: ctx.seed, ..d.training.clone() };
    let job = Job { settings: &settings, dir: &files.dir, observer: ctx.observer, exchange: &Alone };
    let model = ctx.domain.trainable(gpu, model, ctx.seed)?;
    let mut validator = Validator::open(gpu, ctx, judge, &files.dir)?;
    let early_stop = validator.as_mut().map(|v| v as &mut dyn EarlyStop);
    let model = match d.method {
        Method::Dpo => {
            let pairs: Vec<dpo::Pair> = pairs
                .iter()
                .map(|p| dpo::Pair {
                    weight: p.weight,
                    flip: p.flip,
                    ..dpo::Pair::new(p.prompt_ids.clone(), p.chosen_ids.clone(), p.rejected_ids.clone())
                })
                .collect();
            let data = Data::Pairs { pairs: &pairs, objective: &d.objective, reference: None };
            train(gpu, model, data, &job, early_stop)?
        }
        Method::SftBest => {
            let examples: Vec<sft::Example> =
                pairs.iter().map(|p| sft::Example::new(p.prompt_ids.clone(), p.chosen_ids.clone())).collect();
            train(gpu, model, Data::Examples(&examples), &job, early_stop)?
        }
    };
    match validator {
        Some(validator) => validator.keep(next)?,
        None => ctx.domain.save_model(gpu, next, &model)?,
    }
    Checkpoints::open(&files.dir)?.remove()
}
