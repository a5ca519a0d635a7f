//! Rounds of self-rewarding: their stages, options, plan and report, and the small world that they are tried in.

mod options;
mod plan;
mod report;
mod stages;
mod world;
