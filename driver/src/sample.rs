//! The sampling flags that several commands share.

use crate::flags::{Flags, Preset};
use selfreward::config::CandidateSection;
use selfreward::generate::{Sampling, Settings};
use selfreward::source::ModelSource;
use std::str::FromStr;

/// How a model answers where flags do not say otherwise.
pub(crate) struct Answers;

impl Preset for Answers {
    type Of = Settings;
    const HEADING: Option<&'static str> = Some("Sampling");

    fn defaults() -> Settings {
        Settings::default().sampling(Sampling::default().temperature(0.7))
    }
}

/// How keys and values are kept where a flag does not say otherwise.
pub(crate) struct Kept;

impl Preset for Kept {
    type Of = CandidateSection;

    fn defaults() -> CandidateSection {
        CandidateSection::default()
    }

    fn takes(key: &str) -> bool {
        key == "kv"
    }
}

/// How a model answers: drawn as the flags say, up to the stop tokens that `source` knows.
pub(crate) fn settings(flags: &Flags<Answers>, source: &ModelSource, seed: u64) -> Settings {
    Settings::clone(flags).stop(source.stop_ids.clone()).seed(seed)
}

fn number<T: FromStr + Copy + Into<f64>>(text: &str, fits: impl Fn(f64) -> bool, what: &str) -> Result<T, String> {
    let fits = |x: f64| x.is_finite() && fits(x);
    text.parse().ok().filter(|x: &T| fits((*x).into())).ok_or_else(|| format!("expected {what}"))
}

/// A `value_parser` for a finite number of at least 0.
pub(crate) fn at_least_0(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

/// A `value_parser` for a finite number above 0.
pub(crate) fn above_0<T: FromStr + Copy + Into<f64>>(text: &str) -> Result<T, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

/// A `value_parser` for a number from 0 to 1.
pub(crate) fn from_0_to_1(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// A `value_parser` for a number above 0 and at most 1.
pub(crate) fn above_0_to_1(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}
