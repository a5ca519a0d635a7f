//! Letters, digits and blanks as Python's `str` knows them.

use super::values::printable;

/// The zeros of every script; nine more digits follow each.
#[rustfmt::skip]
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Digits that stand in no row of ten, such as raised ones.
#[rustfmt::skip]
const DIGITS: [(u32, u32); 20] = [
    (0xb2, 0xb3), (0xb9, 0xb9), (0x1369, 0x1371), (0x19da, 0x19da), (0x2070, 0x2070), (0x2074, 0x2079),
    (0x2080, 0x2089), (0x2460, 0x2468), (0x2474, 0x247c), (0x2488, 0x2490), (0x24ea, 0x24ea), (0x24f5, 0x24fd),
    (0x24ff, 0x24ff), (0x2776, 0x277e), (0x2780, 0x2788), (0x278a, 0x2792), (0x10a40, 0x10a43), (0x10e60, 0x10e68),
    (0x11052, 0x1105a), (0x1f100, 0x1f10a),
];

/// Letters that stand for numbers.
const NUMERALS: &str = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參\
                        叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\
                        𠀁𠁤𠃢𠄡𠤪𠦃𠦌𠦜𠫪𠫽𠬙𢎐𢦘𣬛𦉭";

/// The decimal digit that a sign is.
pub(super) fn decimal(sign: char) -> Option<u32> {
    let code = u32::from(sign);
    let row = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
    Some(code - ZEROS[row]).filter(|digit| *digit < 10)
}

fn digit(sign: char) -> bool {
    decimal(sign).is_some() || DIGITS.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(sign)))
}

fn numeric(sign: char) -> bool {
    sign.is_numeric() || digit(sign) || NUMERALS.contains(sign)
}

fn letter(sign: char) -> bool {
    sign.is_alphabetic() && !sign.is_numeric()
}

/// Whether a sign is a blank.
pub(super) fn blank(sign: char) -> bool {
    sign.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&sign)
}

/// The answer of a method such as `isdigit`; none where there is no such method.
pub(super) fn test(own: &str, method: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !own.is_empty() && own.chars().all(is);
    Some(match method {
        "isalpha" => all(letter),
        "isdecimal" => all(|c| decimal(c).is_some()),
        "isdigit" => all(digit),
        "isnumeric" => all(numeric),
        "isalnum" => all(|c| letter(c) || numeric(c)),
        "isspace" => all(blank),
        "isascii" => own.is_ascii(),
        "isprintable" => own.chars().all(printable),
        "islower" => own.chars().any(char::is_lowercase) && !own.chars().any(char::is_uppercase),
        "isupper" => own.chars().any(char::is_uppercase) && !own.chars().any(char::is_lowercase),
        "isidentifier" => {
            let word = |c: char| letter(c) || c == '_';
            own.chars().next().is_some_and(word) && own.chars().all(|c| word(c) || decimal(c).is_some())
        }
        "istitle" => {
            let (mut within, mut seen) = (false, false);
            for sign in own.chars() {
                match (sign.is_uppercase(), sign.is_lowercase()) {
                    (true, _) if within => return Some(false),
                    (_, true) if !within => return Some(false),
                    (upper, lower) => (within, seen) = (upper || lower, seen || upper || lower),
                }
            }
            seen
        }
        _ => return None,
    })
}

/// A letter's form at the beginning of a title's word.
fn title(sign: char) -> String {
    match sign {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".into(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".into(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".into(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".into(),
        // Georgian has no capital at the beginning of words.
        'ა'..='ჿ' => sign.into(),
        _ => {
            let mut upper = sign.to_uppercase();
            let first = upper.next().unwrap_or(sign);
            std::iter::once(first).chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

pub(super) fn titled(own: &str) -> String {
    let mut out = String::new();
    let lower = own.to_lowercase();
    let (mut within, mut small) = (false, lower.chars());
    for sign in own.chars() {
        // A letter may become several in lower case.
        let low: String = small.by_ref().take(sign.to_lowercase().count()).collect();
        if within {
            out.push_str(&low)
        } else {
            out.push_str(&title(sign))
        }
        within = sign.is_uppercase() || sign.is_lowercase() || matches!(sign, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
    }
    out
}

pub(super) fn capitalized(own: &str) -> String {
    let Some(first) = own.chars().next() else { return String::new() };
    let skipped = first.to_lowercase().count();
    title(first) + &own.to_lowercase().chars().skip(skipped).collect::<String>()
}

pub(super) fn swapped(own: &str) -> String {
    let mut out = String::new();
    for (sign, low) in own.chars().zip(own.to_lowercase().chars().map(Some).chain(std::iter::repeat(None))) {
        match (sign.is_uppercase(), sign.is_lowercase()) {
            // The sigma at a word's end is another one in lower case.
            (true, _) if sign == 'Σ' && low == Some('ς') => out.push('ς'),
            (true, _) => out.extend(sign.to_lowercase()),
            (_, true) => out.extend(sign.to_uppercase()),
            _ => out.push(sign),
        }
    }
    out
}

/// A letter as texts are compared without regard to case.
pub(super) fn folded(sign: char) -> String {
    match sign {
        'ı' => sign.into(),
        'ẞ' => "ss".into(),
        _ => sign.to_uppercase().flat_map(char::to_lowercase).collect(),
    }
}
