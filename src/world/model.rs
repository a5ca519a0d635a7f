//! The world's model: shape, random start, folder, and the shipped seed weights M1.

use crate::arch::{Arch, NamedTensor, family};
use crate::rng::{Stream, fnv};
use crate::source::ModelSource;
use crate::text::Text;
use crate::weights;
use crate::weights::ModelParts;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;

const CONFIG: &str = include_str!("m1/config.json");
const GENERATION_CONFIG: &str = include_str!("m1/generation_config.json");
const TOKENIZER: &str = include_str!("m1/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("m1/tokenizer_config.json");
/// The seed weights; None where the crate was built without them (feature `world`).
const SEED_WEIGHTS: Option<&[u8]> = {
    #[cfg(feature = "world")]
    {
        Some(include_bytes!("m1/model.safetensors"))
    }
    #[cfg(not(feature = "world"))]
    None
};

/// The shape of the world's model, a Llama of 197,184 parameters: `src/world/m1/config.json`.
#[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
pub fn arch() -> Arch {
    let config: serde_json::Value = serde_json::from_str(CONFIG).expect("the embedded config.json is JSON");
    family::arch(&config).expect("the embedded config.json is a Llama's")
}

/// Name and shape (`[out, in]`) of every parameter.
pub fn parameters() -> Vec<(String, Vec<usize>)> {
    family::parameters(&arch())
}

/// Random weights: normal, with variance 1 / fan-in; the two matrices of a block that write into the residual stream
/// are divided by the root of twice the depth, and gains are 1. A parameter's numbers depend on the seed and its name
/// only.
pub fn init(seed: u64) -> Vec<NamedTensor> {
    let depth = arch().layers.len() as f32;
    parameters()
        .into_iter()
        .map(|(name, shape)| {
            let len = shape.iter().product();
            let data = match shape[..] {
                [_, fan_in] => {
                    let mut std = (fan_in as f32).powf(-0.5);
                    if name.contains("o_proj") || name.contains("down_proj") {
                        std /= (2.0 * depth).sqrt();
                    }
                    let mut rng = Stream::new(seed, fnv(name.as_bytes()));
                    (0..len).map(|_| std * rng.normal()).collect()
                }
                _ => vec![1.0; len],
            };
            NamedTensor { name, shape, data }
        })
        .collect()
}

/// The shipped weights of M1, made by this program's own training (`demo --from-scratch`).
///
/// # Errors
/// The crate was built without the feature `world`; the embedded file is broken, which only a faulty build can cause.
pub fn seed_model() -> Result<Vec<NamedTensor>> {
    let none =
        "this build has no seed weights: build it with the feature world, or make them anew with demo --from-scratch";
    let bytes = SEED_WEIGHTS.ok_or_else(|| Error::Input(none.into()))?;
    tensors_of(bytes, Path::new("src/world/m1/model.safetensors"))
}

/// Writes a model folder that transformers and this program can load. The folder appears whole or not at all.
///
/// # Errors
/// The tensors are not those of the world's model, or the folder cannot be written.
pub fn save(dir: &Path, tensors: &[NamedTensor]) -> Result<()> {
    let json = |text: &str| serde_json::from_str(text).map_err(|e| Error::Bug(format!("embedded file: {e}")));
    let text = Text::from_json(TOKENIZER, json(TOKENIZER_CONFIG)?)?;
    let (config, generation_config) = (json(CONFIG)?, json(GENERATION_CONFIG)?);
    let parts = ModelParts {
        config: &config,
        generation_config: Some(&generation_config),
        text: Some(&text),
        tensors,
        dtype: crate::arch::Dtype::F32,
    };
    weights::save_model_parts(dir, &parts)
}

/// Reads the weights from a folder that [`save`] wrote.
///
/// # Errors
/// A file is missing or broken, or the model has another shape than the world's.
pub fn load(dir: &Path) -> Result<Vec<NamedTensor>> {
    let source = ModelSource::open(dir)?;
    if source.arch != arch() {
        return Err(Error::file(dir, "is not a model of the small world"));
    }
    source.tensors_f32()
}

fn tensors_of(bytes: &[u8], path: &Path) -> Result<Vec<NamedTensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::file(path, e.to_string()))?;
    parameters()
        .into_iter()
        .map(|(name, shape)| {
            let view = file.tensor(&name).map_err(|e| Error::file(path, format!("tensor {name}: {e}")))?;
            if view.shape() != shape || view.dtype() != Dtype::F32 {
                let got = format!("{:?} {:?}", view.dtype(), view.shape());
                return Err(Error::file(path, format!("tensor {name} is {got}, expected F32 {shape:?}")));
            }
            let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok(NamedTensor { name, shape, data })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_the_worlds() {
        let a = arch();
        let sizes = a.alike().unwrap();
        assert_eq!((a.vocab_size, a.hidden_size, sizes.width, a.layers.len()), (128, 64, 160, 4));
        assert_eq!((sizes.heads, sizes.kv_heads, sizes.head_dim), (4, 4, 16));
        assert!(a.tie_word_embeddings && a.ropes[0].inv_freq.len() == 8 && a.rms_norm_eps == 1e-5);
        let count: usize = parameters().iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(count, 197_184);
    }

    #[test]
    fn init_has_the_right_spread_and_is_seeded() {
        let a = init(1);
        assert_eq!(a, init(1));
        assert_ne!(a[0].data, init(2)[0].data);
        for t in &a {
            let rms = (t.data.iter().map(|x| f64::from(x * x)).sum::<f64>() / t.data.len() as f64).sqrt();
            let expected = match t.shape[..] {
                [_, fan] if t.name.contains("o_proj") || t.name.contains("down") => (fan as f64 * 8.0).powf(-0.5),
                [_, fan] => (fan as f64).powf(-0.5),
                _ => 1.0,
            };
            assert!((rms / expected - 1.0).abs() < 0.05, "{} {rms} {expected}", t.name);
        }
    }

    #[test]
    fn folders_read_back_bit_for_bit() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("M1");
        let tensors = init(5);
        save(&dir, &tensors).unwrap();
        assert_eq!(load(&dir).unwrap(), tensors);
        assert_eq!(ModelSource::open(&dir).unwrap().stop_ids, [2, 10]);
        std::fs::write(dir.join("model.safetensors"), b"short").unwrap();
        assert!(load(&dir).unwrap_err().to_string().contains("model.safetensors"));
    }

    #[test]
    fn shipped_weights_load() {
        assert_eq!(seed_model().unwrap().len(), parameters().len());
    }
}
