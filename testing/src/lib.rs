//! What the tests of the library and of its driver share. It is a crate of its own so
//! that it is compiled once; it is never published.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a test says what is wrong by panicking, and these are parts of tests"
)]

pub mod golden;
pub mod models;
pub mod schema;
pub mod texts;
