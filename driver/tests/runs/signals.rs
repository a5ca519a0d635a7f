//! `run` by signals that ask no model, through the binary, on the small world's model as a chat model like any other.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin_cmd;
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

struct Place(tempfile::TempDir);

impl Place {
    /// A run of one round whose prompts are these seeds; `more` are further sections, of which `[judge]` is one.
    fn new(seeds: &[Value], more: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.file("seeds.jsonl"), seeds.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1");
        let config = format!(
            "[model]\npath = {model:?}\n[run]\nout = {:?}\nrounds = 1\n[prompts]\nseed_file = {:?}\nfrom_seed = {}\n\
             count = 0\nexclude = [{:?}]\n[candidates]\nn = 6\ntemperature = 1.5\nmax_new_tokens = 8\n{more}\n",
            place.file("run"),
            place.file("seeds.jsonl"),
            seeds.len(),
            place.file("topics.jsonl"),
        );
        fs::write(place.file("topics.jsonl"), "{\"topic\": \"nothing of this\"}\n").unwrap();
        fs::write(place.file("run.toml"), config.replace("PLACE", place.0.path().to_str().unwrap())).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, more: &[&str]) -> Assert {
        cargo_bin_cmd!("selfreward").arg("run").arg(self.file("run.toml")).args(["-q"]).args(more).assert()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file("run/round-1").join(name)).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn fails(&self, word: &str) {
        let error = String::from_utf8(self.run(&[]).failure().get_output().stderr.clone()).unwrap();
        assert!(error.contains(word), "{error}");
    }
}

/// Tasks of the small world, with what is known of their answers.
fn seeds(known: impl Fn(&str) -> Value) -> Vec<Value> {
    let words = ["abcd", "bcde", "cdef", "defg", "efgh", "fghi", "ghij", "hgfe"];
    let seed = |word: &&str| {
        let mut record = known(word);
        record["prompt"] = json!(format!("upper: {word}"));
        record
    };
    words.iter().map(seed).collect()
}

#[test]
fn rules_and_keys_judge_a_run_without_a_model() {
    let kwargs = json!({"letter": "h", "let_relation": "at least", "let_frequency": 1});
    let rule = json!({"instruction_id_list": ["keywords:letter_frequency"], "kwargs": [kwargs]});
    let place = Place::new(&seeds(|_| rule.clone()), "[judge]\nmode = \"rules\"\n[pairs]\ntotal = 3");
    place.run(&[]).success();
    assert_eq!(place.lines("pairs.jsonl").len(), 3);
    for (name, file) in [("prompt", "prompts.jsonl"), ("verdict", "verdicts.jsonl"), ("pair", "pairs.jsonl")] {
        let records = place.lines(file);
        records.iter().for_each(|record| validate(&schema(name), record, name).unwrap());
        assert!(!records.is_empty(), "{file}");
    }
    assert!(place.lines("prompts.jsonl").iter().all(|p| p["kwargs"] == rule["kwargs"]));
    for pair in place.lines("pairs.jsonl") {
        let said = |side: &str| pair[side][0]["content"].as_str().unwrap().to_lowercase();
        assert!(said("chosen").contains('h'), "{pair}");
        // A rejected answer has none, or it was cut.
        let whole = pair["rejected_ids"].as_array().unwrap().last() == Some(&json!(2));
        assert!(!(whole && said("rejected").contains('h')), "{pair}");
    }
    let verdicts = place.lines("verdicts.jsonl");
    assert!(verdicts.iter().all(|v| v["mode"] == "rules" && [json!(0.0), json!(5.0)].contains(&v["score"])));
    let failed = verdicts.iter().find(|v| v["score"] == 0.0).unwrap()["texts"][0].as_str().unwrap();
    assert!(failed.contains("0 occurrences of the letter 'h'") || failed.contains("was cut"), "{failed}");

    let place = Place::new(&seeds(|_| json!({"pattern": "^[a-d]?[A-D]"})), "[judge]\nmode = \"key\"");
    place.run(&[]).success();
    let pairs = place.lines("pairs.jsonl");
    assert!(!pairs.is_empty() && pairs.iter().all(|p| p["score_chosen"] == 5.0 && p["score_rejected"] == 0.0));
}

#[test]
fn answers_vote_in_a_run_and_rules_stop_it_early() {
    let more = "[judge]\nmode = \"vote\"\nvote_share = 0.55\npattern = \"^(.)\"\n[pairs]\nselect = \"all\"";
    let place = Place::new(&seeds(|_| json!({})), more);
    place.run(&[]).success();
    let verdicts = place.lines("verdicts.jsonl");
    let split = |v: &&Value| v["status"].as_str().unwrap().starts_with("no answer has 0.55 of the votes");
    // What has no majority has no score, and what has one is told by its share.
    assert!(verdicts.iter().filter(split).all(|v| v["score"].is_null()));
    assert!(verdicts.iter().any(|v| v["texts"][0].as_str().is_some_and(|text| text.contains(" of 6 votes"))));
    let pairs = place.lines("pairs.jsonl");
    assert!(!pairs.is_empty() && pairs.iter().all(|p| p["score_chosen"].as_f64() >= Some(2.75)), "{pairs:?}");

    let kwargs = json!({"letter": "h", "let_relation": "at least", "let_frequency": 1});
    let rule = json!({"instruction_id_list": ["keywords:letter_frequency"], "kwargs": [kwargs]});
    let more = "[judge]\nmode = \"rules\"\n[validation]\nprompts = \"PLACE/checked.jsonl\"\nsamples = 2";
    let place = Place::new(&seeds(|_| rule.clone()), more);
    let checked = |record: &Value| fs::write(place.file("checked.jsonl"), format!("{record}\n")).unwrap();
    let mut record = json!({"prompt": "upper: hihi"});
    checked(&record);
    place.fails("checked.jsonl: record 1: has no instruction_id_list");
    record.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    checked(&record);
    place.run(&[]).success();
    let validation = place.lines("validation.jsonl");
    let score = validation.last().unwrap()["score"].as_f64().unwrap();
    assert!([0.0, 2.5, 5.0].contains(&score), "{validation:?}");
}

#[test]
fn constraints_are_put_behind_prompts_and_kept_from_those_that_are_measured_on() {
    let seeds = seeds(|_| json!({}));
    let more = "[constraints]\nmost = 2\n[judge]\nmode = \"rules\"\n[evaluation]\nprompts = \"PLACE/held-out.jsonl\"";
    let place = Place::new(&seeds, more);
    let held = json!({"prompt": "sort: abc No commas.", "base_prompt": seeds[0]["prompt"], "topic": "bcde"});
    fs::write(place.file("held-out.jsonl"), format!("{held}\n")).unwrap();
    fs::write(place.file("topics.jsonl"), "{\"topic\": \"the CDEF\"}\n").unwrap();
    place.run(&["--until", "prompts"]).success();
    let prompts = place.lines("prompts.jsonl");
    // The instruction of a held-out prompt, and those that speak of a held-out topic, are left out.
    assert_eq!(prompts.len(), seeds.len() - 3);
    for p in &prompts {
        validate(&schema("prompt"), p, "prompt").unwrap();
        let (whole, base) = (p["prompt"].as_str().unwrap(), p["base_prompt"].as_str().unwrap());
        assert!(whole.starts_with(base) && whole.len() > base.len() && base.starts_with("upper: "), "{whole}");
        let count = p["instruction_id_list"].as_array().unwrap().len();
        assert!((1..=2).contains(&count) && p["kwargs"].as_array().unwrap().len() == count);
    }
}

#[test]
fn what_cannot_be_judged_is_said_before_anything_is_written() {
    let none = seeds(|_| json!({}));
    let place = Place::new(&none, "[judge]\nmode = \"rules\"");
    place.fails("seeds.jsonl: record 1: has no instruction_id_list");
    assert!(!place.file("run").exists());
    Place::new(&none, "[judge]\nmode = \"key\"").fails("record 1: has neither answer nor pattern");
    let odd = seeds(|_| json!({"instruction_id_list": ["punctuation:commas"], "kwargs": [{}]}));
    Place::new(&odd, "[constraints]\nmost = 1\n[judge]\nmode = \"rules\"").fails("punctuation:no_comma");
    let many = seeds(|_| json!({"answer": "so\n#### many"}));
    Place::new(&many, "[judge]\nmode = \"key\"").fails("expected a number");
}
