//! A task that somebody makes up, answered by every model of a run, and marked by every one of them.

use super::domain::{WorldDomain, self_judge};
use super::evaluation::answers;
use crate::disk::OnDisk;
use crate::generate::GpuEngine;
use crate::gpu::Gpu;
use crate::judge::{Item, Judge};
use crate::recipe::domain::Domain;
use crate::rng::fnv;
use crate::world::{Task, marks};
use crate::{Error, Observer, Result};
use serde::Serialize;
use std::path::Path;

/// A task with the answers to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Played {
    /// The task.
    pub prompt: String,
    /// The right answer.
    pub gold: String,
    /// What each model answers, M1 first.
    pub answers: Vec<PlayedAnswer>,
}

/// A model's likeliest answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlayedAnswer {
    /// The model's name.
    pub name: String,
    /// The answer.
    pub answer: String,
    /// Its true points.
    pub truth: usize,
    /// The points that each model gives it, M1 first.
    pub marks: Vec<Option<f64>>,
}

/// Asks every model of the run `prompt`, and has every one of them judge what all answered.
///
/// # Errors
/// `prompt` is no task of the small world; the run has no model; errors of the device; `Stopped` when the observer asks
/// for it.
pub fn play(gpu: &Gpu, run: &Path, prompt: &str, observer: &dyn Observer) -> Result<Played> {
    let Some(task) = Task::parse(&prompt.trim().to_lowercase()) else {
        return Err(Error::Input(format!(
            "{prompt:?} is no task of the small world. Tasks are upper, reverse, sort or next with a word of 3 to 6 \
             letters, double, join -, join + or join / with 3 to 5, repeat 2 or repeat 3 with 2 to 4, first 3 or \
             first 4 with 5 to 7; the letters are a to j, as in \"reverse: caje\""
        )));
    };
    let mut models = Vec::new();
    for number in 1.. {
        let name = format!("M{number}");
        let folder = run.join(&name);
        if !folder.is_there() {
            break;
        }
        models.push((name, WorldDomain.load_model(gpu, &folder)?));
    }
    if models.is_empty() {
        return Err(Error::Input("there is no model to ask yet: play a round first".into()));
    }
    let (mut played, asked) = (Vec::new(), [task]);
    for (name, model) in &models {
        let mut engine = GpuEngine::new(gpu, model);
        let answer = answers(&mut engine, &asked, 0.0, 1, 0, observer)?.pop().and_then(|mut a| a.pop());
        played.push((name.clone(), answer.unwrap_or_default()));
    }
    let [task] = asked;
    let items: Vec<Item> = played.iter().map(|(_, y)| Item::new(fnv(y.as_bytes()), &task.prompt, y)).collect();
    let mut given: Vec<Vec<Option<f64>>> = vec![Vec::new(); items.len()];
    for (_, model) in &models {
        let verdicts = self_judge().judge(&mut GpuEngine::new(gpu, model), &items, observer)?;
        given.iter_mut().zip(verdicts).for_each(|(marks, verdict)| marks.push(verdict.score));
    }
    let answers = played.into_iter().zip(given).map(|((name, answer), by)| {
        let truth = marks(&task.gold, &answer).score();
        PlayedAnswer { name, answer, truth, marks: by }
    });
    let answers = answers.collect();
    Ok(Played { prompt: task.prompt, gold: task.gold, answers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Silent, world};

    #[test]
    fn every_model_answers_and_marks() {
        let (gpu, tmp) = (Gpu::open(None, None).unwrap(), tempfile::tempdir().unwrap());
        let refused = play(&gpu, tmp.path(), "sing: abc", &Silent).unwrap_err().to_string();
        assert!(refused.contains("sing: abc") && refused.contains("reverse: caje"), "{refused}");
        let refused = play(&gpu, tmp.path(), "upper: cab", &Silent).unwrap_err().to_string();
        assert!(refused.contains("no model"), "{refused}");
        world::save(&tmp.path().join("M1"), &world::seed_model().unwrap()).unwrap();
        world::save(&tmp.path().join("M2"), &world::init(0)).unwrap();
        let played = play(&gpu, tmp.path(), " Upper: CAB ", &Silent).unwrap();
        assert_eq!((played.prompt.as_str(), played.gold.as_str()), ("upper: cab", "CAB"));
        let names: Vec<&str> = played.answers.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["M1", "M2"]);
        let [one, two] = &played.answers[..] else { unreachable!("two models") };
        // The seed model knows the task and how to judge; random weights know neither.
        assert!(one.truth >= 4 && one.truth > two.truth, "{played:?}");
        assert!(one.marks[0] > two.marks[0] && one.marks.len() == 2, "{played:?}");
    }
}
