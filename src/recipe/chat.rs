//! Real text models as a [`Domain`]: they have a tokenizer and a chat template, and instructions from a seed file.

use super::adapters::Adapters;
use super::domain::Domain;
use crate::config::PromptSection;
use crate::data::records::SeedRecord;
use crate::generate::ChatLanguage;
use crate::generate::Output;
use crate::gpu::Gpu;
use crate::json::read_jsonl;
use crate::judge::Checks;
use crate::measure::constrained::about;
use crate::measure::held_out::without_prompt;
use crate::model::{Model, Storage};
use crate::rng::Stream;
use crate::source::{ModelSource, save_model};
use crate::text::Language;
use crate::text::Prompt;
use crate::train::LoraSettings;
use crate::{Error, Observer, Result};
use std::path::Path;

const SEEDS: &str = include_str!("../../prompts/seed.jsonl");
const INVITATION: &str = include_str!("../../prompts/self_instruct.txt");

/// A domain of models that follow instructions.
pub struct ChatDomain<'a> {
    source: &'a ModelSource,
    language: ChatLanguage<'a>,
    seeds: Vec<String>,
    checks: Vec<Checks>,
    section: PromptSection,
    /// What is trained, if that is not all weights.
    adapters: Option<Adapters<'a>>,
}

impl<'a> ChatDomain<'a> {
    /// Makes the domain. `source` gives the tokenizer and the configuration of every model of the run.
    ///
    /// # Errors
    /// The model has no tokenizer; the seed file cannot be read, holds no prompt, or has a line with no prompt or an
    /// empty one.
    pub fn new(source: &'a ModelSource, section: &PromptSection) -> Result<Self> {
        let path = &section.seed_file;
        let records: Vec<SeedRecord> = if path.as_os_str().is_empty() {
            SEEDS
                .lines()
                .map(|line| serde_json::from_str(line).map_err(|e| Error::Bug(format!("shipped seed prompts: {e}"))))
                .collect::<Result<_>>()?
        } else {
            read_jsonl(path)?
        };
        if records.is_empty() {
            return Err(Error::file(path, "holds no prompts; a line looks like {\"prompt\": \"…\"}"));
        }
        let (mut seeds, mut checks, mut topics) = (Vec::new(), Vec::new(), Vec::new());
        for (at, record) in records.into_iter().enumerate() {
            let prompt = record.prompt.map(|prompt| prompt.question()).filter(|prompt| !prompt.trim().is_empty());
            let topic = record.topic.filter(|topic| !topic.trim().is_empty());
            match (prompt, topic) {
                (Some(prompt), _) => {
                    seeds.push(prompt);
                    checks.push(record.checks);
                }
                (None, Some(topic)) => topics.push(topic),
                (None, None) => return Err(Error::file(path, without_prompt(at))),
            }
        }
        seeds.extend(about(&topics)?);
        checks.resize(seeds.len(), Checks::default());
        Ok(Self {
            source,
            language: ChatLanguage::new(source)?,
            seeds,
            checks,
            section: section.clone(),
            adapters: None,
        })
    }

    /// Has the loop train an adapter beside the given model, if `lora` asks for it or the given model is one. The
    /// observer is told when the base is loaded.
    ///
    /// # Errors
    /// The given model is another adapter than `lora` asks for, or has not the layers.
    pub fn training(self, lora: Option<&LoraSettings>, observer: &'a dyn Observer) -> Result<Self> {
        Ok(Self { adapters: Adapters::of(self.source, lora, observer)?, ..self })
    }

    /// Whether the loop trains adapters.
    pub fn trains_adapters(&self) -> bool {
        self.adapters.is_some()
    }

    /// The instruction in the first line that the model wrote, or why there is none.
    fn instruction(&self, written: &str, ended: bool) -> std::result::Result<String, String> {
        let written = written.trim_start();
        let line = match written.split_once('\n') {
            Some((line, _)) => line,
            None if ended => written,
            None => return Err("not finished".into()),
        };
        let line = line.trim().trim_matches('"').trim();
        let chars = line.chars().count();
        if chars < self.section.min_chars {
            return Err("too short".into());
        }
        if chars > self.section.max_chars {
            return Err("too long".into());
        }
        if line.contains('\u{fffd}') || !line.chars().any(char::is_alphabetic) {
            return Err("not text".into());
        }
        let mut words = line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        if words.any(|w| self.section.block.iter().any(|b| b.to_lowercase() == w)) {
            return Err("blocked word".into());
        }
        Ok(line.to_owned())
    }
}

impl Domain for ChatDomain<'_> {
    fn language(&self) -> &dyn Language {
        &self.language
    }

    fn ask(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        self.language.ask_prompt(prompt)
    }

    fn seed_prompts(&self) -> &[String] {
        &self.seeds
    }

    fn seed_checks(&self) -> &[Checks] {
        &self.checks
    }

    fn seed_shot(&self, rng: &mut Stream) -> Result<String> {
        rng.choose(&self.seeds).cloned().ok_or_else(|| Error::Input("there are no seed prompts".into()))
    }

    fn invitation(&self, shots: &[String]) -> Result<Vec<u32>> {
        // A line break inside an example would look like the start of the next example.
        let shots: Vec<String> = shots.iter().map(|s| s.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let text = minijinja::Environment::new()
            .render_str(INVITATION.trim_end_matches('\n'), minijinja::context! { shots })
            .map_err(|e| Error::Input(format!("self-instruct template: {e:#}")))?;
        self.language.raw(&text)
    }

    fn invitation_stop(&self) -> Result<Vec<u32>> {
        let mut ids = self.language.stop().to_vec();
        // Tokenizers differ in what they join a newline to. In any case the text is cut at its first newline.
        for ending in ["\n", "\n\n", ".\n", "?\n", ".\n\n", "?\n\n"] {
            if let [id] = self.language.encode(ending)?[..]
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn new_prompt(&self, output: &Output) -> Result<(String, std::result::Result<String, String>)> {
        let written = self.language.decode(&output.tokens)?;
        let outcome = self.instruction(&written, output.stopped);
        Ok((written, outcome))
    }

    fn response(&self, output: &Output) -> Result<(String, Vec<u32>)> {
        Ok((self.language.decode(&output.tokens)?.trim().to_owned(), output.tokens.clone()))
    }

    fn load_model(&self, gpu: &Gpu, dir: &Path) -> Result<Model> {
        if let Some(adapters) = &self.adapters {
            return adapters.load(gpu, dir);
        }
        let source = ModelSource::open(dir)?;
        match source.adapter {
            Some(_) => Model::from_tensors(gpu, &source.arch, source.tensors_f32()?),
            None => Model::load_as(gpu, &source, Storage::F32),
        }
    }

    fn load_other(&self, gpu: &Gpu, source: &ModelSource) -> Result<Model> {
        let beside = self.adapters.as_ref().map(|adapters| adapters.load_source(gpu, source)).transpose()?;
        beside.flatten().map_or_else(|| Model::load(gpu, source), Ok)
    }

    fn trainable(&self, gpu: &Gpu, model: Model, seed: u64) -> Result<Model> {
        match &self.adapters {
            Some(adapters) => adapters.trainable(gpu, model, seed),
            None => Ok(model),
        }
    }

    fn save_model(&self, gpu: &Gpu, dir: &Path, model: &Model) -> Result<()> {
        if let Some(adapters) = &self.adapters {
            return adapters.save(gpu, dir, model);
        }
        save_model(dir, self.source, &model.tensors(gpu)?, model.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    /// Checks a domain over the small world's folder, which is a chat model like any other.
    fn with_domain(section: &PromptSection, check: impl FnOnce(Result<ChatDomain>)) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("M1");
        world::save(&dir, &world::init(0)).unwrap();
        let source = ModelSource::open(&dir).unwrap();
        check(ChatDomain::new(&source, section));
    }

    #[test]
    fn the_worlds_folder_speaks_as_the_world_does() {
        with_domain(&PromptSection::default(), |domain| {
            let domain = domain.unwrap();
            assert_eq!(domain.language.ask("upper: cab").unwrap(), world::text::question("upper: cab").unwrap());
            assert_eq!(domain.language.encode("C{A}b").unwrap(), world::text::encode("C{A}b").unwrap());
            assert_eq!(domain.language.stop(), [2, 10]);
            let output = Output { tokens: vec![67, 65, 66, 2], stopped: true, choice_p: vec![] };
            assert_eq!(domain.response(&output).unwrap(), ("CAB".into(), vec![67, 65, 66, 2]));
            assert_eq!(domain.invitation_stop().unwrap(), [2, 10]);
            let shots = ["First\nthing".to_owned(), "Second".to_owned()];
            let text = world::text::decode(&domain.invitation(&shots).unwrap());
            assert!(text.ends_with("Task 1: First thing\nTask 2: Second\nTask 3:"), "{text:?}");
        });
    }

    #[test]
    fn instructions_are_read_and_refused() {
        with_domain(&PromptSection::default(), |domain| {
            let domain = domain.unwrap();
            assert!(domain.seed_prompts().len() >= 64);
            let read = |text: &str, ended| domain.instruction(text, ended);
            assert_eq!(read(" Name three kinds of bread.\nTask 4: x", false), Ok("Name three kinds of bread.".into()));
            assert_eq!(read("\"Name three kinds of bread.\"", true), Ok("Name three kinds of bread.".into()));
            assert_eq!(read("Name three kinds", false), Err("not finished".into()));
            assert_eq!(read("Hi", true), Err("too short".into()));
            assert_eq!(read(&"word ".repeat(100), true), Err("too long".into()));
            assert_eq!(read("1 2 3 4 5 6 7 8 9", true), Err("not text".into()));
            assert_eq!(read("Describe the Picture below.", true), Err("blocked word".into()));
        });
    }

    #[test]
    fn seeds_may_be_questions_with_answers() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("seeds.jsonl");
        let lines = "{\"question\": \"How many?\", \"answer\": \"Two.\\n#### 2\"}\n\
                     {\"messages\": [{\"role\": \"user\", \"content\": \"Name one.\"}]}\n";
        std::fs::write(&path, lines).unwrap();
        let section = PromptSection { seed_file: path, ..PromptSection::default() };
        with_domain(&section, |domain| {
            let domain = domain.unwrap();
            assert_eq!(domain.seeds, ["How many?", "Name one."]);
            assert_eq!(domain.checks[0].answer, Some("Two.\n#### 2".into()));
        });
    }

    #[test]
    fn bad_seed_files_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("seeds.jsonl");
        let section = PromptSection { seed_file: path.clone(), ..PromptSection::default() };
        for (content, word) in
            [("", "no prompts"), ("{\"prompt\": \" \"}\n", "record 1"), ("{}\n", "neither prompt nor topic")]
        {
            std::fs::write(&path, content).unwrap();
            with_domain(&section, |domain| {
                let e = domain.err().unwrap().to_string();
                assert!(e.contains("seeds.jsonl") && e.contains(word), "{e}");
            });
        }
    }
}
