//! How the heads of queries, keys and values lie in a row.

use crate::gpu::{Tensor, pad4};
use crate::{Error, Result};

/// How heads lie in a fused row `[q heads | k heads | v heads]`; each head takes `padded()` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// H
    pub heads: usize,
    /// KV
    pub kv_heads: usize,
    /// Channels of a head that mean something.
    pub head_dim: usize,
}

impl Heads {
    /// Channels of a head in memory.
    pub(crate) fn padded(&self) -> usize {
        pad4(self.head_dim)
    }

    /// Width of a fused row.
    pub(crate) fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.padded()
    }

    /// Query heads of a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Query heads of one key head that a lane can take, at most so many: they read the same keys and values.
    pub(super) fn together(&self, most: usize) -> usize {
        (1..=most).rev().find(|n| self.group().is_multiple_of(*n)).unwrap_or(1)
    }

    /// Refuses rows that do not hold these heads.
    pub(super) fn expect(&self, rows: &Tensor) -> Result<()> {
        if rows.ld() == self.width() && self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads) {
            return Ok(());
        }
        Err(Error::Input(format!("rows of {} do not hold the heads {self:?}", rows.ld())))
    }
}
