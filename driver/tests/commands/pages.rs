//! The pages show commands that exist, with flags that they have.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

const PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "docs/GUIDE.md",
    "docs/MEMORY.md",
    "docs/NUMERICS.md",
    "docs/SCALING.md",
    "docs/DECISIONS.md",
];

/// The help of a command, by its words.
#[derive(Default)]
struct Helps(HashMap<Vec<String>, String>);

impl Helps {
    fn of(&mut self, words: &[String]) -> &str {
        self.0.entry(words.to_vec()).or_insert_with(|| {
            let out = cargo_bin_cmd!("selfreward").args(words).arg("--help").output().unwrap();
            assert!(out.status.success(), "`selfreward {}` is no command", words.join(" "));
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// Whether the help lists such a command or flag: a word of its own in it.
    fn lists(&mut self, words: &[String], what: &str) -> bool {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        self.of(words).lines().any(|line| {
            let line = line.trim_start();
            match what.starts_with('-') {
                true => line.starts_with('-') && line.split(ends).any(|word| word == what),
                false => line.split(' ').next() == Some(what),
            }
        })
    }
}

/// The commands of a page: what follows `selfreward` in code, up to where the shell or the code ends it.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut block = false;
    for line in page.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
        }
        let code = line.split('`').enumerate().filter(|(i, _)| block || i % 2 == 1).map(|(_, part)| part);
        for part in code.flat_map(|part| part.split(['|', ';', '#', '&'])) {
            let mut words = part.split_whitespace().skip_while(|word| !word.ends_with("selfreward")).skip(1).peekable();
            // A package or a folder of that name is no command.
            if words.peek().is_some_and(|word| word.chars().all(|c| c.is_ascii_lowercase())) {
                found.push(words.map(|word| word.trim_matches(|c| "[](),".contains(c)).to_owned()).collect());
            }
        }
    }
    found
}

#[test]
fn commands_of_the_pages_exist_with_their_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut helps, mut wrong, mut seen) = (Helps::default(), Vec::new(), 0);
    for page in PAGES {
        for words in commands(&fs::read_to_string(root.join(page)).unwrap()) {
            let mut command = Vec::new();
            for word in &words {
                if word.starts_with('-') || !helps.lists(&command, word) {
                    break;
                }
                command.push(word.clone());
            }
            let line = words.join(" ");
            if command.is_empty() {
                wrong.push(format!("{page}: `selfreward {line}` names no command"));
                continue;
            }
            let flags = words.iter().filter_map(|word| word.split('=').next().filter(|word| word.starts_with("--")));
            for flag in flags {
                seen += 1;
                if !helps.lists(&command, flag) {
                    wrong.push(format!("{page}: `selfreward {}` has no {flag} (in `{line}`)", command.join(" ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 50, "only {seen} flags were found: the test no longer reads the pages");
}
