//! One sequence that is being written: whose it is, how long it may get, its pages.

use crate::kernels::arena::PAGE;

/// One sequence of the wave: a sample of a request.
#[derive(Clone)]
pub(super) struct Sequence {
    pub(super) request: usize,
    pub(super) sample: usize,
    pub(super) id: u64,
    /// How many tokens its prompt has.
    pub(super) prompt: usize,
    /// Most tokens that its answer may have.
    pub(super) limit: usize,
    /// Its pages of the arena, in the order of its positions; none while it waits.
    pub(super) pages: Vec<u32>,
}

impl Sequence {
    /// Most tokens that prompt and answer may have together.
    pub(super) fn longest(&self) -> usize {
        self.prompt + self.limit
    }

    pub(super) fn page_count(&self) -> usize {
        self.longest().div_ceil(PAGE)
    }

    /// Its row of a page table that is `width` pages wide; behind its last page that page is repeated.
    pub(super) fn row(&self, width: usize) -> impl Iterator<Item = u32> {
        let last = self.pages.last().copied().unwrap_or(0);
        self.pages.iter().copied().chain(std::iter::repeat(last)).take(width)
    }
}
