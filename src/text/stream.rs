//! Decodes token by token. A byte-level token may end inside a character, and some decoders treat the first token of a
//! text differently; so a short window of ids is decoded again each time, and only whole characters are handed out.

use super::Text;
use crate::Result;

/// With so many ids pending, their bytes cannot be the start of a character; they are not UTF-8.
const MAX_PENDING: usize = 8;

/// Turns ids into text as they come. [`Text::stream`] makes one.
pub struct StreamDecoder<'a> {
    text: &'a Text,
    /// Ids of the piece that was handed out last, then those that were not handed out yet.
    window: Vec<u32>,
    /// How many ids of the window have been handed out.
    done: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(text: &'a Text) -> Self {
        Self { text, window: Vec::new(), done: 0 }
    }

    /// Takes the next id and returns the text that has become complete, which is often empty.
    ///
    /// # Errors
    /// As [`Text::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let piece = self.pending()?;
        if piece.is_empty() || (piece.ends_with('\u{fffd}') && self.window.len() - self.done < MAX_PENDING) {
            return Ok(String::new());
        }
        self.window.drain(..self.done);
        self.done = self.window.len();
        Ok(piece)
    }

    /// Returns the rest, whether it is complete or not.
    ///
    /// # Errors
    /// As [`Text::decode`].
    pub fn finish(mut self) -> Result<String> {
        let piece = self.pending();
        self.window.clear();
        piece
    }

    fn pending(&self) -> Result<String> {
        let before = self.text.decode(&self.window[..self.done])?;
        let all = self.text.decode(&self.window)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::text::tests::byte_level;
    use serde_json::json;

    #[test]
    fn only_whole_characters_come_out() {
        let text = byte_level(json!({}));
        let sample = "aß世🦀 end";
        let mut stream = text.stream();
        let mut pieces = Vec::new();
        for id in text.encode(sample).unwrap() {
            pieces.push(stream.push(id).unwrap());
        }
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), sample);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() >= 8, "streamed, not held back: {pieces:?}");
    }

    #[test]
    fn broken_bytes_are_not_held_back_for_ever() {
        let text = byte_level(json!({}));
        let continuation = text.encode("ß").unwrap()[1];
        let mut stream = text.stream();
        let out: String = (0..20).map(|_| stream.push(continuation).unwrap()).collect();
        assert!(out.contains('\u{fffd}'));
    }
}
