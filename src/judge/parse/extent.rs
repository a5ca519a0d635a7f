//! Where a verdict begins and ends: thoughts and examples do not belong to it, and it is over where the model goes on
//! with a new turn or with the judge's prompt.

use super::clean::Clean;
use super::token::among;
use std::ops::Range;

/// The words with which the judge's prompt begins its parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Openings {
    any: Vec<String>,
    /// The points of its lists, which a verdict may go through before it gives its score.
    listed: Vec<String>,
}

/// Words that count for the beginning of a sentence of the prompt.
const OPENING: usize = 6;

impl Openings {
    /// The beginnings of the sentences of a judge's template, and what stands around its places.
    pub(crate) fn of(template: &str) -> Self {
        let lines: Vec<&str> = template.lines().map(str::trim).collect();
        let (mut any, mut points) = (Vec::new(), Vec::new());
        for (i, line) in lines.iter().enumerate() {
            let listed = line.starts_with(|c: char| c.is_ascii_digit() || "-*•".contains(c));
            match line.split_once("{{").or_else(|| line.split_once("{%")) {
                Some((before, _)) if !before.trim().is_empty() => any.push(folded(before)),
                Some(_) => {
                    let around = [lines[..i].last(), lines.get(i + 1)];
                    any.extend(around.into_iter().flatten().map(|line| folded(line)));
                }
                None => {
                    let sentences = line.split(". ").map(|s| folded(s).split(' ').map(str::to_owned).collect());
                    let long = sentences.filter(|words: &Vec<String>| words.len() >= 4);
                    let openings = if listed { &mut points } else { &mut any };
                    openings.extend(long.map(|words| words[..words.len().min(OPENING)].join(" ")));
                }
            }
        }
        any.retain(|o| o.len() >= 4 && !o.contains("{{") && o.chars().any(char::is_alphabetic));
        any.sort_unstable();
        any.dedup();
        Self { any, listed: points }
    }

    /// Whether the prompt begins again with this line. `scored`: whether a score was spoken of before.
    fn begin(&self, line: &str, scored: bool) -> bool {
        let mut cut = line.len().min(200);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        let line = folded(line[..cut].trim_start_matches(|c: char| "*_#> `.)".contains(c) || c.is_ascii_digit()));
        let usual = ["below is a", "below are ", "review the user"];
        let late = self.listed.iter().map(String::as_str).chain(usual).filter(|_| scored);
        self.any.iter().map(String::as_str).chain(late).any(|opening| line.starts_with(opening))
    }
}

/// The text in small letters, its words parted by one space.
fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Names of the tags around thoughts that are spellings of one another.
const THINK: &str = "think thinking thought thoughts";
/// Names of other tags around what is no verdict.
const ASIDE: &str = "reason analysis internal seed:think cot plan example examples draft planning";
/// Parts of such names.
const WITHIN: &str = "think thought reasoning monologue scratchpad reflect";
/// Marks around thoughts and remarks that are no tags.
const MARKS: [(&str, &str); 3] =
    [("<|channel|>analysis", "<|end|>"), ("<|channel>thought", "<channel|>"), ("<!--", "-->")];

/// A tag of a thought: whether it opens one, which, and the bytes of the tag.
#[derive(Debug)]
struct Tag<'a> {
    opens: bool,
    name: &'a str,
    at: Range<usize>,
}

/// The tags of thoughts and examples in order. `lower`: the text in small letters.
fn tags(lower: &str) -> Vec<Tag<'_>> {
    let mut tags: Vec<Tag> = Vec::new();
    let mut end = 0;
    for (at, c) in lower.char_indices() {
        let quoted = lower[..at].ends_with(['`', '"', '\'']);
        if at < end || quoted || !"<[◁-".contains(c) {
            continue;
        }
        let rest = &lower[at..];
        if let Some((opens, name, length)) = mark(rest).or_else(|| tag(rest, c)) {
            end = at + length;
            tags.push(Tag { opens, name, at: at..end });
        }
    }
    tags
}

/// Whether a mark opens a thought, its name and its length.
fn mark(rest: &str) -> Option<(bool, &str, usize)> {
    MARKS.iter().find_map(|(open, close)| {
        let closes = rest.starts_with(close).then_some((false, *open, close.len()));
        rest.starts_with(open).then_some((true, *open, open.len())).or(closes)
    })
}

/// What [`mark`] gives, for a tag whose bracket is `bracket`.
fn tag(rest: &str, bracket: char) -> Option<(bool, &str, usize)> {
    let blank = |c: char| c == ' ' || c == '|';
    let inner = rest.get(bracket.len_utf8()..)?.trim_start_matches(blank);
    let (opens, inner) = inner.strip_prefix('/').map_or((true, inner), |inner| (false, inner));
    let inner = inner.trim_start_matches(blank);
    let named = |c: char| c.is_ascii_alphanumeric() || "_:▁-".contains(c);
    let end = inner.char_indices().take(40).find(|(_, c)| !named(*c))?.0;
    let word = &inner[..end];
    // Square brackets and triangles are put around thoughts alone.
    let other = bracket == '<' && (among(ASIDE, word) || WITHIN.split(' ').any(|part| word.contains(part)));
    let name = if among(THINK, word) { "think" } else { word };
    if bracket == '-' || !(name == "think" || other) {
        return None;
    }
    let (close, c) = inner[end..].char_indices().take(60).find(|(_, c)| "▷>]".contains(*c))?;
    let tail = &inner[end + close + c.len_utf8()..];
    // Special tokens tell the end of a thought by a word.
    let (opens, name) = match ["end_of_", "end▁of▁", "end_"].iter().find_map(|end| name.strip_prefix(end)) {
        Some(name) => (false, name),
        None => (opens, ["begin_of_", "begin▁of▁", "start_"].iter().find_map(|b| name.strip_prefix(b)).unwrap_or(name)),
    };
    Some((opens, name, rest.len() - tail.len()))
}

/// The name of a thought that any tag closes.
const ANY: &str = "";

/// Whether a thought is open at the end of a prompt.
pub(crate) fn leaves_thought_open(prompt: &str) -> bool {
    tags(&prompt.to_ascii_lowercase()).last().is_some_and(|tag| tag.opens && prompt[tag.at.end..].trim().is_empty())
}

/// The parts that are thoughts or examples, closed or not, and where the last thought ends that nothing opens.
fn asides(text: &str, in_thought: bool) -> (Vec<Range<usize>>, Option<Range<usize>>) {
    let (mut parts, mut stray) = (Vec::new(), None);
    let mut open = in_thought.then_some((ANY, 0));
    let lower = text.to_ascii_lowercase();
    for tag in tags(&lower) {
        match open {
            None if tag.opens => open = Some((tag.name, tag.at.start)),
            Some((name, start)) if !tag.opens && (tag.name == name || name == ANY) => {
                parts.push(start..tag.at.end);
                open = None;
            }
            // A mark that only ends something may end anything.
            None if !tag.name.starts_with('<') => {
                parts.clear();
                stray = Some(tag.at);
            }
            _ => {}
        }
    }
    parts.extend(open.map(|(_, start)| start..text.len()));
    (parts, stray)
}

/// The verdict in the text. `in_thought`: whether the text begins inside a thought. Where nothing opens a thought that
/// ends, there is a second text as well: what would be the verdict if the thought were part of a later turn.
pub(super) fn verdict(clean: &Clean, openings: &Openings, label: &str, in_thought: bool) -> (Clean, Option<Clean>) {
    let (mut parts, stray) = asides(&clean.text, in_thought);
    let Some(stray) = stray else { return (turn(&clean.without(&parts), openings, label), None) };
    let before = clean.part(0..stray.start);
    let first = turn(&before, openings, label);
    let ended = first.text.trim_end().len() < before.text.trim().len();
    parts.insert(0, 0..stray.end);
    (turn(&clean.without(&parts), openings, label), ended.then_some(first))
}

/// Names of those who speak in a conversation; the judge's prompt speaks with the last of them.
const ROLES: &str =
    "user human system assistant question instruction instructions input prompt query q usr customer student";
/// Names that also head a part of a verdict: they begin something new only after a score.
const WEAK: &str = "\
    response answer output model task context request problem ai example end next conversation dialogue exercise \
    test case sample passage";
/// Parts of the words that head a part of a verdict.
const JUDGING: &str = "\
    score verdict final overall total justif explan reason evaluat assess analys rational summar conclu feedback \
    comment strength weak improve note criteri rating judg breakdown discuss detail revis correct better";
/// The judge's own name at the beginning of its turn.
const OWN: &str = "assistant response answer output model judge";

/// The first turn of the text: without the name of the one who speaks, and up to the next turn.
fn turn(clean: &Clean, openings: &Openings, label: &str) -> Clean {
    let text = clean.text.as_str();
    let start = text.len() - without_own_name(text).len();
    let text = &text[start..];
    let mut at = 0;
    let (mut scored, mut headed) = (false, false);
    let mut end = text.len();
    for line in text.split_inclusive('\n') {
        let head = line.trim_start().starts_with("##");
        // Where no heading led to the score, one behind it that is about no judging leads to something else.
        let strange = head && scored && !headed && !is_judging(line);
        if strange || begins_turn(line, scored) || openings.begin(line, scored) {
            end = at;
            break;
        }
        headed |= head;
        if let Some(cut) = cut_within(line, label) {
            end = at + cut;
            break;
        }
        scored |= names_score(line, label);
        at += line.len();
    }
    clean.part(start..start + end)
}

/// Whether the label stands in the line with what it names, or alone.
fn names_score(line: &str, label: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    lower.match_indices(label).any(|(at, _)| {
        let rest = lower[at + label.len()..].trim_start_matches(|c: char| c == 's' || " *_\"'`])}".contains(c));
        rest.trim().is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || ":=-–|(→".contains(c))
    })
}

fn is_judging(line: &str) -> bool {
    let words = heading(line).0;
    words.iter().any(|word| JUDGING.split(' ').any(|part| word.contains(part)))
}

/// The text behind marks and names with which the judge's own turn begins.
fn without_own_name(text: &str) -> &str {
    let mut text = text;
    loop {
        text = text.trim_start();
        if let Some((name, rest)) = special(text) {
            let after = rest.trim_start().get(..4).unwrap_or("").to_ascii_lowercase();
            let begins =
                ["start", "bos", "begin", "header", "channel", "message", "assistant", "model", "/inst", "gmask"];
            let role = name.starts_with('|') && name.contains("end") && !name.contains("header");
            let other = ["user", "huma", "syst"].iter().any(|who| name.contains(who) || after.starts_with(who));
            if other || role || !(name == "s" || begins.iter().any(|b| name.contains(b))) {
                return text;
            }
            text = rest;
            if let Some(rest) = ["assistant", "model", "final", "commentary"].iter().find_map(|w| text.strip_prefix(w))
            {
                text = rest;
            }
            continue;
        }
        let hash = text.trim_start_matches('#');
        let line = hash.lines().next().unwrap_or("");
        let (words, colon) = heading(line);
        let whole = line.trim().chars().all(char::is_alphanumeric);
        match words.as_slice() {
            [word] if among(OWN, word) && (colon.is_some() || whole || hash.len() < text.len()) => {
                text = &hash[colon.unwrap_or(line.len())..];
                text = text.trim_start_matches(['*', '_']);
            }
            _ => return text,
        }
    }
}

/// The words of a line up to its first colon or its end, without ornaments, and where the text after the colon begins.
fn heading(line: &str) -> (Vec<String>, Option<usize>) {
    let mut cut = line.len().min(80);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    let colon = line[..cut].find(':');
    let head = &line[..colon.unwrap_or(cut)];
    let words = head.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
    (words, colon.map(|at| at + 1))
}

/// Whether a line is the beginning of a new turn or example. `scored`: whether a score was spoken of before.
fn begins_turn(line: &str, scored: bool) -> bool {
    let line = line.trim();
    let bare = line.trim_start_matches(|c: char| "*_>`[ ".contains(c));
    let hash = bare.starts_with('#');
    let listed = line.starts_with("- ") || line.starts_with("* ") || line.starts_with("• ");
    let (words, colon) = heading(bare);
    let counted = |word: &str| scored && among(ROLES, word.trim_end_matches(|c: char| c.is_ascii_digit()));
    let named = |word: &String| among(ROLES, word) || counted(word) || (scored && among(WEAK, word));
    // "New question", "User question" and "Question 2" head a turn as "Question" does.
    let filler = |word: &String| among("new next another", word) || word.parse::<u32>().is_ok();
    let all = !words.is_empty() && words.iter().all(|w| named(w) || filler(w)) && words.iter().any(named);
    let example = words.first().is_some_and(|w| w.starts_with("example")) && words.len() <= 2;
    let numbered = example && words.get(1).is_some_and(|w| w.parse::<u32>().is_ok());
    let speaker = |w: &String| among("user human system assistant model", w);
    let single = !bare.contains(' ') && words.len() == 1 && words.iter().all(speaker);
    let alone = single || (scored && all && words.len() <= 2 && bare.len() < 30);
    let tagged = |names: &str| {
        let inner = line.strip_prefix('<').map(|inner| inner.get(..20).unwrap_or(inner).to_lowercase());
        inner.is_some_and(|inner| {
            names.split(' ').any(|name| inner.strip_prefix(name).is_some_and(|r| r.starts_with('>')))
        })
    };
    if tagged(ROLES) || (scored && tagged(WEAK)) {
        return true;
    }
    if hash {
        return words.len() <= 3 && (all || numbered || (example && scored));
    }
    let headed = colon.is_some() && words.len() <= 3 && all;
    let closed = colon.is_some() || bare.trim_end_matches(['*', '_', ']']).ends_with(char::is_alphanumeric);
    (scored || !listed) && (headed || alone || (closed && (numbered || (example && scored))))
}

/// Where a new turn begins within a line.
fn cut_within(line: &str, label: &str) -> Option<usize> {
    const SPEAKERS: [&str; 6] = ["User:", "Human:", "USER:", "HUMAN:", "Assistant:", "ASSISTANT:"];
    const PARTS: [&str; 4] = ["Question:", "Instruction:", "Input:", "Response:"];
    let scored = line.to_ascii_lowercase().find(label).unwrap_or(line.len());
    for (at, c) in line.char_indices() {
        let rest = &line[at..];
        match c {
            '<' | '[' if special(rest).is_some() => return Some(at),
            '#' if at > 0 && rest.starts_with("###") && !line[..at].ends_with('#') => {
                let (words, _) = heading(rest.trim_start_matches('#'));
                if words.first().is_some_and(|first| among(ROLES, first)) {
                    return Some(at);
                }
            }
            'U' | 'H' | 'A' | 'Q' | 'I' | 'R' => {
                let before = line[..at].trim_end().trim_end_matches(['*', '"', ')', ']']);
                let ends = before.ends_with(|c: char| c.is_ascii_digit() || ".!?".contains(c));
                let begins = |names: &[&str]| names.iter().any(|name| rest.starts_with(name));
                if ends && (begins(&SPEAKERS) || (at > scored && begins(&PARTS))) {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The special token at the beginning of the text, its name in small letters, and what follows it.
fn special(text: &str) -> Option<(String, &str)> {
    let known = [
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
        "<<sys>>",
        "<</sys>>",
        "[inst]",
        "[/inst]",
        "[gmask]",
        "<pad>",
        "<eod>",
        "<eot>",
    ];
    if !text.starts_with(['<', '[']) {
        return None;
    }
    let head = text.get(..20).unwrap_or(text);
    let fits = |token: &&&str| head.get(..token.len()).is_some_and(|start| start.eq_ignore_ascii_case(token));
    if let Some(token) = known.iter().find(fits) {
        return Some((token.trim_matches(['<', '>', '[', ']']).to_owned(), &text[token.len()..]));
    }
    let inner = text.strip_prefix("<|")?;
    let end = inner.char_indices().take(41).find(|(_, c)| *c == '|' || *c == '>')?.0;
    let name = &inner[..end];
    let rest = inner[end..].strip_prefix("|>").or_else(|| inner[end..].strip_prefix('>'))?;
    let plain = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '<');
    plain.then(|| (format!("|{}", name.to_lowercase()), rest))
}
