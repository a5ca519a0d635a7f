//! Which golden folders there are.

use std::path::Path;

/// The folders of `tests/golden` that hold `file`, in order.
pub fn having(file: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join(file).is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no golden folder holds {file}");
    names
}
