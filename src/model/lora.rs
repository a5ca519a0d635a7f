//! The tensors of a LoRA adapter (arXiv 2106.09685) on the GPU, and where they act: each adapted layer has its own A
//! and B, and what B gives is added at the columns where the layer lies in its fused row (q, k, v; gate, up).
//! `linear.rs` computes with them.
//!
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`. On the GPU both are stored turned, as all weights.

use super::dropout;
use super::places::{self, Piece, Place};
use crate::arch::lora::{LoraConfig, targets};
use crate::arch::{Arch, NamedTensor, first_unusable, unusable};
use crate::gpu::{Gpu, pad4};
use crate::kernels::weight::{Stored, Weight};
use crate::{Error, Result};

/// The adapter of a model on the GPU; its tensors are parameters of the model, after those of the base.
#[derive(Clone)]
pub(crate) struct Lora {
    pub(crate) config: LoraConfig,
    /// Parameter number of the first A; B follows A, layer after layer.
    first: usize,
    layers: Vec<Adapted>,
}

/// An adapted layer.
#[derive(Clone)]
pub(super) struct Adapted {
    name: [String; 2],
    /// The number that stands for the layer in dropout's masks.
    pub(super) site: u64,
    /// Shapes of A and of B, as PEFT has them.
    shape: [[usize; 2]; 2],
    /// s, by which what the adapter gives is multiplied.
    pub(super) scale: f32,
    /// Where the layer's weight lies.
    at: Place,
    /// Parameter number of A; B is the next.
    pub(super) a: usize,
}

impl Adapted {
    /// The first column of the layer in its fused row.
    pub(super) fn first_column(&self) -> usize {
        self.at.first()
    }

    /// How A or B lies on the GPU.
    fn place(&self, side: usize) -> Place {
        let Place { param, head_in, ref parts, .. } = self.at;
        let first = self.at.first();
        let parts = match side {
            0 => vec![Piece::all(0, None)],
            _ => parts.iter().map(|p| Piece { first: p.first - first, ..p.clone() }).collect(),
        };
        Place { param, turned: true, head_in: head_in.filter(|_| side == 0), parts }
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
        let first = places::count(arch);
        let mut lora = Lora { config: config.clone(), first, layers: Vec::new() };
        let mut uploaded = Vec::new();
        for t in targets(arch, config)? {
            let at = places::place(arch, &format!("{}.weight", t.module))?;
            let layer = Adapted {
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
                layer.place(side).each(&shape, cols, |from, to| host[to] = t.data[from]);
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
    fn shape(&self, arch: &Arch, layer: &Adapted, side: usize) -> Result<(usize, usize)> {
        let missing = || Error::Bug(format!("no weight for {}", layer.name[0]));
        let rows = places::shape(arch, layer.at.param).ok_or_else(missing)?.0;
        let wide = layer.at.span(layer.shape[1][0]);
        let rank = layer.shape[0][0];
        Ok(if side == 0 { (rows, rank) } else { (pad4(rank), wide) })
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
                layer.place(side).each(&shape, cols, |to, from| data[to] = values[from]);
                all.push(NamedTensor { name: layer.name[side].clone(), shape: shape.to_vec(), data });
            }
        }
        Ok(all)
    }

    /// The adapted layers that lie in parameter number `weight`.
    pub(super) fn within(&self, weight: usize) -> impl Iterator<Item = &Adapted> {
        self.layers.iter().filter(move |layer| layer.at.param == weight)
    }

    /// Whether this parameter is one of the adapter's, which alone are trained.
    pub(crate) fn owns(&self, param: usize) -> bool {
        param >= self.first
    }
}
