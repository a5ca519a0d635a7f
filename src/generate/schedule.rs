//! When which sequence runs. The running ones form a batch, with the token loop on the GPU. The host looks at the
//! tokens every few steps, at fixed counts. When a quarter of the rows is done, they make room for sequences that wait,
//! whose prompts are then computed (continuous batching, Orca, OSDI 2022). What is already written of such a prompt's
//! beginning is not computed again.

use super::batch::{DecodeBatch, DecodeSetup, Row, Written};
use super::pages::Pages;
use super::prefill::{self, StartingPrompt};
use super::sequences::{Sequence, Sequences};
use super::{Output, Request, Room};
use crate::gpu::{Gpu, Part};
use crate::kernels::arena::PAGE;
use crate::model::Model;
use crate::model::context::Memory;
use crate::{Error, Observer, Result};
use std::collections::VecDeque;

/// Decoding steps between two looks of the host. It is fixed, so that the batch's composition never depends on timing.
const STEPS: usize = 8;

/// Decides which sequences run, and holds what lives as long as they.
struct Scheduler<'a> {
    setup: DecodeSetup<'a>,
    room: &'a Room,
    sequences: Sequences<'a>,
    memory: Vec<Memory>,
    pages: Pages,
    /// Slots that no sequence has.
    slots: Vec<u32>,
    waiting: VecDeque<usize>,
    outputs: Vec<Vec<Output>>,
    observer: &'a dyn Observer,
    on_token: &'a mut dyn FnMut(usize, usize, u32),
}

/// Sequences that begin in one pass.
struct Start {
    /// Numbers of the sequences.
    sequences: Vec<usize>,
    /// Whether their prompts continue beginnings that are written already.
    continues: bool,
}

/// Answers all requests, as many sequences at a time as there is room for.
pub(super) fn run(
    gpu: &Gpu,
    model: &Model,
    sequences: Sequences,
    room: &Room,
    observer: &dyn Observer,
    on_token: &mut dyn FnMut(usize, usize, u32),
) -> Result<Vec<Vec<Output>>> {
    let empty = |r: &Request| vec![Output { tokens: vec![], stopped: false, choice_p: vec![] }; r.samples.len()];
    let outputs: Vec<Vec<Output>> = sequences.requests.iter().map(empty).collect();
    if sequences.list.is_empty() {
        return Ok(outputs);
    }
    let booked = gpu.book(Part::Arena);
    let memory = super::memory(gpu, model, (room.pages, room.sequences), room.kv)?;
    drop(booked);
    let settings = sequences.settings;
    let choice = match settings.choices.is_empty() {
        true => None,
        false => Some(gpu.vector(&settings.choices.concat())?),
    };
    let longest = sequences.list.iter().map(|s| s.limit).max().unwrap_or(1);
    let setup = DecodeSetup { gpu, model, settings, vocabulary: model.arch.vocab_size, longest, choice };
    let waiting = (0..sequences.list.len()).collect();
    let pages = Pages::new(room.pages);
    let slots = (0..room.sequences as u32).rev().collect();
    let mut scheduler =
        Scheduler { setup, room, sequences, memory, pages, slots, waiting, outputs, observer, on_token };
    let mut rows = Vec::new();
    loop {
        scheduler.admit(&mut rows)?;
        if rows.is_empty() {
            return Ok(scheduler.outputs);
        }
        rows = scheduler.decode(&rows)?;
    }
}

impl Scheduler<'_> {
    /// Fills `rows` up with sequences that wait, as far as there are pages.
    fn admit(&mut self, rows: &mut Vec<Row>) -> Result<()> {
        let most = self.room.sequences;
        while rows.len() < most && !self.waiting.is_empty() {
            if self.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let start = self.next(most - rows.len());
            if start.sequences.is_empty() {
                // Every sequence fits into an arena that nobody else holds.
                return if rows.is_empty() {
                    Err(Error::OutOfMemory("no page of the arena is free".into()))
                } else {
                    Ok(())
                };
            }
            for row in self.begin(&start)? {
                let written = Written { count: vec![row.count], out: row.out.clone(), choice_p: row.choice_p.clone() };
                match self.deliver(row.sequence, &written, 0) {
                    true => rows.push(row),
                    false => self.release(row.sequence),
                }
            }
        }
        Ok(())
    }

    /// Takes from those that wait the next sequences that can begin in one pass, `most` at the most. They hold their
    /// pages from then on.
    fn next(&mut self, most: usize) -> Start {
        let mut start = Start { sequences: Vec::new(), continues: false };
        let (mut tokens, mut last) = (0, None);
        while let Some(number) = self.waiting.front().copied().filter(|_| start.sequences.len() < most) {
            let Sequence { request, prompt, .. } = self.sequences.list[number];
            let key = &self.sequences.keys[request];
            let (cached, pending) = self.pages.cached(key);
            let first = last != Some(request);
            if first {
                // What blocks without pages know of a beginning is not kept.
                let continues = !self.setup.model.arch.has_past() && prefill::continues(prompt, cached);
                let known = if continues { cached + pending } else { pending };
                let limit = if continues { prefill::MOST_CONTINUED } else { self.room.tokens };
                tokens += prompt - known * PAGE;
                if last.is_some() && (continues != start.continues || tokens > limit) {
                    break;
                }
                start.continues = continues;
            }
            let Some(slot) = self.slots.last().copied() else { break };
            let Some(pages) = self.pages.hold(key, self.sequences.list[number].page_count()) else { break };
            self.slots.pop();
            let sequence = &mut self.sequences.list[number];
            (sequence.pages, sequence.slot) = (pages, slot);
            self.waiting.pop_front();
            start.sequences.push(number);
            last = Some(request);
        }
        start
    }

    /// Computes the prompts of sequences that begin and draws their first tokens.
    fn begin(&mut self, start: &Start) -> Result<Vec<Row>> {
        let Sequences { list, keys, requests, .. } = &self.sequences;
        let mut prompts: Vec<StartingPrompt> = Vec::new();
        let (mut rows, mut logits_rows) = (Vec::new(), Vec::new());
        let mut last = None;
        for number in &start.sequences {
            let s = &list[*number];
            if last != Some(s.request) {
                prompts.push(StartingPrompt { key: &keys[s.request], sequences: Vec::new() });
                last = Some(s.request);
            }
            if let Some(prompt) = prompts.last_mut() {
                prompt.sequences.push(s);
            }
            logits_rows.push(prompts.len() as u32 - 1);
            rows.push(Row::new(*number, &requests[s.request].prompt, &self.setup));
        }
        let DecodeSetup { gpu, model, .. } = self.setup;
        // A part has at least a page.
        let most = self.room.tokens.max(PAGE);
        let long = |prompt: &StartingPrompt| prompt.key.tokens().len() > most && !model.arch.has_past();
        let logits = match (start.continues, &prompts[..]) {
            (true, _) => prefill::continued(gpu, model, &self.memory, &prompts, &mut self.pages)?,
            (_, [one]) if long(one) => prefill::in_parts(gpu, model, &self.memory, one, (&mut self.pages, most))?,
            _ => prefill::start(gpu, model, &self.memory, &prompts, &mut self.pages)?,
        };
        let batch = DecodeBatch::new(&self.setup, &rows, list, Some(&logits_rows))?;
        batch.first(&self.setup, &logits)?;
        batch.take(&self.setup, |_| true)
    }

    /// Runs the rows until a quarter of them or more is done; returns those that are not done.
    fn decode(&mut self, rows: &[Row]) -> Result<Vec<Row>> {
        let batch = DecodeBatch::new(&self.setup, rows, &self.sequences.list, None)?;
        let step = batch.step(&self.setup, &self.sequences.list, &self.memory)?;
        let (gpu, longest) = (self.setup.gpu, self.setup.longest);
        let mut running = vec![true; rows.len()];
        let mut steps = 0;
        loop {
            gpu.repeat(&step.plan, STEPS.min(longest))?;
            steps += STEPS;
            if self.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let written = batch.read(&self.setup)?;
            for (row, number) in batch.sequences.iter().enumerate() {
                // A device that only counts writes nothing, so there the count of steps ends the loop.
                if running[row] && (!self.deliver(*number, &written, row) || steps > longest) {
                    running[row] = false;
                    self.release(*number);
                }
            }
            let left = running.iter().filter(|r| **r).count();
            if left * 4 <= rows.len() * 3 {
                drop(step);
                return if left == 0 { Ok(Vec::new()) } else { batch.take(&self.setup, |row| running[row]) };
            }
        }
    }

    fn release(&mut self, number: usize) {
        let sequence = &mut self.sequences.list[number];
        self.slots.push(sequence.slot);
        self.pages.release(&std::mem::take(&mut sequence.pages));
    }

    /// Passes on what a row has written since the last look; returns whether its sequence goes on.
    fn deliver(&mut self, number: usize, written: &Written, row: usize) -> bool {
        let s = &self.sequences.list[number];
        let out = &mut self.outputs[s.request][s.sample];
        let from = out.tokens.len();
        let count = (written.count[row] as usize).min(s.limit);
        let width = self.setup.longest;
        for at in (from..count).map(|i| row * width + i) {
            out.tokens.push(written.out[at]);
            out.choice_p.extend(written.choice_p.get(at));
            (self.on_token)(s.request, s.sample, written.out[at]);
        }
        self.observer.advance(count.saturating_sub(from) as u64);
        let settings = self.setup.settings;
        let last = out.tokens.last();
        out.stopped = settings.choices.is_empty() && last.is_some_and(|t| settings.stop.contains(t));
        !out.stopped && count < s.limit
    }
}
