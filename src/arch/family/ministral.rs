//! Ministral: Mistral with windows in the blocks that `layer_types` names. Defaults: transformers' `MinistralConfig`.

use super::mistral;
use super::row::Family;

pub(super) const FAMILY: Family = Family {
    name: "Ministral",
    model_type: "ministral",
    class: "MinistralForCausalLM",
    whole: None,
    peculiar: "a window in some blocks",
    // llama.cpp has no architecture for it.
    gguf: None,
    ..mistral::FAMILY
};
