//! The self-rewarding loop: its stages, its records, its folder.
//!
//! A round is prompts -> candidates -> verdicts -> pairs -> training. Each stage is one file here, reads and writes JSONL, and
//! can be interrupted after any wave. What differs between real models and the small world is data behind [`Domain`].

pub mod agreement;
pub mod answers;
pub mod candidates;
pub mod chat;
pub mod config;
pub mod data;
pub mod demo;
pub mod demo_report;
pub mod diversity;
pub mod domain;
pub mod duel;
pub mod evaluation;
pub mod examples;
pub mod fit;
#[cfg(test)]
mod interruption;
pub mod logps;
pub mod meta;
pub mod metrics;
pub mod models;
pub mod pair_stage;
pub mod pairs;
pub mod perplexity;
pub mod plan;
pub mod prompts;
pub mod records;
pub mod report;
pub mod rouge;
pub mod round;
pub mod run;
pub mod run_folder;
pub mod shards;
pub mod standing;
pub mod supervised;
pub mod training;
pub mod validation;
pub mod verdicts;
pub mod waves;
pub mod win_rate;
pub mod work;
pub mod world_domain;

pub use domain::Domain;
