//! Training: losses, optimisers, adapters and dropout against other implementations, and several ranks against one.

mod balance;
mod dropout;
mod exchange;
mod families;
mod gradients;
mod lora;
mod losses;
mod optimiser;
