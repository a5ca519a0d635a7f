//! How varied, how long and how collapsed a set of answers is, by pure functions of texts and scores.

use super::metrics::{histogram, mean_se};
use super::rouge::words;
use crate::data::answers::Answer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Replaces an n-gram count of 0 (method 1 of Chen and Cherry 2014, with NLTK's default).
const EPSILON: f64 = 0.1;
/// BLEU counts n-grams up to this length.
const BLEU_N: usize = 4;

/// Mean and median of the lengths of some answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// Mean length.
    pub mean: f64,
    /// Median length; of an even number of answers, the mean of the middle two.
    pub median: f64,
}

/// A set of answers in numbers. A word is a run of letters and digits, in lower case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// How many prompts were answered.
    pub prompts: usize,
    /// How many answers there are.
    pub answers: usize,
    /// [`distinct_n`] of single words over all answers.
    pub distinct_1: Option<f64>,
    /// [`distinct_n`] of two words in a row over all answers.
    pub distinct_2: Option<f64>,
    /// [`distinct_n`] of three words in a row over all answers.
    pub distinct_3: Option<f64>,
    /// [`self_bleu`] of the answers; 1 means that all say the same.
    pub self_bleu: Option<f64>,
    /// Length of the answers in words.
    pub words: Length,
    /// Length of the answers in characters.
    pub characters: Length,
    /// Length of the answers in tokens; null where an answer's tokens are not known.
    pub tokens: Option<Length>,
    /// The largest fraction of the prompts that share one first answer.
    pub same_answer: f64,
}

/// Mean length of one set of answers divided by that of another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Ratio of the lengths in words; null where the other set has none.
    pub words: Option<f64>,
    /// Ratio of the lengths in characters; null where the other set has none.
    pub characters: Option<f64>,
    /// Ratio of the lengths in tokens; null where they are not known or the other set has none.
    pub tokens: Option<f64>,
}

/// The number of different n-grams divided by that of all n-grams in a set of texts (distinct-n of Li et al. 2016,
/// arXiv 1510.03055). N-grams do not reach over the end of a text. `None` where there are none.
pub fn distinct_n<S: AsRef<str>>(texts: &[S], n: usize) -> Option<f64> {
    let all: Vec<Vec<String>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let (mut seen, mut count) = (HashSet::new(), 0usize);
    for gram in all.iter().flat_map(|text| text.windows(n.max(1))) {
        seen.insert(gram);
        count += 1;
    }
    (count > 0).then(|| seen.len() as f64 / count as f64)
}

/// The mean, over the texts, of BLEU against all others as references (self-BLEU of Zhu et al. 2018, arXiv 1802.01886).
///
/// BLEU = BP · exp(¼ Σₙ log pₙ), n = 1..4. pₙ: the number of a text's n-grams, each counted at most as often as in the
/// reference that has it most often, divided by the number of all its n-grams (at least 1); a count of 0 becomes 0.1,
/// but for n = 1, where BLEU is 0. BP = exp(1 − r/c) if the text's length c is below r, the nearest length of a
/// reference (the shorter one of two). The result equals NLTK's `sentence_bleu` with smoothing method 1. `None` for
/// fewer than two texts.
pub fn self_bleu<S: AsRef<str>>(texts: &[S]) -> Option<f64> {
    if texts.len() < 2 {
        return None;
    }
    let all: Vec<Vec<String>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let mut log_p = vec![0.0; all.len()];
    for n in 1..=BLEU_N {
        let counts: Vec<HashMap<&[String], usize>> = all.iter().map(|text| grams(text, n)).collect();
        // For each n-gram: its largest count, whose that is, and the largest count among the others. So what a text's
        // references hold is known without going through them.
        let mut most: HashMap<&[String], (usize, usize, usize)> = HashMap::new();
        for (i, count) in counts.iter().enumerate() {
            for (gram, &c) in count {
                let entry = most.entry(gram).or_insert((0, i, 0));
                *entry = if c > entry.0 { (c, i, entry.0) } else { (entry.0, entry.1, entry.2.max(c)) };
            }
        }
        for (i, count) in counts.iter().enumerate() {
            let others = |gram| most.get(gram).map_or(0, |m| if m.1 == i { m.2 } else { m.0 });
            let hits: usize = count.iter().map(|(gram, &c)| c.min(others(*gram))).sum();
            let total = all[i].len().saturating_sub(n - 1).max(1) as f64;
            log_p[i] += match (hits, n) {
                (0, 1) => f64::NEG_INFINITY,
                (0, _) => (EPSILON / total).ln(),
                _ => (hits as f64 / total).ln(),
            };
        }
    }
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    all.iter().for_each(|text| *lengths.entry(text.len()).or_insert(0) += 1);
    let bleu =
        all.iter().zip(&log_p).map(|(text, log_p)| brevity(text.len(), &lengths) * (log_p / BLEU_N as f64).exp());
    Some(bleu.sum::<f64>() / all.len() as f64)
}

fn grams(text: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut out = HashMap::new();
    text.windows(n).for_each(|gram| *out.entry(gram).or_insert(0) += 1);
    out
}

/// BLEU's brevity penalty of a text of `own` words; `lengths` counts the texts of each length, this one included.
fn brevity(own: usize, lengths: &BTreeMap<usize, usize>) -> f64 {
    if own == 0 {
        return 0.0;
    }
    let alone = lengths.get(&own).copied().unwrap_or(0) < 2;
    let below = lengths.range(..own).next_back().map(|(l, _)| *l);
    let above = lengths.range(own + 1..).next().map(|(l, _)| *l);
    let nearest = match (alone, below, above) {
        (false, ..) => own,
        (true, Some(b), Some(a)) => {
            if own - b <= a - own {
                b
            } else {
                a
            }
        }
        (true, b, a) => b.or(a).unwrap_or(own),
    };
    if own >= nearest { 1.0 } else { (1.0 - nearest as f64 / own as f64).exp() }
}

/// Mean and median of some lengths; 0 if there are none.
pub fn length(values: &[usize]) -> Length {
    let mut sorted: Vec<f64> = values.iter().map(|&v| v as f64).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = &sorted[sorted.len().saturating_sub(1) / 2..(sorted.len() / 2 + 1).min(sorted.len())];
    Length { mean: mean_se(&sorted).0, median: mean_se(middle).0 }
}

/// Measures the answers to some prompts, indexed by `[prompt][sample]`.
pub fn diversity(answers: &[Vec<Answer>]) -> Diversity {
    let all: Vec<&Answer> = answers.iter().flatten().collect();
    let texts: Vec<&str> = all.iter().map(|a| a.text.as_str()).collect();
    let measure = |f: fn(&str) -> usize| length(&texts.iter().map(|t| f(t)).collect::<Vec<_>>());
    let tokens: Option<Vec<usize>> = all.iter().map(|a| a.tokens).collect();
    let mut firsts: HashMap<&str, usize> = HashMap::new();
    for first in answers.iter().filter_map(|samples| samples.first()) {
        *firsts.entry(first.text.trim()).or_insert(0) += 1;
    }
    let commonest = firsts.values().copied().max().unwrap_or(0);
    Diversity {
        prompts: answers.len(),
        answers: all.len(),
        distinct_1: distinct_n(&texts, 1),
        distinct_2: distinct_n(&texts, 2),
        distinct_3: distinct_n(&texts, 3),
        self_bleu: self_bleu(&texts),
        words: measure(|t| words(t).count()),
        characters: measure(|t| t.chars().count()),
        tokens: tokens.map(|t| length(&t)),
        same_answer: commonest as f64 / answers.len().max(1) as f64,
    }
}

/// The lengths of `a` divided by those of `b`.
pub fn drift(a: &Diversity, b: &Diversity) -> Drift {
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    Drift {
        words: ratio(a.words.mean, b.words.mean),
        characters: ratio(a.characters.mean, b.characters.mean),
        tokens: a.tokens.zip(b.tokens).and_then(|(a, b)| ratio(a.mean, b.mean)),
    }
}

/// One sentence for each sign that the answers or their scores have collapsed. `before` is the set with whose
/// distinct-1 that of `own` is compared.
pub fn warnings(own: &Diversity, before: Option<&Diversity>, scores: &[f64]) -> Vec<String> {
    let mut out = Vec::new();
    let bins = histogram(scores);
    let (scored, fullest) = (bins.iter().sum::<usize>(), bins.iter().copied().max().unwrap_or(0));
    if scored >= 20 && fullest * 10 > scored * 9 {
        out.push(format!("{fullest} of {scored} scores round to the same number: the scale has collapsed"));
    }
    if let (Some(now), Some(then)) = (own.distinct_1, before.and_then(|b| b.distinct_1))
        && now * 2.0 <= then
    {
        out.push(format!("distinct-1 has fallen from {then:.3} to {now:.3}: the answers repeat themselves"));
    }
    if own.prompts >= 10 && own.same_answer > 0.1 {
        out.push(format!("{:.0} % of the prompts get one and the same answer", own.same_answer * 100.0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 5] = [
        "The cat sat on the mat and looked at the dog.",
        "A cat sat on a mat.",
        "The dog looked at the cat on the mat.",
        "Rain falls mainly on the plain in spring.",
        "yes",
    ];

    #[test]
    fn distinct_counts_grams_within_texts() {
        let ratios = [1, 2, 3].map(|n| distinct_n(&TEXTS, n));
        // Counted by a script: 17 of 35, 21 of 30 and 23 of 26.
        assert_eq!(ratios, [Some(17.0 / 35.0), Some(21.0 / 30.0), Some(23.0 / 26.0)]);
        assert_eq!(distinct_n(&["a a", "A!"], 1), Some(1.0 / 3.0));
        assert_eq!(distinct_n(&["a", "b"], 2), None);
        assert_eq!(distinct_n::<&str>(&[], 1), None);
    }

    #[test]
    fn self_bleu_is_nltks() {
        // By nltk 3.10: the mean of sentence_bleu(others, text, smoothing_function=SmoothingFunction().method1), which
        // is 0.23462…, 0.15557…, 0.24446…, 0.05183… and 0 for the five texts.
        let mean = self_bleu(&TEXTS).unwrap();
        assert!((mean - 0.137_298_930_301_861_4).abs() < 1e-12, "{mean}");
        assert!((self_bleu(&["one two three four five"; 3]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(self_bleu(&["a", "b"]), Some(0.0));
        assert_eq!(self_bleu(&["", ""]), Some(0.0));
        assert_eq!(self_bleu(&["alone"]), None);
    }

    fn answers(texts: &[&str], tokens: Option<usize>) -> Vec<Vec<Answer>> {
        texts.iter().map(|t| vec![Answer { text: (*t).to_owned(), tokens }]).collect()
    }

    #[test]
    fn lengths_and_drift() {
        assert_eq!(length(&[5, 1, 3]), Length { mean: 3.0, median: 3.0 });
        assert_eq!(length(&[4, 1, 2, 9]), Length { mean: 4.0, median: 3.0 });
        assert_eq!(length(&[]), Length { mean: 0.0, median: 0.0 });
        let (a, b) = (diversity(&answers(&["äb cd", "x"], Some(6))), diversity(&answers(&["a", "b"], Some(2))));
        assert_eq!((a.words.mean, a.characters.mean), (1.5, 3.0));
        assert_eq!(drift(&a, &b), Drift { words: Some(1.5), characters: Some(3.0), tokens: Some(3.0) });
        let unknown = diversity(&answers(&["", ""], None));
        assert_eq!(drift(&a, &unknown), Drift { words: None, characters: None, tokens: None });
    }

    #[test]
    fn collapses_are_told_and_only_these() {
        let texts: Vec<String> = (0..20).map(|i| format!("answer number {i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let varied = diversity(&answers(&texts, None));
        let spread: Vec<f64> = (0..20).map(|i| f64::from(i % 6)).collect();
        assert!(warnings(&varied, Some(&varied), &spread).is_empty());
        let alike = diversity(&answers(&["the same words"; 20], None));
        let told = warnings(&alike, Some(&varied), &[[4.9; 19].as_slice(), &[1.0]].concat()).join("\n");
        for word in ["19 of 20 scores", "distinct-1 has fallen", "100 % of the prompts"] {
            assert!(told.contains(word), "{told}");
        }
        // 18 of 20 are just 90 %, not more.
        assert!(warnings(&varied, None, &[[4.9; 18].as_slice(), &[1.0, 2.0]].concat()).is_empty());
    }
}
