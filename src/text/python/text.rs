//! The methods of Python's `str`.

use minijinja::value::{Value, ValueKind};

use super::arguments::{bind, place, text, text_or_none, truth, whole, whole_or_none};
use super::format::braces;
use super::values::{Result, namespace, refused, shown, tuple, type_name};
use super::{Room, letters};

/// Calls a method of a text; none where there is no such method.
pub(super) fn call(own: &str, name: &str, args: &[Value], room: &Room) -> Result<Option<Value>> {
    if let Some(answer) = letters::test(own, name) {
        bind(name, args, [], 0)?;
        return Ok(Some(answer.into()));
    }
    let none = || bind(name, args, [], 0);
    let value: Value = match name {
        "upper" => none().map(|_| own.to_uppercase())?.into(),
        "lower" => none().map(|_| own.to_lowercase())?.into(),
        "casefold" => none().map(|_| own.chars().map(letters::folded).collect::<String>())?.into(),
        "swapcase" => none().map(|_| letters::swapped(own))?.into(),
        "title" => none().map(|_| letters::titled(own))?.into(),
        "capitalize" => none().map(|_| letters::capitalized(own))?.into(),
        "strip" | "lstrip" | "rstrip" => stripped(own, name, args)?.into(),
        "center" | "ljust" | "rjust" => padded(own, name, args, room)?.into(),
        "zfill" => {
            let [width] = bind(name, args, ["width"], 1)?;
            let fill = missing(own, whole(name, &width)?.unwrap_or(0), 1, room)?;
            let (sign, digits) = own.split_at(usize::from(own.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(fill)).into()
        }
        "expandtabs" => {
            let [size] = bind(name, args, ["tabsize"], 0)?;
            expanded(own, whole(name, &size)?.unwrap_or(8), room)?.into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => searched(own, name, args)?,
        "startswith" | "endswith" => ends(own, name, args)?.into(),
        "split" | "rsplit" => {
            let [separator, most] = bind(name, args, ["sep", "maxsplit"], 0)?;
            let most = whole(name, &most)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            split(own, text_or_none(name, &separator)?, most, name == "rsplit")?
        }
        "splitlines" => {
            let [keep] = bind(name, args, ["keepends"], 0)?;
            lines(own, truth(&keep)).into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let [separator] = bind(name, args, ["sep"], 1)?;
            let separator = text(name, &separator)?.unwrap_or_default();
            if separator.is_empty() {
                return Err(refused(format!("{name}: the separator is empty")));
            }
            let found = if name == "partition" { own.split_once(separator) } else { own.rsplit_once(separator) };
            tuple(match found {
                Some((before, behind)) => [before, separator, behind].map(Value::from),
                None if name == "partition" => [own, "", ""].map(Value::from),
                None => ["", "", own].map(Value::from),
            })
        }
        "removeprefix" | "removesuffix" => {
            let [part] = bind(name, args, ["part"], 1)?;
            let part = text(name, &part)?.unwrap_or_default();
            let rest = if name == "removeprefix" { own.strip_prefix(part) } else { own.strip_suffix(part) };
            rest.unwrap_or(own).into()
        }
        "replace" => {
            let [old, new, count] = bind(name, args, ["old", "new", "count"], 2)?;
            let (old, new) = (text(name, &old)?.unwrap_or_default(), text(name, &new)?.unwrap_or_default());
            replaced(own, old, new, whole(name, &count)?.unwrap_or(-1), room)?.into()
        }
        "join" => {
            let [list] = bind(name, args, ["iterable"], 1)?;
            joined(own, &list.unwrap_or_default(), room)?.into()
        }
        "format" => braces(own, args, room)?.into(),
        "format_map" => {
            let [map] = bind(name, args, ["map"], 1)?;
            let map = map.unwrap_or_default();
            let named =
                map.try_iter()?.map(|key| Ok((shown(&key), map.get_item(&key)?))).collect::<Result<Vec<_>>>()?;
            braces(own, &[minijinja::value::Kwargs::from_iter(named).into()], room)?.into()
        }
        "encode" => return Err(refused("templates have no bytes, so encode is not supported")),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// How many signs a text lacks of `width`; they are counted as bytes of `each`.
fn missing(own: &str, width: i64, each: usize, room: &Room) -> Result<usize> {
    let fill = usize::try_from(width).unwrap_or(0).saturating_sub(own.chars().count());
    room(fill.saturating_mul(each))?;
    Ok(fill)
}

fn padded(own: &str, name: &str, args: &[Value], room: &Room) -> Result<String> {
    let [width, fill] = bind(name, args, ["width", "fillchar"], 1)?;
    let width = whole(name, &width)?.unwrap_or(0);
    let sign = text(name, &fill)?.unwrap_or(" ");
    if sign.chars().count() != 1 {
        return Err(refused(format!("{name} fills with one sign, not with {sign:?}")));
    }
    let fill = missing(own, width, sign.len(), room)?;
    let left = match name {
        "ljust" => 0,
        "rjust" => fill,
        // Where the signs do not come out even, Python looks at whether the width is odd.
        _ => fill / 2 + (fill & usize::try_from(width).unwrap_or(0) & 1),
    };
    Ok(sign.repeat(left) + own + &sign.repeat(fill - left))
}

fn stripped<'a>(own: &'a str, name: &str, args: &[Value]) -> Result<&'a str> {
    let [signs] = bind(name, args, ["chars"], 0)?;
    let signs: Option<Vec<char>> = text_or_none(name, &signs)?.map(|signs| signs.chars().collect());
    let cut = |c: char| signs.as_ref().map_or_else(|| letters::blank(c), |signs| signs.contains(&c));
    Ok(match name {
        "strip" => own.trim_matches(cut),
        "lstrip" => own.trim_start_matches(cut),
        _ => own.trim_end_matches(cut),
    })
}

fn expanded(own: &str, size: i64, room: &Room) -> Result<String> {
    let size = usize::try_from(size).unwrap_or(0);
    room(own.matches('\t').count().saturating_mul(size))?;
    let (mut out, mut column) = (String::new(), 0);
    for sign in own.chars() {
        match sign {
            '\t' if size > 0 => {
                let blanks = size - column % size;
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\t' => {}
            _ => {
                column = if matches!(sign, '\n' | '\r') { 0 } else { column + 1 };
                out.push(sign);
            }
        }
    }
    Ok(out)
}

/// The part of a text between two bounds that count signs, and where it begins; none where the bounds cross.
fn within(own: &str, from: Option<i64>, to: Option<i64>) -> Option<(usize, &str)> {
    if from.is_none() && to.is_none() {
        return Some((0, own));
    }
    let n = own.chars().count();
    let (from, to) = (place(from, n, 0), place(to, n, n).min(n));
    let at = |i: usize| own.char_indices().nth(i).map_or(own.len(), |(at, _)| at);
    (from <= to).then(|| (from, &own[at(from)..at(to)]))
}

fn searched(own: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [part, from, to] = bind(name, args, ["sub", "start", "end"], 1)?;
    let part = text(name, &part)?.unwrap_or_default();
    let inner = within(own, whole_or_none(name, &from)?, whole_or_none(name, &to)?);
    if name == "count" {
        return Ok(match inner {
            None => 0,
            Some((_, inner)) if part.is_empty() => inner.chars().count() + 1,
            Some((_, inner)) => inner.matches(part).count(),
        }
        .into());
    }
    let found = inner.and_then(|(start, inner)| {
        let at = if name.starts_with('r') { inner.rfind(part) } else { inner.find(part) }?;
        Some(start + inner[..at].chars().count())
    });
    match found {
        Some(at) => Ok(at.into()),
        None if name.ends_with("find") => Ok((-1).into()),
        None => Err(refused(format!("{name}: the text does not hold {part:?}"))),
    }
}

fn ends(own: &str, name: &str, args: &[Value]) -> Result<bool> {
    let [part, from, to] = bind(name, args, ["part", "start", "end"], 1)?;
    let part = part.unwrap_or_default();
    let Some((_, inner)) = within(own, whole_or_none(name, &from)?, whole_or_none(name, &to)?) else {
        return Ok(false);
    };
    let one = |part: &Value| match part.as_str() {
        Some(part) if name == "startswith" => Ok(inner.starts_with(part)),
        Some(part) => Ok(inner.ends_with(part)),
        None => Err(refused(format!("{name} expects a text or a tuple of texts, not {}", type_name(part)))),
    };
    match type_name(&part) {
        "tuple" => {
            for part in part.try_iter()? {
                if one(&part)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => one(&part),
    }
}

fn split(own: &str, separator: Option<&str>, most: usize, from_end: bool) -> Result<Value> {
    let most = most.saturating_add(1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(refused("split: the separator is empty")),
        Some(separator) if from_end => own.rsplitn(most, separator).collect(),
        Some(separator) => own.splitn(most, separator).collect(),
        None => words(own, most, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words of a text, up to `most`, the last of which holds the rest; from the end they come in reverse.
fn words(own: &str, most: usize, from_end: bool) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), own);
    loop {
        rest = if from_end { rest.trim_end_matches(letters::blank) } else { rest.trim_start_matches(letters::blank) };
        if rest.is_empty() {
            return parts;
        }
        let at = if from_end { rest.rfind(letters::blank) } else { rest.find(letters::blank) };
        let Some(at) = at.filter(|_| parts.len() + 1 < most) else {
            parts.push(rest);
            return parts;
        };
        let behind = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        parts.push(if from_end { &rest[behind..] } else { &rest[..at] });
        rest = if from_end { &rest[..at] } else { &rest[at..] };
    }
}

/// The lines of a text, which end at more signs than `\n`.
pub(super) fn lines(own: &str, keep: bool) -> Vec<&str> {
    const ENDS: &[char] =
        &['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut lines, mut rest) = (Vec::new(), own);
    while let Some(at) = rest.find(ENDS) {
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

pub(super) fn replaced(own: &str, old: &str, new: &str, count: i64, room: &Room) -> Result<String> {
    let places = if old.is_empty() { own.chars().count() + 1 } else { own.matches(old).count() };
    let places = usize::try_from(count).map_or(places, |count| places.min(count));
    room(places.saturating_mul(new.len()).saturating_add(own.len()))?;
    Ok(own.replacen(old, new, places))
}

/// `separator.join(list)`, whose entries must be texts.
fn joined(separator: &str, list: &Value, room: &Room) -> Result<String> {
    if matches!(list.kind(), ValueKind::None | ValueKind::Number | ValueKind::Bool) || namespace(list) {
        return Err(refused(format!("join expects a list, not a value of type {}", type_name(list))));
    }
    let parts: Vec<Value> = list.try_iter()?.collect();
    room(parts.len().saturating_mul(separator.len()))?;
    let wrong = |part: &Value| refused(format!("join expects texts, not a value of type {}", type_name(part)));
    let texts = parts.iter().map(|part| part.as_str().ok_or_else(|| wrong(part))).collect::<Result<Vec<_>>>()?;
    Ok(texts.join(separator))
}
