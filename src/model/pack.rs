//! Weights on their way from a file to the device: threads bring them into the device's form, some rows at a time.

use super::places::{Place, TILE};
use crate::arch::{Dtype, LARGEST, Scaled, evened, first_unusable, unusable};
use crate::gpu::{Gpu, RowsToWrite};
use crate::kernels::quants::Quants;
use crate::kernels::weight::{Block, Stored, Weight};
use crate::source::ModelSource;
use crate::weights::{WeightView, Weights};
use crate::{Error, Result};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most threads that pack.
const PACKERS: usize = 4;

/// Words that a thread packs at a time, where a matrix can be cut. Half as many open a model of half a billion
/// parameters a twentieth slower, for the rows of a wide matrix are far apart in the file.
const WORDS: usize = 1 << 22;

/// How each tensor of a parameter lies in the file: its place, name and type.
pub(super) type Parts = Vec<(Place, String, Dtype)>;

/// Rows of a parameter that one thread packs.
struct Piece {
    param: usize,
    rows: Range<usize>,
}

/// Fills the parameters that have room on the device from the tensors of a model on disk.
///
/// # Errors
/// What goes wrong in the first of the parameters: a tensor that cannot be read, or that holds what is no weight.
pub(super) fn fill(gpu: &Gpu, source: &ModelSource, params: &[Option<Weight>], parts: &[Parts]) -> Result<()> {
    let mut pieces = Vec::new();
    for (param, weight) in params.iter().enumerate() {
        let Some(weight) = weight else { continue };
        let step = step(&source.weights, weight, &parts[param]);
        let rows = (0..weight.rows()).step_by(step).map(|first| first..(first + step).min(weight.rows()));
        pieces.extend(rows.map(|rows| Piece { param, rows }));
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None::<(usize, Error)>));
    let pack = || {
        let mut scratch = Scratch::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(Piece { param, rows }) = pieces.get(number) else { return };
            let Some(weight) = &params[*param] else { continue };
            let Err(error) = pack(gpu, source, weight, &parts[*param], rows.clone(), &mut scratch) else { continue };
            // Whoever packs a piece before this one still does, and what is behind it need not be packed.
            next.store(pieces.len(), Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                *failed = Some((number, named(source, &parts[*param], error)));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(PACKERS);
    match threads {
        // A browser has no threads to start.
        1 => pack(),
        _ => std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(pack)))),
    }
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Whether a tensor's rows become columns that follow one another, so that some rows of the parameter are a part of
/// each.
fn is_cut(place: &Place) -> bool {
    place.turned && place.is_unpadded() && place.apart.is_none()
}

/// How many rows of a parameter are packed at a time.
fn step(weights: &Weights, weight: &Weight, parts: &Parts) -> usize {
    // What has to be changed as a whole is changed once.
    if !parts.iter().all(|(place, name, _)| is_cut(place) && weights.is_unchanged(name)) {
        return weight.rows().max(1);
    }
    let blocks = parts.iter().map(|(_, _, dtype)| dtype.block().0).max().unwrap_or(1);
    let (bits, unit) = match weight.stored() {
        Stored::Quantised(quants) => (quants.bits as usize, quants.unit()),
        Stored::Half(_) => (16, blocks),
        Stored::Dense => (32, blocks),
    };
    let rows = WORDS * 32 / bits / weight.cols().max(1);
    (rows / unit * unit).max(unit)
}

/// The memory that a thread packs into. It is kept, since fresh memory costs about as much as what is written to it.
#[derive(Default)]
struct Scratch {
    scales: Vec<u32>,
    values: Vec<f32>,
}

/// The first `count` entries of the scratch memory, set to zero unless all of them are written to.
fn entries<T: Copy + Default>(scratch: &mut Vec<T>, count: usize, all_written: bool) -> &mut [T] {
    if !all_written {
        scratch.clear();
    }
    if scratch.len() < count {
        scratch.resize(count, T::default());
    }
    &mut scratch[..count]
}

/// Brings rows of a parameter into the device's form and onto the device.
fn pack(
    gpu: &Gpu,
    source: &ModelSource,
    weight: &Weight,
    parts: &Parts,
    rows: Range<usize>,
    scratch: &mut Scratch,
) -> Result<()> {
    let views = parts.iter().map(|(place, name, _)| Ok((place, source.weights.get(name)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    let columns = views.iter().flat_map(|(place, view)| place.columns(view.shape[0])).map(|(outs, _)| outs.len());
    // Whether the tensors leave nothing between them.
    let whole = parts.iter().all(|(place, ..)| is_cut(place)) && columns.sum::<usize>() == weight.cols();
    let path = |view: &WeightView| source.weights.file_of(view.name).unwrap_or(&source.path).to_path_buf();
    for (first, block) in weight.blocks() {
        let window = Window { rows: rows.clone(), columns: first..first + block.cols(), cols: weight.cols() };
        match block {
            Block::Quantised { quants, words, scales } => {
                let whole = whole && words.ld() == words.cols();
                let mut to_words =
                    gpu.rows_to_write(words, quants.word_rows(rows.start)..quants.word_rows(rows.end))?;
                if !whole {
                    to_words.clear();
                }
                let written = whole && !quants.shares_words();
                let to_scales = entries(&mut scratch.scales, quants.scale_rows(rows.len()) * scales.ld(), written);
                let ld = [words.ld(), scales.ld()];
                let mut out = Packed { quants: *quants, window, ld, words: to_words, scales: to_scales };
                for (place, view) in &views {
                    out.take(place, view, &path)?;
                }
                gpu.overwrite_rows(scales, quants.scale_rows(rows.start), out.scales)?;
            }
            Block::Half { half, words, .. } => {
                let values = entries(&mut scratch.values, rows.len() * 2 * words.ld(), false);
                window.values(&views, 2 * words.ld(), values, &path)?;
                half.check(values)?;
                gpu.overwrite_rows(words, rows.start, &half.words(values))?;
            }
            Block::Dense(tensor) => {
                let values = entries(&mut scratch.values, rows.len() * tensor.ld(), false);
                window.values(&views, tensor.ld(), values, &path)?;
                gpu.overwrite_rows(tensor, rows.start, values)?;
            }
        }
    }
    Ok(())
}

/// Names the tensors of a parameter that holds what its type cannot.
fn named(source: &ModelSource, parts: &Parts, error: Error) -> Error {
    let names: Vec<&str> = parts.iter().map(|(_, name, _)| name.as_str()).collect();
    match error {
        Error::NonFinite(what) => {
            Error::NonFinite(format!("{}: tensor {}: {what}", source.path.display(), names.join(", ")))
        }
        other => other,
    }
}

/// Rows and columns of a parameter that has `cols` columns.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    cols: usize,
}

/// Names the file of a tensor.
type PathOf<'a> = &'a dyn Fn(&WeightView) -> PathBuf;

impl Window {
    /// The rows of a tensor that become columns of the window: some neighbours at a time, with the first's column.
    fn tiles(&self, place: &Place, outs: usize) -> Vec<(Range<usize>, usize)> {
        let mut all = Vec::new();
        for (outs, first) in place.columns(outs) {
            let columns = self.columns.start.max(first)..self.columns.end.min(first + outs.len());
            for column in columns.clone().step_by(TILE) {
                let out = outs.start + column - first;
                let count = TILE.min(columns.end - column);
                all.push((out..out + count, column - self.columns.start));
            }
        }
        all
    }

    /// The values in f32, `ld` from row to row; what no tensor fills stays.
    fn values(&self, views: &[(&Place, WeightView)], ld: usize, to: &mut [f32], path: PathOf) -> Result<()> {
        for (place, view) in views {
            let refused = match is_cut(place) {
                true => self.turned(place, view, ld, to),
                false => self.whole(place, view, ld, to),
            };
            if let Some(first) = refused {
                return Err(Error::file(path(view), unusable(view.name, view.shape, first)));
            }
        }
        Ok(())
    }

    /// A tensor in its place, element by element; gives the first value that is no weight.
    fn whole(&self, place: &Place, view: &WeightView, ld: usize, to: &mut [f32]) -> Option<(usize, f32)> {
        let all = view.to_f32();
        place.each(view.shape, self.cols, |from, at| {
            let (row, column) = (at / self.cols, at % self.cols);
            if self.columns.contains(&column) {
                to[row * ld + column - self.columns.start] = all[from];
            }
        });
        first_unusable(&all)
    }

    /// The rows of a tensor whose transpose the parameter holds; gives the first value that is no weight.
    fn turned(&self, place: &Place, view: &WeightView, ld: usize, to: &mut [f32]) -> Option<(usize, f32)> {
        let (outs, ins) = (view.shape[0], view.shape[1]);
        let rows = self.rows.start..self.rows.end.min(ins);
        let (values, bytes) = view.dtype.block();
        let at = |out: usize, row: usize| (out * ins + row) / values * bytes;
        let mut tile: Vec<f32> = Vec::new();
        for (outs, column) in self.tiles(place, outs) {
            tile.clear();
            outs.clone()
                .for_each(|out| view.dtype.dequantise(&view.data[at(out, rows.start)..at(out, rows.end)], &mut tile));
            if let Some((i, value)) = first_unusable(&tile) {
                return Some(((outs.start + i / rows.len()) * ins + rows.start + i % rows.len(), value));
            }
            for (row, line) in to.chunks_exact_mut(ld).take(rows.len()).enumerate() {
                for (lane, value) in line[column..][..outs.len()].iter_mut().enumerate() {
                    *value = tile[lane * rows.len() + row];
                }
            }
        }
        None
    }
}

/// Blocks as the kernels read them: words of neighbours along `in`, scales and minima apart.
struct Packed<'a> {
    quants: Quants,
    window: Window,
    /// The distances between rows of `words` and of `scales`, in words.
    ld: [usize; 2],
    words: RowsToWrite<'a>,
    scales: &'a mut [u32],
}

impl Packed<'_> {
    /// Packs the rows of one tensor.
    fn take(&mut self, place: &Place, view: &WeightView, path: PathOf) -> Result<()> {
        let (dtype, data, blocks) = (view.dtype, &*view.data, view.shape[1] / 32);
        let tiles = self.window.tiles(place, view.shape[0]);
        // Of the types that most files have, each gets a loop of its own.
        let refused = match (dtype, self.quants.bits) {
            (Dtype::Q8_0, 8) => self.tiles::<8>(Dtype::Q8_0, data, blocks, tiles),
            (Dtype::Q5_0, 5) => self.tiles::<5>(Dtype::Q5_0, data, blocks, tiles),
            (Dtype::Q6K, 6) => self.tiles::<6>(Dtype::Q6K, data, blocks, tiles),
            (Dtype::Q4K, 4) => self.tiles::<4>(Dtype::Q4K, data, blocks, tiles),
            (_, 4) => self.tiles::<4>(dtype, data, blocks, tiles),
            (_, 5) => self.tiles::<5>(dtype, data, blocks, tiles),
            (_, 6) => self.tiles::<6>(dtype, data, blocks, tiles),
            _ => self.tiles::<8>(dtype, data, blocks, tiles),
        };
        refused?.map_or(Ok(()), |at| {
            let what = format!("tensor {}: the scale of block {at} is no number or too large", view.name);
            Err(Error::file(path(view), what))
        })
    }

    /// Packs tiles of rows of `blocks` blocks of 32, with `BITS` bits a value; gives the first block that has a scale
    /// that cannot be computed with.
    #[inline(always)]
    fn tiles<const BITS: usize>(
        &mut self,
        dtype: Dtype,
        data: &[u8],
        blocks: usize,
        tiles: Vec<(Range<usize>, usize)>,
    ) -> Result<Option<usize>> {
        // What is known of the bits here is known to the loops.
        let quants = Quants { bits: BITS as u32, ..self.quants };
        let rows = self.window.rows.start / 32..(self.window.rows.end / 32).min(blocks);
        for (outs, column) in tiles {
            for (row, b) in rows.clone().enumerate() {
                let (mut words, mut scales) = ([[0; 8]; TILE], [Scaled::default(); TILE]);
                for (lane, out) in outs.clone().enumerate() {
                    let at = out * blocks + b;
                    let Some(packed) = dtype.thirty_two(data, at).filter(|(_, scaled)| usable(*scaled)) else {
                        return Ok(Some(at));
                    };
                    // Beside another type, where 4 bits do not do.
                    let (q, scaled) = if BITS == 8 && dtype == Dtype::Mxfp4 { evened(packed) } else { packed };
                    words[lane] = quants.words(q);
                    scales[lane] = scaled;
                }
                for word in 0..BITS {
                    let mut line = [0; TILE];
                    for (entry, words) in line.iter_mut().zip(&words) {
                        *entry = words[word];
                    }
                    self.words.put((row * BITS + word) * self.ld[0] + column, &line[..outs.len()]);
                }
                let scales = &scales[..outs.len()];
                quants.check(scales)?;
                quants.put(self.scales, self.ld[1], (row, column), scales);
            }
        }
        Ok(None)
    }
}

/// Whether all values of a block are weights that can be computed with.
fn usable(scaled: Scaled) -> bool {
    let fine = |[d, m]: [f32; 2]| [255.0 * d, m].iter().all(|v| (-LARGEST..=LARGEST).contains(v));
    fine(scaled.of(0)) && fine(scaled.of(1))
}
