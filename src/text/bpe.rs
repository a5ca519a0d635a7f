//! Byte-pair encoding from a vocabulary and merges that are already known by their ids. It gives the ids of the model
//! of the same name in `tokenizers`, which is built from texts alone: slowly, and in much memory.

use super::vocabulary::Vocabulary;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use tokenizers::models::bpe::{BpeTrainer, MergeMap};
use tokenizers::{Model, Result, Token};

/// Words that are remembered with their ids.
const REMEMBERED: usize = 10_000;
/// The longest word that is remembered, in bytes.
const LONGEST: usize = 256;

/// Two tokens that are joined, and what they become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) joined: u32,
}

/// A byte-pair model.
#[derive(Default)]
pub(crate) struct Bpe {
    vocabulary: Vocabulary,
    /// Rank and joined token by the ids of the two.
    merges: MergeMap,
    /// What stands for a character that is no token.
    pub(crate) unknown: Option<String>,
    /// Whether unknown characters that follow one another become one token.
    pub(crate) fuses_unknown: bool,
    /// Whether a character that is no token becomes the tokens `<0x00>` to `<0xFF>` of its bytes.
    pub(crate) falls_to_bytes: bool,
    /// Whether a word that is a token becomes it, though no merges lead there.
    pub(crate) ignores_merges: bool,
    remembered: RwLock<HashMap<String, Vec<Piece>>>,
}

/// A token of a word, with its length in bytes.
#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    length: usize,
}

impl Bpe {
    /// A model of these tokens and merges, the first merge before the others.
    pub(crate) fn new(vocabulary: Vocabulary, merges: impl ExactSizeIterator<Item = Merge>) -> Self {
        let mut map = MergeMap::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(merges) {
            map.insert((merge.left, merge.right), (rank, merge.joined));
        }
        Self { vocabulary, merges: map, ..Self::default() }
    }

    /// The characters of a word as tokens.
    fn characters(&self, word: &str) -> Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(word.len());
        let mut unknown: Option<Piece> = None;
        for c in word.chars() {
            let (mut bytes, length) = ([0; 4], c.len_utf8());
            let c = &*c.encode_utf8(&mut bytes);
            if let Some(id) = self.vocabulary.id(c) {
                pieces.extend(unknown.take());
                pieces.push(Piece { id, length });
                continue;
            }
            if self.falls_to_bytes {
                let byte = |b: u8| self.vocabulary.id(&format!("<{b:#04X}>"));
                if let Some(ids) = c.bytes().map(byte).collect::<Option<Vec<u32>>>() {
                    // What is unknown stays behind the bytes, as in `tokenizers`.
                    pieces.extend(ids.into_iter().map(|id| Piece { id, length: 1 }));
                    continue;
                }
            }
            let Some(name) = &self.unknown else { continue };
            let id = self.vocabulary.id(name).ok_or_else(|| format!("the unknown token {name:?} is no token"))?;
            match &mut unknown {
                Some(piece) if self.fuses_unknown => piece.length += length,
                _ => pieces.extend(unknown.replace(Piece { id, length })),
            }
        }
        pieces.extend(unknown);
        Ok(pieces)
    }

    /// Joins neighbours as long as a merge is known for two of them: the one of the lowest rank, and of equal ones the
    /// leftmost.
    fn join(&self, pieces: &mut Vec<Piece>) {
        const NONE: usize = usize::MAX;
        let count = pieces.len();
        let mut before: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut after: Vec<usize> = (0..count).map(|at| if at + 1 < count { at + 1 } else { NONE }).collect();
        let merge = |a: Piece, b: Piece| self.merges.get(&(a.id, b.id)).copied();
        let mut waiting: BinaryHeap<Reverse<(u32, usize, u32)>> = pieces
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| merge(pair[0], pair[1]).map(|(rank, joined)| Reverse((rank, at, joined))))
            .collect();
        while let Some(Reverse((_, at, joined))) = waiting.pop() {
            let next = after[at];
            // One of the two may have been joined with another since.
            let is_gone = pieces[at].length == 0 || next == NONE;
            if is_gone || merge(pieces[at], pieces[next]).is_none_or(|(_, now)| now != joined) {
                continue;
            }
            pieces[at] = Piece { id: joined, length: pieces[at].length + pieces[next].length };
            pieces[next].length = 0;
            after[at] = after[next];
            if after[at] != NONE {
                before[after[at]] = at;
                if let Some((rank, joined)) = merge(pieces[at], pieces[after[at]]) {
                    waiting.push(Reverse((rank, at, joined)));
                }
            }
            if before[at] != NONE
                && let Some((rank, joined)) = merge(pieces[before[at]], pieces[at])
            {
                waiting.push(Reverse((rank, before[at], joined)));
            }
        }
        pieces.retain(|piece| piece.length != 0);
    }

    fn tokens(&self, pieces: &[Piece]) -> Vec<Token> {
        let mut at = 0;
        let token = |piece: &Piece| {
            let start = at;
            at += piece.length;
            Token::new(piece.id, self.vocabulary.token(piece.id).unwrap_or_default().to_owned(), (start, at))
        };
        pieces.iter().map(token).collect()
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if word.is_empty() {
            return Ok(Vec::new());
        }
        if self.ignores_merges
            && let Some(id) = self.vocabulary.id(word)
        {
            return Ok(self.tokens(&[Piece { id, length: word.len() }]));
        }
        // Nobody panics while the lock is held, and what lies behind it is whole at any time.
        let remembered = self.remembered.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(pieces) = remembered.get(word) {
            return Ok(self.tokens(pieces));
        }
        drop(remembered);
        let mut pieces = self.characters(word)?;
        self.join(&mut pieces);
        let tokens = self.tokens(&pieces);
        if word.len() < LONGEST {
            let mut remembered = self.remembered.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if remembered.len() < REMEMBERED {
                remembered.insert(word.to_owned(), pieces);
            }
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary.token(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.vocabulary.iter().map(|(token, id)| (token.to_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("only tokenizer.json is written".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

impl Serialize for Bpe {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut ranked: Vec<(u32, u32, u32)> =
            self.merges.iter().map(|(pair, (rank, _))| (*rank, pair.0, pair.1)).collect();
        ranked.sort_unstable();
        let token = |id: u32| self.vocabulary.token(id).unwrap_or_default();
        let merges: Vec<(&str, &str)> = ranked.iter().map(|(_, left, right)| (token(*left), token(*right))).collect();
        let mut model = serializer.serialize_struct("BPE", 10)?;
        model.serialize_field("type", "BPE")?;
        model.serialize_field("dropout", &None::<f32>)?;
        model.serialize_field("unk_token", &self.unknown)?;
        model.serialize_field("continuing_subword_prefix", &None::<&str>)?;
        model.serialize_field("end_of_word_suffix", &None::<&str>)?;
        model.serialize_field("fuse_unk", &self.fuses_unknown)?;
        model.serialize_field("byte_fallback", &self.falls_to_bytes)?;
        model.serialize_field("ignore_merges", &self.ignores_merges)?;
        model.serialize_field("vocab", &Tokens(&self.vocabulary))?;
        model.serialize_field("merges", &merges)?;
        model.end()
    }
}

/// A vocabulary as tokenizer.json has it.
struct Tokens<'a>(&'a Vocabulary);

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::BPE;

    /// Numbers that look random.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 1u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    /// Tokens and merges that arise by joining some of them at random, with the bytes of `é` and not all of `世`.
    fn made(next: &mut impl FnMut(usize) -> usize) -> (Vec<String>, Vec<Merge>) {
        let mut tokens: Vec<String> =
            ["a", "b", "c", "ß", "<unk>", "<0xC3>", "<0xA9>", "<0xE4>"].map(String::from).to_vec();
        let mut merges = Vec::new();
        for _ in 0..60 {
            let parts: Vec<usize> = (0..tokens.len()).filter(|at| !tokens[*at].starts_with("<u")).collect();
            let (left, right) = (parts[next(parts.len())], parts[next(parts.len())]);
            let joined = format!("{}{}", tokens[left], tokens[right]);
            let at = tokens.iter().position(|token| *token == joined).unwrap_or(tokens.len());
            if at == tokens.len() {
                tokens.push(joined);
            }
            merges.push(Merge { left: left as u32, right: right as u32, joined: at as u32 });
        }
        (tokens, merges)
    }

    /// Words of every kind, under every flag, are cut as `tokenizers` cuts them.
    #[test]
    fn words_become_the_tokens_of_the_original() {
        let mut next = numbers();
        let mut unlike = 0;
        for round in 0..40 {
            let (tokens, merges) = made(&mut next);
            let flag = |bit: usize| round >> bit & 1 == 1;
            let mut ours =
                Bpe::new(Vocabulary::new(tokens.iter().map(|token| Some(token.as_str()))), merges.clone().into_iter());
            ours.unknown = (!flag(0)).then(|| "<unk>".into());
            (ours.fuses_unknown, ours.falls_to_bytes, ours.ignores_merges) = (flag(1), flag(2), flag(3));
            let name = |id: u32| tokens[id as usize].clone();
            let vocabulary: tokenizers::models::bpe::Vocab = tokens.iter().cloned().zip(0..).collect();
            let merges = merges.iter().map(|merge| (name(merge.left), name(merge.right))).collect();
            let mut theirs = BPE::builder().vocab_and_merges(vocabulary, merges);
            theirs = theirs.fuse_unk(flag(1)).byte_fallback(flag(2)).ignore_merges(flag(3));
            if let Some(unknown) = &ours.unknown {
                theirs = theirs.unk_token(unknown.clone());
            }
            let theirs = theirs.build().unwrap();
            for _ in 0..100 {
                let signs = ["a", "a", "b", "b", "c", "ß", "é", "世", "z"];
                let word: String = (0..next(12)).map(|_| signs[next(signs.len())]).collect();
                let want = theirs.tokenize(&word).unwrap();
                unlike += usize::from(want.len() < word.chars().count());
                // The second time it is remembered.
                for _ in 0..2 {
                    assert_eq!(ours.tokenize(&word).unwrap(), want, "{word:?} in round {round}");
                }
            }
            let written = serde_json::to_value(&ours).unwrap();
            assert_eq!(written, serde_json::to_value(&theirs).unwrap());
            assert_eq!(ours.get_vocab(), theirs.get_vocab());
        }
        assert!(unlike > 1000, "{unlike} words had tokens to join");
    }

    #[test]
    fn an_unknown_token_that_is_none_is_named() {
        let mut model = Bpe::new(Vocabulary::new([Some("a")].into_iter()), [].into_iter());
        assert_eq!(model.tokenize("ab").unwrap().len(), 1);
        model.unknown = Some("<unk>".into());
        assert!(model.tokenize("b").unwrap_err().to_string().contains("<unk>"));
    }
}
