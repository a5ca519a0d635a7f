//! The world's vocabulary, whose ids are ASCII bytes, and its three templates.

use super::score::MAX_RESPONSE;
use crate::text::Language;
use crate::{Error, Result};

/// The id of filler, which is never trained.
pub const PAD: u32 = 0;
/// The id of the first token of every sequence.
pub const BOS: u32 = 1;
/// The id that ends an answer.
pub const EOS: u32 = 2;
/// The id of the newline, which ends an answer too.
pub const NEWLINE: u32 = 10;

/// Header of a list of new tasks.
pub const LIST_HEADER: &str = "New tasks\n";

/// The token ids of ASCII text.
///
/// # Errors
/// A character is not ASCII.
pub fn encode(text: &str) -> Result<Vec<u32>> {
    text.chars()
        .map(|c| match c.is_ascii() {
            true => Ok(u32::from(c)),
            false => Err(Error::Input(format!("{c:?} in {text:?} is not ASCII, and the small world knows no more"))),
        })
        .collect()
}

/// The text of ids, one character for each; the inverse of [`encode`]. An id outside the vocabulary becomes U+FFFD.
pub fn decode(ids: &[u32]) -> String {
    ids.iter().map(|&id| if id < 128 { char::from(id as u8) } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn sequence(text: &str) -> Result<Vec<u32>> {
    let mut ids = vec![BOS];
    ids.extend(encode(text)?);
    Ok(ids)
}

pub(crate) fn answer(text: &str) -> Result<Vec<u32>> {
    let mut ids = encode(text)?;
    ids.push(EOS);
    Ok(ids)
}

/// The token ids of the context in which the model answers question `x`.
///
/// # Errors
/// The text is not ASCII.
pub fn question(x: &str) -> Result<Vec<u32>> {
    sequence(&format!("Q: {x}\nA: "))
}

/// The token ids of the context in which the model judges answer `y` to question `x`.
///
/// # Errors
/// The text is not ASCII.
pub fn judge(x: &str, y: &str) -> Result<Vec<u32>> {
    sequence(&judge_text(x, y))
}

/// The judge's prompt as text, without its first token.
pub fn judge_text(x: &str, y: &str) -> String {
    format!("Judge\nQ: {x}\nA: {y}\nPoints: ")
}

/// The world's tokenizer and templates, as the loop sees them.
pub struct WorldText;

impl Language for WorldText {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(decode(ids))
    }

    fn ask(&self, message: &str) -> Result<Vec<u32>> {
        question(message)
    }

    fn raw(&self, text: &str) -> Result<Vec<u32>> {
        sequence(text)
    }

    fn stop(&self) -> &[u32] {
        &[EOS, NEWLINE]
    }

    fn context(&self) -> usize {
        128
    }
}

/// The token ids of the context in which the model continues a list of tasks that begins with `shots`.
///
/// # Errors
/// The text is not ASCII.
pub fn list<S: AsRef<str>>(shots: &[S]) -> Result<Vec<u32>> {
    let mut text = LIST_HEADER.to_owned();
    for shot in shots {
        text += shot.as_ref();
        text.push('\n');
    }
    sequence(&text)
}

/// The token ids of a response, with its end unless it did not stop within [`MAX_RESPONSE`] characters.
///
/// # Errors
/// The text is not ASCII.
pub fn completion(y: &str) -> Result<Vec<u32>> {
    if y.chars().count() < MAX_RESPONSE { answer(y) } else { encode(y) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_to_the_letter() {
        assert_eq!(decode(&question("upper: cab").unwrap()), "\u{1}Q: upper: cab\nA: ");
        assert_eq!(decode(&list(&["upper: cab"]).unwrap()), "\u{1}New tasks\nupper: cab\n");
    }

    #[test]
    fn a_response_that_did_not_stop_has_no_end() {
        assert_eq!(completion("abc").unwrap().last(), Some(&EOS));
        assert_eq!(completion(&"b".repeat(16)).unwrap(), vec![u32::from(b'b'); 16]);
        assert_eq!(completion("").unwrap(), [EOS]);
    }

    #[test]
    fn every_id_reads_back() {
        let ids: Vec<u32> = (0..128).collect();
        assert_eq!(encode(&decode(&ids)).unwrap(), ids);
        assert!(encode("ä").unwrap_err().to_string().contains("ASCII"));
    }
}
