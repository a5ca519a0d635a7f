//! Which golden folders there are.

use std::path::Path;

/// The folders of `tests/golden` that hold `file`, in order.
pub(crate) fn having(file: &str) -> Vec<String> {
    // The driver's tests stand one folder deeper.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = ["tests/golden", "../tests/golden"].map(|p| root.join(p)).into_iter().find(|p| p.is_dir()).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join(file).is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no golden folder holds {file}");
    names
}
