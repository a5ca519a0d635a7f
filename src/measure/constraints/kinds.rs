//! Which kinds of constraint can be drawn, with which arguments, and which of them contradict one another.

use crate::rng::Stream;
use serde_json::{Map, Value, json};

/// What a constraint settles of an answer. Two kinds that settle the same never come together: each by itself can be
/// met, but both may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aspect {
    /// Capital and small letters; words that must be there as they are written settle it, too.
    Case,
    Start,
    End,
    /// What parts it has, such as paragraphs and bullet points.
    Parts,
    Length,
    /// Which words occur.
    Words,
    /// How often letters occur.
    Letters,
    /// What stars and brackets mean.
    Marks,
    Commas,
    Language,
}

use Aspect::{Case, Commas, End, Language, Length, Letters, Marks, Parts, Start, Words};

/// A kind that settles the whole form leaves room for none of these.
const FORM: &[Aspect] = &[Case, Start, End, Parts, Length, Letters, Marks, Commas, Language];

/// Draws the arguments of a constraint on the answer to a prompt.
type Arguments = fn(&mut Stream, &str) -> Value;

/// A kind of constraint that can be drawn.
pub(super) struct Kind {
    /// Its name in IFEval's files.
    pub(super) name: &'static str,
    /// What it settles.
    pub(super) aspects: &'static [Aspect],
    /// Whether it is drawn unless the user lists kinds.
    pub(super) usual: bool,
    arguments: Arguments,
}

const LESS: &str = "less than";
const LEAST: &str = "at least";

/// Words that fit into a text about almost anything.
pub(super) const KEYWORDS: [&str; 40] = [
    "bridge", "morning", "garden", "friend", "river", "window", "letter", "silver", "quiet", "journey", "market",
    "stone", "winter", "music", "yellow", "teacher", "secret", "table", "forest", "summer", "careful", "island",
    "family", "village", "shadow", "gentle", "kitchen", "story", "ticket", "weather", "mirror", "north", "simple",
    "candle", "promise", "harvest", "corner", "wonder", "blanket", "evening",
];

/// Words that a text about almost anything may do without, and often does not.
pub(super) const FORBIDDEN: [&str; 24] = [
    "very",
    "great",
    "important",
    "many",
    "people",
    "also",
    "often",
    "well",
    "good",
    "new",
    "used",
    "time",
    "world",
    "beautiful",
    "special",
    "known",
    "popular",
    "different",
    "various",
    "unique",
    "perfect",
    "essential",
    "enjoy",
    "make",
];

/// What sections can be called.
const SECTIONS: [&str; 4] = ["Section", "Part", "SECTION", "Day"];

/// Words with which a paragraph can begin.
const FIRST: [&str; 12] =
    ["Today", "Often", "Once", "Imagine", "Later", "Here", "Nobody", "Perhaps", "Finally", "Every", "When", "Still"];

/// Last words.
pub(super) const ENDINGS: [&str; 10] = [
    "That is all there is to it.",
    "Have a nice day!",
    "I hope this helps.",
    "What would you add?",
    "Over and out.",
    "Thank you for reading.",
    "And so it goes.",
    "Ask me again tomorrow.",
    "Nothing more to say.",
    "Case closed.",
];

/// Languages with their codes.
pub(super) const LANGUAGES: [(&str, &str); 5] =
    [("de", "German"), ("es", "Spanish"), ("fr", "French"), ("it", "Italian"), ("pt", "Portuguese")];

fn one<'a>(rng: &mut Stream, list: &'a [&'a str]) -> &'a str {
    rng.choose(list).copied().unwrap_or_default()
}

/// `n` different words of a list.
fn some(rng: &mut Stream, list: &[&'static str], n: usize) -> Vec<&'static str> {
    let mut list = list.to_vec();
    rng.shuffle(&mut list);
    list.truncate(n);
    list
}

/// A number of fives, from `low` to `high` fives.
fn fives(rng: &mut Stream, low: usize, high: usize) -> usize {
    5 * rng.between(low, high)
}

fn no_arguments(_: &mut Stream, _: &str) -> Value {
    json!({})
}

/// Every kind that can be drawn. `detectable_format:constrained_response` is not: it answers a question of yes or no.
pub(super) const KINDS: [Kind; 24] = [
    kind("change_case:capital_word_frequency", &[Case], |rng, _| match rng.below(2) {
        0 => json!({"capital_relation": LESS, "capital_frequency": rng.between(2, 4)}),
        _ => json!({"capital_relation": LEAST, "capital_frequency": rng.between(2, 4)}),
    }),
    kind("change_case:english_capital", &[Case], no_arguments),
    kind("change_case:english_lowercase", &[Case], no_arguments),
    kind(
        "combination:repeat_prompt",
        &[Case, Start, Parts, Length, Words, Letters, Marks, Commas, Language],
        |_, base| json!({ "prompt_to_repeat": base }),
    ),
    kind("combination:two_responses", &[Start, End, Parts, Length, Marks], no_arguments),
    kind("detectable_content:number_placeholders", &[Marks], |rng, _| json!({"num_placeholders": rng.between(2, 3)})),
    kind(
        "detectable_content:postscript",
        &[Case, End],
        |rng, _| json!({"postscript_marker": one(rng, &["P.S.", "P.P.S"])}),
    ),
    kind("detectable_format:json_format", FORM, no_arguments),
    kind(
        "detectable_format:multiple_sections",
        &[Case, Parts],
        |rng, _| json!({"section_spliter": one(rng, &SECTIONS), "num_sections": rng.between(2, 3)}),
    ),
    kind("detectable_format:number_bullet_lists", &[Parts, Marks], |rng, _| json!({"num_bullets": rng.between(2, 4)})),
    kind(
        "detectable_format:number_highlighted_sections",
        &[Marks],
        |rng, _| json!({"num_highlights": rng.between(2, 3)}),
    ),
    kind("detectable_format:title", &[Start], no_arguments),
    kind("keywords:existence", &[Words], |rng, _| {
        let n = rng.between(1, 2);
        json!({"keywords": some(rng, &KEYWORDS, n)})
    }),
    kind("keywords:forbidden_words", &[Language], |rng, _| {
        let n = rng.between(1, 3);
        json!({"forbidden_words": some(rng, &FORBIDDEN, n)})
    }),
    kind(
        "keywords:frequency",
        &[Words],
        |rng, _| json!({"keyword": one(rng, &KEYWORDS), "frequency": rng.between(2, 3), "relation": LEAST}),
    ),
    kind("keywords:letter_frequency", &[Words, Letters, Length, Case], |rng, _| match rng.below(2) {
        0 => json!({"letter": one(rng, &["k", "w", "y", "g", "b", "v"]), "let_relation": LESS,
                    "let_frequency": rng.between(3, 8)}),
        _ => json!({"letter": one(rng, &["e", "a", "t", "o", "s", "n"]), "let_relation": LEAST,
                    "let_frequency": fives(rng, 1, 4)}),
    }),
    Kind {
        usual: false,
        ..kind(
            "language:response_language",
            &[Case, Start, End, Words, Letters, Language],
            |rng, _| json!({"language": LANGUAGES[rng.below(LANGUAGES.len())].0}),
        )
    },
    kind("length_constraints:nth_paragraph_first_word", &[Case, Start, Parts], |rng, _| {
        let paragraphs = rng.between(2, 3);
        json!({"num_paragraphs": paragraphs, "nth_paragraph": rng.between(1, paragraphs),
               "first_word": one(rng, &FIRST)})
    }),
    kind(
        "length_constraints:number_paragraphs",
        &[Parts, Marks],
        |rng, _| json!({"num_paragraphs": rng.between(2, 3)}),
    ),
    kind("length_constraints:number_sentences", &[Length, Parts, End], |rng, _| match rng.below(2) {
        0 => json!({"relation": LESS, "num_sentences": rng.between(2, 4)}),
        _ => json!({"relation": LEAST, "num_sentences": rng.between(2, 4)}),
    }),
    kind("length_constraints:number_words", &[Length], |rng, _| match rng.below(2) {
        0 => json!({"relation": LESS, "num_words": fives(rng, 6, 10)}),
        _ => json!({"relation": LEAST, "num_words": fives(rng, 4, 9)}),
    }),
    kind("punctuation:no_comma", &[Commas], no_arguments),
    kind("startend:end_checker", &[Case, End], |rng, _| json!({"end_phrase": one(rng, &ENDINGS)})),
    kind("startend:quotation", &[Start, End], no_arguments),
];

const fn kind(name: &'static str, aspects: &'static [Aspect], arguments: Arguments) -> Kind {
    Kind { name, aspects, usual: true, arguments }
}

impl Kind {
    /// Whether the two may come together.
    pub(super) fn goes_with(&self, other: &Kind) -> bool {
        self.name != other.name && !self.aspects.iter().any(|aspect| other.aspects.contains(aspect))
    }

    /// Draws what the constraint is told.
    pub(super) fn draw(&self, rng: &mut Stream, base: &str) -> Map<String, Value> {
        (self.arguments)(rng, base).as_object().cloned().unwrap_or_default()
    }
}
