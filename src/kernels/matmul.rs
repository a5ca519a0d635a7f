//! C = A B with B a model's matrix (`super::weight`), C = A B^T (gradients by an input), C = A^T B (gradients by a
//! weight).

pub(crate) use super::product::Epilogue;

use super::matmul_way as choice;
use super::product::{Extras, split_rows};
use super::sizes::bytes;
use super::swiglu;
use super::way::Traits;
use super::weight::{Block, Weight};
use super::{matmul_matrix, transpose};
use crate::gpu::Value::{Float, Size, Words};
use crate::gpu::{Cost, Launch, Param, Recorder, Tensor, Variant};
use crate::{Error, Result};
use std::ops::Range;

/// Slices of K in which the tile variant adds up few rows, and any number of rows where bits must not depend on it.
const SLICES: usize = 8;

/// Whether a product of `m` rows can normalise them on the way, with adapters on it or without.
pub(crate) fn normalises(rec: &Recorder, m: usize, adapted: bool) -> bool {
    choice::normalises(&Traits::of(rec), m, adapted)
}

/// Whether a product of `m` rows by `b` can end in the gated activation.
pub(crate) fn gates(rec: &Recorder, m: usize, b: &Weight) -> bool {
    b.blocks().count() == 1 && b.cols().is_multiple_of(8) && choice::gates(&Traits::of(rec), m)
}

/// Whether a product of `m` rows by `b` can add on the way what adapters give, `low` being their B.
pub(crate) fn adapts(rec: &Recorder, m: usize, b: &Weight, low: &Weight) -> bool {
    low.blocks().count() == 1 && choice::adapts(&Traits::of(rec), b.stored(), m, b.rows())
}

/// One block's part of a product.
#[derive(Clone, Copy)]
struct BlockProduct<'a> {
    a: &'a Tensor,
    /// A's first column.
    a0: usize,
    b: &'a Block,
    c: &'a Tensor,
    /// C's first column.
    c0: usize,
    epilogue: Epilogue<'a>,
}

/// C `[M, N]` = A `[M, K]` B.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn forward(rec: &mut Recorder, a: &Tensor, b: &Weight, c: &Tensor, epilogue: Epilogue) -> Result<()> {
    match epilogue.gate {
        None => c.expect_shape("matmul's result", a.rows(), b.cols())?,
        Some(_) => swiglu::check(a.rows(), b.cols(), c)?,
    }
    let adapted = epilogue.adapters.is_some();
    if (epilogue.norm.is_some() && !normalises(rec, a.rows(), adapted))
        || (epilogue.gate.is_some() && !gates(rec, a.rows(), b))
    {
        return Err(Error::Bug(format!("a product of {} rows neither normalises nor gates them here", a.rows())));
    }
    if let Some((adapters, u)) = epilogue.adapters {
        if !adapts(rec, a.rows(), b, adapters.b) || epilogue.bias.is_some() {
            return Err(Error::Bug(format!("a product of {} rows takes no adapters here", a.rows())));
        }
        adapters.check(u, [a.rows(), b.cols()])?;
    }
    if let Some((gain, _)) = epilogue.norm {
        gain.weight.expect_shape("the gain of matmul's rows", 1, a.cols())?;
    }
    if let Some(bias) = epilogue.bias {
        bias.expect_shape("matmul's bias", 1, b.cols())?;
    }
    let k = b.rows();
    if a.ld() != k {
        return Err(Error::Bug(format!("matmul of {:?} (rows of {}) with a matrix of {k} rows", a.shape(), a.ld())));
    }
    let on_units = choice::on_units(&Traits::of(rec), a.rows());
    b.blocks().try_for_each(|(c0, b)| match on_units {
        true => matmul_matrix::product(rec, a, (b, c0), c, epilogue),
        false => product(rec, BlockProduct { a, a0: 0, b, c, c0, epilogue }),
    })
}

/// C `[M, K]` (+)= A `[M, N]` B^T with B `[K, N]`; C counts B's padding of K. B is transposed first, some columns at a
/// time, a share of 1 / M of the product's work, so that one form of the product serves both directions; but for a few
/// rows on a software adapter, which read it as it lies.
///
/// # Errors
/// Shapes that do not fit; out of memory.
pub(crate) fn forward_nt(rec: &mut Recorder, a: &Tensor, b: &Weight, c: &Tensor, add: bool) -> Result<()> {
    if a.cols() != b.cols() || c.ld() != b.rows() || a.rows() != c.rows() {
        let shape = [b.rows(), b.cols()];
        return Err(Error::Bug(format!("{:?} by {shape:?} turned does not give {:?}", a.shape(), c.shape())));
    }
    let wide = c.corner(c.rows(), c.ld())?;
    if choice::unturned(&Traits::of(rec), b.stored(), a.rows()) {
        return b.blocks().try_for_each(|(b0, block)| unturned(rec, (a, b0), block, &wide, add || b0 > 0));
    }
    let step = (rec.gpu().chunk_bytes() as usize / (4 * b.rows().max(1)) / 64 * 64).max(64);
    for (b0, block) in b.blocks() {
        for first in (0..block.cols()).step_by(step) {
            let turned = transpose::forward(rec, block, first..block.cols().min(first + step))?;
            let (a0, turned) = (b0 + first, Block::Dense(turned));
            let epilogue = Epilogue { add: add || a0 > 0, ..Epilogue::default() };
            product(rec, BlockProduct { a, a0, b: &turned, c: &wide, c0: 0, epilogue })?;
        }
    }
    Ok(())
}

/// C (+)= A B^T of few rows, A from column `a0` on.
fn unturned(rec: &mut Recorder, (a, a0): (&Tensor, usize), b: &Block, c: &Tensor, add: bool) -> Result<()> {
    let weight = b.bind();
    let (m, k, n) = (a.rows(), b.cols().next_multiple_of(4), b.rows());
    let rows = m.next_power_of_two().min(4);
    let way = choice::way_unturned(&Traits::of(rec), b.stored(), rows as u32, add);
    let ld4 = [a.ld() / 4, b.ld4(), c.ld() / 4];
    let walk = Walk { m, n4: n / 4, k: 0..k, ld4, first4: [a0 / 4, 0, 0], ..Walk::default() };
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &params(&walk, &[0; 4]),
        bind: &[&[a], &weight[..], &[c]].concat(),
        groups: [(n / 4).div_ceil(8) as u32, m.div_ceil(rows) as u32, 1],
        cost: Cost::new(2.0 * (m * k * n) as f64, bytes(&weight) + bytes(&[a, c])),
    })
}

/// How a launch walks its matrices.
#[derive(Clone, Default)]
struct Walk {
    m: usize,
    n4: usize,
    /// The terms of the sum.
    k: Range<usize>,
    /// Row distances of A, B and C in vec4.
    ld4: [usize; 3],
    row0: usize,
    /// The first columns of A, B and C in vec4.
    first4: [usize; 3],
    channels: usize,
    eps: f32,
    /// The rank of adapters, and the row distances of u, B and the factors, all in vec4.
    lora4: [usize; 4],
}

fn params<'a>(walk: &Walk, edges: &'a [u32; 4]) -> [Param<'a>; 18] {
    let ([lda4, ldb4, ldc4], [a0, b0, c0]) = (walk.ld4, walk.first4);
    let [rank4, ldu4, ldl4, ldf4] = walk.lora4;
    [
        ("m", Size(walk.m)),
        ("n4", Size(walk.n4)),
        ("k", Size(walk.k.end)),
        ("lda4", Size(lda4)),
        ("ldb4", Size(ldb4)),
        ("ldc4", Size(ldc4)),
        ("row0", Size(walk.row0)),
        ("a0", Size(a0)),
        ("b0", Size(b0)),
        ("c0", Size(c0)),
        ("k0", Size(walk.k.start)),
        ("channels", Size(walk.channels)),
        ("edges", Words(edges)),
        ("eps", Float(walk.eps)),
        ("rank4", Size(rank4)),
        ("ldu4", Size(ldu4)),
        ("ldl4", Size(ldl4)),
        ("ldf4", Size(ldf4)),
    ]
}

fn product(rec: &mut Recorder, part: BlockProduct) -> Result<()> {
    let (rows, wide) = tile(rec, part.b, part.a.rows(), &part.epilogue)?;
    let rows = choice::held(part.a.rows(), rows);
    dispatch(rec, part, (rows, wide))
}

/// The tuned choice among [`choice::tiles`]; what is recorded for another variant than the device's own is not tuned.
/// With adapters the choice is another one: some of the tiles that are quickest without them take twice as long then.
fn tile(rec: &Recorder, b: &Block, m: usize, epilogue: &Epilogue) -> Result<(u32, u32)> {
    let gate = epilogue.gate;
    let (gpu, traits, stored) = (rec.gpu(), Traits::of(rec), b.stored());
    if traits.variant != gpu.variant() {
        return Ok(choice::untuned(m, gate.is_some()));
    }
    let tiles = choice::tiles(&traits, stored, m, gate.is_some());
    if let [only] = tiles[..] {
        return Ok(only);
    }
    let class = |x: usize| x.next_power_of_two();
    let (k, n) = (b.rows(), b.cols());
    let gated = if gate.is_some() { " gated" } else { "" };
    let adapted = if epilogue.adapters.is_some() { " adapted" } else { "" };
    let words = if choice::wide_words(&traits, m) { " wide" } else { "" };
    let lanes = if choice::share_loads(&traits, stored, m) { " lanes" } else { "" };
    let kind = stored.name();
    let name =
        format!("matmul{words}{lanes}{gated}{adapted} {kind} m{} k{} n{}", class(m.min(512)), class(k), class(n));
    // Picks are kept by their numbers among all tiles.
    let candidates: Vec<u32> = (0..).zip(choice::TILES).filter(|(_, t)| tiles.contains(t)).map(|(i, _)| i).collect();
    let mut shared = None;
    let pick = gpu.tuned(&name, &candidates, |pick| {
        // A corner of a large matrix and several runs of a small one, so that tuning costs milliseconds, and a launch
        // little of it; as many rows as there are, since a strip of the matrix is read for all of them, if only up to
        // 64, of a small matrix up to 1,024.
        let corner = b.corner(4096, if gate.is_some() { usize::MAX } else { 4096 })?;
        let (b, k, n) = (&corner, corner.rows(), corner.cols());
        let m = m.min((5_000_000 / (k * n).max(1)).clamp(64, 1024));
        let runs = ((1e8 / (2.0 * (m * k * n) as f64)) as usize).clamp(1, 32);
        let (a, u, c) = match &mut shared {
            Some(shared) => shared,
            none => {
                let filled = |width: usize| gpu.upload(m, width, &vec![0.5f32; m * width]);
                let u = epilogue.adapters.map(|(_, u)| filled(u.cols())).transpose()?;
                none.insert((filled(k)?, u, gpu.zeros(m, n)?))
            }
        };
        let adapters = epilogue.adapters.zip(u.as_ref()).map(|((adapters, _), u)| (adapters, u));
        let mut rec = gpu.record();
        for _ in 0..runs {
            let epilogue = Epilogue { gate, adapters, ..Epilogue::default() };
            let part = BlockProduct { a, a0: 0, b, c, c0: 0, epilogue };
            dispatch(&mut rec, part, choice::TILES[pick as usize])?;
        }
        Ok(rec.compile())
    })?;
    Ok(choice::TILES[pick as usize])
}

fn dispatch(rec: &mut Recorder, part: BlockProduct, (held, wide): (u32, u32)) -> Result<()> {
    let BlockProduct { a, a0, b, c, c0, epilogue: e } = part;
    let (m, k, n4) = (a.rows(), b.rows(), b.cols().div_ceil(4));
    let (traits, stored) = (Traits::of(rec), b.stored());
    let (soft, blocked) = (traits.variant == Variant::Soft, choice::blocked(&traits, stored, m));
    // A gated lane's second column stands half of N away.
    let (lanes4, wide4) = if e.gate.is_some() { (n4 / 2, wide as usize / 2) } else { (n4, wide as usize) };
    let (rows, columns) = match (soft, blocked) {
        (true, _) => (held, lanes4.div_ceil(8 * wide4)),
        (_, true) => (64, n4.div_ceil(16)),
        _ => (held, n4.div_ceil(32)),
    };
    let weight = b.bind();
    let gain = e.norm.map(|(gain, _)| gain.weight);
    let low = match e.adapters {
        Some((adapters, u)) => Some((adapters, u, adapters.b.dense()?)),
        None => None,
    };
    let bias = e.bias.or(low.map(|(adapters, ..)| adapters.columns));
    let mut bind = [&[a], &weight[..], &[bias.unwrap_or(a)]].concat();
    if !blocked || soft {
        bind.extend([gain.unwrap_or(a), low.map_or(a, |(_, u, _)| u), low.map_or(a, |(.., b)| b)]);
    }
    bind.push(c);
    let walk = Walk {
        m,
        n4,
        ld4: [a.ld() / 4, b.ld4(), c.ld() / 4],
        first4: [a0 / 4, 0, c0 / 4],
        channels: a.cols(),
        eps: e.norm.map_or(0.0, |(_, eps)| eps),
        lora4: low.map_or([0; 4], |(adapters, u, b)| {
            [adapters.layout.rank / 4, u.ld() / 4, b.ld() / 4, adapters.columns.ld() / 4]
        }),
        ..Walk::default()
    };
    let edges = low.map_or([0; 4], |(adapters, ..)| adapters.layout.edges4());
    // Slices as forward_rows cuts them; the bias goes to the first, the others are added.
    let length = match (blocked, rec.invariant()) {
        (true, true) => (k / 4).div_ceil(SLICES).max(1) * 4,
        (false, false) if soft && e.gate.is_none() => choice::panel(stored, m, k),
        _ => k.max(1),
    };
    for k0 in (0..k.max(1)).step_by(length) {
        let end = k.min(k0 + length);
        let extras = Extras { bias: e.bias.is_some() && k0 == 0, add: e.add || k0 > 0, ..e.extras() };
        let way = choice::way(&traits, stored, m, extras, (rows, wide));
        let per_row = 2.0 * (end - k0) as f64 * b.cols() as f64;
        split_rows(rec, m, rows as usize, per_row, |rec, first, count| {
            let rows_bytes = 4.0 * (count * (end - k0 + b.cols())) as f64;
            let row_groups = count.div_ceil(rows as usize) as u32;
            rec.launch(Launch {
                source: way.source,
                entry: way.entry,
                constants: way.constants.clone(),
                params: &params(&Walk { row0: first, k: k0..end, ..walk.clone() }, &edges),
                bind: &bind,
                groups: if soft { [row_groups, columns as u32, 1] } else { [columns as u32, row_groups, 1] },
                cost: Cost::new(per_row * count as f64, bytes(&weight) + rows_bytes),
            })
        })?;
    }
    Ok(())
}

/// C `[M, N]` (+)= A^T B with A `[K, M]`, B `[K, N]`; K is the number of tokens. M counts A's padding when C has it.
/// Where [`forward`] reads in wide words, A is transposed for it, a share of 1 / N of the work.
///
/// # Errors
/// Shapes that do not fit; a result that is not in f32.
pub(crate) fn forward_tn(rec: &mut Recorder, a: &Tensor, b: &Tensor, c: &Weight, add: bool) -> Result<()> {
    let shape = [c.rows(), c.cols()];
    if a.rows() != b.rows() || shape != [a.ld(), b.cols()] {
        return Err(Error::Bug(format!("A^T B of {:?} and {:?} does not give {shape:?}", a.shape(), b.shape())));
    }
    let (rows, wide) = match rec.variant() {
        Variant::Soft => (8, 8),
        Variant::Tile => (64, 16),
    };
    for (b0, c) in c.tensors()? {
        let (m, k, n4) = (c.rows(), a.rows(), c.ld() / 4);
        let turned = if b0 == 0 && c.cols() == b.cols() { turned(rec, (a, b), c, add)? } else { 0 };
        if turned == k && k > 0 {
            continue;
        }
        let per_row = 2.0 * (k - turned) as f64 * c.cols() as f64;
        let way = choice::way_tn(&Traits::of(rec), add || turned > 0);
        let ld4 = [a.ld() / 4, b.ld() / 4, c.ld() / 4];
        let walk = Walk { m, n4, k: turned..k, ld4, first4: [0, b0 / 4, 0], ..Walk::default() };
        split_rows(rec, m, rows, per_row, |rec, first, count| {
            rec.launch(Launch {
                source: way.source,
                entry: way.entry,
                constants: way.constants.clone(),
                params: &params(&Walk { row0: first, ..walk.clone() }, &[0; 4]),
                bind: &[a, b, c],
                groups: [n4.div_ceil(wide) as u32, count.div_ceil(rows) as u32, 1],
                cost: Cost::new(per_row * count as f64, bytes(&[a, b, c]) * count as f64 / m as f64),
            })
        })?;
    }
    Ok(())
}

/// Adds A^T B over a multiple of 4 tokens by a transposed copy of A; gives how many, 0 where that does not pay.
fn turned(rec: &mut Recorder, (a, b): (&Tensor, &Tensor), c: &Tensor, add: bool) -> Result<usize> {
    let tokens = a.rows() / 4 * 4;
    if tokens < TURNED || b.cols() < TURNED || !choice::wide_words(&Traits::of(rec), c.rows()) {
        return Ok(0);
    }
    let (a, b) = (a.corner(tokens, a.ld())?, b.corner(tokens, b.cols())?);
    let a = transpose::forward(rec, &Block::Dense(a.clone()), 0..a.ld())?;
    let epilogue = Epilogue { add, ..Epilogue::default() };
    product(rec, BlockProduct { a: &a, a0: 0, b: &Block::Dense(b), c, c0: 0, epilogue })?;
    Ok(tokens)
}

/// Fewest tokens and columns for which a copy is made.
const TURNED: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Scaled;
    use crate::gpu::Gpu;
    use crate::kernels::half::Half;
    use crate::kernels::quants::{Quants, Scales};

    /// The tuner may pick any of them without a bit changing.
    #[test]
    fn tiles_give_the_same_bits() {
        tiles_agree(&Quants::ALL[..1]);
    }

    #[test]
    #[ignore = "drivers compile a kernel for each tile and format for minutes; scripts/test-full runs it"]
    fn every_tile_gives_the_same_bits() {
        tiles_agree(&Quants::ALL);
    }

    /// Holds that products by weights in f32, in bf16 and in `formats` have the same bits with every tile.
    fn tiles_agree(formats: &[Quants]) {
        let gpu = Gpu::with(&crate::gpu::Options { variant: Some(Variant::Soft), ..Default::default() }).unwrap();
        let values = |n: usize| (0..n).map(|i| ((i * 7919 % 1009) as f32) / 504.5 - 1.0).collect::<Vec<f32>>();
        for (m, k, n) in [(1, 64, 37), (3, 96, 130), (9, 32, 300)] {
            let (a, bias) = (gpu.upload(m, k, &values(m * k)).unwrap(), gpu.upload(1, n, &values(n)).unwrap());
            let quantised = |quants: Quants| {
                let words: Vec<u32> =
                    (0..(k * n) as u32 * quants.bits / 32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
                let scales: Vec<Scaled> = values(k / 32 * n).iter().map(|x| Scaled::plain(*x, -x)).collect();
                Weight::upload_quantised(&gpu, (quants, k, n), &words, &scales).unwrap()
            };
            let plain = [
                Weight::upload(&gpu, k, n, &values(k * n)).unwrap(),
                Weight::upload_half(&gpu, Half::Bf16, k, n, &values(k * n)).unwrap(),
            ];
            for weight in plain.into_iter().chain(formats.iter().copied().map(quantised)) {
                let of = |tile: (u32, u32), add: bool| {
                    let c = gpu.upload(m, n, &values(m * n)).unwrap();
                    let mut rec = gpu.record();
                    let epilogue = Epilogue { bias: Some(&bias), add, ..Epilogue::default() };
                    let (_, b) = weight.blocks().next().unwrap();
                    dispatch(&mut rec, BlockProduct { a: &a, a0: 0, b, c: &c, c0: 0, epilogue }, tile).unwrap();
                    rec.submit().unwrap();
                    gpu.download::<u32>(&c).unwrap()
                };
                for add in [false, true] {
                    let first = of(choice::TILES[0], add);
                    assert!(first.iter().any(|bits| *bits != 0));
                    for tile in &choice::TILES[1..] {
                        assert_eq!(of(*tile, add), first, "{m}x{k}x{n} {tile:?} add {add}");
                    }
                }
            }
        }
    }

    /// The tuner measures on a corner, which may be asked for with all columns.
    #[test]
    fn a_corner_is_within_its_block() {
        let gpu = Gpu::with(&crate::gpu::Options::default()).unwrap();
        for quants in Quants::ALL {
            let (words, scales) = (vec![0; 64 * 12 * quants.bits as usize / 32], [Scaled::plain(1.0, 0.0); 2 * 12]);
            let weight = Weight::upload_quantised(&gpu, (quants, 64, 12), &words, &scales).unwrap();
            let (_, block) = weight.blocks().next().unwrap();
            for (rows, cols) in [(usize::MAX, usize::MAX), (32, 8)] {
                let corner = block.corner(rows, cols).unwrap();
                assert_eq!((corner.rows(), corner.cols()), (rows.min(64), cols.min(12)), "{quants:?}");
            }
        }
    }

    /// Measuring runs at once, before launches that are recorded already and whose inputs may be freed.
    #[test]
    fn tuning_leaves_the_memory_of_recorded_launches_alone() {
        let gpu = Gpu::with(&crate::gpu::Options { variant: Some(Variant::Soft), ..Default::default() }).unwrap();
        gpu.forget_picks();
        let ones = |rows, cols| gpu.upload(rows, cols, &vec![1f32; rows * cols]).unwrap();
        let weight = |k, n| Weight::from(ones(k, n));
        let (narrow, wide, y) = (weight(64, 4), weight(16, 64), gpu.empty(64, 4).unwrap());
        let mut rec = gpu.record();
        let x = ones(64, 64);
        forward(&mut rec, &x, &narrow, &y, Epilogue::default()).unwrap();
        drop(x);
        // Its class is not known yet, and its measurement writes [64, 64].
        let (other, z) = (ones(64, 16), ones(64, 64));
        forward(&mut rec, &other, &wide, &z, Epilogue::default()).unwrap();
        rec.submit().unwrap();
        assert_eq!(gpu.picks().len(), 2);
        assert_eq!(gpu.download::<f32>(&y).unwrap(), vec![64.0; 64 * 4]);
    }

    /// A matrix of 8 bits that fits one binding, and whose form in f32, which the backward pass makes, does not.
    #[test]
    fn a_quantised_matrix_above_a_binding_in_f32_goes_backward() {
        let gpu = Gpu::with(&crate::gpu::Options { webgpu_limits: true, ..Default::default() }).unwrap();
        let (rows, cols) = (512, 70_001);
        assert!(rows * cols < 128 << 20 && 4 * rows * cols > 128 << 20);
        // Words of 0 leave the minimum, which tells block and column.
        let minimum: Vec<f32> = (0..rows / 32 * cols).map(|i| (i / cols * 8 + i % cols % 7) as f32).collect();
        let scales: Vec<Scaled> = minimum.iter().map(|m| Scaled::plain(1.0, *m)).collect();
        let shape = (Quants { bits: 8, group: 32, scales: Scales::Half }, rows, cols);
        let matrix = Weight::upload_quantised(&gpu, shape, &vec![0; rows / 4 * cols], &scales).unwrap();
        let mut row = vec![0f32; cols];
        let chosen = [3, 35_000, 65_535, 65_536, 70_000];
        chosen.iter().for_each(|c| row[*c] = 1.0);
        let (a, c) = (gpu.upload(1, cols, &row).unwrap(), gpu.empty(1, rows).unwrap());
        let mut rec = gpu.record();
        forward_nt(&mut rec, &a, &matrix, &c, false).unwrap();
        rec.submit().unwrap();
        let got: Vec<f32> = gpu.download(&c).unwrap();
        let want = |r: usize| chosen.iter().map(|c| minimum[r / 32 * cols + c]).sum::<f32>();
        assert_eq!(got, (0..rows).map(want).collect::<Vec<_>>());
    }
}
