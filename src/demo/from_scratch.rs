//! Makes M1 from random weights by supervised training alone: first the tasks and the judge, then a poor policy.
//!
//! Stage A teaches right answers, stage B a deliberately poor mix of answers. The skill stays latent: M1 can solve the
//! tasks but seldom samples a solution, and the loop then draws it out.

use super::lessons::{eft_example, ift_example, list_example};
use crate::arch::NamedTensor;
use crate::gpu::Gpu;
use crate::model::Model;
use crate::rng::{Stream, record_id};
use crate::train::sft::Example;
use crate::train::{Optimiser, Trainer};
use crate::world::respond::{EFT_WEIGHTS, IFT_WEIGHTS, response};
use crate::world::{Task, arch, init, marks};
use crate::{Error, Observer, Result};

/// One stage of the training from scratch.
#[derive(Clone, Debug, PartialEq)]
pub struct ScratchStage {
    /// Number of optimiser steps.
    pub steps: usize,
    /// Length of the learning-rate schedule in steps; the training may stop before its end.
    pub schedule: usize,
    /// Largest learning rate.
    pub lr: f32,
    /// Number of steps of linear warm-up.
    pub warmup: usize,
    /// Number of question-and-answer examples in a step.
    pub ift: usize,
    /// Number of judge examples in a step.
    pub eft: usize,
    /// Number of lists of three new tasks in a step.
    pub lists: usize,
}

impl ScratchStage {
    /// The learning rate of step `it` (from 0): warm-up, then constant, then linear down to 5 % over the schedule's
    /// second half.
    pub fn rate(&self, it: usize) -> f32 {
        let warm = (it + 1) as f32 / self.warmup.max(1) as f32;
        let left = self.schedule.saturating_sub(it) as f32 / (0.5 * self.schedule.max(1) as f32);
        self.lr * warm.min(0.05 + 0.95 * left).min(1.0)
    }
}

/// Settings of [`from_scratch`].
#[derive(Clone, Debug, PartialEq)]
pub struct FromScratch {
    /// Seed of the weights and of the data.
    pub seed: u64,
    /// The first stage: right answers, judge and lists.
    pub base: ScratchStage,
    /// The second stage: poor answers, judge and lists, with a fresh optimiser.
    pub policy: ScratchStage,
    /// Weight of the lists in the loss.
    pub list_weight: f32,
}

impl Default for FromScratch {
    fn default() -> Self {
        Self {
            seed: 0,
            base: ScratchStage { steps: 480, schedule: 1800, lr: 3e-3, warmup: 100, ift: 64, eft: 64, lists: 6 },
            policy: ScratchStage { steps: 320, schedule: 320, lr: 1.5e-3, warmup: 20, ift: 48, eft: 80, lists: 6 },
            list_weight: 0.2,
        }
    }
}

/// The examples of one step. They are fresh in every step, and a pure function of (seed, name, step).
pub struct Lessons {
    /// Questions with their answers.
    pub ift: Vec<Example>,
    /// Judge prompts with marks and score.
    pub eft: Vec<Example>,
    /// Headers with three tasks.
    pub lists: Vec<Example>,
}

impl Lessons {
    /// Draws the batch of `step`. `name` tells the data of the stages apart; with `gold` the answers are right ones.
    ///
    /// # Errors
    /// A text is not ASCII, which no text of the world is.
    pub fn draw(seed: u64, name: &str, step: u32, stage: &ScratchStage, gold: bool) -> Result<Self> {
        let mut rng = Stream::new(seed, record_id(0, name, &[], step));
        let mut batch = Self { ift: Vec::new(), eft: Vec::new(), lists: Vec::new() };
        for _ in 0..stage.ift {
            let task = Task::draw_for_training(&mut rng);
            let y = if gold { task.gold.clone() } else { response(&task, &IFT_WEIGHTS, &mut rng) };
            batch.ift.push(ift_example(&task.prompt, &y)?);
        }
        for _ in 0..stage.eft {
            let task = Task::draw_for_training(&mut rng);
            let y = response(&task, &EFT_WEIGHTS, &mut rng);
            batch.eft.push(eft_example(&task.prompt, &y, marks(&task.gold, &y))?);
        }
        for _ in 0..stage.lists {
            let tasks: Vec<Task> = (0..3).map(|_| Task::draw_for_training(&mut rng)).collect();
            batch.lists.push(list_example(&tasks)?);
        }
        Ok(batch)
    }
}

/// Keeps the states of [`from_scratch`] between its steps, those of each stage by its name.
pub trait States {
    /// Sets the trainer to the stage's last state, if there is one.
    ///
    /// # Errors
    /// The state cannot be read.
    fn load(&self, stage: &str, trainer: &mut Trainer) -> Result<()>;

    /// Keeps the stage's state in place of the earlier one.
    ///
    /// # Errors
    /// The state cannot be written.
    fn save(&self, stage: &str, trainer: &Trainer) -> Result<()>;
}

/// How many steps lie between two states.
const SAVE_EVERY: u64 = 10;

/// Trains M1 from random weights, or from the last state if there is one. Returns M1's parameters.
///
/// # Errors
/// GPU errors; a loss that is not finite; errors of the states; `Stopped` when the observer asks for it (the last step
/// is kept).
pub fn from_scratch(
    gpu: &Gpu,
    settings: &FromScratch,
    states: &dyn States,
    observer: &dyn Observer,
) -> Result<Vec<NamedTensor>> {
    let mut model = Model::from_tensors(gpu, &arch(), init(settings.seed))?;
    for (name, stage, gold) in [("base", &settings.base, true), ("policy", &settings.policy, false)] {
        let optimiser = Optimiser {
            betas: [0.9, 0.98],
            eps: 1e-8,
            weight_decay: 0.01,
            decay_vectors: true,
            max_grad_norm: 1.0,
            ..Optimiser::default()
        };
        let mut trainer = Trainer::new(gpu, model, optimiser)?;
        states.load(name, &mut trainer)?;
        observer.begin(&format!("train from scratch: {name}"), Some(stage.steps as u64), "steps");
        observer.advance(trainer.step());
        for it in trainer.step() as usize..stage.steps {
            if observer.stop_requested() {
                states.save(name, &trainer)?;
                return Err(Error::Stopped);
            }
            let batch = Lessons::draw(settings.seed, name, it as u32, stage, gold)?;
            let groups: [(&[Example], f32); 3] =
                [(&batch.ift, 1.0), (&batch.eft, 1.0), (&batch.lists, settings.list_weight)];
            let used: Vec<(&[Example], f32)> =
                groups.into_iter().filter(|(examples, _)| !examples.is_empty()).collect();
            let done = trainer.sft_step(&used, stage.rate(it))?;
            observer.advance(1);
            if (it + 1) % 50 == 0 || it + 1 == stage.steps {
                let losses: Vec<String> = done.group_loss.iter().map(|l| format!("{l:.3}")).collect();
                observer.note(&format!("{name} step {}: loss {:.3} ({})", it + 1, done.loss, losses.join(", ")));
            }
            if trainer.step().is_multiple_of(SAVE_EVERY) || it + 1 == stage.steps {
                states.save(name, &trainer)?;
            }
        }
        observer.end();
        model = trainer.model;
    }
    model.tensors(gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_stays_and_falls() {
        let stage = ScratchStage { steps: 100, schedule: 100, lr: 1.0, warmup: 10, ift: 1, eft: 1, lists: 1 };
        assert!((stage.rate(0) - 0.1).abs() < 1e-6);
        assert_eq!(stage.rate(30), 1.0);
        assert!((stage.rate(75) - 0.525).abs() < 1e-6);
        assert!((stage.rate(99) - 0.069).abs() < 1e-6);
    }

    #[test]
    fn batches_are_fresh_fixed_by_seed_and_never_held_out() {
        let stage = FromScratch::default().policy;
        let a = Lessons::draw(0, "policy", 3, &stage, false).unwrap();
        let b = Lessons::draw(0, "policy", 3, &stage, false).unwrap();
        assert_eq!((&a.ift, &a.eft, &a.lists), (&b.ift, &b.eft, &b.lists));
        assert_eq!((a.ift.len(), a.eft.len(), a.lists.len()), (48, 80, 6));
        assert_ne!(a.ift, Lessons::draw(0, "policy", 4, &stage, false).unwrap().ift);
        assert_ne!(a.ift, Lessons::draw(1, "policy", 3, &stage, false).unwrap().ift);
        let gold = Lessons::draw(0, "base", 0, &FromScratch::default().base, true).unwrap();
        for e in &gold.ift {
            let (q, y) = (crate::world::text::decode(&e.prompt), crate::world::text::decode(&e.completion));
            let x = q.strip_prefix("\u{1}Q: ").and_then(|q| q.strip_suffix("\nA: ")).unwrap();
            let task = Task::parse(x).unwrap();
            assert_eq!(format!("{}\u{2}", task.gold), y);
            assert!(!crate::world::tasks::is_held_out(x));
        }
        let longest = a.eft.iter().map(|e| e.prompt.len() + e.completion.len()).max().unwrap();
        assert!(longest <= 80, "{longest}");
    }
}
