//! Qwen 2 and 2.5: bias on q, k and v, always. Defaults: transformers' `Qwen2Config`.

use super::{Arch, Keys, QWEN, common, qwen_windows};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let mut arch = Arch { qkv_bias: true, ..common(keys, "qwen2", &QWEN)? };
    qwen_windows(keys, &mut arch)?;
    Ok(arch)
}
