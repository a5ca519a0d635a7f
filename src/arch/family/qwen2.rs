//! Qwen 2 and 2.5: bias on q, k and v, always. Defaults: transformers' `Qwen2Config`.

use super::common::{PLAIN, QWEN, common, qwen_windows, set_biases};
use super::keys::Keys;
use super::row::{Family, GGUF, GgufFamily};
use crate::Result;
use crate::arch::shape::Arch;

pub(super) const FAMILY: Family = Family {
    name: "Qwen 2, 2.5",
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    peculiar: "bias on q, k and v",
    defaults: QWEN,
    arch,
    gguf: Some(GgufFamily { architecture: "qwen2", few_values: Some(80), ..GGUF }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    set_biases(&mut arch, [true, false, false]);
    qwen_windows(keys, &mut arch)?;
    Ok(arch)
}
