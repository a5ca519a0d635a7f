//! `run` with `[lora]`: every model from M1 on is one adapter over the base, which is loaded once.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::kill::{run_inputs, world};
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const LORA: &str = "lora = { rank = 2 }\n";

/// A folder with what a small run reads; `edit` is applied to its configuration.
struct Place(tempfile::TempDir);

impl Place {
    fn new(edit: impl Fn(String) -> String) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in run_inputs(LORA) {
            let text = if name == "run.toml" { edit(text) } else { text };
            fs::write(place.file(name), text).unwrap();
        }
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of the small world's model.
    fn copy_base(&self) -> PathBuf {
        let base = self.file("base");
        fs::create_dir(&base).unwrap();
        for entry in fs::read_dir(world()).unwrap().map(|e| e.unwrap()) {
            fs::copy(entry.path(), base.join(entry.file_name())).unwrap();
        }
        base
    }

    fn command(&self, args: &[&str]) -> Assert {
        cargo_bin_cmd!("selfreward").args(args).current_dir(self.0.path()).assert()
    }

    fn run(&self, more: &[&str]) -> Assert {
        self.command(&[&["run", "run.toml"], more].concat())
    }

    fn refused(&self, more: &[&str], word: &str) {
        let error = stderr(&self.run(more).failure());
        assert!(error.contains(word), "{error}");
    }
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_of_adapters_loads_its_base_once() {
    loads_its_base_once("rank = 2");
}

#[test]
fn a_run_of_dora_on_all_matrices_loads_its_base_once() {
    loads_its_base_once("rank = 2, dora = true, target_modules = [\"all-linear\", \"embed_tokens\", \"lm_head\"]");
}

fn loads_its_base_once(lora: &str) {
    let place = Place::new(|text| {
        let text = text.replace("rank = 2", lora).replace(", dropout = 0.1", "");
        text.replace(", agreement = \"prompt\", implicit = true", "")
    });
    let told = stderr(&place.run(&[]).success());
    assert_eq!(told.matches("goes to the GPU once").count(), 1, "{told}");
    for number in [1, 3] {
        let folder = place.file(&format!("run/M{number}"));
        let config = document(&folder.join("adapter_config.json"));
        assert_eq!((&config["r"], &config["lora_alpha"]), (&2.into(), &4.0.into()), "M{number}");
        assert_eq!(config["base_model_name_or_path"], world().to_str().unwrap(), "M{number}");
        assert!(!folder.join("model.safetensors").exists(), "M{number} has more than an adapter");
        assert!(folder.join("tokenizer.json").exists(), "M{number}");
    }
    // [run] keep = 1 takes the weights of M2, which stays an adapter's folder.
    let error = stderr(&place.command(&["generate", "--model", "run/M2", "--prompt", "upper: abc"]).failure());
    assert!(error.contains("run/M2") && error.contains("keep = 1"), "{error}");
    for round in [1, 2] {
        let first = lines(&place.file(&format!("run/round-{round}/steps.jsonl"))).remove(0);
        assert_eq!((&first["rewards/chosen"], &first["rewards/rejected"]), (&0.0.into(), &0.0.into()));
    }
    // Two adapters and their base: the base is loaded once here, too.
    let models = ["--model", "run", "--against", "run/M1", "--judge", "run/M0"];
    let answers = ["--prompts", "held-out.jsonl", "--max-new-tokens", "4", "--mode", "expected"];
    let told = stderr(&place.command(&[&["eval", "-v"][..], &models, &answers].concat()).success());
    assert_eq!(told.matches("loading ").count(), 1, "{told}");
    // A run folder is a model, here the adapter M3.
    place.command(&["generate", "--model", "run", "--prompt", "upper: abc", "--max-new-tokens", "4"]).success();
}

/// Slurm's arrays and mpirun tell each process its place; together they make the round of one process.
#[test]
fn shards_of_adapters_are_told_by_the_environment() {
    let shorter = |text: String| text.replace("rounds = 2", "rounds = 1");
    let (whole, shared) = (Place::new(shorter), Place::new(shorter));
    whole.run(&["--invariant"]).success();
    shared.run(&["--invariant", "--until", "prompts"]).success();
    let starters =
        [("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", 1), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 0)];
    for (number, (place, count, first)) in starters.into_iter().enumerate() {
        let mut command = cargo_bin_cmd!("selfreward");
        command.env(place, (number + first).to_string()).env(count, "2").current_dir(shared.0.path());
        let told = stderr(&command.args(["run", "run.toml", "--invariant"]).assert().success());
        assert!(told.contains(&format!("shard {}/2, as {place} says", number + 1)), "{told}");
    }
    shared.run(&["--invariant", "--resume"]).success();
    for name in ["round-1/verdicts.jsonl", "round-1/pairs.jsonl", "M2/adapter_model.safetensors"] {
        let read = |place: &Place| fs::read(place.file("run").join(name)).unwrap();
        assert!(read(&whole) == read(&shared), "{name} differs");
    }
}

#[test]
fn without_supervised_data_the_first_adapter_is_fresh() {
    let place = Place::new(|text| {
        let line = |line: &&str| !["sft", "validation", "evaluation"].iter().any(|name| line.starts_with(name));
        text.lines().filter(line).collect::<Vec<_>>().join("\n").replace("rounds = 2", "rounds = 1")
    });
    place.run(&[]).success();
    assert_eq!(document(&place.file("run/M1/source.json"))["path"], "../M0");
    assert!(place.file("run/M2/adapter_model.safetensors").exists());
    // M2 is the start of another run: its adapter is trained on, over the same base.
    let text = fs::read_to_string(place.file("run.toml")).unwrap();
    let on = |lora: &str| {
        let path = format!("model.path = {:?}", place.file("run/M2"));
        let line = |line: &str| match line {
            _ if line.starts_with("model.path") => path.clone(),
            _ if line.starts_with("lora") => lora.to_owned(),
            _ => line.replace("out = \"run\"", "out = \"on\""),
        };
        fs::write(place.file("run.toml"), text.lines().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    };
    on("lora = { rank = 3 }");
    place.refused(&[], "rank is 3, but the model is an adapter whose rank is 2");
    on("");
    place.run(&[]).success();
    assert_eq!(document(&place.file("on/M0/source.json"))["path"], place.file("run/M2").to_str().unwrap());
    let config = document(&place.file("on/M2/adapter_config.json"));
    assert_eq!(config["base_model_name_or_path"], world().to_str().unwrap());
    assert_ne!(
        fs::read(place.file("on/M2/adapter_model.safetensors")).unwrap(),
        fs::read(place.file("run/M2/adapter_model.safetensors")).unwrap()
    );
}

#[test]
fn a_base_that_changed_or_moved_is_named() {
    let place = Place::new(|text| text.replace(world().to_str().unwrap(), "base").replace("rounds = 2", "rounds = 1"));
    let base = place.copy_base();
    place.run(&["--until", "prompts"]).success();
    let weights = base.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    place.refused(&["--resume"], "M0 is");
    let error = stderr(&place.command(&["generate", "--model", "run/M1", "--prompt", "upper: abc"]).failure());
    assert!(error.contains("run/M1") && error.contains("has changed since"), "{error}");
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    place.run(&["--resume"]).success();
    fs::rename(&base, place.file("moved")).unwrap();
    let error = stderr(&place.command(&["generate", "--model", "run/M2", "--prompt", "upper: abc"]).failure());
    assert!(error.contains("was looked for as") && error.contains("run/M0") && error.contains("--base M"), "{error}");
    place.command(&["generate", "--model", "run/M2", "--base", "moved", "--prompt", "upper: abc"]).success();
}

#[test]
fn the_given_model_or_another_writes_the_prompts() {
    let writer = |name: &str| {
        let place = Place::new(|text| {
            let asks = format!(
                "from_seed = 0, count = 3, seed_shots = 1, own_shots = 0, max_new_tokens = 10, writer = {name:?}, \
                 temperature = 1.0, min_chars = 0, max_attempts = 40, max_rouge = 2.0"
            );
            let line = |line: &&str| !["validation", "evaluation"].iter().any(|name| line.starts_with(name));
            let text = text.lines().filter(line).collect::<Vec<_>>().join("\n");
            text.replace("from_seed = 4, count = 0", &asks)
                .replace(world().to_str().unwrap(), "base")
                .replace("lr = 1e-3", "lr = 0.2")
        });
        // An invitation is longer than what the small world reads.
        let config = place.copy_base().join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, text.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 512"))
            .unwrap();
        place.run(&["--until", "prompts"]).success();
        fs::read_to_string(place.file("run/round-1/prompts.jsonl")).unwrap()
    };
    // M1 is trained here, so that it writes other prompts than M0; a model by its path is the same as by its number.
    let (own, first, named) = (writer("current"), writer("M0"), writer("base"));
    assert!(own != first, "{own}");
    assert_eq!(first, named);
}
