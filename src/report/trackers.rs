//! The steps of a run in the forms that experiment trackers read: TensorBoard's event files, and JSONL with flat keys,
//! as wandb, trackio and MLflow take it.
//!
//! An event file is a list of TFRecords: length (u64, little-endian), its masked CRC-32C, the bytes, their masked
//! CRC-32C. The bytes are an `Event` in protobuf's wire format (tensorflow/core/util/event.proto,
//! framework/summary.proto). Only a few of its fields are needed, so they are written by hand.

use super::{Report, Training};
use crate::Result;
use crate::json::{write_file, write_jsonl};
use std::path::Path;

/// Folder of the numbers of which each round has one.
const ROUNDS: &str = "rounds";
/// TensorBoard knows event files by `tfevents` in their names. The name is fixed, so a second export replaces the
/// first.
const EVENTS: &str = "events.out.tfevents.0000000000.selfreward";

/// A named number at a step.
#[derive(Clone, Debug, PartialEq)]
struct Scalar {
    wall_time: f64,
    step: u64,
    tag: String,
    value: f64,
}

/// Writes event files: `dir/round-N/` for the steps of each training, and `dir/rounds/` for the numbers of which each
/// round or model has one. Returns the folders written.
///
/// # Errors
/// A file cannot be written.
pub fn tensorboard(report: &Report, dir: &Path) -> Result<Vec<String>> {
    let trainings = report.trainings.iter().map(|t| (t.name.clone(), training_scalars(t)));
    let all = trainings.chain([(ROUNDS.to_owned(), round_scalars(report))]).filter(|(_, scalars)| !scalars.is_empty());
    all.map(|(name, scalars)| {
        write_file(&dir.join(&name).join(EVENTS), &events(&scalars))?;
        Ok(name)
    })
    .collect()
}

/// Writes one JSON object for each step: `stage`, `round`, `step`, `global_step` (over all trainings), `unix_seconds`
/// where they are known, and the step's numbers under TensorBoard's tags. Returns how many.
///
/// # Errors
/// The file cannot be written.
pub fn metrics(report: &Report, path: &Path) -> Result<usize> {
    let mut records = Vec::new();
    for training in &report.trainings {
        for (i, step) in training.steps.iter().enumerate() {
            let mut record = serde_json::Map::new();
            record.insert("stage".into(), training.name.clone().into());
            record.insert("round".into(), training.round.unwrap_or(0).into());
            record.insert("step".into(), step.step.into());
            record.insert("global_step".into(), (records.len() + 1).into());
            if training.time.is_some() {
                record.insert("unix_seconds".into(), wall_time(training, i).into());
            }
            record.extend(step.values.iter().map(|(key, value)| (tag(key), (*value).into())));
            records.push(record);
        }
    }
    write_jsonl(path, &records)?;
    Ok(records.len())
}

/// TensorBoard's tag for a key: `loss` becomes `train/loss`; a key that names its group keeps it.
fn tag(key: &str) -> String {
    if key.contains('/') && !key.starts_with("group_loss") { key.to_owned() } else { format!("train/{key}") }
}

/// The time of a step. Steps are not timed one by one, so they are spread evenly over the time that the log gives the
/// training; 0 without a log.
fn wall_time(training: &Training, at: usize) -> f64 {
    let Some([begin, end]) = training.time else { return 0.0 };
    begin + (end - begin) * (at + 1) as f64 / training.steps.len() as f64
}

fn training_scalars(training: &Training) -> Vec<Scalar> {
    let mut scalars = Vec::new();
    for (i, step) in training.steps.iter().enumerate() {
        let wall_time = wall_time(training, i);
        let scalar = |(key, v): (&String, &f64)| Scalar { wall_time, step: step.step, tag: tag(key), value: *v };
        scalars.extend(step.values.iter().map(scalar));
    }
    scalars
}

fn round_scalars(report: &Report) -> Vec<Scalar> {
    let mut out = Vec::new();
    for m in report.rounds.iter().filter_map(|r| r.metrics.as_ref()) {
        let end = report.trainings.iter().find(|t| t.round == Some(m.round)).and_then(|t| t.time);
        let mut push = |tag: &str, value: f64| {
            let wall_time = end.map_or(0.0, |[_, end]| end);
            out.push(Scalar { wall_time, step: m.round.into(), tag: format!("round/{tag}"), value });
        };
        push("prompts", m.prompts as f64);
        push("score_mean", m.score_mean);
        push("parse_rate", m.parse_rate);
        push("unscored", m.unscored as f64);
        push("pairs", m.pairs as f64);
        push("ties", m.ties as f64);
        push("distinct", m.distinct);
        push("candidate_tokens", m.candidate_tokens);
        push("chosen_tokens", m.chosen_tokens);
        push("rejected_tokens", m.rejected_tokens);
    }
    for (i, m) in report.evaluations.iter().enumerate() {
        let mut push = |tag: &str, value: f64| {
            out.push(Scalar { wall_time: 0.0, step: i as u64 + 1, tag: format!("model/{tag}"), value });
        };
        push("truth_mean", m.truth_mean);
        push("greedy_mean", m.greedy_mean);
        m.judge_spearman.into_iter().for_each(|v| push("judge_spearman", v));
        push("distinct", m.distinct);
    }
    out
}

/// The bytes of an event file.
fn events(scalars: &[Scalar]) -> Vec<u8> {
    let mut out = Vec::new();
    let first = scalars.first().map_or(0.0, |s| s.wall_time);
    record(&mut out, &[double(1, first), bytes(3, b"brain.Event:2")].concat());
    // The numbers of one step make one event.
    for step in scalars.chunk_by(|a, b| (a.step, a.wall_time) == (b.step, b.wall_time)) {
        let values: Vec<u8> = step
            .iter()
            .flat_map(|s| bytes(1, &[bytes(1, s.tag.as_bytes()), float(2, s.value as f32)].concat()))
            .collect();
        record(&mut out, &[double(1, step[0].wall_time), varint(2, step[0].step), bytes(5, &values)].concat());
    }
    out
}

/// Appends one TFRecord.
fn record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc32c(data)).to_le_bytes());
}

/// Masks a CRC as TensorFlow does, by rotation and addition, since a CRC of data that holds its own CRC says little.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, bit by bit; an event file is small, so speed does not matter.
fn crc32c(data: &[u8]) -> u32 {
    let byte = |crc: u32, b: &u8| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
    };
    !data.iter().fold(!0, byte)
}

/// A field of protobuf's wire type 0, a varint. The field numbers used here are all below 16.
fn varint(field: u8, mut value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [&[field << 3 | 1], &value.to_le_bytes()[..]].concat()
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = varint(field, value.len() as u64);
    out[0] |= 2;
    out.extend(value);
    out
}

fn float(field: u8, value: f32) -> Vec<u8> {
    [&[field << 3 | 5], &value.to_le_bytes()[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crcs_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
        assert_eq!(masked(0), 0xa282_ead8);
        assert_eq!(masked(0xe306_9283), 0xc78a_b0e5);
    }

    #[test]
    fn an_event_file_has_the_bytes_of_tensorflows_writer() {
        let scalar = Scalar { wall_time: 1.5, step: 300, tag: "a/b".into(), value: 0.5 };
        let file = events(&[scalar]);
        let version = b"\x09\0\0\0\0\0\0\xf8\x3f\x1a\x0dbrain.Event:2";
        let event = b"\x09\0\0\0\0\0\0\xf8\x3f\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03a/b\x15\0\0\0\x3f";
        assert_eq!(file[..8], (version.len() as u64).to_le_bytes());
        assert_eq!(file[12..12 + version.len()], version[..]);
        assert_eq!(file[12 + version.len() + 4 + 12..][..event.len()], event[..]);
        assert_eq!(file.len(), version.len() + event.len() + 32);
    }

    #[test]
    fn tags_name_their_group() {
        assert_eq!(
            ["loss", "rewards/margins", "group_loss/0"].map(tag),
            ["train/loss", "rewards/margins", "train/group_loss/0"]
        );
    }
}
