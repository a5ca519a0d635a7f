//! The JSONL records of a round and their files.
//!
//! Ids link them: a candidate names its prompt, a verdict its candidates, a pair its prompt and both candidates. An id is the
//! hash of (round, stage, prompt ids, sample number) as 16 hex digits; together with `seed` it keys the random numbers.

pub use crate::text::Message;
use crate::{Error, Result, durable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A line of a seed file; other fields are left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedRecord {
    /// The instruction.
    pub prompt: String,
}

/// A new prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// Of this prompt.
    pub id: String,
    /// Round that it belongs to, from 1.
    pub round: u32,
    /// The instruction.
    pub prompt: String,
    /// `self` (written by the model) or `seed` (taken from the seed file).
    pub source: String,
    /// Sampling key of the text it was read from (with `seed`); empty for a seed prompt.
    pub key: String,
    /// Seed of the run.
    pub seed: u64,
    /// Tokens generated for it.
    pub tokens: usize,
}

/// A continuation that did not become a new prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedRecord {
    /// Sampling key (with the run's seed).
    pub key: String,
    /// What was written.
    pub text: String,
    /// Why it was dropped.
    pub reason: String,
    /// Tokens generated.
    pub tokens: usize,
}

/// One response to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// Of this candidate; also its sampling key (with `seed`).
    pub id: String,
    /// The prompt answered.
    pub prompt_id: String,
    /// Round, from 1.
    pub round: u32,
    /// Number among the prompt's candidates, from 0.
    pub sample: u32,
    /// Seed of the run.
    pub seed: u64,
    /// The response.
    pub text: String,
    /// Its token ids as trained on: the stop token is the last one if the model wrote one.
    pub token_ids: Vec<u32>,
    /// Tokens generated.
    pub tokens: usize,
    /// Whether the model ended the response itself.
    pub stopped: bool,
}

/// The judgment of one response; candidates of a prompt with the same text share it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// Of this verdict; also its sampling key (with `seed`).
    pub id: String,
    /// The prompt.
    pub prompt_id: String,
    /// Every candidate with this text.
    pub candidate_ids: Vec<String>,
    /// Round, from 1.
    pub round: u32,
    /// Seed of the run.
    pub seed: u64,
    /// How the score was read.
    pub mode: String,
    /// 0 to 5; null when none could be read.
    pub score: Option<f64>,
    /// `ok`, or why there is no score.
    pub status: String,
    /// What the judge wrote, where it writes.
    pub texts: Vec<String>,
    /// How many of `texts` had no score in them.
    pub unparsed: usize,
    /// Tokens generated or scored.
    pub tokens: usize,
}

/// One message as a conversation.
pub fn alone(role: &str, content: &str) -> Vec<Message> {
    vec![Message::new(role, content)]
}

/// A preference in TRL's conversational form, with exact token ids and links beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRecord {
    /// Of this pair.
    pub id: String,
    /// The prompt.
    pub prompt_id: String,
    /// The better candidate.
    pub chosen_id: String,
    /// The worse candidate.
    pub rejected_id: String,
    /// Round, from 1.
    pub round: u32,
    /// Score of the better one.
    pub score_chosen: f64,
    /// Score of the worse one.
    pub score_rejected: f64,
    /// Weight in training; 1 but for `[pairs] weight`.
    #[serde(default = "one")]
    pub weight: f32,
    /// Probability that the preference is the other way round; 0 but for `[pairs] agreement`.
    #[serde(default)]
    pub flip: f32,
    /// The conversation so far.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// Ids of the rendered prompt.
    pub prompt_ids: Vec<u32>,
    /// Ids of the better answer with its end.
    pub chosen_ids: Vec<u32>,
    /// Ids of the worse answer with its end.
    pub rejected_ids: Vec<u32>,
}

fn one() -> f32 {
    1.0
}

/// The log-prob of one response, summed over its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogpRecord {
    /// The response.
    pub candidate_id: String,
    /// Σ log p of its tokens after the prompt.
    pub logp: f64,
}

/// An id as it stands in records.
pub fn hex(id: u64) -> String {
    format!("{id:016x}")
}

/// Reads one record a line. Empty lines are skipped.
///
/// # Errors
/// The file cannot be read; a line is no JSON or lacks a field: the error names file and line.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    parse_jsonl(path, &std::fs::read_to_string(path).map_err(Error::io(path))?)
}

/// [`read_jsonl`] of a file that may not be there.
///
/// # Errors
/// As [`read_jsonl`], but for a file that is missing.
pub(super) fn read_jsonl_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    if path.exists() { read_jsonl(path).map(Some) } else { Ok(None) }
}

/// The records of a text from the file `path`.
pub(super) fn parse_jsonl<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>> {
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

/// Writes one record a line; the file appears whole or not at all.
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

/// Writes a pretty JSON document; the file appears whole or not at all.
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
/// The file cannot be read or is not of this form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::file(path, e.to_string()))
}

pub(super) fn line<T: Serialize>(path: &Path, record: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record).map_err(|e| Error::file(path, e.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a file so that it appears whole or not at all; creates missing folders.
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

    #[test]
    fn records_read_back_and_bad_lines_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("deep/er/messages.jsonl");
        let all = [alone("user", "a\nb"), alone("assistant", "ä\u{1}")];
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
