//! The settings of a loop, as they stand in its TOML file. Defaults are the paper's where it gives them.

use super::pairs::PairRule;
use crate::generate::Sampling;
use crate::judge::ModelJudgeSettings;
use crate::kernels::weight::Half;
use crate::train::objective::{self, Divergence, Objective};
use crate::train::{LearningRate, Optimiser, Schedule, dpo::DpoConfig, sft::SftConfig};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole `run` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where it starts from.
    pub model: ModelSection,
    /// The loop.
    #[serde(default)]
    pub run: RunSection,
    /// New prompts.
    #[serde(default)]
    pub prompts: PromptSection,
    /// Responses.
    #[serde(default)]
    pub candidates: CandidateSection,
    /// Scores.
    #[serde(default)]
    pub judge: JudgeSection,
    /// Preferences.
    #[serde(default)]
    pub pairs: PairRule,
    /// Training.
    #[serde(default)]
    pub dpo: DpoSection,
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face folder, a GGUF file, a run folder or a hub id; relative paths start at the working directory.
    pub path: PathBuf,
}

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    /// The run folder.
    pub out: PathBuf,
    /// Rounds of the loop.
    pub rounds: u32,
    /// Of every random number.
    pub seed: u64,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { out: PathBuf::from("runs/run"), rounds: 2, seed: 0 }
    }
}

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
            wave: 32,
            max_attempts: 8,
        }
    }
}

impl PromptSection {
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
}

impl Default for JudgeSection {
    fn default() -> Self {
        let paper = ModelJudgeSettings::default();
        Self {
            mode: "sampled".into(),
            template: PathBuf::new(),
            samples: paper.samples,
            retries: paper.retries,
            temperature: paper.sampling.temperature,
            top_p: paper.sampling.top_p,
            max_new_tokens: paper.max_new_tokens,
            wave: 16,
            calibration: 0,
        }
    }
}

impl JudgeSection {
    /// For a judge in mode `sampled`.
    pub fn settings(&self, seed: u64) -> ModelJudgeSettings {
        ModelJudgeSettings {
            samples: self.samples,
            retries: self.retries,
            sampling: Sampling { temperature: self.temperature, top_p: self.top_p, ..Sampling::default() },
            max_new_tokens: self.max_new_tokens,
            seed,
        }
    }
}

/// What a round trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Preferences.
    Dpo,
    /// Supervised on the chosen answers alone: the paper's negative control.
    SftBest,
}

/// `[dpo]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoSection {
    /// `dpo` or `sft-best`.
    pub method: Method,
    /// The preference losses with their weights, `NAME[:WEIGHT],…`, by TRL's names.
    pub loss: String,
    /// Strength of the pull to the reference.
    pub beta: f32,
    /// Share of labels taken as wrong.
    pub label_smoothing: f32,
    /// Weight of the chosen answers' negative log-likelihood beside the preference loss.
    pub nll: f32,
    /// `reverse_kl`, `forward_kl`, `js_divergence` or `alpha_divergence`.
    pub f_divergence: Divergence,
    /// α of the α-divergence.
    pub f_alpha: f32,
    /// WPO's weights.
    pub wpo: bool,
    /// LD-DPO's α; 1 is off.
    pub ld_alpha: f32,
    /// SimPO's γ.
    pub simpo_gamma: f32,
    /// Peak learning rate.
    pub lr: f32,
    /// `constant`, `linear` or `cosine`.
    pub schedule: String,
    /// Where the cosine ends.
    pub min_lr: f32,
    /// Warm-up steps.
    pub warmup: usize,
    /// 0: the first step of the warm-up moves nothing, as in transformers; 1: it moves.
    pub warmup_offset: usize,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs a step.
    pub batch: usize,
    /// AdamW.
    pub betas: [f32; 2],
    /// Decoupled.
    pub weight_decay: f32,
    /// 0 is off.
    pub max_grad_norm: f32,
    /// Share of what each attention and MLP branch adds to the residual stream that is dropped in training; 0 is off.
    pub dropout: f32,
    /// `bf16` or `f16`: products of the training read copies of the weights rounded so; they read the f32 weights without.
    pub dtype: Option<Half>,
    /// Steps between checkpoints.
    pub save_every: usize,
}

impl Default for DpoSection {
    fn default() -> Self {
        Self {
            method: Method::Dpo,
            loss: "sigmoid".into(),
            beta: 0.1,
            label_smoothing: 0.0,
            nll: 0.0,
            f_divergence: Divergence::ReverseKl,
            f_alpha: 0.5,
            wpo: false,
            ld_alpha: 1.0,
            simpo_gamma: 0.5,
            lr: 1e-6,
            schedule: "linear".into(),
            min_lr: 0.0,
            warmup: 0,
            warmup_offset: 0,
            epochs: 1,
            batch: 16,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            dropout: 0.0,
            dtype: None,
            save_every: 25,
        }
    }
}

impl DpoSection {
    fn rate(&self) -> Result<LearningRate> {
        let schedule = match self.schedule.as_str() {
            "constant" => Schedule::Constant,
            "linear" => Schedule::Linear,
            "cosine" => Schedule::Cosine,
            other => {
                let expected = "expected constant, linear or cosine";
                return Err(Error::Input(format!("[dpo] schedule is {other:?}, {expected}")));
            }
        };
        Ok(LearningRate {
            peak: self.lr,
            min_lr: self.min_lr,
            warmup: self.warmup,
            warmup_offset: self.warmup_offset,
            schedule,
        })
    }

    /// What is minimised.
    ///
    /// # Errors
    /// Unknown losses, options that do not go with them, losses on single answers.
    pub fn objective(&self) -> Result<Objective> {
        let objective = Objective {
            losses: objective::parse(&self.loss)?,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            nll: self.nll,
            f_divergence: self.f_divergence,
            f_alpha: self.f_alpha,
            wpo: self.wpo,
            ld_alpha: self.ld_alpha,
            simpo_gamma: self.simpo_gamma,
            ..Objective::default()
        };
        if objective.unpaired()? {
            return Err(Error::Input(format!(
                "[dpo] loss = \"{}\" is on single answers; a round makes pairs",
                self.loss
            )));
        }
        Ok(objective)
    }

    /// Settings of the preference training.
    ///
    /// # Errors
    /// An unknown schedule; as [`DpoSection::objective`].
    pub fn dpo(&self, seed: u64) -> Result<DpoConfig> {
        Ok(DpoConfig { objective: self.objective()?, epochs: self.epochs, batch: self.batch, lr: self.rate()?, seed })
    }

    /// Settings of the supervised training on the chosen answers.
    ///
    /// # Errors
    /// An unknown schedule.
    pub fn sft(&self, seed: u64) -> Result<SftConfig> {
        Ok(SftConfig { epochs: self.epochs, batch: self.batch, lr: self.rate()?, seed })
    }

    /// The optimiser.
    pub fn optimiser(&self) -> Optimiser {
        Optimiser {
            betas: self.betas,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            ..Optimiser::default()
        }
    }
}

/// What the stages of a round need to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundSettings {
    /// New prompts.
    pub prompts: PromptSection,
    /// Responses.
    pub candidates: CandidateSection,
    /// Scores.
    pub judge: JudgeSection,
    /// Preferences.
    pub pairs: PairRule,
    /// Training.
    pub dpo: DpoSection,
}

impl RunConfig {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, holds an unknown key or a value out of its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let config: Self = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim().to_owned()))?;
        config.check().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(config)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check(&self) -> Result<()> {
        let (p, c, j, d) = (&self.prompts, &self.candidates, &self.judge, &self.dpo);
        let share = |x: f32| x > 0.0 && x <= 1.0;
        for (fine, what) in [
            (self.run.rounds >= 1, "[run] rounds must be at least 1"),
            (p.count + p.from_seed >= 1, "[prompts] count and from_seed are both 0: there would be nothing to answer"),
            (p.temperature >= 0.0 && c.temperature >= 0.0 && j.temperature >= 0.0, "a temperature is negative"),
            (share(p.top_p) && share(c.top_p) && share(j.top_p), "a top_p is outside 0 to 1"),
            (p.max_new_tokens >= 1 && c.max_new_tokens >= 1 && j.max_new_tokens >= 1, "a max_new_tokens is 0"),
            (p.wave >= 1 && c.wave >= 1 && j.wave >= 1, "a wave is 0"),
            (p.seed_shots + p.own_shots >= 1 || p.count == 0, "[prompts] an invitation needs at least one shot"),
            (c.n >= 2, "[candidates] n must be at least 2: a pair needs two"),
            (j.samples >= 1, "[judge] samples must be at least 1"),
            (
                d.batch >= 1 && d.epochs >= 1 && d.save_every >= 1,
                "[dpo] batch, epochs and save_every must be at least 1",
            ),
            (d.lr > 0.0 && d.lr.is_finite(), "[dpo] lr must be above 0"),
            ((0.0..1.0).contains(&d.dropout), "[dpo] dropout must be from 0 to below 1"),
        ] {
            if !fine {
                return Err(Error::Input(what.to_owned()));
            }
        }
        if !["auto", "random"].contains(&j.mode.as_str()) {
            j.mode.parse::<crate::judge::Mode>().map_err(|e| Error::Input(format!("[judge] {e}, auto and random")))?;
        }
        d.objective().map_err(|e| Error::Input(format!("[dpo] {e}")))?;
        d.rate().map(|_| ())
    }

    /// The part that the stages need.
    pub fn round(&self) -> RoundSettings {
        RoundSettings {
            prompts: self.prompts.clone(),
            candidates: self.candidates.clone(),
            judge: self.judge.clone(),
            pairs: self.pairs.clone(),
            dpo: self.dpo.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers() {
        let c: RunConfig = toml::from_str("[model]\npath = \"m\"\n").unwrap();
        c.check().unwrap();
        assert_eq!((c.prompts.seed_shots, c.prompts.own_shots, c.prompts.temperature), (6, 2, 0.6));
        assert_eq!((c.candidates.n, c.candidates.temperature, c.candidates.top_p), (4, 0.7, 0.9));
        assert_eq!((c.judge.mode.as_str(), c.judge.samples), ("sampled", 3));
        assert_eq!((c.dpo.beta, c.dpo.lr, c.dpo.batch), (0.1, 1e-6, 16));
        assert_eq!(toml::from_str::<RunConfig>(&toml::to_string(&c).unwrap()).unwrap(), c);
    }

    #[test]
    fn shipped_configurations_are_fine() {
        for name in ["smollm2", "smollm2-tiny", "smollm2-ci"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/{name}.toml"));
            let config = RunConfig::read(&path).unwrap();
            assert_eq!(config.run.out, Path::new("runs").join(name));
        }
    }

    #[test]
    fn bad_files_are_named_with_their_key() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("run.toml");
        for (text, word) in [
            ("[model]\npath = \"m\"\n[dpo]\nbteta = 1\n", "bteta"),
            ("[dpo]\nbeta = 1\n", "model"),
            ("[model]\npath = 3\n", "path"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"best\"\n", "best"),
            ("[model]\npath = \"m\"\n[candidates]\nn = 1\n", "[candidates] n"),
            ("[model]\npath = \"m\"\n[dpo]\nschedule = \"step\"\n", "step"),
            ("[model]\npath = \"m\"\n[dpo]\ndropout = 1.0\n", "[dpo] dropout"),
            ("[model\n", "line 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = RunConfig::read(&path).unwrap_err().to_string();
            assert!(e.contains("run.toml") && e.contains(word), "{e}");
        }
    }
}
