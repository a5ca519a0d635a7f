//! LoRA (arXiv 2106.09685) inside the linear projections: y = x W + s · drop(x) Aᵀ Bᵀ, W frozen. Each adapted layer has its
//! own A and B; what B gives is added at the columns where the layer lies in its fused row (q, k, v; gate, up).
//!
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`. On the GPU both are stored turned, as all weights.

use super::params::{self, Part, Place};
use super::{Model, dropout};
use crate::arch::lora::{LoraConfig, targets};
use crate::arch::{Arch, NamedTensor, first_unusable, unusable};
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::columns;
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::weight::{Stored, Weight};
use crate::{Error, Result};

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
