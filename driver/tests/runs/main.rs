//! Whole runs through the binary: with every option, and killed at any moment.

mod kill;
mod options;
