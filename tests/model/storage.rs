//! How weights lie in memory: cut into several buffers, and in 16 bits.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::arch::Dtype;
use selfreward::arch::{Arch, NamedTensor, family};
use selfreward::gpu::{Gpu, Options};
use selfreward::kernels::half::Half;
use selfreward::model::{Model, Storage, score};
use selfreward::rng::Stream;
use selfreward::source::ModelSource;
use selfreward::train::sft::Example;
use selfreward::train::{Optimiser, Trainer};
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use selfreward::world;
use selfreward_testing::models::{distance, greedy, lora, named_distance, own_and_wide};
use std::path::Path;

fn golden(name: &str) -> ModelSource {
    ModelSource::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn open(block: Option<u64>) -> Gpu {
    Gpu::with(&Options::default().block(block)).unwrap()
}

fn ids(n: usize, key: usize, vocabulary: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 5 + i * 11 + key * 17 + 3) % vocabulary) as u32).collect()
}

fn examples(vocabulary: usize) -> Vec<Example> {
    (0..6).map(|k| Example::new(ids(3 + k, k, vocabulary), ids(2 + k * 3, k + 9, vocabulary))).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn logits(gpu: &Gpu, model: &Model) -> Vec<f32> {
    score::logits(gpu, model, &ids(23, 1, model.arch().vocab_size)).unwrap()
}

/// Losses of `steps` SFT steps, the first gradients and the weights that result.
fn trained(trainer: &mut Trainer, gpu: &Gpu, steps: usize) -> (Vec<f64>, Vec<NamedTensor>, Vec<NamedTensor>) {
    let data = examples(trainer.model().arch().vocab_size);
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for step in 0..steps {
        losses.push(trainer.sft_step(&[(&data, 1.0)], 3e-3).unwrap().loss);
        if step == 0 {
            first = trainer.gradients().unwrap();
        }
    }
    let weights = match trainer.model().adapter(gpu).unwrap() {
        Some(adapter) => adapter.tensors,
        None => trainer.model().tensors(gpu).unwrap(),
    };
    (losses, first, weights)
}

#[test]
fn matrices_in_several_buffers_give_the_same_numbers() {
    let (whole, cut) = (open(None), open(Some(3072)));
    for name in ["tied", "llama", "gemma3", "phi3"] {
        let source = golden(name);
        let load = |gpu: &Gpu, storage| Model::load_as(gpu, &source, storage).unwrap();
        for storage in [Storage::F32, Storage::Half(Half::Bf16)] {
            let (a, b) = (logits(&cut, &load(&cut, storage)), logits(&whole, &load(&whole, storage)));
            assert_eq!(bits(&a), bits(&b), "{name}: logits with {storage:?}");
        }
        for adapter in [None, Some(lora(&source))] {
            let run = |gpu: &Gpu| {
                let model = load(gpu, Storage::F32).with_adapter(gpu, adapter.as_ref()).unwrap();
                let mut trainer = Trainer::new(gpu, model, Optimiser::default()).unwrap();
                let all = trained(&mut trainer, gpu, 3);
                let dir = tempfile::tempdir().unwrap();
                trainer.save_state(dir.path()).unwrap();
                let before = logits(gpu, trainer.model());
                trained(&mut trainer, gpu, 1);
                trainer.load_state(dir.path()).unwrap();
                assert_eq!(bits(&logits(gpu, trainer.model())), bits(&before), "{name}: a state read back");
                all
            };
            let (a, b) = (run(&cut), run(&whole));
            let far = named_distance(&a.1, &b.1);
            assert!(far < 1e-6, "{name}: gradients {far:.1e} apart");
            // Adam divides by the size of a gradient, so that of a vanishing one its last bits decide the step.
            let far = named_distance(&a.2, &b.2);
            assert!(far < 1e-4, "{name}: weights after three steps {far:.1e} apart");
        }
    }
}

/// The norms of DoRA over an embedding are put together of those over the tokens of each buffer.
#[test]
fn dora_over_an_embedding_in_several_buffers_gives_the_same_numbers() {
    let (whole, cut) = (open(None), open(Some(4096)));
    for name in ["dora_outer", "dora_tied", "dora_quantised"] {
        let source = golden(&format!("lora/{name}"));
        let [a, b] = [&cut, &whole].map(|gpu| logits(gpu, &Model::load(gpu, &source).unwrap()));
        let far = distance([(&a[..], &b[..])].into_iter());
        assert!(far < 1e-5, "{name}: {far:.1e} apart");
    }
}

/// The shipped model of the small world in a file of another type.
fn shipped(dtype: Dtype) -> (tempfile::TempDir, ModelSource) {
    let dir = tempfile::tempdir().unwrap();
    world::model::save(&dir.path().join("f32"), &world::model::seed_model().unwrap()).unwrap();
    let source = ModelSource::open(&dir.path().join("f32")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let parts = ModelParts { config: &source.config, generation_config: None, text: None, tensors: &tensors, dtype };
    let path = match dtype {
        Dtype::Q8_0 => dir.path().join("model.gguf"),
        _ => dir.path().join(dtype.name()),
    };
    match dtype {
        Dtype::Q8_0 => assert_eq!(save_gguf(&path, &parts).unwrap(), Vec::<String>::new()),
        _ => save_model_parts(&path, &parts).unwrap(),
    }
    let source = ModelSource::open(&path).unwrap();
    (dir, source)
}

#[test]
fn a_16_bit_file_keeps_its_bits_and_half_the_memory() {
    let gpu = open(None);
    for dtype in [Dtype::BF16, Dtype::F16] {
        let (_dir, source) = shipped(dtype);
        let (own, wide) = own_and_wide(&gpu, &source, 0.6);
        assert_eq!(bits(&logits(&gpu, &own)), bits(&logits(&gpu, &wide)), "{dtype}");
    }
}

#[test]
fn adapters_train_on_bases_in_fewer_bits() {
    let gpu = open(None);
    for (dtype, most) in [(Dtype::BF16, 0.0), (Dtype::F16, 0.0), (Dtype::Q8_0, 1e-5)] {
        let (_dir, source) = shipped(dtype);
        let adapter = lora(&source);
        let run = |storage| {
            let model = Model::load_as(&gpu, &source, storage).unwrap().with_adapter(&gpu, Some(&adapter)).unwrap();
            trained(&mut Trainer::new(&gpu, model, Optimiser::default()).unwrap(), &gpu, 2)
        };
        let far = named_distance(&run(Storage::Own).1, &run(Storage::F32).1);
        assert!(far <= most, "{dtype}: gradients {far:.1e} from those on the dequantised base");
    }
}

/// In every type of the weights, generated and scored; and adapters on those that are not f32, whose
/// gradients go through each buffer turned around.
#[test]
fn matrices_in_fewer_bits_and_several_buffers_give_the_same_numbers() {
    let (whole, cut) = (open(None), open(Some(16 << 10)));
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::Q8_0] {
        let (_dir, source) = shipped(dtype);
        let adapter = lora(&source);
        let load = |gpu: &Gpu| Model::load(gpu, &source).unwrap();
        let (a, b) = (load(&cut), load(&whole));
        assert_eq!(bits(&logits(&cut, &a)), bits(&logits(&whole, &b)), "{dtype}: logits");
        assert_eq!(
            greedy(&cut, &a, ids(9, 2, a.arch().vocab_size)),
            greedy(&whole, &b, ids(9, 2, b.arch().vocab_size)),
            "{dtype}: what is generated"
        );
        let run = |gpu: &Gpu, model: Model| {
            let model = model.with_adapter(gpu, Some(&adapter)).unwrap();
            trained(&mut Trainer::new(gpu, model, Optimiser::default()).unwrap(), gpu, 1).1
        };
        let far = named_distance(&run(&cut, a), &run(&whole, b));
        assert!(far < 1e-6, "{dtype}: gradients {far:.1e} apart");
    }
}

/// The tolerances that docs/NUMERICS.md states for weights rounded to 16 bits: logits, gradients, a loss.
const ROUNDED: [(Half, [f64; 3]); 2] = [(Half::Bf16, [2e-2, 5e-2, 1e-2]), (Half::F16, [3e-3, 1e-2, 2e-3])];

#[test]
fn rounded_weights_stay_within_their_tolerances() {
    let gpu = open(None);
    for name in ["tied", "llama", "qwen3", "gemma2", "gemma3", "ministral3", "mistral", "phi3", "smollm3"] {
        let source = golden(name);
        let load = |storage| Model::load_as(&gpu, &source, storage).unwrap();
        let exact = logits(&gpu, &load(Storage::F32));
        let train = |half: Option<Half>| {
            let mut trainer = Trainer::new(&gpu, load(Storage::F32), Optimiser::default()).unwrap();
            if let Some(half) = half {
                trainer.read_half(half).unwrap();
            }
            let all = trained(&mut trainer, &gpu, 8);
            (all.0, all.1)
        };
        let (losses, gradients) = train(None);
        for (half, [by_logits, by_gradients, by_loss]) in ROUNDED {
            let rounded = logits(&gpu, &load(Storage::Half(half)));
            let far = distance([(&rounded[..], &exact[..])].into_iter());
            assert!(far > 1e-6 && far < by_logits, "{name} {}: logits {far:.1e}", half.name());
            let (l, g) = train(Some(half));
            let far = named_distance(&g, &gradients);
            assert!(far > 1e-6 && far < by_gradients, "{name} {}: gradients {far:.1e}", half.name());
            for (step, (a, b)) in l.iter().zip(&losses).enumerate() {
                assert!((a - b).abs() < by_loss * b, "{name} {}: loss {a}, in f32 {b}, step {step}", half.name());
            }
        }
    }
}

#[test]
fn training_with_rounded_weights_goes_on_from_a_state_bit_for_bit() {
    let gpu = open(None);
    let source = golden("llama");
    let trainer = || {
        let model = Model::load_as(&gpu, &source, Storage::F32).unwrap();
        let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
        trainer.read_half(Half::Bf16).unwrap();
        trainer
    };
    let mut whole = trainer();
    let losses = trained(&mut whole, &gpu, 6).0;
    let (mut first, mut second) = (trainer(), trainer());
    trained(&mut first, &gpu, 3);
    let dir = tempfile::tempdir().unwrap();
    first.save_state(dir.path()).unwrap();
    second.load_state(dir.path()).unwrap();
    let (rest, _, weights) = trained(&mut second, &gpu, 3);
    assert_eq!(rest, losses[3..]);
    assert_eq!(weights, whole.model().tensors(&gpu).unwrap());
}

#[test]
fn what_f16_cannot_hold_is_named() {
    let gpu = open(None);
    let (dir, source) = shipped(Dtype::F32);
    let mut tensors = source.tensors_f32().unwrap();
    let matrix = tensors.iter_mut().find(|t| t.shape.len() == 2).unwrap();
    matrix.data[5] = 7e4;
    let name = matrix.name.clone();
    let parts = ModelParts {
        config: &source.config,
        generation_config: None,
        text: None,
        tensors: &tensors,
        dtype: Dtype::F32,
    };
    save_model_parts(&dir.path().join("big"), &parts).unwrap();
    let big = ModelSource::open(&dir.path().join("big")).unwrap();
    let error = Model::load_as(&gpu, &big, Storage::Half(Half::F16)).err().unwrap().to_string();
    assert!(error.contains(&name) && error.contains("bf16"), "{error}");
    assert!(Model::load_as(&gpu, &big, Storage::Half(Half::Bf16)).is_ok());
}

/// Under WebGPU's limits, with an embedding above the 128 MiB of one binding. A model of a few of its tokens fits one
/// buffer, and its logits are those of the large model at these tokens, bit for bit.
#[test]
fn an_embedding_above_a_binding_computes_under_webgpus_limits() {
    let gpu = Gpu::with(&Options::default().webgpu_limits(true)).unwrap();
    assert_eq!(gpu.max_binding_bytes(), 128 << 20);
    let mut arch = world::arch();
    (arch.hidden_size, arch.vocab_size) = (512, 70_001);
    arch.layers.truncate(1);
    assert!(4 * arch.hidden_size * arch.vocab_size > 128 << 20);
    let mut rng = Stream::new(1, 0);
    let mut next = || (rng.uniform() - 0.5) * 0.1;
    let tensors: Vec<NamedTensor> = family::parameters(&arch)
        .into_iter()
        .map(|(name, shape)| NamedTensor { data: (0..shape.iter().product()).map(|_| next()).collect(), name, shape })
        .collect();
    // From both buffers, and about the border between them.
    let kept = [0u32, 17, 65_471, 65_472, 65_535, 65_536, 65_537, 69_998, 70_000];
    let few: Vec<NamedTensor> = tensors
        .iter()
        .map(|t| match t.name.as_str() {
            "model.embed_tokens.weight" => {
                let row = |v: &u32| t.data[*v as usize * arch.hidden_size..][..arch.hidden_size].to_vec();
                let shape = vec![kept.len(), arch.hidden_size];
                NamedTensor { name: t.name.clone(), shape, data: kept.iter().flat_map(row).collect() }
            }
            _ => t.clone(),
        })
        .collect();
    let small_arch = Arch { vocab_size: kept.len(), ..arch.clone() };
    let small = Model::from_tensors(&gpu, &small_arch, few).unwrap();
    let large = Model::from_tensors(&gpu, &arch, tensors).unwrap();
    let want = score::logits(&gpu, &small, &(0..kept.len() as u32).collect::<Vec<_>>()).unwrap();
    let got = score::logits(&gpu, &large, &kept).unwrap();
    for (row, want) in got.chunks_exact(arch.vocab_size).zip(want.chunks_exact(kept.len())) {
        let got: Vec<f32> = kept.iter().map(|v| row[*v as usize]).collect();
        assert_eq!(bits(&got), bits(want));
    }
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a))).unwrap() as u32;
    assert_eq!(greedy(&gpu, &large, kept.to_vec())[0], best(&got[(kept.len() - 1) * arch.vocab_size..]));
    // A step moves the tokens that it trains on, in both buffers.
    let mut trainer = Trainer::new(&gpu, large, Optimiser::default()).unwrap();
    let data = [Example::new(kept[..3].to_vec(), kept[3..].to_vec())];
    let losses: Vec<f64> = (0..3).map(|_| trainer.sft_step(&[(&data, 1.0)], 1e-2).unwrap().loss).collect();
    assert!((losses[0] - (arch.vocab_size as f64).ln()).abs() < 1.0 && losses[2] < losses[0] - 0.5, "{losses:?}");
}

/// torch's Embedding gives the padding token's lookup no gradient; an untied model's row of it stays where it is.
#[test]
fn the_padding_tokens_embedding_is_not_trained() {
    let gpu = open(None);
    let mut source = golden("llama");
    assert!(!source.arch.tie_word_embeddings);
    for pad in [None, Some(3)] {
        source.arch.pad_token_id = pad;
        let model = Model::load_as(&gpu, &source, Storage::F32).unwrap();
        let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
        let data = [Example::new(vec![5, 3, 7], vec![3, 9])];
        trainer.sft_step(&[(&data, 1.0)], 1e-3).unwrap();
        let gradients = trainer.gradients().unwrap();
        let embedding = gradients.iter().find(|t| t.name == "model.embed_tokens.weight").unwrap();
        let moves = |token: usize| {
            let d = source.arch.hidden_size;
            embedding.data[token * d..(token + 1) * d].iter().any(|x| *x != 0.0)
        };
        assert_eq!([moves(3), moves(5), moves(7)], [pad.is_none(), true, true], "pad {pad:?}");
    }
}
