//! The judge's prompts: minijinja templates with `question` and `answer`. The shipped ones are in `prompts/`.

use crate::text::sandbox;
use crate::text::{Answered, Language};
use crate::{Error, Result};

/// A prompt with places for the question and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The template in minijinja's syntax.
    pub text: String,
    /// Whether the model continues the prompt as plain text; otherwise it is a user message in the model's chat
    /// template.
    pub raw: bool,
}

impl Template {
    /// A template for a user message; the last newline of `text` does not belong to it.
    pub fn message(text: &str) -> Self {
        Self { text: text.trim_end_matches('\n').to_owned(), raw: false }
    }

    /// Fills in a question and an answer.
    ///
    /// # Errors
    /// The template does not parse, or it uses a name that it is not given.
    pub fn fill(&self, question: &str, answer: &str) -> Result<String> {
        self.render(minijinja::context! { question, answer }, "{{ question }} and {{ answer }}")
    }

    /// Fills in a question and two answers.
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

    /// The token ids that the judge reads.
    ///
    /// # Errors
    /// As [`Template::fill`] and [`Language::ask`].
    pub fn ids(&self, language: &dyn Language, question: &str, answer: &str) -> Result<Vec<u32>> {
        self.encode(language, &self.fill(question, answer)?)
    }

    /// The token ids that the judge reads, and those of beginnings of its verdict.
    ///
    /// # Errors
    /// As [`Template::fill`] and [`Language::begin`].
    pub(super) fn begin(
        &self,
        language: &dyn Language,
        question: &str,
        answer: &str,
        begun: &[&str],
    ) -> Result<Answered> {
        language.begin(&self.fill(question, answer)?, self.raw, begun)
    }

    /// The token ids of a prompt that was filled in.
    pub(super) fn encode(&self, language: &dyn Language, text: &str) -> Result<Vec<u32>> {
        if self.raw { language.raw(text) } else { language.ask(text) }
    }
}

/// A prompt after which the model writes one mark for each point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarksTemplate {
    /// The prompt up to the marks.
    pub template: Template,
    /// The letters in the order in which they are written; each of them must be a single token.
    pub letters: Vec<char>,
}

/// All prompts that a [`super::ModelJudge`] may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// The additive prompt, with scores from 0 to 5, of the modes `sampled` and `expected`.
    pub additive: Template,
    /// The short questions of the mode `criteria`, worth one point each.
    pub criteria: Vec<Template>,
    /// The question of the mode `yes`.
    pub yes: Template,
    /// The question of the mode `backward`, which asks what question a text answers.
    pub backward: Template,
    /// The prompt and the letters of the mode `marks`.
    pub marks: MarksTemplate,
}

impl Default for Templates {
    /// The shipped prompts.
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

/// The questions of a text: what all share, a line `---`, one question a line.
pub(super) fn criteria(text: &str) -> Vec<Template> {
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
