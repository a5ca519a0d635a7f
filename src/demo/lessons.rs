//! What the small world's first model is taught: examples for supervised training.

use crate::Result;
use crate::train::sft::Example;
use crate::world::text::{answer, completion, judge, list, question};
use crate::world::{Marks, Task};

/// An example for the policy: question `x` and response `y`. Where `y` was cut, its end is left out.
///
/// # Errors
/// A text is not ASCII.
pub(super) fn ift_example(x: &str, y: &str) -> Result<Example> {
    Ok(Example::new(question(x)?, completion(y)?))
}

/// An example for the judge: the marks and the score of response `y`.
///
/// # Errors
/// A text is not ASCII.
pub(super) fn eft_example(x: &str, y: &str, marks: Marks) -> Result<Example> {
    Ok(Example::new(judge(x, y)?, answer(&format!("{marks} Score: {}", marks.score()))?))
}

/// An example for the maker of new tasks: a list of tasks.
///
/// # Errors
/// A text is not ASCII.
pub(super) fn list_example(tasks: &[Task]) -> Result<Example> {
    let lines: Vec<&str> = tasks.iter().map(|t| t.prompt.as_str()).collect();
    Ok(Example::new(list::<&str>(&[])?, answer(&lines.join("\n"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{marks, text};

    #[test]
    fn examples_to_the_letter() {
        let e = eft_example("reverse: abcd", "dcb", marks("dcba", "dcb")).unwrap();
        assert_eq!(text::decode(&e.prompt), "\u{1}Judge\nQ: reverse: abcd\nA: dcb\nPoints: ");
        assert_eq!(text::decode(&e.completion), "EC-H- Score: 3\u{2}");
        let tasks: Vec<Task> = ["upper: cab", "next: hij"].iter().map(|p| Task::parse(p).unwrap()).collect();
        let l = list_example(&tasks).unwrap();
        assert_eq!(
            text::decode(&l.prompt) + &text::decode(&l.completion),
            "\u{1}New tasks\nupper: cab\nnext: hij\u{2}"
        );
    }
}
