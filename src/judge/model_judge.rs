//! The model as its own judge, in a mode that the user chooses.

use super::parse::{Openings, Reading};
use super::{Item, Judge, Mode, ModelJudgeSettings, Template, Templates, Verdict};
use super::{marks, probability, sampled, template};
use crate::generate::Engine;
use crate::text::{Answered, Language};
use crate::{Error, Observer, Result};
use std::str::FromStr;

/// What a mode is: the one list of them, in the order of [`Mode`].
struct Row {
    mode: Mode,
    name: &'static str,
    /// Whether verdicts are written and parsed; the other modes draw nothing.
    writes: bool,
    /// Puts one's own prompt in the place that the mode reads.
    replace: fn(&mut Templates, &str),
    judge: Reads,
    /// How verdicts to be learnt are written, and under which prompt; `None` where it takes more than a score.
    taught: Option<(Taught, Prompted)>,
}

/// The prompt of a mode.
pub type Prompted = fn(&Templates) -> &Template;

/// What a verdict to be learnt consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taught {
    /// Reasons, then the score.
    Reasons,
    /// The score alone.
    Number,
    /// Yes or no.
    Word,
}

/// Judges items with an engine.
type Reads = fn(&ModelJudge, &mut dyn Engine, &[Item], &dyn Observer) -> Result<Vec<Verdict>>;

const ROWS: [Row; 6] = [
    Row {
        mode: Mode::Sampled,
        name: "sampled",
        writes: true,
        replace: |t, text| t.additive = Template::message(text),
        judge: |j, engine, items, observer| {
            sampled::judge(engine, j.language, &j.templates.additive, &j.settings, items, observer)
        },
        taught: Some((Taught::Reasons, |t| &t.additive)),
    },
    Row {
        mode: Mode::Expected,
        name: "expected",
        writes: false,
        replace: |t, text| t.additive = Template::message(text),
        judge: |j, engine, items, observer| {
            probability::expected(engine, j.language, &j.templates.additive, items, observer)
        },
        taught: Some((Taught::Number, |t| &t.additive)),
    },
    Row {
        mode: Mode::Criteria,
        name: "criteria",
        writes: false,
        replace: |t, text| t.criteria = template::criteria(text),
        judge: |j, engine, items, observer| {
            probability::criteria(engine, j.language, &j.templates.criteria, items, observer)
        },
        taught: None,
    },
    Row {
        mode: Mode::Yes,
        name: "yes",
        writes: false,
        replace: |t, text| t.yes = Template::message(text),
        judge: |j, engine, items, observer| probability::yes(engine, j.language, &j.templates.yes, items, observer),
        taught: Some((Taught::Word, |t| &t.yes)),
    },
    Row {
        mode: Mode::Backward,
        name: "backward",
        writes: false,
        replace: |t, text| t.backward = Template::message(text),
        judge: |j, engine, items, observer| {
            probability::backward(engine, j.language, &j.templates.backward, items, observer)
        },
        taught: None,
    },
    Row {
        mode: Mode::Marks,
        name: "marks",
        writes: false,
        replace: |t, text| t.marks.template = Template::message(text),
        judge: |j, engine, items, observer| marks::judge(engine, j.language, &j.templates.marks, items, observer),
        taught: None,
    },
];

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 6] = [ROWS[0].mode, ROWS[1].mode, ROWS[2].mode, ROWS[3].mode, ROWS[4].mode, ROWS[5].mode];

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The mode's name in configurations, records and reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether verdicts are written and parsed, so that they have a prompt and texts of their own.
    pub fn writes(self) -> bool {
        self.row().writes
    }
}

impl Mode {
    /// How verdicts to be learnt are written for this mode, and under which prompt; `None` for a mode that reads more
    /// out of a model than what a score says.
    pub fn taught(self) -> Option<(Taught, Prompted)> {
        self.row().taught
    }
}

impl Templates {
    /// Puts one's own prompt in the place that `mode` reads. For `criteria` the text may hold several questions: what
    /// all share, a line `---`, one question a line.
    pub fn replace(&mut self, mode: Mode, text: &str) {
        (mode.row().replace)(self, text);
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Mode::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let known = Mode::ALL.map(Mode::name).join(", ");
            Error::Input(format!("judge mode {name:?} is unknown; there are {known}"))
        })
    }
}

/// A judge that asks the engine's model.
pub struct ModelJudge<'a> {
    /// How the score is read out of the model.
    pub mode: Mode,
    /// The tokenizer and templates of the engine's model.
    pub language: &'a dyn Language,
    /// The prompts of all modes.
    pub templates: Templates,
    /// How verdicts are written in mode `sampled`.
    pub settings: ModelJudgeSettings,
}

impl ModelJudge<'_> {
    /// The score in the text of a verdict, and where its reasons stand.
    pub(crate) fn reading(&self, text: &str) -> Option<Reading> {
        if !self.mode.writes() {
            return None;
        }
        // Whether a prompt ends inside a thought depends on the templates, not on what is asked.
        let prompt = self.templates.additive.ids(self.language, "", "").ok()?;
        let in_thought = sampled::begins_in_thought(self.language, &prompt).ok()?;
        self.settings.parse(text, &Openings::of(&self.templates.additive.text), in_thought).ok()
    }
}

impl Judge for ModelJudge<'_> {
    fn name(&self) -> &str {
        self.mode.name()
    }

    fn prompt(&self, item: &Item) -> Result<Option<(String, Vec<u32>)>> {
        if !self.mode.writes() {
            return Ok(None);
        }
        let text = self.templates.additive.fill(item.question, item.answer)?;
        let ids = self.templates.additive.encode(self.language, &text)?;
        Ok(Some((text, ids)))
    }

    fn written(&self, item: &Item, verdicts: &[&str]) -> Result<Option<Answered>> {
        let begin = || self.templates.additive.begin(self.language, item.question, item.answer, verdicts);
        self.mode.writes().then(begin).transpose()
    }

    fn read(&self, text: &str) -> Option<f64> {
        self.reading(text).map(|reading| reading.value)
    }

    fn judge(&self, engine: &mut dyn Engine, items: &[Item], observer: &dyn Observer) -> Result<Vec<Verdict>> {
        (self.mode.row().judge)(self, engine, items, observer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_modes() {
        for mode in Mode::ALL {
            assert_eq!(mode.row().mode, mode);
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
    }
}
