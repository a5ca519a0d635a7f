//! How well a judge agrees with reference scores: the paper's five reward-model metrics.

use super::metrics;
use super::signals::Signal;
use crate::data::answers::read_records;
use crate::judge::Checks;
use crate::text::{Message, Prompt};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How one way of judging did on a set of responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// How the scores were read: the judge mode's name.
    pub mode: String,
    /// How many responses have a score.
    pub scored: usize,
    /// How many responses have none.
    pub unscored: usize,
    /// Mean of the scores.
    pub mean: f64,
    /// Agreement with the reference scores, where the set has them.
    #[serde(flatten)]
    pub against: Option<Against>,
}

/// Agreement with reference scores; each measure is null where the set cannot tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Of each prompt's pairs that the reference orders, the fraction that the judge orders alike (a tie counts half),
    /// averaged over the prompts.
    pub pairwise: Option<f64>,
    /// Of the responses scored 5, the fraction that the reference ranks best of their prompt.
    pub five_best: Option<f64>,
    /// Fraction of the prompts whose whole ranking is the reference's.
    pub exact: Option<f64>,
    /// Spearman's correlation with the reference over all responses.
    pub spearman: Option<f64>,
    /// Kendall's tau-b with the reference over all responses.
    pub kendall: Option<f64>,
    /// Spearman's correlation within a prompt, averaged over the prompts that have one. Ranks, which mean nothing
    /// across prompts, can be compared by this.
    pub spearman_within: Option<f64>,
    /// Kendall's tau-b within a prompt, averaged over the prompts that have one.
    pub kendall_within: Option<f64>,
}

/// A response with its score in the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The question that was asked.
    pub prompt: String,
    /// The response that was given.
    pub response: String,
    /// The reference's score; higher is better.
    pub score: f64,
    /// Whether the model that gave the response ended it itself; `None` where the file does not say.
    pub ended: Option<bool>,
}

/// A line of a ranked file, in any form that is understood.
#[derive(Deserialize)]
struct RankedLine {
    #[serde(flatten)]
    prompt: Prompt,
    #[serde(alias = "text", alias = "output")]
    response: Option<String>,
    score_reference: Option<f64>,
    rank: Option<f64>,
    stopped: Option<bool>,
    #[serde(flatten)]
    checks: Checks,
    #[serde(alias = "answers")]
    responses: Option<Vec<String>>,
    scores: Option<Vec<f64>>,
    ranks: Option<Vec<f64>>,
    /// A preference; either side may be a list (RewardBench).
    chosen: Option<OneOrMore>,
    rejected: Option<OneOrMore>,
}

/// A response or several ones, each a text or a conversation that ends with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    Chat(Vec<Message>),
    More(Vec<String>),
}

impl OneOrMore {
    fn texts(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Chat(messages) => messages.into_iter().next_back().map(|m| m.content).into_iter().collect(),
            Self::More(texts) => texts,
        }
    }
}

/// The worth of a response by what its record says about right ones: the share that it keeps to, none where it was cut.
/// `None` where the record says nothing.
fn checked(
    checks: &Checks,
    (prompt, response): (&str, &str),
    stopped: Option<bool>,
) -> std::result::Result<Option<f64>, String> {
    let signal = match checks {
        Checks { instruction_id_list: Some(_), .. } => Signal::Rules,
        Checks { answer: None, pattern: None, .. } => return Ok(None),
        _ => Signal::Key,
    };
    let checker = signal.checker(prompt, checks)?;
    Ok(checker.map(|checker| if stopped == Some(false) { 0.0 } else { checker.check(response).share }))
}

/// Reads a ranked set that was held out, as JSONL or a JSON list. A record holds one response (`prompt`, `response`,
/// and `score_reference` or `rank`, where 0 is best, or what a program checks it by, as `generate` passes it on;
/// `stopped` may say whether the response ended) or all responses to a prompt (`prompt`, `responses`, and `scores` or
/// `ranks`; without these the best one comes first), or a preference (`prompt`, `chosen`, `rejected`, each one response
/// or a list).
///
/// # Errors
/// The file cannot be read or holds no record; a record has none of the forms, which the error names by number.
pub fn read_ranked(path: &Path) -> Result<Vec<Reference>> {
    let mut out = Vec::new();
    for (i, line) in read_records::<RankedLine>(path)?.into_iter().enumerate() {
        let wrong = |what: &str| Error::file(path, format!("record {}: {what}", i + 1));
        let prompt = line.prompt.question();
        if prompt.trim().is_empty() {
            return Err(wrong("the prompt is empty"));
        }
        let (responses, scores) = match (line.response, line.responses) {
            (None, None) if line.chosen.is_some() && line.rejected.is_some() => {
                let sides = [line.chosen, line.rejected].map(|side| side.map_or(Vec::new(), OneOrMore::texts));
                let score = |(side, score): (&Vec<String>, f64)| vec![score; side.len()];
                let scores = sides.iter().zip([1.0, 0.0]).flat_map(score).collect();
                (sides.concat(), scores)
            }
            (Some(response), None) => {
                let score = line.score_reference.or(line.rank.map(|r| -r));
                let checked = || checked(&line.checks, (&prompt, &response), line.stopped);
                let score = score.map_or_else(checked, |score| Ok(Some(score))).map_err(|what| wrong(&what))?;
                let what = "a response needs score_reference or rank (0 is best), or what a program checks it by";
                let score = score.ok_or_else(|| wrong(what))?;
                (vec![response], vec![score])
            }
            (None, Some(responses)) => {
                let down = |ranks: Vec<f64>| ranks.into_iter().map(|r| -r).collect();
                let listed = || (0..responses.len()).map(|i| -(i as f64)).collect();
                let scores: Vec<f64> = line.scores.or(line.ranks.map(down)).unwrap_or_else(listed);
                (responses, scores)
            }
            _ => return Err(wrong("expected response, a list of responses, or chosen and rejected")),
        };
        if responses.len() != scores.len() || scores.iter().any(|s| !s.is_finite()) {
            return Err(wrong("there must be one finite score or rank a response"));
        }
        let ended = line.stopped;
        let with = |(response, score)| Reference { prompt: prompt.clone(), response, score, ended };
        out.extend(responses.into_iter().zip(scores).map(with));
    }
    Ok(out)
}

/// Measures responses, each given as (prompt, reference score, judge's score).
pub fn agreement(mode: &str, scored: &[(&str, Option<f64>, Option<f64>)]) -> Agreement {
    let scores: Vec<f64> = scored.iter().filter_map(|s| s.2).collect();
    let mut groups: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for &(prompt, reference, own) in scored {
        if let (Some(reference), Some(own)) = (reference, own) {
            let group = groups.entry(prompt).or_default();
            group.0.push(reference);
            group.1.push(own);
        }
    }
    let groups: Vec<(Vec<f64>, Vec<f64>)> = groups.into_values().collect();
    let (truth, own) = (
        groups.iter().flat_map(|g| g.0.clone()).collect::<Vec<f64>>(),
        groups.iter().flat_map(|g| g.1.clone()).collect::<Vec<f64>>(),
    );
    // Answers to different questions are not compared with one another.
    let within = |f: fn(&[f64], &[f64]) -> Option<f64>| {
        let each: Vec<f64> = groups.iter().filter_map(|(t, p)| f(t, p)).collect();
        (!each.is_empty()).then(|| metrics::mean_se(&each).0)
    };
    Agreement {
        mode: mode.to_owned(),
        scored: scores.len(),
        unscored: scored.len() - scores.len(),
        mean: metrics::mean_se(&scores).0,
        against: (!groups.is_empty()).then(|| Against {
            pairwise: within(metrics::pairwise_accuracy),
            five_best: metrics::five_best(&groups),
            exact: metrics::exact_match(&groups),
            spearman: metrics::spearman(&truth, &own),
            kendall: metrics::kendall_tau_b(&truth, &own),
            spearman_within: within(metrics::spearman),
            kendall_within: within(metrics::kendall_tau_b),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
    }

    #[test]
    fn the_five_metrics_of_two_prompts() {
        let first = [(3.0, Some(4.5)), (2.0, Some(3.0)), (1.0, Some(3.0)), (0.0, Some(1.0))];
        let second = [(2.0, Some(5.0)), (1.0, Some(5.0)), (0.0, Some(0.5)), (0.0, None)];
        let scored: Vec<(&str, Option<f64>, Option<f64>)> = first
            .iter()
            .map(|&(t, s)| ("p", Some(t), s))
            .chain(second.iter().map(|&(t, s)| ("q", Some(t), s)))
            .collect();
        let a = agreement("yes", &scored);
        assert_eq!((a.scored, a.unscored), (7, 1));
        let m = a.against.unwrap();
        // 5.5 of 6 and 2.5 of 3 pairs are right. Of the three responses at 4.5 or more two are best of their prompt. No
        // whole ranking is met.
        close(m.pairwise, (5.5 / 6.0 + 2.5 / 3.0) / 2.0);
        close(m.five_best, 2.0 / 3.0);
        assert_eq!(m.exact, Some(0.0));
        // By scipy 1.17's spearmanr and kendalltau of all seven.
        close(m.spearman, 0.654_234_179_774_051_7);
        close(m.kendall, 0.540_738_070_435_875_1);
        // By hand: 4.5/√(5 · 4.5) and 1.5/√(2 · 1.5); 5/√(6 · 5) and 2/√(3 · 2).
        close(m.spearman_within, (4.5 / 22.5f64.sqrt() + 1.5 / 3f64.sqrt()) / 2.0);
        close(m.kendall_within, (5.0 / 30f64.sqrt() + 2.0 / 6f64.sqrt()) / 2.0);
        assert_eq!(agreement("yes", &[("p", None, Some(1.0))]).against, None);
    }

    #[test]
    fn ranked_files_come_in_several_forms() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("ranked.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_ranked(&path)
        };
        let plain = |text: &str| -> Vec<(String, f64)> {
            read(text).unwrap().into_iter().map(|r| (r.response, r.score)).collect()
        };
        let both = vec![("good".to_owned(), 0.0), ("bad".to_owned(), -1.0)];
        for text in [
            r#"{"question": "q", "answers": ["good", "bad"]}"#,
            r#"{"prompt": "q", "responses": ["good", "bad"], "ranks": [0, 1]}"#,
            r#"{"prompt": [{"role": "user", "content": "q"}], "responses": ["good", "bad"], "scores": [0, -1]}"#,
            "{\"prompt\": \"q\", \"response\": \"good\", \"rank\": 0}\n\
             {\"prompt\": \"q\", \"response\": \"bad\", \"score_reference\": -1}",
            r#"[{"prompt": "q", "responses": ["good", "bad"]}]"#,
        ] {
            assert_eq!(plain(text), both, "{text}");
        }
        assert_eq!(
            read(r#"{"prompt": [{"role": "user", "content": "q"}], "responses": ["a"]}"#).unwrap()[0].prompt,
            "q"
        );
        // What rules or a key say; an answer that was cut is worth nothing.
        let rules = r#""instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]"#;
        let line = |prompt: &str, response: &str, more: &str| {
            format!("{{\"prompt\": \"{prompt}\", \"response\": \"{response}\", {more}}}\n")
        };
        let checked = [
            line("q", "no", &format!("{rules}, \"stopped\": true")),
            line("q", "yes, one", rules),
            line("q", "cut", &format!("{rules}, \"stopped\": false")),
            line("sum", "It is 12.", "\"answer\": \"12\""),
            line("sum", "It is 13.", "\"answer\": \"12\""),
        ];
        let read_back = read(&checked.concat()).unwrap();
        assert_eq!(read_back.iter().map(|r| r.score).collect::<Vec<_>>(), [1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(read_back.iter().map(|r| r.ended).collect::<Vec<_>>(), [Some(true), None, Some(false), None, None]);
        let unknown = line("q", "a", r#""instruction_id_list": ["none:such"], "kwargs": [{}]"#);
        for (text, word) in [
            (unknown.as_str(), "record 1"),
            ("", "no record"),
            (r#"{"prompt": "q", "response": "a"}"#, "record 1: a response needs"),
            (r#"{"prompt": "q"}"#, "list of responses"),
            (r#"{"prompt": "q", "responses": ["a"], "ranks": [1, 2]}"#, "one finite score"),
            (r#"{"prompt": " ", "responses": ["a"]}"#, "the prompt is empty"),
        ] {
            let e = read(text).unwrap_err().to_string();
            assert!(e.contains("ranked.jsonl") && e.contains(word), "{text}: {e}");
        }
    }
}
