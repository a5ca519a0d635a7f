//! Progress on stderr: a bar with a rate and the time left, on a terminal only; and the wish of Ctrl-C to stop.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use selfreward::Observer;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether Ctrl-C was pressed; it is read where stopping is safe.
static STOP: AtomicBool = AtomicBool::new(false);

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

/// An observer that prints what the library reports.
pub(crate) struct Progress {
    verbosity: Verbosity,
    terminal: bool,
    stages: Mutex<Vec<Stage>>,
}

/// A stage in progress. Only the outermost one has a bar on the screen; the ones within it appear in its text.
struct Stage {
    bar: ProgressBar,
    unit: String,
}

impl Progress {
    /// Takes over Ctrl-C: the first one asks for a stop at the next safe point, a second one ends the program.
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        // Without a handler Ctrl-C kills the program, and a resume makes good what that loses.
        let _ = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            let _ = writeln!(std::io::stderr(), "\nstopping at the next safe point; Ctrl-C again to stop at once");
        });
        let terminal = verbosity > Verbosity::Quiet && std::io::stderr().is_terminal();
        Self { verbosity, terminal, stages: Mutex::default() }
    }

    /// Removes the bar from the screen.
    pub(crate) fn clear(&self) {
        for stage in self.stages().drain(..) {
            stage.bar.finish_and_clear();
        }
    }

    /// Prints a sentence that only `-v` shows.
    pub(crate) fn detail(&self, sentence: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.print(sentence);
        }
    }

    fn print(&self, sentence: &str) {
        // If stderr is gone, there is nobody to tell.
        let write = || drop(writeln!(std::io::stderr(), "{sentence}"));
        match self.stages().first() {
            Some(outer) => outer.bar.suspend(write),
            None => write(),
        }
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes units per second, with as many digits as mean something.
fn rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let rate = state.per_sec();
    let digits = if rate < 10.0 { 2 } else { 0 };
    // A bar that cannot be drawn is no reason to stop the work.
    let _ = write!(out, "{rate:.digits$}/s");
}

/// Shows how far the innermost stage is, in the text of the outermost one.
fn describe(stages: &[Stage]) {
    if let [outer, .., inner] = stages {
        let total = inner.bar.length().map_or(String::new(), |n| format!("/{n}"));
        let text = format!("{} ({} {}{total} {})", outer.unit, inner.bar.prefix(), inner.bar.position(), inner.unit);
        outer.bar.set_message(text);
    } else if let [only] = stages {
        only.bar.set_message(only.unit.clone());
    }
}

impl Observer for Progress {
    fn begin(&self, stage: &str, total: Option<u64>, unit: &str) {
        let mut stages = self.stages();
        let shown = self.terminal && stages.is_empty();
        let bar = ProgressBar::with_draw_target(
            total,
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
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
        stages.push(Stage { bar, unit: unit.to_owned() });
        describe(&stages);
    }

    fn advance(&self, n: u64) {
        let stages = self.stages();
        if let Some(inner) = stages.last() {
            inner.bar.inc(n);
        }
        describe(&stages);
    }

    fn end(&self) {
        let ended = self.stages().pop();
        if let Some(Stage { bar, unit }) = ended {
            let line = format!("{}: {} {unit} in {:.1} s", bar.prefix(), bar.position(), bar.elapsed().as_secs_f64());
            bar.finish_and_clear();
            describe(&self.stages());
            self.detail(&line);
        }
    }

    fn note(&self, sentence: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.print(sentence);
        }
    }

    fn stop_requested(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}
