//! Patterns of tokenizer.json in the dialect in which Python's `tokenizers` compiles them (Oniguruma), in that of the
//! regular expressions here: `^` and `$` match at the ends of every line, joiners are no word characters, and a few
//! escapes have no name here.

use serde_json::Value;

/// What `\w` means (UTS 18, annex C, without join controls).
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";

/// Translates every pattern of a step; returns whether one has changed.
pub(super) fn translate(step: &mut Value) -> bool {
    match step {
        Value::Object(fields) => {
            let mut changed = false;
            for (key, value) in fields.iter_mut() {
                changed |= match value {
                    Value::String(pattern) if key == "Regex" => {
                        let translated = pattern_of(pattern);
                        let other = translated != *pattern;
                        *pattern = translated;
                        other
                    }
                    value => translate(value),
                };
            }
            changed
        }
        Value::Array(steps) => steps.iter_mut().map(translate).filter(|changed| *changed).count() > 0,
        _ => false,
    }
}

fn pattern_of(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut signs, mut depth) = (pattern.chars().peekable(), 0usize);
    while let Some(sign) = signs.next() {
        match (sign, depth) {
            ('\\', _) => match signs.next() {
                Some('w') => out.push_str(&format!("[{WORD}]")),
                Some('W') => out.push_str(&format!("[^{WORD}]")),
                Some('R') if depth == 0 => out.push_str(r"(?>\r\n|[\n-\r\x{85}\x{2028}\x{2029}])"),
                Some('N') if depth == 0 => out.push_str(r"[^\n]"),
                Some('O') if depth == 0 => out.push_str("(?s:.)"),
                Some('Z') if depth == 0 => out.push_str(r"(?=\n?\z)"),
                Some(class @ ('p' | 'P')) => {
                    let denied = signs.clone().take(2).eq("{^".chars());
                    let other = if class == 'p' { 'P' } else { 'p' };
                    out.extend(['\\', if denied { other } else { class }]);
                    if denied {
                        out.extend(signs.next());
                        signs.next();
                    }
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            ('[', _) => {
                depth += 1;
                out.push('[');
                // A sign that would mean something else further on stands for itself, or denies, here.
                out.extend(signs.next_if_eq(&'^'));
                out.extend(signs.next_if_eq(&']'));
            }
            (']', 1..) => {
                depth -= 1;
                out.push(']');
            }
            ('^' | '$', 0) => out.push_str(&format!("(?m:{sign})")),
            _ => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;
    use serde_json::json;

    #[test]
    fn patterns_mean_what_they_mean_in_python() {
        for (pattern, want) in [
            (r"\p{L}+|[^\s\p{L}]+\s*", r"\p{L}+|[^\s\p{L}]+\s*"),
            (r"^\^[$^]\$$", r"(?m:^)\^[$^]\$(?m:$)"),
            (r"[]^]\\w$", r"[]^]\\w(?m:$)"),
            (r"\W", r"[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]"),
            (r"\R\Z\N[R]", r"(?>\r\n|[\n-\r\x{85}\x{2028}\x{2029}])(?=\n?\z)[^\n][R]"),
            (r"\p{^L}[\P{^N}\p{L}]", r"\P{L}[\p{N}\p{L}]"),
            (r"[^\w\s]", r"[^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]\s]"),
        ] {
            assert_eq!(pattern_of(pattern), want);
        }
    }

    #[test]
    fn a_tokenizer_cuts_as_in_python() {
        let cut = |pattern: &str, text: &str| {
            let words = ["a", "b", "ab", "\u{200d}", "a\u{200d}", "\n", "a\nb", "[UNK]"];
            let vocab: serde_json::Map<String, Value> =
                words.iter().enumerate().map(|(i, word)| ((*word).to_owned(), i.into())).collect();
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            let tokenizer = json!({
                "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]},
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
            });
            Text::from_json(tokenizer.to_string(), json!({})).unwrap().encode(text).unwrap()
        };
        // As tokenizers 0.23 for Python has them.
        assert_eq!(cut(r"\w+|[^\w\s]+", "a\u{200d}b"), [0, 3, 1]);
        assert_eq!(cut("^.$", "a\nb"), [0, 5, 1]);
        assert_eq!(cut(r"\R", "a\nb"), [0, 5, 1]);
        assert_eq!(cut(r"\p{^L}", "a\nb"), [0, 5, 1]);
        assert_eq!(cut(r"\N", "a\nb"), [0, 5, 1]);
        assert_eq!(cut(r"\O\Z", "ab"), [0, 1]);
    }
}
