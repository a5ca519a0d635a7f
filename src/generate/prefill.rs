//! Computes prompts into the arena, and common beginnings once. Prompts of which nothing is written run as a forest;
//! prompts whose beginning is written already run as rows that continue it.

use super::pages::{Pages, PromptKey};
use super::sequences::Sequence;
use crate::Result;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::arena::{PAGE, Rows};
use crate::kernels::scores::Scores;
use crate::layout::Forest;
use crate::model::context::{Context, Memory, Past, Store};
use crate::model::view::{self, View};
use crate::model::{Model, decoder, head};
use std::ops::Range;

/// Most rows in a pass that continues what is written. Such rows use the decoder's attention, which keeps partial sums
/// of every row.
pub(super) const MOST_CONTINUED: usize = 512;

/// Whether to continue a prompt of `tokens` whose first `cached` pages are written. If much is left, computing it from
/// the start is quicker.
pub(super) fn continues(tokens: usize, cached: usize) -> bool {
    let rest = tokens - cached * PAGE;
    cached > 0 && rest <= (cached * PAGE).min(MOST_CONTINUED)
}

/// A prompt, and those of its sequences that begin in this pass.
pub(super) struct StartingPrompt<'a> {
    pub(super) key: &'a PromptKey,
    pub(super) sequences: Vec<&'a Sequence>,
}

impl StartingPrompt<'_> {
    fn page(&self, position: usize) -> u32 {
        self.sequences[0].pages[position / PAGE]
    }

    fn is_written(&self, pages: &mut Pages) {
        pages.written(&self.sequences[0].pages[..self.key.shareable()]);
    }
}

fn slot(page: u32, position: usize) -> u32 {
    page * PAGE as u32 + (position % PAGE) as u32
}

/// Several prompts as one forest, in which a beginning of whole pages that some of them share stands once.
#[derive(Default)]
struct PromptForest {
    forest: Forest,
    /// For each row, the length to which its sequence may grow.
    lengths: Vec<u32>,
    /// Rows whose keys and values are stored; `slot` says where in the arena.
    row: Vec<u32>,
    slot: Vec<u32>,
    /// Each prompt with the row of its last token.
    last: Vec<(usize, u32)>,
}

impl PromptForest {
    fn new(prompts: &[StartingPrompt], pages: &Pages) -> PromptForest {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by(|a, b| prompts[*a].key.cmp(prompts[*b].key));
        let mut shared = PromptForest::default();
        shared.grow(prompts, &order, 0, pages);
        shared.last.sort_unstable();
        shared
    }

    /// Adds the prompts of `group`, in their order, from page `from` on; before that page they are all equal.
    fn grow(&mut self, prompts: &[StartingPrompt], mut group: &[usize], from: usize, pages: &Pages) {
        while let Some((first, rest)) = group.split_first() {
            let key = prompts[*first].key;
            let more = rest.iter().take_while(|p| key.common(prompts[**p].key) > from).count();
            let (alike, others) = group.split_at(1 + more);
            group = others;
            if more == 0 {
                let node = self.forest.leaf(&key.tokens()[from * PAGE..]);
                self.last.push((*first, (node.first + node.len - 1) as u32));
                self.store(&prompts[*first], node.first, from * PAGE..key.tokens().len(), pages);
                continue;
            }
            // They are sorted, so the first and the last one have least in common.
            let common = key.common(prompts[alike[more]].key);
            let node = self.forest.open(&key.tokens()[from * PAGE..common * PAGE]);
            self.store(&prompts[*first], node.first, from * PAGE..common * PAGE, pages);
            self.grow(prompts, alike, common, pages);
            self.forest.close();
        }
    }

    /// Notes where these positions of a prompt, which are the rows from `first_row` on, are stored.
    fn store(&mut self, prompt: &StartingPrompt, first_row: usize, positions: Range<usize>, pages: &Pages) {
        for (row, position) in (first_row as u32..).zip(positions) {
            self.lengths.push(prompt.sequences[0].longest() as u32);
            if position / PAGE < prompt.key.shareable() {
                if !pages.is_ready(prompt.page(position)) {
                    self.row.push(row);
                    self.slot.push(slot(prompt.page(position), position));
                }
            } else {
                for s in &prompt.sequences {
                    self.row.push(row);
                    self.slot.push(slot(s.pages[position / PAGE], position));
                }
            }
        }
    }
}

/// Runs prompts of which nothing is written and fills their pages. Returns the logits after each prompt,
/// `[prompts, V]`.
pub(super) fn start(
    gpu: &Gpu,
    model: &Model,
    memory: &[Memory],
    prompts: &[StartingPrompt],
    pages: &mut Pages,
) -> Result<Tensor> {
    let shared = PromptForest::new(prompts, pages);
    for prompt in prompts {
        prompt.is_written(pages);
    }
    let view = View::of_lengths(gpu, model, &shared.forest, &shared.lengths)?;
    let (row, slot) = (gpu.vector(&shared.row)?, gpu.vector(&shared.slot)?);
    let token = gpu.vector(&shared.forest.tokens)?;
    let ends = match model.arch.has_past() {
        true => {
            let of = |(prompt, row): &(usize, u32)| {
                let row = *row;
                prompts[*prompt].sequences.iter().map(move |s| (row, s.slot))
            };
            let (rows, slots): (Vec<u32>, Vec<u32>) = shared.last.iter().flat_map(of).unzip();
            Some((gpu.vector(&rows)?, gpu.vector(&slots)?))
        }
        false => None,
    };
    let ends = ends.as_ref().map(|(rows, slots)| (rows, slots));
    let context = Context::Forest { view: &view, store: Some(Store { memory, row: &row, slot: &slot, ends }) };
    let last: Vec<u32> = shared.last.iter().map(|(_, row)| *row).collect();
    logits(gpu.record(), model, &token, &context, &last)
}

/// Runs the rest of prompts whose first pages are written, and fills their other pages. Returns the logits after each
/// prompt, `[prompts, V]`.
pub(super) fn continued(
    gpu: &Gpu,
    model: &Model,
    memory: &[Memory],
    prompts: &[StartingPrompt],
    pages: &mut Pages,
) -> Result<Tensor> {
    let (mut tokens, mut pos, mut sequences, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut row, mut copy) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let (own, all) = (prompt.key.shareable() * PAGE, prompt.key.tokens());
        for (position, token) in all.iter().enumerate() {
            // The first of the prompts that share a page computes it.
            if position < own && pages.is_ready(prompt.page(position)) {
                continue;
            }
            if position >= own {
                for s in &prompt.sequences[1..] {
                    row.push(tokens.len() as u32);
                    copy.push(slot(s.pages[position / PAGE], position));
                }
            }
            tokens.push(*token);
            pos.push(position as u32);
            sequences.push(prompt.sequences[0]);
        }
        last.push(tokens.len() as u32 - 1);
        prompt.is_written(pages);
    }
    let width = sequences.iter().map(|s| s.pages.len()).max().unwrap_or(1);
    let table: Vec<u32> = sequences.iter().flat_map(|s| s.row(width)).collect();
    let rows = Rows {
        table: gpu.upload(sequences.len(), width, &table)?,
        longest: pos.iter().max().map_or(1, |p| *p as usize + 1),
        pos: gpu.vector(&pos)?,
        window: u32::MAX,
        scores: Scores::default(),
        sinks: None,
    };
    let lengths: Vec<u32> = sequences.iter().map(|s| s.longest() as u32).collect();
    let turns = view::turns(gpu, model, &lengths)?;
    let token = gpu.vector(&tokens)?;
    let copies = match row.is_empty() {
        true => None,
        false => Some((gpu.vector(&row)?, gpu.vector(&copy)?)),
    };
    let context = Context::Arena(Past {
        memory,
        rows: &rows,
        turns: &turns,
        apart: false,
        copies: copies.as_ref().map(|(r, s)| (r, s)),
        slots: None,
    });
    logits(gpu.record(), model, &token, &context, &last)
}

/// The logits after each of the rows `last`, `[last, V]`.
fn logits(mut rec: Recorder, model: &Model, token: &Tensor, context: &Context, last: &[u32]) -> Result<Tensor> {
    let gpu = rec.gpu();
    let x = decoder::embed(&mut rec, model, token, token.cols())?;
    let stream = decoder::stack(&mut rec, model, x, context, drop)?;
    let last = stream.gather(&mut rec, &gpu.vector(last)?)?;
    let norm = head::final_norm(&mut rec, model, &last)?;
    let logits = head::logits(&mut rec, model, &norm.y)?;
    rec.submit()?;
    Ok(logits)
}
