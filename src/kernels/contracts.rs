//! Launchers refuse shapes that would lead a kernel outside its buffers, before anything is recorded.

use super::adamw::{self, Codes, Moments, Origin, Rates};
use super::arena::{Arena, KvType, PAGE, Rows};
use super::embedding::{self, ByToken};
use super::heads::Heads;
use super::log_softmax::{self, Targets};
use super::mask::{Attended, Mask};
use super::rms_norm::{self, Gain, Norm};
use super::rope::{self, Rotary, Turn};
use super::sample::{self, Sampling, State};
use super::scores::Scores;
use super::weight::{Block, Weight};
use super::{attention, attention_backward, attention_decode, kv_write, rows, swiglu};
use crate::arch::Activation;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::layout::Forest;
use crate::{Error, Result};

const HEADS: Heads = Heads { heads: 2, kv_heads: 1, head_dim: 8 };

struct Refused<'g> {
    gpu: &'g Gpu,
}

impl Refused<'_> {
    fn room(&self, rows: usize, cols: usize) -> Tensor {
        self.gpu.zeros(rows, cols).unwrap()
    }

    fn ids(&self, count: usize) -> Tensor {
        self.gpu.vector(&vec![0u32; count]).unwrap()
    }

    /// The launch must not be taken, and what it says must name the tensor that is wrong.
    fn is(&self, says: &str, launch: impl FnOnce(&mut Recorder) -> Result<()>) {
        let mut rec = self.gpu.record();
        match launch(&mut rec) {
            Err(Error::Bug(what)) => assert!(what.contains(says), "{what:?} does not say {says:?}"),
            other => panic!("{says}: {other:?}"),
        }
        assert_eq!(rec.len(), 0, "{says}: something was recorded");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let t = Refused { gpu: &gpu };
    let act = Activation::Silu;
    t.is("gate and up", |rec| swiglu::backward(rec, act, &t.room(2, 16), &t.room(2, 8), &t.room(1, 16)));

    let by = ByToken::new(&gpu, &[1, 2, 1], None).unwrap();
    let table = Weight::from(t.room(4, 5));
    t.is("3 listed rows", |rec| embedding::backward(rec, &by, &t.room(2, 4), (&table, 1.0)));
    t.is("4 channels", |rec| embedding::backward(rec, &by, &t.room(3, 8), (&table, 1.0)));

    t.is("row numbers", |rec| rows::gather(rec, &t.room(4, 4), &t.ids(1), &t.room(2, 4)));

    let (h, w) = (t.room(3, 8), t.room(1, 8));
    let norm = Norm { h: h.clone(), y: h.clone(), inv: t.room(1, 2) };
    let gain = Gain { weight: &w, plus_one: false };
    t.is("RMSNorm's factors", |rec| rms_norm::backward(rec, &norm, gain, &h, (&h, false), None));
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let t = Refused { gpu: &gpu };
    let width = HEADS.width();
    let (qkv, arena) = (t.room(3, width), Arena::room(&gpu, 2, HEADS, KvType::F32).unwrap());
    let odd = Heads { kv_heads: 3, ..HEADS };
    t.is("share 3 key heads evenly", |rec| kv_write::listed(rec, &qkv, odd, (&t.ids(3), &t.ids(3)), &arena));
    t.is("where Heads", |rec| kv_write::listed(rec, &t.room(3, 8), HEADS, (&t.ids(3), &t.ids(3)), &arena));
    let other = Arena { values: t.room(PAGE, 8), ..arena.clone() };
    t.is("an arena of keys", |rec| kv_write::listed(rec, &qkv, HEADS, (&t.ids(3), &t.ids(3)), &other));
    let half = Arena { kv: KvType::F16, keys: t.room(PAGE / 2, 8), values: t.room(PAGE / 2, 8) };
    let many = Heads { kv_heads: 2, ..HEADS };
    let wide = t.room(3, many.width());
    t.is("an arena of keys", |rec| kv_write::listed(rec, &wide, many, (&t.ids(3), &t.ids(3)), &half));
    t.is("where Heads", |rec| kv_write::settle(rec, &t.room(3, 8), HEADS, KvType::F16));

    let (pos, few) = (t.ids(3), t.ids(2));
    let turn = |turned: usize, starts: usize| Turn::new(&gpu, t.room(4, turned), &vec![0; starts]).unwrap();
    let (fine, narrow, short) = (turn(8, 3), turn(10, 3), turn(8, 2));
    let place = Rotary { heads: HEADS, pos: &pos, turn: Some(&fine), qk_norm: None, growth: None };
    let gain = t.room(1, 8);
    let qk_norm = Some((Gain { weight: &gain, plus_one: false }, 1e-6));
    for (says, place) in [
        ("the positions", Rotary { pos: &few, ..place.clone() }),
        ("10 channels turn", Rotary { turn: Some(&narrow), ..place.clone() }),
        ("angles of rows begin", Rotary { turn: Some(&short), ..place.clone() }),
        ("gain of QK-norm", Rotary { qk_norm, ..place.clone() }),
    ] {
        t.is(says, |rec| rope::forward(rec, &place, &qkv).map(drop));
    }

    let scores = Scores::default();
    let rows = Rows { table: t.room(3, 1), pos: pos.clone(), longest: 4, window: u32::MAX, scores, sinks: None };
    let decode = |rows: Rows| {
        let (qkv, arena) = (qkv.clone(), arena.clone());
        move |rec: &mut Recorder| attention_decode::forward(rec, &qkv, HEADS, &arena, &rows).map(drop)
    };
    t.is("pages of 2 rows", decode(Rows { table: t.room(2, 1), ..rows.clone() }));
    t.is("has pages for 32", decode(Rows { longest: 33, ..rows.clone() }));
    t.is("positions of a step", decode(Rows { pos: few.clone(), ..rows.clone() }));
    t.is("pages of 2 rows", |rec| {
        rope::decode(rec, &place, &qkv, &Rows { table: t.room(2, 1), ..rows.clone() }, &arena)
    });

    let mut forest = Forest::new();
    forest.leaf(&[1, 2]);
    let mask = Mask::new(&gpu, &forest, None).unwrap();
    t.is("a mask of 2 rows for 3", |rec| attention::forward(rec, &qkv, HEADS, &mask).map(drop));
    let qkv = t.room(2, width);
    let out = Attended { o: t.room(2, 16), lse: t.room(1, 2) };
    t.is("log-sums", |rec| attention_backward::backward(rec, &qkv, HEADS, &mask, &out, &t.room(2, 16)).map(drop));
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let t = Refused { gpu: &gpu };
    let start = gpu.vector(&[0u32, 1, 2]).unwrap();
    let targets = Targets { start, target: t.ids(2), sequence: t.ids(2), sequences: 2 };
    let (logits, two, one) = (t.room(2, 5), t.room(1, 2), t.room(1, 1));
    t.is("targets of rows begin", |rec| log_softmax::forward(rec, &logits, &targets, 1, [&two; 3]));
    t.is("log-sums of rows", |rec| log_softmax::forward(rec, &logits, &targets, 0, [&one, &two, &two]));
    t.is("each target", |rec| log_softmax::forward(rec, &logits, &targets, 0, [&two, &one, &two]));
    t.is("coefficients", |rec| log_softmax::backward(rec, &logits, &targets, 0, [&two; 2], (&one, None)));

    let (b, v) = (2, 40);
    let state = State {
        info: t.room(b, 4),
        seen: t.room(b, 2),
        token: t.ids(b),
        pos: t.ids(b),
        state: t.ids(2 * b),
        out: t.room(b, 3),
    };
    let logits = t.room(b, v);
    let draw = |logits: &Tensor, state: State| {
        let logits = logits.clone();
        move |rec: &mut Recorder| sample::forward(rec, &logits, &state, true, &Sampling::default(), (&[], 0))
    };
    t.is("the last tokens", draw(&logits, State { token: t.ids(1), ..state.clone() }));
    t.is("the last positions", draw(&logits, State { pos: t.ids(1), ..state.clone() }));
    t.is("state of rows", draw(&logits, State { state: t.ids(b), ..state.clone() }));
    t.is("tokens written", draw(&logits, State { out: t.room(1, 3), ..state.clone() }));
    t.is("a vocabulary of 40", draw(&logits, State { seen: t.room(b, 1), ..state.clone() }));
    t.is("for 2 rows", draw(&t.room(1, v), state.clone()));
    t.is("the choices", |rec| sample::choose(rec, &logits, &state, true, &t.ids(4), &t.room(b, 3)));
    t.is("first choices", |rec| sample::choose(rec, &logits, &state, true, &t.ids(6), &t.room(b, 2)));
}

#[test]
fn optimiser_states_that_do_not_fit_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let t = Refused { gpu: &gpu };
    let (grad, norm) = (t.room(3, 5), t.room(1, 2));
    t.is("sums of squares", |rec| adamw::square_sum(rec, &grad, &t.room(1, 1), 1));
    t.is("gradient's norm", |rec| adamw::clip(rec, &t.room(1, 1), 1.0, &t.room(1, 1)));
    let rates = Rates { lr: 0.1, betas: [0.9; 2], eps: 1e-8, weight_decay: 0.0, step: 1, seed: 0 };
    let (block, part) = (Block::Dense(t.room(3, 5)), Origin { cols: 5, ..Origin::default() });
    let small = t.room(3, 4);
    t.is("a moment", |rec| adamw::step(rec, &rates, (&grad, &norm), (&block, part), Moments::F32([&grad, &small])));
    let codes = Codes::new(&gpu).unwrap();
    t.is("an 8-bit moment", |rec| {
        adamw::step(rec, &rates, (&grad, &norm), (&block, part), Moments::Bits8([&grad, &small], &codes))
    });
    t.is("a gradient", |rec| adamw::step(rec, &rates, (&small, &norm), (&block, part), Moments::F32([&grad, &grad])));
}
