//! Progress on stderr: on a terminal a bar with a rate and the time left, elsewhere a line every 30 seconds; and the
//! wish of Ctrl-C to stop.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use selfreward::Observer;
use selfreward::gpu::{Gpu, Preparing};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether Ctrl-C was pressed; it is read where stopping is safe.
static STOP: AtomicBool = AtomicBool::new(false);

/// Set while the program waits for what a person types, and has nothing that a stop could harm.
static WAITS: AtomicBool = AtomicBool::new(false);

/// How much is said on stderr.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Prints errors only.
    Quiet,
    /// Prints progress and notes.
    Normal,
    /// Also prints what was chosen and how long each stage took.
    Verbose,
}

/// Seconds between two lines of progress where stderr is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// An observer that prints what the library reports.
pub(crate) struct Progress(Arc<Shared>);

struct Shared {
    verbosity: Verbosity,
    terminal: bool,
    shown: Mutex<Shown>,
}

/// What is being done.
#[derive(Default)]
struct Shown {
    stages: Vec<Stage>,
    kernels: Kernels,
}

/// A stage in progress. Only the outermost one has a bar on the screen; the ones within it appear in its text.
struct Stage {
    bar: ProgressBar,
    unit: String,
}

impl Stage {
    /// How far the stage is.
    fn told(&self) -> String {
        let Stage { bar, unit } = self;
        let total = bar.length().map_or(String::new(), |n| format!("/{n}"));
        format!("{} {}{total} {unit}", bar.prefix(), bar.position())
    }
}

/// What the GPU prepares, and has prepared.
#[derive(Default)]
struct Kernels {
    /// What is done now, the innermost last.
    now: Vec<String>,
    compiled: usize,
    tuned: usize,
    began: Option<Instant>,
    spent: Duration,
    /// The bar for it outside all stages.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Runs what waits for a person; Ctrl-C ends the program meanwhile.
    pub(crate) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        WAITS.store(true, Ordering::SeqCst);
        if STOP.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
        let came = wait();
        WAITS.store(false, Ordering::SeqCst);
        came
    }

    /// Takes over Ctrl-C: the first one asks for a stop at the next safe point, a second one ends the program, as does
    /// the first while a person is waited for.
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        // Without a handler Ctrl-C kills the program, and a resume makes good what that loses.
        let _ = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) || WAITS.load(Ordering::SeqCst) {
                std::process::exit(130);
            }
            let _ = writeln!(std::io::stderr(), "\nstopping at the next safe point; Ctrl-C again to stop at once");
        });
        let terminal = verbosity > Verbosity::Quiet && std::io::stderr().is_terminal();
        let shared = Arc::new(Shared { verbosity, terminal, shown: Mutex::default() });
        if verbosity > Verbosity::Quiet && !terminal {
            let watched = Arc::downgrade(&shared);
            // It ends with the program, or with the first line after the progress is gone.
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(BETWEEN_LINES);
                    let Some(shared) = watched.upgrade() else { return };
                    if let Some(line) = shared.shown().line() {
                        let _ = writeln!(std::io::stderr(), "{line}");
                    }
                }
            });
        }
        Self(shared)
    }

    /// Removes the bar from the screen.
    pub(crate) fn clear(&self) {
        let mut shown = self.0.shown();
        shown.kernels.bar.take().into_iter().for_each(|bar| bar.finish_and_clear());
        for stage in shown.stages.drain(..) {
            stage.bar.finish_and_clear();
        }
    }

    /// Prints a sentence that only `-v` shows.
    pub(crate) fn detail(&self, sentence: &str) {
        if self.0.verbosity == Verbosity::Verbose {
            self.print(sentence);
        }
    }

    /// Shows what the GPU prepares from now on.
    pub(crate) fn watch(&self, gpu: &Gpu) {
        let shared = Arc::clone(&self.0);
        gpu.watch(move |what| shared.preparing(what));
    }

    /// Tells with `-v` what the GPU prepared.
    pub(crate) fn tell_prepared(&self) {
        let Kernels { compiled, tuned, spent, .. } = self.0.shown().kernels;
        if compiled > 0 {
            let seconds = spent.as_secs_f64();
            self.detail(&format!("{compiled} kernels compiled and {tuned} tilings tuned in {seconds:.1} s"));
        }
    }

    fn print(&self, sentence: &str) {
        // If stderr is gone, there is nobody to tell.
        let write = || drop(writeln!(std::io::stderr(), "{sentence}"));
        let shown = self.0.shown();
        match shown.stages.first().map(|stage| &stage.bar).or(shown.kernels.bar.as_ref()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Shared {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn preparing(&self, what: Preparing<'_>) {
        let mut shown = self.shown();
        let kernels = &mut shown.kernels;
        match what {
            Preparing::Compiling(kernel) => {
                kernels.compiled += 1;
                let text = format!("compiling kernel {}, {kernel}", kernels.compiled);
                kernels.now.push(text);
            }
            Preparing::Tuning(class) => {
                kernels.tuned += 1;
                kernels.now.push(format!("tuning {class}"));
            }
            Preparing::Done => {
                kernels.now.pop();
            }
        }
        match (kernels.now.is_empty(), kernels.began) {
            (false, None) => kernels.began = Some(Instant::now()),
            (true, Some(began)) => {
                kernels.spent += began.elapsed();
                kernels.began = None;
            }
            _ => {}
        }
        shown.describe(self.terminal);
    }
}

impl Shown {
    /// Shows how far the innermost stage is, in the text of the outermost one, and what the GPU prepares.
    fn describe(&mut self, terminal: bool) {
        let preparing = self.kernels.now.last().map_or(String::new(), |what| format!(" ({what})"));
        match &self.stages[..] {
            [outer, .., inner] => {
                outer.bar.set_message(format!("{} ({}){preparing}", outer.unit, inner.told()));
            }
            [only] => only.bar.set_message(format!("{}{preparing}", only.unit)),
            [] if terminal && !preparing.is_empty() => {
                let style = || ProgressStyle::with_template("preparing {spinner} {msg}, {elapsed}");
                let bar = self.kernels.bar.get_or_insert_with(|| {
                    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                        .with_style(style().unwrap_or_else(|_| ProgressStyle::default_spinner()))
                });
                bar.set_message(preparing.trim().trim_matches(['(', ')']).to_owned());
                return;
            }
            [] => {}
        }
        // Within a stage its own bar tells of it, and outside it is over.
        if let Some(bar) = self.kernels.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// One line that says how far everything is; `None` where nothing is going on.
    fn line(&self) -> Option<String> {
        let preparing = self.kernels.now.last();
        let Some(outer) = self.stages.first() else { return preparing.cloned() };
        let mut parts: Vec<String> = self.stages.iter().map(Stage::told).collect();
        // By the mean since the beginning: what a bar estimates from its last moments jumps where steps are long.
        let (done, seconds) = (outer.bar.position() as f64, outer.bar.elapsed().as_secs_f64());
        let rate = done / seconds.max(1e-3);
        if done > 0.0 {
            parts.push(per_second(rate));
        }
        if let Some(total) = outer.bar.length().filter(|_| done > 0.0) {
            parts.push(format!("{:.0} s left", (total as f64 - done).max(0.0) / rate));
        }
        parts.extend(preparing.cloned());
        Some(parts.join(", "))
    }
}

/// Units per second, with as many digits as mean something.
fn per_second(rate: f64) -> String {
    format!("{rate:.digits$}/s", digits = if rate < 10.0 { 2 } else { 0 })
}

/// Writes a bar's units per second.
fn rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    // A bar that cannot be drawn is no reason to stop the work.
    let _ = write!(out, "{}", per_second(state.per_sec()));
}

impl Observer for Progress {
    fn begin(&self, stage: &str, total: Option<u64>, unit: &str) {
        let mut shown = self.0.shown();
        let visible = self.0.terminal && shown.stages.is_empty();
        let bar = ProgressBar::with_draw_target(
            total,
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let form = match (total, unit) {
            (Some(_), "bytes") => {
                "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {msg}, {decimal_bytes_per_sec}, {eta} left"
            }
            (Some(_), _) => "{prefix} {wide_bar} {pos}/{len} {msg}, {rate}, {eta} left",
            (None, _) => "{prefix} {spinner} {pos} {msg}, {rate}, {elapsed}",
        };
        bar.set_style(
            ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate),
        );
        bar.set_prefix(stage.to_owned());
        shown.stages.push(Stage { bar, unit: unit.to_owned() });
        shown.describe(self.0.terminal);
    }

    fn advance(&self, n: u64) {
        let mut shown = self.0.shown();
        if let Some(inner) = shown.stages.last() {
            inner.bar.inc(n);
        }
        shown.describe(self.0.terminal);
    }

    fn end(&self) {
        let ended = self.0.shown().stages.pop();
        if let Some(Stage { bar, unit }) = ended {
            let line = format!("{}: {} {unit} in {:.1} s", bar.prefix(), bar.position(), bar.elapsed().as_secs_f64());
            bar.finish_and_clear();
            self.0.shown().describe(self.0.terminal);
            self.detail(&line);
        }
    }

    fn note(&self, sentence: &str) {
        if self.0.verbosity > Verbosity::Quiet {
            self.print(sentence);
        }
    }

    fn stop_requested(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_a_bar_would_show() {
        let progress = Progress::new(Verbosity::Quiet);
        let line = || progress.0.shown().line();
        assert_eq!(line(), None);
        progress.0.preparing(Preparing::Compiling("matmul.forward"));
        assert_eq!(line().as_deref(), Some("compiling kernel 1, matmul.forward"));
        progress.0.preparing(Preparing::Done);
        assert_eq!(line(), None);
        progress.begin("round 1", Some(2), "stages");
        progress.begin("candidates", Some(64), "answers");
        progress.advance(16);
        progress.0.preparing(Preparing::Tuning("matmul 64x64"));
        let told = line().unwrap();
        assert!(told.starts_with("round 1 0/2 stages, candidates 16/64 answers"), "{told}");
        assert!(told.ends_with("tuning matmul 64x64"), "{told}");
        progress.0.preparing(Preparing::Done);
        progress.end();
        progress.advance(1);
        let told = line().unwrap();
        assert!(told.starts_with("round 1 1/2 stages") && told.contains(" s left"), "{told}");
    }
}
