//! `data constraints`: prompts whose answers a program can check, made without a model. `data ift --rules`: right
//! answers to such prompts, made of a model's answers to plain ones.

use super::IftArgs;
use super::truth::Line;
use crate::app::{App, check_writable};
use crate::flags::{Flags, Preset};
use anyhow::{Context, Result, bail, ensure};
use selfreward::data::import::ExampleRecord;
use selfreward::json::{read_jsonl, write_jsonl};
use selfreward::judge::Checks;
use selfreward::measure::constrained::{Subject, make};
use selfreward::measure::constraints::{self, ConstraintSection, OwnAnswer};
use selfreward::measure::held_out::read_held_out;
use selfreward::rng::Stream;
use selfreward::settings::Section;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
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
pub(super) struct Constraints;

impl Preset for Constraints {
    type Of = ConstraintSection;

    fn defaults() -> ConstraintSection {
        ConstraintSection::default().most(3)
    }
}

/// An example as it is written: what `sft` reads, and by what the answer was checked.
#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    example: ExampleRecord,
    #[serde(flatten)]
    checks: Checks,
    base_prompt: String,
}

pub(super) fn run(app: &App, args: &Args) -> Result<()> {
    check_writable(&args.out)?;
    ensure!(!args.out.exists(), "{}: exists already; name another file or remove it", args.out.display());
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
    print(app, &kinds)
}

pub(super) fn examples(app: &App, args: &IftArgs) -> Result<()> {
    let (from, out) = (&args.common.from, &args.common.out);
    args.common.can_write(false)?;
    ensure!(args.constraints.most > 0, "--most is 0: an example of --rules needs a constraint");
    args.constraints.check()?;
    let lines: Vec<Line> = read_jsonl(from)?;
    ensure!(!lines.is_empty(), "{}: holds no record", from.display());
    if let Some(i) = lines.iter().position(|line| line.checks.has_rules()) {
        bail!(
            "{}: record {}: the answer was given to a prompt with constraints (instruction_id_list), beside which \
             another may not hold; expected answers to plain prompts",
            from.display(),
            i + 1
        );
    }
    let all = lines.len();
    let mut rng = Stream::new(app.common.seed(), SHORTEN);
    let answer = |line: Line| {
        let instruction = line.prompt.question();
        match line.stopped {
            Some(false) if args.shorten => OwnAnswer::shortened(instruction, &line.response, &mut rng),
            Some(false) => None,
            _ => Some(OwnAnswer { instruction, answer: line.response }),
        }
    };
    let answers: Vec<OwnAnswer> = lines.into_iter().filter_map(answer).collect();
    let count = args.count.map_or(answers.len(), |count| count as usize);
    let (made, kinds) = constraints::examples(&answers, &args.constraints, count, app.common.seed())
        .with_context(|| from.display().to_string())?;
    let written = made.into_iter().map(|e| Written {
        example: ExampleRecord::new(&e.prompt, &e.answer),
        checks: e.checks,
        base_prompt: e.base_prompt,
    });
    let records: Vec<Written> = written.collect();
    write_jsonl(out, &records)?;
    let (cut, questions) = (all - answers.len(), answers.iter().map(|a| &a.instruction).collect::<HashSet<_>>().len());
    if app.common.json {
        let left_out = if cut > 0 { json!({ CUT: cut }) } else { json!({}) };
        return app.json(&json!({
            "out": out, "records": records.len(), "questions": questions, "held_out": 0, "left_out": left_out,
            "kinds": kinds,
        }));
    }
    app.line(format!("{}: {} records from {questions} questions", out.display(), records.len()))?;
    if cut > 0 {
        app.line(format!("left out: {cut} {CUT}"))?;
    }
    print(app, &kinds)
}

/// The stream by which it is drawn how far an answer is shortened.
const SHORTEN: u64 = 0x5407;

/// Why answers are left out.
const CUT: &str = "answers that were cut";

fn print(app: &App, kinds: &BTreeMap<&'static str, usize>) -> Result<()> {
    kinds.iter().try_for_each(|(kind, n)| app.line(format!("{n:5} {kind}")))
}
