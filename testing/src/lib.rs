//! What the tests of the library and of its driver share. It is a crate of its own so
//! that it is compiled once; it is never published.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

pub mod golden;
pub mod models;
pub mod schema;
pub mod texts;
