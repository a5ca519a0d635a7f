//! What a loss, a judge mode, an optimiser or a family needs stands in its row: nothing outside the list compares with
//! its name.

use selfreward::arch::family::FAMILIES;
use selfreward::judge::Mode;
use selfreward::settings::{Settings, Takes};
use selfreward::train::Optimiser;
use selfreward::train::losses::LOSSES;
use selfreward::train::objective::Divergence;
use std::path::Path;

/// The files that may compare with names: those that hold the rows, and one whose words are those of tokenizers.
const LISTS: [&str; 4] =
    ["src/train/losses.rs", "src/judge/model_judge.rs", "src/train/settings.rs", "src/weights/gguf_tokenizer.rs"];

/// Every name of a row.
fn names() -> Vec<&'static str> {
    let words = |takes: Takes| match takes {
        Takes::OneOf(words) => words.to_vec(),
        _ => Vec::new(),
    };
    let mut all: Vec<&str> = Optimiser::settings().iter().flat_map(|s| words(s.takes)).collect();
    all.extend(LOSSES.iter().map(|l| l.name));
    all.extend(FAMILIES.iter().map(|family| family.model_type));
    all.extend(Mode::ALL.map(Mode::name));
    all.extend(Divergence::NAMES.map(|(name, _)| name));
    all
}

/// The names with which a line of code compares.
fn compared(line: &str, names: &[&'static str]) -> Vec<&'static str> {
    let with = |name: &&&str| {
        let text = format!("\"{name}\"");
        let forms = [
            format!("== {text}"),
            format!("!= {text}"),
            format!("{text} =="),
            format!("{text} !="),
            format!("{text} =>"),
            format!("{text} |"),
            format!("| {text}"),
        ];
        let begins = line.split("starts_with(\"").skip(1).filter_map(|rest| rest.split('"').next());
        forms.iter().any(|form| line.contains(form)) || begins.filter(|b| b.len() > 2).any(|b| name.starts_with(b))
    };
    names.iter().filter(with).copied().collect()
}

fn look(dir: &Path, names: &[&'static str], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            look(&path, names, found);
            continue;
        }
        let short = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a file of ours").display().to_string();
        if path.extension().is_none_or(|e| e != "rs") || LISTS.contains(&short.as_str()) || short.ends_with("tests.rs")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        for (number, line) in text.split("#[cfg(test)]").next().unwrap_or_default().lines().enumerate() {
            found.extend(compared(line, names).iter().map(|name| format!("{short}:{}: {name}", number + 1)));
        }
    }
}

#[test]
fn rows_are_asked_for_what_they_need_and_not_for_their_names() {
    let (root, names, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")), names(), Vec::new());
    look(&root.join("src"), &names, &mut found);
    look(&root.join("driver/src"), &names, &mut found);
    assert_eq!(found, [""; 0], "a need belongs into the row: src/train/losses.rs, src/judge/model_judge.rs");
}

#[test]
fn comparisons_are_seen() {
    let names = names();
    assert_eq!(compared("rows.iter().any(|l| l.name == \"orpo\")", &names), ["orpo"]);
    assert_eq!(compared("l.name.starts_with(\"aot\")", &names), ["aot", "aot_unpaired"]);
    assert_eq!(compared("\"adamw8bit\" => OptimiserKind::AdamW8bit,", &names), ["adamw8bit"]);
    assert_eq!(compared("parse(\"aot:2,sft:0.3\")", &names), [""; 0]);
}
