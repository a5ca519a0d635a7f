//! The JSONL records of a round.
//!
//! They are linked by ids: a candidate names its prompt, a verdict its candidates, a pair its prompt and both
//! candidates. An id is the hash of (round, stage, prompt ids, sample number), written as 16 hex digits; together with
//! `seed` it keys the random numbers.

use crate::judge::Checks;
use crate::text::{Message, Prompt};
use serde::{Deserialize, Serialize};

/// A line of a seed file; other fields of the line are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SeedRecord {
    /// The instruction of this seed, in any form that a prompt has.
    #[serde(flatten)]
    pub prompt: Option<Prompt>,
    /// In the place of an instruction, what instructions are to be about.
    pub topic: Option<String>,
    /// What the line says about right answers.
    #[serde(flatten)]
    pub checks: Checks,
}

/// A new prompt of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// Id of the prompt.
    pub id: String,
    /// Round to which the prompt belongs, from 1.
    pub round: u32,
    /// The instruction that the model is to answer.
    pub prompt: String,
    /// Where the prompt comes from: `self` (written by the model) or `seed` (taken from the seed file).
    pub source: String,
    /// Sampling key (with `seed`) of the text from which the prompt was read; empty for a seed prompt.
    pub key: String,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// How many tokens were generated for the prompt.
    pub tokens: usize,
    /// The instruction without the constraints that were put behind it; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_prompt: Option<String>,
    /// What its record says about right answers.
    #[serde(flatten)]
    pub checks: Checks,
}

/// A text that the model wrote as a prompt and that was dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedRecord {
    /// Sampling key of the text (with the run's seed).
    pub key: String,
    /// The text that the model wrote.
    pub text: String,
    /// Why the text was dropped.
    pub reason: String,
    /// How many tokens were generated.
    pub tokens: usize,
}

/// One response to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// Id of the candidate; also its sampling key (with `seed`).
    pub id: String,
    /// Id of the prompt that is answered.
    pub prompt_id: String,
    /// Round to which the candidate belongs, from 1.
    pub round: u32,
    /// Number of the candidate among those of its prompt, from 0.
    pub sample: u32,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// The words of the response.
    pub text: String,
    /// Token ids of the response as it is trained on; the stop token is the last one if the model wrote one.
    pub token_ids: Vec<u32>,
    /// How many tokens were generated.
    pub tokens: usize,
    /// Whether the model ended the response itself.
    pub stopped: bool,
}

/// The judgment of one response. Candidates of a prompt that have the same text share it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// Id of the verdict; also its sampling key (with `seed`).
    pub id: String,
    /// Id of the prompt that was answered.
    pub prompt_id: String,
    /// Ids of all candidates with the judged text.
    pub candidate_ids: Vec<String>,
    /// Round to which the verdict belongs, from 1.
    pub round: u32,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// How the score was read: the judge mode's name.
    pub mode: String,
    /// The score from 0 to 5; null when none could be read.
    pub score: Option<f64>,
    /// `ok`, or why there is no score.
    pub status: String,
    /// The texts that the judge wrote, if its mode writes any.
    pub texts: Vec<String>,
    /// How many of `texts` hold no score.
    pub unparsed: usize,
    /// How many tokens were generated or scored for the verdict.
    pub tokens: usize,
}

/// A conversation of one message.
pub fn alone(role: &str, content: &str) -> Vec<Message> {
    vec![Message::new(role, content)]
}

/// A preference in TRL's conversational form, with the exact token ids and the ids of its candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRecord {
    /// Id of the pair.
    pub id: String,
    /// Id of the prompt that both candidates answer.
    pub prompt_id: String,
    /// Id of the better candidate.
    pub chosen_id: String,
    /// Id of the worse candidate.
    pub rejected_id: String,
    /// Round to which the pair belongs, from 1.
    pub round: u32,
    /// Score of the better candidate.
    pub score_chosen: f64,
    /// Score of the worse candidate.
    pub score_rejected: f64,
    /// Weight of the pair in training; 1 unless `[pairs] weight` sets another.
    #[serde(default = "one")]
    pub weight: f32,
    /// Probability that the preference is the other way round; 0 unless `[pairs] agreement` sets another.
    #[serde(default)]
    pub flip: f32,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// Token ids of the rendered prompt.
    pub prompt_ids: Vec<u32>,
    /// Token ids of the better answer with its end.
    pub chosen_ids: Vec<u32>,
    /// Token ids of the worse answer with its end.
    pub rejected_ids: Vec<u32>,
}

fn one() -> f32 {
    1.0
}

/// The log-probability of one response, summed over its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogpRecord {
    /// Id of the candidate whose response was scored.
    pub candidate_id: String,
    /// Sum of log p over the tokens of the response.
    pub logp: f64,
}

/// Writes an id as records hold it: 16 hex digits.
pub fn hex(id: u64) -> String {
    format!("{id:016x}")
}
