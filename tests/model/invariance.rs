//! With `invariant` the log-probs and the answers of short texts have the same bits alone and in three sizes of batch,
//! in ten small models; the `soft` kernels give them without it too, as long as a text is shorter than a partial sum
//! of attention. The orders of single kernels are held by their own cases.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::Silent;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::{Gpu, Options, Variant};
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use std::path::Path;

/// Texts of 2 to 60 tokens below `vocabulary`.
fn texts(n: usize, vocabulary: usize) -> Vec<score::Branch> {
    let ids =
        |i: usize, len: usize| (0..len).map(|k| ((i * 31 + k * k * 7 + k * 13 + 5) % vocabulary) as u32).collect();
    (0..n)
        .map(|i| score::Branch { prompt: ids(i, 1 + i * 5 % 23), completions: vec![ids(i + 7, 1 + i * 11 % 37)] })
        .collect()
}

#[test]
fn log_probs_do_not_depend_on_the_batch() {
    for (variant, invariant) in [(Variant::Soft, false), (Variant::Soft, true), (Variant::Tile, true)] {
        let gpu = Gpu::with(&Options::default().variant(Some(variant)).invariant(invariant)).unwrap();
        any_batch(&gpu, variant.name());
    }
}

fn any_batch(gpu: &Gpu, variant: &str) {
    let names = [
        "qwen3",
        "gemma2",
        "gemma3",
        "ministral3",
        "mistral",
        "phi3",
        "granite",
        "olmo3",
        "lfm2",
        "qwen3_5",
        "qwen3_moe",
        "olmoe",
        "gpt_oss",
    ];
    for name in names {
        let source = ModelSource::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap();
        let model = Model::load(gpu, &source).unwrap();
        let bits = |branches: &[score::Branch]| -> Vec<Vec<u32>> {
            let all = score::logps(gpu, &model, branches, &Silent).unwrap();
            all.iter().map(|b| b[0].iter().map(|x| x.to_bits()).collect()).collect()
        };
        let all = texts(33, source.arch.vocab_size);
        let alone: Vec<Vec<u32>> = all.iter().flat_map(|b| bits(std::slice::from_ref(b))).collect();
        for n in [7, 8, 33] {
            assert_eq!(bits(&all[..n]), alone[..n], "{variant} {name}: {n} texts together");
        }
        let requests: Vec<Request> = (0..)
            .zip(&all)
            .map(|(i, b)| Request { prompt: b.prompt.clone(), samples: vec![3 * i, 3 * i + 1] })
            .collect();
        let settings = Settings::default()
            .sampling(Sampling::default().temperature(1.3).top_p(0.95))
            .max_new_tokens(9)
            .stop(vec![1])
            .seed(4);
        let written = |requests: &[Request]| Generator::new(gpu, &model).run(requests, &settings).unwrap();
        let together = written(&requests);
        for i in [0, 7, 20, 32] {
            assert_eq!(written(&requests[i..i + 1])[0], together[i], "{variant} {name}: the answers to text {i}");
        }
        let turned: Vec<score::Branch> = all.iter().rev().cloned().collect();
        assert_eq!(
            bits(&turned),
            alone.iter().rev().cloned().collect::<Vec<_>>(),
            "{variant} {name}: the other way round"
        );
    }
}
