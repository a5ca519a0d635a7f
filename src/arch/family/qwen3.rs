//! Qwen 3 (dense): RMSNorm on each head of q and k. Defaults: transformers' `Qwen3Config`.

use super::common::{PLAIN, QWEN, attentions, common, qwen_windows, set_biases};
use super::keys::Keys;
use super::row::{Defaults, Family, GGUF, GgufFamily};
use crate::Result;
use crate::arch::layer::QkNorm;
use crate::arch::shape::Arch;

pub(super) const FAMILY: Family = Family {
    name: "Qwen 3",
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    peculiar: "QK-norm by head",
    defaults: Defaults { head_dim: Some(128), ..QWEN },
    arch,
    gguf: Some(GgufFamily { architecture: "qwen3", biases: &[("attention_bias", "self_attn.q_proj")], ..GGUF }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [bias, bias, false]);
    attentions(&mut arch).for_each(|attention| attention.qk_norm = Some(QkNorm::Heads));
    qwen_windows(keys, &mut arch)?;
    Ok(arch)
}
