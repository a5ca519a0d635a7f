//! `check` through the binary: which cases it takes, what it says of them, and what it refuses.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use super::calls::{self, hold};
use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// What is printed with `--json`, which holds to its schema.
fn document(name: &str, args: &[&str]) -> Value {
    let mut command = cargo_bin_cmd!("selfreward");
    let output = command.arg("check").args(args).arg("--json").assert().success().get_output().stdout.clone();
    let value = serde_json::from_slice(&output).unwrap();
    hold(name, &value);
    value
}

#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    calls::fails(&[&["check"], args].concat(), code, words);
}

/// The values of a key of all cases.
fn all<'a>(report: &'a Value, key: &str) -> Vec<&'a Value> {
    report["cases"].as_array().unwrap().iter().map(|case| &case[key]).collect()
}

#[test]
fn few_cases_are_taken_and_the_others_counted() {
    let few = document("check", &["--quick", "--kernel", "ro(ws|pe)"]);
    let every = document("check", &["--quick", "--kernel", "rows,rope", "--all"]);
    let count = |report: &Value| report["cases"].as_array().unwrap().len() as u64;
    assert_eq!(count(&few) + few["left"].as_u64().unwrap(), count(&every));
    assert!(few["left"].as_u64().unwrap() > 0 && every["left"] == 0);
    // Some run many times, and each kernel meets inputs that are not normal.
    assert!(all(&few, "runs").iter().any(|n| **n == 20));
    for kernel in ["rows", "rope"] {
        let cases = few["cases"].as_array().unwrap().iter().filter(|case| case["kernel"] == kernel);
        assert!(cases.into_iter().any(|case| case["inputs"] != "normal"), "{kernel}");
    }
}

#[test]
fn gradients_and_results_are_asked_for_alone() {
    let named = |mode: &str| {
        let report = document("check", &["--quick", "--kernel", "rms_norm", "--mode", mode]);
        all(&report, "case").iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (forward, grad) = (named("forward"), named("grad"));
    assert!(forward.iter().all(|name| name.starts_with("forward")), "{forward:?}");
    assert!(grad.iter().any(|name| name.contains("between two products")), "{grad:?}");
    assert!(grad.iter().all(|name| name.contains("backward") || name.contains("between")), "{grad:?}");
}

#[test]
fn products_of_ones_own_are_compared_in_both_directions() {
    let report = document("check", &["--quick", "--shape", "7,33,64", "--dtype", "q8", "--seed", "5"]);
    // In each order of sums.
    let names = all(&report, "case");
    assert_eq!(names[..3], ["forward 7x64x33 q8", "forward_nt 7x33x64 q8", "forward_tn 64x7x33"]);
    assert_eq!(names.len(), 6);
    fails(&["--shape", "7,33,40", "--dtype", "q8"], 1, &["matmul 7x40x33 q8", "multiple of 32"]);
    fails(&["--shape", "7,33,40", "--kernel", "rope"], 1, &["--kernel matmul, not rope"]);
    fails(&["--shape", "7,33"], 2, &["three sizes above 0"]);
}

#[test]
fn other_seeds_make_other_numbers() {
    let errors = |seed: &str| {
        let report = document("check", &["--quick", "--kernel", "column_sum", "--seed", seed]);
        all(&report, "max_abs_error").into_iter().cloned().collect::<Vec<_>>()
    };
    assert_eq!(errors("0"), errors("0"));
    assert_ne!(errors("0"), errors("1"));
}

#[test]
fn what_a_device_has_is_a_table() {
    let report = document("support", &["--mode", "support"]);
    let ops = report[0]["ops"].as_array().unwrap();
    let of = |name: &str| ops.iter().find(|op| op["op"] == name).unwrap();
    assert!(of("rows")["variant"].is_string() && of("matmul of weights in q4k")["variant"].is_string(), "{report}");
    let units = report[0]["device"]["features"].as_array().unwrap().iter().any(|f| f == "matrix-units");
    assert!(units || of("matmul_matrix")["note"].as_str().unwrap().contains("--matrix-units"));
    let mut command = cargo_bin_cmd!("selfreward");
    let told = command.args(["check", "-q", "--mode", "support"]).assert().success().get_output().stdout.clone();
    let table = String::from_utf8(told).unwrap();
    assert!(table.starts_with("| op | ") && table.contains("\n| rows | "), "{table}");
}

#[test]
fn a_name_that_no_kernel_has_lists_the_names() {
    fails(&["--kernel", "mat"], 1, &["'mat'", "matmul_matrix", "rms_norm"]);
    fails(&["--kernel", "("], 1, &["'('", "no regular expression"]);
    fails(&["--mode", "backward"], 2, &["forward", "grad", "support"]);
}
