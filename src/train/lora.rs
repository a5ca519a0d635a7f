//! The settings of a training that changes an adapter alone, each told once: keys of `[lora]`, and flags.

use crate::arch::Arch;
use crate::arch::lora::{ALL_LINEAR, Adapter, LayerRules, LoraConfig, Modules};
use crate::settings::{Range, Takes, settings};
use crate::{Error, Result};

settings! {
    /// An adapter beside the frozen model: with this section it alone is trained.
    pub struct LoraSettings {
        /// Width of the adapter, between its matrices A and B.
        rank: usize = 16 => "rank", "R", Takes::Whole(1);
        /// The adapter's output is scaled by alpha / rank; 2 x rank where alpha is not given.
        alpha: Option<f32> = None => "alpha", "A", Takes::Number(Range::Above0);
        /// Share of the input of the adapter's layers that is dropped in training.
        dropout: f32 = 0.0 => "dropout", "P", Takes::Number(Range::From0Below1);
        /// Layers with an adapter: all-linear, names such as ["q_proj", "v_proj"], or a pattern of whole names.
        target_modules: Modules = all_linear() => "target_modules", "T,…", Takes::Typed;
        /// Scale by alpha / √rank instead (rsLoRA).
        rslora: bool = false => "rslora", "", Takes::Switch;
        /// Give each row of weight plus adapter a magnitude of its own (DoRA).
        dora: bool = false => "dora", "", Takes::Switch;
    }
}

fn all_linear() -> Modules {
    Modules::Names(vec![ALL_LINEAR.to_owned()])
}

impl LoraSettings {
    /// The adapter that the settings ask for.
    pub fn config(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(2.0 * self.rank as f32),
            rslora: self.rslora,
            dora: self.dora,
            dropout: self.dropout,
            targets: self.target_modules.clone(),
            layers: LayerRules::default(),
        }
    }

    /// Whether an adapter that is there already, on a model of this shape, is one of these settings. Dropout is no part
    /// of an adapter, and may be another one.
    ///
    /// # Errors
    /// The adapter has other settings, of which the error names the first with both values; the model lacks the layers
    /// that are asked for.
    pub fn agree_with(&self, arch: &Arch, there: &LoraConfig) -> Result<()> {
        let asked = self.config();
        // Programs write all-linear as the names that it stands for.
        let same_layers = Adapter::parameters(arch, &asked)? == Adapter::parameters(arch, there)?;
        let modules = |config: &LoraConfig| match same_layers {
            true => String::new(),
            false => serde_json::to_string(&config.targets).unwrap_or_default(),
        };
        let rows = [
            ("rank", asked.rank.to_string(), there.rank.to_string()),
            ("alpha", asked.alpha.to_string(), there.alpha.to_string()),
            ("rslora", asked.rslora.to_string(), there.rslora.to_string()),
            ("dora", asked.dora.to_string(), there.dora.to_string()),
            ("target_modules", modules(&asked), modules(there)),
        ];
        match rows.iter().find(|(_, asked, there)| asked != there) {
            None => Ok(()),
            Some((key, asked, there)) => Err(Error::Input(format!(
                "{key} is {asked}, but the model is an adapter whose {key} is {there}; leave the settings of LoRA out, \
                 or give the adapter's own"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Table, with};

    fn given(text: &str) -> LoraSettings {
        with(&LoraSettings::default(), &text.parse::<Table>().unwrap()).unwrap()
    }

    #[test]
    fn alpha_is_twice_the_rank_unless_it_is_given() {
        assert_eq!((given("").config().rank, given("").config().alpha), (16, 32.0));
        assert_eq!((given("rank = 4").config().alpha, given("rank = 4\nalpha = 4").config().alpha), (8.0, 4.0));
    }

    #[test]
    fn targets_are_names_or_a_pattern() {
        let names = |all: &[&str]| Modules::Names(all.iter().map(|n| (*n).to_owned()).collect());
        for (written, targets) in [
            ("\"all-linear\"", names(&["all-linear"])),
            ("\"q_proj,v_proj\"", names(&["q_proj", "v_proj"])),
            ("[\"q_proj\", \"v_proj\"]", names(&["q_proj", "v_proj"])),
            ("'[\"q_proj\", \"v_proj\"]'", names(&["q_proj", "v_proj"])),
            ("\"q_proj\"", names(&["q_proj"])),
            ("\".*q_proj\"", Modules::Pattern(".*q_proj".into())),
        ] {
            assert_eq!(given(&format!("target_modules = {written}")).target_modules, targets);
        }
        let wrong = with(&LoraSettings::default(), &"target_modules = 3".parse().unwrap()).unwrap_err().to_string();
        assert!(wrong.contains("names of layers"), "{wrong}");
        let flag = LoraSettings::settings().into_iter().find(|s| s.key == "target_modules").unwrap();
        assert!(flag.parse("q_proj,v_proj").is_ok());
    }

    #[test]
    fn an_adapter_that_is_there_must_agree() {
        let document = serde_json::json!({"model_type": "llama", "num_hidden_layers": 2});
        let arch = crate::arch::family::arch(&document).unwrap();
        let asked = given("rank = 4\ndropout = 0.5");
        let there = LoraConfig { dropout: 0.0, ..asked.config() };
        let all = ["q", "k", "v", "o", "gate", "up", "down"].map(|name| format!("{name}_proj"));
        let spelled = LoraConfig { targets: Modules::Names(all.to_vec()), ..there.clone() };
        asked.agree_with(&arch, &there).unwrap();
        asked.agree_with(&arch, &spelled).unwrap();
        for (there, words) in [
            (LoraConfig { rank: 8, ..there.clone() }, "rank is 4, but the model is an adapter whose rank is 8"),
            (LoraConfig { alpha: 4.0, ..there.clone() }, "alpha is 8"),
            (LoraConfig { rslora: true, ..there.clone() }, "rslora is false"),
            (LoraConfig { dora: true, ..there.clone() }, "dora is false"),
            (LoraConfig { targets: Modules::Pattern(".*q_proj".into()), ..there }, "target_modules is \"all-linear\""),
        ] {
            let error = asked.agree_with(&arch, &there).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
