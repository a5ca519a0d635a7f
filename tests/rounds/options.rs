//! The options of `[pairs]`, `[judge]` and `[validation]` on the small world,
//! where the truth is known: each shows what it does.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

use selfreward::config::pair_rule::Select;
use selfreward::config::{Agreement, ByRound, Method, Rejected, RoundSettings, Weighting};
use selfreward::data::records::{CandidateRecord, PairRecord, PromptRecord, VerdictRecord};
use selfreward::demo::domain::{WorldDomain, self_judge, settings};
use selfreward::generate::{Engine, KvType};
use selfreward::gpu::Gpu;
use selfreward::json::read_jsonl;
use selfreward::judge::{Item, Judge, Match, ModelJudge, ModelJudgeSettings, Preference, Template};
use selfreward::judge::{Mode, RandomJudge, Templates, Verdict};
use selfreward::measure::metrics::mean_se;
use selfreward::recipe::Domain;
use selfreward::recipe::context::{RoundContext, RoundFiles};
use selfreward::recipe::models::{Models, RunModels};
use selfreward::recipe::round::{play, prepare};
use selfreward::recipe::round_metrics::{RoundMetrics, measure};
use selfreward::recipe::stages::meta;
use selfreward::recipe::stages::meta::MetaJudge;
use selfreward::recipe::stages::validation::ValidationRecord;
use selfreward::world::{self, Task, marks, text};
use selfreward::{Observer, Result, Silent};
use std::path::Path;
use std::sync::OnceLock;

const PROMPTS: usize = 96;

fn base() -> RoundSettings {
    let mut s = settings(PROMPTS, Method::Dpo, 0.0);
    // Two models as different as a few steps make them.
    (s.dpo.training.batch, s.dpo.training.lr.warmup) = (16, 2);
    s
}

/// A run with M1, its first round and M2, played once for all tests.
fn first_round() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let tmp = tempfile::tempdir().unwrap();
        world::save(&tmp.path().join("M1"), &world::seed_model().unwrap()).unwrap();
        round(tmp.path(), 1, &base(), &self_judge());
        tmp
    })
    .path()
}

fn gpu() -> Gpu {
    Gpu::open(None, None).unwrap()
}

/// Plays a whole round.
fn round(run: &Path, number: u32, settings: &RoundSettings, judge: &dyn Judge) -> RoundMetrics {
    let gpu = gpu();
    let models = RunModels { gpu: &gpu, domain: &WorldDomain, run, observer: &Silent, kv: KvType::F32 };
    let ctx = context(settings, &models, number);
    let model = WorldDomain.load_model(&gpu, &run.join(format!("M{number}"))).unwrap();
    let files = RoundFiles::new(run, number);
    let next = run.join(format!("M{}", number + 1));
    play(&gpu, model, &ctx, judge, &files, &next, &[], &mut |_| Ok(())).unwrap();
    measure(&ctx, judge.name(), &files).unwrap()
}

fn context<'a>(settings: &'a RoundSettings, models: &'a dyn Models, round: u32) -> RoundContext<'a> {
    RoundContext { domain: &WorldDomain, settings, seed: 5, round, observer: &Silent, models, held_out: &[] }
}

/// The pairs of round 2 under some settings, and the round's numbers. Prompts,
/// candidates and verdicts are the same for all.
fn second_round(change: impl FnOnce(&mut RoundSettings), judge: &dyn Judge) -> (Vec<PairRecord>, RoundMetrics) {
    let (run, tmp) = (first_round(), tempfile::tempdir().unwrap());
    let mut settings = base();
    change(&mut settings);
    let gpu = gpu();
    let models = RunModels { gpu: &gpu, domain: &WorldDomain, run, observer: &Silent, kv: KvType::F32 };
    let ctx = context(&settings, &models, 2);
    let files = RoundFiles::new(tmp.path(), 2);
    models.with(2, &mut |engine| prepare(engine, &ctx, judge, &files, &[], &mut |_| Ok(())).map(drop)).unwrap();
    std::fs::write(files.jsonl("steps"), "").unwrap();
    (read_jsonl(&files.jsonl("pairs")).unwrap(), measure(&ctx, judge.name(), &files).unwrap())
}

/// (true score of the chosen answer, of the rejected answer).
fn truth(pair: &PairRecord) -> (f64, f64) {
    let gold = Task::parse(&pair.prompt[0].content).unwrap().gold;
    let score = |answer: &str| marks(&gold, answer).score() as f64;
    (score(&pair.chosen[0].content), score(&pair.rejected[0].content))
}

/// Share of pairs whose chosen answer is truly better, and the mean true difference.
fn right(pairs: &[PairRecord]) -> (f64, f64) {
    let gaps: Vec<f64> = pairs.iter().map(truth).map(|(c, r)| c - r).collect();
    (mean_se(&gaps.iter().map(|g| f64::from(u8::from(*g > 0.0))).collect::<Vec<_>>()).0, mean_se(&gaps).0)
}

#[test]
fn all_pairs_above_a_margin_are_more_pairs_with_smaller_differences() {
    let (one, m) = second_round(|_| {}, &self_judge());
    let (all, n) = second_round(|s| s.pairs.select = Select::All, &self_judge());
    let (few, _) = second_round(|s| (s.pairs.select, s.pairs.most) = (Select::All, 2), &self_judge());
    assert_eq!((m.ties, m.too_few), (n.ties, n.too_few));
    assert!(all.len() > 2 * one.len() && few.len() < all.len() && few.len() > one.len());
    // Every best-worst pair is among them, and no pair is nearer than the margin.
    let key = |p: &PairRecord| (p.chosen_ids.clone(), p.rejected_ids.clone(), p.prompt_id.clone());
    let keys: std::collections::HashSet<_> = all.iter().map(key).collect();
    assert!(one.iter().all(|p| keys.contains(&key(p))) && keys.len() == all.len());
    assert!(all.iter().all(|p| p.score_chosen - p.score_rejected >= 0.5));
    let (one, all) = (right(&one), right(&all));
    assert!(all.1 < one.1, "{all:?} {one:?}");
}

#[test]
fn weights_follow_the_scores_and_average_to_one() {
    let (plain, _) = second_round(|_| {}, &self_judge());
    let (pairs, _) = second_round(|s| s.pairs.weight = Weighting::Gap, &self_judge());
    assert!(plain.iter().all(|p| p.weight == 1.0));
    assert!((mean_se(&pairs.iter().map(|p| f64::from(p.weight)).collect::<Vec<_>>()).0 - 1.0).abs() < 1e-5);
    let heavy = |p: &&PairRecord| p.weight > 1.0;
    let (heavy, light): (Vec<_>, Vec<_>) = pairs.iter().partition(heavy);
    let mean = |list: &[&PairRecord]| mean_se(&list.iter().map(|p| truth(p)).map(|(c, r)| c - r).collect::<Vec<_>>()).0;
    // What weighs more is truly further apart.
    assert!(mean(&heavy) > mean(&light) + 0.25, "{} {}", mean(&heavy), mean(&light));
}

#[test]
fn answers_of_the_first_model_keep_the_difference_up() {
    let (own, m) = second_round(|_| {}, &self_judge());
    let (anchored, n) = second_round(|s| s.pairs.rejected = Rejected::First, &self_judge());
    assert!(n.ties < m.ties && anchored.len() > own.len(), "{} {}", n.ties, m.ties);
    assert!(right(&anchored).1 > right(&own).1, "{:?} {:?}", right(&anchored), right(&own));
    // In round 1 the first model is the round's own: nothing changes.
    let tmp = tempfile::tempdir().unwrap();
    world::save(&tmp.path().join("M1"), &world::seed_model().unwrap()).unwrap();
    let gpu = gpu();
    let models = RunModels { gpu: &gpu, domain: &WorldDomain, run: tmp.path(), observer: &Silent, kv: KvType::F32 };
    let mut settings = base();
    (settings.prompts.count, settings.pairs.rejected) = (12, Rejected::First);
    let ctx = context(&settings, &models, 1);
    let files = RoundFiles::new(tmp.path(), 1);
    models.with(1, &mut |engine| prepare(engine, &ctx, &self_judge(), &files, &[], &mut |_| Ok(())).map(drop)).unwrap();
    assert!(!files.jsonl("anchors").exists());
}

#[test]
fn agreement_with_the_model_before_softens_the_labels() {
    let agreement = |kind, judge: &dyn Judge| second_round(|s| s.pairs.agreement = kind, judge);
    let (pairs, m) = agreement(Agreement::Round, &self_judge());
    let c = m.agreement.unwrap();
    assert!((0.75..1.0).contains(&c), "M1 and M2 judge alike: {c}");
    assert!(pairs.iter().all(|p| (f64::from(p.flip) - (1.0 - c)).abs() < 1e-6));
    // Dice agree with nobody: every label is worth nothing.
    let dice = RandomJudge { seed: 3 };
    let (_, m) = agreement(Agreement::Round, &dice);
    assert!((m.agreement.unwrap() - 0.5).abs() < 0.1, "{:?}", m.agreement);
    // By prompt, what both judges order alike is right more often.
    let (pairs, _) = agreement(Agreement::Prompt, &self_judge());
    let (sure, unsure): (Vec<PairRecord>, Vec<PairRecord>) = pairs.into_iter().partition(|p| p.flip < 0.1);
    assert!(!sure.is_empty() && !unsure.is_empty());
    assert!(right(&sure).0 >= right(&unsure).0, "{:?} {:?}", right(&sure), right(&unsure));
    // Nothing is asked where it is off.
    assert_eq!(second_round(|_| {}, &self_judge()).1.agreement, None);
}

#[test]
fn pairs_on_which_log_probs_disagree_are_left_out() {
    let (all, _) = second_round(|_| {}, &self_judge());
    let (kept, m) = second_round(|s| s.pairs.implicit = true, &self_judge());
    assert!(m.disagreeing > 0 && kept.len() + m.disagreeing == all.len(), "{} {}", kept.len(), m.disagreeing);
    assert!(right(&kept).0 >= right(&all).0 - 0.02, "{:?} {:?}", right(&kept), right(&all));
    // With dice for a judge about half of the pairs go, and those that stay are better than chance.
    let dice = RandomJudge { seed: 3 };
    let every = |s: &mut RoundSettings| (s.pairs.select, s.pairs.min_gap) = (Select::All, 0.0);
    let (all, _) = second_round(every, &dice);
    let (kept, m) = second_round(|s| (every(s), s.pairs.implicit = true).0, &dice);
    assert!(m.disagreeing * 3 > all.len() && m.disagreeing * 3 < 2 * all.len(), "{} of {}", m.disagreeing, all.len());
    assert!(right(&kept).1 > right(&all).1 + 0.2, "{:?} {:?}", right(&kept), right(&all));
}

#[test]
fn length_control_comes_when_its_round_does() {
    let with = |margin| second_round(|s| s.pairs.length_margin = margin, &self_judge()).0;
    let off = with(ByRound::Always(0.0));
    assert_eq!(off, with(ByRound::Each(vec![0.0, 0.0, 1.0])));
    let now = with(ByRound::Each(vec![0.0, 1.0]));
    let (mut shorter, mut longer) = (0, 0);
    for pair in &now {
        let Some(before) = off.iter().find(|p| p.prompt_id == pair.prompt_id) else { continue };
        assert!(
            pair.chosen_ids.len() <= before.chosen_ids.len() && pair.rejected_ids.len() >= before.rejected_ids.len()
        );
        shorter += before.chosen_ids.len() - pair.chosen_ids.len();
        longer += pair.rejected_ids.len() - before.rejected_ids.len();
    }
    assert!(shorter + longer > 10, "{shorter} tokens less chosen, {longer} more rejected");
}

/// The small world's judge, writing its verdicts.
fn writing_judge() -> ModelJudge<'static> {
    let additive = Template { text: text::judge_text("{{ question }}", "{{ answer }}"), raw: true };
    let mut settings = ModelJudgeSettings::default().max_new_tokens(20);
    settings.sampling.temperature = 1.5;
    settings.sampling.top_p = 1.0;
    let templates = Templates { additive, ..Templates::default() };
    ModelJudge { mode: Mode::Sampled, settings, templates, ..self_judge() }
}

/// Prefers the verdict whose score is nearer to the truth.
struct Oracle;

impl MetaJudge for Oracle {
    fn compare(&self, _: &mut dyn Engine, matches: &[Match], _: &dyn Observer) -> Result<Vec<Preference>> {
        let compare = |m: &Match| {
            let p = match error(m.question, m.a).total_cmp(&error(m.question, m.b)) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 0.0,
            };
            Preference { p: [Some(p); 2], status: "ok".into(), texts: Vec::new(), unparsed: 0 }
        };
        Ok(matches.iter().map(compare).collect())
    }
}

/// How far a verdict on the answer in a judge's prompt is from its true score.
fn error(prompt: &str, verdict: &str) -> f64 {
    let line = |key: &str| prompt.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    let truth = marks(&Task::parse(line("Q: ")).unwrap().gold, line("A: ")).score() as f64;
    (selfreward::judge::parse_score(verdict).unwrap() - truth).abs()
}

#[test]
fn better_verdicts_are_preferred_within_their_share() {
    let (run, tmp) = (first_round(), tempfile::tempdir().unwrap());
    let mut settings = base();
    (settings.judge.meta, settings.judge.wave) = (0.15, 8);
    let gpu = gpu();
    let models = RunModels { gpu: &gpu, domain: &WorldDomain, run, observer: &Silent, kv: KvType::F32 };
    let ctx = context(&settings, &models, 2);
    let files = RoundFiles::new(tmp.path(), 2);
    let judge = writing_judge();
    models.with(2, &mut |engine| prepare(engine, &ctx, &judge, &files, &[], &mut |_| Ok(())).map(drop)).unwrap();
    let pairs: Vec<PairRecord> = read_jsonl(&files.jsonl("pairs")).unwrap();
    let verdicts: Vec<VerdictRecord> = read_jsonl(&files.jsonl("verdicts")).unwrap();
    // The world's model is too small to read the shipped question about
    // verdicts; one that knows the truth stands in for it.
    assert!(read_jsonl::<PairRecord>(&files.jsonl("meta-pairs")).unwrap().is_empty());
    let prompts: Vec<PromptRecord> = read_jsonl(&files.jsonl("prompts")).unwrap();
    let candidates: Vec<CandidateRecord> = read_jsonl(&files.jsonl("candidates")).unwrap();
    let input = meta::Verdicts { prompts: &prompts, candidates: &candidates, verdicts: &verdicts, pairs: pairs.len() };
    let out = tmp.path().join("true.jsonl");
    let mut engine = selfreward::generate::NoEngine;
    let told = meta::run(&mut engine, &judge, &Oracle, &ctx, &input, &out).unwrap();
    assert!(told.len() >= 6 && told.len() as f64 <= 0.15 * (told.len() + pairs.len()) as f64, "{}", told.len());
    for pair in &told {
        let error = |side: &str| error(&pair.prompt[0].content, side);
        assert!(error(&pair.chosen[0].content) < error(&pair.rejected[0].content), "{pair:?}");
        // Ids lead to the verdict and to its text.
        let text = |id: &str| {
            let (verdict, place) = id.split_once('/').unwrap();
            let verdict = verdicts.iter().find(|v| v.id == verdict).unwrap();
            verdict.texts[place.parse::<usize>().unwrap()].clone()
        };
        assert_eq!(text(&pair.chosen_id), pair.chosen[0].content);
        assert_eq!(text(&pair.rejected_id), pair.rejected[0].content);
        assert!(pair.prompt_ids.ends_with(&text::encode("Points: ").unwrap()));
    }
    // A judge that writes nothing has nothing to compare.
    let e = meta::run(&mut engine, &self_judge(), &Oracle, &ctx, &input, &tmp.path().join("none")).unwrap_err();
    assert!(e.to_string().contains("sampled"), "{e}");
}

/// Scores an answer lower the more the policy has moved: training only ever makes it worse.
struct Falling(std::cell::Cell<f64>);

impl Judge for Falling {
    fn name(&self) -> &str {
        "falling"
    }

    fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
        self.0.set(self.0.get() - 0.1);
        Ok(items.iter().map(|_| Verdict::scored(self.0.get(), 0)).collect())
    }
}

#[test]
fn training_stops_early_and_the_best_checkpoint_is_kept() {
    let run = first_round();
    let play_on = |every: usize, patience: usize, judge: &dyn Judge| {
        let tmp = tempfile::tempdir().unwrap();
        let from = RoundFiles::new(run, 1).dir;
        std::fs::create_dir_all(tmp.path().join("round-1")).unwrap();
        for name in ["prompts", "dropped", "candidates", "verdicts", "pairs"] {
            let name = format!("{name}.jsonl");
            std::fs::copy(from.join(&name), tmp.path().join("round-1").join(&name)).unwrap();
        }
        world::save(&tmp.path().join("M1"), &world::seed_model().unwrap()).unwrap();
        let questions: String = world::held_out()[..24]
            .iter()
            .map(|t| format!("{}\n", serde_json::json!({ "prompt": t.prompt })))
            .collect();
        let prompts = tmp.path().join("held-out.jsonl");
        std::fs::write(&prompts, questions).unwrap();
        let mut settings = base();
        (settings.validation.prompts, settings.validation.every, settings.validation.patience) =
            (prompts, every, patience);
        let metrics = round(tmp.path(), 1, &settings, judge);
        let log: Vec<ValidationRecord> = read_jsonl(&tmp.path().join("round-1/validation.jsonl")).unwrap();
        let left: Vec<String> = std::fs::read_dir(tmp.path().join("round-1"))
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(!left.contains(&"best".to_owned()) && !left.contains(&"train".to_owned()), "{left:?}");
        (metrics, log, world::model::load(&tmp.path().join("M2")).unwrap())
    };
    // The world's own judge: more steps are better here, so that training goes to its end.
    let (m, log, weights) = play_on(2, 0, &self_judge());
    let steps: Vec<u64> = log.iter().map(|r| r.step).collect();
    assert_eq!(steps.last(), Some(&(m.steps as u64)));
    assert!(steps[..steps.len() - 1].iter().all(|s| s % 2 == 0) && log.iter().all(|r| r.answers == 24));
    let best = log.iter().map(|r| r.score.unwrap()).fold(f64::MIN, f64::max);
    let kept = log.iter().find(|r| Some(r.step) == m.best_step).unwrap();
    assert_eq!(kept.score, Some(best));
    assert!(best > log[0].score.unwrap(), "{log:?}");
    // A judge that likes every later model less: the first checkpoint is the best, and two worse ones end it.
    let (m, log, first) = play_on(1, 2, &Falling(std::cell::Cell::new(4.0)));
    assert_eq!((m.best_step, m.steps, log.len()), (Some(1), 3, 3));
    assert_ne!(weights, first);
    let gpu = gpu();
    let model = WorldDomain.load_model(&gpu, &run.join("M1")).unwrap();
    let before = model.tensors(&gpu).unwrap();
    assert_ne!(before, first, "one step was taken");
}
