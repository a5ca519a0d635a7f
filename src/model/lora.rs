//! LoRA (arXiv 2106.09685) inside the linear projections: y = x W + s · drop(x) Aᵀ Bᵀ, W frozen. Each adapted layer has its
//! own A and B; what B gives is added at the columns where the layer lies in its fused row (q, k, v; gate, up).
//!
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`. On the GPU both are stored turned, as all weights.

pub use super::lora_layers::{ALL_LINEAR, LayerRules, Modules};
use super::lora_layers::{Rules, names_match};
use super::params::{self, Part, Place};
use super::{Arch, Model, NamedTensor, dropout};
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::columns;
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::weight::{Stored, Weight};
use crate::rng::{Stream, fnv};
use crate::weights::{LARGEST, first_unusable, unusable};
use crate::{Error, Result};

/// PEFT puts this before every module's name.
const PREFIX: &str = "base_model.model.";
/// The largest rank that is taken: more would cost more than the full matrices.
const MAX_RANK: usize = 4096;

/// What adapter_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// r, the width between A and B.
    pub rank: usize,
    /// α of the scale.
    pub alpha: f32,
    /// Scale α / √r (rsLoRA, arXiv 2312.03732) instead of α / r.
    pub rslora: bool,
    /// Share of A's input that is dropped in training, from 0 to below 1.
    pub dropout: f32,
    /// The layers that get an adapter.
    pub targets: Modules,
    /// Exceptions among them.
    pub layers: LayerRules,
}

/// An adapter on the host: its tensors under PEFT's names, A then B of each layer in the model's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Its settings.
    pub config: LoraConfig,
    /// `base_model.model.MODULE.lora_A.weight` `[r, in]` and `….lora_B.weight` `[out, r]`.
    pub tensors: Vec<NamedTensor>,
}

/// A layer that an adapter changes.
struct Target {
    module: String,
    out: usize,
    inner: usize,
    rank: usize,
    /// s, by which the adapter's output is multiplied.
    scale: f32,
}

impl Target {
    fn name(&self, side: &str) -> String {
        format!("{PREFIX}{}.lora_{side}.weight", self.module)
    }
}

fn targets(arch: &Arch, config: &LoraConfig) -> Result<Vec<Target>> {
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
                    "LoRA of rank {rank} and scale {scale} on {module}; expected a rank of 1 to {MAX_RANK}, a scale up to {LARGEST:e}"
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
    /// As PEFT begins: A uniform in ±1 / √in (Kaiming with a = √5), B zero, so the model is unchanged at first.
    ///
    /// # Errors
    /// Targets that the model does not have; a rank of 0.
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

    /// Names and shapes of an adapter's tensors on a model.
    ///
    /// # Errors
    /// As [`Adapter::fresh`].
    pub fn parameters(arch: &Arch, config: &LoraConfig) -> Result<Vec<(String, Vec<usize>)>> {
        let both = |t: Target| [(t.name("A"), vec![t.rank, t.inner]), (t.name("B"), vec![t.out, t.rank])];
        Ok(targets(arch, config)?.into_iter().flat_map(both).collect())
    }

    /// Adds s · B A to the weights of the base model, summed in f64.
    ///
    /// # Errors
    /// An adapter of another model; a sum that is no weight any more.
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

/// The adapter of a model on the GPU; its tensors are parameters of the model, after those of the base.
#[derive(Clone)]
pub(crate) struct Lora {
    pub(crate) config: LoraConfig,
    /// Parameter number of the first A; B follows A, layer after layer.
    first: usize,
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    name: [String; 2],
    /// For dropout.
    site: u64,
    shape: [[usize; 2]; 2],
    scale: f32,
    /// Where the layer's weight lies.
    at: Place,
    a: usize,
}

impl Layer {
    /// How A or B lies on the GPU.
    fn place(&self, side: usize) -> Place {
        let Place { param, head_in, ref parts, .. } = self.at;
        let first = self.at.first();
        let parts = match side {
            0 => vec![Part::all(0, false)],
            _ => parts.iter().map(|p| Part { first: p.first - first, ..p.clone() }).collect(),
        };
        Place { param, turned: true, head_in: head_in && side == 0, parts }
    }
}

impl Lora {
    /// Puts an adapter's tensors (weights, moments) behind `params`, the base's; a device that counts needs none.
    ///
    /// # Errors
    /// Tensors that are not those of the configuration on this model, or not finite; out of memory.
    pub(crate) fn upload(
        gpu: &Gpu,
        arch: &Arch,
        config: &LoraConfig,
        tensors: &[NamedTensor],
    ) -> Result<(Lora, Vec<Option<Weight>>)> {
        let first = params::count(arch);
        let mut lora = Lora { config: config.clone(), first, layers: Vec::new() };
        let mut uploaded = Vec::new();
        for t in targets(arch, config)? {
            let at = params::place(arch, &format!("{}.weight", t.module))?;
            let layer = Layer {
                name: [t.name("A"), t.name("B")],
                site: dropout::site(&t.module),
                shape: [[t.rank, t.inner], [t.out, t.rank]],
                scale: t.scale,
                at,
                a: first + uploaded.len(),
            };
            for side in 0..2 {
                let (name, shape) = (&layer.name[side], layer.shape[side]);
                let (rows, cols) = lora.shape(arch, &layer, side)?;
                if gpu.counts() {
                    uploaded.push(Some(Weight::room(gpu, Stored::Dense, rows, cols)?));
                    continue;
                }
                let found = tensors.iter().find(|t| t.name == *name);
                let Some(t) = found.filter(|t| t.shape == shape && t.data.len() == shape[0] * shape[1]) else {
                    let found = found.map_or("missing".into(), |t| format!("{:?}", t.shape));
                    return Err(Error::Input(format!("adapter tensor '{name}' is {found}, expected {shape:?}")));
                };
                if let Some(first) = first_unusable(&t.data) {
                    return Err(Error::NonFinite(unusable(name, &shape, first)));
                }
                let mut host = vec![0f32; rows * cols];
                layer.place(side).each(arch, &shape, cols, |from, to| host[to] = t.data[from]);
                uploaded.push(Some(Weight::upload(gpu, rows, cols, &host)?));
            }
            lora.layers.push(layer);
        }
        match tensors.iter().find(|t| !lora.layers.iter().any(|l| l.name.contains(&t.name))) {
            Some(t) => Err(Error::Input(format!("adapter tensor '{}' is not one of this model's targets", t.name))),
            None => Ok((lora, uploaded)),
        }
    }

    /// Rows and columns on the GPU of A `[in, r]` or B `[r, out]`.
    fn shape(&self, arch: &Arch, layer: &Layer, side: usize) -> Result<(usize, usize)> {
        let missing = || Error::Input(format!("no weight for {}", layer.name[0]));
        let rows = params::shape(arch, layer.at.param).ok_or_else(missing)?.0;
        let wide = layer.at.span(params::heads(arch), layer.shape[1][0]);
        let rank = layer.shape[0][0];
        Ok(if side == 0 { (rows, rank) } else { (crate::gpu::pad4(rank), wide) })
    }

    /// Named tensors back from those of parameter number `of(number)`.
    pub(crate) fn download<'w>(
        &self,
        gpu: &Gpu,
        arch: &Arch,
        of: impl Fn(usize) -> Result<&'w Weight>,
    ) -> Result<Vec<NamedTensor>> {
        gpu.wait()?;
        let mut all = Vec::new();
        for layer in &self.layers {
            for side in 0..2 {
                let values = of(layer.a + side)?.values(gpu)?;
                let (shape, cols) = (layer.shape[side], self.shape(arch, layer, side)?.1);
                let mut data = vec![0f32; shape[0] * shape[1]];
                layer.place(side).each(arch, &shape, cols, |to, from| data[to] = values[from]);
                all.push(NamedTensor { name: layer.name[side].clone(), shape: shape.to_vec(), data });
            }
        }
        Ok(all)
    }

    /// Whether this parameter is one of the adapter's, which alone are trained.
    pub(crate) fn owns(&self, param: usize) -> bool {
        param >= self.first
    }
}

/// y += s · drop(x) A B at the columns of every adapter on `weight`.
pub(crate) fn forward(
    rec: &mut Recorder,
    model: &Model,
    weight: usize,
    x: &Tensor,
    y: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let Some(lora) = &model.lora else { return Ok(()) };
    for layer in lora.layers.iter().filter(|l| l.at.param == weight) {
        let b = model.weight(layer.a + 1)?;
        let x = dropout::apply(rec, drop, layer.site, lora.config.dropout, x)?;
        let u = between(rec, model, layer, &x)?;
        let z = rec.gpu().empty(x.rows, b.cols())?;
        matmul::forward(rec, &u, b, &z, Epilogue::default())?;
        columns::add(rec, &z, layer.at.first(), layer.scale, y)?;
    }
    Ok(())
}

/// u `[T, r]` = x A.
fn between(rec: &mut Recorder, model: &Model, layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let a = model.weight(layer.a)?;
    let u = rec.gpu().empty(x.rows, a.cols())?;
    matmul::forward(rec, x, a, &u, Epilogue::default())?;
    Ok(u)
}

/// With dz = s · dy at the layer's columns: dB += uᵀ dz, du = dz Bᵀ, dA += drop(x)ᵀ du, dx += drop(du Aᵀ).
pub(crate) fn backward(
    rec: &mut Recorder,
    model: &Model,
    grads: &super::decoder::Grads,
    weight: usize,
    (x, dy): (&Tensor, &Tensor),
    dx: &Tensor,
    drop: Option<&dropout::Masks>,
) -> Result<()> {
    let Some(lora) = &model.lora else { return Ok(()) };
    for layer in lora.layers.iter().filter(|l| l.at.param == weight) {
        let (a, b) = (model.weight(layer.a)?, model.weight(layer.a + 1)?);
        let dz = rec.gpu().empty(dy.rows, b.cols())?;
        columns::take(rec, dy, layer.at.first(), layer.scale, &dz)?;
        let rate = lora.config.dropout;
        let x = dropout::apply(rec, drop, layer.site, rate, x)?;
        let u = between(rec, model, layer, &x)?;
        matmul::forward_tn(rec, &u, &dz, super::decoder::grad(grads, layer.a + 1)?, true)?;
        let du = rec.gpu().empty(dy.rows, a.cols())?;
        matmul::forward_nt(rec, &dz, b, &du, false)?;
        matmul::forward_tn(rec, &x, &du, super::decoder::grad(grads, layer.a)?, true)?;
        if drop.is_some() && rate > 0.0 {
            let masked = rec.gpu().empty(dx.rows, dx.cols)?;
            matmul::forward_nt(rec, &du, a, &masked, false)?;
            let masked = dropout::apply(rec, drop, layer.site, rate, &masked)?;
            columns::add(rec, &masked, 0, 1.0, dx)?;
        } else {
            matmul::forward_nt(rec, &du, a, dx, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_the_model_does_not_have_are_refused() {
        let arch = crate::world::arch();
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
