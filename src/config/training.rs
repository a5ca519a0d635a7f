//! `[sft]`, `[dpo]` and `[validation]`: how models are trained.

use super::demand;
use crate::Result;
use crate::settings::{Range, Section, Takes, settings};
use crate::train::objective::Objective;
use crate::train::{LoraSettings, TrainSettings};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const MOVES: &str = "lr is 0, with which nothing would be learnt; expected a number above 0";

settings! {
    /// M0 -> M1; without files M1 is M0.
    pub struct SftSection {
        /// TRL's forms (messages; prompt and completion), as `data ift` and `data eft` write them.
        files: Vec<PathBuf> = Vec::new() => "files", "F.jsonl,…", Takes::Texts;
        /// Records of each file for one of the others, such as [2.0, 1.0]; [] takes every record once. An epoch takes
        /// as many records as all files hold, in this ratio; a file is gone through again where it is too short.
        mix: Vec<f64> = Vec::new() => "mix", "M,…", Takes::Numbers(Range::Above0, None);
        /// Most tokens of prompt and answer.
        max_length: usize = 2048 => "max_length", "N", Takes::Whole(2);
        /// Cut longer answers; without it their records are dropped and counted.
        truncate: bool = false => "truncate", "", Takes::Switch;
        /// Learn only the last of the assistant's turns in messages; without it all of them are learnt.
        last_turn_only: bool = false => "last_turn_only", "", Takes::Switch;
    }
    parts {
        /// The numbers of the training.
        training: TrainSettings = TrainSettings::supervised(), without [];
    }
}

impl Section for SftSection {
    const NAME: &'static str = "sft";

    fn agree(&self) -> Result<()> {
        let one_each = self.mix.is_empty() || self.mix.len() == self.files.len();
        demand(one_each, "mix needs one number for each of files, or none")?;
        demand(self.training.lr.peak > 0.0, MOVES)?;
        self.training.agree()
    }

    fn complete(&mut self, given: &toml::Table) {
        self.training.complete_supervised(given);
    }
}

impl Section for LoraSettings {
    const NAME: &'static str = "lora";
}

settings! {
    /// Early stopping of [dpo] by the round's judge.
    pub struct ValidationSection {
        /// Held-out prompts; "" is off. They are kept out of the new prompts.
        prompts: PathBuf = PathBuf::new() => "prompts", "F.jsonl", Takes::Text;
        /// Steps between validations; the last step has one too.
        every: usize = 200 => "every", "N", Takes::Whole(1);
        /// Validations in a row without a better mean score that end the training; 0 goes on to its end. The model with
        /// the best mean score is the one that is kept.
        patience: usize = 2 => "patience", "N", Takes::Whole(0);
        /// Answers a prompt, drawn as in [candidates].
        samples: u32 = 1 => "samples", "N", Takes::Whole(1);
    }
}

impl Section for ValidationSection {
    const NAME: &'static str = "validation";
}

/// What a round trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A round trains on preferences.
    Dpo,
    /// It trains on the chosen answers alone, supervised: the paper's negative control.
    SftBest,
}

settings! {
    /// M1 -> M2 and on.
    pub struct DpoSection {
        /// dpo, or sft-best: supervised on the chosen answers alone, the paper's negative control.
        method: Method = Method::Dpo => "method", "M", Takes::OneOf(&["dpo", "sft-best"]);
    }
    parts {
        /// What is minimised; a round makes pairs, so the weights of single answers are none of its settings.
        objective: Objective = Objective::default(), without ["desirable_weight", "undesirable_weight"];
        /// The numbers of the training.
        training: TrainSettings = TrainSettings::default(), without [];
    }
}

impl Section for DpoSection {
    const NAME: &'static str = "dpo";

    fn agree(&self) -> Result<()> {
        demand(!self.objective.unpaired()?, "loss is on single answers; a round makes pairs")?;
        demand(self.training.lr.peak > 0.0, MOVES)?;
        self.training.agree()
    }
}
