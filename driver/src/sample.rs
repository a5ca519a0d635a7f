//! The sampling flags that several commands share.

use clap::Args;
use selfreward::generate::{Sampling, Settings};
use selfreward::source::ModelSource;

/// How tokens are drawn.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SampleArgs {
    /// 0 is greedy
    #[arg(long, default_value_t = 0.7, value_name = "T", value_parser = at_least_0)]
    temperature: f32,
    /// Keep the K likeliest tokens; 0 is off
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Keep the smallest set of likeliest tokens that reaches this probability; 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = share_above_0)]
    top_p: f32,
    /// Drop tokens less likely than this share of the likeliest one; 0 is off
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = share)]
    min_p: f32,
    /// Make tokens that occurred already less likely; 1 is off
    #[arg(long, default_value_t = 1.0, value_name = "R", value_parser = above_0)]
    repetition_penalty: f32,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
}

impl SampleArgs {
    /// The settings with which a model answers: these flags, and the stop tokens that `source` knows.
    pub(crate) fn settings(&self, source: &ModelSource, seed: u64) -> Settings {
        Settings {
            sampling: Sampling {
                repetition_penalty: self.repetition_penalty,
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
            },
            max_new_tokens: self.max_new_tokens as usize,
            stop: source.stop_ids.clone(),
            seed,
            choices: Vec::new(),
        }
    }
}

fn number(text: &str, fits: impl Fn(f32) -> bool, what: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && fits(*x)).ok_or_else(|| format!("expected {what}"))
}

/// A `value_parser` for a finite number of at least 0.
pub(crate) fn at_least_0(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

/// A `value_parser` for a finite number above 0.
pub(crate) fn above_0(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

/// A `value_parser` for a number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// A `value_parser` for a number from 0 to below 1.
pub(crate) fn share_below_1(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1")
}

/// A `value_parser` for a number above 0 and at most 1.
pub(crate) fn share_above_0(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}
