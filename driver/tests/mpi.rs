//! `sft` and `dpo` by several ranks against one process, and what happens when
//! one of them fails. `scripts/test-mpi` runs it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what is wrong by panicking; the figures are in docs/SCALING.md"
)]

use assert_cmd::cargo::cargo_bin;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What ranks may differ by from one process, in norm and relative.
const MOST: f64 = 1e-6;

fn world() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/world/m1")).unwrap()
}

fn lines(records: impl Iterator<Item = Value>) -> String {
    records.map(|record| format!("{record}\n")).collect()
}

/// 37 pairs, an odd number; every third prompt has two.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let words: Vec<String> = (0..28usize)
        .map(|i| (0..3 + i % 4).map(|k| char::from(b'a' + ((i * 7 + k * 5 + i * k) % 10) as u8)).collect())
        .collect();
    let pairs = words.iter().enumerate().flat_map(|(i, word)| {
        let prompt = format!("{}: {word}", ["upper", "reverse", "sort"][i % 3]);
        let pair = |rejected: String| json!({ "prompt": prompt, "chosen": word.to_uppercase(), "rejected": rejected });
        let second = (i % 3 == 0 && i < 27).then(|| pair(word[1..].to_owned()));
        [Some(pair(word.clone())), second].into_iter().flatten().collect::<Vec<_>>()
    });
    let pairs: Vec<Value> = pairs.collect();
    assert_eq!(pairs.len(), 37);
    let example = |p: &Value| json!({ "prompt": p["prompt"], "completion": p["chosen"] });
    let single =
        |(i, p): (usize, &Value)| json!({ "prompt": p["prompt"], "completion": p["chosen"], "label": i % 3 != 0 });
    fs::write(place.path().join("sft.jsonl"), lines(pairs.iter().map(example))).unwrap();
    fs::write(place.path().join("kto.jsonl"), lines(pairs.iter().enumerate().map(single))).unwrap();
    fs::write(place.path().join("dpo.jsonl"), lines(pairs.into_iter())).unwrap();
    place
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none"]);
    // In a container: root, and no reading of each other's memory.
    command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command
}

/// `selfreward` with `args` by so many ranks, or without MPI.
fn command(ranks: Option<usize>, args: &[&str]) -> Command {
    let Some(ranks) = ranks else {
        let mut command = Command::new(cargo_bin!("selfreward"));
        command.args(args);
        return command;
    };
    let mut command = mpirun();
    command.args(["-n", &ranks.to_string()]).arg(cargo_bin!("selfreward")).args(args);
    command
}

fn words(args: &str) -> Vec<&str> {
    args.split_whitespace().collect()
}

/// A training into `out`; the seconds it took.
fn train(place: &Path, ranks: Option<usize>, args: &str, out: &str) -> f64 {
    let start = Instant::now();
    let args = [words(args), vec!["--model", world().to_str().unwrap(), "--out", out]].concat().join(" ");
    let output = command(ranks, &words(&args)).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{ranks:?} {args}: {}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.lines().count(), 1, "one rank tells: {told}");
    assert!(!place.join(format!("{out}.part")).exists());
    start.elapsed().as_secs_f64()
}

fn weights(model: &Path) -> Vec<f64> {
    let path = ["model.safetensors", "adapter_model.safetensors"].map(|name| model.join(name));
    let bytes = fs::read(path.iter().find(|p| p.exists()).unwrap()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort();
    let value = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
    names.iter().flat_map(|name| file.tensor(name).unwrap().data().chunks(4).map(value).collect::<Vec<_>>()).collect()
}

fn steps(model: &Path, key: &str) -> Vec<f64> {
    let text = fs::read_to_string(model.join("steps.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()[key].as_f64().unwrap()).collect()
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|v| v * v).sum::<f64>().sqrt()
}

/// |a − b| / |b|
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(x, y)| x - y)) / norm(b.iter().copied())
}

/// Seconds until it ended; it must not take long once the others have nothing to wait for.
fn ends(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("the other ranks wait for ever");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap().success());
}

fn children(pid: u32) -> Vec<String> {
    let found = Command::new("pgrep").args(["-P", &pid.to_string()]).output().unwrap();
    words(std::str::from_utf8(&found.stdout).unwrap()).into_iter().map(str::to_owned).collect()
}

#[test]
fn ranks_train_what_one_process_trains() {
    let place = place();
    let place = place.path();
    println!(
        "| training | ranks | loss | log-probs | gradient norm | parameters | by their way | seconds, one process |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (n, (args, logps)) in [
        ("dpo --data dpo.jsonl --batch 8", true),
        ("dpo --data dpo.jsonl --batch 8 --loss aot", true),
        ("dpo --data dpo.jsonl --batch 8 --loss aot_unpaired,orpo:0.1 --micro-batch 64", true),
        ("dpo --data kto.jsonl --batch 8 --loss kto", true),
        ("dpo --data dpo.jsonl --batch 2 --wpo --ld-alpha 0.5 --nll 0.1", true),
        ("dpo --data dpo.jsonl --batch 8 --dropout 0.1", true),
        ("dpo --data dpo.jsonl --batch 8 --loss aot --dropout 0.1 --lora-rank 4 --lora-dropout 0.1", true),
        ("sft --data sft.jsonl --batch 8", false),
        ("sft --data sft.jsonl --batch 8 --dropout 0.1 --micro-batch 40", false),
    ]
    .into_iter()
    .enumerate()
    {
        let whole_args = format!("{args} --epochs 2 --lr 1e-4");
        let one = place.join(format!("one-{n}"));
        let alone = train(place, None, &whole_args, one.to_str().unwrap());
        // A new adapter begins with numbers that no file has.
        let start = (!args.contains("lora")).then(|| weights(&world()));
        for ranks in [2, 3] {
            let many = place.join(format!("many-{n}-{ranks}"));
            let seconds = train(place, Some(ranks), &whole_args, many.to_str().unwrap());
            let of = |key: &str| apart(&steps(&many, key), &steps(&one, key));
            let logp = if logps { of("logps/chosen").max(of("logps/rejected")) } else { 0.0 };
            let (a, b) = (weights(&many), weights(&one));
            let distance = |a: &[f64], b: &[f64]| norm(a.iter().zip(b).map(|(x, y)| x - y));
            let way = start.as_ref().map_or("".into(), |s| format!("{:.1e}", distance(&a, &b) / distance(&b, s)));
            let figures = [of("loss"), logp, of("grad_norm"), apart(&a, &b)];
            let cells: String = figures.iter().map(|x| format!(" {x:.1e} |")).collect();
            println!("| `{args}` | {ranks} |{cells} {way} | {seconds:.1}, {alone:.1} |");
            assert_eq!(steps(&many, "learning_rate"), steps(&one, "learning_rate"));
            assert!(figures.iter().all(|x| *x <= MOST), "{args}, {ranks} ranks: {figures:?}");
        }
    }
}

#[test]
fn a_killed_rank_ends_the_others_and_a_resume_ends_with_the_same_bytes() {
    let place = place();
    let place = place.path();
    let args = "dpo --data dpo.jsonl --batch 4 --epochs 4 --lr 1e-4 --dropout 0.1 --save-every 3";
    train(place, Some(2), args, "whole");
    for (name, out) in [("KILL", "killed"), ("INT", "interrupted")] {
        let all = format!("{args} --model {} --out {out}", world().display());
        let mut command = command(Some(2), &words(&all));
        let child = command.current_dir(place).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !place.join(format!("{out}.part/train/latest.json")).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ranks = children(child.id());
        assert_eq!(ranks.len(), 2);
        match name {
            "KILL" => signal(&ranks[1], name),
            // As Ctrl-C in a terminal does.
            _ => signal(&child.id().to_string(), name),
        }
        let ended = ends(child);
        assert!(!ended.status.success());
        assert!(!place.join(out).exists(), "it was over before the signal came");
        // A process that was killed may take a moment to go.
        let (start, runs) = (Instant::now(), |rank: &String| {
            let state = fs::read_to_string(format!("/proc/{rank}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        });
        while ranks.iter().any(runs) {
            assert!(start.elapsed() < Duration::from_secs(20), "{name}: a rank goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        train(place, Some(2), &format!("{args} --resume"), out);
        for file in ["model.safetensors", "steps.jsonl"] {
            let [a, b] = ["whole", out].map(|model| fs::read(place.join(model).join(file)).unwrap());
            assert!(a == b, "{name}: {file} differs");
        }
        // Nothing is left to do, and one rank says so.
        train(place, Some(2), &format!("{args} --resume"), out);
    }
}

#[test]
fn a_rank_that_fails_is_named_and_ends_the_others() {
    let place = place();
    let args = format!("dpo --data dpo.jsonl --model {} --out tuned", world().display());
    for (more, words_of_it) in [
        ("--device nonesuch", "rank 1 of 2: error: no GPU matches 'nonesuch'"),
        ("--epochs 2", "ranks 0 and 1 differ in their flags"),
        ("--data kto.jsonl", "rank 1 of 2: error: "),
    ] {
        let other = match more.strip_prefix("--data ") {
            Some(file) => args.replace("dpo.jsonl", file),
            None => format!("{args} {more}"),
        };
        let mut command = mpirun();
        command.args(["-n", "1"]).arg(cargo_bin!("selfreward")).args(words(&args));
        command.args([":", "-n", "1"]).arg(cargo_bin!("selfreward")).args(words(&other));
        let child = command.current_dir(place.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = ends(child);
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && told.contains(words_of_it), "{more}: {told}");
        assert!(!place.path().join("tuned").exists());
    }
}

#[test]
fn what_is_not_shared_is_refused() {
    let output = command(Some(2), &["devices"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty() && told.contains("only sft and dpo share"), "{told}");
}
