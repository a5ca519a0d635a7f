//! Whole runs through the binary: with every option, and killed at any moment.

mod adapters;
mod kill;
mod options;
mod signals;
