//! The rule by which scored candidates become preferences.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Which candidates of a prompt become pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// The best candidate against the worst, as in the paper.
    #[default]
    BestWorst,
    /// Every two candidates whose scores are far enough apart.
    All,
}

/// How a prompt's candidates become pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairRule {
    /// Which candidates become pairs.
    pub select: Select,
    /// Most pairs of a prompt under [`Select::All`], which are those with the largest differences; 0 sets no limit.
    pub most: usize,
    /// Smallest difference of the two scores. Equal scores never make a pair.
    pub min_gap: f64,
    /// Control of length under [`Select::BestWorst`]: among the candidates within this margin of the best score the
    /// shortest is chosen, among those within it of the worst the longest is rejected. 0 turns it off.
    pub length_margin: f64,
    /// Whether only answers that the model ended itself are chosen.
    pub ended: bool,
    /// With more than 0, both answers of a pair ended or both were cut, and the longer one has at most so many times
    /// the tokens of the other: then length and ending say nothing of the preference.
    pub length_ratio: f64,
    /// Under `length_ratio` the largest share of pairs whose rejected answer alone was cut, whatever its length
    /// ([`PairRule::draw`]): a model that is never told to end forgets to.
    pub cut: f64,
}

/// One candidate with a score.
#[derive(Clone, Copy, Debug)]
pub struct ScoredAnswer<'a> {
    /// The words of the response.
    pub text: &'a str,
    /// The response's length in tokens.
    pub tokens: usize,
    /// Whether the model ended the response itself.
    pub ended: bool,
    /// The score that the judge gave.
    pub score: f64,
}

impl ScoredAnswer<'_> {
    /// Whether the model ended this answer and not the other.
    pub fn ended_alone(&self, other: &ScoredAnswer) -> bool {
        self.ended && !other.ended
    }
}

/// What becomes of a prompt's candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairChoice {
    /// The preferences as (chosen, rejected), which are indices into the lists given to [`choose`]; at least one.
    Pairs(Vec<(usize, usize)>),
    /// All scores are equal or less than `min_gap` apart.
    Tie,
    /// Fewer than two candidates have a score, or none of those may be chosen.
    TooFew,
}

/// Chooses pairs among `candidates`, or, where the rejected answers are another model's, pairs of one of them and one
/// of `rejected`. Among equals the earliest candidate counts.
pub fn choose(candidates: &[ScoredAnswer], rejected: Option<&[ScoredAnswer]>, rule: &PairRule) -> PairChoice {
    let numbers = |list: &[ScoredAnswer]| list.iter().filter(|c| c.score.is_finite()).count();
    let needed = if rejected.is_some() { 1 } else { 2 };
    let (chosen, rejected) = (candidates, rejected.unwrap_or(candidates));
    if numbers(chosen) < needed || numbers(rejected) < needed || !chosen.iter().any(|c| rule.chooses(c)) {
        return PairChoice::TooFew;
    }
    let far = |&(c, r): &(usize, usize)| {
        let gap = chosen[c].score - rejected[r].score;
        let differ = gap > 0.0 && gap >= rule.min_gap && chosen[c].text != rejected[r].text;
        rule.chooses(&chosen[c]) && differ && rule.matches(&chosen[c], &rejected[r])
    };
    let pairs: Vec<(usize, usize)> = match rule.select {
        Select::BestWorst => best_worst(chosen, rejected, rule).into_iter().filter(far).collect(),
        Select::All => {
            let mut all: Vec<(usize, usize)> =
                (0..chosen.len()).flat_map(|c| (0..rejected.len()).map(move |r| (c, r))).filter(far).collect();
            let gap = |&(c, r): &(usize, usize)| chosen[c].score - rejected[r].score;
            // Pairs of which some may be left out again take no place from others.
            let cut = |&(c, r): &(usize, usize)| rule.length_ratio > 0.0 && chosen[c].ended_alone(&rejected[r]);
            all.sort_by(|a, b| gap(b).total_cmp(&gap(a)).then(cut(a).cmp(&cut(b))));
            // Candidates with the same text are one answer.
            let mut seen = HashSet::new();
            all.retain(|&(c, r)| seen.insert((chosen[c].text, rejected[r].text)));
            all.truncate(if rule.most == 0 { usize::MAX } else { rule.most });
            all
        }
    };
    if pairs.is_empty() { PairChoice::Tie } else { PairChoice::Pairs(pairs) }
}

impl PairRule {
    /// Whether an answer may be chosen.
    fn chooses(&self, answer: &ScoredAnswer) -> bool {
        answer.score.is_finite() && (answer.ended || !self.ended)
    }

    /// Whether two answers are near enough in length and ending.
    fn matches(&self, chosen: &ScoredAnswer, rejected: &ScoredAnswer) -> bool {
        let [a, b] = [chosen, rejected].map(|answer| answer.tokens as f64);
        let alike = chosen.ended == rejected.ended && a.max(b) <= self.length_ratio * a.min(b);
        self.length_ratio == 0.0 || alike || (self.cut > 0.0 && chosen.ended_alone(rejected))
    }

    /// Leaves `total` of the pairs, or all where that is 0, and of those whose rejected answer alone was cut no larger
    /// a share than the rule allows. `is_cut` tells these. The first by `place` stay, which is a draw if it is a hash.
    pub fn draw<T, K: Ord>(
        &self,
        pairs: &mut Vec<T>,
        total: usize,
        is_cut: impl Fn(&T) -> bool,
        place: impl Fn(&T) -> K,
    ) {
        let counted = |pair: &T| self.length_ratio > 0.0 && self.cut < 1.0 && is_cut(pair);
        let places = |cut: bool| {
            let mut places: Vec<K> = pairs.iter().filter(|pair| counted(pair) == cut).map(&place).collect();
            places.sort_unstable();
            places
        };
        let (others, cut) = (places(false), places(true));
        let most = (others.len() as f64 * self.cut / (1.0 - self.cut)) as usize;
        let (mut of_others, mut of_cut) = (others.len(), cut.len().min(most));
        let all = of_others + of_cut;
        if total > 0 && all > total {
            // Each kind by its share: of the one that `place` has thinned out, too many are among the first of all.
            of_cut = of_cut * total / all;
            of_others = total - of_cut;
        }
        pairs.retain(|pair| {
            let first = if counted(pair) { cut.get(of_cut) } else { others.get(of_others) };
            first.is_none_or(|first| place(pair) < *first)
        });
    }
}

/// The places of the best of the answers that may be chosen and of the worst of the others.
fn best_worst(chosen: &[ScoredAnswer], rejected: &[ScoredAnswer], rule: &PairRule) -> Option<(usize, usize)> {
    let margin = rule.length_margin.max(0.0);
    let near = |a: f64, b: f64| (a - b).abs() <= margin;
    let length = |answer: &ScoredAnswer| if margin > 0.0 { answer.tokens as i64 } else { 0 };
    let allowed = || chosen.iter().enumerate().filter(|(_, answer)| rule.chooses(answer));
    let best = allowed().map(|(_, answer)| answer.score).fold(f64::NEG_INFINITY, f64::max);
    let worst = rejected.iter().map(|answer| answer.score).fold(f64::INFINITY, f64::min);
    let best = allowed().filter(|(_, answer)| near(answer.score, best)).min_by_key(|(_, answer)| length(answer))?;
    let others = rejected.iter().enumerate().filter(|(_, answer)| near(answer.score, worst));
    Some((best.0, others.min_by_key(|(_, answer)| -length(answer))?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored<'a>(list: &[(&'a str, usize, f64)]) -> Vec<ScoredAnswer<'a>> {
        list.iter().map(|&(text, tokens, score)| ScoredAnswer { text, tokens, ended: true, score }).collect()
    }

    fn own(list: &[(&str, usize, f64)], rule: &PairRule) -> PairChoice {
        let list = scored(list);
        choose(&list, None, rule)
    }

    fn pair(chosen: usize, rejected: usize) -> PairChoice {
        PairChoice::Pairs(vec![(chosen, rejected)])
    }

    #[test]
    fn best_against_worst_and_the_earliest_of_equals() {
        let rule = PairRule::default();
        let c = [("a", 3, 2.0), ("b", 3, 5.0), ("c", 3, 1.0), ("d", 3, 5.0), ("e", 3, 1.0)];
        assert_eq!(own(&c, &rule), pair(1, 2));
        assert_eq!(own(&[("a", 1, 3.0), ("b", 1, 3.0)], &rule), PairChoice::Tie);
        assert_eq!(own(&[("a", 1, 3.0)], &rule), PairChoice::TooFew);
        assert_eq!(own(&[("a", 1, f64::NAN), ("b", 1, f64::NAN)], &rule), PairChoice::TooFew);
        // The same text with two scores prefers nothing.
        assert_eq!(own(&[("a", 1, 3.0), ("a", 1, 4.0)], &rule), PairChoice::Tie);
    }

    #[test]
    fn a_margin_keeps_near_ties_out() {
        let rule = PairRule { min_gap: 0.5, ..PairRule::default() };
        assert_eq!(own(&[("a", 1, 3.0), ("b", 1, 3.4)], &rule), PairChoice::Tie);
        assert_eq!(own(&[("a", 1, 3.0), ("b", 1, 3.5)], &rule), pair(1, 0));
    }

    #[test]
    fn length_control_prefers_short_and_rejects_long() {
        let rule = PairRule { length_margin: 0.2, ..PairRule::default() };
        let c = [("long", 90, 4.0), ("short", 10, 3.9), ("low", 5, 1.0), ("low and long", 50, 1.1)];
        assert_eq!(own(&c, &rule), pair(1, 3));
        // Margins so wide that they exceed the gap leave no pair.
        let wide = PairRule { length_margin: 9.0, ..PairRule::default() };
        assert_eq!(own(&c, &wide), PairChoice::Tie);
    }

    #[test]
    fn all_pairs_above_the_margin_come_by_their_difference() {
        let rule = PairRule { select: Select::All, min_gap: 1.0, ..PairRule::default() };
        let c = [("a", 1, 3.0), ("b", 1, 5.0), ("c", 1, 4.5), ("a", 1, 3.0), ("d", 1, f64::NAN)];
        assert_eq!(own(&c, &rule), PairChoice::Pairs(vec![(1, 0), (2, 0)]));
        assert_eq!(own(&c, &PairRule { most: 1, ..rule }), pair(1, 0));
        assert_eq!(own(&c, &PairRule { min_gap: 3.0, ..rule }), PairChoice::Tie);
    }

    #[test]
    fn only_answers_that_ended_are_chosen_where_that_is_asked() {
        let mut list = scored(&[("cut", 9, 5.0), ("ended", 4, 4.0), ("low", 4, 1.0)]);
        list[0].ended = false;
        for select in [Select::BestWorst, Select::All] {
            let rule = PairRule { select, most: 1, ended: true, ..PairRule::default() };
            assert_eq!(choose(&list, None, &rule), pair(1, 2));
            assert_eq!(choose(&list, None, &PairRule { ended: false, ..rule }), pair(0, 2));
            assert_eq!(choose(&list[..1], Some(&list), &rule), PairChoice::TooFew);
        }
        // A cut answer may still be rejected.
        list[0].score = 0.0;
        let rule = PairRule { ended: true, ..PairRule::default() };
        assert_eq!(choose(&list, None, &rule), pair(1, 0));
    }

    #[test]
    fn pairs_may_have_to_be_alike_in_length_and_ending() {
        let mut list = scored(&[("right", 10, 5.0), ("long", 16, 0.0), ("near", 15, 1.0), ("cut", 10, 0.0)]);
        list[3].ended = false;
        let rule = PairRule { select: Select::All, ..PairRule::default() };
        assert_eq!(choose(&list, None, &PairRule { most: 1, ..rule }), pair(0, 1));
        assert_eq!(
            choose(&list, None, &PairRule { length_ratio: 1.5, ..rule }),
            PairChoice::Pairs(vec![(0, 2), (2, 1)])
        );
        assert_eq!(choose(&list[..2], None, &PairRule { length_ratio: 1.5, ..rule }), PairChoice::Tie);
        // Without it the earliest counts.
        let cut_first = [list[0], list[3], list[1]];
        assert_eq!(choose(&cut_first, None, &PairRule { most: 1, ..rule }), pair(0, 1));
        let some = PairRule { length_ratio: 1.5, cut: 0.25, ..rule };
        assert_eq!(choose(&list, None, &some), PairChoice::Pairs(vec![(0, 3), (0, 2), (2, 1), (2, 3)]));
        let first = PairRule { most: 1, ..some };
        assert_eq!(choose(&list[1..], None, &first), pair(1, 0));
    }

    #[test]
    fn so_many_of_the_pairs_may_have_a_cut_one() {
        // Ids, and whether the rejected answer alone was cut.
        let all: Vec<(u32, bool)> = (0..12).map(|id| (id * 7 % 12, id % 2 == 0)).collect();
        for (cut, kept) in [(0.0, 0), (0.2, 1), (0.25, 2), (0.4, 4), (0.5, 6), (1.0, 6)] {
            let mut pairs = all.clone();
            let rule = PairRule { length_ratio: 1.5, cut, ..PairRule::default() };
            rule.draw(&mut pairs, 0, |pair| pair.1, |pair| pair.0);
            let ids: Vec<u32> = pairs.iter().filter(|pair| pair.1).map(|pair| pair.0).collect();
            assert_eq!((ids.len(), pairs.len()), (kept, 6 + kept), "{cut}");
            // Those with the smallest ids, of 0, 2, 4, 6, 8 and 10.
            assert!(ids.iter().all(|id| (*id as usize) < 2 * kept), "{cut}: {ids:?}");
        }
        let mut pairs = all.clone();
        PairRule::default().draw(&mut pairs, 0, |pair| pair.1, |pair| pair.0);
        assert_eq!(pairs, all, "without length_ratio endings are left alone");
        PairRule::default().draw(&mut pairs, 5, |pair| pair.1, |pair| pair.0);
        assert!(pairs.len() == 5 && pairs.iter().all(|pair| pair.0 < 5), "{pairs:?}");
    }

    /// The share holds where fewer are wanted than there are, and no pair is missing for it.
    #[test]
    fn a_draw_keeps_the_share_of_cut_ones() {
        let rule = PairRule { length_ratio: 1.5, cut: 0.2, ..PairRule::default() };
        for total in [1, 4, 10, 50, 99, 100, 101, 0] {
            // 80 others, and of 120 cut ones 20 at most.
            let mut pairs: Vec<(u32, bool)> = (0..200).map(|id| (id * 77 % 200, id % 5 < 3)).collect();
            rule.draw(&mut pairs, total, |pair| pair.1, |pair| pair.0);
            let cut = pairs.iter().filter(|pair| pair.1).count();
            let kept = if total == 0 { 100 } else { total.min(100) };
            assert_eq!((pairs.len(), cut), (kept, kept / 5), "{total}");
        }
    }

    #[test]
    fn rejected_answers_may_be_another_models() {
        let (mine, theirs) = (scored(&[("a", 1, 4.0)]), scored(&[("b", 1, 3.0), ("c", 1, 1.0)]));
        assert_eq!(choose(&mine, Some(&theirs), &PairRule::default()), pair(0, 1));
        assert_eq!(choose(&theirs, Some(&mine), &PairRule::default()), PairChoice::Tie);
        assert_eq!(choose(&mine, Some(&[]), &PairRule::default()), PairChoice::TooFew);
    }
}
