//! Every constraint that is drawn can be met, alone and with those beside it, and says what its checker asks.

use super::phrasings::Sayings;
use super::*;
use crate::measure::signals::Signal;
use serde_json::json;

fn settings(most: usize, kinds: &[&str], phrasings: Phrasings) -> ConstraintSection {
    ConstraintSection { most, kinds: kinds.iter().map(|k| k.to_string()).collect(), phrasings, ..Default::default() }
}

/// Words that are known as English, and hold few of the letters that are counted.
const WORD: &str = "this is the hill";

fn number(c: &Constraint, name: &str) -> usize {
    c.kwargs[name].as_u64().unwrap() as usize
}

/// `n` parts, each with the words behind what `head` gives it.
fn parts(words: &str, n: usize, head: impl Fn(usize) -> String, join: &str) -> String {
    (1..=n).map(|i| format!("{}{words} {i}", head(i))).collect::<Vec<_>>().join(join)
}

/// An answer that meets these constraints.
fn answer(constraints: &[Constraint]) -> String {
    let find = |kind: &str| constraints.iter().find(|c| c.kind == kind);
    let least = |c: &Constraint, name: &str| c.kwargs[name] == "at least";
    // Without the letters of which there may be few.
    let word = if find("keywords:letter_frequency").is_some() { "mild hill" } else { WORD };
    let mut text = word.to_owned();
    if let Some(c) = find("length_constraints:number_paragraphs") {
        text = parts(word, number(c, "num_paragraphs"), |_| String::new(), "\n***\n");
    }
    if let Some(c) = find("length_constraints:nth_paragraph_first_word") {
        let first = c.kwargs["first_word"].as_str().unwrap();
        text = parts(
            word,
            number(c, "num_paragraphs"),
            |i| match i == number(c, "nth_paragraph") {
                true => format!("{first} "),
                false => String::new(),
            },
            "\n\n",
        );
    }
    if let Some(c) = find("detectable_format:multiple_sections") {
        text = parts(
            word,
            number(c, "num_sections"),
            |i| format!("{} {i}\n", c.kwargs["section_spliter"].as_str().unwrap()),
            "\n",
        );
    }
    if let Some(c) = find("detectable_format:number_bullet_lists") {
        text = parts(word, number(c, "num_bullets"), |_| "* ".into(), "\n");
    }
    if find("combination:two_responses").is_some() {
        text = parts(word, 2, |_| String::new(), "\n******\n");
    }
    if let Some(c) = find("length_constraints:number_sentences").filter(|c| least(c, "relation")) {
        text = vec!["A mild hill."; number(c, "num_sentences")].join(" ");
    }
    let words = |c: &Constraint, name: &str| -> Vec<String> {
        c.kwargs[name].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect()
    };
    let with = |text: &mut String, add: String| *text = format!("{text} {add}");
    if let Some(c) = find("keywords:existence") {
        with(&mut text, words(c, "keywords").join(" "));
    }
    if let Some(c) = find("keywords:frequency") {
        with(&mut text, vec![c.kwargs["keyword"].as_str().unwrap(); number(c, "frequency")].join(" "));
    }
    if let Some(c) = find("detectable_content:number_placeholders") {
        with(&mut text, vec!["[white]"; number(c, "num_placeholders")].join(" "));
    }
    if let Some(c) = find("detectable_format:number_highlighted_sections") {
        with(&mut text, vec!["*white*"; number(c, "num_highlights")].join(" "));
    }
    if let Some(c) = find("length_constraints:number_words").filter(|c| least(c, "relation")) {
        with(&mut text, vec![word; number(c, "num_words")].join(" "));
    }
    if let Some(c) = find("keywords:letter_frequency").filter(|c| least(c, "let_relation")) {
        with(&mut text, c.kwargs["letter"].as_str().unwrap().repeat(number(c, "let_frequency")));
    }
    if let Some(c) = find("change_case:capital_word_frequency").filter(|c| least(c, "capital_relation")) {
        with(&mut text, vec!["AB"; number(c, "capital_frequency")].join(" "));
    }
    if let Some(c) = find("combination:repeat_prompt") {
        text = format!("{} {text}", c.kwargs["prompt_to_repeat"].as_str().unwrap());
    }
    if let Some(c) = find("language:response_language") {
        text = match c.kwargs["language"].as_str().unwrap() {
            "de" => "Das ist ein schöner Hügel, auf dem ich gerne sitze und lese.",
            "es" => "Es una colina hermosa donde me gusta sentarme a leer por la tarde.",
            "fr" => "C'est une belle colline où j'aime beaucoup m'asseoir et lire.",
            "it" => "È una bella collina dove mi piace molto sedermi e leggere ogni giorno.",
            _ => "É uma bela colina onde eu gosto muito de me sentar e ler à tarde.",
        }
        .into();
    }
    if find("detectable_format:json_format").is_some() {
        text = json!({ "a": text }).to_string();
    }
    if find("change_case:english_capital").is_some() {
        // Of fewer words in capitals the language is not known.
        text = format!("what we know of the white hill is what they think of it\n{text}");
    }
    if find("detectable_format:title").is_some() {
        text = format!("<<{word}>>\n{text}");
    }
    if let Some(c) = find("detectable_content:postscript") {
        text = format!("{text}\n{} {word}", c.kwargs["postscript_marker"].as_str().unwrap());
    }
    if let Some(c) = find("startend:end_checker") {
        with(&mut text, c.kwargs["end_phrase"].as_str().unwrap().to_owned());
    }
    if find("startend:quotation").is_some() {
        text = format!("\"\n{text}\n\"");
    }
    match (find("change_case:english_capital"), find("change_case:english_lowercase")) {
        (Some(_), _) => text.to_uppercase(),
        (_, Some(_)) => text.to_lowercase(),
        _ => text,
    }
}

#[test]
fn what_is_drawn_can_be_met_alone_and_together() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let every: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    for (i, kinds) in (0..1500).map(|i| (i, if i % 3 == 0 { &every[..] } else { &[] })) {
        let how = settings(1 + i % 3, kinds, [Phrasings::Train, Phrasings::HeldOut][i % 2]);
        let drawn = draw("Describe a hill.", &how, &mut BTreeMap::new(), &mut Stream::new(7, i as u64)).unwrap();
        assert!((1..=how.most).contains(&drawn.len()));
        drawn.iter().for_each(|c| *seen.entry(c.kind).or_default() += 1);
        let checks = checks(&drawn);
        let checker = Signal::Rules.checker(&prompt("Describe a hill.", &drawn), &checks).unwrap().unwrap();
        let (text, words) = (answer(&drawn), drawn.iter().map(|c| c.words.as_str()).collect::<Vec<_>>());
        let found = checker.check(&text);
        assert_eq!((found.share, found.missed), (1.0, vec![]), "{words:?}: {text}");
        assert!(words.iter().all(|w| !w.contains(['{', '}'])), "{words:?}");
    }
    assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
}

#[test]
fn kinds_that_settle_the_same_never_come_together() {
    let with = |a: &str, b: &str| {
        let kind = |name: &str| KINDS.iter().find(|k| k.name.ends_with(name)).unwrap();
        (kind(a).goes_with(kind(b)), kind(b).goes_with(kind(a)))
    };
    for (a, b) in [
        ("english_capital", "english_lowercase"),
        ("english_lowercase", "capital_word_frequency"),
        ("english_lowercase", "postscript"),
        ("number_paragraphs", "number_bullet_lists"),
        ("number_sentences", "number_words"),
        ("json_format", "title"),
        ("json_format", "no_comma"),
        ("repeat_prompt", "quotation"),
        ("quotation", "end_checker"),
        ("existence", "letter_frequency"),
        ("response_language", "existence"),
        ("no_comma", "no_comma"),
    ] {
        assert_eq!(with(a, b), (false, false), "{a} {b}");
    }
    for (a, b) in [("no_comma", "number_words"), ("existence", "english_lowercase"), ("title", "end_checker")] {
        assert_eq!(with(a, b), (true, true), "{a} {b}");
    }
    // Every word that may be forbidden stays out of what other constraints have written.
    let texts = format!("{:?} {:?}", kinds::ENDINGS, kinds::KEYWORDS).to_lowercase();
    let words: Vec<&str> = texts.split(|c: char| !c.is_alphanumeric()).collect();
    assert_eq!(kinds::FORBIDDEN.iter().find(|word| words.contains(word)), None);
}

#[test]
fn words_say_the_numbers_and_nothing_of_other_kinds() {
    // What only the prompts of these kinds may speak of.
    let own = [
        ("paragraph", "paragraph"),
        ("sentence", "sentence"),
        ("bullet", "bullet"),
        ("comma", "comma"),
        ("postscript", "postscript"),
        ("json", "json"),
        ("placeholder", "placeholder"),
        ("title", "title"),
        ("lowercase", "change_case"),
        ("uppercase", "change_case"),
        ("capital", "change_case"),
        ("section", "multiple_sections"),
        ("quot", "quotation"),
        ("letter", "change_case letter_frequency"),
    ];
    let all = &Sayings::shipped().unwrap().0;
    for saying in all {
        assert!((saying.train.len(), saying.held_out.len()) == (4, 2), "{}", saying.kind);
        let ways: Vec<&String> = saying.train.iter().chain(&saying.held_out).collect();
        assert!(
            ways.iter().all(|way| all
                .iter()
                .flat_map(|s| s.train.iter().chain(&s.held_out))
                .filter(|w| w == way)
                .count()
                == 1)
        );
        let kind = KINDS.iter().find(|kind| kind.name == saying.kind).unwrap();
        let made = (0..64).map(|i| kind.draw(&mut Stream::new(1, i), "b"));
        let given = made.into_iter().find(|kwargs| {
            saying.relation.is_none() || kwargs.values().any(|v| v.as_str() == saying.relation.as_deref())
        });
        for way in ways {
            for (name, value) in given.as_ref().unwrap() {
                let told = way.contains(&format!("{{{name}}}"));
                let relation = value.as_str().is_some_and(|v| Some(v) == saying.relation.as_deref());
                assert!(told != relation, "{}: {way:?} and {name}", saying.kind);
            }
            let lower = way.to_lowercase();
            for (word, kinds) in own {
                let may = kinds.split(' ').any(|k| saying.kind.contains(k))
                    || word == "paragraph" && saying.kind.contains("paragraph");
                let shown = ["[title]", "bulleted"].iter().fold(lower.clone(), |text, shown| text.replace(shown, ""));
                assert!(may || !shown.contains(word), "{}: {way:?} speaks of {word}", saying.kind);
            }
        }
    }
}

#[test]
fn kinds_are_used_alike_and_unknown_ones_are_listed() {
    let (how, mut uses) = (settings(1, &[], Phrasings::Train), BTreeMap::new());
    for i in 0..46 {
        draw("Describe a hill.", &how, &mut uses, &mut Stream::new(3, i)).unwrap();
    }
    assert!(uses.len() == 23 && uses.values().all(|n| *n == 2), "{uses:?}");
    let one = ["punctuation:no_comma"];
    let drawn = draw("b", &settings(3, &one, Phrasings::Train), &mut BTreeMap::new(), &mut Stream::new(0, 0)).unwrap();
    assert_eq!(drawn.len(), 1);
    assert_eq!(draw("b", &ConstraintSection::default(), &mut BTreeMap::new(), &mut Stream::new(0, 0)).unwrap(), []);
    let e = settings(1, &["no_comma"], Phrasings::Train).check().unwrap_err().to_string();
    assert!(e.contains("[constraints] kinds: \"no_comma\"") && e.contains("startend:quotation"), "{e}");
    let e = ConstraintSection { most: 1, least: 2, ..Default::default() }.check().unwrap_err().to_string();
    assert!(e.contains("least is 2, most is 1"), "{e}");
    let kinds = vec!["punctuation:no_comma".to_owned(); 2];
    let e = ConstraintSection { most: 3, least: 2, kinds, ..Default::default() }.check().unwrap_err().to_string();
    assert!(e.contains("kinds names 1"), "{e}");
}
