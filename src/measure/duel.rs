//! Two sets of answers to the same prompts, head to head: judged side by side in both orders, or each by its scores.

use super::diversity::{Diversity, Drift, diversity, drift, warnings};
use super::metrics::{HeadToHead, Outcome, histogram, mean_se, paired_gain};
use super::win_rate::{Estimate, LengthControlled, length_controlled, win_rate};
use crate::data::answers::{Answer, AnswerSet};
use crate::generate::Engine;
use crate::judge::{Item, Judge, Match, PairwiseJudge, Preference, SAME_TEXT};
use crate::rng::{fnv, halves, record_id};
use crate::text::Prompt;
use crate::{Observer, Result};
use serde::{Deserialize, Serialize};

/// Who decides a duel.
pub enum Referee<'a> {
    /// A model that reads both answers, in both orders. If the orders disagree, it is a tie.
    Pairwise(Box<PairwiseJudge<'a>>),
    /// A judge that scores each answer alone. A difference of at most `margin` is a tie.
    Scores {
        /// The judge, which scores from 0 to 5.
        judge: &'a dyn Judge,
        /// The largest difference of scores, in points, that is a tie.
        margin: f64,
    },
}

impl Referee<'_> {
    /// The referee's name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Pairwise(judge) => judge.name(),
            Self::Scores { judge, .. } => judge.name(),
        }
    }
}

/// One answer in a duel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuelAnswer {
    /// The words of the answer.
    pub text: String,
    /// The answer's length in tokens; null where it is not known.
    pub tokens: Option<usize>,
    /// The answer's score; null where answers are not scored or this one could not be.
    pub score: Option<f64>,
}

/// One prompt of a duel: one line of `eval --out`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuelRecord {
    /// The question that was asked.
    pub prompt: String,
    /// The answers of side a.
    pub a: Vec<DuelAnswer>,
    /// The answers of side b.
    pub b: Vec<DuelAnswer>,
    /// How a did against b; null where that could not be judged.
    pub outcome: Option<Outcome>,
    /// The probability that a is better if it is shown first, averaged over the samples; null where it was not asked
    /// for or could not be read.
    pub p_first: Option<f64>,
    /// The probability that a is better if it is shown second, averaged over the samples; null where it was not asked
    /// for or could not be read.
    pub p_second: Option<f64>,
    /// `ok`, or what is wrong with a verdict.
    pub status: String,
    /// The texts that the judge wrote, if it writes any.
    pub texts: Vec<String>,
}

/// What comparing the two orders says about the judge.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// Fraction of the prompts, among those with different answers, on which both orders name the same side.
    pub agree: f64,
    /// Mean probability of the answer that is shown first; 0.5 means that the judge prefers no place.
    pub first: f64,
    /// Mean probability of a over both orders: the win rate without rounding each prompt.
    pub preference: f64,
}

/// The scores of one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean score over the prompts.
    pub mean: f64,
    /// Standard error of the mean.
    pub se: f64,
    /// How many answers score 0, 1, … 5 when rounded.
    pub histogram: [usize; 6],
    /// How many answers have no score.
    pub unscored: usize,
}

/// The scores of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BothScores {
    /// The scores of side a.
    pub a: Scores,
    /// The scores of side b.
    pub b: Scores,
    /// Mean over the prompts of a's score less b's.
    pub gain: f64,
    /// Standard error of the gain.
    pub gain_se: f64,
}

/// The outcome of a duel, which is the document of `eval --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuelReport {
    /// Name of the side that is measured.
    pub a: String,
    /// Name of the side against which it is measured.
    pub b: String,
    /// Name of the judge.
    pub judge: String,
    /// How many prompts were answered.
    pub prompts: usize,
    /// How many prompts a won, tied and lost.
    #[serde(flatten)]
    pub counts: HeadToHead,
    /// How many prompts could not be judged; they count nowhere.
    pub unjudged: usize,
    /// The wins and half the ties, as a fraction of the judged prompts; null if there are none.
    pub win_rate: Option<Estimate>,
    /// The win rate that would be left if both sides' answers had equal length in characters.
    pub length_controlled: Option<LengthControlled>,
    /// What the two orders say about the judge, where answers were judged side by side.
    pub orders: Option<Orders>,
    /// The scores of both sides, where answers were scored.
    pub scores: Option<BothScores>,
    /// How varied and how long a's answers are.
    pub diversity_a: Diversity,
    /// How varied and how long b's answers are.
    pub diversity_b: Diversity,
    /// Mean length of a's answers divided by that of b's.
    pub length_drift: Drift,
    /// One sentence for each thing that looks wrong.
    pub warnings: Vec<String>,
}

/// Has every prompt judged. Sample k of a meets sample k of b; where answers are judged side by side, surplus samples
/// are left out.
///
/// # Errors
/// Errors of the judge and its engine.
pub fn play(
    engine: &mut dyn Engine,
    referee: &Referee,
    prompts: &[Prompt],
    a: &AnswerSet,
    b: &AnswerSet,
    observer: &dyn Observer,
) -> Result<Vec<DuelRecord>> {
    let plain = |set: &AnswerSet, at: usize| -> Vec<DuelAnswer> {
        let unscored = |a: &Answer| DuelAnswer { text: a.text.clone(), tokens: a.tokens, score: None };
        set.answers[at].iter().map(unscored).collect()
    };
    let mut records: Vec<DuelRecord> = prompts
        .iter()
        .enumerate()
        .take(a.answers.len().min(b.answers.len()))
        .map(|(i, prompt)| DuelRecord {
            prompt: prompt.question(),
            a: plain(a, i),
            b: plain(b, i),
            outcome: None,
            p_first: None,
            p_second: None,
            status: "ok".into(),
            texts: Vec::new(),
        })
        .collect();
    match referee {
        Referee::Pairwise(judge) => side_by_side(engine, judge, &mut records, observer)?,
        Referee::Scores { judge, margin } => by_score(engine, *judge, *margin, &mut records, observer)?,
    }
    Ok(records)
}

/// The key of a judgment, made from what is judged, not from its place.
fn key(texts: &[&str], sample: usize) -> u64 {
    let hashes: Vec<u32> = texts.iter().flat_map(|t| halves(fnv(t.as_bytes()))).collect();
    record_id(0, "judge", &hashes, sample as u32)
}

fn side_by_side(
    engine: &mut dyn Engine,
    judge: &PairwiseJudge,
    records: &mut [DuelRecord],
    observer: &dyn Observer,
) -> Result<()> {
    let mut matches = Vec::new();
    for r in records.iter() {
        for (k, (a, b)) in r.a.iter().zip(&r.b).enumerate() {
            let key = key(&[&r.prompt, &a.text, &b.text], k);
            matches.push(Match { key, question: &r.prompt, a: &a.text, b: &b.text });
        }
    }
    let mut preferences = judge.judge(engine, &matches, observer)?.into_iter();
    for r in records {
        let own: Vec<_> = preferences.by_ref().take(r.a.len().min(r.b.len())).collect();
        // Equal answers are a tie by themselves, but do not stand in for those that could not be read.
        let told: Vec<&Preference> = match own.iter().any(|p| p.p.contains(&None)) {
            true => own.iter().filter(|p| p.status != SAME_TEXT).collect(),
            false => own.iter().collect(),
        };
        let mean = |order: usize| {
            let read: Vec<f64> = told.iter().filter_map(|p| p.p[order]).collect();
            (!read.is_empty()).then(|| mean_se(&read).0)
        };
        (r.p_first, r.p_second) = (mean(0), mean(1));
        r.outcome = r.p_first.zip(r.p_second).map(|(p, q)| {
            let (p, q) = (Outcome::of_lead(p - 0.5, 0.0), Outcome::of_lead(q - 0.5, 0.0));
            if p == q { p } else { Outcome::Tie }
        });
        if let Some(odd) = own.iter().find(|p| p.status != "ok") {
            r.status.clone_from(&odd.status);
        }
        r.texts = own.into_iter().flat_map(|p| p.texts).collect();
    }
    Ok(())
}

fn by_score(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    margin: f64,
    records: &mut [DuelRecord],
    observer: &dyn Observer,
) -> Result<()> {
    let mut items = Vec::new();
    for r in records.iter() {
        let item = |a| -> Item { Item::new(key(&[&r.prompt, a], 0), &r.prompt, a) };
        items.extend(r.a.iter().chain(&r.b).map(|a| item(&a.text)));
    }
    let mut verdicts = judge.judge(engine, &items, observer)?.into_iter();
    for r in records {
        for (answer, verdict) in r.a.iter_mut().chain(&mut r.b).zip(&mut verdicts) {
            answer.score = verdict.score;
            if verdict.score.is_none() {
                r.status = verdict.status;
            }
            r.texts.extend(verdict.texts);
        }
        r.outcome = mean_score(&r.a).zip(mean_score(&r.b)).map(|(a, b)| Outcome::of_lead(a - b, margin));
    }
    Ok(())
}

/// Mean score of the answers that have one.
fn mean_score(answers: &[DuelAnswer]) -> Option<f64> {
    let scores: Vec<f64> = answers.iter().filter_map(|a| a.score).collect();
    (!scores.is_empty()).then(|| mean_se(&scores).0)
}

/// Counts and measures the records: a pure function of them and of the seed of the resamples.
pub fn summarise(judge: &str, a: &AnswerSet, b: &AnswerSet, records: &[DuelRecord], seed: u64) -> DuelReport {
    let judged: Vec<(&DuelRecord, Outcome)> = records.iter().filter_map(|r| Some((r, r.outcome?))).collect();
    let points: Vec<f64> = judged.iter().map(|(_, outcome)| outcome.points()).collect();
    let characters =
        |answers: &[DuelAnswer]| mean_se(&answers.iter().map(|a| a.text.chars().count() as f64).collect::<Vec<_>>()).0;
    let differences: Vec<f64> = judged.iter().map(|(r, _)| characters(&r.a) - characters(&r.b)).collect();
    let (diversity_a, diversity_b) = (diversity(&a.answers), diversity(&b.answers));
    let (all_a, all_b) = (all_scores(records, |r| &r.a), all_scores(records, |r| &r.b));
    let orders = orders(records);
    let told = |set: &AnswerSet, sentences: Vec<String>| {
        sentences.into_iter().map(|s| format!("{}: {s}", set.name)).collect::<Vec<_>>()
    };
    let mut all_warnings = told(a, warnings(&diversity_a, Some(&diversity_b), &all_a));
    all_warnings.extend(told(b, warnings(&diversity_b, None, &all_b)));
    if let Some(o) = orders.filter(|o| o.agree < 0.5) {
        let share = (1.0 - o.agree) * 100.0;
        all_warnings.push(format!(
            "the judge changes its mind with the order on {share:.0} % of the prompts: \
             scores of each answer (--mode) may serve better"
        ));
    }
    DuelReport {
        a: a.name.clone(),
        b: b.name.clone(),
        judge: judge.to_owned(),
        prompts: records.len(),
        counts: HeadToHead::count(judged.iter().map(|(_, outcome)| *outcome)),
        unjudged: records.len() - judged.len(),
        win_rate: win_rate(&points, seed),
        length_controlled: length_controlled(&points, &differences, seed),
        orders,
        scores: scores(records, &all_a, &all_b),
        length_drift: drift(&diversity_a, &diversity_b),
        diversity_a,
        diversity_b,
        warnings: all_warnings,
    }
}

fn all_scores(records: &[DuelRecord], side: fn(&DuelRecord) -> &Vec<DuelAnswer>) -> Vec<f64> {
    records.iter().flat_map(side).filter_map(|a| a.score).collect()
}

fn orders(records: &[DuelRecord]) -> Option<Orders> {
    let read: Vec<[f64; 2]> = records.iter().filter_map(|r| Some([r.p_first?, r.p_second?])).collect();
    // Equal answers, which have 0.5 in both orders, say nothing about the judge.
    let told: Vec<[f64; 2]> = read.iter().copied().filter(|p| *p != [0.5; 2]).collect();
    let mean = |pairs: &[[f64; 2]], f: fn(&[f64; 2]) -> f64| mean_se(&pairs.iter().map(f).collect::<Vec<_>>()).0;
    (!told.is_empty()).then(|| Orders {
        agree: mean(&told, |p| f64::from((p[0] - 0.5) * (p[1] - 0.5) > 0.0)),
        first: mean(&told, |p| (p[0] + 1.0 - p[1]) / 2.0),
        preference: mean(&read, |p| (p[0] + p[1]) / 2.0),
    })
}

fn scores(records: &[DuelRecord], all_a: &[f64], all_b: &[f64]) -> Option<BothScores> {
    let (a, b): (Vec<f64>, Vec<f64>) = records.iter().filter_map(|r| mean_score(&r.a).zip(mean_score(&r.b))).unzip();
    let side = |means: &[f64], all: &[f64], count: usize| {
        let (mean, se) = mean_se(means);
        Scores { mean, se, histogram: histogram(all), unscored: count - all.len() }
    };
    let (gain, gain_se) = paired_gain(&a, &b);
    (!a.is_empty()).then(|| BothScores {
        a: side(&a, all_a, records.iter().map(|r| r.a.len()).sum()),
        b: side(&b, all_b, records.iter().map(|r| r.b.len()).sum()),
        gain,
        gain_se,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::generate::NoEngine;
    use crate::judge::Verdict;

    fn prompts(n: usize) -> Vec<Prompt> {
        (0..n).map(|i| Prompt::from(format!("question {i}"))).collect()
    }

    fn set(name: &str, answers: &[&[&str]]) -> AnswerSet {
        let answer = |text: &&str| Answer { text: (*text).to_owned(), tokens: Some(text.len() + 1) };
        AnswerSet { name: name.into(), answers: answers.iter().map(|s| s.iter().map(answer).collect()).collect() }
    }

    /// A judge that scores an answer by its first digit, and gives no score to a `?`.
    struct Digits;

    impl Judge for Digits {
        fn name(&self) -> &str {
            "digits"
        }

        fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
            let read = |i: &Item| i.answer.chars().next().and_then(|c| c.to_digit(10));
            Ok(items
                .iter()
                .map(|i| read(i).map_or(Verdict::unscored("unread"), |d| Verdict::scored(f64::from(d), 0)))
                .collect())
        }
    }

    fn scored(margin: f64, a: &AnswerSet, b: &AnswerSet) -> (Vec<DuelRecord>, DuelReport) {
        let referee = Referee::Scores { judge: &Digits, margin };
        let records = play(&mut NoEngine, &referee, &prompts(a.answers.len()), a, b, &Silent).unwrap();
        let report = summarise(referee.name(), a, b, &records, 0);
        (records, report)
    }

    #[test]
    fn scores_are_averaged_and_compared_with_a_margin() {
        let a = set("A", &[&["5", "3"], &["2"], &["4 longer"], &["?"], &["1", "?"]]);
        let b = set("B", &[&["3"], &["3"], &["4"], &["5"], &["0"]]);
        let (records, report) = scored(0.0, &a, &b);
        let outcomes: Vec<Option<Outcome>> = records.iter().map(|r| r.outcome).collect();
        use Outcome::{Loss, Tie, Win};
        assert_eq!(outcomes, [Some(Win), Some(Loss), Some(Tie), None, Some(Win)]);
        assert_eq!((records[3].status.as_str(), report.unjudged), ("unread", 1));
        assert_eq!(report.counts, HeadToHead { win: 2, tie: 1, loss: 1 });
        assert_eq!(report.win_rate.unwrap().value, 2.5 / 4.0);
        let scores = report.scores.unwrap();
        assert_eq!((scores.a.mean, scores.b.mean, scores.gain), (11.0 / 4.0, 10.0 / 4.0, 0.25));
        assert_eq!((scores.a.histogram, scores.a.unscored), ([0, 1, 1, 1, 1, 1], 2));
        assert!(report.orders.is_none());
        let (_, wide) = scored(1.0, &a, &b);
        assert_eq!(wide.counts, HeadToHead { win: 0, tie: 4, loss: 0 });
        let nothing = set("A", &[&["?"]]);
        let (_, none) = scored(0.0, &nothing, &nothing);
        assert_eq!((none.win_rate, none.length_controlled, none.scores, none.unjudged), (None, None, None, 1));
    }

    fn with_places(places: &[Option<[f64; 2]>]) -> (AnswerSet, Vec<DuelRecord>) {
        let answers: Vec<String> = (0..places.len()).map(|i| format!("answer {i}")).collect();
        let lists: Vec<[&str; 1]> = answers.iter().map(|a| [a.as_str()]).collect();
        let a = set("A", &lists.iter().map(|l| l.as_slice()).collect::<Vec<_>>());
        let referee = Referee::Scores { judge: &Digits, margin: 0.0 };
        let mut records = play(&mut NoEngine, &referee, &prompts(places.len()), &a, &a, &Silent).unwrap();
        for (r, p) in records.iter_mut().zip(places) {
            (r.p_first, r.p_second) = (p.map(|p| p[0]), p.map(|p| p[1]));
        }
        (a, records)
    }

    #[test]
    fn the_places_preference_is_told() {
        let (a, records) = with_places(&[Some([0.9, 0.2]), Some([0.8, 0.6]), Some([0.5, 0.5]), None, Some([0.7, 0.4])]);
        let report = summarise("pairwise", &a, &a, &records, 0);
        let orders = report.orders.unwrap();
        assert!((orders.agree - 1.0 / 3.0).abs() < 1e-12, "{orders:?}");
        assert!((orders.first - (0.85 + 0.6 + 0.65) / 3.0).abs() < 1e-12, "{orders:?}");
        assert!((orders.preference - (0.55 + 0.7 + 0.5 + 0.55) / 4.0).abs() < 1e-12, "{orders:?}");
        assert!(report.warnings.iter().any(|w| w.contains("67 % of the prompts")), "{:?}", report.warnings);
    }

    #[test]
    fn keys_follow_the_texts() {
        assert_eq!(key(&["q", "a"], 0), key(&["q", "a"], 0));
        let others = [key(&["q", "a"], 1), key(&["a", "q"], 0), key(&["q", "a", ""], 0)];
        assert!(others.iter().all(|k| *k != key(&["q", "a"], 0)));
    }
}
