//! How varied, how long and how collapsed a set of answers is: pure functions over texts and scores.

use super::metrics::{histogram, mean_se};
use super::rouge::words;
use crate::data::answers::Answer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Added to an n-gram count of 0 (method 1 of Chen and Cherry 2014, with NLTK's default).
const EPSILON: f64 = 0.1;
/// n-grams up to this length make BLEU.
const BLEU_N: usize = 4;

/// Mean and median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// Mean.
    pub mean: f64,
    /// Median; of an even number of answers the mean of the middle two.
    pub median: f64,
}

/// A set of answers in numbers. A word is a run of letters and digits, lower-cased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Prompts.
    pub prompts: usize,
    /// Answers.
    pub answers: usize,
    /// [`distinct_n`] of single words.
    pub distinct_1: Option<f64>,
    /// Of two words in a row.
    pub distinct_2: Option<f64>,
    /// Of three.
    pub distinct_3: Option<f64>,
    /// [`self_bleu`]; 1 means that all say the same.
    pub self_bleu: Option<f64>,
    /// Length in words.
    pub words: Length,
    /// Length in characters.
    pub characters: Length,
    /// Length in tokens; null where an answer's tokens are not known.
    pub tokens: Option<Length>,
    /// Prompts that share their first answer with the most other prompts, as a share of all prompts.
    pub same_answer: f64,
}

/// Length of one set over another's, mean by mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// In words; null where the other set has none.
    pub words: Option<f64>,
    /// In characters.
    pub characters: Option<f64>,
    /// In tokens.
    pub tokens: Option<f64>,
}

/// Different n-grams over all n-grams of a set of texts (distinct-n of Li et al. 2016, arXiv 1510.03055); n-grams do
/// not reach over the end of a text. None where there are none.
pub fn distinct_n<S: AsRef<str>>(texts: &[S], n: usize) -> Option<f64> {
    let all: Vec<Vec<String>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let (mut seen, mut count) = (HashSet::new(), 0usize);
    for gram in all.iter().flat_map(|text| text.windows(n.max(1))) {
        seen.insert(gram);
        count += 1;
    }
    (count > 0).then(|| seen.len() as f64 / count as f64)
}

/// Mean over the texts of BLEU against all others as its references (self-BLEU of Zhu et al. 2018, arXiv 1802.01886).
///
/// BLEU = BP · exp(¼ Σₙ log pₙ), n = 1..4; pₙ: a text's n-grams, each counted at most as often as in the reference that
/// has it most, over all its n-grams (at least 1); a count of 0 becomes 0.1 but for n = 1, where BLEU is 0; BP = exp(1
/// − r/c) where the text's length c is below r, the nearest length of a reference (the shorter one of two). It equals
/// NLTK's `sentence_bleu` with smoothing method 1. None below two texts.
pub fn self_bleu<S: AsRef<str>>(texts: &[S]) -> Option<f64> {
    if texts.len() < 2 {
        return None;
    }
    let all: Vec<Vec<String>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let mut log_p = vec![0.0; all.len()];
    for n in 1..=BLEU_N {
        let counts: Vec<HashMap<&[String], usize>> = all.iter().map(|text| grams(text, n)).collect();
        // The largest count of each n-gram, whose it is, and the largest one of the others: what a text's references
        // have is then known without walking them.
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

/// BLEU's brevity penalty of a text among `lengths` (length -> texts, itself included).
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

/// Mean and median of some lengths; 0 for none.
pub fn length(values: &[usize]) -> Length {
    let mut sorted: Vec<f64> = values.iter().map(|&v| v as f64).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = &sorted[sorted.len().saturating_sub(1) / 2..(sorted.len() / 2 + 1).min(sorted.len())];
    Length { mean: mean_se(&sorted).0, median: mean_se(middle).0 }
}

/// Measures the answers to some prompts, `[prompt][sample]`.
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

/// Lengths of `a` over those of `b`.
pub fn drift(a: &Diversity, b: &Diversity) -> Drift {
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    Drift {
        words: ratio(a.words.mean, b.words.mean),
        characters: ratio(a.characters.mean, b.characters.mean),
        tokens: a.tokens.zip(b.tokens).and_then(|(a, b)| ratio(a.mean, b.mean)),
    }
}

/// What looks like a collapse of the answers or of their scores, a sentence each; `before` is what distinct-1 is
/// compared with.
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
        // Counted by a script: 17 of 35, 21 of 30, 23 of 26.
        assert_eq!(ratios, [Some(17.0 / 35.0), Some(21.0 / 30.0), Some(23.0 / 26.0)]);
        assert_eq!(distinct_n(&["a a", "A!"], 1), Some(1.0 / 3.0));
        assert_eq!(distinct_n(&["a", "b"], 2), None);
        assert_eq!(distinct_n::<&str>(&[], 1), None);
    }

    #[test]
    fn self_bleu_is_nltks() {
        // nltk 3.10: the mean of sentence_bleu(others, text, smoothing_function=SmoothingFunction().method1); by text
        // 0.23462…, 0.15557…, 0.24446…, 0.05183…, 0.
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
        // 18 of 20 are not more than 90 %.
        assert!(warnings(&varied, None, &[[4.9; 18].as_slice(), &[1.0, 2.0]].concat()).is_empty());
    }
}
