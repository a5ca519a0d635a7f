//! `eval` of answers that a program can check.

use crate::app::{App, check_writable};
use crate::tables::Table;
use anyhow::Result;
use selfreward::json::write_jsonl;
use selfreward::measure::tasks::{Exact, Gsm8k, IfEval, Scored, Task, TaskReport, report, score_responses};
use serde_json::Value;
use std::path::Path;

/// The tasks with a checker.
#[derive(Clone, Copy)]
pub(crate) enum Checked {
    IfEval,
    Gsm8k,
    Exact,
}

impl Checked {
    fn open(self, data: &Path) -> Result<Box<dyn Task>> {
        Ok(match self {
            Self::IfEval => Box::new(IfEval::open(data)?),
            Self::Gsm8k => Box::new(Gsm8k::open(data)?),
            Self::Exact => Box::new(Exact::open(data)?),
        })
    }
}

/// Scores the answers of `responses` to the items of `data`.
pub(crate) fn run(app: &App, which: Checked, data: &Path, responses: &Path, out: Option<&Path>) -> Result<()> {
    out.iter().try_for_each(|out| check_writable(out))?;
    let task = which.open(data)?;
    let scored = score_responses(&*task, responses)?;
    if let Some(out) = out {
        let records: Vec<Value> = scored.iter().map(|s: &Scored| s.record(&*task)).collect();
        write_jsonl(out, &records)?;
    }
    let report = report(&*task, &scored, app.common.seed());
    if app.common.json {
        return app.json(&report);
    }
    print(app, &report, task.measures())
}

fn print(app: &App, r: &TaskReport, measures: [&str; 2]) -> Result<()> {
    app.line(format!("{}: {} of {} prompts have a response\n", r.task, r.answered, r.items))?;
    let mut rates = Table::new(&["measure", "by", "passed", "from", "to"]);
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    for rate in &r.rates {
        let [value, low, high] = [rate.rate.value, rate.rate.low, rate.rate.high].map(percent);
        rates.row([rate.measure.clone(), rate.by.clone(), value, low, high]);
    }
    rates.print()?;
    if !r.kinds.is_empty() {
        app.line("")?;
        let mut kinds = Table::new(&["instruction", "count", measures[0], measures[1]]);
        for k in &r.kinds {
            let [first, second] = measures.map(|m| k.passed.get(m).map_or("-".into(), |x| percent(*x)));
            kinds.row([k.kind.clone(), k.count.to_string(), first, second]);
        }
        kinds.print()?;
    }
    app.line("\nIntervals hold 95 % of 1,000 resamples of the prompts.")
}
