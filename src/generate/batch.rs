//! The rows of a step: on the host while the batch is put together, on the GPU while it runs.

use super::Settings;
use super::sequences::Sequence;
use crate::Result;
use crate::gpu::{Gpu, Plan, Recorder, Tensor};
use crate::kernels::arena::Rows;
use crate::kernels::rope::Turn;
use crate::kernels::sample::{self, State};
use crate::kernels::scores::Scores;
use crate::model::context::{Context, Memory, Past};
use crate::model::{Model, decoder, head, view};

/// One sequence that decodes, as a row of its batch.
pub(super) struct Row {
    /// Number of the row's sequence among those of the call.
    pub(super) sequence: usize,
    /// How many tokens have been written.
    pub(super) count: u32,
    /// 1 while the sequence goes on, 0 once it has ended.
    running: u32,
    /// Token that was written last; `pos` is its position.
    token: u32,
    pos: u32,
    /// Bits of the tokens that occur in prompt or answer, for the repetition penalty.
    seen: Vec<u32>,
    /// All tokens written so far, `[longest]`.
    pub(super) out: Vec<u32>,
    /// Where answers are choices: the probability of the first choice at each token.
    pub(super) choice_p: Vec<f32>,
}

impl Row {
    /// The row of a sequence whose prompt is computed and whose first token is not drawn yet.
    pub(super) fn new(number: usize, prompt: &[u32], setup: &DecodeSetup) -> Row {
        let mut seen = vec![0; setup.vocabulary.div_ceil(32)];
        for t in prompt {
            seen[*t as usize / 32] |= 1 << (t % 32);
        }
        let choice_p = if setup.choice.is_some() { vec![0.0; setup.longest] } else { Vec::new() };
        let pos = prompt.len() as u32 - 1;
        Row { sequence: number, count: 0, running: 1, token: 0, pos, seen, out: vec![0; setup.longest], choice_p }
    }
}

/// What all batches of one call have in common.
pub(super) struct DecodeSetup<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) model: &'a Model,
    pub(super) settings: &'a Settings,
    pub(super) vocabulary: usize,
    /// Tokens that the longest answer may have.
    pub(super) longest: usize,
    /// The two tokens between which each token of an answer chooses, `[most tokens, 2]`, where answers are choices.
    pub(super) choice: Option<Tensor>,
}

/// Rows that decode together, with their state on the GPU.
pub(super) struct DecodeBatch {
    /// Number of each row's sequence among those of the call.
    pub(super) sequences: Vec<usize>,
    /// Whether row i draws from row i of the logits; otherwise from the row that it was given.
    identity: bool,
    state: State,
    choice_p: Option<Tensor>,
}

impl DecodeBatch {
    /// A batch of `rows`. Row i draws from row `logits[i]` of the logits, or, where that is not given, from row i.
    pub(super) fn new(
        setup: &DecodeSetup,
        rows: &[Row],
        all: &[Sequence],
        logits: Option<&[u32]>,
    ) -> Result<DecodeBatch> {
        let (gpu, b) = (setup.gpu, rows.len());
        let mut info: Vec<u32> = Vec::with_capacity(4 * b);
        for (i, row) in rows.iter().enumerate() {
            let s = &all[row.sequence];
            let logits_row = logits.and_then(|logits| logits.get(i)).copied().unwrap_or(0);
            info.extend([s.id as u32, (s.id >> 32) as u32, logits_row, s.limit as u32]);
        }
        let words =
            |field: fn(&Row) -> &[u32]| rows.iter().flat_map(|r| field(r).iter().copied()).collect::<Vec<u32>>();
        let state = State {
            info: gpu.upload(b, 4, &info)?,
            seen: gpu.upload(b, setup.vocabulary.div_ceil(32), &words(|r| &r.seen))?,
            token: gpu.vector(&rows.iter().map(|r| r.token).collect::<Vec<_>>())?,
            pos: gpu.vector(&rows.iter().map(|r| r.pos).collect::<Vec<_>>())?,
            state: gpu.vector(&rows.iter().flat_map(|r| [r.count, r.running]).collect::<Vec<_>>())?,
            out: gpu.upload(b, setup.longest, &words(|r| &r.out))?,
        };
        let choice_p = match setup.choice {
            None => None,
            Some(_) => {
                let choice_p: Vec<f32> = rows.iter().flat_map(|r| r.choice_p.iter().copied()).collect();
                Some(gpu.upload(b, setup.longest, &choice_p)?)
            }
        };
        let sequences = rows.iter().map(|r| r.sequence).collect();
        Ok(DecodeBatch { sequences, identity: logits.is_none(), state, choice_p })
    }

    /// Draws every row's next token.
    fn draw(&self, rec: &mut Recorder, setup: &DecodeSetup, logits: &Tensor) -> Result<()> {
        let settings = setup.settings;
        match (&setup.choice, &self.choice_p) {
            (Some(choice), Some(choice_p)) => sample::choose(rec, logits, &self.state, self.identity, choice, choice_p),
            _ => {
                let end = (&settings.stop[..], settings.seed);
                sample::forward(rec, logits, &self.state, self.identity, &settings.sampling, end)
            }
        }
    }

    /// Draws every row's first token from its prompt's logits `[prompts, V]`.
    pub(super) fn first(&self, setup: &DecodeSetup, logits: &Tensor) -> Result<()> {
        let mut rec = setup.gpu.record();
        self.draw(&mut rec, setup, logits)?;
        rec.submit()
    }

    /// Records one decoding step: one more token of every row.
    pub(super) fn step(&self, setup: &DecodeSetup, all: &[Sequence], memory: &[Memory]) -> Result<DecodeStep> {
        let DecodeSetup { gpu, model, .. } = *setup;
        let sequences = || self.sequences.iter().map(|s| &all[*s]);
        let width = sequences().map(|s| s.pages.len()).max().unwrap_or(1);
        let table: Vec<u32> = sequences().flat_map(|s| s.row(width)).collect();
        let rows = Rows {
            table: gpu.upload(self.sequences.len(), width, &table)?,
            pos: self.state.pos.clone(),
            longest: sequences().map(Sequence::longest).max().unwrap_or(1),
            window: u32::MAX,
            scores: Scores::default(),
            sinks: None,
        };
        let turns = view::turns(gpu, model, &sequences().map(|s| s.longest() as u32).collect::<Vec<_>>())?;
        let mut rec = gpu.record();
        let slots = match model.arch.has_past() {
            true => Some(gpu.vector(&sequences().map(|s| s.slot).collect::<Vec<_>>())?),
            false => None,
        };
        let context = Context::Arena(Past::apart(memory, &rows, &turns, slots.as_ref()));
        let x = decoder::embed(&mut rec, model, &self.state.token, self.sequences.len())?;
        let stream = decoder::stack(&mut rec, model, x, &context, drop)?;
        let norm = head::final_norm(&mut rec, model, &stream)?;
        let logits = head::logits(&mut rec, model, &norm.y)?;
        self.draw(&mut rec, setup, &logits)?;
        Ok(DecodeStep { plan: rec.compile(), _table: rows.table, _turns: turns, _slots: slots })
    }

    /// Reads back what was written so far.
    pub(super) fn read(&self, setup: &DecodeSetup) -> Result<Written> {
        let asked: Vec<&Tensor> = [&self.state.state, &self.state.out].into_iter().chain(&self.choice_p).collect();
        let mut words = setup.gpu.download_all::<u32>(&asked)?.into_iter();
        let mut next = || words.next().unwrap_or_default();
        let (state, out) = (next(), next());
        let choice_p = next().into_iter().map(f32::from_bits).collect();
        Ok(Written { count: state.chunks_exact(2).map(|c| c[0]).collect(), out, choice_p })
    }

    /// Reads the rows for which `keep` holds back to the host.
    pub(super) fn take(self, setup: &DecodeSetup, keep: impl Fn(usize) -> bool) -> Result<Vec<Row>> {
        let s = &self.state;
        let asked = [&s.seen, &s.token, &s.pos, &s.state, &s.out].into_iter().chain(&self.choice_p);
        let all = setup.gpu.download_all::<u32>(&asked.collect::<Vec<_>>())?;
        let [seen, token, pos, state, out, choice_p @ ..] = &all[..] else { return Ok(Vec::new()) };
        let choice_p: Vec<f32> = choice_p.iter().flatten().map(|bits| f32::from_bits(*bits)).collect();
        let part = |words: &[u32], row: usize, width: usize| words[row * width..][..width].to_vec();
        let row = |r: usize| Row {
            sequence: self.sequences[r],
            count: state[2 * r],
            running: state[2 * r + 1],
            token: token[r],
            pos: pos[r],
            seen: part(seen, r, setup.vocabulary.div_ceil(32)),
            out: part(out, r, setup.longest),
            choice_p: if choice_p.is_empty() {
                Vec::new()
            } else {
                choice_p[r * setup.longest..][..setup.longest].to_vec()
            },
        };
        Ok((0..self.sequences.len()).filter(|r| keep(*r)).map(row).collect())
    }
}

/// The recording of one decoding step.
pub(super) struct DecodeStep {
    pub(super) plan: Plan,
    /// The recording reads these at every run, so they live as long as it does.
    _table: Tensor,
    _turns: Vec<Turn>,
    _slots: Option<Tensor>,
}

/// Tokens of all rows, read back to the host.
pub(super) struct Written {
    /// How many tokens each row has written.
    pub(super) count: Vec<u32>,
    /// Tokens of each row, `[B, longest]`.
    pub(super) out: Vec<u32>,
    /// Probabilities of the first choices, `[B, longest]`, where answers are choices; otherwise empty.
    pub(super) choice_p: Vec<f32>,
}
