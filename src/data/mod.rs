//! The records that stages, trainings and commands read and write.

pub mod answers;
pub mod examples;
pub mod import;
pub mod records;
