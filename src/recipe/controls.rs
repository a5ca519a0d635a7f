//! The controls: models that are trained of M1's answers in round 1 as M2 is, but under random scores, or on the best
//! answers alone. What M2 gains over them is what judging, or preferences, bring.

use super::context::{Renewed, RoundContext, RoundFiles};
use super::evaluation::{self, CONTROLS, CONTROLS_FOLDER, Control, Evaluation, Subject};
use super::run_folder::RunFolder;
use super::run_metrics;
use super::stages::pairs::{self, Inputs};
use super::stages::{training, verdicts};
use crate::config::{Agreement, Method, PairSection, RoundSettings, RunConfig, Weighting};
use crate::data::records::PairRecord;
use crate::disk::OnDisk;
use crate::generate::GpuEngine;
use crate::gpu::Gpu;
use crate::json::{read_jsonl, write_jsonl};
use crate::judge::{Judge, RandomJudge};
use crate::model::Model;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The controls that a run trains.
fn wanted(config: &RunConfig) -> Vec<&'static Control> {
    let [random, sft_best] = &CONTROLS;
    let both = [(config.controls.random, random), (config.controls.sft_best, sft_best)];
    both.into_iter().filter(|(wanted, _)| *wanted).map(|(_, control)| control).collect()
}

fn is_random(control: &Control) -> bool {
    *control == CONTROLS[0]
}

/// The folder of a control in the run folder `run`.
fn folder(run: &Path, control: &Control) -> PathBuf {
    run.join(CONTROLS_FOLDER).join(control.name)
}

/// The folder of a control's model.
fn trained(run: &Path, control: &Control) -> PathBuf {
    folder(run, control).join("M2")
}

/// The settings of the round in which a control is trained. Scores at random agree with nothing.
fn settings(control: &Control, of_run: &RoundSettings) -> RoundSettings {
    let mut settings = of_run.clone();
    (settings.pairs.agreement, settings.pairs.implicit, settings.judge.meta) = (Agreement::Off, false, 0.0);
    if is_random(control) {
        // Which answers are near the best is no more than chance, so the shortest of them would be all that is learnt.
        settings.pairs.length_margin = PairSection::default().length_margin;
    } else {
        settings.dpo.method = Method::SftBest;
        settings.pairs.weight = Weighting::None;
    }
    settings
}

/// The judge of a run, whose mode may have to be measured with the given model first.
type JudgeOf<'a> = dyn Fn(&Model) -> Result<Box<dyn Judge + 'a>> + 'a;

/// The controls of a run.
pub(super) struct Controls<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) config: &'a RunConfig,
    /// What round 1 was given.
    pub(super) ctx: &'a RoundContext<'a>,
    pub(super) evaluation: Option<&'a Evaluation<'a>>,
    pub(super) judge: &'a JudgeOf<'a>,
}

impl Controls<'_> {
    /// Trains and measures the controls that the run wants, once round 1 is over. What is finished is left as it is.
    ///
    /// # Errors
    /// There are no pairs; errors of the training, of the measures and of the files; `Stopped` when the observer asks
    /// for it.
    pub(super) fn play(&self, folder: &mut RunFolder, renewed: &Renewed) -> Result<()> {
        let run = folder.path().to_path_buf();
        for control in wanted(self.config) {
            let (subject, stage) = (Subject::control(control), format!("{CONTROLS_FOLDER}/{}/training", control.name));
            if !folder.over(&stage) {
                if self.ctx.observer.stop_requested() {
                    return Err(Error::Stopped);
                }
                self.train(&run, control)?;
                folder.stage_done(&stage)?;
                renewed(&run, self.ctx.observer);
            }
            if let Some(evaluation) = self.evaluation.filter(|e| !e.done(&subject)) {
                let model = self.ctx.domain.load_model(self.gpu, &trained(&run, control))?;
                let judge = (self.judge)(&model)?;
                let engine = &mut GpuEngine::new(self.gpu, &model).kv(self.config.candidates.kv);
                evaluation.measure(engine, &subject, judge.as_ref())?;
                run_metrics::write(&run, self.ctx.seed)?;
                folder.stage_done(&format!("{}/{}", evaluation::FOLDER, subject.name))?;
                renewed(&run, self.ctx.observer);
            }
        }
        Ok(())
    }

    /// Trains a control as round 1 trained M2, of the same answers.
    fn train(&self, run: &Path, control: &Control) -> Result<()> {
        let (of_round, files) = (RoundFiles::new(run, 1), RoundFiles { dir: folder(run, control) });
        let settings = settings(control, self.ctx.settings);
        let ctx = RoundContext { settings: &settings, ..*self.ctx };
        let first = ctx.domain.load_model(self.gpu, &run.join("M1"))?;
        let judge: Box<dyn Judge> = match is_random(control) {
            true => Box::new(RandomJudge { seed: ctx.seed }),
            false => (self.judge)(&first)?,
        };
        let mut pairs: Vec<PairRecord> = read_jsonl(&of_round.jsonl("pairs"))?;
        let out = files.jsonl("pairs");
        if is_random(control) && out.is_there() {
            pairs = read_jsonl(&out)?;
        } else if is_random(control) {
            let prompts = read_jsonl(&of_round.jsonl("prompts"))?;
            let candidates = read_jsonl(&of_round.jsonl("candidates"))?;
            let (engine, written) = (&mut GpuEngine::new(self.gpu, &first), files.jsonl("verdicts"));
            let verdicts = verdicts::run(engine, judge.as_ref(), &ctx, "verdicts", &prompts, &candidates, &written)?;
            let most = pairs.len();
            pairs = pairs::build(&ctx, &Inputs { prompts, candidates, verdicts, ..Inputs::default() })?.pairs;
            // A prompt's id is a hash, so the first of them are drawn by nothing that matters.
            pairs.truncate(most);
            write_jsonl(&out, &pairs)?;
        }
        if pairs.is_empty() {
            let what = "has no pairs: no prompt has two different answers";
            return Err(Error::Input(format!("the control {} {what}", control.name)));
        }
        training::run(self.gpu, first, &ctx, judge.as_ref(), &pairs, &files, &trained(run, control))
    }
}
