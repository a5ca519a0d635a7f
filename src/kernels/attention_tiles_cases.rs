//! The comparisons of attention by tiles with the twins of attention and its gradients.

use super::attention::{TIED, forward, twin};
use super::attention_backward::{row_delta, twin_backward};
use super::attention_tiles::{Gradient, SOURCE, attend_in_chunks, backward_in_chunks, suits_forward, ways};
use super::case::{Case, Kernel};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads, random_forest};
use super::mask::Mask;
use super::scores::Scores;
use super::way::Traits;

/// The kernel's row in [`super::ALL`].
pub(super) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "attention and its gradients by tiles, on software adapters",
    ways,
    ordered: &[],
    cases,
};

/// `super::attention_backward` compares heads of all kinds; here the work is cut into many chunks.
fn cases() -> Vec<Case> {
    let shapes = [(70, 3, 1, 32), (45, 4, 2, 40), (131, 2, 2, 36), (33, 2, 1, 20)];
    let capped = Scores { scale: Some(0.6), cap: Some(2.5) };
    let sights = [(None, Scores::default()), (Some(9), Scores::default()), (None, capped)];
    let all = shapes.into_iter().flat_map(|shape| sights.map(|sight| (shape, sight)));
    let case = |((rows, heads, kv_heads, head_dim), (window, scores)): (_, (Option<usize>, Scores))| {
        let h = Heads { heads, kv_heads, head_dim };
        let capped = if scores.cap.is_some() { " capped" } else { "" };
        let name = format!("{rows}x{h} window={window:?}{capped} in chunks of 12 tiles");
        Case::new(name, 2e-5, move |t| {
            let forest = random_forest(t, rows);
            let mask = Mask::new(t.gpu, &forest, None)?.seeing(&forest, window, scores);
            let (qkv, host) = head_matrix(t, forest.len(), heads + 2 * kv_heads, head_dim)?;
            let (d_o, hd) = head_matrix(t, forest.len(), heads, head_dim)?;
            let out = forward(&mut t.rec, &qkv, h, &mask)?;
            if suits_forward(&Traits::of(&t.rec), h) {
                attend_in_chunks(&mut t.rec, (&qkv, h), &mask, &out, 12)?;
                let (o, lse) = twin(&host, h, &forest, mask.window, scores);
                t.expect("o", &out.o, || pad_heads(&o, head_dim));
                t.expect("lse", &out.lse, || lse);
            }
            let delta = row_delta(&mut t.rec, (&qkv, &d_o), h, &mask, &out)?;
            let dqkv = t.gpu.empty(qkv.rows(), qkv.cols())?;
            let grad = Gradient { d_o: &d_o, lse: &out.lse, delta: &delta };
            backward_in_chunks(&mut t.rec, (&qkv, h), &mask, grad, &dqkv, 12)?;
            t.expect("dqkv", &dqkv, || {
                pad_heads(&twin_backward(&host, h, &forest, mask.window, scores, &hd), head_dim)
            });
            Ok(())
        })
    };
    all.map(case).map(|case| case.without(TIED)).collect()
}
