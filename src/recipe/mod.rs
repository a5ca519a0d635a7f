//! The self-rewarding loop: its stages, its rounds, its folder.
//!
//! A round is prompts -> candidates -> verdicts -> pairs -> training. Each stage is one file in [`stages`], reads and
//! writes JSONL, and can be interrupted after any wave. What differs between real models and the small world is data
//! behind [`Domain`].

mod adapters;
pub mod chat;
pub mod context;
mod controls;
pub mod domain;
pub mod evaluation;
pub mod gate;
pub mod judging;
pub mod models;
pub mod round;
pub mod round_metrics;
pub mod run;
pub mod run_folder;
pub mod run_metrics;
pub mod shards;
pub mod stages;
pub mod supervised;
mod tasks;
pub mod warnings;

pub use domain::Domain;
