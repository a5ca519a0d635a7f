//! The settings of a loop, as they stand in its TOML file. Defaults are the paper's where it gives them.

mod measure;
mod pairs;
mod stages;
mod training;

pub use measure::EvaluationSection;
pub use pairs::{Agreement, ByRound, PairSection, Rejected, Weighting};
pub use stages::{CandidateSection, JudgeSection, PromptSection};
pub use training::{DpoSection, Method, SftSection, ValidationSection};

use crate::disk;
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
    pub pairs: PairSection,
    /// Training.
    #[serde(default)]
    pub dpo: DpoSection,
    /// From the given model to M1.
    #[serde(default)]
    pub sft: SftSection,
    /// Early stopping.
    #[serde(default)]
    pub validation: ValidationSection,
    /// What is measured of every model.
    #[serde(default)]
    pub evaluation: EvaluationSection,
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
    /// Models whose weights stay, the newest ones; M0 and M1 stay besides. 0 keeps all. A resume may change it.
    pub keep: u32,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { out: PathBuf::from("runs/run"), rounds: 2, seed: 0, keep: 0 }
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
    pub pairs: PairSection,
    /// Training.
    pub dpo: DpoSection,
    /// Early stopping.
    pub validation: ValidationSection,
}

/// The first of a section's demands that does not hold.
fn fine(section: &str, demands: &[(bool, &str)]) -> Result<()> {
    match demands.iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(Error::Input(format!("[{section}] {what}"))),
        None => Ok(()),
    }
}

/// A number that is neither negative nor none at all.
fn at_least_0(x: f32) -> bool {
    x >= 0.0 && x.is_finite()
}

/// A probability that keeps something.
fn share(x: f32) -> bool {
    x > 0.0 && x <= 1.0
}

/// Every key with its default, explained: `configs/reference.toml`.
pub const REFERENCE: &str = include_str!("../../../configs/reference.toml");

impl RunConfig {
    /// Every key at its default, for the model at `path`.
    pub fn of_model(path: impl Into<PathBuf>) -> Self {
        Self {
            model: ModelSection { path: path.into() },
            run: RunSection::default(),
            prompts: PromptSection::default(),
            candidates: CandidateSection::default(),
            judge: JudgeSection::default(),
            pairs: PairSection::default(),
            dpo: DpoSection::default(),
            sft: SftSection::default(),
            validation: ValidationSection::default(),
            evaluation: EvaluationSection::default(),
        }
    }

    /// Models whose weights stay after a round: as many as `[run] keep` says, and the one before the newest where the next round
    /// asks it; 0 keeps all.
    pub fn kept(&self) -> u32 {
        let asked = self.pairs.agreement != Agreement::Off || self.pairs.implicit;
        if self.run.keep == 0 { 0 } else { self.run.keep.max(if asked { 2 } else { 1 }) }
    }

    /// All keys, as they stand in a run folder's config.toml.
    ///
    /// # Errors
    /// A path that is no Unicode.
    pub fn table(&self) -> Result<toml::Table> {
        let failed = |e: String| Error::Input(format!("configuration: {e}"));
        // Through text, since a table by itself would hold an f32 as the f64 next to it.
        let text = toml::to_string(self).map_err(|e| failed(e.to_string()))?;
        toml::from_str(&text).map_err(|e| failed(e.to_string()))
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, holds an unknown key or a value out of its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = disk::read_to_string(path).map_err(Error::io(path))?;
        let config: Self = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim().to_owned()))?;
        config.check().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(config)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check(&self) -> Result<()> {
        let given = |path: &Path| !path.as_os_str().is_empty();
        fine("model", &[(given(&self.model.path), "path is empty: name a model folder, a GGUF file or a hub id")])?;
        fine(
            "run",
            &[
                (self.run.rounds >= 1, "rounds must be at least 1"),
                (given(&self.run.out), "out is empty: name the run folder"),
            ],
        )?;
        self.prompts.check()?;
        self.candidates.check()?;
        self.judge.check()?;
        self.pairs.check()?;
        self.dpo.check()?;
        self.sft.check()?;
        self.validation.check()?;
        self.evaluation.check()?;
        let own_labels = self.pairs.weight != Weighting::None || self.pairs.agreement != Agreement::Off;
        let apart = self.dpo.objective()?.takes_pairs_apart()?;
        fine(
            "pairs",
            &[
                (
                    !own_labels || self.dpo.method == Method::Dpo,
                    "weight and agreement are for preferences: they go with [dpo] method = \"dpo\"",
                ),
                (
                    !own_labels || apart,
                    "weight and agreement go with losses that take each pair by itself: not with [dpo] loss = \"aot\"",
                ),
            ],
        )
    }

    /// The part that the stages need.
    pub fn round(&self) -> RoundSettings {
        RoundSettings {
            prompts: self.prompts.clone(),
            candidates: self.candidates.clone(),
            judge: self.judge.clone(),
            pairs: self.pairs.clone(),
            dpo: self.dpo.clone(),
            validation: self.validation.clone(),
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
        assert_eq!((c.sft.lr, c.sft.min_lr, c.sft.batch, c.sft.dropout), (5.5e-6, 1.1e-6, 16, 0.1));
        assert_eq!((c.dpo.beta, c.dpo.lr, c.dpo.batch), (0.1, 1e-6, 16));
        assert_eq!(toml::from_str::<RunConfig>(&toml::to_string(&c).unwrap()).unwrap(), c);
    }

    #[test]
    fn the_reference_names_every_key_with_its_default() {
        let c: RunConfig = toml::from_str(REFERENCE).unwrap();
        c.check().unwrap();
        assert_eq!(c, toml::from_str("[model]\npath = \"MODEL\"\n").unwrap());
        let (known, named) = (c.table().unwrap(), REFERENCE.parse::<toml::Table>().unwrap());
        let keys = |table: &toml::Table| -> Vec<String> {
            let of = |(section, keys): (&String, &toml::Value)| {
                keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
            };
            table.iter().flat_map(of).collect()
        };
        assert_eq!(keys(&known), keys(&named));
        // What has no default stands in a comment.
        assert_eq!(REFERENCE.matches("# dtype").count(), 2);
    }

    #[test]
    fn values_are_written_as_they_were_given() {
        let text = c_text("lr = 5e-7\nbeta = 0.1\n");
        assert!(text.contains("beta = 0.1\n") && text.contains("lr = 0.0000005\n"), "{text}");
    }

    fn c_text(dpo: &str) -> String {
        let c: RunConfig = toml::from_str(&format!("[model]\npath = \"m\"\n[dpo]\n{dpo}")).unwrap();
        toml::to_string(&c.table().unwrap()).unwrap()
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
            ("[model]\npath = \"\"\n", "[model] path"),
            ("[model]\npath = \"m\"\n[run]\nout = \"\"\n", "[run] out"),
            ("[model]\npath = \"m\"\n[prompts]\ntemperature = nan\n", "[prompts] temperature"),
            ("[model]\npath = \"m\"\n[candidates]\nmin_p = 2.0\n", "[candidates] min_p"),
            ("[model]\npath = \"m\"\n[judge]\nrange = [1, 9]\n", "[judge] range"),
            ("[model]\npath = \"m\"\n[dpo]\nweight_decay = nan\n", "[dpo] weight_decay"),
            ("[model]\npath = \"m\"\n[sft]\nbetas = [0.9, 1.5]\n", "[sft] betas"),
            ("[model]\npath = \"m\"\n[pairs]\nlength_margin = \"a\"\n", "a number, or a list"),
            ("[model]\npath = \"m\"\n[pairs]\nweight = \"gap\"\n[dpo]\nloss = \"aot\"\n", "[pairs] weight"),
            ("[model]\npath = \"m\"\n[pairs]\nweight = \"gap\"\n[dpo]\nmethod = \"sft-best\"\n", "[pairs] weight"),
            ("[model]\npath = 3\n", "path"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"best\"\n", "best"),
            ("[model]\npath = \"m\"\n[candidates]\nn = 1\n", "[candidates] n"),
            ("[model]\npath = \"m\"\n[dpo]\nschedule = \"step\"\n", "step"),
            ("[model]\npath = \"m\"\n[dpo]\ndropout = 1.0\n", "[dpo] dropout"),
            ("[model]\npath = \"m\"\n[dpo]\noptimizer = \"adam\"\n", "adamw8bit"),
            ("[model]\npath = \"m\"\n[sft]\nweights = \"bf16\"\ndtype = \"f16\"\n", "[sft] dtype"),
            ("[model]\npath = \"m\"\n[sft]\nfiles = [\"a\", \"b\"]\nmix = [1.0]\n", "[sft] mix"),
            ("[model]\npath = \"m\"\n[sft]\nschedule = \"step\"\n", "[sft] schedule"),
            ("[model]\npath = \"m\"\n[judge]\nmeta = 0.5\n", "[judge] meta"),
            ("[model]\npath = \"m\"\n[judge]\nmeta = 0.1\nmode = \"yes\"\n", "sampled"),
            ("[model]\npath = \"m\"\n[judge]\npattern = \"[0-9]\"\n", "group"),
            ("[model]\npath = \"m\"\n[validation]\nevery = 0\n", "[validation]"),
            ("[model]\npath = \"m\"\n[pairs]\nrejected = \"all\"\n", "rejected"),
            ("[model\n", "line 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = RunConfig::read(&path).unwrap_err().to_string();
            assert!(e.contains("run.toml") && e.contains(word), "{e}");
        }
    }
}
