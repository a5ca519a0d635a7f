//! Attention computes what is visible and little else: a build of the same kernels with COUNT adds
//! up the pairs of lanes and rows that they compute, and the sums are compared with the visible
//! area, forward and backward, in every variant.

#![expect(clippy::print_stdout, reason = "docs/notebook/attention.md has the figures")]

use super::heads::Heads;
use super::mask::Mask;
use super::{attention, attention_backward};
use crate::gpu::{Form, Gpu, Options, Variant};
use crate::layout::Forest;

/// Roots of some rows with the leaves of each.
fn forest(trees: &[(usize, Vec<usize>)]) -> Forest {
    let mut forest = Forest::new();
    for (prompt, leaves) in trees {
        forest.open(&vec![0; *prompt]);
        for n in leaves {
            forest.leaf(&vec![0; *n]);
        }
        forest.close();
    }
    forest
}

/// Pairs computed over pairs visible, and jumps over pairs computed, of each of the three passes.
fn work(gpu: &Gpu, form: Form, heads: Heads, forest: &Forest, window: Option<usize>) -> [[f64; 2]; 3] {
    let mut mask = Mask::new(gpu, forest, window).unwrap();
    let counted = gpu.vector(&[0u32; 6]).unwrap();
    mask.work = Some(counted.clone());
    let rows = |width: usize| gpu.upload(forest.len(), width, &vec![0.25f32; forest.len() * width]).unwrap();
    let mut rec = gpu.record_form(form);
    let qkv = rows(heads.width());
    let out = attention::forward(&mut rec, &qkv, heads, &mask).unwrap();
    attention_backward::backward(&mut rec, &qkv, heads, &mask, &out, &rows(heads.heads * heads.padded())).unwrap();
    rec.submit().unwrap();
    let words: Vec<f64> = gpu.download::<u32>(&counted).unwrap().into_iter().map(f64::from).collect();
    let pass = |i: usize| [words[2 * i] / (heads.heads as f64 * mask.area), words[2 * i + 1] / words[2 * i]];
    [pass(0), pass(1), pass(2)]
}

#[test]
fn the_cost_follows_the_visible_area() {
    let gpu = Gpu::with(&Options::default()).unwrap();
    // A block has 8 rows in the soft variant and 32 lanes in the tile variant, which share rows or, for bits of
    // decoding, heads; where it lies across a border of sequences or at a window's end, lanes wait for one another. The
    // last number is what the tile variant may compute beyond the area.
    let cases: [(&str, Forest, Option<usize>, f64); 9] = [
        ("causal 256", forest(&[(256, vec![])]), None, 1.1),
        ("causal 1024", forest(&[(1024, vec![])]), None, 1.05),
        ("8 trees of 300", forest(&vec![(300, vec![]); 8]), None, 1.12),
        ("a window of 256 in 1024", forest(&[(1024, vec![])]), Some(256), 1.1),
        ("a pair of 512 + 128 + 128", forest(&[(512, vec![128, 128])]), None, 1.05),
        ("512 with 24 leaves of 64", forest(&[(512, vec![64; 24])]), None, 1.05),
        ("4 prompts of 300 with 6 leaves", forest(&vec![(300, vec![45, 130, 77, 101, 64, 90]); 4]), None, 1.12),
        ("a window of 256 over 700 with 5 leaves of 400", forest(&[(700, vec![400; 5])]), Some(256), 1.12),
        ("a window of 512 over 100 with 4 leaves of 900", forest(&[(100, vec![900; 4])]), Some(512), 1.1),
    ];
    let of = |heads, head_dim| Heads { heads, kv_heads: 1, head_dim };
    let shapes = [(false, of(2, 10)), (false, of(2, 24)), (false, of(2, 64)), (false, of(1, 100))];
    let invariant = [(true, of(2, 10)), (true, of(3, 24))];
    let mut off = Vec::new();
    for variant in Variant::ALL {
        for (name, forest, window, tile) in &cases {
            for (invariant, heads) in shapes.into_iter().chain(invariant) {
                let most = match variant {
                    // The gradients of wide heads go by tiles of 16 x 16.
                    Variant::Soft if heads.head_dim > 16 => 1.15,
                    Variant::Soft => 1.1,
                    // Three heads abreast leave 2 of 32 lanes without work.
                    Variant::Tile if invariant && heads.heads == 3 => 1.15,
                    Variant::Tile => *tile,
                };
                let passes = work(&gpu, Form { variant, invariant, matrix_units: false }, heads, forest, *window);
                for (pass, [beyond, jumps]) in ["forward", "dQ", "dK and dV"].iter().zip(passes) {
                    let line = format!(
                        "{} {}{}: {name}, {pass}: {beyond:.3} x the area, {jumps:.3} jumps a pair",
                        variant.name(),
                        heads.head_dim,
                        if invariant { " invariant" } else { "" }
                    );
                    println!("{line}");
                    if !(1.0..=most).contains(&beyond) || jumps > 0.02 {
                        off.push(line);
                    }
                }
            }
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

/// Holds that forms of heads count as much as a single head that has keys of its own.
fn counts_the_same(forms: &[(usize, usize, usize)]) {
    let gpu = Gpu::with(&Options::default()).unwrap();
    let forest = forest(&[(100, vec![40, 60])]);
    for variant in Variant::ALL {
        let of = |heads, kv_heads, head_dim| {
            work(
                &gpu,
                Form { variant, invariant: false, matrix_units: false },
                Heads { heads, kv_heads, head_dim },
                &forest,
                None,
            )
        };
        for &(heads, kv_heads, head_dim) in forms {
            assert_eq!(of(heads, kv_heads, head_dim), of(1, 1, head_dim), "{heads}/{kv_heads} x {head_dim}");
        }
    }
}

#[test]
fn sharing_of_keys_counts_the_same() {
    counts_the_same(&[(4, 1, 16)]);
}

#[test]
#[ignore = "drivers compile wide heads for minutes; scripts/test-full runs it"]
fn every_sharing_of_keys_counts_the_same() {
    counts_the_same(&[(4, 1, 16), (6, 2, 64), (2, 2, 128), (3, 1, 256)]);
}
