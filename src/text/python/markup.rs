//! Filters that write text for web pages and addresses.

use minijinja::value::{Value, ValueKind};

use super::Room;
use super::arguments::{bind, truth};
use super::values::{Result, namespace, refused, shown, type_name};

/// A text for HTML, its signs with a meaning there replaced.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

/// `value | escape`.
pub(super) fn escape(args: &[Value], room: &Room) -> Result<Value> {
    let [value] = bind("escape", args, ["value"], 1)?;
    let value = value.unwrap_or_default();
    let text = shown(&value);
    room(text.len().saturating_mul(5))?;
    Ok(Value::from_safe_string(if value.is_safe() { text } else { escaped(&text) }))
}

/// `value | xmlattr(autospace=true)`: a dict as attributes of an element.
pub(super) fn attributes(args: &[Value], room: &Room) -> Result<Value> {
    let [value, space] = bind("xmlattr", args, ["d", "autospace"], 1)?;
    let value = value.unwrap_or_default();
    if value.kind() != ValueKind::Map || namespace(&value) {
        return Err(refused(format!("xmlattr expects a dict, not a value of type {}", type_name(&value))));
    }
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = key.as_str().ok_or_else(|| refused("xmlattr: the name of an attribute is no text"))?;
        if name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(refused(format!("xmlattr: {name:?} cannot be the name of an attribute")));
        }
        let text = shown(&item);
        room(out.len().saturating_add((name.len() + text.len()).saturating_mul(5)))?;
        let text = if item.is_safe() { text } else { escaped(&text) };
        out.push_str(&format!(" {}=\"{text}\"", escaped(name)));
    }
    let spaced = space.is_none() || truth(&space);
    Ok(Value::from_safe_string(if spaced { out } else { out.split_off(usize::from(!out.is_empty())) }))
}

/// A text within an address; in a query a blank becomes a plus, and a slash is no part of a path.
fn quoted(text: &str, query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `value | urlencode`: a text for a path, or a dict or pairs for a query.
pub(super) fn address(args: &[Value], room: &Room) -> Result<Value> {
    let [value] = bind("urlencode", args, ["value"], 1)?;
    let value = value.unwrap_or_default();
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map if !namespace(&value) => {
            value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect::<Result<_>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair = |pair: Value| match (super::values::entries("urlencode", &pair)?)[..] {
                [ref key, ref value] => Ok((key.clone(), value.clone())),
                _ => Err(refused("urlencode expects a text, a dict or pairs")),
            };
            value.try_iter()?.map(pair).collect::<Result<_>>()?
        }
        _ => {
            let text = shown(&value);
            room(text.len().saturating_mul(3))?;
            return Ok(quoted(&text, false).into());
        }
    };
    let mut parts = Vec::new();
    let mut total = 0usize;
    for (key, value) in &pairs {
        let (key, value) = (shown(key), shown(value));
        total = total.saturating_add((key.len() + value.len() + 2).saturating_mul(3));
        room(total)?;
        parts.push(format!("{}={}", quoted(&key, true), quoted(&value, true)));
    }
    Ok(parts.join("&").into())
}
