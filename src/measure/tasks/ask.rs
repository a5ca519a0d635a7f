//! A model is asked a task: the words before its answer, worked examples among them, and the answers themselves.

use super::Task;
use crate::data::answers::ask;
use crate::generate::{ChatLanguage, Engine, Settings};
use crate::model::score::Branch;
use crate::text::Language;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// What was given to an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// Words.
    Answer {
        /// The words.
        response: String,
        /// How many tokens they are, where that is known.
        tokens: Option<usize>,
        /// Whether the model ended the answer itself, where that is known.
        stopped: Option<bool>,
    },
    /// How likely each choice is.
    Choice {
        /// The log-likelihood of each.
        logps: Vec<f64>,
    },
}

impl Given {
    /// Words from elsewhere.
    pub fn written(response: String) -> Self {
        Self::Answer { response, tokens: None, stopped: None }
    }
}

/// Worked examples, each a question and its answer, that a model sees before each item.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shots(Vec<[String; 2]>);

impl Shots {
    /// The first `n` items of `examples`, a file of the same task at `path`, that `task` does not have.
    ///
    /// # Errors
    /// The task has no worked answers, or the file has too few of them.
    pub fn choose(task: &dyn Task, examples: &dyn Task, path: &Path, n: usize) -> Result<Self> {
        let measured: HashSet<&str> = (0..task.len()).map(|item| task.entry(item).prompt.as_str()).collect();
        let new = |item: &usize| !measured.contains(examples.entry(*item).prompt.as_str());
        let shot = |item: usize| {
            let question = examples.choices(item).map_or(&examples.entry(item).prompt, |choices| &choices.context);
            Some([question.clone(), examples.worked(item)?.to_owned()])
        };
        let shots: Vec<_> = (0..examples.len()).filter(new).filter_map(shot).take(n).collect();
        if shots.len() == n {
            return Ok(Self(shots));
        }
        let what = "of its items have an answer to show and are none of those that are measured";
        Err(Error::file(path, format!("{} {what}; expected at least {n}", shots.len())))
    }
}

/// What a model reads before it answers an item.
enum Question {
    /// A prompt.
    Prompt(Vec<u32>),
    /// A context with the choices that may follow it.
    Choices(Branch),
}

/// Every item of a task as token ids of one model.
pub struct Questions {
    all: Vec<Question>,
    /// How many contexts were cut at their beginning.
    pub cut: usize,
    /// What follows the answer of a model without a chat template that goes on by itself.
    next: Option<&'static str>,
}

impl Questions {
    /// Encodes what is asked, behind worked examples. Answers are asked for through the chat template; choices stand
    /// behind plain text, as in lm-evaluation-harness.
    ///
    /// # Errors
    /// A text cannot be encoded; an item leaves no room for `new` tokens or for its choices, or a choice has no tokens
    /// of its own. The error names the item.
    pub fn new(task: &dyn Task, shots: &Shots, language: &ChatLanguage, new: usize) -> Result<Self> {
        let named = |item: usize, what: String| Error::Input(format!("item {} of {}: {what}", item + 1, task.name()));
        let begun: String = shots.0.iter().map(|[question, answer]| format!("{question} {answer}\n\n")).collect();
        let (mut all, mut cut) = (Vec::with_capacity(task.len()), 0);
        for item in 0..task.len() {
            if let Some(choices) = task.choices(item) {
                let whole = format!("{begun}{}", choices.context);
                let (branch, shorter) = follow(language, &whole, &choices.texts).map_err(|what| match what {
                    Error::Input(what) => named(item, what),
                    other => other,
                })?;
                cut += usize::from(shorter);
                all.push(Question::Choices(branch));
                continue;
            }
            let asked = if shots.0.is_empty() { task.ask(item) } else { task.entry(item).prompt.clone() };
            let prompt = language.ask_after(&shots.0, &asked)?;
            let (tokens, context) = (prompt.len(), language.context());
            if tokens + new > context {
                let what = format!("asks with {tokens} tokens; with max_new_tokens = {new} that is more than");
                let less = "take fewer, or fewer worked examples";
                return Err(named(item, format!("{what} the model's context of {context}: {less}")));
            }
            all.push(Question::Prompt(prompt));
        }
        Ok(Self { all, cut, next: (!language.has_template()).then_some("\n\nQuestion:") })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The answers to some items, each with the item's number and the number of the sample: `n` to a prompt, one to
    /// choices.
    ///
    /// # Errors
    /// Errors of the engine; `Stopped` when the observer asks for it.
    pub fn ask(
        &self,
        items: Range<usize>,
        n: u32,
        settings: &Settings,
        (engine, language, observer): (&mut dyn Engine, &ChatLanguage, &dyn Observer),
    ) -> Result<Vec<(usize, u32, Given)>> {
        let (mut prompts, mut branches) = (Vec::new(), Vec::new());
        for item in items {
            match &self.all[item] {
                Question::Prompt(ids) => prompts.push((item, ids.clone())),
                Question::Choices(branch) => branches.push((item, branch.clone())),
            }
        }
        let mut all = Vec::new();
        let (numbers, ids): (Vec<usize>, Vec<Vec<u32>>) = prompts.into_iter().unzip();
        if !ids.is_empty() {
            for (item, outputs) in numbers.into_iter().zip(ask(engine, &ids, n, settings, observer)?) {
                for (sample, output) in (0..).zip(outputs) {
                    let text = language.decode(&output.tokens)?;
                    let next = self.next.and_then(|next| text.find(next));
                    let response = text[..next.unwrap_or(text.len())].trim().to_owned();
                    let (tokens, stopped) = (Some(output.tokens.len()), Some(output.stopped || next.is_some()));
                    all.push((item, sample, Given::Answer { response, tokens, stopped }));
                }
            }
        }
        let (numbers, branches): (Vec<usize>, Vec<Branch>) = branches.into_iter().unzip();
        if !branches.is_empty() {
            for (item, logps) in numbers.into_iter().zip(engine.logps(&branches, observer)?) {
                let sum = |tokens: &Vec<f32>| tokens.iter().map(|logp| f64::from(*logp)).sum();
                all.push((item, 0, Given::Choice { logps: logps.iter().map(sum).collect() }));
            }
        }
        Ok(all)
    }
}

/// The token ids of a context and of each choice behind it, and whether the context was cut.
///
/// As in lm-evaluation-harness blanks at the context's end belong to the choice, context and choice are encoded as one
/// text, and the choice's ids are those behind as many as the context alone has. A context that is too long is cut at
/// its beginning.
fn follow(language: &dyn Language, context: &str, choices: &[String]) -> Result<(Branch, bool)> {
    let begin = context.trim_end();
    let gap = &context[begin.len()..];
    let mut prompt = language.raw(begin)?;
    if prompt.is_empty() {
        return Err(Error::Input("the context has no tokens".into()));
    }
    let mut completions = Vec::with_capacity(choices.len());
    for choice in choices {
        let whole = language.raw(&format!("{begin}{gap} {choice}"))?;
        let own = whole.get(prompt.len()..).unwrap_or_default().to_vec();
        if own.is_empty() {
            return Err(Error::Input(format!("the choice {choice:?} has no tokens of its own behind its context")));
        }
        completions.push(own);
    }
    let longest = completions.iter().map(Vec::len).max().unwrap_or(0);
    let room = language.context().saturating_sub(longest);
    if room == 0 {
        let what = format!("a choice has {longest} tokens; the model's context is {}", language.context());
        return Err(Error::Input(what));
    }
    let cut = prompt.len() > room;
    prompt.drain(..prompt.len().saturating_sub(room));
    Ok((Branch { prompt, completions }, cut))
}
