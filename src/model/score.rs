//! Numbers of given text, without generating: log-probs, logits, the residual stream.

use super::context::Context;
use super::decoder;
use super::head::{self, Wanted};
use super::model::Model;
use super::view::View;
use crate::gpu::{Gpu, Recorder};
use crate::kernels::rms_norm::Norm;
use crate::kernels::rows;
use crate::layout::{Forest, Node, packs};
use crate::{Error, Observer, Result};

/// A prompt with the continuations whose tokens are to be scored. The prompt is computed once.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Token ids of each continuation; at least one in each.
    pub completions: Vec<Vec<u32>>,
}

/// Rows of one pass: as many as keep a pass short on a slow device.
const ROWS: usize = 4096;

/// Entries (row, target, sequence) of a node's tokens: each is predicted by the row before it.
pub(crate) fn predicted(node: &Node, tokens: &[u32], sequence: u32) -> Vec<(u32, u32, u32)> {
    let before = |i: usize| if i == 0 { node.before } else { Some(node.first + i - 1) };
    tokens.iter().enumerate().filter_map(|(i, t)| Some((before(i)? as u32, *t, sequence))).collect()
}

/// The final norm of a whole forest; nothing of the blocks is kept.
pub(crate) fn run(rec: &mut Recorder, model: &Model, forest: &Forest, view: &View) -> Result<Norm> {
    let gpu = rec.gpu();
    let token = gpu.vector(&forest.tokens)?;
    let context = Context::Forest { view, store: None };
    let x = decoder::embed(rec, model, &token, forest.len())?;
    let stream = decoder::stack(rec, model, x, &context, drop)?;
    head::final_norm(rec, model, &stream)
}

/// The log-probs `[branch][completion][token]` of each completion's tokens, given the prompt and what precedes them.
///
/// # Errors
/// A prompt or completion is empty, an id is outside the vocabulary, or there are more tokens than the context; errors
/// of the GPU; [`Error::Stopped`] if the observer asks for it.
pub fn logps(gpu: &Gpu, model: &Model, branches: &[Branch], observer: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut all: Vec<Vec<Vec<f32>>> = Vec::new();
    let rows = |b: &Branch| b.prompt.len() + b.completions.iter().map(Vec::len).sum::<usize>();
    let sizes: Vec<usize> = branches.iter().map(rows).collect();
    for part in packs(&sizes, ROWS.min(model.most_rows(gpu))) {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        all.extend(pass(gpu, model, &branches[part.clone()], part.start)?);
        observer.advance(part.len() as u64);
    }
    Ok(all)
}

fn pass(gpu: &Gpu, model: &Model, branches: &[Branch], number: usize) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut forest = Forest::new();
    let mut wanted = Wanted::default();
    for (i, branch) in branches.iter().enumerate() {
        let name = format!("text {}", number + i);
        if branch.prompt.is_empty() || branch.completions.iter().any(Vec::is_empty) {
            return Err(Error::Input(format!("{name}: an empty prompt or completion has no log-probs")));
        }
        forest.open(&branch.prompt);
        for completion in &branch.completions {
            model.check_tokens(&name, &[&branch.prompt[..], completion].concat())?;
            let node = forest.leaf(completion);
            wanted.entries.extend(predicted(&node, completion, 0));
        }
        forest.close();
    }
    let lists = wanted.upload(gpu)?;
    let view = View::new(gpu, model, &forest)?;
    let mut rec = gpu.record();
    let norm = run(&mut rec, model, &forest, &view)?;
    let scored = head::logps(&mut rec, model, &norm, &lists, None)?;
    rec.submit()?;
    let sorted: Vec<f32> = gpu.download(&scored.logp)?;
    let mut at = lists.order.iter().map(|o| sorted[*o as usize]);
    let mut take = |n: usize| at.by_ref().take(n).collect::<Vec<f32>>();
    Ok(branches.iter().map(|b| b.completions.iter().map(|c| take(c.len())).collect()).collect())
}

/// The logits `[len, V]` of one sequence, row after row.
///
/// # Errors
/// As [`logps`].
pub fn logits(gpu: &Gpu, model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
    let (forest, view) = alone(gpu, model, tokens)?;
    let mut rec = gpu.record();
    let norm = run(&mut rec, model, &forest, &view)?;
    rec.submit()?;
    let mut all = Vec::with_capacity(tokens.len() * model.arch.vocab_size);
    let row: Vec<u32> = (0..tokens.len() as u32).collect();
    for part in row.chunks(head::chunk_rows(gpu, model.arch.vocab_size)) {
        let mut rec = gpu.record();
        let (row, chunk) = (gpu.vector(part)?, gpu.empty(part.len(), norm.y.cols())?);
        rows::gather(&mut rec, &norm.y, &row, &chunk)?;
        let logits = head::logits(&mut rec, model, &chunk)?;
        rec.submit()?;
        all.extend(gpu.download::<f32>(&logits)?);
    }
    Ok(all)
}

/// The residual stream of one sequence before each block, `[len, D]` each, row after row. The first is the embedding;
/// behind those of the blocks comes the stream after the final norm.
///
/// # Errors
/// As [`logps`].
pub fn hidden(gpu: &Gpu, model: &Model, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    let (forest, view) = alone(gpu, model, tokens)?;
    let context = Context::Forest { view: &view, store: None };
    let mut rec = gpu.record();
    let token = gpu.vector(&forest.tokens)?;
    let x = decoder::embed(&mut rec, model, &token, forest.len())?;
    let mut streams = Vec::new();
    let stream = decoder::stack(&mut rec, model, x, &context, |acts| streams.push(acts.input().clone()))?;
    let last = head::normed(&mut rec, model, &stream)?.y;
    rec.submit()?;
    let mut all = gpu.download_all::<f32>(&streams.iter().chain([&last]).collect::<Vec<_>>())?;
    let before = streams.len();
    let held = model.arch.residual_scale;
    all[..before].iter_mut().flatten().for_each(|x| *x *= held);
    Ok(all)
}

fn alone(gpu: &Gpu, model: &Model, tokens: &[u32]) -> Result<(Forest, View)> {
    if tokens.is_empty() {
        return Err(Error::Input("an empty sequence has no logits".into()));
    }
    model.check_tokens("the sequence", tokens)?;
    let mut forest = Forest::new();
    forest.leaf(tokens);
    let view = View::new(gpu, model, &forest)?;
    Ok((forest, view))
}
