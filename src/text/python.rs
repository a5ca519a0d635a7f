//! What chat templates take from Python: `json.dumps` and `strftime`.

use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{Error as JinjaError, ErrorKind};
use serde_json::Value;

/// Most blanks for each level of indented JSON.
const MAX_INDENT: usize = 64;
/// Most bytes of JSON that are indented.
const MAX_JSON: usize = 64 << 20;
/// Writes what Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes.
pub(super) fn to_json(value: Jinja, options: Kwargs) -> std::result::Result<Jinja, JinjaError> {
    let indent: Option<usize> = options.get("indent")?;
    if let Some(width) = indent.filter(|width| *width > MAX_INDENT) {
        let what = format!("tojson: an indent of {width}; up to {MAX_INDENT} are possible");
        return Err(JinjaError::new(ErrorKind::InvalidOperation, what));
    }
    let value = serde_json::to_value(&value)
        .map_err(|error| JinjaError::new(ErrorKind::BadSerialization, format!("tojson: {error}")))?;
    let mut out = String::new();
    write_json(&value, indent, 0, &mut out);
    Ok(Jinja::from(out))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            // A text beyond the sandbox's bounds is refused whatever follows, so nothing more is added to it.
            let blanks = if out.len() > MAX_JSON { 0 } else { width * depth };
            out.extend(std::iter::repeat_n(' ', blanks));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        Value::Object(entries) if !entries.is_empty() => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// Formats a time in seconds since 1970 (UTC). It knows the directives that templates use, and leaves others as they
/// are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, time) = (seconds / 86400, seconds % 86400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    let mut day = days;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (month_name, day_name) = (MONTHS[month], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        out.push_str(&match letters.next() {
            Some('Y') => year.to_string(),
            Some('m') => format!("{:02}", month + 1),
            Some('d') => format!("{:02}", day + 1),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('H') => format!("{:02}", time / 3600),
            Some('M') => format!("{:02}", time / 60 % 60),
            Some('S') => format!("{:02}", time % 60),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{other}"),
            None => "%".to_string(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // 29 February 2024 was a Thursday.
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S %% %q", 1_709_210_096), "29 Feb 2024, Thursday 12:34:56 % %q");
        assert_eq!(strftime("%Y-%m-%d %B", 0), "1970-01-01 January");
    }
}
