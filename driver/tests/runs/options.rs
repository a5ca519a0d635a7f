//! `run` with everything that its configuration can ask for, through the binary, on the small world's model as a chat
//! model like any other: M1 from supervised data, early stopping, all of `[pairs]`, and the evaluation of every model.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn write(path: &Path, records: &[Value]) {
    fs::write(path, records.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
}

/// Tasks of the small world, in letters that stand for `kind`.
fn tasks(kind: &str, from: usize, n: usize) -> Vec<String> {
    let word =
        |i: usize| -> String { [i % 10, i / 10 % 10, 3, i % 7].iter().map(|d| (b'a' + *d as u8) as char).collect() };
    (from..from + n).map(|i| format!("{kind}: {}", word(i))).collect()
}

/// A folder with the data and the configuration of a run.
struct Place(tempfile::TempDir);

impl Place {
    fn new(more: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let prompts = |list: Vec<String>| list.iter().map(|p| json!({ "prompt": p })).collect::<Vec<_>>();
        let mut seeds = tasks("upper", 0, 12);
        seeds.extend(tasks("reverse", 20, 12));
        // One of the seeds is measured on, so it is no prompt of a round.
        let mut held_out = tasks("sort", 40, 5);
        held_out.push(seeds[3].clone());
        write(&place.file("seeds.jsonl"), &prompts(seeds));
        write(&place.file("held-out.jsonl"), &prompts(held_out));
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let chat = |(q, a): (&str, &str)| json!({"messages": [said("user", q), said("assistant", a)]});
        write(&place.file("ift.jsonl"), &[("upper: abc", "ABC"), ("sort: cab", "abc"), ("next: abc", "bcd")].map(chat));
        write(
            &place.file("eft.jsonl"),
            &[json!({"prompt": "Judge\nQ: upper: ab\nA: AB\nPoints: ", "completion": "ECLHX Score: 5"})],
        );
        write(
            &place.file("ranked.jsonl"),
            &[
                json!({"prompt": "upper: cab", "responses": ["CAB", "cab", "j"]}),
                json!({"prompt": "sort: dca", "responses": ["acd", "dca", "bbbbbbbb"]}),
            ],
        );
        let keyed = |prompt: String| json!({"prompt": prompt, "answer": prompt[7..].to_uppercase()});
        write(&place.file("keyed.jsonl"), &tasks("upper", 20, 3).into_iter().map(keyed).collect::<Vec<_>>());
        let choose = |prompt: String| json!({"question": prompt, "choices": ["AB", "ba"], "answer": 0});
        write(&place.file("choose.jsonl"), &tasks("upper", 30, 2).into_iter().map(choose).collect::<Vec<_>>());
        write(&place.file("texts.jsonl"), &["a text of its own", "b"].map(|text| json!({ "text": text })));
        fs::write(place.file("judge.txt"), "{{ answer }}\n").unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1");
        let path = |name: &str| place.file(name).to_str().unwrap().to_owned();
        let config = format!(
            r#"
[model]
path = {model:?}
[run]
out = {run:?}
rounds = 2
[prompts]
seed_file = {seeds:?}
from_seed = 8
count = 0
wave = 4
[candidates]
n = 3
temperature = 1.0
max_new_tokens = 8
wave = 4
[judge]
mode = "backward"
template = {judge:?}
wave = 4
{more}
[evaluation]
prompts = {held_out:?}
mode = "backward"
ranked = {ranked:?}
texts = {texts:?}
samples = 2
tasks = [
    {{ task = "exact", data = {keyed:?}, samples = 2 }},
    {{ task = "choice", data = {choose:?}, name = "pick" }},
]
"#,
            run = path("run"),
            seeds = path("seeds.jsonl"),
            judge = path("judge.txt"),
            held_out = path("held-out.jsonl"),
            ranked = path("ranked.jsonl"),
            texts = path("texts.jsonl"),
            keyed = path("keyed.jsonl"),
            choose = path("choose.jsonl"),
        );
        fs::write(place.file("run.toml"), config.replace("PLACE", place.0.path().to_str().unwrap())).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, more: &[&str]) -> Value {
        let mut command = cargo_bin_cmd!("selfreward");
        command.arg("run").arg(self.file("run.toml")).arg("--json").args(more);
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file("run").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn document(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.file("run").join(name)).unwrap()).unwrap()
    }

    /// Every file that is the same for every run of one seed.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut all, mut folders) = (BTreeMap::new(), vec![self.file("run")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                let name = entry.file_name().unwrap().to_str().unwrap();
                if entry.is_dir() {
                    folders.push(entry);
                } else if !["state.json", "plan.json", "log.jsonl", "report.html", "config.toml", "lock"]
                    .contains(&name)
                {
                    all.insert(entry.strip_prefix(self.file("run")).unwrap().to_owned(), fs::read(&entry).unwrap());
                }
            }
        }
        all
    }
}

const EVERYTHING: &str = r#"
[pairs]
select = "all"
most = 2
weight = "gap"
rejected = "first"
agreement = "prompt"
implicit = true
[sft]
files = ["PLACE/ift.jsonl", "PLACE/eft.jsonl"]
mix = [2, 1]
lr = 1e-3
batch = 2
epochs = 3
save_every = 2
[dpo]
lr = 1e-4
batch = 4
optimizer = "adamw8bit"
weights = "bf16"
[validation]
prompts = "PLACE/held-out.jsonl"
every = 1
patience = 2
[controls]
random = true
sft_best = true
"#;

/// What `eval` says of each model of the run.
fn eval(place: &Place, data: &str, more: &[&str]) -> Vec<Value> {
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["eval", "--json", "--model"]).arg(place.file("run")).arg("--data").arg(place.file(data)).args(more);
    let sides: Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
    validate(&schema("tasks"), &sides, "tasks").unwrap();
    sides.as_array().unwrap().clone()
}

#[test]
fn a_run_with_every_option_writes_what_it_should() {
    let place = Place::new(EVERYTHING);
    let status = place.run(&[]);
    assert_eq!((&status["finished"], &status["models"]), (&json!(true), &json!(["M0", "M1", "M2", "M3"])));
    let stages: Vec<&str> = status["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(stages[..4], ["sft/training", "gate/M1", "evaluation/M1", "evaluation/M0"]);
    assert!(stages.contains(&"round-2/anchors") && stages.contains(&"round-1/second-opinions"), "{stages:?}");
    // M0 is a reference, M1 was trained: 4 records three times, 8 of them instructions, 2 a step.
    assert!(place.file("run/M0/source.json").exists() && place.file("run/M1/model.safetensors").exists());
    let stored = |model: &str| place.document(&format!("{model}/config.json"))["dtype"].clone();
    assert_eq!(["M1", "M2", "M3"].map(stored), ["float32", "bfloat16", "bfloat16"]);
    let steps = place.lines("sft/steps.jsonl");
    assert_eq!(steps.len(), 6);
    assert!(steps[5]["loss"].as_f64().unwrap() < steps[0]["loss"].as_f64().unwrap());
    for round in [1, 2] {
        let name = |file: &str| format!("round-{round}/{file}.jsonl");
        let prompts = place.lines(&name("prompts"));
        // Eight seeds a round, but the one that is measured on.
        assert_eq!(prompts.len(), if round == 1 { 7 } else { 8 });
        let pairs = place.lines(&name("pairs"));
        assert!(!pairs.is_empty() && pairs.iter().any(|p| p["weight"] != 1.0));
        // M1 was trained far from M0, M2 hardly away from M1.
        assert!(round == 2 || pairs.iter().any(|p| p["flip"] != 0.0));
        let validations = place.lines(&name("validation"));
        let metrics = place.document(&format!("round-{round}/metrics.json"));
        assert!(validations.iter().any(|v| v["step"] == metrics["best_step"]) && !metrics["agreement"].is_null());
        for (file, of) in
            [("pairs", "pair"), ("validation", "validation"), ("logps", "logp"), ("verdicts-before", "verdict")]
        {
            place.lines(&name(file)).iter().for_each(|r| validate(&schema(of), r, of).unwrap());
        }
        validate(&schema("round_metrics"), &metrics, "round_metrics").unwrap();
    }
    // The rejected answers of round 2 are M1's own.
    let anchors: Vec<Value> = place.lines("round-2/anchors.jsonl").iter().map(|a| a["id"].clone()).collect();
    assert!(place.lines("round-2/pairs.jsonl").iter().all(|p| anchors.contains(&p["rejected_id"])));
    for model in ["M0", "M1", "M2", "M3", "random", "sft-best"] {
        let answers = place.lines(&format!("evaluation/{model}.jsonl"));
        assert_eq!(answers.len(), 12);
        answers.iter().for_each(|a| validate(&schema("answer"), a, "answer").unwrap());
        place
            .lines(&format!("evaluation/{model}-judge.jsonl"))
            .iter()
            .for_each(|a| validate(&schema("ranked_score"), a, "ranked_score").unwrap());
        let texts = place.lines(&format!("evaluation/{model}-texts.jsonl"));
        texts.iter().for_each(|t| validate(&schema("text_score"), t, "text_score").unwrap());
        assert!(texts.len() == 2 && texts[0]["tokens"].as_u64().unwrap() > 10);
        let alpaca = place.document(&format!("evaluation/{model}.json"));
        validate(&schema("alpaca"), &alpaca, "alpaca").unwrap();
        assert_eq!((alpaca.as_array().unwrap().len(), &alpaca[0]["generator"]), (6, &json!(model)));
        for (set, count) in [("keyed", 6), ("pick", 2)] {
            let lines = place.lines(&format!("evaluation/{set}/{model}.jsonl"));
            lines.iter().for_each(|line| validate(&schema("checked"), line, "checked").unwrap());
            let document = place.document(&format!("evaluation/{set}/{model}.json"));
            validate(&schema("task"), &document, "task").unwrap();
            assert_eq!((lines.len(), &document["name"], &document["unanswered"]), (count, &json!(model), &json!(0)));
            let against: Vec<&Value> =
                document["differences"].as_array().unwrap().iter().map(|d| &d["against"]).collect();
            let wanted: &[&str] = match model {
                "M0" | "M2" | "random" | "sft-best" => &["M1"],
                "M3" => &["M2", "M1"],
                _ => &[],
            };
            assert!(wanted.iter().all(|w| against.contains(&&json!(w))) && (against.is_empty() == wanted.is_empty()));
        }
    }
    let mut command = cargo_bin_cmd!("selfreward");
    let output =
        command.arg("report").arg(place.file("run")).arg("--json").assert().success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&output).unwrap();
    validate(&schema("report"), &report, "report").unwrap();
    let sides = |d: &Value| format!("{} {}", d["a"].as_str().unwrap(), d["b"].as_str().unwrap());
    let duels: Vec<String> = report["duels"].as_array().unwrap().iter().map(sides).collect();
    let results: Vec<(&str, &str)> = report["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["set"].as_str().unwrap(), t["name"].as_str().unwrap()))
        .collect();
    assert_eq!((results.len(), results[0], results[11]), (12, ("keyed", "M0"), ("pick", "sft-best")));
    // What is measured on is no prompt to train on.
    let keyed: Vec<String> = tasks("upper", 20, 3);
    assert!(
        place.lines("round-1/prompts.jsonl").iter().all(|p| !keyed.contains(&p["prompt"].as_str().unwrap().into()))
    );
    assert_eq!(duels, ["M2 M1", "M3 M1", "M3 M2", "random M1", "sft-best M1"]);
    assert_eq!(report["judging"].as_array().unwrap().len(), 6);
    // The controls are trained of M1's answers: as many pairs, others, or the best answers alone.
    let pairs = |name: &str| place.lines(&format!("{name}/pairs.jsonl"));
    let (own, random) = (pairs("round-1"), pairs("controls/random"));
    let ids = |pairs: &[Value]| pairs.iter().map(|p| p["id"].clone()).collect::<Vec<_>>();
    assert!(random.len() <= own.len() && ids(&random) != ids(&own), "{} {}", random.len(), own.len());
    assert!(!place.lines("controls/sft-best/steps.jsonl")[0].as_object().unwrap().contains_key("rewards/chosen"));
    let weights = |name: &str| fs::read(place.file("run").join(name).join("model.safetensors")).unwrap();
    let all = ["M1", "M2", "controls/random/M2", "controls/sft-best/M2"].map(weights);
    assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
    // One table has all of them.
    let metrics = place.document("metrics.json");
    validate(&schema("run_metrics"), &metrics, "run_metrics").unwrap();
    assert_eq!(metrics["models"], json!(["M0", "M1", "M2", "M3", "random", "sft-best"]));
    let names: Vec<&str> =
        metrics["measures"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    let kinds = ["win rate against M1", "as a judge: pairs in order", "perplexity of other texts", "answers that end"];
    assert!(names[0].starts_with("keyed: strict") && names.contains(&"pick: acc_norm"), "{names:?}");
    assert_eq!(names[names.len() - 6..], [&kinds[..], &["tokens an answer", "different answers to a prompt"]].concat());
    let ends = &metrics["measures"][names.len() - 3];
    assert_eq!(
        (&ends["items"], &ends["gains"]["M1"]["over"], &ends["gains"]["M3"]["over"]),
        (&json!(6), &json!("M0"), &json!("M1"))
    );
    assert_eq!(report["metrics"], metrics);
    // Two models judged their own answers in a round.
    for model in ["M1", "M2"] {
        let gate = place.document(&format!("gate/{model}.json"));
        validate(&schema("gate"), &gate, "gate").unwrap();
        assert_eq!((&gate["judge"], &gate["ordered"]["answers"]), (&json!("backward"), &json!(198)));
    }
    assert_ne!(place.document("gate/M1.json")["model"], place.document("gate/M2.json")["model"]);
    let page = fs::read_to_string(place.file("run/report.html")).unwrap();
    for words in [
        "Models and controls",
        "SFT on the best",
        "Judges before their rounds",
        "M3 against M2",
        "As judges",
        "keyed: strict pass@2, less the model before",
        "pick: acc_norm",
        "Validation",
        "agreement with the model before",
        "step whose model was kept",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let mut command = cargo_bin_cmd!("selfreward");
    let text =
        command.arg("report").arg(place.file("run")).arg("--terminal").assert().success().get_output().stdout.clone();
    let text = String::from_utf8(text).unwrap();
    for words in [
        "MODELS AND CONTROLS",
        "random judge",
        "gain over M0, M1",
        "JUDGES BEFORE THEIR ROUNDS",
        "MODELS AS JUDGES",
        "TASKS",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }

    // What the run measured is what eval says of its models.
    let out = place.file("checked.jsonl");
    let sides =
        eval(&place, "keyed.jsonl", &["--task", "exact", "--max-new-tokens", "8", "--out", out.to_str().unwrap()]);
    let against = |side: &Value| -> Vec<String> {
        let all = side["differences"].as_array().unwrap().iter();
        all.map(|d| d["against"].as_str().unwrap().to_owned()).step_by(2).collect()
    };
    let names: Vec<(&str, Vec<String>)> = sides.iter().map(|s| (s["name"].as_str().unwrap(), against(s))).collect();
    let none = Vec::<String>::new();
    let named = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let wanted = [("M0", none), ("M1", named(&["M0"])), ("M2", named(&["M1", "M0"])), ("M3", named(&["M2", "M0"]))];
    assert_eq!(names, wanted);
    let models = fs::read_to_string(out).unwrap();
    let models: Vec<Value> = models.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((models.len(), &models[3]["model"]), (12, &json!("M1")));
    let chosen = eval(&place, "choose.jsonl", &["--task", "choice"]);
    for (side, model) in chosen.iter().zip(["M0", "M1", "M2", "M3"]) {
        assert_eq!(side["rates"], place.document(&format!("evaluation/pick/{model}.json"))["rates"], "{model}");
    }

    // The same again, and a finished run is left as it is.
    let again = Place::new(EVERYTHING);
    again.run(&[]);
    let (one, two) = (place.bytes(), again.bytes());
    let names = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&two));
    for (name, bytes) in &one {
        // M0 names its model by its path.
        assert!(name.starts_with("M0") || *bytes == two[name], "{}", name.display());
    }
    place.run(&["--resume"]);
    assert!(place.bytes() == one);
}

#[test]
fn shards_make_the_round_that_one_process_makes() {
    let options = "[dpo]\nlr = 1e-4\nbatch = 4\n";
    let (whole, shared) = (Place::new(options), Place::new(options));
    // Waves differ, so only --invariant gives an answer the same bits on every machine.
    let same = ["--invariant"];
    whole.run(&same);
    let fails = |more: &[&str], word: &str| {
        let mut command = cargo_bin_cmd!("selfreward");
        let output = command
            .arg("run")
            .arg(shared.file("run.toml"))
            .args(same)
            .args(more)
            .assert()
            .code(1)
            .get_output()
            .stderr
            .clone();
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains(word), "{text}");
    };
    fails(&["--shard", "1/3"], "--until prompts");
    for round in 1..=2 {
        let more: &[&str] = if round == 1 { &[] } else { &["--resume"] };
        let status = shared.run(&[&same[..], &["--until", "prompts"], more].concat());
        assert_eq!(status["finished"], false);
        // Once more changes nothing.
        shared.run(&[&same[..], &["--until", "prompts", "--resume"]].concat());
        for shard in ["3/3", "1/3"] {
            let done = shared.run(&[&same[..], &["--shard", shard]].concat());
            validate(&schema("shard"), &done, "shard").unwrap();
        }
        fails(&["--resume"], "not finished are the shards 2/3");
        shared.run(&[&same[..], &["--shard", "2/3"]].concat());
    }
    let status = shared.run(&[&same[..], &["--resume"]].concat());
    assert_eq!(status["finished"], true);
    fails(&["--shard", "1/3"], "nothing left to share");
    let (one, two) = (whole.bytes(), shared.bytes());
    for (name, bytes) in &one {
        assert!(name.starts_with("M0") || Some(bytes) == two.get(name), "{}", name.display());
    }
}

/// The run must fail with exit code 1 and say `word`.
#[track_caller]
fn fails(place: &Place, more: &[&str], word: &str) {
    let mut command = cargo_bin_cmd!("selfreward");
    let output = command.arg("run").arg(place.file("run.toml")).args(more).assert().code(1).get_output().stderr.clone();
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains(word), "{text}");
}

#[test]
fn what_a_run_reads_and_how_far_it_goes() {
    let place = Place::new("[dpo]\nlr = 1e-4\nbatch = 4\n");
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(place.file("run.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(place.file("run.toml"), text.replace(from, to)).unwrap();
    };
    change("rounds = 2", "rounds = 1");
    place.run(&["--seed", "7"]);
    assert!(fs::read_to_string(place.file("run/config.toml")).unwrap().contains("seed = 7"));
    fails(&place, &["--resume"], "run.seed is 7 in this folder and 0 now");
    // A finished run goes on when more rounds are asked for.
    change("rounds = 1", "rounds = 2");
    let status = place.run(&["--seed", "7", "--resume"]);
    assert_eq!((&status["finished"], &status["models"][3]), (&json!(true), &json!("M3")));
    // So does one of which controls are asked for, and its models stay what they are.
    let weights = || fs::read(place.file("run/M3/model.safetensors")).unwrap();
    let before = weights();
    change("[dpo]", "[controls]\nrandom = true\n[dpo]");
    place.run(&["--seed", "7", "--resume"]);
    assert!(place.file("run/controls/random/M2/model.safetensors").exists() && weights() == before);
    // Without supervised data M1 is M0, and is not asked again.
    let sides = eval(&place, "choose.jsonl", &["--task", "choice"]);
    let names: Vec<&Value> = sides.iter().map(|s| &s["name"]).collect();
    assert_eq!(names, ["M0", "M2", "M3"]);
    // Other contents under the same name are other settings.
    fs::write(place.file("judge.txt"), "{{ answer }}!\n").unwrap();
    fails(&place, &["--resume", "--seed", "7"], "judge.template");
}

#[test]
fn a_judge_that_knows_nothing_stops_the_run() {
    let place = Place::new("ranked = \"PLACE/alike.jsonl\"\nfloor = 0.6\n[dpo]\nlr = 1e-4\nbatch = 4\n");
    // No judge tells equal answers apart.
    let alike = |prompt: String| json!({"prompt": prompt, "responses": ["AB", "AB"]});
    write(&place.file("alike.jsonl"), &tasks("upper", 0, 6).into_iter().map(alike).collect::<Vec<_>>());
    for more in [&[][..], &["--resume"]] {
        fails(&place, more, "M1 does not judge well enough");
    }
    assert!(!place.file("run/round-1").exists());
    let gate = fs::read(place.file("run/gate/M1.json")).unwrap();
    let status = place.run(&["--resume", "--force"]);
    assert_eq!((&status["finished"], &status["models"][3]), (&json!(true), &json!("M3")));
    assert_eq!(fs::read(place.file("run/gate/M1.json")).unwrap(), gate);
    // A finished run needs no force, and the floor may be another one.
    place.run(&["--resume"]);
    let text = fs::read_to_string(place.file("run.toml")).unwrap();
    fs::write(place.file("run.toml"), text.replace("floor = 0.6", "floor = 0.5").replace("rounds = 2", "rounds = 3"))
        .unwrap();
    let status = place.run(&["--resume"]);
    assert_eq!(status["models"][4], "M4");
}

#[test]
fn a_round_without_pairs_says_why() {
    let wide = Place::new("[pairs]\nmin_gap = 4.9\n");
    fails(&wide, &[], "7 of 7 prompts are ties");
    let unread = Place::new("[dpo]\nlr = 1e-4\n");
    let text = fs::read_to_string(unread.file("run.toml")).unwrap();
    let sampled = text.replace(
        "[judge]\nmode = \"backward\"",
        "[judge]\nmode = \"sampled\"\nmax_new_tokens = 8\npattern = \"([0-9])$\"",
    );
    assert_ne!(sampled, text);
    fs::write(unread.file("run.toml"), sampled).unwrap();
    fails(&unread, &[], "7 of 7 prompts have fewer than two scores");
    fails(&unread, &["--resume"], "other settings need another [run] out");
}
