//! Quantising, held to the errors of llama.cpp's quantisers, which `benches/peers/src/bin/llama_quants.rs` measured.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use std::path::Path;

use selfreward::arch::Dtype;
use selfreward::rng::{Stream, fnv};
use selfreward::source::ModelSource;
use selfreward::weights::{GgufParts, GgufTypes, write_gguf};
use serde_json::Value;

/// The types that [`Dtype::encode`] quantises to.
const QUANTISED: [Dtype; 8] =
    [Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q8_0, Dtype::Q4K, Dtype::Q5K, Dtype::Q6K];

fn back(dtype: Dtype, values: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    dtype.dequantise(&dtype.encode(values).unwrap(), &mut out);
    assert_eq!(out.len(), values.len());
    out
}

fn error(dtype: Dtype, values: &[f32]) -> f64 {
    let off = back(dtype, values).into_iter().zip(values).map(|(got, want)| f64::from(got) - f64::from(*want));
    (off.map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

/// 64 rows of 1,024, as `llama_quants` makes them.
fn matrix(id: u64, outliers: bool) -> Vec<f32> {
    let mut draw = Stream::new(22, id);
    let mut one = || {
        let sum = (draw.uniform() + draw.uniform()) + (draw.uniform() + draw.uniform()) - 2.0;
        if outliers { 0.0625 * sum / (0.0625 + draw.uniform()) } else { 0.0625 * sum }
    };
    (0..64 * 1024).map(|_| one()).collect()
}

#[test]
fn errors_are_not_above_llama_cpps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quants.json");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (id, name) in ["even", "outliers"].into_iter().enumerate() {
        let values = matrix(id as u64, name == "outliers");
        for dtype in QUANTISED {
            let (got, want) = (error(dtype, &values), document["matrices"][name][dtype.name()].as_f64().unwrap());
            assert!(got <= 1.02 * want, "{name} {dtype}: {got:e}, llama.cpp's {want:e}");
        }
    }
}

#[test]
fn blocks_without_a_spread_come_back() {
    for dtype in QUANTISED {
        assert_eq!(back(dtype, &[0.0; 256]), [0.0; 256], "{dtype}");
        for value in [1.0f32, -1.0, 0.03, -1e4] {
            let got = back(dtype, &[value; 256]);
            assert!(got.iter().all(|v| (v - value).abs() <= 0.005 * value.abs()), "{dtype} {value}: {:?}", &got[..3]);
        }
        let mut spike = [0.0f32; 256];
        spike[77] = -2.5;
        let got = back(dtype, &spike);
        assert!((got[77] + 2.5).abs() < 0.02, "{dtype}: {}", got[77]);
        assert!(got.iter().enumerate().all(|(i, v)| i == 77 || v.abs() < 0.02), "{dtype}: {got:?}");
        // Too small for an f16 scale, and more than one can say.
        assert!(back(dtype, &[1e-30; 256]).iter().all(|v| v.abs() < 1e-6), "{dtype}");
        let error = dtype.encode(&[3e8; 256]).unwrap_err();
        assert!(error.contains("beyond the range") && error.contains(dtype.name()), "{error}");
    }
    assert!(Dtype::F16.encode(&[7e4]).unwrap_err().contains("F16"));
    assert!(Dtype::Q2K.encode(&[0.0; 256]).unwrap_err().contains("not written"));
}

/// How a block is stored depends on nothing beside it, so threads may take any runs of blocks.
#[test]
fn blocks_are_quantised_apart() {
    let values = matrix(2, true);
    for dtype in QUANTISED {
        let parts: Vec<u8> = values.chunks(256).flat_map(|part| dtype.encode(part).unwrap()).collect();
        assert_eq!(dtype.encode(&values).unwrap(), parts, "{dtype}");
    }
}

/// Of a model with rows of 256, 64 and 40 each tensor has the type that is asked for, or the one in its place.
#[test]
fn a_file_says_what_its_tensors_became() {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 24, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true
    });
    let values = |name: &str, shape: &[usize]| {
        let mut draw = Stream::new(1, fnv(name.as_bytes()));
        Ok((0..shape.iter().product()).map(|_| draw.uniform() - 0.5).collect::<Vec<f32>>().into())
    };
    let dir = tempfile::tempdir().unwrap();
    // The types of embedding, attn_q, attn_output, attn_v of block 1 and ffn_down of both blocks.
    let (k4, k5, k6) = (Dtype::Q4K, Dtype::Q5K, Dtype::Q6K);
    for (types, want) in [
        (GgufTypes::Q4KM, [k6, k4, Dtype::F16, k6, Dtype::Q5_0, Dtype::Q8_0]),
        (GgufTypes::Q5KM, [k6, k5, Dtype::F16, k6, Dtype::Q5_1, Dtype::Q8_0]),
        (GgufTypes::Each(k6), [k6, k6, Dtype::F16, k6, Dtype::Q8_0, Dtype::Q8_0]),
        (GgufTypes::Each(Dtype::Q4_0), [Dtype::Q4_0, Dtype::Q4_0, Dtype::F16, Dtype::Q4_0, Dtype::Q4_0, Dtype::Q4_0]),
    ] {
        let path = dir.path().join(types.name().as_ref());
        let parts = GgufParts { config: &config, generation_config: None, text: None, types, values: &values };
        let written = write_gguf(&path, &parts).unwrap();
        let source = ModelSource::open(&path).unwrap();
        let layer = |n: usize, part: &str| format!("model.layers.{n}.{part}_proj.weight");
        let names = [
            "model.embed_tokens.weight".to_owned(),
            layer(0, "self_attn.q"),
            layer(0, "self_attn.o"),
            layer(1, "self_attn.v"),
            layer(0, "mlp.down"),
            layer(1, "mlp.down"),
        ];
        for (name, dtype) in names.iter().zip(want) {
            let stored = source.weights.get(name).unwrap();
            assert_eq!(stored.dtype, dtype, "{} {name}", types.name());
            let plain = values(name, stored.shape).unwrap();
            let got = stored.to_f32();
            let most = got.iter().zip(plain.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most < 0.08, "{} {name}: off by {most}", types.name());
        }
        assert_eq!(written.types.values().sum::<usize>(), source.weights.names().len());
        let told: Vec<String> = written.instead.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains("F16") && told.contains("attn_output.weight")), "{told:?}");
    }
}
