//! M1 from M0: supervised training on instruction data and on judgments, with which the paper begins.

use super::domain::Domain;
use crate::config::SftSection;
use crate::data::examples;
use crate::data::examples::Rules;
use crate::disk::OnDisk;
use crate::gpu::Gpu;
use crate::rng::fnv;
use crate::source::ModelSource;
use crate::train::TrainSettings;
use crate::train::checkpoints::Checkpoints;
use crate::train::exchange::Alone;
use crate::train::job::{Data, Job};
use crate::train::run::train;
use crate::train::sft::Example;
use crate::{Observer, Result};
use std::path::Path;

/// Name of the folder in a run folder that holds the steps of this training.
pub(super) const FOLDER: &str = "sft";

/// What is to be learnt, in its mixture.
pub struct Supervision {
    examples: Vec<Example>,
    settings: TrainSettings,
}

impl Supervision {
    /// Reads and mixes the files of `section`; `None` if it names none.
    ///
    /// # Errors
    /// A file cannot be read, holds no record that fits, or has records of an unknown form.
    pub fn read(
        section: &SftSection,
        source: &ModelSource,
        seed: u64,
        observer: &dyn Observer,
    ) -> Result<Option<Self>> {
        if section.files.is_empty() {
            return Ok(None);
        }
        let most = section.max_length.min(source.arch.context());
        let rules = Rules { max_length: most, truncate: section.truncate, last_turn_only: section.last_turn_only };
        let mut all = Vec::with_capacity(section.files.len());
        for path in &section.files {
            let (examples, reading) = examples::examples(path, source, rules)?;
            observer.note(&format!("{reading}"));
            all.push(examples);
        }
        let mut settings = TrainSettings { seed, ..section.training.clone() };
        let examples = mixture(all, &section.mix, &mut settings);
        Ok(Some(Self { examples, settings }))
    }

    /// The records, as often as a pass over the mixture has them.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The settings of the training, with as many passes as are left to make.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// A hash of the records, which differs where they differ.
    pub fn hash(&self) -> u64 {
        self.examples.iter().fold(fnv(b"sft"), |all, e| {
            let context = e.context.iter().flat_map(|part| [u32::MAX, part.start as u32, part.end as u32]);
            let ids = e.prompt.iter().copied().chain([u32::MAX]).chain(e.completion.iter().copied()).chain(context);
            fnv(&[&all.to_le_bytes()[..], &ids.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()].concat())
        })
    }

    /// Trains M0 and writes M1 to the folder `next`; `dir` keeps the steps and, until the end, the checkpoints. A
    /// finished training is left as it is.
    ///
    /// # Errors
    /// Errors of the training and of the files; `Stopped` when the observer asks for it.
    pub fn run(
        &self,
        gpu: &Gpu,
        domain: &dyn Domain,
        [first, next, dir]: [&Path; 3],
        observer: &dyn Observer,
    ) -> Result<()> {
        if !next.is_there() {
            let job = Job { settings: &self.settings, dir, observer, exchange: &Alone };
            let model = domain.trainable(gpu, domain.load_model(gpu, first)?, self.settings.seed)?;
            let model = train(gpu, model, Data::Examples(&self.examples), &job, None)?;
            domain.save_model(gpu, next, &model)?;
        }
        Checkpoints::open(dir)?.remove()
    }
}

/// The records of several files in the ratio `mix`, as many as they have together; every record once where that is
/// empty. The passes over a mixture are laid out one after the other and drawn as one, since each takes other parts of
/// its files; `settings` are told.
pub fn mixture(files: Vec<Vec<Example>>, mix: &[f64], settings: &mut TrainSettings) -> Vec<Example> {
    match mix {
        [] => files.concat(),
        _ => mixed(&files, mix, std::mem::replace(&mut settings.epochs, 1)),
    }
}

/// As many records as `epochs` passes over all lists have, taken from the lists in the ratio `mix`; a list that ends
/// begins again.
fn mixed<T: Clone>(lists: &[Vec<T>], mix: &[f64], epochs: usize) -> Vec<T> {
    let total = (lists.iter().map(Vec::len).sum::<usize>() * epochs) as f64;
    let whole: f64 = mix.iter().sum();
    // Partial sums are rounded, so that the counts add up to the total.
    let until = |parts: &[f64]| (total * parts.iter().sum::<f64>() / whole).round() as usize;
    let counts = (0..lists.len()).map(|i| until(&mix[..=i]) - until(&mix[..i]));
    lists.iter().zip(counts).flat_map(|(list, n)| list.iter().cycle().take(n).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_has_its_ratio_and_as_many_records_as_its_files() {
        let lists = [vec!['a'; 30], ('A'..='J').collect::<Vec<_>>()];
        let count = |all: &[char]| (all.len(), all.iter().filter(|c| c.is_lowercase()).count());
        assert_eq!(count(&mixed(&lists, &[1.0, 1.0], 1)), (40, 20));
        assert_eq!(count(&mixed(&lists, &[3.0, 1.0], 2)), (80, 60));
        assert_eq!(count(&mixed(&lists, &[1.0, 2.0], 1)), (40, 13));
        // The shorter list is used evenly.
        let all = mixed(&lists, &[1.0, 1.0], 1);
        assert!(('A'..='J').all(|c| all.iter().filter(|x| **x == c).count() == 2));
    }
}
