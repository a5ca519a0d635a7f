//! The floors of the source: who may import whom, as ARCHITECTURE.md draws it.
//!
//! A file may import its own folder and the floors under it. Files import one another without circles, but where a
//! comment `// Circle: …` above the import says why; a folder's own file (mod.rs) and those in it count as parts of one
//! another. Through lib.rs nothing is imported but errors and observers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What files of the library take from lib.rs.
const THROUGH_LIB: [&str; 4] = ["Error", "Result", "Observer", "Silent"];

/// One source file.
struct File {
    /// `["train", "dpo"]` for src/train/dpo.rs.
    module: Vec<String>,
    text: String,
    /// Names that a file passes on, and the paths they come from.
    passed_on: BTreeMap<String, Vec<String>>,
}

/// A path in a file, made absolute: `["train", "dpo", "run"]`.
struct Import {
    path: Vec<String>,
    line: usize,
    /// Whether a comment says why there may be a circle.
    explained: bool,
}

/// The floors from the top down, from the block in ARCHITECTURE.md that is marked so.
fn floors(text: &str) -> Vec<String> {
    let block = text.split("```floors\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of floors");
    block.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn read(dir: &Path, module: &[String], all: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            read(&path, &[module, &[stem]].concat(), all);
        } else if path.extension().is_some_and(|e| e == "rs") && !["lib", "main"].contains(&stem.as_str()) {
            let module = if stem == "mod" { module.to_vec() } else { [module, &[stem]].concat() };
            let text = without_comments(&std::fs::read_to_string(&path).expect("a text"));
            let passed_on = BTreeMap::new();
            all.push(File { module, text, passed_on });
        }
    }
}

/// The lines of a text without its comments, but for those that explain a circle.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        Some(at) if !line.trim_start().starts_with("// Circle:") && !line[..at].contains('"') => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

/// `a::{b, c::{d, self}}` as `a::b`, `a::c::d`, `a::c`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let parts = path.split("::").map(|p| p.trim().to_owned()).filter(|p| !p.is_empty() && p != "self");
        return vec![parts.collect()];
    };
    let close = tree.rfind('}').unwrap_or(tree.len());
    let head: Vec<String> = tree[..open].split("::").map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect();
    let (mut depth, mut from, mut parts) = (0, open + 1, Vec::new());
    for (at, c) in tree[..close].char_indices().skip_while(|(at, _)| *at <= open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[from..close]);
    let inner = parts.into_iter().filter(|p| !p.trim().is_empty()).flat_map(expand);
    inner.map(|path| head.iter().cloned().chain(path).collect()).collect()
}

/// The inline modules that hold a byte of the text: how many there are around it.
fn depth(text: &str, at: usize) -> usize {
    let (mut open, mut start) = (Vec::new(), 0);
    for line in text[..at].split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.last() == Some(&"{") && words.contains(&"mod") && words.len() <= 4 {
            open.push(indent);
        } else if line.trim_end().ends_with('}') && line.trim() == "}" && open.last() == Some(&indent) {
            open.pop();
        }
        start += line.len();
    }
    let _ = start;
    open.len()
}

/// Every path of the crate that a file names, but for what it passes on. `children` are the modules right under it.
fn imports(file: &File, children: &[String]) -> Vec<Import> {
    let mut all = Vec::new();
    let starts = ["crate", "super", "self"].into_iter().chain(children.iter().map(String::as_str));
    for start in starts.map(|s| format!("{s}::")) {
        for (at, _) in file.text.match_indices(&start) {
            let before = file.text[..at].chars().next_back().unwrap_or(' ');
            let line_start = file.text[..at].rfind('\n').map_or(0, |n| n + 1);
            let passes_on =
                file.text[line_start..].starts_with("pub") && file.text[line_start..at].trim_end().ends_with("use");
            if before.is_alphanumeric() || before == '_' || before == ':' || passes_on {
                continue;
            }
            let rest = &file.text[at..];
            let is_use = file.text[line_start..at].trim_end().ends_with("use");
            let end = if is_use {
                rest.find(';').unwrap_or(0)
            } else {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len())
            };
            let line = file.text[..at].matches('\n').count() + 1;
            let above = file.text[..line_start].trim_end().rsplit('\n').next().unwrap_or_default().trim();
            let within = depth(&file.text, at);
            for path in expand(&rest[..end].replace('\n', " ")) {
                let mut base = if path[0] == "crate" { Vec::new() } else { file.module.clone() };
                let mut path = &path[..];
                let mut out = within;
                while let Some(first) = path.first().filter(|p| ["crate", "super", "self"].contains(&p.as_str())) {
                    if first == "super" {
                        if out > 0 { out -= 1 } else { drop(base.pop()) }
                    }
                    path = &path[1..];
                }
                // What stays within an inline module.
                if out > 0 && path.len() < 2 {
                    continue;
                }
                base.extend(path.iter().cloned());
                all.push(Import { path: base, line, explained: above.starts_with("// Circle:") });
            }
        }
    }
    all
}

/// The file that a path leads to: the deepest module of its beginning, through what folders pass on.
fn home<'a>(files: &'a BTreeMap<Vec<String>, File>, path: &[String]) -> Option<&'a File> {
    let mut at: Option<&File> = None;
    for n in 1..=path.len() {
        match files.get(&path[..n]) {
            Some(file) => at = Some(file),
            None => {
                let file = at?;
                return match file.passed_on.get(&path[n - 1]) {
                    Some(from) if from[..] != path[..n] => home(files, from),
                    _ => Some(file),
                };
            }
        }
    }
    at
}

/// `pub use a::{B, C}` of a file: B and C are a's.
fn passed_on(file: &File) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (at, _) in file.text.match_indices("use ") {
        let line = file.text[..at].rfind('\n').map_or(0, |n| n + 1);
        if !file.text[line..at].starts_with("pub") {
            continue;
        }
        let tree = &file.text[at + 4..];
        let tree = tree[..tree.find(';').unwrap_or(0)].replace('\n', " ");
        for path in expand(&tree) {
            let Some(name) = path.last().cloned() else { continue };
            let full = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "super" => {
                    file.module[..file.module.len() - 1].iter().cloned().chain(path[1..].iter().cloned()).collect()
                }
                _ => file.module.iter().cloned().chain(path).collect(),
            };
            all.insert(name, full);
        }
    }
    all
}

/// The modules right under one.
fn children(files: &BTreeMap<Vec<String>, File>, module: &[String]) -> Vec<String> {
    let under = |m: &&Vec<String>| m.len() == module.len() + 1 && m.starts_with(module);
    files.keys().filter(under).filter_map(|m| m.last().cloned()).collect()
}

/// The files under a folder, by module.
fn source(dir: &str) -> BTreeMap<Vec<String>, File> {
    let mut all = Vec::new();
    read(&root().join(dir), &[], &mut all);
    for file in &mut all {
        file.passed_on = passed_on(file);
    }
    all.into_iter().map(|f| (f.module.clone(), f)).collect()
}

#[test]
fn each_floor_knows_only_what_lies_under_it() {
    let floors = floors(&std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md"));
    let files = source("src");
    let there: BTreeSet<&String> = files.keys().map(|m| &m[0]).collect();
    assert_eq!(there, floors.iter().collect(), "ARCHITECTURE.md's floors are those of src/");
    let floor = |name: &String| floors.iter().position(|f| f == name);
    let mut wrong = Vec::new();
    for file in files.values() {
        for import in imports(file, &children(&files, &file.module)) {
            let Some(first) = import.path.first() else { continue };
            let place = format!("src/{}:{}", file.module.join("/"), import.line);
            match (floor(first), floor(&file.module[0])) {
                (None, _) if THROUGH_LIB.contains(&first.as_str()) => {}
                (None, _) => wrong.push(format!("{place} takes {first} through lib.rs")),
                (Some(to), Some(from)) if to >= from => {}
                _ => wrong.push(format!("{place} imports {} from a floor above", import.path.join("::"))),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The imports that lie on a circle, in words.
fn circles(files: &BTreeMap<Vec<String>, File>) -> Vec<String> {
    let mut edges: BTreeMap<&[String], BTreeMap<&[String], usize>> = BTreeMap::new();
    for file in files.values() {
        for import in imports(file, &children(files, &file.module)).iter().filter(|i| !i.explained) {
            let Some(to) = home(files, &import.path) else { continue };
            if !to.module.starts_with(&file.module) && !file.module.starts_with(&to.module) {
                edges.entry(&file.module).or_default().entry(&to.module).or_insert(import.line);
            }
        }
    }
    let reach = |from: &[String]| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for to in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(*to) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let mut circles = Vec::new();
    for (from, targets) in &edges {
        for (to, line) in targets {
            if reach(to).contains(from) {
                circles.push(format!("{}:{line} imports {}", from.join("/"), to.join("/")));
            }
        }
    }
    circles
}

#[test]
fn files_import_one_another_without_circles() {
    for dir in ["src", "driver/src"] {
        let circles = circles(&source(dir));
        assert!(circles.is_empty(), "files of {dir} that lie on a circle:\n{}", circles.join("\n"));
    }
}

#[test]
fn a_circle_is_found() {
    let file = |module: &[&str], text: &str| {
        let module: Vec<String> = module.iter().map(|m| (*m).to_owned()).collect();
        let mut file = File { module, text: text.into(), passed_on: BTreeMap::new() };
        file.passed_on = passed_on(&file);
        (file.module.clone(), file)
    };
    let with = |last: &str| {
        BTreeMap::from([
            file(&["a"], "pub use b::Thing;\nuse crate::Error;\n"),
            file(&["a", "b"], "use super::c::{self, d};\npub struct Thing;\n"),
            file(&["a", "c"], last),
        ])
    };
    assert!(circles(&with("fn f() { let _ = 1; }\n")).is_empty());
    let direct = circles(&with("use super::b::Thing;\n"));
    assert_eq!(direct, ["a/b:1 imports a/c", "a/c:1 imports a/b"]);
    let passed_on = circles(&with("mod tests {\n    use crate::a::Thing;\n}\n"));
    assert_eq!(passed_on, ["a/b:1 imports a/c", "a/c:2 imports a/b"]);
    assert!(circles(&with("// Circle: for the test's sake.\nuse super::b::Thing;\n")).is_empty());
}
