//! The tensors of a LoRA or DoRA adapter (arXiv 2106.09685, 2402.09353) on the GPU. Layers that lie side by side in one
//! fused matrix (q, k, v; gate, up) are a group: their A lie side by side in one matrix, their B in another, at the
//! columns of the fused row. `linear.rs` computes with them. The embedding is a group of its own.
//!
//! Names, shapes and settings are PEFT's: A `[r, in]`, B `[out, r]`. On the GPU both are stored turned, as all weights.

use super::dropout;
use super::places::{self, Piece, Place};
use crate::arch::lora::{LoraConfig, Target, targets};
use crate::arch::{Arch, NamedTensor, first_unusable, unusable};
use crate::gpu::{Gpu, Recorder, pad4};
use crate::kernels::lora::{self, Adapters, COLUMNS, DORA_COLUMNS, Layout};
use crate::kernels::matmul::{self, Epilogue};
use crate::kernels::weight::{Block, Stored, Weight};
use crate::kernels::{columns, rows, transpose};
use crate::{Error, Result};
use std::ops::Range;

/// What a group has, each a parameter of the model.
#[derive(Clone, Copy)]
enum Slot {
    /// The A of all layers, side by side, `[in, layers · rank]`.
    A,
    /// The B of all layers, at the columns of the fused row, `[rank, width of the fused row]`.
    B,
    /// Bias and factors by column, as the kernels take them; not trained.
    Columns,
    /// The magnitude of each column, `[1, width of the fused row]`; with DoRA only.
    Magnitude,
}

/// Every slot, each at its own number.
const SLOTS: [Slot; 4] = [Slot::A, Slot::B, Slot::Columns, Slot::Magnitude];

/// The parameters of a model by number, the adapter's behind those of the base.
type Params = [Option<Weight>];

fn weight(params: &Params, number: usize) -> Result<&Weight> {
    params[number].as_ref().ok_or_else(|| Error::Bug(format!("an adapter's model has no parameter number {number}")))
}

/// The adapter of a model on the GPU; its tensors are parameters of the model, after those of the base.
#[derive(Clone)]
pub(crate) struct Lora {
    pub(crate) config: LoraConfig,
    /// Parameter number of the first group's A.
    first: usize,
    groups: Vec<Group>,
}

/// The adapted layers that lie in one parameter.
#[derive(Clone)]
pub(super) struct Group {
    /// The parameter in which the layers lie, and its rows and columns.
    param: usize,
    shape: (usize, usize),
    /// Whether rows of the parameter are looked up, not multiplied.
    embeds: bool,
    /// Whether columns have magnitudes.
    pub(super) dora: bool,
    pub(super) layout: Layout,
    layers: Vec<Adapted>,
    /// Parameter number of A.
    first: usize,
}

/// An adapted layer.
#[derive(Clone)]
pub(super) struct Adapted {
    target: Target,
    /// The number that stands for the layer in dropout's masks.
    pub(super) site: u64,
    /// Where the layer's weight lies.
    at: Place,
}

impl Group {
    fn number(&self, slot: Slot) -> usize {
        self.first + slot as usize
    }

    /// Parameter number of A.
    pub(super) fn a(&self) -> usize {
        self.number(Slot::A)
    }

    /// Parameter number of B.
    pub(super) fn b(&self) -> usize {
        self.number(Slot::B)
    }

    /// Parameter number of the magnitudes.
    pub(super) fn magnitude(&self) -> usize {
        self.number(Slot::Magnitude)
    }

    /// The first column of layer i in the fused row, and the first of the next one.
    pub(super) fn columns_of(&self, i: usize) -> Range<usize> {
        let [second, third, fourth] = self.layout.edges;
        let edges = [self.layers[0].at.first(), second, third, fourth, self.shape.1];
        edges[i]..edges[i + 1]
    }

    /// The layers, each with its first column of u.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&Adapted, usize)> {
        self.layers.iter().zip((0..).step_by(self.layout.rank))
    }

    /// What the kernels take.
    pub(super) fn adapters<'m>(&self, params: &'m Params) -> Result<Adapters<'m>> {
        let columns = weight(params, self.number(Slot::Columns))?.dense()?;
        Ok(Adapters { layout: self.layout, b: weight(params, self.b())?, columns })
    }

    /// Rows and columns on the GPU, where the group has the slot.
    fn shape(&self, slot: Slot) -> Option<(usize, usize)> {
        let ((rows, width), rank) = (self.shape, self.layout.rank);
        match slot {
            // Looked up by token, as the embedding itself.
            Slot::A if self.embeds => Some((rank, rows)),
            Slot::A => Some((rows, rank * self.layers.len())),
            Slot::B => Some((rank, width)),
            Slot::Columns => Some((if self.dora { DORA_COLUMNS } else { COLUMNS }, width)),
            Slot::Magnitude => self.dora.then_some((1, width)),
        }
    }

    /// Where the tensors of PEFT's names lie in a slot, with their names and shapes.
    fn tensors(&self, slot: Slot) -> Vec<(Place, String, Vec<usize>)> {
        let of = |(i, layer): (usize, &Adapted)| {
            let Adapted { target: t, at, .. } = layer;
            let place = |head_in, parts| Place { param: self.number(slot), turned: true, head_in, apart: None, parts };
            match slot {
                Slot::A if self.embeds => {
                    let place = Place { turned: false, ..place(None, vec![Piece::all(0, None)]) };
                    Some((place, t.name("A"), vec![t.rank, t.inner]))
                }
                Slot::A => {
                    let parts = vec![Piece::all(i * self.layout.rank, None)];
                    Some((place(at.head_in, parts), t.name("A"), vec![t.rank, t.inner]))
                }
                Slot::B => Some((place(None, at.parts.clone()), t.name("B"), vec![t.out, t.rank])),
                Slot::Columns => None,
                Slot::Magnitude => t.dora.then(|| (place(None, at.parts.clone()), t.magnitude(), vec![t.out])),
            }
        };
        self.layers.iter().enumerate().filter_map(of).collect()
    }

    /// Bias and factors by column: without an adapter a column is its product.
    fn columns(&self, gpu: &Gpu, (arch, params): (&Arch, &Params), rows: usize) -> Result<Vec<f32>> {
        let (_, width) = self.shape;
        let bias = places::bias_of(self.param).and_then(|bias| params[bias].as_ref());
        let mut columns = bias.map_or_else(|| Ok(vec![0.0; width]), |bias| bias.values(gpu))?;
        columns.resize(2 * width, 1.0);
        columns.resize(rows * width, 0.0);
        for layer in &self.layers {
            let scale = layer.target.scale * if self.embeds { arch.held_embedding_scale() } else { 1.0 };
            layer.at.each(&[layer.target.out], width, |_, column| {
                columns[2 * width + column] = scale;
                if self.dora {
                    columns[3 * width + column] = scale;
                    columns[4 * width + column] = 1.0;
                }
            });
        }
        Ok(columns)
    }

    /// Brings norms and factors up to date with A, B and the magnitudes: W and B A are transposed some columns at a
    /// time, so that a norm is one row's.
    fn renew(&self, rec: &mut Recorder, params: &Params, arch: &Arch) -> Result<()> {
        if self.embeds {
            return self.renew_embedding(rec, params, arch.held_embedding_scale());
        }
        let (adapters, m) = (self.adapters(params)?, weight(params, self.magnitude())?.dense()?);
        let (a, low) = (weight(params, self.a())?, weight(params, self.b())?);
        let step = (rec.gpu().chunk_bytes() as usize / (4 * self.shape.0.max(1)) / 64 * 64).max(64);
        for (i, (_, own)) in self.layers().enumerate() {
            let [(_, a)] = a.blocks().collect::<Vec<_>>()[..] else {
                return Err(Error::Bug("an adapter's A lies in several blocks".into()));
            };
            let a = transpose::forward(rec, a, own..own + self.layout.rank)?.into();
            let columns = self.columns_of(i);
            for (part, [(block, own), (low, also)]) in pieces([weight(params, self.param)?, low], columns, step) {
                let turned = transpose::forward(rec, block, own)?;
                let b = transpose::forward(rec, low, also)?;
                let product = rec.gpu().empty(turned.rows(), turned.cols())?;
                matmul::forward(rec, &b, &a, &product, Epilogue::default())?;
                lora::norms(rec, (&turned, &product), (adapters, m), (part.start, part.len()))?;
            }
        }
        Ok(())
    }

    /// Does what [`Group::renew`] does where rows are looked up: a norm is a channel's over all tokens, which lie in a
    /// row already. It is that of the norms of some tokens at a time. `factor` is the embedding's, which A B share.
    fn renew_embedding(&self, rec: &mut Recorder, params: &Params, factor: f32) -> Result<()> {
        let (adapters, m) = (self.adapters(params)?, weight(params, self.magnitude())?.dense()?);
        let (a, low) = (weight(params, self.a())?, weight(params, self.b())?);
        let (gpu, width) = (rec.gpu().clone(), self.shape.1);
        let step = (gpu.chunk_bytes() as usize / (16 * width.max(1)) / 64 * 64).max(64);
        let parts = pieces([weight(params, self.param)?, a], 0..self.shape.0, step);
        let (norm, one) = (gpu.vector(&[DORA_COLUMNS as u32 - 1])?, gpu.empty(1, width)?);
        let mut all = gpu.zeros(pad4(parts.len()), width)?;
        for (i, (_, [(block, own), (other, tokens)])) in parts.into_iter().enumerate() {
            let turned = transpose::forward(rec, block, own)?;
            let columns = 0..turned.cols();
            let table = transpose::forward(rec, &Block::Dense(turned), columns)?;
            let u = transpose::forward(rec, other, tokens)?;
            let product = gpu.empty(u.rows(), width)?;
            matmul::forward(rec, &u, low, &product, Epilogue::default())?;
            let scaled = gpu.empty(u.rows(), width)?;
            columns::take(rec, &product, 0, 1.0 / factor, &scaled)?;
            let added = transpose::forward(rec, &Block::Dense(scaled), 0..width)?;
            lora::norms(rec, (&table, &added), (adapters, m), (0, width))?;
            rows::gather(rec, adapters.columns, &norm, &one)?;
            rows::scatter(rec, &one, &gpu.vector(&[i as u32])?, &all)?;
        }
        all = transpose::forward(rec, &Block::Dense(all), 0..width)?;
        let nothing = gpu.zeros(all.rows(), all.cols())?;
        lora::norms(rec, (&all, &nothing), (adapters, m), (0, width))
    }
}

/// Columns, with where they lie in a block of each of two matrices.
type Shared<'w> = (Range<usize>, [(&'w Block, Range<usize>); 2]);

/// Cuts columns of two matrices into pieces of at most `step` that each lie in one block of both.
fn pieces(of: [&Weight; 2], columns: Range<usize>, step: usize) -> Vec<Shared<'_>> {
    let mut all = Vec::new();
    let [one, other] = of;
    for (first, block) in one.blocks() {
        for (begin, beside) in other.blocks() {
            let from = columns.start.max(first).max(begin);
            let end = columns.end.min(first + block.cols()).min(begin + beside.cols());
            for at in (from..end).step_by(step) {
                let to = (at + step).min(end);
                all.push((at..to, [(block, at - first..to - first), (beside, at - begin..to - begin)]));
            }
        }
    }
    all
}

impl Lora {
    /// Puts an adapter's tensors (weights, moments) behind the base's parameters; a device that counts needs none.
    ///
    /// # Errors
    /// Tensors that are not those of the configuration on this model, or not finite; out of memory.
    pub(crate) fn upload(
        gpu: &Gpu,
        (arch, params): (&Arch, &Params),
        config: &LoraConfig,
        tensors: &[NamedTensor],
    ) -> Result<(Lora, Vec<Option<Weight>>)> {
        let groups = groups(arch, config)?;
        let mut uploaded = Vec::new();
        for group in &groups {
            for slot in SLOTS {
                let Some((rows, cols)) = group.shape(slot) else {
                    uploaded.push(None);
                    continue;
                };
                if gpu.counts() {
                    uploaded.push(Some(Weight::room(gpu, Stored::Dense, rows, cols)?));
                    continue;
                }
                let mut host = match slot {
                    Slot::Columns => group.columns(gpu, (arch, params), rows)?,
                    _ => vec![0f32; rows * cols],
                };
                for (place, name, shape) in group.tensors(slot) {
                    let found = tensors.iter().find(|t| t.name == *name);
                    // Those of a fresh adapter are set beside the weights.
                    if found.is_none() && matches!(slot, Slot::Magnitude) {
                        continue;
                    }
                    let elements: usize = shape.iter().product();
                    let Some(t) = found.filter(|t| t.shape == shape && t.data.len() == elements) else {
                        let found = found.map_or("missing".into(), |t| format!("{:?}", t.shape));
                        return Err(Error::Input(format!("adapter tensor '{name}' is {found}, expected {shape:?}")));
                    };
                    if let Some(first) = first_unusable(&t.data) {
                        return Err(Error::NonFinite(unusable(&name, &shape, first)));
                    }
                    place.each(&shape, cols, |from, to| host[to] = t.data[from]);
                }
                uploaded.push(Some(Weight::upload(gpu, rows, cols, &host)?));
            }
        }
        let has = |layer: &Adapted, name: &String| layer.target.tensors().iter().any(|(own, _)| own == name);
        let known = |name: &String| groups.iter().any(|g| g.layers.iter().any(|layer| has(layer, name)));
        match tensors.iter().find(|t| !known(&t.name)) {
            Some(t) => Err(Error::Input(format!("adapter tensor '{}' is not one of this model's targets", t.name))),
            None => Ok((Lora { config: config.clone(), first: places::count(arch), groups }, uploaded)),
        }
    }

    /// Named tensors back from those of parameter number `of(number)`, layer after layer.
    pub(crate) fn download<'w>(&self, gpu: &Gpu, of: impl Fn(usize) -> Result<&'w Weight>) -> Result<Vec<NamedTensor>> {
        gpu.wait()?;
        let mut all = Vec::new();
        for group in &self.groups {
            let mut by_slot = Vec::new();
            for slot in [Slot::A, Slot::B, Slot::Magnitude] {
                let Some((_, cols)) = group.shape(slot) else { continue };
                let values = of(group.number(slot))?.values(gpu)?;
                let tensor = |(place, name, shape): (Place, String, Vec<usize>)| {
                    let mut data = vec![0f32; shape.iter().product()];
                    place.each(&shape, cols, |to, from| data[to] = values[from]);
                    NamedTensor { name, shape, data }
                };
                by_slot.push(group.tensors(slot).into_iter().map(tensor).collect::<Vec<_>>().into_iter());
            }
            for _ in &group.layers {
                all.extend(by_slot.iter_mut().filter_map(Iterator::next));
            }
        }
        Ok(all)
    }

    /// Brings what follows from the adapter's tensors up to date with them; only DoRA has such.
    ///
    /// # Errors
    /// Errors of the GPU.
    pub(crate) fn renew(&self, gpu: &Gpu, (arch, params): (&Arch, &Params)) -> Result<()> {
        let mut rec = gpu.record();
        self.groups.iter().filter(|group| group.dora).try_for_each(|group| group.renew(&mut rec, params, arch))?;
        rec.submit()
    }

    /// Sets the magnitudes to the norms that [`Lora::renew`] found, so that the adapter changes nothing.
    ///
    /// # Errors
    /// Errors of the GPU.
    pub(crate) fn begin(&self, gpu: &Gpu, params: &Params) -> Result<()> {
        for group in self.groups.iter().filter(|group| group.dora) {
            let columns = weight(params, group.number(Slot::Columns))?.values(gpu)?;
            let width = group.shape.1;
            gpu.overwrite(weight(params, group.magnitude())?.dense()?, &columns[4 * width..])?;
        }
        Ok(())
    }

    /// The adapted layers that lie in parameter number `param`, where it is multiplied or, if `embeds`, looked up.
    pub(super) fn on(&self, param: usize, embeds: bool) -> Option<&Group> {
        self.groups.iter().find(|group| group.param == param && group.embeds == embeds)
    }

    /// Whether this parameter is one of the adapter's that are trained, and they alone are.
    pub(crate) fn owns(&self, param: usize) -> bool {
        param.checked_sub(self.first).is_some_and(|n| !matches!(SLOTS[n % SLOTS.len()], Slot::Columns))
    }
}

/// The groups of an adapter on a model.
fn groups(arch: &Arch, config: &LoraConfig) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for target in targets(arch, config)? {
        // A tied output matrix lies where the embedding does.
        let name = match target.module.as_str() {
            "lm_head" if arch.tie_word_embeddings => "model.embed_tokens",
            module => module,
        };
        let at = places::place(arch, &format!("{name}.weight"))?;
        let shape = places::shape(arch, at.param);
        let shape = shape.ok_or_else(|| Error::Bug(format!("no weight for {}", target.module)))?;
        let layer = Adapted { site: dropout::site(&target.module), target, at };
        let embeds = layer.target.embeds;
        match groups.iter_mut().find(|group| group.param == layer.at.param && group.embeds == embeds) {
            Some(group) => group.layers.push(layer),
            None => groups.push(Group {
                param: layer.at.param,
                shape: if embeds { (shape.1, arch.hidden_size) } else { shape },
                embeds,
                dora: layer.target.dora,
                layout: Layout { rank: 0, layers: 0, edges: [0; 3] },
                layers: vec![layer],
                first: 0,
            }),
        }
    }
    for (i, group) in groups.iter_mut().enumerate() {
        group.layers.sort_by_key(|layer| layer.at.first());
        let edge = |i: usize| group.layers.get(i).map_or(group.shape.1, |layer| layer.at.first());
        group.layout = Layout {
            rank: group.layers.iter().map(|layer| pad4(layer.target.rank)).max().unwrap_or(0),
            layers: group.layers.len(),
            edges: [edge(1), edge(2), edge(3)],
        };
        group.first = places::count(arch) + i * SLOTS.len();
    }
    Ok(groups)
}
