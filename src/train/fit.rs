//! What a training would take, and how its steps are cut so that it fits. The training's own code runs for this on a
//! device that only counts ([`Gpu::counting`]).

use super::MOST_ROWS;
use super::dpo;
use super::dpo::{DpoConfig, Pair, PairLogps};
use super::job::Data;
use super::settings::TrainSettings;
use super::sft;
use super::sft::{Example, SftConfig};
use crate::gpu;
use crate::gpu::{Gpu, Peak};
use crate::model::Model;
use crate::rng::Stream;
use crate::{Error, Result, Silent};

/// How the records of a step are cut into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cut {
    /// Most rows of a micro-batch, as the trainer takes them.
    pub micro_rows: usize,
    /// Whether blocks keep only their inputs and run forward again in the backward pass.
    pub checkpoint: bool,
}

/// A training that is to fit into a memory.
pub struct Fit<'a> {
    /// GPU on which the training will run.
    pub gpu: &'a Gpu,
    /// Loads the model, in the types in which it will be trained, onto any device.
    pub model: &'a dyn Fn(&Gpu) -> Result<Model>,
    /// The records of the training; the longest ones stand for all.
    pub data: &'a Data<'a>,
    /// The settings of the training.
    pub settings: &'a TrainSettings,
    /// Bytes that others will hold at the same time.
    pub others: u64,
}

/// A cut, and what the training takes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// How the records of a step are cut.
    pub cut: Cut,
    /// The most that the training's own buffers take at once.
    pub peak: Peak,
    /// Whether the training fits into the memory given.
    pub fits: bool,
}

/// If both would fit, micro-batches with fewer rows than this keep only their blocks' inputs and have more rows
/// instead: products of few rows lose more than it costs to run the blocks forward again.
const FEW: usize = 512;

/// How many micro-batches of a step are counted; further ones would be like these.
const MICRO_BATCHES: usize = 3;

/// The `count` longest records, the longest one first, each with the number of targets that is counted for it. The
/// longest records need not be those with the most targets, so the first one gets the most of all, the second one the
/// second most, and so on: no step has more rows or more targets than are counted.
fn longest<T>(
    records: &[T],
    rows: impl Fn(&T) -> usize,
    targets: impl Fn(&T) -> usize,
    count: usize,
) -> Vec<(&T, usize)> {
    let mut all: Vec<&T> = records.iter().collect();
    all.sort_by_key(|record| std::cmp::Reverse(rows(record)));
    let mut most: Vec<usize> = records.iter().map(targets).collect();
    most.sort_unstable_by_key(|targets| std::cmp::Reverse(*targets));
    all.into_iter().zip(most).take(count).collect()
}

/// The answers to be learnt that stand for all.
fn examples(examples: &[Example], count: usize) -> Vec<(&Example, usize)> {
    longest(examples, Example::rows, Example::targets, count)
}

/// The preferences that stand for all.
fn pairs(pairs: &[Pair], count: usize) -> Vec<(&Pair, usize)> {
    longest(pairs, Pair::rows, |pair| pair.chosen.len() + pair.rejected.len(), count)
}

impl Fit<'_> {
    /// The rows of each record, the longest first, for as many records as a step may have.
    fn rows(&self) -> Vec<usize> {
        let count = self.settings.batch;
        match self.data {
            Data::Pairs { pairs: all, .. } => pairs(all, count).into_iter().map(|(pair, _)| pair.rows()).collect(),
            Data::Examples(all) => examples(all, count).into_iter().map(|(example, _)| example.rows()).collect(),
        }
    }

    /// The most memory that the training takes with a cut.
    ///
    /// # Errors
    /// Settings or records with which nothing can be trained; a buffer that the device cannot bind.
    pub fn peak(&self, cut: Cut) -> Result<Peak> {
        self.count(cut).map(|(gpu, _)| gpu.peak())
    }

    /// The cut that a trainer takes if it is not told one.
    ///
    /// # Errors
    /// As [`Fit::peak`].
    pub fn untold(&self) -> Result<Cut> {
        let gpu = self.gpu.counting(None);
        let trainer = self.settings.trainer(&gpu, (self.model)(&gpu)?)?;
        let (micro_rows, checkpoint) = trainer.untold(&self.rows());
        Ok(Cut { micro_rows, checkpoint })
    }

    /// Runs two steps of a training on the longest records, as if no two had anything in common, on a device that
    /// counts. Also returns how many records the two steps have.
    pub(crate) fn count(&self, cut: Cut) -> Result<(Gpu, usize)> {
        let gpu = self.gpu.counting(None);
        let mut trainer = self.settings.trainer(&gpu, (self.model)(&gpu)?)?;
        (trainer.micro_rows, trainer.checkpoint) = (Some(cut.micro_rows), Some(cut.checkpoint));
        let (mut batch, mut rows) = (0, 0);
        for record in self.rows() {
            if rows <= MICRO_BATCHES * cut.micro_rows {
                (batch, rows) = (batch + 1, rows + record);
            }
        }
        let vocabulary = trainer.model.arch.vocab_size;
        let mut stream = Stream::new(0, 0xF17);
        let mut ids = |count: usize| (0..count).map(|_| stream.below(vocabulary) as u32).collect::<Vec<u32>>();
        match self.data {
            Data::Pairs { pairs: all, objective, reference } => {
                let pair = |(like, targets): (&Pair, usize)| {
                    let short = like.rejected.len().min(targets.saturating_sub(1));
                    let (prompt, chosen) = (ids(like.rows() - targets), ids(targets - short));
                    let same = chosen.len() == short && like.rejected == like.chosen;
                    let rejected = if same { chosen.clone() } else { ids(short) };
                    Pair { prompt, chosen, rejected, ..like.clone() }
                };
                let pairs: Vec<Pair> = pairs(all, batch).into_iter().map(pair).collect();
                let reference = reference.as_ref().map(|_| vec![PairLogps::default(); batch]);
                let config = DpoConfig { epochs: 2, batch, ..self.settings.dpo(objective) };
                dpo::Training::new(&pairs, &config).reference(reference.as_deref()).run(&mut trainer)?;
            }
            Data::Examples(all) => {
                let example = |(like, targets): (&Example, usize)| {
                    let targets = targets.max(1).min(like.rows());
                    Example::new(ids(like.rows() - targets), ids(targets))
                };
                let examples: Vec<Example> = examples(all, batch).into_iter().map(example).collect();
                let config = SftConfig { epochs: 2, batch, ..self.settings.sft() };
                sft::run(&mut trainer, &examples, &config, &Silent, &mut |_, _| Ok(()))?;
            }
        }
        drop(trainer);
        Ok((gpu, 2 * batch))
    }

    /// The fastest cut that fits into `memory` bytes: as many records in a micro-batch as can be, with all their
    /// activations if these are not too few, otherwise with only their blocks' inputs. If none fits, the cut that takes
    /// the least.
    ///
    /// # Errors
    /// As [`Fit::peak`].
    pub fn choose(&self, memory: u64) -> Result<Choice> {
        let rows = self.rows();
        let (longest, records) = (rows.first().copied().unwrap_or(0).max(1), rows.len());
        // If the user gave the rows, all that is left to choose is what is kept of them.
        let most = match self.settings.micro_rows {
            Some(_) => 1,
            None => (self.most_rows()? / longest).clamp(1, records.max(1)),
        };
        let at = |records: usize, checkpoint: bool| -> Result<Choice> {
            let cut = Cut { micro_rows: self.settings.micro_rows.unwrap_or(records * longest), checkpoint };
            let peak = self.peak(cut)?;
            let fits = gpu::with_margin(peak.bytes) + self.others <= memory;
            Ok(Choice { cut, peak, fits })
        };
        for (checkpoint, fewest) in [(false, FEW.div_ceil(longest).min(most)), (true, 1)] {
            let fitting = |records| Ok(Some(at(records, checkpoint)?).filter(|choice| choice.fits));
            if let Some((_, choice)) = gpu::most(fewest, most, fitting)? {
                return Ok(choice);
            }
        }
        at(1, true)
    }

    /// The cut for a device of `memory` bytes; if that is not known, the one that a trainer takes by itself.
    ///
    /// # Errors
    /// As [`Fit::peak`].
    pub fn choose_or_untold(&self, memory: Option<u64>) -> Result<Choice> {
        match memory {
            Some(memory) => self.choose(memory),
            None => {
                let cut = self.untold()?;
                Ok(Choice { cut, peak: self.peak(cut)?, fits: true })
            }
        }
    }

    fn most_rows(&self) -> Result<usize> {
        let gpu = self.gpu.counting(None);
        Ok(MOST_ROWS.min((self.model)(&gpu)?.most_rows(&gpu)))
    }

    /// The cut for a loaded model on a device whose memory is capped; `None` if it is not capped, where a trainer need
    /// not be told.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when none fits, with what the least takes; as [`Fit::peak`].
    pub(crate) fn settle(gpu: &Gpu, model: &Model, data: &Data, settings: &TrainSettings) -> Result<Option<Cut>> {
        let Some(memory) = gpu.memory() else { return Ok(None) };
        let counted = gpu.counting(None);
        model.like(&counted)?;
        let others = gpu.live_bytes().saturating_sub(counted.peak_bytes());
        let Choice { cut, peak, fits } =
            Fit { gpu, model: &|gpu| model.like(gpu), data, settings, others }.choose(memory)?;
        if fits {
            return Ok(Some(cut));
        }
        Err(Error::OutOfMemory(format!(
            "this training takes {} MiB at least ({peak}), {cut}; the cap is {}. Shorter records, an adapter \
             (--lora-rank) or a base in fewer bits take less: `selfreward plan` says what would fit",
            (gpu::with_margin(peak.bytes) + others).div_ceil(1 << 20),
            gpu.cap_told(),
        )))
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = if self.checkpoint { "each block's input alone is kept" } else { "all activations are kept" };
        write!(f, "{} rows in a micro-batch, of which {kept}", self.micro_rows)
    }
}
