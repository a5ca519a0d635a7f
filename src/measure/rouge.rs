//! ROUGE-L between short texts, which keeps near-duplicates out of the new prompts, as in Self-Instruct (arXiv
//! 2212.10560).

use std::collections::HashMap;

/// The texts kept so far, prepared for comparison.
#[derive(Default)]
pub struct KeptTexts {
    words: HashMap<String, u32>,
    texts: Vec<Vec<u32>>,
}

impl KeptTexts {
    /// Adds a text to those that are kept.
    pub fn push(&mut self, text: &str) {
        let ids = self.ids(text);
        self.texts.push(ids);
    }

    /// The largest ROUGE-L F1 of `text` with any kept text; 0 if there are none.
    pub fn nearest(&mut self, text: &str) -> f64 {
        let ids = self.ids(text);
        self.texts.iter().map(|other| f1(&ids, other)).fold(0.0, f64::max)
    }

    fn ids(&mut self, text: &str) -> Vec<u32> {
        words(text)
            .map(|w| {
                let next = self.words.len() as u32;
                *self.words.entry(w).or_insert(next)
            })
            .collect()
    }
}

/// The words of a text: runs of letters and digits, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// ROUGE-L F1 of two texts, by their words in lower case without punctuation.
pub fn rouge_l(a: &str, b: &str) -> f64 {
    let mut kept = KeptTexts::default();
    kept.push(a);
    kept.nearest(b)
}

fn f1(a: &[u32], b: &[u32]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    2.0 * common(a, b) as f64 / (a.len() + b.len()) as f64
}

/// Length of the longest common subsequence.
fn common(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(rouge_l("Name three fruits.", "name three fruits"), 1.0);
        assert_eq!(rouge_l("a b c", "d e f"), 0.0);
        // The common subsequence is "the on the" + "mat": 4 words of 6 and of 5.
        assert!((rouge_l("the cat sat on the mat", "the dog on the mat") - 8.0 / 11.0).abs() < 1e-12);
        assert_eq!(rouge_l("", "a"), 0.0);
        assert_eq!(rouge_l("...", "..."), 0.0);
    }

    #[test]
    fn the_nearest_kept_text_counts() {
        let mut kept = KeptTexts::default();
        assert_eq!(kept.nearest("a b"), 0.0);
        kept.push("x y z");
        kept.push("a b c d");
        assert!((kept.nearest("a b") - 2.0 / 3.0).abs() < 1e-12);
    }
}
