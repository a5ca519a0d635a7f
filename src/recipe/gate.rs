//! Keeps a run from training on noise: before a round whose scores are the model's own, its judgment is measured on
//! ranked answers whose order is known. A judge that is surely below `[judge] floor` stops the run.

use super::evaluation::documents;
use super::judging::{CALIBRATION_FILE, KeptCalibration, ranked};
use crate::config::{Judging, RunConfig};
use crate::data::records::hex;
use crate::disk::OnDisk;
use crate::durable;
use crate::generate::Engine;
use crate::json::{read_json, write_json};
use crate::judge::Judge;
use crate::measure::calibrate::{items, order, reporting_half};
use crate::measure::order::Ordered;
use crate::waves::Waves;
use crate::{Error, Observer, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the folder in a run folder that holds what was measured of each model as a judge.
pub(crate) const FOLDER: &str = "gate";

/// What was measured of a model as a judge: `gate/M1.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Hash of the configuration and the weights of the model.
    pub model: String,
    /// How its scores were read: the judge mode's name.
    pub judge: String,
    /// How well its scores order the answers; null where truth orders no pair of them.
    pub ordered: Option<Ordered>,
}

/// The gate before each round of a run.
pub(super) struct Gate<'a> {
    pub(super) run: &'a Path,
    pub(super) config: &'a RunConfig,
    /// Whether a judge below the floor is told and used all the same.
    pub(super) force: bool,
    pub(super) observer: &'a dyn Observer,
}

impl Gate<'_> {
    /// Measures M`number`, which `engine` runs, as the judge of its round, unless that is done. `hash` is the model's.
    /// `None` if the scores are not its own.
    ///
    /// # Errors
    /// The ranked answers cannot be read; errors of the engine and of the files; `Stopped` when the observer asks for
    /// it.
    pub(super) fn measure(
        &self,
        engine: &mut dyn Engine,
        number: u32,
        judge: &dyn Judge,
        hash: &dyn Fn() -> Result<u64>,
    ) -> Result<Option<GateRecord>> {
        if !self.config.judge.mode.is_self() {
            return Ok(None);
        }
        let path = self.run.join(FOLDER).join(format!("M{number}.json"));
        let model = hex(hash()?);
        if path.is_there() {
            let kept: GateRecord = read_json(&path)?;
            if kept.model == model && kept.judge == judge.name() {
                durable::remove_file(&crate::waves::part(&path))?;
                return Ok(Some(kept));
            }
        }
        let by_calibration = if number == 1 { self.calibrated(judge)? } else { None };
        let ordered = match by_calibration {
            Some(ordered) => Some(ordered),
            None => self.judged(engine, &path, &model, judge)?,
        };
        let record = GateRecord { model, judge: judge.name().to_owned(), ordered };
        durable::create_folder(&self.run.join(FOLDER))?;
        write_json(&path, &record)?;
        durable::remove_file(&crate::waves::part(&path))?;
        if let Some(ordered) = &record.ordered {
            self.observer.note(&format!("M{number} as a judge ({}): {}", record.judge, ordered.all));
        }
        Ok(Some(record))
    }

    /// What mode `auto` has measured of the first model when it chose the judge's mode.
    fn calibrated(&self, judge: &dyn Judge) -> Result<Option<Ordered>> {
        let path = self.run.join(CALIBRATION_FILE);
        if self.config.judge.mode != Judging::Auto || !path.is_there() {
            return Ok(None);
        }
        let kept: KeptCalibration = read_json(&path)?;
        Ok(kept.calibration.modes.into_iter().find(|m| m.mode.name() == judge.name()).and_then(|m| m.ordered))
    }

    /// Has the judge score the ranked answers in waves. Where the mode was chosen on one half of the questions, the
    /// other half counts.
    fn judged(&self, engine: &mut dyn Engine, path: &Path, model: &str, judge: &dyn Judge) -> Result<Option<Ordered>> {
        let set = ranked(self.config)?;
        let set = if self.config.judge.mode == Judging::Auto { reporting_half(&set) } else { set };
        let mine = (model.to_owned(), judge.name().to_owned());
        let mut waves = Waves::<((String, String), Vec<Option<f64>>)>::open(path)?;
        if waves.done().iter().any(|(of, _)| *of != mine) {
            // Those of other weights count for nothing.
            waves.remove()?;
            waves = Waves::open(path)?;
        }
        let (observer, wave) = (self.observer, self.config.judge.wave.max(1));
        observer.begin(FOLDER, Some(set.len() as u64), "questions");
        for (i, chunk) in set.chunks(wave).enumerate() {
            if i >= waves.done().len() {
                if observer.stop_requested() {
                    return Err(Error::Stopped);
                }
                let verdicts = judge.judge(engine, &items(chunk), observer)?;
                waves.push((mine.clone(), verdicts.iter().map(|v| v.score).collect()))?;
            }
            observer.advance(chunk.len() as u64);
        }
        observer.end();
        let scores: Vec<Option<f64>> = waves.done().iter().flat_map(|(_, scores)| scores.clone()).collect();
        Ok(order(&set, &scores, self.config.run.seed))
    }

    /// Lets the round of M`number` begin, unless the whole interval of what was measured lies below the floor.
    ///
    /// # Errors
    /// It does, and nobody forces the run.
    pub(super) fn pass(&self, number: u32, record: &GateRecord) -> Result<()> {
        let Some(ordered) = record.ordered.as_ref().filter(|o| below(o, self.config.judge.floor)) else {
            return Ok(());
        };
        let floor = self.config.judge.floor;
        let what = format!(
            "M{number} does not judge well enough to be trained on its own scores: in mode {} it puts {}, below \
             [judge] floor = {floor}",
            record.judge, ordered.all
        );
        if self.force {
            self.observer.note(&format!("{what}; --force goes on"));
            return Ok(());
        }
        Err(Error::Input(format!(
            "{what}. Take another [judge] mode (judge --calibrate measures them; rules, key and vote need no judge), \
             teach the model to judge first ([sft] with what data eft writes), or go on with --force"
        )))
    }
}

/// What was measured of the models in the run folder `run`, by their names, the oldest first.
///
/// # Errors
/// A file is broken.
pub fn records(run: &Path) -> Result<Vec<(String, GateRecord)>> {
    documents(&run.join(FOLDER), |_| true)
}

/// Whether a judge is surely below a floor: the whole interval is.
fn below(ordered: &Ordered, floor: f64) -> bool {
    ordered.all.judge.high < floor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::generate::NoEngine;
    use crate::judge::{Item, Verdict};
    use crate::measure::agreement::Reference;
    use crate::measure::calibrate::Ranked;
    use std::cell::Cell;

    /// Scores answers by their length, the better or the worse for it, until it is told to stop.
    struct ByLength {
        sign: f64,
        left: Cell<usize>,
    }

    impl Judge for ByLength {
        fn name(&self) -> &str {
            "yes"
        }

        fn judge(&self, _: &mut dyn Engine, items: &[Item], _: &dyn Observer) -> Result<Vec<Verdict>> {
            if self.left.get() == 0 {
                return Err(Error::Stopped);
            }
            self.left.set(self.left.get() - 1);
            Ok(items.iter().map(|i| Verdict::scored(self.sign * i.answer.len() as f64, 0)).collect())
        }
    }

    fn config(dir: &Path, more: &str) -> RunConfig {
        let ranked = dir.join("ranked.jsonl");
        let line = |i: usize| format!("{{\"prompt\": \"q{i}\", \"responses\": [\"the better one\", \"worse\"]}}\n");
        std::fs::write(&ranked, (0..8).map(line).collect::<String>()).unwrap();
        let text = format!("[model]\npath = \"m\"\n[judge]\nranked = {ranked:?}\nwave = 2\n{more}");
        toml::from_str(&text).unwrap()
    }

    fn judge(sign: f64, waves: usize) -> ByLength {
        ByLength { sign, left: Cell::new(waves) }
    }

    #[test]
    fn a_judge_is_measured_once_and_goes_on_where_it_stopped() {
        let tmp = tempfile::tempdir().unwrap();
        let config = config(tmp.path(), "mode = \"yes\"\n");
        let gate = Gate { run: tmp.path(), config: &config, force: false, observer: &Silent };
        let measure = |judge: &ByLength, hash| gate.measure(&mut NoEngine, 2, judge, &|| Ok(hash));
        assert!(matches!(measure(&judge(1.0, 3), 7), Err(Error::Stopped)));
        // Three of four waves are there.
        let record = measure(&judge(1.0, 1), 7).unwrap().unwrap();
        let all = &record.ordered.as_ref().unwrap().all;
        assert_eq!((all.pairs, all.judge.value, all.length.value), (8, 1.0, 1.0));
        assert_eq!(measure(&judge(1.0, 0), 7).unwrap().unwrap(), record);
        // Other weights are measured anew, even where waves of the first ones are left.
        assert!(matches!(measure(&judge(-1.0, 3), 8), Err(Error::Stopped)));
        let other = measure(&judge(-1.0, 4), 9).unwrap().unwrap();
        assert_eq!(other.ordered.unwrap().all.judge.value, 0.0);
        assert_eq!(std::fs::read_dir(tmp.path().join(FOLDER)).unwrap().count(), 1);
    }

    #[test]
    fn a_judge_below_the_floor_stops_the_run_unless_it_is_forced() {
        let tmp = tempfile::tempdir().unwrap();
        let config = config(tmp.path(), "mode = \"yes\"\n");
        let gate = |force| Gate { run: tmp.path(), config: &config, force, observer: &Silent };
        let record = gate(false).measure(&mut NoEngine, 1, &judge(-1.0, 4), &|| Ok(1)).unwrap().unwrap();
        let e = gate(false).pass(1, &record).unwrap_err().to_string();
        for words in ["M1", "0 % of 8 pairs", "length alone", "[judge] floor = 0.5", "--force", "data eft"] {
            assert!(e.contains(words), "{words}: {e}");
        }
        gate(true).pass(1, &record).unwrap();
        let wide = |high| {
            let mut record = record.clone();
            record.ordered.iter_mut().for_each(|o| o.all.judge.high = high);
            gate(false).pass(1, &record)
        };
        assert!(wide(0.49).is_err() && wide(0.5).is_ok());
    }

    #[test]
    fn only_scores_of_the_models_own_are_measured() {
        let tmp = tempfile::tempdir().unwrap();
        let config = config(tmp.path(), "mode = \"random\"\n");
        let gate = Gate { run: tmp.path(), config: &config, force: false, observer: &Silent };
        let record = gate.measure(&mut NoEngine, 1, &judge(1.0, 0), &|| Err(Error::Stopped)).unwrap();
        assert_eq!(record, None);
        assert!(!tmp.path().join(FOLDER).exists());
    }

    #[test]
    fn what_auto_measured_is_not_measured_again() {
        let tmp = tempfile::tempdir().unwrap();
        let config = config(tmp.path(), "mode = \"auto\"\ncalibration = 6\n");
        let set = ranked(&config).unwrap();
        assert_eq!(set.len(), 6);
        let answer = |score| Reference { prompt: "q".into(), response: "r".into(), score, ended: None };
        let own = vec![Ranked { question: "q".into(), answers: vec![answer(1.0), answer(0.0)] }];
        let ordered = order(&own, &[Some(2.0), Some(1.0)], 0);
        let calibration = serde_json::json!({"model": "x", "calibration": {"questions": 2, "recommended": "yes",
            "agreement": 1.0, "warning": null, "modes": [{"mode": "yes", "choosing": 1.0, "reporting": 1.0,
            "scored": 1.0, "unusable": null, "ordered": ordered}]}});
        std::fs::write(tmp.path().join(CALIBRATION_FILE), calibration.to_string()).unwrap();
        let gate = Gate { run: tmp.path(), config: &config, force: false, observer: &Silent };
        let first = gate.measure(&mut NoEngine, 1, &judge(1.0, 0), &|| Ok(1)).unwrap().unwrap();
        assert_eq!(first.ordered, ordered);
        // A later model is measured on the half on which no mode was chosen: three questions, two waves.
        let later = gate.measure(&mut NoEngine, 2, &judge(1.0, 2), &|| Ok(2)).unwrap().unwrap();
        assert_eq!(later.ordered.unwrap().all.questions, 3);
    }
}
