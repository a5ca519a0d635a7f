//! The places in which a verdict names its score, and which of them counts.

use super::NoScore;
use super::clean::Clean;
use super::sentence::{BACK, CLAIMS, EXAMPLE, NEUTRAL, SUPPOSED, claimed, denied, named, sentence, supposed};
use super::token::{Token, tokens};
use super::value::{Outcome, closing, other_scale};
use std::ops::Range;

/// A label, such as `Score`, and how what it names is read.
pub(super) struct Label {
    /// The spellings of the label, in small letters; the first stands in keys and tags.
    pub names: &'static str,
    /// Words that may stand between it and its sign without changing what it names.
    pub tail: &'static str,
    /// Reads the value from a token on; the flag asks for the value alone.
    pub read: fn(&[Token], usize, bool) -> Outcome,
    /// What a verdict without the label lacks.
    pub missing: NoScore,
}

/// How well a place stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Within a sentence.
    Inside,
    /// At the beginning of a sentence.
    Sentence,
    /// At the beginning of a line.
    Line,
}

/// A place that names a score.
#[derive(Clone, Copy, Debug)]
struct Place {
    rank: Rank,
    outcome: Outcome,
    /// The first byte of the line or sentence.
    at: usize,
    line: usize,
}

/// What was read, and where the line or sentence begins that says it.
pub(super) type Found = (f64, usize);

/// A line of the verdict.
struct Line<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    text: &'a str,
}

/// Finds what the label names in the text.
pub(super) fn find(clean: &Clean, label: &Label) -> Result<Found, NoScore> {
    let lines = lines(&clean.text);
    let mut places: Vec<Place> = Vec::new();
    let mut depth = 0i32;
    let mut example = Example::default();
    let mut other = false;
    for number in 0..lines.len() {
        let line = &lines[number];
        let settled =
            places.iter().rev().take(1).any(|p| p.rank == Rank::Line && matches!(p.outcome, Outcome::Read(_)));
        if example.skips(line, settled) {
            continue;
        }
        let mut quotes = 0;
        for i in 0..line.tokens.len() {
            let token = &line.tokens[i];
            if token.is('"') && i > 0 {
                quotes += 1;
            }
            depth += i32::from(token.is('{')) - i32::from(token.is('}'));
            other |= token.one_of(label.names) && best(&line.tokens, i, label).is_some_and(|best| best != 5.0);
            // A verdict that repeats itself may be cut right behind the label.
            let cut = || {
                let signs = line.tokens[i + 1..].iter().all(|token| token.any(":=\"'"));
                signs && lines[number + 1..].iter().all(|line| line.tokens.is_empty())
            };
            if settled && token.one_of(label.names) && cut() {
                continue;
            }
            if token.one_of(label.names)
                && let Some(place) = place(&lines, number, i, label, (quotes, depth))
            {
                if place.outcome == Outcome::Placeholder && places.iter().any(|p| p.rank == Rank::Line) {
                    // The prompt's last line begins again.
                    return choose(places, &lines, label, other);
                }
                places.push(place);
            }
        }
    }
    choose(places, &lines, label, other)
}

/// The best score that there can be, where the verdict says it: by words before the label or, beside a key as in JSON,
/// by another key.
fn best(t: &[Token], i: usize, label: &Label) -> Option<f64> {
    const BEST: &str = "max maximum possible perfect full";
    let value = |from: usize| t[from.min(t.len())..].iter().take(3).find_map(Token::amount);
    if t[i.saturating_sub(2)..i].iter().any(|token| token.one_of(BEST)) {
        let (sign, behind, _) = signs(t, i, label);
        return if sign == Sign::None { None } else { value(behind) };
    }
    let colon = |k: usize| t.get(k).is_some_and(|token| token.is(':'));
    let keys = (i + 1..t.len().min(i + BACK)).filter(|&k| t[k].any("\"'") && colon(k + 1) && k > i + 1);
    let named =
        |k: &usize| t[k.saturating_sub(2)..*k].iter().any(|token| token.one_of(BEST) || token.one_of("of scale"));
    keys.filter(named).find_map(|k| value(k + 2))
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut at = 0;
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        lines.push(Line { tokens: tokens(line, at), at, text: line });
        at += line.len();
    }
    lines
}

/// The paragraph of an example, which holds no score.
#[derive(Default)]
struct Example {
    inside: bool,
    /// Whether a line of the paragraph was seen.
    begun: bool,
    /// Whether the line before this one supposes what follows.
    supposed: bool,
}

impl Example {
    /// Whether the line belongs to an example. `settled`: whether the last score stands on a line of its own.
    fn skips(&mut self, line: &Line, settled: bool) -> bool {
        let t = line.tokens.as_slice();
        if t.is_empty() && line.text.trim().is_empty() {
            self.inside &= !self.begun;
            return false;
        }
        if self.inside {
            self.begun = true;
            return true;
        }
        let ends = t.iter().rev().find(|token| !token.any("\"'")).is_some_and(|token| token.is(':'));
        let head = t.iter().position(|token| !token.any("\"'-–→|>[(")).unwrap_or(0);
        let first = t.get(head).is_some_and(|token| token.one_of("example examples"));
        let colon = t.iter().skip(head).take(5).position(|token| token.is(':')).map(|at| head + at);
        let alone = first && t.len() <= head + 2;
        let last = t.iter().rfind(|token| token.word().is_some());
        let pair = |one: &str, two: &str| t.windows(2).any(|t| t[0].one_of(one) && t[1].one_of(two));
        let given = last.is_some_and(|token| token.one_of(EXAMPLE))
            || pair("for an another one", EXAMPLE)
            || pair("such like", "as this so")
            || pair("form format", "is")
            || last.is_some_and(|token| token.one_of("form"));
        if (first && (colon.is_some() || alone)) || (ends && given) {
            self.inside = true;
            self.begun = !ends && !alone;
            return true;
        }
        let skip = self.supposed && !settled;
        self.supposed = ends && t.iter().any(|token| token.one_of(SUPPOSED) || token.one_of(CLAIMS));
        skip
    }
}

/// The place at token `i` of a line, if the label names something there. `quotes`: how many quotation marks stand
/// before it; `depth`: how many braces are open.
fn place(lines: &[Line], number: usize, i: usize, label: &Label, (quotes, depth): (usize, i32)) -> Option<Place> {
    let line = &lines[number];
    let t = line.tokens.as_slice();
    let mark = |i: usize, marks: &str| t.get(i).is_some_and(|token| token.any(marks));
    // A key as in JSON: in quotes of its own, with a colon behind.
    let key = mark(i + 1, "\"'") && mark(i + 2, ":");
    let (start, free) = beginning(t, i);
    let head = start == 0 || table_cell(t, start);
    let rank = match () {
        () if key && free => Rank::Line,
        () if free && head => Rank::Line,
        () if free && (mark(start - 1, ".!?;:→|") || numbered(t, start)) => Rank::Sentence,
        () => Rank::Inside,
    };
    let (sign, value, scale) = signs(t, i, label);
    let header = line.text.trim_start().starts_with('|') && lines.get(number + 1).is_some_and(|line| rule(line));
    if header && rank != Rank::Line {
        return None;
    }
    let mut outcome = match scale {
        _ if header => Outcome::Nothing,
        Some(true) => Outcome::Broken(NoScore::OtherScale),
        _ => (label.read)(t, value, sign == Sign::None),
    };
    if key && depth > 1 {
        return None;
    }
    // A quotation that begins with the sentence is an ornament, one within it is somebody else's.
    let quoted = !key && quotes % 2 == 1 && !(rank == Rank::Sentence && mark(start, "\""));
    let read = matches!(outcome, Outcome::Read(_));
    match rank {
        Rank::Line => {
            if read && let Some(whole) = continued(lines, number) {
                outcome = (label.read)(&whole, value, sign == Sign::None);
            }
            if outcome == Outcome::Nothing {
                outcome = below(lines, number, label, start == 0);
                // A heading without a score under it is no verdict; a label with its colon is a broken one.
                if outcome == Outcome::Nothing {
                    return (sign != Sign::None).then_some(Place {
                        rank,
                        outcome: Outcome::Broken(label_only(label)),
                        at: line.at,
                        line: number,
                    });
                }
            } else if sign == Sign::None && !read {
                return None;
            }
        }
        _ if claimed(t, i) => return None,
        Rank::Sentence if quoted || supposed(t, i) || sign == Sign::None => return None,
        Rank::Inside if quoted || !read || supposed(t, i) || denied(t, i) || !named(t, i, start, free) => return None,
        Rank::Inside if matches!(sign, Sign::None | Sign::Dash) => return None,
        _ => {}
    }
    if outcome == Outcome::Hypothetical || (sign == Sign::Of && !read) {
        return None;
    }
    if outcome == Outcome::Nothing {
        outcome = Outcome::Broken(label_only(label));
    }
    let at = if rank == Rank::Line && !key { line.at } else { t[sentence(t, i, start)].at };
    Some(Place { rank, outcome, at, line: number })
}

fn label_only(label: &Label) -> NoScore {
    if label.missing == NoScore::NoChoice { NoScore::NoChoice } else { NoScore::NoNumber }
}

/// The first token of the label's phrase, with the words before it that do not change what it names, and whether
/// nothing else stands before it in its clause.
fn beginning(t: &[Token], i: usize) -> (usize, bool) {
    let mut start = i;
    while start > 0 && i - start < BACK {
        let before = &t[start - 1];
        let ornament = before.any("\"'<{[(");
        if !(ornament || before.one_of(NEUTRAL)) {
            // The number of an item, and what stands around it, begin a line.
            let list = t[..start].iter().all(|token| token.any("-–>.)(|+•→~") || token.is_number());
            let step = t[..start].iter().all(|token| token.one_of(NEUTRAL) || token.is_number() || token.any(":-–.)"));
            if list || (step && start <= 8) {
                return (0, true);
            }
            let opened = t[start..i].iter().any(|token| token.any("(["));
            return (start, opened || before.any(".!?;:→|,–)]}") || (before.is('-') && before.spaced));
        }
        start -= 1;
    }
    (start, start == 0)
}

/// Whether the token begins a cell of a table that is the first with anything in it.
fn table_cell(t: &[Token], start: usize) -> bool {
    t[..start].iter().all(|token| token.any("|>-"))
}

fn numbered(t: &[Token], start: usize) -> bool {
    start == 0 || t[start - 1].is(')')
}

/// The sign between a label and what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    None,
    Colon,
    Dash,
    Is,
    Of,
}

/// The sign behind the label at `i`, the first token behind it, and whether the label speaks of another scale.
fn signs(t: &[Token], i: usize, label: &Label) -> (Sign, usize, Option<bool>) {
    let at = |k: usize| t.get(k);
    let is = |k: usize, marks: &str| at(k).is_some_and(|token| token.any(marks));
    let (mut k, mut scale) = (i + 1, None);
    let mut words = 0;
    loop {
        if is(k, "\"')]}>") {
            k += 1;
        } else if let Some(end) = closing(t, k).filter(|&end| annotates(t, k, end)) {
            scale = scale.or(other_scale(&t[k + 1..end]));
            k = end + 1;
        } else if is(k, "/") && at(k + 1).is_some_and(Token::is_number) && is(k + 2, ":=|-–)]\"") {
            scale = scale.or(other_scale(&t[k..k + 2]));
            k += 2;
        } else if let Some(end) = described(t, k) {
            scale = scale.or(other_scale(&t[k..end]));
            k = end;
        } else if at(k).is_some_and(|token| token.one_of("out")) {
            let end = (k..t.len().min(k + 6)).find(|&e| t[e].amount().is_some());
            let Some(end) = end else { return (Sign::None, k, scale) };
            scale = scale.or(other_scale(&t[k..=end]));
            k = end + 1;
        } else if at(k).is_some_and(|token| token.one_of(label.tail)) && words < 10 {
            k += 1;
            words += 1;
        } else {
            break;
        }
    }
    let close = k + usize::from(is(k, "\"'") && is(k + 1, ":"));
    if is(close, ":=→|~") {
        let mut behind = close + 1;
        while is(behind, ":=→|") {
            behind += 1;
        }
        return (Sign::Colon, if is(close, "~") { close } else { behind }, scale);
    }
    if is(k, "-–") {
        let number = at(k + 1).is_some_and(Token::is_number);
        // A minus before a number could be its sign.
        let unclear = is(k, "-") && number && t[k].spaced && !t[k + 1].spaced;
        return if unclear { (Sign::Colon, k, scale) } else { (Sign::Dash, k + 1, scale) };
    }
    let verbs = "is equals totals remains becomes comes amounts stands";
    if at(k).is_some_and(|token| token.one_of(verbs)) {
        return (Sign::Is, k + 1, scale);
    }
    if at(k).is_some_and(|token| token.one_of("of")) {
        return (Sign::Of, k + 1, scale);
    }
    (Sign::None, k, scale)
}

/// The colon behind words such as `on a scale of 0 to 5` or `, out of 5`, which begin at token `k`.
fn described(t: &[Token], k: usize) -> Option<usize> {
    let first = k + usize::from(t.get(k)?.is(','));
    if !t.get(first)?.one_of("out on from of") {
        return None;
    }
    let colon = (first + 1..t.len().min(first + 10)).find(|&end| t[end].any(":=|.;"))?;
    let amount = t[first..colon].iter().any(|token| token.amount().is_some());
    (amount && t[colon].any(":=")).then_some(colon)
}

/// Whether a group in brackets behind a label is about the label, and not what it names.
fn annotates(t: &[Token], open: usize, end: usize) -> bool {
    let behind = (end + 1..t.len()).find(|&k| !t[k].any("\"')]}"));
    match behind.map(|k| &t[k]) {
        Some(next) => next.any(":=→|-–") || next.is_number() || next.one_of("is"),
        None => {
            let number = t.get(open + 1).is_some_and(Token::is_number);
            let range = number && t.get(open + 2).is_some_and(|token| token.any("-–") || token.one_of("to"));
            t[open + 1..end].iter().all(|token| token.word().is_some()) || range || !number
        }
    }
}

/// The tokens of a line and of those under it that go on with its number, as `/5` and `= 3` do.
fn continued<'a>(lines: &[Line<'a>], number: usize) -> Option<Vec<Token<'a>>> {
    let goes_on = |line: &Line| {
        let t = line.tokens.as_slice();
        let plus = t.len() == 2 && t[0].any("+-–") && t[1].is_number();
        plus || t.first().is_some_and(|first| first.any("/=%") || first.one_of("out or percent"))
    };
    let more = lines[number + 1..].iter().take(8).take_while(|line| goes_on(line)).count();
    let all = lines[number..=number + more].iter().flat_map(|line| line.tokens.iter().copied());
    (more > 0).then(|| all.collect())
}

/// Whether the line is drawn, as under a heading or around code.
fn rule(line: &Line) -> bool {
    let text = line.text.trim();
    text.starts_with("```") || (text.len() >= 3 && text.chars().all(|c| "-=|: _*~".contains(c)))
}

/// What stands for the label alone on a line below it.
fn below(lines: &[Line], number: usize, label: &Label, alone: bool) -> Outcome {
    let table = |line: &Line| line.text.trim_start().starts_with('|');
    let filled = |n: &usize| !lines[*n].tokens.is_empty() || rule(&lines[*n]);
    let Some(mut next) = (number + 1..lines.len()).find(filled) else { return Outcome::Nothing };
    let ruled = rule(&lines[next]);
    while rule(&lines[next]) {
        let Some(after) = (next + 1..lines.len()).find(filled) else { return Outcome::Nothing };
        next = after;
    }
    let t = lines[next].tokens.as_slice();
    if table(&lines[number]) {
        // Only a table of one row says which row counts.
        let more = lines.get(next + 1).is_some_and(table);
        return if ruled && table(&lines[next]) && !more { (label.read)(t, 0, false) } else { Outcome::Nothing };
    }
    if !alone || t.iter().any(|token| token.one_of(label.names)) {
        return Outcome::Nothing;
    }
    let first = t.iter().position(|token| !token.any("\"'([{<>|~+-"));
    let value = first.is_some_and(|at| t[at].amount().is_some() || t[at].word().is_some() || !t[at].any(":"));
    if !value {
        return Outcome::Nothing;
    }
    // Numbers under one another are no score.
    let single = |line: &Line| line.tokens.len() == 1 && line.tokens[0].is_number();
    if single(&lines[next]) && lines.get(next + 1).is_some_and(single) {
        return Outcome::Broken(label_only(label));
    }
    match continued(lines, next) {
        Some(whole) => (label.read)(&whole, 0, true),
        None => (label.read)(t, 0, true),
    }
}

/// Whether the values go through a scale, one by one.
fn steps(places: &[Place]) -> bool {
    let value = |p: &Place| if let Outcome::Read(v) = p.outcome { v } else { f64::NAN };
    let by = |step: f64| places.windows(2).all(|w| value(&w[1]) - value(&w[0]) == step && w[1].line == w[0].line + 1);
    by(1.0) || by(-1.0)
}

/// Whether every line with a score gives a single point, with text between them: a list of points without a total.
fn single_points(places: &[Place], lines: &[Line]) -> bool {
    let single = |p: &Place| matches!(p.outcome, Outcome::Read(v) if v == 0.0 || v == 1.0);
    let text = |range: Range<usize>| lines[range].iter().any(|line| !line.text.trim().is_empty());
    places.len() > 2 && places.iter().all(single) && places.windows(2).all(|w| text(w[0].line + 1..w[1].line))
}

/// The place that counts: on the last line that begins with the label the last one, else the last of all. `other`:
/// whether the verdict speaks of another scale.
fn choose(places: Vec<Place>, lines: &[Line], label: &Label, other: bool) -> Result<Found, NoScore> {
    let own = |p: &Place| p.rank == Rank::Line;
    let scored = label.missing != NoScore::NoChoice;
    let (mut k, mut kept) = (0, Vec::with_capacity(places.len()));
    while k < places.len() {
        // A scale that is gone through, line by line, scores nothing.
        let mut end = k + 3;
        while scored && end < places.len() && steps(&places[k..=end]) {
            end += 1;
        }
        let scale = places.get(k..end).is_some_and(|run| scored && steps(run) && run.iter().all(own));
        if !scale {
            kept.push(places[k]);
        }
        k = if scale { end } else { k + 1 };
    }
    let places = kept;
    let alone: Vec<Place> = places.iter().copied().filter(own).collect();
    if scored && single_points(&alone, lines) {
        return Err(NoScore::NoNumber);
    }
    let counts = match alone.last() {
        Some(last) => places.iter().rfind(|p| p.line == last.line),
        None => places.last(),
    };
    match counts.map(|p| (p.outcome, p.at)) {
        Some((Outcome::Read(_), _)) if scored && other => Err(NoScore::OtherScale),
        Some((Outcome::Read(value), at)) => Ok((value, at)),
        Some((Outcome::Broken(why), _)) => Err(why),
        Some(_) => Err(label_only(label)),
        None => Err(label.missing),
    }
}
