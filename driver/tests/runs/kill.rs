//! A run killed at any moment, or by a full disk, and resumed ends with the same bytes as one that is left alone.
//!
//! The kill is SIGKILL, at moments drawn over the time that the undisturbed run takes. `SELFREWARD_KILLS` says how
//! often each test kills; `scripts/test-full` asks for many, else it is few, so that all of this takes about a minute.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what is wrong by panicking, and how often it killed"
)]

use assert_cmd::cargo::cargo_bin;
use selfreward::rng::Stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Of the moments.
const SEED: u64 = 20;

/// Files that name times or places, and the lock.
const FREE: [&str; 5] = ["state.json", "plan.json", "log.jsonl", "report.html", "lock"];

pub(crate) fn world() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1")).unwrap()
}

/// A command that works in a folder of its own, with the paths in `args` relative to that.
struct Job<'a> {
    args: &'a [&'a str],
    /// What it writes.
    out: &'a str,
    /// Files that it reads.
    inputs: &'a [(&'a str, String)],
}

impl Job<'_> {
    fn place(&self) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        self.inputs.iter().for_each(|(name, text)| fs::write(place.path().join(name), text).unwrap());
        place
    }

    /// Runs until the end or the kill; whether it came to its end.
    fn run(&self, place: &Path, kill: Option<Duration>) -> bool {
        let mut command = Command::new(cargo_bin!("selfreward"));
        let command = command.args(self.args).args(["--resume", "-q"]).current_dir(place);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if kill.is_some_and(|moment| start.elapsed() >= moment) {
                child.kill().unwrap();
                child.wait().unwrap();
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        true
    }

    /// Kills `kills` times, in as many runs as that takes, and compares each with an undisturbed one.
    fn survives(&self, kills: usize) {
        let kills = std::env::var("SELFREWARD_KILLS").map_or(kills, |n| n.parse().unwrap());
        let whole = self.place();
        let start = Instant::now();
        assert!(self.run(whole.path(), None));
        let length = start.elapsed();
        let expected = files(&whole.path().join(self.out));
        assert!(!expected.is_empty());
        let mut rng = Stream::new(SEED, 0);
        let (mut killed, mut runs) = (0, 0);
        while killed < kills {
            let (place, mut moments, mut stages) = (self.place(), Vec::new(), 0);
            let out = place.path().join(self.out);
            runs += 1;
            loop {
                let moment = (killed < kills).then(|| length.mul_f32(rng.uniform()));
                moments.push(moment);
                if self.run(place.path(), moment) {
                    break;
                }
                killed += 1;
                let now = finished_stages(&out);
                assert!(now >= stages, "{now} stages are finished after {moments:?}, {stages} were");
                stages = now;
            }
            let found = files(&out);
            let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&expected), "seed {SEED}, killed at {moments:?}");
            for (name, bytes) in &expected {
                assert!(found[name] == *bytes, "{} differs; seed {SEED}, killed at {moments:?}", name.display());
            }
        }
        eprintln!("{}: {killed} kills in {runs} runs of {length:.1?}, all bytes equal", self.args[0]);
    }
}

/// Stages that a run folder calls finished. Whatever state it is in, `status` and `report` read it.
fn finished_stages(run: &Path) -> usize {
    if !run.join("config.toml").exists() {
        return 0;
    }
    let [status, _] = ["status", "report"].map(|command| {
        let output = Command::new(cargo_bin!("selfreward")).arg(command).arg(run).arg("--json").output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    });
    status["stages"].as_array().unwrap().len()
}

/// Every file under `dir` by its path.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut folders) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|e| e.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                // Named too, so that an empty one that stays is seen.
                all.insert(path.strip_prefix(dir).unwrap().to_path_buf(), Vec::new());
                folders.push(path);
            } else if !FREE.iter().any(|free| name == *free) {
                all.insert(path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn lines(records: impl Iterator<Item = Value>) -> String {
    records.map(|record| format!("{record}\n")).collect()
}

const TASKS: [&str; 8] = ["abc", "badge", "cab", "heh", "fed", "cafe", "gig", "jig"];

#[test]
fn a_demo() {
    Job { args: &["demo", "--rounds", "1", "--prompts", "48", "--out", "demo"], out: "demo", inputs: &[] }.survives(10);
}

/// Questions with their answers.
fn keyed(count: usize) -> String {
    let word = |i: usize| TASKS.iter().cycle().skip(i).take(1 + i / TASKS.len()).copied().collect::<String>();
    lines((0..count).map(word).map(|w| json!({ "prompt": format!("upper: {w}"), "answer": w.to_uppercase() })))
}

#[test]
fn checked_answers() {
    let (model, inputs) = (world(), [("data.jsonl", keyed(24))]);
    let args = ["eval", "--task", "exact", "--data", "data.jsonl", "-n", "8", "--max-new-tokens", "12", "--model"];
    let args = [&args[..], &[model.to_str().unwrap(), "--out", "out/checked.jsonl"]].concat();
    Job { args: &args, out: "out", inputs: &inputs }.survives(6);
}

/// What a small run reads; `more` is added to its configuration.
pub(crate) fn run_inputs(more: &str) -> [(&'static str, String); 6] {
    let config = format!(
        "{more}model.path = {:?}\nrun = {{ out = \"run\", rounds = 2, keep = 1 }}\n\
         prompts = {{ seed_file = \"seed.jsonl\", from_seed = 4, count = 0 }}\n\
         candidates = {{ n = 4, temperature = 1.0, max_new_tokens = 12, wave = 2 }}\n\
         judge = {{ mode = \"expected\", template = \"judge.txt\", wave = 2, calibration = 6, floor = 0.0 }}\n\
         pairs = {{ select = \"all\", most = 2, rejected = \"first\", agreement = \"prompt\", implicit = true }}\n\
         sft = {{ files = [\"sft.jsonl\"], lr = 1e-3, batch = 2, epochs = 2, save_every = 1 }}\n\
         validation = {{ prompts = \"held-out.jsonl\", every = 2, patience = 0 }}\n\
         evaluation = {{ prompts = \"held-out.jsonl\", mode = \"expected\", \
         tasks = [{{ task = \"exact\", data = \"keyed.jsonl\", samples = 2 }}] }}\n\
         dpo = {{ lr = 1e-4, batch = 2, save_every = 1, dropout = 0.1 }}\n\
         controls = {{ random = true, sft_best = true }}\n",
        world()
    );
    let seed = lines(TASKS.iter().map(|word| json!({ "prompt": format!("upper: {word}") })));
    let template = "{{ question }} {{ answer }}\n".to_owned();
    let held_out = lines(["upper: jab", "sort: cab"].iter().map(|prompt| json!({ "prompt": prompt })));
    let sft = lines(
        TASKS[..4].iter().map(|word| json!({ "prompt": format!("upper: {word}"), "completion": word.to_uppercase() })),
    );
    [
        ("run.toml", config),
        ("seed.jsonl", seed),
        ("judge.txt", template),
        ("held-out.jsonl", held_out),
        ("sft.jsonl", sft),
        ("keyed.jsonl", keyed(3)),
    ]
}

#[test]
fn a_run() {
    Job { args: &["run", "run.toml"], out: "run", inputs: &run_inputs("") }.survives(6);
}

#[test]
fn a_run_of_adapters() {
    Job { args: &["run", "run.toml"], out: "run", inputs: &run_inputs("lora = { rank = 2 }\n") }.survives(4);
}

/// On a disk that is full, made a little larger again and again: where the system lets the test mount one in memory.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    struct Disk(PathBuf);
    impl Disk {
        fn mount(&self, options: &str) -> bool {
            let mut mount = Command::new("mount");
            let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0).stderr(Stdio::null());
            mount.status().is_ok_and(|status| status.success())
        }
    }
    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        }
    }
    let inputs = run_inputs("lora = { rank = 2 }\n");
    let job = Job { args: &["run", "run.toml"], out: "run", inputs: &inputs };
    let (whole, place) = (job.place(), job.place());
    let disk = Disk(place.path().join("run"));
    fs::create_dir(&disk.0).unwrap();
    if !disk.mount("size=4k") {
        eprintln!("skipped: a disk that is really full, for nothing can be mounted here");
        return;
    }
    assert!(job.run(whole.path(), None));
    let (mut size, mut failures) = (4, 0);
    loop {
        assert!(disk.mount(&format!("remount,size={size}k")));
        let mut command = Command::new(cargo_bin!("selfreward"));
        let output = command.args(["run", "run.toml", "--resume", "-q"]).current_dir(place.path()).output().unwrap();
        if output.status.success() {
            break;
        }
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: run/") && error.contains("No space left"), "{size}k: {error}");
        failures += 1;
        size += size / 2;
    }
    assert!(failures > 5, "{failures}");
    assert!(files(&disk.0) == files(&whole.path().join("run")), "other bytes after {failures} full disks");
}

#[test]
fn a_preference_training_of_an_adapter() {
    let pair =
        |word: &&str| json!({ "prompt": format!("upper: {word}"), "chosen": word.to_uppercase(), "rejected": word });
    let inputs = [("pairs.jsonl", lines(TASKS.iter().map(pair)))];
    let model = world().to_str().unwrap().to_owned();
    let mut args = vec!["dpo", "--model", &model, "--data", "pairs.jsonl", "--out", "tuned", "--lora-rank", "4"];
    args.extend(["--batch", "1", "--epochs", "6", "--lr", "1e-3", "--save-every", "3"]);
    Job { args: &args, out: "tuned", inputs: &inputs }.survives(5);
}

#[test]
fn a_supervised_training() {
    let example = |word: &&str| json!({ "prompt": format!("upper: {word}"), "completion": word.to_uppercase() });
    let inputs = [("examples.jsonl", lines(TASKS.iter().map(example)))];
    let model = world().to_str().unwrap().to_owned();
    let mut args = vec!["sft", "--model", &model, "--data", "examples.jsonl", "--out", "tuned"];
    args.extend(["--batch", "1", "--epochs", "6", "--lr", "1e-3", "--save-every", "2"]);
    Job { args: &args, out: "tuned", inputs: &inputs }.survives(4);
}

#[test]
fn answers_and_verdicts() {
    let prompts = lines((0..24).map(|i| json!({ "prompt": format!("upper: {}{i}", TASKS[i % 8]) })));
    let model = world().to_str().unwrap().to_owned();
    let mut args = vec!["generate", "--model", &model, "--prompts", "prompts.jsonl", "-n", "64", "--seed", "3"];
    args.extend(["--temperature", "1", "--max-new-tokens", "12", "--out", "out/answers.jsonl"]);
    let job = Job { args: &args, out: "out", inputs: &[("prompts.jsonl", prompts)] };
    job.survives(3);
    let responses = lines((0..600).map(|i| json!({ "prompt": TASKS[i % 8], "response": format!("{i}") })));
    let mut args = vec!["judge", "--model", &model, "--responses", "responses.jsonl", "--mode", "marks"];
    args.extend(["--out", "out/scored.jsonl"]);
    Job { args: &args, out: "out", inputs: &[("responses.jsonl", responses)] }.survives(2);
}
