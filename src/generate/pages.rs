//! Who holds which page of the KV arena. A full page of a prompt is known by all tokens up to its end, so that all
//! sequences whose prompts are equal so far hold the same page. Pages that nobody holds stay known until their room is
//! needed.

use crate::kernels::arena::PAGE;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What a prompt's pages are known by: first the classes of its angles, then its tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PromptKey {
    words: Vec<u32>,
    /// How many words stand before the first token.
    head: usize,
}

impl PromptKey {
    pub(super) fn new(classes: &[u32], prompt: &[u32]) -> PromptKey {
        PromptKey { words: [classes, prompt].concat(), head: classes.len() }
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.words[self.head..]
    }

    /// How many of the prompt's pages others may share: its full ones, but for the page of its last token, whose logits
    /// each prompt has to compute.
    pub(super) fn shareable(&self) -> usize {
        self.tokens().len().saturating_sub(1) / PAGE
    }

    /// What page `page` is known by: all words up to its end.
    fn upto(&self, page: usize) -> &[u32] {
        &self.words[..self.head + (page + 1) * PAGE]
    }

    /// How many pages at the beginning are the same in both prompts and may be shared.
    pub(super) fn common(&self, other: &PromptKey) -> usize {
        let equal = self.words.iter().zip(&other.words).take_while(|(a, b)| a == b).count();
        (equal.saturating_sub(self.head) / PAGE).min(self.shareable()).min(other.shareable())
    }
}

/// The pages of one arena.
pub(super) struct Pages {
    /// Pages without content; the one to be used next is last.
    free: Vec<u32>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    /// Whether each page's keys and values are written.
    ready: Vec<bool>,
    /// The page that holds the end of each known beginning.
    known: HashMap<Vec<u32>, u32>,
    /// The beginning that each page is known by, if it is known.
    names: Vec<Option<Vec<u32>>>,
    /// Known pages that nobody holds, as (when the page was let go of, page): the longest unused one comes first.
    idle: BTreeSet<(u64, u32)>,
    since: Vec<u64>,
    clock: u64,
}

impl Pages {
    pub(super) fn new(count: usize) -> Pages {
        Pages {
            free: (0..count as u32).rev().collect(),
            holders: vec![0; count],
            ready: vec![false; count],
            known: HashMap::new(),
            names: vec![None; count],
            idle: BTreeSet::new(),
            since: vec![0; count],
            clock: 0,
        }
    }

    /// Known pages of the prompt's beginning, whether they are written or about to be.
    fn beginning(&self, key: &PromptKey) -> Vec<u32> {
        (0..key.shareable()).map_while(|p| self.known.get(key.upto(p)).copied()).collect()
    }

    /// How many pages of the prompt's beginning are written already, and how many known ones after them are about to
    /// be.
    pub(super) fn cached(&self, key: &PromptKey) -> (usize, usize) {
        let known = self.beginning(key);
        let ready = known.iter().take_while(|p| self.ready[**p as usize]).count();
        (ready, known.len() - ready)
    }

    pub(super) fn is_ready(&self, page: u32) -> bool {
        self.ready[page as usize]
    }

    /// Marks these pages' keys and values as written.
    pub(super) fn written(&mut self, pages: &[u32]) {
        for page in pages {
            self.ready[*page as usize] = true;
        }
    }

    /// Takes the `total` pages of a sequence that begins with the prompt, in the order of its positions; `None` if
    /// there are not enough of them.
    pub(super) fn hold(&mut self, key: &PromptKey, total: usize) -> Option<Vec<u32>> {
        let mut pages = self.beginning(key);
        let unheld = pages.iter().filter(|p| self.holders[**p as usize] == 0).count();
        if total.saturating_sub(pages.len()) > self.free.len() + self.idle.len() - unheld {
            return None;
        }
        for page in &pages {
            let at = *page as usize;
            self.holders[at] += 1;
            self.idle.remove(&(self.since[at], *page));
        }
        for p in pages.len()..total {
            let page = self.fresh()?;
            self.holders[page as usize] = 1;
            if p < key.shareable() {
                self.known.insert(key.upto(p).to_vec(), page);
                self.names[page as usize] = Some(key.upto(p).to_vec());
            }
            pages.push(page);
        }
        Some(pages)
    }

    /// A page without content: a free one, or else the one that has been unused for longest.
    fn fresh(&mut self) -> Option<u32> {
        if let Some(page) = self.free.pop() {
            return Some(page);
        }
        let (_, page) = self.idle.pop_first()?;
        if let Some(name) = self.names[page as usize].take() {
            self.known.remove(&name);
        }
        self.ready[page as usize] = false;
        Some(page)
    }

    /// Lets go of a sequence's pages.
    pub(super) fn release(&mut self, pages: &[u32]) {
        // A page is of no use without those before it, so the end of a beginning is the first to lose its content.
        for page in pages.iter().rev() {
            let at = *page as usize;
            self.holders[at] -= 1;
            if self.holders[at] > 0 {
                continue;
            }
            if self.names[at].is_some() {
                self.clock += 1;
                self.since[at] = self.clock;
                self.idle.insert((self.clock, *page));
            } else {
                self.ready[at] = false;
                self.free.push(*page);
            }
        }
    }
}

/// How many pages the sequences, each given as (prompt, pages in all), hold together.
pub(super) fn needed<'a>(sequences: impl Iterator<Item = (&'a PromptKey, usize)>) -> usize {
    let mut shared = HashSet::new();
    let mut own = 0;
    for (key, total) in sequences {
        shared.extend((0..key.shareable()).map(|p| key.upto(p)));
        own += total.saturating_sub(key.shareable());
    }
    shared.len() + own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tokens: impl Iterator<Item = u32>) -> PromptKey {
        PromptKey::new(&[7], &tokens.collect::<Vec<_>>())
    }

    #[test]
    fn a_beginning_is_held_by_all_who_begin_so() {
        let mut pages = Pages::new(9);
        let (a, b) = (key(0..80), key((0..64).chain(200..210)));
        assert_eq!((a.shareable(), a.common(&b), b.common(&a)), (2, 2, 2));
        let one = pages.hold(&a, 4).unwrap();
        assert_eq!((pages.cached(&b), one.len()), ((0, 2), 4));
        pages.written(&one[..2]);
        assert_eq!(pages.cached(&b), (2, 0));
        let two = pages.hold(&b, 4).unwrap();
        assert_eq!((&two[..2], needed([(&a, 4), (&b, 4)].into_iter())), (&one[..2], 6));
        assert!(one[2..].iter().all(|p| !two.contains(p)));
        // Three pages are left, so a third one that begins otherwise has no room until one of the two lets go.
        let other = key(500..580);
        assert_eq!(pages.hold(&other, 4), None);
        pages.release(&one);
        assert_eq!(pages.hold(&other, 4).unwrap().len(), 4);
        assert_eq!(pages.cached(&a), (2, 0));
    }

    #[test]
    fn what_nobody_holds_is_known_until_its_room_is_needed() {
        let mut pages = Pages::new(4);
        let a = key(0..70);
        let held = pages.hold(&a, 4).unwrap();
        pages.written(&held);
        pages.release(&held);
        assert_eq!(pages.cached(&a), (2, 0));
        // Room for three: the end of the old beginning goes first.
        let b = key(900..910);
        let own = pages.hold(&b, 3).unwrap();
        assert_eq!((own.len(), pages.cached(&a)), (3, (1, 0)));
        assert!(!own.contains(&held[0]));
        pages.release(&own);
        let again = pages.hold(&a, 3).unwrap();
        assert_eq!((again[0], pages.is_ready(again[0]), pages.is_ready(again[1])), (held[0], true, false));
        // Another angle is another beginning, and a prompt that ends with a page does not share that one.
        assert_eq!(pages.cached(&PromptKey::new(&[8], &(0..70).collect::<Vec<_>>())), (0, 0));
        assert_eq!((key(0..64).shareable(), key(0..65).shareable(), key(0..0).shareable()), (1, 2, 0));
    }
}
