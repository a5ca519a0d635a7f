//! The rows of a step: on the host while the batch is put together, on the GPU while it runs.

use super::Settings;
use super::sequence::Sequence;
use crate::Result;
use crate::gpu::{Gpu, Plan, Recorder, Tensor};
use crate::kernels::arena::{Arena, Rows};
use crate::kernels::rope::Turn;
use crate::kernels::sample::{self, State};
use crate::model::{Model, decoder, head, view};

/// One sequence that decodes, as a row of its batch.
pub(super) struct Row {
    /// Number of the row's sequence in the wave.
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
    pub(super) share: Vec<f32>,
}

impl Row {
    /// The row of a sequence whose prompt is computed and whose first token is not drawn yet.
    pub(super) fn new(number: usize, prompt: &[u32], shape: &Shape) -> Row {
        let mut seen = vec![0; shape.vocabulary.div_ceil(32)];
        for t in prompt {
            seen[*t as usize / 32] |= 1 << (t % 32);
        }
        let share = if shape.choice.is_some() { vec![0.0; shape.longest] } else { Vec::new() };
        let pos = prompt.len() as u32 - 1;
        Row { sequence: number, count: 0, running: 1, token: 0, pos, seen, out: vec![0; shape.longest], share }
    }
}

/// What all batches of a wave have in common.
pub(super) struct Shape<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) model: &'a Model,
    pub(super) settings: &'a Settings,
    pub(super) vocabulary: usize,
    /// Tokens that the longest answer may have.
    pub(super) longest: usize,
    /// The two tokens between which each token of an answer chooses, `[most tokens, 2]`, where answers are choices.
    pub(super) choice: Option<Tensor>,
}

/// Rows whose state lies on the GPU.
pub(super) struct Batch {
    /// Number of each row's sequence in the wave.
    pub(super) sequences: Vec<usize>,
    state: State,
    share: Option<Tensor>,
}

impl Batch {
    /// Row i of `rows` draws its first token from row `logits[i]`.
    pub(super) fn new(shape: &Shape, rows: &[Row], all: &[Sequence], logits: &[u32]) -> Result<Batch> {
        let (gpu, b) = (shape.gpu, rows.len());
        let info: Vec<u32> = rows
            .iter()
            .zip(logits)
            .flat_map(|(r, l)| {
                let s = &all[r.sequence];
                [s.id as u32, (s.id >> 32) as u32, *l, s.limit as u32]
            })
            .collect();
        let words = |of: fn(&Row) -> &[u32]| rows.iter().flat_map(|r| of(r).iter().copied()).collect::<Vec<u32>>();
        let state = State {
            info: gpu.upload(b, 4, &info)?,
            seen: gpu.upload(b, shape.vocabulary.div_ceil(32), &words(|r| &r.seen))?,
            token: gpu.vector(&rows.iter().map(|r| r.token).collect::<Vec<_>>())?,
            pos: gpu.vector(&rows.iter().map(|r| r.pos).collect::<Vec<_>>())?,
            state: gpu.vector(&rows.iter().flat_map(|r| [r.count, r.running]).collect::<Vec<_>>())?,
            out: gpu.upload(b, shape.longest, &words(|r| &r.out))?,
        };
        let share = match shape.choice {
            None => None,
            Some(_) => {
                let share: Vec<f32> = rows.iter().flat_map(|r| r.share.iter().copied()).collect();
                Some(gpu.upload(b, shape.longest, &share)?)
            }
        };
        Ok(Batch { sequences: rows.iter().map(|r| r.sequence).collect(), state, share })
    }

    /// Draws every row's next token. With `identity` row i reads row i of the logits, otherwise the row that it was
    /// given when the batch was made.
    fn draw(&self, rec: &mut Recorder, shape: &Shape, logits: &Tensor, identity: bool) -> Result<()> {
        let settings = shape.settings;
        match (&shape.choice, &self.share) {
            (Some(choice), Some(share)) => sample::choose(rec, logits, &self.state, identity, choice, share),
            _ => {
                let end = (&settings.stop[..], settings.seed);
                sample::forward(rec, logits, &self.state, identity, &settings.sampling, end)
            }
        }
    }

    /// Draws every row's first token from its prompt's logits `[prompts, V]`.
    pub(super) fn first(&self, shape: &Shape, logits: &Tensor) -> Result<()> {
        let mut rec = shape.gpu.record();
        self.draw(&mut rec, shape, logits, false)?;
        rec.submit()
    }

    /// Records one decoding step: one more token of every row.
    pub(super) fn step(&self, shape: &Shape, all: &[Sequence], arena: &[Arena]) -> Result<Step> {
        let Shape { gpu, model, .. } = *shape;
        let of = || self.sequences.iter().map(|s| &all[*s]);
        let width = of().map(|s| s.pages.len()).max().unwrap_or(1);
        let table: Vec<u32> = of().flat_map(|s| s.row(width)).collect();
        let rows = Rows {
            table: gpu.upload(self.sequences.len(), width, &table)?,
            pos: self.state.pos.clone(),
            longest: of().map(Sequence::longest).max().unwrap_or(1),
            window: u32::MAX,
            scale: None,
        };
        let turns = view::turns(gpu, model, &of().map(|s| s.longest() as u32).collect::<Vec<_>>())?;
        let mut rec = gpu.record();
        let context = decoder::Context::Arena(decoder::Past::apart(arena, &rows, &turns));
        let x = decoder::embed(&mut rec, model, &self.state.token, self.sequences.len())?;
        let (x, delta) = decoder::stack(&mut rec, model, x, &context, drop)?;
        let norm = head::final_norm(&mut rec, model, &x, &delta)?;
        let logits = head::logits(&mut rec, model, &norm.y)?;
        self.draw(&mut rec, shape, &logits, true)?;
        Ok(Step { plan: rec.compile(), _table: rows.table, _turns: turns })
    }

    /// Reads back what was written so far.
    pub(super) fn read(&self, shape: &Shape) -> Result<Written> {
        let mut words = shape.gpu.download_all::<u32>(&[&self.state.state, &self.state.out])?.into_iter();
        let mut next = || words.next().unwrap_or_default();
        let (state, out) = (next(), next());
        let share = match &self.share {
            Some(t) => shape.gpu.download(t)?,
            None => Vec::new(),
        };
        Ok(Written { count: state.chunks_exact(2).map(|c| c[0]).collect(), out, share })
    }

    /// Reads the rows for which `keep` holds back to the host.
    pub(super) fn take(self, shape: &Shape, keep: impl Fn(usize) -> bool) -> Result<Vec<Row>> {
        let s = &self.state;
        let share = match &self.share {
            Some(t) => shape.gpu.download(t)?,
            None => Vec::new(),
        };
        let all = shape.gpu.download_all::<u32>(&[&s.seen, &s.token, &s.pos, &s.state, &s.out])?;
        let [seen, token, pos, state, out] = &all[..] else { return Ok(Vec::new()) };
        let of = |words: &[u32], row: usize, width: usize| words[row * width..][..width].to_vec();
        let row = |r: usize| Row {
            sequence: self.sequences[r],
            count: state[2 * r],
            running: state[2 * r + 1],
            token: token[r],
            pos: pos[r],
            seen: of(seen, r, shape.vocabulary.div_ceil(32)),
            out: of(out, r, shape.longest),
            share: if share.is_empty() { Vec::new() } else { share[r * shape.longest..][..shape.longest].to_vec() },
        };
        Ok((0..self.sequences.len()).filter(|r| keep(*r)).map(row).collect())
    }
}

/// The recording of one decoding step.
pub(super) struct Step {
    pub(super) plan: Plan,
    /// The recording reads `_table` and `_turns` at every run, so they live as long as it does.
    _table: Tensor,
    _turns: Vec<Turn>,
}

/// Tokens of all rows, read back to the host.
pub(super) struct Written {
    /// How many tokens each row has written.
    pub(super) count: Vec<u32>,
    /// Tokens of each row, `[B, longest]`.
    pub(super) out: Vec<u32>,
    /// Probabilities of the first choices, `[B, longest]`, where answers are choices; otherwise empty.
    pub(super) share: Vec<f32>,
}
