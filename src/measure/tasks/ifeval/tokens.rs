//! The words of a text as NLTK's `word_tokenize` cuts them, as far as it matters for words in capital letters: a
//! hyphenated word is one, a contraction two.

use super::{python, sentences};

/// Signs that stand for themselves.
const SIGNS: &str = ";@#$%&?!*[](){}<>\"`«»“”„‘’‒–—―";
/// What may stand between a sentence's last dot and its end.
const AFTER_DOT: &str = "])}>\"'»”’ ";
/// Endings that are words of their own.
const ENDINGS: [&str; 7] = ["'s", "'m", "'d", "'ll", "'re", "'ve", "n't"];
/// Words that are two, with the length of the first one.
const TWO: [(&str, usize); 7] =
    [("cannot", 3), ("gimme", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("wanna", 3), ("'tis", 2)];

/// The tokens with letters of a text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    sentences::split(text).into_iter().flat_map(pieces).flat_map(parts)
}

/// What stands between spaces and signs in a sentence.
fn pieces(sentence: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut skip = 0;
    for (at, c) in sentence.char_indices() {
        if at < skip {
            continue;
        }
        let rest = &sentence[at + c.len_utf8()..];
        let run = sentence[at..].len() - sentence[at..].trim_start_matches(c).len();
        let cut = match c {
            '.' if run > 1 => run,
            '.' if rest.chars().all(|c| AFTER_DOT.contains(c) || python::is_space(c)) => 1,
            '-' if run > 1 => run - run % 2,
            '\'' if run > 1 => run - run % 2,
            ',' | ':' if !rest.starts_with(|c: char| c.is_numeric()) => 1,
            c if SIGNS.contains(c) || python::is_space(c) => c.len_utf8(),
            _ => continue,
        };
        out.push(&sentence[start..at]);
        start = at + cut;
        skip = start;
    }
    out.push(&sentence[start..]);
    out.retain(|piece| !piece.is_empty());
    out
}

/// A contraction in its parts.
fn parts(piece: &str) -> Vec<&str> {
    let lower = piece.to_ascii_lowercase();
    if let Some((_, length)) = TWO.iter().find(|(word, _)| *word == lower) {
        return vec![&piece[..*length], &piece[*length..]];
    }
    let ending = ENDINGS.iter().find(|ending| lower.len() > ending.len() && lower.ends_with(**ending));
    match ending.map(|ending| piece.split_at(piece.len() - ending.len())) {
        // The longer endings are told in capital or in small letters only.
        Some((word, ending))
            if ending.len() == 2 || ending == ending.to_uppercase() || ending == ending.to_lowercase() =>
        {
            vec![word, ending]
        }
        _ => vec![piece],
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_cut_as_the_reference_cuts_them() {
        for (text, cut) in [
            ("A WELL-KNOWN U.S. CITY, OK", vec!["A", "WELL-KNOWN", "U.S.", "CITY", "OK"]),
            ("I CAN'T, I'M (VERY) TIRED.", vec!["I", "CA", "N'T", "I", "'M", "VERY", "TIRED"]),
            ("WAIT...NO--YES. CANNOT", vec!["WAIT", "NO", "YES", "CAN", "NOT"]),
            ("**BOLD** AT 10:30, \"QUOTED\"!", vec!["BOLD", "AT", "10:30", "QUOTED"]),
        ] {
            assert_eq!(words(text).collect::<Vec<_>>(), cut, "{text}");
        }
    }
}
