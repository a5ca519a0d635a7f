//! Reads others' files as one list of questions: Open Assistant's trees and messages, preferences, scored answers. The
//! fields of a line tell which of these it is.

use super::{Question, RankedAnswer};
use crate::json::read_jsonl;
use crate::text::{Message, asked};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How many records were left out for each reason.
pub type Counts = BTreeMap<&'static str, usize>;

/// A message of the Open Assistant export. In a tree file it holds its replies, in a message file its parent's id.
#[derive(Deserialize)]
struct OasstMessage {
    #[serde(default)]
    message_id: String,
    parent_id: Option<String>,
    text: String,
    role: String,
    #[serde(default)]
    lang: String,
    rank: Option<f64>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    replies: Vec<OasstMessage>,
}

/// A line of an Open Assistant tree file.
#[derive(Deserialize)]
struct OasstTree {
    prompt: OasstMessage,
}

/// A text, or a conversation of one message.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of messages")]
enum Said {
    Plain(String),
    Chat(Vec<Message>),
}

impl Said {
    fn last(self) -> Option<String> {
        match self {
            Said::Plain(text) => Some(text),
            Said::Chat(mut messages) => messages.pop().map(|m| m.content),
        }
    }

    /// Whether this is one answer to `prompt`, which may stand before it once more.
    fn answers(&self, prompt: &Said) -> bool {
        match (self, prompt) {
            (Said::Plain(_), _) => true,
            (Said::Chat(said), Said::Plain(_)) => match &said[..] {
                [_] => true,
                [asked, answer] => asked.role == "user" && answer.role == "assistant",
                _ => false,
            },
            (Said::Chat(said), Said::Chat(asked)) => said.len() == 1 || said[..said.len().max(1) - 1] == asked[..],
        }
    }

    /// The text of the one message, or `None` if there are several.
    fn only(self) -> Option<String> {
        match self {
            Said::Chat(messages) if messages.len() != 1 => None,
            said => said.last(),
        }
    }
}

/// A preference; if it has no `prompt`, both sides begin with the prompt.
#[derive(Deserialize)]
struct PreferenceLine {
    prompt: Option<Said>,
    chosen: Said,
    rejected: Said,
}

/// A scored answer, such as `judge --out` writes.
#[derive(Deserialize)]
struct ScoredLine {
    prompt: Said,
    response: Option<Said>,
    completion: Option<Said>,
    score: Option<f64>,
    score_reference: Option<f64>,
    #[serde(alias = "justification", alias = "rationale")]
    verdict: Option<String>,
}

/// Reads the questions of a file, in the order in which they first occur. Of trees and messages it takes those in the
/// language `lang` (in any, if that is empty), only their first turn, and no deleted texts. Also returns what was left
/// out, and why.
///
/// # Errors
/// The file cannot be read, a line has none of the forms (the error names it by number), or there is no question at
/// all.
pub fn read(path: &Path, lang: &str) -> Result<(Vec<Question>, Counts)> {
    let mut found = Found::default();
    let mut messages = Vec::new();
    for (i, mut line) in read_jsonl::<Value>(path)?.into_iter().enumerate() {
        name_prompt(&mut line).map_err(|e| Error::file(path, format!("record {}: {e}", i + 1)))?;
        let at = |e: serde_json::Error| Error::file(path, format!("record {}: {e}", i + 1));
        let has = |key: &str| line.get(key).is_some_and(|v| !v.is_null());
        if line.get("prompt").is_some_and(|p| p.get("replies").is_some()) {
            let tree: OasstTree = serde_json::from_value(line).map_err(at)?;
            found.tree(tree.prompt, lang);
        } else if has("message_id") && has("role") {
            messages.push(serde_json::from_value::<OasstMessage>(line).map_err(at)?);
        } else if has("chosen") && has("rejected") {
            found.preference(serde_json::from_value(line).map_err(at)?);
        } else if has("prompt") && (has("response") || has("completion")) {
            found.scored(serde_json::from_value(line).map_err(at)?);
        } else {
            let what = "expected an Open Assistant tree or message, or prompt with chosen and rejected, \
                        or prompt, response and score";
            return Err(Error::file(path, format!("record {}: {what}", i + 1)));
        }
    }
    found.messages(messages, lang);
    if found.questions.is_empty() {
        let why: Vec<String> = found.dropped.iter().map(|(why, n)| format!("{n} {why}")).collect();
        let why = if why.is_empty() { "it is empty".to_owned() } else { why.join(", ") };
        return Err(Error::file(path, format!("gives no question with an answer ({why})")));
    }
    found.rank();
    Ok((found.questions, found.dropped))
}

/// Calls a question in columns of its own the prompt, where there is no other; with a system message it has two
/// messages.
fn name_prompt(line: &mut Value) -> std::result::Result<(), String> {
    let text = |key: &str| line.get(key).is_some_and(Value::is_string);
    let apart = line.get("prompt").is_none_or(Value::is_null) && ["instruction", "question"].into_iter().any(text);
    let Some(fields) = line.as_object_mut().filter(|_| apart) else { return Ok(()) };
    if let Some(words) = asked(fields)? {
        fields.insert("prompt".into(), serde_json::to_value(words).map_err(|e| e.to_string())?);
    }
    Ok(())
}

#[derive(Default)]
struct Found {
    questions: Vec<Question>,
    place: HashMap<String, usize>,
    dropped: Counts,
}

fn ranked(text: String, rank: usize) -> RankedAnswer {
    RankedAnswer { text, rank, score: None, verdict: None }
}

impl Found {
    fn drop(&mut self, why: &'static str) {
        *self.dropped.entry(why).or_default() += 1;
    }

    /// Adds an answer. Its rank is the place among the answers of the same record; those of one question may come from
    /// several records.
    fn add(&mut self, prompt: &str, mut answer: RankedAnswer) {
        answer.text = answer.text.trim().to_owned();
        let prompt = prompt.trim();
        if prompt.is_empty() || answer.text.is_empty() {
            return self.drop("with an empty text");
        }
        if answer.score.is_some_and(|s| !s.is_finite()) {
            return self.drop("with a score that is no number");
        }
        let next = self.questions.len();
        let at = *self.place.entry(prompt.to_owned()).or_insert(next);
        if at == next {
            self.questions.push(Question { prompt: prompt.to_owned(), answers: Vec::new() });
        }
        let answers = &mut self.questions[at].answers;
        if answers.iter().any(|a| a.text == answer.text) {
            return self.drop("that stand there twice");
        }
        answers.push(answer);
    }

    fn tree(&mut self, root: OasstMessage, lang: &str) {
        if root.deleted || root.role != "prompter" {
            return self.drop("deleted or not asked by a user");
        }
        if !lang.is_empty() && root.lang != lang {
            return self.drop("in another language");
        }
        let mut replies: Vec<OasstMessage> = root.replies.into_iter().filter(|r| !r.deleted).collect();
        // A single answer has no rival, so nobody ranked it.
        if let [one] = &mut replies[..] {
            one.rank.get_or_insert(0.0);
        }
        for reply in replies {
            match reply.rank {
                Some(rank) if rank >= 0.0 => self.add(&root.text, ranked(reply.text, rank as usize)),
                _ => self.drop("without a rank"),
            }
        }
    }

    fn messages(&mut self, messages: Vec<OasstMessage>, lang: &str) {
        let mut replies: HashMap<String, Vec<OasstMessage>> = HashMap::new();
        let mut roots = Vec::new();
        for m in messages {
            match m.parent_id.clone() {
                Some(parent) => replies.entry(parent).or_default().push(m),
                None => roots.push(m),
            }
        }
        for mut root in roots {
            root.replies = replies.remove(&root.message_id).unwrap_or_default();
            self.tree(root, lang);
        }
    }

    fn preference(&mut self, p: PreferenceLine) {
        let (prompt, chosen, rejected) = match (p.prompt, p.chosen, p.rejected) {
            // A conversation that repeats the prompt has one message more.
            (Some(prompt), chosen, rejected) if chosen.answers(&prompt) && rejected.answers(&prompt) => {
                (prompt.only(), chosen.last(), rejected.last())
            }
            (None, Said::Chat(mut a), Said::Chat(mut b)) if a.len() == 2 && b.len() == 2 && a[0] == b[0] => {
                (Some(a.swap_remove(0).content), a.pop().map(|m| m.content), b.pop().map(|m| m.content))
            }
            _ => (None, None, None),
        };
        match (prompt, chosen, rejected) {
            (Some(prompt), Some(chosen), Some(rejected)) => {
                self.add(&prompt, ranked(chosen, 0));
                self.add(&prompt, ranked(rejected, 1));
            }
            _ => self.drop("of several turns or without a prompt of their own"),
        }
    }

    fn scored(&mut self, s: ScoredLine) {
        let score = s.score.or(s.score_reference);
        match (s.prompt.only(), s.response.or(s.completion).and_then(Said::only)) {
            (Some(prompt), Some(text)) => self.add(&prompt, RankedAnswer { text, rank: 0, score, verdict: s.verdict }),
            _ => self.drop("of several turns"),
        }
    }

    /// Sorts the answers, the best one first, and numbers their places without gaps. If all answers have scores, these
    /// decide.
    fn rank(&mut self) {
        let mut unscored = 0;
        for q in &mut self.questions {
            // Where some have scores, one without has no place among them.
            if q.answers.iter().any(|a| a.score.is_some()) {
                let all = q.answers.len();
                q.answers.retain(|a| a.score.is_some());
                unscored += all - q.answers.len();
            }
            let scored = q.answers.iter().all(|a| a.score.is_some());
            let key = |a: &RankedAnswer| match (scored, a.score) {
                (true, Some(score)) => -score,
                _ => a.rank as f64,
            };
            q.answers.sort_by(|a, b| key(a).total_cmp(&key(b)));
            let keys: Vec<f64> = q.answers.iter().map(key).collect();
            let mut rank = 0;
            for (i, a) in q.answers.iter_mut().enumerate() {
                if i > 0 && keys[i] > keys[i - 1] {
                    rank += 1;
                }
                a.rank = rank;
            }
        }
        if unscored > 0 {
            *self.dropped.entry("without a score").or_default() += unscored;
        }
    }
}
