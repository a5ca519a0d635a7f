//! The paged arena of keys and values, and where a decoding step's rows stand in it.

use super::half::Half;
use super::heads::Heads;
use super::scores::Scores;
use super::way::Constant;
use crate::gpu::{Gpu, Tensor};
use crate::{Error, Result};

/// Positions of one page.
pub(crate) const PAGE: usize = 32;

/// Positions of one partial sum, counted from position 0.
pub(crate) const CHUNK: usize = 128;

/// The number format of the keys and values that the arena keeps while text is generated; that of a model's weights is
/// `Storage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 4 bytes a number, as they are computed.
    #[default]
    F32,
    /// 2 bytes a number: the nearest f16, and ±65,504 for what is beyond its range.
    F16,
}

impl KvType {
    /// Both types.
    pub const ALL: [KvType; 2] = [KvType::F32, KvType::F16];

    /// The names of the types, in the order of [`KvType::ALL`].
    pub const NAMES: [&'static str; 2] = ["f32", "f16"];

    /// The type's name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }

    /// The constants by which the shaders know the type.
    pub(super) fn constants(self) -> Vec<Constant> {
        match self {
            KvType::F32 => Vec::new(),
            KvType::F16 => vec![Half::F16.constant()],
        }
    }

    /// What the arena keeps of a number, for the twins.
    pub(super) fn kept(self, x: f64) -> f64 {
        match self {
            KvType::F32 => x,
            KvType::F16 => half::f16::from_f64(x).to_f64().clamp(-65504.0, 65504.0),
        }
    }

    /// A row of numbers as the arena has it: words of 32 bits.
    pub(super) fn words(self, row: &[f32]) -> Vec<u32> {
        match self {
            KvType::F32 => row.iter().map(|x| x.to_bits()).collect(),
            KvType::F16 => Half::F16.words(row),
        }
    }
}

/// One layer's keys and values, `[pages KV PAGE, pad4(head_dim)]`: a page has the positions of one key head behind one
/// another, since that is how they are read. In f16 two positions share a row of the tensors.
#[derive(Clone)]
pub(crate) struct Arena {
    /// Keys, rotated.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
    /// The type of both.
    pub kv: KvType,
}

impl Arena {
    /// Room for so many pages, of arbitrary content.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn room(gpu: &Gpu, pages: usize, heads: Heads, kv: KvType) -> Result<Arena> {
        let rows = pages * heads.kv_heads * PAGE;
        let memory = || match kv {
            KvType::F32 => gpu.empty(rows, heads.head_dim),
            KvType::F16 => gpu.empty(rows / 2, heads.padded()),
        };
        Ok(Arena { keys: memory()?, values: memory()?, kv })
    }

    /// Refuses an arena of other heads.
    ///
    /// # Errors
    /// [`Error::Bug`] that names the shapes.
    pub(super) fn expect(&self, heads: Heads) -> Result<()> {
        let (keys, values) = (self.keys.shape(), self.values.shape());
        let positions = self.keys.rows() * 4 / self.kv.bytes();
        if keys == values && self.keys.ld() == heads.padded() && positions.is_multiple_of(heads.kv_heads * PAGE) {
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
    /// What makes a score of a product.
    pub scores: Scores,
    /// The heads' sinks `[H]`, if they have some.
    pub sinks: Option<Tensor>,
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
