//! The kinds of instruction, each with its arguments, and whether a text follows one. What a kind asks is what its
//! checker in Google's reference implementation computes, not what its name promises.

use super::arguments::{Arguments, Relation};
use super::{json, language, python, sentences, tokens};
use fancy_regex::Regex;
use std::ops::Range;
use std::sync::LazyLock;

/// What one text must hold to, with its arguments.
pub(super) enum Check {
    NoComma,
    Highlights(u64),
    Words(Relation),
    Placeholders(u64),
    RepeatPrompt(String),
    Title,
    Lowercase,
    Capital,
    CapitalWords(Relation),
    Bullets(u64),
    Sections(Regex, u64),
    Quotation,
    Keywords(Vec<(String, Regex)>),
    KeywordFrequency(String, Regex, Relation),
    Json,
    Paragraphs(u64),
    TwoResponses,
    Language(&'static str),
    Letter(char, Relation),
    End(String),
    Forbidden(Vec<(String, Regex)>),
    Sentences(Relation),
    Postscript(String, Regex),
    FirstWord { paragraphs: u64, nth: u64, word: String },
    Constrained,
}

type Build = fn(&mut Arguments) -> Result<Check, String>;

/// Every kind by the name that task files give it.
pub(super) const KINDS: [(&str, Build); 25] = [
    ("change_case:capital_word_frequency", |a| {
        Ok(Check::CapitalWords(a.relation("capital_relation", "capital_frequency")?))
    }),
    ("change_case:english_capital", |_| Ok(Check::Capital)),
    ("change_case:english_lowercase", |_| Ok(Check::Lowercase)),
    ("combination:repeat_prompt", |a| {
        Ok(Check::RepeatPrompt(python::strip(&a.text("prompt_to_repeat")?).to_lowercase()))
    }),
    ("combination:two_responses", |_| Ok(Check::TwoResponses)),
    ("detectable_content:number_placeholders", |a| Ok(Check::Placeholders(a.count("num_placeholders")?))),
    ("detectable_content:postscript", postscript),
    ("detectable_format:constrained_response", |_| Ok(Check::Constrained)),
    ("detectable_format:json_format", |_| Ok(Check::Json)),
    ("detectable_format:multiple_sections", |a| {
        let splitter = a.text("section_spliter")?;
        let (before, after) = (format!("{}?", python::SPACE), format!("{0}?\\d+{0}?", python::SPACE));
        Ok(Check::Sections(python::pattern(&before, python::strip(&splitter), &after)?, a.count("num_sections")?))
    }),
    ("detectable_format:number_bullet_lists", |a| Ok(Check::Bullets(a.count("num_bullets")?))),
    ("detectable_format:number_highlighted_sections", |a| Ok(Check::Highlights(a.count("num_highlights")?))),
    ("detectable_format:title", |_| Ok(Check::Title)),
    ("keywords:existence", |a| Ok(Check::Keywords(patterns(a.texts("keywords")?, "", "")?))),
    ("keywords:forbidden_words", |a| {
        let edge = format!("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", python::WORD);
        Ok(Check::Forbidden(patterns(a.texts("forbidden_words")?, &edge, &edge)?))
    }),
    ("keywords:frequency", |a| {
        let keyword = a.text("keyword")?;
        let keyword = python::strip(&keyword);
        let pattern = python::pattern("(?i)", keyword, "")?;
        Ok(Check::KeywordFrequency(keyword.to_owned(), pattern, a.relation("relation", "frequency")?))
    }),
    ("keywords:letter_frequency", |a| {
        let given = a.text("letter")?.to_lowercase();
        let mut letters = given.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(Check::Letter(letter, a.relation("let_relation", "let_frequency")?)),
            _ => Err(format!("letter is {given:?}; expected one letter")),
        }
    }),
    ("language:response_language", |a| {
        let given = a.text("language")?;
        let known = language::CODES.iter().find(|code| **code == given);
        let unknown = || format!("unknown language {given:?}; known are {}", language::CODES.join(", "));
        Ok(Check::Language(known.ok_or_else(unknown)?))
    }),
    ("length_constraints:nth_paragraph_first_word", |a| {
        let (paragraphs, nth) = (a.count("num_paragraphs")?, a.count("nth_paragraph")?);
        if nth < 1 || nth > paragraphs {
            return Err(format!("nth_paragraph is {nth}; expected 1 to num_paragraphs, {paragraphs}"));
        }
        Ok(Check::FirstWord { paragraphs, nth, word: a.text("first_word")?.to_lowercase() })
    }),
    ("length_constraints:number_paragraphs", |a| Ok(Check::Paragraphs(a.count("num_paragraphs")?))),
    ("length_constraints:number_sentences", |a| Ok(Check::Sentences(a.relation("relation", "num_sentences")?))),
    ("length_constraints:number_words", |a| Ok(Check::Words(a.relation("relation", "num_words")?))),
    ("punctuation:no_comma", |_| Ok(Check::NoComma)),
    ("startend:end_checker", |a| Ok(Check::End(python::strip(&a.text("end_phrase")?).to_lowercase()))),
    ("startend:quotation", |_| Ok(Check::Quotation)),
];

fn patterns(words: Vec<String>, before: &str, after: &str) -> Result<Vec<(String, Regex)>, String> {
    let before = format!("(?i){before}");
    words.into_iter().map(|word| python::pattern(&before, &word, after).map(|pattern| (word, pattern))).collect()
}

/// Two markers may have spaces in them; any other one is a pattern.
fn postscript(a: &mut Arguments) -> Result<Check, String> {
    let given = a.text("postscript_marker")?;
    let marker = python::strip(&given);
    let gap = format!("{}?", python::SPACE);
    let pattern = match marker {
        "P.P.S" => format!("p\\.{gap}p\\.{gap}s"),
        "P.S." => format!("p\\.{gap}s\\."),
        other => other.to_lowercase(),
    };
    Ok(Check::Postscript(marker.to_owned(), python::pattern("", &pattern, "")?))
}

/// A pattern of ours, compiled at its first use.
macro_rules! regex {
    ($pattern:expr) => {{
        static REGEX: LazyLock<Regex> = LazyLock::new(|| python::fixed(&$pattern));
        &*REGEX
    }};
}

/// What is found in place of what an instruction asks; `None` where it is followed.
type Miss = Option<String>;

fn miss(followed: bool, found: impl FnOnce() -> String) -> Miss {
    (!followed).then(found)
}

/// A count that must be at least `wanted`.
fn at_least(count: usize, wanted: u64, what: &str) -> Miss {
    miss(count as u64 >= wanted, || format!("{count} {what}, wanted at least {wanted}"))
}

/// A count that must be `wanted`.
fn exactly(count: usize, wanted: u64, what: &str) -> Miss {
    miss(count as u64 == wanted, || format!("{count} {what}, wanted {wanted}"))
}

impl Check {
    /// What `text` lacks, in words; `None` where it follows the instruction.
    pub(super) fn miss(&self, text: &str) -> Miss {
        match self {
            Self::NoComma => miss(!text.contains(','), || "there is a comma".into()),
            Self::Highlights(wanted) => at_least(highlights(text), *wanted, "highlighted sections"),
            Self::Words(relation) => relation.miss(python::words(text).count(), "words"),
            Self::Placeholders(wanted) => {
                at_least(python::matches(regex!(r"\[.*?\]"), text).len(), *wanted, "placeholders")
            }
            Self::RepeatPrompt(prompt) => {
                let begins = python::strip(text).to_lowercase().starts_with(prompt.as_str());
                miss(begins, || "the answer does not begin with the request".into())
            }
            Self::Title => {
                let titles = python::matches(regex!("<<[^\n]+>>"), text);
                let named =
                    |m: Range<usize>| !python::strip(text[m].trim_start_matches('<').trim_end_matches('>')).is_empty();
                miss(titles.into_iter().any(named), || "there is no title in << >>".into())
            }
            Self::Lowercase => case(text, python::is_lower(text), "small"),
            Self::Capital => case(text, python::is_upper(text), "capital"),
            Self::CapitalWords(relation) => {
                let capital = tokens::words(text).filter(|token| python::is_upper(token)).count();
                relation.miss(capital, "words in capital letters")
            }
            Self::Bullets(wanted) => {
                let stars = regex!(format!(r"(?m)^{}*\*[^*].*$", python::SPACE));
                let dashes = regex!(format!("(?m)^{}*-.*$", python::SPACE));
                let count = [stars, dashes].map(|bullets| python::matches(bullets, text).len());
                exactly(count.iter().sum(), *wanted, "bullet points")
            }
            Self::Sections(splitter, wanted) => at_least(python::matches(splitter, text).len(), *wanted, "sections"),
            Self::Quotation => {
                let text = python::strip(text);
                let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
                miss(quoted, || "the answer is not in double quotation marks".into())
            }
            Self::Keywords(list) => {
                let lacking = list.iter().find(|(_, pattern)| !pattern.is_match(text).unwrap_or(false));
                lacking.map(|(word, _)| format!("{word:?} does not occur"))
            }
            Self::KeywordFrequency(word, pattern, relation) => {
                relation.miss(python::matches(pattern, text).len(), &format!("occurrences of {word:?}"))
            }
            Self::Json => miss(json::is_json(unfenced(text)), || "the answer is no JSON".into()),
            Self::Paragraphs(wanted) => paragraphs(text, *wanted),
            Self::TwoResponses => two_responses(text),
            Self::Language(wanted) => {
                let found = language::detect(text);
                miss(found.is_none_or(|found| found == *wanted), || {
                    format!("the language is {}, wanted {wanted}", found.unwrap_or("unknown"))
                })
            }
            Self::Letter(letter, relation) => letter_frequency(text, *letter, relation),
            Self::End(phrase) => {
                let text = python::strip(text).trim_matches('"').to_lowercase();
                miss(text.ends_with(phrase.as_str()), || format!("the answer does not end with {phrase:?}"))
            }
            Self::Forbidden(list) => {
                let used = list.iter().find(|(_, pattern)| pattern.is_match(text).unwrap_or(true));
                used.map(|(word, _)| format!("{word:?} occurs"))
            }
            Self::Sentences(relation) => relation.miss(sentences::split(text).len(), "sentences"),
            Self::Postscript(marker, pattern) => {
                let found = pattern.is_match(&text.to_lowercase()).unwrap_or(false);
                miss(found, || format!("there is no postscript that begins with {marker:?}"))
            }
            Self::FirstWord { paragraphs, nth, word } => first_word(text, *paragraphs, *nth, word),
            Self::Constrained => {
                let given = ["yes", "no", "maybe"].iter().any(|w| text.contains(&format!("My answer is {w}.")));
                miss(given, || "none of the given answers occurs".into())
            }
        }
    }
}

/// Each pair of single stars with something in between counts, and each pair of double ones.
fn highlights(text: &str) -> usize {
    let filled = |inner: &str| !python::strip(inner).is_empty();
    let single = python::matches(regex!(r"\*[^\n*]*\*"), text);
    let double = python::matches(regex!(r"\*\*[^\n*]*\*\*"), text);
    single.into_iter().filter(|m| filled(text[m.clone()].trim_matches('*'))).count()
        + double.into_iter().filter(|m| filled(&text[m.start + 2..m.end - 2])).count()
}

/// In place of a sign that is no letter the reference draws a letter at random, with each text anew. So the verdict is
/// the one that more than half of the letters give.
fn letter_frequency(text: &str, letter: char, relation: &Relation) -> Miss {
    let text = text.to_lowercase();
    let of =
        |letter: char| relation.miss(text.matches(letter).count(), &format!("occurrences of the letter {letter:?}"));
    if letter.is_ascii_lowercase() {
        return of(letter);
    }
    let holding = ('a'..='z').filter(|letter| of(*letter).is_none()).count();
    miss(holding > 13, || format!("{letter:?} is no letter, and most letters miss the number"))
}

/// English in letters of one case. The language of a text without letters is not asked.
fn case(text: &str, all: bool, which: &str) -> Miss {
    let found = if all { language::detect(text) } else { None };
    miss(all && found.is_none_or(|found| found == "en"), || match found {
        Some(found) => format!("the language is {found}, wanted en"),
        None => format!("not all letters are {which}"),
    })
}

/// The text without the fence of a block of code around it.
fn unfenced(text: &str) -> &str {
    let mut text = python::strip(text);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    python::strip(text.strip_suffix("```").unwrap_or(text))
}

/// Paragraphs between `***`; the first and the last may be missing, none in the middle.
fn paragraphs(text: &str, wanted: u64) -> Miss {
    let dividers = python::matches(regex!(format!(r"{0}?\*\*\*{0}?", python::SPACE)), text);
    let ends = dividers.iter().map(|d| d.start).chain([text.len()]);
    let starts = [0].into_iter().chain(dividers.iter().map(|d| d.end));
    let empty: Vec<bool> = starts.zip(ends).map(|(start, end)| python::strip(&text[start..end]).is_empty()).collect();
    let last = empty.len() - 1;
    if empty.iter().enumerate().any(|(i, empty)| *empty && i != 0 && i != last) {
        return Some("a paragraph between *** is empty".into());
    }
    exactly(empty.iter().filter(|empty| !**empty).count(), wanted, "paragraphs")
}

fn two_responses(text: &str) -> Miss {
    let parts: Vec<&str> = text.split("******").map(python::strip).collect();
    if parts.iter().enumerate().any(|(i, part)| part.is_empty() && i != 0 && i != parts.len() - 1) {
        return Some("a response between ****** is empty".into());
    }
    let filled: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match filled.as_slice() {
        [a, b] => miss(a != b, || "both responses are the same".into()),
        other => Some(format!("{} responses, wanted 2", other.len())),
    }
}

/// Empty paragraphs are not counted, but they are numbered.
fn first_word(text: &str, wanted: u64, nth: u64, word: &str) -> Miss {
    let parts: Vec<&str> = text.split("\n\n").map(python::strip).collect();
    let count = parts.iter().filter(|part| !part.is_empty()).count();
    if count as u64 != wanted {
        return Some(format!("{count} paragraphs, wanted {wanted}"));
    }
    let first = parts.get(nth as usize - 1).and_then(|part| part.split(python::is_space).next()).unwrap_or_default();
    let first = first.trim_start_matches('\'').trim_start_matches('"');
    let first = first.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default().to_lowercase();
    miss(first == word, || format!("paragraph {nth} begins with {first:?}, wanted {word:?}"))
}
