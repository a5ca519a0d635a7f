//! JSON documents and JSONL files: read with errors that name file and line, written so that they appear whole or not
//! at all.

use crate::disk::{self, OnDisk};
use crate::{Error, Result, durable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// Reads one record from each line, or every record of a JSON list, or objects that go over several lines. Empty lines
/// are skipped, a byte order mark too, and the numbers NaN and Infinity, which Python writes though JSON has none, are
/// read as null.
///
/// # Errors
/// The file cannot be read, a line is not JSON, or it lacks a field. The error names file and line, or the record's
/// place in the list.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    read(path, None)
}

/// Does what [`read_jsonl`] does, where a JSON list may also hold texts alone; each stands for a record with this text
/// under `key`.
///
/// # Errors
/// As [`read_jsonl`].
pub fn read_jsonl_or_texts<T: DeserializeOwned>(path: &Path, key: &str) -> Result<Vec<T>> {
    read(path, Some(key))
}

fn read<T: DeserializeOwned>(path: &Path, key: Option<&str>) -> Result<Vec<T>> {
    let text = read_text(path)?;
    let Some(list) = list(path, &text, key)? else { return parse_jsonl(path, &text) };
    let record = |(i, value): (usize, Value)| {
        T::deserialize(&value).map_err(|e| Error::file(path, format!("record {}: {}", i + 1, told::<T>(&e, &value))))
    };
    list.into_iter().enumerate().map(record).collect()
}

/// The text of a file without its byte order mark.
fn read_text(path: &Path) -> Result<String> {
    let bytes = disk::read(path).map_err(Error::io(path))?;
    if let Some(what) = foreign(&bytes) {
        return Err(Error::file(path, what));
    }
    let wrong = |error: std::string::FromUtf8Error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::file(path, format!("line {line}: is not UTF-8: {error}; save it as UTF-8"))
    };
    let mut text = String::from_utf8(bytes).map_err(wrong)?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    // Lines may end in a carriage return alone, which no string of JSON can hold.
    if text.contains('\r') && !text.contains('\n') {
        text = text.replace('\r', "\n");
    }
    Ok(text)
}

/// What a file is that begins like none of ours, and what to do with it.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const COMPRESSED: &str = "is compressed; unpack it first";
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'{' | b'[', ..] | [b'{' | b'[', 0, ..] => {
            Some("is UTF-16; save it as UTF-8")
        }
        [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(COMPRESSED),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(COMPRESSED),
        [b'P', b'A', b'R', b'1', ..] => Some("is a Parquet file; write it as JSONL (datasets: to_json)"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some("is an Arrow file; write it as JSONL (datasets: to_json)"),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            Some("is only Git LFS's pointer to a file; fetch the file itself (git lfs pull)")
        }
        _ if bytes.starts_with(b"<!") || bytes.starts_with(b"<html") => {
            Some("is a web page; download the file that it shows")
        }
        _ => None,
    }
}

/// The records of a file that is one JSON list of them, or, where `key` is given, of texts, each of which becomes a
/// record with this key; `None` if it is something else, such as lines of lists.
fn list(path: &Path, text: &str, key: Option<&str>) -> Result<Option<Vec<Value>>> {
    let line = text.trim_start().lines().next().unwrap_or_default();
    if line.starts_with('{') && parse::<Value>(line).is_err_and(|error| error.is_eof()) {
        // Objects with indentation; what breaks off is told by its line.
        return Ok(serde_json::Deserializer::from_str(text).into_iter().collect::<serde_json::Result<_>>().ok());
    }
    if !line.starts_with('[') {
        return Ok(None);
    }
    match parse::<Vec<Value>>(text) {
        Ok(values) => Ok(match key {
            _ if values.iter().all(Value::is_object) => Some(values),
            Some(key) if values.iter().all(Value::is_string) => {
                Some(values.into_iter().map(|text| Value::Object(Map::from_iter([(key.to_owned(), text)]))).collect())
            }
            _ => None,
        }),
        Err(_) if parse::<Value>(line).is_ok() => Ok(None),
        Err(error) => Err(Error::file(path, format!("is not a JSON list: {error}"))),
    }
}

/// Parses JSON, in which NaN and Infinity are null.
fn parse<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    serde_json::from_str(json).or_else(|error| match error.is_data() {
        true => Err(error),
        false => without_nan(json).map_or(Err(error), |json| serde_json::from_str(&json)),
    })
}

/// The text with null for each NaN and Infinity outside its strings; `None` if there are none.
fn without_nan(json: &str) -> Option<String> {
    let (mut out, mut rest, mut found) = (String::with_capacity(json.len()), json, false);
    while let Some(at) = rest.find(['"', 'N', 'I']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        if let Some(more) = after.strip_prefix("NaN").or_else(|| after.strip_prefix("Infinity")) {
            if out.ends_with('-') {
                out.pop();
            }
            out.push_str("null");
            (rest, found) = (more, true);
            continue;
        }
        // A string ends at the first quotation mark that no backslash escapes.
        let mut escaped = false;
        let mut ends = |c: char| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        };
        let end = match after.strip_prefix('"') {
            Some(string) => string.find(&mut ends).map_or(after.len(), |end| end + 2),
            None => 1,
        };
        out.push_str(&after[..end]);
        rest = &after[end..];
    }
    out.push_str(rest);
    found.then_some(out)
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
            parse(line).map_err(|e| {
                let told = parse(line).map_or_else(|_| without_place(&e), |value| told::<T>(&e, &value));
                Error::file(path, format!("line {}: {told}{}", i + 1, form(path, line, &e)))
            })
        })
        .collect()
}

/// What the file should hold, for a line that is no JSON object.
fn form(path: &Path, line: &str, error: &serde_json::Error) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match line.trim_start().starts_with('{') {
        true if error.is_data() => "",
        false if ["csv", "tsv"].contains(&ending.as_str()) => {
            "; a table is not read, write it as JSONL (pandas: to_json(lines=True, orient=\"records\"))"
        }
        _ => "; expected one JSON object a line, or a JSON list of them",
    }
}

/// An error's message with the field whose value is wrong, which serde leaves out where it is of a wrong type: the one
/// without which the error is another.
fn told<T: DeserializeOwned>(error: &serde_json::Error, value: &Value) -> String {
    const WITHOUT_FIELD: [&str; 3] = ["invalid ", "unknown variant", "data did not match"];
    let message = without_place(error);
    if !WITHOUT_FIELD.iter().any(|begin| message.starts_with(begin)) {
        return message;
    }
    let Value::Object(map) = value else {
        let records = message.contains("expected struct") || message.contains("expected a map");
        return if records { "is no JSON object".into() } else { message };
    };
    let why = |map: &Map<String, Value>| T::deserialize(map).err().map(|e| e.to_string());
    let known = why(map);
    let wrong = map.keys().find(|key| {
        let mut others = map.clone();
        others.shift_remove(*key);
        why(&others) != known
    });
    wrong.map_or(message.clone(), |key| format!("{key}: {message}"))
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
    use serde_json::json;

    #[test]
    fn a_list_of_texts_is_one_of_records_where_their_key_is_known() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("prompts.json");
        let records = json!([{"prompt": "a"}, {"prompt": "b"}]);
        for text in ["[\"a\",\n \"b\"]", "[{\"prompt\": \"a\"}, {\"prompt\": \"b\"}]"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Value::from(read_jsonl_or_texts::<Value>(&path, "prompt").unwrap()), records, "{text}");
        }
        std::fs::write(&path, "[\"a\", {\"prompt\": \"b\"}]").unwrap();
        assert!(read_jsonl_or_texts::<Map<String, Value>>(&path, "prompt").is_err());
        std::fs::write(&path, "[\"a\"]").unwrap();
        assert!(read_jsonl::<Map<String, Value>>(&path).is_err());
    }

    #[test]
    fn files_of_other_programs_are_read() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("records.json");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_jsonl::<serde_json::Map<String, Value>>(&path).map_err(|e| e.to_string())
        };
        let one = read(b"{\"a\": \"NaN\"}\n").unwrap();
        for (bytes, records) in [
            (&b"\xef\xbb\xbf{\"a\": \"NaN\"}\r\n"[..], 1),
            (b"[{\"a\": \"NaN\"}, {\"a\": \"NaN\"}]\n", 2),
            (b"{\n \"a\": \"NaN\"\n}\n", 1),
            (b"{\n \"a\": \"NaN\"\n}\n{\n \"a\": \"NaN\"\n}\n", 2),
            (b"{\"a\": \"NaN\"}\r{\"a\": \"NaN\"}\r", 2),
            (b"\n[\n  {\"a\": \"NaN\"}\n]", 1),
            (b"[]", 0),
        ] {
            assert_eq!(read(bytes).unwrap(), vec![one[0].clone(); records]);
        }
        let odd = read(br#"{"x": NaN, "y": [-Infinity, Infinity], "Name": "I \"NaN\" \\", "z": NaN}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&odd[0]).unwrap(),
            r#"{"x":null,"y":[null,null],"Name":"I \"NaN\" \\","z":null}"#
        );
        for (bytes, word) in [
            (&b"\xff\xfe{\0"[..], "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"BZh9", "compressed"),
            (b"PAR1", "Parquet"),
            (b"ARROW1\0\0", "Arrow"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (b"<!DOCTYPE html>", "web page"),
            (b"{}\n{}\n\xff", "line 3: is not UTF-8"),
            (b"3\n", "one JSON object a line"),
            (b"{\"a\": Nan}", "line 1"),
            (b"a,b\n1,2\n", "one JSON object a line"),
            (b"{\n\"a\": 1\n", "one JSON object a line"),
            (b"[{\"a\": 1}, 3]", "line 1"),
            (b"[{\"a\": 1},\n{\"a\"", "EOF"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.contains("records.json") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_table_is_told_from_broken_lines() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("table.CSV");
        std::fs::write(&path, "prompt,completion\na,b\n").unwrap();
        let error = read_jsonl::<serde_json::Map<String, Value>>(&path).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("write it as JSONL"), "{error}");
    }

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
        for (line, told) in [
            ("{\"role\": 5, \"content\": \"x\"}", "line 1: role: invalid type: integer `5`, expected a string"),
            ("{\"role\": \"user\", \"content\": null}", "line 1: content: invalid type: null, expected a string"),
            ("[]", "line 1: is no JSON object; expected one JSON object a line"),
        ] {
            std::fs::write(&path, format!("{line}\n[1]\n")).unwrap();
            let e = read_jsonl::<Message>(&path).unwrap_err().to_string();
            assert!(e.contains(told), "{e}");
        }
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
