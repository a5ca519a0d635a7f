//! The files of the repository.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use std::fs;
use std::path::Path;

/// The repository's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository by its path from the root with `/`, in order; what builds and runs leave behind is no
/// part of it.
pub(crate) fn files() -> Vec<String> {
    let ignored = read(".gitignore");
    let skipped = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        ignored.lines().any(|line| line.strip_prefix('/') == Some(path))
            || ["target", "node_modules", "__pycache__"].contains(&name)
            || (name.starts_with('.') && ![".ci", ".github"].contains(&name))
    };
    let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match entry.file_type().unwrap() {
                kind if skipped(&path) || kind.is_symlink() => {}
                kind if kind.is_dir() => folders.push(path),
                _ => files.push(path),
            }
        }
    }
    files.sort();
    files
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// `path` as seen from `folder`, without `.` and `..`; nothing where it leaves the repository.
pub(crate) fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Whether there is such a file or folder.
pub(crate) fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// The packages are built from their own folders, and each must hold the licences.
#[test]
fn both_packages_hold_the_licences() {
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        assert_eq!(read(name), read(&format!("driver/{name}")), "driver/{name} differs");
    }
}
