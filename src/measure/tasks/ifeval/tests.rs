//! Answers that follow an instruction, and some that miss it by one; the verdicts are those of the reference checkers.

use super::*;
use serde_json::json;

fn task(id: &str, kwargs: Value) -> IfEval {
    let line = json!({"prompt": "p", "instruction_id_list": [id], "kwargs": [kwargs]});
    IfEval { items: vec![serde_json::from_value(line).unwrap()] }
}

#[track_caller]
fn strict(id: &str, kwargs: Value, cases: &[(&str, bool)]) {
    let task = task(id, kwargs);
    for (answer, followed) in cases {
        let marks = task.score(0, answer);
        assert_eq!(marks.passed[0][0], *followed, "{id}: {answer:?}: {:?}", marks.failed);
        assert_eq!(marks.failed.len(), usize::from(!followed), "{id}: {answer:?}");
    }
}

#[test]
fn kinds_of_counts() {
    strict(
        "detectable_content:number_placeholders",
        json!({"num_placeholders": 2}),
        &[("[a] and [b]", true), ("[a] and [b", false), ("[a\n] [b]", false), ("[[a] b] []", true)],
    );
    strict(
        "detectable_format:number_bullet_lists",
        json!({"num_bullets": 2}),
        &[
            ("* a\n* b", true),
            ("  - a\n*b", true),
            ("* a\n* b\n- c", false),
            ("**a**\n* b", false),
            ("---\n* b", true),
            ("* a\n\n*", false),
        ],
    );
    strict(
        "detectable_format:number_highlighted_sections",
        json!({"num_highlights": 2}),
        &[
            ("*a* and *b*", true),
            ("**a** and *b*", true),
            ("*a* and * *", false),
            ("**a**", false),
            ("*a\nb* *c*", false),
            ("*a*b*", false),
        ],
    );
    strict(
        "detectable_format:multiple_sections",
        json!({"section_spliter": "Section", "num_sections": 2}),
        &[("Section 1\na\nSection 2\nb", true), ("Section1 Section 2", true), ("Section 1 section 2", false)],
    );
    strict(
        "length_constraints:number_paragraphs",
        json!({"num_paragraphs": 2}),
        &[("a\n***\nb", true), ("***\na\n***\nb\n***", true), ("a", false), ("a***b***c", false), ("a****** b", false)],
    );
    strict(
        "length_constraints:number_words",
        json!({"relation": "less than", "num_words": 4}),
        &[("one two three", true), ("it's one thing", false), ("a_b - c, d.", true)],
    );
    strict("length_constraints:number_words", json!({"relation": "at least", "num_words": 3.0}), &[("a b c", true)]);
    strict(
        "length_constraints:number_sentences",
        json!({"relation": "at least", "num_sentences": 3}),
        &[("One. Two! Three?", true), ("One. Two e.g. three. ", true), ("Dr. Who is. Here.", false)],
    );
    strict(
        "change_case:capital_word_frequency",
        json!({"capital_relation": "less than", "capital_frequency": 3}),
        &[("NO WAY, he said", true), ("I CAN'T say", false), ("A B-C d", true)],
    );
    strict(
        "keywords:letter_frequency",
        json!({"letter": "A", "let_relation": "at least", "let_frequency": 2}),
        &[("Aa", true), ("a b", false)],
    );
    strict(
        "keywords:frequency",
        json!({"keyword": " rain", "frequency": 2, "relation": "at least"}),
        &[("Rain and train", true), ("rain", false)],
    );
}

#[test]
fn kinds_of_words() {
    strict(
        "keywords:existence",
        json!({"keywords": ["sun", "moon"]}),
        &[("The Sun and the moonlight", true), ("the sun", false)],
    );
    strict(
        "keywords:forbidden_words",
        json!({"forbidden_words": ["sun", "café"]}),
        &[("sunny", true), ("The SUN.", false), ("sun_set", true), ("un café!", false), ("cafés", true)],
    );
    strict(
        "length_constraints:nth_paragraph_first_word",
        json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}),
        &[
            ("a\n\nthen, b", true),
            ("a\n\n'Then' b", true),
            ("a\n\nthence b", false),
            ("a\n\nthen b\n\nc", false),
            ("a\n\n*then* b", false),
            // The empty paragraph is not counted, but it is the second one.
            ("a\n\n\n\nthen b", false),
        ],
    );
    strict(
        "detectable_content:postscript",
        json!({"postscript_marker": "P.S."}),
        &[("a\n\nP.S. b", true), ("a p. s. b", true), ("a\nPS b", false), ("a\nP.S b", false)],
    );
    strict(
        "detectable_content:postscript",
        json!({"postscript_marker": "P.P.S"}),
        &[("a\np.p.s b", true), ("a\nP. P. S", true), ("a\nP.S.", false)],
    );
    strict(
        "startend:end_checker",
        json!({"end_phrase": "The end."}),
        &[("a the END.", true), ("a \"The end.\"\n", true), ("The end", false), ("The end. a", false)],
    );
    strict(
        "combination:repeat_prompt",
        json!({"prompt_to_repeat": "Say it. "}),
        &[("say it. Yes.", true), ("\"Say it.\" Yes.", false)],
    );
    strict("detectable_format:constrained_response", json!({}), &[("So: My answer is no.", true), ("no", false)]);
    strict("punctuation:no_comma", json!({}), &[("a; b", true), ("1,000", false), ("a、b", true)]);
}

#[test]
fn kinds_of_form() {
    strict(
        "detectable_format:json_format",
        json!({}),
        &[
            ("{\"a\": 1}", true),
            ("```json\n[1]\n```", true),
            ("```\n{}\n``` ", true),
            ("Here: {}", false),
            ("{,}", false),
        ],
    );
    strict(
        "detectable_format:title",
        json!({}),
        &[("<<a>>", true), ("<< >>", false), ("<<a\n>>", false), ("<a>", false)],
    );
    strict(
        "combination:two_responses",
        json!({}),
        &[("a ****** b", true), ("a ****** a", false), ("a", false), ("******a******b******", true), ("a***b", false)],
    );
    strict("startend:quotation", json!({}), &[(" \"a\"\n", true), ("\"a", false), ("\"", false), ("“a”", false)]);
    strict(
        "change_case:english_capital",
        json!({}),
        &[("THIS IS ALL OF IT.", true), ("THIS IS ALL OF iT.", false), ("123", false)],
    );
    strict("change_case:english_lowercase", json!({}), &[("this is all of it.", true), ("This is all.", false)]);
    strict(
        "language:response_language",
        json!({"language": "de"}),
        &[("Das ist alles, was ich weiß.", true), ("This is all that I know.", false), ("123", true)],
    );
}

#[test]
fn loose_verdicts_forgive_a_line_and_stars() {
    let task = task("startend:end_checker", json!({"end_phrase": "The end."}));
    let passed = |answer: &str| task.score(0, answer).passed[0];
    assert_eq!(passed("The end.\nI hope you like it!"), [false, true]);
    assert_eq!(passed("**The end.**"), [false, true]);
    assert_eq!(passed("The end.\nI hope\nyou like it!"), [false, false]);
    assert_eq!(passed(""), [false, false]);
    assert_eq!(passed(" \n"), [false, false]);
    // Without its first and last line nothing is left of two lines.
    assert_eq!(task.score(0, "a\nb").failed, ["startend:end_checker: the answer does not end with \"the end.\""]);
}

#[test]
fn a_sign_that_is_no_letter_is_judged_by_most_letters() {
    let task =
        task("keywords:letter_frequency", json!({"letter": "#", "let_relation": "at least", "let_frequency": 1}));
    assert!(task.score(0, "the quick brown fox jumps").passed[0][0]);
    assert!(!task.score(0, "#### abc").passed[0][0]);
}

#[test]
fn lines_that_are_not_understood_are_refused() {
    let refused = |id: &str, kwargs: Value, word: &str| {
        let line = json!({"prompt": "p", "instruction_id_list": [id], "kwargs": [kwargs]});
        let e = serde_json::from_value::<Item>(line).err().unwrap().to_string();
        assert!(e.contains(id) && e.contains(word), "{e}");
    };
    refused("keywords:rhyme", json!({}), "known are change_case:capital_word_frequency, ");
    let words = "length_constraints:number_words";
    refused(words, json!({"relation": "at least"}), "no argument \"num_words\"");
    refused(words, json!({"relation": "at least", "num_words": null}), "no argument \"num_words\"");
    refused(
        words,
        json!({"relation": "at least", "num_words": "ten"}),
        "num_words is \"ten\"; expected a whole number",
    );
    refused(words, json!({"relation": "at least", "num_words": -1}), "expected a whole number");
    refused(words, json!({"relation": "at most", "num_words": 1}), "expected \"less than\" or \"at least\"");
    refused(words, json!({"relation": "at least", "num_words": 1, "letter": "a"}), "kwargs have \"letter\"");
    refused("punctuation:no_comma", json!({"letter": "a"}), "takes no arguments");
    refused("language:response_language", json!({"language": "xx"}), "unknown language \"xx\"; known are en, ");
    refused("keywords:existence", json!({"keywords": "sun"}), "expected a list of texts");
    refused("keywords:existence", json!({"keywords": []}), "expected a list of texts");
    refused("keywords:existence", json!({"keywords": ["("]}), "no regular expression");
    refused("keywords:letter_frequency", json!({"letter": "ab"}), "expected one letter");
    let nth = json!({"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"});
    refused("length_constraints:nth_paragraph_first_word", nth, "expected 1 to num_paragraphs");
    for (line, word) in [
        (json!({"prompt": "p", "instruction_id_list": []}), "kwargs"),
        (json!({"instruction_id_list": [], "kwargs": []}), "prompt"),
        (json!({"prompt": "p", "instruction_id_list": [], "kwargs": []}), "instruction_id_list is empty"),
        (json!({"prompt": " ", "instruction_id_list": ["a"], "kwargs": [{}]}), "prompt is empty"),
        (json!({"prompt": "p", "instruction_id_list": ["a", "b"], "kwargs": [{}]}), "kwargs has 1 entries"),
    ] {
        let e = serde_json::from_value::<Item>(line).err().unwrap().to_string();
        assert!(e.contains(word), "{e}");
    }
    // All names with each instruction, those of others null, and null in place of no arguments.
    task("punctuation:no_comma", json!({"num_words": null, "relation": null}));
    task("punctuation:no_comma", Value::Null);
}
