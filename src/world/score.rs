//! The exact scorer: five independent marks, one point each.

use std::fmt;

/// The letters of the five marks, in their order.
pub const MARK_LETTERS: [char; 5] = ['E', 'C', 'L', 'H', 'X'];
/// A response is cut at this many characters; one that is as long did not stop.
pub const MAX_RESPONSE: usize = 16;

/// Which of the five points a response earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks(pub [bool; 5]);

impl Marks {
    /// How many points were earned, 0 to 5.
    pub fn score(self) -> usize {
        self.0.iter().filter(|&&m| m).count()
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, earned) in MARK_LETTERS.iter().zip(self.0) {
            write!(f, "{}", if earned { *letter } else { '-' })?;
        }
        Ok(())
    }
}

/// The part of a response that the scorer sees: up to the first newline, and at most [`MAX_RESPONSE`] characters.
pub fn cut(response: &str) -> String {
    response.split('\n').next().unwrap_or_default().chars().take(MAX_RESPONSE).collect()
}

/// Marks a response against the right answer: **E**nds (has 1 to 15 characters), **C**haracters (all of them occur in
/// the answer), **L**ength (equals the answer's), **H**alf (at least half of the answer's positions are right),
/// e**X**act.
pub fn marks(gold: &str, response: &str) -> Marks {
    let gold: Vec<char> = gold.chars().collect();
    let given: Vec<char> = cut(response).chars().collect();
    let right = given.iter().zip(&gold).filter(|(a, b)| a == b).count();
    Marks([
        (1..MAX_RESPONSE).contains(&given.len()),
        !given.is_empty() && given.iter().all(|c| gold.contains(c)),
        given.len() == gold.len(),
        2 * right >= gold.len(),
        given == gold,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_examples() {
        for (gold, response, written, score) in [
            ("dcba", "dcba", "ECLHX", 5),
            ("dcba", "dcab", "ECLH-", 4),
            ("dcba", "abcd", "ECL--", 3),
            ("dcba", "dcb", "EC-H-", 3),
            ("dcba", "dcbax", "E--H-", 2),
            ("CAB", "cab", "E-L--", 2),
            ("CAB", "CAX", "E-LH-", 3),
            ("f-i-g", "fig", "EC---", 2),
            ("bbaadd", "bbaaddbbaaddbbaa", "-C-H-", 2),
            ("ijk", "", "-----", 0),
            ("acd", "bbbbbbbbbbbbbbbb", "-----", 0),
        ] {
            let m = marks(gold, response);
            assert_eq!((m.to_string().as_str(), m.score()), (written, score), "{gold} {response}");
        }
    }

    #[test]
    fn a_newline_ends_and_sixteen_characters_are_all() {
        assert_eq!(marks("abc", "abc\nmore").score(), 5);
        assert_eq!(cut(&"x".repeat(40)).len(), MAX_RESPONSE);
        assert_eq!(marks("abc", "\nabc").score(), 0);
    }
}
