//! How well a model predicts texts, or answers to prompts: perplexity, bits per token and bits per byte.

use super::win_rate::{Estimate, bootstrap};
use crate::generate::Engine;
use crate::model::score::Branch;
use crate::text::Language;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};

/// Token ids, of which those from `first` on are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Token ids of the context and of what is scored.
    pub ids: Vec<u32>,
    /// Index of the first token that is scored; at least 1, since the first token follows nothing.
    pub first: usize,
    /// How many bytes of text the scored tokens stand for.
    pub bytes: usize,
}

impl Passage {
    /// A text alone. It is scored from its first token on if the model begins texts with a token of its own, otherwise
    /// from its second one on.
    ///
    /// # Errors
    /// The text cannot be encoded.
    pub fn text(language: &dyn Language, text: &str) -> Result<Self> {
        let ids = language.raw(text)?;
        let plain = language.encode(text)?;
        let unscored = if ids.len() > plain.len() { 0 } else { language.decode(&ids[..ids.len().min(1)])?.len() };
        Ok(Self { ids, first: 1, bytes: text.len().saturating_sub(unscored) })
    }

    /// An answer after its prompt. The answer's end token is scored too, but counts no bytes.
    ///
    /// # Errors
    /// The ids cannot be decoded.
    pub fn answer(language: &dyn Language, prompt: &[u32], answer: &[u32]) -> Result<Self> {
        let bytes = language.decode(answer)?.len();
        Ok(Self { ids: [prompt, answer].concat(), first: prompt.len(), bytes })
    }
}

/// How a text that is longer than the context is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window.
    pub length: usize,
    /// How many tokens after the last window the next one begins; less than `length`. Every token is scored once, in
    /// the first window that holds it, so that at least `length - stride` tokens stand before it, unless it is in the
    /// first window.
    pub stride: usize,
}

/// How well a model predicts some passages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// The name of the model.
    pub model: String,
    /// How many texts were scored.
    pub texts: usize,
    /// How many tokens were scored.
    pub tokens: usize,
    /// How many bytes of text the scored tokens stand for.
    pub bytes: usize,
    /// How many windows were run.
    pub windows: usize,
    /// exp of the mean negative log-prob of a token, with its interval over resampled texts.
    pub perplexity: Estimate,
    /// Mean negative log-prob of a token, in nats.
    pub nll: f64,
    /// Mean negative log-prob of a token, in bits.
    pub bits_per_token: f64,
    /// All negative log-probs, in bits, divided by all bytes. Models with different tokenizers can be compared by this.
    /// Null if there are no bytes.
    pub bits_per_byte: Option<f64>,
}

/// The windows of a passage, each as (begin, from, end): tokens `from..end` are scored after `begin..from`.
fn windows(passage: &Passage, w: Windows) -> Vec<(usize, usize, usize)> {
    let (mut begin, mut from, mut out) = (0, passage.first, Vec::new());
    while from < passage.ids.len() {
        let end = (begin + w.length).min(passage.ids.len());
        if end > from {
            out.push((begin, from, end));
            from = end;
        }
        begin += w.stride;
    }
    out
}

/// The negative log-probs of each passage's tokens, summed, with their number; no tokens where there are too few to
/// score.
///
/// # Errors
/// The stride is 0 or as long as the window; errors of the engine.
pub fn each(
    engine: &mut dyn Engine,
    passages: &[Passage],
    w: Windows,
    observer: &dyn Observer,
) -> Result<Vec<(f64, usize)>> {
    let passages: Vec<&Passage> = passages.iter().collect();
    score(engine, &passages, w, observer).map(|(sums, _)| sums)
}

/// What [`each`] gives, and how many windows were run.
fn score(
    engine: &mut dyn Engine,
    passages: &[&Passage],
    w: Windows,
    observer: &dyn Observer,
) -> Result<(Vec<(f64, usize)>, usize)> {
    if w.stride == 0 || w.stride >= w.length {
        return Err(Error::Input(format!(
            "the stride is {}; at least 1 and less than the window's {} tokens was expected",
            w.stride, w.length
        )));
    }
    let (mut branches, mut owner) = (Vec::new(), Vec::new());
    for (i, p) in passages.iter().enumerate().filter(|(_, p)| (1..p.ids.len()).contains(&p.first)) {
        for (begin, from, end) in windows(p, w) {
            branches.push(Branch { prompt: p.ids[begin..from].to_vec(), completions: vec![p.ids[from..end].to_vec()] });
            owner.push(i);
        }
    }
    let mut sums = vec![(0f64, 0usize); passages.len()];
    if branches.is_empty() {
        return Ok((sums, 0));
    }
    for (i, logps) in owner.iter().zip(engine.logps(&branches, observer)?) {
        for logp in logps.iter().flatten() {
            sums[*i].0 -= f64::from(*logp);
            sums[*i].1 += 1;
        }
    }
    Ok((sums, branches.len()))
}

/// Scores the passages; `seed` determines the resamples for the interval.
///
/// # Errors
/// The stride is 0 or as long as the window; there is no token to score; a log-prob is not finite; errors of the
/// engine.
pub fn measure(
    engine: &mut dyn Engine,
    model: &str,
    passages: &[Passage],
    w: Windows,
    seed: u64,
    observer: &dyn Observer,
) -> Result<Perplexity> {
    let usable: Vec<&Passage> = passages.iter().filter(|p| (1..p.ids.len()).contains(&p.first)).collect();
    let (sums, branches) = score(engine, &usable, w, observer)?;
    if branches == 0 {
        return Err(Error::Input("no text has a token to score: a text needs two tokens, an answer one".into()));
    }
    let total =
        |pick: &mut dyn Iterator<Item = usize>| pick.map(|i| sums[i]).fold((0.0, 0), |s, x| (s.0 + x.0, s.1 + x.1));
    let (nll, tokens) = total(&mut (0..sums.len()));
    let mean = |(nll, tokens): (f64, usize)| nll / tokens.max(1) as f64;
    let statistic = |pick: &[usize]| mean(total(&mut pick.iter().copied())).exp();
    let perplexity = bootstrap(sums.len(), seed, &statistic).ok_or_else(|| Error::Input("there is no text".into()))?;
    if !perplexity.high.is_finite() {
        return Err(Error::NonFinite(format!("{model}: the log-probs of the texts sum to {}: no perplexity", -nll)));
    }
    let bytes: usize = usable.iter().map(|p| p.bytes).sum();
    let bits = nll / std::f64::consts::LN_2;
    Ok(Perplexity {
        model: model.to_owned(),
        texts: usable.len(),
        tokens,
        bytes,
        windows: branches,
        perplexity,
        nll: mean((nll, tokens)),
        bits_per_token: bits / tokens.max(1) as f64,
        bits_per_byte: (bytes > 0).then(|| bits / bytes as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::generate::{Output, Request, Settings};

    /// An engine in which the log-prob of a token is −(its id) / 4 − (tokens before it) / 64.
    struct Linear;

    impl Engine for Linear {
        fn generate(&mut self, _: &[Request], _: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
            panic!("nothing is generated")
        }

        fn logps(&mut self, branches: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
            let logp = |b: &Branch, at: usize, id: u32| -(id as f32) / 4.0 - (b.prompt.len() + at) as f32 / 64.0;
            Ok(branches
                .iter()
                .map(|b| {
                    b.completions.iter().map(|c| c.iter().enumerate().map(|(i, t)| logp(b, i, *t)).collect()).collect()
                })
                .collect())
        }
    }

    fn passage(len: usize, first: usize) -> Passage {
        Passage { ids: vec![1; len], first, bytes: len }
    }

    #[test]
    fn every_token_is_scored_once_with_enough_before_it() {
        let w = Windows { length: 8, stride: 3 };
        assert_eq!(windows(&passage(8, 1), w), [(0, 1, 8)]);
        assert_eq!(windows(&passage(15, 1), w), [(0, 1, 8), (3, 8, 11), (6, 11, 14), (9, 14, 15)]);
        // A prompt longer than the window is cut at its beginning.
        assert_eq!(windows(&passage(14, 12), w), [(6, 12, 14)]);
        for (len, first, length, stride) in [(100, 1, 16, 15), (100, 40, 16, 1), (37, 36, 5, 4), (9, 8, 8, 7)] {
            let mut next = first;
            for (begin, from, end) in windows(&passage(len, first), Windows { length, stride }) {
                assert_eq!(from, next);
                assert!(begin < from && from < end && end - begin <= length, "{begin} {from} {end}");
                assert!(begin == 0 || from - begin >= length - stride || from == first, "{begin} {from}");
                next = end;
            }
            assert_eq!(next, len);
        }
    }

    #[test]
    fn perplexity_by_hand() {
        let texts = [
            Passage { ids: vec![9, 4, 8], first: 1, bytes: 5 },
            Passage { ids: vec![9, 9, 2], first: 2, bytes: 3 },
            // This passage has nothing to score, so it is left out.
            Passage { ids: vec![9], first: 1, bytes: 1 },
        ];
        let w = Windows { length: 8, stride: 4 };
        let p = measure(&mut Linear, "m", &texts, w, 0, &Silent).unwrap();
        // The negative log-probs are 1 + 1/64, 2 + 2/64 and 0.5 + 2/64.
        let nll = 3.5 + 5.0 / 64.0;
        assert_eq!((p.texts, p.tokens, p.bytes, p.windows), (2, 3, 8, 2));
        assert!((p.nll - nll / 3.0).abs() < 1e-12 && (p.perplexity.value - (nll / 3.0).exp()).abs() < 1e-12);
        assert!((p.bits_per_byte.unwrap() - nll / 8.0 / std::f64::consts::LN_2).abs() < 1e-12);
        // With resamples of two texts, the ends of the interval are those of either text alone.
        assert!((p.perplexity.low - (0.5f64 + 2.0 / 64.0).exp()).abs() < 1e-12, "{p:?}");
        assert!((p.perplexity.high - ((3.0f64 + 3.0 / 64.0) / 2.0).exp()).abs() < 1e-12, "{p:?}");
        for stride in [0, 8] {
            assert!(measure(&mut Linear, "m", &texts, Windows { length: 8, stride }, 0, &Silent).is_err());
        }
        assert!(measure(&mut Linear, "m", &texts[2..], w, 0, &Silent).unwrap_err().to_string().contains("two tokens"));
        let absurd = [Passage { ids: vec![1, 4000], first: 1, bytes: 1 }];
        let e = measure(&mut Linear, "m", &absurd, w, 0, &Silent).unwrap_err();
        assert!(matches!(e, Error::NonFinite(_)), "{e}");
    }
}
