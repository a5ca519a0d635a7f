//! How the heads of queries, keys and values lie in a row.

use crate::gpu::{Tensor, pad4};
use crate::{Error, Result};
use std::fmt;

/// How heads lie in a fused row `[q heads | k heads | v heads]`; each head takes `padded()` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// H, the number of query heads.
    pub heads: usize,
    /// KV, the number of key and value heads.
    pub kv_heads: usize,
    /// Channels of a head that mean something.
    pub head_dim: usize,
}

/// Heads of all widths and numbers that kernels tell apart, each with the channels that turn: what the cases compare,
/// and what is translated.
pub(super) const EXAMPLES: [(Heads, usize); 26] = [
    example(1, 1, 2, 2),
    example(2, 2, 7, 0),
    example(1, 1, 10, 10),
    example(3, 1, 10, 6),
    example(4, 2, 10, 10),
    example(2, 1, 12, 12),
    example(3, 1, 12, 6),
    example(4, 2, 12, 12),
    example(2, 2, 16, 16),
    example(4, 4, 16, 16),
    example(2, 1, 20, 20),
    example(3, 1, 32, 32),
    example(4, 2, 32, 16),
    example(2, 2, 36, 36),
    example(4, 2, 40, 40),
    example(5, 1, 40, 40),
    example(6, 2, 40, 40),
    example(8, 1, 40, 40),
    example(3, 1, 64, 64),
    example(9, 3, 64, 64),
    example(4, 2, 72, 72),
    example(2, 2, 80, 20),
    example(2, 1, 100, 100),
    example(4, 1, 128, 128),
    example(1, 1, 256, 256),
    example(2, 1, 256, 256),
];

const fn example(heads: usize, kv_heads: usize, head_dim: usize, turned: usize) -> (Heads, usize) {
    (Heads { heads, kv_heads, head_dim }, turned)
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}x{}", self.heads, self.kv_heads, self.head_dim)
    }
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
        let Heads { heads, kv_heads, .. } = *self;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::Bug(format!("{heads} query heads do not share {kv_heads} key heads evenly")));
        }
        if rows.ld() != self.width() {
            let (given, width) = (rows.ld(), self.width());
            return Err(Error::Bug(format!("a row has {given} channels where {self:?} take {width}")));
        }
        Ok(())
    }
}
