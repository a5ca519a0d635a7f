//! The world's model: shape, random start, folder, and the shipped seed weights M1.

use crate::model::{Arch, NamedTensor, Rope};
use crate::rng::{Stream, fnv};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

const CONFIG: &str = include_str!("m1/config.json");
const GENERATION_CONFIG: &str = include_str!("m1/generation_config.json");
const TOKENIZER: &str = include_str!("m1/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("m1/tokenizer_config.json");
const SEED_WEIGHTS: &[u8] = include_bytes!("m1/model.safetensors");

/// The shape of the world's model: a Llama of 197,184 parameters, equal to `src/world/m1/config.json`.
pub fn arch() -> Arch {
    let head_dim = 16;
    Arch {
        model_type: "llama".into(),
        vocab_size: 128,
        hidden_size: 64,
        intermediate_size: 160,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope: Rope {
            inv_freq: (0..head_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect(),
            scaling: 1.0,
        },
        tie_word_embeddings: true,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_window: None,
    }
}

/// Names and shapes of every parameter, `[out, in]`.
pub fn parameters() -> Vec<(String, Vec<usize>)> {
    let a = arch();
    let (d, f) = (a.hidden_size, a.intermediate_size);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![a.vocab_size, d])];
    for l in 0..a.num_hidden_layers {
        for (name, shape) in [
            ("input_layernorm", vec![d]),
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![d, d]),
            ("self_attn.v_proj", vec![d, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("post_attention_layernorm", vec![d]),
            ("mlp.gate_proj", vec![f, d]),
            ("mlp.up_proj", vec![f, d]),
            ("mlp.down_proj", vec![d, f]),
        ] {
            all.push((format!("model.layers.{l}.{name}.weight"), shape));
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![d]));
    all
}

/// Random weights: normal with variance 1 / fan-in, the two matrices that write into the residual stream smaller by
/// the root of twice the depth; gains 1. A parameter's numbers depend on seed and name only.
pub fn init(seed: u64) -> Vec<NamedTensor> {
    let depth = arch().num_hidden_layers as f32;
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
/// The embedded file is broken, which only a faulty build can cause.
pub fn seed_model() -> Result<Vec<NamedTensor>> {
    tensors_of(SEED_WEIGHTS, Path::new("src/world/m1/model.safetensors"))
}

/// Writes a model folder that transformers and this program load: config.json, generation_config.json,
/// tokenizer.json, tokenizer_config.json and model.safetensors. The folder appears whole or not at all.
///
/// # Errors
/// The folder exists already or cannot be written.
pub fn save(dir: &Path, tensors: &[NamedTensor]) -> Result<()> {
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|t| {
            TensorView::new(Dtype::F32, t.shape.clone(), bytemuck::cast_slice(&t.data))
                .map(|view| (t.name.as_str(), view))
                .map_err(|e| Error::Input(format!("tensor {}: {e}", t.name)))
        })
        .collect::<Result<_>>()?;
    let meta = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(views, Some(meta)).map_err(|e| Error::file(dir, e.to_string()))?;
    if dir.exists() {
        return Err(Error::file(dir, "exists already; name another folder or remove it"));
    }
    let part = dir.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(Error::io(&part))?;
    }
    std::fs::create_dir_all(&part).map_err(Error::io(&part))?;
    for (name, content) in [
        ("config.json", CONFIG.as_bytes()),
        ("generation_config.json", GENERATION_CONFIG.as_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes()),
        ("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes()),
        ("model.safetensors", &weights),
    ] {
        let path = part.join(name);
        std::fs::write(&path, content).map_err(Error::io(&path))?;
        std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io(&path))?;
    }
    std::fs::rename(&part, dir).map_err(Error::io(dir))
}

/// Reads the weights of a folder that [`save`] wrote.
///
/// # Errors
/// A missing or broken file, a tensor that is missing, misshapen or not f32.
pub fn load(dir: &Path) -> Result<Vec<NamedTensor>> {
    let path = dir.join("model.safetensors");
    tensors_of(&std::fs::read(&path).map_err(Error::io(&path))?, &path)
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
    fn size_and_config_agree() {
        let count: usize = parameters().iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(count, 197_184);
        let config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
        let a = arch();
        for (key, value) in [
            ("vocab_size", a.vocab_size),
            ("hidden_size", a.hidden_size),
            ("intermediate_size", a.intermediate_size),
            ("num_hidden_layers", a.num_hidden_layers),
            ("num_attention_heads", a.num_attention_heads),
            ("num_key_value_heads", a.num_key_value_heads),
            ("max_position_embeddings", a.max_position_embeddings),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
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
        assert!(save(&dir, &tensors).unwrap_err().to_string().contains("exists already"));
        std::fs::write(dir.join("model.safetensors"), b"short").unwrap();
        assert!(load(&dir).unwrap_err().to_string().contains("model.safetensors"));
    }

    #[test]
    fn shipped_weights_load() {
        assert_eq!(seed_model().unwrap().len(), parameters().len());
    }
}
