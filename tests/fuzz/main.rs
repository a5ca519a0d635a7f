//! Hostile input: files of every kind that is read, broken in many ways. Each is an error or is read; none panics,
//! takes memory or time without bound, or reaches out of its folder.
//!
//! `SELFREWARD_FUZZ=N` makes it N inputs, `SELFREWARD_FUZZ_ONLY=TARGET` gives all of them to one target,
//! `SELFREWARD_FUZZ_ONLY=TARGET:NUMBER` feeds the one that a failure names, and `SELFREWARD_FUZZ_TRACE=1` names each
//! input before it is fed, for what ends the process (a stack that overflows).
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test reports to whoever runs it")]

mod allocator;
mod chats;
mod mutate;
mod targets;
mod tokenizers;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use selfreward::rng::{Stream, fnv};

use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// Inputs where nothing else is said.
const INPUTS: u64 = 100_000;
/// Longest that one input may take; a busy machine is granted a lot.
const LONGEST: Duration = Duration::from_secs(10);

thread_local!(static PANIC: std::cell::Cell<String> = const { std::cell::Cell::new(String::new()) });

/// What a target's inputs cost at most.
#[derive(Default)]
struct Worst {
    time: (Duration, u64),
    memory: (usize, u64),
}

#[test]
fn hostile_files_are_errors() {
    let only = std::env::var("SELFREWARD_FUZZ_ONLY").ok();
    let total = std::env::var("SELFREWARD_FUZZ").map_or(INPUTS, |n| n.parse().unwrap());
    let shares: u64 = TARGETS.iter().map(|target| target.weight).sum();
    // The library catches what third parties' readers throw; only what gets through is worth printing.
    std::panic::set_hook(Box::new(|panic| PANIC.set(panic.to_string())));
    let (next, failures, reports) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let numbers = match &only {
                None => 0..(total * target.weight).div_ceil(shares),
                Some(only) if only == target.name => 0..total,
                Some(only) => match only.split_once(':') {
                    Some((name, number)) if name == target.name => {
                        let number = number.parse().unwrap();
                        number..number + 1
                    }
                    _ => continue,
                },
            };
            let count = numbers.end - numbers.start;
            let worst = run(target, numbers, &failures);
            let (time, memory) = (worst.time.0.as_millis(), worst.memory.0 >> 20);
            reports.lock().unwrap().push(format!(
                "{:18} {count:6} inputs, longest {time} ms (number {}), most {memory} MiB (number {})",
                target.name, worst.time.1, worst.memory.1
            ));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let _ = std::panic::take_hook();
    println!("{}", reports.into_inner().unwrap().join("\n"));
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn run(target: &'static Target, numbers: std::ops::Range<u64>, failures: &Mutex<Vec<String>>) -> Worst {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("input");
    fs::create_dir(&folder).unwrap();
    let seeds = (target.seeds)(&folder);
    let file = folder.join(target.file);
    let mut worst = Worst::default();
    let trace = std::env::var_os("SELFREWARD_FUZZ_TRACE").is_some();
    for number in numbers {
        let mut draw = Stream::new(fnv(target.name.as_bytes()), number);
        let seed = &seeds[draw.below(seeds.len())];
        let input = mutate::mutate(target.format, seed, &mut draw);
        // Removed first: a mapped file is replaced, never rewritten.
        let _ = fs::remove_file(&file);
        fs::write(&file, &input).unwrap();
        if trace {
            eprintln!("{}:{number}", target.name);
        }
        allocator::begin(target.name, number);
        let start = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| (target.feed)(&folder)));
        let (time, memory) = (start.elapsed(), allocator::peak());
        if time > worst.time.0 {
            worst.time = (time, number);
        }
        if memory > worst.memory.0 {
            worst.memory = (memory, number);
        }
        let what = match done {
            Err(_) => PANIC.take(),
            Ok(()) if time > LONGEST => format!("takes {time:?}"),
            Ok(()) if memory > allocator::MOST => format!("takes {} MiB", memory >> 20),
            Ok(()) => continue,
        };
        let path = save(target, number, &input);
        let mut failures = failures.lock().unwrap();
        failures.push(format!("{}:{number} {what}; input in {}", target.name, path.display()));
        if failures.iter().filter(|f| f.starts_with(target.name)).count() >= 5 {
            break;
        }
    }
    worst
}

/// Keeps an input for a look at it.
fn save(target: &Target, number: u64, input: &[u8]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}-{number}-{}", target.name, target.file));
    fs::write(&path, input).unwrap();
    path
}

/// Seeds must be valid, or their mutants would all end at the same first check.
#[test]
fn seeds_are_read() {
    for target in TARGETS.iter().filter(|t| ["safetensors", "gguf", "generation_config"].contains(&t.name)) {
        let temporary = tempfile::tempdir().unwrap();
        for seed in (target.seeds)(temporary.path()) {
            let file = temporary.path().join(target.file);
            fs::remove_file(&file).ok();
            fs::write(&file, &seed).unwrap();
            let path = if target.name == "gguf" { file } else { temporary.path().to_path_buf() };
            let source = selfreward::source::ModelSource::open(&path).unwrap();
            source.tensors_f32().unwrap();
        }
    }
}
