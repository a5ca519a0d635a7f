//! With invariant sums a token's logits have the same bits whether it was decoded or scored, alone or beside siblings;
//! so answers do not depend on how many are written at once, nor on what else begins alike.

use super::sequences::Sequences;
use super::{Generator, Output, Request, Room, Sampling, Settings, load_for, schedule};
use crate::arch::{Mixer, Stretch};
use crate::gpu::{Gpu, Options, Part, Variant};
use crate::kernels::arena::{KvType, PAGE, Rows};
use crate::kernels::scores::Scores;
use crate::model::context::{Context, Past};
use crate::model::{Model, Storage, decoder, head, score, view};
use crate::source::ModelSource;
use crate::world;
use crate::{Error, Silent};
use std::path::Path;

/// A small model with a windowed block, whose context spans several chunks of the attention.
fn model(gpu: &Gpu) -> Model {
    let mut arch = world::arch();
    arch.max_position_embeddings = 512;
    let Mixer::Attention(attention) = &mut arch.layers[1].mixer else { unreachable!() };
    attention.window = Some(150);
    Model::from_tensors(gpu, &arch, world::model::init(3)).unwrap()
}

/// Prompts many of which begin alike: several with the same two pages and more, one that is just these two pages, and
/// one that occurs twice.
fn alike() -> Vec<Request> {
    let beginning = tokens(70, 5);
    let prompt = |n: usize, rest: usize, key: usize| [&beginning[..n], &tokens(rest, key)].concat();
    let prompts = [
        prompt(70, 9, 1),
        prompt(64, 3, 2),
        tokens(40, 7),
        prompt(64, 0, 0),
        prompt(70, 9, 1),
        prompt(33, 60, 3),
        prompt(65, 45, 4),
        prompt(70, 130, 6),
        tokens(1, 9),
        prompt(70, 9, 8),
    ];
    let samples = |i: u64| (0..1 + i % 3).map(|s| 10 * i + s).collect();
    (0..).zip(prompts).map(|(i, prompt)| Request { prompt, samples: samples(i) }).collect()
}

fn settings(max_new_tokens: usize) -> Settings {
    let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
    Settings { sampling, max_new_tokens, stop: vec![7, 9], seed: 5, choices: vec![] }
}

/// Answers with at most `sequences` at once, at most `tokens` of prompts in a pass and an arena of `pages`.
fn answers(
    gpu: &Gpu,
    model: &Model,
    (requests, settings): (&[Request], &Settings),
    (sequences, tokens, pages, kv): (usize, usize, usize, KvType),
) -> Vec<Vec<Output>> {
    let most = Room { sequences, tokens, pages, kv };
    let sequences = Sequences::new(model, requests, settings).unwrap();
    let room = sequences.room(most.sequences, &most);
    schedule::run(gpu, model, sequences, &room, &Silent, &mut |_, _, _| {}).unwrap()
}

#[test]
fn answers_do_not_depend_on_how_many_are_written_at_once() {
    let requests = alike();
    let (f32, f16) = (KvType::F32, KvType::F16);
    for (variant, dynamic, kv) in [
        (Variant::Soft, false, f32),
        (Variant::Tile, true, f32),
        (Variant::Soft, true, f16),
        (Variant::Tile, false, f16),
    ] {
        let gpu = Gpu::with(&Options { variant: Some(variant), invariant: true, ..Options::default() }).unwrap();
        let mut model = model(&gpu);
        if dynamic {
            // With dynamic rope, prompts that begin alike have other angles if their answers may end elsewhere.
            model.arch.ropes[0].stretch = Stretch::Dynamic { theta: 1e4, factor: 2.0, original: 128 };
        }
        let settings = settings(40);
        let alone: Vec<Vec<Output>> = requests
            .iter()
            .map(|r| {
                let one = std::slice::from_ref(r);
                Generator::new(&gpu, &model).kv(kv).run(one, &settings).unwrap().swap_remove(0)
            })
            .collect();
        let lengths: Vec<usize> = alone.iter().flatten().map(|o| o.tokens.len()).collect();
        assert!(lengths.iter().any(|n| *n < 12) && lengths.contains(&40), "{lengths:?}");
        // All at once; few, in many passes; as many as an arena of few pages holds.
        for room in [(64, 16_384, 1000, kv), (4, 150, 1000, kv), (9, 16_384, 12, kv)] {
            let got = answers(&gpu, &model, (&requests, &settings), room);
            for (i, (got, want)) in got.iter().zip(&alone).enumerate() {
                assert_eq!(got, want, "{}: request {i}, (sequences, tokens, pages, kv) {room:?}", variant.name());
            }
        }
    }
}

#[test]
fn what_prompts_begin_with_is_computed_once() {
    let gpu = Gpu::with(&Options { variant: Some(Variant::Soft), ..Options::default() }).unwrap();
    let model = model(&gpu);
    let requests: Vec<Request> = (0..8)
        .map(|i| Request { prompt: [tokens(256, 1), tokens(16, 60 + i)].concat(), samples: vec![i as u64] })
        .collect();
    let flops = |requests: &[Request], room| {
        // The first run also tunes the kernels.
        answers(&gpu, &model, (requests, &settings(1)), room);
        let before = gpu.work().flops;
        answers(&gpu, &model, (requests, &settings(1)), room);
        gpu.work().flops - before
    };
    let one = flops(&requests[..1], (1, 16_384, 1000, KvType::F32));
    // In one pass; then one after another, where the first one's pages stay known though nobody holds them.
    for room in [(8, 16_384, 1000, KvType::F32), (1, 16_384, 1000, KvType::F32)] {
        let all = flops(&requests, room);
        // 16 of a prompt's 272 tokens are its own; their attention to the beginning and the logits come on top.
        assert!(all > one * 1.3 && all < one * 2.0, "{room:?}: {all:e} for eight, {one:e} for one");
    }
    let few = flops(&requests, (8, 16_384, 9, KvType::F32));
    assert!(few < one * 2.0, "an arena of one sequence: {few:e} for eight, {one:e} for one");
}

/// Logits `[token][V]` of each sequence: its tokens are fed one by one, beside those of all others that are long
/// enough.
fn decoded(gpu: &Gpu, model: &Model, sequences: &[Vec<u32>], kv: KvType) -> Vec<Vec<f32>> {
    let pages = sequences[0].len().div_ceil(PAGE);
    let memory = super::memory(gpu, model, (sequences.len() * pages, 0), kv).unwrap();
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
            scores: Scores::default(),
            sinks: None,
        };
        let token = gpu.vector(&sequences[..running].iter().map(|s| s[at]).collect::<Vec<_>>()).unwrap();
        let context = Context::Arena(Past::apart(&memory, &rows, &turns, None));
        let mut rec = gpu.record();
        let x = decoder::embed(&mut rec, model, &token, running).unwrap();
        let stream = decoder::stack(&mut rec, model, x, &context, drop).unwrap();
        let norm = head::final_norm(&mut rec, model, &stream).unwrap();
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

/// Six dispatches a block while its positions fit one chunk, seven with the merge of chunks. Under `--invariant` fewer
/// products are fused.
#[test]
fn a_step_takes_six_dispatches_a_block() {
    for (variant, longest, each) in [(Variant::Soft, 90usize, 6), (Variant::Tile, 90, 6), (Variant::Soft, 300, 7)] {
        let gpu = Gpu::with(&Options { variant: Some(variant), ..Options::default() }).unwrap();
        let model = model(&gpu);
        let pages = longest.div_ceil(PAGE);
        let memory = super::memory(&gpu, &model, (pages, 0), KvType::F32).unwrap();
        let rows = Rows {
            table: gpu.upload(1, pages, &(0..pages as u32).collect::<Vec<_>>()).unwrap(),
            pos: gpu.vector(&[5u32]).unwrap(),
            longest,
            window: u32::MAX,
            scores: Scores::default(),
            sinks: None,
        };
        let turns = view::turns(&gpu, &model, &[longest as u32]).unwrap();
        let context = Context::Arena(Past::apart(&memory, &rows, &turns, None));
        let mut rec = gpu.record();
        let x = decoder::embed(&mut rec, &model, &gpu.vector(&[1u32]).unwrap(), 1).unwrap();
        let before = rec.len();
        decoder::stack(&mut rec, &model, x, &context, drop).unwrap();
        assert_eq!(rec.len() - before, each * model.arch.layers.len(), "{} {longest}", variant.name());
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
    // Nine sequences, so that both the product of few rows and that of many rows occur.
    let lengths = [300, 141, 130, 128, 40, 33, 32, 9, 3];
    let sequences: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(k, n)| tokens(*n, k)).collect();
    for variant in Variant::ALL {
        let options = Options { variant: Some(variant), invariant: true, ..Options::default() };
        let gpu = Gpu::with(&options).unwrap();
        let model = model(&gpu);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (decoded, sequence) in decoded(&gpu, &model, &sequences, KvType::F32).iter().zip(&sequences) {
            let scored = score::logits(&gpu, &model, sequence).unwrap();
            let off = bits(decoded).iter().zip(bits(&scored)).filter(|(a, b)| **a != *b).count();
            assert_eq!(off, 0, "{}: {} tokens, {} logits", variant.name(), sequence.len(), scored.len());
        }
    }
}

/// The largest and the mean difference of the log-probs that keys and values in f16 give to every token of the
/// vocabulary after each token of a text.
fn error_of_f16(gpu: &Gpu, model: &Model, text: &[u32]) -> (f64, f64) {
    let logps = |kv| -> Vec<f64> {
        let rows = decoded(gpu, model, &[text.to_vec()], kv).swap_remove(0);
        let one = |row: &[f32]| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
            row.iter().map(|x| f64::from(x - top) - sum.ln()).collect::<Vec<_>>()
        };
        rows.chunks_exact(model.arch.vocab_size).flat_map(one).collect()
    };
    let (exact, kept) = (logps(KvType::F32), logps(KvType::F16));
    let errors = || exact.iter().zip(&kept).map(|(a, b)| (a - b).abs());
    (errors().fold(0.0, f64::max), errors().sum::<f64>() / exact.len() as f64)
}

#[test]
fn keys_and_values_in_f16_take_half_and_change_little() {
    for variant in Variant::ALL {
        let gpu = Gpu::with(&Options { variant: Some(variant), ..Options::default() }).unwrap();
        let model = model(&gpu);
        let (most, mean) = error_of_f16(&gpu, &model, &tokens(60, 3));
        assert!(most > 0.0 && most < 1e-2 && mean < 1e-3, "{}: {most} at most, {mean} on the mean", variant.name());
        let held = |kv| {
            // There no buffer is reused, which may be larger than what is asked for.
            let counted = gpu.counting(None);
            let like = model.like(&counted).unwrap();
            Generator::new(&counted, &like).kv(kv).run(&[Request::new(tokens(100, 1), 2)], &settings(20)).unwrap();
            counted.peak().held().find(|(part, _)| *part == Part::Arena).map_or(0, |(_, bytes)| bytes)
        };
        let [f32, f16] = KvType::ALL.map(held);
        assert_eq!(f32, 2 * f16, "{}", variant.name());
    }
}

/// What docs/NUMERICS.md says of a real model, whose folder or file MODEL names.
#[test]
#[ignore = "needs a model"]
#[expect(clippy::print_stderr, reason = "the numbers are what it is run for")]
fn keys_and_values_in_f16_on_a_real_model() {
    let path = std::env::var("MODEL").expect("MODEL names a model");
    let source = ModelSource::open(path.as_ref()).unwrap();
    let gpu = Gpu::open(None, None).unwrap();
    let model = Model::load(&gpu, &source).unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let ids = source.text().unwrap().encode(&text).unwrap();
    let (most, mean) = error_of_f16(&gpu, &model, &ids[..256]);
    eprintln!("{path}: log-probs differ by {most:.1e} at most, by {mean:.1e} on the mean");
    assert!(most < 0.1, "{most}");
}

/// Shaders read the logits of both choices, so their ids are checked as those of prompts are.
#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let gpu = Gpu::open(None, None).unwrap();
    let model = model(&gpu);
    let vocabulary = model.arch().vocab_size as u32;
    let generator = Generator::new(&gpu, &model);
    let request = |prompt: &[u32]| [Request::new(prompt.to_vec(), 1)];
    let choosing = |choice| Settings { choices: vec![choice], ..settings(1) };
    for (requests, settings, says) in [
        (request(&[vocabulary]), settings(1), "prompt 0: token id"),
        (request(&[]), settings(1), "prompt 0 is empty"),
        (request(&[1]), choosing([1, vocabulary]), "a choice: token id"),
    ] {
        for refused in [
            Generator::new(&gpu, &model).run(&requests, &settings).map(drop),
            generator.at_once(&requests, &settings).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Input(_)) && error.to_string().contains(says), "{error}");
        }
    }
}

/// What is made while the weights are loaded is all that the answers need.
#[test]
fn a_model_loaded_for_answers_has_their_pipelines() {
    let source = ModelSource::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama")).unwrap();
    let requests: Vec<Request> = (0..5).map(|i| Request::new(vec![1 + i; 3 + 2 * i as usize], 2)).collect();
    let settings = Settings { max_new_tokens: 40, ..Settings::default() };
    // Once before, so that nothing is left to be tuned.
    let gpu = Gpu::open(None, None).unwrap();
    let want = Generator::new(&gpu, &Model::load(&gpu, &source).unwrap()).run(&requests, &settings).unwrap();
    let gpu = Gpu::open(None, None).unwrap();
    let model = load_for(&gpu, &source, Storage::Own, (&requests, &settings, KvType::F32)).unwrap();
    let made = gpu.pipelines().len();
    assert!(made > 10, "{made}");
    assert_eq!(Generator::new(&gpu, &model).run(&requests, &settings).unwrap(), want);
    assert_eq!(gpu.pipelines().len(), made);
}
