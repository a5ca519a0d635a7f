//! No line of a program or of a shader is longer than a screen is wide, comments included, and no file is longer than
//! one reading.

use crate::files::{files, read};

/// Characters of a line.
const COLUMNS: usize = 120;
/// Lines of a file, by its ending.
const LINES: [(&str, usize); 2] = [(".rs", 550), (".wgsl", 250)];

/// Lines of src/recipe/: what is not the loop itself has a floor of its own.
const RECIPE: usize = 5500;

#[test]
fn the_recipe_is_the_loop_alone() {
    let lines = |path: &String| read(path).lines().count();
    let count: usize = files().iter().filter(|path| path.starts_with("src/recipe/")).map(lines).sum();
    assert!((1000..=RECIPE).contains(&count), "src/recipe has {count} lines, more than {RECIPE}");
}

#[test]
fn lines_and_files_of_code_are_short() {
    let mut wrong = Vec::new();
    let mut seen = [0; LINES.len()];
    for path in files() {
        let Some(kind) = LINES.iter().position(|(ending, _)| path.ends_with(ending)) else { continue };
        seen[kind] += 1;
        let text = read(&path);
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            if columns > COLUMNS {
                wrong.push(format!("{path}:{number}: {columns} columns, more than {COLUMNS}"));
            }
        }
        let (lines, most) = (text.lines().count(), LINES[kind].1);
        if lines > most {
            wrong.push(format!("{path}: {lines} lines, more than {most}"));
        }
    }
    assert!(seen.iter().all(|n| *n > 10), "only {seen:?} files of {LINES:?} were found");
    assert!(wrong.is_empty(), "wrap these lines, split these files:\n{}", wrong.join("\n"));
}
