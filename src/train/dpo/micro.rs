//! One micro-batch of pairs on the GPU: its forest, what forward gives of it, and the coefficients of its tokens.

use crate::layout::{Forest, Node};
use crate::model::dropout::node_key;
use crate::model::head::Wanted;
use crate::model::score::predicted;
use crate::train::Trainer;
use crate::train::batch::{self, Batch, Keep};
use crate::train::objective::Slope;
use crate::train::pair::{Pair, PairLogps};
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// One micro-batch on the GPU: prompts shared by the answers of neighbouring pairs, each distinct answer once.
pub(super) struct Micro {
    pub(super) batch: Batch,
    /// Entries of the (chosen, rejected) answer of each pair.
    pub(super) side: Vec<[Range<usize>; 2]>,
    /// Entries of each pair's prompt; empty where no loss needs them.
    pub(super) prompt: Vec<Range<usize>>,
}

/// How a micro-batch is laid out.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Whether the log-probs of prompts are asked for.
    pub(super) with_prompt: bool,
    /// Whether the answers to one prompt share its rows.
    pub(super) share_prompts: bool,
    /// Whether it is of the step that begins: it has that one's masks, and counts for the routers' auxiliary loss where
    /// that has a weight.
    pub(super) trains: bool,
    /// Whether the losses are on single answers, which stand where pairs have their chosen one.
    pub(super) unpaired: bool,
}

impl Micro {
    /// The micro-batch of some pairs.
    pub(super) fn new(trainer: &Trainer, pairs: &[&Pair], shape: Shape) -> Result<Micro> {
        // Pairs of one prompt stand together; each distinct answer of it is one leaf.
        let mut prompts: Vec<(&[u32], Vec<usize>)> = Vec::new();
        let mut known: HashMap<&[u32], usize> = HashMap::new();
        for (at, pair) in pairs.iter().enumerate() {
            let prompt = &pair.prompt[..];
            let place = *known.entry(prompt).or_insert_with(|| {
                prompts.push((prompt, Vec::new()));
                prompts.len() - 1
            });
            prompts[place].1.push(at);
        }
        let (mut forest, mut wanted, mut nodes) = (Forest::new(), Wanted::default(), Vec::new());
        // In how many sequences each row stands, if each prompt stood once with each of its answers.
        let mut often = Vec::<f32>::new();
        let mut side = vec![[0..0, 0..0]; pairs.len()];
        let mut prompt_of = vec![0..0; pairs.len()];
        // Each entry is a sequence of its own, so that each gets its own coefficient.
        let mut add = |entries: Vec<(u32, u32, u32)>| {
            let first = wanted.entries.len();
            wanted.entries.extend(entries.into_iter().enumerate().map(|(k, e)| (e.0, e.1, (first + k) as u32)));
            first..wanted.entries.len()
        };
        for (prompt, members) in &prompts {
            let mut leaves: HashMap<&[u32], (Range<usize>, [Node; 2])> = HashMap::new();
            let node = forest.open(prompt);
            let mut open = node;
            // Records with one prompt share it in a micro-batch, so they share its mask in every one.
            let record = node_key(0, prompt);
            nodes.resize(forest.len(), record);
            let span = if shape.with_prompt { add(predicted(&node, prompt, 0)) } else { 0..0 };
            for at in members {
                prompt_of[*at] = span.clone();
                for (k, answer) in [&pairs[*at].chosen, &pairs[*at].rejected].into_iter().enumerate() {
                    let (entries, path) = leaves.entry(answer).or_insert_with(|| {
                        if !shape.share_prompts && forest.len() > node.first + node.len {
                            forest.close();
                            open = forest.open(prompt);
                            nodes.resize(forest.len(), record);
                        }
                        let leaf = forest.leaf(answer);
                        nodes.resize(forest.len(), node_key(record, answer));
                        (add(predicted(&leaf, answer, 0)), [open, leaf])
                    });
                    side[*at][k] = entries.clone();
                    often.resize(forest.len(), 0.0);
                    let counts = k == 0 || !shape.unpaired;
                    for node in path.iter().filter(|_| counts) {
                        often[node.first..][..node.len].iter_mut().for_each(|n| *n += 1.0);
                    }
                }
            }
            forest.close();
        }
        let masks = if shape.trains { trainer.masks(&forest, &nodes)? } else { None };
        let mut batch = Batch::new(trainer.gpu, &trainer.model, &forest, &wanted, masks)?;
        if shape.trains && trainer.balances() {
            batch = batch.counting(trainer.gpu, &trainer.model.arch, &often)?;
        }
        Ok(Micro { batch, side, prompt: prompt_of })
    }

    /// The coefficient of each entry: Σ over the pairs in which it stands, times `scale`; log-probs behind the shorter
    /// answer's length have the weight `alpha`.
    pub(super) fn coefficients(&self, slopes: &[Slope], alpha: f32, scale: f64) -> Vec<f32> {
        let alpha = f64::from(alpha);
        let mut coef = vec![0f64; self.batch.lists.order.len()];
        for ((side, prompt), slope) in self.side.iter().zip(&self.prompt).zip(slopes) {
            let shared = side[0].len().min(side[1].len());
            for (entries, weighted, plain) in [(&side[0], slope.dc, slope.dsum), (&side[1], slope.dr, 0.0)] {
                for (t, e) in entries.clone().enumerate() {
                    coef[e] += scale * (if t < shared { weighted } else { alpha * weighted } + plain);
                }
            }
            prompt.clone().for_each(|e| coef[e] += scale * slope.dprompt);
        }
        coef.into_iter().map(|x| x as f32).collect()
    }

    pub(super) fn forward(&self, trainer: &Trainer, keep: bool) -> Result<(batch::Tape, Tokens)> {
        let mut rec = trainer.gpu.record();
        let keep = if keep { Keep::of(trainer, self.batch.rows) } else { Keep::Nothing };
        let tape = batch::forward(&mut rec, &trainer.model, &self.batch, keep)?;
        rec.submit()?;
        let mut read = trainer.gpu.download_all::<f32>(&[&tape.scored.logp, &tape.scored.square])?.into_iter();
        let mut next = || {
            let sorted = read.next().unwrap_or_default();
            self.batch.lists.order.iter().map(|at| sorted[*at as usize]).collect()
        };
        let tokens = Tokens { logp: next(), square: next() };
        Ok((tape, tokens))
    }

    /// Fails unless policy and reference give the same bits, as they must before any update.
    pub(super) fn assert_equal(&self, tokens: &Tokens, numbers: &[usize], reference: &[PairLogps]) -> Result<()> {
        for (i, side) in numbers.iter().zip(&self.side) {
            let (policy, r) = (tokens.pair(side), reference[*i]);
            if policy.bits() != r.bits() {
                return Err(Error::Device(format!(
                    "pair {i}: before any update the policy's log-probs ({}, {}) differ from the reference's ({}, {}), \
                     which ran through the same kernels; the device is not deterministic",
                    policy.chosen, policy.rejected, r.chosen, r.rejected
                )));
            }
        }
        Ok(())
    }
}

/// What forward gave of each entry, in the order in which they were asked for.
pub(super) struct Tokens {
    pub(super) logp: Vec<f32>,
    /// log Σ p² over the vocabulary.
    square: Vec<f32>,
}

impl Tokens {
    pub(super) fn pair(&self, side: &[Range<usize>; 2]) -> PairLogps {
        PairLogps::new(&self.logp[side[0].clone()], &self.logp[side[1].clone()])
    }

    /// WPO's weight of an answer: exp of the mean of log p − log Σ p².
    pub(super) fn aligned(&self, entries: &Range<usize>) -> f64 {
        let of = |e: usize| f64::from(self.logp[e]) - f64::from(self.square[e]);
        (entries.clone().map(of).sum::<f64>() / entries.len() as f64).exp()
    }
}
