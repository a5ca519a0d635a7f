//! Tokens and their ids in two directions, in a few blocks of memory however many tokens there are.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// The id in a slot without a token.
const FREE: u32 = u32::MAX;

/// A place in the table: an id, with a part of its token's hash, by which most others are told apart without a look at
/// them.
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    id: u32,
}

/// The tokens of a vocabulary, numbered from 0.
#[derive(Clone, Default)]
pub(crate) struct Vocabulary {
    /// All tokens, one behind the other.
    text: String,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Ids by the hash of their tokens, each in the first slot from there that was free; a power of two of them.
    slots: Vec<Slot>,
    /// Whether the token in the row of an id is that id's own.
    own: Vec<bool>,
    /// Slots with a token.
    used: usize,
    /// Keyed at random, so that no file can be made whose tokens meet in few slots.
    hasher: RandomState,
}

impl Vocabulary {
    /// Tokens in the order of their ids; an id may have none. Of two tokens that are equal the last has the id.
    pub(crate) fn new<'a>(tokens: impl ExactSizeIterator<Item = Option<&'a str>> + Clone) -> Self {
        let count = tokens.len();
        let bytes = tokens.clone().map(|token| token.map_or(0, str::len)).sum();
        let slots = vec![Slot { hash: 0, id: FREE }; (count + count / 2 + 1).next_power_of_two()];
        let (text, ends) = (String::with_capacity(bytes), Vec::with_capacity(count));
        let mut new = Self { text, ends, slots, own: vec![false; count], used: 0, hasher: RandomState::new() };
        for (id, token) in tokens.enumerate() {
            new.text.push_str(token.unwrap_or_default());
            new.ends.push(new.text.len());
            let Some((token, id)) = token.zip(u32::try_from(id).ok().filter(|id| *id != FREE)) else { continue };
            let (at, hash) = new.slot(token);
            match new.slots[at].id {
                FREE => new.used += 1,
                other => new.own[other as usize] = false,
            }
            new.own[id as usize] = true;
            new.slots[at] = Slot { hash, id };
        }
        new
    }

    /// The slot of a token, or the free one that it would have, and the part of its hash. There is one, as there are
    /// more slots than tokens.
    fn slot(&self, token: &str) -> (usize, u32) {
        let mask = self.slots.len() - 1;
        let hash = self.hasher.hash_one(token);
        let (mut at, hash) = (hash as usize & mask, (hash >> 32) as u32);
        loop {
            let slot = self.slots[at];
            if slot.id == FREE || (slot.hash == hash && self.row(slot.id) == Some(token)) {
                return (at, hash);
            }
            at = (at + 1) & mask;
        }
    }

    /// What stands in the row of an id.
    fn row(&self, id: u32) -> Option<&str> {
        let id = id as usize;
        let start = if id == 0 { 0 } else { *self.ends.get(id - 1)? };
        self.text.get(start..*self.ends.get(id)?)
    }

    /// The id of a token.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        Some(self.slots[self.slot(token).0].id).filter(|id| *id != FREE)
    }

    /// The token of an id.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.row(id).filter(|_| self.own[id as usize])
    }

    /// How many tokens have an id.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Every token with its id, in the order of the ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..self.ends.len() as u32).filter_map(|id| Some((self.token(id)?, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_ids_find_each_other() {
        let vocabulary = Vocabulary::new([Some("a"), None, Some("ß世"), Some("a"), Some(""), Some("ab")].into_iter());
        assert_eq!(vocabulary.len(), 4);
        assert_eq!(vocabulary.iter().collect::<Vec<_>>(), [("ß世", 2), ("a", 3), ("", 4), ("ab", 5)]);
        let ids = ["a", "ß世", "", "ab", "b", "ß"].map(|token| vocabulary.id(token));
        assert_eq!(ids, [Some(3), Some(2), Some(4), Some(5), None, None]);
        let tokens = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|id| vocabulary.token(id));
        assert_eq!(tokens, [None, None, Some("ß世"), Some("a"), Some(""), Some("ab"), None, None]);
    }

    #[test]
    fn many_tokens_are_found() {
        let names: Vec<String> = (0..5000).map(|n| format!("t{n}")).collect();
        let vocabulary = Vocabulary::new(names.iter().map(|name| Some(name.as_str())));
        assert!((0..5000).all(|n| vocabulary.id(&names[n as usize]) == Some(n)));
        assert_eq!((Vocabulary::default().id("a"), Vocabulary::default().token(0)), (None, None));
    }
}
