//! From scored candidates to preferences: the best against the worst.

use serde::{Deserialize, Serialize};

/// Which candidates become a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairRule {
    /// Smallest difference of the two scores; equal scores never make a pair.
    pub min_gap: f64,
    /// Length control: among candidates within this much of the best score the shortest is chosen, among those within
    /// it of the worst the longest is rejected. 0 is off.
    pub length_margin: f64,
}

impl Default for PairRule {
    fn default() -> Self {
        Self { min_gap: 0.0, length_margin: 0.0 }
    }
}

/// One candidate with a score.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The response.
    pub text: &'a str,
    /// Its length in tokens.
    pub tokens: usize,
    /// The judge's score.
    pub score: f64,
}

/// What became of a prompt's candidates; the numbers index the list given to [`choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A preference.
    Pair {
        /// Index of the better candidate.
        chosen: usize,
        /// Index of the worse one.
        rejected: usize,
    },
    /// Best and worst are equal, or nearer than `min_gap`.
    Tie,
    /// Fewer than two candidates have a score.
    TooFew,
}

/// Highest against lowest score; among equals the earliest candidate.
pub fn choose(candidates: &[Scored], rule: &PairRule) -> Choice {
    if candidates.len() < 2 {
        return Choice::TooFew;
    }
    let best = candidates.iter().map(|c| c.score).fold(f64::NEG_INFINITY, f64::max);
    let worst = candidates.iter().map(|c| c.score).fold(f64::INFINITY, f64::min);
    let at = |score: f64, prefer: &dyn Fn(&Scored) -> i64| {
        (0..candidates.len())
            .filter(|&i| (candidates[i].score - score).abs() <= rule.length_margin.max(0.0))
            .min_by_key(|&i| if rule.length_margin > 0.0 { prefer(&candidates[i]) } else { 0 })
    };
    let (Some(chosen), Some(rejected)) = (at(best, &|c| c.tokens as i64), at(worst, &|c| -(c.tokens as i64))) else {
        return Choice::TooFew; // only scores that are not numbers
    };
    let gap = candidates[chosen].score - candidates[rejected].score;
    if gap <= 0.0 || gap < rule.min_gap || candidates[chosen].text == candidates[rejected].text {
        return Choice::Tie;
    }
    Choice::Pair { chosen, rejected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored<'a>(list: &[(&'a str, usize, f64)]) -> Vec<Scored<'a>> {
        list.iter().map(|&(text, tokens, score)| Scored { text, tokens, score }).collect()
    }

    #[test]
    fn best_against_worst_and_the_earliest_of_equals() {
        let rule = PairRule::default();
        let c = scored(&[("a", 3, 2.0), ("b", 3, 5.0), ("c", 3, 1.0), ("d", 3, 5.0), ("e", 3, 1.0)]);
        assert_eq!(choose(&c, &rule), Choice::Pair { chosen: 1, rejected: 2 });
        assert_eq!(choose(&scored(&[("a", 1, 3.0), ("b", 1, 3.0)]), &rule), Choice::Tie);
        assert_eq!(choose(&scored(&[("a", 1, 3.0)]), &rule), Choice::TooFew);
        assert_eq!(choose(&scored(&[("a", 1, f64::NAN), ("b", 1, f64::NAN)]), &rule), Choice::TooFew);
        // The same text with two scores says nothing.
        assert_eq!(choose(&scored(&[("a", 1, 3.0), ("a", 1, 4.0)]), &rule), Choice::Tie);
    }

    #[test]
    fn a_margin_keeps_near_ties_out() {
        let rule = PairRule { min_gap: 0.5, length_margin: 0.0 };
        assert_eq!(choose(&scored(&[("a", 1, 3.0), ("b", 1, 3.4)]), &rule), Choice::Tie);
        assert_eq!(choose(&scored(&[("a", 1, 3.0), ("b", 1, 3.5)]), &rule), Choice::Pair { chosen: 1, rejected: 0 });
    }

    #[test]
    fn length_control_prefers_short_and_rejects_long() {
        let rule = PairRule { min_gap: 0.0, length_margin: 0.2 };
        let c = scored(&[("long", 90, 4.0), ("short", 10, 3.9), ("low", 5, 1.0), ("low and long", 50, 1.1)]);
        assert_eq!(choose(&c, &rule), Choice::Pair { chosen: 1, rejected: 3 });
        // Margins so wide that they swallow the gap leave no pair.
        let wide = PairRule { min_gap: 0.0, length_margin: 9.0 };
        assert_eq!(choose(&c, &wide), Choice::Tie);
    }
}
