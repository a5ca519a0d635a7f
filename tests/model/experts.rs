//! Experts whose matrices are one tensor: in and out of folders, and in blocks of MXFP4 as transformers and llama.cpp
//! store them.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::arch::family::parameters;
use selfreward::arch::lora::{Adapter, Modules};
use selfreward::arch::{Dtype, NamedTensor};
use selfreward::gpu::Gpu;
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use selfreward::train::{LoraSettings, Optimiser, Trainer, sft::Example};
use selfreward::weights::{ModelParts, Weights, save_model_parts};
use selfreward_testing::models::own_and_wide;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(path: &Path) -> ModelSource {
    ModelSource::open(path).unwrap()
}

fn tokens() -> Vec<Vec<u32>> {
    serde_json::from_str(&fs::read_to_string(golden("gpt_oss_mxfp4/tokens.json")).unwrap()).unwrap()
}

fn logits(gpu: &Gpu, model: &Model) -> Vec<Vec<f32>> {
    tokens().iter().map(|tokens| score::logits(gpu, model, tokens).unwrap()).collect()
}

fn bits(all: &[Vec<f32>]) -> Vec<Vec<u32>> {
    all.iter().map(|values| values.iter().map(|x| x.to_bits()).collect()).collect()
}

/// In the file's blocks, in f32 and from llama.cpp's file.
#[test]
fn blocks_of_mxfp4_give_the_logits_of_transformers() {
    let gpu = Gpu::open(None, None).unwrap();
    let folder = open(&golden("gpt_oss_mxfp4"));
    // 10 bits a value and 16 for the others in place of 32.
    let (own, wide) = own_and_wide(&gpu, &folder, 0.45);
    let (got, from_f32) = (logits(&gpu, &own), logits(&gpu, &wide));
    let stored = Weights::open_safetensors(&golden("gpt_oss_mxfp4/logits.safetensors")).unwrap();
    for (i, (got, from_f32)) in got.iter().zip(&from_f32).enumerate() {
        let want = stored.get(&format!("logits.{i}")).unwrap().to_f32();
        for got in [got, from_f32] {
            let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
            let off = norm(&mut got.iter().zip(&want).map(|(a, b)| f64::from(a - b)));
            let all = norm(&mut want.iter().map(|x| f64::from(*x)));
            assert!(off <= 1e-5 * all, "sequence {i}: {:e}", off / all);
        }
    }
    let file = open(&golden("gpt_oss_mxfp4/model.gguf"));
    assert_eq!(file.arch, folder.arch);
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    assert_eq!([&file, &folder].map(|source| source.weights.dtype(name).unwrap()), [Dtype::Mxfp4; 2]);
    assert_eq!(file.tensors_f32().unwrap(), folder.tensors_f32().unwrap());
    assert_eq!(bits(&logits(&gpu, &Model::load(&gpu, &file).unwrap())), bits(&got));
}

/// What is written has the names of transformers' modules, is not quantised, and is read back.
#[test]
fn folders_hold_the_experts_in_stacks() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["gpt_oss", "gpt_oss_mxfp4"] {
        let source = open(&golden(name));
        let tensors = source.tensors_f32().unwrap();
        for dtype in [Dtype::F32, Dtype::BF16] {
            let path = temporary.path().join(format!("{name} {dtype}"));
            let (config, generation_config) = (&source.config, source.generation_config.as_ref());
            let parts = ModelParts { config, generation_config, text: None, tensors: &tensors, dtype };
            save_model_parts(&path, &parts).unwrap();
            let again = open(&path);
            assert!(again.config.get("quantization_config").is_none());
            let config: Value = serde_json::from_str(&fs::read_to_string(path.join("config.json")).unwrap()).unwrap();
            assert!(config.get("quantization_config").is_none(), "{config}");
            let rounded = |tensor: &NamedTensor| {
                let mut data = Vec::new();
                dtype.dequantise(&dtype.encode(&tensor.data).unwrap(), &mut data);
                NamedTensor { data, ..tensor.clone() }
            };
            let want: Vec<NamedTensor> = tensors.iter().map(rounded).collect();
            assert_eq!(again.tensors_f32().unwrap(), want, "{name} {dtype}");
            let stored = Weights::open_safetensors(&path.join("model.safetensors")).unwrap();
            let (e, d, f) = if name == "gpt_oss" { (5, 22, 13) } else { (3, 64, 32) };
            for (part, shape) in [
                ("experts.gate_up_proj", vec![e, d, 2 * f]),
                ("experts.gate_up_proj_bias", vec![e, 2 * f]),
                ("experts.down_proj", vec![e, f, d]),
                ("experts.down_proj_bias", vec![e, d]),
                ("router.weight", vec![e, d]),
                ("router.bias", vec![e]),
            ] {
                assert_eq!(stored.shape(&format!("model.layers.1.mlp.{part}")), Some(&shape[..]), "{part}");
            }
            assert!(!stored.names().iter().any(|name| name.contains("experts.0.")));
        }
    }
    // The golden folder's own file has no other tensors, and the same values.
    let [ours, theirs] = [&temporary.path().join("gpt_oss F32"), &golden("gpt_oss")]
        .map(|path| Weights::open_safetensors(&path.join("model.safetensors")).unwrap());
    let sorted = |weights: &Weights| {
        let mut names = weights.names().to_vec();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    for name in ours.names() {
        let [ours, theirs] = [&ours, &theirs].map(|weights| weights.get(name).unwrap());
        assert_eq!((ours.shape, ours.to_f32()), (theirs.shape, theirs.to_f32()), "{name}");
    }
}

/// Attention's projections are trained by an adapter beside frozen experts in blocks; experts and routers get none.
#[test]
fn adapters_train_beside_experts_in_blocks() {
    let gpu = Gpu::open(None, None).unwrap();
    let source = open(&golden("gpt_oss_mxfp4"));
    let run = |model: Model| {
        let targets = ["q_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        let config = LoraSettings::default().rank(2).target_modules(Modules::Names(targets)).config();
        let adapter = Adapter::fresh(&source.arch, &config, 3).unwrap();
        let model = model.with_adapter(&gpu, Some(&adapter)).unwrap();
        let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
        let example = |k: u32| Example::new(vec![3 + k, 9, 11 + 2 * k], vec![7 + k, 5, 4 + k]);
        let data: Vec<Example> = (0..3).map(example).collect();
        let losses: Vec<f64> = (0..4).map(|_| trainer.sft_step(&[(&data, 1.0)], 1e-2).unwrap().loss).collect();
        assert!(losses[3] < losses[0], "{losses:?}");
        losses
    };
    let (own, wide) = own_and_wide(&gpu, &source, 0.45);
    for (own, wide) in run(own).iter().zip(run(wide)) {
        assert!((own - wide).abs() <= 1e-5 * wide.abs(), "{own} {wide}");
    }
}

/// Blocks and scales that do not go together, or that no number comes of.
#[test]
fn broken_blocks_are_refused_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("gpt_oss_mxfp4").join(file), temporary.path().join(file)).unwrap();
    }
    let path = temporary.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    // As long as it was, so that the offsets hold.
    let renamed = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    for (bytes, says) in [
        (
            renamed("layers.0.mlp.experts.down_proj_scales", "layers.0.mlp.experts.down_proj_skales"),
            "down_proj_scales is missing",
        ),
        (
            renamed("layers.0.mlp.experts.down_proj_blocks", "layers.0.mlp.experts.down_proj_plocks"),
            "down_proj [3, 32, 64]",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = ModelSource::open(temporary.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // A scale of 255 stands for no number.
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let parsed: Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    let first = parsed["model.layers.0.mlp.experts.down_proj_scales"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut bytes = whole.clone();
    bytes[8 + header + first] = 255;
    fs::write(&path, bytes).unwrap();
    let source = open(temporary.path());
    let gpu = Gpu::open(None, None).unwrap();
    for error in [source.tensors_f32().unwrap_err(), Model::load(&gpu, &source).map(drop).unwrap_err()] {
        assert!(error.to_string().contains("model.layers.0.mlp.experts.0.down_proj.weight"), "{error}");
    }
    // Blocks in a folder of another family, and of another kind.
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(temporary.path().join("config.json")).unwrap()).unwrap();
    config["quantization_config"]["quant_method"] = "fp8".into();
    fs::write(temporary.path().join("config.json"), config.to_string()).unwrap();
    let error = ModelSource::open(temporary.path()).unwrap_err().to_string();
    assert!(error.contains("quantization_config"), "{error}");
    assert_eq!(parameters(&source.arch).iter().filter(|(name, _)| name.ends_with(".sinks")).count(), 2);
}
