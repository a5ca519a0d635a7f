//! The paged arena of keys and values, and where a decoding step's rows stand in it.

use super::heads::Heads;
use crate::gpu::{Gpu, Tensor};
use crate::{Error, Result};

/// Positions of one page.
pub(crate) const PAGE: usize = 32;

/// Positions of one partial sum, counted from position 0.
pub(crate) const CHUNK: usize = 128;

/// One layer's keys and values, `[pages KV PAGE, pad4(head_dim)]`: a page has the positions of one key head behind one
/// another, since that is how they are read.
#[derive(Clone)]
pub(crate) struct Arena {
    /// Keys, rotated.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl Arena {
    /// Room for so many pages, of arbitrary content.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn room(gpu: &Gpu, pages: usize, heads: Heads) -> Result<Arena> {
        let memory = || gpu.empty(pages * heads.kv_heads * PAGE, heads.head_dim);
        Ok(Arena { keys: memory()?, values: memory()? })
    }

    /// Refuses an arena of other heads.
    ///
    /// # Errors
    /// [`Error::Bug`] that names the shapes.
    pub(super) fn expect(&self, heads: Heads) -> Result<()> {
        let (keys, values) = (self.keys.shape(), self.values.shape());
        if keys == values && self.keys.ld() == heads.padded() && self.keys.rows().is_multiple_of(heads.kv_heads * PAGE)
        {
            return Ok(());
        }
        Err(Error::Bug(format!("an arena of keys {keys:?} and values {values:?} does not hold {heads:?}")))
    }

    /// The row of a key head at a slot, which is page * PAGE + the position's place in it.
    pub(crate) fn row(kv_heads: usize, kv: usize, slot: usize) -> usize {
        (slot / PAGE * kv_heads + kv) * PAGE + slot % PAGE
    }
}

/// Where the rows of a step stand.
#[derive(Clone)]
pub(crate) struct Rows {
    /// Page numbers of each row's path, `[B, pages]`.
    pub table: Tensor,
    /// Position of each row, `[B]`; it sees itself and everything before.
    pub pos: Tensor,
    /// Most positions that any row will see.
    pub longest: usize,
    /// Positions a row sees back, itself included.
    pub window: u32,
    /// Factor on the scores, head_dim^-0.5 if None.
    pub scale: Option<f32>,
}

impl Rows {
    /// Refuses another number of rows than `count`, and positions for which there are no pages.
    ///
    /// # Errors
    /// [`Error::Bug`] that names the numbers.
    pub(super) fn expect(&self, count: usize) -> Result<()> {
        self.pos.expect_vector("the positions of a step", count)?;
        if self.table.rows() != count {
            return Err(Error::Bug(format!("pages of {} rows for a step of {count}", self.table.rows())));
        }
        let held = self.table.cols() * PAGE;
        if self.longest > held {
            return Err(Error::Bug(format!("a row sees {} positions and has pages for {held}", self.longest)));
        }
        Ok(())
    }

    /// Partial sums of a row.
    pub(super) fn chunks(&self) -> usize {
        self.longest.div_ceil(CHUNK).max(1)
    }
}
