//! Progress on stderr: a bar with a rate and the time left, on a terminal only, and the word from Ctrl-C.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selfreward::Observer;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Set by the first Ctrl-C, read at safe points.
static STOP: AtomicBool = AtomicBool::new(false);

/// How much is said on stderr.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and notes.
    Normal,
    /// Also what was chosen and how long each stage took.
    Verbose,
}

/// Renders what the library reports.
pub(crate) struct Progress {
    verbosity: Verbosity,
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Takes over Ctrl-C: the first one asks for a stop at the next safe point, a second one ends the program.
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        // Without a handler Ctrl-C just kills, which loses nothing that a resume would not make good.
        let _ = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            let _ = writeln!(std::io::stderr(), "\nstopping at the next safe point; Ctrl-C again to stop at once");
        });
        let terminal = verbosity > Verbosity::Quiet && std::io::stderr().is_terminal();
        Self { verbosity, terminal, bar: Mutex::new(None) }
    }

    /// Removes the bar from the screen.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    /// A sentence that only `-v` shows.
    pub(crate) fn detail(&self, sentence: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.print(sentence);
        }
    }

    fn print(&self, sentence: &str) {
        match self.bar().as_ref() {
            Some(bar) => bar.suspend(|| drop(writeln!(std::io::stderr(), "{sentence}"))),
            None => drop(writeln!(std::io::stderr(), "{sentence}")),
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Progress {
    fn begin(&self, stage: &str, total: Option<u64>, unit: &str) {
        self.clear();
        if self.terminal {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let form = match total {
                Some(_) => "{prefix} {wide_bar} {pos}/{len} {msg}, {per_sec}, {eta} left",
                None => "{prefix} {spinner} {pos} {msg}, {per_sec}, {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(stage.to_owned());
            bar.set_message(unit.to_owned());
            bar.tick();
            *self.bar() = Some(bar);
        }
    }

    fn advance(&self, n: u64) {
        if let Some(bar) = self.bar().as_ref() {
            bar.inc(n);
        }
    }

    fn end(&self) {
        let bar = self.bar().take();
        if let Some(bar) = bar {
            let line = format!("{}: {} {} in {:.1} s", bar.prefix(), bar.position(), bar.message(), bar.elapsed().as_secs_f64());
            bar.finish_and_clear();
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
