//! A GGUF file as it is written: metadata, descriptions of the tensors, their data.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::arch::Dtype;
use crate::{Error, Result, durable};

/// The file's alignment, GGUF's default.
const ALIGNMENT: usize = 32;

/// The description of a tensor that will be written.
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Rows first; the file holds the reverse.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
}

/// Metadata in the order it is written.
#[derive(Default)]
pub(super) struct GgufHead {
    pub(super) bytes: Vec<u8>,
    /// Entries in `bytes`.
    pub(super) count: u64,
}

impl GgufHead {
    pub(super) fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        Self::text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
        self.count += 1;
    }

    fn list(&mut self, key: &str, kind: u32, length: usize, values: &[u8]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((length as u64).to_le_bytes());
        bytes.extend(values);
        self.entry(key, 9, &bytes);
    }

    pub(super) fn count(&mut self, key: &str, n: usize) -> Result<()> {
        let n = u32::try_from(n).map_err(|_| Error::Input(format!("{key} is {n}, more than GGUF's 32 bits")))?;
        self.entry(key, 4, &n.to_le_bytes());
        Ok(())
    }

    pub(super) fn number(&mut self, key: &str, x: f64) {
        self.entry(key, 6, &(x as f32).to_le_bytes());
    }

    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        self.entry(key, 7, &[u8::from(flag)]);
    }

    pub(super) fn string(&mut self, key: &str, text: &str) {
        let mut bytes = Vec::new();
        Self::text(&mut bytes, text);
        self.entry(key, 8, &bytes);
    }

    pub(super) fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| Self::text(&mut bytes, value.as_ref()));
        self.list(key, 8, values.len(), &bytes);
    }

    pub(super) fn integers(&mut self, key: &str, values: &[i32]) {
        self.list(key, 5, values.len(), bytemuck::cast_slice(values));
    }

    pub(super) fn numbers(&mut self, key: &str, values: &[f32]) {
        self.list(key, 6, values.len(), bytemuck::cast_slice(values));
    }

    pub(super) fn flags(&mut self, key: &str, values: &[bool]) {
        self.list(key, 7, values.len(), &values.iter().map(|v| u8::from(*v)).collect::<Vec<_>>());
    }

    /// Writes the file, which appears whole or not at all. `encode` gives the bytes of one tensor after another.
    pub(super) fn write<T>(
        &self,
        path: &Path,
        list: &[(TensorInfo, T)],
        mut encode: impl FnMut(&(TensorInfo, T)) -> Result<Vec<u8>>,
    ) -> Result<()> {
        durable::replace(path, |temporary| {
            let file = durable::create(temporary)?;
            let mut out = BufWriter::new(file);
            let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(temporary));
            put(&self.start(list.iter().map(|(stored, _)| stored))?)?;
            for tensor in list {
                let mut bytes = encode(tensor)?;
                bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
                put(&bytes)?;
            }
            out.flush().map_err(Error::io(temporary))
        })
    }

    /// Everything before the data, padded.
    fn start<'a>(&self, list: impl ExactSizeIterator<Item = &'a TensorInfo>) -> Result<Vec<u8>> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((list.len() as u64).to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(&self.bytes);
        let mut offset = 0;
        for TensorInfo { name, shape, dtype } in list {
            Self::text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(dtype.gguf().to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            let bytes = dtype.bytes(shape).ok_or_else(|| Error::Input(format!("tensor {name} is too large")))?;
            offset += bytes.next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        Ok(out)
    }
}
