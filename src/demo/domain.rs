//! The small world as a [`Domain`], and its oracle.

use crate::config::{
    CandidateSection, DpoSection, JudgeSection, Judging, Method, PairSection, PromptSection, RoundSettings,
};
use crate::generate::Engine;
use crate::generate::Output;
use crate::generate::Sampling;
use crate::gpu::Gpu;
use crate::judge::{Item, Judge, MarksTemplate, Mode, ModelJudge, ModelJudgeSettings, Template, Templates, Verdict};
use crate::model::Model;
use crate::recipe::domain::Domain;
use crate::rng::Stream;
use crate::text::Language;
use crate::train::objective::Objective;
use crate::train::{LearningRate, Optimiser, TrainSettings};
use crate::world;
use crate::world::score::{MARK_LETTERS, MAX_RESPONSE, cut};
use crate::world::text;
use crate::world::text::WorldText;
use crate::world::{Task, marks, tasks};
use crate::{Observer, Result};
use std::path::Path;

/// The small world as a domain: prompts are tasks, and examples are fresh draws of the task generator.
pub struct WorldDomain;

impl Domain for WorldDomain {
    fn language(&self) -> &dyn Language {
        &WorldText
    }

    fn seed_prompts(&self) -> &[String] {
        &[]
    }

    fn seed_shot(&self, rng: &mut Stream) -> Result<String> {
        Ok(Task::draw_for_training(rng).prompt)
    }

    fn invitation(&self, shots: &[String]) -> Result<Vec<u32>> {
        text::list(shots)
    }

    fn invitation_stop(&self) -> Result<Vec<u32>> {
        Ok(vec![text::NEWLINE, text::EOS])
    }

    fn new_prompt(&self, output: &Output) -> Result<(String, std::result::Result<String, String>)> {
        let written = written(output);
        let outcome = match Task::parse(&written) {
            None => Err("not a task".to_owned()),
            Some(task) if tasks::is_held_out(&task.prompt) => Err("held out".to_owned()),
            Some(task) => Ok(task.prompt),
        };
        Ok((written, outcome))
    }

    fn response(&self, output: &Output) -> Result<(String, Vec<u32>)> {
        let y = cut(&written(output));
        let ids = text::completion(&y)?;
        Ok((y, ids))
    }

    fn load_model(&self, gpu: &Gpu, dir: &Path) -> Result<Model> {
        Model::from_tensors(gpu, &world::arch(), world::model::load(dir)?)
    }

    fn save_model(&self, gpu: &Gpu, dir: &Path, model: &Model) -> Result<()> {
        world::save(dir, &model.tensors(gpu)?)
    }
}

/// The text that the model wrote, up to the token that ended it.
fn written(output: &Output) -> String {
    let end = if output.stopped { output.tokens.len().saturating_sub(1) } else { output.tokens.len() };
    text::decode(&output.tokens[..end])
}

/// The model as its own judge, by marks, as it was trained.
pub fn self_judge() -> ModelJudge<'static> {
    let template = Template { text: text::judge_text("{{ question }}", "{{ answer }}"), raw: true };
    let marks = MarksTemplate { template, letters: MARK_LETTERS.to_vec() };
    ModelJudge {
        mode: Mode::Marks,
        language: &WorldText,
        templates: Templates { marks, ..Templates::default() },
        settings: ModelJudgeSettings::default(),
    }
}

/// The judge that gives the true score: it shows how far a perfect judge would get.
pub struct OracleJudge;

impl Judge for OracleJudge {
    fn name(&self) -> &str {
        "oracle"
    }

    fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
        Ok(items
            .iter()
            .map(|item| match Task::parse(item.question) {
                Some(task) => Verdict::scored(marks(&task.gold, item.answer).score() as f64, 0),
                None => Verdict::unscored("not a task"),
            })
            .collect())
    }
}

/// The small world's settings of a round: `count` prompts, four answers to each, pairs with a margin of 0.5, and one
/// epoch of steps of 32 pairs.
pub fn settings(count: usize, method: Method, nll: f32) -> RoundSettings {
    RoundSettings {
        prompts: PromptSection {
            count,
            seed_shots: 2,
            own_shots: 0,
            sampling: Sampling::default(),
            max_new_tokens: 24,
            max_rouge: 2.0,
            wave: 256,
            ..PromptSection::default()
        },
        candidates: CandidateSection {
            n: 4,
            sampling: Sampling { temperature: 0.8, top_p: 0.95, ..Sampling::default() },
            max_new_tokens: MAX_RESPONSE,
            wave: 100,
            ..CandidateSection::default()
        },
        judge: JudgeSection { mode: Judging::By(Mode::Marks), wave: 100, ..JudgeSection::default() },
        pairs: PairSection { min_gap: 0.5, ..PairSection::default() },
        dpo: DpoSection {
            method,
            objective: Objective { nll, ..Objective::default() },
            training: TrainSettings {
                lr: LearningRate { warmup: 5, warmup_offset: 1, ..LearningRate::constant(5e-4) },
                batch: 32,
                optimiser: Optimiser { betas: [0.9, 0.98], ..Optimiser::default() },
                save_every: 4,
                ..TrainSettings::default()
            },
        },
        ..RoundSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_template_is_the_trained_one() {
        let ids = self_judge().templates.marks.template.ids(&WorldText, "upper: cab", "C{{A}}").unwrap();
        assert_eq!(ids, text::judge("upper: cab", "C{{A}}").unwrap());
    }

    #[test]
    fn responses_end_where_the_world_says() {
        let domain = WorldDomain;
        let read = |text: &str, stopped| {
            domain.response(&Output { tokens: text::encode(text).unwrap(), stopped, choice_p: vec![] }).unwrap()
        };
        assert_eq!(read("abc\u{2}", true), ("abc".into(), vec![97, 98, 99, 2]));
        // A newline ends an answer too; what is trained on ends with the usual token.
        assert_eq!(read("abc\n", true), ("abc".into(), vec![97, 98, 99, 2]));
        assert_eq!(read(&"a".repeat(16), false), ("a".repeat(16), vec![97; 16]));
        assert_eq!(read("\u{2}", true), (String::new(), vec![2]));
    }

    #[test]
    fn only_fresh_tasks_are_new_prompts() {
        let domain = WorldDomain;
        let read = |line: &str| {
            let tokens = text::encode(&format!("{line}\n")).unwrap();
            domain.new_prompt(&Output { tokens, stopped: true, choice_p: vec![] }).unwrap().1
        };
        assert_eq!(read("nonsense"), Err("not a task".into()));
        assert_eq!(read(&world::held_out()[0].prompt), Err("held out".into()));
        let mut rng = Stream::new(1, 1);
        let shot = domain.seed_shot(&mut rng).unwrap();
        assert_eq!(read(&shot), Ok(shot));
    }
}
