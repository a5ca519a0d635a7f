//! LoRA (arXiv 2106.09685) inside the linear projections: y = x W + s · drop(x) Aᵀ Bᵀ, W frozen. Each adapted layer has its
//! own A and B; what B gives is added at the columns where the layer lies in its fused row (q, k, v; gate, up).
//!
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`. On the GPU both are stored turned, as all weights.

use super::params::{self, Part, Place};
use super::{Arch, Model, NamedTensor, dropout};
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::matmul::{self, Epilogue, Weight};
use crate::kernels::{columns, transpose};
use crate::rng::{Stream, fnv};
use crate::{Error, Result};

/// PEFT puts this before every module's name.
const PREFIX: &str = "base_model.model.";
/// Stands for every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";
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
    /// Module names, each matching a layer's whole name or its end after a dot; or [`ALL_LINEAR`].
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// s, by which the adapter's output is multiplied.
    pub fn scale(&self) -> f32 {
        let r = self.rank as f32;
        self.alpha / if self.rslora { r.sqrt() } else { r }
    }

    fn wants(&self, module: &str) -> bool {
        self.targets.iter().any(|t| {
            t == ALL_LINEAR
                || module.strip_suffix(t.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
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
}

impl Target {
    fn name(&self, side: &str) -> String {
        format!("{PREFIX}{}.lora_{side}.weight", self.module)
    }
}

fn targets(arch: &Arch, config: &LoraConfig) -> Result<Vec<Target>> {
    if config.rank == 0 || config.rank > MAX_RANK || !config.alpha.is_finite() {
        let (r, alpha) = (config.rank, config.alpha);
        return Err(Error::Input(format!("LoRA of rank {r} and alpha {alpha}; expected 1 to {MAX_RANK}, finite")));
    }
    let linear: Vec<Target> = super::family::parameters(arch)
        .into_iter()
        .filter_map(|(name, shape)| {
            let module = name.strip_suffix(".weight").filter(|m| m.ends_with("_proj"))?;
            Some(Target { module: module.into(), out: shape[0], inner: *shape.get(1)? })
        })
        .collect();
    for t in &config.targets {
        let one = LoraConfig { targets: vec![t.clone()], ..config.clone() };
        if !linear.iter().any(|l| one.wants(&l.module)) {
            let mut known: Vec<&str> = linear.iter().filter_map(|l| l.module.rsplit('.').next()).collect();
            known.sort_unstable();
            known.dedup();
            return Err(Error::Input(format!(
                "LoRA target '{t}' is no linear layer of this model; there are {} and {ALL_LINEAR}",
                known.join(", ")
            )));
        }
    }
    let wanted: Vec<Target> = linear.into_iter().filter(|l| config.wants(&l.module)).collect();
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
            let a = (0..config.rank * t.inner).map(|_| (2.0 * draw.uniform() - 1.0) * bound).collect();
            tensors.push(NamedTensor { name: t.name("A"), shape: vec![config.rank, t.inner], data: a });
            let b = vec![0.0; t.out * config.rank];
            tensors.push(NamedTensor { name: t.name("B"), shape: vec![t.out, config.rank], data: b });
        }
        Ok(Adapter { config: config.clone(), tensors })
    }

    /// Names and shapes of an adapter's tensors on a model.
    ///
    /// # Errors
    /// As [`Adapter::fresh`].
    pub fn parameters(arch: &Arch, config: &LoraConfig) -> Result<Vec<(String, Vec<usize>)>> {
        let r = config.rank;
        let both = |t: Target| [(t.name("A"), vec![r, t.inner]), (t.name("B"), vec![t.out, r])];
        Ok(targets(arch, config)?.into_iter().flat_map(both).collect())
    }

    /// Adds s · B A to the weights of the base model, summed in f64.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn merge(&self, base: &mut [NamedTensor]) -> Result<()> {
        let (scale, r) = (f64::from(self.config.scale()), self.config.rank);
        for pair in self.tensors.chunks_exact(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let module = a.name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_A.weight"));
            let weight = module.and_then(|m| base.iter_mut().find(|t| t.name.strip_suffix(".weight") == Some(m)));
            let (out, inner) = (b.shape[0], a.shape[1]);
            let Some(weight) = weight.filter(|w| w.shape == [out, inner]) else {
                return Err(Error::Input(format!("{} has no weight of its shape in the base model", a.name)));
            };
            for (o, row) in weight.data.chunks_exact_mut(inner).enumerate() {
                for (i, w) in row.iter_mut().enumerate() {
                    let product = |j: usize| f64::from(b.data[o * r + j]) * f64::from(a.data[j * inner + i]);
                    *w = (f64::from(*w) + scale * (0..r).map(product).sum::<f64>()) as f32;
                }
            }
        }
        Ok(())
    }
}

/// The adapter of a model on the GPU; its tensors are parameters of the model, after those of the base.
pub(crate) struct Lora {
    pub(crate) config: LoraConfig,
    /// Parameter number of the first A; B follows A, layer after layer.
    first: usize,
    layers: Vec<Layer>,
}

struct Layer {
    name: [String; 2],
    /// For dropout.
    site: u64,
    shape: [[usize; 2]; 2],
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
    /// Puts an adapter's tensors (weights, moments) behind `params`, the base's.
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
                shape: [[config.rank, t.inner], [t.out, config.rank]],
                at,
                a: first + uploaded.len(),
            };
            for side in 0..2 {
                let (name, shape) = (&layer.name[side], layer.shape[side]);
                let found = tensors.iter().find(|t| t.name == *name);
                let Some(t) = found.filter(|t| t.shape == shape && t.data.len() == shape[0] * shape[1]) else {
                    let found = found.map_or("missing".into(), |t| format!("{:?}", t.shape));
                    return Err(Error::Input(format!("adapter tensor '{name}' is {found}, expected {shape:?}")));
                };
                if let Some(i) = t.data.iter().position(|x| !x.is_finite()) {
                    return Err(Error::NonFinite(format!("adapter tensor '{name}' holds {} at {i}", t.data[i])));
                }
                let (rows, cols) = lora.shape(arch, &layer, side)?;
                let mut host = vec![0f32; rows * cols];
                layer.place(side).each(arch, &shape, cols, |from, to| host[to] = t.data[from]);
                uploaded.push(Some(Weight::Dense(gpu.upload(rows, cols, &host)?)));
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
        Ok(if side == 0 { (rows, self.config.rank) } else { (crate::gpu::pad4(self.config.rank), wide) })
    }

    /// Named tensors back from those of parameter number `of(number)`.
    pub(crate) fn download(
        &self,
        gpu: &Gpu,
        arch: &Arch,
        of: impl Fn(usize) -> Result<Tensor>,
    ) -> Result<Vec<NamedTensor>> {
        gpu.wait()?;
        let mut all = Vec::new();
        for layer in &self.layers {
            for side in 0..2 {
                let values: Vec<f32> = gpu.download(&of(layer.a + side)?)?;
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
        columns::add(rec, &z, layer.at.first(), lora.config.scale(), y)?;
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
        let (a, b) = (model.dense(layer.a)?, model.dense(layer.a + 1)?);
        let dz = rec.gpu().empty(dy.rows, b.cols)?;
        columns::take(rec, dy, layer.at.first(), lora.config.scale(), &dz)?;
        let rate = lora.config.dropout;
        let x = dropout::apply(rec, drop, layer.site, rate, x)?;
        let u = between(rec, model, layer, &x)?;
        matmul::forward_tn(rec, &u, &dz, super::decoder::grad(grads, layer.a + 1)?, true)?;
        let turned = Weight::Dense(transpose::forward(rec, b, a.cols)?);
        let du = rec.gpu().empty(dy.rows, a.cols)?;
        matmul::forward(rec, &dz, &turned, &du, Epilogue::default())?;
        matmul::forward_tn(rec, &x, &du, super::decoder::grad(grads, layer.a)?, true)?;
        let turned = Weight::Dense(transpose::forward(rec, a, a.rows)?);
        // dx's own width is its padded one here, as in the base product.
        let mut wide = dx.clone();
        wide.cols = turned.cols();
        if drop.is_some() && rate > 0.0 {
            let masked = rec.gpu().empty(wide.rows, wide.cols)?;
            matmul::forward(rec, &du, &turned, &masked, Epilogue::default())?;
            let masked = dropout::apply(rec, drop, layer.site, rate, &masked)?;
            columns::add(rec, &masked, 0, 1.0, &wide)?;
        } else {
            matmul::forward(rec, &du, &turned, &wide, Epilogue { add: true, ..Epilogue::default() })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_names_or_what_follows_a_dot() {
        let config = |t: &str| LoraConfig { rank: 4, alpha: 8.0, rslora: true, dropout: 0.0, targets: vec![t.into()] };
        assert!(config("q_proj").wants("model.layers.0.self_attn.q_proj"));
        assert!(config("self_attn.q_proj").wants("model.layers.0.self_attn.q_proj"));
        assert!(!config("proj").wants("model.layers.0.self_attn.q_proj"));
        assert!(config(ALL_LINEAR).wants("anything"));
        assert!((config("x").scale() - 4.0).abs() < 1e-6);
        let arch = crate::world::arch();
        assert!(Adapter::fresh(&arch, &config("nothing"), 0).unwrap_err().to_string().contains("down_proj"));
        assert!(Adapter::fresh(&arch, &LoraConfig { rank: 0, ..config("q_proj") }, 0).is_err());
    }
}
