//! The commands through the binary, one by one.

mod bench;
mod calls;
mod check;
mod cli;
mod data;
mod dump;
mod eval;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_server;
mod lora;
mod pages;
mod plan;
mod stages;
mod tasks;
mod training;
