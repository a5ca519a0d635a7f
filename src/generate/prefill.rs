//! Computes prompts into the arena, and common beginnings once. Prompts of which nothing is written run as a forest;
//! prompts whose beginning is written already run as rows that continue it. One that is too long for a pass runs as a
//! forest first, then as rows.

use super::pages::{Pages, PromptKey};
use super::sequences::Sequence;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::arena::{PAGE, Rows};
use crate::kernels::scores::Scores;
use crate::layout::Forest;
use crate::model::context::{Context, Memory, Past, Store};
use crate::model::view::{self, View};
use crate::model::{Model, decoder, head};
use crate::{Error, Result};
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

    /// Adds the positions behind which nothing stands of the prompt with this number.
    fn end(&mut self, number: usize, prompt: &StartingPrompt, positions: Range<usize>, pages: &Pages) {
        let node = self.forest.leaf(&prompt.key.tokens()[positions.clone()]);
        self.last.push((number, (node.first + node.len - 1) as u32));
        self.store(prompt, node.first, positions, pages);
    }

    /// Adds the prompts of `group`, in their order, from page `from` on; before that page they are all equal.
    fn grow(&mut self, prompts: &[StartingPrompt], mut group: &[usize], from: usize, pages: &Pages) {
        while let Some((first, rest)) = group.split_first() {
            let key = prompts[*first].key;
            let more = rest.iter().take_while(|p| key.common(prompts[**p].key) > from).count();
            let (alike, others) = group.split_at(1 + more);
            group = others;
            if more == 0 {
                self.end(*first, &prompts[*first], from * PAGE..key.tokens().len(), pages);
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

    /// Computes the forest into the pages. Returns the logits after each prompt.
    fn run(&self, gpu: &Gpu, model: &Model, memory: &[Memory], prompts: &[StartingPrompt]) -> Result<Tensor> {
        let view = View::of_lengths(gpu, model, &self.forest, &self.lengths)?;
        let (row, slot) = (gpu.vector(&self.row)?, gpu.vector(&self.slot)?);
        let token = gpu.vector(&self.forest.tokens)?;
        let ends = match model.arch.has_past() {
            true => {
                let of = |(prompt, row): &(usize, u32)| {
                    let row = *row;
                    prompts[*prompt].sequences.iter().map(move |s| (row, s.slot))
                };
                let (rows, slots): (Vec<u32>, Vec<u32>) = self.last.iter().flat_map(of).unzip();
                Some((gpu.vector(&rows)?, gpu.vector(&slots)?))
            }
            false => None,
        };
        let ends = ends.as_ref().map(|(rows, slots)| (rows, slots));
        let context = Context::Forest { view: &view, store: Some(Store { memory, row: &row, slot: &slot, ends }) };
        let last: Vec<u32> = self.last.iter().map(|(_, row)| *row).collect();
        logits(gpu.record(), model, &token, &context, &last)
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
    shared.run(gpu, model, memory, prompts)
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
    let mut rest = Rest::default();
    for prompt in prompts {
        rest.add(prompt, 0..prompt.key.tokens().len(), pages);
        prompt.is_written(pages);
    }
    rest.run(gpu, model, memory)
}

/// Runs a prompt of more tokens than the `most` that fit into one pass, a page or more, a part after the other; not of
/// a model whose blocks remember what has no pages. Returns the logits after it, `[1, V]`.
pub(super) fn in_parts(
    gpu: &Gpu,
    model: &Model,
    memory: &[Memory],
    prompt: &StartingPrompt,
    (pages, most): (&mut Pages, usize),
) -> Result<Tensor> {
    let (first, len) = (most / PAGE * PAGE, prompt.key.tokens().len());
    let mut shared = PromptForest::default();
    shared.end(0, prompt, 0..first, pages);
    let mut logits = match shared.row.is_empty() {
        true => None,
        false => Some(shared.run(gpu, model, memory, std::slice::from_ref(prompt))?),
    };
    let step = MOST_CONTINUED.min(first);
    for from in (first..len).step_by(step) {
        let mut rest = Rest::default();
        rest.add(prompt, from..len.min(from + step), pages);
        if !rest.tokens.is_empty() {
            logits = Some(rest.run(gpu, model, memory)?);
        }
    }
    prompt.is_written(pages);
    logits.ok_or_else(|| Error::Bug("a prompt in parts has none".into()))
}

/// Rows that continue what is written of their prompts.
#[derive(Default)]
struct Rest<'a> {
    tokens: Vec<u32>,
    pos: Vec<u32>,
    sequences: Vec<&'a Sequence>,
    /// The last row of each prompt.
    last: Vec<u32>,
    /// Rows whose keys and values other samples of the prompt store too; `copy` says where.
    row: Vec<u32>,
    copy: Vec<u32>,
}

impl<'a> Rest<'a> {
    /// Adds those of a prompt's positions that are not in pages which are written.
    fn add(&mut self, prompt: &StartingPrompt<'a>, positions: Range<usize>, pages: &Pages) {
        let own = prompt.key.shareable() * PAGE;
        for position in positions {
            // The first of the prompts that share a page computes it.
            if position < own && pages.is_ready(prompt.page(position)) {
                continue;
            }
            if position >= own {
                for s in &prompt.sequences[1..] {
                    self.row.push(self.tokens.len() as u32);
                    self.copy.push(slot(s.pages[position / PAGE], position));
                }
            }
            self.tokens.push(prompt.key.tokens()[position]);
            self.pos.push(position as u32);
            self.sequences.push(prompt.sequences[0]);
        }
        self.last.push(self.tokens.len().saturating_sub(1) as u32);
    }

    /// Computes the rows into the pages. Returns the logits after the last one of each prompt.
    fn run(&self, gpu: &Gpu, model: &Model, memory: &[Memory]) -> Result<Tensor> {
        let width = self.sequences.iter().map(|s| s.pages.len()).max().unwrap_or(1);
        let table: Vec<u32> = self.sequences.iter().flat_map(|s| s.row(width)).collect();
        let rows = Rows {
            table: gpu.upload(self.sequences.len(), width, &table)?,
            longest: self.pos.iter().max().map_or(1, |p| *p as usize + 1),
            pos: gpu.vector(&self.pos)?,
            window: u32::MAX,
            scores: Scores::default(),
            sinks: None,
        };
        let lengths: Vec<u32> = self.sequences.iter().map(|s| s.longest() as u32).collect();
        let turns = view::turns(gpu, model, &lengths)?;
        let token = gpu.vector(&self.tokens)?;
        let copies = match self.row.is_empty() {
            true => None,
            false => Some((gpu.vector(&self.row)?, gpu.vector(&self.copy)?)),
        };
        let context = Context::Arena(Past {
            memory,
            rows: &rows,
            turns: &turns,
            apart: false,
            copies: copies.as_ref().map(|(r, s)| (r, s)),
            slots: None,
        });
        logits(gpu.record(), model, &token, &context, &self.last)
    }
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
