//! Reads a score or a choice from a written verdict.

use crate::Error;

/// Why a verdict holds no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoScore {
    /// The verdict is empty.
    #[error("empty verdict")]
    Empty,
    /// The verdict does not contain `Score:`.
    #[error("no \"Score:\" in the verdict")]
    Missing,
    /// No number stands after `Score:`.
    #[error("no number after \"Score:\"")]
    NoNumber,
    /// The number is not between 0 and 5.
    #[error("the score is outside 0 to 5")]
    OutOfRange,
    /// The score is given out of another total than 5.
    #[error("the score is out of another total than 5")]
    OtherScale,
    /// The pattern of one's own does not match.
    #[error("the score pattern does not match the verdict")]
    NoMatch,
    /// The verdict names neither response as the better one.
    #[error("no \"Better: A\", \"Better: B\" or \"Better: tie\" in the verdict")]
    NoChoice,
}

/// The text after the last `word:`, without the decoration around it.
fn after_last<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let behind = |at: usize| {
        let after = text[at + word.len()..].trim_start_matches(is_decoration);
        after.strip_prefix([':', '=']).map(|rest| rest.trim_start_matches(is_decoration))
    };
    text.match_indices(word).filter_map(|(at, _)| behind(at)).last()
}

/// Reads a choice: 1 for `Better: A`, 0 for `Better: B`, 0.5 for `Better: tie`. The last one counts; case, emphasis and
/// the word "response" before the letter do not matter.
///
/// # Errors
/// The verdict holds no choice; the error says why.
pub fn parse_choice(verdict: &str) -> Result<f64, NoScore> {
    if verdict.trim().is_empty() {
        return Err(NoScore::Empty);
    }
    let lower = verdict.to_ascii_lowercase();
    let rest = after_last(&lower, "better").ok_or(NoScore::NoChoice)?;
    let mut words = rest.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty() && *w != "response");
    let (first, second) = (words.next(), words.next());
    match first {
        // "A or B" and "A, B" decide nothing.
        Some("a") if !matches!(second, Some("or" | "and" | "b")) => Ok(1.0),
        Some("b") if !matches!(second, Some("or" | "and" | "a")) => Ok(0.0),
        Some("tie") => Ok(0.5),
        _ => Err(NoScore::NoChoice),
    }
}

/// Reads the score after the last `Score:`. Case, and emphasis, angle brackets, quotes and spaces around the number do
/// not matter; decimals, `3/5`, `3 out of 5` and `3 points` are understood.
///
/// # Errors
/// The verdict holds no score; the error says why. A failure is never turned into a score.
pub fn parse_score(verdict: &str) -> Result<f64, NoScore> {
    if verdict.trim().is_empty() {
        return Err(NoScore::Empty);
    }
    let lower = verdict.to_ascii_lowercase();
    let rest = after_last(&lower, "score").ok_or(NoScore::Missing)?;
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let number = rest[..number_end].trim_end_matches('.');
    if rest.starts_with('-') && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return Err(NoScore::OutOfRange);
    }
    let score: f64 = number.parse().map_err(|_| NoScore::NoNumber)?;
    let after = rest[number.len()..].trim_start_matches(is_decoration);
    if after.starts_with('%') {
        return Err(NoScore::OtherScale);
    }
    // "2-4" and "3 or 4" decide nothing.
    let undecided = after.strip_prefix("or ").or_else(|| after.strip_prefix("to ")).or_else(|| after.strip_prefix('-'));
    if undecided.is_some_and(|next| next.trim_start().starts_with(|c: char| c.is_ascii_digit())) {
        return Err(NoScore::NoNumber);
    }
    if let Some(total) = after.strip_prefix('/').or_else(|| after.strip_prefix("out of")) {
        let total = total.trim_start_matches(is_decoration);
        let end = total.find(|c: char| !c.is_ascii_digit()).unwrap_or(total.len());
        if total[..end] != *"5" {
            return Err(NoScore::OtherScale);
        }
    }
    if (0.0..=5.0).contains(&score) { Ok(score) } else { Err(NoScore::OutOfRange) }
}

/// How to read a verdict under a prompt of one's own: the number in the pattern's last match, on a scale of its own.
#[derive(Clone, Debug)]
pub struct ScorePattern {
    regex: fancy_regex::Regex,
    range: [f64; 2],
}

impl PartialEq for ScorePattern {
    fn eq(&self, other: &Self) -> bool {
        (self.regex.as_str(), self.range) == (other.regex.as_str(), other.range)
    }
}

impl ScorePattern {
    /// A pattern from a regular expression whose first group is the number. The numbers in `range` mean the scores 0
    /// and 5.
    ///
    /// # Errors
    /// The text is not a regular expression or has no group; `range` is not a range.
    pub fn new(pattern: &str, range: [f64; 2]) -> Result<Self, Error> {
        let wrong = |what: String| Error::Input(format!("score pattern {pattern:?}: {what}"));
        let regex = fancy_regex::Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
        if regex.captures_len() < 2 {
            return Err(wrong("has no group for the number, such as in 'Rating: ([0-9]+)'".into()));
        }
        if !(range[0].is_finite() && range[1].is_finite() && range[0] < range[1]) {
            return Err(wrong(format!("the range {} to {} must go upwards", range[0], range[1])));
        }
        Ok(Self { regex, range })
    }

    /// Reads the score, scaled to 0 to 5.
    ///
    /// # Errors
    /// The verdict holds no score; the error says why.
    pub fn read(&self, verdict: &str) -> Result<f64, NoScore> {
        if verdict.trim().is_empty() {
            return Err(NoScore::Empty);
        }
        // A match that would cost too much counts as none.
        let last = self.regex.captures_iter(verdict).map_while(Result::ok).last().ok_or(NoScore::NoMatch)?;
        let number: f64 = last.get(1).and_then(|m| m.as_str().trim().parse().ok()).ok_or(NoScore::NoNumber)?;
        let [low, high] = self.range;
        if (low..=high).contains(&number) { Ok(5.0 * (number - low) / (high - low)) } else { Err(NoScore::OutOfRange) }
    }
}

fn is_decoration(c: char) -> bool {
    c.is_whitespace() || "*_`<>\"'[](){}#".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scores_that_are_there() {
        for (verdict, score) in [
            ("It helps. Score: 4", 4.0),
            ("Score: 0", 0.0),
            ("Score: 5.", 5.0),
            ("score : 3", 3.0),
            ("**Score:** 2", 2.0),
            ("**Score: 2**", 2.0),
            ("Score: <3>", 3.0),
            ("Score: \"3\"", 3.0),
            ("Score: 3.5", 3.5),
            ("Score: 3/5", 3.0),
            ("Score: 3 out of 5 points", 3.0),
            ("Score: 4 points", 4.0),
            ("Score: 4 (out of 5)", 4.0),
            ("Score:\n\n4\n", 4.0),
            ("I would say Score: 2. No: Score: 4", 4.0),
            ("The score is high. Score: 1", 1.0),
            ("Score = 3", 3.0),
            ("Ünïcödé Score: 3", 3.0),
        ] {
            assert_eq!(parse_score(verdict), Ok(score), "{verdict:?}");
        }
    }

    #[test]
    fn scores_that_are_not() {
        for (verdict, why) in [
            ("", NoScore::Empty),
            ("  \n", NoScore::Empty),
            ("A good answer, 4 of 5.", NoScore::Missing),
            ("The score is 4", NoScore::Missing),
            ("Score: <total points>", NoScore::NoNumber),
            ("Score:", NoScore::NoNumber),
            ("Score: four", NoScore::NoNumber),
            ("Score: .", NoScore::NoNumber),
            ("Score: 1.2.3", NoScore::NoNumber),
            ("Score: 6", NoScore::OutOfRange),
            ("Score: 45", NoScore::OutOfRange),
            ("Score: -1", NoScore::OutOfRange),
            ("Score: 4/10", NoScore::OtherScale),
            ("Score: 4 out of 10", NoScore::OtherScale),
            ("Score: 3%", NoScore::OtherScale),
            ("Score: 2-4", NoScore::NoNumber),
            ("Score: 3 or 4", NoScore::NoNumber),
            // The last score counts, even if it is broken.
            ("Score: 4. Score: none", NoScore::NoNumber),
        ] {
            assert_eq!(parse_score(verdict), Err(why), "{verdict:?}");
        }
    }

    #[test]
    fn patterns_of_ones_own_have_their_scale() {
        let ten = ScorePattern::new(r"(?i)rating:\s*\**([0-9.]+)", [0.0, 10.0]).unwrap();
        for (verdict, want) in [
            ("Good. Rating: 8", Ok(4.0)),
            ("Rating: 2, no, RATING: **10**", Ok(5.0)),
            ("Score: 4", Err(NoScore::NoMatch)),
            ("Rating: 11", Err(NoScore::OutOfRange)),
            ("Rating: 1.2.3", Err(NoScore::NoNumber)),
            (" ", Err(NoScore::Empty)),
        ] {
            assert_eq!(ten.read(verdict), want, "{verdict:?}");
        }
        assert_eq!(ScorePattern::new("([1-7])$", [1.0, 7.0]).unwrap().read("I give 4"), Ok(2.5));
        // A match that would take for ever counts as none.
        let slow = ScorePattern::new(r"(?=(a+)+b)([0-9])", [0.0, 5.0]).unwrap();
        assert_eq!(slow.read(&"a".repeat(40)), Err(NoScore::NoMatch));
        for (pattern, range, word) in
            [("(", [0.0, 5.0], "pattern"), ("[0-9]", [0.0, 5.0], "group"), ("([0-9])", [5.0, 0.0], "upwards")]
        {
            let e = ScorePattern::new(pattern, range).unwrap_err().to_string();
            assert!(e.contains(word) && e.contains(pattern), "{e}");
        }
    }

    #[test]
    fn choices_that_are_there_and_not() {
        for (verdict, p) in [
            ("A is wrong. Better: B", 0.0),
            ("**Better:** A", 1.0),
            ("Better: Response A.", 1.0),
            ("better = <response_b>", 0.0),
            ("Better: A. No, better: tie", 0.5),
            ("Better: A, because B is wrong", 1.0),
        ] {
            assert_eq!(parse_choice(verdict), Ok(p), "{verdict:?}");
        }
        assert_eq!(parse_choice(" "), Err(NoScore::Empty));
        for verdict in
            ["A", "A is better", "Better: A or B", "Better: <A, B or tie>", "Better: neither", "Better:", "Better: an"]
        {
            assert_eq!(parse_choice(verdict), Err(NoScore::NoChoice), "{verdict:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_leaves_the_scale(text in ".{0,40}", tail in "[-0-9./ a-z*<>%é]{0,12}") {
            for verdict in [text.clone(), format!("{text}Score: {tail}"), format!("score:{tail}{text}")] {
                if let Ok(score) = parse_score(&verdict) {
                    prop_assert!((0.0..=5.0).contains(&score));
                }
                if let Ok(choice) = parse_choice(&verdict.replace("core", "better")) {
                    prop_assert!([0.0, 0.5, 1.0].contains(&choice));
                }
            }
        }

        #[test]
        fn what_a_verdict_ends_with_is_read(text in "[^:=]{0,60}", score in 0u32..=5) {
            prop_assert_eq!(parse_score(&format!("{text}\nScore: {score}")), Ok(f64::from(score)));
        }
    }
}
