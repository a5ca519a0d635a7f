//! The world's vocabulary (ids are ASCII bytes) and its three templates.

use super::score::{MAX_RESPONSE, Marks};
use super::tasks::Task;
use crate::judge::Language;
use crate::train::sft::Example;
use crate::{Error, Result};

/// Filler, never trained.
pub const PAD: u32 = 0;
/// First token of every sequence.
pub const BOS: u32 = 1;
/// Ends an answer.
pub const EOS: u32 = 2;
/// The newline, which ends an answer too.
pub const NEWLINE: u32 = 10;

/// Header of a list of new tasks.
pub const LIST_HEADER: &str = "New tasks\n";

/// Ids of ASCII text.
///
/// # Errors
/// A character that is not ASCII.
pub fn encode(text: &str) -> Result<Vec<u32>> {
    text.chars()
        .map(|c| match c.is_ascii() {
            true => Ok(u32::from(c)),
            false => Err(Error::Input(format!("{c:?} in {text:?} is not ASCII, and the small world knows no more"))),
        })
        .collect()
}

/// Text of ids; inverse of [`encode`], one character an id. An id outside the vocabulary becomes U+FFFD.
pub fn decode(ids: &[u32]) -> String {
    ids.iter().map(|&id| if id < 128 { char::from(id as u8) } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn sequence(text: &str) -> Result<Vec<u32>> {
    let mut ids = vec![BOS];
    ids.extend(encode(text)?);
    Ok(ids)
}

fn answer(text: &str) -> Result<Vec<u32>> {
    let mut ids = encode(text)?;
    ids.push(EOS);
    Ok(ids)
}

/// Context in which the model answers question `x`.
///
/// # Errors
/// Text that is not ASCII.
pub fn question(x: &str) -> Result<Vec<u32>> {
    sequence(&format!("Q: {x}\nA: "))
}

/// Context in which the model judges answer `y` to question `x`.
///
/// # Errors
/// Text that is not ASCII.
pub fn judge(x: &str, y: &str) -> Result<Vec<u32>> {
    sequence(&judge_text(x, y))
}

/// The judge's prompt as text, without BOS.
pub fn judge_text(x: &str, y: &str) -> String {
    format!("Judge\nQ: {x}\nA: {y}\nPoints: ")
}

/// The world's text as the loop sees it.
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

/// Context in which the model goes on with a list of tasks after those of `shots`.
///
/// # Errors
/// Text that is not ASCII.
pub fn list<S: AsRef<str>>(shots: &[S]) -> Result<Vec<u32>> {
    let mut text = LIST_HEADER.to_owned();
    for shot in shots {
        text += shot.as_ref();
        text.push('\n');
    }
    sequence(&text)
}

/// What the policy learns: question and response `y`; the end is left out where `y` was cut.
///
/// # Errors
/// Text that is not ASCII.
pub fn ift_example(x: &str, y: &str) -> Result<Example> {
    Ok(Example { prompt: question(x)?, completion: completion(y)? })
}

/// Ids of a response with its end, or without one when it did not stop within [`MAX_RESPONSE`] characters.
///
/// # Errors
/// Text that is not ASCII.
pub fn completion(y: &str) -> Result<Vec<u32>> {
    if y.chars().count() < MAX_RESPONSE { answer(y) } else { encode(y) }
}

/// What the judge learns: the marks and the score of response `y`.
///
/// # Errors
/// Text that is not ASCII.
pub fn eft_example(x: &str, y: &str, marks: Marks) -> Result<Example> {
    Ok(Example { prompt: judge(x, y)?, completion: answer(&format!("{marks} Score: {}", marks.score()))? })
}

/// What the maker of new tasks learns: a list of tasks.
///
/// # Errors
/// Text that is not ASCII.
pub fn list_example(tasks: &[Task]) -> Result<Example> {
    let lines: Vec<&str> = tasks.iter().map(|t| t.prompt.as_str()).collect();
    Ok(Example { prompt: list::<&str>(&[])?, completion: answer(&lines.join("\n"))? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::marks;

    #[test]
    fn templates_to_the_letter() {
        assert_eq!(decode(&question("upper: cab").unwrap()), "\u{1}Q: upper: cab\nA: ");
        let e = eft_example("reverse: abcd", "dcb", marks("dcba", "dcb")).unwrap();
        assert_eq!(decode(&e.prompt), "\u{1}Judge\nQ: reverse: abcd\nA: dcb\nPoints: ");
        assert_eq!(decode(&e.completion), "EC-H- Score: 3\u{2}");
        let tasks: Vec<Task> = ["upper: cab", "next: hij"].iter().map(|p| Task::parse(p).unwrap()).collect();
        let l = list_example(&tasks).unwrap();
        assert_eq!(decode(&l.prompt) + &decode(&l.completion), "\u{1}New tasks\nupper: cab\nnext: hij\u{2}");
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
