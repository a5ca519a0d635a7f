//! What the tree itself promises: who may import whom.

#![expect(clippy::expect_used, reason = "a failed test may panic")]

mod floors;
mod names;
