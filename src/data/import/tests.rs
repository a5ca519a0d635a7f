use super::*;
use crate::judge::Templates;
use std::path::PathBuf;

fn file(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    (dir, path)
}

fn ranked(q: &Question) -> Vec<(&str, usize)> {
    q.answers.iter().map(|a| (a.text.as_str(), a.rank)).collect()
}

const TREES: [&str; 4] = [
    r#"{"message_tree_id": "1", "prompt": {
        "message_id": "1", "text": "Why?", "role": "prompter", "lang": "en", "replies": [
        {"message_id": "2", "text": "Bad.", "role": "assistant", "lang": "en", "rank": 2, "replies": []},
        {"message_id": "3", "text": "Good.", "role": "assistant", "lang": "en", "rank": 0, "replies": [
            {"message_id": "9", "text": "And then?", "role": "prompter", "lang": "en", "replies": []}]},
        {"message_id": "4", "text": "Gone.", "role": "assistant", "lang": "en", "rank": 1, "deleted": true,
            "replies": []},
        {"message_id": "5", "text": "Unranked.", "role": "assistant", "lang": "en", "rank": null, "replies": []}]}}"#,
    r#"{"message_tree_id": "6", "prompt": {
        "message_id": "6", "text": "Warum?", "role": "prompter", "lang": "de", "replies": []}}"#,
    r#"{"message_tree_id": "7", "prompt": {
        "message_id": "7", "text": "Alone?", "role": "prompter", "lang": "en", "replies": [
        {"message_id": "8", "text": "Yes.", "role": "assistant", "lang": "en", "replies": []}]}}"#,
    r#"{"prompt": "Which?", "chosen": [{"role": "assistant", "content": "This."}], "rejected": "That."}"#,
];

#[test]
fn trees_and_preferences_become_ranked_questions() {
    let lines = TREES.map(|t| t.replace('\n', " "));
    let (_dir, path) = file(&lines.each_ref().map(String::as_str));
    let (questions, dropped) = read(&path, "en").unwrap();
    assert_eq!(questions.iter().map(|q| q.prompt.as_str()).collect::<Vec<_>>(), ["Why?", "Alone?", "Which?"]);
    // The ranks after a deleted answer move up.
    assert_eq!(ranked(&questions[0]), [("Good.", 0), ("Bad.", 1)]);
    assert_eq!(ranked(&questions[1]), [("Yes.", 0)]);
    assert_eq!(ranked(&questions[2]), [("This.", 0), ("That.", 1)]);
    assert_eq!(dropped, Counts::from([("in another language", 1), ("without a rank", 1)]));
    assert_eq!(read(&path, "").unwrap().1, Counts::from([("without a rank", 1)]));
    let learnt = examples(&questions, 0.0);
    assert_eq!(learnt.iter().map(|e| e.messages[1].content.as_str()).collect::<Vec<_>>(), ["Good.", "Yes.", "This."]);
    let pairs = preferences(&questions, false, 0.0);
    assert_eq!(pairs.len(), 2);
    assert_eq!((&pairs[0].chosen[0].content[..], &pairs[0].rejected[0].content[..]), ("Good.", "Bad."));
}

#[test]
fn conversations_of_several_turns_are_left_out() {
    let said = |role: &str, text: &str| format!(r#"{{"role": "{role}", "content": "{text}"}}"#);
    let turns = |answer: &str, more: &str| format!("[{}, {more}{}]", said("user", "Which?"), said("assistant", answer));
    let between = format!("{}, {}, ", said("assistant", "x"), said("user", "And?"));
    let pair = |prompt: &str, more: &str| {
        format!(r#"{{{prompt}"chosen": {}, "rejected": {}}}"#, turns("This.", more), turns("That.", more))
    };
    for (line, left_out) in [
        (pair(r#""prompt": "Which?", "#, ""), false),
        (pair("", ""), false),
        (r#"{"question": "Which?", "system": "", "chosen": "This.", "rejected": "That."}"#.into(), false),
        (pair(r#""prompt": "Which?", "#, &between), true),
        (pair("", &between), true),
        (r#"{"question": "Which?", "system": "Be short.", "chosen": "This.", "rejected": "That."}"#.into(), true),
    ] {
        let (_dir, path) = file(&[&line, r#"{"prompt": "Other?", "chosen": "a", "rejected": "b"}"#]);
        let (questions, dropped) = read(&path, "en").unwrap();
        assert_eq!((questions.len(), dropped.len()), if left_out { (1, 1) } else { (2, 0) }, "{line}");
        assert!(left_out || ranked(&questions[0]) == [("This.", 0), ("That.", 1)]);
    }
}

#[test]
fn an_answer_without_a_score_has_no_place_among_others() {
    let (_dir, path) = file(&[
        r#"{"prompt": "Q", "response": "a", "score": 4}"#,
        r#"{"prompt": "Q", "response": "b", "score": null}"#,
        r#"{"prompt": "Q", "response": "c", "score": 1}"#,
    ]);
    let (questions, dropped) = read(&path, "en").unwrap();
    assert_eq!(ranked(&questions[0]), [("a", 0), ("c", 1)]);
    assert_eq!(dropped, Counts::from([("without a score", 1)]));
}

#[test]
fn messages_are_put_together_by_their_parents() {
    let (_dir, path) = file(&[
        r#"{"message_id": "b", "parent_id": "a", "text": "Second.", "role": "assistant", "lang": "en", "rank": 1.0}"#,
        r#"{"message_id": "a", "parent_id": null, "text": "What?", "role": "prompter", "lang": "en", "rank": null}"#,
        r#"{"message_id": "c", "parent_id": "a", "text": "First.", "role": "assistant", "lang": "en", "rank": 0.0}"#,
        r#"{"message_id": "d", "parent_id": "c", "text": "More?", "role": "prompter", "lang": "en", "rank": null}"#,
    ]);
    let (questions, _) = read(&path, "en").unwrap();
    assert_eq!(questions.len(), 1);
    assert_eq!(ranked(&questions[0]), [("First.", 0), ("Second.", 1)]);
}

#[test]
fn scores_rank_and_teach() {
    let (_dir, path) = file(&[
        r#"{"prompt": "Q", "response": "poor", "score": 1}"#,
        r#"{"prompt": "Q", "response": "fine", "score": 4.6, "verdict": "It fits. "}"#,
        r#"{"prompt": "Q", "response": "as poor", "score": 1}"#,
        r#"{"prompt": "Q", "response": "poor", "score": 3}"#,
        r#"{"prompt": "P", "response": "so so", "score": 2.4}"#,
    ]);
    let (questions, dropped) = read(&path, "en").unwrap();
    assert_eq!(ranked(&questions[0]), [("fine", 0), ("poor", 1), ("as poor", 1)]);
    assert_eq!(dropped, Counts::from([("that stand there twice", 1)]));
    assert_eq!(examples(&questions, 4.0).len(), 1);
    assert_eq!(preferences(&questions, true, 0.0).len(), 2);
    assert_eq!(preferences(&questions, true, 4.0).len(), 0);
    let lessons = lessons(&questions, &Templates::default().additive).unwrap();
    assert_eq!(lessons.iter().map(|l| l.score).collect::<Vec<_>>(), [5, 1, 1, 2]);
    let [asked, answered] = &lessons[0].record.messages[..] else { panic!("two messages") };
    assert!(asked.content.contains("<response>\nfine\n</response>"), "{}", asked.content);
    assert_eq!(answered.content, "It fits.\nScore: 5");
    assert_eq!(lessons[1].record.messages[1].content, "Score: 1");
}

#[test]
fn no_score_keeps_more_than_its_share() {
    let lesson = |score| Lesson { record: ExampleRecord::new("a", &format!("Score: {score}")), score };
    let all: Vec<Lesson> = [[4; 80].as_slice(), &[1; 10], &[2; 6], &[5; 4]].concat().into_iter().map(lesson).collect();
    let (kept, dropped) = balance(all.clone(), 0.5, 1);
    assert_eq!(dropped, [0, 0, 0, 0, 60, 0]);
    assert_eq!(kept.len(), 40);
    assert_eq!(balance(all.clone(), 1.0, 1), (all.clone(), [0; 6]));
    assert_eq!(balance(all[..80].to_vec(), 0.5, 1).0.len(), 1);
    assert_eq!(balance(all.clone(), 0.5, 1), balance(all, 0.5, 1));
}

#[test]
fn held_out_questions_stay_out_whatever_is_added() {
    let question = |i: usize| Question {
        prompt: format!("question {i}"),
        answers: (0..2)
            .map(|k| RankedAnswer {
                text: format!("{k}"),
                rank: k,
                score: (i == 0).then_some(4.5 - k as f64),
                verdict: None,
            })
            .collect(),
    };
    let all: Vec<Question> = (0..200).map(question).collect();
    let (kept, held) = hold_out(all.clone(), 0.2, 3).unwrap();
    assert_eq!(kept.len() + held.len() / 2, 200);
    assert!((50..110).contains(&held.len()), "{}", held.len());
    let some: Vec<&str> =
        held.iter().map(|r| r.prompt.as_str()).filter(|p| kept.iter().any(|q| q.prompt == *p)).collect();
    assert!(some.is_empty(), "{some:?}");
    let (_, first) = hold_out(all[..50].to_vec(), 0.2, 3).unwrap();
    assert_eq!(first[..], held[..first.len()]);
    let (_, all_held) = hold_out(all, 1.0, 3).unwrap();
    assert_eq!([all_held[0].score_reference, all_held[1].score_reference], [4.5, 3.5]);
    assert_eq!([all_held[2].score_reference, all_held[3].score_reference], [1.0, 0.0]);
    assert!(hold_out(vec![], 1.5, 0).is_err());
}

#[test]
fn wrong_files_are_named() {
    for (line, word) in [
        (r#"{"text": "x"}"#, "record 1"),
        ("nonsense", "line 1"),
        (r#"{"prompt": " ", "response": "x", "score": 1}"#, "empty text"),
        (r#"{"prompt": "x", "response": "y", "score": "high"}"#, "record 1"),
        (
            r#"{"prompt": {"message_id": "6", "text": "?", "role": "prompter", "lang": "de", "replies": []}}"#,
            "language",
        ),
    ] {
        let (_dir, path) = file(&[line]);
        let error = read(&path, "en").unwrap_err().to_string();
        assert!(error.contains("in.jsonl") && error.contains(word), "{error}");
    }
}
