//! Lessons of answers whose truth is known by hand.

use super::*;
use serde_json::json;

/// Answers to prompts that ask for no comma, or for few words, of which the right ones are shorter.
fn answers() -> Vec<KnownAnswer> {
    let rule = |id: &str, kwargs: serde_json::Value| {
        serde_json::from_value(json!({"instruction_id_list": [id], "kwargs": [kwargs]})).unwrap()
    };
    let comma: Checks = rule("punctuation:no_comma", json!({}));
    let words: Checks = rule("length_constraints:number_words", json!({"relation": "less than", "num_words": 12}));
    let mut all = Vec::new();
    for i in 0..40 {
        let known = |answer: String, checks: &Checks, ended| KnownAnswer {
            question: format!("{} {}", if *checks == comma { "comma" } else { "words" }, i % 10),
            answer,
            checks: checks.clone(),
            ended,
        };
        all.push(known(format!("this is a text of few words {}", "a".repeat(i)), &comma, true));
        all.push(known(format!("this is a text, of some words {}", "a".repeat(i + 10)), &comma, i % 4 > 0));
        all.push(known(format!("a text of eight words is this {}", "b".repeat(i)), &words, true));
        all.push(known(format!("a b c d e f g h i j k l m n {}", "b".repeat(i)), &words, true));
    }
    all
}

fn how(mode: Mode, templates: &Templates) -> Teaching<'_> {
    Teaching { signal: Signal::Rules, mode, templates, reasons: false, seed: 1 }
}

#[test]
fn right_and_wrong_ones_are_alike_but_for_what_they_are() {
    let templates = Templates::default();
    let (lessons, balance) = teach(&answers(), &how(Mode::Yes, &templates)).unwrap();
    let comma = &balance.kinds["punctuation:no_comma"];
    assert_eq!((comma.right, comma.wrong), (40, 40));
    let taught: usize = balance.kinds.values().map(|kind| kind.taught).sum();
    assert!(lessons.len() == 2 * taught && comma.taught >= 15, "{balance:?}");
    assert!(balance.before.in_order > 0.55 && (balance.taught.in_order - 0.5).abs() < 0.021, "{balance:?}");
    assert!((balance.taught.right - balance.taught.wrong).abs() < 5.0, "{balance:?}");
    assert_eq!((balance.taught.right_ended, balance.taught.wrong_ended), (1.0, 1.0));
    let said = |word: &str| lessons.iter().filter(|l| l.record.messages[1].content == word).count();
    assert_eq!((said("Yes"), said("No")), (taught, taught));
    let asked = &lessons[0].record.messages[0].content;
    assert!(asked.starts_with("Question: ") && asked.ends_with("Reply with yes or no."), "{asked}");
    assert_eq!(teach(&answers(), &how(Mode::Yes, &templates)).unwrap().0, lessons);
}

#[test]
fn one_prompt_has_one_truth() {
    let mut all = answers();
    all[1].question = all[2].question.clone();
    let e = teach(&all, &how(Mode::Yes, &Templates::default())).err().unwrap().to_string();
    assert!(e.contains("record 3: its prompt stands above with another truth"), "{e}");
}

#[test]
fn verdicts_are_those_that_the_mode_reads_and_name_what_failed() {
    let templates = Templates::default();
    let (lessons, _) = teach(&answers(), &how(Mode::Sampled, &templates)).unwrap();
    let mut ways = HashSet::new();
    for lesson in &lessons {
        let [asked, said] = [0, 1].map(|i| lesson.record.messages[i].content.as_str());
        assert!(asked.contains("<response>"));
        let (why, score) = said.split_once("\nScore: ").unwrap();
        assert_eq!(score, lesson.score.to_string());
        let comma = asked.contains("Question: comma");
        let name = if comma { "the ban on commas" } else { "the number of words" };
        assert!(why.contains(name), "{said}");
        let what = if comma { "there is a comma" } else { "words, wanted less than 12" };
        assert_eq!(why.contains(what), score == "0", "{said}");
        ways.insert(why.split(name).next().unwrap().to_owned());
    }
    assert!(ways.len() >= 8, "{ways:?}");
    let with = Teaching { reasons: true, ..how(Mode::Yes, &templates) };
    let (lessons, _) = teach(&answers(), &with).unwrap();
    assert!(lessons.iter().all(|l| {
        let said = &l.record.messages[1].content;
        said.starts_with(if l.score == 5 { "Yes. " } else { "No. " }) && said.ends_with('.')
    }));
    let (lessons, _) = teach(&answers(), &how(Mode::Expected, &templates)).unwrap();
    assert!(lessons.iter().all(|l| ["Score: 0", "Score: 5"].contains(&l.record.messages[1].content.as_str())));
}

#[test]
fn keys_teach_too_and_what_cannot_be_taught_is_said() {
    let templates = Templates::default();
    let known = |answer: &str, key: serde_json::Value| KnownAnswer {
        question: "How much?".into(),
        answer: answer.into(),
        checks: serde_json::from_value(key).unwrap(),
        ended: true,
    };
    let key = || json!({"answer": "#### 12"});
    let both = [known("It is 12.", key()), known("It is 13.", key())];
    let by_key = Teaching { signal: Signal::Key, ..how(Mode::Sampled, &templates) };
    let (lessons, balance) = teach(&both, &by_key).unwrap();
    let mut said: Vec<&str> = lessons.iter().map(|l| l.record.messages[1].content.as_str()).collect();
    said.sort_unstable_by_key(|text| text.contains("Score: 5"));
    assert!(said[0].contains("the number is 13, wanted 12") && said[0].ends_with("Score: 0"), "{said:?}");
    assert_eq!(balance.kinds["key"], KindCount { right: 1, wrong: 1, taught: 1 });
    let error = |answers: &[KnownAnswer], how: &Teaching| teach(answers, how).unwrap_err().to_string();
    assert!(error(&both[..1], &by_key).contains("1 of 1 different answers are right"));
    assert!(error(&[both[0].clone(), known("1", json!({}))], &by_key).contains("record 2: has neither"));
    assert!(error(&both, &how(Mode::Yes, &templates)).contains("record 1: has no instruction_id_list"));
    let backward = Teaching { mode: Mode::Backward, ..by_key };
    assert!(error(&both, &backward).contains("mode backward cannot be written; those of sampled, expected, yes can"));
}
