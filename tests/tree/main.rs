//! What the tree itself promises: who may import whom and how long files and lines are.

#![expect(clippy::expect_used, reason = "a failed test may panic")]

mod files;
mod floors;
mod lines;
mod names;
