//! Models in GGUF's quantised blocks: what the kernels read in registers is what `f32` makes of the same file.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use selfreward::arch::Dtype;
use selfreward::arch::{NamedTensor, family};
use selfreward::gpu::{Gpu, Options};
use selfreward::model::{Model, score};
use selfreward::rng::Stream;
use selfreward::source::ModelSource;
use selfreward::train::sft::Example;
use selfreward::train::{Optimiser, Trainer};
use selfreward::weights::{ModelParts, save_gguf};
use selfreward_testing::models::{distance, greedy, lora, named_distance, own_and_wide};
use serde_json::{Value, json};
use std::path::Path;

/// The types of blocks.
fn types() -> Vec<Dtype> {
    Dtype::all().filter(|dtype| dtype.block().0 > 1).collect()
}

fn config() -> Value {
    json!({
        "model_type": "qwen2", "vocab_size": 37, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true
    })
}

/// Random blocks that fill `len` f32 values, every four bytes of which are a finite number.
fn blocks(dtype: Dtype, len: usize, seed: u64) -> Vec<f32> {
    let mut rng = Stream::new(seed, 0);
    let mut bytes: Vec<u8> = (0..len).flat_map(|_| rng.bits().to_le_bytes()).collect();
    bytes.iter_mut().skip(3).step_by(4).for_each(|b| *b &= 0x3f);
    // The high bytes of f16 scales and minima: some 2^-9 and -2^-7, where sub-scales multiply them 2^-14.
    let (at, high): (&[usize], _) = match dtype {
        Dtype::Q4_1 | Dtype::Q5_1 => (&[1, 3], [0x18, 0xa0]),
        Dtype::Q4K | Dtype::Q5K => (&[1, 3], [0x04; 2]),
        Dtype::Q6K => (&[209], [0x04; 2]),
        Dtype::Q2K => (&[81, 83], [0x10, 0x0c]),
        Dtype::Q3K => (&[109], [0x0c; 2]),
        // The scale itself: 2^-10.
        Dtype::Mxfp4 => (&[0], [117; 2]),
        _ => (&[1], [0x18; 2]),
    };
    for block in bytes.chunks_exact_mut(dtype.block().1) {
        at.iter().zip(high).for_each(|(i, byte)| block[*i] = byte);
    }
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A model whose matrices are of these types in turn; an F32 matrix is
/// longer than any in blocks, so its place holds them.
fn model(path: &Path, kinds: &[Dtype]) -> ModelSource {
    let config = config();
    let parameters = family::parameters(&family::arch(&config).unwrap());
    let matrices: Vec<usize> = (0..parameters.len()).filter(|i| parameters[*i].1.len() == 2).collect();
    let kind = |i: usize| matrices.iter().position(|m| *m == i).map(|nth| kinds[nth % kinds.len()]);
    let one = |(i, (name, shape)): (usize, &(String, Vec<usize>))| {
        let n: usize = shape.iter().product();
        let data = match kind(i) {
            Some(dtype) => blocks(dtype, n, i as u64),
            None => (0..n).map(|j| 1.0 + ((i * 31 + j * 7) % 89) as f32 / 890.0).collect(),
        };
        NamedTensor { name: name.clone(), shape: shape.clone(), data }
    };
    let tensors: Vec<NamedTensor> = parameters.iter().enumerate().map(one).collect();
    let parts =
        ModelParts { config: &config, generation_config: None, text: None, tensors: &tensors, dtype: Dtype::F32 };
    save_gguf(path, &parts).unwrap();
    let mut file = std::fs::read(path).unwrap();
    for i in &matrices {
        let (hf, _) = &parameters[*i];
        let gguf = hf
            .replace("model.embed_tokens", "token_embd")
            .replace("model.layers.", "blk.")
            .replace("self_attn.o_proj", "attn_output")
            .replace("self_attn.", "attn_")
            .replace("mlp.", "ffn_")
            .replace("_proj", "");
        let at = file.windows(gguf.len()).position(|w| w == gguf.as_bytes()).unwrap() + gguf.len() + 4 + 2 * 8;
        file[at..at + 4].copy_from_slice(&kind(*i).unwrap().gguf().to_le_bytes());
    }
    std::fs::write(path, file).unwrap();
    ModelSource::open(path).unwrap()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 5 + i * 11 + 3) % 37) as u32).collect()
}

#[test]
fn blocks_in_registers_are_the_file_in_f32() {
    let gpu = Gpu::with(&Options::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let all = types();
    let alone = all.iter().map(std::slice::from_ref);
    let mixed: [&[Dtype]; 2] = [&all, &[Dtype::Q4K, Dtype::Q6K]];
    for kinds in alone.chain(mixed) {
        let names: Vec<&str> = kinds.iter().map(|dtype| dtype.name()).collect();
        let source = model(&dir.path().join(format!("{}.gguf", names.join("-"))), kinds);
        let (own, wide) = own_and_wide(&gpu, &source, 0.4);
        // Up to 8 rows and more go by different texts.
        for rows in [3, 23] {
            let logits = |m: &Model| score::logits(&gpu, m, &ids(rows)).unwrap();
            let far = distance(std::iter::once((&logits(&own)[..], &logits(&wide)[..])));
            assert!(far < 1e-5, "{names:?}: logits {far:.1e} apart at {rows} rows");
        }
        assert_eq!(greedy(&gpu, &own, ids(9)), greedy(&gpu, &wide, ids(9)), "{names:?}: what is generated");

        let adapter = lora(&source);
        let gradients = |model: Model| {
            let model = model.with_adapter(&gpu, Some(&adapter)).unwrap();
            let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
            let example = Example::new(ids(5), ids(7));
            trainer.sft_step(&[(&[example], 1.0)], 1e-3).unwrap();
            trainer.gradients().unwrap()
        };
        let far = named_distance(&gradients(own), &gradients(wide));
        assert!(far < 2e-5, "{names:?}: gradients {far:.1e} apart");
    }
}
