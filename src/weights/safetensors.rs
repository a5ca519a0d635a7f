//! safetensors files, single or sharded.

use crate::disk::OnDisk;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path};

use safetensors::tensor::{Dtype as Stored, SafeTensors, View};
use serde_json::{Map, Value};

use super::tensors::{Change, Entry, Mapped, Weights};
use crate::arch::Dtype;
use crate::arch::NamedTensor;
use crate::json::read_json;
use crate::{Error, Result, durable};

/// The single file's name in a Hugging Face folder.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The shards' index in a Hugging Face folder.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Opens `model.safetensors` of `folder`, else the shards that `model.safetensors.index.json` names. Tensors of a model
/// that was saved without its head get the names that they have with it.
pub(crate) fn open_folder(folder: &Path) -> Result<Weights> {
    let mut weights = open_files(folder)?;
    let headless = |name: &&String| ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
    let names: Vec<String> = weights.names().iter().filter(headless).cloned().collect();
    names.iter().for_each(|name| weights.rename(name, &format!("model.{name}")));
    Ok(weights)
}

fn open_files(folder: &Path) -> Result<Weights> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.is_there() {
        Weights::open_safetensors(&single)
    } else if index.is_there() {
        open_sharded(folder, &index)
    } else {
        let hint = if folder.join("pytorch_model.bin").is_there() {
            "; pytorch_model.bin is not read, convert it with transformers' save_pretrained"
        } else {
            ""
        };
        Err(Error::file(folder, format!("has neither {SINGLE} nor {INDEX}{hint}")))
    }
}

impl Weights {
    /// Opens one safetensors file.
    ///
    /// # Errors
    /// The file is missing or broken.
    pub fn open_safetensors(path: &Path) -> Result<Weights> {
        let mut weights = Weights::default();
        add_file(&mut weights, path, |_| true)?;
        Ok(weights)
    }
}

/// The files that an index names, each once, in the order of its tensors.
///
/// # Errors
/// The index is broken, or a name in it is not that of a file beside it.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>> {
    let mut shards: Vec<String> = Vec::new();
    for (tensor, shard) in &weight_map(index)? {
        let Some(shard) = shard.as_str() else {
            return Err(Error::file(index, format!("tensor {tensor}: expected a file name, found {shard}")));
        };
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['/', '\\', ':']) {
            return Err(Error::file(
                index,
                format!("tensor {tensor}: shard {shard:?} is not a file name in this folder"),
            ));
        }
        if !shards.iter().any(|known| known == shard) {
            shards.push(shard.to_owned());
        }
    }
    Ok(shards)
}

fn weight_map(index: &Path) -> Result<Map<String, Value>> {
    match read_json::<Value>(index)?.get_mut("weight_map").map(Value::take) {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(Error::file(index, "key weight_map: expected an object of tensor name -> file name")),
    }
}

fn open_sharded(folder: &Path, index: &Path) -> Result<Weights> {
    let map = weight_map(index)?;
    let mut weights = Weights::default();
    for shard in shards(index)? {
        let here = |name: &str| map.get(name).and_then(Value::as_str) == Some(&shard);
        add_file(&mut weights, &folder.join(&shard), here)?;
    }
    match map.iter().find(|(name, _)| !weights.contains(name)) {
        Some((name, shard)) => {
            Err(Error::file(index, format!("tensor {name} is not in {shard}, where the index puts it")))
        }
        None => Ok(weights),
    }
}

fn add_file(weights: &mut Weights, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let file = Mapped::open(path)?;
    let bytes = &file.part(0..file.map.len())?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| unreadable(path, bytes, &error))?;
    // read_metadata has checked that the ranges are in order, without gaps, as long as shape and type say, and that
    // they end at the end of the file.
    let start = header + 8;
    let index = weights.files.len();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name).filter(|_| wanted(&name)) else { continue };
        let dtype = match info.dtype {
            Stored::F32 => Ok(Dtype::F32),
            Stored::F16 => Ok(Dtype::F16),
            Stored::BF16 => Ok(Dtype::BF16),
            other => Err(format!("{other:?}")),
        };
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        if range.end > bytes.len() {
            return Err(Error::file(
                path,
                format!("tensor {name} ends at byte {}, the file at {}", range.end, bytes.len()),
            ));
        }
        weights.insert(name, Entry { file: index, dtype, shape: info.shape.clone(), range, change: Change::None });
    }
    weights.files.push(file);
    Ok(())
}

fn unreadable(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> Error {
    use safetensors::SafeTensorError as E;
    let length = bytes.len();
    let what = match error {
        E::HeaderTooSmall => {
            format!("is truncated: {length} bytes, a safetensors file starts with 8 bytes of header length")
        }
        E::HeaderTooLarge | E::InvalidHeaderLength => {
            let claimed = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
            format!("its header claims {claimed} bytes but the file has {length}: truncated, or not safetensors")
        }
        E::MetadataIncompleteBuffer => {
            format!("its tensors do not end where the file ends ({length} bytes): truncated, or with bytes to spare")
        }
        E::InvalidOffset(name) => format!("tensor {name}: its offsets overlap, leave a gap or run backwards"),
        E::TensorInvalidInfo => "a tensor's offsets do not fit its shape and type".into(),
        E::ValidationOverflow => "a tensor's shape overflows".into(),
        other => format!("is not a safetensors file: {other}"),
    };
    Error::file(path, what)
}

/// The most bytes of tensors in one file; more are spread over shards.
pub(super) const MAX_SHARD: u64 = 5_000_000_000;

/// Writes `model.safetensors`, or shards of at most `limit` bytes (a larger tensor has its own) and their index, named
/// as transformers names them.
pub(super) fn write_shards(folder: &Path, tensors: &[NamedTensor], types: Types, limit: u64) -> Result<()> {
    let size = |tensor: &NamedTensor| (tensor.data.len() * types.of(tensor).block().1) as u64;
    let total: u64 = tensors.iter().map(size).sum();
    if total <= limit {
        return write(&folder.join(SINGLE), tensors, types);
    }
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if i > start && bytes + size(tensor) > limit {
            shards.push(&tensors[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += size(tensor);
    }
    shards.push(&tensors[start..]);
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write(&folder.join(&name), shard, types)?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(name.as_str()))));
    }
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    durable::write_file(&folder.join(INDEX), format!("{index:#}\n").as_bytes())
}

struct Stub<'a>(&'a NamedTensor, Dtype);

impl View for &Stub<'_> {
    fn dtype(&self) -> Stored {
        match self.1 {
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::BF16,
            _ => Stored::F32,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.data.iter();
        match self.1 {
            Dtype::F16 => Cow::Owned(values.flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()),
            Dtype::BF16 => Cow::Owned(values.flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()),
            _ if cfg!(target_endian = "little") => Cow::Borrowed(bytemuck::cast_slice(&self.0.data)),
            _ => Cow::Owned(values.flat_map(|v| v.to_le_bytes()).collect()),
        }
    }
    fn data_len(&self) -> usize {
        self.0.data.len() * self.1.block().1
    }
}

/// Writes tensors as F32, F16 or BF16 (rounded to the nearest even), with the metadata that `transformers` asks for.
/// The file appears under its name only when it is complete and synced.
///
/// # Errors
/// The dtype is another one, a tensor's data does not fit its shape, or a name is there twice; errors of the file
/// system.
pub fn write_safetensors(path: &Path, tensors: &[NamedTensor], dtype: Dtype) -> Result<()> {
    write(path, tensors, Types { matrices: dtype, vectors: dtype })
}

/// Does what [`write_safetensors`] does, with vectors in F32, as models are trained.
///
/// # Errors
/// As [`write_safetensors`].
pub(crate) fn write_matrices(path: &Path, tensors: &[NamedTensor], matrices: Dtype) -> Result<()> {
    write(path, tensors, Types { matrices, vectors: Dtype::F32 })
}

/// The number formats of a safetensors file that is written.
#[derive(Clone, Copy)]
pub(super) struct Types {
    pub(super) matrices: Dtype,
    pub(super) vectors: Dtype,
}

impl Types {
    fn of(self, tensor: &NamedTensor) -> Dtype {
        // Biases of all experts are one tensor.
        let matrix = tensor.shape.len() > 1 && !tensor.name.ends_with("_bias");
        if matrix { self.matrices } else { self.vectors }
    }
}

fn write(path: &Path, tensors: &[NamedTensor], types: Types) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for tensor in tensors {
        let dtype = types.of(tensor);
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(Error::Input(format!("safetensors are written as F32, F16 or BF16, not {dtype}")));
        }
        let count = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if count != Some(tensor.data.len()) {
            let (name, shape, n) = (&tensor.name, &tensor.shape, tensor.data.len());
            return Err(Error::Input(format!("tensor {name} of shape {shape:?} has {n} values")));
        }
        if let Some(v) = tensor.data.iter().find(|v| !dtype.holds(**v)) {
            return Err(Error::NonFinite(format!("tensor {}: {v} is beyond the range of {dtype}", tensor.name)));
        }
        if !seen.insert(tensor.name.as_str()) {
            return Err(Error::Input(format!("tensor {} is there twice", tensor.name)));
        }
    }
    let stubs: Vec<Stub<'_>> = tensors.iter().map(|tensor| Stub(tensor, types.of(tensor))).collect();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    durable::replace(path, |temporary| {
        durable::create(temporary)?;
        let named = stubs.iter().map(|stub| (stub.0.name.as_str(), stub));
        serialised(named, metadata.clone(), temporary).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(error) => Error::io(temporary)(error),
            other => Error::file(temporary, other.to_string()),
        })
    })
}

/// Writes a file's header and tensors.
#[cfg(not(target_family = "wasm"))]
fn serialised<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a Stub<'a>)>,
    metadata: HashMap<String, String>,
    path: &Path,
) -> std::result::Result<(), safetensors::SafeTensorError> {
    safetensors::serialize_to_file(tensors, Some(metadata), path)
}

/// Writes a file's header and tensors; what the crate itself opens would not be in the browser's tree.
#[cfg(target_family = "wasm")]
fn serialised<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a Stub<'a>)>,
    metadata: HashMap<String, String>,
    path: &Path,
) -> std::result::Result<(), safetensors::SafeTensorError> {
    let bytes = safetensors::serialize(tensors, Some(metadata))?;
    crate::disk::write(path, bytes).map_err(safetensors::SafeTensorError::IoError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize], data: &[f32]) -> NamedTensor {
        NamedTensor { name: name.into(), shape: shape.to_vec(), data: data.to_vec() }
    }

    #[test]
    fn written_tensors_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SINGLE);
        let tensors = [tensor("b", &[2, 3], &[1.0, -2.5, 3.0, 0.0, 1e-8, 7.0]), tensor("a", &[1], &[0.1])];
        for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 1e-3), (Dtype::BF16, 1e-2)] {
            write_safetensors(&path, &tensors, dtype).unwrap();
            let weights = open_folder(folder.path()).unwrap();
            assert_eq!(weights.names().len(), 2);
            for want in &tensors {
                let got = weights.get(&want.name).unwrap();
                assert_eq!((got.dtype, got.shape), (dtype, want.shape.as_slice()));
                for (g, w) in got.to_f32().iter().zip(&want.data) {
                    assert!((g - w).abs() <= tolerance * w.abs() + tolerance * 1e-4, "{g} {w}");
                }
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn shards_are_joined_and_may_not_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_safetensors(&at("one.safetensors"), &[tensor("a", &[1], &[1.0])], Dtype::F32).unwrap();
        write_safetensors(&at("two.safetensors"), &[tensor("b", &[1], &[2.0])], Dtype::F32).unwrap();
        let index = |b: &str| {
            let text = format!(r#"{{"weight_map": {{"a": "one.safetensors", "b": {b:?}}}}}"#);
            std::fs::write(at(INDEX), text).unwrap();
            open_folder(folder.path())
        };
        let weights = index("two.safetensors").unwrap();
        assert_eq!(weights.get("b").unwrap().to_f32(), [2.0]);
        assert!(index("one.safetensors").unwrap_err().to_string().contains("tensor b is not in"));
        for outside in ["../two.safetensors", "/etc/passwd", "..", "a/b", "..\\two", "c:two", ""] {
            let error = index(outside).unwrap_err().to_string();
            assert!(error.contains("is not a file name in this folder"), "{outside}: {error}");
        }
        assert!(index("three.safetensors").unwrap_err().to_string().contains("three.safetensors"));
    }

    #[test]
    fn shards_hold_what_fits_and_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Vec<NamedTensor> = [3, 1, 9, 2, 2]
            .iter()
            .enumerate()
            .map(|(i, n)| tensor(&format!("t{i}"), &[*n], &vec![i as f32; *n]))
            .collect();
        write_shards(folder.path(), &tensors, Types { matrices: Dtype::F32, vectors: Dtype::F32 }, 16).unwrap();
        let files = |number: usize| folder.path().join(format!("model-{number:05}-of-00003.safetensors"));
        let counts: Vec<usize> = (1..=3).map(|n| Weights::open_safetensors(&files(n)).unwrap().names().len()).collect();
        assert_eq!(counts, [2, 1, 2], "4 + 12 bytes, 36 alone, 8 + 8");
        let index: Value = read_json(&folder.path().join(INDEX)).unwrap();
        assert_eq!(
            (&index["metadata"]["total_size"], &index["weight_map"]["t2"]),
            (&68.into(), &"model-00002-of-00003.safetensors".into())
        );
        let weights = open_folder(folder.path()).unwrap();
        assert!(tensors.iter().all(|want| weights.get(&want.name).unwrap().to_f32() == want.data));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SINGLE);
        let error = write_safetensors(&path, &[tensor("a", &[2], &[1.0])], Dtype::F32).unwrap_err();
        assert!(error.to_string().contains("tensor a of shape [2] has 1 values"));
        assert!(!path.exists());
        write_safetensors(&path, &[tensor("a", &[4], &[1.0; 4])], Dtype::F32).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 4, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = open_folder(folder.path()).unwrap_err().to_string();
            assert!(error.contains(SINGLE) && (error.contains("trunc") || error.contains("empty")), "{cut}: {error}");
        }
    }
}
