//! The small world: short text tasks with an exact scorer, and a model of 197,184 parameters that speaks nothing else.
//!
//! In it the whole loop can be played in a minute or two and measured against the truth. The model, its tokenizer and
//! its folders are ordinary ones; the world adds data, templates and a scorer that only measures.

pub mod model;
pub mod respond;
pub mod score;
pub mod tasks;
pub mod text;

pub use model::{arch, init, save, seed_model};
pub use score::{Marks, marks};
pub use tasks::{Family, Task, held_out};
