//! `[prompts]`, `[candidates]` and `[judge]`: what a round writes and scores.

use super::{demand, empty};
use crate::generate::{KvType, Sampling, Settings};
use crate::judge::{Mode, ModelJudgeSettings, ScorePattern};
use crate::measure::signals::{Signal, SignalJudge};
use crate::settings::{Range, Section, Takes, settings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The keys of sampling that `[candidates]` alone has.
const OTHERS: [&str; 3] = ["top_k", "min_p", "repetition_penalty"];

/// Words by which one knows a prompt that asks for what a text model cannot do.
const BLOCK: [&str; 9] = ["image", "picture", "photo", "video", "graph", "diagram", "file", "map", "draw"];

/// Who writes new prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Writer {
    /// The model whose round it is.
    #[default]
    Current,
    /// The model that the run begins with, as the paper's fixed chat model writes the prompts of all rounds.
    First,
    /// Another model.
    Other(PathBuf),
}

/// How a configuration names the round's own model.
const CURRENT: &str = "current";
/// How it names the given one.
const FIRST: &str = "M0";

impl From<String> for Writer {
    fn from(name: String) -> Self {
        match name.as_str() {
            CURRENT => Writer::Current,
            FIRST => Writer::First,
            _ => Writer::Other(name.into()),
        }
    }
}

impl From<Writer> for String {
    fn from(writer: Writer) -> String {
        match writer {
            Writer::Current => CURRENT.into(),
            Writer::First => FIRST.into(),
            Writer::Other(path) => path.to_string_lossy().into_owned(),
        }
    }
}

settings! {
    /// New instructions.
    pub struct PromptSection {
        /// JSONL with a `prompt` a line; "" takes the shipped instructions. A `topic` in its place stands for one
        /// instruction with each of the shipped openings.
        seed_file: PathBuf = PathBuf::new() => "seed_file", "F.jsonl", Takes::Text;
        /// Taken from the seed file as they are, each round the next ones.
        from_seed: usize = 0 => "from_seed", "N", Takes::Whole(0);
        /// Written by a model each round.
        count: usize = 1000 => "count", "N", Takes::Whole(0);
        /// Who writes them: current (the round's own model), M0 (the given one, as in the paper), or another model.
        writer: Writer = Writer::Current => "writer", "M", Takes::Text;
        /// Examples from the seed file in each invitation.
        seed_shots: usize = 6 => "seed_shots", "N", Takes::Whole(0);
        /// Examples that the model wrote earlier; from the seed file as long as there are none.
        own_shots: usize = 2 => "own_shots", "N", Takes::Whole(0);
        /// Most tokens of a new prompt.
        max_new_tokens: usize = 64 => "max_new_tokens", "N", Takes::Whole(1);
        /// Nearer to a kept one (ROUGE-L F1) than this: dropped; above 1 only equal ones are.
        max_rouge: f64 = 0.7 => "max_rouge", "R", Takes::Number(Range::AtLeast0);
        /// Shortest prompt, in characters.
        min_chars: usize = 10 => "min_chars", "N", Takes::Whole(0);
        /// Longest prompt, in characters.
        max_chars: usize = 400 => "max_chars", "N", Takes::Whole(0);
        /// Words that drop a prompt, in any case.
        block: Vec<String> = BLOCK.map(str::to_owned).to_vec() => "block", "W,…", Takes::Texts;
        /// Files of prompts that no new prompt may be, or be like. Those of [validation] and [evaluation] are always.
        exclude: Vec<PathBuf> = Vec::new() => "exclude", "F.jsonl,…", Takes::Texts;
        /// Invitations a wave: the unit of a resume.
        wave: usize = 32 => "wave", "N", Takes::Whole(1);
        /// Invitations for each prompt wanted before the round goes on with what it has.
        max_attempts: usize = 8 => "max_attempts", "N", Takes::Whole(0);
    }
    parts {
        /// How prompts are drawn.
        sampling: Sampling = Sampling { temperature: 0.6, top_p: 0.9, ..Sampling::default() }, without OTHERS;
    }
}

impl Section for PromptSection {
    const NAME: &'static str = "prompts";

    fn agree(&self) -> Result<()> {
        let own = self.count > 0;
        demand(own || self.from_seed > 0, "count and from_seed are both 0: there would be nothing to answer")?;
        demand(self.max_chars >= self.min_chars, "max_chars must be at least min_chars")?;
        demand(self.max_attempts >= 1 || !own, "max_attempts must be at least 1")?;
        demand(
            self.seed_shots + self.own_shots >= 1 || !own,
            "seed_shots and own_shots are both 0: an invitation needs one",
        )
    }
}

settings! {
    /// Answers.
    pub struct CandidateSection {
        /// Answers a prompt; a pair needs two.
        n: u32 = 4 => "n", "N", Takes::Whole(2);
        /// Most tokens of an answer.
        max_new_tokens: usize = 512 => "max_new_tokens", "N", Takes::Whole(1);
        /// Prompts a wave.
        wave: usize = 16 => "wave", "N", Takes::Whole(1);
        /// Keys and values while text is written (in a run: by every stage): f32, or f16 in half the memory.
        kv: KvType = KvType::F32 => "kv", "T", Takes::OneOf(&KvType::NAMES);
    }
    parts {
        /// How answers are drawn.
        sampling: Sampling = Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::default() }, without [];
    }
}

impl Section for CandidateSection {
    const NAME: &'static str = "candidates";
}

impl CandidateSection {
    /// The settings with which answers are written; each of `stop` ends an answer.
    pub fn settings(&self, stop: &[u32], seed: u64) -> Settings {
        let (sampling, max_new_tokens) = (self.sampling.clone(), self.max_new_tokens);
        Settings { sampling, max_new_tokens, stop: stop.to_vec(), seed, ..Settings::default() }
    }
}

/// Who scores answers, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Judging {
    /// The model scores them in this mode.
    By(Mode),
    /// It scores them in the mode that orders ranked answers best.
    Auto,
    /// Scores are drawn at random: the control that shows whether judging matters at all.
    Random,
    /// A program scores them, or they vote.
    Signal(Signal),
}

/// The names that are no judge mode.
const OTHER_JUDGES: [(&str, Judging); 2] = [("auto", Judging::Auto), ("random", Judging::Random)];

impl TryFrom<String> for Judging {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        if let Some((_, judging)) = OTHER_JUDGES.iter().find(|(other, _)| *other == name) {
            return Ok(*judging);
        }
        if let Ok(signal) = name.parse() {
            return Ok(Self::Signal(signal));
        }
        let signals = Signal::ALL.map(Signal::name).join(", ");
        name.parse().map(Self::By).map_err(|e| Error::Input(format!("{e}, auto, random, {signals}")))
    }
}

impl From<Judging> for String {
    fn from(judging: Judging) -> String {
        match judging {
            Judging::By(mode) => mode.name().into(),
            Judging::Signal(signal) => signal.name().into(),
            other => OTHER_JUDGES.iter().find(|(_, j)| *j == other).map_or("", |(name, _)| name).into(),
        }
    }
}

impl Judging {
    /// Whether the scores are those of the model that is trained on them.
    pub fn is_self(self) -> bool {
        matches!(self, Judging::By(_) | Judging::Auto)
    }

    /// Whether verdicts are written and parsed.
    fn writes(self) -> bool {
        matches!(self, Judging::By(mode) if mode.writes())
    }
}

settings! {
    /// Scores from 0 to 5.
    pub struct JudgeSection {
        /// auto (the mode that orders ranked answers best), sampled (the paper), expected, criteria, yes, backward,
        /// marks, random; or rules, key, vote. rules and key check answers by a program, vote lets the answers to a
        /// prompt agree.
        mode: Judging = Judging::Auto => "mode", "MODE",
            Takes::Read { read: |name| Judging::try_from(name.to_owned()).map(|_| ()), listed: String::new };
        /// One's own prompt in the place of the mode's; "" takes the shipped one.
        template: PathBuf = PathBuf::new() => "template", "FILE", Takes::Text;
        /// sampled: how a verdict of one's own prompt is read, such as 'Rating: ([0-9.]+)'. The first group is the
        /// number; "" reads what stands behind `Score:`. vote: the first group is what an answer votes with.
        pattern: String = String::new() => "pattern", "REGEX", Takes::Text;
        /// The pattern's numbers that mean 0 and 5.
        range: [f64; 2] = [0.0, 5.0] => "range", "LOW,HIGH", Takes::Numbers(Range::Finite, Some(2));
        /// Prompts a wave.
        wave: usize = 16 => "wave", "N", Takes::Whole(1);
        /// Answers in a known order, on which the judge is measured before each round; "" takes the shipped ones. In
        /// the forms that `eval --task judge` reads.
        ranked: PathBuf = PathBuf::new() => "ranked", "F.jsonl", Takes::Text;
        /// Questions of these; 0 takes all.
        calibration: usize = 0 => "calibration", "N", Takes::Whole(0);
        /// A judge that is surely below this share of pairs in order stops the run, unless it has --force. A resume
        /// may change it.
        floor: f64 = 0.5 => "floor", "S", Takes::Number(Range::From0To1);
        /// vote: the share of a prompt's answers that must agree. The others are rejected; prompts without so much
        /// agreement are dropped.
        vote_share: f64 = 0.7 => "vote_share", "S", Takes::Number(Range::Above0To1);
        /// Share of the pairs that are verdicts compared by the model, 0.15 at most (arXiv 2407.19594). 0 is off.
        meta: f64 = 0.0 => "meta", "S", Takes::Number(Range::From0To1);
    }
    parts {
        /// How verdicts are written.
        reading: ModelJudgeSettings = ModelJudgeSettings::default(), without [];
    }
}

impl Section for JudgeSection {
    const NAME: &'static str = "judge";

    fn agree(&self) -> Result<()> {
        let writes = self.mode.writes();
        demand(
            self.meta <= 0.15,
            "meta must be from 0 to 0.15: more verdict pairs than that teach the judge at the answers' cost",
        )?;
        demand(self.meta == 0.0 || writes, "meta compares written verdicts, so it needs mode = \"sampled\"")?;
        demand(
            self.reading.think == 0 || writes || self.mode == Judging::Auto,
            "think is a thought before a written verdict, so it needs mode = \"sampled\" or \"auto\"",
        )?;
        demand(self.reading.think == 0 || self.meta == 0.0, "think and meta do not go together: set one of them to 0")?;
        let votes = self.mode == Judging::Signal(Signal::Vote);
        demand(
            self.pattern.is_empty() || writes || votes,
            "pattern reads written verdicts and votes: mode = \"sampled\" or \"vote\"",
        )?;
        demand(!self.pattern.is_empty() || self.range == [0.0, 5.0], "range is that of pattern, which is not given")?;
        let of_a_mode = empty(&self.template) || matches!(self.mode, Judging::By(_));
        demand(of_a_mode, "template needs a mode that asks a model, not auto")?;
        self.signal()?;
        self.settings(0).map(|_| ())
    }
}

impl JudgeSection {
    /// The judge that asks no model, if the mode is such.
    ///
    /// # Errors
    /// The share of votes or the pattern cannot be used.
    pub fn signal(&self) -> Result<Option<SignalJudge>> {
        let Judging::Signal(signal) = self.mode else { return Ok(None) };
        SignalJudge::new(signal, self.vote_share, &self.pattern).map(Some)
    }

    /// The settings with which the judge writes its verdicts.
    ///
    /// # Errors
    /// The pattern is not a regular expression, or the range is not a range.
    pub fn settings(&self, seed: u64) -> Result<ModelJudgeSettings> {
        let pattern = (!self.pattern.is_empty()).then(|| ScorePattern::new(&self.pattern, self.range)).transpose()?;
        Ok(ModelJudgeSettings { pattern, seed, ..self.reading.clone() })
    }
}
