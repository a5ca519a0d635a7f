//! How often a judge puts answers to one question in their true order, beside what their lengths alone would give.

use super::metrics::Outcome;
use super::win_rate::{Estimate, bootstrap};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An answer of known worth with what a judge says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgedAnswer {
    /// Its worth in truth; higher is better.
    pub truth: f64,
    /// The judge's score; `None` when none could be read.
    pub score: Option<f64>,
    /// Its length in characters.
    pub length: usize,
    /// Whether the model ended it itself; `None` where that is not known.
    pub ended: Option<bool>,
}

/// The rule that looks at nothing but length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LengthRule {
    /// The longer answer is better.
    Longer,
    /// The shorter answer is better.
    Shorter,
}

/// The pairs of answers that truth orders, and how many of them are ordered alike. All fractions are of a question's
/// pairs, averaged over the questions, with intervals that resample the questions. A tie counts half, and so does a
/// missing score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InOrder {
    /// How many questions have a pair.
    pub questions: usize,
    /// How many pairs there are.
    pub pairs: usize,
    /// Fraction that the judge puts in order.
    pub judge: Estimate,
    /// Fraction that length alone puts in order, by the rule that does better here.
    pub length: Estimate,
    /// That rule.
    pub rule: LengthRule,
    /// The judge's fraction for each question.
    pub by_question: Vec<f64>,
}

impl fmt::Display for InOrder {
    /// The figure of the judge with that of length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [value, low, high, length] =
            [self.judge.value, self.judge.low, self.judge.high, self.length.value].map(|share| share * 100.0);
        let rule = match self.rule {
            LengthRule::Longer => "longer",
            LengthRule::Shorter => "shorter",
        };
        let pairs = self.pairs;
        write!(f, "{value:.0} % of {pairs} pairs in order ({low:.0} to {high:.0} %), ")?;
        write!(f, "where length alone gives {length:.0} % (the {rule} one is better)")
    }
}

/// How a judge did on answers of known worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    /// How many answers were judged.
    pub answers: usize,
    /// How many of them have no score.
    pub unscored: usize,
    /// The pairs of all answers.
    pub all: InOrder,
    /// The pairs of answers that ended both; null where all did, where it is not known, or where there is no such pair.
    pub ended: Option<InOrder>,
}

/// Measures a judge on questions, each with its answers; `seed` determines the resamples. `None` if truth orders no
/// pair.
pub fn ordered(questions: &[Vec<JudgedAnswer>], seed: u64) -> Option<Ordered> {
    let every = || questions.iter().flatten();
    let some_cut = every().any(|a| a.ended == Some(false));
    let ended: Vec<Vec<JudgedAnswer>> =
        questions.iter().map(|q| q.iter().filter(|a| a.ended == Some(true)).copied().collect()).collect();
    Some(Ordered {
        answers: every().count(),
        unscored: every().filter(|a| a.score.is_none()).count(),
        all: in_order(questions, seed)?,
        ended: if some_cut { in_order(&ended, seed) } else { None },
    })
}

fn in_order(questions: &[Vec<JudgedAnswer>], seed: u64) -> Option<InOrder> {
    let each = |lead: &dyn Fn(&JudgedAnswer, &JudgedAnswer) -> f64| -> Vec<(f64, usize)> {
        questions.iter().map(|q| question(q, lead)).filter(|(_, pairs)| *pairs > 0).collect()
    };
    let judge = each(&|a, b| a.score.zip(b.score).map_or(0.0, |(a, b)| a - b));
    let longer = each(&|a, b| a.length as f64 - b.length as f64);
    let fractions = |of: &[(f64, usize)]| of.iter().map(|(right, pairs)| right / *pairs as f64).collect::<Vec<f64>>();
    let estimate =
        |of: &[f64]| bootstrap(of.len(), seed, &|pick| pick.iter().map(|&i| of[i]).sum::<f64>() / pick.len() as f64);
    let (by_question, longer) = (fractions(&judge), fractions(&longer));
    let shorter: Vec<f64> = longer.iter().map(|x| 1.0 - x).collect();
    let (by_longer, by_shorter) = (estimate(&longer)?, estimate(&shorter)?);
    let (length, rule) = match by_longer.value > by_shorter.value {
        true => (by_longer, LengthRule::Longer),
        false => (by_shorter, LengthRule::Shorter),
    };
    Some(InOrder {
        questions: by_question.len(),
        pairs: judge.iter().map(|(_, pairs)| pairs).sum(),
        judge: estimate(&by_question)?,
        length,
        rule,
        by_question,
    })
}

/// How many of a question's pairs are in order, where the better answer leads by more than 0, and how many there are.
fn question(answers: &[JudgedAnswer], lead: &dyn Fn(&JudgedAnswer, &JudgedAnswer) -> f64) -> (f64, usize) {
    let (mut right, mut pairs) = (0.0, 0);
    for better in answers {
        for worse in answers.iter().filter(|a| a.truth < better.truth) {
            pairs += 1;
            right += Outcome::of_lead(lead(better, worse), 0.0).points();
        }
    }
    (right, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(truth: f64, score: Option<f64>, length: usize, ended: Option<bool>) -> JudgedAnswer {
        JudgedAnswer { truth, score, length, ended }
    }

    #[test]
    fn a_judge_stands_beside_length() {
        let known = Some(true);
        let questions = [
            // Right, right and a tie: 2.5 of 3. The shorter answer is better in 2 of 3.
            vec![
                answer(2.0, Some(4.0), 5, known),
                answer(1.0, Some(2.0), 9, known),
                answer(0.0, Some(2.0), 7, Some(false)),
            ],
            // One has no score: a half of 1. Equally long.
            vec![answer(1.0, None, 4, known), answer(0.0, Some(1.0), 4, known)],
            // Truth orders nothing.
            vec![answer(1.0, Some(1.0), 4, known), answer(1.0, Some(2.0), 5, known)],
        ];
        let o = ordered(&questions, 0).unwrap();
        assert_eq!((o.answers, o.unscored, o.all.questions, o.all.pairs), (7, 1, 2, 4));
        assert_eq!(o.all.by_question, [2.5 / 3.0, 0.5]);
        assert!((o.all.judge.value - (2.5 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
        assert!((o.all.length.value - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
        assert_eq!(o.all.rule, LengthRule::Shorter);
        assert!(o.all.judge.low <= o.all.judge.value && o.all.judge.value <= o.all.judge.high);
        // Of those that ended one pair is left of the first question.
        let ended = o.ended.unwrap();
        assert_eq!((ended.questions, ended.pairs, ended.by_question), (2, 2, vec![1.0, 0.5]));
    }

    #[test]
    fn what_is_not_there_is_not_measured() {
        assert_eq!(ordered(&[vec![answer(1.0, Some(1.0), 1, None)]], 0), None);
        assert_eq!(ordered(&[], 0), None);
        for ended in [None, Some(true)] {
            let all = vec![vec![answer(1.0, Some(2.0), 9, ended), answer(0.0, Some(1.0), 3, ended)]];
            let o = ordered(&all, 0).unwrap();
            assert_eq!((o.ended, o.all.rule, o.all.judge.low), (None, LengthRule::Longer, 1.0));
        }
    }
}
