//! The token forest. All tokens of a step lie flat, without padding or a batch dimension: a root is a prompt, a child
//! continues its parent. In depth-first order one array tells the whole mask, since row i sees row j exactly when
//! `j <= i < end[j]` (FlashMask, arXiv 2410.01359, has the column-wise form for general sparse causal masks; sharing a
//! prompt between answers: arXiv 2410.20305).

use std::ops::Range;

/// What stands for a row where there is none.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// A part of a path through the forest: rows `first .. first + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The node's first row.
    pub first: usize,
    /// How many rows the node has.
    pub len: usize,
    /// The row before the node's first one on its path, if there is one. It predicts the node's first token.
    pub before: Option<usize>,
}

/// Tokens in depth-first order, with what the kernels need to know of them. Every vector has one entry for each row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forest {
    /// The token id of each row.
    pub tokens: Vec<u32>,
    /// The position of each row along its path, for RoPE and windows.
    pub pos: Vec<u32>,
    /// For each row, the end of the subtree that its node begins.
    pub end: Vec<u32>,
    /// For each row, the first row of its tree.
    pub root: Vec<u32>,
    open: Vec<Node>,
}

impl Forest {
    /// An empty forest.
    pub(crate) fn new() -> Forest {
        Forest::default()
    }

    /// How many rows there are so far.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds `tokens` as a child of the innermost open node (a new root if none is open) and leaves it open. A node may
    /// be empty; its children then continue its parent.
    pub(crate) fn open(&mut self, tokens: &[u32]) -> Node {
        let first = self.len();
        let before = self.open.iter().rev().find(|n| n.len > 0).map(|n| n.first + n.len - 1);
        let pos = before.map_or(0, |b| self.pos[b] + 1);
        let root = before.map_or(first as u32, |b| self.root[b]);
        self.tokens.extend_from_slice(tokens);
        self.pos.extend((0..tokens.len() as u32).map(|i| pos + i));
        self.root.extend(tokens.iter().map(|_| root));
        // The end is known once the node closes.
        self.end.extend(tokens.iter().map(|_| 0));
        let node = Node { first, len: tokens.len(), before };
        self.open.push(node);
        node
    }

    /// Closes the innermost open node, whose subtree ends here.
    pub(crate) fn close(&mut self) {
        if let Some(node) = self.open.pop() {
            let end = self.len() as u32;
            self.end[node.first..node.first + node.len].fill(end);
        }
    }

    /// Adds a child that has no children.
    pub(crate) fn leaf(&mut self, tokens: &[u32]) -> Node {
        let node = self.open(tokens);
        self.close();
        node
    }

    /// For each row, how many tokens the longest path of its tree has.
    pub(crate) fn longest(&self) -> Vec<u32> {
        let mut longest = vec![0; self.len()];
        for (root, pos) in self.root.iter().zip(&self.pos) {
            longest[*root as usize] = longest[*root as usize].max(pos + 1);
        }
        self.root.iter().map(|r| longest[*r as usize]).collect()
    }

    /// The row before each row on its path, [`NO_ROW`] where the path begins.
    pub(crate) fn parents(&self) -> Vec<u32> {
        // What was last seen at each position: rows between a row and its parent lie in the parent's subtree, further
        // along.
        let mut last: Vec<u32> = Vec::new();
        let mut parents = Vec::with_capacity(self.len());
        for (row, pos) in self.pos.iter().enumerate() {
            let pos = *pos as usize;
            parents.push(pos.checked_sub(1).map_or(NO_ROW, |before| last[before]));
            last.truncate(pos);
            last.push(row as u32);
        }
        parents
    }

    /// Whether row `i` sees row `j`, which lies at most `window` positions before it.
    pub(crate) fn visible(&self, i: usize, j: usize, window: u32) -> bool {
        j <= i && i < self.end[j] as usize && self.pos[i] - self.pos[j] < window
    }
}

/// Cuts records, given by their rows and taken in order, into passes of at most `most` rows; a longer record is a pass
/// of its own. Returns the records of each pass.
pub(crate) fn packs(sizes: &[usize], most: usize) -> Vec<Range<usize>> {
    let mut passes: Vec<Range<usize>> = Vec::new();
    let mut rows = 0;
    for (i, size) in sizes.iter().enumerate() {
        match passes.last_mut().filter(|_| rows + size <= most) {
            Some(last) => last.end = i + 1,
            None => {
                passes.push(i..i + 1);
                rows = 0;
            }
        }
        rows += size;
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_forest_by_hand() {
        let mut f = Forest::new();
        let prompt = f.open(&[1, 2]);
        let a = f.leaf(&[3, 4]);
        let b = f.open(&[5]);
        let c = f.leaf(&[6]);
        f.close();
        f.close();
        let other = f.leaf(&[7, 8]);
        assert_eq!(f.tokens, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(f.pos, [0, 1, 2, 3, 2, 3, 0, 1]);
        assert_eq!(f.end, [6, 6, 4, 4, 6, 6, 8, 8]);
        assert_eq!(f.root, [0, 0, 0, 0, 0, 0, 6, 6]);
        assert_eq!(f.longest(), [4, 4, 4, 4, 4, 4, 2, 2]);
        assert_eq!(f.parents(), [NO_ROW, 0, 1, 2, 1, 4, NO_ROW, 6]);
        assert_eq!(
            [prompt.before, a.before, b.before, c.before, other.before],
            [None, Some(1), Some(1), Some(4), None]
        );
        let sees = |i: usize| (0..8).filter(|j| f.visible(i, *j, u32::MAX)).collect::<Vec<_>>();
        assert_eq!(sees(3), [0, 1, 2, 3]);
        assert_eq!(sees(5), [0, 1, 4, 5]);
        assert_eq!(sees(7), [6, 7]);
    }

    #[test]
    fn an_empty_node_passes_its_parent_on() {
        let mut f = Forest::new();
        f.open(&[1]);
        f.open(&[]);
        let child = f.leaf(&[2]);
        f.close();
        f.close();
        assert_eq!((child.before, f.pos[1]), (Some(0), 1));
    }

    #[test]
    fn passes_are_as_full_as_they_may_be() {
        assert_eq!(packs(&[3, 4, 3, 2, 9, 1, 1], 8), [0..2, 2..4, 4..5, 5..7]);
        assert_eq!(packs(&[0, 8, 0, 1], 8), [0..3, 3..4]);
        assert_eq!(packs(&[20, 20], 8), [0..1, 1..2]);
        assert!(packs(&[], 8).is_empty());
    }
}
