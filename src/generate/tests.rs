//! With invariant sums a token's logits have the same bits whether it was decoded or scored, alone or beside siblings.

use crate::Silent;
use crate::gpu::{Gpu, Options, Variant};
use crate::kernels::attention_decode::{Arena, PAGE, Rows};
use crate::model::{Layer, Model, decoder, head, params, score, view};
use crate::world;

/// A small model with a windowed block, whose context spans several chunks of the attention.
fn model(gpu: &Gpu) -> Model {
    let mut arch = world::arch();
    arch.max_position_embeddings = 512;
    arch.layers[1] = Layer { window: Some(150), ..arch.layers[1] };
    Model::from_tensors(gpu, &arch, world::model::init(3)).unwrap()
}

/// Logits `[token][V]` of each sequence, its tokens fed one by one beside those of the others that are long enough.
fn decoded(gpu: &Gpu, model: &Model, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let heads = params::heads(&model.arch);
    let pages = sequences[0].len().div_ceil(PAGE);
    let (slots, width) = (sequences.len() * pages * PAGE, heads.kv_heads * heads.padded());
    let memory = || gpu.empty(slots, width).unwrap();
    let arena: Vec<Arena> = model.arch.layers.iter().map(|_| Arena { keys: memory(), values: memory() }).collect();
    let mut all = vec![Vec::new(); sequences.len()];
    for at in 0..sequences[0].len() {
        let running = sequences.iter().take_while(|s| s.len() > at).count();
        let lengths: Vec<u32> = sequences[..running].iter().map(|s| s.len() as u32).collect();
        let turns = view::turns(gpu, model, &lengths).unwrap();
        let rows = Rows {
            table: gpu.upload(running, pages, &(0..(running * pages) as u32).collect::<Vec<_>>()).unwrap(),
            pos: gpu.vector(&vec![at as u32; running]).unwrap(),
            longest: sequences[0].len(),
            window: u32::MAX,
            scale: None,
        };
        let token = gpu.vector(&sequences[..running].iter().map(|s| s[at]).collect::<Vec<_>>()).unwrap();
        let context = decoder::Context::Arena { arena: &arena, rows: &rows, turns: &turns };
        let mut rec = gpu.record();
        let x = decoder::embed(&mut rec, model, &token, running).unwrap();
        let (x, delta) = decoder::stack(&mut rec, model, x, &context, drop).unwrap();
        let norm = head::final_norm(&mut rec, model, &x, &delta).unwrap();
        let logits = head::logits(&mut rec, model, &norm.y).unwrap();
        rec.submit().unwrap();
        let values: Vec<f32> = gpu.download(&logits).unwrap();
        for (to, row) in all.iter_mut().zip(values.chunks_exact(model.arch.vocab_size)) {
            to.extend_from_slice(row);
        }
    }
    all
}

/// Repeatable ids.
fn tokens(n: usize, key: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 13 + key) % 128) as u32).collect()
}

/// Six dispatches a block where its positions are one chunk, with the merge seven; under `--invariant` the products fuse less.
#[test]
fn a_step_takes_six_dispatches_a_block() {
    for (variant, longest, each) in [(Variant::Soft, 90usize, 6), (Variant::Tile, 90, 6), (Variant::Soft, 300, 7)] {
        let gpu = Gpu::with(&Options { variant: Some(variant), ..Options::default() }).unwrap();
        let model = model(&gpu);
        let heads = params::heads(&model.arch);
        let (pages, width) = (longest.div_ceil(PAGE), heads.kv_heads * heads.padded());
        let memory = || gpu.empty(pages * PAGE, width).unwrap();
        let arena: Vec<Arena> = model.arch.layers.iter().map(|_| Arena { keys: memory(), values: memory() }).collect();
        let rows = Rows {
            table: gpu.upload(1, pages, &(0..pages as u32).collect::<Vec<_>>()).unwrap(),
            pos: gpu.vector(&[5u32]).unwrap(),
            longest,
            window: u32::MAX,
            scale: None,
        };
        let turns = view::turns(&gpu, &model, &[longest as u32]).unwrap();
        let context = decoder::Context::Arena { arena: &arena, rows: &rows, turns: &turns };
        let mut rec = gpu.record();
        let x = decoder::embed(&mut rec, &model, &gpu.vector(&[1u32]).unwrap(), 1).unwrap();
        let before = rec.len();
        decoder::stack(&mut rec, &model, x, &context, drop).unwrap();
        assert_eq!(rec.len() - before, each * model.arch.num_hidden_layers, "{} {longest}", variant.name());
    }
}

#[test]
fn siblings_change_no_bit_of_a_text() {
    for variant in Variant::ALL {
        let gpu = Gpu::with(&Options { variant: Some(variant), invariant: true, ..Options::default() }).unwrap();
        let model = model(&gpu);
        let branch =
            |completions: &[Vec<u32>]| score::Branch { prompt: tokens(123, 1), completions: completions.to_vec() };
        let all: Vec<Vec<u32>> = [3, 147, 9, 140].iter().enumerate().map(|(k, n)| tokens(*n, k + 50)).collect();
        let scored = |b: score::Branch| score::logps(&gpu, &model, &[b], &Silent).unwrap().swap_remove(0);
        let together = scored(branch(&all));
        for (k, completion) in all.iter().enumerate() {
            let alone = scored(branch(std::slice::from_ref(completion)));
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&together[k]), bits(&alone[0]), "{}: completion {k}", variant.name());
        }
    }
}

#[test]
fn decoding_gives_the_bits_of_scoring() {
    // Nine sequences, so that products of few and of many rows both occur.
    let lengths = [300, 141, 130, 128, 40, 33, 32, 9, 3];
    let sequences: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(k, n)| tokens(*n, k)).collect();
    for variant in Variant::ALL {
        let options = Options { variant: Some(variant), invariant: true, ..Options::default() };
        let gpu = Gpu::with(&options).unwrap();
        let model = model(&gpu);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (decoded, sequence) in decoded(&gpu, &model, &sequences).iter().zip(&sequences) {
            let scored = score::logits(&gpu, &model, sequence).unwrap();
            let off = bits(decoded).iter().zip(bits(&scored)).filter(|(a, b)| **a != *b).count();
            assert_eq!(off, 0, "{}: {} tokens, {} logits", variant.name(), sequence.len(), scored.len());
        }
    }
}
