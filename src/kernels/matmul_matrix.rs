//! C = A B on matrix units: what `super::matmul::forward` does for many rows where
//! [`crate::gpu::Options::matrix_units`] asks for it.
//!
//! Operands are rounded to f16 on their way into workgroup memory, and what is larger than an f16 becomes the largest
//! one; sums are in f32. Gradients take the f32 kernels all the same: below 6e-5 an f16 loses digits, below 6e-8
//! everything.

use super::case::{Case, Kernel};
use super::inputs::random;
use super::product::{Epilogue, split_rows, twin};
use super::sizes::bytes;
use super::way::{Constant, Traits, Way};
use super::weight::{Block, Stored};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Launch, Recorder, Source, Tensor, Units};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "matmul_matrix",
    soft: include_str!("../../shaders/matmul_matrix.wgsl"),
    tile: include_str!("../../shaders/matmul_matrix.wgsl"),
    libs: &["operand", "fragment"],
    tile_size: 128,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "C = A B on matrix units, in f16 with sums in f32 (--matrix-units)",
    ways,
    ordered: &[],
    cases,
};

/// Values of K that are staged at a time.
const DEPTH: u32 = 32;

/// How a workgroup's block is cut.
struct Shape {
    /// Fragments of a subgroup, down and across; a block is two subgroups by two.
    fragments: [u32; 2],
    rows: u32,
    columns: u32,
}

impl Shape {
    fn of(units: Units) -> Shape {
        let fragments = if units.size == 16 { [4, 2] } else { [4, 4] };
        let [rows, columns] = fragments.map(|n| 2 * n * units.size);
        Shape { fragments, rows, columns }
    }

    fn constants(&self, units: Units) -> Vec<Constant> {
        let Units { size, lanes } = units;
        let vectors = |values: u32| (values / 4).div_ceil(lanes);
        let [down, across] = self.fragments;
        vec![
            ("SIZE", size),
            ("FR", down),
            ("FC", across),
            ("WG", lanes),
            ("AV", vectors(self.rows * DEPTH)),
            ("BV", vectors(self.columns * DEPTH)),
        ]
    }
}

fn way(traits: &Traits, units: Units, stored: Stored, bias: bool, add: bool) -> Way {
    let entry = if stored.is_quantised() { "forward_q" } else { "forward" };
    let mut constants = stored.constants();
    constants.extend(Shape::of(units).constants(units));
    constants.extend([("BIAS", u32::from(bias)), ("ADD", u32::from(add))]);
    Way::new(&SOURCE, traits, entry, constants)
}

fn ways(traits: &Traits) -> Vec<Way> {
    let Some(units) = traits.units else { return Vec::new() };
    let ends = [(false, false), (false, true), (true, false), (true, true)];
    let of = |stored| ends.map(|(bias, add)| way(traits, units, stored, bias, add));
    Stored::all().into_iter().flat_map(of).collect()
}

/// C `[M, N]`, from column `c0` on, = A `[M, K]` B `[K, n]` (+ bias) (+ C), with B a block of a weight in any type.
///
/// # Errors
/// A device without matrix units; an epilogue that normalises or gates; out of memory.
pub(super) fn product(
    rec: &mut Recorder,
    a: &Tensor,
    (b, c0): (&Block, usize),
    c: &Tensor,
    epilogue: Epilogue,
) -> Result<()> {
    let Some(units) = rec.gpu().units() else {
        return Err(Error::Bug("matmul_matrix: the device was opened without matrix units".into()));
    };
    if epilogue.norm.is_some() || epilogue.gate.is_some() {
        return Err(Error::Bug("matmul_matrix neither normalises nor gates".into()));
    }
    let shape = Shape::of(units);
    let (m, k, n4) = (a.rows(), b.rows(), b.cols().div_ceil(4));
    let weight = b.bind();
    let way = way(&Traits::of(rec), units, b.stored(), epilogue.bias.is_some(), epilogue.add);
    let bind = [&[a], &weight[..], &[epilogue.bias.unwrap_or(a), c]].concat();
    let per_row = 2.0 * (k * b.cols()) as f64;
    split_rows(rec, m, shape.rows as usize, per_row, |rec, first, count| {
        let flops = per_row * count as f64;
        let rows_bytes = 4.0 * (count * (k + b.cols())) as f64;
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants.clone(),
            params: &[
                ("m", Size(m)),
                ("n4", Size(n4)),
                ("k", Size(k)),
                ("lda4", Size(a.ld() / 4)),
                ("ldb4", Size(b.ld4())),
                ("ldc4", Size(c.ld() / 4)),
                ("row0", Size(first)),
                ("c0", Size(c0 / 4)),
            ],
            bind: &bind,
            groups: [(n4 as u32).div_ceil(shape.columns / 4), (count as u32).div_ceil(shape.rows), 1],
            cost: Cost { on_units: flops, ..Cost::new(flops, bytes(&weight) + rows_bytes) },
        })
    })
}

/// A sum's error by the rounding of both operands to 11 bits, relative to the root mean square of the results: 2^-12
/// each at most, and some 2.5e-4 on the mean, of which the worst of 10^5 results is 5 times as far away.
const TOLERANCE: f64 = 3e-3;

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // A bias, C added to, or neither.
    const PLAIN: usize = 0;
    const BIAS: usize = 1;
    const ADD: usize = 2;
    for (dtype, m, k, n, mode) in [
        ("f32", 9, 36, 36, PLAIN),
        ("f32", 33, 64, 97, BIAS),
        ("f32", 130, 10, 130, ADD),
        ("f32", 257, 100, 64, PLAIN),
        ("bf16", 65, 10, 130, PLAIN),
        ("f16", 16, 96, 6, BIAS),
        ("q4", 9, 64, 130, PLAIN),
        ("q4", 140, 32, 34, BIAS),
        ("q8", 33, 576, 10, ADD),
    ] {
        let what = ["", " bias", " add"][mode];
        all.push(Case::new(format!("forward {m}x{k}x{n} {dtype}{what}"), TOLERANCE, move |t| {
            let (a, ha) = t.matrix(m, k)?;
            let (b, hb) = random(t, dtype, k, n)?;
            let (bias, hbias) = t.matrix(1, n)?;
            let (c, hc) = t.matrix(m, n)?;
            let e = Epilogue { bias: (mode == BIAS).then_some(&bias), add: mode == ADD, ..Epilogue::default() };
            for (c0, block) in b.blocks() {
                product(&mut t.rec, &a, (block, c0), &c, e)?;
            }
            t.expect("c", &c, || {
                let mut want = twin(&ha, &hb, m, k, n);
                for (i, x) in want.iter_mut().enumerate() {
                    *x += [0.0, hbias[i % n], hc[i]][mode];
                }
                want
            });
            Ok(())
        }));
    }
    all.push(Case::new("forward 12x8x8 of what an f16 cannot hold", 1e-6, |t| {
        let a = t.gpu.upload(12, 8, &[1e6f32; 96])?;
        let b = t.gpu.upload(8, 8, &[1f32; 64])?;
        let c = t.gpu.zeros(12, 8)?;
        product(&mut t.rec, &a, (&Block::Dense(b), 0), &c, Epilogue::default())?;
        t.expect("c", &c, || vec![8.0 * 65504.0; 96]);
        Ok(())
    }));
    all
}
