//! Self-Rewarding Language Models (arXiv 2401.10020) on any GPU that speaks Vulkan, Metal or DX12: one model writes new
//! instructions, answers them, judges its own answers and is trained on its own preferences by DPO, round after round.
//! All heavy work runs in WGSL compute kernels on wgpu.
//!
//! The layers, from the outside in: [`recipe`] (the loop), [`generate`], [`judge`] and [`train`], [`model`],
//! [`kernels`], [`gpu`]; [`weights`] and [`text`] read and write models, [`world`] is a small synthetic world with an
//! exact scorer.
//!
//! Two answers of the small world's seed model:
//!
//! ```
//! use selfreward::generate::{Generator, Request, Sampling, Settings};
//! use selfreward::world::{self, text};
//! use selfreward::{Silent, gpu::Gpu, model::Model};
//!
//! # fn main() -> selfreward::Result<()> {
//! let gpu = Gpu::open(None, None)?;
//! let model = Model::from_tensors(&gpu, &world::arch(), world::seed_model()?)?;
//! let request = Request { prompt: text::question("upper: cab")?, samples: vec![1, 2] };
//! let settings = Settings {
//!     sampling: Sampling { temperature: 0.8, ..Sampling::default() },
//!     max_new_tokens: 17,
//!     stop: vec![text::EOS],
//!     seed: 0,
//!     choices: vec![],
//! };
//! let answers = Generator::new(&gpu, &model).run(&[request], &settings, &Silent, &mut |_, _, _| {})?;
//! assert_eq!(answers[0].len(), 2);
//! # Ok(())
//! # }
//! ```

// Natively and elsewhere the same library: see src/disk.rs and src/clock.rs. Tests are for systems with a disk.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod arch;
mod clock;
pub mod data;
pub mod demo;
mod disk;
mod durable;
pub mod error;
pub mod generate;
pub mod gpu;
pub mod hub;
pub mod json;
pub mod judge;
pub mod kernels;
pub mod layout;
mod lock;
pub mod measure;
pub mod model;
pub mod observe;
pub mod recipe;
pub mod report;
pub mod rng;
pub mod source;
pub mod text;
pub mod train;
pub mod weights;
pub mod world;

pub use error::{Error, Result};
pub use observe::{Observer, Silent};
