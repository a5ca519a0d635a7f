//! The loop's data stages without a GPU: a scripted engine plays a model of the small world. A run that is interrupted
//! anywhere and resumed gives the same bytes as one that is not; the files link up and hold to their schemas.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

use selfreward::config::{Method, RoundSettings};
use selfreward::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord};
use selfreward::demo::domain::{OracleJudge, WorldDomain, self_judge, settings};
use selfreward::demo::evaluation;
use selfreward::generate::Engine;
use selfreward::generate::{Output, Request, Settings};
use selfreward::json::read_jsonl;
use selfreward::judge::{Judge, RandomJudge};
use selfreward::measure::metrics;
use selfreward::model::score::Branch;
use selfreward::recipe::context::{RoundContext, RoundFiles};
use selfreward::recipe::models::NoModels;
use selfreward::recipe::round::prepare;
use selfreward::recipe::round_metrics::measure;
use selfreward::rng::Stream;
use selfreward::world::respond::{IFT_WEIGHTS, response};
use selfreward::world::{Task, marks, text};
use selfreward::{Error, Observer, Result, Silent};
use selfreward_testing::schema::{schema, validate};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Plays a model: draws tasks, answers them as poorly as M1, marks answers mostly right. Fails after `calls` calls.
struct Scripted {
    calls: usize,
}

impl Engine for Scripted {
    fn generate(&mut self, requests: &[Request], settings: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
        if self.calls == 0 {
            return Err(Error::DeviceLost("scripted".into()));
        }
        self.calls -= 1;
        let answer = |prompt: &[u32], id: u64| {
            let mut rng = Stream::new(settings.seed, id);
            let prompt = text::decode(prompt);
            let line = |key: &str| {
                prompt.lines().find_map(|l| l.trim_start_matches('\u{1}').strip_prefix(key)).unwrap_or("").to_owned()
            };
            if !settings.choices.is_empty() {
                let task = Task::parse(&line("Q: ")).unwrap();
                let earned = marks(&task.gold, &line("A: ")).0;
                let choice_p: Vec<f32> =
                    earned.iter().map(|&m| 0.2 * rng.uniform() + if m { 0.8 } else { 0.0 }).collect();
                let tokens = settings.choices.iter().zip(&choice_p).map(|(c, p)| c[usize::from(*p < 0.5)]).collect();
                return Output { tokens, stopped: false, choice_p };
            }
            let tokens = if prompt.contains("New tasks") {
                let written = match rng.below(8) {
                    0 => "nonsense: abc".to_owned(),
                    1 => "upper: abc".to_owned(), // again and again
                    _ => Task::draw(&mut rng).prompt,
                };
                text::encode(&format!("{written}\n")).unwrap()
            } else {
                let task = Task::parse(&line("Q: ")).unwrap();
                text::completion(&response(&task, &IFT_WEIGHTS, &mut rng)).unwrap()
            };
            let stopped = tokens.last().is_some_and(|t| settings.stop.contains(t));
            Output { tokens, stopped, choice_p: vec![] }
        };
        Ok(requests.iter().map(|r| r.samples.iter().map(|&id| answer(&r.prompt, id)).collect()).collect())
    }

    fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
        panic!("the small world's judge reads marks")
    }
}

fn small() -> RoundSettings {
    let mut s = settings(30, Method::Dpo, 0.2);
    (s.prompts.wave, s.candidates.wave, s.judge.wave) = (16, 7, 11);
    s
}

fn play(
    dir: &Path,
    settings: &RoundSettings,
    judge: &dyn Judge,
    calls: usize,
    round: u32,
    earlier: &[String],
) -> Result<()> {
    let ctx = RoundContext {
        domain: &WorldDomain,
        settings,
        seed: 9,
        round,
        observer: &Silent,
        models: &NoModels,
        held_out: &[],
    };
    let files = RoundFiles::new(dir, round);
    prepare(&mut Scripted { calls }, &ctx, judge, &files, earlier, &mut |_| Ok(()))?;
    std::fs::write(files.jsonl("steps"), "").unwrap();
    let metrics = measure(&ctx, judge.name(), &files)?;
    selfreward::json::write_json(&files.dir.join("metrics.json"), &metrics)
}

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap())
        .map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap()))
        .collect()
}

#[test]
fn an_interrupted_round_ends_with_the_same_bytes() {
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    let whole = tmp.path().join("whole");
    play(&whole, &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    let expected = bytes(&whole.join("round-1"));
    assert!(expected.keys().all(|name| !name.contains("part") && !name.contains("tmp")), "{:?}", expected.keys());
    let mut interruptions = 0;
    for calls in 0.. {
        let dir = tmp.path().join(format!("cut-{calls}"));
        match play(&dir, &settings, &self_judge(), calls, 1, &[]) {
            Ok(()) => break,
            Err(e) => assert!(matches!(e, Error::DeviceLost(_)), "{e}"),
        }
        interruptions += 1;
        // Killed while it wrote: the last wave is torn.
        for entry in std::fs::read_dir(dir.join("round-1")).unwrap().map(|f| f.unwrap().path()) {
            if entry.to_string_lossy().ends_with(".part.jsonl") {
                let mut content = std::fs::read(&entry).unwrap();
                content.extend(b"[{\"id\":\"tor");
                std::fs::write(&entry, content).unwrap();
            }
        }
        play(&dir, &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
        assert!(bytes(&dir.join("round-1")) == expected, "interrupted after {calls} calls");
    }
    assert!(interruptions >= 9, "{interruptions}");
}

#[test]
fn records_link_up_and_pairs_follow_the_scores() {
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    play(tmp.path(), &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    let files = RoundFiles::new(tmp.path(), 1);
    let prompts: Vec<PromptRecord> = read_jsonl(&files.jsonl("prompts")).unwrap();
    let candidates: Vec<CandidateRecord> = read_jsonl(&files.jsonl("candidates")).unwrap();
    let verdicts: Vec<VerdictRecord> = read_jsonl(&files.jsonl("verdicts")).unwrap();
    let pairs: Vec<PairRecord> = read_jsonl(&files.jsonl("pairs")).unwrap();
    assert_eq!((prompts.len(), candidates.len()), (30, 120));
    let by_id: HashMap<&str, &CandidateRecord> = candidates.iter().map(|c| (c.id.as_str(), c)).collect();
    assert_eq!(by_id.len(), 120);
    let distinct: HashSet<&str> = prompts.iter().map(|p| p.prompt.as_str()).collect();
    assert_eq!(distinct.len(), 30);
    assert!(prompts.windows(2).all(|w| w[0].id < w[1].id));
    // Every candidate has exactly one verdict, of its own prompt.
    let judged: Vec<&str> = verdicts.iter().flat_map(|v| v.candidate_ids.iter().map(String::as_str)).collect();
    assert_eq!((judged.len(), judged.iter().collect::<HashSet<_>>().len()), (120, 120));
    assert!(verdicts.len() < 120, "equal answers share a verdict");
    let score: HashMap<&str, f64> =
        verdicts.iter().flat_map(|v| v.candidate_ids.iter().map(|id| (id.as_str(), v.score.unwrap()))).collect();
    assert!(pairs.len() > 15);
    for pair in &pairs {
        let (chosen, rejected) = (by_id[pair.chosen_id.as_str()], by_id[pair.rejected_id.as_str()]);
        assert_eq!((&chosen.prompt_id, &rejected.prompt_id), (&pair.prompt_id, &pair.prompt_id));
        assert_eq!((&pair.chosen_ids, &pair.rejected_ids), (&chosen.token_ids, &rejected.token_ids));
        assert_eq!((pair.score_chosen, pair.score_rejected), (score[&*pair.chosen_id], score[&*pair.rejected_id]));
        assert!(pair.score_chosen - pair.score_rejected >= 0.5);
        let rivals = candidates.iter().filter(|c| c.prompt_id == pair.prompt_id).map(|c| score[&*c.id]);
        assert!(rivals.clone().all(|s| s <= pair.score_chosen && s >= pair.score_rejected));
        assert_eq!(pair.prompt_ids, text::question(&pair.prompt[0].content).unwrap());
    }
    let m: serde_json::Value = serde_json::from_slice(&std::fs::read(files.dir.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(m["pairs"].as_u64().unwrap() + m["ties"].as_u64().unwrap() + m["too_few"].as_u64().unwrap(), 30);
    assert!(m["dropped"]["not a task"].as_u64().unwrap() > 0 && m["dropped"]["seen before"].as_u64().unwrap() > 0);
}

#[test]
fn a_second_round_asks_nothing_twice() {
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    play(tmp.path(), &settings, &OracleJudge, usize::MAX, 1, &[]).unwrap();
    let earlier = selfreward::recipe::stages::prompts::earlier_prompts(tmp.path(), 2).unwrap();
    assert_eq!(earlier.len(), 30);
    play(tmp.path(), &settings, &RandomJudge { seed: 9 }, usize::MAX, 2, &earlier).unwrap();
    let all = selfreward::recipe::stages::prompts::earlier_prompts(tmp.path(), 3).unwrap();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 60);
    let verdicts: Vec<VerdictRecord> = read_jsonl(&RoundFiles::new(tmp.path(), 2).jsonl("verdicts")).unwrap();
    let scores: Vec<f64> = verdicts.iter().filter_map(|v| v.score).collect();
    let (mean, _) = metrics::mean_se(&scores);
    assert!((1.8..3.2).contains(&mean), "dice average 2.5, not {mean}");
    assert!(verdicts.iter().all(|v| v.mode == "random"));
}

#[test]
fn a_model_that_writes_nothing_usable_is_reported() {
    struct Mute;
    impl Engine for Mute {
        fn generate(&mut self, requests: &[Request], _: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
            let mute = Output { tokens: vec![text::EOS], stopped: true, choice_p: vec![] };
            Ok(requests.iter().map(|r| vec![mute.clone(); r.samples.len()]).collect())
        }
        fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
            Ok(Vec::new())
        }
    }
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    let ctx = RoundContext {
        domain: &WorldDomain,
        settings: &settings,
        seed: 0,
        round: 1,
        observer: &Silent,
        models: &NoModels,
        held_out: &[],
    };
    let files = RoundFiles::new(tmp.path(), 1);
    let e = prepare(&mut Mute, &ctx, &self_judge(), &files, &[], &mut |_| Ok(())).unwrap_err().to_string();
    assert!(e.contains("round 1: no new prompts"), "{e}");
}

#[test]
fn a_request_to_stop_ends_at_a_wave_and_loses_nothing() {
    struct After(Cell<u64>);
    impl Observer for After {
        fn advance(&self, n: u64) {
            self.0.set(self.0.get().saturating_sub(n));
        }
        fn stop_requested(&self) -> bool {
            self.0.get() == 0
        }
    }
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    let files = RoundFiles::new(tmp.path(), 1);
    let stop = After(Cell::new(40));
    let ctx = RoundContext {
        domain: &WorldDomain,
        settings: &settings,
        seed: 9,
        round: 1,
        observer: &stop,
        models: &NoModels,
        held_out: &[],
    };
    let engine = &mut Scripted { calls: usize::MAX };
    let e = prepare(engine, &ctx, &self_judge(), &files, &[], &mut |_| Ok(())).unwrap_err();
    assert!(matches!(e, Error::Stopped));
    assert!(files.dir.join("candidates.part.jsonl").exists());
    play(tmp.path(), &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    let whole = tempfile::tempdir().unwrap();
    play(whole.path(), &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    assert!(bytes(&files.dir) == bytes(&whole.path().join("round-1")));
}

#[test]
fn every_record_holds_to_its_schema() {
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    play(tmp.path(), &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    let files = RoundFiles::new(tmp.path(), 1);
    let check = |path: &Path, name: &str| {
        let content = std::fs::read_to_string(path).unwrap();
        assert!(!content.is_empty(), "{}", path.display());
        for line in content.lines() {
            validate(&schema(name), &serde_json::from_str(line).unwrap(), name).unwrap();
        }
    };
    for (file, name) in [
        ("prompts", "prompt"),
        ("dropped", "dropped"),
        ("candidates", "candidate"),
        ("verdicts", "verdict"),
        ("pairs", "pair"),
    ] {
        check(&files.jsonl(file), name);
    }
    let out = tmp.path().join("M1.jsonl");
    let records = evaluation::run(&mut Scripted { calls: 9 }, &self_judge(), (200, 0), &out, &Silent).unwrap();
    assert_eq!((records.len(), records[0].answers.len(), records[0].judged.len()), (200, 8, 2));
    check(&out, "evaluation");
    let m = serde_json::from_slice(&std::fs::read(files.dir.join("metrics.json")).unwrap()).unwrap();
    validate(&schema("round_metrics"), &m, "round_metrics").unwrap();
}

#[test]
fn every_document_holds_to_its_schema() {
    use selfreward::demo::report::DemoReport;
    use selfreward::demo::{DemoConfig, summarise};
    use selfreward::recipe::run_folder::{RunFolder, status};
    let (tmp, settings) = (tempfile::tempdir().unwrap(), small());
    let run = tmp.path().join("run");
    let table: toml::Table = toml::from_str("[demo]\nseed = 9\n").unwrap();
    let sizes = [("judge.wave".to_owned(), 11.into())].into();
    let mut folder = RunFolder::open(&run, &table, sizes, false, &selfreward::Silent).unwrap();
    selfreward::world::save(&folder.model(1), &selfreward::world::init(0)).unwrap();
    folder.stage_done("M1").unwrap();
    play(&run, &settings, &self_judge(), usize::MAX, 1, &[]).unwrap();
    for model in ["M1", "M2"] {
        let out = run.join(format!("evaluation/{model}.jsonl"));
        evaluation::run(&mut Scripted { calls: 9 }, &self_judge(), (200, 0), &out, &Silent).unwrap();
    }
    let metrics = summarise(&DemoConfig { rounds: 1, ..DemoConfig::default() }, &run).unwrap();
    // The same script played both models, so nothing can have changed.
    assert_eq!((metrics.head_to_head[0].tie, metrics.head_to_head[0].gain), (200, 0.0));
    assert!(metrics.models[0].judge_spearman.unwrap() > 0.9 && metrics.rounds[0].pairs_wrong == 0);
    let check = |value: serde_json::Value, name: &str| validate(&schema(name), &value, name).unwrap();
    check(serde_json::to_value(&metrics).unwrap(), "demo_metrics");
    check(serde_json::to_value(DemoReport { metrics, round_seconds: vec![1.0], seconds: 2.0 }).unwrap(), "demo");
    check(serde_json::to_value(status(&run).unwrap()).unwrap(), "status");
    for name in ["state", "plan"] {
        check(serde_json::from_slice(&std::fs::read(run.join(format!("{name}.json"))).unwrap()).unwrap(), name);
    }
}

#[test]
fn the_validator_can_fail() {
    let record = serde_json::json!({ "key": "k", "text": "t", "reason": "r", "tokens": 1 });
    assert!(validate(&schema("dropped"), &record, "dropped").is_ok());
    for (key, bad) in [("key", serde_json::json!(1)), ("tokens", serde_json::json!(-1)), ("more", serde_json::json!(1))]
    {
        let mut record = record.clone();
        record[key] = bad;
        assert!(validate(&schema("dropped"), &record, "dropped").is_err(), "{key}");
    }
    let mut record = record;
    record.as_object_mut().unwrap().remove("text");
    assert!(validate(&schema("dropped"), &record, "dropped").unwrap_err().contains("text is missing"));
}
