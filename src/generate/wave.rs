//! One wave: all prompts in one pass over the forest, then the token loop on the GPU. The host looks at the tokens every
//! few steps, at fixed counts, and drops rows that are done when they are a quarter of the batch.

use super::{Output, Request, Settings};
use crate::gpu::{Gpu, Part, Plan, Tensor};
use crate::kernels::attention_decode::{Arena, PAGE, Rows};
use crate::kernels::rope::Turn;
use crate::kernels::rows;
use crate::kernels::sample::{self, State};
use crate::layout::Forest;
use crate::model::view::{self, View};
use crate::model::{Model, decoder, head, params};
use crate::{Error, Observer, Result};

/// Steps between two looks of the host; fixed, so that the batch's composition never depends on timing.
const STEPS: usize = 8;

/// One sequence of the wave.
struct Sequence {
    request: usize,
    sample: usize,
    id: u64,
    /// Length of its prompt.
    prompt: usize,
    /// Most tokens of its answer.
    limit: usize,
    pages: Vec<u32>,
}

impl Sequence {
    /// Tokens of prompt and answer at most.
    fn longest(&self) -> usize {
        self.prompt + self.limit
    }
}

/// What lives on the GPU for as long as the wave.
struct Wave<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    requests: &'a [Request],
    settings: &'a Settings,
    arena: Vec<Arena>,
    choice: Option<Tensor>,
    /// Memory of `out` rows: the longest answer.
    longest: usize,
}

/// The rows of one batch and the recording of one step over them.
struct Batch {
    /// Index of each row's sequence.
    rows: Vec<usize>,
    state: State,
    share: Option<Tensor>,
    plan: Plan,
    /// Read by the plan at every run, so nobody else may get their memory.
    _table: Tensor,
    _turns: Vec<Turn>,
}

pub(super) fn run(
    gpu: &Gpu,
    model: &Model,
    requests: &[Request],
    settings: &Settings,
    observer: &dyn Observer,
    on_token: &mut dyn FnMut(usize, usize, u32),
) -> Result<Vec<Vec<Output>>> {
    let most = match settings.choices.len() {
        0 => settings.max_new_tokens,
        n => n,
    };
    let context = model.arch.context();
    let mut sequences = Vec::new();
    let mut next_page = 0u32;
    for (request, r) in requests.iter().enumerate() {
        let limit = most.min(context - r.prompt.len());
        if limit < settings.choices.len() {
            return Err(Error::Input(format!(
                "prompt {request} has {} tokens, which leaves no room for {most} choices in a context of {context}",
                r.prompt.len()
            )));
        }
        // Full pages of the prompt are shared; each sample has its own from the first partial one on.
        let shared = r.prompt.len() / PAGE;
        let total = (r.prompt.len() + limit).div_ceil(PAGE);
        let prompt_pages: Vec<u32> = (0..shared as u32).map(|p| next_page + p).collect();
        next_page += shared as u32;
        for (sample, id) in r.samples.iter().enumerate() {
            let own = (total - shared) as u32;
            let pages = prompt_pages.iter().copied().chain(next_page..next_page + own).collect();
            next_page += own;
            sequences.push(Sequence { request, sample, id: *id, prompt: r.prompt.len(), limit, pages });
        }
    }
    let mut outputs: Vec<Vec<Output>> = requests
        .iter()
        .map(|r| vec![Output { tokens: vec![], stopped: false, choice_p: vec![] }; r.samples.len()])
        .collect();
    if sequences.is_empty() {
        return Ok(outputs);
    }
    let heads = params::heads(&model.arch);
    let slots = next_page as usize * PAGE;
    let width = heads.kv_heads * heads.padded();
    let booked = gpu.book(Part::Arena);
    let arena = (0..model.arch.num_hidden_layers)
        .map(|_| Ok(Arena { keys: gpu.empty(slots, width)?, values: gpu.empty(slots, width)? }))
        .collect::<Result<Vec<_>>>()?;
    drop(booked);
    let choice = match settings.choices.is_empty() {
        true => None,
        false => Some(gpu.vector(&settings.choices.concat())?),
    };
    let longest = sequences.iter().map(|s| s.limit).max().unwrap_or(1);
    let wave = Wave { gpu, model, requests, settings, arena, choice, longest };
    let first_logits = wave.prefill(&sequences)?;
    let mut done: Vec<usize> = vec![0; sequences.len()];
    let mut batch = wave.batch((0..sequences.len()).collect(), &sequences, None)?;
    wave.pick_first(&batch, &first_logits)?;
    drop(first_logits);
    // The first token is drawn from the prompt's logits; the plan's steps draw the others.
    let mut steps = 0;
    loop {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let read = wave.read(&batch)?;
        let mut running = Vec::new();
        for (row, s) in batch.rows.iter().enumerate() {
            let seq = &sequences[*s];
            let out = &mut outputs[seq.request][seq.sample];
            let count = (read.count[row] as usize).min(seq.limit);
            for i in done[*s]..count {
                let token = read.out[row * read.width + i];
                out.tokens.push(token);
                if let Some(p) = &read.share {
                    out.choice_p.push(p[row * read.width + i]);
                }
                on_token(seq.request, seq.sample, token);
            }
            observer.advance((count - done[*s]) as u64);
            done[*s] = count;
            let last = out.tokens.last().copied();
            out.stopped = settings.choices.is_empty() && last.is_some_and(|t| settings.stop.contains(&t));
            if !out.stopped && count < seq.limit {
                running.push(row);
            }
        }
        if running.is_empty() || steps > longest {
            return Ok(outputs);
        }
        if running.len() * 4 <= batch.rows.len() * 3 {
            let rows = running.iter().map(|r| batch.rows[*r]).collect();
            batch = wave.batch(rows, &sequences, Some((&batch, &running)))?;
        }
        gpu.repeat(&batch.plan, STEPS.min(longest))?;
        steps += STEPS;
    }
}

struct Read {
    count: Vec<u32>,
    out: Vec<u32>,
    share: Option<Vec<f32>>,
    width: usize,
}

impl Wave<'_> {
    /// Runs all prompts, fills their pages, gives the logits of each prompt's last row, `[requests, V]`.
    fn prefill(&self, sequences: &[Sequence]) -> Result<Tensor> {
        let mut forest = Forest::new();
        let nodes: Vec<_> = self.requests.iter().map(|r| forest.leaf(&r.prompt)).collect();
        let (mut row, mut slot) = (Vec::new(), Vec::new());
        for s in sequences {
            let node = &nodes[s.request];
            // Shared pages are written by the first sample, the partial one by each.
            let from = if s.sample == 0 { 0 } else { s.prompt / PAGE * PAGE };
            for p in from..s.prompt {
                row.push((node.first + p) as u32);
                slot.push(s.pages[p / PAGE] * PAGE as u32 + (p % PAGE) as u32);
            }
        }
        let gpu = self.gpu;
        // A prompt turns by the angles of what it will grow to, so that its keys suit its answers.
        let mut lengths = Vec::with_capacity(forest.len());
        for (request, node) in nodes.iter().enumerate() {
            let grown = sequences.iter().filter(|s| s.request == request).map(Sequence::longest).max();
            lengths.extend(vec![grown.unwrap_or(node.len) as u32; node.len]);
        }
        let view = View::of_lengths(gpu, self.model, &forest, &lengths)?;
        let (row, slot) = (gpu.vector(&row)?, gpu.vector(&slot)?);
        let token = gpu.vector(&forest.tokens)?;
        let context = decoder::Context::Forest { view: &view, store: Some((&self.arena, &row, &slot)) };
        let mut rec = gpu.record();
        let x = decoder::embed(&mut rec, self.model, &token, forest.len())?;
        let (x, delta) = decoder::stack(&mut rec, self.model, x, &context, drop)?;
        let last: Vec<u32> = nodes.iter().map(|n| (n.first + n.len - 1) as u32).collect();
        let last = gpu.vector(&last)?;
        let (lx, ld) = (gpu.empty(last.cols, x.cols)?, gpu.empty(last.cols, x.cols)?);
        rows::gather(&mut rec, &x, &last, &lx)?;
        rows::gather(&mut rec, &delta, &last, &ld)?;
        let norm = head::final_norm(&mut rec, self.model, &lx, &ld)?;
        let logits = head::logits(&mut rec, self.model, &norm.y)?;
        rec.submit()?;
        Ok(logits)
    }

    /// A batch over the given sequences: fresh, or taking over the kept rows of an older one.
    fn batch(&self, rows: Vec<usize>, sequences: &[Sequence], older: Option<(&Batch, &[usize])>) -> Result<Batch> {
        let (gpu, b) = (self.gpu, rows.len());
        let of = |r: &usize| &sequences[*r];
        let words = self.model.arch.vocab_size.div_ceil(32);
        let info: Vec<u32> = rows
            .iter()
            .map(of)
            .flat_map(|s| [s.id as u32, (s.id >> 32) as u32, s.request as u32, s.limit as u32])
            .collect();
        let state = match older {
            None => {
                let start: Vec<u32> = rows.iter().flat_map(|_| [0, 1]).collect();
                State {
                    info: gpu.upload(b, 4, &info)?,
                    seen: gpu.upload(b, words, &self.seen(&rows, sequences, words))?,
                    token: gpu.vector(&vec![0u32; b])?,
                    pos: gpu.vector(&rows.iter().map(|r| of(r).prompt as u32 - 1).collect::<Vec<_>>())?,
                    state: gpu.vector(&start)?,
                    out: gpu.upload(b, self.longest, &vec![0u32; b * self.longest])?,
                }
            }
            Some((old, kept)) => {
                let pick = |all: Vec<u32>, width: usize| -> Vec<u32> {
                    kept.iter().flat_map(|r| &all[r * width..][..width]).copied().collect()
                };
                let o = &old.state;
                let mut read = gpu.download_all::<u32>(&[&o.seen, &o.token, &o.pos, &o.state, &o.out])?.into_iter();
                let mut next = |width: usize| pick(read.next().unwrap_or_default(), width);
                State {
                    info: gpu.upload(b, 4, &info)?,
                    seen: gpu.upload(b, words, &next(words))?,
                    token: gpu.vector(&next(1))?,
                    pos: gpu.vector(&next(1))?,
                    state: gpu.vector(&next(2))?,
                    out: gpu.upload(b, self.longest, &next(self.longest))?,
                }
            }
        };
        let share = match (&self.choice, older) {
            (None, _) => None,
            (Some(_), Some((Batch { share: Some(old), .. }, kept))) => {
                let all: Vec<f32> = gpu.download(old)?;
                let kept: Vec<f32> =
                    kept.iter().flat_map(|r| &all[r * self.longest..][..self.longest]).copied().collect();
                Some(gpu.upload(b, self.longest, &kept)?)
            }
            (Some(_), _) => Some(gpu.zeros(b, self.longest)?),
        };
        let pages = rows.iter().map(|r| of(r).pages.len()).max().unwrap_or(1);
        let table: Vec<u32> = rows
            .iter()
            .flat_map(|r| (0..pages).map(move |p| sequences[*r].pages.get(p).or(sequences[*r].pages.last())))
            .map(|p| p.copied().unwrap_or(0))
            .collect();
        let place = Rows {
            table: gpu.upload(b, pages, &table)?,
            pos: state.pos.clone(),
            longest: rows.iter().map(|r| of(r).longest()).max().unwrap_or(1),
            window: u32::MAX,
            scale: None,
        };
        let lengths: Vec<u32> = rows.iter().map(|r| of(r).longest() as u32).collect();
        let turns = view::turns(gpu, self.model, &lengths)?;
        let plan = self.step(&state, share.as_ref(), &place, &turns)?;
        Ok(Batch { rows, state, share, plan, _table: place.table, _turns: turns })
    }

    /// The bits of each row's prompt tokens, for the repetition penalty.
    fn seen(&self, rows: &[usize], sequences: &[Sequence], words: usize) -> Vec<u32> {
        let mut bits = vec![0u32; rows.len() * words];
        for (row, r) in bits.chunks_exact_mut(words).zip(rows) {
            for t in &self.requests[sequences[*r].request].prompt {
                row[*t as usize / 32] |= 1 << (t % 32);
            }
        }
        bits
    }

    /// Records one token of every row.
    fn step(&self, state: &State, share: Option<&Tensor>, place: &Rows, turns: &[Turn]) -> Result<Plan> {
        let (gpu, model) = (self.gpu, self.model);
        let mut rec = gpu.record();
        let context = decoder::Context::Arena { arena: &self.arena, rows: place, turns };
        let x = decoder::embed(&mut rec, model, &state.token, place.table.rows)?;
        let (x, delta) = decoder::stack(&mut rec, model, x, &context, drop)?;
        let norm = head::final_norm(&mut rec, model, &x, &delta)?;
        let logits = head::logits(&mut rec, model, &norm.y)?;
        match (&self.choice, share) {
            (Some(choice), Some(share)) => sample::choose(&mut rec, &logits, state, true, choice, share)?,
            _ => {
                let end = (&self.settings.stop[..], self.settings.seed);
                sample::forward(&mut rec, &logits, state, true, &self.settings.sampling, end)?;
            }
        }
        Ok(rec.compile())
    }

    /// Draws each row's first token from its prompt's logits.
    fn pick_first(&self, batch: &Batch, logits: &Tensor) -> Result<()> {
        let mut rec = self.gpu.record();
        match (&self.choice, &batch.share) {
            (Some(choice), Some(share)) => sample::choose(&mut rec, logits, &batch.state, false, choice, share)?,
            _ => {
                let end = (&self.settings.stop[..], self.settings.seed);
                sample::forward(&mut rec, logits, &batch.state, false, &self.settings.sampling, end)?;
            }
        }
        rec.submit()
    }

    fn read(&self, batch: &Batch) -> Result<Read> {
        let s = &batch.state;
        let mut words = self.gpu.download_all::<u32>(&[&s.state, &s.out])?;
        let out = words.pop().unwrap_or_default();
        let state = words.pop().unwrap_or_default();
        let share = match &batch.share {
            Some(t) => Some(self.gpu.download(t)?),
            None => None,
        };
        Ok(Read { count: state.chunks_exact(2).map(|c| c[0]).collect(), out, share, width: self.longest })
    }
}
