//! One wave: its sequences run in a batch, with the token loop on the GPU. The host looks at the tokens every few
//! steps, at fixed counts. When a quarter of the rows is done, they make room for sequences that wait, whose prompts
//! are then computed (continuous batching, Orca, OSDI 2022). What is already written of such a prompt's beginning is
//! not computed again.

use super::batch::{Batch, Row, Shape, Written};
use super::pages::{Key, Pages};
use super::prefill::{self, Prompt};
use super::sequence::Sequence;
use super::{Limits, Output, Request, Settings};
use crate::gpu::{Gpu, Part};
use crate::kernels::arena::{Arena, PAGE};
use crate::model::{Model, params, view};
use crate::{Error, Observer, Result};
use std::collections::VecDeque;

/// Decoding steps between two looks of the host. It is fixed, so that the batch's composition never depends on timing.
const STEPS: usize = 8;

/// All sequences of the requests, and the keys of their prompts' pages.
pub(super) struct Work<'a> {
    pub(super) requests: &'a [Request],
    sequences: Vec<Sequence>,
    /// Key of the prompt of each request.
    keys: Vec<Key>,
}

impl<'a> Work<'a> {
    pub(super) fn new(model: &Model, requests: &'a [Request], settings: &Settings) -> Result<Work<'a>> {
        let most = match settings.choices.len() {
            0 => settings.max_new_tokens,
            n => n,
        };
        let context = model.arch.context();
        let (mut sequences, mut keys) = (Vec::new(), Vec::new());
        for (request, r) in requests.iter().enumerate() {
            let prompt = r.prompt.len();
            let limit = most.min(context.saturating_sub(prompt));
            if limit < settings.choices.len() {
                return Err(Error::Input(format!(
                    "prompt {request} has {prompt} tokens, which leaves no room for {most} choices \
                     in a context of {context}"
                )));
            }
            keys.push(Key::new(&view::classes(&model.arch, prompt + limit), &r.prompt));
            let one =
                |(sample, id): (usize, &u64)| Sequence { request, sample, id: *id, prompt, limit, pages: Vec::new() };
            sequences.extend(r.samples.iter().enumerate().map(one));
        }
        Ok(Work { requests, sequences, keys })
    }

    /// The limits of a wave in which `at_once` of the sequences run: no more pages than those can use.
    pub(super) fn room(&self, at_once: usize, limits: &Limits) -> Limits {
        let largest = self.sequences.iter().map(Sequence::page_count).max().unwrap_or(0);
        let all = super::pages::needed(self.sequences.iter().map(|s| (&self.keys[s.request], s.page_count())));
        let pages = all.min(at_once * largest).min(limits.pages).max(largest);
        Limits { sequences: at_once, pages, ..*limits }
    }

    /// Keeps the `n` sequences that take most memory: those neighbours, since neighbours begin together, whose prompts
    /// have most tokens, and the longest sequence of all.
    pub(super) fn heaviest(mut self, n: usize) -> Work<'a> {
        let tokens = |of: &[Sequence]| -> usize {
            let prompts = of.chunk_by(|a, b| a.request == b.request).filter_map(<[Sequence]>::first);
            prompts.map(|s| s.prompt).sum()
        };
        let windows = self.sequences.windows(n.max(1)).map(tokens).enumerate();
        let first = windows.max_by_key(|(at, tokens)| (*tokens, usize::MAX - at)).map_or(0, |(at, _)| at);
        let longest = self.sequences.iter().map(Sequence::longest).max().unwrap_or(0);
        let is_longest = |s: &Sequence| s.longest() == longest;
        let other = self.sequences.iter().position(is_longest).map(|at| self.sequences[at].clone());
        self.sequences.truncate(first + n);
        self.sequences.drain(..first);
        if !self.sequences.iter().any(is_longest) {
            self.sequences.pop();
            self.sequences.extend(other);
        }
        self
    }
}

/// What lives as long as the wave.
struct Wave<'a> {
    shape: Shape<'a>,
    room: &'a Limits,
    work: Work<'a>,
    arena: Vec<Arena>,
    pages: Pages,
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
    (work, settings): (Work, &Settings),
    room: &Limits,
    observer: &dyn Observer,
    on_token: &mut dyn FnMut(usize, usize, u32),
) -> Result<Vec<Vec<Output>>> {
    let empty = |r: &Request| vec![Output { tokens: vec![], stopped: false, choice_p: vec![] }; r.samples.len()];
    let outputs: Vec<Vec<Output>> = work.requests.iter().map(empty).collect();
    if work.sequences.is_empty() {
        return Ok(outputs);
    }
    let heads = params::heads(&model.arch);
    let booked = gpu.book(Part::Arena);
    let layers = 0..model.arch.num_hidden_layers;
    let arena = layers.map(|_| Arena::room(gpu, room.pages, heads)).collect::<Result<Vec<_>>>()?;
    drop(booked);
    let choice = match settings.choices.is_empty() {
        true => None,
        false => Some(gpu.vector(&settings.choices.concat())?),
    };
    let longest = work.sequences.iter().map(|s| s.limit).max().unwrap_or(1);
    let shape = Shape { gpu, model, settings, vocabulary: model.arch.vocab_size, longest, choice };
    let waiting = (0..work.sequences.len()).collect();
    let pages = Pages::new(room.pages);
    let mut wave = Wave { shape, room, work, arena, pages, waiting, outputs, observer, on_token };
    let mut rows = Vec::new();
    loop {
        wave.admit(&mut rows)?;
        if rows.is_empty() {
            return Ok(wave.outputs);
        }
        rows = wave.decode(&rows)?;
    }
}

impl Wave<'_> {
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
                let written = Written { count: vec![row.count], out: row.out.clone(), share: row.share.clone() };
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
            let Sequence { request, prompt, .. } = self.work.sequences[number];
            let key = &self.work.keys[request];
            let (cached, pending) = self.pages.cached(key);
            let first = last != Some(request);
            if first {
                let continues = prefill::continues(prompt, cached);
                let known = if continues { cached + pending } else { pending };
                let limit = if continues { prefill::MOST_CONTINUED } else { self.room.tokens };
                tokens += prompt - known * PAGE;
                if last.is_some() && (continues != start.continues || tokens > limit) {
                    break;
                }
                start.continues = continues;
            }
            let Some(pages) = self.pages.hold(key, self.work.sequences[number].page_count()) else { break };
            self.work.sequences[number].pages = pages;
            self.waiting.pop_front();
            start.sequences.push(number);
            last = Some(request);
        }
        start
    }

    /// Computes the prompts of sequences that begin and draws their first tokens.
    fn begin(&mut self, start: &Start) -> Result<Vec<Row>> {
        let Work { sequences, keys, requests } = &self.work;
        let mut prompts: Vec<Prompt> = Vec::new();
        let (mut rows, mut of) = (Vec::new(), Vec::new());
        let mut last = None;
        for number in &start.sequences {
            let s = &sequences[*number];
            if last != Some(s.request) {
                prompts.push(Prompt { key: &keys[s.request], sequences: Vec::new() });
                last = Some(s.request);
            }
            if let Some(prompt) = prompts.last_mut() {
                prompt.sequences.push(s);
            }
            of.push(prompts.len() as u32 - 1);
            rows.push(Row::new(*number, &requests[s.request].prompt, &self.shape));
        }
        let Shape { gpu, model, .. } = self.shape;
        let logits = match start.continues {
            true => prefill::continued(gpu, model, &self.arena, &prompts, &mut self.pages)?,
            false => prefill::start(gpu, model, &self.arena, &prompts, &mut self.pages)?,
        };
        let batch = Batch::new(&self.shape, &rows, sequences, &of)?;
        batch.first(&self.shape, &logits)?;
        batch.take(&self.shape, |_| true)
    }

    /// Runs the rows until a quarter of them or more is done; returns those that are not done.
    fn decode(&mut self, rows: &[Row]) -> Result<Vec<Row>> {
        let batch = Batch::new(&self.shape, rows, &self.work.sequences, &vec![0; rows.len()])?;
        let step = batch.step(&self.shape, &self.work.sequences, &self.arena)?;
        let (gpu, longest) = (self.shape.gpu, self.shape.longest);
        let mut running = vec![true; rows.len()];
        let mut steps = 0;
        loop {
            gpu.repeat(&step.plan, STEPS.min(longest))?;
            steps += STEPS;
            if self.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let written = batch.read(&self.shape)?;
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
                return if left == 0 { Ok(Vec::new()) } else { batch.take(&self.shape, |row| running[row]) };
            }
        }
    }

    fn release(&mut self, number: usize) {
        let pages = std::mem::take(&mut self.work.sequences[number].pages);
        self.pages.release(&pages);
    }

    /// Passes on what a row has written since the last look; returns whether its sequence goes on.
    fn deliver(&mut self, number: usize, written: &Written, row: usize) -> bool {
        let s = &self.work.sequences[number];
        let out = &mut self.outputs[s.request][s.sample];
        let from = out.tokens.len();
        let count = (written.count[row] as usize).min(s.limit);
        let width = self.shape.longest;
        for at in (from..count).map(|i| row * width + i) {
            out.tokens.push(written.out[at]);
            out.choice_p.extend(written.share.get(at));
            (self.on_token)(s.request, s.sample, written.out[at]);
        }
        self.observer.advance(count.saturating_sub(from) as u64);
        let settings = self.shape.settings;
        let last = out.tokens.last();
        out.stopped = settings.choices.is_empty() && last.is_some_and(|t| settings.stop.contains(t));
        !out.stopped && count < s.limit
    }
}
