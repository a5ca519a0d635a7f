//! The 16-bit copies of f32 weights that products read in training with 16-bit weights.

use super::case::{Case, Kernel};
use super::half::Half;
use super::sizes::{several, stream};
use super::way::{Traits, Way};
use super::weight::{Block, Weight};
use crate::gpu::Value::Size;
use crate::gpu::{Launch, Recorder, Source, pad4};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "cast",
    soft: include_str!("../../shaders/cast.wgsl"),
    tile: include_str!("../../shaders/cast.wgsl"),
    libs: &["grid", "operand"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "f32 weights rounded to bf16 or f16",
    ways: |traits| Half::ALL.map(|half| way(traits, half)).into(),
    ordered: &[],
    cases,
};

fn way(traits: &Traits, half: Half) -> Way {
    Way::new(&SOURCE, traits, "forward", [half.constant()])
}

/// y = x rounded to y's type; x in f32, y from [`Weight::empty_half`] of x.
///
/// # Errors
/// Weights of other types or shapes.
pub(crate) fn forward(rec: &mut Recorder, x: &Weight, y: &Weight) -> Result<()> {
    if [x.rows(), x.cols()] != [y.rows(), y.cols()] {
        let shape = |w: &Weight| [w.rows(), w.cols()];
        return Err(Error::Bug(format!("a copy of {:?} does not fit {:?}", shape(x), shape(y))));
    }
    for ((_, from), (_, to)) in x.tensors()?.into_iter().zip(y.blocks()) {
        let Block::Half { half, words, .. } = to else {
            return Err(Error::Bug("the copy of a weight is not in 16 bits".into()));
        };
        words.expect_shape("a copy in 16 bits", from.rows(), pad4(from.cols()) / 2)?;
        let cols4 = from.cols().div_ceil(4);
        let way = way(&Traits::of(rec), *half);
        rec.launch(Launch {
            source: way.source,
            entry: way.entry,
            constants: way.constants,
            params: &[
                ("rows", Size(from.rows())),
                ("cols4", Size(cols4)),
                ("ldx4", Size(from.ld() / 4)),
                ("ldy4", Size(to.ld4())),
            ],
            bind: &[from, words],
            groups: several(&SOURCE, rec.variant(), from.rows() * cols4),
            cost: stream(&[from, words], 0.0),
        })?;
    }
    Ok(())
}

/// The words of a row: rounding to the nearest has one definition, by which weights are uploaded too.
pub(crate) fn twin(half: Half, row: &[f32]) -> Vec<u32> {
    half.words(row)
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for half in Half::ALL {
        for (rows, cols) in [(4, 1), (8, 33), (640, 36)] {
            all.push(Case::new(format!("{} {rows}x{cols}", half.name()), 0.0, move |t| {
                // From far below the smallest f16 to its largest, ties among them.
                let mut x = t.values(rows * cols);
                for v in &mut x {
                    *v *= 2f32.powi(t.below(40) as i32 - 26);
                    if t.below(3) == 0 {
                        *v = f32::from_bits(v.to_bits() & 0xffff_8000 | 0x1000);
                    }
                }
                let source = Weight::upload(t.gpu, rows, cols, &x)?;
                let copy = source.empty_half(t.gpu, half)?;
                forward(&mut t.rec, &source, &copy)?;
                for (_, block) in copy.blocks() {
                    if let Block::Half { words, .. } = block {
                        t.expect_words("y", words, || x.chunks_exact(cols).flat_map(|row| twin(half, row)).collect());
                    }
                }
                Ok(())
            }));
        }
    }
    all
}
