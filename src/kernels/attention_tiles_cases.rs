//! The comparisons of attention by tiles with the twins of attention and its gradients.

use super::attention::{forward, twin};
use super::attention_backward::{row_delta, twin_backward};
use super::attention_tiles::{Gradient, SOURCE, attend_in_chunks, backward_in_chunks, suits_forward, ways};
use super::case::{Case, Kernel};
use super::heads::Heads;
use super::inputs::{head_matrix, pad_heads, random_forest};
use super::mask::Mask;
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
    let all = shapes.into_iter().flat_map(|shape| [None, Some(9)].map(|window| (shape, window)));
    let case = |((rows, heads, kv_heads, head_dim), window): ((usize, usize, usize, usize), Option<usize>)| {
        let name = format!("{rows}x{heads}/{kv_heads}x{head_dim} window={window:?} in chunks of 12 tiles");
        Case::new(name, 2e-5, move |t| {
            let h = Heads { heads, kv_heads, head_dim };
            let forest = random_forest(t, rows);
            let mask = Mask::new(t.gpu, &forest, window)?;
            let (qkv, host) = head_matrix(t, forest.len(), heads + 2 * kv_heads, head_dim)?;
            let (d_o, hd) = head_matrix(t, forest.len(), heads, head_dim)?;
            let out = forward(&mut t.rec, &qkv, h, &mask)?;
            if suits_forward(&Traits::of(&t.rec), h) {
                attend_in_chunks(&mut t.rec, (&qkv, h), &mask, &out, 12)?;
                let (o, lse) = twin(&host, h, &forest, mask.window);
                t.expect("o", &out.o, || pad_heads(&o, head_dim));
                t.expect("lse", &out.lse, || lse);
            }
            let delta = row_delta(&mut t.rec, (&qkv, &d_o), h, &mask, &out)?;
            let dqkv = t.gpu.empty(qkv.rows(), qkv.cols())?;
            let grad = Gradient { d_o: &d_o, lse: &out.lse, delta: &delta };
            backward_in_chunks(&mut t.rec, (&qkv, h), &mask, grad, &dqkv, 12)?;
            t.expect("dqkv", &dqkv, || pad_heads(&twin_backward(&host, h, &forest, mask.window, &hd), head_dim));
            Ok(())
        })
    };
    all.map(case).collect()
}
