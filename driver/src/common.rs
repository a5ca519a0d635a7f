//! The flags that all commands share, and how a wrong use of a flag is reported.

use clap::Args;
use clap::error::ErrorKind;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Flags that every command takes.
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// GPU to use: part of its name, or its index in `devices` (default: the best one)
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    pub(crate) device: Option<String>,
    /// Most bytes that may be allocated on the GPU (512M and 2.5G are understood too; default: 92 % of what the card
    /// has, which `devices` shows)
    #[arg(long, global = true, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
    /// Limits to ask the device for
    #[arg(long, global = true, value_enum, default_value_t, value_name = "SET")]
    pub(crate) limits: LimitSet,
    /// Give each sequence the same bits in any batch, and in generation those of scoring and training (slower)
    #[arg(long, global = true)]
    pub(crate) invariant: bool,
    /// Multiply weights by many rows on the GPU's matrix units, rounded to f16 with sums in f32 (an error where it has
    /// none)
    #[arg(long, global = true, conflicts_with = "invariant")]
    pub(crate) matrix_units: bool,
    /// Seed of all random numbers (default: 0; `run`: the configuration's)
    #[arg(long = "seed", global = true, value_name = "N")]
    pub(crate) given_seed: Option<u64>,
    /// A variable of the model's chat template, such as enable_thinking=false; a value that is no JSON is a text. May
    /// be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) template_arg: Vec<(String, Value)>,
    /// The base of an adapter, where the one that it names is elsewhere (default: what it names, else M0 of the run
    /// that it lies in)
    #[arg(long, global = true, value_name = "M")]
    pub(crate) base: Option<PathBuf>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: what was chosen, how long it took
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

impl Common {
    /// The seed that was given, or 0.
    pub(crate) fn seed(&self) -> u64 {
        self.given_seed.unwrap_or(0)
    }
}

/// The limits on what a kernel may bind and on how large a workgroup may be.
#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
pub(crate) enum LimitSet {
    /// All that the device has
    #[default]
    Device,
    /// WebGPU's defaults and no more, as in a browser
    Webgpu,
}

/// Reads a variable and its value.
fn variable(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// Reads a number of bytes: whole or with a decimal fraction, with an optional K, M, G or T (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[digits.len()..];
    let wrong = || format!("'{text}' is no number of bytes; 900000000, 512M and 2.5G are");
    if digits.is_empty() {
        return Err(wrong());
    }
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("'{unit}' is no unit; K, M, G and T are, powers of 1024 (512M, 2.5G)")),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let most = || format!("{text} is more than 64 bits can say");
    if ![whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| most())?;
    let fraction: f64 = format!("0.{fraction}").parse().map_err(|_| wrong())?;
    let part = (fraction * (1u64 << shift) as f64) as u64;
    whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add(part)).ok_or_else(most)
}

/// The error of flags that do not go together, or of which one is missing. It is reported as clap reports what it finds
/// itself, with exit code 2.
#[derive(Debug)]
pub(crate) struct WrongUsage {
    pub(crate) kind: ErrorKind,
    pub(crate) what: String,
}

impl WrongUsage {
    /// The error of flags that do not go together.
    pub(crate) fn conflict(what: impl Into<String>) -> anyhow::Error {
        Self { kind: ErrorKind::ArgumentConflict, what: what.into() }.into()
    }

    /// The error of a flag that is missing.
    pub(crate) fn missing(what: impl Into<String>) -> anyhow::Error {
        Self { kind: ErrorKind::MissingRequiredArgument, what: what.into() }.into()
    }
}

/// A path that some uses of a command need.
pub(crate) fn needed<'a>(path: Option<&'a Path>, what: &str) -> anyhow::Result<&'a Path> {
    path.ok_or_else(|| WrongUsage::missing(what))
}

/// The last part of a path.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

impl std::fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for WrongUsage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_json_or_text() {
        assert_eq!(variable("a=false"), Ok(("a".into(), false.into())));
        assert_eq!(variable("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(variable("a").is_err() && variable("=1").is_err());
    }

    #[test]
    fn bytes_take_units() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("4G"), Ok(4 << 30));
        assert_eq!(bytes("3MiB"), Ok(3 << 20));
        assert_eq!(bytes("2.5G"), Ok(5 << 29));
        assert_eq!(bytes("0.1M"), Ok(104_857));
        for wrong in ["many", "", "G", "1..5G", ".5G", "-1", "1.2.3"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(bytes("5X").is_err());
        assert!(bytes("99999999999T").is_err());
    }
}
