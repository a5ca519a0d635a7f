//! The changes of the tree as bytes that follow one another. After a kill whatever came last may be torn; what stands
//! before it is the tree as it was then.

use std::path::{Path, PathBuf};

/// One change of the tree. Contents have numbers, so that a file that was renamed is still written to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change<'a> {
    /// A new folder.
    Folder(PathBuf),
    /// A new, empty file; the number is that of its content.
    File(PathBuf, u64),
    /// Bytes of a content, from a place on.
    Write(u64, u64, &'a [u8]),
    /// A content's new length.
    Length(u64, u64),
    /// A file or a folder has another name, in place of what had it.
    Rename(PathBuf, PathBuf),
    /// A file, or a folder with all in it, is gone.
    Remove(PathBuf),
}

/// The bytes in front of a record: its length and its checksum.
const HEAD: usize = 8;
/// The bytes of a record before names and data: its kind, two numbers, the lengths of two names.
const FIXED: usize = 25;

impl Change<'_> {
    /// The change as a record.
    pub(super) fn record(&self) -> Vec<u8> {
        let none = Path::new("");
        let (kind, numbers, names, bytes): (u8, [u64; 2], [&Path; 2], &[u8]) = match self {
            Change::Folder(path) => (0, [0, 0], [path, none], &[]),
            Change::File(path, id) => (1, [*id, 0], [path, none], &[]),
            Change::Write(id, at, bytes) => (2, [*id, *at], [none, none], bytes),
            Change::Length(id, length) => (3, [*id, *length], [none, none], &[]),
            Change::Rename(from, to) => (4, [0, 0], [from, to], &[]),
            Change::Remove(path) => (5, [0, 0], [path, none], &[]),
        };
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let length = FIXED + names[0].len() + names[1].len() + bytes.len();
        let mut record = Vec::with_capacity(HEAD + length);
        record.extend((length as u32).to_le_bytes());
        record.extend([0; 4]);
        record.push(kind);
        numbers.iter().for_each(|n| record.extend(n.to_le_bytes()));
        names.iter().for_each(|name| record.extend((name.len() as u32).to_le_bytes()));
        names.iter().for_each(|name| record.extend(name.as_bytes()));
        record.extend(bytes);
        let sum = crc32(&record[HEAD..]);
        record[4..HEAD].copy_from_slice(&sum.to_le_bytes());
        record
    }
}

/// The change that `bytes` begin with, and the length of its record; None where they hold no whole record.
pub(super) fn first(bytes: &[u8]) -> Option<(Change<'_>, usize)> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let end = HEAD.checked_add(word(bytes, 0)? as usize)?;
    let record = bytes.get(HEAD..end)?;
    if crc32(record) != word(bytes, 4)? {
        return None;
    }
    let (a, b) = (long(record, 1)?, long(record, 9)?);
    let middle = FIXED.checked_add(word(record, 17)? as usize)?;
    let behind = middle.checked_add(word(record, 21)? as usize)?;
    let name = |part: Option<&[u8]>| Some(PathBuf::from(std::str::from_utf8(part?).ok()?));
    let (one, other, data) = (name(record.get(FIXED..middle))?, name(record.get(middle..behind))?, &record[behind..]);
    let change = match record[0] {
        0 => Change::Folder(one),
        1 => Change::File(one, a),
        2 => Change::Write(a, b, data),
        3 => Change::Length(a, b),
        4 => Change::Rename(one, other),
        5 => Change::Remove(one),
        _ => return None,
    };
    Some((change, end))
}

/// The checksum of Ethernet and of zip files.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let (mut table, mut i) = ([0; 256], 0);
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_torn_ones_are_not() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let path = |name: &str| PathBuf::from(name);
        let changes = [
            Change::Folder(path("/a")),
            Change::File(path("/a/é"), 7),
            Change::Write(7, 1 << 40, b"text"),
            Change::Length(7, 3),
            Change::Rename(path("/a"), path("/b")),
            Change::Remove(path("/b")),
        ];
        for change in changes {
            let mut bytes = change.record();
            assert_eq!(first(&bytes), Some((change, bytes.len())));
            for length in 0..bytes.len() {
                assert_eq!(first(&bytes[..length]), None);
            }
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(first(&bytes), None);
        }
    }
}
