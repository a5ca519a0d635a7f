//! What the reference checkers' language calls a space, a word and a capital text; these differ from Rust's in details
//! on which verdicts hang.

use fancy_regex::{Regex, RegexBuilder};
use std::ops::Range;

/// How many steps a search may take before it counts as one without a match.
const MAX_STEPS: usize = 1_000_000;
/// How much memory a compiled pattern may take.
const MAX_COMPILED: usize = 1 << 20;
/// Letters, numbers and the underscore. A combining mark is none of these, so that words of Indian scripts fall apart.
pub(super) const WORD: &str = r"[\p{L}\p{N}_]";
/// White space, with four control characters that Unicode does not count as such.
pub(super) const SPACE: &str = r"[\s\x1c-\x1f]";

pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether the text has letters with a case, and all of these are capital.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// Whether the text has letters with a case, and all of these are small.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// Letters that are a capital and a small one in one.
fn is_title(c: char) -> bool {
    matches!(c as u32, 0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f88..=0x1f8f | 0x1f98..=0x1f9f | 0x1fa8..=0x1faf)
        || matches!(c as u32, 0x1fbc | 0x1fcc | 0x1ffc)
}

/// A pattern of a task file, bounded in time and memory. What surrounds it is ours.
pub(super) fn pattern(before: &str, given: &str, after: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&format!("{before}{given}{after}"))
        .backtrack_limit(MAX_STEPS)
        .delegate_size_limit(MAX_COMPILED)
        .build();
    built.map_err(|e| format!("{given:?} is no regular expression that is understood: {e}; write \\ before signs"))
}

/// A pattern of ours.
#[expect(clippy::expect_used, reason = "the pattern is a constant, and a test compiles each")]
pub(super) fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a regular expression")
}

/// The places of the matches that do not overlap, from the left; the search ends where it takes too long.
pub(super) fn matches(regex: &Regex, text: &str) -> Vec<Range<usize>> {
    regex.find_iter(text).map_while(Result::ok).map(|m| m.range()).collect()
}

/// The words of a text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    static WORDS: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| fixed(&format!("{WORD}+")));
    WORDS.find_iter(text).map_while(Result::ok).map(|m| m.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_and_words() {
        assert!(is_upper("ABC 1!") && !is_upper("ABc") && !is_upper("12") && !is_upper("ǅ A"));
        assert!(is_lower("abc 1!") && !is_lower("abC") && !is_lower("?"));
        assert_eq!(words("it's a_b, 3.5").collect::<Vec<_>>(), ["it", "s", "a_b", "3", "5"]);
        // A vowel sign stands between two letters.
        assert_eq!(words("हिन").count(), 2);
        assert_eq!(strip("\u{1c} a\n"), "a");
        assert!(pattern("", "(", "").is_err_and(|e| e.contains("no regular expression")));
    }

    #[test]
    fn a_search_that_takes_too_long_ends() {
        let slow = pattern("", r"(a|a?)+(?<=x)$", "").unwrap();
        assert!(matches(&slow, &"a".repeat(60)).is_empty());
    }
}
