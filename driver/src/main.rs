//! The command line of selfreward: typed arguments, a call into the library, an exit code.
//!
//! Exit codes: 0 done; 1 failed, one error chain on stderr; 2 wrong usage; 130 stopped by Ctrl-C.

mod app;
mod args;
mod commands;
mod common;
mod dtype;
mod flags;
mod heap;
mod models;
mod partial;
mod profile;
mod progress;
mod ranks;
mod sample;
mod tables;

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use selfreward::Error;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let given = args::Cli::command().get_matches();
    let cli = args::Cli::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    let resume = cli.command.resume_hint();
    let ranks = match ranks::Ranks::join(cli.command.sharing()) {
        Ok(ranks) => ranks,
        Err(error) => {
            // Nothing sensible can be done if stderr itself is gone.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let app = app::App::new(cli.common, ranks);
    let Err(error) = spare_inputs(&given).and_then(|()| commands::run(&app, cli.command)) else {
        app.progress.detail(&format!("heap: {} MB at most", heap::peak().div_ceil(1_000_000)));
        return ExitCode::SUCCESS;
    };
    app.progress.clear();
    if let Some(usage) = error.downcast_ref::<common::WrongUsage>() {
        args::Cli::command().error(usage.kind, usage).exit();
    }
    // A reader that has gone away (`| head`) wanted no more.
    if error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)) {
        return ExitCode::SUCCESS;
    }
    let mut stderr = std::io::stderr().lock();
    // Nothing sensible can be done if stderr itself is gone.
    if error.chain().any(|e| matches!(e.downcast_ref::<Error>(), Some(Error::Stopped))) {
        let _ = writeln!(stderr, "{}stopped. {resume}", app.ranks.name());
        app.ranks.end_all(130);
        return ExitCode::from(130);
    }
    let _ = writeln!(stderr, "{}error: {error:#}", app.ranks.name());
    app.ranks.end_all(1);
    ExitCode::FAILURE
}

/// The flags of what is written.
const OUTPUTS: [&str; 8] = ["out", "metrics", "profile", "held_out_file", "plot", "tensorboard", "alpaca", "export"];

/// Refuses an output that is a file or folder which another flag names.
fn spare_inputs(given: &ArgMatches) -> anyhow::Result<()> {
    let Some((_, given)) = given.subcommand() else { return Ok(()) };
    // Of the flags those that take paths; groups and texts have values of other types.
    let named = |id: &str| -> Vec<PathBuf> {
        let paths = given.try_get_many::<PathBuf>(id).ok().flatten().into_iter().flatten();
        paths.filter(|path| path.is_file() || path.is_dir()).filter_map(|path| path.canonicalize().ok()).collect()
    };
    let (outputs, inputs): (Vec<&str>, Vec<&str>) =
        given.ids().map(clap::Id::as_str).partition(|id| OUTPUTS.contains(id));
    for out in outputs {
        let written = named(out);
        if let Some(input) = inputs.iter().find(|id| named(id).iter().any(|path| written.contains(path))) {
            let [out, input] = [out, input].map(|id| id.replace('_', "-"));
            let what = format!("--{out} is what --{input} reads, which would be gone; name another file");
            return Err(common::WrongUsage::conflict(what));
        }
    }
    spare_inputs(given)
}
