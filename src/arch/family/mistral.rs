//! Mistral: Llama with a sliding window in every block, if any; Ministral, in the blocks that `layer_types` names.
//! Defaults: transformers' `MistralConfig`.

use super::common::{LLAMA, PLAIN, common, set_windows, sliding, window};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows};
use crate::Result;
use crate::arch::shape::Arch;

pub(super) const FAMILY: Family = Family {
    name: "Mistral",
    model_type: "mistral",
    class: "MistralForCausalLM",
    whole: Some("mistral3"),
    peculiar: "a window in all blocks or in some",
    tokenizer_as_written: true,
    defaults: Defaults {
        intermediate_size: 14336,
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        ..LLAMA
    },
    arch,
    // It has no architecture of its own: a file of llama with a sliding window is one.
    gguf: Some(GgufFamily {
        architecture: "llama",
        interleaved: true,
        windows: Windows::Every { always: false },
        few_values: Some(80),
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    let window = window(keys, Some(4096))?;
    let layers = arch.layers.len();
    let slides = sliding(keys, layers)?.unwrap_or_else(|| vec![window.is_some(); layers]);
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}
