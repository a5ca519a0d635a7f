//! What a training is told: its records, its numbers, its surroundings, and who may end it early.

use super::dpo::DpoConfig;
use super::exchange::Exchange;
use super::objective::Objective;
use super::settings::{Optimiser, TrainSettings, WeightType};
use super::sft::SftConfig;
use super::{Dropout, Trainer, dpo, sft};
use crate::gpu::Gpu;
use crate::model::Model;
use crate::rng::Fnv;
use crate::{Observer, Result};
use std::path::Path;

/// The records on which a model is trained.
pub enum Data<'a> {
    /// Preferences between two answers.
    Pairs {
        /// The pairs, one record each.
        pairs: &'a [dpo::Pair],
        /// The objective that is minimised.
        objective: &'a Objective,
        /// Log-probs of the pairs under another reference than the model itself, one for each pair.
        reference: Option<Vec<dpo::PairLogps>>,
    },
    /// Answers to be learnt.
    Examples(&'a [sft::Example]),
}

impl Data<'_> {
    /// How many records there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs { pairs, .. } => pairs.len(),
            Self::Examples(examples) => examples.len(),
        }
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash that differs for other records, whatever file they come from.
    pub fn hash(&self) -> u64 {
        let mut hash = Fnv::new();
        self.write(&mut hash);
        hash.0
    }

    /// A hash that differs for other records or settings.
    pub(super) fn digest(&self, settings: &TrainSettings) -> u32 {
        let mut hash = Fnv::new();
        hash.write(format!("{settings:?}").as_bytes());
        self.write(&mut hash);
        hash.0 as u32
    }

    fn write(&self, hash: &mut Fnv) {
        let ids = |hash: &mut Fnv, all: &[u32]| {
            hash.write(&(all.len() as u64).to_le_bytes());
            all.iter().for_each(|id| hash.write(&id.to_le_bytes()));
        };
        match self {
            Self::Pairs { pairs, objective, reference } => {
                hash.write(format!(" {objective:?} {}", reference.is_some()).as_bytes());
                for dpo::Pair { prompt, chosen, rejected, desirable, weight, flip } in *pairs {
                    [prompt, chosen, rejected].into_iter().for_each(|part| ids(hash, part));
                    hash.write(&[u8::from(*desirable)]);
                    hash.write(&weight.to_le_bytes());
                    hash.write(&flip.to_le_bytes());
                }
            }
            Self::Examples(examples) => {
                for sft::Example { prompt, completion, context } in *examples {
                    [prompt, completion].into_iter().for_each(|part| ids(hash, part));
                    let ends = context.iter().flat_map(|part| [part.start as u32, part.end as u32]);
                    ids(hash, &ends.collect::<Vec<u32>>());
                }
            }
        }
    }
}

/// A training and its surroundings.
pub struct Job<'a> {
    /// The settings of the training.
    pub settings: &'a TrainSettings,
    /// Folder of `steps.jsonl` and, until the end, of `train/` with the checkpoints.
    pub dir: &'a Path,
    /// Observer that is told what goes on.
    pub observer: &'a dyn Observer,
    /// The processes that train together. The first one alone writes into `dir`, which all of them must see.
    pub exchange: &'a dyn Exchange,
}

impl TrainSettings {
    /// A trainer of `model` with the settings of this job.
    pub(crate) fn trainer<'t>(&self, gpu: &'t Gpu, model: Model) -> Result<Trainer<'t>> {
        let model = match self.weights {
            WeightType::F32 => model,
            WeightType::Bf16 => model.rounded(gpu)?,
        };
        let optimiser = Optimiser { seed: self.seed, ..self.optimiser.clone() };
        let mut trainer = Trainer::new(gpu, model, optimiser)?;
        trainer.micro_rows = self.micro_rows;
        if let Some(half) = self.half {
            trainer.read_half(half)?;
        }
        trainer.set_router_aux_loss_coef(self.router_aux_loss_coef)?;
        trainer.dropout = Dropout { rate: self.dropout, seed: self.seed };
        Ok(trainer)
    }

    /// The settings of a training on pairs.
    pub fn dpo(&self, objective: &Objective) -> DpoConfig {
        let (objective, lr) = (objective.clone(), self.lr.clone());
        DpoConfig { objective, epochs: self.epochs, batch: self.batch, lr, seed: self.seed }
    }

    /// The settings of a training on answers.
    pub fn sft(&self) -> SftConfig {
        SftConfig { epochs: self.epochs, batch: self.batch, lr: self.lr.clone(), seed: self.seed }
    }
}

/// Looks at a model while it is trained, and may end the training early.
pub trait EarlyStop {
    /// Takes up what was seen in the first `step` steps. What was seen in later steps, which were lost, is forgotten.
    ///
    /// # Errors
    /// What was kept cannot be read or written.
    fn resume(&mut self, step: u64) -> Result<()>;

    /// Whether it wants to look after step `step` of `steps`.
    fn due(&self, step: u64, steps: u64) -> bool;

    /// Looks at the model as it is after a step.
    ///
    /// # Errors
    /// Errors of what it does to look.
    fn run(&mut self, trainer: &Trainer) -> Result<()>;

    /// Removes what a resume from the newest checkpoint no longer needs.
    ///
    /// # Errors
    /// The files cannot be removed.
    fn tidy(&self) -> Result<()>;

    /// Whether the training is to end.
    fn enough(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks compare it, and must not take other records for the same.
    #[test]
    fn other_records_or_settings_have_another_digest() {
        let (objective, settings) = (Objective::default(), TrainSettings::default());
        let of = |pair: &dpo::Pair, settings: &TrainSettings| {
            let pairs = [pair.clone()];
            Data::Pairs { pairs: &pairs, objective: &objective, reference: None }.digest(settings)
        };
        let of_example = |example: sft::Example| Data::Examples(&[example]).digest(&settings);
        let example = sft::Example::new(vec![1, 2], vec![3, 4]);
        let pair = dpo::Pair::new(vec![1, 2], vec![3], vec![4, 5]);
        let digests = [
            of(&pair, &settings),
            of(&pair, &settings.clone().batch(3)),
            of(&dpo::Pair::new(vec![1], vec![2, 3], vec![4, 5]), &settings),
            of(&dpo::Pair { desirable: false, ..pair.clone() }, &settings),
            of(&dpo::Pair { weight: 0.5, ..pair.clone() }, &settings),
            of(&dpo::Pair { flip: 0.5, ..pair.clone() }, &settings),
            of_example(example.clone()),
            of_example(sft::Example::new(vec![1], vec![2, 3, 4])),
            of_example(sft::Example { context: vec![0..1, 1..1], ..example }),
        ];
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest), "number {i}");
        }
        assert_eq!(of(&pair, &settings), digests[0]);
    }
}
