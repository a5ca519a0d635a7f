//! The settings of a loop, as they stand in its TOML file. Defaults are the paper's where it gives them.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the texts of keys name sections of TOML, as the reference shows them"
)]

mod controls;
mod evaluation;
pub mod pair_rule;
mod pairs;
mod stages;
mod training;

pub use controls::ControlSection;
pub use evaluation::{Comparison, EvaluationSection, EvaluationTask};
pub use pairs::{Agreement, ByRound, PairSection, Rejected, Weighting};
pub use stages::{CandidateSection, JudgeSection, Judging, PromptSection, Writer};
pub use training::{DpoSection, Method, SftSection, ValidationSection};

use crate::disk;
use crate::measure::constraints::ConstraintSection;
use crate::measure::signals::Signal;
use crate::settings::{Section, Takes, section, settings};
use crate::train::{LoraSettings, WeightType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A whole `run` file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RunConfig {
    /// Where the run starts from.
    #[serde(with = "section")]
    pub model: ModelSection,
    /// The loop.
    #[serde(with = "section")]
    pub run: RunSection,
    /// The adapter that is trained beside the given model; without it all weights are.
    #[serde(with = "section::wanted", skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
    /// How the given model becomes M1.
    #[serde(with = "section")]
    pub sft: SftSection,
    /// How new prompts are written.
    #[serde(with = "section")]
    pub prompts: PromptSection,
    /// What new prompts ask for beside.
    #[serde(with = "section")]
    pub constraints: ConstraintSection,
    /// How answers are written.
    #[serde(with = "section")]
    pub candidates: CandidateSection,
    /// How answers are scored.
    #[serde(with = "section")]
    pub judge: JudgeSection,
    /// How scores become preferences.
    #[serde(with = "section")]
    pub pairs: PairSection,
    /// How a round trains.
    #[serde(with = "section")]
    pub dpo: DpoSection,
    /// When a round's training ends early.
    #[serde(with = "section")]
    pub validation: ValidationSection,
    /// What is measured of every model.
    #[serde(with = "section")]
    pub evaluation: EvaluationSection,
    /// What is trained beside M2 to compare with it.
    #[serde(with = "section")]
    pub controls: ControlSection,
}

settings! {
    /// The model to begin with.
    pub struct ModelSection {
        /// Hugging Face folder, GGUF file, run folder or hub id.
        path: PathBuf = PathBuf::new() => "path", "M", Takes::Text;
        /// Variables of its chat template, such as { enable_thinking = false }.
        template_args: Map<String, Value> = Map::new() => "template_args", "{…}", Takes::Typed;
    }
}

impl Section for ModelSection {
    const NAME: &'static str = "model";

    fn agree(&self) -> Result<()> {
        demand(!empty(&self.path), "path is empty: name a model folder, a GGUF file or a hub id")
    }
}

settings! {
    /// The loop.
    pub struct RunSection {
        /// The run folder.
        out: PathBuf = PathBuf::from("runs/run") => "out", "DIR", Takes::Text;
        /// Rounds of the loop: 2 is M1 -> M2 -> M3. A resume may change it.
        rounds: u32 = 2 => "rounds", "N", Takes::Whole(1);
        /// Seed of every random number.
        seed: u64 = 0 => "seed", "N", Takes::Whole(0);
        /// The newest models whose weights stay, beside M0 and M1; 0 keeps all. A resume may change it.
        keep: u32 = 0 => "keep", "N", Takes::Whole(0);
    }
}

impl Section for RunSection {
    const NAME: &'static str = "run";

    fn agree(&self) -> Result<()> {
        demand(!empty(&self.out), "out is empty: name the run folder")
    }
}

/// The settings that the stages of a round need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundSettings {
    /// How new prompts are written.
    pub prompts: PromptSection,
    /// What new prompts ask for beside.
    pub constraints: ConstraintSection,
    /// How answers are written.
    pub candidates: CandidateSection,
    /// How answers are scored.
    pub judge: JudgeSection,
    /// How scores become preferences.
    pub pairs: PairSection,
    /// How a round trains.
    pub dpo: DpoSection,
    /// When a round's training ends early.
    pub validation: ValidationSection,
}

/// An error that says `what` unless the demand holds.
fn demand(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Input(what.into())) }
}

fn empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Every key with its default, explained: `configs/reference.toml`.
pub const REFERENCE: &str = include_str!("../../configs/reference.toml");

impl RunConfig {
    /// A configuration with every key at its default, for the model at `path`.
    pub fn of_model(path: impl Into<PathBuf>) -> Self {
        let model = ModelSection { path: path.into(), ..ModelSection::default() };
        Self { model, ..Self::default() }
    }

    /// How many models keep their weights after a round: as many as `[run] keep` says, and the one before the newest if
    /// the next round asks it; 0 keeps all.
    pub fn kept(&self) -> u32 {
        let asked = self.pairs.agreement != Agreement::Off || self.pairs.implicit;
        if self.run.keep == 0 { 0 } else { self.run.keep.max(if asked { 2 } else { 1 }) }
    }

    /// All keys with their values, as a run folder's config.toml holds them.
    ///
    /// # Errors
    /// A path is not Unicode.
    pub fn table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).map_err(|e| Error::Bug(format!("configuration: {e}")))
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML, or it holds an unknown key or a value out of its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = disk::read_to_string(path).map_err(Error::io(path))?;
        let config: Self = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string().trim().to_owned()))?;
        config.check().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(config)
    }

    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// The first value that is not.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.run.check()?;
        self.lora.iter().try_for_each(Section::check)?;
        self.sft.check()?;
        self.prompts.check()?;
        self.constraints.check()?;
        self.candidates.check()?;
        self.judge.check()?;
        self.pairs.check()?;
        self.dpo.check()?;
        self.validation.check()?;
        self.evaluation.check()?;
        self.controls.check()?;
        if self.lora.is_some() {
            self.agree_with_adapter()?;
        }
        self.agree_with_signal()?;
        if self.pairs.weight == Weighting::None && self.pairs.agreement == Agreement::Off {
            return Ok(());
        }
        demand(
            self.dpo.method == Method::Dpo,
            "[pairs] weight and agreement are for preferences: they go with [dpo] method = \"dpo\"",
        )?;
        demand(
            self.dpo.objective.takes_pairs_apart()?,
            "[pairs] weight and agreement go with losses that take each pair by itself: not with that of [dpo] loss",
        )
    }

    /// Whether the settings go with a judge that asks no model.
    fn agree_with_signal(&self) -> Result<()> {
        let Judging::Signal(signal) = self.judge.mode else { return Ok(()) };
        let name = signal.name();
        demand(
            empty(&self.evaluation.ranked),
            &format!("[evaluation] ranked measures a model as a judge; [judge] mode = \"{name}\" asks none"),
        )?;
        let (own, drawn) = (self.prompts.count > 0, self.constraints.most > 0);
        demand(
            !own || !signal.needs_checks() || drawn && signal == Signal::Rules,
            &format!(
                "[prompts] count is {}, but nothing would say which answers to these prompts are right; with [judge] \
                 mode = \"rules\" set [constraints] most, otherwise take prompts from a file (count = 0, from_seed)",
                self.prompts.count
            ),
        )?;
        demand(
            signal.needs_checks() || empty(&self.validation.prompts) || self.validation.samples > 1,
            "[validation] samples is 1; the mode vote needs at least 2 answers to a prompt",
        )
    }

    /// Whether the settings go with the training of an adapter alone.
    ///
    /// # Errors
    /// What does not.
    pub fn agree_with_adapter(&self) -> Result<()> {
        for (name, training) in [("sft", &self.sft.training), ("dpo", &self.dpo.training)] {
            let plain = training.weights == WeightType::F32 && training.half.is_none();
            let what = "weights and dtype are for the training of all weights; an adapter is trained in f32, beside \
                        the model as it is stored";
            demand(plain, &format!("[{name}] {what}"))?;
        }
        Ok(())
    }

    /// Those settings that the stages of a round need.
    pub fn round(&self) -> RoundSettings {
        RoundSettings {
            prompts: self.prompts.clone(),
            constraints: self.constraints.clone(),
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
    use crate::settings;

    #[test]
    fn defaults_are_the_papers() {
        let c: RunConfig = toml::from_str("[model]\npath = \"m\"\n").unwrap();
        c.check().unwrap();
        assert_eq!((c.prompts.seed_shots, c.prompts.own_shots, c.prompts.sampling.temperature), (6, 2, 0.6));
        assert_eq!((c.candidates.n, c.candidates.sampling.temperature, c.candidates.sampling.top_p), (4, 0.7, 0.9));
        assert_eq!((c.judge.mode, c.judge.reading.samples), (Judging::Auto, 3));
        let (sft, dpo) = (&c.sft.training, &c.dpo.training);
        // But for dropout, which the paper has at 0.1.
        assert_eq!((sft.lr.peak, sft.lr.min_lr, sft.batch, sft.dropout), (5.5e-6, 1.1e-6, 16, 0.0));
        assert_eq!((c.dpo.objective.beta, dpo.lr.peak, dpo.batch), (0.1, 1e-6, 16));
        assert_eq!(toml::from_str::<RunConfig>(&toml::to_string(&c).unwrap()).unwrap(), c);
    }

    fn lines<T: Section>(section: &T) -> String {
        let values = settings::table(section).unwrap();
        let head = format!("[{}]", T::NAME);
        let keys = T::settings().into_iter().map(|s| s.line(values.get(s.key)) + "\n").collect::<String>();
        format!("\n{head:25} # {}\n{keys}", settings::brief(T::ABOUT))
    }

    /// A section that is not wanted unless it is there, with its defaults.
    fn unwanted<T: Section>(section: &T) -> String {
        let line = |line: &str| match line {
            "" => "\n".to_owned(),
            line => format!("# {}\n", line.trim_start_matches("# ")),
        };
        lines(section).lines().map(line).collect()
    }

    /// What configs/reference.toml holds.
    fn written(c: &RunConfig) -> String {
        [
            "# Every key of a run configuration, with its default: the paper's values where it gives them \
             (arXiv 2401.10020), but for\n# [judge] mode (configs/paper.toml has all of them).\n\
             # A file needs [model] path alone. Relative paths start at the working directory; \"\" and [] mean none.\n"
                .to_owned(),
            lines(&c.model),
            lines(&c.run),
            unwanted(&LoraSettings::default()),
            lines(&c.sft),
            lines(&c.prompts),
            lines(&c.constraints),
            lines(&c.candidates),
            lines(&c.judge),
            lines(&c.pairs),
            lines(&c.dpo),
            lines(&c.validation),
            lines(&c.evaluation),
            lines(&c.controls),
        ]
        .concat()
    }

    #[test]
    fn the_reference_is_what_the_settings_say() {
        let c: RunConfig = toml::from_str(REFERENCE).unwrap();
        c.check().unwrap();
        assert_eq!(c, toml::from_str("[model]\npath = \"MODEL\"\n").unwrap());
        let text = written(&c);
        assert!(REFERENCE == text, "configs/reference.toml is to be:\n{text}");
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
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let runs: Vec<PathBuf> = files
            .filter(|path| path.extension().is_some_and(|e| e == "toml") && !path.ends_with("reference.toml"))
            .collect();
        assert!(runs.len() >= 8);
        for path in runs {
            let config = RunConfig::read(&path).unwrap();
            assert_eq!(config.run.out, Path::new("runs").join(path.file_stem().unwrap()));
            assert_eq!(config.judge.floor, 0.6);
        }
    }

    #[test]
    fn bad_files_are_named_with_their_key() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("run.toml");
        for (text, word) in [
            ("[model]\npath = \"m\"\n[dpo]\nbteta = 1\n", "bteta"),
            ("[dpo]\nbeta = 1\n", "[model] path"),
            ("[model]\npath = \"m\"\n[dpo]\ndesirable_weight = 1.0\n", "[dpo] 'desirable_weight' is no key here"),
            ("[model]\npath = \"\"\n", "[model] path"),
            ("[model]\npath = \"m\"\n[run]\nout = \"\"\n", "[run] out"),
            ("[model]\npath = \"m\"\n[prompts]\ntemperature = nan\n", "[prompts] temperature"),
            ("[model]\npath = \"m\"\n[candidates]\nmin_p = 2.0\n", "[candidates] min_p"),
            ("[model]\npath = \"m\"\n[judge]\nrange = [1, 9]\n", "[judge] range"),
            ("[model]\npath = \"m\"\n[dpo]\nweight_decay = nan\n", "[dpo] weight_decay"),
            ("[model]\npath = \"m\"\n[sft]\nbetas = [0.9, 1.5]\n", "[sft] betas"),
            ("[model]\npath = \"m\"\n[pairs]\nlength_margin = \"a\"\n", "a number, or a list"),
            ("[model]\npath = \"m\"\n[pairs]\nweight = \"gap\"\n[dpo]\nloss = \"aot\"\n", "[pairs] weight"),
            ("[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"rhyme\", data = \"f\" }]\n", "known are ifeval"),
            ("[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\" }]\n", "missing field `data`"),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\", data = \"f\", n = 2 }]\n",
                "unknown field `n`",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\", data = \"f\", samples = 0 }]\n",
                "[evaluation] tasks: f: samples is 0",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\n\
                 tasks = [{ task = \"exact\", data = \"f\", samples = 2, temperature = -0.5 }]\n",
                "temperature must be a number that is at least 0",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\n\
                 tasks = [{ task = \"exact\", data = \"f\", temperature = 0.5 }]\n",
                "temperature is for samples above 1",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\n\
                 tasks = [{ task = \"exact\", data = \"f\", max_new_tokens = 0 }]\n",
                "max_new_tokens is 0",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"choice\", data = \"f\", samples = 2 }]\n",
                "draws no answers",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\", data = \"f\", shots = 2 }]\n",
                "shots and shots_from",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\", data = \"f\", name = \"a/b\" }]\n",
                "that of a folder",
            ),
            (
                "[model]\npath = \"m\"\n[evaluation]\ntasks = [{ task = \"exact\", data = \"f\" },\n\
                 { task = \"exact\", data = \"d/f.jsonl\" }]\n",
                "two are named",
            ),
            ("[model]\npath = \"m\"\n[pairs]\nweight = \"gap\"\n[dpo]\nmethod = \"sft-best\"\n", "[pairs] weight"),
            ("[model]\npath = 3\n", "path"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"best\"\n", "best"),
            ("[model]\npath = \"m\"\n[candidates]\nn = 1\n", "[candidates] n"),
            ("[model]\npath = \"m\"\n[dpo]\nschedule = \"step\"\n", "step"),
            ("[model]\npath = \"m\"\n[dpo]\ndropout = 1.0\n", "[dpo] dropout"),
            ("[model]\npath = \"m\"\n[dpo]\noptimizer = \"adam\"\n", "adamw8bit"),
            ("[model]\npath = \"m\"\n[lora]\nrank = 0\n", "[lora] rank"),
            ("[model]\npath = \"m\"\n[lora]\n[dpo]\nweights = \"bf16\"\n", "[dpo] weights and dtype"),
            ("[model]\npath = \"m\"\n[sft]\nweights = \"bf16\"\ndtype = \"f16\"\n", "[sft] dtype"),
            ("[model]\npath = \"m\"\n[sft]\nfiles = [\"a\", \"b\"]\nmix = [1.0]\n", "[sft] mix"),
            ("[model]\npath = \"m\"\n[sft]\nschedule = \"step\"\n", "[sft] schedule"),
            ("[model]\npath = \"m\"\n[judge]\nmeta = 0.5\n", "[judge] meta"),
            ("[model]\npath = \"m\"\n[judge]\nfloor = 1.5\n", "[judge] floor"),
            ("[model]\npath = \"m\"\n[judge]\nthink = 9\nmode = \"yes\"\n", "[judge] think"),
            ("[model]\npath = \"m\"\n[judge]\nmeta = 0.1\nmode = \"yes\"\n", "sampled"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"sampled\"\npattern = \"[0-9]\"\n", "group"),
            ("[model]\npath = \"m\"\n[validation]\nevery = 0\n", "[validation]"),
            ("[model]\npath = \"m\"\n[pairs]\nrejected = \"all\"\n", "rejected"),
            ("[model]\npath = \"m\"\n[constraints]\nmost = 1\nkinds = [\"title\"]\n", "[constraints] kinds"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"rules\"\n", "[constraints] most"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"key\"\n", "from_seed"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"vote\"\nvote_share = 0.5\n", "[judge] vote_share"),
            ("[model]\npath = \"m\"\n[judge]\nmode = \"vote\"\n[evaluation]\nranked = \"r\"\n", "[evaluation] ranked"),
            ("[model\n", "line 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let e = RunConfig::read(&path).unwrap_err().to_string();
            assert!(e.contains("run.toml") && e.contains(word), "{e}");
        }
    }
}
