//! The report of hand-made run folders: everything in it is escaped, an unfinished run is shown, the
//! same folder gives the same bytes, and what trackers read holds to its schema. With REPORT_OUT the
//! pages are left in that folder, for a browser to judge.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

use selfreward::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord, alone};
use selfreward::json::write_jsonl;
use selfreward::judge::Checks;
use selfreward::report;
use selfreward::report::{FILE, trackers};
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Would run, load or break something if it came through as it is. A reader of the page sees it as text.
const HOSTILE: &str = "<script>document.documentElement.dataset.hurt=1</script>\"'>\
    <img src=x onerror=\"document.documentElement.dataset.hurt=1\"></style></svg>\
    &lt;{{ 7*6827 }}{% raw %}\u{0}\u{1b}[31m\u{202e}";

/// A run folder with one round of `prompts` prompts, which has got as far as `steps` (none: before the training).
fn folder(run: &Path, prompts: usize, steps: Option<usize>, finished: bool) {
    let round = run.join("round-1");
    fs::create_dir_all(&round).unwrap();
    fs::create_dir_all(run.join("M0")).unwrap();
    fs::create_dir_all(run.join("M1")).unwrap();
    let config = format!("[model]\npath = {:?}\n\n[run]\nout = \"runs/x\"\n", "m<b>\"&");
    fs::write(run.join("config.toml"), config).unwrap();
    let plan = json!({"version": "0.0.0", "sizes": {"device": HOSTILE, "judge.wave": 16}});
    fs::write(run.join("plan.json"), plan.to_string()).unwrap();
    let stage = |name: &str, seconds: f64| json!({"name": format!("round-1/{name}"), "seconds": seconds});
    let state = json!({"stages": [stage("prompts", 1.5), stage("training", 8.0)], "finished": finished});
    fs::write(run.join("state.json"), state.to_string()).unwrap();
    let log = "{\"unix_s{\"unix_seconds\":7}\n\
        {\"unix_seconds\":1000.5,\"stage\":\"round-1/training\",\"seconds\":8.0}\n\
        {\"unix_sec";
    fs::write(run.join("log.jsonl"), log).unwrap();
    let calibration = json!({"model": "0", "calibration": {"questions": 8, "recommended": "sampled", "agreement": 0.5,
        "warning": HOSTILE, "modes": [
            {"mode": "sampled", "choosing": 0.6, "reporting": 0.5, "scored": 1.0, "unusable": null},
            {"mode": "yes", "choosing": 0.0, "reporting": 0.0, "scored": 0.0, "unusable": HOSTILE}]}});
    fs::write(run.join("calibration.json"), calibration.to_string()).unwrap();

    let long = format!("{HOSTILE} {}", "no-space-in-this-word".repeat(400));
    let (mut asked, mut candidates, mut verdicts, mut pairs) = (vec![], vec![], vec![], vec![]);
    for p in 0..prompts {
        let id = format!("{p:016x}");
        let text = if p == 0 { long.clone() } else { format!("prompt {p} {HOSTILE}") };
        asked.push(PromptRecord {
            id: id.clone(),
            round: 1,
            prompt: text.clone(),
            source: "self".into(),
            key: id.clone(),
            seed: 0,
            tokens: 9,
            base_prompt: None,
            checks: Checks::default(),
        });
        for sample in 0..2u32 {
            let answer = if p == 0 && sample == 0 { long.clone() } else { format!("answer {sample} {HOSTILE}") };
            candidates.push(CandidateRecord {
                id: format!("{p}-{sample}"),
                prompt_id: id.clone(),
                round: 1,
                sample,
                seed: 0,
                text: answer,
                token_ids: vec![1, 2],
                tokens: p + 10 * sample as usize,
                stopped: true,
            });
            verdicts.push(VerdictRecord {
                id: format!("v{p}-{sample}"),
                prompt_id: id.clone(),
                candidate_ids: vec![format!("{p}-{sample}")],
                round: 1,
                seed: 0,
                mode: HOSTILE.into(),
                score: Some(4.0 - f64::from(sample) * (p % 4) as f64),
                status: "ok".into(),
                texts: if p % 2 == 0 { vec![format!("Because {HOSTILE}\nScore: 3"), long.clone()] } else { vec![] },
                unparsed: 0,
                tokens: 5,
            });
        }
        if p % 4 != 0 {
            pairs.push(PairRecord {
                id: format!("pair{p}"),
                prompt_id: id,
                chosen_id: format!("{p}-0"),
                rejected_id: format!("{p}-1"),
                round: 1,
                score_chosen: 4.0,
                score_rejected: 4.0 - (p % 4) as f64,
                weight: 1.0,
                flip: 0.0,
                prompt: alone("user", &text),
                chosen: alone("assistant", "a"),
                rejected: alone("assistant", "b"),
                prompt_ids: vec![1],
                chosen_ids: vec![1],
                rejected_ids: vec![2],
            });
        }
    }
    write_jsonl(&round.join("prompts.jsonl"), &asked).unwrap();
    write_jsonl(&round.join("candidates.jsonl"), &candidates).unwrap();
    write_jsonl(&round.join("verdicts.jsonl"), &verdicts).unwrap();
    write_jsonl(&round.join("pairs.jsonl"), &pairs).unwrap();
    let Some(steps) = steps else {
        fs::write(round.join("candidates.part.jsonl"), "[]\n[]\n[").unwrap();
        return;
    };
    let step = |s: usize| {
        let x = s as f64;
        json!({"step": s, "loss": 0.7 / x, "rewards/chosen": 0.1 * x, "rewards/rejected": -0.2 * x,
               "rewards/accuracies": 0.5, "rewards/margins": 0.3 * x, "logps/chosen": -9.0, "logps/rejected": -12.0,
               "grad_norm": 1e3 / x, "learning_rate": 1e-6 * x, "tokens": 128})
    };
    let lines: String = (1..=steps).map(|s| step(s).to_string() + "\n").collect();
    // Torn, as by a kill.
    fs::write(round.join("steps.jsonl"), lines + "{\"step\": 99, \"lo").unwrap();
    let mut metrics = json!({"round": 1, "prompts": prompts, "dropped": {"too short": 2}, "candidates": 2 * prompts,
        "distinct": 1.0, "candidate_tokens": 9.5, "stopped": 1.0, "judge": HOSTILE, "verdicts": 2 * prompts,
        "unscored": 0, "parse_rate": 1.0, "score_mean": 3.0, "score_histogram": [0, 1, 2, 3, 4, 5], "pairs": 3,
        "ties": 1, "too_few": 0, "chosen_tokens": 4.0, "rejected_tokens": 14.0, "steps": steps, "last_step": null,
        "warnings": [HOSTILE]});
    metrics["last_step"] = step(steps);
    fs::write(round.join("metrics.json"), metrics.to_string()).unwrap();
}

/// The page of a folder; kept for the browser where that is wanted.
fn page(name: &str, run: &Path) -> String {
    let path = report::write(run).unwrap();
    assert_eq!(path, run.join(FILE));
    let html = fs::read_to_string(path).unwrap();
    if let Some(out) = std::env::var_os("REPORT_OUT") {
        fs::create_dir_all(&out).unwrap();
        fs::write(Path::new(&out).join(format!("{name}.html")), &html).unwrap();
    }
    html
}

fn tags(html: &str) -> impl Iterator<Item = &str> {
    html.split('<').skip(1).map(|t| t.split(['>', ' ', '\n']).next().unwrap())
}

#[test]
fn whatever_models_and_files_say_stays_text() {
    let tmp = tempfile::tempdir().unwrap();
    folder(tmp.path(), 9, Some(12), true);
    let html = page("whole", tmp.path());
    for raw in ["<script", "<img", "onerror=\"", "<b>", "\u{0}", "\u{1b}", "47789", "http:", "https:", "url("] {
        assert!(!html.contains(raw), "{raw:?} is in the page");
    }
    assert!(html.contains("&lt;script&gt;document") && html.contains("{{ 7*6827 }}{% raw %}␀␛[31m"));
    // Nothing that a text holds opened or closed anything.
    let known =
        ["!doctype", "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "h4", "h5"];
    let more =
        ["p", "nav", "ul", "li", "main", "section", "dl", "div", "dt", "dd", "figure", "svg", "desc", "line", "text"];
    let rest =
        ["rect", "path", "circle", "figcaption", "details", "summary", "span", "table", "thead", "tbody", "tr", "th"];
    let last = ["td", "pre", "article", "strong", "i", "em", "bdi"];
    for tag in tags(&html) {
        let name = tag.trim_matches('/');
        assert!([&known[..], &more, &rest, &last].concat().contains(&name), "<{tag}");
    }
    for name in ["section", "div", "table", "details", "svg", "figure", "article", "pre", "main", "span"] {
        let count = |what: &str| tags(&html).filter(|t| *t == what).count();
        assert_eq!(count(name), count(&format!("/{name}")), "{name}");
    }
}

#[test]
fn the_page_can_be_found_ones_way_in() {
    let tmp = tempfile::tempdir().unwrap();
    folder(tmp.path(), 9, Some(300), true);
    let html = page("long", tmp.path());
    let ids: Vec<&str> = html.split(" id=\"").skip(1).map(|t| t.split('"').next().unwrap()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "{ids:?}");
    let named = ["href=\"#", "aria-labelledby=\""].into_iter().flat_map(|key| html.split(key).skip(1));
    for id in named.flat_map(|t| t.split('"').next().unwrap().split(' ')) {
        assert!(ids.contains(&id), "{id}");
    }
    // Headings go down one level at a time.
    let levels: Vec<u32> = tags(&html).filter_map(|t| t.strip_prefix('h')?.parse().ok()).collect();
    assert_eq!((levels[0], levels.iter().filter(|l| **l == 1).count()), (1, 1));
    assert!(levels.windows(2).all(|w| w[1] <= w[0] + 1), "{levels:?}");
    // Every plot has words for those who do not see it, and its numbers.
    let svgs = tags(&html).filter(|t| *t == "svg").count();
    assert_eq!(svgs, 7 + 2);
    assert_eq!(html.matches("<summary>Numbers").count(), svgs);
    assert_eq!((html.matches("<desc id=").count(), html.matches("<title id=").count()), (svgs, svgs));
    assert!(html.contains("One of 3 steps") && html.contains("<th scope=\"row\">round 1</th><td>300</td>"));
    assert!(html.contains("other 7") && !html.contains("Not finished"));
}

/// What an evaluation of three models and two controls leaves in a run folder: answers, duels, judgment and a task.
fn measured(run: &Path) {
    let dir = run.join("evaluation");
    fs::create_dir_all(dir.join("ifeval")).unwrap();
    fs::create_dir_all(run.join("gate")).unwrap();
    let models = [("M1", 0.2), ("M2", 0.45), ("M3", 0.58), ("random", 0.22), ("sft-best", 0.3)];
    for (at, (model, strict)) in models.into_iter().enumerate() {
        let answer = |i: usize| {
            json!({"prompt": format!("{HOSTILE} {}", i / 2), "response": format!("{model} {HOSTILE} {}", i % (at + 2)),
                "tokens": 60 - 8 * at + i % 5, "stopped": i % 10 < 5 + at})
        };
        let lines: String = (0..80).map(|i| format!("{}\n", answer(i))).collect();
        fs::write(dir.join(format!("{model}.jsonl")), lines).unwrap();
        let rate = |measure: &str, k: u32, value: f64| {
            let (low, high) = (value - 0.05, value + 0.06);
            json!({"measure": measure, "by": "prompt", "k": k, "value": value, "low": low, "high": high})
        };
        let rates = [("strict", 1, strict), ("loose", 1, strict + 0.04), ("strict", 8, strict + 0.2)];
        let difference = |(measure, k, value): (&str, u32, f64)| {
            let mut of = rate(measure, k, value - 0.2);
            of["against"] = "M1".into();
            of["items"] = 195.into();
            of
        };
        let differences: Vec<Value> = rates.into_iter().filter(|_| model != "M1").map(difference).collect();
        let rates: Vec<Value> = rates.into_iter().map(|(measure, k, value)| rate(measure, k, value)).collect();
        let task = json!({"task": "ifeval", "name": model, "items": 195, "answered": 195, "unanswered": 0, "samples": 8,
            "stopped": 0.9, "words": 12.5, "rates": rates, "kinds": [], "differences": differences});
        fs::write(dir.join(format!("ifeval/{model}.json")), task.to_string()).unwrap();
    }
    let share = |value: f64| json!({"value": value, "low": value - 0.06, "high": value + 0.06});
    let all = json!({"questions": 4, "pairs": 12, "judge": share(0.62), "length": share(0.66), "rule": "shorter",
        "by_question": [0.5, 0.7, 0.6, 0.68]});
    let gate = json!({"model": "0", "judge": HOSTILE,
        "ordered": {"answers": 16, "unscored": 1, "all": all, "ended": all}});
    fs::write(run.join("gate/M1.json"), gate.to_string()).unwrap();
}

#[test]
fn models_and_controls_are_what_is_seen_first() {
    let tmp = tempfile::tempdir().unwrap();
    folder(tmp.path(), 9, Some(12), true);
    measured(tmp.path());
    let found = report::read(tmp.path()).unwrap();
    validate(&schema("report"), &serde_json::to_value(&found).unwrap(), "report").unwrap();
    assert_eq!(found.metrics.models, ["M1", "M2", "M3", "random", "sft-best"]);
    assert!(found.metrics.measures.iter().all(|m| m.values.len() == 5 && m.gains.len() == 4));
    let html = page("measured", tmp.path());
    let place = |what: &str| html.find(what).unwrap_or_else(|| panic!("{what}"));
    assert!(place("id=\"models\"") < place("What looks wrong") && place("id=\"models\"") < place("id=\"glance\""));
    for words in [
        "<th scope=\"col\">M1 (base)</th>",
        "<th scope=\"col\">random judge</th>",
        "ifeval: strict pass@8, % (n = 195)",
        "<td>45.0 (40–51)</td>",
        "<td>+25.0 (+20 to +31)</td>",
        "<h3>ifeval: strict pass@1, %</h3>",
        "as a judge it is no better than length: 62 % of 12 pairs in order",
        "<td>66 % (60 to 72)</td>",
    ] {
        assert!(html.contains(words), "{words}");
    }
    assert!(!html.contains("<script"));
}

#[test]
fn an_unfinished_run_is_shown_as_far_as_it_is() {
    let tmp = tempfile::tempdir().unwrap();
    folder(tmp.path(), 5, None, false);
    let html = page("unfinished", tmp.path());
    assert!(html.contains("Not finished.") && html.contains("round-1&#x2f;candidates: 2 waves done"));
    assert!(html.contains("Scores, round 1") && !html.contains("id=\"training\""));
    // A run that has only begun.
    let begun = tempfile::tempdir().unwrap();
    fs::write(begun.path().join("config.toml"), "[demo]\nseed = \"0\"\n").unwrap();
    assert!(page("begun", begun.path()).contains("No round has begun."));
    // A folder that is none is refused, and a broken file is named.
    let e = report::write(&begun.path().join("none")).unwrap_err().to_string();
    assert!(e.contains("is no run folder"), "{e}");
    fs::write(tmp.path().join("round-1/pairs.jsonl"), "{}\n").unwrap();
    let e = report::read(tmp.path()).unwrap_err().to_string();
    assert!(e.contains("pairs.jsonl: line 1"), "{e}");
}

#[test]
fn one_folder_gives_one_page_and_documents_that_hold_to_their_schemas() {
    let tmp = tempfile::tempdir().unwrap();
    folder(tmp.path(), 9, Some(12), true);
    let found = report::read(tmp.path()).unwrap();
    assert_eq!(page("again", tmp.path()), report::html(&found).unwrap());
    assert_eq!(report::html(&found).unwrap(), report::html(&report::read(tmp.path()).unwrap()).unwrap());
    validate(&schema("report"), &serde_json::to_value(&found).unwrap(), "report").unwrap();
    let samples = &found.rounds[0].samples;
    // Four pairs from the widest gap to the narrowest, then a prompt without one.
    let gaps: Vec<f64> = samples.iter().map(|s| s.best.score - s.worst.score).collect();
    assert_eq!((gaps, samples[4].pair), (vec![3.0, 3.0, 2.0, 1.0, 0.0], false));

    let lines = tmp.path().join("metrics.jsonl");
    assert_eq!(trackers::metrics(&found, &lines).unwrap(), 12);
    let records: Vec<Value> =
        fs::read_to_string(&lines).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    records.iter().for_each(|r| validate(&schema("tracked_step"), r, "tracked_step").unwrap());
    let last = &records[11];
    assert_eq!((&last["round"], &last["step"], &last["unix_seconds"]), (&json!(1), &json!(12), &json!(1000.5)));
    assert_eq!(last["train/learning_rate"], json!(1e-6 * 12.0));
    let board = tmp.path().join("board");
    assert_eq!(trackers::tensorboard(&found, &board).unwrap(), ["round-1", "rounds"]);
    let events = fs::read(board.join("round-1/events.out.tfevents.0000000000.selfreward")).unwrap();
    assert!(events.windows(15).any(|w| w == b"rewards/margins"));
}

/// Relative luminance and contrast as WCAG 2.2 defines them.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |hex: &str| {
        let hex = hex.trim_start_matches('#');
        let hex = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.to_owned() };
        let channel = |i: usize| {
            let c = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn colours_stand_out_in_the_light_and_in_the_dark() {
    let css = include_str!("../../src/report/report.css");
    let (light, dark) = css.split_once("@media (prefers-color-scheme: dark)").unwrap();
    for (scheme, css) in [("light", light), ("dark", dark)] {
        let colour = |name: &str| {
            let (_, value) = css.split_once(&format!("--{name}: ")).unwrap();
            value.split(';').next().unwrap()
        };
        let words = ["text", "muted", "link"].iter().flat_map(|w| [(*w, "ground", 4.5), (*w, "raised", 4.5)]);
        let lines = ["s0", "s1", "good"].iter().flat_map(|l| [(*l, "ground", 3.0), (*l, "raised", 3.0)]);
        for (front, back, least) in words.chain(lines).chain([("text", "notice", 4.5)]) {
            let found = contrast(colour(front), colour(back));
            assert!(found >= least, "{scheme}: {front} on {back} is {found:.2}");
        }
    }
}
