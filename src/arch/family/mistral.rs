//! Mistral: Llama with a sliding window in every block, if any; Ministral, in the blocks that `layer_types` names. Defaults: transformers' `MistralConfig`.

use super::{Arch, Defaults, Keys, LLAMA, common, set_windows, sliding, window};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let defaults =
        Defaults { intermediate_size: 14336, num_key_value_heads: Some(8), max_position_embeddings: 131_072, ..LLAMA };
    let mut arch = common(keys, "mistral", &defaults)?;
    let window = window(keys, Some(4096))?;
    let named = sliding(keys, arch.num_hidden_layers)?;
    let slides = named.unwrap_or_else(|| vec![window.is_some(); arch.num_hidden_layers]);
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}
