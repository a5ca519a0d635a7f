//! Answers to a list of prompts: asked of a model or read from files, and written in the form that AlpacaEval reads.

use crate::generate::ChatLanguage;
use crate::generate::Engine;
use crate::generate::{Output, Request, Settings};
use crate::json::{read_jsonl, read_jsonl_or_texts, write_json};
use crate::judge::Checks;
use crate::rng::record_id;
use crate::text::{Language, Message, Prompt};
use crate::{Error, Observer, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// An answer and its length in tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The words of the answer.
    pub text: String,
    /// How many tokens were generated, the end token included; `None` where that is not known.
    pub tokens: Option<usize>,
}

/// A line of a file of prompts.
#[derive(Clone, Debug, Deserialize)]
pub struct AskedRecord {
    /// The prompt that is asked.
    #[serde(flatten)]
    pub prompt: Prompt,
    /// What its record says about right answers.
    #[serde(flatten)]
    pub checks: Checks,
}

/// A line of a prompt file or of an answer file, in any form that is understood.
#[derive(Deserialize)]
struct AnswerLine {
    #[serde(flatten)]
    prompt: Prompt,
    response: Option<String>,
    tokens: Option<usize>,
    /// Several answers to one prompt, as the small world's evaluation files have them.
    answers: Option<Vec<String>>,
}

/// The fields in which a record may hold an answer.
const ANSWERS: [&str; 4] = ["response", "output", "completion", "text"];

/// A record with its answer as the text `response`, whichever field it stands in: those of AlpacaEval and of TRL, or
/// the last of `messages`. Without an answer the record stays as it is.
///
/// # Errors
/// The answer is neither a text nor one message.
pub fn with_response(mut record: Map<String, Value>) -> Result<Map<String, Value>> {
    let has = |key: &&&str| record.get(**key).is_some_and(|value| !value.is_null());
    let wrong = |key: &str, what: String| Error::Input(format!("{key}: {what}"));
    let said = |key: &str, value: &Value| -> Result<Option<String>> {
        match value {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Array(_) | Value::Object(_) => {
                let list = if value.is_array() { value.clone() } else { Value::Array(vec![value.clone()]) };
                let messages: Vec<Message> = serde_json::from_value(list).map_err(|e| wrong(key, e.to_string()))?;
                let answers = ["messages", "conversations"].contains(&key) || messages.len() == 1;
                let last = messages.last().filter(|last| answers && last.role == "assistant");
                Ok(last.map(|last| last.content.clone()))
            }
            other => Err(wrong(key, format!("{other} is no text"))),
        }
    };
    let key = ANSWERS.iter().chain(&["messages", "conversations"]).find(has);
    let answer = key.map(|key| said(key, &record[*key])).transpose()?.flatten();
    if let Some(answer) = answer {
        record.insert("response".into(), answer.into());
    }
    Ok(record)
}

/// The answers of one model or one file to some prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerSet {
    /// Who gave the answers: a model's or a file's name.
    pub name: String,
    /// The answers, indexed by `[prompt][sample]`.
    pub answers: Vec<Vec<Answer>>,
}

/// Reads records from a JSON list, or, if the file does not begin with `[`, one record from each line.
///
/// # Errors
/// The file cannot be read, has another form, or holds no record.
pub fn read_records<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    some(path, read_jsonl(path)?)
}

/// Refuses a file without records.
fn some<T>(path: &Path, records: Vec<T>) -> Result<Vec<T>> {
    match records.is_empty() {
        true => Err(Error::file(path, "holds no record")),
        false => Ok(records),
    }
}

/// Reads the prompts of a file: records with `prompt` (a text or a list of messages) or `instruction`, or a JSON list
/// of texts. A prompt that occurs again is left out.
///
/// # Errors
/// As [`read_records`]; a prompt is empty, which the error names by its number.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    Ok(read_asked(path)?.into_iter().map(|record| record.prompt).collect())
}

/// Reads the prompts of a file with what their records say beside them.
///
/// # Errors
/// As [`read_prompts`].
pub fn read_asked(path: &Path) -> Result<Vec<AskedRecord>> {
    let mut out: Vec<AskedRecord> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let records: Vec<AskedRecord> = some(path, read_jsonl_or_texts(path, "prompt")?)?;
    for (i, line) in records.into_iter().enumerate() {
        if line.prompt.is_empty() {
            return Err(Error::file(path, format!("prompt {} is empty", i + 1)));
        }
        if seen.insert(line.prompt.clone()) {
            out.push(line);
        }
    }
    Ok(out)
}

/// Reads the answers of a file to `prompts`, in the order of the prompts: lines of `generate --out`, or an AlpacaEval
/// list (`instruction`, `output`). Answers to other prompts are left out.
///
/// # Errors
/// As [`read_records`]; a record has no answer; a prompt has no answer.
pub fn read_answers(path: &Path, prompts: &[Prompt]) -> Result<AnswerSet> {
    let mut found: HashMap<String, Vec<Answer>> = HashMap::new();
    for (i, record) in read_records::<Map<String, Value>>(path)?.into_iter().enumerate() {
        let at = |what: String| Error::file(path, format!("record {}: {what}", i + 1));
        let record = with_response(record).map_err(|error| at(error.to_string()))?;
        let line: AnswerLine = serde_json::from_value(record.into()).map_err(|error| at(error.to_string()))?;
        let answers = match (line.response, line.answers) {
            (Some(text), _) => vec![Answer { text, tokens: line.tokens }],
            (None, Some(texts)) => texts.into_iter().map(|text| Answer { text, tokens: None }).collect(),
            (None, None) => return Err(Error::file(path, format!("record {}: has no response or output", i + 1))),
        };
        // AlpacaEval's files hold questions, not conversations.
        found.entry(line.prompt.question()).or_default().extend(answers);
    }
    let mut answers = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let question = prompt.question();
        match found.get(&question) {
            Some(list) if !list.is_empty() => answers.push(list.clone()),
            _ => {
                let begin: String = question.chars().take(60).collect();
                return Err(Error::file(path, format!("holds no answer to the prompt that begins {begin:?}")));
            }
        }
    }
    Ok(AnswerSet { name: path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()), answers })
}

/// Asks for `n` answers to each prompt, indexed by `[prompt][sample]`. A sample's random numbers are keyed by the
/// prompt's ids and its number, so that two models that are asked the same can be compared pair by pair.
///
/// # Errors
/// Errors of the engine.
pub fn ask(
    engine: &mut dyn Engine,
    prompts: &[Vec<u32>],
    n: u32,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<Vec<Vec<Output>>> {
    let request = |prompt: &Vec<u32>| Request {
        prompt: prompt.clone(),
        samples: (0..n).map(|k| record_id(0, "evaluation", prompt, k)).collect(),
    };
    engine.generate(&prompts.iter().map(request).collect::<Vec<_>>(), settings, observer)
}

/// Asks a model for its own answers.
///
/// # Errors
/// A text cannot be encoded; errors of the engine.
pub fn answer_all(
    engine: &mut dyn Engine,
    language: &ChatLanguage,
    name: &str,
    prompts: &[Prompt],
    n: u32,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<AnswerSet> {
    let ids = prompts.iter().map(|p| language.ask_prompt(p)).collect::<Result<Vec<_>>>()?;
    let read = |output: &Output| {
        Ok(Answer { text: language.decode(&output.tokens)?.trim().to_owned(), tokens: Some(output.tokens.len()) })
    };
    let outputs = ask(engine, &ids, n, settings, observer)?;
    let answers = outputs.iter().map(|samples| samples.iter().map(read).collect()).collect::<Result<_>>()?;
    Ok(AnswerSet { name: name.to_owned(), answers })
}

/// One entry of AlpacaEval's output files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlpacaRecord {
    /// The question that was asked.
    pub instruction: String,
    /// The answer that was given.
    pub output: String,
    /// The model that gave the answer.
    pub generator: String,
    /// The data set from which the question is.
    pub dataset: String,
}

/// Writes the first answer to each prompt in the form that `alpaca_eval --model_outputs` (or `--reference_outputs`)
/// reads.
///
/// # Errors
/// The file cannot be written.
pub fn write_alpaca(path: &Path, prompts: &[Prompt], set: &AnswerSet, dataset: &str) -> Result<()> {
    let record = |(prompt, answers): (&Prompt, &Vec<Answer>)| {
        Some(AlpacaRecord {
            instruction: prompt.question(),
            output: answers.first()?.text.clone(),
            generator: set.name.clone(),
            dataset: dataset.to_owned(),
        })
    };
    write_json(path, &prompts.iter().zip(&set.answers).filter_map(record).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_may_stand_in_any_of_its_fields() {
        let (user, answer) = (json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "a"}));
        let read = |record: Value| {
            let record = with_response(serde_json::from_value(record).unwrap())?;
            Ok::<_, Error>(record.get("response").and_then(Value::as_str).map(str::to_owned))
        };
        for (record, want) in [
            (json!({"response": "a", "text": "b"}), Some("a")),
            (json!({"instruction": "q", "output": "a"}), Some("a")),
            (json!({"response": null, "completion": [answer]}), Some("a")),
            (json!({"completion": answer}), Some("a")),
            (json!({"messages": [user, answer]}), Some("a")),
            (json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}), Some("a")),
            (json!({"messages": [user, answer, user]}), None),
            (json!({"completion": [answer, user, answer]}), None),
            (json!({"prompt": "q"}), None),
        ] {
            assert_eq!(read(record.clone()).unwrap().as_deref(), want, "{record}");
        }
        assert!(read(json!({"response": 3})).unwrap_err().to_string().contains("response: 3 is no text"));
    }

    #[test]
    fn answers_find_their_prompts_in_every_form() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = tmp.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let chat = r#"[{"role": "user", "content": "two"}]"#;
        let prompts =
            write("p.jsonl", &format!("{{\"prompt\": \"one\"}}\n{{\"prompt\": {chat}}}\n{{\"prompt\": \"one\"}}\n"));
        let prompts = read_prompts(&prompts).unwrap();
        assert_eq!(prompts.iter().map(Prompt::question).collect::<Vec<_>>(), ["one", "two"]);
        let lines = format!(
            "{{\"prompt\": {chat}, \"response\": \"2\", \"tokens\": 3}}\n{{\"prompt\": \"one\", \"response\": \"1\"}}\n\
             {{\"prompt\": \"one\", \"response\": \"I\"}}\n{{\"prompt\": \"other\", \"response\": \"\"}}\n"
        );
        let set = read_answers(&write("a.jsonl", &lines), &prompts).unwrap();
        let texts: Vec<Vec<&str>> = set.answers.iter().map(|s| s.iter().map(|a| a.text.as_str()).collect()).collect();
        assert_eq!((set.name.as_str(), texts), ("a", vec![vec!["1", "I"], vec!["2"]]));
        assert_eq!(set.answers[1][0].tokens, Some(3));

        let alpaca = tmp.path().join("model_outputs.json");
        write_alpaca(&alpaca, &prompts, &set, "mine").unwrap();
        let read: Vec<AlpacaRecord> = read_records(&alpaca).unwrap();
        assert_eq!(
            (read[0].generator.as_str(), read[0].output.as_str(), read[1].instruction.as_str()),
            ("a", "1", "two")
        );
        assert_eq!(read_answers(&alpaca, &prompts).unwrap().answers[1][0].text, "2");
        assert_eq!(read_prompts(&alpaca).unwrap().len(), 2);

        let world = write("M1.jsonl", r#"{"prompt": "one", "gold": "1", "answers": ["1", "2"], "truth": [5, 0]}"#);
        assert_eq!(read_answers(&world, &prompts[..1]).unwrap().answers[0].len(), 2);
        for (text, word) in [
            ("", "no record"),
            ("[]", "no record"),
            (r#"{"prompt": "one"}"#, "record 1: has no response"),
            (r#"{"prompt": "one", "response": "1"}"#, "begins \"two\""),
            ("[{\"prompt\"", "EOF"),
        ] {
            let e = read_answers(&write("bad.json", text), &prompts).unwrap_err().to_string();
            assert!(e.contains("bad.json") && e.contains(word), "{text}: {e}");
        }
        let e = read_prompts(&write("empty.jsonl", r#"{"prompt": ""}"#)).unwrap_err().to_string();
        assert!(e.contains("prompt 1 is empty"), "{e}");
    }
}
