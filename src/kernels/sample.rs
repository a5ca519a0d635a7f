//! The next token of every row, drawn on the GPU; the host sees tokens only every few steps.

use super::case::{Case, Kernel};
use super::sizes::{lanes, row_groups, stream};
use super::way::{Traits, Way};
use crate::gpu::Value::{Float, Size, Word, Words};
use crate::gpu::{Launch, Param, Recorder, Source, Tensor, Variant, fold};
use crate::rng::{halves, philox};
use crate::settings::{Range, Takes, settings};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "sample",
    soft: include_str!("../../shaders/sample.wgsl"),
    tile: include_str!("../../shaders/sample.wgsl"),
    libs: &["grid", "reduce", "philox", "keys"],
    tile_size: 128,
};

/// The text with a workgroup for each row in the soft variant too.
static BY_WORKGROUP: Source =
    Source { name: "sample.by_workgroup", libs: &["grid", "reduce.tile", "philox", "keys"], ..SOURCE };

/// Vocabulary from which on a software adapter's lanes share a row: a row goes through it 2 to 6 times, which costs
/// more than the barriers between. It does not depend on the number of rows, which so changes no bit.
const SHARED: usize = 4096;

/// The text of [`forward`].
fn source(traits: &Traits, vocabulary: usize) -> &'static Source {
    match traits.variant {
        Variant::Soft if vocabulary >= SHARED => &BY_WORKGROUP,
        _ => &SOURCE,
    }
}

fn ways(traits: &Traits) -> Vec<Way> {
    let forward = [1, SHARED].map(|vocabulary| Way::new(source(traits, vocabulary), traits, "forward", []));
    forward.into_iter().chain([Way::new(&SOURCE, traits, "choose", [])]).collect()
}

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "repetition penalty, temperature, top-k, top-p, min-p, draw by Philox",
    ways,
    ordered: &[],
    cases,
};

/// Stop tokens that fit into the parameters.
pub(crate) const MOST_STOPS: usize = 16;

settings! {
    /// How a token is drawn: repetition penalty, temperature, top-k, top-p, min-p, in this order.
    pub struct Sampling {
        /// Softmax temperature; 0 is greedy. The lowest id wins among equal logits.
        temperature: f32 = 1.0 => "temperature", "T", Takes::Number(Range::AtLeast0);
        /// Keep the K likeliest tokens; 0 is off.
        top_k: usize = 0 => "top_k", "K", Takes::Whole(0);
        /// Keep the smallest set of likeliest tokens that reaches this probability; 1 is off. The crossing token stays.
        top_p: f32 = 1.0 => "top_p", "P", Takes::Number(Range::Above0To1);
        /// Drop tokens less likely than this share of the likeliest one; 0 is off.
        min_p: f32 = 0.0 => "min_p", "P", Takes::Number(Range::From0To1);
        /// Make tokens that occurred already less likely; 1 is off. Their positive logits are divided by it, negative
        /// ones multiplied.
        repetition_penalty: f32 = 1.0 => "repetition_penalty", "R", Takes::Number(Range::Above0);
    }
}

impl Sampling {
    /// Whether top-k, top-p or min-p may cut the vocabulary and a token is then drawn at random.
    fn cuts(&self, vocabulary: usize) -> bool {
        let by_rank = (1..vocabulary).contains(&self.top_k);
        self.temperature > 0.0 && (by_rank || self.top_p < 1.0 || self.min_p > 0.0)
    }
}

/// The rows being generated, on the GPU.
#[derive(Clone)]
pub(crate) struct State {
    /// (record id low, high, logits row, most tokens) of each row, `[B, 4]`.
    pub(crate) info: Tensor,
    /// Bits of the tokens in prompt and answer, `[B, V / 32]`.
    pub(crate) seen: Tensor,
    /// The token last written, `[B]`.
    pub(crate) token: Tensor,
    /// The position of that token, `[B]`.
    pub(crate) pos: Tensor,
    /// (tokens written, 1 while running), `[1, 2 B]`.
    pub(crate) state: Tensor,
    /// All tokens written, `[B, most tokens]`.
    pub(crate) out: Tensor,
}

impl State {
    /// Refuses arrays of different numbers of rows, and logits of a larger vocabulary or, where row b draws from row b
    /// (`identity`), of fewer rows.
    fn expect(&self, logits: &Tensor, identity: bool) -> Result<()> {
        let rows = self.info.rows();
        self.info.expect_shape("the rows being generated", rows, 4)?;
        self.token.expect_vector("the last tokens", rows)?;
        self.pos.expect_vector("the last positions", rows)?;
        self.state.expect_vector("the state of rows", 2 * rows)?;
        self.out.expect_shape("the tokens written", rows, self.out.cols())?;
        if self.seen.rows() != rows || 32 * self.seen.cols() < logits.cols() {
            let (seen, vocabulary) = (self.seen.shape(), logits.cols());
            return Err(Error::Bug(format!("bits {seen:?} of {rows} rows for a vocabulary of {vocabulary}")));
        }
        if logits.cols() == 0 || (identity && logits.rows() < rows) {
            return Err(Error::Bug(format!("logits {:?} for {rows} rows", logits.shape())));
        }
        Ok(())
    }
}

/// The parameters of a launch; `stop` holds `stops` tokens and zeros behind them.
fn params<'a>(
    logits: &Tensor,
    state: &State,
    identity: bool,
    s: &Sampling,
    (stop, stops): (&'a [u32; MOST_STOPS], usize),
    seed: &'a [u32; 2],
) -> [Param<'a>; 16] {
    [
        ("rows", Size(state.info.rows())),
        ("cols", Size(logits.cols())),
        ("ld", Size(logits.ld())),
        ("seen_ld", Size(state.seen.ld())),
        ("out_ld", Size(state.out.ld())),
        ("identity", Word(identity.into())),
        ("stops", Size(stops)),
        ("top_k", Size(s.top_k)),
        ("penalty", Float(s.repetition_penalty)),
        ("temperature", Float(s.temperature)),
        ("top_p", Float(s.top_p)),
        ("min_p", Float(s.min_p)),
        ("seed", Words(seed)),
        ("cuts", Word(s.cuts(logits.cols()).into())),
        ("pad", Word(0)),
        ("stop", Words(stop)),
    ]
}

/// Draws a token for each of `rows` rows and moves them on. Row b has logits row b, or (not `identity`) `info[b].z`.
///
/// # Errors
/// Too many stop tokens; shapes that do not fit.
pub(crate) fn forward(
    rec: &mut Recorder,
    logits: &Tensor,
    state: &State,
    identity: bool,
    sampling: &Sampling,
    (stop, seed): (&[u32], u64),
) -> Result<()> {
    if stop.len() > MOST_STOPS {
        return Err(Error::Input(format!("{} stop tokens; at most {MOST_STOPS} are possible", stop.len())));
    }
    state.expect(logits, identity)?;
    let mut padded = [0; MOST_STOPS];
    padded[..stop.len()].copy_from_slice(stop);
    let rows = state.info.rows();
    let list = match sampling.cuts(logits.cols()) {
        true => rec.gpu().empty(rows, logits.cols())?,
        false => rec.gpu().empty(1, 1)?,
    };
    let source = source(&Traits::of(rec), logits.cols());
    let shared = std::ptr::eq(source, &BY_WORKGROUP);
    let groups = if shared { fold(rows) } else { row_groups(source, rec.variant(), rows) };
    rec.launch(Launch {
        source,
        entry: "forward",
        constants: vec![],
        params: &params(logits, state, identity, sampling, (&padded, stop.len()), &halves(seed)),
        bind: &[logits, &state.info, &state.seen, &state.token, &state.pos, &state.state, &state.out, &list],
        groups,
        cost: stream(&[logits], 4.0),
    })
}

/// Writes the likelier token of choice `[most tokens, 2]` and the first one's share into `share` (shaped as `out`).
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn choose(
    rec: &mut Recorder,
    logits: &Tensor,
    state: &State,
    identity: bool,
    choice: &Tensor,
    share: &Tensor,
) -> Result<()> {
    let rows = state.info.rows();
    state.expect(logits, identity)?;
    choice.expect_vector("the choices", 2 * state.out.cols())?;
    share.expect_shape("the shares of first choices", rows, state.out.cols())?;
    rec.launch(Launch {
        source: &SOURCE,
        entry: "choose",
        constants: vec![],
        params: &params(logits, state, identity, &Sampling::default(), (&[0; MOST_STOPS], 0), &[0; 2]),
        bind: &[logits, &state.info, choice, &state.token, &state.pos, &state.state, &state.out, share],
        groups: lanes(&SOURCE, rec.variant(), rows),
        cost: stream(&[share], 4.0),
    })
}

/// The order of tokens (logit down, id up), how many of it are kept, and their logits after penalty and temperature.
fn kept(logits: &[f32], seen: &[bool], s: &Sampling) -> (Vec<usize>, Vec<f64>) {
    let x: Vec<f64> = logits
        .iter()
        .zip(seen)
        .map(|(l, seen)| {
            let l = f64::from(*l);
            let r = f64::from(s.repetition_penalty);
            let l = if !*seen {
                l
            } else if l > 0.0 {
                l / r
            } else {
                l * r
            };
            // -0 and 0 are equal logits, of which the order that follows would make two.
            0.0 + if s.temperature == 0.0 { l } else { l / f64::from(s.temperature) }
        })
        .collect();
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    if s.temperature == 0.0 {
        order.truncate(1);
        return (order, x);
    }
    if s.top_k > 0 {
        order.truncate(s.top_k);
    }
    let top = x[order[0]];
    let mass = |v: usize| (x[v] - top).exp();
    if s.top_p < 1.0 {
        let all: f64 = order.iter().map(|v| mass(*v)).sum();
        let mut sum = 0.0;
        let n = order
            .iter()
            .take_while(|v| {
                let go = sum < f64::from(s.top_p) * all;
                sum += mass(**v);
                go
            })
            .count();
        order.truncate(n.max(1));
    }
    if s.min_p > 0.0 {
        let n = order.iter().take_while(|v| mass(**v) >= f64::from(s.min_p)).count();
        order.truncate(n.max(1));
    }
    (order, x)
}

/// The token that the draw `u` in [0, 1) gives, and how near (as a share of all weight) the nearest other outcome is.
pub fn twin(logits: &[f32], seen: &[bool], s: &Sampling, u: f64) -> (u32, f64) {
    let (mut order, x) = kept(logits, seen, s);
    let top = x[order[0]];
    order.sort_unstable();
    let all: f64 = order.iter().map(|v| (x[*v] - top).exp()).sum();
    let (mut sum, mut near) = (0.0, f64::INFINITY);
    let mut chosen = order[order.len() - 1];
    let mut found = false;
    for v in order {
        near = f64::min(near, (sum - u * all).abs() / all);
        sum += (x[v] - top).exp();
        if !found && u * all < sum {
            (chosen, found) = (v, true);
            near = f64::min(near, (sum - u * all) / all);
        }
    }
    (chosen as u32, near)
}

fn cases() -> Vec<Case> {
    let s = Sampling::default;
    let settings = [
        ("greedy", Sampling { temperature: 0.0, ..s() }),
        ("plain", s()),
        ("temperature", Sampling { temperature: 0.6, ..s() }),
        ("top-k", Sampling { top_k: 5, ..s() }),
        ("top-p", Sampling { top_p: 0.8, temperature: 0.7, ..s() }),
        ("min-p", Sampling { min_p: 0.1, ..s() }),
        ("all", Sampling { repetition_penalty: 1.3, temperature: 0.9, top_k: 20, top_p: 0.9, min_p: 0.02 }),
        ("top-p 0", Sampling { top_p: 0.0, ..s() }),
    ];
    let mut all = Vec::new();
    for (rows, v) in [(1, 1), (7, 33), (33, 128), (9, 5003)] {
        for (what, sampling) in settings.clone() {
            all.push(Case::new(format!("forward {what} {rows}x{v}"), 0.0, move |t| {
                // Coarse values make ties common.
                let logits: Vec<f32> = t.values(rows * v).iter().map(|x| (x * 8.0).round() / 4.0).collect();
                let seen: Vec<bool> = (0..rows * v).map(|_| t.below(4) == 0).collect();
                let (out_len, seed) = (8, 0x1234_5678_9abc_def0u64);
                let ids: Vec<u64> = (0..rows).map(|_| t.word()).collect();
                let words = v.div_ceil(32);
                let mut bits = vec![0u32; rows * words];
                for (i, _) in seen.iter().enumerate().filter(|(_, s)| **s) {
                    bits[i / v * words + i % v / 32] |= 1 << (i % v % 32);
                }
                let info: Vec<u32> = ids
                    .iter()
                    .enumerate()
                    .flat_map(|(b, id)| [*id as u32, (*id >> 32) as u32, b as u32, out_len as u32])
                    .collect();
                let mut start: Vec<u32> = (0..rows as u32).flat_map(|b| [b % 7, 1]).collect();
                start[0] = 7;
                let state = State {
                    info: t.gpu.upload(rows, 4, &info)?,
                    seen: t.gpu.upload(rows, words, &bits)?,
                    token: t.gpu.vector(&vec![0u32; rows])?,
                    pos: t.gpu.vector(&(0..rows as u32).collect::<Vec<_>>())?,
                    state: t.gpu.vector(&start)?,
                    out: t.gpu.upload(rows, out_len, &vec![0u32; rows * out_len])?,
                };
                let l = t.gpu.upload(rows, v, &logits)?;
                let want: Vec<(u32, f64)> = (0..rows)
                    .map(|b| {
                        let counter = [start[2 * b], 0, ids[b] as u32, (ids[b] >> 32) as u32];
                        let u = f64::from(philox(counter, [seed as u32, (seed >> 32) as u32])[0] >> 8) / 16_777_216.0;
                        twin(&logits[b * v..][..v], &seen[b * v..][..v], &sampling, u)
                    })
                    .collect();
                // A draw on the border between two tokens may fall either way in f32: such a row ends as a stop would
                // change, so choose the stop among clear ones.
                let clear = want.iter().all(|w| w.1 > 1e-6 || sampling.temperature == 0.0);
                let stop = want[rows / 2].0;
                forward(&mut t.rec, &l, &state, true, &sampling, (&[stop], seed))?;
                if clear {
                    t.expect_words("token", &state.token, || want.iter().map(|w| w.0).collect());
                    t.expect_words("pos", &state.pos, || (1..=rows as u32).collect());
                    t.expect_words("state", &state.state, || {
                        (0..rows)
                            .flat_map(|b| {
                                let n = start[2 * b] + 1;
                                [n, u32::from((n as usize) < out_len && want[b].0 != stop)]
                            })
                            .collect()
                    });
                }
                Ok(())
            }));
        }
    }
    for (what, rows, sampling) in [
        ("greedy", 1, Sampling { temperature: 0.0, ..s() }),
        ("plain", 1, s()),
        ("top-p", 1, Sampling { top_p: 0.9, temperature: 0.7, ..s() }),
        ("top-p", 32, Sampling { top_p: 0.9, temperature: 0.7, ..s() }),
    ] {
        all.push(Case::timed(format!("forward {what} {rows}x49152"), move |t| {
            let wide: Vec<f32> = t.values(rows * 49_152).iter().map(|x| 20.0 * x).collect();
            let logits = t.gpu.upload(rows, 49_152, &wide)?;
            let info: Vec<u32> = (0..rows as u32).flat_map(|b| [b, 0, b, u32::MAX]).collect();
            let state = State {
                info: t.gpu.upload(rows, 4, &info)?,
                seen: t.gpu.zeros(rows, 49_152 / 32)?,
                token: t.gpu.vector(&vec![0u32; rows])?,
                pos: t.gpu.vector(&vec![0u32; rows])?,
                // No row is running, so that each run draws the same.
                state: t.gpu.vector(&vec![0u32; 2 * rows])?,
                out: t.gpu.zeros(rows, 4)?,
            };
            forward(&mut t.rec, &logits, &state, true, &sampling, (&[], 7))?;
            t.expect("logits", &logits, Vec::new);
            Ok(())
        }));
    }
    all.extend([9usize, 301].map(|rows| {
        Case::new(format!("choose {rows}x33"), 1e-6, move |t| {
            let (logits, host) = t.matrix(rows, 33)?;
            let pairs: Vec<[u32; 2]> = (0..4).map(|i| [i * 3 + 1, i * 5 + 2]).collect();
            let info: Vec<u32> = (0..rows as u32).flat_map(|b| [b, 0, rows as u32 - 1 - b, 4]).collect();
            let start: Vec<u32> = (0..rows as u32).flat_map(|b| [b % 4, 1]).collect();
            let state = State {
                info: t.gpu.upload(rows, 4, &info)?,
                seen: t.gpu.zeros(rows, 2)?,
                token: t.gpu.vector(&vec![0u32; rows])?,
                pos: t.gpu.vector(&vec![5u32; rows])?,
                state: t.gpu.vector(&start)?,
                out: t.gpu.upload(rows, 4, &vec![0u32; 4 * rows])?,
            };
            let choice = t.gpu.vector(&pairs.concat())?;
            let share = t.gpu.zeros(rows, 4)?;
            choose(&mut t.rec, &logits, &state, false, &choice, &share)?;
            let gap = |b: usize| {
                let [x, y] = pairs[b % 4];
                host[(rows - 1 - b) * 33 + x as usize] - host[(rows - 1 - b) * 33 + y as usize]
            };
            t.expect_words("token", &state.token, || {
                (0..rows).map(|b| pairs[b % 4][usize::from(gap(b) < 0.0)]).collect()
            });
            t.expect("share", &share, || {
                let one = |b: usize, i: usize| if i == b % 4 { 1.0 / (1.0 + (-gap(b)).exp()) } else { 0.0 };
                (0..4 * rows).map(|i| one(i / 4, i % 4)).collect()
            });
            Ok(())
        })
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, Options};

    /// What is drawn enters the next step as a token, so it must be one.
    #[test]
    fn no_number_draws_a_token_all_the_same() {
        for variant in [Variant::Soft, Variant::Tile] {
            let gpu = Gpu::with(&Options { variant: Some(variant), ..Options::default() }).unwrap();
            for (what, sampling) in [
                ("greedy", Sampling { temperature: 0.0, ..Sampling::default() }),
                ("plain", Sampling::default()),
                ("cut", Sampling { top_k: 5, top_p: 0.9, min_p: 0.1, ..Sampling::default() }),
            ] {
                let (rows, vocabulary) = (2, 64);
                let state = State {
                    info: gpu.upload(rows, 4, &[0u32, 0, 0, 3, 1, 0, 1, 3]).unwrap(),
                    seen: gpu.zeros(rows, 2).unwrap(),
                    token: gpu.vector(&[0u32; 2]).unwrap(),
                    pos: gpu.vector(&[0u32; 2]).unwrap(),
                    state: gpu.vector(&[0u32, 1, 0, 1]).unwrap(),
                    out: gpu.zeros(rows, 3).unwrap(),
                };
                let logits = gpu.upload(rows, vocabulary, &vec![f32::NAN; rows * vocabulary]).unwrap();
                let mut rec = gpu.record();
                forward(&mut rec, &logits, &state, true, &sampling, (&[], 7)).unwrap();
                rec.submit().unwrap();
                let drawn = gpu.download::<u32>(&state.token).unwrap();
                assert!(drawn.iter().all(|t| (*t as usize) < vocabulary), "{variant:?} {what}: {drawn:?}");
            }
        }
    }
}
