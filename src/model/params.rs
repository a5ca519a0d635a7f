//! A model's parameters between named tensors, files and the GPU; `places.rs` says where each lies.

use super::pack::{self, Parts};
use super::places::{Place, count, place, shape, unit};
use crate::arch::{Arch, Dtype, NamedTensor, family, first_unusable, unusable};
use crate::gpu::Gpu;
use crate::kernels::half::Half;
use crate::kernels::quants::Quants;
use crate::kernels::weight::{Stored, Weight};
use crate::source::ModelSource;
use crate::{Error, Result};
use std::collections::HashMap;

/// The number format that is asked for a model's matrices when it is loaded onto the GPU. Which one each matrix then
/// has may depend on its format in the file ([`Dtype`]); vectors are in f32.
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
        let room = Weight::room_of_units(gpu, Stored::Dense, rows, (cols, unit(arch, param)))?;
        params[param] = Some(room.filled(gpu, &host)?);
    }
    Ok(params)
}

/// Values of parameters that are read in one wait, but that one larger parameter is read by itself.
const TOGETHER: usize = 8 << 20;

/// The values of the first of some parameters, and of as many of the next as are read together with it.
fn first_values<'w>(
    gpu: &Gpu,
    params: impl Iterator<Item = usize>,
    of: impl Fn(usize) -> Option<&'w Weight>,
) -> Result<HashMap<usize, Vec<f32>>> {
    let (mut numbers, mut weights, mut left) = (Vec::new(), Vec::new(), TOGETHER);
    for param in params {
        let Some(weight) = of(param).filter(|_| !numbers.contains(&param)) else { continue };
        let size = weight.rows() * weight.cols();
        if size > left && !numbers.is_empty() {
            break;
        }
        left = left.saturating_sub(size);
        numbers.push(param);
        weights.push(weight);
    }
    Ok(numbers.into_iter().zip(Weight::values_together(gpu, &weights)?).collect())
}

/// Named tensors back from parameter-shaped tensors (weights or gradients); `of(param)` gives the tensor.
pub(crate) fn download<'w>(
    gpu: &Gpu,
    arch: &Arch,
    of: impl Fn(usize) -> Option<&'w Weight>,
) -> Result<Vec<NamedTensor>> {
    let mut read: HashMap<usize, Vec<f32>> = HashMap::new();
    let named = family::parameters(arch).into_iter().map(|(name, dims)| Ok((place(arch, &name)?, name, dims)));
    let named = named.collect::<Result<Vec<_>>>()?;
    let numbers: Vec<usize> = named.iter().map(|(place, ..)| place.param).collect();
    named
        .into_iter()
        .enumerate()
        .map(|(at, (place, name, dims))| {
            if !read.contains_key(&place.param) {
                read = first_values(gpu, numbers[at..].iter().copied(), &of)?;
            }
            let (rows, cols) = shape(arch, place.param).unwrap_or_default();
            let mut data = vec![0f32; dims.iter().product()];
            match read.get(&place.param) {
                Some(values) if values.len() == rows * cols => {
                    place.each(&dims, cols, |a, b| data[a] = values[b]);
                }
                _ => return Err(Error::Bug(format!("parameter '{name}' has no values"))),
            }
            Ok(NamedTensor { name, shape: dims, data })
        })
        .collect()
}

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
        let room =
            |(rows, cols)| Weight::room_of_units(gpu, stored(storage, rows, parts), rows, (cols, unit(arch, param)));
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

/// Parameters from a model on disk.
pub(crate) fn load(gpu: &Gpu, source: &ModelSource, storage: Storage) -> Result<Vec<Option<Weight>>> {
    let (arch, dtype) = (&source.arch, |name: &str| source.weights.dtype(name));
    let params = room(gpu, arch, storage, &dtype)?;
    if !gpu.counts() {
        pack::fill(gpu, source, &params, &parts_of(arch, &dtype)?)?;
    }
    Ok(params)
}

/// Whether a parameter is a matrix (weight decay acts on matrices alone).
pub(crate) fn is_matrix(weight: &Weight) -> bool {
    weight.rows() > 1
}
