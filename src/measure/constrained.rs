//! Prompts with constraints made without a model, of a list of instructions or topics: sets to train and to measure on.

use super::constraints::{self, ConstraintSection, Phrasings};
use super::held_out::{HeldOut, HeldOutSet, without_prompt};
use crate::judge::Checks;
use crate::rng::Stream;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

const OPENINGS: &str = include_str!("../../prompts/openings.json");

/// How often a prompt is drawn anew that is there already.
const ATTEMPTS: usize = 50;

/// A line of the list: an instruction, or what instructions are to be about.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Subject {
    /// The instruction.
    pub prompt: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
}

/// A prompt with constraints, in the form of IFEval's files.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConstrainedRecord {
    /// Its number, from 0.
    pub key: usize,
    /// The instruction with its constraints.
    pub prompt: String,
    /// By what answers are checked.
    #[serde(flatten)]
    pub checks: Checks,
    /// The instruction.
    pub base_prompt: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// Instructions with a place for a topic.
#[derive(Deserialize)]
struct Openings {
    train: Vec<String>,
    held_out: Vec<String>,
}

impl Openings {
    fn shipped() -> Result<Self> {
        serde_json::from_str(OPENINGS).map_err(|e| Error::Bug(format!("prompts/openings.json: {e}")))
    }
}

/// Instructions about topics, one for each opening of those for training and each topic. Those that follow one another
/// are about different topics.
///
/// # Errors
/// The embedded file is broken, which only a faulty build can cause.
pub fn about(topics: &[String]) -> Result<Vec<String>> {
    let openings = Openings::shipped()?.train;
    let at = |i: usize| &openings[i % openings.len()];
    let every = |shift| topics.iter().enumerate().map(move |(i, topic)| at(i + shift).replace("{topic}", topic.trim()));
    Ok((0..openings.len()).flat_map(every).collect())
}

/// The prompts, and how many constraints they have of each kind.
pub type Made = (Vec<ConstrainedRecord>, BTreeMap<&'static str, usize>);

/// Makes `count` different prompts of the subjects, each of which comes as often as the others, and each kind of
/// constraint, too. Those that an excluded prompt has, or whose topic it has, are left out.
///
/// # Errors
/// A subject has neither an instruction nor a topic, which the error names by its number; there are not so many
/// different prompts.
pub fn make(
    subjects: &[Subject],
    how: &ConstraintSection,
    count: usize,
    excluded: &[HeldOut],
    seed: u64,
) -> Result<Made> {
    let openings = Openings::shipped()?;
    let openings = match how.phrasings {
        Phrasings::Train => openings.train,
        Phrasings::HeldOut => openings.held_out,
    };
    let mut rng = Stream::new(seed, 0xC057);
    let mut excluded = HeldOutSet::new(excluded);
    let mut order = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        let words = subject.prompt.as_ref().or(subject.topic.as_ref()).map_or("", |text| text.trim());
        if words.is_empty() {
            return Err(Error::Input(without_prompt(at)));
        }
        if !excluded.contains(words, f64::INFINITY) {
            order.push(subject);
        }
    }
    if order.is_empty() {
        return Err(Error::Input("every record is excluded".into()));
    }
    rng.shuffle(&mut order);
    let (mut seen, mut uses, mut records) = (HashSet::new(), BTreeMap::new(), Vec::with_capacity(count));
    for (key, subject) in order.iter().cycle().take(count).enumerate() {
        let mut made = None;
        for _ in 0..ATTEMPTS {
            let base = match (&subject.prompt, &subject.topic) {
                (Some(prompt), _) => prompt.trim().to_owned(),
                (None, topic) => {
                    let opening = rng.choose(&openings).cloned().unwrap_or_default();
                    opening.replace("{topic}", topic.as_deref().unwrap_or_default().trim())
                }
            };
            let mut counted = uses.clone();
            let drawn = constraints::draw(&base, how, &mut counted, &mut rng)?;
            let prompt = constraints::prompt(&base, &drawn);
            if !excluded.contains(&prompt, f64::INFINITY) && seen.insert(prompt.clone()) {
                uses = counted;
                made = Some((prompt, constraints::checks(&drawn), base));
                break;
            }
        }
        let Some((prompt, checks, base_prompt)) = made else {
            let what = format!("only {key} of {count} prompts differ: ask for fewer, or name more topics or kinds");
            return Err(Error::Input(what));
        };
        records.push(ConstrainedRecord { key, prompt, checks, base_prompt, topic: subject.topic.clone() });
    }
    Ok((records, uses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(list: &[&str]) -> Vec<Subject> {
        list.iter().map(|topic| Subject { prompt: None, topic: Some(topic.to_string()) }).collect()
    }

    #[test]
    fn subjects_and_kinds_come_alike_and_no_words_are_shared() {
        let how = ConstraintSection::default().most(1);
        let held = how.clone().phrasings(Phrasings::HeldOut);
        let (list, uses) = make(&topics(&["tea", "a kite", "snow"]), &how, 69, &[], 1).unwrap();
        let (other, _) = make(&topics(&["rain", "a tent"]), &held, 46, &[], 1).unwrap();
        assert!(uses.len() == 23 && uses.values().all(|n| *n == 3), "{uses:?}");
        for topic in ["tea", "a kite", "snow"] {
            let of = list.iter().filter(|r| r.topic.as_deref() == Some(topic));
            assert!(of.clone().count() == 23 && of.clone().all(|r| r.base_prompt.contains(topic)));
            assert!(of.map(|r| &r.prompt).all(|p| p.starts_with(char::is_uppercase)));
        }
        let words = |list: &[ConstrainedRecord]| -> HashSet<String> {
            list.iter().map(|r| r.prompt[r.base_prompt.len()..].trim().to_owned()).collect()
        };
        assert!(words(&list).is_disjoint(&words(&other)));
        assert_eq!(make(&topics(&["tea", "a kite", "snow"]), &how, 69, &[], 1).unwrap().0, list);
        assert_ne!(make(&topics(&["tea", "a kite", "snow"]), &how, 69, &[], 2).unwrap().0, list);
        // What is excluded is not made again.
        let excluded: Vec<HeldOut> = other
            .iter()
            .map(|r| HeldOut { prompt: r.prompt.clone(), base_prompt: None, topic: r.topic.clone() })
            .collect();
        let (rest, _) = make(&topics(&["rain", "snow", "The tent"]), &how, 10, &excluded, 1).unwrap();
        assert!(rest.iter().all(|r| r.topic.as_deref() == Some("snow")));
    }

    #[test]
    fn topics_stand_for_an_instruction_with_each_opening() {
        let all = about(&["tea".into(), "a kite".into()]).unwrap();
        assert_eq!(all[..3], ["Write about tea.", "Describe a kite.", "Describe tea."]);
        assert!(all.len() == 12 && all.iter().collect::<HashSet<_>>().len() == 12);
    }

    #[test]
    fn shipped_topics_are_apart() {
        let read = |name: &str| -> Vec<Subject> {
            let path =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/constraints/{name}.jsonl"));
            crate::json::read_jsonl(&path).unwrap()
        };
        let lists = ["train", "dev", "final"].map(read);
        for (i, list) in lists.iter().enumerate() {
            let held: Vec<HeldOut> = list
                .iter()
                .map(|s| HeldOut { prompt: String::new(), base_prompt: None, topic: s.topic.clone() })
                .collect();
            let mut set = HeldOutSet::new(&held);
            for topic in lists.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, l)| l) {
                let topic = topic.topic.as_deref().unwrap();
                assert!(!set.contains(topic, f64::INFINITY), "{topic}");
            }
        }
        assert!(lists[0].len() >= 80 && lists[1].len() == 40 && lists[2].len() == 40);
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let how = ConstraintSection::default().most(1).kinds(vec!["punctuation:no_comma".into()]);
        let error = |subjects: &[Subject], count| make(subjects, &how, count, &[], 0).unwrap_err().to_string();
        let instruction = Subject { prompt: Some("Describe tea.".into()), topic: None };
        assert!(error(std::slice::from_ref(&instruction), 5).contains("only 4 of 5 prompts differ"));
        assert!(error(&[Subject { prompt: None, topic: Some(" ".into()) }], 1).contains("record 1"));
        assert_eq!(make(&[instruction], &how, 4, &[], 0).unwrap().0[0].base_prompt, "Describe tea.");
    }
}
