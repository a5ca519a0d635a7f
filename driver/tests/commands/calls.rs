//! Calls of the binary that the tests of several commands make.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward_testing::schema::{schema, validate};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A model that reads and writes ASCII, 128 tokens at most.
pub(crate) fn world() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1")
}

/// The one document that is printed with `--json`.
#[track_caller]
pub(crate) fn document(args: &[&str]) -> Value {
    let mut command = cargo_bin_cmd!("selfreward");
    let output = command.args(args).arg("--json").assert().success().stderr("").get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

#[track_caller]
pub(crate) fn fails(args: &[&str], code: i32, words: &[&str]) {
    let mut command = cargo_bin_cmd!("selfreward");
    let error = String::from_utf8(command.args(args).assert().code(code).get_output().stderr.clone()).unwrap();
    words.iter().for_each(|word| assert!(error.contains(word), "{args:?}: '{word}' is missing in: {error}"));
}

pub(crate) fn write(path: &Path, records: &[Value]) {
    fs::write(path, records.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
}

#[track_caller]
pub(crate) fn hold(name: &str, value: &Value) {
    validate(&schema(name), value, name).unwrap();
}
