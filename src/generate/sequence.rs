//! One sequence that is being written: whose it is, how long it may get, its pages.

use crate::kernels::arena::PAGE;

/// One sequence of the wave.
#[derive(Clone)]
pub(super) struct Sequence {
    pub(super) request: usize,
    pub(super) sample: usize,
    pub(super) id: u64,
    /// Length of its prompt.
    pub(super) prompt: usize,
    /// Most tokens of its answer.
    pub(super) limit: usize,
    /// In the order of its positions; none while it waits.
    pub(super) pages: Vec<u32>,
}

impl Sequence {
    /// Tokens of prompt and answer at most.
    pub(super) fn longest(&self) -> usize {
        self.prompt + self.limit
    }

    pub(super) fn page_count(&self) -> usize {
        self.longest().div_ceil(PAGE)
    }

    /// Its row of a page table.
    pub(super) fn row(&self, width: usize) -> impl Iterator<Item = u32> {
        let last = self.pages.last().copied().unwrap_or(0);
        self.pages.iter().copied().chain(std::iter::repeat(last)).take(width)
    }
}
