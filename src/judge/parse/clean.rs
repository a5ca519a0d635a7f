//! A verdict in plain letters: what typography, markup and escapes add is taken off, and each byte remembers its place.

use std::ops::Range;

/// Most bytes of a tag of markup with its attributes.
const TAG: usize = 120;

/// A text whose bytes know where they stood in the verdict.
#[derive(Debug, Default)]
pub(super) struct Clean {
    /// The text; its lines end with `\n`.
    pub text: String,
    /// Where each byte of the text stood.
    at: Vec<usize>,
}

impl Clean {
    /// The verdict with its characters unified and its markup taken off. Tags named after `label` become a
    /// line that begins with that label.
    pub(super) fn new(verdict: &str, label: &str) -> Self {
        let mut clean = Self::default();
        let mut skip = 0;
        for (at, c) in verdict.char_indices() {
            if at < skip {
                continue;
            }
            let rest = &verdict[at..];
            // What no tag has begun to strike through ends a sequence.
            let end = rest.starts_with("</s>") && !verdict[..at].contains("<s>");
            if let Some((text, length)) = escaped(rest).or_else(|| tag(rest, label).filter(|_| !end)) {
                clean.push_str(&text, at);
                skip = at + length;
            } else if let Some(c) = plain(c) {
                clean.push(c, at);
            }
        }
        clean
    }

    fn push(&mut self, c: char, at: usize) {
        self.text.push(c);
        self.at.resize(self.text.len(), at);
    }

    fn push_str(&mut self, text: &str, at: usize) {
        self.text.push_str(text);
        self.at.resize(self.text.len(), at);
    }

    /// Where the byte stood in the verdict; the end of the text stands behind its last byte.
    pub(super) fn origin(&self, byte: usize) -> usize {
        self.at.get(byte).copied().unwrap_or_else(|| self.at.last().map_or(0, |at| at + 1))
    }

    /// The text without these parts, which are in order; each leaves the end of a line behind.
    pub(super) fn without(&self, parts: &[Range<usize>]) -> Self {
        let mut kept = Self::default();
        let mut from = 0;
        for part in parts {
            kept.take(self, from..part.start);
            kept.push('\n', self.origin(part.start));
            from = part.end;
        }
        kept.take(self, from..self.text.len());
        kept
    }

    /// A part of the text.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let mut part = Self::default();
        part.take(self, range);
        part
    }

    fn take(&mut self, other: &Self, range: Range<usize>) {
        self.text.push_str(&other.text[range.clone()]);
        self.at.extend_from_slice(&other.at[range]);
    }
}

/// What an escape at the beginning of `rest` stands for, and its length: a line's end or a quotation mark as JSON
/// writes them inside a text, a sign of HTML.
fn escaped(rest: &str) -> Option<(String, usize)> {
    let entities = [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\"")];
    if let Some((name, text)) = entities.iter().find(|(name, _)| rest.starts_with(name)) {
        return Some(((*text).into(), name.len()));
    }
    let after = rest.strip_prefix("\\n")?;
    // LaTeX has commands that begin with an n, all of them in small letters.
    (!after.starts_with(|c: char| c.is_ascii_lowercase())).then(|| ("\n".into(), 2))
}

/// What the tag at the beginning of `rest` becomes, and its length; `None` where no tag of markup begins.
fn tag(rest: &str, label: &str) -> Option<(String, usize)> {
    let inner = rest.strip_prefix('<')?;
    let closes = inner.starts_with('/');
    let inner = inner.strip_prefix('/').unwrap_or(inner);
    let letters = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').unwrap_or(inner.len());
    if letters > 30 {
        return None;
    }
    let name = inner[..letters].to_ascii_lowercase();
    let end = rest.bytes().take(TAG).position(|b| b == b'>')? + 1;
    let attributes = inner[letters..].starts_with([' ', '>', '/']);
    if !attributes || rest[1..end].contains(['<', '\n']) {
        return None;
    }
    let own = name.ends_with(label);
    let text = match name.as_str() {
        _ if own && closes => "\n".into(),
        _ if own => format!("\n{}: ", name.replace(['_', '-'], " ")),
        "td" | "th" => "|".into(),
        "br" | "p" | "div" | "li" | "ul" | "ol" | "tr" | "table" | "tbody" | "thead" | "hr" | "pre" => "\n".into(),
        "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => "\n".into(),
        "answer" | "verdict" | "judgment" | "judgement" | "evaluation" | "output" | "result" | "final" => "\n".into(),
        "justification" | "explanation" | "feedback" | "rationale" | "review" => "\n".into(),
        "b" | "strong" | "i" | "em" | "u" | "s" | "span" | "code" | "mark" | "font" | "small" | "big" | "center" => {
            String::new()
        }
        _ => return None,
    };
    Some((text, end))
}

/// The character that stands for this one and its look-alikes; `None` for those that are not seen.
fn plain(c: char) -> Option<char> {
    let n = u32::from(c);
    let digit = |zero: u32| char::from_digit(n - zero, 10);
    Some(match c {
        '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => return None,
        '\u{feff}' | '\u{fe00}'..='\u{fe0f}' | '\u{20e3}' | '\u{ad}' => return None,
        _ if c.is_whitespace() || c == '\u{2800}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(n - 0xfee0)?,
        '\u{1d7ce}'..='\u{1d7ff}' => char::from_digit((n - 0x1d7ce) % 10, 10)?,
        '\u{1d400}'..='\u{1d6a3}' => {
            let letter = ((n - 0x1d400) % 52) as u8;
            char::from(if letter < 26 { b'A' + letter } else { b'a' + letter - 26 })
        }
        '①'..='⑨' => char::from_digit(n - 0x245f, 10)?,
        '⓪' => '0',
        '\u{660}'..='\u{669}' => digit(0x660)?,
        '\u{6f0}'..='\u{6f9}' => digit(0x6f0)?,
        '\u{966}'..='\u{96f}' => digit(0x966)?,
        '\u{9e6}'..='\u{9ef}' => digit(0x9e6)?,
        '\u{e50}'..='\u{e59}' => digit(0xe50)?,
        '。' | '｡' => '.',
        '、' => ',',
        '︰' | '﹕' | 'ː' | '∶' | '꞉' => ':',
        '“' | '”' | '„' | '‟' | '«' | '»' | '″' | '‹' | '›' => '"',
        '‘' | '’' | '‚' | '‛' | '′' => '\'',
        '【' | '「' | '『' | '〔' | '《' | '〈' | '⟨' | '⟦' => '[',
        '】' | '」' | '』' | '〕' | '》' | '〉' | '⟩' | '⟧' => ']',
        '‐' | '‑' | '−' | '﹣' | '⁻' => '-',
        '‒' | '–' | '—' | '―' | '⸺' => '–',
        '≈' | '∼' | '≃' | '≅' | '〜' | '≒' => '~',
        '⁄' | '∕' => '/',
        '⇒' | '⟶' | '⟹' | '➔' | '➜' | '➝' | '➞' | '➡' | '⮕' | '▶' | '►' => '→',
        '⩽' | '≤' | '≥' | '⩾' | '≦' | '≧' => '≥',
        _ => c,
    })
}
