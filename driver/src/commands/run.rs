//! `run` and `status`: the loop that a config file describes.

use crate::app::App;
use crate::tables::Table;
use anyhow::Result;
use selfreward::recipe::config::RunConfig;
use selfreward::recipe::report;
use selfreward::recipe::round::RoundMetrics;
use selfreward::recipe::run_folder::{self, Status};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to run, such as configs/smollm2-tiny.toml
    #[arg(value_name = "CONFIG.toml")]
    pub(crate) config: PathBuf,
    /// Go on with an interrupted run
    #[arg(long)]
    resume: bool,
}

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let config = RunConfig::read(&args.config)?;
    let gpu = app.gpu()?;
    let status = selfreward::recipe::run::run(&gpu, &config, args.resume, &app.progress)?;
    app.progress.clear();
    show(app, &status)
}

pub(crate) fn status(app: &App, args: &StatusArgs) -> Result<()> {
    show(app, &run_folder::status(&args.run)?)
}

fn show(app: &App, status: &Status) -> Result<()> {
    if app.common.json {
        return app.json(status);
    }
    let state = match (status.finished, status.running) {
        (true, _) => "finished",
        (_, true) => "running",
        _ => "interrupted; go on with --resume",
    };
    app.line(format!("{}: {state}", status.path.display()))?;
    app.line(format!(
        "models: {}",
        if status.models.is_empty() { "none yet".into() } else { status.models.join(" ") }
    ))?;
    if !status.removed.is_empty() {
        app.line(format!("weights removed by [run] keep: {}", status.removed.join(" ")))?;
    }
    if !status.stages.is_empty() || !status.partial.is_empty() {
        app.line("")?;
        let mut stages = Table::new(&["stage", "state", "seconds"]);
        for stage in &status.stages {
            stages.row([stage.name.clone(), "done".into(), format!("{:.1}", stage.seconds)]);
        }
        for (name, waves) in &status.partial {
            stages.row([name.clone(), format!("{waves} waves done"), "-".into()]);
        }
        stages.print()?;
    }
    if !status.rounds.is_empty() {
        app.line("")?;
        rounds(&status.rounds).print()?;
    }
    let report = status.path.join(report::FILE);
    if report.exists() {
        app.line(format!("\nreport: {}", report.display()))?;
    }
    Ok(())
}

fn rounds(rounds: &[RoundMetrics]) -> Table {
    let mut table =
        Table::new(&["round", "prompts", "candidates", "judge", "score", "unscored", "pairs", "ties", "steps", "loss"]);
    for m in rounds {
        table.row([
            m.round.to_string(),
            m.prompts.to_string(),
            m.candidates.to_string(),
            m.judge.clone(),
            format!("{:.2}", m.score_mean),
            m.unscored.to_string(),
            m.pairs.to_string(),
            m.ties.to_string(),
            m.steps.to_string(),
            m.last_step.as_ref().map_or("-".into(), |s| format!("{:.4}", s.loss)),
        ]);
    }
    table
}
