//! What the tree itself promises: who may import whom, how long files and lines are, and that pages name what exists.

#![expect(clippy::expect_used, reason = "a failed test may panic")]

mod files;
mod floors;
mod lines;
mod links;
mod names;
