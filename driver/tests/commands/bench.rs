//! `bench` through the binary: what it times, the forms in which it writes rows, and comparisons.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::calls::{document, fails, hold, world, write};
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn printed(args: &[&str]) -> String {
    let mut command = cargo_bin_cmd!("selfreward");
    String::from_utf8(command.args(args).assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn bench_times_the_products_that_it_is_given() {
    let report = document(&["bench", "--runs", "1", "--backward", "--shape", "3,8,5", "--shape", "2,4,4"]);
    hold("bench", &report);
    let shapes: Vec<&str> =
        report["kernels"].as_array().unwrap().iter().map(|k| k["shape"].as_str().unwrap()).collect();
    // y = x W, dx = dy W^T, dW = x^T dy, the rows of W padded to a multiple of 4.
    let first = ["forward 3x5x8", "forward_nt 3x8x5", "forward_tn 8x3x8"];
    assert_eq!(shapes, [&first[..], &["forward 2x4x4", "forward_nt 2x4x4", "forward_tn 4x2x4"]].concat());
    assert!(report["kernels"].as_array().unwrap().iter().all(|k| k["checksum"].as_f64().unwrap() != 0.0));
}

#[test]
fn a_bench_counts_the_work_of_each_phase_and_compares() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old.json");
    let model = world().to_str().unwrap().to_owned();
    let args = ["bench", "--model", &model, "--prefill", "40", "--decode", "4", "--pairs", "1,30,8", "--runs", "1"];
    let report = document(&[&args[..], &["--kernel", "rows,column_sum"]].concat());
    hold("bench", &report);
    let phase = |name: &str| {
        let found = report["model"]["phases"].as_array().unwrap().iter().find(|p| p["name"] == name);
        found.unwrap_or_else(|| panic!("no phase {name}: {report}")).clone()
    };
    let flops = |name: &str| phase(name)["flops"].as_f64().unwrap();
    // Eight rows take eight times the work, a copy of the prompt its rows, and recomputing another forward pass.
    assert!((flops("decode of 4 x 8") / flops("decode of 4 x 1") - 8.0).abs() < 0.1);
    let [shared, apart, again] = ["DPO step", "DPO step, prompts not shared", "DPO step, activations recomputed"]
        .map(|name| flops(&format!("{name}, 1 x (30 + 8 + 8)")));
    assert!((1.4..1.7).contains(&(apart / shared)), "{apart} {shared}");
    assert!((1.15..1.45).contains(&(again / shared)), "{again} {shared}");
    write(&old, &[report]);
    let mut command = cargo_bin_cmd!("selfreward");
    let told = command.args(args).arg("--compare").arg(&old).assert().success().get_output().stdout.clone();
    let told = String::from_utf8(told).unwrap();
    let row = told.lines().find(|l| l.starts_with("prefill of 40")).unwrap();
    assert!(told.contains("x as fast") && !row.ends_with('-'), "{told}");
    let mut command = cargo_bin_cmd!("selfreward");
    let refused = command.args(["bench", "--model", &model, "--dtype", "q4"]).assert().code(1).get_output().clone();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--dtype q4 is for kernels"));
}

/// A row that an output could have.
fn row(device: &str, shape: &str, median_ms: f64) -> Value {
    json!({
        "commit": "abc", "version": "0.1.0", "device": device, "driver": "d", "backend": "Vulkan", "limits": "device",
        "features": "", "name": "matmul", "variant": "soft", "shape": shape, "dtype": "f32",
        "date": "2026-01-01T00:00:00Z", "n": 100, "mean_ms": median_ms, "sd_ms": median_ms / 10.0,
        "median_ms": median_ms, "device_ms": null, "drift": 0.0, "bytes": 1.0, "flops": 1.0, "gflops": 1.0, "gbs": 1.0,
        "share": 0.5, "cache": "cold", "tok_s": null, "doubt": "", "schema": 1,
    })
}

#[test]
fn rows_are_written_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let outputs = ["csv", "jsonl", "sql"].map(|form| format!("{form}={}", file(form)));
    let mut args = vec!["bench", "-q", "--runs", "3", "--shape", "3,8,5", "--output", "md"];
    outputs.iter().for_each(|output| args.extend(["--output", output.as_str()]));
    let shown = printed(&args);
    let row: Value = serde_json::from_str(fs::read_to_string(file("jsonl")).unwrap().trim()).unwrap();
    hold("bench_row", &row);
    assert_eq!((&row["name"], &row["shape"], &row["n"]), (&json!("matmul"), &json!("forward 3x5x8"), &json!(3)));
    assert_eq!(row["cache"], "cold");
    let columns: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(columns[..5], ["commit", "version", "device", "driver", "backend"]);
    // The same columns and the same row, each in its form.
    assert!(shown.starts_with(&format!("| {} |\n| --- |", columns.join(" | "))), "{shown}");
    assert_eq!(shown.lines().count(), 3);
    let csv = fs::read_to_string(file("csv")).unwrap();
    assert_eq!(csv.lines().next().unwrap(), columns.join(","));
    assert!(csv.lines().nth(1).unwrap().contains(",forward 3x5x8,f32,"), "{csv}");
    let sql = fs::read_to_string(file("sql")).unwrap();
    assert!(sql.starts_with("CREATE TABLE IF NOT EXISTS bench (\n  \"commit\" TEXT NOT NULL,"), "{sql}");
    assert_eq!(sql.matches("INSERT INTO bench VALUES (").count(), 1);
    fails(&["bench", "--shape", "3,8,5", "--output", "xml"], 2, &["md, csv, jsonl, sql"]);
    fails(&["bench", "--shape", "3,8,5", "--output", "md", "--json"], 2, &["stdout"]);
}

#[test]
fn two_files_are_compared_and_the_greatest_loss_stands_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let file = |name: &str| path(name).to_str().unwrap().to_owned();
    write(&path("old.jsonl"), &[row("A", "one", 1.0), row("A", "two", 1.0), row("A", "three", 1.0)]);
    write(&path("new.jsonl"), &[row("B", "one", 0.5), row("B", "two", 1.25), row("B", "four", 1.0)]);
    let compare = ["bench", "--compare", &file("new.jsonl"), &file("old.jsonl")];
    let told = document(&compare);
    hold("bench_comparison", &told);
    let rows = told["rows"].as_array().unwrap();
    let ratios: Vec<(&str, f64)> =
        rows.iter().map(|r| (r["shape"].as_str().unwrap(), r["ratio"].as_f64().unwrap())).collect();
    assert_eq!(ratios, [("two", 0.8), ("one", 2.0)]);
    // Medians of 100 runs with deviations of a tenth: each has an error of 1.2533 %, both together 1.7724 %.
    let low = rows[0]["interval"][0].as_f64().unwrap();
    assert!((low - 0.8 * (-1.96f64 * 0.017_724).exp()).abs() < 1e-4, "{low}");
    assert_eq!(told["unmatched"], 2);
    let with = |least: &'static str| [&compare[..], &["--fail-below", least]].concat();
    fails(&with("0.9"), 1, &["1 of 2 rows", "0.9", "matmul two 0.80"]);
    printed(&with("0.75"));
    let mut other = row("A", "one", 1.0);
    other["schema"] = json!(2);
    write(&path("other.jsonl"), &[other]);
    let wrong = ["bench", "--compare", &file("new.jsonl"), &file("other.jsonl")];
    fails(&wrong, 1, &["other.jsonl:1", "version 2", "version 1"]);
    fails(&["bench", "--compare", &file("new.jsonl"), "/nowhere.jsonl"], 1, &["/nowhere.jsonl"]);
}

#[test]
fn a_model_is_swept_through_lists() {
    let model = world().to_str().unwrap().to_owned();
    let args = ["bench", "--model", &model, "--runs", "2", "-p", "8,16", "-n", "4", "-d", "0,20", "-b", "1-2*2"];
    let report = document(&args);
    hold("bench", &report);
    let name = |p: &Value| p["name"].as_str().unwrap().to_owned();
    let names: Vec<String> = report["tests"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(names.len(), 3 * 2 * 2);
    assert_eq!(names[..4], ["pp8 d0 b1", "pp8 d0 b2", "pp8 d20 b1", "pp8 d20 b2"]);
    assert_eq!(names[11], "tg4 d20 b2");
    let flops = |name: &str| {
        let found = report["tests"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap();
        assert!(found["tok_s"].as_f64().unwrap() > 0.0 && found["n"] == 2, "{found}");
        found["flops"].as_f64().unwrap()
    };
    // Twice the sequences are twice the work, and twice the prompt about that.
    assert!((flops("tg4 d0 b2") / flops("tg4 d0 b1") - 2.0).abs() < 0.1);
    assert!((1.9..2.3).contains(&(flops("pp16 d0 b1") / flops("pp8 d0 b1"))));
    let table = printed(&[&["-q"][..], &args[..9], &["--batch", "2"]].concat());
    assert!(table.lines().any(|l| l.starts_with("prompt") && l.contains("tok/s")), "{table}");
    fails(&["bench", "--model", &model, "-p", "8-4"], 2, &["'8-4' is no range", "1-32*2"]);
    fails(&["bench", "-p", "8"], 2, &["--model M or --config config.json"]);
    fails(&["bench", "--model", &model, "-p", "100", "-d", "100"], 1, &["-p, -n and -d", "128"]);
}

#[test]
fn training_steps_are_swept_by_length_batch_and_method() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let shape = json!({
        "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true,
    });
    write(&config, &[shape]);
    let config = config.to_str().unwrap();
    let train = ["--train", "dpo,sft", "--method", "full,lora,qlora", "--length", "16", "-b", "1,2", "--runs", "1"];
    let report = document(&[&["bench", "--config", config][..], &train].concat());
    hold("bench", &report);
    let tests = report["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 2 * 3 * 2);
    let dtype = |name: &str| tests.iter().find(|t| t["name"] == name).map(|t| t["dtype"].as_str().unwrap()).unwrap();
    assert_eq!(dtype("dpo full 16 tokens b2"), "f32");
    assert_eq!(dtype("sft qlora 16 tokens b1"), "q4_k");
    let model = world().to_str().unwrap().to_owned();
    let qlora = ["bench", "--model", &model, "--train", "sft", "--method", "qlora"];
    fails(&qlora, 1, &["--method qlora", "no quantised matrices"]);
}

/// The example's product and its description, with something replaced in the text.
fn kernel(dir: &Path, from: &str, to: &str) -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/wgsl");
    let text = fs::read_to_string(example.join("matmul.wgsl")).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(dir.join("mine.wgsl"), text.replace(from, to)).unwrap();
    fs::copy(example.join("matmul.toml"), dir.join("mine.toml")).unwrap();
    dir.join("mine.wgsl").to_str().unwrap().to_owned()
}

#[test]
fn a_kernel_of_the_users_is_checked_and_timed_beside_ours() {
    let dir = tempfile::tempdir().unwrap();
    let file = kernel(dir.path(), "var sum = 0.0", "var sum = 0.0");
    let report = document(&["bench", "-q", "--runs", "2", "--wgsl", &file]);
    hold("bench", &report);
    let rows = report["kernels"].as_array().unwrap();
    let of = |i: usize| (rows[i]["name"].as_str().unwrap(), rows[i]["variant"].as_str().unwrap());
    assert_eq!((rows.len(), of(0)), (2, ("mine", "user")));
    assert_eq!((rows[1]["name"].as_str(), rows[1]["shape"].as_str()), (Some("matmul"), Some("forward 100x96x130")));
    assert_eq!(rows[0]["flops"], 2_496_000.0);
    // What both wrote adds up to the same.
    let sums = [0, 1].map(|i| rows[i]["checksum"].as_f64().unwrap());
    assert!(sums[0].is_finite() && sums[0] != 0.0, "{sums:?}");
}

#[test]
fn what_is_wrong_with_a_users_kernel_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = |from: &str, to: &str, words: &[&str]| {
        let file = kernel(dir.path(), from, to);
        fails(&["bench", "--runs", "1", "--wgsl", &file], 1, words);
    };
    run("sum += a", "summ += a", &["mine.wgsl:23:9", "summ"]);
    run("fn product", "fn other", &["product"]);
    run("+ col] = sum", "+ col + 5u] = sum", &["wrote outside of buffer 'c' (binding 2)", "element 13000 of 13000"]);
    run("var sum = 0.0", "var sum = 0.25", &["output c[0] is", "the reference says"]);
    // One row is left out.
    run("row >= sizes.m", "row + 1u >= sizes.m", &["output c[12870] is NaN", "was it written at all?"]);
    let file = kernel(dir.path(), "fn product", "fn product");
    let with = |bind: &str| ["bench", "--wgsl", &file, "--bind", bind].map(str::to_owned);
    let refused = |bind: &str, code: i32, words: &[&str]| {
        fails(&with(bind).iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    refused("0=a:f32[100,95]:normal", 1, &["a [M, K]", "[100, 95]"]);
    refused("0=a:f64[100,96]", 2, &["0=a:f32[64,32]:normal"]);
    fs::remove_file(dir.path().join("mine.toml")).unwrap();
    fails(&["bench", "--wgsl", &file], 1, &["mine.toml"]);
}

#[test]
fn a_roofline_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plots");
    printed(&["bench", "-q", "--runs", "1", "--shape", "3,8,5", "--plot", folder.to_str().unwrap()]);
    let svg = fs::read_to_string(folder.join("roofline.svg")).unwrap();
    assert!(svg.contains("<svg xmlns=") && svg.contains("1  matmul forward 3x5x8: "), "{svg}");
    assert_eq!(svg.matches("<circle").count(), 1);
}
