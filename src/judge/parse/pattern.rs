//! A pattern of one's own by which verdicts are read.

use super::{NoScore, Reading};
use crate::Error;

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
        self.reading(verdict).map(|reading| reading.value)
    }

    /// Reads the score, scaled to 0 to 5, with the text before the match.
    pub(in crate::judge) fn reading(&self, verdict: &str) -> Result<Reading, NoScore> {
        if verdict.trim().is_empty() {
            return Err(NoScore::Empty);
        }
        // A match that would cost too much counts as none.
        let last = self.regex.captures_iter(verdict).map_while(Result::ok).last().ok_or(NoScore::NoMatch)?;
        let number: f64 = last.get(1).and_then(|m| m.as_str().trim().parse().ok()).ok_or(NoScore::NoNumber)?;
        let [low, high] = self.range;
        if !(low..=high).contains(&number) {
            return Err(NoScore::OutOfRange);
        }
        let reasons = 0..last.get(0).map_or(0, |whole| whole.start());
        Ok(Reading { value: 5.0 * (number - low) / (high - low), reasons })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
