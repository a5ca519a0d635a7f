//! The JSONL records of a round and their files.
//!
//! Ids link them: a candidate names its prompt, a verdict its candidates, a pair its prompt and both candidates. An id
//! is the hash of (round, stage, prompt ids, sample number) as 16 hex digits; together with `seed` it keys the random
//! numbers.

use crate::text::Message;
use serde::{Deserialize, Serialize};

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
