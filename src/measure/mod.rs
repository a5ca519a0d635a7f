//! What is measured of answers, scores and models, by pure functions of records and by duels that a judge decides.

pub mod agreement;
pub mod calibrate;
pub mod constrained;
pub mod constraints;
pub mod diversity;
pub mod duel;
pub mod eft;
pub mod held_out;
pub mod metrics;
pub mod order;
pub mod perplexity;
pub mod rouge;
pub mod signals;
pub mod tasks;
pub mod win_rate;
