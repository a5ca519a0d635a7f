//! The matrices of a model on the GPU: cut by columns into blocks that each fit a binding, and stored in f32, in 16
//! bits or in quantised blocks. What is read in fewer bits is widened in registers; every sum is in f32.

use super::half::Half;
use super::quants::Quants;
use super::way::Constant;
use crate::arch::Scaled;
use crate::gpu::{Gpu, Tensor, pad4};
use crate::{Error, Result};

/// The number format of one matrix on the GPU. It follows from what was asked for (`Storage`) and from the format in
/// the file ([`Dtype`](crate::arch::Dtype)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In f32.
    Dense,
    /// In 16 bits.
    Half(Half),
    /// Groups of values along K that share a scale and a minimum.
    Quantised(Quants),
}

impl Stored {
    /// Every way that there is.
    pub(super) fn all() -> Vec<Stored> {
        let halves = Half::ALL.map(Stored::Half);
        [Stored::Dense].into_iter().chain(halves).chain(Quants::ALL.map(Stored::Quantised)).collect()
    }

    /// What the shaders' constants say of it.
    pub(super) fn constants(self) -> Vec<Constant> {
        match self {
            Stored::Dense => vec![],
            Stored::Half(half) => vec![half.constant()],
            Stored::Quantised(quants) => quants.constants(),
        }
    }

    pub(super) fn is_quantised(self) -> bool {
        matches!(self, Stored::Quantised(_))
    }

    /// The format's name among the types of weights that a product is timed with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stored::Dense => "f32",
            Stored::Half(half) => half.name(),
            Stored::Quantised(quants) => quants.name(),
        }
    }
}

/// Neighbouring columns of a matrix `[K, N]`. Rows are padded to a multiple of 4 with zeros.
#[derive(Clone)]
pub(crate) enum Block {
    /// f32 elements, `[pad4(K), n]`.
    Dense(Tensor),
    /// 16-bit elements, two neighbours of a row in a word, the first in its low bits.
    Half {
        /// The type of the elements.
        half: Half,
        /// The elements, `[pad4(K), pad4(n) / 2]`.
        words: Tensor,
        /// n, the number of columns.
        cols: usize,
    },
    /// Groups of values along K that share a scale and a minimum.
    Quantised {
        /// The kind of the groups.
        quants: Quants,
        /// `[K * bits / 32, n]`; a word holds neighbours along K, the first in its low bits, of 5 and 6 bits the
        /// lower 4 of them (`shaders/lib/bits.wgsl`).
        words: Tensor,
        /// Half: words `[K / group, n]`, the scale in the low bits. Full: f32 `[K / group, 2 pad4(n)]`, four columns'
        /// scales and their minima in turn. Power: words `[K / group, n / 4]`, a byte for each column. Times: words
        /// `[K / 256 * (1 + 128 / group), n]`, for 256 values a row as Half's, and one for every two groups, of which
        /// each has a byte for the scale and one for the minimum.
        scales: Tensor,
    },
}

impl Block {
    /// The number of rows: K with its padding.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Block::Dense(t) => t.rows(),
            Block::Half { words, .. } => words.rows(),
            Block::Quantised { quants, words, .. } => words.rows() * 32 / quants.bits as usize,
        }
    }

    /// n, the number of columns.
    pub(crate) fn cols(&self) -> usize {
        match self {
            Block::Dense(t) => t.cols(),
            Block::Half { cols, .. } => *cols,
            Block::Quantised { words, .. } => words.cols(),
        }
    }

    /// The block's first `rows` rows, a multiple of 32, and first `cols` columns, a multiple of 4, if it has more.
    pub(super) fn corner(&self, rows: usize, cols: usize) -> Result<Block> {
        let (rows, cols) = (rows.min(self.rows()), cols.min(self.cols()));
        let part = |t: &Tensor, rows: usize, cols: usize| t.corner(t.rows().min(rows), t.cols().min(cols));
        Ok(match self {
            Block::Dense(t) => Block::Dense(part(t, rows, cols)?),
            Block::Half { half, words, cols: all } => {
                Block::Half { half: *half, words: part(words, rows, cols / 2)?, cols: cols.min(*all) }
            }
            Block::Quantised { quants, words, scales } => Block::Quantised {
                quants: *quants,
                words: part(words, quants.word_rows(rows), cols)?,
                scales: part(scales, quants.scale_rows(rows), quants.scale_cols(cols))?,
            },
        })
    }

    /// Distance between rows in vec4 of elements.
    pub(super) fn ld4(&self) -> usize {
        match self {
            Block::Dense(t) => t.ld() / 4,
            Block::Half { words, .. } => words.ld() / 2,
            Block::Quantised { words, .. } => words.ld() / 4,
        }
    }

    /// What the kernels bind of it.
    pub(super) fn bind(&self) -> Vec<&Tensor> {
        match self {
            Block::Dense(t) => vec![t],
            Block::Half { words, .. } => vec![words],
            Block::Quantised { words, scales, .. } => vec![words, scales],
        }
    }

    pub(super) fn stored(&self) -> Stored {
        match self {
            Block::Dense(_) => Stored::Dense,
            Block::Half { half, .. } => Stored::Half(*half),
            Block::Quantised { quants, .. } => Stored::Quantised(*quants),
        }
    }
}

/// A matrix `[K, N]`, or a vector (one row).
#[derive(Clone)]
pub(crate) struct Weight {
    /// Columns of every block but the last, a multiple of 4.
    width: usize,
    blocks: Vec<Block>,
}

impl From<Tensor> for Weight {
    fn from(t: Tensor) -> Weight {
        Weight { width: pad4(t.cols()).max(4), blocks: vec![Block::Dense(t)] }
    }
}

/// Columns of a block that fits one buffer in f32, the type of its transpose in the backward pass, whatever it is
/// stored in; as many of them as `unit` says are not parted.
fn width(gpu: &Gpu, rows: usize, cols: usize, unit: usize) -> Result<usize> {
    let most = (gpu.block_bytes() / (4 * rows.max(1) as u64)) as usize;
    match most {
        _ if pad4(cols) <= most => Ok(pad4(cols).max(4)),
        _ if unit > 1 && most >= unit => Ok(most / unit * unit),
        _ if unit > 1 => Err(Error::OutOfMemory(format!(
            "a matrix of {rows} rows and {unit} columns exceeds the {} bytes that {} binds",
            gpu.block_bytes(),
            gpu.info().name
        ))),
        64.. => Ok(most / 64 * 64),
        4.. => Ok(most / 4 * 4),
        _ => Err(Error::OutOfMemory(format!(
            "four columns of a matrix of {rows} rows exceed the {} bytes that {} binds",
            gpu.block_bytes(),
            gpu.info().name
        ))),
    }
}

/// Writes row-major values of `cols` columns into a tensor that holds those from `first` on.
fn put<T: bytemuck::Pod + Default>(gpu: &Gpu, to: &Tensor, values: &[T], cols: usize, first: usize) -> Result<()> {
    if to.cols() == cols {
        return gpu.overwrite(to, values);
    }
    let part = values.chunks_exact(cols.max(1)).flat_map(|row| &row[first..first + to.cols()]).copied();
    gpu.overwrite(to, &part.collect::<Vec<T>>())
}

impl Weight {
    /// Memory for a matrix `[rows, cols]`, for the host to write.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn room(gpu: &Gpu, stored: Stored, rows: usize, cols: usize) -> Result<Weight> {
        Self::room_of_units(gpu, stored, rows, (cols, 1))
    }

    /// Memory for matrices of `unit` columns side by side, `cols` in all; none lies in two buffers.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn room_of_units(
        gpu: &Gpu,
        stored: Stored,
        rows: usize,
        (cols, unit): (usize, usize),
    ) -> Result<Weight> {
        Self::cut(gpu, stored, rows, (cols, width(gpu, rows, cols, unit)?))
    }

    /// Memory for a matrix whose blocks have `width` columns, but for the last.
    fn cut(gpu: &Gpu, stored: Stored, rows: usize, (cols, width): (usize, usize)) -> Result<Weight> {
        let block = |first: usize| {
            let n = width.min(cols - first);
            Ok(match stored {
                Stored::Dense => Block::Dense(gpu.room(rows, n)?),
                Stored::Half(half) => Block::Half { half, words: gpu.room(rows, pad4(n) / 2)?, cols: n },
                Stored::Quantised(quants) => Block::Quantised {
                    quants,
                    words: gpu.room(quants.word_rows(rows), n)?,
                    scales: gpu.room(quants.scale_rows(rows), quants.scale_cols(n))?,
                },
            })
        };
        let blocks = (0..cols.max(1)).step_by(width).map(block).collect::<Result<_>>()?;
        Ok(Weight { width, blocks })
    }

    /// Memory on another device, laid out as this one.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn like(&self, gpu: &Gpu) -> Result<Weight> {
        Self::cut(gpu, self.stored(), self.rows(), (self.cols(), self.width))
    }

    pub(crate) fn stored(&self) -> Stored {
        self.blocks.first().map_or(Stored::Dense, Block::stored)
    }

    /// f32 elements from row-major host values `[rows, cols]`.
    ///
    /// # Errors
    /// Out of memory; a slice of another length.
    pub(crate) fn upload(gpu: &Gpu, rows: usize, cols: usize, values: &[f32]) -> Result<Weight> {
        Self::room(gpu, Stored::Dense, rows, cols)?.filled(gpu, values)
    }

    /// This weight with f32 elements from row-major host values `[rows, cols]`.
    ///
    /// # Errors
    /// A slice of another length.
    pub(crate) fn filled(self, gpu: &Gpu, values: &[f32]) -> Result<Weight> {
        for (first, block) in self.blocks() {
            if let Block::Dense(t) = block {
                put(gpu, t, values, self.cols(), first)?;
            }
        }
        Ok(self)
    }

    /// 16-bit elements from row-major host values `[rows, cols]`, rounded to the nearest.
    ///
    /// # Errors
    /// As [`Weight::upload`]; a value that f16 cannot hold.
    pub(crate) fn upload_half(gpu: &Gpu, half: Half, rows: usize, cols: usize, values: &[f32]) -> Result<Weight> {
        half.check(values)?;
        let weight = Self::room(gpu, Stored::Half(half), rows, cols)?;
        for (first, block) in weight.blocks() {
            let Block::Half { words, cols: n, .. } = block else { continue };
            let row = |row: &[f32]| half.words(&row[first..first + n]);
            let bits: Vec<u32> = values.chunks_exact(cols.max(1)).flat_map(row).collect();
            gpu.overwrite(words, &bits)?;
        }
        Ok(weight)
    }

    /// Quantised groups: words `[rows * bits / 32, cols]`, and what they are scaled by, `[rows / 32, cols]`.
    ///
    /// # Errors
    /// As [`Weight::upload`], and as [`Quants::check`].
    pub(crate) fn upload_quantised(
        gpu: &Gpu,
        (quants, rows, cols): (Quants, usize, usize),
        words: &[u32],
        scales: &[Scaled],
    ) -> Result<Weight> {
        quants.check(scales)?;
        let weight = Self::room(gpu, Stored::Quantised(quants), rows, cols)?;
        for (first, block) in weight.blocks() {
            if let Block::Quantised { words: to, scales: scales_to, .. } = block {
                put(gpu, to, words, cols, first)?;
                let ld = scales_to.cols();
                let mut packed = vec![0; quants.scale_rows(rows) * ld];
                for (b, row) in scales.chunks_exact(cols.max(1)).enumerate() {
                    quants.put(&mut packed, ld, (b, 0), &row[first..first + to.cols()]);
                }
                gpu.overwrite(scales_to, &packed)?;
            }
        }
        Ok(weight)
    }

    /// f32 zeros, cut as this one.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn zeros_like(&self, gpu: &Gpu) -> Result<Weight> {
        let zeros = |b: &Block| gpu.zeros(b.rows(), b.cols()).map(Block::Dense);
        Ok(Weight { width: self.width, blocks: self.blocks.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Memory for a copy in 16 bits; `super::cast` fills it.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn empty_half(&self, gpu: &Gpu, half: Half) -> Result<Weight> {
        let empty =
            |b: &Block| Ok(Block::Half { half, words: gpu.empty(b.rows(), pad4(b.cols()) / 2)?, cols: b.cols() });
        Ok(Weight { width: self.width, blocks: self.blocks.iter().map(empty).collect::<Result<_>>()? })
    }

    /// The number of rows: K with its padding.
    pub(crate) fn rows(&self) -> usize {
        self.blocks.first().map_or(0, Block::rows)
    }

    /// N, the number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.blocks.iter().map(Block::cols).sum()
    }

    /// The blocks, each with its first column.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, &Block)> {
        self.blocks.iter().enumerate().map(|(i, b)| (i * self.width, b))
    }

    /// Refuses what [`super::adamw::step`] cannot move.
    ///
    /// # Errors
    /// A weight in f16 or in quantised blocks.
    pub(crate) fn check_trainable(&self) -> Result<()> {
        let fine = |b: &Block| matches!(b, Block::Dense(_) | Block::Half { half: Half::Bf16, .. });
        match self.blocks.iter().all(fine) {
            true => Ok(()),
            false => Err(Error::Input("weights are trained in f32 or bf16; load the model in one of them".into())),
        }
    }

    /// The blocks' f32 tensors, each with its first column.
    ///
    /// # Errors
    /// A weight in fewer bits.
    pub(crate) fn tensors(&self) -> Result<Vec<(usize, &Tensor)>> {
        fn dense((first, block): (usize, &Block)) -> Result<(usize, &Tensor)> {
            match block {
                Block::Dense(t) => Ok((first, t)),
                _ => Err(Error::Input("an f32 weight is needed here; load the model dequantised".into())),
            }
        }
        self.blocks().map(dense).collect()
    }

    /// The one f32 tensor of a vector or of a matrix that is not cut.
    ///
    /// # Errors
    /// A weight in fewer bits, or in several blocks.
    pub(crate) fn dense(&self) -> Result<&Tensor> {
        match self.tensors()?[..] {
            [(_, tensor)] => Ok(tensor),
            _ => Err(Error::Bug(format!("a matrix of {} columns lies in {} buffers", self.cols(), self.blocks.len()))),
        }
    }

    /// All values, row-major, without padding between rows.
    ///
    /// # Errors
    /// GPU errors.
    pub(crate) fn values(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        Ok(Self::values_together(gpu, &[self])?.swap_remove(0))
    }

    /// The values of each of several weights; all f32 tensors among them are read in one wait.
    ///
    /// # Errors
    /// GPU errors.
    pub(crate) fn values_together(gpu: &Gpu, weights: &[&Weight]) -> Result<Vec<Vec<f32>>> {
        fn dense((_, block): (usize, &Block)) -> Option<&Tensor> {
            if let Block::Dense(tensor) = block { Some(tensor) } else { None }
        }
        let tensors: Vec<&Tensor> = weights.iter().flat_map(|weight| weight.blocks().filter_map(dense)).collect();
        let mut read = gpu.download_all::<f32>(&tensors)?.into_iter();
        let assembled = |weight: &&Weight| {
            let (rows, cols) = (weight.rows(), weight.cols());
            let mut all = vec![0f32; rows * cols];
            for (first, block) in weight.blocks() {
                let n = block.cols();
                let values = match block {
                    Block::Dense(_) => read.next().unwrap_or_default(),
                    _ => block_values(gpu, block)?,
                };
                for (to, from) in all.chunks_exact_mut(cols.max(1)).zip(values.chunks_exact(n.max(1))) {
                    to[first..first + n].copy_from_slice(from);
                }
            }
            Ok(all)
        };
        weights.iter().map(assembled).collect()
    }
}

fn block_values(gpu: &Gpu, block: &Block) -> Result<Vec<f32>> {
    match block {
        Block::Dense(t) => gpu.download(t),
        Block::Half { half, words, cols } => {
            let all: Vec<u32> = gpu.download(words)?;
            let one = |row: &[u32], c: usize| half.value((row[c / 2] >> (16 * (c % 2))) as u16);
            Ok(all.chunks_exact(words.cols()).flat_map(|row| (0..*cols).map(move |c| one(row, c))).collect())
        }
        Block::Quantised { quants, words, scales } => {
            let (w, s) = (gpu.download::<u32>(words)?, gpu.download::<u32>(scales)?);
            let cols = words.cols();
            let one = |i: usize| {
                let (row, col) = (i / cols, i % cols);
                let q = quants.bits_at(&w, cols, (row, col));
                let [scale, minimum] = quants.unpacked(&s, scales.cols(), (row, col));
                quants.step(q) * scale + minimum
            };
            Ok((0..block.rows() * cols).map(one).collect())
        }
    }
}
