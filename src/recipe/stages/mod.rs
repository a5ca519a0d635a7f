//! The stages of a round, in their order. Each of them reads and writes JSONL.

pub mod candidates;
pub mod logps;
pub mod meta;
pub mod pairs;
pub mod prompts;
pub mod training;
pub mod validation;
pub mod verdicts;
