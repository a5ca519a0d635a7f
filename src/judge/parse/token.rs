//! The words, numbers and marks of a line of a verdict.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// Letters, with apostrophes between them.
    Word(&'a str),
    /// A number; `None` where dots or commas make it unreadable.
    Number(Option<f64>),
    /// A row of stars: how many count, and how many there are if empty ones are shown.
    Stars(f64, Option<usize>),
    /// Any other sign that means something.
    Mark(char),
}

/// A word, number or mark, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    /// Its first byte in the text.
    pub at: usize,
    /// Whether white space stands before it.
    pub spaced: bool,
}

impl Token<'_> {
    pub(super) fn is(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }

    pub(super) fn any(&self, marks: &str) -> bool {
        matches!(self.kind, Kind::Mark(c) if marks.contains(c))
    }

    pub(super) fn word(&self) -> Option<&str> {
        if let Kind::Word(word) = self.kind { Some(word) } else { None }
    }

    /// Whether it is one of these words, whatever its case.
    pub(super) fn one_of(&self, words: &str) -> bool {
        self.word().is_some_and(|word| among(words, word))
    }

    /// The number, or the number that a word stands for.
    pub(super) fn amount(&self) -> Option<f64> {
        const WORDS: [&str; 11] =
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
        match self.kind {
            Kind::Number(number) => Some(number.unwrap_or(f64::NAN)),
            Kind::Word("hundred" | "twenty") => Some(100.0),
            Kind::Word(word) => WORDS.iter().position(|w| w.eq_ignore_ascii_case(word)).map(|n| n as f64),
            _ => None,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.kind, Kind::Number(_))
    }
}

/// Whether a word is one of `words`, which blanks part, whatever its case.
pub(super) fn among(words: &str, word: &str) -> bool {
    words.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case(word))
}

/// Words that end with a dot though their sentence goes on.
const SHORT: &str = "approx ca vs max min no resp pt pts";
/// Signs that are only ornaments.
const ORNAMENTS: &str = "*_#$";
/// Signs outside ASCII that mean something.
const MEANT: &str = "–~→≥≠×÷±‰…∞✕✖";

/// The tokens of one line, which begins at byte `base` of the text. Ornaments and LaTeX's styles are left out.
pub(super) fn tokens(line: &str, base: usize) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = line;
    let mut spaced = true;
    while let Some(c) = rest.chars().next() {
        let at = base + line.len() - rest.len();
        let mut push = |kind, spaced: &mut bool| {
            tokens.push(Token { kind, at, spaced: *spaced });
            *spaced = false;
        };
        if c.is_whitespace() {
            spaced = true;
            rest = &rest[c.len_utf8()..];
        } else if let Some((number, length)) = number(rest) {
            push(Kind::Number(number), &mut spaced);
            rest = &rest[length..];
        } else if c.is_alphabetic() {
            let length = word(rest);
            push(Kind::Word(&rest[..length]), &mut spaced);
            let short = among(SHORT, &rest[..length]);
            let dotted = rest[..length].contains('.');
            rest = &rest[length..];
            let after = rest.strip_prefix('.').filter(|after| dotted || (short && after.starts_with([' ', ','])));
            rest = after.unwrap_or(rest);
        } else if let Some((stars, total, length)) = stars(rest) {
            push(Kind::Stars(stars, total), &mut spaced);
            rest = &rest[length..];
        } else if c == '\\' {
            rest = command(rest, at, &mut spaced, &mut tokens);
        } else if let Some(struck) = struck(rest) {
            rest = &rest[struck..];
        } else if rest.starts_with("--") && !rest.trim_start_matches('-').starts_with('>') {
            push(Kind::Mark('–'), &mut spaced);
            rest = rest.trim_start_matches('-');
        } else if let Some(arrow) = ["->", "=>", "-->", "==>"].iter().find(|a| rest.starts_with(**a)) {
            push(Kind::Mark('→'), &mut spaced);
            rest = &rest[arrow.len()..];
        } else {
            let keep = if c.is_ascii() { !ORNAMENTS.contains(c) } else { MEANT.contains(c) || c.is_numeric() };
            if keep {
                push(Kind::Mark(if c == '`' { '"' } else { c }), &mut spaced);
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    tokens
}

/// The length of the text that is struck through.
fn struck(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("~~")?;
    let near = inner.char_indices().map(|(at, _)| at).take(80).find(|at| inner[*at..].starts_with("~~"))?;
    Some(near + 4)
}

/// The length of the word at the beginning of the text.
fn word(text: &str) -> usize {
    for short in ["e.g", "i.e"] {
        let fits = text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(short));
        if fits && !text[3..].starts_with(char::is_alphabetic) {
            return 3;
        }
    }
    let mut end = 0;
    for (at, c) in text.char_indices() {
        let joins = c == '\'' && text[at + 1..].starts_with(char::is_alphabetic);
        if !c.is_alphabetic() && !joins {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

/// The number at the beginning of the text and its length. A comma is a decimal one before one or two digits.
fn number(text: &str) -> Option<(Option<f64>, usize)> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    let mut parts = 0;
    while digit(end) || (matches!(bytes.get(end), Some(b'.' | b',')) && digit(end + 1)) {
        parts += usize::from(!digit(end));
        end += 1;
    }
    let fraction = ["½", "¼", "¾"].iter().position(|f| text[end..].starts_with(f));
    if end == 0 && fraction.is_none() || bytes.first() == Some(&b',') {
        return None;
    }
    let whole = &text[..end];
    let decimals = whole.find(',').map_or(1, |comma| end - comma - 1);
    let mut value = match parts {
        _ if whole.is_empty() => Some(0.0),
        0 | 1 if decimals <= 2 => whole.replace(',', ".").parse().ok(),
        _ => None,
    };
    if let Some(i) = fraction {
        value = value.filter(|_| parts == 0).map(|v| v + [0.5, 0.25, 0.75][i]);
        end += 2;
    } else if let Some((part, length)) = behind_whole(&text[end..]).filter(|_| parts == 0) {
        value = value.map(|v| v + part);
        end += length;
    }
    Some((value, end))
}

/// The fraction behind a whole number, as in `3 1/2`, and its length with the blank before it.
fn behind_whole(text: &str) -> Option<(f64, usize)> {
    let (sign, value) =
        [(" 1/2", 0.5), (" 1/4", 0.25), (" 3/4", 0.75)].into_iter().find(|(f, _)| text.starts_with(f))?;
    let goes_on = text[sign.len()..].starts_with(|c: char| c.is_ascii_digit() || c == '/');
    (!goes_on).then_some((value, sign.len()))
}

/// The row of stars at the beginning of the text, with spaces between them or not, and its length.
fn stars(text: &str) -> Option<(f64, Option<usize>, usize)> {
    let (mut full, mut half, mut empty, mut end) = (0, 0.0, 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '★' | '⭐' | '🌟' | '✭' | '✮' => full += 1,
            '☆' | '✩' | '⚝' => empty += 1,
            '½' if full > 0 => half = 0.5,
            ' ' => continue,
            _ => break,
        }
        end = at + c.len_utf8();
    }
    let halves = usize::from(half > 0.0);
    (end > 0).then(|| (f64::from(full) + half, (empty > 0).then_some(full as usize + empty + halves), end))
}

/// Reads a command of LaTeX or an escaped sign and returns what follows it.
fn command<'a>(text: &'a str, at: usize, spaced: &mut bool, tokens: &mut Vec<Token<'a>>) -> &'a str {
    let after = &text[1..];
    let length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
    let (name, rest) = after.split_at(length);
    let mark = match name {
        "" => {
            // A bracket of mathematics is an ornament, an escaped sign is the sign.
            let bracket = after.starts_with(['(', ')', '[', ']', ',', ';', '!', ' ']);
            return if bracket { &after[1..] } else { after };
        }
        "frac" | "dfrac" | "tfrac" | "cfrac" => {
            let Some((over, under, rest)) = fraction(rest) else {
                tokens.push(Token { kind: Kind::Mark('^'), at, spaced: *spaced });
                return rest;
            };
            for (kind, spaced) in [(over, *spaced), (Kind::Mark('/'), false), (under, false)] {
                tokens.push(Token { kind, at, spaced });
            }
            *spaced = false;
            return rest;
        }
        "approx" | "sim" | "simeq" | "cong" => '~',
        "to" | "rightarrow" | "Rightarrow" | "implies" | "longrightarrow" => '→',
        "geq" | "ge" | "leq" | "le" | "gt" | "lt" => '≥',
        "times" | "cdot" => '×',
        "pm" => '±',
        "div" => '÷',
        "star" | "bigstar" => '★',
        _ if name.eq_ignore_ascii_case("score") || name.eq_ignore_ascii_case("better") => return after,
        _ => return rest,
    };
    tokens.push(Token { kind: Kind::Mark(mark), at, spaced: *spaced });
    *spaced = false;
    rest
}

/// The two numbers of LaTeX's fraction, and what follows it.
fn fraction(text: &str) -> Option<(Kind<'static>, Kind<'static>, &str)> {
    let part = |text: &'_ str| -> Option<(Kind<'static>, usize)> {
        let inner = text.trim_start().strip_prefix('{')?;
        let inner = inner.trim_start();
        let (value, length) = number(inner)?;
        let rest = inner[length..].trim_start().strip_prefix('}')?;
        Some((Kind::Number(value), text.len() - rest.len()))
    };
    let (over, length) = part(text)?;
    let text = &text[length..];
    let (under, length) = part(text)?;
    Some((over, under, &text[length..]))
}
