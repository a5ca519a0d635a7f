//! Mistral: Llama with a sliding window in every block, if any. Defaults: transformers' `MistralConfig`.

use super::{Arch, Defaults, Keys, LLAMA, common, set_windows, window};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults =
        Defaults { intermediate_size: 14336, num_key_value_heads: Some(8), max_position_embeddings: 131_072, ..LLAMA };
    let mut arch = common(keys, "mistral", &defaults)?;
    let window = window(keys, Some(4096))?;
    let slides = vec![window.is_some(); arch.num_hidden_layers];
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}
