//! The tensors of a model's files, under Hugging Face's names, in its shapes and its row order, whatever the container.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::gguf_delta::Reordered;
use super::{gguf_names, stacks};
use crate::arch::Dtype;
use crate::disk;
use crate::{Error, Result};

/// A tensor as it is stored in a file.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    /// The parameter's name in Hugging Face's files.
    pub name: &'a str,
    /// How the values are stored.
    pub dtype: Dtype,
    /// The shape: `[out, in]` of a matrix, `[n]` of a vector.
    pub shape: &'a [usize],
    /// The stored bytes, row after row; borrowed from the file unless they had to be changed.
    pub data: Cow<'a, [u8]>,
}

impl WeightView<'_> {
    /// The values as f32, row after row.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = Vec::new();
        self.dtype.dequantise(&self.data, &mut out);
        out
    }
}

/// A model file, mapped into memory.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) path: PathBuf,
    pub(super) map: disk::Map,
}

impl Mapped {
    /// Some of the file's bytes. There must be so many.
    pub(super) fn part(&self, range: std::ops::Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.map.part(range).map_err(Error::io(&self.path))
    }

    /// The error for a stack that ends before what is read of it.
    fn is_short(&self, name: &str) -> Error {
        Error::file(&self.path, format!("the stack that holds {name} is shorter than its shape says"))
    }

    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = disk::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?;
        if !length.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        if length.len() == 0 {
            return Err(Error::file(path, "is empty"));
        }
        let map = disk::map(&file).map_err(Error::io(path))?;
        Ok(Self { path: path.to_path_buf(), map })
    }
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Entry {
    /// Index into the model's files.
    pub(super) file: usize,
    /// `Err` holds the name of a storage type that is not supported; it matters only to who asks for the tensor.
    pub(super) dtype: std::result::Result<Dtype, String>,
    pub(super) shape: Vec<usize>,
    /// Byte range in the file, checked against its length.
    pub(super) range: std::ops::Range<usize>,
    pub(super) change: Change,
}

/// How a stored tensor differs from Hugging Face's.
#[derive(Debug)]
pub(super) enum Change {
    /// The stored tensor does not differ.
    None,
    /// The rows of this many heads alternate between the head's halves (GGUF's llama, q and k).
    Interleaved(usize),
    /// 1 was added (GGUF's gemma, norms).
    PlusOne,
    /// Heads stand in another order (GGUF's qwen35, delta nets).
    Reordered(Reordered),
    /// It is one expert's part of a stack: element (out, in) stands at `first + out · steps[0] + in · steps[1]`.
    InStack { first: usize, steps: [usize; 2] },
    /// It is rows `first`, `first + step`, … of a stack of blocks of MXFP4, whose scales are apart: their file, and
    /// where they lie in it.
    Packed { first: usize, step: usize, scales: (usize, std::ops::Range<usize>) },
}

/// Bytes that are sampled of a tensor's beginning, middle and end.
const SAMPLE: usize = 64;

/// The tensors of a model under Hugging Face's names; the files stay mapped while this lives.
#[derive(Debug, Default)]
pub struct Weights {
    pub(super) files: Vec<Mapped>,
    names: Vec<String>,
    entries: HashMap<String, Entry>,
}

impl Weights {
    /// The name of every tensor, in the order of the files.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The file that holds a tensor, if there is one of this name.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.entries.get(name).map(|entry| self.files[entry.file].path.as_path())
    }

    /// The type in which [`Weights::get`] gives a tensor's values.
    ///
    /// # Errors
    /// There is no tensor of this name, or its storage type is not supported.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        let (_, entry) = self.entry(name)?;
        let dtype = entry.dtype.clone().map_err(|found| {
            let known: Vec<&str> = Dtype::all().map(Dtype::name).collect();
            let what = format!("tensor {name} is stored as {found}; supported are {}", known.join(", "));
            Error::file(&self.files[entry.file].path, what)
        })?;
        Ok(match entry.change {
            Change::PlusOne => Dtype::F32,
            Change::Reordered(reordered) => reordered.dtype(dtype),
            Change::None | Change::Interleaved(_) | Change::InStack { .. } | Change::Packed { .. } => dtype,
        })
    }

    fn entry(&self, name: &str) -> Result<(&str, &Entry)> {
        let found = self.entries.get_key_value(name).map(|(name, entry)| (name.as_str(), entry));
        found.ok_or_else(|| {
            let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            Error::file(path, format!("there is no tensor {name}"))
        })
    }

    /// The tensor of a name.
    ///
    /// # Errors
    /// As [`Weights::dtype`].
    pub fn get<'a>(&'a self, name: &str) -> Result<WeightView<'a>> {
        let dtype = self.dtype(name)?;
        let (name, entry) = self.entry(name)?;
        let file = &self.files[entry.file];
        let data = file.part(entry.range.clone())?;
        let data = match (&entry.change, &entry.dtype) {
            (Change::Interleaved(heads), _) => Cow::Owned(gguf_names::hugging_face_rows(&data, entry.shape[0], *heads)),
            (Change::PlusOne, Ok(stored)) => {
                let mut values = Vec::new();
                stored.dequantise(&data, &mut values);
                Cow::Owned(values.iter().flat_map(|v| (v - 1.0).to_le_bytes()).collect())
            }
            (Change::Reordered(reordered), Ok(stored)) => Cow::Owned(reordered.read(&data, &entry.shape, *stored)),
            (Change::InStack { first, steps }, Ok(stored)) => {
                let part = stacks::out_of_stack(&data, stored.block().1, &entry.shape, *first, *steps);
                Cow::Owned(part.ok_or_else(|| file.is_short(name))?)
            }
            (Change::Packed { first, step, scales: (of, range) }, _) => {
                let scales = self.files[*of].part(range.clone())?;
                let part = stacks::out_of_blocks((&data, &scales), &entry.shape, (*first, *step));
                Cow::Owned(part.ok_or_else(|| file.is_short(name))?)
            }
            _ => data,
        };
        Ok(WeightView { name, dtype, shape: &entry.shape, data })
    }

    /// How a tensor is stored, in words that mean nothing but to be compared.
    pub(crate) fn storage_of(&self, name: &str) -> String {
        let told = |Entry { dtype, shape, change, .. }: &Entry| format!("{name} {dtype:?} {shape:?} {change:?};");
        self.entries.get(name).map_or_else(String::new, told)
    }

    /// Some of a tensor's bytes as they are stored; what cannot be read is left out.
    pub(crate) fn samples(&self, name: &str) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let part = |entry: &Entry, third: usize| {
            let range = entry.range.clone();
            let first = range.start + (range.len().saturating_sub(SAMPLE)) / 2 * third;
            self.files[entry.file].part(first..(first + SAMPLE).min(range.end)).unwrap_or_default()
        };
        self.entries.get(name).into_iter().flat_map(move |entry| (0..3).map(move |third| part(entry, third)))
    }

    /// Whether [`Weights::get`] gives a tensor's bytes as they lie in the file.
    pub(crate) fn is_unchanged(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| matches!(entry.change, Change::None))
    }

    /// Whether two tensors have the same values.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub(crate) fn same(&self, one: &str, other: &str) -> Result<bool> {
        let (one, other) = (self.get(one)?, self.get(other)?);
        Ok(one.shape == other.shape
            && if one.dtype == other.dtype { one.data == other.data } else { one.to_f32() == other.to_f32() })
    }

    /// Gives a tensor another name, unless one has that name already.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if self.entries.contains_key(to) {
            return;
        }
        if let Some(entry) = self.entries.remove(from) {
            self.entries.insert(to.to_owned(), entry);
            self.names.iter_mut().filter(|name| *name == from).for_each(|name| to.clone_into(name));
        }
    }

    /// Whether the tensors have the names of a whole, of which one part is a language model.
    pub(crate) fn is_of_whole(&self) -> bool {
        let embeds = |name: &String| name.ends_with(".embed_tokens.weight");
        let within = |name: &String| name.starts_with("language_model.") || name.starts_with("model.language_model.");
        let embeddings: Vec<&String> = self.names.iter().filter(|name| embeds(name)).collect();
        !embeddings.is_empty() && embeddings.into_iter().all(within)
    }

    /// Gives the tensors of a whole's text part the names that they have alone, and lets go of the others; gives how
    /// many these were.
    pub(crate) fn keep_text_part(&mut self) -> usize {
        let alone = |name: &str| match name.strip_prefix("language_model.") {
            Some(rest) => Some(rest.to_owned()),
            None if name.starts_with("lm_head.") => Some(name.to_owned()),
            None => name.strip_prefix("model.language_model.").map(|rest| format!("model.{rest}")),
        };
        let (mut all, before) = (std::mem::take(&mut self.entries), self.names.len());
        for name in std::mem::take(&mut self.names) {
            if let (Some(to), Some(entry)) = (alone(&name), all.remove(&name)) {
                self.insert(to, entry);
            }
        }
        before - self.names.len()
    }

    /// Where the tensor of a name lies.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Lets go of tensors by their names.
    pub(super) fn forget(&mut self, names: &std::collections::HashSet<String>) {
        self.names.retain(|name| !names.contains(name));
        self.entries.retain(|name, _| !names.contains(name));
    }

    pub(super) fn insert(&mut self, name: String, entry: Entry) {
        if self.entries.insert(name.clone(), entry).is_none() {
            self.names.push(name);
        }
    }
}
