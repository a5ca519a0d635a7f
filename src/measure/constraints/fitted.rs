//! Right answers made of a model's own: constraints that an answer meets as it is, or after a small change, are put
//! behind its instruction (constraint back-translation, arXiv 2410.24175).

use super::kinds::Kind;
use super::phrasings::Sayings;
use super::{Constraint, ConstraintSection, checks, prompt};
use crate::judge::Checks;
use crate::measure::signals::Signal;
use crate::rng::Stream;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

/// How often arguments are drawn that an answer may happen to meet.
const DRAWS: usize = 8;
/// Fewest letters of a word that is asked for or changed; shorter ones hold the sentence together.
const LETTERS: usize = 5;

/// An answer to a plain instruction, as the model gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnAnswer {
    /// The instruction.
    pub instruction: String,
    /// The answer, which ended.
    pub answer: String,
}

impl OwnAnswer {
    /// An answer that was cut, as some of its first whole sentences; how many is drawn. None where no sentence ended.
    pub fn shortened(instruction: String, cut: &str, rng: &mut Stream) -> Option<Self> {
        let ends = ends(cut);
        let end = *ends.get(rng.below(ends.len().max(1)))?;
        Some(Self { instruction, answer: cut[..end].trim().to_owned() })
    }
}

/// An instruction with constraints, and an answer that meets them.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The instruction with its constraints.
    pub prompt: String,
    /// The answer.
    pub answer: String,
    /// By what the answer is checked.
    pub checks: Checks,
    /// The instruction.
    pub base_prompt: String,
}

/// The examples, and how many of them have a constraint of each kind.
pub type Examples = (Vec<Example>, BTreeMap<&'static str, usize>);

/// Makes at most `count` examples of the answers, each of which comes as often as the others; of the kinds that can be
/// fitted to an answer the one with the fewest uses is taken. Every example was checked.
///
/// # Errors
/// A kind is unknown; nothing could be made.
pub fn examples(answers: &[OwnAnswer], how: &ConstraintSection, count: usize, seed: u64) -> Result<Examples> {
    let (kinds, sayings) = (how.drawn()?, Sayings::shipped()?);
    let mut rng = Stream::new(seed, 0xF177);
    let mut order: Vec<&OwnAnswer> = answers.iter().filter(|a| !a.answer.trim().is_empty()).collect();
    rng.shuffle(&mut order);
    let (mut seen, mut uses, mut made) = (HashSet::new(), BTreeMap::new(), Vec::new());
    loop {
        let before = made.len();
        for own in &order {
            if made.len() == count {
                return Ok((made, uses));
            }
            let wanted = rng.between(how.least.max(1), how.most.max(1));
            let Some((fitted, answer)) = fit(own, &kinds, wanted, &uses, &mut rng) else { continue };
            let mut constraints = Vec::with_capacity(fitted.len());
            for (kind, kwargs) in fitted {
                let words = sayings.say(kind.name, &kwargs, how.phrasings, &mut rng)?;
                constraints.push(Constraint { kind: kind.name, kwargs, words });
            }
            let prompt = prompt(own.instruction.trim(), &constraints);
            let checks = checks(&constraints);
            if !seen.contains(&prompt) && is_right(&prompt, &checks, &answer)? {
                constraints.iter().for_each(|c| *uses.entry(c.kind).or_default() += 1);
                seen.insert(prompt.clone());
                made.push(Example { prompt, answer, checks, base_prompt: own.instruction.trim().to_owned() });
            }
        }
        if made.is_empty() {
            let what = format!("no constraint of the kinds could be fitted to any of {} answers", order.len());
            return Err(Error::Input(what));
        }
        if made.len() == before {
            return Ok((made, uses));
        }
    }
}

/// Whether an answer meets all that its prompt asks for.
fn is_right(prompt: &str, checks: &Checks, answer: &str) -> Result<bool> {
    let bug = |what| Error::Bug(format!("a constraint that was made cannot be checked: {what}"));
    let checker = Signal::Rules.checker(prompt, checks).map_err(bug)?;
    Ok(checker.is_some_and(|checker| checker.check(answer).missed.is_empty()))
}

/// A kind of constraint with its arguments.
type FittedKind<'a> = (&'a Kind, Map<String, Value>);

/// Constraints on an answer, `wanted` if so many go together, and the answer that meets them.
fn fit<'a>(
    own: &OwnAnswer,
    kinds: &[&'a Kind],
    wanted: usize,
    uses: &BTreeMap<&'static str, usize>,
    rng: &mut Stream,
) -> Option<(Vec<FittedKind<'a>>, String)> {
    let used = |kind: &Kind| uses.get(kind.name).copied().unwrap_or(0);
    let mut left: Vec<&Kind> = kinds.to_vec();
    rng.shuffle(&mut left);
    left.sort_by_key(|kind| used(kind));
    let mut answer = own.answer.trim().to_owned();
    let mut fitted: Vec<FittedKind> = Vec::new();
    for kind in left {
        if fitted.len() == wanted {
            break;
        }
        if fitted.iter().any(|(other, _)| !kind.goes_with(other)) {
            continue;
        }
        for _ in 0..DRAWS {
            let drawn = kind.draw(rng, own.instruction.trim());
            let Some((kwargs, changed)) = change(kind.name, drawn, own, &answer, rng) else { continue };
            let one = Constraint { kind: kind.name, kwargs, words: String::new() };
            if is_right(&own.instruction, &checks(std::slice::from_ref(&one)), &changed).unwrap_or(false) {
                answer = changed;
                fitted.push((kind, one.kwargs));
                break;
            }
        }
    }
    (!fitted.is_empty()).then_some((fitted, answer))
}

/// An answer changed so that it meets a constraint with these arguments, or others that suit it better; None where
/// there is no simple way. What nothing is said of stays as it is, and may meet the constraint or not.
fn change(
    kind: &str,
    drawn: Map<String, Value>,
    own: &OwnAnswer,
    answer: &str,
    rng: &mut Stream,
) -> Option<(Map<String, Value>, String)> {
    let number = |name: &str| drawn.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let text = |name: &str| drawn.get(name).and_then(Value::as_str);
    let least = |name: &str| text(name) == Some("at least");
    let with = |kwargs: Value| kwargs.as_object().cloned().unwrap_or_default();
    let changed = match kind {
        "change_case:capital_word_frequency" if least("capital_relation") => {
            replaced(answer, number("capital_frequency")?, rng, |word| word.to_uppercase())?
        }
        "change_case:english_capital" => answer.to_uppercase(),
        "change_case:english_lowercase" => answer.to_lowercase(),
        "combination:repeat_prompt" => format!("{}\n\n{answer}", own.instruction.trim()),
        "detectable_content:number_placeholders" => {
            replaced(answer, number("num_placeholders")?, rng, |word| format!("[{word}]"))?
        }
        "detectable_content:postscript" => match &sentences(answer)[..] {
            [first @ .., last] if !first.is_empty() => {
                format!("{}\n\n{} {last}", first.join(" "), text("postscript_marker")?)
            }
            _ => return None,
        },
        "detectable_format:json_format" => json!({ "answer": answer }).to_string(),
        "detectable_format:multiple_sections" => {
            let head = text("section_spliter")?;
            parted(answer, number("num_sections")?, |i, part| format!("{head} {i}\n{part}"), "\n\n")?
        }
        "detectable_format:number_bullet_lists" => {
            parted(answer, number("num_bullets")?, |_, part| format!("* {part}"), "\n")?
        }
        "detectable_format:number_highlighted_sections" => {
            replaced(answer, number("num_highlights")?, rng, |word| format!("*{word}*"))?
        }
        "detectable_format:title" => format!("<<{}>>\n\n{answer}", title(&own.instruction)?),
        "keywords:existence" => {
            let words = words(answer).into_iter().map(|(_, word)| word);
            let mut words: Vec<&str> = words.filter(|word| !is_in(&own.instruction, word)).collect();
            rng.shuffle(&mut words);
            words.truncate(drawn.get("keywords")?.as_array()?.len());
            return (!words.is_empty()).then(|| (with(json!({ "keywords": words })), answer.to_owned()));
        }
        "keywords:frequency" => {
            let (word, count) = repeated(answer)?;
            let kwargs = json!({"keyword": word, "frequency": count.min(3), "relation": "at least"});
            return Some((with(kwargs), answer.to_owned()));
        }
        "length_constraints:nth_paragraph_first_word" => {
            let (n, nth) = (number("num_paragraphs")?, number("nth_paragraph")?);
            let changed = parted(answer, n, |_, part| part.to_owned(), "\n\n")?;
            let word = changed.split("\n\n").nth(nth.checked_sub(1)?)?.split_whitespace().next()?;
            let word = word.trim_matches(|c: char| !c.is_alphanumeric());
            let kwargs = json!({"num_paragraphs": n, "nth_paragraph": nth, "first_word": word});
            return Some((with(kwargs), changed));
        }
        "length_constraints:number_paragraphs" => {
            parted(answer, number("num_paragraphs")?, |_, part| part.to_owned(), "\n***\n")?
        }
        "startend:end_checker" => format!("{answer} {}", text("end_phrase")?),
        "startend:quotation" => format!("\"{}\"", answer.replace('"', "'")),
        _ => answer.to_owned(),
    };
    Some((drawn, changed))
}

/// Where sentences end, or what looks like them: before a blank, or at the end, behind a full stop or its like.
fn ends(answer: &str) -> Vec<usize> {
    let (mut all, mut ended) = (Vec::new(), false);
    for (at, c) in answer.char_indices().chain([(answer.len(), ' ')]) {
        if c.is_whitespace() && ended {
            all.push(at);
        }
        ended = matches!(c, '.' | '!' | '?');
    }
    all
}

/// The sentences; the last one need not have ended.
fn sentences(answer: &str) -> Vec<&str> {
    let mut first = 0;
    let part = |end: usize| answer[std::mem::replace(&mut first, end)..end].trim();
    ends(answer).into_iter().chain([answer.len()]).map(part).filter(|sentence| !sentence.is_empty()).collect()
}

/// The answer's sentences in `n` parts, each as `write` has its number, from 1, and its words.
fn parted(answer: &str, n: usize, write: impl Fn(usize, &str) -> String, between: &str) -> Option<String> {
    let all = sentences(answer);
    if n == 0 || all.len() < n {
        return None;
    }
    let part = |i: usize| all[i * all.len() / n..(i + 1) * all.len() / n].join(" ").replace('\n', " ");
    Some((0..n).map(|i| write(i + 1, &part(i))).collect::<Vec<_>>().join(between))
}

/// The different words of some length with their places in bytes, in their order, as they are first written.
fn words(answer: &str) -> Vec<(usize, &str)> {
    let (mut all, mut seen, mut at) = (Vec::new(), HashSet::new(), 0);
    for word in answer.split(|c: char| !c.is_alphanumeric()) {
        let long = word.chars().count() >= LETTERS && word.chars().all(char::is_alphabetic);
        if long && seen.insert(word.to_lowercase()) {
            all.push((at, word));
        }
        // Behind the word stands the character at which it was split.
        at += word.len() + answer[at + word.len()..].chars().next().map_or(0, char::len_utf8);
    }
    all
}

fn is_in(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}

/// The word that comes most often, at least twice, and how often.
fn repeated(answer: &str) -> Option<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in answer.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() >= LETTERS) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    counts.into_iter().filter(|(_, n)| *n > 1).min_by_key(|(word, n)| (Reverse(*n), word.clone()))
}

/// The answer with `n` of its words written otherwise, each where it first stands.
fn replaced(answer: &str, n: usize, rng: &mut Stream, write: impl Fn(&str) -> String) -> Option<String> {
    let mut places = words(answer);
    rng.shuffle(&mut places);
    places.truncate(n);
    places.sort_unstable();
    if places.len() < n {
        return None;
    }
    let (mut text, mut from) = (String::new(), 0);
    for (at, word) in places {
        text.push_str(&answer[from..at]);
        text.push_str(&write(word));
        from = at + word.len();
    }
    text.push_str(&answer[from..]);
    Some(text)
}

/// A title of an instruction's last words: those behind its last article, or the last one.
fn title(instruction: &str) -> Option<String> {
    let words = instruction.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let article = words.iter().rposition(|word| matches!(*word, "a" | "an" | "the")).map(|at| at + 1);
    let first = article.filter(|at| *at < words.len()).unwrap_or(words.len().checked_sub(1)?);
    let capital = |word: &&str| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    };
    Some(words[first..].iter().map(capital).collect::<Vec<_>>().join(" "))
}

/// The kinds that are never fitted: one hangs on the language of the answer, one wants a second answer.
#[cfg(test)]
pub(super) const UNFITTED: [&str; 2] = ["combination:two_responses", "language:response_language"];

#[cfg(test)]
mod tests {
    use super::super::kinds::KINDS;
    use super::*;

    const ANSWERS: [&str; 3] = [
        "A lighthouse is a tower that guides ships at night. It stands near the water and warns of rocks. Sailors \
         trust the lighthouse in every storm.",
        "Bread is made of flour and water. The baker leaves the bread to rise before it is baked.",
        "Rivers carry water from the hills to the sea. Many rivers bring life to dry land. Fish swim in them. People \
         drink from them.",
    ];

    fn own() -> Vec<OwnAnswer> {
        let of = ["Write about a lighthouse.", "Describe bread.", "What is there to say about rivers?"];
        of.iter()
            .zip(ANSWERS)
            .map(|(instruction, answer)| OwnAnswer { instruction: instruction.to_string(), answer: answer.into() })
            .collect()
    }

    #[test]
    fn every_kind_is_fitted_and_every_example_is_right() {
        let how = ConstraintSection::default().most(1);
        let (all, uses) = examples(&own(), &how, 200, 3).unwrap();
        for kind in KINDS.iter().filter(|kind| kind.usual) {
            assert_eq!(uses.contains_key(kind.name), !UNFITTED.contains(&kind.name), "{}: {uses:?}", kind.name);
        }
        let prompts: HashSet<&str> = all.iter().map(|e| e.prompt.as_str()).collect();
        assert!(prompts.len() == all.len() && all.len() > 60, "{}", all.len());
        for e in &all {
            let found = Signal::Rules.checker(&e.prompt, &e.checks).unwrap().unwrap().check(&e.answer);
            assert!(found.missed.is_empty() && e.prompt.starts_with(&e.base_prompt), "{e:?}: {found:?}");
        }
        assert_eq!(examples(&own(), &how, 200, 3).unwrap().0, all);
        assert_ne!(examples(&own(), &how, 200, 4).unwrap().0, all);
    }

    #[test]
    fn several_constraints_are_met_together() {
        let how = ConstraintSection::default().least(2).most(3);
        let (all, _) = examples(&own(), &how, 60, 1).unwrap();
        let count = |e: &Example| e.checks.kwargs.as_ref().and_then(Value::as_array).map_or(0, Vec::len);
        let counts: Vec<usize> = all.iter().map(count).collect();
        assert!(counts.contains(&3) && counts.iter().filter(|n| **n > 1).count() > counts.len() / 2);
    }

    #[test]
    fn kinds_come_alike() {
        let kinds = ["startend:quotation", "punctuation:no_comma", "detectable_format:title"];
        let how = ConstraintSection::default().most(1).kinds(kinds.map(String::from).to_vec());
        let (all, uses) = examples(&own(), &how, 9, 0).unwrap();
        assert!(all.len() == 9 && uses.values().all(|n| *n == 3), "{uses:?}");
        assert!(all.iter().any(|e| e.answer.starts_with("<<Lighthouse>>\n\nA lighthouse is")), "{all:?}");
    }

    #[test]
    fn what_was_cut_is_shortened_to_whole_sentences() {
        let mut rng = Stream::new(0, 1);
        let cut = "Tea is hot! It costs 1.50 or so. Who\ndrinks it? Many do, and";
        let mut drawn: Vec<String> =
            (0..40).map(|_| OwnAnswer::shortened("Tea.".into(), cut, &mut rng).unwrap().answer).collect();
        drawn.sort_unstable();
        drawn.dedup();
        let first = "Tea is hot!";
        let two = format!("{first} It costs 1.50 or so.");
        assert_eq!(drawn, [first.to_owned(), two.clone(), format!("{two} Who\ndrinks it?")]);
        assert_eq!(OwnAnswer::shortened("Tea.".into(), "It is 1.5 times as", &mut rng), None);
        assert_eq!(sentences(cut).len(), 4);
    }

    #[test]
    fn answers_that_fit_nothing_are_said() {
        let how = ConstraintSection::default().most(1).kinds(vec!["detectable_content:postscript".into()]);
        let one = OwnAnswer { instruction: "Describe tea.".into(), answer: "Tea.".into() };
        let error = examples(&[one], &how, 3, 0).unwrap_err().to_string();
        assert!(error.contains("of 1 answers"), "{error}");
    }
}
