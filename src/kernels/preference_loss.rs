//! Sums of log-probs by sequence, the preference losses of [`crate::train::losses`], and the coefficient that each
//! sequence's log-probs get in the backward pass.

use super::{Case, Kernel, lanes, stream};
use crate::Result;
use crate::gpu::{Launch, Recorder, Source, Tensor};
use crate::train::losses::{LOSSES, Seen};
use std::sync::LazyLock;

/// The text with the losses' arms put in; built once per process from the list.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let arms: String = LOSSES
        .iter()
        .enumerate()
        .map(|(i, l)| {
            format!("        // {}: {}\n        case {i}u: {{\n            {}\n        }}\n", l.name, l.about, l.wgsl)
        })
        .collect();
    include_str!("../../shaders/preference_loss.wgsl").replace("//# arms\n", &arms)
});

static SOURCE: LazyLock<Source> =
    LazyLock::new(|| Source { name: "preference_loss", soft: &TEXT, tile: &TEXT, libs: &[], tile_size: 64 });

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "log-prob sums, the preference losses, their way back",
    constants: &[&[]],
    cases,
};

/// A compressed list of lists on the GPU: list i is `item[start[i] .. start[i + 1]]`.
#[derive(Clone)]
pub struct Lists {
    /// `[n + 1]`
    pub start: Tensor,
    /// `[items]`
    pub item: Tensor,
}

impl Lists {
    /// Uploads lists.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &crate::gpu::Gpu, lists: &[Vec<u32>]) -> Result<Lists> {
        let mut start = vec![0u32];
        lists.iter().for_each(|l| start.push(start[start.len() - 1] + l.len() as u32));
        Ok(Lists { start: gpu.vector(&start)?, item: gpu.vector(&lists.concat())? })
    }
}

/// logp `[sequences]` = sums of token_logp over each sequence's entries.
///
/// # Errors
/// A device error.
pub fn sequence_sum(rec: &mut Recorder, token_logp: &Tensor, entries: &Lists, logp: &Tensor) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "sequence_sum",
        constants: vec![],
        params: vec![logp.cols as u32],
        bind: &[token_logp, &entries.start, &entries.item, logp],
        groups: lanes(&SOURCE, rec.variant(), logp.cols),
        cost: stream(&[token_logp], 1.0),
    })
}

/// The pairs of one micro-batch on the GPU.
#[derive(Clone)]
pub struct Pairs {
    /// Reference log-prob sums (chosen, rejected), `[1, 2 pairs]`.
    pub reference: Tensor,
    /// Sequence numbers (chosen, rejected), `[1, 2 pairs]`.
    pub side: Tensor,
    /// Lengths in tokens as f32, `[1, 2 pairs]`.
    pub tokens: Tensor,
    /// For each sequence the pairs it stands in: 2 pair + (1 where it is the rejected one).
    pub uses: Lists,
}

/// Constants of one term of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Row of [`LOSSES`].
    pub loss: usize,
    /// β
    pub beta: f32,
    /// Label smoothing.
    pub smoothing: f32,
    /// Weight among several losses.
    pub weight: f32,
    /// Weight of the chosen answer's mean negative log-likelihood.
    pub nll: f32,
}

/// result `[pairs, 4]` (loss, dchosen, drejected, 0) = this term, added to what stands there where `add`.
///
/// # Errors
/// A device error.
pub fn forward(
    rec: &mut Recorder,
    logp: &Tensor,
    pairs: &Pairs,
    term: &Term,
    add: bool,
    result: &Tensor,
) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: vec![
            result.rows as u32,
            term.loss as u32,
            term.beta.to_bits(),
            term.smoothing.to_bits(),
            term.weight.to_bits(),
            term.nll.to_bits(),
            u32::from(add),
        ],
        bind: &[logp, &pairs.reference, &pairs.side, &pairs.tokens, result],
        groups: lanes(&SOURCE, rec.variant(), result.rows),
        cost: stream(&[result], 20.0),
    })
}

/// coef `[sequences]` = `scale` times the sum of each sequence's derivatives.
///
/// # Errors
/// A device error.
pub fn coefficients(rec: &mut Recorder, result: &Tensor, pairs: &Pairs, scale: f32, coef: &Tensor) -> Result<()> {
    rec.launch(Launch {
        source: &SOURCE,
        entry: "coefficients",
        constants: vec![],
        params: vec![coef.cols as u32, scale.to_bits()],
        bind: &[result, &pairs.uses.start, &pairs.uses.item, coef],
        groups: lanes(&SOURCE, rec.variant(), coef.cols),
        cost: stream(&[result], 1.0),
    })
}

fn cases() -> Vec<Case> {
    LOSSES
        .iter()
        .enumerate()
        .map(|(i, loss)| {
            Case::new(format!("forward {}", loss.name), 3e-5, move |t| {
                // Two sequences stand in several pairs, as the best and the worst candidate of a prompt may.
                let side: Vec<u32> = vec![0, 1, 2, 3, 0, 4, 5, 1, 6, 7];
                let n = side.len() / 2;
                let logp: Vec<f32> = t.values(8).iter().map(|x| x * 4.0 - 30.0).collect();
                let reference: Vec<f32> = t.values(2 * n).iter().map(|x| x * 4.0 - 30.0).collect();
                let tokens: Vec<f32> = (0..2 * n).map(|i| 3.0 + i as f32).collect();
                let mut uses = vec![Vec::new(); 8];
                side.iter().enumerate().for_each(|(i, s)| uses[*s as usize].push(i as u32));
                let pairs = Pairs {
                    reference: t.gpu.vector(&reference)?,
                    side: t.gpu.vector(&side)?,
                    tokens: t.gpu.vector(&tokens)?,
                    uses: Lists::new(t.gpu, &uses)?,
                };
                let (lp, result, coef) = (t.gpu.vector(&logp)?, t.gpu.empty(n, 4)?, t.gpu.empty(1, 8)?);
                let term = Term { loss: i, beta: 0.3, smoothing: 0.1, weight: 0.7, nll: 0.2 };
                forward(&mut t.rec, &lp, &pairs, &term, false, &result)?;
                coefficients(&mut t.rec, &result, &pairs, 0.5, &coef)?;
                let f = |x: f32| f64::from(x);
                let want: Vec<[f64; 4]> = (0..n)
                    .map(|p| {
                        let [c, r] = [2 * p, 2 * p + 1].map(|k| f(logp[side[k] as usize]) - f(reference[k]));
                        let seen =
                            Seen { c, r, nc: f(tokens[2 * p]), nr: f(tokens[2 * p + 1]), beta: f(0.3), eps: f(0.1) };
                        let (l, dc, dr) = (loss.twin)(seen);
                        let nll = f(0.2) / f(tokens[2 * p]);
                        let w = f(0.7);
                        [w * l - nll * f(logp[side[2 * p] as usize]), w * dc - nll, w * dr, 0.0]
                    })
                    .collect();
                t.expect("coef", &coef, || {
                    let d = |i: &u32| want[*i as usize / 2][1 + *i as usize % 2];
                    uses.iter().map(|u| 0.5 * u.iter().map(d).sum::<f64>()).collect()
                });
                t.expect("result", &result, || want.concat());
                Ok(())
            })
        })
        .chain([Case::new("sequence_sum", 1e-6, |t| {
            let (lp, host) = t.matrix(1, 100)?;
            let lists: Vec<Vec<u32>> = (0..7).map(|s| (0..100).filter(|e| e % 7 == s).collect()).collect();
            let (entries, sums) = (Lists::new(t.gpu, &lists)?, t.gpu.empty(1, 7)?);
            sequence_sum(&mut t.rec, &lp, &entries, &sums)?;
            t.expect("sums", &sums, || lists.iter().map(|l| l.iter().map(|e| host[*e as usize]).sum()).collect());
            Ok(())
        })])
        .collect()
}
