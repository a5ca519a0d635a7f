//! `report`: a run as one HTML page, in the terminal, as JSON, and for experiment trackers.

mod terminal;

use crate::app::App;
use anyhow::Result;
use selfreward::Observer;
use selfreward::report;
use selfreward::report::trackers;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The run folder; of an unfinished run what there is is shown
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print tables and curves instead of writing RUN/report.html
    #[arg(long, conflicts_with = "json")]
    terminal: bool,
    /// Write TensorBoard event files into this folder, one sub-folder a round
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Write the numbers of every step as JSONL with flat keys, as wandb, trackio and MLflow take them
    #[arg(long, value_name = "F.jsonl")]
    metrics: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let found = report::read(&args.run)?;
    if let Some(dir) = &args.tensorboard {
        let folders = trackers::tensorboard(&found, dir)?;
        let written = if folders.is_empty() { "nothing, for there are no steps".into() } else { folders.join(" ") };
        app.progress.note(&format!("{}: {written}", dir.display()));
    }
    if let Some(path) = &args.metrics {
        let steps = trackers::metrics(&found, path)?;
        app.progress.note(&format!("{}: {steps} steps", path.display()));
    }
    if app.common.json {
        return app.json(&found);
    }
    if args.terminal {
        return app.line(terminal::text(&found, crate::tables::screen_width().unwrap_or(80)).trim_end());
    }
    if args.tensorboard.is_none() && args.metrics.is_none() {
        app.line(report::write(&args.run)?.display().to_string())?;
    }
    Ok(())
}
