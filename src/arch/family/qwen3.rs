//! Qwen 3 (dense): RMSNorm on each head of q and k. Defaults: transformers' `Qwen3Config`.

use super::{Arch, Defaults, Keys, QWEN, common, qwen_windows};
use crate::Result;

pub(super) fn arch(keys: &Keys<'_>) -> Result<Arch> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let common = common(keys, "qwen3", &Defaults { head_dim: Some(128), ..QWEN })?;
    let mut arch = Arch { qkv_bias: bias, o_bias: bias, qk_norm: true, ..common };
    qwen_windows(keys, &mut arch)?;
    Ok(arch)
}
