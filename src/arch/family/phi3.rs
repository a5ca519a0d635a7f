//! Phi 3 and 4 (dense): q, k, v in one matrix, gate and up in another, LongRoPE. Defaults: transformers' `Phi3Config`.

use super::{Arch, Defaults, Keys, LLAMA, common, rope, set_windows, window};
use crate::{Error, Result};

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults = Defaults {
        vocab_size: 32064,
        hidden_size: 3072,
        intermediate_size: 8192,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        original_max_position_embeddings: Some(4096),
        ..LLAMA
    };
    let kind = rope::kind(keys)?;
    if !matches!(kind, "default" | "longrope" | "su") {
        return Err(Error::Input(format!("rope_type {kind:?} is not one of phi3's: default, longrope")));
    }
    let mut arch = Arch { fused: true, ..common(keys, "phi3", &defaults)? };
    let window = window(keys, None)?;
    let slides = vec![window.is_some(); arch.num_hidden_layers];
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}
