//! Loads and stores in 64-bit words, for adapters that run on the CPU. Such an adapter (llvmpipe) makes of every load,
//! for each lane and each component, a test of the lane's mask, one of the bounds and a scalar load, so a `vec4f` costs
//! twice what the same bytes cost as a `vec2<u64>`. The texts say `vec4f`; here their buffers are declared in words of
//! 64 bits where the device has those.

use std::collections::HashMap;

/// What is widened: an element of a buffer, that element in 64-bit words, and the functions that read and write one.
const TYPES: [(&str, &str, &str, &str); 4] = [
    ("vec4f", "vec2<u64>", "wide_load4f", "wide_store4f"),
    ("vec4u", "vec2<u64>", "wide_load4u", "wide_store4u"),
    ("vec2f", "u64", "wide_load2f", "wide_store2f"),
    ("vec2u", "u64", "wide_load2u", "wide_store2u"),
];

const HELPERS: &str = include_str!("../../shaders/lib/wide.wgsl");

/// A text whose storage buffers of [`TYPES`] are read and written in 64-bit words. A buffer of whose elements a part is
/// assigned stays as it is.
pub(super) fn widen(text: &str) -> String {
    let alias = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix("alias ")?.strip_prefix(name)?.strip_prefix(" = "));
        line.and_then(|l| l.strip_suffix(';')).unwrap_or(name).to_owned()
    };
    let mut buffers = HashMap::new();
    let mut declared = String::with_capacity(text.len() + HELPERS.len());
    for line in text.lines() {
        let found = declaration(line).and_then(|(name, element)| {
            let of = TYPES.iter().find(|t| t.0 == alias(element))?;
            (!assigns_parts(text, name)).then_some((name, element, of))
        });
        match found {
            Some((name, element, of)) => {
                buffers.insert(name, (of.2, of.3));
                declared.push_str(&line.replace(&format!("array<{element}>"), &format!("array<{}>", of.1)));
            }
            None => declared.push_str(line),
        }
        declared.push('\n');
    }
    let directives = declared.lines().take_while(|l| l.starts_with("enable ")).map(|l| l.len() + 1).sum();
    let (directives, rest) = declared.split_at(directives);
    format!("{directives}{HELPERS}{}", accesses(rest, &buffers))
}

/// Name and element of a storage buffer's declaration, which is one line.
fn declaration(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("@group(0)")?.split_once("var<storage")?.1.split_once("> ")?.1;
    let (name, rest) = rest.split_once(": array<")?;
    // The comment behind it holds no `>;`.
    Some((name, rest.split_once(">;")?.0))
}

/// Whether a part of an element is assigned, as in `y[i].x = 1.0`.
fn assigns_parts(text: &str, name: &str) -> bool {
    let mut rest = text;
    while let Some((_, at)) = next_access(rest, |n| n == name) {
        let Some(end) = closing(&rest[at..]) else { return true };
        rest = &rest[at + end + 1..];
        let part: String = rest.chars().take_while(|c| *c == '.' || c.is_alphanumeric()).collect();
        if !part.is_empty() && assignment(&rest[part.len()..]).is_some() {
            return true;
        }
    }
    false
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The next `NAME[` of a name that is looked for, outside of comments: where the name and where what follows its
/// bracket begin.
fn next_access(text: &str, wanted: impl Fn(&str) -> bool) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with("//") {
            at += text[at..].find('\n')?;
        } else if is_name(c) {
            let end = text[at..].find(|c| !is_name(c)).map_or(text.len(), |n| at + n);
            let is_member = text[..at].ends_with('.');
            if text[end..].starts_with('[') && !is_member && wanted(&text[at..end]) {
                return Some((at, end + 1));
            }
            at = end;
        } else {
            at += c.len_utf8();
        }
    }
    None
}

/// Where the bracket closes that is open at the text's start.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '[' | '(' => depth += 1,
            ']' if depth == 0 => return Some(at),
            ']' | ')' => depth -= 1,
            _ => {}
        }
        None
    })
}

/// The operator of an assignment that the text begins with (`=`, `+=`, …, without the `=`), and the length of both.
fn assignment(text: &str) -> Option<(&str, usize)> {
    let trimmed = text.trim_start();
    let blank = text.len() - trimmed.len();
    let operator = trimmed.find('=').filter(|n| *n <= 1)?;
    let simple = trimmed[..operator].chars().all(|c| "+-*/".contains(c));
    let is_test = trimmed[operator..].starts_with("==");
    (simple && !is_test).then_some((&trimmed[..operator], blank + operator + 1))
}

/// The text with every access to the buffers, by name (what reads one, what writes one), in words.
fn accesses(text: &str, buffers: &HashMap<&str, (&str, &str)>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len() * 5 / 4), text);
    while let Some((from, at)) = next_access(rest, |name| buffers.contains_key(name)) {
        let name = &rest[from..at - 1];
        let (Some(end), Some((load, store))) = (closing(&rest[at..]), buffers.get(name)) else { break };
        out.push_str(&rest[..from]);
        let element = format!("{name}[{}]", accesses(&rest[at..at + end], buffers));
        rest = &rest[at + end + 1..];
        match (assignment(rest), rest.find(';')) {
            (Some((operator, length)), Some(stop)) => {
                let value = accesses(rest[length..stop].trim(), buffers);
                let value = if operator.is_empty() { value } else { format!("{load}({element}) {operator} ({value})") };
                out.push_str(&format!("{element} = {store}({value})"));
                rest = &rest[stop..];
            }
            _ => out.push_str(&format!("{load}({element})")),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_read_and_written_in_words() {
        let text = "alias Operand = vec2u;\n\
            @group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]\n\
            @group(0) @binding(2) var<storage, read> b: array<Operand>;        // [K, N]\n\
            @group(0) @binding(3) var<storage, read> at: array<u32>;           // [M]\n\
            @group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [M, N]\n\
            @group(0) @binding(5) var<storage, read_write> d: array<vec4f>;    // [M]\n\
            fn f(i: u32) { let ba = a[at[i] + 1u].x; c[i] += wide(b[a[i].x]) * p.a[0];\n\
            d[i].x = ba; c[at[0]] = d[i]; } // a[i]\n";
        let wide = widen(text);
        for line in [
            "var<storage, read> a: array<vec2<u64>>;",
            "var<storage, read> b: array<u64>;",
            "var<storage, read> at: array<u32>;",
            "var<storage, read_write> c: array<vec2<u64>>;",
            "var<storage, read_write> d: array<vec4f>;",
            "let ba = wide_load4f(a[at[i] + 1u]).x;",
            "c[i] = wide_store4f(wide_load4f(c[i]) + (wide(wide_load2u(b[wide_load4f(a[i]).x])) * p.a[0]));",
            "d[i].x = ba; c[at[0]] = wide_store4f(d[i]); } // a[i]",
        ] {
            assert!(wide.contains(line), "{line} is missing in\n{wide}");
        }
    }
}
