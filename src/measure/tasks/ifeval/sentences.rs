//! Where English sentences end, nearly as the Punkt model that the reference counts by (Kiss and Strunk, 2006): its
//! rules, with short lists of our own in place of what it learned from newspapers.

use super::python::is_space;
use std::ops::Range;

/// Words that end with a dot though their sentence goes on.
const ABBREVIATIONS: &str = "adm ala ariz aug ave bros calif chg cie co col colo conn corp cos ct dec dr feb fla fri \
    ft ga gen ill inc jan jr kan ky lt ltd maj messrs mg mich minn mr mrs ms nev nov oct ok okla ore pa ph.d prof rep \
    reps sen sep sept sr st tenn tues va vs vt wed yr sw t.j \
    w.va wash wis a.m p.m u.s u.k u.n d.c n.y n.j n.c s.c l.a b.f b.v c.v a.d \
    a.c a.h m.j f.j g.k j.r j.p j.k j.c j.b l.f r.j r.k s.a s.s a.a e.l e.m e.f r.t m.b.a u.s.a";
/// Words that mostly begin a sentence where they follow an abbreviation and are capital.
const BEGINNERS: &str = "according although among both but despite even he however i if in indeed instead it many \
    meanwhile moreover most nevertheless nonetheless nor separately similarly since so some the there these they this \
    though thus under when while yet";
/// More such words.
const MORE_BEGINNERS: &str = "being does her here hers him into please such them through us very were whether which \
    within without your yes";
/// Words that are no names, but are capital in titles too.
const COMMON: &str = "a an and are as at be because been before by can could did do each every few for from had has \
    have his how is its just let like make maybe me much my never no not now of on once one only or other our out \
    over perhaps she should than that their then those to too until up was we what where who whose why will with \
    would you well oh";
/// What ends a word, beside white space.
const CLOSING: &str = "?!)\";}]*:@'({[";
/// What begins no word.
const OPENING: &str = "(\"`{[:;&#*@)}]-,";

fn listed(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|entry| entry == word)
}

fn is_abbreviation(word: &str) -> bool {
    let mut letters = word.chars();
    let one = letters.next().is_some_and(|c| c.is_ascii_lowercase()) && letters.next().is_none();
    // Single letters are initials, save those that are also words.
    one && !"abijoquxyz".contains(word) || listed(ABBREVIATIONS, word)
}

/// A sign that may end a sentence, and what follows it.
#[derive(Clone)]
struct End {
    at: usize,
    /// Up to where what follows is looked at: one closing sign, or the next word with the space before it.
    seen: usize,
    /// Where the next word begins, if space lies before it.
    next: Option<usize>,
}

fn ends(text: &str) -> Vec<End> {
    let mut out = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| matches!(c, '.' | '?' | '!')) {
        let rest = &text[at + c.len_utf8()..];
        let from = text.len() - rest.len();
        let Some(follows) = rest.chars().next() else { continue };
        if CLOSING.contains(follows) {
            out.push(End { at, seen: from + follows.len_utf8(), next: None });
        } else if is_space(follows) {
            let word = rest.trim_start_matches(is_space);
            let next = text.len() - word.len();
            let length = word.find(is_space).unwrap_or(word.len());
            if length > 0 {
                out.push(End { at, seen: next + length, next: Some(next) });
            }
        }
    }
    out
}

/// Where the sentences of a text are.
fn places(text: &str) -> Vec<Range<usize>> {
    let mut cuts: Vec<(End, usize)> = Vec::new();
    // Several signs in one word are looked at once, at the last one.
    let (mut word, mut last): (Range<usize>, Option<End>) = (0..0, None);
    for end in ends(text) {
        let blank = text[word.end..end.at].rfind(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
        let start = match blank {
            Some(at) if at > 0 => word.end + at + 1,
            _ => word.start,
        };
        if let Some(before) = last.take().filter(|_| word.end <= start) {
            cuts.push((before, word.start));
        }
        (word, last) = (start..end.at, Some(end));
    }
    cuts.extend(last.map(|end| (end, word.start)));
    let mut out = Vec::new();
    let mut start = 0;
    for (end, word) in cuts {
        if breaks(&text[word..end.seen]) {
            out.push(start..end.at + 1);
            start = end.next.unwrap_or(end.at + 1);
        }
    }
    out.push(start..text.trim_end_matches(is_space).len().max(start));
    out
}

/// The sentences of a text. A quotation mark or bracket that closes one belongs to it.
pub(super) fn split(text: &str) -> Vec<&str> {
    let places = places(text);
    let mut out = Vec::new();
    let mut moved = 0;
    for (i, place) in places.iter().enumerate() {
        let place = place.start + moved..place.end.max(place.start + moved);
        moved = 0;
        let closing = places.get(i + 1).and_then(|next| {
            let text = &text[next.clone()];
            let signs = text.len() - text.trim_start_matches(['"', '\'', ')', ']', '}']).len();
            let rest = &text[signs..];
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            let ends = signs > 0 && (blank > 0 || rest.is_empty() || rest.starts_with("--"));
            ends.then_some((next.start + signs, signs + blank))
        });
        match closing {
            Some((end, length)) => {
                out.push(&text[place.start..end]);
                moved = length;
            }
            None => out.push(&text[place]),
        }
    }
    out.retain(|sentence| !sentence.is_empty());
    out
}

/// A token of the words around an end.
struct Token<'a> {
    text: &'a str,
    breaks: bool,
}

/// Whether a sentence ends within these words, before the last token.
fn breaks(words: &str) -> bool {
    let mut tokens: Vec<Token> = words.split('\n').flat_map(cut).map(|text| Token { text, breaks: false }).collect();
    for i in 0..tokens.len() {
        let [this, next] = [tokens.get(i), tokens.get(i + 1)].map(|token| token.map(|token| token.text));
        tokens[i].breaks = ends_sentence(this.unwrap_or_default(), next);
    }
    tokens.pop();
    tokens.iter().any(|token| token.breaks)
}

fn ends_sentence(token: &str, next: Option<&str>) -> bool {
    if matches!(token, "?" | "!") {
        return true;
    }
    let Some(bare) = token.strip_suffix('.') else { return false };
    let ellipsis = token.len() > 1 && token.bytes().all(|b| b == b'.');
    if !ellipsis && bare.ends_with('.') {
        return false;
    }
    let lower = bare.to_lowercase();
    let abbreviation = !ellipsis && lower.split('-').next_back().is_some_and(is_abbreviation);
    let open = ellipsis || abbreviation;
    let Some(next) = next else { return !open };
    let starts = Start::of(next);
    let mut letters = bare.chars();
    let initial = letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none();
    if open && !initial {
        return starts == Start::Sentence;
    }
    if is_number(bare) {
        return starts != Start::Nothing;
    }
    if initial {
        return !abbreviation && matches!(starts, Start::Sentence | Start::Either);
    }
    true
}

fn is_number(word: &str) -> bool {
    let rest = word.strip_prefix('-').unwrap_or(word);
    let rest = rest.strip_prefix(['.', ',']).unwrap_or(rest);
    rest.starts_with(|c: char| c.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '-'))
}

/// What the look of a word says of its place.
#[derive(PartialEq)]
enum Start {
    /// It begins a sentence.
    Sentence,
    /// It begins none.
    Nothing,
    /// A capital word that may be a name.
    Name,
    /// A sign, a number, or a word that says nothing.
    Either,
}

impl Start {
    fn of(word: &str) -> Self {
        let Some(first) = word.chars().next() else { return Self::Either };
        if matches!(word, ";" | ":" | "," | "." | "!" | "?") || first.is_lowercase() {
            return Self::Nothing;
        }
        if !first.is_uppercase() {
            return Self::Either;
        }
        let word = word.to_lowercase();
        let word = word.strip_suffix('.').unwrap_or(&word);
        match word {
            _ if listed(BEGINNERS, word) || listed(MORE_BEGINNERS, word) => Self::Sentence,
            _ if listed(COMMON, word) => Self::Either,
            _ => Self::Name,
        }
    }
}

/// The tokens of a line: words, with the dots that end them, and single signs.
fn cut(line: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = line.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let length = match run(rest) {
            0 if OPENING.contains(first) => first.len_utf8(),
            0 => word_length(rest),
            length => length,
        };
        out.push(&rest[..length]);
        rest = rest[length..].trim_start_matches(is_space);
    }
    out
}

/// How long a run of dashes or dots, the latter perhaps with spaces between them, is at the beginning; 0 for none.
fn run(text: &str) -> usize {
    for sign in ['-', '.'] {
        let length = text.len() - text.trim_start_matches(sign).len();
        if length > 1 {
            return length;
        }
    }
    let mut length = 0;
    while text[length..].starts_with('.') && text[length + 1..].starts_with(is_space) {
        length += 1 + text[length + 1..].chars().next().map_or(0, char::len_utf8);
    }
    let dots = text[..length].matches('.').count();
    if dots >= 2 && text[length..].starts_with('.') { length + 1 } else { 0 }
}

/// How long the word at the beginning is, of at least one letter.
fn word_length(text: &str) -> usize {
    let closes = |rest: &str| rest.starts_with(|c: char| is_space(c) || CLOSING.contains(c)) || run(rest) > 0;
    let mut places = text.char_indices().map(|(at, _)| at).skip(1);
    let end = places.find(|&at| {
        let rest = &text[at..];
        closes(rest) || rest.strip_prefix(',').is_some_and(|rest| rest.is_empty() || closes(rest))
    });
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn sentences_end_where_the_reference_ends_them() {
        // Counts by NLTK 3.10's Punkt with its English model.
        for (text, count) in [
            ("", 0),
            ("One", 1),
            ("One. Two! Three?", 3),
            ("Mr. Smith met Dr. Jones at 3.5 p.m. on Jan. 5th.", 1),
            ("He said \"Stop!\" and left. \"Why?\" I asked.", 4),
            ("1. Apples\n2. Pears\n3. Plums", 4),
            ("Wait... The end. Wait... really", 3),
            ("See example.com for more. Bye", 2),
            ("(It is. Really.) Yes.", 3),
            ("No end of line\n\nAnother line", 1),
        ] {
            assert_eq!(split(text).len(), count, "{text:?}: {:?}", split(text));
        }
    }
}
