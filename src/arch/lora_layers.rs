//! Which layers a LoRA adapter changes, and how: PEFT's rules (`check_target_module_exists`, `get_pattern_key`), on a
//! layer's name in the model, such as `model.layers.0.self_attn.q_proj`.

use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The target that stands for every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";
/// The embedding's module.
pub(super) const EMBEDDING: &str = "model.embed_tokens";
/// The output matrix's module.
pub(super) const OUTPUT: &str = "lm_head";
/// Steps of backtracking after which a pattern is given up: layers' names are short.
const MAX_STEPS: usize = 100_000;
/// Bytes that a compiled pattern may take.
const MAX_COMPILED: usize = 1 << 20;

/// A choice of layers, by name or by pattern. As a text it is a name, names with commas between them, a JSON list of
/// names, or, if it is none of these, a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum Modules {
    /// Each name is a layer's whole name or its end after a dot; among targets, [`ALL_LINEAR`] means every layer.
    Names(Vec<String>),
    /// A regular expression (as Python's `re` has them) matches a layer's whole name.
    Pattern(String),
}

/// [`Modules`] as a configuration has them.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected all-linear, names of layers in a list, or a pattern of whole names")]
enum Written {
    One(String),
    Names(Vec<String>),
}

impl From<Written> for Modules {
    fn from(written: Written) -> Self {
        let named = |c: char| c.is_ascii_alphanumeric() || "_-.,".contains(c);
        match written {
            Written::Names(names) => Modules::Names(names),
            Written::One(text) if text.chars().all(named) => {
                Modules::Names(text.split(',').map(|name| name.trim().to_owned()).collect())
            }
            Written::One(text) => match serde_json::from_str(&text) {
                Ok(names) => Modules::Names(names),
                Err(_) => Modules::Pattern(text),
            },
        }
    }
}

impl From<Modules> for Written {
    fn from(modules: Modules) -> Self {
        match modules {
            Modules::Pattern(pattern) => Written::One(pattern),
            Modules::Names(names) => match names.as_slice() {
                [all] if all == ALL_LINEAR => Written::One(all.clone()),
                _ => Written::Names(names),
            },
        }
    }
}

/// The rules that leave layers out, and that give some of them another rank or α.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerRules {
    /// Targets that get no adapter after all (PEFT's `exclude_modules`).
    pub exclude: Option<Modules>,
    /// The numbers of the blocks that have an adapter (PEFT's `layers_to_transform`); an empty list means all. A target
    /// that is a layer's whole name overrules it.
    pub blocks: Vec<usize>,
    /// Names of the lists in which `blocks` counts, as regular expressions (PEFT's `layers_pattern`); an empty list
    /// means any.
    pub lists: Vec<String>,
    /// Ranks by pattern (PEFT's `rank_pattern`): the first that matches a layer's name, or its end after a dot, holds.
    pub rank: Vec<(String, usize)>,
    /// Values of α by pattern (PEFT's `alpha_pattern`): the first that matches, as with `rank`, holds.
    pub alpha: Vec<(String, f32)>,
}

/// The settings of a LoRA adapter, as adapter_config.json has them.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank r, which is the width between A and B.
    pub rank: usize,
    /// The factor α of the scale.
    pub alpha: f32,
    /// Whether the scale is α / √r (rsLoRA, arXiv 2312.03732) instead of α / r.
    pub rslora: bool,
    /// Whether each row of the sum of weight and adapter has a magnitude of its own (DoRA, arXiv 2402.09353).
    pub dora: bool,
    /// The share of A's input that is dropped in training, from 0 to below 1.
    pub dropout: f32,
    /// The layers that get an adapter.
    pub targets: Modules,
    /// The rules that leave out some of those layers, and that give some another rank or α.
    pub layers: LayerRules,
}

/// A configuration with its patterns compiled.
pub(super) struct Rules<'a> {
    config: &'a LoraConfig,
    targets: Matcher<'a>,
    exclude: Option<Matcher<'a>>,
    block: Vec<Regex>,
    rank: Vec<(Regex, usize)>,
    alpha: Vec<(Regex, f32)>,
}

enum Matcher<'a> {
    Names(&'a [String]),
    Pattern(Regex),
}

impl<'a> Rules<'a> {
    /// Compiles the patterns of a configuration.
    ///
    /// # Errors
    /// A pattern is not a regular expression.
    pub(super) fn new(config: &'a LoraConfig) -> Result<Self> {
        let rules = &config.layers;
        // Lazy: the first number in a name is the block's.
        let block = match rules.lists.as_slice() {
            _ if rules.blocks.is_empty() => Vec::new(),
            [] => vec![compile(r"\A.*?\.[^.]*\.(?P<idx>\d+)\.", "")?],
            lists => {
                let one = |list: &String| compile(&format!(r"\A(?:^|.*?\.){list}\.(?P<idx>\d+)\."), list);
                lists.iter().map(one).collect::<Result<_>>()?
            }
        };
        fn keys<T: Copy>(pattern: &[(String, T)]) -> Result<Vec<(Regex, T)>> {
            pattern.iter().map(|(key, value)| Ok((compile(&format!(r"\A(.*\.)?({key})\z"), key)?, *value))).collect()
        }
        Ok(Rules {
            config,
            targets: Matcher::new(&config.targets)?,
            exclude: rules.exclude.as_ref().map(Matcher::new).transpose()?,
            block,
            rank: keys(&rules.rank)?,
            alpha: keys(&rules.alpha)?,
        })
    }

    /// Whether a layer gets an adapter.
    pub(super) fn wants(&self, layer: &str) -> Result<bool> {
        if let Some(exclude) = &self.exclude
            && exclude.matches(layer)?
        {
            return Ok(false);
        }
        let Matcher::Names(names) = self.targets else { return self.targets.matches(layer) };
        // As in PEFT, the output matrix is named or left alone.
        let linear = ![EMBEDDING, OUTPUT].contains(&layer);
        let named = names_match(names, layer) || (linear && names.iter().any(|name| name == ALL_LINEAR));
        let whole = names.iter().any(|name| name == layer);
        Ok(named && (whole || self.block.is_empty() || self.in_blocks(layer)?))
    }

    fn in_blocks(&self, layer: &str) -> Result<bool> {
        for regex in &self.block {
            if let Some(found) = regex.captures(layer).map_err(|e| gave_up(regex, layer, &e))? {
                let number = found.name("idx").and_then(|digits| digits.as_str().parse().ok());
                return Ok(number.is_some_and(|n: usize| self.config.layers.blocks.contains(&n)));
            }
        }
        Ok(false)
    }

    /// A layer's r and its s, by which the adapter's output is multiplied: α / r, with rsLoRA α / √r.
    pub(super) fn rank_and_scale(&self, layer: &str) -> Result<(usize, f32)> {
        let rank = first(&self.rank, layer)?.unwrap_or(self.config.rank);
        let alpha = first(&self.alpha, layer)?.unwrap_or(self.config.alpha);
        let r = rank as f32;
        Ok((rank, alpha / if self.config.rslora { r.sqrt() } else { r }))
    }
}

impl<'a> Matcher<'a> {
    fn new(modules: &'a Modules) -> Result<Self> {
        Ok(match modules {
            Modules::Names(names) => Matcher::Names(names),
            Modules::Pattern(pattern) => Matcher::Pattern(compile(&format!(r"\A(?:{pattern})\z"), pattern)?),
        })
    }

    fn matches(&self, layer: &str) -> Result<bool> {
        match self {
            Matcher::Names(names) => Ok(names_match(names, layer)),
            Matcher::Pattern(regex) => matches(regex, layer),
        }
    }
}

/// Whether one of `names` is the layer's whole name or its end after a dot.
pub(super) fn names_match(names: &[String], layer: &str) -> bool {
    names
        .iter()
        .any(|name| layer.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn first<T: Copy>(patterns: &[(Regex, T)], layer: &str) -> Result<Option<T>> {
    for (regex, value) in patterns {
        if matches(regex, layer)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn matches(regex: &Regex, layer: &str) -> Result<bool> {
    regex.is_match(layer).map_err(|e| gave_up(regex, layer, &e))
}

fn gave_up(regex: &Regex, layer: &str, error: &fancy_regex::Error) -> Error {
    Error::Input(format!("LoRA pattern '{regex}' on the layer {layer}: {error}; write it as a list of names"))
}

fn compile(whole: &str, given: &str) -> Result<Regex> {
    let built = RegexBuilder::new(whole).backtrack_limit(MAX_STEPS).delegate_size_limit(MAX_COMPILED).build();
    built.map_err(|e| Error::Input(format!("LoRA pattern '{given}' is no regular expression that is understood: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const K12: &str = "model.layers.12.self_attn.k_proj";

    fn config(targets: Modules, layers: LayerRules) -> LoraConfig {
        LoraConfig { rank: 4, alpha: 8.0, rslora: false, dora: false, dropout: 0.0, targets, layers }
    }

    fn names(list: &[&str]) -> Modules {
        Modules::Names(list.iter().map(|n| (*n).to_owned()).collect())
    }

    #[track_caller]
    fn wants(config: &LoraConfig, layers: [bool; 2]) {
        let rules = Rules::new(config).unwrap();
        assert_eq!([Q0, K12].map(|l| rules.wants(l).unwrap()), layers, "{config:?}");
    }

    #[test]
    fn names_match_whole_or_behind_a_dot() {
        for (name, layers) in [
            ("q_proj", [true, false]),
            ("self_attn.q_proj", [true, false]),
            (K12, [false, true]),
            ("proj", [false, false]),
            (ALL_LINEAR, [true, true]),
        ] {
            wants(&config(names(&[name]), LayerRules::default()), layers);
        }
        let all = config(names(&[ALL_LINEAR]), LayerRules::default());
        let rules = Rules::new(&all).unwrap();
        assert_eq!([EMBEDDING, OUTPUT].map(|layer| rules.wants(layer).unwrap()), [false, false]);
    }

    #[test]
    fn patterns_match_whole_names_as_in_python() {
        for (pattern, layers) in [
            (r".*\.(q|k)_proj", [true, true]),
            ("q_proj", [false, false]),
            (r".*q_proj|model", [true, false]),
            (r"model\.layers\.\d\..*", [true, false]),
            (r"(?!.*\.0\.).*proj", [false, true]),
            (r".*(?<=self_attn\.)q_proj$", [true, false]),
        ] {
            wants(&config(Modules::Pattern(pattern.into()), LayerRules::default()), layers);
        }
    }

    #[test]
    fn exclusions_and_blocks_leave_layers_out() {
        let rules = |exclude: Option<Modules>, blocks: &[usize], lists: &[&str]| LayerRules {
            exclude,
            blocks: blocks.to_vec(),
            lists: lists.iter().map(|l| (*l).to_owned()).collect(),
            ..LayerRules::default()
        };
        let both = || names(&["q_proj", "k_proj"]);
        for (layers, want) in [
            (rules(Some(names(&["k_proj"])), &[], &[]), [true, false]),
            (rules(Some(Modules::Pattern(r".*\.0\..*".into())), &[], &[]), [false, true]),
            (rules(None, &[12], &[]), [false, true]),
            (rules(None, &[1, 2], &[]), [false, false]),
            (rules(None, &[0], &["layers"]), [true, false]),
            (rules(None, &[0], &["h", "lay.*"]), [true, false]),
            (rules(None, &[0], &["blocks"]), [false, false]),
        ] {
            wants(&config(both(), layers), want);
        }
        // A whole name overrules the blocks, as in PEFT.
        wants(&config(names(&["q_proj", K12]), rules(None, &[3], &[])), [false, true]);
    }

    #[test]
    fn the_first_pattern_gives_rank_and_alpha() {
        let layers = LayerRules {
            rank: vec![("k_proj".into(), 2), (r"layers\.\d+\.self_attn\.[kq]_proj".into(), 16), ("proj".into(), 1)],
            alpha: vec![("0.self_attn.q_proj".into(), 3.0)],
            ..LayerRules::default()
        };
        let mut config = config(names(&[ALL_LINEAR]), layers);
        let of = |config: &LoraConfig, layer| Rules::new(config).unwrap().rank_and_scale(layer).unwrap();
        assert_eq!((of(&config, Q0), of(&config, K12)), ((16, 3.0 / 16.0), (2, 4.0)));
        assert_eq!(of(&config, "model.layers.0.mlp.up_proj"), (4, 2.0));
        config.rslora = true;
        assert_eq!(of(&config, Q0), (16, 0.75));
    }

    #[test]
    fn wrong_and_endless_patterns_are_errors() {
        for wrong in ["(q_proj", "(a{900}){900}", "*"] {
            let config = config(Modules::Pattern(wrong.into()), LayerRules::default());
            assert!(Rules::new(&config).err().unwrap().to_string().contains(wrong), "{wrong}");
        }
        let endless = config(Modules::Pattern(r"(?=x|)((\w|\.)+)+(?<!x)!".into()), LayerRules::default());
        let error = Rules::new(&endless).unwrap().wants(Q0).unwrap_err().to_string();
        assert!(error.contains(Q0) && error.contains("list of names"), "{error}");
    }
}
