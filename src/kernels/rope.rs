//! Rotary position embedding (arXiv 2104.09864, half-split form) on the fused q, k, v rows, with QK-norm.

use super::arena::{Arena, KvType, PAGE, Rows};
use super::case::{Case, Kernel};
use super::heads::{EXAMPLES, Heads};
use super::inputs::{head_matrix, pad_heads};
use super::rms_norm::Gain;
use super::scores::Scores;
use super::sizes::{lanes, stream};
use super::way::{Constant, Traits, Way};
use crate::arch::QueryGrowth;
use crate::gpu::Value::{Float, Size, Word};
use crate::gpu::{Gpu, Launch, Param, Recorder, Source, Tensor, pad4};
use crate::{Error, Result};
use std::ops::Range;

static SOURCE: Source = Source {
    name: "rope",
    soft: include_str!("../../shaders/rope.wgsl"),
    tile: include_str!("../../shaders/rope.wgsl"),
    libs: &["grid", "pages"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "rotary embedding of q and k, QK-norm, a step's keys and values into the arena",
    ways,
    ordered: &[],
    cases,
};

/// cos and sin of every position's angles, `[positions, rotated channels]` (cos first), the sections (frequencies,
/// number of positions) below one another. Computed on the host: a GPU's sine is too coarse for large arguments. The
/// product position x frequency is rounded to f32, as transformers does.
///
/// # Errors
/// Out of memory.
pub(crate) fn angles(gpu: &Gpu, sections: &[(&[f32], usize)], scaling: f32) -> Result<Tensor> {
    let half = sections.first().map_or(0, |s| s.0.len());
    let table = gpu.room(sections.iter().map(|s| s.1).sum(), 2 * half)?;
    let mut first = 0;
    for (inv_freq, positions) in sections {
        make_angles(gpu, &table, first, (inv_freq, 0..*positions), scaling)?;
        first += positions;
    }
    Ok(table)
}

/// Fills the rows of some positions of a table of [`angles`], whose section of these frequencies begins at row `first`;
/// no unsubmitted launch reads them.
///
/// # Errors
/// The table has fewer rows.
pub(crate) fn make_angles(
    gpu: &Gpu,
    table: &Tensor,
    first: usize,
    (inv_freq, positions): (&[f32], Range<usize>),
    scaling: f32,
) -> Result<()> {
    if gpu.counts() {
        return Ok(());
    }
    let (half, ld) = (inv_freq.len(), table.ld());
    let mut rows = vec![0.0; positions.len() * ld];
    for (p, row) in positions.clone().zip(rows.chunks_exact_mut(ld.max(1))) {
        let (cos, sin) = row[..2 * half].split_at_mut(half);
        for ((f, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
            let of = f64::from(p as f32 * f).sin_cos();
            (*sin, *cos) = ((of.0 * f64::from(scaling)) as f32, (of.1 * f64::from(scaling)) as f32);
        }
    }
    gpu.overwrite_rows(table, first + positions.start, &rows)
}

/// The angles by which the queries and keys of rows turn.
#[derive(Clone)]
pub(crate) struct Turn {
    /// From [`angles`]; its width is the number of channels that turn.
    pub angle: Tensor,
    /// Row of the table at which position 0 of each row's section stands, `[T]`.
    pub start: Tensor,
    /// Whether that is row 0 for all.
    pub from_zero: bool,
}

impl Turn {
    /// The turn of rows whose sections stand at `start`.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(gpu: &Gpu, angle: Tensor, start: &[u32]) -> Result<Turn> {
        Ok(Turn { angle, start: gpu.vector(start)?, from_zero: start.iter().all(|row| *row == 0) })
    }

    /// Refuses angles of fewer rows, or of more channels than a head has.
    fn expect(&self, rows: usize, head_dim: usize) -> Result<()> {
        self.start.expect_vector("where the angles of rows begin", rows)?;
        let turned = self.angle.cols();
        if turned > head_dim || !turned.is_multiple_of(2) {
            return Err(Error::Bug(format!("{turned} channels turn, of heads of {head_dim}")));
        }
        Ok(())
    }
}

/// What the constants say of the QK-norm: whether there is one, and whether 1 is added to its gain.
pub(super) fn norm_constants(norm: Option<bool>) -> [Constant; 2] {
    [("QK_NORM", u32::from(norm.is_some())), ("OFFSET", u32::from(norm == Some(true)))]
}

/// The pipeline for heads of which `turned` channels turn, of queries that grow with their position where `grows`.
fn way(traits: &Traits, entry: &'static str, (heads, turned): (Heads, usize), norm: Option<bool>, grows: bool) -> Way {
    let sizes = [
        ("HD", heads.head_dim as u32),
        ("DP", heads.padded() as u32),
        ("ROT", turned as u32),
        ("LDA", pad4(turned).max(4) as u32),
    ];
    let growth = grows.then_some(("GROWS", 1));
    Way::new(&SOURCE, traits, entry, [&sizes[..], &norm_constants(norm), growth.as_slice()].concat())
}

/// Whether queries grow, for the list of pipelines: of few heads both.
fn grows((heads, turned): (Heads, usize)) -> &'static [bool] {
    if [(10, 6), (64, 64)].contains(&(heads.head_dim, turned)) { &[false, true] } else { &[false] }
}

fn ways(traits: &Traits) -> Vec<Way> {
    let mut all = Vec::new();
    for example in EXAMPLES {
        for norm in [None, Some(false), Some(true)] {
            for grows in grows(example) {
                all.extend(["forward", "backward"].map(|entry| way(traits, entry, example, norm, *grows)));
                all.extend(KvType::ALL.map(|kv| decode_way(way(traits, "decode", example, norm, *grows), kv)));
                // Without a norm there is no gain.
                all.extend(norm.is_some().then(|| way(traits, "backward_gain", example, norm, *grows)));
            }
        }
    }
    all
}

/// The pipeline of a decoding step whose keys and values are kept in the type `kv`.
fn decode_way(mut way: Way, kv: KvType) -> Way {
    way.constants.extend(kv.constants());
    way
}

/// What the two directions share.
#[derive(Clone)]
pub(crate) struct Rotary<'a> {
    /// Head layout.
    pub heads: Heads,
    /// The position of each row, `[T]`.
    pub pos: &'a Tensor,
    /// The angles of the rows; None where the layer knows no positions.
    pub turn: Option<&'a Turn>,
    /// Gains of the QK-norm, `[2 head_dim]` (q first), and its eps.
    pub qk_norm: Option<(Gain<'a>, f32)>,
    /// How queries grow with their position.
    pub growth: Option<QueryGrowth>,
}

impl<'a> Rotary<'a> {
    fn way(&self, rec: &Recorder, entry: &'static str) -> Way {
        let turned = self.turn.map_or(0, |t| t.angle.cols());
        way(&Traits::of(rec), entry, (self.heads, turned), self.norm(), self.growth.is_some())
    }

    /// Whether q and k are normalised, and then whether 1 is added to the gain.
    pub(super) fn norm(&self) -> Option<bool> {
        self.qk_norm.map(|(gain, _)| gain.plus_one)
    }

    /// Refuses rows that do not hold the heads, or of which there are more than positions and angles.
    pub(super) fn expect(&self, x: &Tensor) -> Result<()> {
        self.heads.expect(x)?;
        self.pos.expect_vector("the positions", x.rows())?;
        if let Some(turn) = self.turn {
            turn.expect(x.rows(), self.heads.head_dim)?;
        }
        match self.qk_norm {
            Some((gain, _)) => gain.weight.expect_shape("the gain of QK-norm", 1, 2 * self.heads.head_dim),
            None => Ok(()),
        }
    }

    /// `pages` is the row distance of the page table, which only [`decode`] has.
    fn params(&self, x: &Tensor, pages: usize) -> Result<[Param<'static>; 8]> {
        self.expect(x)?;
        let h = &self.heads;
        let eps = self.qk_norm.map_or(0.0, |(_, e)| e);
        let QueryGrowth { beta, span } = self.growth.unwrap_or(QueryGrowth { beta: 0.0, span: 1 });
        Ok([
            ("rows", Size(x.rows())),
            ("heads", Size(h.heads)),
            ("kv_heads", Size(h.kv_heads)),
            ("ld", Size(x.ld())),
            ("eps", Float(eps)),
            ("pages", Size(pages)),
            ("beta", Float(beta)),
            ("span", Word(span.max(1))),
        ])
    }

    /// pos, start, angle; what a layer does not have is not read, so any tensor may stand for it.
    fn bind(&self) -> [&'a Tensor; 3] {
        self.turn.map_or([self.pos; 3], |t| [self.pos, &t.start, &t.angle])
    }

    pub(super) fn gain(&self) -> &'a Tensor {
        self.qk_norm.map_or(self.pos, |(g, _)| g.weight)
    }
}

/// Rotated rows and (with QK-norm) 1 / RMS of each head, from raw `[T, width]`.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward(rec: &mut Recorder, place: &Rotary, raw: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = rec.gpu();
    let y = gpu.empty(raw.rows(), raw.cols())?;
    let normed = place.heads.heads + place.heads.kv_heads;
    let [pos, start, angle] = place.bind();
    let inv = gpu.empty(1, if place.qk_norm.is_some() { raw.rows() * normed } else { 4 })?;
    let way = place.way(rec, "forward");
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &place.params(raw, 0)?,
        bind: &[raw, pos, start, angle, place.gain(), &y, &inv],
        groups: lanes(&SOURCE, rec.variant(), raw.rows() * (normed + place.heads.kv_heads)),
        cost: stream(&[raw, &y], 3.0),
    })?;
    Ok((y, inv))
}

/// A decoding step's rows, raw `[B, width]`: q and k turn in place, k and v go to each row's own slot of the arena;
/// `place.pos` is the rows' own.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn decode(rec: &mut Recorder, place: &Rotary, raw: &Tensor, rows: &Rows, arena: &Arena) -> Result<()> {
    let heads = place.heads;
    rows.expect(raw.rows())?;
    arena.expect(heads)?;
    let [pos, start, angle] = place.bind();
    let way = decode_way(place.way(rec, "decode"), arena.kv);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &place.params(raw, rows.table.ld())?,
        bind: &[raw, pos, start, angle, place.gain(), &rows.table, &arena.keys, &arena.values],
        groups: lanes(&SOURCE, rec.variant(), raw.rows() * (heads.heads + 2 * heads.kv_heads)),
        cost: stream(&[raw, raw], 3.0),
    })
}

/// The gradient by the raw rows from dy; `raw` and `inv` as in [`forward`]; dgain `[2 head_dim]` is added to.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn backward(
    rec: &mut Recorder,
    place: &Rotary,
    raw: &Tensor,
    inv: &Tensor,
    dy: &Tensor,
    dgain: Option<&Tensor>,
) -> Result<Tensor> {
    let dx = rec.gpu().empty(dy.rows(), dy.cols())?;
    let params = place.params(dy, 0)?;
    if place.qk_norm.is_some() {
        raw.expect_shape("the rows before QK-norm", dy.rows(), dy.cols())?;
        inv.expect_vector("the factors of QK-norm", dy.rows() * (place.heads.heads + place.heads.kv_heads))?;
    }
    let [pos, start, angle] = place.bind();
    let way = place.way(rec, "backward");
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params,
        bind: &[dy, pos, start, angle, place.gain(), raw, inv, &dx],
        groups: lanes(&SOURCE, rec.variant(), dy.rows() * (place.heads.heads + 2 * place.heads.kv_heads)),
        cost: stream(&[dy, &dx], 3.0),
    })?;
    if let (Some(dgain), Some(_)) = (dgain, place.qk_norm) {
        dgain.expect_shape("the gradient of QK-norm's gain", 1, 2 * place.heads.head_dim)?;
        let way = place.way(rec, "backward_gain");
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants,
            params: &params,
            bind: &[dy, pos, start, angle, raw, inv, dgain],
            groups: lanes(&SOURCE, rec.variant(), 2 * place.heads.head_dim),
            cost: stream(&[dy, raw], 4.0),
        })?;
    }
    Ok(dx)
}

/// The plain algorithm on unpadded heads: x is `[T, H + 2 KV, head_dim]`, `gain` empty without QK-norm; the first
/// 2 inv_freq.len() channels of a head turn.
pub(crate) fn twin(x: &[f64], heads: Heads, pos: &[u32], inv_freq: &[f32], gain: &[f64], eps: f64) -> Vec<f64> {
    let (hd, all) = (heads.head_dim, heads.heads + 2 * heads.kv_heads);
    let mut y = x.to_vec();
    for (i, head) in y.chunks_exact_mut(hd).enumerate() {
        let (t, h) = (i / all, i % all);
        if h >= heads.heads + heads.kv_heads {
            continue;
        }
        if !gain.is_empty() {
            let inv = 1.0 / (head.iter().map(|v| v * v).sum::<f64>() / hd as f64 + eps).sqrt();
            let g = &gain[if h >= heads.heads { hd } else { 0 }..];
            head.iter_mut().zip(g).for_each(|(v, g)| *v *= inv * g);
        }
        let half = inv_freq.len();
        for d in 0..half {
            let (s, c) = f64::from(pos[t] as f32 * inv_freq[d]).sin_cos();
            let (a, b) = (head[d], head[d + half]);
            head[d] = a * c - b * s;
            head[d + half] = b * c + a * s;
        }
    }
    y
}

/// (dx, dgain) of [`twin`].
pub(crate) fn twin_backward(
    x: &[f64],
    heads: Heads,
    pos: &[u32],
    inv_freq: &[f32],
    gain: &[f64],
    eps: f64,
    dy: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (hd, all) = (heads.head_dim, heads.heads + 2 * heads.kv_heads);
    let (mut dx, mut dgain) = (dy.to_vec(), vec![0.0; gain.len()]);
    for (i, head) in dx.chunks_exact_mut(hd).enumerate() {
        let (t, h) = (i / all, i % all);
        if h >= heads.heads + heads.kv_heads {
            continue;
        }
        let half = inv_freq.len();
        for d in 0..half {
            let (s, c) = f64::from(pos[t] as f32 * inv_freq[d]).sin_cos();
            let (a, b) = (head[d], head[d + half]);
            head[d] = a * c + b * s;
            head[d + half] = b * c - a * s;
        }
        if !gain.is_empty() {
            let first = if h >= heads.heads { hd } else { 0 };
            let (d, g) = super::rms_norm::twin_backward(&x[i * hd..(i + 1) * hd], &gain[first..first + hd], eps, head);
            head.copy_from_slice(&d);
            dgain[first..first + hd].iter_mut().zip(&g).for_each(|(a, b)| *a += b);
        }
    }
    (dx, dgain)
}

/// Rows `[T, H + 2 KV, head_dim]` whose queries grow with their position; what follows [`twin`] and goes before
/// [`twin_backward`].
fn grown(mut x: Vec<f64>, heads: Heads, pos: &[u32], growth: Option<QueryGrowth>) -> Vec<f64> {
    let Some(QueryGrowth { beta, span }) = growth else { return x };
    for (row, pos) in x.chunks_exact_mut((heads.heads + 2 * heads.kv_heads) * heads.head_dim).zip(pos) {
        let factor = 1.0 + f64::from(beta) * f64::from(1 + pos / span).ln();
        row[..heads.heads * heads.head_dim].iter_mut().for_each(|x| *x *= factor);
    }
    x
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, heads, kv_heads, head_dim, turned) in [
        (1, 1, 1, 2, 2),
        (7, 4, 2, 10, 10),
        (5, 3, 1, 10, 6),
        (9, 2, 2, 7, 0),
        (33, 9, 3, 64, 64),
        (601, 2, 1, 16, 16),
        (3, 1, 1, 256, 256),
    ] {
        let h = Heads { heads, kv_heads, head_dim };
        let norms = [(false, false), (true, false), (true, true)];
        let growths = grows((h, turned)).iter().map(|grows| grows.then_some(QueryGrowth { beta: 0.3, span: 90 }));
        for ((normed, plus_one), growth) in growths.flat_map(|growth| norms.map(|norm| (norm, growth))) {
            let shape = format!("{rows}x{heads}/{kv_heads}x{head_dim}");
            let grows = growth.is_some();
            let options = format!("turned={turned} norm={normed} plus_one={plus_one} grows={grows}");
            all.push(Case::new(format!("forward, backward and decode {shape} {options}"), 1e-5, move |t| {
                let inv_freq: Vec<f32> =
                    (0..turned / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / turned as f32)).collect();
                let halved: Vec<f32> = inv_freq.iter().map(|f| f / 2.0).collect();
                let pos: Vec<u32> = (0..rows).map(|_| t.below(900) as u32).collect();
                // Half the rows turn by the second section, whose halved frequencies make a position count half.
                let second: Vec<bool> = (0..rows).map(|_| t.below(2) == 1).collect();
                let pos: Vec<u32> = pos.iter().zip(&second).map(|(p, s)| if *s { p & !1 } else { *p }).collect();
                let felt: Vec<u32> = pos.iter().zip(&second).map(|(p, s)| if *s { p / 2 } else { *p }).collect();
                let start: Vec<u32> = second.iter().map(|s| if *s { 900 } else { 0 }).collect();
                let (raw, host) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                let (dy, hdy) = head_matrix(t, rows, heads + 2 * kv_heads, head_dim)?;
                let (gain, hg) = t.matrix(1, 2 * head_dim)?;
                let dgain = t.gpu.zeros(1, 2 * head_dim)?;
                let turn = match turned {
                    0 => None,
                    _ => Some(Turn::new(t.gpu, angles(t.gpu, &[(&inv_freq, 900), (&halved, 900)], 1.0)?, &start)?),
                };
                let positions = t.gpu.vector(&pos)?;
                let gain = Gain { weight: &gain, plus_one };
                let qk_norm = normed.then_some((gain, 1e-6));
                let place = Rotary { heads: h, pos: &positions, turn: turn.as_ref(), qk_norm, growth };
                let (y, inv) = forward(&mut t.rec, &place, &raw)?;
                // The same rows as a decoding step, their pages in falling order.
                let (pages, width) = (900usize.div_ceil(PAGE), kv_heads * h.padded());
                let table: Vec<u32> = (0..(rows * pages) as u32).rev().collect();
                let steps = Rows {
                    table: t.gpu.upload(rows, pages, &table)?,
                    pos: positions.clone(),
                    longest: 900,
                    window: u32::MAX,
                    scores: Scores::default(),
                    sinks: None,
                };
                let slots = rows * pages * PAGE;
                let memory = || t.gpu.zeros(slots * kv_heads, h.padded());
                let arena = Arena { keys: memory()?, values: memory()?, kv: KvType::F32 };
                let padded: Vec<f32> = pad_heads(&host, head_dim).iter().map(|x| *x as f32).collect();
                let step = t.gpu.upload(rows, raw.cols(), &padded)?;
                decode(&mut t.rec, &place, &step, &steps, &arena)?;
                let own = |(b, p): (usize, &u32)| {
                    let slot = table[b * pages + *p as usize / PAGE] as usize * PAGE + *p as usize % PAGE;
                    (0..kv_heads).map(move |kv| Arena::row(kv_heads, kv, slot) as u32)
                };
                let own = t.gpu.vector(&pos.iter().enumerate().flat_map(own).collect::<Vec<_>>())?;
                let room = || t.gpu.empty(rows * kv_heads, h.padded());
                let (keys, values) = (room()?, room()?);
                super::rows::gather(&mut t.rec, &arena.keys, &own, &keys)?;
                super::rows::gather(&mut t.rec, &arena.values, &own, &values)?;
                let dx = backward(&mut t.rec, &place, &raw, &inv, &dy, Some(&dgain))?;
                let hg = if normed { super::rms_norm::whole(&hg, plus_one) } else { Vec::new() };
                let eps = f64::from(1e-6f32);
                let turned = grown(twin(&host, h, &felt, &inv_freq, &hg, eps), h, &pos, growth);
                let turned = pad_heads(&turned, head_dim);
                // Columns of every row: what is left of q, k and v heads.
                let columns = |from: &[f64], first: usize, count: usize| -> Vec<f64> {
                    let rows = from.chunks_exact(h.width());
                    rows.flat_map(|r| &r[first..first + count]).copied().collect()
                };
                let (k, all) = (heads * h.padded(), pad_heads(&host, head_dim));
                t.expect("keys", &keys, || columns(&turned, k, width));
                t.expect("values", &values, || columns(&all, k + width, width));
                t.expect("step", &step, || {
                    let qk = |r: (&[f64], &[f64])| [&r.0[..k + width], &r.1[k + width..]].concat();
                    turned.chunks_exact(h.width()).zip(all.chunks_exact(h.width())).flat_map(qk).collect()
                });
                t.expect("y", &y, || turned.clone());
                let (wx, wg) = twin_backward(&host, h, &felt, &inv_freq, &hg, eps, &grown(hdy, h, &pos, growth));
                t.expect("dx", &dx, || pad_heads(&wx, head_dim));
                if normed {
                    t.expect("dgain", &dgain, || wg);
                }
                Ok(())
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{dot, finite_difference, numbers};

    #[test]
    fn the_gradients_are_the_slopes() {
        let h = Heads { heads: 2, kv_heads: 1, head_dim: 6 };
        let (x, c, g) = (numbers(3 * 4 * 6, 1), numbers(3 * 4 * 6, 2), numbers(12, 3));
        let pos = [0u32, 5, 2];
        for freq in [&[1.0f32, 0.3, 0.1][..], &[1.0, 0.3], &[]] {
            let (dx, dg) = twin_backward(&x, h, &pos, freq, &g, 1e-6, &c);
            finite_difference("x", &x, &dx, |x| dot(&twin(x, h, &pos, freq, &g, 1e-6), &c));
            finite_difference("gain", &g, &dg, |g| dot(&twin(&x, h, &pos, freq, g, 1e-6), &c));
        }
    }
}
