//! A model's parameters between named tensors, files and the GPU; `places.rs` says where each lies.

use super::places::{Place, count, place, shape};
use crate::arch::{Arch, Dtype, LARGEST, NamedTensor, family, first_unusable, unusable};
use crate::gpu::Gpu;
use crate::kernels::half::Half;
use crate::kernels::quants::Quants;
use crate::kernels::weight::{Stored, Weight};
use crate::source::ModelSource;
use crate::weights::Weights;
use crate::{Error, Result};
use std::path::Path;

/// Most threads that bring weights into the device's form; each holds a parameter.
const PACKERS: usize = 4;

/// The type in which matrices are kept on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// Matrices are kept as the file has them: quantised blocks and 16 bits stay, all else becomes f32. No value
    /// changes.
    #[default]
    Own,
    /// Matrices are kept in f32.
    F32,
    /// Matrices are rounded to 16 bits; sums, activations and vectors stay in f32.
    Half(Half),
}

/// All parameters in f32 from named tensors.
pub(crate) fn upload(gpu: &Gpu, arch: &Arch, tensors: Vec<NamedTensor>) -> Result<Vec<Option<Weight>>> {
    let expected = family::parameters(arch);
    let mut named: std::collections::HashMap<String, NamedTensor> = std::collections::HashMap::new();
    for t in tensors {
        if let Some(twice) = named.insert(t.name.clone(), t) {
            return Err(Error::Input(format!("parameter '{}' is given twice", twice.name)));
        }
    }
    let mut params: Vec<Option<Weight>> = vec![None; count(arch)];
    // By parameter, so that only one of them is held padded at a time.
    let mut by_param: Vec<Vec<(Place, NamedTensor)>> = (0..count(arch)).map(|_| Vec::new()).collect();
    for (name, shape) in &expected {
        let t = named.remove(name).ok_or_else(|| Error::Input(format!("parameter '{name}' is missing")))?;
        if t.shape != *shape || t.data.len() != shape.iter().product::<usize>() {
            return Err(Error::Input(format!("parameter '{name}' has shape {:?}, expected {shape:?}", t.shape)));
        }
        if let Some(first) = first_unusable(&t.data) {
            return Err(Error::NonFinite(unusable(name, shape, first)));
        }
        let p = place(arch, name)?;
        by_param[p.param].push((p, t));
    }
    if let Some(name) = named.keys().next() {
        return Err(Error::Input(format!("parameter '{name}' is not one of this model")));
    }
    for (param, parts) in by_param.into_iter().enumerate() {
        let Some((rows, cols)) = shape(arch, param) else { continue };
        let mut host = vec![0f32; rows * cols];
        for (place, t) in &parts {
            place.each(&t.shape, cols, |a, b| host[b] = t.data[a]);
        }
        params[param] = Some(Weight::upload(gpu, rows, cols, &host)?);
    }
    Ok(params)
}

/// Named tensors back from parameter-shaped tensors (weights or gradients); `of(param)` gives the tensor.
pub(crate) fn download(
    gpu: &Gpu,
    arch: &Arch,
    mut of: impl FnMut(usize) -> Result<Vec<f32>>,
) -> Result<Vec<NamedTensor>> {
    gpu.wait()?;
    let mut cache: Option<(usize, Vec<f32>)> = None;
    family::parameters(arch)
        .into_iter()
        .map(|(name, dims)| {
            let place = place(arch, &name)?;
            // Neighbouring names share a parameter (q, k, v): read it once.
            if cache.as_ref().is_none_or(|(p, _)| *p != place.param) {
                cache = Some((place.param, of(place.param)?));
            }
            let (rows, cols) = shape(arch, place.param).unwrap_or_default();
            let mut data = vec![0f32; dims.iter().product()];
            match &cache {
                Some((_, values)) if values.len() == rows * cols => {
                    place.each(&dims, cols, |a, b| data[a] = values[b]);
                }
                _ => return Err(Error::Bug(format!("parameter '{name}' has no values"))),
            }
            Ok(NamedTensor { name, shape: dims, data })
        })
        .collect()
}

/// How each tensor of a parameter lies in the file: its place, name and type.
type Parts = Vec<(Place, String, Dtype)>;

/// How a parameter's matrix is kept. Where its tensors are all in blocks it stays quantised unless f32 or 16 bits are
/// asked for; where all are in one 16-bit type it keeps that; vectors are in f32.
fn stored(asked: Storage, rows: usize, parts: &Parts) -> Stored {
    let quants =
        |(place, _, dtype): &(Place, String, Dtype)| Quants::of(*dtype).filter(|_| place.turned && place.is_unpadded());
    let half = |(_, _, dtype): &(Place, String, Dtype)| Half::of(*dtype);
    match asked {
        _ if rows == 1 => Stored::Dense,
        Storage::F32 => Stored::Dense,
        Storage::Half(half) => Stored::Half(half),
        Storage::Own => {
            // The parts of a fused matrix may differ.
            let quants = parts.iter().map(quants).collect::<Option<Vec<_>>>();
            let quants = quants.and_then(|q| q.into_iter().reduce(Quants::or));
            let first = parts.first().and_then(half);
            match (quants.filter(|_| rows.is_multiple_of(32)), first) {
                (Some(quants), _) => Stored::Quantised(quants),
                (None, Some(of)) if parts.iter().all(|p| half(p) == first) => Stored::Half(of),
                _ => Stored::Dense,
            }
        }
    }
}

/// Memory for all parameters of a model whose tensors are stored as `dtype` says of their names, without values.
pub(crate) fn room(
    gpu: &Gpu,
    arch: &Arch,
    storage: Storage,
    dtype: &dyn Fn(&str) -> Result<Dtype>,
) -> Result<Vec<Option<Weight>>> {
    let one = |(param, parts): (usize, &Parts)| {
        let room = |(rows, cols)| Weight::room(gpu, stored(storage, rows, parts), rows, cols);
        shape(arch, param).map(room).transpose()
    };
    parts_of(arch, dtype)?.iter().enumerate().map(one).collect()
}

/// The tensors of each parameter.
fn parts_of(arch: &Arch, dtype: &dyn Fn(&str) -> Result<Dtype>) -> Result<Vec<Parts>> {
    let mut by_param: Vec<Parts> = (0..count(arch)).map(|_| Vec::new()).collect();
    for (name, _) in family::parameters(arch) {
        let place = place(arch, &name)?;
        let dtype = dtype(&name)?;
        by_param[place.param].push((place, name, dtype));
    }
    Ok(by_param)
}

/// Parameters from a model on disk. Threads bring them into the device's form, at most one each ahead of the one that
/// is uploaded; what goes wrong first is told, in the order of the parameters.
pub(crate) fn load(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Vec<Option<Weight>>> {
    let (arch, dtype) = (&source.arch, |name: &str| source.weights.dtype(name));
    if gpu.counts() {
        return room(gpu, arch, storage, &dtype);
    }
    let all = parts_of(arch, &dtype)?;
    let (weights, path) = (&source.weights, &source.path);
    let job = |param: usize| {
        let (rows, cols) = shape(arch, param)?;
        Some(pack(weights, path, stored(storage, rows, &all[param]), (rows, cols), &all[param]))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(PACKERS);
    std::thread::scope(|scope| {
        let mut packers = Vec::new();
        for first in 0..threads {
            let (send, receive) = std::sync::mpsc::sync_channel(0);
            let (job, count) = (&job, all.len());
            // Who uploads has given up where nobody receives.
            scope.spawn(move || (first..count).step_by(threads).try_for_each(|param| send.send(job(param))));
            packers.push(receive);
        }
        let one = |(param, parts): (usize, &Parts)| {
            let gone = |_| Error::Bug(format!("parameter {param} was not packed"));
            let packed = packers[param % threads].recv().map_err(gone)?.transpose()?;
            let Some((packed, shape)) = packed.zip(shape(arch, param)) else { return Ok(None) };
            packed.upload(gpu, shape).map_err(|e| named(source, parts, e)).map(Some)
        };
        let params = all.iter().enumerate().map(one).collect();
        drop(packers);
        params
    })
}

/// A parameter in the form of the device.
enum Packed {
    Dense(Vec<f32>),
    Half(Half, Vec<f32>),
    /// Words, scales and minima.
    Quantised(Quants, Vec<u32>, [Vec<f32>; 2]),
}

impl Packed {
    fn upload(self, gpu: &Gpu, (rows, cols): (usize, usize)) -> Result<Weight> {
        match self {
            Packed::Dense(values) => Weight::upload(gpu, rows, cols, &values),
            Packed::Half(half, values) => Weight::upload_half(gpu, half, rows, cols, &values),
            Packed::Quantised(quants, words, [scales, minima]) => {
                Weight::upload_quantised(gpu, (quants, rows, cols), &words, [&scales, &minima])
            }
        }
    }
}

/// Reads the tensors of a parameter into the form that it is stored in.
fn pack(weights: &Weights, path: &Path, stored: Stored, shape: (usize, usize), parts: &Parts) -> Result<Packed> {
    if let Stored::Quantised(quants) = stored {
        return quantised(weights, path, quants, shape, parts);
    }
    let (rows, cols) = shape;
    let mut host = vec![0f32; rows * cols];
    for (place, name, _) in parts {
        let view = weights.get(name)?;
        let values = view.to_f32();
        if let Some(first) = first_unusable(&values) {
            let path = weights.file_of(view.name).unwrap_or(path);
            return Err(Error::file(path, unusable(view.name, view.shape, first)));
        }
        place.each(view.shape, cols, |a, b| host[b] = values[a]);
    }
    Ok(match stored {
        Stored::Half(half) => Packed::Half(half, host),
        _ => Packed::Dense(host),
    })
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

/// Blocks along `in` repacked for the kernels: words of neighbours along `in`, scales and minima apart.
fn quantised(
    weights: &Weights,
    path: &Path,
    quants: Quants,
    (rows, cols): (usize, usize),
    parts: &Parts,
) -> Result<Packed> {
    let (bits, per) = (quants.bits, 32 / quants.bits as usize);
    let mut words = vec![0u32; rows / per * cols];
    let group = quants.group as usize;
    let mut scale = vec![0f32; rows / group * cols];
    let mut minimum = scale.clone();
    for (place, name, _) in parts {
        let view = weights.get(name)?;
        let ins = view.shape[1];
        let mut bad = None;
        // No head is padded here, so a block's row is its number.
        place.each(&[view.shape[0], ins / 32], cols, |at, to| {
            let (out, b) = (to % cols, to / cols);
            let block = view.dtype.thirty_two(&view.data, at);
            let fits = |(d, m): &(f32, f32)| [255.0 * d, *m].iter().all(|v| (-LARGEST..=LARGEST).contains(v));
            let Some((q, pairs)) = block.filter(|(_, pairs)| pairs.iter().all(fits)) else {
                bad = Some(at);
                return;
            };
            for (row, pair) in (b * 32 / group..).zip(pairs.iter().step_by(group / 16)) {
                (scale[row * cols + out], minimum[row * cols + out]) = *pair;
            }
            for (row, q) in (b * 32..).zip(q) {
                words[row / per * cols + out] |= u32::from(q) << ((row % per) as u32 * bits);
            }
        });
        if let Some(block) = bad {
            let path = weights.file_of(view.name).unwrap_or(path);
            let what = format!("tensor {}: the scale of block {block} is no number or too large", view.name);
            return Err(Error::file(path, what));
        }
    }
    Ok(Packed::Quantised(quants, words, [scale, minimum]))
}

/// Whether a parameter is a matrix (weight decay acts on matrices alone).
pub(crate) fn is_matrix(weight: &Weight) -> bool {
    weight.rows() > 1
}
