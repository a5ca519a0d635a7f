//! The model as its own judge, in a mode that the user chooses.

use super::{Item, Judge, Mode, ModelJudgeSettings, Templates, Verdict};
use super::{marks, probability, sampled};
use crate::generate::Engine;
use crate::text::Language;
use crate::{Observer, Result};

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

impl Judge for ModelJudge<'_> {
    fn name(&self) -> &str {
        self.mode.name()
    }

    fn prompt(&self, item: &Item) -> Result<Option<(String, Vec<u32>)>> {
        if self.mode != Mode::Sampled {
            return Ok(None);
        }
        let text = self.templates.additive.fill(item.question, item.answer)?;
        let ids = self.templates.additive.encode(self.language, &text)?;
        Ok(Some((text, ids)))
    }

    fn read(&self, text: &str) -> Option<f64> {
        (self.mode == Mode::Sampled).then(|| self.settings.parse(text).ok()).flatten()
    }

    fn judge(&self, engine: &mut dyn Engine, items: &[Item], observer: &dyn Observer) -> Result<Vec<Verdict>> {
        let (language, t) = (self.language, &self.templates);
        match self.mode {
            Mode::Sampled => sampled::judge(engine, language, &t.additive, &self.settings, items, observer),
            Mode::Expected => probability::expected(engine, language, &t.additive, items, observer),
            Mode::Criteria => probability::criteria(engine, language, &t.criteria, items, observer),
            Mode::Yes => probability::yes(engine, language, &t.yes, items, observer),
            Mode::Backward => probability::backward(engine, language, &t.backward, items, observer),
            Mode::Marks => marks::judge(engine, language, &t.marks, items, observer),
        }
    }
}
