//! The eight families of tasks: how they are drawn and read back, and the one right answer.

use crate::rng::Stream;
use std::collections::HashSet;
use std::sync::OnceLock;

/// The letters of which argument words are made.
pub const LETTERS: &[u8; 10] = b"abcdefghij";
/// How many questions are held out for measuring.
pub const HELD_OUT: usize = 200;
const HELD_OUT_SEED: u64 = 0x5EED_0200;

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `upper: W`, answered by W in capitals.
    Upper,
    /// `reverse: W`, answered by W backwards.
    Reverse,
    /// `sort: W`, answered by the letters in alphabetical order.
    Sort,
    /// `next: W`, answered by each letter's successor.
    Next,
    /// `double: W`, answered by each letter twice.
    Double,
    /// `join S: W`, answered by the letters joined by S.
    Join(char),
    /// `repeat K: W`, answered by W K times.
    Repeat(usize),
    /// `first K: W`, answered by the first K letters.
    First(usize),
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// The question as the model reads it.
    pub prompt: String,
    /// The kind of task.
    pub family: Family,
    /// The argument word.
    pub word: String,
    /// The right answer.
    pub gold: String,
}

impl Task {
    fn new(family: Family, word: String) -> Self {
        let head = match family {
            Family::Upper => "upper".to_owned(),
            Family::Reverse => "reverse".to_owned(),
            Family::Sort => "sort".to_owned(),
            Family::Next => "next".to_owned(),
            Family::Double => "double".to_owned(),
            Family::Join(by) => format!("join {by}"),
            Family::Repeat(k) => format!("repeat {k}"),
            Family::First(k) => format!("first {k}"),
        };
        let gold = match family {
            Family::Upper => word.to_ascii_uppercase(),
            Family::Reverse => word.chars().rev().collect(),
            Family::Sort => {
                let mut letters: Vec<char> = word.chars().collect();
                letters.sort_unstable();
                letters.into_iter().collect()
            }
            Family::Next => word.bytes().map(|b| char::from(b + 1)).collect(),
            Family::Double => word.chars().flat_map(|c| [c, c]).collect(),
            Family::Join(by) => word.chars().map(String::from).collect::<Vec<_>>().join(&by.to_string()),
            Family::Repeat(k) => word.repeat(k),
            Family::First(k) => word.chars().take(k).collect(),
        };
        Self { prompt: format!("{head}: {word}"), family, word, gold }
    }

    /// Draws a random task: a family with equal chances, then its arguments.
    pub fn draw(rng: &mut Stream) -> Self {
        match rng.below(8) {
            0 => Self::new(Family::Upper, word(rng, 3, 6)),
            1 => Self::new(Family::Reverse, word(rng, 3, 6)),
            2 => Self::new(Family::Sort, word(rng, 3, 6)),
            3 => Self::new(Family::Next, word(rng, 3, 6)),
            4 => Self::new(Family::Double, word(rng, 3, 5)),
            5 => {
                let by = ['-', '+', '/'][rng.below(3)];
                Self::new(Family::Join(by), word(rng, 3, 5))
            }
            6 => {
                let times = rng.between(2, 3);
                Self::new(Family::Repeat(times), word(rng, 2, 4))
            }
            _ => {
                let word = word(rng, 5, 7);
                Self::new(Family::First(rng.between(3, word.len() - 1)), word)
            }
        }
    }

    /// Draws a random task that is not held out.
    pub fn draw_for_training(rng: &mut Stream) -> Self {
        loop {
            let task = Self::draw(rng);
            if !is_held_out(&task.prompt) {
                return task;
            }
        }
    }

    /// Reads a prompt back; `None` unless it is a task of this world, to the letter.
    pub fn parse(prompt: &str) -> Option<Self> {
        let (head, word) = prompt.split_once(": ")?;
        if !word.bytes().all(|b| LETTERS.contains(&b)) {
            return None;
        }
        let (family, lengths) = match head {
            "upper" => (Family::Upper, 3..=6),
            "reverse" => (Family::Reverse, 3..=6),
            "sort" => (Family::Sort, 3..=6),
            "next" => (Family::Next, 3..=6),
            "double" => (Family::Double, 3..=5),
            "join -" => (Family::Join('-'), 3..=5),
            "join +" => (Family::Join('+'), 3..=5),
            "join /" => (Family::Join('/'), 3..=5),
            "repeat 2" => (Family::Repeat(2), 2..=4),
            "repeat 3" => (Family::Repeat(3), 2..=4),
            "first 3" => (Family::First(3), 5..=7),
            "first 4" => (Family::First(4), 5..=7),
            "first 5" => (Family::First(5), 6..=7),
            "first 6" => (Family::First(6), 7..=7),
            _ => return None,
        };
        lengths.contains(&word.len()).then(|| Self::new(family, word.to_owned()))
    }
}

fn word(rng: &mut Stream, lo: usize, hi: usize) -> String {
    let len = rng.between(lo, hi);
    (0..len).map(|_| char::from(LETTERS[rng.below(LETTERS.len())])).collect()
}

fn held() -> &'static (Vec<Task>, HashSet<String>) {
    static HELD: OnceLock<(Vec<Task>, HashSet<String>)> = OnceLock::new();
    HELD.get_or_init(|| {
        let mut rng = Stream::new(HELD_OUT_SEED, 0);
        let (mut tasks, mut seen) = (Vec::new(), HashSet::new());
        while tasks.len() < HELD_OUT {
            let task = Task::draw(&mut rng);
            if seen.insert(task.prompt.clone()) {
                tasks.push(task);
            }
        }
        (tasks, seen)
    })
}

/// The questions kept for measuring: the first [`HELD_OUT`] different ones of a generator with a seed of its own.
pub fn held_out() -> &'static [Task] {
    &held().0
}

/// Whether a prompt is held out. Such a prompt occurs in no training data and never becomes a new prompt of the loop.
pub fn is_held_out(prompt: &str) -> bool {
    held().1.contains(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_every_family() {
        for (prompt, gold) in [
            ("upper: cab", "CAB"),
            ("reverse: abcd", "dcba"),
            ("sort: caje", "acej"),
            ("next: hij", "ijk"),
            ("double: bad", "bbaadd"),
            ("join -: fig", "f-i-g"),
            ("repeat 2: abc", "abcabc"),
            ("first 3: badge", "bad"),
        ] {
            let task = Task::parse(prompt).unwrap();
            assert_eq!((task.prompt.as_str(), task.gold.as_str()), (prompt, gold));
        }
    }

    #[test]
    fn what_is_no_task() {
        for prompt in [
            "",
            "upper",
            "upper: ",
            "upper:cab",
            "upper: ab",
            "upper: abcdefg",
            "upper: cak",
            "Upper: cab",
            "upper: cab ",
            " upper: cab",
            "upper:  cab",
            "double: abcdef",
            "join *: abc",
            "join: abc",
            "repeat 4: abc",
            "repeat 2: a",
            "repeat 2: abcde",
            "first 2: abcde",
            "first 5: abcde",
            "first 7: abcdefg",
            "upper: cab: ca",
            "sort: äbc",
        ] {
            assert_eq!(Task::parse(prompt), None, "{prompt:?}");
        }
    }

    #[test]
    fn drawn_tasks_read_back_and_keep_their_bounds() {
        let mut rng = Stream::new(3, 0);
        let mut families = HashSet::new();
        for _ in 0..5000 {
            let task = Task::draw(&mut rng);
            assert_eq!(Task::parse(&task.prompt).as_ref(), Some(&task));
            assert!(task.prompt.len() <= 16 && task.gold.len() <= 12 && task.gold.len() >= 3, "{task:?}");
            families.insert(std::mem::discriminant(&task.family));
        }
        assert_eq!(families.len(), 8);
    }

    #[test]
    fn held_out_prompts_are_distinct_and_never_drawn_for_training() {
        assert_eq!(held_out().len(), HELD_OUT);
        let mut rng = Stream::new(HELD_OUT_SEED, 0);
        // The very stream that made the held-out set gives only other tasks here.
        for _ in 0..1000 {
            assert!(!is_held_out(&Task::draw_for_training(&mut rng).prompt));
        }
    }
}
