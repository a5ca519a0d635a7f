//! Self-Rewarding Language Models (arXiv 2401.10020) on any GPU that speaks Vulkan, Metal or DX12.

pub mod error;
pub mod generate;
pub mod gpu;
pub mod judge;
pub mod kernels;
pub mod layout;
pub mod model;
pub mod observe;
pub mod recipe;
pub mod rng;
pub mod text;
pub mod train;
pub mod weights;
pub mod world;

pub use error::{Error, Result};
pub use observe::{Observer, Silent};
