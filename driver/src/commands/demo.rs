//! `demo`: the whole loop in the small world.

use crate::app::App;
use crate::tables::Table;
use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::demo;
use selfreward::demo::from_scratch::FromScratch;
use selfreward::demo::report::DemoReport;
use selfreward::demo::{DemoConfig, JudgeKind, TrainKind};
use selfreward::report::{FILE, refresh};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the run in this folder (default: a temporary one)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Rounds of the loop; there is one model more
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// New prompts a round
    #[arg(long, default_value_t = DemoConfig::default().prompts, value_name = "N")]
    prompts: usize,
    /// Held-out questions that measure a model; fewer are faster and less exact
    #[arg(long, default_value_t = DemoConfig::default().questions, value_name = "N")]
    questions: usize,
    /// Train M1 from random weights instead of taking the shipped ones (half an hour on two CPU cores)
    #[arg(long)]
    from_scratch: bool,
    /// Go on with an interrupted demo of the same settings
    #[arg(long, requires = "out")]
    resume: bool,
    /// Who scores the candidates: the model, dice (the sanity control), or the exact scorer (the ceiling)
    #[arg(long, default_value = JudgeKind::Own.name(), value_parser = judges())]
    judge: JudgeKind,
    /// What a round trains: preferences, with the chosen answers' likelihood beside them, or the best answers alone
    #[arg(long, default_value = DemoConfig::default().train.name(), value_parser = trainings())]
    train: TrainKind,
}

fn judges() -> impl TypedValueParser<Value = JudgeKind> {
    PossibleValuesParser::new(JudgeKind::ALL.map(|(name, _)| name)).try_map(|name| name.parse::<JudgeKind>())
}

fn trainings() -> impl TypedValueParser<Value = TrainKind> {
    PossibleValuesParser::new(TrainKind::ALL.map(|(name, _)| name)).try_map(|name| name.parse::<TrainKind>())
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let config = DemoConfig {
        seed: app.common.seed(),
        rounds: args.rounds,
        prompts: args.prompts,
        questions: args.questions,
        judge: args.judge,
        train: args.train,
        from_scratch: args.from_scratch.then(FromScratch::default),
        out: args.out.clone(),
        resume: args.resume,
    };
    let gpu = app.gpu()?;
    let report = demo::run(&gpu, &config, &refresh, &app.progress)?;
    app.progress.clear();
    if app.common.json {
        return app.json(&report);
    }
    print(app, &report, &gpu.info().name)?;
    match &args.out {
        Some(out) => app.line(format!("report: {}", out.join(FILE).display())),
        None => app.line("With --out DIR the run is kept, with a report as a web page."),
    }
}

fn print(app: &App, report: &DemoReport, device: &str) -> Result<()> {
    let m = &report.metrics;
    app.line(format!("The loop in the small world: judge {}, training {}, seed {}\n", m.judge, m.train, m.seed))?;
    let mut models = Table::new(&["model", "true score", "gain", "greedy", "judge's rank corr.", "distinct answers"]);
    for x in &m.models {
        models.row([
            x.name.clone(),
            format!("{:.2} ± {:.2}", x.truth_mean, x.truth_se),
            with_error(x.gain, x.gain_se),
            format!("{:.2}", x.greedy_mean),
            x.judge_spearman.map_or("-".into(), |r| format!("{r:.2}")),
            format!("{:.2}", x.distinct_samples),
        ]);
    }
    models.print()?;
    app.line("")?;
    let mut duels = Table::new(&["head to head", "win", "tie", "loss", "gain"]);
    for x in &m.head_to_head {
        let name = format!("{} against {}", x.a, x.b);
        duels.row([
            name,
            x.win.to_string(),
            x.tie.to_string(),
            x.loss.to_string(),
            with_error(Some(x.gain), Some(x.gain_se)),
        ]);
    }
    duels.print()?;
    app.line("")?;
    let mut rounds = Table::new(&[
        "round",
        "prompts",
        "candidates",
        "pairs",
        "truly right",
        "truly wrong",
        "ties",
        "steps",
        "seconds",
    ]);
    for (x, seconds) in m.rounds.iter().zip(&report.round_seconds) {
        rounds.row([
            x.metrics.round.to_string(),
            x.metrics.prompts.to_string(),
            x.metrics.candidates.to_string(),
            x.metrics.pairs.to_string(),
            x.pairs_right.to_string(),
            x.pairs_wrong.to_string(),
            x.metrics.ties.to_string(),
            x.metrics.steps.to_string(),
            format!("{seconds:.1}"),
        ]);
    }
    rounds.print()?;
    for sample in &m.samples {
        app.line(format!("\n{}  (right: {})", sample.prompt, sample.gold))?;
        for (name, answer) in &sample.answers {
            let score = sample.scores.get(name).copied().unwrap_or(f64::NAN);
            app.line(format!("  {name}  {score:.0}  {answer}"))?;
        }
    }
    app.line(format!(
        "\nTrue scores go from 0 to 5 and come from an exact scorer that only measures; \
         the models judged themselves{}.",
        if m.judge == "self" { "" } else { " not: this is a control" }
    ))?;
    app.line(format!("{:.0} s on {device}", report.seconds))
}

fn with_error(value: Option<f64>, error: Option<f64>) -> String {
    match (value, error) {
        (Some(value), Some(error)) => format!("{value:+.2} ± {error:.2}"),
        _ => "-".into(),
    }
}
