//! The GGUF container, versions 2 and 3, little-endian: typed metadata, then tensor descriptions, then aligned data.
//! Nothing in the file is believed: every length and offset is checked against the file before it is used.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::tensors::Mapped;
use crate::arch::Dtype;
use crate::{Error, Result};

/// More entries than any vocabulary has; a longer array is a lie.
const MAX_ARRAY: u64 = 1 << 22;
/// GGUF's own limit on axes.
const MAX_AXES: u32 = 4;

/// A value of a GGUF file's metadata; numbers of all widths are widened.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A number of type u8, u16, u32 or u64.
    Unsigned(u64),
    /// A number of type i8, i16, i32 or i64.
    Signed(i64),
    /// A number of type f32, kept as one so that it prints as its author wrote it.
    F32(f32),
    /// A number of type f64.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type, which is not that of arrays.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// The value as a count, if it is an integer that is not negative.
    pub fn as_usize(&self) -> Option<usize> {
        match self {
            GgufValue::Unsigned(n) => usize::try_from(*n).ok(),
            GgufValue::Signed(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as f64, if it is a number; an f32 becomes the shortest decimal that means it (9.99999974e-6 is 1e-5).
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            GgufValue::F32(x) => x.to_string().parse().ok(),
            GgufValue::F64(x) => Some(*x),
            GgufValue::Unsigned(n) => Some(*n as f64),
            GgufValue::Signed(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// The value, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let GgufValue::String(s) = self { Some(s) } else { None }
    }

    /// The value, if it is a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let GgufValue::Bool(b) = self { Some(*b) } else { None }
    }

    /// The values of an array, if it is one.
    pub fn as_array(&self) -> Option<&[GgufValue]> {
        if let GgufValue::Array(a) = self { Some(a) } else { None }
    }
}

/// A tensor's description.
#[derive(Clone, Debug)]
pub(super) struct GgufTensor {
    /// The name in the file.
    pub(super) name: String,
    /// `Err` holds the name or number of an unsupported type.
    pub(super) dtype: std::result::Result<Dtype, String>,
    /// Rows first, as Hugging Face has it (the file holds the reverse).
    pub(super) shape: Vec<usize>,
    /// Bytes in the file; empty for an unsupported type.
    pub(super) range: Range<usize>,
}

/// The head of a GGUF file: its metadata, and where its tensors lie.
#[derive(Debug)]
pub struct Gguf {
    metadata: HashMap<String, GgufValue>,
    pub(super) tensors: Vec<GgufTensor>,
}

impl Gguf {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// The file is not GGUF, is of another version or truncated, or a length, type or offset does not fit it.
    pub fn open(path: &Path) -> Result<Gguf> {
        let file = Mapped::open(path)?;
        Gguf::parse(&file)
    }

    pub(super) fn parse(file: &Mapped) -> Result<Gguf> {
        let length = file.map.len();
        let mut known = HEAD.map_or(length, |first| first.min(length));
        loop {
            let bytes = file.part(0..known)?;
            let mut reader = Reader { path: &file.path, bytes: &bytes, length, at: 0 };
            match reader.head() {
                // What is missing may stand behind the part that was read.
                Err(_) if reader.needs_more() => known = known.saturating_mul(2).min(length),
                head => return head,
            }
        }
    }

    /// The value of a key of the metadata.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }
}

/// Bytes of a file that are read for its head at first; None reads all, which costs nothing where files are mapped.
/// Tests read a head in many pieces.
const HEAD: Option<usize> = if cfg!(target_family = "wasm") {
    Some(4 << 20)
} else if cfg!(test) {
    Some(64)
} else {
    None
};

struct Reader<'a> {
    path: &'a Path,
    /// The file's first bytes.
    bytes: &'a [u8],
    /// The bytes of the whole file.
    length: usize,
    /// How many were taken; more than there are where some were missing.
    at: usize,
}

impl<'a> Reader<'a> {
    /// Whether bytes were wanted that the file has and the reader has not.
    fn needs_more(&self) -> bool {
        self.bytes.len() < self.length && self.at > self.bytes.len()
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("byte {}: {what}", self.at))
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.length - self.at;
        match usize::try_from(n).ok().filter(|n| *n <= left) {
            Some(n) if n > self.bytes.len() - self.at => {
                self.at = self.bytes.len() + 1;
                Err(Error::Bug("more of the file's head has to be read".into()))
            }
            Some(n) => {
                let slice = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(slice)
            }
            None => {
                Err(self.error(format!("{what} needs {n} bytes but {left} are left; the file is truncated or damaged")))
            }
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        let start = self.at;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| {
            self.at = start;
            self.error(format!("{what} is not UTF-8"))
        })
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<GgufValue> {
        Ok(match kind {
            0 => GgufValue::Unsigned(self.array::<1>(key)?[0].into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => GgufValue::Unsigned(self.u32(key)?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => GgufValue::F32(f32::from_le_bytes(self.array(key)?)),
            7 => match self.array::<1>(key)?[0] {
                0 => GgufValue::Bool(false),
                1 => GgufValue::Bool(true),
                other => return Err(self.error(format!("{key} is a truth value of {other}"))),
            },
            8 => GgufValue::String(self.string(key)?),
            10 => GgufValue::Unsigned(self.u64(key)?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.array(key)?)),
            9 => {
                let kind = self.u32(key)?;
                if kind == 9 {
                    return Err(self.error(format!("{key} is an array of arrays, which no known model has")));
                }
                let length = self.u64(key)?;
                let left = (self.length - self.at) as u64;
                if length > left.min(MAX_ARRAY) {
                    return Err(self.error(format!("{key} claims {length} entries with {left} bytes left in the file")));
                }
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(self.value(kind, key)?);
                }
                GgufValue::Array(values)
            }
            other => return Err(self.error(format!("{key} has the unknown value type {other}"))),
        })
    }

    fn head(&mut self) -> Result<Gguf> {
        if self.take(4, "the magic number")? != b"GGUF" {
            return Err(Error::file(
                self.path,
                "is not a GGUF file (it does not start with GGUF); of a Hugging Face model give the folder",
            ));
        }
        match self.u32("the version")? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                return Err(Error::file(self.path, "is a big-endian GGUF file; only little-endian ones are read"));
            }
            version => return Err(Error::file(self.path, format!("is GGUF version {version}; 2 and 3 are read"))),
        }
        let tensor_count = self.u64("the tensor count")?;
        let value_count = self.u64("the metadata count")?;
        let mut metadata = HashMap::new();
        for _ in 0..value_count {
            let key = self.string("a metadata key")?;
            let kind = self.u32(&key)?;
            let value = self.value(kind, &key)?;
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment").map(GgufValue::as_usize) {
            None => 32,
            Some(Some(a)) if a.is_power_of_two() && a <= 1 << 20 => a,
            Some(_) => return Err(self.error("general.alignment is not a power of two up to 2^20")),
        };
        let mut described = Vec::new();
        for _ in 0..tensor_count {
            described.push(self.tensor()?);
        }
        let start = self.at.next_multiple_of(alignment);
        let tensors = described
            .into_iter()
            .map(|(tensor, offset)| self.place(tensor, offset, start, alignment))
            .collect::<Result<Vec<_>>>()?;
        self.check_overlaps(&tensors)?;
        Ok(Gguf { metadata, tensors })
    }

    fn tensor(&mut self) -> Result<(GgufTensor, u64)> {
        let name = self.string("a tensor's name")?;
        let axes = self.u32(&name)?;
        if axes == 0 || axes > MAX_AXES {
            return Err(self.error(format!("tensor {name} has {axes} axes; 1 to {MAX_AXES} are possible")));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let d = self.u64(&name)?;
            shape.push(usize::try_from(d).map_err(|_| self.error(format!("tensor {name} has an axis of {d}")))?);
        }
        shape.reverse();
        let dtype = stored_type(self.u32(&name)?);
        let offset = self.u64(&name)?;
        Ok((GgufTensor { name, dtype, shape, range: 0..0 }, offset))
    }

    fn place(&self, mut tensor: GgufTensor, offset: u64, start: usize, alignment: usize) -> Result<GgufTensor> {
        let Ok(dtype) = tensor.dtype else { return Ok(tensor) };
        let (name, shape) = (&tensor.name, &tensor.shape);
        let bytes = dtype.bytes(shape).ok_or_else(|| {
            let block = dtype.block().0;
            let what = format!(
                "tensor {name}: shape {shape:?} overflows or its rows are no multiple of {dtype}'s {block} values"
            );
            Error::file(self.path, what)
        })?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|offset| start.checked_add(offset))
            .and_then(|from| Some(from..from.checked_add(bytes)?))
            .filter(|range| range.end <= self.length)
            .ok_or_else(|| {
                let length = self.length;
                let what = format!(
                    "tensor {name} ({dtype} {shape:?}, {bytes} bytes at offset {offset} of the data, which starts at \
                     byte {start}) ends beyond the file's {length} bytes; the file is truncated or damaged"
                );
                Error::file(self.path, what)
            })?;
        if !offset.is_multiple_of(alignment as u64) {
            let what = format!("tensor {name}: offset {offset} is no multiple of the alignment {alignment}");
            return Err(Error::file(self.path, what));
        }
        tensor.range = range;
        Ok(tensor)
    }

    fn check_overlaps(&self, tensors: &[GgufTensor]) -> Result<()> {
        let mut placed: Vec<&GgufTensor> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
        placed.sort_by_key(|tensor| tensor.range.start);
        match placed.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
            Some(pair) => {
                let what = format!("tensors {} and {} overlap", pair[0].name, pair[1].name);
                Err(Error::file(self.path, what))
            }
            None => Ok(()),
        }
    }
}

/// Types of GGUF files that are not read, by their numbers.
const NOT_READ: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

fn stored_type(number: u32) -> std::result::Result<Dtype, String> {
    let name = || NOT_READ.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_string());
    Dtype::of_gguf(number).ok_or_else(|| name().unwrap_or_else(|| format!("the unknown GGML type {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each type is read or named, and never both; numbers that nobody gave stay numbers.
    #[test]
    fn types_that_are_not_read_have_names() {
        for (number, name) in NOT_READ {
            assert_eq!((stored_type(number), Dtype::named(name)), (Err(name.to_string()), None));
        }
        let nameless = (0..48).filter(|n| stored_type(*n).is_err_and(|what| what.contains("unknown")));
        assert_eq!(nameless.collect::<Vec<_>>(), (42..48).collect::<Vec<_>>());
    }
}
