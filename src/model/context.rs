//! Where the rows of a step find what came before them.

use super::view::View;
use crate::gpu::Tensor;
use crate::kernels::arena::{Arena, Rows};
use crate::kernels::rope::Turn;

/// Where the rows of a step find their keys and values.
pub(crate) enum Context<'a> {
    /// Rows see the step's own forest.
    Forest {
        /// What they see of it.
        view: &'a View,
        /// Where keys and values go beside that.
        store: Option<Store<'a>>,
    },
    /// Single rows continue paths in the arena.
    Arena(Past<'a>),
}

/// Keys and values of rows that go into the arena: entry i is row `row[i]`, to slot `slot[i]`.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    /// Keys and values of each layer.
    pub(crate) arena: &'a [Arena],
    /// The row of each entry, `[entries]`.
    pub(crate) row: &'a Tensor,
    /// The slot of each entry, `[entries]`.
    pub(crate) slot: &'a Tensor,
}

/// What the rows of a step continue.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    /// Keys and values of each layer.
    pub(crate) arena: &'a [Arena],
    /// Where the rows stand; the window and the scale are each layer's own.
    pub(crate) rows: &'a Rows,
    /// The angles of the rows, for each rope of the architecture.
    pub(crate) turns: &'a [Turn],
    /// Whether each row is of a sequence of its own, so that none reads what another one writes.
    pub(crate) apart: bool,
    /// (row, slot) of keys and values that go elsewhere too.
    pub(crate) copies: Option<(&'a Tensor, &'a Tensor)>,
}

impl<'a> Past<'a> {
    /// The past of rows each of which belongs to a sequence of its own.
    pub(crate) fn apart(arena: &'a [Arena], rows: &'a Rows, turns: &'a [Turn]) -> Past<'a> {
        Past { arena, rows, turns, apart: true, copies: None }
    }
}
