//! Self-Rewarding Language Models (arXiv 2401.10020) on any GPU that speaks Vulkan, Metal or DX12: one model writes new
//! instructions, answers them, judges its own answers and is trained on its own preferences by DPO, round after round.
//! All heavy work runs in WGSL compute kernels on wgpu.
//!
//! A model answers a question, word by word. It is a Hugging Face folder, a PEFT folder, a `.gguf` file or a hub id:
//!
//! ```no_run
//! use selfreward::{Generator, Gpu, Message, Model, ModelSource, Request, Sampling, Settings, Silent};
//!
//! # fn main() -> selfreward::Result<()> {
//! let source = ModelSource::open_or_fetch("HuggingFaceTB/SmolLM2-135M-Instruct".as_ref(), &Silent)?;
//! let gpu = Gpu::open(None, None)?;
//! let model = Model::load(&gpu, &source)?;
//! let text = source.text()?;
//! let request = Request::new(text.encode_chat(&[Message::new("user", "Why is the sky blue?")], true)?, 1);
//! let sampling = Sampling::default().temperature(0.7).top_p(0.9);
//! let settings = Settings::default().sampling(sampling).max_new_tokens(200).stop(source.stop_ids.clone());
//! let mut words = text.stream();
//! Generator::new(&gpu, &model).run_with(&[request], &settings, &Silent, &mut |_, _, token| {
//!     print!("{}", words.push(token).unwrap_or_default());
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! From there: [`Judge`] and [`ModelJudge`] score answers, [`Trainer`] with [`dpo`] and [`sft`] trains, [`run`] plays
//! the whole loop that a [`RunConfig`] describes, and [`Report`] reads what it left in its folder.
//!
//! Two answers of the small world's seed model, which ships with the crate (feature `world`):
//!
//! ```
//! use selfreward::world::{self, text};
//! use selfreward::{Generator, Gpu, Model, Request, Sampling, Settings};
//!
//! # fn main() -> selfreward::Result<()> {
//! let gpu = Gpu::open(None, None)?;
//! let model = Model::from_tensors(&gpu, &world::arch(), world::seed_model()?)?;
//! let request = Request::new(text::question("upper: cab")?, 2);
//! let sampling = Sampling::default().temperature(0.8);
//! let settings = Settings::default().sampling(sampling).max_new_tokens(17).stop(vec![text::EOS]);
//! let answers = Generator::new(&gpu, &model).run(&[request], &settings)?;
//! assert_eq!(answers[0].len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! What this page does not show is the crate's own: the binary and the tests reach it, and it may change at any time.

// Natively and elsewhere the same library: see src/disk/ and src/clock.rs. Tests are for systems with a disk.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[doc(hidden)]
pub mod arch;
mod clock;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod demo;
#[cfg(not(target_family = "wasm"))]
mod disk;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod disk;
mod durable;
mod error;
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod gpu;
#[doc(hidden)]
pub mod hub;
#[doc(hidden)]
pub mod json;
#[doc(hidden)]
pub mod judge;
#[doc(hidden)]
pub mod kernels;
mod layout;
mod lock;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod model;
mod observe;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod recipe;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod rng;
#[doc(hidden)]
pub mod settings;
pub mod source;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod train;
#[doc(hidden)]
pub mod waves;
#[doc(hidden)]
pub mod weights;
#[doc(hidden)]
pub mod world;

pub use arch::lora::{Adapter, LoraConfig};
pub use arch::{Arch, Dtype, NamedTensor};
pub use config::RunConfig;
pub use error::{Error, Result};
pub use generate::{ChatLanguage, Engine, Generator, GpuEngine, Output, Request, Sampling, Settings};
pub use gpu::{DeviceInfo, Gpu, Options, list as list_devices};
pub use judge::{Item, Judge, Mode, ModelJudge, ModelJudgeSettings, RandomJudge, Templates, Verdict};
pub use model::score::{Branch, logps};
pub use model::{Base, Model, Storage};
pub use observe::{Observer, Silent};
pub use recipe::run::{RunOptions, Until, run};
pub use recipe::run_folder::{Status, status};
pub use report::Report;
pub use source::{ModelSource, save_adapter, save_model};
pub use text::{Language, Message, Prompt, StreamDecoder, Text};
pub use train::losses::LOSSES;
pub use train::objective::Objective;
pub use train::{LearningRate, Optimiser, Schedule, Trainer, dpo, sft};
