use super::*;
use crate::world::model;
use serde_json::json;

#[test]
fn what_is_too_long_is_dropped_or_cut() {
    let rules = |truncate| Rules { truncate, ..Rules::up_to(4) };
    assert_eq!(rules(false).fit(&[1, 2], vec![3, 4]), Some(vec![3, 4]));
    assert_eq!(rules(false).fit(&[1, 2], vec![3, 4, 5]), None);
    assert_eq!(rules(true).fit(&[1, 2], vec![3, 4, 5]), Some(vec![3, 4]));
    assert_eq!(rules(true).fit(&[1, 2, 3, 4], vec![5]), None);
}

/// The small world's model, whose tokens are characters, with a file of records.
struct World {
    tmp: tempfile::TempDir,
    source: ModelSource,
}

impl World {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("model");
        model::save(&folder, &model::init(0)).unwrap();
        let source = ModelSource::open(&folder).unwrap();
        Self { tmp, source }
    }

    fn file(&self, records: &[Value]) -> PathBuf {
        let path = self.tmp.path().join("records.jsonl");
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn words(&self, ids: &[u32]) -> String {
        self.source.text().unwrap().decode(ids).unwrap()
    }

    fn examples(&self, records: &[Value], rules: Rules) -> Result<(Vec<Example>, Reading)> {
        examples(&self.file(records), &self.source, rules)
    }

    fn pairs(&self, records: &[Value]) -> Result<(Vec<Pair>, Reading)> {
        pairs(&self.file(records), &self.source, Rules::up_to(99))
    }
}

fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn every_form_of_an_answer_is_read() {
    let world = World::new();
    let talk = [say("user", "A"), say("assistant", "B"), say("user", "C"), say("assistant", "D")];
    let shared = json!([{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]);
    let records = [
        json!({"messages": talk, "prompt": "A"}),
        json!({"conversations": shared}),
        json!({"prompt": "A", "completion": "B", "messages": null, "label": "pos"}),
        json!({"prompt": [say("user", "A")], "completion": [say("assistant", "B")]}),
        json!({"prompt": [say("user", "A")], "response": "B"}),
        json!({"instruction": "A", "input": "", "output": "B"}),
        json!({"question": "A", "answer": "B"}),
        json!({"input": "A", "output": "B", "history": []}),
        json!({"text": "AB"}),
    ];
    let (read, reading) = world.examples(&records, Rules::up_to(99)).unwrap();
    assert_eq!((read.len(), reading.dropped()), (9, 0));
    let forms: Vec<(&str, usize)> = reading.forms.iter().map(|(form, n)| (*form, *n)).collect();
    assert_eq!(
        forms,
        [
            ("conversations", 1),
            ("instruction and output", 3),
            ("messages", 1),
            ("prompt and completion", 3),
            ("text", 1)
        ]
    );
    let learnt = |example: &Example| {
        let ids = example.completion.iter().enumerate();
        let ids = ids.filter(|(i, _)| !example.context.iter().any(|part| part.contains(i))).map(|(_, id)| *id);
        world.words(&ids.collect::<Vec<_>>())
    };
    assert_eq!(read.iter().map(learnt).collect::<Vec<_>>(), ["BD", "B", "B", "B", "B", "B", "B", "B", "AB"]);
    assert_eq!(read[0].targets(), 4);
    let last = Rules { last_turn_only: true, ..Rules::up_to(99) };
    assert_eq!(learnt(&world.examples(&records[..1], last).unwrap().0[0]), "D");
    // A cut within the user's second turn ends with the first answer.
    let whole = read[0].rows();
    let cut = Rules { truncate: true, ..Rules::up_to(whole - 2) };
    let (cut, _) = world.examples(&records[..1], cut).unwrap();
    assert_eq!((learnt(&cut[0]).as_str(), cut[0].context.len()), ("B", 0));
}

/// What stands in columns beside the question belongs to it.
#[test]
fn columns_beside_a_question_are_said() {
    let world = World::new();
    let asked = |record: Value| {
        let (read, _) = world.examples(&[record], Rules::up_to(99)).unwrap();
        world.words(&read[0].prompt)
    };
    let talk = |turns: &[Value]| asked(json!({"prompt": turns, "completion": "B"}));
    let alone = talk(&[say("user", "A")]);
    for (record, want) in [
        (json!({"instruction": "A", "context": "C", "response": "B"}), talk(&[say("user", "A\n\nC")])),
        (json!({"instruction": "A", "context": "", "response": "B"}), alone.clone()),
        (
            json!({"system_prompt": "S", "question": "A", "response": "B"}),
            talk(&[say("system", "S"), say("user", "A")]),
        ),
        (
            json!({"instruction": "A", "output": "B", "history": [["C", "D"]]}),
            talk(&[say("user", "C"), say("assistant", "D"), say("user", "A")]),
        ),
    ] {
        assert_eq!(asked(record.clone()), want, "{record}");
    }
    let pair = json!({"system": "", "input": "A", "chosen": "B", "rejected": "D"});
    assert_eq!(world.words(&world.pairs(&[pair]).unwrap().0[0].prompt), alone);
}

#[test]
fn every_form_of_a_preference_is_read() {
    let world = World::new();
    let (a, b, q) = (say("assistant", "B"), say("assistant", "D"), say("user", "A"));
    let records = [
        json!({"prompt": [q], "chosen": [a], "rejected": [b]}),
        json!({"prompt": "other", "chosen": [q, a], "rejected": [q, b]}),
        json!({"chosen": [q, a], "rejected": [q, b], "score": null}),
        json!({"prompt": [q], "chosen": [q, a], "rejected": [q, b]}),
        json!({"prompt": "A", "chosen": [a], "rejected": [b]}),
        json!({"question": "A", "system": "", "chosen": "B", "rejected": "D"}),
        json!({"conversations": [q], "chosen": a, "rejected": b}),
    ];
    let (read, reading) = world.pairs(&records).unwrap();
    assert_eq!((read.len(), reading.dropped()), (records.len(), 0));
    for pair in &read {
        assert_eq!(pair, &read[0]);
        assert_eq!((world.words(&pair.chosen).as_str(), world.words(&pair.rejected).as_str()), ("B", "D"));
    }
    let plain = [json!({"prompt": "A", "chosen": "B", "rejected": "D"}), json!({"chosen": "AB", "rejected": "AD"})];
    let (read, _) = world.pairs(&plain).unwrap();
    assert_eq!(read[0], read[1]);
    let (labelled, _) = labelled(&world.file(&plain), &world.source, Rules::up_to(99)).unwrap();
    assert_eq!(labelled.iter().map(|l| l.desirable).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn what_cannot_be_learnt_from_is_counted() {
    let world = World::new();
    let good = json!({"prompt": "A", "chosen": "B", "rejected": ""});
    let records = [
        good.clone(),
        json!({"prompt": "A", "chosen": "", "rejected": "B"}),
        json!({"prompt": "A", "chosen": "B", "rejected": "B"}),
        json!({"prompt": [], "chosen": [say("assistant", "B")], "rejected": [say("assistant", "D")]}),
        json!({"prompt": "A", "chosen": "B".repeat(200), "rejected": "D"}),
        json!({"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": []}),
    ];
    let (read, reading) = world.pairs(&records).unwrap();
    assert_eq!((read.len(), reading.dropped()), (1, 5));
    let told = reading.to_string();
    for why in
        ["1 longer than 99 tokens", "1 with an empty chosen answer", "1 with equal answers", "1 without a prompt"]
    {
        assert!(told.contains(why), "{told}");
    }
    assert_eq!(read[0].rejected.len(), 1);
    let talk =
        [json!({"messages": [say("user", "A")]}), json!({"messages": [say("user", "A"), say("assistant", "B")]})];
    let (read, reading) = world.examples(&talk, Rules::up_to(99)).unwrap();
    assert_eq!((read.len(), reading.dropped.len()), (1, 1));
    let error = world.pairs(&records[1..2]).unwrap_err().to_string();
    assert!(error.contains("none of 1 records") && error.contains("empty chosen"), "{error}");
}

#[test]
fn what_is_no_record_is_named() {
    let world = World::new();
    let wrong = |records: &[Value]| world.pairs(records).unwrap_err().to_string();
    let good = json!({"prompt": "A", "chosen": "B", "rejected": "D"});
    for (bad, word) in [
        (json!({"prompt": "A", "chosen": "B", "rejected": null}), "the record has prompt, chosen"),
        (json!({"prompt": null}), "no field with a value"),
        (json!({"prompt": "A", "completion": "B"}), "by sft"),
        (json!({"chosen": "AB", "rejected": "AD", "chat_template_kwargs": "x"}), "chat_template_kwargs: invalid"),
        (json!({"prompt": "A", "chosen": 3, "rejected": "D"}), "chosen is 3"),
        (json!({"chosen": "B", "rejected": [say("assistant", "D")]}), "different kinds"),
        (json!({"chosen": [{"role": "user"}], "rejected": []}), "missing field `content`"),
        (json!({"prompt_ids": [9999], "chosen_ids": [1], "rejected_ids": [2]}), "token 9999"),
        (json!({"prompt": "A", "chosen": "B", "rejected": "D", "weight": -1}), "weight -1"),
    ] {
        let error = wrong(&[good.clone(), bad]);
        assert!(error.contains("records.jsonl: record 2") && error.contains(word), "{error}");
    }
    for (bad, word) in [(good, "by dpo"), (json!({"messages": "[]"}), "messages is a text")] {
        let error = world.examples(&[bad], Rules::up_to(9)).unwrap_err().to_string();
        assert!(error.contains("record 1") && error.contains(word), "{error}");
    }
    let labels =
        labelled(&world.file(&[json!({"prompt": "A", "completion": "B", "label": 2})]), &world.source, Rules::up_to(9));
    assert!(labels.unwrap_err().to_string().contains("label is 2"));
}
