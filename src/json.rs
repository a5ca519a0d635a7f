//! JSON documents and JSONL files: read with errors that name file and line, written so that they appear whole or not
//! at all.

use crate::disk::{self, OnDisk};
use crate::{Error, Result, durable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads one record from each line. Empty lines are skipped.
///
/// # Errors
/// The file cannot be read, a line is not JSON, or it lacks a field. The error names file and line.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    parse_jsonl(path, &disk::read_to_string(path).map_err(Error::io(path))?)
}

/// Reads records as [`read_jsonl`] does; a missing file holds none.
///
/// # Errors
/// As [`read_jsonl`], but that a missing file is no error.
pub(crate) fn read_jsonl_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    if path.is_there() { read_jsonl(path).map(Some) } else { Ok(None) }
}

/// The records in `text`, which was read from the file `path`.
pub(crate) fn parse_jsonl<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {}", i + 1, without_place(&e))))
        })
        .collect()
}

/// serde_json ends its messages with "at line 1 column 7"; within a JSONL line only the column means anything.
fn without_place(e: &serde_json::Error) -> String {
    e.to_string().replace(" at line 1 column", " at column")
}

/// Writes one record on each line. The file appears whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_jsonl<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(line(path, record)?);
    }
    write_file(path, &bytes)
}

/// Writes a JSON document with indentation. The file appears whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    bytes.push(b'\n');
    write_file(path, &bytes)
}

/// Reads a JSON document.
///
/// # Errors
/// The file cannot be read, or it does not have the form of `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = disk::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| match e.is_data() {
        true => Error::file(path, e.to_string()),
        false => Error::file(path, format!("is not JSON: {e}")),
    })
}

pub(crate) fn line<T: Serialize>(path: &Path, record: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|e| Error::file(path, e.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a file so that it appears whole or not at all; makes missing folders.
///
/// # Errors
/// The file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        durable::create_folder(parent)?;
    }
    durable::write_file(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Message {
        role: String,
        content: String,
    }

    #[test]
    fn records_read_back_and_bad_lines_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("deep/er/messages.jsonl");
        let all = [("user", "a\nb"), ("assistant", "ä\u{1}")]
            .map(|(role, content)| vec![Message { role: role.into(), content: content.into() }]);
        write_jsonl(&path, &all).unwrap();
        assert_eq!(read_jsonl::<Vec<Message>>(&path).unwrap(), all);
        std::fs::write(&path, "{\"role\":\"user\",\"content\":\"x\"}\n\n{\"role\":\"user\"}\n").unwrap();
        let e = read_jsonl::<Message>(&path).unwrap_err().to_string();
        assert!(e.contains("messages.jsonl: line 3: missing field `content`"), "{e}");
        assert!(!e.contains("line 1"), "{e}");
        let missing = read_jsonl::<Message>(&tmp.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"));
    }

    #[test]
    fn no_temporary_file_stays() {
        let tmp = tempfile::tempdir().unwrap();
        write_json(&tmp.path().join("a.json"), &1).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
        assert_eq!(read_json::<u32>(&tmp.path().join("a.json")).unwrap(), 1);
        std::fs::write(tmp.path().join("file"), "").unwrap();
        assert!(write_json(&tmp.path().join("file/a.json"), &1).is_err());
    }
}
