//! The pages name files that exist: their links lead to a file and to a heading in it, and a path of the tree in code
//! is one.

use crate::files::{exists, files, read, resolve};
use std::collections::HashSet;

/// What may stand in a path that is checked; anything else is a pattern, a placeholder or no path at all.
fn plain(word: &str) -> bool {
    let letters = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    // `NAME.rs`, `round-N/` and `...` stand for names of the reader's own; pages have names in capitals.
    let stands_for_others = word.split('/').any(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        let last = stem.rsplit('-').next().unwrap_or(stem);
        let capitals = !last.is_empty() && last.chars().all(|c| c.is_ascii_uppercase());
        part.contains("...") || (capitals && !part.ends_with(".md"))
    });
    letters && !stands_for_others
}

/// One line of a page without what stands in code; and what stands in code.
fn split(line: &str) -> (String, Vec<String>) {
    let (mut text, mut code) = (String::new(), Vec::new());
    for (i, part) in line.split('`').enumerate() {
        if i % 2 == 0 { text.push_str(part) } else { code.push(part.to_owned()) }
    }
    (text, code)
}

/// The targets of a line's links: `[…](target)`, `[…]: target`, and the attributes of HTML.
fn targets(text: &str) -> Vec<&str> {
    let after = |mark: &'static str, end: &'static [char]| {
        text.match_indices(mark).filter_map(move |(at, _)| text[at + mark.len()..].split(end).next())
    };
    let mut found: Vec<&str> = after("](", &[')', ' ']).collect();
    if let Some((label, target)) = text.split_once("]: ")
        && label.starts_with('[')
    {
        found.extend(target.split_whitespace().next());
    }
    for mark in ["src=\"", "srcset=\"", "href=\""] {
        found.extend(after(mark, &['"', ' ']));
    }
    found
}

/// The name that a heading has as a link's target.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(page: &str) -> HashSet<String> {
    let text = read(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

struct Page<'a> {
    path: &'a str,
    folder: &'a str,
    files: &'a [String],
    /// The names of the root's folders.
    folders: &'a HashSet<&'a str>,
}

impl Page<'_> {
    /// What is wrong with a link's target.
    fn link(&self, target: &str) -> Option<String> {
        if target.contains("://") || target.starts_with("mailto:") {
            return None;
        }
        let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
        let Some(file) = (if path.is_empty() { Some(self.path.to_owned()) } else { resolve(self.folder, path) }) else {
            return Some(format!("the link {target} leaves the repository"));
        };
        if !exists(&file) {
            return Some(format!("the link {target} leads nowhere: there is no {file}"));
        }
        let heading = heading.filter(|_| file.ends_with(".md"))?;
        (!anchors(&file).contains(heading)).then(|| format!("the link {target}: {file} has no such heading"))
    }

    /// What is wrong with a word in code that looks like a path of the tree.
    fn word(&self, word: &str) -> Option<String> {
        let word = word.trim_start_matches("./").trim_end_matches(['.', ',', ';', ':', ')']);
        if !plain(word) {
            return None;
        }
        let path = word.trim_end_matches('/');
        if path.split_once('/').is_some_and(|(first, _)| self.folders.contains(first)) {
            // `shaders/lib/reduce` is the stem of one file for each variant.
            let stem = || self.files.iter().any(|file| file.starts_with(&format!("{path}.")));
            return (!exists(path) && !stem()).then(|| format!("there is no {word}"));
        }
        // `losses.rs` and `train/losses.rs` are the end of a path.
        let ends = |file: &String| file == path || file.ends_with(&format!("/{path}"));
        let named = [".rs", ".wgsl"].iter().any(|ending| path.ends_with(ending));
        (named && !self.files.iter().any(ends)).then(|| format!("no file's path ends in {word}"))
    }
}

#[test]
fn pages_name_what_exists() {
    let files = files();
    let folders: HashSet<&str> = files.iter().filter_map(|f| Some(f.split_once('/')?.0)).collect();
    let (mut wrong, mut links, mut words) = (Vec::new(), 0, 0);
    for path in files.iter().filter(|f| f.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let page = Page { path, folder, files: &files, folders: &folders };
        let mut fenced = false;
        for (number, line) in (1..).zip(read(path).lines()) {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            let (text, code) = if fenced { (String::new(), vec![line.to_owned()]) } else { split(line) };
            let found: Vec<String> =
                targets(&text).into_iter().inspect(|_| links += 1).filter_map(|t| page.link(t)).collect();
            let named = code.iter().flat_map(|code| code.split_whitespace()).inspect(|_| words += 1);
            wrong.extend(
                found.into_iter().chain(named.filter_map(|w| page.word(w))).map(|w| format!("{path}:{number}: {w}")),
            );
        }
    }
    assert!(links > 30 && words > 300, "only {links} links and {words} words of code were found");
    assert!(wrong.is_empty(), "mend these pages:\n{}", wrong.join("\n"));
}

#[test]
fn headings_are_named_as_hosts_name_them() {
    assert_eq!(anchor(" Where `--matrix-units` helps, and where not"), "where---matrix-units-helps-and-where-not");
    assert_eq!(split("see `a b` and [c](d.md#e)"), ("see  and [c](d.md#e)".to_owned(), vec!["a b".to_owned()]));
    assert_eq!(targets("see [c](d.md#e), <img src=\"f.svg\">"), ["d.md#e", "f.svg"]);
    assert_eq!(resolve("docs", "../src/./lib.rs").as_deref(), Some("src/lib.rs"));
    assert_eq!(resolve("docs", "../../x"), None);
}
