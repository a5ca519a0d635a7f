//! Every mode against a scripted engine and a language of single letters.

use super::*;
use crate::generate::Language;
use crate::generate::{Output, Request, Settings};
use crate::model::score::Branch;
use crate::{Error, Silent};
use std::cell::RefCell;

/// A language in which each character is a token; `Yes`, `No` and their spellings are one token each, and id 0 ends an
/// answer.
struct Letters {
    context: usize,
}

const WORDS: [&str; 6] = ["Yes", "No", "yes", "no", " Yes", " No"];

impl Language for Letters {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(word) = WORDS.iter().position(|w| *w == text) {
            return Ok(vec![1000 + word as u32]);
        }
        Ok(text.chars().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(ids.iter().filter_map(|&id| char::from_u32(id)).collect())
    }

    fn ask(&self, message: &str) -> Result<Vec<u32>> {
        self.encode(&format!("{message}\n>"))
    }

    fn raw(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text)
    }

    fn stop(&self) -> &[u32] {
        &[0]
    }

    fn context(&self) -> usize {
        self.context
    }
}

type Write<'a> = dyn Fn(&str, u64, &Settings) -> Output + 'a;
type Score = dyn Fn(&str, &[u32]) -> Vec<f32>;

/// An engine that writes and scores as the closures say, and remembers how many samples and branches it was asked for.
struct Played<'a> {
    write: &'a Write<'a>,
    score: &'a Score,
    asked: RefCell<Vec<usize>>,
}

impl Engine for Played<'_> {
    fn generate(&mut self, requests: &[Request], settings: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
        self.asked.borrow_mut().push(requests.iter().map(|r| r.samples.len()).sum());
        let text = |ids: &[u32]| Letters { context: 0 }.decode(ids).unwrap();
        let answers = |r: &Request| r.samples.iter().map(|&id| (self.write)(&text(&r.prompt), id, settings)).collect();
        Ok(requests.iter().map(answers).collect())
    }

    fn logps(&mut self, branches: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
        self.asked.borrow_mut().push(branches.len());
        let text = |ids: &[u32]| Letters { context: 0 }.decode(ids).unwrap();
        Ok(branches.iter().map(|b| b.completions.iter().map(|c| (self.score)(&text(&b.prompt), c)).collect()).collect())
    }
}

fn judged(mode: Mode, write: &Write<'_>, score: &Score, context: usize) -> (Result<Vec<Verdict>>, Vec<usize>) {
    let language = Letters { context };
    let judge = ModelJudge {
        mode,
        language: &language,
        templates: Templates::default(),
        settings: ModelJudgeSettings { samples: 3, retries: 1, ..ModelJudgeSettings::default() },
    };
    let items = [Item::new(1, "Why is it good?", "good"), Item::new(2, "Why is it bad?", "bad")];
    let mut engine = Played { write, score, asked: RefCell::default() };
    let verdicts = judge.judge(&mut engine, &items, &Silent);
    (verdicts, engine.asked.into_inner())
}

/// Letters whose template knows thoughts.
struct Thinking(Letters);

impl Language for Thinking {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match text.split_once("</think>") {
            Some((before, after)) => Ok([self.encode(before)?, vec![2000], self.encode(after)?].concat()),
            None => self.0.encode(text),
        }
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0.decode(&ids.iter().copied().filter(|id| *id != 2000).collect::<Vec<_>>())
    }

    fn ask(&self, message: &str) -> Result<Vec<u32>> {
        self.0.ask(message)
    }

    fn ask_to_think(&self, message: &str) -> Result<Option<Vec<u32>>> {
        self.encode(&format!("{message}\n>")).map(Some)
    }

    fn raw(&self, text: &str) -> Result<Vec<u32>> {
        self.0.raw(text)
    }

    fn stop(&self) -> &[u32] {
        self.0.stop()
    }

    fn context(&self) -> usize {
        self.0.context()
    }
}

#[test]
fn a_thought_is_cut_and_closed_before_the_verdict() {
    let seen = RefCell::new(Vec::new());
    let write = |prompt: &str, _: u64, settings: &Settings| {
        if prompt.ends_with("<think>\n") {
            assert_eq!((settings.max_new_tokens, &settings.stop[..]), (5, &[0, 2000][..]));
            let tokens: Vec<u32> = "hmm, ".chars().map(u32::from).collect();
            // The first thought is cut, the others end by themselves.
            let ended = !seen.borrow().is_empty();
            seen.borrow_mut().push(String::new());
            let tokens = if ended { [&tokens[..3], &[2000]].concat() } else { tokens };
            return Output { tokens, stopped: ended, choice_p: vec![] };
        }
        assert_eq!((settings.max_new_tokens, &settings.stop[..]), (200, &[0][..]));
        seen.borrow_mut().push(prompt[prompt.find("<think>").unwrap()..].to_owned());
        written("Score: 4")
    };
    let language = Thinking(Letters { context: 5000 });
    let settings = ModelJudgeSettings { samples: 2, think: 5, ..ModelJudgeSettings::default() };
    let judge = |language| ModelJudge {
        mode: Mode::Sampled,
        language,
        templates: Templates::default(),
        settings: settings.clone(),
    };
    let items = [Item::new(1, "q", "a")];
    let mut engine = Played { write: &write, score: &no_score, asked: RefCell::default() };
    let verdicts = judge(&language as &dyn Language).judge(&mut engine, &items, &Silent).unwrap();
    assert_eq!((verdicts[0].score, verdicts[0].unparsed), (Some(4.0), 0));
    assert_eq!(verdicts[0].texts, ["hmm, \n</think>\n\nScore: 4", "hmm\n</think>\n\nScore: 4"]);
    // Two thoughts and two verdicts; a verdict stands behind its own thought.
    assert_eq!(verdicts[0].tokens, 5 + 4 + 2 * 9);
    assert_eq!(engine.asked.into_inner(), [2, 2]);
    assert_eq!(seen.into_inner()[2..], ["<think>\nhmm, \n\u{7d0}\n\n", "<think>\nhmm\n\u{7d0}\n\n"]);
    // A thought that would not fit leaves the answer without a score, and a template without thoughts is refused.
    let asked = Templates::default().additive.ids(&language, "q", "a").unwrap().len();
    let short = Thinking(Letters { context: asked + "<think>\n".len() + 210 });
    let mut engine = Played { write: &no_write, score: &no_score, asked: RefCell::default() };
    let verdicts = judge(&short as &dyn Language).judge(&mut engine, &items, &Silent).unwrap();
    assert_eq!(verdicts[0].status, "longer than the context");
    let e = judge(&language.0 as &dyn Language).judge(&mut engine, &items, &Silent).unwrap_err().to_string();
    assert!(e.contains("enable_thinking"), "{e}");
}

fn no_write(_: &str, _: u64, _: &Settings) -> Output {
    panic!("this mode writes nothing")
}

fn no_score(_: &str, _: &[u32]) -> Vec<f32> {
    panic!("this mode reads no log-probs")
}

fn written(text: &str) -> Output {
    let mut tokens: Vec<u32> = text.chars().map(u32::from).collect();
    tokens.push(0);
    Output { tokens, stopped: true, choice_p: vec![] }
}

#[test]
fn sampled_averages_what_parses_and_draws_the_rest_again() {
    let drawn = RefCell::new(0);
    let write = |prompt: &str, _: u64, _: &Settings| {
        assert!(prompt.contains("<response>"));
        *drawn.borrow_mut() += 1;
        // The first answer's verdicts are 4, nothing, 5 and then, drawn again, 3. Those on the second never parse.
        match (prompt.contains("\ngood\n"), *drawn.borrow()) {
            (true, 1) => written("Helpful. Score: 4"),
            (true, 3) => written("Score: 5"),
            (true, 7) => written("Score: 3"),
            _ => written("No idea."),
        }
    };
    let language = Letters { context: 10_000 };
    let judge = ModelJudge {
        mode: Mode::Sampled,
        language: &language,
        templates: Templates::default(),
        settings: ModelJudgeSettings { samples: 3, retries: 1, ..ModelJudgeSettings::default() },
    };
    struct Once<'a, F>(&'a F, Vec<Vec<u64>>);
    impl<F: Fn(&str, u64, &Settings) -> Output> Engine for Once<'_, F> {
        fn generate(&mut self, requests: &[Request], s: &Settings, _: &dyn Observer) -> Result<Vec<Vec<Output>>> {
            self.1.extend(requests.iter().map(|r| r.samples.clone()));
            let text = |ids: &[u32]| Letters { context: 0 }.decode(ids).unwrap();
            Ok(requests
                .iter()
                .map(|r| r.samples.iter().map(|&id| (self.0)(&text(&r.prompt), id, s)).collect())
                .collect())
        }
        fn logps(&mut self, _: &[Branch], _: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
            Err(Error::Input("unused".into()))
        }
    }
    let items = [Item::new(1, "q", "good"), Item::new(2, "q", "bad")];
    let mut engine = Once(&write, Vec::new());
    let verdicts = judge.judge(&mut engine, &items, &Silent).unwrap();
    assert_eq!((verdicts[0].score, verdicts[0].unparsed, verdicts[0].texts.len()), (Some(4.0), 1, 4));
    assert_eq!(verdicts[0].status, "ok");
    assert_eq!((verdicts[1].score, verdicts[1].unparsed), (None, 6));
    assert!(verdicts[1].status.contains("no \"Score:\""));
    // Three verdicts on each, then one and three again, all with keys of their own.
    assert_eq!(engine.1.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1, 3]);
    let mut keys: Vec<u64> = engine.1.concat();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 10);
}

#[test]
fn a_verdict_ends_with_its_turn_and_begins_behind_its_thought() {
    let score = |template: &str, pattern: Option<ScorePattern>, verdict: &str| {
        let language = Letters { context: 10_000 };
        let settings = ModelJudgeSettings { samples: 1, retries: 0, pattern, ..ModelJudgeSettings::default() };
        let additive = Template { text: template.into(), raw: true };
        let templates = Templates { additive, ..Templates::default() };
        let judge = ModelJudge { mode: Mode::Sampled, language: &language, templates, settings };
        let write = |_: &str, _: u64, _: &Settings| written(verdict);
        let mut engine = Played { write: &write, score: &no_score, asked: RefCell::default() };
        let item = Item::new(1, "q", "good");
        let judged = judge.judge(&mut engine, &[item], &Silent).unwrap()[0].score;
        assert_eq!(judge.read(verdict), judged, "{template:?}, {verdict:?}");
        judged
    };
    let plain = "Grade this essay for a pupil: {{ answer }}\n";
    let thinks = "Grade this essay for a pupil: {{ answer }}\n<think>\n";
    assert_eq!(score(plain, None, "Score: 2\nGrade this essay for a pupil: bad\nScore: 5"), Some(2.0));
    assert_eq!(score(plain, None, "Perhaps\nScore: 5\n"), Some(5.0));
    assert_eq!(score(thinks, None, "Perhaps\nScore: 5\n"), None);
    assert_eq!(score(thinks, None, "Perhaps\nScore: 5\n</think>\nScore: 2"), Some(2.0));
    // A pattern of one's own reads what it says, wherever it stands.
    let any = ScorePattern::new("([0-9])/8", [0.0, 8.0]).unwrap();
    assert_eq!(score(thinks, Some(any), "Score: 1. It is 4/8\n### User: hi"), Some(2.5));
}

#[test]
fn expected_is_the_mean_over_the_digits() {
    let score = |prompt: &str, completion: &[u32]| {
        assert!(prompt.ends_with("\n>Score: "), "{prompt:?}");
        let digit = completion[0] - u32::from('0');
        // For the good answer 4 and 5 are alike, for the bad one nearly all mass is on 1; the digits need not sum to 1.
        let p: f32 = match (prompt.contains("\ngood\n"), digit) {
            (true, 4 | 5) => 0.3,
            (false, 1) => 0.6,
            _ => 1e-9,
        };
        vec![p.ln()]
    };
    let (verdicts, asked) = judged(Mode::Expected, &no_write, &score, 10_000);
    let scores: Vec<f64> = verdicts.unwrap().iter().map(|v| v.score.unwrap()).collect();
    assert!((scores[0] - 4.5).abs() < 1e-3 && (scores[1] - 1.0).abs() < 1e-3, "{scores:?}");
    assert_eq!(asked, [2]);
}

#[test]
fn yes_sums_the_spellings() {
    let score = |prompt: &str, completion: &[u32]| {
        let word = WORDS[(completion[0] - 1000) as usize];
        let yes = word.trim().eq_ignore_ascii_case("yes");
        // Each of the three spellings of yes has .2 (good) or .05 (bad), each of no .1.
        let p: f32 = if !yes {
            0.1
        } else if prompt.contains("Response: good") {
            0.2
        } else {
            0.05
        };
        vec![p.ln()]
    };
    let (verdicts, _) = judged(Mode::Yes, &no_write, &score, 10_000);
    let scores: Vec<f64> = verdicts.unwrap().iter().map(|v| v.score.unwrap()).collect();
    assert!((scores[0] - 5.0 * 2.0 / 3.0).abs() < 1e-4 && (scores[1] - 5.0 / 3.0).abs() < 1e-4, "{scores:?}");
}

#[test]
fn criteria_share_their_prefix_and_add_up() {
    let score = |prompt: &str, completion: &[u32]| {
        // The shared part, which holds question and answer, ends where the five questions part.
        assert!(prompt.contains("Response: ") && prompt.ends_with("only.\n"), "{prompt:?}");
        let asked = Letters { context: 0 }.decode(&completion[..completion.len() - 1]).unwrap();
        let yes = completion.last() == Some(&1000);
        let met = prompt.contains("Response: good") || asked.contains("about what was asked");
        let mut logps = vec![-9.0; completion.len()];
        logps[completion.len() - 1] = if yes == met { -0.0001 } else { -30.0 };
        logps
    };
    let (verdicts, _) = judged(Mode::Criteria, &no_write, &score, 10_000);
    let scores: Vec<f64> = verdicts.unwrap().iter().map(|v| v.score.unwrap()).collect();
    assert!((scores[0] - 5.0).abs() < 1e-6 && (scores[1] - 1.0).abs() < 1e-6, "{scores:?}");
}

#[test]
fn backward_reads_the_question_from_the_answer() {
    let score = |prompt: &str, completion: &[u32]| {
        assert!(!prompt.contains("Why is it"), "the question must not be given away");
        let each = if prompt.contains("\ngood\n") { -0.5 } else { -2.0 };
        vec![each; completion.len()]
    };
    let (verdicts, _) = judged(Mode::Backward, &no_write, &score, 10_000);
    let scores: Vec<f64> = verdicts.unwrap().iter().map(|v| v.score.unwrap()).collect();
    assert!((scores[0] - 5.0 * (-0.5f64).exp()).abs() < 1e-6 && (scores[1] - 5.0 * (-2f64).exp()).abs() < 1e-6);
}

#[test]
fn marks_add_their_probabilities() {
    let write = |_: &str, key: u64, settings: &Settings| {
        assert_eq!(settings.choices.len(), 5);
        assert_eq!(settings.choices[0], [u32::from('R'), u32::from('-')]);
        let choice_p = if key == 1 { vec![0.9, 0.9, 0.8, 0.7, 0.2] } else { vec![0.1; 5] };
        let tokens = settings.choices.iter().zip(&choice_p).map(|(c, p)| c[usize::from(*p < 0.5)]).collect();
        Output { tokens, stopped: false, choice_p }
    };
    let (verdicts, _) = judged(Mode::Marks, &write, &no_score, 10_000);
    let verdicts = verdicts.unwrap();
    assert!((verdicts[0].score.unwrap() - 3.5).abs() < 1e-6 && (verdicts[1].score.unwrap() - 0.5).abs() < 1e-6);
    assert_eq!(verdicts[0].texts, ["RCUA-"]);
}

#[test]
fn what_does_not_fit_or_is_not_finite_has_no_score() {
    for mode in [Mode::Sampled, Mode::Marks] {
        let verdicts = judged(mode, &no_write, &no_score, 20).0.unwrap();
        assert!(verdicts.iter().all(|v| v.score.is_none() && v.status == "longer than the context"), "{mode:?}");
    }
    for mode in [Mode::Expected, Mode::Criteria, Mode::Yes, Mode::Backward] {
        let verdicts = judged(mode, &no_write, &no_score, 20).0.unwrap();
        assert!(verdicts.iter().all(|v| v.score.is_none() && v.status == "longer than the context"), "{mode:?}");
        let nan = |_: &str, completion: &[u32]| vec![f32::NAN; completion.len()];
        let verdicts = judged(mode, &no_write, &nan, 10_000).0.unwrap();
        assert!(verdicts.iter().all(|v| v.score.is_none() && v.status.contains("not finite")), "{mode:?}");
    }
}

const TWO: [Match<'static>; 3] = [
    Match { key: 1, question: "q", a: "good", b: "bad" },
    Match { key: 2, question: "q", a: "alike", b: "alike" },
    Match { key: 3, question: "q", a: "bad", b: "good" },
];

/// Whether the prompt shows the good answer first.
fn good_first(prompt: &str) -> bool {
    let (good, bad) = (prompt.find("good").unwrap(), prompt.find("bad").unwrap());
    good < bad
}

#[test]
fn a_pair_is_read_in_both_orders_and_every_spelling() {
    let score = |prompt: &str, completion: &[u32]| {
        assert!(prompt.ends_with("only.\n>"), "{prompt:?}");
        let first = completion == [u32::from('A')];
        assert!(first || completion == [u32::from('B')], "{completion:?}");
        // The place matters too: P(A) : P(B) is 3 : 1 for a good first answer, 2 : 3 for a bad one.
        let weight = match (good_first(prompt), first) {
            (true, true) => 0.3,
            (true, false) => 0.1,
            (false, true) => 0.2,
            (false, false) => 0.3f32,
        };
        vec![weight.ln()]
    };
    let language = Letters { context: 900 };
    let judge = PairwiseJudge {
        template: Template::message("{{ question }} {{ a }} {{ b }}? only."),
        ..PairwiseJudge::new(&language, None)
    };
    let mut engine = Played { write: &no_write, score: &score, asked: RefCell::default() };
    let preferences = judge.judge(&mut engine, &TWO, &Silent).unwrap();
    assert_eq!(engine.asked.into_inner(), [4], "two matches in two orders; equal texts are not asked about");
    let p = |i: usize| preferences[i].p.map(|p| (p.unwrap() * 1e6).round() / 1e6);
    assert_eq!((p(0), p(1), p(2)), ([0.75, 0.6], [0.5, 0.5], [0.4, 0.25]));
    assert_eq!((preferences[0].status.as_str(), preferences[1].status.as_str()), ("ok", "same text"));
    let short = Letters { context: 20 };
    let judge = PairwiseJudge::new(&short, None);
    let mut engine = Played { write: &no_write, score: &no_score, asked: RefCell::default() };
    let none = judge.judge(&mut engine, &TWO, &Silent).unwrap();
    assert_eq!((none[0].p, none[0].status.as_str()), ([None, None], "longer than the context"));
}

#[test]
fn written_choices_are_averaged_and_never_guessed() {
    let keys = RefCell::new(Vec::new());
    let write = |prompt: &str, id: u64, _: &Settings| {
        keys.borrow_mut().push(id);
        match (good_first(prompt), keys.borrow().len() % 2) {
            (true, 0) => written("Better: A"),
            (true, _) => written("Better: tie"),
            (false, _) => written("Both are fine."),
        }
    };
    let settings = ModelJudgeSettings { samples: 2, retries: 0, ..ModelJudgeSettings::default() };
    let language = Letters { context: 9000 };
    let judge = PairwiseJudge::new(&language, Some(settings));
    let mut engine = Played { write: &write, score: &no_score, asked: RefCell::default() };
    let preferences = judge.judge(&mut engine, &TWO[..1], &Silent).unwrap();
    assert_eq!(preferences[0].p, [Some(0.75), None]);
    assert!(preferences[0].status.contains("Better: A"), "{}", preferences[0].status);
    assert_eq!((preferences[0].texts.len(), preferences[0].unparsed), (4, 2));
    let mut keys = keys.borrow().clone();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4, "each verdict of each order has a key of its own");
}
