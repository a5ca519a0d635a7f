//! `plan` through the binary: its document for every task, what it says beside what is measured, and that
//! work which does not fit is refused in its words.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward::{plan::ids, world};
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn plan(args: &[&str]) -> Value {
    let done = cargo_bin_cmd!("selfreward").args([&["plan", "--json"], args].concat()).assert().success();
    let document = serde_json::from_slice(&done.get_output().stdout).unwrap();
    validate(&schema("planned"), &document, "planned").unwrap();
    document
}

fn peak(document: &Value) -> u64 {
    document["peak_bytes"].as_u64().unwrap()
}

fn shape(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/figures/shapes").join(name).to_str().unwrap().to_owned()
}

/// The peak that a command's `-v` tells.
fn measured(args: &[&str]) -> u64 {
    let done = cargo_bin_cmd!("selfreward").args(args).arg("-v").assert().success();
    let text = String::from_utf8(done.get_output().stderr.clone()).unwrap();
    let (_, rest) = text.split_once("peak of live buffers: ").unwrap_or_else(|| panic!("no peak in: {text}"));
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn commands_take_what_is_planned_and_refuse_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, pairs, answers) = (at("M"), at("pairs.jsonl"), at("answers.jsonl"));
    world::save(Path::new(&model), &world::init(0)).unwrap();
    let list = |key: usize, n| ids(60, key as u64, n);
    let pair = |i| json!({"prompt_ids": list(i, 50), "chosen_ids": list(i + 9, 30), "rejected_ids": list(i + 20, 30)});
    let answer = |i| json!({"prompt_ids": list(i, 50), "completion_ids": list(i + 9, 30)});
    let write = |path: &str, record: &dyn Fn(usize) -> Value| {
        fs::write(path, (0..4).map(|i| format!("{}\n", record(i))).collect::<String>()).unwrap();
    };
    write(&pairs, &pair);
    write(&answers, &answer);
    let lengths = ["--model", &model, "--batch", "4", "--prompt-length", "50", "--completion-length", "30"];
    for (number, (task, data, flags)) in [
        ("dpo", &pairs, &[][..]),
        ("dpo", &pairs, &["--lora-rank", "4", "--dtype", "bf16"]),
        ("dpo", &pairs, &["--optimizer", "adamw8bit", "--weights", "bf16"]),
        ("sft", &answers, &["--dropout", "0.1"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = at(&format!("out{number}"));
        let real = [&[task, "--model", &model, "--data", data, "--out", &out, "--batch", "4"], flags].concat();
        let planned = plan(&[&["--task", task], &lengths[..], flags].concat());
        let ratio = peak(&planned) as f64 / measured(&real) as f64;
        assert!((0.9..1.1).contains(&ratio), "{task} {flags:?}: {ratio}");
        assert_eq!((&planned["fits"], &planned["memory"]), (&Value::Null, &Value::Null));
        let parts = planned["parts"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum::<u64>();
        assert_eq!(parts, peak(&planned));
    }
    let cap = peak(&plan(&[&["--task", "dpo", "--memory", "1"], &lengths[..]].concat())).to_string();
    let planned = plan(&[&["--task", "dpo", "--memory", &cap], &lengths[..]].concat());
    assert_eq!(planned["fits"], false);
    assert_eq!(planned["training"], json!({"longest": 110, "micro_rows": 110, "checkpoint": true}));
    let ways: Vec<&Value> = planned["options"].as_array().unwrap().iter().filter(|o| o["fits"] == true).collect();
    assert!(!ways.is_empty() && ways.iter().all(|o| o["what"].as_str().unwrap() != "all weights in f32"), "{planned}");
    let out = at("refused");
    let real = ["dpo", "--model", &model, "--data", &pairs, "--out", &out, "--batch", "4", "--memory", &cap];
    let refused = cargo_bin_cmd!("selfreward").args(real).assert().code(1);
    let text = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(text.contains("this training takes") && text.contains("selfreward plan"), "{text}");

    let real = ["generate", "--raw", "--model", &model, "--prompt", "upper: ab", "--memory", "0.1M"];
    let refused = cargo_bin_cmd!("selfreward").args(real).assert().code(1);
    let text = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(text.contains("the weights take ") && text.contains("and the cap is 0.1 MiB"), "{text}");

    let planned = plan(&["--task", "generate", "--model", &model, "--prompt-length", "9", "--max-new-tokens", "20"]);
    let ratio = peak(&planned) as f64
        / measured(&["generate", "--raw", "--model", &model, "--prompt", "upper: ab", "--max-new-tokens", "20"]) as f64;
    assert!((0.9..1.1).contains(&ratio), "generate: {ratio}");
    assert_eq!(planned["generation"], json!({"answers": 1, "at_once": 1}));

    let config = at("run.toml");
    fs::write(&config, format!("[model]\npath = {model:?}\n[candidates]\nmax_new_tokens = 20\n[prompts]\ncount = 6\n"))
        .unwrap();
    let planned = plan(&["--task", "run", &config, "--prompt-length", "20"]);
    let stages: Vec<&str> =
        planned["run"]["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(stages, ["prompts", "candidates", "gate", "judge", "training"]);
    assert!(planned["run"]["least_seconds"].as_f64().unwrap() > 0.0);
    // Less memory than a measurement of the device takes: a plan without times.
    let small = plan(&["--task", "run", &config, "--prompt-length", "20", "--memory", "100K"]);
    assert_eq!((&small["fits"], &small["run"]["least_seconds"]), (&json!(false), &Value::Null), "{small}");
    // Two rounds' models in f32.
    let parameters: usize = world::init(0).iter().map(|t| t.data.len()).sum();
    assert!(planned["run"]["disk_bytes"].as_u64().unwrap() >= 8 * parameters as u64);
}

/// What this project says of cards in docs/MEMORY.md.
#[test]
fn large_models_are_planned_from_their_shapes_alone() {
    let on = |name: &str, memory: &str, flags: &[&str]| {
        let shape = shape(name);
        let args = ["--task", "dpo", "--config", &shape, "--desktop", "--max-length", "1024", "--memory", memory];
        plan(&[&args[..], flags].concat())
    };
    let q4 = ["--stored", "q4_1", "--lora-rank", "16"];
    let planned = on("Qwen2.5-7B.json", "12G", &q4);
    assert_eq!((&planned["fits"], &planned["training"]["checkpoint"]), (&json!(true), &json!(true)), "{planned}");
    assert_eq!(on("Qwen2.5-7B.json", "6G", &q4)["fits"], false);
    assert_eq!(on("Llama-3.1-8B.json", "24G", &q4)["training"]["checkpoint"], false);
    // 16 bytes a parameter, 7.6e9 of them.
    let all = peak(&on("Qwen2.5-7B.json", "24G", &[])) as f64;
    assert!((118e9..130e9).contains(&all), "{all}");
    // Of a card of which nobody says its size, 92 % of 8 GiB are planned with, beside whatever the weights leave.
    let answers = ["--prompts", "64", "-n", "8", "--prompt-length", "512", "--max-new-tokens", "512"];
    let large = shape("Qwen2.5-7B.json");
    let planned =
        plan(&[&["--task", "generate", "--config", &large, "--stored", "q4_1", "--desktop"], &answers[..]].concat());
    let memory = (8u64 << 30) / 100 * 92;
    assert_eq!((&planned["fits"], &planned["memory"]), (&json!(true), &json!(memory)), "{planned}");
    assert!(peak(&planned) <= memory && peak(&planned) > memory / 10 * 9, "{planned}");
    // The project's reach: SmolLM2 on pairs of sequences of 1,024 tokens.
    for (memory, flags) in [
        ("2600000000", &["--stored", "f32"][..]),
        ("900000000", &["--stored", "bf16", "--lora-rank", "16"]),
        ("600000000", &q4),
    ] {
        let planned = on("SmolLM2-135M.json", memory, &[flags, &["--batch", "1"]].concat());
        assert_eq!(planned["fits"], true, "{planned}");
    }
}

/// The rows of one model in the tables of loops, as `scripts/figures/loops.py` makes them.
#[test]
fn the_tables_of_loops_say_what_is_planned() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MEMORY.md")).unwrap();
    let (model, cards) = ("Llama-3.1-8B", [8u32, 12, 16, 24]);
    let config = shape(&format!("{model}.json"));
    let row =
        |stored: &str, kv: &str, cells: Vec<String>| format!("| {model} | {stored} | {kv} | {} |", cells.join(" | "));
    for (stored, kv) in [("Q4_K", "f16"), ("f16", "f32")] {
        let on = |gib: u32| {
            let memory = (f64::from(gib) * 0.92 * f64::from(1 << 30)) as u64;
            let (memory, stored) = (memory.to_string(), stored.to_lowercase());
            let what = ["--task", "run", "--config", &config, "--stored", &stored, "--desktop", "--lora-rank", "16"];
            let planned = plan(&[&what[..], &["--kv", kv, "--memory", &memory]].concat());
            let stages = planned["run"]["stages"].as_array().unwrap().clone();
            (planned, stages)
        };
        let planned: Vec<_> = cards.into_iter().map(on).collect();
        let fits = |(planned, stages): &(Value, Vec<Value>)| {
            if planned["fits"] == false {
                return format!("– ({:.1})", peak(planned) as f64 / f64::from(1 << 30));
            }
            let stage = |name: &str| stages.iter().find(|s| s["name"] == name).unwrap();
            let cut = &stage("training")["training"];
            let pairs = (cut["micro_rows"].as_u64().unwrap() / cut["longest"].as_u64().unwrap()).max(1);
            let checkpoint = if cut["checkpoint"] == true { " ✓" } else { "" };
            format!("{} · {pairs}{checkpoint}", stage("candidates")["at_once"])
        };
        let told = row(stored, kv, planned.iter().map(fits).collect());
        assert!(page.contains(&told), "docs/MEMORY.md is to say: {told}");
        let (largest, stages) = &planned[3];
        let work = |s: &Value| {
            let of = |key: &str| s[key].as_f64().unwrap() / 1e12;
            if largest["fits"] == true { format!("{:.0} / {:.1}", of("flops"), of("bytes")) } else { "–".into() }
        };
        let told = row(stored, kv, stages.iter().map(work).collect());
        assert!(page.contains(&told), "docs/MEMORY.md is to say: {told}");
    }
}
