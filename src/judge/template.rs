//! The judge's prompts: minijinja templates with `question` and `answer`, shipped in `prompts/`.

use super::Mode;
use crate::text::Language;
use crate::text::sandbox;
use crate::{Error, Result};

/// A prompt with places for the question and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// minijinja source.
    pub text: String,
    /// Whether the model continues it as plain text (else it is a user message in the model's chat template).
    pub raw: bool,
}

impl Template {
    /// A user message; the file's last newline does not belong to it.
    pub fn message(text: &str) -> Self {
        Self { text: text.trim_end_matches('\n').to_owned(), raw: false }
    }

    /// The text for a question and an answer.
    ///
    /// # Errors
    /// A template that does not parse or uses what it has not.
    pub fn fill(&self, question: &str, answer: &str) -> Result<String> {
        self.render(minijinja::context! { question, answer }, "{{ question }} and {{ answer }}")
    }

    /// The text for a question and two answers.
    ///
    /// # Errors
    /// As [`Template::fill`].
    pub fn fill_pair(&self, question: &str, a: &str, b: &str) -> Result<String> {
        self.render(minijinja::context! { question, a, b }, "{{ question }}, {{ a }} and {{ b }}")
    }

    fn render(&self, values: minijinja::Value, names: &str) -> Result<String> {
        let mut env = minijinja::Environment::new();
        env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        sandbox::render(env, &self.text, values)
            .map_err(|e| Error::Input(format!("judge template: {}; it may use {names}", sandbox::explain(&e))))
    }

    /// The ids the judge reads.
    ///
    /// # Errors
    /// As [`Template::fill`] and [`Language::ask`].
    pub fn ids(&self, language: &dyn Language, question: &str, answer: &str) -> Result<Vec<u32>> {
        self.encode(language, &self.fill(question, answer)?)
    }

    /// The ids of a text that was filled in.
    pub(super) fn encode(&self, language: &dyn Language, text: &str) -> Result<Vec<u32>> {
        if self.raw { language.raw(text) } else { language.ask(text) }
    }
}

/// A prompt after which the model writes its marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarksTemplate {
    /// The prompt.
    pub template: Template,
    /// The letters in the order in which they are written; each must be a single token.
    pub letters: Vec<char>,
}

/// Every prompt that a [`super::ModelJudge`] may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// The additive 0-to-5 prompt of `sampled` and `expected`.
    pub additive: Template,
    /// Short questions of `criteria`, one point each.
    pub criteria: Vec<Template>,
    /// The one question of `yes`.
    pub yes: Template,
    /// The question of `backward`: which question does this text answer?
    pub backward: Template,
    /// The marks of `marks`.
    pub marks: MarksTemplate,
}

impl Default for Templates {
    /// The shipped ones.
    fn default() -> Self {
        Self {
            additive: Template::message(include_str!("../../prompts/additive.txt")),
            criteria: criteria(include_str!("../../prompts/criteria.txt")),
            yes: Template::message(include_str!("../../prompts/yes.txt")),
            backward: Template::message(include_str!("../../prompts/backward.txt")),
            marks: MarksTemplate {
                template: Template::message(include_str!("../../prompts/marks.txt")),
                letters: "RCUAX".chars().collect(),
            },
        }
    }
}

impl Templates {
    /// Puts one's own prompt in the place that `mode` reads. For `criteria` the text may hold several questions: what
    /// all share, a line `---`, one question a line.
    pub fn replace(&mut self, mode: Mode, text: &str) {
        match mode {
            Mode::Sampled | Mode::Expected => self.additive = Template::message(text),
            Mode::Criteria => self.criteria = criteria(text),
            Mode::Yes => self.yes = Template::message(text),
            Mode::Backward => self.backward = Template::message(text),
            Mode::Marks => self.marks.template = Template::message(text),
        }
    }
}

fn criteria(text: &str) -> Vec<Template> {
    match text.split_once("---\n") {
        Some((head, questions)) => questions.lines().map(|q| Template::message(&format!("{head}{q}"))).collect(),
        None => vec![Template::message(text)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_templates_fill() {
        let t = Templates::default();
        assert_eq!(t.criteria.len(), 5);
        for template in t.criteria.iter().chain([&t.additive, &t.yes, &t.marks.template]) {
            let text = template.fill("Why {{ x }}?", "Because <b> & so").unwrap();
            assert!(text.contains("Why {{ x }}?") && text.contains("Because <b> & so"), "{text}");
        }
        let back = t.backward.fill("Why green?", "the answer").unwrap();
        assert!(back.contains("the answer") && !back.contains("Why green?"), "{back}");
        assert!(t.additive.text.contains("Score: <total points>") && t.additive.text.contains("<response>"));
    }

    #[test]
    fn a_broken_template_is_named() {
        for text in ["{{ question", "{{ nothing_such }}"] {
            let e = Template::message(text).fill("q", "a").unwrap_err().to_string();
            assert!(e.contains("judge template") && e.contains("{{ answer }}"), "{e}");
        }
        let e = Template::message("{{ answer }}").fill_pair("q", "a", "b").unwrap_err().to_string();
        assert!(e.contains("{{ a }} and {{ b }}"), "{e}");
    }
}
