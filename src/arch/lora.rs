//! A LoRA or DoRA adapter (arXiv 2106.09685, 2402.09353) as plain data: its settings, its tensors on the host, the
//! layers it changes. Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`.

pub use super::lora_layers::{ALL_LINEAR, LayerRules, LoraConfig, Modules};
use super::lora_layers::{EMBEDDING, OUTPUT, Rules, names_match};
use super::shape::Arch;
use super::tensor::{LARGEST, NamedTensor, first_unusable, unusable};
use crate::rng::{Stream, fnv};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// PEFT puts this before every module's name.
const PREFIX: &str = "base_model.model.";
/// The largest rank that is taken: more would cost more than the full matrices.
const MAX_RANK: usize = 4096;

/// An adapter on the host: its tensors under PEFT's names, A then B of each layer in the model's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The settings that adapter_config.json holds.
    pub config: LoraConfig,
    /// The tensors `base_model.model.MODULE.lora_A.weight` `[r, in]` and `….lora_B.weight` `[out, r]` of each layer, of
    /// the embedding `….lora_embedding_A` `[r, V]` and `….lora_embedding_B` `[D, r]`; with DoRA also
    /// `….lora_magnitude_vector` `[out]`.
    pub tensors: Vec<NamedTensor>,
}

/// A layer that an adapter changes.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) module: String,
    /// Whether it is the embedding, whose A `[r, V]` is looked up in and whose B is `[D, r]`.
    pub(crate) embeds: bool,
    pub(crate) out: usize,
    pub(crate) inner: usize,
    pub(crate) rank: usize,
    /// s, by which the adapter's output is multiplied.
    pub(crate) scale: f32,
    /// Whether it has a magnitude (DoRA).
    pub(crate) dora: bool,
}

impl Target {
    /// The name of A or B.
    pub(crate) fn name(&self, side: &str) -> String {
        match self.embeds {
            true => format!("{PREFIX}{}.lora_embedding_{side}", self.module),
            false => format!("{PREFIX}{}.lora_{side}.weight", self.module),
        }
    }

    pub(crate) fn magnitude(&self) -> String {
        format!("{PREFIX}{}{MAGNITUDE}", self.module)
    }

    /// The names and shapes of the target's tensors.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![(self.name("A"), vec![self.rank, self.inner]), (self.name("B"), vec![self.out, self.rank])];
        all.extend(self.dora.then(|| (self.magnitude(), vec![self.out])));
        all
    }
}

/// What the name of DoRA's magnitudes ends in.
const MAGNITUDE: &str = ".lora_magnitude_vector";
/// Whether an adapter can stand beside the module of a weight: a linear layer, the embedding or the output matrix.
/// Experts are none, and where there are some PEFT takes the names of all MLPs for theirs.
fn is_adaptable(arch: &Arch, module: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && !(has_experts(arch) && module.contains(".mlp."))
}

fn has_experts(arch: &Arch) -> bool {
    arch.layers.iter().any(|layer| layer.mlp.experts().is_some())
}

/// The modules of a model that have a weight, each with its shape.
fn modules(arch: &Arch) -> Vec<(String, Vec<usize>)> {
    let weight = |(name, shape): (String, Vec<usize>)| Some((name.strip_suffix(".weight")?.to_owned(), shape));
    let mut modules: Vec<_> = super::family::parameters(arch).into_iter().filter_map(weight).collect();
    if arch.tie_word_embeddings {
        modules.push((OUTPUT.to_owned(), vec![arch.vocab_size, arch.hidden_size]));
    }
    modules
}

impl LoraConfig {
    /// The same without names of targets that mean no module of the model, as PEFT passes over them as long as others
    /// mean one.
    pub(crate) fn with_known_names(mut self, arch: &Arch) -> LoraConfig {
        let modules = modules(arch);
        let known = |name: &String| {
            name == ALL_LINEAR || modules.iter().any(|(module, _)| names_match(std::slice::from_ref(name), module))
        };
        if let Modules::Names(names) = &mut self.targets
            && names.iter().any(known)
        {
            names.retain(known);
        }
        self
    }

    /// The same with the output matrix among the targets, if the embedding is one. `None` if nothing changes.
    pub(crate) fn with_output(&self) -> Result<Option<LoraConfig>> {
        let rules = Rules::new(self)?;
        if !rules.wants(EMBEDDING)? || rules.wants(OUTPUT)? {
            return Ok(None);
        }
        let mut config = self.clone();
        match &mut config.targets {
            Modules::Names(names) => names.push(OUTPUT.to_owned()),
            Modules::Pattern(pattern) => *pattern = format!("(?:{pattern})|{OUTPUT}"),
        }
        Ok(Some(config))
    }
}

pub(crate) fn targets(arch: &Arch, config: &LoraConfig) -> Result<Vec<Target>> {
    let rules = Rules::new(config)?;
    let modules = modules(arch);
    let (there, others): (Vec<_>, Vec<_>) = modules
        .iter()
        .map(|(m, shape)| (m.as_str(), &shape[..]))
        .partition(|(module, shape)| is_adaptable(arch, module, shape));
    if let Modules::Names(names) = &config.targets {
        let unknown = |name: &&String| {
            *name != ALL_LINEAR && !there.iter().any(|(module, _)| names_match(std::slice::from_ref(*name), module))
        };
        if let Some(name) = names.iter().find(unknown) {
            let mut known: Vec<&str> = there.iter().filter_map(|(module, _)| module.rsplit('.').next()).collect();
            known.sort_unstable();
            known.dedup();
            return Err(Error::Input(format!(
                "LoRA target '{name}' is no layer of this model that takes an adapter; there are {} and {ALL_LINEAR}",
                known.join(", ")
            )));
        }
    } else {
        for (module, _) in others {
            if rules.wants(module)? {
                return Err(Error::Input(format!(
                    "a LoRA target is {module}, but only linear layers and the embedding can be"
                )));
            }
        }
    }
    let mut wanted = Vec::new();
    for (module, shape) in there.iter().copied() {
        let embeds = module == EMBEDDING;
        let (out, inner) = match *shape {
            [vocabulary, hidden] if embeds => (hidden, vocabulary),
            [out, inner] => (out, inner),
            _ => continue,
        };
        if rules.wants(module)? {
            let (rank, scale) = rules.rank_and_scale(module)?;
            if rank == 0 || rank > MAX_RANK || !(-LARGEST..=LARGEST).contains(&scale) {
                return Err(Error::Input(format!(
                    "LoRA of rank {rank} and scale {scale} on {module}; expected a rank of 1 to {MAX_RANK}, a scale up \
                     to {LARGEST:e}"
                )));
            }
            // More than the smaller side has gives nothing, but where all layers have one rank narrow ones go along.
            if rank > out.max(inner) {
                return Err(Error::Input(format!(
                    "LoRA of rank {rank} on {module}, a matrix of {out} x {inner}; expected a rank of at most {}",
                    out.max(inner)
                )));
            }
            wanted.push(Target { module: module.into(), embeds, out, inner, rank, scale, dora: config.dora });
        }
    }
    if wanted.is_empty() {
        let named = there.iter().map(|(module, _)| *module).find(|module| *module != EMBEDDING).unwrap_or("q_proj");
        return Err(Error::Input(match &config.targets {
            Modules::Pattern(pattern) => format!(
                "no layer has a name that the LoRA pattern '{pattern}' matches as a whole; a name is {named}, so \
                 .*(q_proj|v_proj) would match two kinds"
            ),
            Modules::Names(_) => {
                format!("LoRA without a target layer; expected names of layers, as {named}, or {ALL_LINEAR}")
            }
        }));
    }
    Ok(wanted)
}

impl Adapter {
    /// An adapter as PEFT begins: A is uniform in ±1 / √in (Kaiming with a = √5) and B is zero, so that the model is
    /// unchanged at first; of the embedding A is zero and B normal. DoRA's magnitudes are left out: they begin as the
    /// norms of the weights beside which the adapter is put.
    ///
    /// # Errors
    /// The model does not have the targets, or a rank is 0 or too large.
    pub fn fresh(arch: &Arch, config: &LoraConfig, seed: u64) -> Result<Adapter> {
        let (mut tensors, targets, mut config) = (Vec::new(), targets(arch, config)?, config.clone());
        // PEFT would adapt experts too.
        if has_experts(arch) && matches!(&config.targets, Modules::Names(names) if *names == [ALL_LINEAR]) {
            let names = targets.iter().filter_map(|t| t.module.rsplit('.').next().map(str::to_owned));
            config.targets = Modules::Names(names.collect::<BTreeSet<_>>().into_iter().collect());
        }
        for t in targets {
            let mut draw = Stream::new(seed, fnv(t.module.as_bytes()));
            let (a, b) = match t.embeds {
                false => {
                    let bound = 1.0 / (t.inner as f32).sqrt();
                    let a = (0..t.rank * t.inner).map(|_| (2.0 * draw.uniform() - 1.0) * bound).collect();
                    (a, vec![0.0; t.out * t.rank])
                }
                true => (vec![0.0; t.rank * t.inner], (0..t.out * t.rank).map(|_| normal(&mut draw)).collect()),
            };
            tensors.push(NamedTensor { name: t.name("A"), shape: vec![t.rank, t.inner], data: a });
            tensors.push(NamedTensor { name: t.name("B"), shape: vec![t.out, t.rank], data: b });
        }
        Ok(Adapter { config, tensors })
    }

    /// Whether DoRA's magnitudes are not there yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.config.dora && !self.tensors.iter().any(|t| t.name.ends_with(MAGNITUDE))
    }

    /// The names and shapes of an adapter's tensors on a model.
    ///
    /// # Errors
    /// As [`Adapter::fresh`].
    pub fn parameters(arch: &Arch, config: &LoraConfig) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(targets(arch, config)?.iter().flat_map(Target::tensors).collect())
    }

    /// The part of the adapter that changes one weight of the model; `None` if the adapter leaves that weight alone.
    pub(crate) fn of(&self, weight: &str) -> Option<Adapter> {
        let prefix = format!("{PREFIX}{}.lora_", weight.strip_suffix(".weight")?);
        let tensors: Vec<NamedTensor> =
            self.tensors.iter().filter(|tensor| tensor.name.starts_with(&prefix)).cloned().collect();
        (!tensors.is_empty()).then(|| Adapter { config: self.config.clone(), tensors })
    }

    /// Whether the adapter changes the embedding or the output matrix, which are one matrix in a tied model.
    pub(crate) fn unties(&self) -> bool {
        let outer = |t: &NamedTensor| [EMBEDDING, OUTPUT].iter().any(|m| t.name.starts_with(&format!("{PREFIX}{m}.")));
        self.tensors.iter().any(outer)
    }

    /// Gives the weights of a tied model an output matrix of their own where the adapter needs it.
    pub(crate) fn untie(&self, base: &mut Vec<NamedTensor>) {
        let is = |t: &NamedTensor, module| t.name.strip_suffix(".weight") == Some(module);
        if self.unties() && !base.iter().any(|t| is(t, OUTPUT)) {
            let tied = base.iter().find(|t| is(t, EMBEDDING)).cloned();
            base.extend(tied.map(|t| NamedTensor { name: format!("{OUTPUT}.weight"), ..t }));
        }
    }

    /// Adds s · B A of each adapted layer to the weights of the base model, and with DoRA gives each row of the sum its
    /// magnitude; sums are in f64.
    ///
    /// # Errors
    /// The adapter is another model's, or a sum is no weight any more: not finite, or too large.
    pub fn merge(&self, base: &mut [NamedTensor]) -> Result<()> {
        let rules = Rules::new(&self.config)?;
        for a in &self.tensors {
            let module = a
                .name
                .strip_prefix(PREFIX)
                .and_then(|n| n.strip_suffix(".lora_A.weight").or_else(|| n.strip_suffix(".lora_embedding_A")));
            let Some(module) = module else { continue };
            let find = |name: &str| self.tensors.iter().find(|t| t.name == name);
            let b = find(&a.name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B"));
            let magnitude = find(&format!("{PREFIX}{module}{MAGNITUDE}"));
            let weight = base.iter_mut().find(|t| t.name.strip_suffix(".weight") == Some(module));
            let scale = f64::from(rules.rank_and_scale(module)?.1);
            let shape = |b: &NamedTensor| match module == EMBEDDING {
                true => vec![a.shape[1], b.shape[0]],
                false => vec![b.shape[0], a.shape[1]],
            };
            let Some((weight, b)) = weight.zip(b).filter(|(w, b)| w.shape == shape(b)) else {
                return Err(Error::Input(format!("{} has no weight of its shape in the base model", a.name)));
            };
            let (r, inner, columns) = (a.shape[0], a.shape[1], weight.shape[1]);
            // The place in B's rows and in A's columns that an element of the weight has.
            let turned = |row, column| if module == EMBEDDING { (column, row) } else { (row, column) };
            let sum = |row: usize, column: usize, w: f32| {
                let (o, i) = turned(row, column);
                let product = |j: usize| f64::from(b.data[o * r + j]) * f64::from(a.data[j * inner + i]);
                f64::from(w) + scale * (0..r).map(product).sum::<f64>()
            };
            let mut factors = vec![1.0; b.shape[0]];
            if let Some(m) = magnitude {
                let mut squares = vec![0.0; factors.len()];
                for (row, values) in weight.data.chunks_exact(columns).enumerate() {
                    for (column, w) in values.iter().enumerate() {
                        squares[turned(row, column).0] += sum(row, column, *w).powi(2);
                    }
                }
                let all = factors.iter_mut().zip(&m.data).zip(squares);
                all.for_each(|((factor, m), squares)| *factor = f64::from(*m) / squares.sqrt());
            }
            for (row, values) in weight.data.chunks_exact_mut(columns).enumerate() {
                for (column, w) in values.iter_mut().enumerate() {
                    *w = (factors[turned(row, column).0] * sum(row, column, *w)) as f32;
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

/// A normal value, by Box and Muller.
fn normal(draw: &mut Stream) -> f32 {
    let (radius, angle) = (1.0 - draw.uniform(), std::f32::consts::TAU * draw.uniform());
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_the_model_does_not_have_are_refused() {
        let config = serde_json::json!({"model_type": "llama", "num_hidden_layers": 2});
        let arch = super::super::family::arch(&config).unwrap();
        let refused = |rank: usize, targets: Modules, word: &str| {
            let config = LoraConfig {
                rank,
                alpha: 8.0,
                rslora: true,
                dora: false,
                dropout: 0.0,
                targets,
                layers: LayerRules::default(),
            };
            let error = Adapter::fresh(&arch, &config, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        let names = |name: &str| Modules::Names(vec![name.into()]);
        refused(4, names("nothing"), "down_proj");
        refused(0, names("q_proj"), "rank 0");
        refused(MAX_RANK + 1, names("q_proj"), "4097");
        refused(4, Modules::Pattern(".*".into()), "linear layers");
        refused(4, Modules::Pattern("model.*_proj|model.norm".into()), "model.norm");
        refused(4, Modules::Pattern("q_proj|v_proj".into()), "matches as a whole; a name is model.layers.0.");
    }
}
