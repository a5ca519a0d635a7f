//! Where the rows of a step find what came before them.

use super::balance::Balance;
use super::dropout::Masks;
use super::view::View;
use crate::gpu::Tensor;
use crate::kernels::arena::{Arena, Rows};
use crate::kernels::rope::Turn;
use crate::{Error, Result};

/// What a block remembers of sequences that are being written.
pub(crate) enum Memory {
    /// Attention: keys and values of every position, in pages.
    Pages(Arena),
    /// A short convolution: what its sums still need of the last positions, for each slot `[slots, (taps - 1) D]`.
    Past(Tensor),
    /// A gated delta net: what its convolution still needs, and the state of each head, for each slot.
    State {
        /// The last positions, `[slots, (taps - 1) channels]`.
        past: Tensor,
        /// The states, `[slots, heads key_dim value_dim]`.
        state: Tensor,
    },
}

impl Memory {
    /// The pages of a block with attention.
    pub(crate) fn pages(&self) -> Result<&Arena> {
        match self {
            Memory::Pages(arena) => Ok(arena),
            Memory::Past(_) | Memory::State { .. } => Err(Error::Bug("a block with attention has no pages".into())),
        }
    }

    /// The past of a block with a convolution.
    pub(crate) fn past(&self) -> Result<&Tensor> {
        match self {
            Memory::Past(past) => Ok(past),
            _ => Err(Error::Bug("a block with a convolution has no past".into())),
        }
    }

    /// The past and the states of a block with a delta net.
    pub(crate) fn state(&self) -> Result<(&Tensor, &Tensor)> {
        match self {
            Memory::State { past, state } => Ok((past, state)),
            _ => Err(Error::Bug("a block with a delta net has no state".into())),
        }
    }
}

/// Where the rows of a step find what their blocks remember.
pub(crate) enum Context<'a> {
    /// Rows see the step's own forest.
    Forest {
        /// What they see of it.
        view: &'a View,
        /// Where keys and values go beside that.
        store: Option<Store<'a>>,
    },
    /// Single rows continue paths that blocks remember.
    Arena(Past<'a>),
}

impl<'a> Context<'a> {
    /// The masks of dropout, which single rows have none of.
    pub(crate) fn dropout(&self) -> Option<&'a Masks> {
        match self {
            Context::Forest { view, .. } => view.dropout.as_ref(),
            Context::Arena(_) => None,
        }
    }

    /// What is counted for the routers' auxiliary loss, of single rows nothing.
    pub(crate) fn balance(&self) -> Option<&'a Balance> {
        match self {
            Context::Forest { view, .. } => view.balance.as_ref(),
            Context::Arena(_) => None,
        }
    }
}

/// What blocks are to remember: keys and values of rows that go into pages, entry i is row `row[i]`, to slot `slot[i]`.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    /// The memory of each layer.
    pub(crate) memory: &'a [Memory],
    /// The row of each entry, `[entries]`.
    pub(crate) row: &'a Tensor,
    /// The slot of each entry, `[entries]`.
    pub(crate) slot: &'a Tensor,
    /// The row behind which each sequence goes on, and the slot of its past, `[sequences]` each, in a model that has
    /// such blocks.
    pub(crate) ends: Option<(&'a Tensor, &'a Tensor)>,
}

/// What the rows of a step continue.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    /// The memory of each layer.
    pub(crate) memory: &'a [Memory],
    /// Where the rows stand; the window and the scale are each layer's own.
    pub(crate) rows: &'a Rows,
    /// The angles of the rows, for each rope of the architecture.
    pub(crate) turns: &'a [Turn],
    /// Whether each row is of a sequence of its own, so that none reads what another one writes.
    pub(crate) apart: bool,
    /// (row, slot) of keys and values that go elsewhere too.
    pub(crate) copies: Option<(&'a Tensor, &'a Tensor)>,
    /// The slot of each row's past, `[B]`, in a model that has such blocks.
    pub(crate) slots: Option<&'a Tensor>,
}

impl<'a> Past<'a> {
    /// The past of rows each of which belongs to a sequence of its own.
    pub(crate) fn apart(
        memory: &'a [Memory],
        rows: &'a Rows,
        turns: &'a [Turn],
        slots: Option<&'a Tensor>,
    ) -> Past<'a> {
        Past { memory, rows, turns, apart: true, copies: None, slots }
    }
}
