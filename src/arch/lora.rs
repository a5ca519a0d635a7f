//! A LoRA adapter (arXiv 2106.09685) as plain data: its settings, its tensors on the host, the layers it changes.
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`.

pub use super::lora_layers::{ALL_LINEAR, LayerRules, LoraConfig, Modules};
use super::lora_layers::{Rules, names_match};
use super::shape::Arch;
use super::tensor::{LARGEST, NamedTensor, first_unusable, unusable};
use crate::rng::{Stream, fnv};
use crate::{Error, Result};

/// PEFT puts this before every module's name.
const PREFIX: &str = "base_model.model.";
/// The largest rank that is taken: more would cost more than the full matrices.
const MAX_RANK: usize = 4096;

/// An adapter on the host: its tensors under PEFT's names, A then B of each layer in the model's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The settings that adapter_config.json holds.
    pub config: LoraConfig,
    /// The tensors `base_model.model.MODULE.lora_A.weight` `[r, in]` and `….lora_B.weight` `[out, r]` of each layer.
    pub tensors: Vec<NamedTensor>,
}

/// A layer that an adapter changes.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) module: String,
    pub(crate) out: usize,
    pub(crate) inner: usize,
    pub(crate) rank: usize,
    /// s, by which the adapter's output is multiplied.
    pub(crate) scale: f32,
}

impl Target {
    pub(crate) fn name(&self, side: &str) -> String {
        format!("{PREFIX}{}.lora_{side}.weight", self.module)
    }

    /// Whether this is the name of one of its tensors.
    pub(crate) fn has(&self, name: &str) -> bool {
        ["A", "B"].iter().any(|side| self.name(side) == name)
    }
}

pub(crate) fn targets(arch: &Arch, config: &LoraConfig) -> Result<Vec<Target>> {
    let rules = Rules::new(config)?;
    let parameters = super::family::parameters(arch);
    let modules = parameters.iter().filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?, shape)));
    let (linear, others): (Vec<_>, Vec<_>) = modules.partition(|(m, _)| m.ends_with("_proj"));
    if let Modules::Names(names) = &config.targets {
        let unknown = |name: &&String| {
            *name != ALL_LINEAR && !linear.iter().any(|(module, _)| names_match(std::slice::from_ref(*name), module))
        };
        if let Some(name) = names.iter().find(unknown) {
            let mut known: Vec<&str> = linear.iter().filter_map(|(module, _)| module.rsplit('.').next()).collect();
            known.sort_unstable();
            known.dedup();
            return Err(Error::Input(format!(
                "LoRA target '{name}' is no linear layer of this model; there are {} and {ALL_LINEAR}",
                known.join(", ")
            )));
        }
    } else {
        // A tied output matrix is a module too where the pattern comes from.
        for module in others.iter().map(|(module, _)| *module).chain(["lm_head"]) {
            if rules.wants(module)? {
                return Err(Error::Input(format!(
                    "a LoRA target is {module}, but only linear layers of the blocks can be"
                )));
            }
        }
    }
    let mut wanted = Vec::new();
    for (module, shape) in linear {
        let [out, inner] = shape[..] else { continue };
        if rules.wants(module)? {
            let (rank, scale) = rules.rank_and_scale(module)?;
            if rank == 0 || rank > MAX_RANK || !(-LARGEST..=LARGEST).contains(&scale) {
                return Err(Error::Input(format!(
                    "LoRA of rank {rank} and scale {scale} on {module}; expected a rank of 1 to {MAX_RANK}, a scale up \
                     to {LARGEST:e}"
                )));
            }
            wanted.push(Target { module: module.into(), out, inner, rank, scale });
        }
    }
    if wanted.is_empty() {
        return Err(Error::Input("LoRA without a target layer".into()));
    }
    Ok(wanted)
}

impl Adapter {
    /// An adapter as PEFT begins: A is uniform in ±1 / √in (Kaiming with a = √5) and B is zero, so that the model is
    /// unchanged at first.
    ///
    /// # Errors
    /// The model does not have the targets, or a rank is 0 or too large.
    pub fn fresh(arch: &Arch, config: &LoraConfig, seed: u64) -> Result<Adapter> {
        let mut tensors = Vec::new();
        for t in targets(arch, config)? {
            let mut draw = Stream::new(seed, fnv(t.module.as_bytes()));
            let bound = 1.0 / (t.inner as f32).sqrt();
            let a = (0..t.rank * t.inner).map(|_| (2.0 * draw.uniform() - 1.0) * bound).collect();
            tensors.push(NamedTensor { name: t.name("A"), shape: vec![t.rank, t.inner], data: a });
            let b = vec![0.0; t.out * t.rank];
            tensors.push(NamedTensor { name: t.name("B"), shape: vec![t.out, t.rank], data: b });
        }
        Ok(Adapter { config: config.clone(), tensors })
    }

    /// The names and shapes of an adapter's tensors on a model.
    ///
    /// # Errors
    /// As [`Adapter::fresh`].
    pub fn parameters(arch: &Arch, config: &LoraConfig) -> Result<Vec<(String, Vec<usize>)>> {
        let both = |t: Target| [(t.name("A"), vec![t.rank, t.inner]), (t.name("B"), vec![t.out, t.rank])];
        Ok(targets(arch, config)?.into_iter().flat_map(both).collect())
    }

    /// The part of it that changes one weight of the model, if any does.
    pub(crate) fn of(&self, weight: &str) -> Option<Adapter> {
        let prefix = format!("{PREFIX}{}.lora_", weight.strip_suffix(".weight")?);
        let tensors: Vec<NamedTensor> =
            self.tensors.iter().filter(|tensor| tensor.name.starts_with(&prefix)).cloned().collect();
        (!tensors.is_empty()).then(|| Adapter { config: self.config.clone(), tensors })
    }

    /// Adds s · B A of each adapted layer to the weights of the base model; sums are in f64.
    ///
    /// # Errors
    /// The adapter is another model's, or a sum is no weight any more: not finite, or too large.
    pub fn merge(&self, base: &mut [NamedTensor]) -> Result<()> {
        let rules = Rules::new(&self.config)?;
        for pair in self.tensors.chunks_exact(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let module = a.name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_A.weight"));
            let weight = module.and_then(|m| base.iter_mut().find(|t| t.name.strip_suffix(".weight") == Some(m)));
            let (out, r, inner) = (b.shape[0], a.shape[0], a.shape[1]);
            let scale = f64::from(rules.rank_and_scale(module.unwrap_or_default())?.1);
            let Some(weight) = weight.filter(|w| w.shape == [out, inner]) else {
                return Err(Error::Input(format!("{} has no weight of its shape in the base model", a.name)));
            };
            for (o, row) in weight.data.chunks_exact_mut(inner).enumerate() {
                for (i, w) in row.iter_mut().enumerate() {
                    let product = |j: usize| f64::from(b.data[o * r + j]) * f64::from(a.data[j * inner + i]);
                    *w = (f64::from(*w) + scale * (0..r).map(product).sum::<f64>()) as f32;
                }
            }
            if let Some(first) = first_unusable(&weight.data) {
                return Err(Error::NonFinite(
                    unusable(&weight.name, &weight.shape, first) + ", once the adapter is added",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_the_model_does_not_have_are_refused() {
        let config = serde_json::json!({"model_type": "llama", "num_hidden_layers": 2});
        let arch = super::super::family::arch(&config).unwrap();
        let refused = |rank: usize, targets: Modules, word: &str| {
            let config =
                LoraConfig { rank, alpha: 8.0, rslora: true, dropout: 0.0, targets, layers: LayerRules::default() };
            let error = Adapter::fresh(&arch, &config, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        let names = |name: &str| Modules::Names(vec![name.into()]);
        refused(4, names("nothing"), "down_proj");
        refused(0, names("q_proj"), "rank 0");
        refused(MAX_RANK + 1, names("q_proj"), "4097");
        refused(4, Modules::Pattern(".*".into()), "linear layers");
        refused(4, Modules::Pattern("model.*_proj|lm_head".into()), "lm_head");
        refused(4, Modules::Pattern("q_proj".into()), "without a target");
    }
}
