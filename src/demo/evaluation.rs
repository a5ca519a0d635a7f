//! Measures against the truth how good a model of the small world is: its answers to held-out questions, and its
//! judgment.
//!
//! Every model is asked the same questions under the same sampling keys, so that differences between models are paired.

use crate::data::answers::ask;
use crate::disk::OnDisk;
use crate::generate::Engine;
use crate::generate::{Output, Sampling, Settings};
use crate::json::{read_jsonl, write_jsonl};
use crate::judge::{Item, Judge};
use crate::measure::metrics;
use crate::rng::{Stream, fnv};
use crate::world::respond::{EFT_WEIGHTS, response};
use crate::world::score::{MAX_RESPONSE, cut};
use crate::world::tasks::HELD_OUT;
use crate::world::{Task, held_out, marks, text};
use crate::{Observer, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How many answers to each question are sampled.
pub const SAMPLES: u32 = 8;
/// How many responses to each question the model judges.
pub const JUDGED: usize = 2;
/// Seed of the judged responses, which are the same in every run.
const JUDGED_SEED: u64 = 0x5EED_0400;

/// One response that the model judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The response, which is not the model's own.
    pub answer: String,
    /// The true score of the response.
    pub truth: f64,
    /// The score that the model gave; null if none could be read.
    pub score: Option<f64>,
}

/// One held-out question with a model's answers: a line of `evaluation/M1.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// The question that was asked.
    pub prompt: String,
    /// The right answer.
    pub gold: String,
    /// The model's greedy answer.
    pub greedy: String,
    /// The model's sampled answers.
    pub answers: Vec<String>,
    /// The true scores of the sampled answers.
    pub truth: Vec<f64>,
    /// The responses that the model judged.
    pub judged: Vec<Judged>,
}

impl QuestionRecord {
    /// The mean true score of the sampled answers.
    pub fn mean_truth(&self) -> f64 {
        metrics::mean_se(&self.truth).0
    }
}

/// Asks the model the first `questions`, measures its answers and writes `out`. A finished evaluation is read from
/// `out` instead.
///
/// # Errors
/// Errors of the engine and of the file.
pub fn run(
    engine: &mut dyn Engine,
    judge: &dyn Judge,
    (questions, seed): (usize, u64),
    out: &Path,
    observer: &dyn Observer,
) -> Result<Vec<QuestionRecord>> {
    if out.is_there() {
        return read_jsonl(out);
    }
    let tasks = &held_out()[..questions.min(HELD_OUT)];
    observer.begin("evaluation", Some(3), "passes");
    let sampled = answers(engine, tasks, 0.8, SAMPLES, seed, observer)?;
    observer.advance(1);
    let greedy = answers(engine, tasks, 0.0, 1, seed, observer)?;
    observer.advance(1);
    let others: Vec<(&Task, String)> = tasks
        .iter()
        .flat_map(|task| {
            let mut rng = Stream::new(JUDGED_SEED, fnv(task.prompt.as_bytes()));
            (0..JUDGED).map(|_| (task, response(task, &EFT_WEIGHTS, &mut rng))).collect::<Vec<_>>()
        })
        .collect();
    let items: Vec<Item> = others.iter().map(|(task, y)| Item::new(fnv(y.as_bytes()), &task.prompt, y)).collect();
    let verdicts = judge.judge(engine, &items, observer)?;
    observer.end();
    let mut judged = others.iter().zip(verdicts).map(|((task, y), verdict)| Judged {
        answer: y.clone(),
        truth: marks(&task.gold, y).score() as f64,
        score: verdict.score,
    });
    let records: Vec<QuestionRecord> = tasks
        .iter()
        .zip(sampled)
        .zip(greedy)
        .map(|((task, answers), greedy)| QuestionRecord {
            prompt: task.prompt.clone(),
            gold: task.gold.clone(),
            truth: answers.iter().map(|y| marks(&task.gold, y).score() as f64).collect(),
            greedy: greedy.into_iter().next().unwrap_or_default(),
            answers,
            judged: judged.by_ref().take(JUDGED).collect(),
        })
        .collect();
    write_jsonl(out, &records)?;
    Ok(records)
}

pub(super) fn answers(
    engine: &mut dyn Engine,
    tasks: &[Task],
    temperature: f32,
    n: u32,
    seed: u64,
    observer: &dyn Observer,
) -> Result<Vec<Vec<String>>> {
    let settings = Settings {
        sampling: Sampling { temperature, top_p: 0.95, ..Sampling::default() },
        max_new_tokens: MAX_RESPONSE,
        stop: vec![text::EOS, text::NEWLINE],
        seed,
        choices: Vec::new(),
    };
    let prompts = tasks.iter().map(|task| text::question(&task.prompt)).collect::<Result<Vec<_>>>()?;
    let read = |output: &Output| {
        let ends = usize::from(output.stopped && !output.tokens.is_empty());
        cut(&text::decode(&output.tokens[..output.tokens.len() - ends]))
    };
    let outputs = ask(engine, &prompts, n, &settings, observer)?;
    Ok(outputs.iter().map(|samples| samples.iter().map(read).collect()).collect())
}
