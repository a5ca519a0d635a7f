//! Llama 2, 3 and what shares its `model_type` (SmolLM2, TinyLlama, …). Defaults: transformers' `LlamaConfig`.

use super::common::{PLAIN, common, set_biases};
use super::keys::Keys;
use super::row::{Family, GGUF, GgufFamily};
use crate::Result;
use crate::arch::shape::Arch;

pub(super) const FAMILY: Family = Family {
    name: "Llama 2, 3 and kin",
    model_type: "llama",
    class: "LlamaForCausalLM",
    peculiar: "nothing",
    arch,
    gguf: Some(GgufFamily {
        architecture: "llama",
        few_values: Some(80),
        interleaved: true,
        biases: &[("attention_bias", "self_attn.q_proj"), ("mlp_bias", "mlp.gate_proj")],
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [bias, bias, mlp_bias]);
    Ok(arch)
}
