//! The decoder: one implementation for every family, forward and backward beside one another. A block's parts are its
//! mixer (`attention.rs`, `short_conv.rs`, `delta_net.rs`), its MLP (`gated.rs`, `experts.rs`) and its norms
//! (`decoder.rs`); `places.rs` says where each lies on the GPU.

mod angles;
mod attention;
pub(crate) mod balance;
mod base;
pub(crate) mod context;
pub(crate) mod decoder;
mod delta_net;
pub(crate) mod dropout;
mod experts;
mod gated;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod lora;
#[expect(clippy::module_inception, reason = "the file of `Model`, which its neighbours import from there")]
mod model;
mod pack;
pub(crate) mod params;
pub(crate) mod places;
mod random;
pub mod score;
mod short_conv;
mod step;
pub(crate) mod stream;
pub(crate) mod view;

pub use base::Base;
pub use model::Model;
pub(crate) use model::rounded;
pub use params::Storage;
