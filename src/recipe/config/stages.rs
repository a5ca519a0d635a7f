//! `[prompts]`, `[candidates]` and `[judge]`: what a round writes and scores.

use super::{at_least_0, fine, share};
use crate::generate::{Sampling, Settings};
use crate::judge::{Mode, ModelJudgeSettings, ScorePattern};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[prompts]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSection {
    /// JSONL with a `prompt` field a line; empty takes the shipped one.
    pub seed_file: PathBuf,
    /// Prompts taken from the seed file as they are, each round the next ones.
    pub from_seed: usize,
    /// Prompts written by the model, each round.
    pub count: usize,
    /// Examples from the seed file in each invitation.
    pub seed_shots: usize,
    /// Examples that the model wrote earlier (from the seed file as long as there are none).
    pub own_shots: usize,
    /// Softmax temperature.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
    /// Most tokens of a new prompt.
    pub max_new_tokens: usize,
    /// New prompts this similar (ROUGE-L F1) to a kept one are dropped; above 1 only equal ones are.
    pub max_rouge: f64,
    /// Shortest prompt, in characters.
    pub min_chars: usize,
    /// Longest prompt, in characters.
    pub max_chars: usize,
    /// Prompts with one of these words (any case) are dropped: what a text model cannot do.
    pub block: Vec<String>,
    /// Files of prompts, such as evaluation sets: new prompts that stand in one, or are similar to one of it, are dropped.
    pub exclude: Vec<PathBuf>,
    /// Invitations a wave.
    pub wave: usize,
    /// Attempts per prompt wanted before the stage goes on with what it has.
    pub max_attempts: usize,
}

impl Default for PromptSection {
    fn default() -> Self {
        let block = ["image", "picture", "photo", "video", "graph", "diagram", "file", "map", "draw"];
        Self {
            seed_file: PathBuf::new(),
            from_seed: 0,
            count: 1000,
            seed_shots: 6,
            own_shots: 2,
            temperature: 0.6,
            top_p: 0.9,
            max_new_tokens: 64,
            max_rouge: 0.7,
            min_chars: 10,
            max_chars: 400,
            block: block.map(str::to_owned).to_vec(),
            exclude: Vec::new(),
            wave: 32,
            max_attempts: 8,
        }
    }
}

impl PromptSection {
    pub(super) fn check(&self) -> Result<()> {
        let own = self.count > 0;
        fine(
            "prompts",
            &[
                (self.count + self.from_seed >= 1, "count and from_seed are both 0: there would be nothing to answer"),
                (at_least_0(self.temperature), "temperature must be at least 0"),
                (share(self.top_p), "top_p must be above 0 and at most 1"),
                (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
                (self.max_rouge >= 0.0, "max_rouge must be at least 0"),
                (self.max_chars >= self.min_chars, "max_chars must be at least min_chars"),
                (self.wave >= 1, "wave must be at least 1"),
                (self.max_attempts >= 1 || !own, "max_attempts must be at least 1"),
                (
                    self.seed_shots + self.own_shots >= 1 || !own,
                    "seed_shots and own_shots are both 0: an invitation needs one",
                ),
            ],
        )
    }

    /// How prompts are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, ..Sampling::default() }
    }
}

/// `[candidates]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CandidateSection {
    /// N: responses a prompt.
    pub n: u32,
    /// Softmax temperature.
    pub temperature: f32,
    /// Nucleus.
    pub top_p: f32,
    /// Keep the k largest; 0 is off.
    pub top_k: usize,
    /// Drop tokens below this share of the largest probability; 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Most tokens of a response.
    pub max_new_tokens: usize,
    /// Prompts a wave.
    pub wave: usize,
}

impl Default for CandidateSection {
    fn default() -> Self {
        Self {
            n: 4,
            temperature: 0.7,
            top_p: 0.9,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 512,
            wave: 16,
        }
    }
}

impl CandidateSection {
    /// How answers that end with one of `stop` are written.
    pub fn settings(&self, stop: &[u32], seed: u64) -> Settings {
        Settings {
            sampling: self.sampling(),
            max_new_tokens: self.max_new_tokens,
            stop: stop.to_vec(),
            seed,
            choices: Vec::new(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        fine(
            "candidates",
            &[
                (self.n >= 2, "n must be at least 2: a pair needs two"),
                (at_least_0(self.temperature), "temperature must be at least 0"),
                (share(self.top_p), "top_p must be above 0 and at most 1"),
                ((0.0..=1.0).contains(&self.min_p), "min_p must be from 0 to 1"),
                (
                    self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                    "repetition_penalty must be above 0; 1 is off",
                ),
                (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
                (self.wave >= 1, "wave must be at least 1"),
            ],
        )
    }

    /// How responses are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

/// `[judge]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSection {
    /// A mode's name, `random`, or `auto`: the mode that orders the shipped ranked answers best.
    pub mode: String,
    /// A template to use in place of the mode's shipped one; empty takes that.
    pub template: PathBuf,
    /// `sampled`: how a verdict is read under a prompt of one's own, a regular expression whose first group is the number; empty
    /// reads what stands behind `Score:`.
    pub pattern: String,
    /// The numbers of `pattern` that mean 0 and 5.
    pub range: [f64; 2],
    /// `sampled`: verdicts an answer.
    pub samples: usize,
    /// `sampled`: how often a verdict that did not parse is drawn again.
    pub retries: usize,
    /// `sampled`: softmax temperature.
    pub temperature: f32,
    /// `sampled`: nucleus.
    pub top_p: f32,
    /// `sampled`: most tokens of a verdict.
    pub max_new_tokens: usize,
    /// Prompts a wave.
    pub wave: usize,
    /// Questions of the shipped ranked set used when `mode` is `auto`; 0 takes all.
    pub calibration: usize,
    /// Meta-Rewarding (arXiv 2407.19594): share of the training's pairs that are verdicts compared by the model itself, at most
    /// 0.15; 0 is off. It needs written verdicts (`sampled`).
    pub meta: f64,
}

impl Default for JudgeSection {
    fn default() -> Self {
        let paper = ModelJudgeSettings::default();
        Self {
            mode: "sampled".into(),
            template: PathBuf::new(),
            pattern: String::new(),
            range: [0.0, 5.0],
            samples: paper.samples,
            retries: paper.retries,
            temperature: paper.sampling.temperature,
            top_p: paper.sampling.top_p,
            max_new_tokens: paper.max_new_tokens,
            wave: 16,
            calibration: 0,
            meta: 0.0,
        }
    }
}

impl JudgeSection {
    pub(super) fn check(&self) -> Result<()> {
        let sampled = self.mode == "sampled";
        fine(
            "judge",
            &[
                (at_least_0(self.temperature), "temperature must be at least 0"),
                (share(self.top_p), "top_p must be above 0 and at most 1"),
                (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
                (self.wave >= 1, "wave must be at least 1"),
                (self.samples >= 1, "samples must be at least 1"),
                (
                    (0.0..=0.15).contains(&self.meta),
                    "meta must be from 0 to 0.15: more verdict pairs than that teach the judge at the answers' cost",
                ),
                (self.meta == 0.0 || sampled, "meta compares written verdicts, so it needs mode = \"sampled\""),
                (self.pattern.is_empty() || sampled, "pattern reads written verdicts: mode = \"sampled\""),
                (!self.pattern.is_empty() || self.range == [0.0, 5.0], "range is that of pattern, which is not given"),
            ],
        )?;
        if !["auto", "random"].contains(&self.mode.as_str()) {
            self.mode.parse::<Mode>().map_err(|e| Error::Input(format!("[judge] {e}, auto and random")))?;
        }
        self.settings(0).map(|_| ()).map_err(|e| Error::Input(format!("[judge] {e}")))
    }

    /// For a judge in mode `sampled`.
    ///
    /// # Errors
    /// A pattern or range that is none.
    pub fn settings(&self, seed: u64) -> Result<ModelJudgeSettings> {
        let pattern = (!self.pattern.is_empty()).then(|| ScorePattern::new(&self.pattern, self.range)).transpose()?;
        Ok(ModelJudgeSettings {
            pattern,
            samples: self.samples,
            retries: self.retries,
            sampling: Sampling { temperature: self.temperature, top_p: self.top_p, ..Sampling::default() },
            max_new_tokens: self.max_new_tokens,
            seed,
        })
    }
}
