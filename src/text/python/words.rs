//! Filters that lay out text.

use minijinja::value::Value;

use super::arguments::{bind, truth, whole, whole_or_none};
use super::values::{Number, Result, number, refused, shown, type_name};
use super::{Room, letters, text};

/// The filter `title`: unlike the method, it begins a word behind blanks, dashes and opening brackets.
pub(super) fn title(text: &str) -> String {
    let (mut out, mut word) = (String::new(), String::new());
    for sign in text.chars() {
        if letters::blank(sign) || matches!(sign, '-' | '(' | '{' | '[' | '<') {
            out.push_str(&begun(&word));
            out.push(sign);
            word.clear();
        } else {
            word.push(sign);
        }
    }
    out + &begun(&word)
}

/// A word whose first sign is in upper case, even where a title has another one, and the others in lower case.
fn begun(word: &str) -> String {
    let rest = word.char_indices().nth(1).map_or("", |(at, _)| &word[at..]);
    word.chars().take(1).flat_map(char::to_uppercase).collect::<String>() + &rest.to_lowercase()
}

/// How many runs of letters, digits and underscores a text has.
pub(super) fn count(text: &str) -> usize {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
}

/// `value | indent(width=4, first=false, blank=false)`.
pub(super) fn indent(args: &[Value], room: &Room) -> Result<Value> {
    let [value, width, first, blank] = bind("indent", args, ["s", "width", "first", "blank"], 1)?;
    let value = value.unwrap_or_default();
    let own = match value.as_str() {
        Some(text) => text.to_owned() + "\n",
        None => return Err(refused("indent expects a text")),
    };
    let lines = text::lines(&own, false);
    let margin = match &width {
        Some(text) if text.as_str().is_some() => shown(text),
        Some(wrong) if number(wrong).is_none() => return Err(refused("indent: the width is a number or a text")),
        _ => {
            let width = usize::try_from(whole("indent", &width)?.unwrap_or(4)).unwrap_or(0);
            room(width.saturating_mul(lines.len()))?;
            " ".repeat(width)
        }
    };
    room(margin.len().saturating_mul(lines.len()).saturating_add(own.len()))?;
    let mut out = if truth(&first) { margin.clone() } else { String::new() };
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
            out.push_str(if truth(&blank) || !line.is_empty() { &margin } else { "" });
        }
        out.push_str(line);
    }
    Ok(out.into())
}

fn no_length() -> minijinja::Error {
    refused("truncate: the length is a whole number")
}

fn no_text(value: &Value) -> minijinja::Error {
    refused(format!("truncate expects a text, not a value of type {}", type_name(value)))
}

/// `value | truncate(length=255, killwords=false, end='...', leeway=5)`.
pub(super) fn truncate(args: &[Value]) -> Result<Value> {
    let names = ["s", "length", "killwords", "end", "leeway"];
    let [value, length, kill, end, leeway] = bind("truncate", args, names, 1)?;
    let given = value.unwrap_or_default();
    let end = end.map_or_else(|| "...".to_owned(), |end| shown(&end));
    // A length that is no whole number cuts nothing, but may allow for all.
    let length = match length.as_ref().and_then(number) {
        Some(Number::Real(x)) => Some(if x >= i64::MAX as f64 { i64::MAX } else { return Err(no_length()) }),
        _ => whole("truncate", &length)?,
    };
    let length = length.unwrap_or(255);
    let leeway = whole_or_none("truncate", &leeway)?.unwrap_or(5);
    let ends = end.chars().count() as i64;
    if length < ends || leeway < 0 {
        return Err(refused(format!("truncate: the length is at least {ends}, the leeway at least 0")));
    }
    let size = match given.as_str() {
        Some(text) => text.chars().count(),
        None if super::values::lengthless(&given) => return Err(no_text(&given)),
        None if given.is_undefined() => 0,
        None => given.len().ok_or_else(|| no_text(&given))?,
    };
    if size as i64 <= length.saturating_add(leeway) {
        return Ok(given);
    }
    let value = given.as_str().ok_or_else(|| no_text(&given))?;
    let cut: String = value.chars().take((length - ends) as usize).collect();
    let cut = match truth(&kill) {
        true => cut,
        false => cut.rsplit_once(' ').map_or(cut.clone(), |(words, _)| words.to_owned()),
    };
    Ok((cut + &end).into())
}
