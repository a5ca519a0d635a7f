//! Verdicts to be learnt, made from ranked answers without scores: a model writes them, and those are kept whose scores
//! order the answers as people did (the paper's EFT data).

use super::{Lesson, Question, lesson};
use crate::generate::Engine;
use crate::judge::{Item, Judge, Mode, ModelJudge, ModelJudgeSettings, Templates};
use crate::rng::record_id;
use crate::text::Language;
use crate::{Observer, Result};
use serde::{Deserialize, Serialize};

/// Questions that are judged between two looks at whether to stop.
pub const WAVE: usize = 16;

/// The verdicts that a model wrote, and how many questions they came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// One lesson for each answer of the questions whose order was met.
    pub lessons: Vec<Lesson>,
    /// How many questions have answers of at least two ranks.
    pub questions: usize,
    /// How many of these questions the model judged in the order of the ranks.
    pub agreed: usize,
    /// How many of these questions have an answer whose verdicts gave no score.
    pub unscored: usize,
}

impl Written {
    /// Adds what was written of further questions.
    pub fn extend(&mut self, more: Written) {
        self.lessons.extend(more.lessons);
        self.questions += more.questions;
        self.agreed += more.agreed;
        self.unscored += more.unscored;
    }
}

/// Lets the engine's model judge every answer of the questions that have several ranks, with the additive prompt and
/// sampled verdicts. A question is kept if each answer's mean score is above that of every answer ranked below it. Of
/// an answer's verdicts the one nearest to the mean is to be learnt, up to its score.
///
/// # Errors
/// Errors of the engine; `Stopped` when the observer asks for it.
pub fn write(
    engine: &mut dyn Engine,
    language: &dyn Language,
    templates: &Templates,
    settings: &ModelJudgeSettings,
    questions: &[Question],
    observer: &dyn Observer,
) -> Result<Written> {
    let judge = ModelJudge { mode: Mode::Sampled, language, templates: templates.clone(), settings: settings.clone() };
    let ranked: Vec<&Question> = questions.iter().filter(|q| q.answers.iter().any(|a| a.rank > 0)).collect();
    let mut written = Written { questions: ranked.len(), ..Written::default() };
    for wave in ranked.chunks(WAVE) {
        if observer.stop_requested() {
            return Err(crate::Error::Stopped);
        }
        let mut items = Vec::new();
        for q in wave {
            let ids = language.ask(&q.prompt)?;
            for (k, a) in q.answers.iter().enumerate() {
                items.push(Item::new(record_id(0, "eft", &ids, k as u32), &q.prompt, &a.text));
            }
        }
        let mut verdicts = judge.judge(engine, &items, observer)?.into_iter();
        for q in wave {
            let mine: Vec<_> = verdicts.by_ref().take(q.answers.len()).collect();
            let Some(scores) = mine.iter().map(|v| v.score).collect::<Option<Vec<f64>>>() else {
                written.unscored += 1;
                continue;
            };
            if !ordered(q, &scores) {
                continue;
            }
            written.agreed += 1;
            for ((a, v), mean) in q.answers.iter().zip(&mine).zip(&scores) {
                let parsed = v.texts.iter().filter_map(|t| Some((t, judge.reading(t)?)));
                let nearest = parsed.min_by(|a, b| (a.1.value - mean).abs().total_cmp(&(b.1.value - mean).abs()));
                if let Some((text, reading)) = nearest {
                    let why = justification(&text[reading.reasons]);
                    written.lessons.push(lesson(&templates.additive, q, a, why, reading.value)?);
                }
            }
        }
    }
    Ok(written)
}

/// Whether the scores fall from rank to rank.
fn ordered(q: &Question, scores: &[f64]) -> bool {
    let scored = || q.answers.iter().zip(scores);
    scored().all(|(a, x)| scored().filter(|(b, _)| b.rank > a.rank).all(|(_, y)| x > y))
}

/// The text before a score, without the marks of emphasis that belong to the score.
fn justification(reasons: &str) -> Option<&str> {
    let why = reasons.trim_end_matches(|c: char| c.is_whitespace() || "*_#`".contains(c)).trim_start();
    Some(why).filter(|why| !why.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::data::import::RankedAnswer;
    use crate::generate::{Output, Request, Settings};
    use crate::judge::Template;
    use crate::model::score::Branch;
    use crate::world::text::WorldText;

    /// An engine that writes these verdicts, whatever it is asked.
    struct Script(Vec<&'static str>);

    impl Engine for Script {
        fn generate(&mut self, requests: &[Request], _: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
            let mut write = |_: &u64| {
                let tokens = [WorldText.encode(self.0.remove(0)).unwrap(), vec![2]].concat();
                Output { tokens, stopped: true, choice_p: vec![] }
            };
            Ok(requests.iter().map(|r| r.samples.iter().map(&mut write).collect()).collect())
        }

        fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
            unreachable!("sampled verdicts need no log-probs")
        }
    }

    #[test]
    fn questions_are_kept_where_the_verdicts_agree_with_the_ranks() {
        let template = Template { text: "{{ question }}: {{ answer }}".into(), raw: true };
        let templates = Templates { additive: template, ..Templates::default() };
        let settings = ModelJudgeSettings { samples: 2, retries: 0, max_new_tokens: 30, ..Default::default() };
        let mut engine = Script(vec![
            "Good. Score: 5",
            "Fine. Score: 3",
            "Poor. Score: 1",
            "Bad. Score: 2", // means 4 and 1.5, as ranked
            "Score: 1",
            "Score: 1",
            "Score: 3",
            "Score: 3", // the other way round
            "Score: 4",
            "Score: 4",
            "nothing",
            "nothing", // no score
        ]);
        let questions = [question(&[0, 1]), question(&[0, 1]), question(&[0]), question(&[0, 1])];
        let written = write(&mut engine, &WorldText, &templates, &settings, &questions, &Silent).unwrap();
        assert_eq!((written.questions, written.agreed, written.unscored), (3, 1, 1));
        let learnt = |l: &Lesson| (l.record.messages[0].content.clone(), l.record.messages[1].content.clone());
        assert_eq!(
            written.lessons.iter().map(learnt).collect::<Vec<_>>(),
            [("q: r0".into(), "Good.\nScore: 5".into()), ("q: r1".into(), "Poor.\nScore: 1".into())]
        );
    }

    fn question(ranks: &[usize]) -> Question {
        let answer = |rank: &usize| RankedAnswer { text: format!("r{rank}"), rank: *rank, score: None, verdict: None };
        Question { prompt: "q".into(), answers: ranks.iter().map(answer).collect() }
    }

    #[test]
    fn only_a_strict_order_agrees() {
        for (ranks, scores, want) in [
            (&[0, 1, 2][..], &[4.0, 3.0, 1.0][..], true),
            (&[0, 1, 2], &[4.0, 3.0, 3.0], false),
            (&[0, 1, 1], &[4.0, 1.0, 3.0], true),
            (&[0, 1], &[2.0, 4.0], false),
        ] {
            assert_eq!(ordered(&question(ranks), scores), want, "{ranks:?} {scores:?}");
        }
    }

    #[test]
    fn a_justification_ends_before_the_score() {
        let judge = ModelJudge {
            mode: Mode::Sampled,
            language: &WorldText,
            templates: Templates::default(),
            settings: ModelJudgeSettings::default(),
        };
        for (verdict, why) in [
            ("It is good.\n**Score: 4**", Some("It is good.")),
            ("Scores high. Score: 3", Some("Scores high.")),
            ("Score: 3", None),
            ("<think>Score: 1?</think>\nIt is good.\n### Score\n4\nUser: Score: 2", Some("It is good.")),
            ("Good.\nScore: 4\nA perfect score: 5 needs sources.", Some("Good.")),
        ] {
            let reading = judge.reading(verdict).unwrap();
            assert_eq!(justification(&verdict[reading.reasons]), why, "{verdict:?}");
        }
    }
}
