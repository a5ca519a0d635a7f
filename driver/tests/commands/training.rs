//! Trainings that keep their state in fewer bytes, from the command line to the folder.

use assert_cmd::cargo::cargo_bin_cmd;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/llama").join(file)
}

fn dpo(out: &Path, flags: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["dpo", "--batch", "4", "--lr", "1e-3", "--schedule", "constant"]).args(flags);
    command.arg("--model").arg(golden("")).arg("--data").arg(golden("pairs.jsonl")).arg("--out").arg(out).assert()
}

#[test]
fn bf16_weights_and_8_bit_moments_train_into_a_folder_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let train = |name: &str, seed: &str| -> Vec<u8> {
        let out = dir.path().join(name);
        dpo(&out, &["--weights", "bf16", "--optimizer", "adamw8bit", "--seed", seed]).success();
        std::fs::read(out.join("model.safetensors")).unwrap()
    };
    let bytes = train("one", "0");
    assert_eq!(train("again", "0"), bytes);
    assert_ne!(train("other", "1"), bytes);
    let (file, before) =
        (SafeTensors::deserialize(&bytes).unwrap(), std::fs::read(golden("model.safetensors")).unwrap());
    let before = SafeTensors::deserialize(&before).unwrap();
    for (name, tensor) in file.tensors() {
        let matrix = tensor.shape().len() > 1;
        assert_eq!(tensor.dtype(), if matrix { Dtype::BF16 } else { Dtype::F32 }, "{name}");
        // Gains, which move by less than a unit of bf16, are written as they were trained.
        assert!(matrix || tensor.data() != before.tensor(&name).unwrap().data(), "{name} did not move");
    }
    let config = std::fs::read_to_string(dir.path().join("one/config.json")).unwrap();
    assert!(config.contains("\"dtype\": \"bfloat16\""), "{config}");
}

#[test]
fn what_bf16_weights_do_not_go_with_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, word) in [(["--dtype", "f16"], "copies of f32 weights"), (["--lora-rank", "2"], "--dtype bf16 keeps")] {
        let failed = dpo(&dir.path().join("out"), &[&["--weights", "bf16"], &flags[..]].concat()).code(1);
        let said = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
        assert!(said.contains(word), "{said}");
    }
}
