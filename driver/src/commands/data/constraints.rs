//! `data constraints`: prompts whose answers a program can check, made without a model.

use crate::app::{App, check_writable};
use crate::flags::{Flags, Preset};
use anyhow::{Context, Result, ensure};
use selfreward::json::{read_jsonl, write_jsonl};
use selfreward::measure::constrained::{Subject, make};
use selfreward::measure::constraints::ConstraintSection;
use selfreward::measure::held_out::read_held_out;
use selfreward::settings::Section;
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lines with a topic, such as {"topic": "a lighthouse"}, or with an instruction as prompt
    #[arg(long, value_name = "F.jsonl")]
    from: PathBuf,
    /// Prompts wanted; each topic and each kind of constraint comes as often as the others (default: one a line)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// The prompts, in the form of IFEval's files; must not exist yet
    #[arg(long, value_name = "F.jsonl")]
    out: PathBuf,
    /// Files of prompts, such as evaluation sets: what stands in one, or has a topic of one, is not made
    #[arg(long, value_name = "F.jsonl")]
    exclude: Vec<PathBuf>,
    #[command(flatten)]
    constraints: Flags<Constraints>,
}

/// The constraints where flags do not say otherwise: as many as IFEval's prompts have.
struct Constraints;

impl Preset for Constraints {
    type Of = ConstraintSection;

    fn defaults() -> ConstraintSection {
        ConstraintSection::default().most(3)
    }
}

pub(super) fn run(app: &App, args: &Args) -> Result<()> {
    check_writable(&args.out)?;
    ensure!(!args.out.exists(), "{}: exists already; name another file or remove it", args.out.display());
    ensure!(args.constraints.most > 0, "--most is 0: a prompt needs a constraint by which its answers are checked");
    args.constraints.check()?;
    let subjects: Vec<Subject> = read_jsonl(&args.from)?;
    ensure!(!subjects.is_empty(), "{}: holds no record", args.from.display());
    let mut excluded = Vec::new();
    for path in &args.exclude {
        excluded.extend(read_held_out(path)?);
    }
    let count = args.count.map_or(subjects.len(), |count| count as usize);
    let (records, kinds) = make(&subjects, &args.constraints, count, &excluded, app.common.seed())
        .with_context(|| args.from.display().to_string())?;
    write_jsonl(&args.out, &records)?;
    if app.common.json {
        return app.json(&json!({
            "out": args.out, "prompts": records.len(), "subjects": subjects.len(), "kinds": kinds,
        }));
    }
    app.line(format!("{}: {} prompts from {} records", args.out.display(), records.len(), subjects.len()))?;
    kinds.iter().try_for_each(|(kind, n)| app.line(format!("{n:5} {kind}")))
}
