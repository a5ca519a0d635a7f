//! What stands behind `Score:`: a number, a sum, stars, and what takes a score back again, as ranges and other scales.

use super::NoScore;
use super::token::{Kind, Token};

/// What a label is followed by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// A score or a choice.
    Read(f64),
    /// Something else.
    Broken(NoScore),
    /// Nothing on this line.
    Nothing,
    /// The words that the prompt has in this place.
    Placeholder,
    /// A score that is only spoken of.
    Hypothetical,
}

use Outcome::{Broken, Hypothetical, Read};

/// How far a remark is followed.
const NEAR: usize = 12;
/// The best score.
const TOTAL: f64 = 5.0;

const UNITS: &str = "point points pt pts p star stars total mark marks 分 点 점";
/// Words before a number that say nothing of it.
const FILL: &str = "\
    a an the solid clear strong total points final of is my value number just only exactly about approximately \
    approx around roughly circa ca perfect full i give gives it would i'd this response answer assign award rate \
    therefore thus then hence so now score be at to we as here sum say get gets earns receives deserves good great \
    excellent fair poor";
/// Words right after a number that make it a thought.
const THOUGHT: &str = "\
    would could might may should can means mean requires require needs need if unless only indicates represents \
    implies corresponds was were when";
/// Words after a number that leave it open.
const OPEN: &str = "or vs versus plus minus times x max maximum min minimum possible ish half tops squared th";
/// What may be said of a score that is given.
const GIVEN: &str = "\
    appropriate justified warranted fair reasonable given awarded assigned deserved right suitable fitting \
    adequate merited earned";
const DOUBT: &str = "maybe perhaps possibly probably or between almost nearly but";
const TAKEN_BACK: &str = "no wait actually correction sorry scratch hmm rather make though";
const SCALE: &str = "out of max maximum scale from on up possible";

const RANGE: &str = "scale range ranging";
/// What "out of" is in other languages.
const ABROAD: &str = "von de sur su di van av af od z из";

fn word_at(t: &[Token], i: usize, words: &str) -> bool {
    t.get(i).is_some_and(|token| token.one_of(words))
}

fn mark_at(t: &[Token], i: usize, marks: &str) -> bool {
    t.get(i).is_some_and(|token| token.any(marks))
}

fn amount_at(t: &[Token], i: usize) -> Option<f64> {
    t.get(i).and_then(Token::amount)
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// The tokens from `i` up to the end of the sentence, at most a few.
fn near<'t, 'a>(t: &'t [Token<'a>], i: usize) -> &'t [Token<'a>] {
    let rest = &t[i.min(t.len())..];
    let end = rest.iter().take(NEAR).position(|token| token.any(".!;?")).unwrap_or(rest.len().min(NEAR));
    &rest[..end]
}

/// Where the group that the bracket at `i` opens is closed.
pub(super) fn closing(t: &[Token], i: usize) -> Option<usize> {
    let (open, close) = match t.get(i)?.kind {
        Kind::Mark('(') => ('(', ')'),
        Kind::Mark('[') => ('[', ']'),
        Kind::Mark('{') => ('{', '}'),
        Kind::Mark('<') => ('<', '>'),
        _ => return None,
    };
    let mut depth = 0;
    for (k, token) in t.iter().enumerate().skip(i).take(5 * NEAR) {
        depth += i32::from(token.is(open)) - i32::from(token.is(close));
        if depth == 0 {
            return Some(k);
        }
    }
    None
}

/// Whether words such as `(0-5)`, `out of 10` or `%` are about another scale than ours; `None` where they are about no
/// scale at all.
pub(super) fn other_scale(t: &[Token]) -> Option<bool> {
    if t.iter().any(|token| token.any("%‰") || token.one_of("percent percentage")) {
        return Some(true);
    }
    let about = |token: &Token| token.any("-–/~") || token.one_of(SCALE) || token.one_of("to through points");
    let most = t.iter().filter_map(Token::amount).fold(None, |most: Option<f64>, n| Some(most.map_or(n, |m| m.max(n))));
    most.filter(|_| t.len() == 1 || t.iter().any(about)).map(|most| !same(most, TOTAL))
}

/// Whether these are the words for which the prompt wants a number.
fn is_placeholder(t: &[Token]) -> bool {
    let words = "total points score number integer value your n k x sum";
    t.iter().all(|token| token.amount().is_none() && !matches!(token.kind, Kind::Stars(..)))
        && t.iter().any(|token| token.one_of(words))
}

/// Reads the score from token `i` on. `strict`: nothing but the score may stand there.
pub(super) fn score(t: &[Token], from: usize, strict: bool) -> Outcome {
    match spelt(t, from) {
        Some(t) => in_digits(&t, from, strict),
        None => in_digits(t, from, strict),
    }
}

/// The tokens with a number in digits at `from` for what stands there in words, as in "three and a half", if nothing
/// shows that the word means something else, as in "one of the best".
fn spelt<'a>(t: &[Token<'a>], from: usize) -> Option<Vec<Token<'a>>> {
    const BEHIND: &str = "out because since as is";
    let at = (from..t.len()).find(|&i| !t[i].any("\"'([{<:=→"))?;
    let number = t[at].amount().filter(|n| *n <= TOTAL)?;
    if word_at(t, at + 1, "and") && word_at(t, at + 2, "a one") && word_at(t, at + 3, "half quarter") {
        let part = if t[at + 3].one_of("half") { 0.5 } else { 0.25 };
        let whole = Token { kind: Kind::Number(Some(number + part)), ..t[at] };
        return Some([&t[..at], &[whole], &t[at + 4..]].concat());
    }
    t[at].word()?;
    let next = t.get(at + 1);
    if next.is_some_and(|next| next.word().is_some() && !next.one_of(UNITS) && !next.one_of(BEHIND)) {
        return None;
    }
    let mut t = t.to_vec();
    t[at].kind = Kind::Number(Some(number));
    Some(t)
}

/// Reads a score as [`score`] does, where its number is written in digits or stars.
fn in_digits(t: &[Token], from: usize, strict: bool) -> Outcome {
    let mut i = from;
    let mut placeholder = false;
    let mut words = 0;
    loop {
        let Some(token) = t.get(i) else {
            return match (placeholder, i > from) {
                (true, _) => Outcome::Placeholder,
                (_, true) if words > 0 => Broken(NoScore::NoNumber),
                _ => Outcome::Nothing,
            };
        };
        match token.kind {
            Kind::Number(_) | Kind::Stars(..) => break,
            Kind::Mark('<' | '[' | '{' | '(') => match closing(t, i) {
                Some(end) if is_placeholder(&t[i + 1..end]) => {
                    placeholder = true;
                    i = end;
                }
                None if token.is('<') => return Broken(NoScore::NoNumber),
                _ => {}
            },
            Kind::Mark('-') if t.get(i + 1).is_some_and(|n| n.is_number() && !n.spaced) => {
                return Broken(NoScore::OutOfRange);
            }
            // A list's sign may stand before a number that has a line of its own.
            Kind::Mark('-') if strict && i == from => {}
            // A dash between spaces, or one that a colon carries, is no sign of the number.
            Kind::Mark('–') if token.spaced && t.get(i + 1).is_some_and(|n| n.spaced && n.is_number()) => {}
            Kind::Mark('-') if !token.spaced && i > 0 && t[i - 1].is(':') => {}
            Kind::Mark('"' | '\'' | ']' | ')' | '}' | ':' | '=' | '→' | '|' | '~' | ',') => {}
            Kind::Mark('>') if i > from || strict => {}
            Kind::Mark('+') if t.get(i + 1).is_some_and(|n| n.is_number() || n.any("\"([")) => {}
            // A letter with a colon is the name of something.
            Kind::Word("A" | "a") if mark_at(t, i + 1, ":=-–") => return Broken(NoScore::NoNumber),
            Kind::Word(_) if token.one_of(FILL) && words < NEAR => words += 1,
            _ => return Broken(NoScore::NoNumber),
        }
        i += 1;
    }
    // Letters before a number belong to it, as in a name.
    if i > 0 && !t[i].spaced && t[i - 1].word().is_some_and(|w| w.is_ascii()) && t[i].is_number() {
        return Broken(NoScore::NoNumber);
    }
    let read = if let Kind::Stars(full, total) = t[i].kind { stars(t, i + 1, full, total) } else { sum(t, i) };
    let (value, next) = match read {
        Ok(read) => read,
        Err(why) => return Broken(why),
    };
    if t[i..next.min(t.len())].iter().any(|token| token.is('+')) && told(t, next).is_some_and(|n| !same(n, value)) {
        return Broken(NoScore::Unequal);
    }
    match tail(t, next, value, strict) {
        None if (0.0..=TOTAL).contains(&value) => Read(value),
        None => Broken(NoScore::OutOfRange),
        Some(outcome) => outcome,
    }
}

/// The total that words give to a sum before them.
fn told(t: &[Token], from: usize) -> Option<f64> {
    const TOTALS: &str = "total is equals i.e sum makes making gives giving";
    let rest = near(t, from);
    let said = |k: usize| rest[..k].iter().rev().take(3).any(|token| token.one_of(TOTALS));
    (0..rest.len()).find(|&k| rest[k].amount().is_some() && said(k)).and_then(|k| rest[k].amount())
}

/// The score of a row of stars, and the token behind what repeats it in digits.
fn stars(t: &[Token], i: usize, full: f64, total: Option<usize>) -> Result<(f64, usize), NoScore> {
    if total.map_or(full > TOTAL, |total| total as f64 != TOTAL) {
        return Err(NoScore::OtherScale);
    }
    match amount_at(t, i) {
        Some(n) if !same(n, full) => Err(NoScore::Unequal),
        Some(_) => Ok((full, i + 1)),
        None => Ok((full, i)),
    }
}

/// Evaluates the sum that begins at `i`, a single number included, and compares it with the total behind it. Returns
/// the value and the token behind it.
fn sum(t: &[Token], i: usize) -> Result<(f64, usize), NoScore> {
    let (value, terms, mut next) = terms(t, i)?;
    let mut whole = value;
    while let Some(sign) = operator(t, next, "=→") {
        next = sign;
        let mut after = next + 1;
        while mark_at(t, after, "\"'([{~=") {
            after += 1;
        }
        if !t.get(after).is_some_and(Token::is_number) {
            // The total is missing or a word; what was added up stands.
            return Ok((whole, if after < t.len() { after } else { next + 1 }));
        }
        let (total, _, behind) = self::terms(t, after)?;
        if mark_at(t, behind, "%") && same(total, whole / TOTAL * 100.0) {
            next = behind + 1;
            continue;
        }
        if !same(total, whole) {
            let changed = terms == 1 && t[next].is('→');
            return Err(if changed { NoScore::NoNumber } else { NoScore::Unequal });
        }
        whole = total;
        next = behind;
    }
    Ok((whole, next))
}

/// Adds up numbers with `+` between them, and `-` where a total follows. Returns the sum, how many numbers there are
/// and the token behind them.
fn terms(t: &[Token], start: usize) -> Result<(f64, usize, usize), NoScore> {
    let (mut value, mut count, mut i, mut sign) = (0.0, 0, start, 1.0);
    loop {
        let Some(Kind::Number(Some(n))) = t.get(i).map(|token| token.kind) else { return Err(NoScore::NoNumber) };
        value += sign * n;
        count += 1;
        i += 1;
        let after = i;
        let plus = operator(t, i, "+");
        let minus = mark_at(t, i, "-–")
            && t.get(i + 1).is_some_and(Token::is_number)
            && near(t, i).iter().any(|token| token.is('='));
        let operator = match plus {
            Some(at) => at,
            None if minus => i,
            None => return Ok((value, count, skip_closers(t, after))),
        };
        sign = if plus.is_some() { 1.0 } else { -1.0 };
        i = operator + 1;
        while mark_at(t, i, "\"'([{") {
            i += 1;
        }
    }
}

/// The sign that goes on with a sum after a number, behind its unit and a remark on what it was given for.
fn operator(t: &[Token], mut i: usize, signs: &str) -> Option<usize> {
    for _ in 0..3 {
        i = skip_units(t, i);
        if mark_at(t, i, "([") {
            i = closing(t, i)? + 1;
        }
    }
    if word_at(t, i, "for as because") {
        let words = t[i..].iter().take(NEAR).take_while(|token| token.word().is_some() || token.any("'\"")).count();
        i += words;
    }
    if mark_at(t, i, ",;") && mark_at(t, i + 1, "+") {
        i += 1;
    }
    mark_at(t, i, signs).then_some(i)
}

fn skip_closers(t: &[Token], mut i: usize) -> usize {
    while mark_at(t, i, "\"')]}") || (mark_at(t, i, ">") && !t.get(i + 1).is_some_and(Token::is_number)) {
        i += 1;
    }
    i
}

fn skip_units(t: &[Token], mut i: usize) -> usize {
    loop {
        let before = i;
        i = skip_closers(t, i);
        if word_at(t, i, UNITS) {
            i += 1;
        }
        if i == before {
            return i;
        }
    }
}

/// Looks at what follows a number: `None` if it stands as the score.
fn tail(t: &[Token], from: usize, value: f64, strict: bool) -> Option<Outcome> {
    let none = Some(Broken(NoScore::NoNumber));
    let other = Some(Broken(NoScore::OtherScale));
    let mut i = from;
    // Letters right behind a number belong to it unless they are a unit.
    if t.get(i).is_some_and(|n| !n.spaced && n.word().is_some() && !n.one_of(UNITS)) {
        return none;
    }
    let mut scaled = false;
    loop {
        i = skip_units(t, i);
        if let Some(Kind::Stars(full, _)) = t.get(i).map(|token| token.kind) {
            if !same(full, value) && !same(full, 1.0) {
                return Some(Broken(NoScore::Unequal));
            }
            i = skip_units(t, i + 1);
        }
        let token = t.get(i)?;
        let next = t.get(i + 1);
        let number_next = next.is_some_and(|n| n.amount().is_some());
        match token.kind {
            Kind::Mark('/') => {
                if scaled || !amount_at(t, i + 1).is_some_and(|n| same(n, TOTAL)) {
                    return other;
                }
                scaled = true;
                i += 2;
            }
            Kind::Mark('(' | '[') => {
                let end = closing(t, i)?;
                if let Some(why) = remark(&t[i + 1..end], value) {
                    return Some(Broken(why));
                }
                i = end + 1;
            }
            Kind::Mark('%' | '‰') => return other,
            Kind::Mark('=') => {
                // After a fraction its value may follow, as a share or in percent.
                let percent = mark_at(t, i + 2, "%");
                return match amount_at(t, i + 1) {
                    Some(n) if same(n, value) || same(n, value / TOTAL * if percent { 100.0 } else { 1.0 }) => None,
                    Some(_) => Some(Broken(NoScore::Unequal)),
                    None => None,
                };
            }
            Kind::Mark('-' | '–' | '~' | '…' | '→') => {
                return if number_next || next.is_none() { none } else { None };
            }
            Kind::Mark('|') => return if number_next { none } else { None },
            Kind::Mark(':') if strict => return Some(Hypothetical),
            Kind::Mark(':') => return if number_next { none } else { None },
            Kind::Mark('.' | ',' | ';' | '!') => return after_stop(t, i, token.is('.') && strict),
            Kind::Mark('<') if near(t, i).iter().any(|token| token.is('>')) => return None,
            Kind::Word(_) => return after_word(t, i, strict, scaled),
            Kind::Number(_) | Kind::Stars(..) | Kind::Mark(_) => return none,
        }
    }
}

/// What a full stop or comma behind a number leaves of it.
fn after_stop(t: &[Token], i: usize, list: bool) -> Option<Outcome> {
    let none = Some(Broken(NoScore::NoNumber));
    let next = t.get(i + 1)?;
    let dots = t[i..].iter().take(NEAR).take_while(|token| token.is('.')).count();
    if next.is_number() || t.get(i + dots).is_some_and(Token::is_number) {
        return none;
    }
    let rest = &t[i + 1..t.len().min(i + 1 + NEAR)];
    let number = |rest: &[Token]| rest.iter().any(|token| token.amount().is_some());
    if next.one_of(DOUBT) && number(&rest[..rest.len().min(4)]) || next.one_of(TAKEN_BACK) && number(rest) {
        return none;
    }
    // A number with a dot and words after it is an item of a list, where a score alone could stand.
    if list && !next.any(".") { none } else { None }
}

/// Whether a number out of a total stands among the tokens.
fn fraction(t: &[Token]) -> bool {
    t.windows(2).any(|pair| pair[0].amount().is_some() && (pair[1].is('/') || pair[1].one_of("out of")))
}

/// What words behind a number leave of it.
fn after_word(t: &[Token], i: usize, strict: bool, scaled: bool) -> Option<Outcome> {
    let none = Some(Broken(NoScore::NoNumber));
    let (token, rest) = (&t[i], near(t, i));
    if token.one_of("percent per percentage") {
        return Some(Broken(NoScore::OtherScale));
    }
    if rest.iter().any(|token| token.one_of(RANGE)) && other_scale(rest) == Some(true) {
        return Some(Broken(NoScore::OtherScale));
    }
    let share = token.one_of("in") && amount_at(t, i + 1).is_some();
    if (share || token.one_of("out of on over from") || token.one_of(ABROAD)) && !scaled {
        let about = token.one_of("on from") && !rest.iter().any(|token| token.one_of(RANGE));
        // The total follows soon, behind words such as "a possible".
        let far = if token.one_of("on from") { NEAR } else { 6 };
        let total = rest.iter().take(far).filter_map(Token::amount).reduce(f64::max);
        let behind = rest.iter().position(|token| token.amount() == total).map_or(0, |at| i + at + 1);
        return match total {
            // What follows is out of a total too, so that this is a part of the score.
            Some(_) if word_at(t, skip_units(t, behind), "for") && fraction(&t[behind..]) => none,
            Some(total) if !about && !same(total, TOTAL) => Some(Broken(NoScore::OtherScale)),
            None if token.one_of("out") => Some(Broken(NoScore::OtherScale)),
            _ => None,
        };
    }
    if token.one_of(OPEN) || token.one_of("each apiece") {
        return none;
    }
    let praised = token.one_of("is was") && word_at(t, i + 1, GIVEN);
    if token.one_of(THOUGHT) && !praised || token.one_of("is") && !praised && amount_at(t, i + 1).is_none() {
        return Some(Hypothetical);
    }
    let next = amount_at(t, i + 1);
    if token.one_of("to through and til until") && (next.is_some() || word_at(t, i + 1, "a half")) {
        return none;
    }
    if token.one_of("at") && word_at(t, i + 1, "most least best") {
        return none;
    }
    // A point for this and a point for that is a sum without its signs.
    let part = token.one_of("for") || (i > 0 && t[i - 1].one_of(UNITS));
    let more = rest.windows(2).any(|pair| pair[0].any("=+") && pair[1].is_number());
    let parts = more || part && rest.iter().any(|token| token.amount().is_some());
    if parts || token.one_of(DOUBT) && rest.iter().take(4).any(|token| token.amount().is_some()) {
        return none;
    }
    if strict { none } else { None }
}

/// Why a remark in brackets takes the number before it back; `None` where it does not.
fn remark(t: &[Token], value: f64) -> Option<NoScore> {
    let mut i = 0;
    while mark_at(t, i, "\"'~=+([") {
        i += 1;
    }
    let first = t.get(i)?;
    if first.is_number() {
        let (n, count, next) = match terms(t, i) {
            Ok(read) => read,
            Err(why) => return Some(why),
        };
        if mark_at(t, next, "%") {
            return (!same(n, value / TOTAL * 100.0)).then_some(NoScore::Unequal);
        }
        let total = amount_at(t, next + 1).filter(|_| mark_at(t, next, "/") || word_at(t, next, "of"));
        let total = total.or_else(|| amount_at(t, next + 2).filter(|_| word_at(t, next, "out")));
        return match total {
            Some(total) if same(n / total, value / TOTAL) => None,
            Some(_) if same(n, value) => Some(NoScore::OtherScale),
            Some(_) => Some(NoScore::Unequal),
            None if mark_at(t, next, "-–~") || word_at(t, next, "to") => {
                other_scale(t).filter(|other| *other).map(|_| NoScore::OtherScale)
            }
            None if count > 1 => (!same(n, value)).then_some(NoScore::Unequal),
            None => (next == t.len() && !same(n, value)).then_some(NoScore::Unequal),
        };
    }
    let doubts = first.one_of(DOUBT) || t.iter().any(|token| token.one_of("maybe perhaps possibly closer leaning"));
    if doubts && t.iter().any(|token| token.amount().is_some()) {
        return Some(NoScore::NoNumber);
    }
    if first.is('/') || first.one_of(SCALE) || t.iter().any(|token| token.one_of(RANGE)) {
        return other_scale(t).filter(|other| *other).map(|_| NoScore::OtherScale);
    }
    None
}

/// Reads which of two responses is the better one, from token `i` on: 1 for A, 0 for B, 0.5 for a tie.
pub(super) fn choice(t: &[Token], from: usize, strict: bool) -> Outcome {
    const BEFORE: &str = "\
        response answer option assistant model candidate reply it it's is the choice one review clearly";
    const REASONS: &str = "\
        because as since is was for due by wins slightly clearly overall but while though although has gives \
        better";
    let open = Broken(NoScore::NoChoice);
    let letter = |i: usize| word_at(t, i, "a b");
    let mut i = from;
    loop {
        let Some(token) = t.get(i) else {
            return if t[from.min(t.len())..].iter().all(|t| t.word().is_none()) { Outcome::Nothing } else { open };
        };
        if let Some(end) = closing(t, i) {
            let has = |letter: &str| t[i..end].iter().any(|token| token.one_of(letter));
            if has("a") && has("b") {
                return Outcome::Placeholder;
            }
        }
        let skipped = token.any("\"'([{<:=→|~,") || token.one_of(BEFORE);
        if !skipped {
            break;
        }
        i += 1;
    }
    let tie = |i: usize| word_at(t, i, "tie tied draw");
    if tie(i) || (word_at(t, i, "a") && tie(i + 1)) {
        return Read(0.5);
    }
    if !letter(i) {
        return open;
    }
    let first = t[i].one_of("a");
    let next = skip_closers(t, i + 1);
    if t.get(next).is_some_and(Token::is_number)
        || mark_at(t, next, "?/&+")
        || (mark_at(t, next, ",>=<-–~") && letter(next + 1))
    {
        return open;
    }
    if let Some(word) = t.get(next).filter(|token| token.word().is_some()) {
        let parted = next > i + 1;
        let undecided = word.one_of("or and b a vs versus nor");
        // An A before a word may be the article.
        if undecided || (first && !parted && !word.one_of(REASONS)) || (strict && !parted) {
            return open;
        }
        if word.one_of("would could might if unless") {
            return Hypothetical;
        }
    }
    Read(if first { 1.0 } else { 0.0 })
}
