//! Whether a text is JSON as Python's reader takes it: NaN and Infinity are numbers, numbers have no largest, and half
//! a surrogate pair may stand alone.

/// Python's reader gives up on deeper nesting.
const DEPTH: usize = 990;

/// Whether `text` is one JSON value.
pub(super) fn is_json(text: &str) -> bool {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    reader.space();
    reader.value(0).is_some() && {
        reader.space();
        reader.at == reader.text.len()
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Goes on if the text goes on so.
    fn take(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' if depth >= DEPTH => None,
            b'{' => self.list(b'}', &mut |reader| {
                reader.string()?;
                reader.space();
                reader.take(":")?;
                reader.space();
                reader.value(depth + 1)
            }),
            b'[' => self.list(b']', &mut |reader| reader.value(depth + 1)),
            b't' => self.take("true"),
            b'f' => self.take("false"),
            b'n' => self.take("null"),
            b'N' => self.take("NaN"),
            b'I' => self.take("Infinity"),
            _ => {
                self.take("-").unwrap_or_default();
                if self.take("Infinity").is_some() { Some(()) } else { self.number() }
            }
        }
    }

    /// Entries with commas between them, from the opening bracket to the closing one.
    fn list(&mut self, end: u8, entry: &mut dyn FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.space();
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            entry(self)?;
            self.space();
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => self.space(),
                _ => return (next == end).then_some(()),
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        self.take("\"")?;
        loop {
            let c = self.peek()?;
            self.at += 1;
            match c {
                b'"' => return Some(()),
                b'\\' => {
                    let escaped = self.peek()?;
                    self.at += 1;
                    match escaped {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let digits = self.text.get(self.at..self.at + 4)?;
                            self.at += 4;
                            digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                        }
                        _ => return None,
                    }
                }
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - from
    }

    /// A number without its sign. A fraction or an exponent without digits is left over, which the caller sees.
    fn number(&mut self) -> Option<()> {
        if self.take("0").is_none() && self.digits() == 0 {
            return None;
        }
        for begins in [&[b'.'][..], b"eE"] {
            let from = self.at;
            if self.peek().is_some_and(|c| begins.contains(&c)) {
                self.at += 1;
                if begins.len() > 1 && matches!(self.peek(), Some(b'+' | b'-')) {
                    self.at += 1;
                }
                if self.digits() == 0 {
                    self.at = from;
                    return Some(());
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn texts_that_are_json_and_texts_that_are_not_quite() {
        for text in [
            "{}",
            " [1, -2.5e+3, 0]\n",
            r#"{"a": {"b": [true, null, "c\u00e9\n"]}}"#,
            "NaN",
            "-Infinity",
            "1e999",
            r#""\ud800""#,
            r#"{"a": 1, "a": 2}"#,
            "7",
        ] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "",
            "{",
            "[1,]",
            "{'a': 1}",
            "01",
            "1.",
            ".5",
            "+1",
            "[1 2]",
            "{\"a\" 1}",
            "{\"a\": 1} x",
            "\"a\nb\"",
            r#""\x""#,
            r#""\u12""#,
            "True",
            "[1}",
            "-",
            "\u{feff}{}",
        ] {
            assert!(!is_json(text), "{text}");
        }
        assert!(is_json(&("[".repeat(900) + &"]".repeat(900))) && !is_json(&"[".repeat(100_000)));
    }
}
