//! The forms of a training record, brought into two: answers to one prompt, or the turns of one conversation.

use super::{Rules, wrong};
use crate::source::ModelSource;
use crate::text::{Answered, Message, TemplateInputs, Words, asked, system};
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::ops::Range;

/// The forms of records with one answer, for errors.
const EXAMPLES: &str = "expected messages or conversations, prompt and completion (or response), instruction (with \
    input) or question and output, response or answer, text, or prompt_ids and completion_ids";
/// The forms of preferences, for errors.
const PAIRS: &str = "expected chosen and rejected (texts or message lists), with a prompt or beginning with one, or \
    prompt_ids, chosen_ids and rejected_ids";

/// The columns of questions and of their answers in files of instructions.
const ASKED: [&str; 3] = ["instruction", "question", "input"];
const ANSWERED: [&str; 3] = ["output", "response", "answer"];

/// What became of a record.
pub(super) enum Found<T> {
    /// The record can be trained on.
    Kept(T),
    /// The record was left out, for this reason.
    Dropped(&'static str),
}

/// Token ids of a prompt and its answers, with the parts of the first answer on which there is no loss.
pub(super) struct Ids {
    pub(super) prompt: Vec<u32>,
    pub(super) answers: Vec<Vec<u32>>,
    pub(super) context: Vec<Range<usize>>,
}

impl From<Answered> for Ids {
    fn from(answered: Answered) -> Self {
        Self { prompt: answered.prompt, answers: answered.answers, context: Vec::new() }
    }
}

/// A JSON object of which fields are taken by name. A null is no field, since some programs write every column.
pub(super) struct Record(pub(super) Map<String, Value>);

impl Record {
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// The value of a field.
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|error| Error::Input(format!("{key}: {error}")))
            }
        }
    }

    /// A text, a list of messages, or one message.
    fn side(&mut self, key: &str) -> Result<Option<Words>> {
        match self.0.get(key) {
            Some(Value::String(_)) => Ok(self.take(key)?.map(Words::Plain)),
            Some(Value::Object(_)) => Ok(self.take(key)?.map(|message| Words::Chat(vec![message]))),
            Some(Value::Array(_)) => Ok(self.take(key)?.map(Words::Chat)),
            None | Some(Value::Null) => Ok(None),
            Some(other) => wrong(format!("{key} is {other}; expected a text or a list of messages")),
        }
    }

    /// The first of some keys that has a side.
    fn first_side(&mut self, keys: &[&str]) -> Result<Option<Words>> {
        let key = keys.iter().find(|key| self.has(key));
        key.map_or(Ok(None), |key| self.side(key))
    }

    /// A question in columns of its own, as [`asked`] finds it, for a chat template.
    fn question(&mut self) -> Result<Option<Words>> {
        let asked = asked(&mut self.0).map_err(Error::Input)?;
        Ok(asked.map(|words| Words::Chat(words.into_messages("user"))))
    }

    fn inputs(&self) -> Result<TemplateInputs> {
        TemplateInputs::deserialize(&Value::Object(self.0.clone()))
            .map_err(|error| Error::Input(format!("chat_template_kwargs: {error}")))
    }

    fn unknown<T>(&self, expected: &str) -> Result<T> {
        let keys: Vec<&str> = self.0.keys().map(String::as_str).filter(|key| self.has(key)).collect();
        let has = if keys.is_empty() { "no field with a value".into() } else { keys.join(", ") };
        wrong(format!("{expected}; the record has {has}"))
    }
}

/// Reads an answer that is to be learnt; also gives the name of its form.
pub(super) fn example(mut record: Record, source: &ModelSource, rules: Rules) -> Result<(&'static str, Found<Ids>)> {
    if record.has("prompt_ids") && record.has("completion_ids") {
        let prompt = record.take("prompt_ids")?.unwrap_or_default();
        let answers: Vec<Vec<u32>> = vec![record.take("completion_ids")?.unwrap_or_default()];
        if answers[0].is_empty() {
            return Ok(("token ids", Found::Dropped(EMPTY)));
        }
        return Ok(("token ids", usable(Ids { prompt, answers, context: Vec::new() }, source)?));
    }
    let inputs = record.inputs()?;
    if let Some(key) = ["messages", "conversations"].into_iter().find(|key| record.has(key)) {
        let mut messages = match record.side(key)? {
            Some(Words::Plain(_)) => return wrong(format!("{key} is a text; expected a list of messages")),
            side => side.map_or_else(Vec::new, |side| side.into_messages("user")),
        };
        // ShareGPT's files have it in a column of its own.
        if key == "conversations" {
            system(&mut messages, &mut record.0);
        }
        return Ok((key, turns(&messages, &inputs, source, rules)?));
    }
    let completion = ["completion", "response"];
    let (form, prompt, answer) = if record.has("prompt") && completion.iter().any(|key| record.has(key)) {
        ("prompt and completion", record.side("prompt")?, record.first_side(&completion)?)
    } else if ASKED.iter().any(|key| record.has(key)) && ANSWERED.iter().any(|key| record.has(key)) {
        if !source.text()?.has_chat_template() {
            return wrong(BY_TEMPLATE);
        }
        ("instruction and output", record.question()?, record.first_side(&ANSWERED)?)
    } else if record.0.get("text").is_some_and(Value::is_string) {
        ("text", Some(Words::Plain(String::new())), record.side("text")?)
    } else if record.has("chosen") && record.has("rejected") {
        return wrong("is a preference, with chosen and rejected; train on it by dpo");
    } else {
        return record.unknown(EXAMPLES);
    };
    let (Some(prompt), Some(answer)) = (prompt, answer) else { return record.unknown(EXAMPLES) };
    if answer.is_empty() && record.0.get("label") != Some(&Value::Bool(false)) {
        return Ok((form, Found::Dropped(EMPTY)));
    }
    let ids = encode(&inputs, source, prompt, vec![answer])?;
    Ok((form, ids.map_or(Ok(Found::Dropped(NO_PROMPT)), |ids| usable(ids, source))?))
}

/// Reads a preference; also gives the name of its form.
pub(super) fn pair(mut record: Record, source: &ModelSource) -> Result<(&'static str, Found<Ids>)> {
    if ["prompt_ids", "chosen_ids", "rejected_ids"].iter().all(|key| record.has(key)) {
        let mut take = |key: &str| Ok::<Vec<u32>, Error>(record.take(key)?.unwrap_or_default());
        let (prompt, answers) = (take("prompt_ids")?, vec![take("chosen_ids")?, take("rejected_ids")?]);
        if answers[0].is_empty() {
            return Ok(("token ids", Found::Dropped(EMPTY_CHOSEN)));
        }
        return Ok(("token ids", apart(Ids { prompt, answers, context: Vec::new() }, source)?));
    }
    let inputs = record.inputs()?;
    if !record.has("chosen") || !record.has("rejected") {
        let single = ["messages", "completion", "response", "completion_ids"].iter().any(|key| record.has(key));
        return match single && !record.has("chosen") && !record.has("rejected") {
            true => wrong(format!("is a single answer; train on it by sft, or give preferences: {PAIRS}")),
            false => record.unknown(PAIRS),
        };
    }
    let (Some(chosen), Some(rejected)) = (record.side("chosen")?, record.side("rejected")?) else {
        return record.unknown(PAIRS);
    };
    let prompt = match record.side("prompt")? {
        Some(prompt) => Some(prompt),
        None => match record.question()? {
            Some(prompt) => Some(prompt),
            // Where a conversation stands beside both answers, it is what they answer.
            None if chosen.is_one_turn() && rejected.is_one_turn() => {
                record.first_side(&["conversations", "messages"])?
            }
            None => None,
        },
    };
    let form = match (&prompt, &chosen) {
        (Some(_), Words::Plain(_)) => "prompt, chosen and rejected",
        (Some(_), Words::Chat(_)) => "conversations with a prompt",
        (None, Words::Plain(_)) => "texts that begin with the prompt",
        (None, Words::Chat(_)) => "conversations that begin with the prompt",
    };
    if chosen.is_empty() {
        return Ok((form, Found::Dropped(EMPTY_CHOSEN)));
    }
    let (prompt, chosen, rejected) = split(prompt, chosen, rejected)?;
    if chosen.is_empty() {
        return Ok((form, Found::Dropped(EMPTY_CHOSEN)));
    }
    let ids = encode(&inputs, source, prompt, vec![chosen, rejected])?;
    Ok((form, ids.map_or(Ok(Found::Dropped(NO_PROMPT)), |ids| apart(ids, source))?))
}

const BY_TEMPLATE: &str = "has a question and an answer, which a chat template puts together, but the model has none; \
    give prompt and completion as they are to stand one after the other, or a model with a template";
const NO_PROMPT: &str = "without a prompt";
const EMPTY: &str = "with an empty answer";
const EMPTY_CHOSEN: &str = "with an empty chosen answer";

/// Tells prompt and answers apart, as TRL does.
fn split(prompt: Option<Words>, chosen: Words, rejected: Words) -> Result<(Words, Words, Words)> {
    Ok(match (prompt, chosen, rejected) {
        (None, Words::Plain(a), Words::Plain(b)) => {
            let at = common_start(&a, &b);
            (Words::Plain(a[..at].to_owned()), Words::Plain(a[at..].to_owned()), Words::Plain(b[at..].to_owned()))
        }
        (None, Words::Chat(a), Words::Chat(b)) => {
            let at = common_turns(&a, &b);
            (Words::Chat(a[..at].to_vec()), Words::Chat(a[at..].to_vec()), Words::Chat(b[at..].to_vec()))
        }
        // Some data sets repeat as a text what the conversations begin with.
        (Some(Words::Plain(text)), Words::Chat(a), Words::Chat(b)) => match common_turns(&a, &b) {
            0 => (Words::Chat(vec![Message::new("user", text)]), Words::Chat(a), Words::Chat(b)),
            at => (Words::Chat(a[..at].to_vec()), Words::Chat(a[at..].to_vec()), Words::Chat(b[at..].to_vec())),
        },
        (Some(Words::Chat(prompt)), Words::Chat(a), Words::Chat(b)) => {
            let repeated = |side: &[Message]| side.len() > prompt.len() && side.starts_with(&prompt);
            let at = if repeated(&a) && repeated(&b) { prompt.len() } else { 0 };
            (Words::Chat(prompt), Words::Chat(a[at..].to_vec()), Words::Chat(b[at..].to_vec()))
        }
        (Some(prompt), chosen, rejected) => (prompt, chosen, rejected),
        (None, ..) => return wrong("chosen and rejected are of different kinds"),
    })
}

/// How many bytes two texts share at their start: at least the last character belongs to the answers, and so does a
/// blank before the first difference.
fn common_start(a: &str, b: &str) -> usize {
    let mut last = 0;
    for ((at, x), y) in a.char_indices().zip(b.chars()) {
        last = at;
        if x != y {
            return if a[..at].ends_with(' ') { at - 1 } else { at };
        }
    }
    last
}

/// How many messages two conversations share at their start; at least the last one belongs to the answers.
fn common_turns(a: &[Message], b: &[Message]) -> usize {
    let shared = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    shared.min(a.len().min(b.len()).saturating_sub(1))
}

/// Token ids of a prompt and of the answers to it; `None` where a conversation has no prompt.
fn encode(inputs: &TemplateInputs, source: &ModelSource, prompt: Words, answers: Vec<Words>) -> Result<Option<Ids>> {
    let text = source.text()?;
    let plain = |side: &Words| matches!(side, Words::Plain(_));
    if plain(&prompt) && answers.iter().all(plain) {
        let texts = answers.iter().map(|side| if let Words::Plain(text) = side { text.as_str() } else { "" });
        let Words::Plain(prompt) = &prompt else { return Ok(None) };
        let end = text.eos().or(source.stop_ids.first().copied());
        return Ok(Some(text.encode_answers(prompt, &texts.collect::<Vec<_>>(), end)?.into()));
    }
    let prompt = prompt.into_messages("user");
    if prompt.is_empty() {
        return Ok(None);
    }
    let answers: Vec<Vec<Message>> = answers.into_iter().map(|side| side.into_messages("assistant")).collect();
    let answers: Vec<&[Message]> = answers.iter().map(Vec::as_slice).collect();
    Ok(Some(text.encode_replies(&prompt, &answers, inputs)?.into()))
}

/// Token ids of a conversation, of which the assistant's turns are learnt.
fn turns(messages: &[Message], inputs: &TemplateInputs, source: &ModelSource, rules: Rules) -> Result<Found<Ids>> {
    if messages.iter().all(|m| !m.is_learnt() || m.is_empty()) {
        return Ok(Found::Dropped("without an answer of the assistant"));
    }
    let mut turns = source.text()?.encode_turns(messages, inputs, rules.last_turn_only)?;
    let (Some(first), Some(last)) = (turns.learnt.first(), turns.learnt.last()) else {
        return Ok(Found::Dropped(NOTHING_LEFT));
    };
    // The first token is predicted by nothing.
    let (start, end) = (first.start.max(1), last.end);
    let gaps = turns.learnt.windows(2).filter(|pair| pair[0].end < pair[1].start);
    let context = gaps.map(|pair| pair[0].end - start..pair[1].start - start).collect();
    turns.ids.truncate(end);
    let completion = turns.ids.split_off(start.min(end));
    usable(Ids { prompt: turns.ids, answers: vec![completion], context }, source)
}

const NOTHING_LEFT: &str = "with nothing left after the prompt";

/// Checks that every id is in the vocabulary and that something is left to learn.
fn usable(ids: Ids, source: &ModelSource) -> Result<Found<Ids>> {
    let vocabulary = source.arch.vocab_size;
    if let Some(id) = ids.prompt.iter().chain(ids.answers.iter().flatten()).find(|id| **id as usize >= vocabulary) {
        return wrong(format!("token {id} is outside the model's {vocabulary} tokens"));
    }
    Ok(match (ids.prompt.is_empty(), ids.answers.iter().any(Vec::is_empty)) {
        (true, _) => Found::Dropped(NO_PROMPT),
        (_, true) => Found::Dropped(NOTHING_LEFT),
        _ => Found::Kept(ids),
    })
}

/// Checks, beside [`usable`], that the two answers differ.
fn apart(ids: Ids, source: &ModelSource) -> Result<Found<Ids>> {
    Ok(match usable(ids, source)? {
        Found::Kept(ids) if ids.answers[0] == ids.answers[1] => Found::Dropped("with equal answers"),
        found => found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_implicit_prompt_ends_before_the_first_difference() {
        for (a, b, want) in [
            ("The sky is blue", "The sky is green", "The sky is"),
            ("ab", "ab", "a"),
            ("Apple", "Apple pie", "Appl"),
            ("äb", "äc", "ä"),
            ("x", "y", ""),
            ("", "y", ""),
        ] {
            assert_eq!(&a[..common_start(a, b)], want);
        }
        let say = |words: &[&str]| words.iter().map(|w| Message::new("user", *w)).collect::<Vec<_>>();
        for (a, b, want) in [
            (say(&["q", "a"]), say(&["q", "b"]), 1),
            (say(&["q", "a"]), say(&["q", "a"]), 1),
            (say(&["q"]), say(&["q", "b"]), 0),
            (vec![], say(&["q"]), 0),
        ] {
            assert_eq!(common_turns(&a, &b), want);
        }
    }
}
