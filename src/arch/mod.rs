//! What a model is, as plain data: the shape of its decoder, its named tensors, its adapter, the formats of its
//! numbers. One [`Arch`] parameterises the one decoder: it holds what is global and a list of [`Layer`]s, each of which
//! says its own mixer, norms and MLP. A family file reads it from config.json.

mod dtype;
pub mod family;
mod layer;
pub mod lora;
mod lora_layers;
mod quantise;
mod quantise_k;
mod shape;
mod tensor;

pub use dtype::Dtype;
pub(crate) use dtype::{DOUBLED, Scaled, evened};
pub use layer::{
    Activation, Attention, DeltaNet, Experts, Gated, Layer, MOST_TAPS, Mixer, Mlp, Norms, QkNorm, QueryGrowth,
    ShortConv,
};
pub use shape::{Alike, Arch, Naming, Rope, Stretch};
pub(crate) use tensor::unusable;
pub use tensor::{LARGEST, NamedTensor, first_unusable};
